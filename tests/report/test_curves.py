"""Learning curves of runs that were evaluated once: there is none, and the figure says so."""

import dataclasses

import synthetic
from peft_tradeoffs.report.lines import learning_curves
from synthetic_sweeps import sweep_of, texts


def test_one_evaluation_makes_no_curve(tmp_path):
    sweep = sweep_of(tmp_path, [synthetic.summary("lora", 8, seed) for seed in range(3)])
    last = sweep.curves[(sweep.curves["split"] == "test") & (sweep.curves["step"] == sweep.curves["step"].max())]
    once = learning_curves(dataclasses.replace(sweep, curves=last))
    assert any("evaluated once" in text.replace("\n", " ") for text in texts(once))
    whole = learning_curves(sweep)
    assert not any("evaluated once" in text for text in texts(whole)) and whole.axes[0].lines
