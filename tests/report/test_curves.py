"""Learning curves of runs that were evaluated once."""

import dataclasses

import synthetic
from peft_tradeoffs.report.lines import learning_curves
from synthetic_sweeps import sweep_of


def test_seeds_of_one_evaluation_are_points(tmp_path):
    sweep = sweep_of(tmp_path, [synthetic.summary("lora", 8, seed) for seed in range(3)])
    last = sweep.curves[(sweep.curves["split"] == "test") & (sweep.curves["step"] == sweep.curves["step"].max())]
    (axes,) = learning_curves(dataclasses.replace(sweep, curves=last)).axes
    seeds = [line for line in axes.lines if line.get_linewidth() < 1 and line.get_marker() == "o"]
    assert len(seeds) == 3 and all(len(line.get_xdata()) == 1 for line in seeds)
    assert axes.get_xticks().tolist() == [last["step"].iloc[0]]
    whole = learning_curves(sweep).axes[0]
    assert not [line for line in whole.lines if line.get_linewidth() < 1 and line.get_marker() == "o"]
