"""The drawings: what the arms of one data set and model bring and what they cost."""

import functools
from collections.abc import Callable

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from peft_tradeoffs.analysis import readable
from peft_tradeoffs.analysis.tables import COMPLETED, memory_key
from peft_tradeoffs.core.text import arm_label
from peft_tradeoffs.report import style
from peft_tradeoffs.report.bars import (
    KEY,
    accuracy_gain_per_million_by_arm,
    by_arm,
    draw_rows,
    memory_split_by_arm,
    names,
    rows_height,
    trainable_parameters_by_arm,
)
from peft_tradeoffs.report.best import best_by_method
from peft_tradeoffs.report.by_rank import along_ranks, metric_vs_rank, speed_vs_rank
from peft_tradeoffs.report.canvas import absent, canvas, interval_note, message, metric_limits, resolution, styled
from peft_tradeoffs.report.curves import learning_curves, learning_rate_grid
from peft_tradeoffs.report.scatter import metric_vs_memory, metric_vs_samples_per_s, metric_vs_trainable_parameters
from peft_tradeoffs.report.sweep import Sweep, conditions, no_metric


@styled
def metric_by_arm(sweep: Sweep) -> Figure:
    """Every seed's metric and the arms' means."""
    title = f"{sweep.metric_name} by arm"
    if no_metric(sweep):
        return message(sweep, title, no_metric(sweep))
    shown = sweep.runs.dropna(subset="metric_value")["arm"]
    notes = [conditions(sweep.runs), KEY, interval_note(sweep, "metric_value"), resolution(sweep)]
    notes += absent(sweep, shown, "metric_value")
    figure = canvas(sweep, title, rows_height(names(sweep.arms)) + 0.5, notes)
    axes = figure.subplots()
    draw_rows(axes, sweep, sweep.runs, "metric_value")
    axes.set_xlim(*metric_limits(sweep))
    axes.set_xlabel(sweep.metric_axis)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    style.mark_cut(axes, "x")
    style.grid_along(axes, "both")
    return figure


@styled
def peak_memory_by_arm(sweep: Sweep) -> Figure:
    """Peak memory of the probe: resident on a CPU, allocated on CUDA."""
    title = "Peak memory by arm"
    return by_arm(sweep, title, memory_key, lambda device: readable.LABEL[memory_key(device)], readable.PROBE)


@styled
def samples_per_s_by_arm(sweep: Sweep) -> Figure:
    """Training throughput."""
    notes = readable.fallbacks(sweep.runs)
    return by_arm(sweep, "Training throughput by arm", lambda _: "samples_per_s", lambda _: "Samples/s", *notes)


@styled
def energy_by_arm(sweep: Sweep) -> Figure:
    """Energy of the GPU over the training phase, for each sample trained on."""
    short = sweep.runs["energy_window_short"].eq(True) & (sweep.runs["status"] == COMPLETED)
    arms = dict.fromkeys(zip(sweep.runs[short]["method"], sweep.runs[short]["rank"], strict=True))
    notes = readable.fallbacks(sweep.runs)
    if arms:
        notes.append(f"Measured over less than 30 s: {', '.join(arm_label(*arm) for arm in arms)}.")
    return by_arm(
        sweep,
        "Training energy by arm",
        lambda _: "energy_J_per_sample",
        lambda _: "GPU energy, J/sample",
        *notes,
    )


FIGURES: dict[str, Callable[[Sweep], Figure]] = {
    draw.__name__: draw
    for draw in (
        metric_by_arm,
        peak_memory_by_arm,
        memory_split_by_arm,
        trainable_parameters_by_arm,
        accuracy_gain_per_million_by_arm,
        samples_per_s_by_arm,
        energy_by_arm,
        metric_vs_memory,
        metric_vs_trainable_parameters,
        metric_vs_samples_per_s,
        metric_vs_rank,
        speed_vs_rank,
        best_by_method,
        learning_curves,
    )
}
TUNING_FIGURES: dict[str, Callable[[Sweep], Figure]] = {"learning_rate_grid": learning_rate_grid}


def sweeps(sweep: Sweep) -> dict[str, Callable[[Sweep], Figure]]:
    """A figure a method that has several ranks: "sweep_lora" and so on."""
    ranks = sweep.runs.groupby("method", sort=False)["rank"].nunique()
    return {f"sweep_{method}": functools.partial(along_ranks, method=method) for method in ranks.index[ranks > 1]}
