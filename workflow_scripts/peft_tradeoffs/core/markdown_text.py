"""Texts of a user's as Markdown that shows them as they are, and names no path of the user's machine."""

import re
import unicodedata
from pathlib import PurePath, PureWindowsPath
from typing import Any

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
