"""The metric reached by a time or an energy: which evaluation counts, means and intervals, and what was not reached."""

import csv
import json
from pathlib import Path
from typing import Any

import forks
import numpy as np
import pandas as pd
import pytest
import synthetic
import tiny
from peft_tradeoffs.analysis import tables
from peft_tradeoffs.analysis.equal_cost import (
    budgets_frame,
    budgets_notes,
    budgets_readable,
    read_evaluations,
    round_up,
)
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.tasks.task import MEASURED_AS
from scipy import stats

UNSET: dict[str, list[float]] = {"train_s": [], "energy_J": []}


def run(method: str, rank: int | None, seed: int, train_s: float, device: str = "cpu", **changes: Any) -> dict:
    """A run of three epochs whose accuracy is 0.80, 0.85 and 0.90, and 0.01 more per seed."""
    return synthetic.summary(method, rank, seed, device=device, train_s=train_s, **changes)


def curve(of: dict[str, Any], gains: tuple[float, ...] = (0.0, 0.05, 0.10)) -> pd.DataFrame:
    value = [0.80 + gain + 0.01 * of["seed"] for gain in gains]
    epochs = np.arange(1.0, len(gains) + 1)
    return pd.DataFrame({"epoch": epochs, "train_s": of["train_s"] * epochs / len(gains), "value": value})


def reached(summaries: list[dict], budgets: dict[str, list[float]], curves: Any = curve) -> pd.DataFrame:
    return budgets_frame(tables.runs_frame(summaries), budgets, curves)


TWO = [run(method, rank, seed, train_s) for method, rank, train_s in (("full", None, 90.0), ("lora", 8, 60.0))
       for seed in range(3)]  # fmt: skip


def test_the_last_evaluation_within_the_budget_counts():
    frame = reached(TWO, {"train_s": [60, 10, 89], "energy_J": []})
    rows = frame.set_index(["arm", "budget"])
    assert frame["budget"].to_list() == [10, 10, 60, 60, 89, 89]  # ascending
    full, lora = rows.loc[("full", 60)], rows.loc[("lora-r8", 60)]
    assert (full["mean"], full["first_epoch"], full["last_epoch"], full["end"]) == (pytest.approx(0.86), 2, 2, False)
    assert (lora["mean"], lora["last_epoch"], lora["end"]) == (pytest.approx(0.91), 3, True)
    half = stats.t.ppf(0.975, 2) * 0.01 / np.sqrt(3)
    assert (full["low"], full["high"]) == pytest.approx((0.86 - half, 0.86 + half))
    assert rows.loc[("full", 10), "reason"] == "first evaluation after 30 s"
    assert np.isnan(rows.loc[("full", 10), "mean"]) and rows.loc[("full", 10), "n"] == 0
    assert rows.loc[("full", 89), "last_epoch"] == 2


def test_seeds_that_differ_in_what_they_reached():
    summaries = [run("full", None, seed, 90.0 + 3 * seed) for seed in range(3)]
    row = reached(summaries, {"train_s": [61.0, 31.5, 0.05], "energy_J": []}).set_index("budget")
    assert row.loc[61.0, ["first_epoch", "last_epoch", "n"]].to_list() == [1, 2, 3]
    assert row.loc[61.0, "mean"] == pytest.approx((0.85 + 0.81 + 0.82) / 3)
    assert row.loc[31.5, "n"] == 2 and row.loc[31.5, "n_runs"] == 3
    text = budgets_readable(row.reset_index()).iloc[0]
    assert text["Accuracy by 31.5 s, %"].endswith("(epoch 1, n = 2 of 3)")
    assert "(epochs 1–2)" in text["Accuracy by 61 s, %"] and text["Accuracy by 0.05 s, %"] == "–"


def test_energy_is_mean_power_times_training_time():
    summaries = [run("full", None, seed, 90.0, "cuda", mean_power_W=200.0) for seed in range(3)]
    rows = reached(summaries, {"train_s": [], "energy_J": [11_999, 12_000]}).set_index(["kind", "budget"])
    assert rows.loc[("energy_J", 11_999), "last_epoch"] == 1  # 60 s of 200 W are 12,000 J
    assert rows.loc[("energy_J", 12_000), "last_epoch"] == 2
    assert any(
        note.startswith("Energy by then: the run's mean power times") for note in budgets_notes(rows.reset_index())
    )


def test_without_energy_the_reason_is_there():
    rows = reached(TWO, {"train_s": [60], "energy_J": [500]}).set_index(["kind", "arm"])
    assert rows.loc[("energy_J", "full"), "reason"] == "no CUDA device: the run was on the CPU"
    assert list(reached(TWO, UNSET)["kind"].unique()) == ["train_s"]
    assert "No view of equal energy: none was measured." in budgets_notes(reached(TWO, UNSET))


def test_the_time_of_one_job_on_a_cpu_is_no_budget_unless_it_is_asked_for():
    """Seeds that shared a job, on a CPU that others may use: only the first says its start-up time."""
    shared = [summary | {"startup_s": summary["startup_s"] if summary["seed"] == 0 else None} for summary in TWO]
    assert reached(shared, UNSET).empty
    assert len(reached(shared, {"train_s": [60], "energy_J": []})) == 2
    on_gpu = [summary | {"device": "cuda"} for summary in shared]
    assert set(reached(on_gpu, UNSET)["kind"]) >= {"train_s"}
    jobs = pd.DataFrame([{"dataset": TWO[0]["dataset"], "model": TWO[0]["model"], "device_name": TWO[0]["device_name"],
                          "quantity": MEASURED_AS["train_s"], "n": 5, "mean": 60.0, "sd": 1.0}])  # fmt: skip
    assert not budgets_frame(tables.runs_frame(shared), UNSET, curve, jobs).empty


def test_unset_budgets_are_the_ends_of_the_cheapest_arm_and_the_dearest():
    summaries = [run("full", None, seed, 91.0 + seed) for seed in range(3)]
    summaries += [run("lora", 8, seed, 60.4 + 0.2 * seed) for seed in range(3)]
    frame = reached(summaries, UNSET)
    assert frame["budget"].unique().tolist() == [61.0, 93.0] and not frame["set"].any()
    assert frame.set_index(["arm", "budget"]).loc[("lora-r8", 61.0), "end"]
    assert frame.set_index(["arm", "budget"]).loc[("full", 93.0), "end"]
    alone = reached(summaries[:3], UNSET)
    assert alone["budget"].tolist() == [93.0]  # one arm: one budget


@pytest.mark.parametrize(("value", "expected"), [(61, 61), (60.01, 61), (1234, 1300), (0.0312, 0.032), (99.5, 100)])
def test_budgets_are_rounded_up(value, expected):
    assert round_up(value) == expected


def test_failed_runs_and_runs_that_changed_gpus():
    summaries = [run("full", None, seed, 90.0, "cuda") for seed in range(3)]
    summaries[0] = synthetic.diverged("full", None, 0, device="cuda")
    summaries[1]["mixed_gpus"] = True
    summaries += [synthetic.oom("lora", 8, seed, device="cuda") for seed in range(3)]
    rows = reached(summaries, {"train_s": [90], "energy_J": []}).set_index(["kind", "arm"]).loc["train_s"]
    assert rows.loc["full", ["n", "n_runs"]].to_list() == [1, 3]
    assert rows.loc["full", "failed"] == "1 of 3 runs diverged at step 17"
    assert rows.loc["full", "reason"] == "one seed, which gives no interval" and np.isnan(rows.loc["full", "low"])
    assert rows.loc["lora-r8", "reason"] == "all 3 runs out of memory in probe, 12.0 GiB asked for"
    assert budgets_readable(rows.reset_index().assign(kind="train_s")).iloc[0, 1].endswith("(end, n = 1 of 3)")
    notes = budgets_notes(rows.reset_index().assign(kind="train_s"))
    assert any(note.endswith("flatter the arm: full (1 of 3 runs diverged at step 17).") for note in notes)
    assert "–: LoRA r8: all 3 runs out of memory in probe, 12.0 GiB asked for." in notes


def test_a_regression_metric_and_random_weights():
    changes = {"task": "regression", "metric": "pearson", "metric_value": 0.9, "pearson": 0.9, "accuracy": None}
    frame = reached([run("full", None, seed, 90.0, **changes) for seed in range(2)], {"train_s": [90], "energy_J": []})
    assert list(budgets_readable(frame))[1] == "Pearson correlation by 90 s"
    undefined = reached([run("full", None, 0, 90.0, **changes)], {"train_s": [90], "energy_J": []},
                        lambda of: curve(of).assign(value=np.nan))  # fmt: skip
    assert undefined["reason"].to_list() == ["the metric was not defined then"]
    assert reached([synthetic.randomly("full", None, 0)], UNSET, lambda _: pytest.fail("read")).empty


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "the run's summary does not list it"),
        (lambda path: path.write_text("epoch,split\n1,test\n"), "no column 'train_s'"),
        (
            lambda path: path.write_text("epoch,split,train_s,accuracy\n1,validation,3,0.5\n"),
            "no evaluation of the test",
        ),
        (lambda path: path.write_text("epoch,split,train_s,accuracy\n1,test,3,x\n"), "not a run's metrics"),
    ],
)
def test_broken_metrics_are_named(tmp_path, damage, said):
    synthetic.write(tmp_path, TWO[:1])
    path = tmp_path / "runs/sst2/distilbert/full/seed0/metrics.csv"
    damage(path)
    synthetic.seal(path.parent)
    with pytest.raises(InputError, match=said) as caught:
        read_evaluations(path, "accuracy")
    assert str(caught.value).startswith(f"{path}: ")


def test_the_test_split_alone_is_read(tmp_path):
    synthetic.write(tmp_path, TWO[:1])
    path = tmp_path / "runs/sst2/distilbert/full/seed0/metrics.csv"
    rows = [row for row in csv.DictReader(path.open()) if row["split"] == "test"]
    found = read_evaluations(path, "accuracy")
    assert found["value"].tolist() == [float(row["accuracy"]) for row in rows]
    assert found["train_s"].tolist() == [40, 80, 120]


def test_the_workflow_compares_at_equal_cost(finished, tmp_path):
    """On a CPU, where each arm had one job, only by budgets that are asked for."""
    assert (finished / "results/tables/equal_cost.md").read_text().startswith("Nothing to compare: the time of one job")
    assert pd.read_csv(finished / "results/tables/equal_cost.csv").empty
    folder, runs = tmp_path, finished / "results/runs"
    ends = [summary["train_s"] for summary in tiny.summaries(finished).values()]
    grid = {"dataset": ["reviews"], "model": ["tiny"], "arm": ["full", "lora-r4", "qlora-r4"], "seed": [0, 1]}
    words = ["--runs-dir", str(runs), "--grid", json.dumps(grid), "--output-dir", str(folder)]
    words += ["--contract", str(finished / "results/tables/contract.csv")]
    words += ["--budgets", json.dumps({"train_s": [2 * max(ends)], "energy_J": []})]
    forks.script(tiny.REPOSITORY / "workflow_scripts/compare_at_budgets.py", *words).check_returncode()
    rows = pd.read_csv(folder / "equal_cost.csv")
    assert list(rows["arm"].unique()) == ["full", "lora-r4", "qlora-r4"] and set(rows["kind"]) == {"train_s"}
    last = rows[rows["budget"] == rows["budget"].max()].set_index("arm")
    for arm in last.index[last["end"]]:
        values = [tiny.summaries(finished)[f"{arm}/seed{seed}"]["metric_value"] for seed in (0, 1)]
        assert last.loc[arm, "mean"] == pytest.approx(np.mean(values))
    assert last["end"].any()
    assert "Accuracy by" in (folder / "equal_cost.md").read_text()
    assert "longtable" in (folder / "equal_cost.tex").read_text()


def test_the_command_line_says_that_random_weights_have_nothing_to_compare(tmp_path):
    summaries = [synthetic.randomly("full", None, 0)]
    synthetic.write(tmp_path, summaries)
    grid = {"dataset": ["sst2"], "model": ["distilbert"], "arm": ["full"], "seed": [0]}
    words = ["--runs-dir", str(tmp_path / "runs"), "--grid", json.dumps(grid), "--output-dir", str(tmp_path)]
    words += ["--contract", str(synthetic.contract(tmp_path, summaries))]
    script: Path = tiny.REPOSITORY / "workflow_scripts/compare_at_budgets.py"
    forks.script(script, *words).check_returncode()
    assert (tmp_path / "equal_cost.md").read_text() == "Random weights: there is no metric to compare.\n"


def test_what_differs_is_said(tmp_path):
    synthetic.write(tmp_path, TWO)
    grid = {"dataset": ["sst2"], "model": ["distilbert"], "arm": ["full", "lora-r8"], "seed": [0, 1, 2]}
    words = ["--runs-dir", str(tmp_path / "runs"), "--grid", json.dumps(grid), "--output-dir", str(tmp_path)]
    words += ["--contract", str(synthetic.contract(tmp_path, TWO, lora="batch_size"))]
    script: Path = tiny.REPOSITORY / "workflow_scripts/compare_at_budgets.py"
    forks.script(script, *words).check_returncode()
    for kind in ("md", "tex"):
        assert "LoRA r8 differs from full in batch" in (tmp_path / f"equal_cost.{kind}").read_text()
    assert pd.read_csv(tmp_path / "equal_cost.csv").set_index("arm")["differs"].dropna().unique().tolist() == [
        "from full in batch_size"
    ]
