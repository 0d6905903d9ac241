"""The best configuration of each method, chosen without the test split where something else can choose."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from peft_tradeoffs.analysis import readable
from peft_tradeoffs.analysis.means import incomparable, interval, seed_values
from peft_tradeoffs.analysis.tables import COMPLETED, memory_key
from peft_tradeoffs.report import palette, style
from peft_tradeoffs.report.bars import name_rows, names, rows_height
from peft_tradeoffs.report.canvas import canvas, draw_reason, interval_note, message, metric_limits, styled, thousands
from peft_tradeoffs.report.scatter import compact, log_ticks
from peft_tradeoffs.report.style import wrap
from peft_tradeoffs.report.sweep import Sweep, conditions, no_metric, reason


@dataclass(frozen=True)
class Choice:
    """The arm of each method and what chose it."""

    arms: pd.DataFrame  # rows of `arms_frame`, one per method
    how: str  # a sentence


def scores(sweep: Sweep) -> tuple[pd.Series, str]:
    """What arms are chosen by, higher is better, by arm, and its name: the first that every completed arm has.

    In this order: the last evaluation on a validation split, the heldout split, the tuning's dev split at the rate that
    the arm was trained with, the test split.
    """
    done = sweep.runs[sweep.runs["status"] == COMPLETED]
    found = [
        (validation(sweep), "its mean on the validation split after the last step"),
        (done.groupby("arm")["heldout_metric_value"].mean().dropna(), "its mean on the heldout split"),
        (dev(sweep, done), "its value on the dev split of tuning, of one seed, at the rate it was trained with"),
    ]
    arms = set(done["arm"])
    for values, name in found:
        if arms <= set(values.index):
            return values, f"{name}; the test split had no part in it"
    return done.groupby("arm")["metric_value"].mean(), (
        "its mean on the test split itself, since nothing else was evaluated for every arm; that flatters it, the more "
        "the more arms its method has"
    )


def validation(sweep: Sweep) -> pd.Series:
    """The mean of the runs' last metric on a validation split, by arm; empty without one."""
    if sweep.curves.empty or sweep.metric not in sweep.curves:
        return pd.Series(dtype=float)
    rows = sweep.curves[sweep.curves["split"] == "validation"].dropna(subset=sweep.metric)
    last = rows.sort_values("step").groupby(["arm", "seed"])[str(sweep.metric)].last()
    return last.groupby(level="arm").mean()


def dev(sweep: Sweep, done: pd.DataFrame) -> pd.Series:
    """The metric on tuning's dev split of the trial whose rate the arm's runs took, by arm."""
    values = {}
    for arm, rates in done.groupby("arm")["learning_rate"]:
        if sweep.tuning.empty:
            break
        own = sweep.tuning[sweep.tuning["arm"] == arm].dropna(subset="value")
        taken = own[np.isclose(own["learning_rate"], rates.iloc[0], rtol=1e-9)]
        if len(taken) and rates.nunique() == 1:
            values[arm] = taken["value"].iloc[0]
    return pd.Series(values, dtype=float)


def choose(sweep: Sweep) -> Choice:
    """The best arm of each method that has a completed run: of those with the fewest failed runs the highest score."""
    values, name = scores(sweep)
    arms = sweep.arms[sweep.arms["n"] > 0].assign(score=lambda rows: rows["arm"].map(values))
    ordered = arms.sort_values(["n_failed", "score"], ascending=[True, False], kind="stable")
    best = ordered.drop_duplicates("method").sort_index()
    if len(arms) == len(best):
        return Choice(best, "Every method has one arm that completed, so nothing was chosen.")
    among = ", among those with the fewest failed runs," if arms["n_failed"].any() else ""
    return Choice(best, f"A method's best arm{among} is chosen by {name}.")


@styled
def best_by_method(sweep: Sweep) -> Figure:
    """The best arm of each method in four panels: metric, peak memory, trainable parameters, throughput."""
    title = "Best arm of each method"
    if no_metric(sweep):
        return message(sweep, title, no_metric(sweep))
    choice = choose(sweep)
    arms = choice.arms
    labels = names(arms)
    runs = sweep.runs[sweep.runs["arm"].isin(arms["arm"])]
    memory = memory_key(runs["device"].iloc[0])
    gone = [method for method in dict.fromkeys(sweep.arms["method"]) if method not in set(arms["method"])]
    notes = [conditions(runs), choice.how, "Points: seeds. Lines and numbers: means."]
    notes.append(interval_note(sweep, "metric_value", memory, "samples_per_s"))
    if gone:
        told = [f"{name} ({reason(sweep.runs[sweep.runs['method'] == name], 'status')})" for name in gone]
        notes.append(f"No run completed: {', '.join(told)}.")
    notes += [readable.PROBE, *readable.fallbacks(runs)]
    figure = canvas(sweep, title, rows_height(labels) + 0.6, notes, style.DOUBLE)
    cells = figure.subplots(1, 4, sharey=True)
    panels = ("metric_value", memory, "trainable_parameters", "samples_per_s")
    titles = (sweep.metric_axis, readable.LABEL[memory], "Trainable parameters (log)", "Samples/s")
    for axes, key, label in zip(cells, panels, titles, strict=True):
        draw_panel(axes, sweep, arms, runs, key)
        axes.set_xlabel("\n".join(wrap(label, 1.1, style.NORMAL)))
        axes.tick_params(axis="y", length=0)
    name_rows(cells[0], labels)
    return figure


def draw_panel(axes: Axes, sweep: Sweep, arms: pd.DataFrame, runs: pd.DataFrame, key: str) -> None:
    """One measurement of the chosen arms: bars from zero; points where the axis cannot start there."""
    style.grid_along(axes, "x")
    scale = sweep.scale if key == "metric_value" else 1.0
    bars = key not in ("metric_value", "trainable_parameters")
    if bars and (why := incomparable(runs, key)):
        draw_reason(axes, why)
        axes.set_xticks([])
        return
    for y, row in enumerate(arms.to_dict("records")):
        look, own = sweep.styles[row["method"]], runs[runs["arm"] == row["arm"]]
        values = seed_values(own, key, scale)
        if not len(values):
            continue
        mean = values.mean()
        text = compact(mean) if key == "trainable_parameters" else readable.number(mean)
        if bars:
            axes.barh(y, mean, height=0.7, color=palette.tint(look.colour, 0.4), linewidth=0)
        if key == "trainable_parameters":
            axes.scatter(mean, y, s=16, color=look.colour, linewidth=0, zorder=3)
        else:
            spread = np.linspace(-0.2, 0.2, len(values)) if len(values) > 1 else np.zeros(1)
            axes.scatter(values, y + spread, s=6, color=look.colour, alpha=0.75, linewidth=0, zorder=3)
        if key != "trainable_parameters" and len(values) > 1:
            axes.vlines(mean, y - 0.35, y + 0.35, color="black", linewidth=1.1, zorder=4)
        if key != "trainable_parameters" and (ends := interval(own, key, sweep.noise, scale)):
            axes.hlines(y, *ends, color="black", linewidth=0.7, zorder=4)
        axes.text(1.01, y, text, transform=axes.get_yaxis_transform(), va="center", fontsize=style.SMALL)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(FuncFormatter(thousands))
    if key == "metric_value":
        axes.set_xlim(*metric_limits(sweep))
        style.mark_cut(axes, "x")
    elif bars:
        axes.set_xlim(left=0)
    else:
        axes.set_xscale("log")
        axes.margins(x=0.1)
        log_ticks(axes, 3)
