"""Sweeps of runs that never ran, of which figures are drawn, and what a figure says."""

from pathlib import Path

import synthetic
from matplotlib.text import Text
from peft_tradeoffs.analysis import tables
from peft_tradeoffs.report.sweep import Sweep, Tables, load

EIGHT = ["full", "lora", "qlora", "dora", "rslora", "vera", "oft", "loha", "hra"]
GRIDS = {
    1: synthetic.grid(["full"], []),
    5: synthetic.grid(["full", "lora", "qlora"], [4, 16]),
    9: synthetic.grid(["full", "lora", "qlora"], [4, 8, 16, 32]),
    41: synthetic.grid(EIGHT, [2, 4, 8, 16, 32]),
}


def prepare(folder: Path, summaries: list[dict]) -> tuple[Path, Path]:
    """runs.csv and the runs' folder, as make_tables.py and the workflow leave them."""
    synthetic.write(folder, summaries)
    tables.runs_frame(summaries).to_csv(folder / "runs.csv", index=False)
    return folder / "runs.csv", folder / "runs" / summaries[0]["dataset"] / summaries[0]["model"]


def sweep_of(folder: Path, summaries: list[dict]) -> Sweep:
    """The sweep of these runs, which are written first."""
    runs, runs_dir = prepare(folder, summaries)
    return load(Tables(runs), runs_dir, summaries[0]["dataset"], summaries[0]["model"])


def texts(figure) -> list[str]:
    """What a figure says, lines joined."""
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text()]
    return [text.get_text().replace("\n", " ") for text in found]
