"""The catalogue of figures: their names, which the rules take too, and what draws each.

To import it loads no plotting library; `drawings` does.
"""

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from peft_tradeoffs.report.sweep import Sweep

# By name: the module whose function of that name draws it.
FIGURES = {
    "metric_by_arm": "bars",
    "peak_memory_by_arm": "bars",
    "memory_split_by_arm": "bars",
    "trainable_parameters_by_arm": "bars",
    "accuracy_gain_per_million_by_arm": "bars",
    "samples_per_s_by_arm": "bars",
    "energy_by_arm": "bars",
    "metric_vs_memory": "scatter",
    "metric_vs_trainable_parameters": "scatter",
    "metric_vs_samples_per_s": "scatter",
    "metric_vs_rank": "lines",
    "speed_vs_rank": "lines",
    "best_by_method": "bars",
    "learning_curves": "lines",
}
TUNING_FIGURES = {"learning_rate_grid": "lines"}  # drawn where rates were tuned


def drawings(figures: dict[str, str] = FIGURES) -> "dict[str, Callable[[Sweep], Figure]]":
    """By name: what draws it."""
    from peft_tradeoffs.report import bars, lines, scatter

    modules = {"bars": bars, "lines": lines, "scatter": scatter}
    return {name: getattr(modules[module], name) for name, module in figures.items()}


def sweep_figures(arms: Iterable[tuple[str, float | None]]) -> dict[str, str]:
    """By name, "sweep_lora" and so on: the method that such a figure is of, one with several ranks.

    `arms`: method and rank of each.
    """
    ranks: dict[str, set[float]] = {}
    for method, rank in arms:
        ranks.setdefault(method, set()).update([] if rank is None or pd.isna(rank) else [rank])
    return {f"sweep_{method}": method for method, own in ranks.items() if len(own) > 1}


def sweeps(sweep: "Sweep") -> "dict[str, Callable[[Sweep], Figure]]":
    """By name: what draws the figure of each method that has several ranks."""
    from peft_tradeoffs.report.lines import along_ranks

    named = sweep_figures(zip(sweep.runs["method"], sweep.runs["rank"], strict=True))
    return {name: functools.partial(along_ranks, method=method) for name, method in named.items()}
