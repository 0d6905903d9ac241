"""An estimate in words and as plain values: what a person reads before anything is trained, and estimate.json."""

import dataclasses
import functools
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from peft_tradeoffs.analysis.readable import grid, sentences
from peft_tradeoffs.config.estimate import GIB, NOTHING_LEFT, ArmEstimate, Estimate, fetch_first
from peft_tradeoffs.config.experiment import Experiment
from peft_tradeoffs.config.preflight import what_can_be_decided
from peft_tradeoffs.core.quantities import Missing, Span
from peft_tradeoffs.core.text import wrapped
from peft_tradeoffs.runs.terminal import duration

UNKNOWN = "unknown"
WIDTH = 120  # characters of a line
COUNTED = ["Arm", "Trials", "Runs", "Finished"]  # columns that need no looking


def text(estimate: Estimate) -> str:
    """The estimate for a person, as Markdown that reads well in a terminal."""
    own = estimate.experiment
    blocks = [f"# Estimate of {own.output}\n\n{textwrap.fill(_trainings(estimate), WIDTH)}"]
    for dataset, model in dict.fromkeys((one.dataset, one.model) for one in estimate.arms):
        arms = [one for one in estimate.arms if (one.dataset, one.model) == (dataset, model)]
        rows = pd.DataFrame(map(_row, arms))
        if estimate.widest == 1:
            rows = rows.drop(columns="GPUs")
        blocks.append(f"## {dataset} · {model}\n\n{grid(rows[COUNTED] if estimate.nothing_left else rows)}")
    if estimate.nothing_left:
        return "\n\n".join(blocks) + "\n"
    lists = {
        "Still to run" if any(one.counts.finished.all for one in estimate.arms) else "In all": _totals(estimate),
        "What does not fit": estimate.too_large(),
        "How it was taken": [*_notes(estimate), *_reasons(estimate)],
        "What it can show": what_can_be_decided(own) or _not_counted(own),
    }
    blocks += [
        f"## {title}\n\n" + "\n".join(wrapped(line, "- ", WIDTH) for line in lines)
        for title, lines in lists.items()
        if lines
    ]
    return "\n\n".join(blocks) + "\n"


def _not_counted(experiment: Experiment) -> list[str]:
    """Data sets of which the rows are not known yet."""
    return [
        f"data set {name}: unknown: its rows are counted when it is fetched; {fetch_first()}"
        for name, block in experiment.datasets.items()
        if block.source != "files" and not Path(experiment.output, "data", name, "dataset.json").exists()
    ]


def _trainings(estimate: Estimate) -> str:
    counts = [one.counts for one in estimate.arms]
    total = {name: sum(getattr(one, name) for one in counts) for name in ("runs", "repeats", "at_caps")}
    total["settled"] = sum(one.finished.trials for one in counts if one.settled)
    for name in ("trials", "again", "added"):
        total[name] = sum(getattr(one, name) for one in counts if not one.settled)
    finished = sum(one.finished.all for one in counts)
    given = {"total": total, "jobs": estimate.jobs(), "finished": finished, "trainings": estimate.trainings}
    given |= {"left": estimate.left, "nothing_left": estimate.nothing_left}
    return " ".join(sentences("estimate/trainings", given | {"span": _span}))


def _row(one: ArmEstimate) -> dict[str, str]:
    peak, seconds, counts = one.peak_MiB, one.seconds(), one.counts
    unknown = UNKNOWN if counts.left.all.most else "–"
    step = unknown
    if one.timed and one.work and one.work.steps:
        step = ("~" if one.between else "") + _ms(1000 * one.timed.train_s(one.work) / one.work.steps)
    return {
        "Arm": one.arm.name,
        "GPUs": str(one.arm.gpus),
        "Trials": _span(counts.trials_all) if counts.trials_all.most else "–",
        "Runs": str(counts.runs + counts.repeats),
        "Tensors, GiB" if one.on_cpu else "GPU memory, GiB": UNKNOWN if peak is None else f"{peak / GIB:.2f}",
        "Step, ms": step,
        "One run": unknown if one.run_s is None else duration(one.run_s),
        "Finished": str(counts.finished.all),
        "Still to run": _span(seconds, duration),
    }


def _totals(estimate: Estimate) -> list[str]:
    cost, device_s = estimate.experiment.cost, estimate.device_s()
    given = {
        "kind": estimate.kind,
        "slots": estimate.slots(),
        "widest": estimate.widest,
        "device_s": device_s,
        "wall_s": estimate.wall_s(),
        "disk": estimate.disk_MiB(),
        "energy_J": estimate.energy_J(),
        "cost": cost,
        "price": device_s.times(cost.gpu_hour / 3600) if device_s and cost.gpu_hour is not None else None,
        "durations": functools.partial(_span, said=duration),
        "money": functools.partial(_span, said="{:.2f}".format),
    }
    return sentences("estimate/totals", given)


def _notes(estimate: Estimate) -> list[str]:
    training = estimate.experiment.training
    given = {
        "kind": estimate.kind,
        "widest": estimate.widest,
        "known": any(one.need for one in estimate.arms),
        "measured": any(one.timed and one.timed.peak_MiB is not None for one in estimate.arms),
        "prompts": any(one.work and one.work.prompts for one in estimate.arms),
        "finished": any(one.counts.finished.all for one in estimate.arms),
        "open": any(one.counts.left.runs.least < one.counts.left.runs.most for one in estimate.arms),
        "between": [one.arm.name for one in estimate.arms if one.between],
        "max_length": training.max_length,
        "early_stopping": training.early_stopping,
        "equal_memory": estimate.experiment.equal_memory,
        **{name: getattr(estimate, name) for name in ("at_most", "device", "start_s", "took_s")},
    }
    return sentences("estimate/notes", given)


def _reasons(estimate: Estimate) -> list[str]:
    """Why what is unknown is: each reason once, and the arms that it is of unless it is of all."""
    by_reason: dict[str, list[str]] = {}
    for one in estimate.arms:
        for what, missing in (("memory", one.need), ("seconds", one.timed)):
            if isinstance(missing, Missing) and missing.reason != NOTHING_LEFT:
                by_reason.setdefault(missing.reason, []).append(f"{what} of {one.arm.name}")
    found = []
    for reason, of in by_reason.items():
        whose = {name.partition(" of ")[2] for name in of}
        whats = list(dict.fromkeys(name.partition(" of ")[0] for name in of))
        every = len(whose) == len(estimate.experiment.arms)
        found.append(f"{' and '.join(whats).capitalize()} of {'all arms' if every else ', '.join(sorted(whose))} "
                     f"unknown: {reason}")  # fmt: skip
    return found


def _span(span: Span | None, said: Callable[[float], str] = "{:.0f}".format) -> str:
    """Both ends in words, or the one that both are."""
    if span is None:
        return UNKNOWN
    least, most = said(span.least), said(span.most)
    return least if least == most else f"{least} to {most}"


def _ms(step: float) -> str:
    return f"{step:,.0f}" if step >= 100 else f"{step:.3g}"


def as_json(estimate: Estimate) -> dict[str, Any]:
    """The estimate as plain values; what is not known is {"unknown": why}."""
    arms = [
        {
            **{"dataset": one.dataset, "model": one.model, "arm": one.arm.name, "gpus": one.arm.gpus},
            **{"counts": dataclasses.asdict(one.counts), "trainings": dataclasses.asdict(one.counts.trainings)},
            **{"memory": _plain(one.need), "memory_MiB": one.peak_MiB, "interpolated": one.between},
            **{"steps": one.work.steps if one.work else None, "seconds": _plain(one.timed)},
            **{"run_s": one.run_s, "trial_s": one.trial_s, "left_s": _plain(one.seconds())},
        }
        for one in estimate.arms
    ]
    totals = {
        **{"trainings": dataclasses.asdict(estimate.trainings), "jobs": estimate.jobs(), "at_once": estimate.slots()},
        **{"device_s": _plain(estimate.device_s()), "wall_s": _plain(estimate.wall_s())},
        **{"disk_MiB": _plain(estimate.disk_MiB()), "energy_J": estimate.energy_J()},
        **{"does_not_fit": estimate.too_large(), "device": estimate.device or None, "took_s": estimate.took_s},
    }
    return {**totals, "can_show": what_can_be_decided(estimate.experiment), "arms": arms}


def _plain(value: Any) -> Any:
    if isinstance(value, Missing):
        return {"unknown": value.reason}
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
