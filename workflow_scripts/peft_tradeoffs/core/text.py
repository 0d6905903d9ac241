"""Names of arms, and texts of a user's as Markdown that shows them as they are."""

import re
import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePath, PureWindowsPath
from typing import Any

import pandas as pd

FULL = "full"
WIDTH = 160  # characters of a line on a terminal

SPELLING = {
    "full": "full",
    "lora": "LoRA",
    "qlora": "QLoRA",
    "dora": "DoRA",
    "qdora": "QDoRA",
    "rslora": "rsLoRA",
    "adalora": "AdaLoRA",
    "pissa": "PiSSA",
    "loha": "LoHa",
    "lokr": "LoKr",
    "ia3": "IA3",
    "vera": "VeRA",
    "oft": "OFT",
    "boft": "BOFT",
    "hra": "HRA",
    "bone": "Bone",
}


def method_label(method: str) -> str:
    """The method's name as its authors spell it; a name of the user's own stays as it is."""
    return SPELLING.get(method, method)


def arm_label(method: str, rank: int | None) -> str:
    """An arm's name for readers, e.g. "LoRA r8"; without a rank the method's name alone."""
    return method_label(method) if pd.isna(rank) else f"{method_label(method)} r{int(rank)}"


def method_order(methods: Iterable[str]) -> list[str]:
    """The distinct methods in order of first appearance, full fine-tuning first."""
    return sorted(dict.fromkeys(methods), key=lambda method: method != FULL)


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A table's rows by the names of its columns, which are texts."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def first_record(frame: pd.DataFrame) -> dict[str, Any]:
    """The first row, of a table that has one, by the names of its columns."""
    return records(frame.iloc[:1])[0]


def groups_of(frame: pd.DataFrame, by: str | list[str]) -> Iterator[tuple[Any, pd.DataFrame]]:
    """Each value of a column, or each combination of several columns' values, in order of appearance, and its rows."""
    yield from frame.groupby(by, sort=False)


def sort_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Rows in the order of tables and figures, with a fresh index.

    Data set and model by first appearance, then method (see `method_order`), rank, arm and seed;
    an arm without a rank comes before its method's ranks.
    """
    position = {method: index for index, method in enumerate(method_order(runs["method"]))}
    keys = pd.DataFrame(
        {
            "dataset": pd.factorize(runs["dataset"])[0],
            "model": pd.factorize(runs["model"])[0],
            "method": runs["method"].map(position).to_numpy(),
            "rank": runs["rank"].astype(float).fillna(-1).to_numpy(),
            "arm": runs["arm"].to_numpy(),
            "seed": runs["seed"].to_numpy(),
        }
    )
    order = keys.sort_values(list(keys.columns), kind="stable").index
    return runs.iloc[order].reset_index(drop=True)


def plural(noun: str, count: float) -> str:
    """The noun, with an s unless there is one."""
    return noun if count == 1 else f"{noun}s"


UNBROKEN = "\0"  # in place of a space where no line may end


def wrapped(text: str, first: str = "", width: int = WIDTH) -> str:
    """The text on lines of at most `width` characters; the first one begins with `first`, the others with two spaces.

    Longer words stay whole, and so does what stands between backticks: a command that is broken cannot be copied.
    """
    whole = re.sub(r"`\S[^`]*\S`", lambda found: found[0].replace(" ", UNBROKEN), text)
    lines = textwrap.fill(
        whole, width, initial_indent=first, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return lines.replace(UNBROKEN, " ")


def and_list(names: Sequence[str], word: str = "and") -> str:
    """ "a", "a and b", "a, b and c"; `word` before the last. There is one name at least."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}"


# Keys of saved configurations that hold a path of the machine that trained, where they hold no hub id.
PATHS = re.compile(r"(^|_)name_or_path$|^(tokenizer|special_tokens_map)_file$")

# What Markdown takes for markup, or makes a link of, anywhere in a line.
MARKS = re.compile(r"[\\`*\[\]<>&|~$]|\b_|_\b|(?<!\w)_(?!\w)|:(?=//)|(?<=www)\.", re.ASCII)
# What Markdown would take for more than text: an escape, an entity, a tag or autolink, a link, image or its definition.
LIVE = re.compile(r"\\(?=[!-/:-@\[-`{-~])|&(?=#?\w+;)|<(?=[A-Za-z/!?])|\[(?=[^\]\\]*\\*\][(\[:])|`")
UNSEEN = ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp")  # categories of Unicode


def one_line(text: str) -> str:
    """Text with every run of white space as one space."""
    return " ".join(text.split())


def visible(text: str, longest: int = 2000) -> str:
    """A text on one line, cut off where longer; characters that cannot be seen, or turn others around, by number."""
    shown = one_line(text)
    shown = shown if len(shown) <= longest else f"{shown[:longest]} …"
    return "".join(f"(U+{ord(char):04X})" if unicodedata.category(char) in UNSEEN else char for char in shown)


def plain(text: str) -> str:
    """A sentence that may quote a user's text as Markdown that shows it as it is."""
    return re.sub(r"^(\d*)([-+=#.)])", r"\1\\\2", MARKS.sub(r"\\\g<0>", visible(text)))


def inert(text: str) -> str:
    """Plain text on one line as Markdown that shows it: no HTML, no link, no image, no code in it comes to life."""
    entities = {"&": "&amp;", "<": "&lt;"}
    return LIVE.sub(lambda found: entities.get(found[0], f"\\{found[0]}"), one_line(text))


def literal(text: Any) -> str:
    """A text as inline code, on one line, whatever it holds."""
    shown = one_line(str(text))
    ticks = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if len(ticks) > 1 or not shown else ""
    return f"{ticks}{pad}{shown}{pad}{ticks}"


def fenced(text: str, language: str) -> str:
    """A block of code or JSON, no line of which may start with ```."""
    return f"```{language}\n{text}\n```"


def without_paths(value: Any, hub_id: str | None) -> Any:
    """A JSON value without the keys that name a place on this machine (PATHS); where one has `hub_id` it stays."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if not PATHS.search(key) or (hub_id and item == hub_id)}
        return {key: without_paths(item, hub_id) for key, item in kept.items()}
    if isinstance(value, list):
        return [without_paths(item, hub_id) for item in value]
    return value


def masked(value: Any) -> Any:
    """A JSON value for readers in which no text is an absolute path; what was one says so."""
    if isinstance(value, dict):
        return {key: masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    absolute = isinstance(value, str) and (PurePath(value).is_absolute() or PureWindowsPath(value).is_absolute())
    return "(a path, not shown)" if absolute or (isinstance(value, str) and value.startswith("~")) else value
