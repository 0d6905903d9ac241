"""Answers side by side: which prompts the page shows, with their references and what every arm wrote."""

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peft_tradeoffs.analysis.before_training import read_untrained
from peft_tradeoffs.analysis.finished import check_files, has, read_env, verified
from peft_tradeoffs.analysis.tables import COMPLETED
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import OUTPUTS, REMEDY, SCORES, read_json, read_outputs, sha256
from peft_tradeoffs.core.layout import UNTRAINED
from peft_tradeoffs.core.text import arm_label, plural, records
from peft_tradeoffs.inputs.splits import read_references
from peft_tradeoffs.report.sweep import Sweep
from peft_tradeoffs.tasks import metrics
from peft_tradeoffs.tasks.metrics import Metric, Scored, metric_called
from peft_tradeoffs.tasks.shown import metric_words
from peft_tradeoffs.tasks.texts import read_scores

SPLIT = "test"  # whose prompts are answered
SHOWN = 48  # prompts; half of them are those on which the arms differ most
ROOM_bytes = 2_000_000  # of all answers on a page, as JSON
# What is tried in this order until it fits: prompts, whether all seeds are shown, and characters of a text.
SIZES = (
    *((SHOWN, True, longest) for longest in (2000, 1000, 500)),
    *((SHOWN, False, longest) for longest in (1000, 500, 250)),
    *((count, False, 250) for count in (24, 12, 6)),
)
# Characters that turn others around or control a terminal; tabs and ends of lines stay.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
DIGITS = 9  # of a standard deviation: what rounding makes is no disagreement
GAP = "\n[…]\n"  # for what is left out of a prompt


@dataclass(frozen=True)
class Run:
    """What one run answered to n prompts."""

    arm: str
    label: str
    method: str
    seed: int
    rows: np.ndarray  # int64 [n], in the source
    texts: list[str]  # [n]
    tokens: list[int]  # [n] lengths in tokens
    ended: list[bool]  # [n] whether the model ended it; others were cut at max_new_tokens
    written: np.ndarray | None  # float64 [n, K], the columns STATISTICS; None: it is not scored


@dataclass(frozen=True)
class Answers:
    """The answers of one data set and model, an arm's runs side by side."""

    arms: list[list[Run]]  # by arm, then by seed; all of the same rows
    untrained: Run | None  # what the model wrote before any training, to the same rows; it is no arm
    metric: Metric | None  # the one of answers that the arms are compared by; None: there is none, or no scores
    words: str  # its name within a sentence

    @property
    def rows(self) -> np.ndarray:
        """Rows [n] of the source."""
        return self.arms[0][0].rows

    def scores(self, run: Run) -> np.ndarray:
        """The metric of each answer of a run alone [n]; NaN where it has none."""
        if self.metric is None or run.written is None:
            return np.full(len(run.rows), np.nan)
        nothing = np.zeros(len(run.rows))
        parts = self.metric.statistic(Scored(run.rows, nothing, nothing, nothing[:, None], run.written))
        found = [self.metric.value(row) for row in parts.astype(float)]
        return np.array([np.nan if value is None else value for value in found], dtype=float)


@dataclass(frozen=True)
class Asked:
    """Where what stands beside the runs' answers is; None: nothing of it is shown."""

    data_dir: Path | None  # holds {dataset}/test.parquet
    tokens_dir: Path | None = None  # holds {dataset}/{model}.json
    untrained_dir: Path | None = None  # holds {dataset}/{model} of what the untrained model wrote


def panel(sweep: Sweep, beside: Asked, room: int = ROOM_bytes) -> dict[str, Any] | None:
    """What the page shows of the answers of one data set and model, in at most `room` bytes; None: no run answered.

    With `empty`, a text: why they cannot be shown. Raises InputError for answers or scores that are not as their run
    published them, and for runs that answered other rows.
    """
    runs = read_runs(sweep)
    if not runs:
        return None
    arms = [list(own) for _, own in itertools.groupby(runs, lambda run: run.arm)]
    reported = metric_called(sweep.metric)
    scored = reported.task == metrics.OUTPUTS and all(run.written is not None for run in runs)
    untrained = read_untrained_answers(sweep, beside.untrained_dir, runs[0])
    answers = Answers(arms, untrained, reported if scored else None, metric_words(sweep.named))
    asked = read_prompts(sweep, beside.data_dir, beside.tokens_dir, answers.rows)
    if isinstance(asked, str):
        return {"empty": asked}
    scores = [[answers.scores(run) for run in own] for own in arms]
    apart = disagreement(arms, scores, scored)
    found: dict[str, Any] = {}
    for count, seeds, longest in SIZES:
        found = _shown(answers, scores, asked, chosen(apart, count), Size(seeds, longest))
        if _bytes(found) <= room:
            break
    return found


# What was written, and what was asked ---------------------------------------------------------------------------------


def read_runs(sweep: Sweep) -> list[Run]:
    """The runs that answered, in the order of runs.csv. Raises InputError as `panel`."""
    found: list[Run] = []
    for row in records(sweep.runs[sweep.runs["status"] == COMPLETED]):
        folder = sweep.runs_dir / row["arm"] / f"seed{row['seed']}"
        summary = verified(folder)
        if not has(summary, OUTPUTS):
            continue
        check_files(folder, summary, [name for name in (OUTPUTS, SCORES) if has(summary, name)])
        named = {"arm": row["arm"], "label": arm_label(row["method"], row["rank"]), "method": row["method"]}
        found.append(_read(folder, summary, named | {"seed": int(row["seed"])}))
        _check_rows(folder, found[-1], found[0])
    return found


def read_untrained_answers(sweep: Sweep, untrained_dir: Path | None, first: Run) -> Run | None:
    """What the model answered before any training, to the rows of the `first` run; None where it is not there.

    Raises InputError as `panel`.
    """
    folder = Path() if untrained_dir is None else untrained_dir / sweep.dataset / sweep.model
    if untrained_dir is None or not (folder / "summary.json").exists():
        return None
    summary = read_untrained(folder)
    if not has(summary, OUTPUTS):
        return None
    found = _read(folder, summary, {"arm": UNTRAINED, "label": UNTRAINED, "method": UNTRAINED, "seed": 0})
    _check_rows(folder, found, first)
    return found


def _read(folder: Path, summary: dict[str, Any], named: dict[str, Any]) -> Run:
    """What stands in `folder`, whose files are as they were published; `named` says of which run."""
    lines = read_outputs(folder / OUTPUTS)
    rows = np.array([line["row"] for line in lines], dtype=np.int64)
    return Run(
        **named,
        rows=rows,
        texts=[line["output"] for line in lines],
        tokens=[line["tokens"] for line in lines],
        ended=[line["ended"] for line in lines],
        written=read_scores(folder / SCORES, rows) if has(summary, SCORES) else None,
    )


def _check_rows(folder: Path, run: Run, first: Run) -> None:
    if not np.array_equal(run.rows, first.rows):
        raise InputError(
            f"{folder / OUTPUTS}: answers to other rows than those of {first.arm}/seed{first.seed}: one is of other "
            f"data; {REMEDY}"
        )


def read_prompts(
    sweep: Sweep, data_dir: Path | None, tokens_dir: Path | None, rows: np.ndarray
) -> list[tuple[str, list[str]]] | str:
    """Prompt and references of each of `rows` of the data that the runs were of; a text: why they are not known.

    Files that changed since they were fetched are not shown beside answers to what they were.
    """
    if data_dir is None:
        return "the report was made without --data-dir, where prompts and references are"
    path = data_dir / sweep.dataset / f"{SPLIT}.parquet"
    if not path.is_file():
        return f"prompts and references are not here: no {path.name} in data/{sweep.dataset}/"
    try:
        described = read_json(path.with_name("dataset.json"))
        same = sha256(path) == described["splits"][SPLIT]["sha256"]
        if tokens_dir is not None:
            tokens = read_json(tokens_dir / sweep.dataset / f"{sweep.model}.json")
            same = same and tokens["data_sha256"] == described["sha256"] and tokens["sha256"] == _data_of(sweep)
    except (FileNotFoundError, KeyError, TypeError):
        return f"data/{sweep.dataset}/ and its tokens do not say of what data they are"
    if not same:
        return f"data/{sweep.dataset}/ holds other data now than the runs were of"
    found = read_references(path, rows.tolist())
    return [(prompt if isinstance(prompt, str) else turns(prompt), references) for prompt, references in found]


def _data_of(sweep: Sweep) -> str | None:
    """SHA-256 of the tokens that the runs were of, as one says: the contract holds that all have the same."""
    run = records(sweep.runs[sweep.runs["status"] == COMPLETED])[0]
    folder = sweep.runs_dir / run["arm"] / f"seed{run['seed']}"
    return read_env(folder, verified(folder)).get("data_sha256")


def turns(chat: Sequence[dict[str, Any]]) -> str:
    """Turns of a chat as one text: who says what, and in JSON what a turn has beside it."""
    said = []
    for turn in chat:
        rest = {key: value for key, value in turn.items() if key not in ("role", "content") and value is not None}
        parts = [turn.get("content") or "", json.dumps(rest, ensure_ascii=False) if rest else ""]
        said.append(f"{turn['role']}: " + "\n".join(part for part in parts if part))
    return "\n\n".join(said)


# Which prompts are shown ----------------------------------------------------------------------------------------------


def disagreement(arms: list[list[Run]], scores: list[list[np.ndarray]], scored: bool) -> np.ndarray:
    """How far the arms lie apart on each of n prompts, float64 [n, 2]; the second decides between equals in the first.

    First the standard deviation, between arms, of the mean score over an arm's seeds, or the share of pairs of arms
    whose answers differ where nothing is `scored`; then the other of them. Answers are those of an arm's first seed.
    """
    firsts = [own[0].texts for own in arms]
    pairs = list(itertools.combinations(firsts, 2))
    unlike = [sum(one[row] != other[row] for one, other in pairs) for row in range(len(firsts[0]))]
    by_text = np.array(unlike, dtype=float) / max(1, len(pairs))
    if not scored:
        return np.column_stack([by_text, np.zeros(len(by_text))])
    means = np.stack([np.mean(own, axis=0) for own in scores])
    return np.column_stack([np.nan_to_num(means.std(axis=0)).round(DIGITS), by_text])


@dataclass(frozen=True)
class Choice:
    """Positions of the prompts that are shown."""

    first: list[int]  # those on which the arms differ most, in that order
    others: list[int]  # spread evenly over the rest, in the order of the data


def chosen(apart: np.ndarray, count: int) -> Choice:
    """Which `count` of n prompts are shown, by `disagreement` [n, 2]; of no more than that all, in its order."""
    order = np.lexsort((np.arange(len(apart)), -apart[:, 1], -apart[:, 0]))
    if len(order) <= count:
        return Choice(order.tolist(), [])
    differ = [int(row) for row in order if apart[row].any()]
    first = differ[: count // 2]
    rest = np.setdiff1d(order, first)
    spread = np.linspace(0, len(rest) - 1, count - len(first)).round().astype(int)
    return Choice(first, rest[spread].tolist())


# What is shown of them ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """How much of each prompt is shown."""

    seeds: bool  # answers of all seeds, or of each arm's first
    longest: int  # characters of a text

    def text(self, text: str) -> dict[str, Any]:
        """A text, with `of` characters if its end is left out."""
        shown = legible(text)
        return {"text": shown} if len(shown) <= self.longest else {"text": shown[: self.longest], "of": len(shown)}

    def prompt(self, text: str) -> dict[str, Any]:
        """A prompt, with `of` characters if its middle is left out: what is asked may stand at either end."""
        shown, half = legible(text), self.longest // 2
        if len(shown) <= self.longest:
            return {"text": shown}
        return {"text": shown[:half] + GAP + shown[-half:], "of": len(shown)}


def legible(text: str) -> str:
    """A text whose characters that turn others around, or control, are written by number, as in (U+202E)."""
    return CONTROLS.sub(lambda found: f"(U+{ord(found[0]):04X})", text.replace("\r\n", "\n"))


def _shown(
    answers: Answers, scores: list[list[np.ndarray]], asked: list[tuple[str, list[str]]], choice: Choice, size: Size
) -> dict[str, Any]:
    arms = [own if size.seeds else own[:1] for own in answers.arms]
    before, of_before = answers.untrained, answers.scores(answers.untrained) if answers.untrained else None
    prompts = []
    for row in (*choice.first, *choice.others):
        prompt, references = asked[row]
        prompts.append(
            {
                "row": int(answers.rows[row]),
                "prompt": size.prompt(prompt),
                "references": [size.text(text) for text in references],
                "answers": [
                    _distinct(own, [_mark(answers.metric, one[row]) for one in of], row, size)
                    for own, of in zip(arms, scores, strict=True)
                ],
            }
        )
        if before is not None and of_before is not None:
            prompts[-1][UNTRAINED] = _distinct([before], [_mark(answers.metric, of_before[row])], row, size)[0]
    shortened = any("of" in text for one in prompts for text in _texts(one))
    return {
        "empty": "",
        "about": _about(answers, choice),
        "notes": _notes(answers, size, shortened),
        "metric": answers.metric.label if answers.metric else "",
        "arms": [{"arm": own[0].arm, "label": own[0].label, "method": own[0].method} for own in arms],
        "prompts": prompts,
    }


def _mark(metric: Metric | None, value: float) -> dict[str, Any]:
    """What stands beside an answer: whether it is right, where the metric is a share, or its score as text."""
    if metric is None or np.isnan(value):
        return {}
    if metric.share:
        return {"right": bool(value == 1)}
    return {"score": f"{value * metric.scale:.{metric.decimals}f}{' ' + metric.unit if metric.unit else ''}"}


def _distinct(runs: list[Run], marks: list[dict[str, Any]], row: int, size: Size) -> list[dict[str, Any]]:
    """The answers of an arm's runs to a prompt, the first seed's first; those of seeds that wrote the same are one."""
    found: dict[tuple[str, bool], dict[str, Any]] = {}
    for run, mark in zip(runs, marks[: len(runs)], strict=True):
        key = (run.texts[row], run.ended[row])
        if key in found:
            found[key]["seeds"].append(run.seed)
            continue
        found[key] = {"seeds": [run.seed], **size.text(run.texts[row]), **mark}
        if not run.ended[row]:
            found[key]["cut"] = run.tokens[row]
    return list(found.values())


def _texts(prompt: dict[str, Any]) -> list[dict[str, Any]]:
    before = [prompt[UNTRAINED]] if UNTRAINED in prompt else []
    return [prompt["prompt"], *prompt["references"], *before, *itertools.chain.from_iterable(prompt["answers"])]


def _about(answers: Answers, choice: Choice) -> str:
    """How many prompts are shown of how many, and how they were chosen."""
    every, count = len(answers.rows), len(choice.first) + len(choice.others)
    several = any(len(own) > 1 for own in answers.arms)
    by = f"in {answers.words}{' (mean over seeds)' if several else ''}" if answers.metric else "in their texts"
    which = f"on which the arms differ most {by}"
    if count == every:
        start = f"All {every:,} {plural('prompt', every)} of the {SPLIT} split"
        return f"{start}, those first {which}." if len(answers.arms) > 1 else f"{start}."
    start = f"{count:,} of {every:,} prompts of the {SPLIT} split"
    if not choice.first:
        return f"{start}, spread evenly over it{': no two arms differ' if len(answers.arms) > 1 else ''}."
    return (
        f"{start}: the {len(choice.first)} {which}, and behind them {len(choice.others)} spread evenly over the others."
    )


def _notes(answers: Answers, size: Size, shortened: bool) -> list[str]:
    """What a reader must know beside it: one sentence each."""
    lines = []
    if answers.untrained:
        lines.append("First stands what the model wrote before any training (untrained), which is no arm.")
    if any(len(own) > 1 for own in answers.arms):
        lines.append(
            "Each arm's answer is that of its first seed, those of other seeds are below it."
            if size.seeds
            else "Each arm's answer is that of its first seed; those of other seeds had no room here."
        )
    if shortened:
        lines.append(f"Texts of more than {size.longest:,} characters are shortened, and searched as they are shown.")
    if answers.metric and not answers.metric.share:
        lines.append(f"{answers.metric.label} beside an answer is of that answer alone.")
    return lines


def _bytes(value: Any) -> int:
    """The size of a value on the page, where markup's characters are escaped."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return len(text.encode()) + 5 * sum(map(text.count, "<>&"))
