"""The comparison of arms: differences over the same seeds and examples, verdicts, what it refuses, its tables."""

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import synthetic
import tiny
from peft_tradeoffs import tables
from peft_tradeoffs.comparison import comparison_frame, read_predictions
from peft_tradeoffs.comparison_text import comparison_notes, comparison_readable, decimals, with_interval
from peft_tradeoffs.errors import InputError
from scipy import stats

ROWS = 2000


def run(arm: tuple[str, int | None], seed: int, wrong: np.ndarray, **changes: Any) -> tuple[dict, dict]:
    """A run's summary and the columns of its predictions; `wrong` are the examples it gets wrong."""
    labels = np.arange(ROWS) % 2
    predicted = labels.copy()
    predicted[wrong] = 1 - labels[wrong]
    accuracy = 1 - len(wrong) / ROWS
    values = {"accuracy": accuracy, "metric_value": accuracy, "test_rows": ROWS, **changes}
    return synthetic.summary(*arm, seed, **values), {"row": np.arange(ROWS), "label": labels, "prediction": predicted}


def write(folder: Path, runs: list[tuple[dict, dict]]) -> Path:
    """Write the runs as the workflow does; the folder of runs."""
    synthetic.write(folder, [summary for summary, _ in runs])
    for summary, columns in runs:
        place = folder / "runs" / summary["dataset"] / summary["model"] / summary["arm"] / f"seed{summary['seed']}"
        table = pd.DataFrame(columns)
        for label in range(2):
            table[f"logit_{label}"] = (table["prediction"] == label).astype(float)
        table.to_csv(place / "predictions.csv", index=False)
    return folder / "runs"


def compared(folder: Path, runs: list[tuple[dict, dict]], margin: float = 0.01, baseline: str = "full") -> pd.DataFrame:
    where = write(folder, runs)
    frame = tables.runs_frame([summary for summary, _ in runs])

    def predictions(of: dict[str, Any]):
        return read_predictions(
            where / of["dataset"] / of["model"] / of["arm"] / f"seed{of['seed']}/predictions.csv", of
        )

    return comparison_frame(frame, baseline, margin, predictions)


def arms(differing: dict[str, int], seeds: int = 5, common: int = 100) -> list[tuple[dict, dict]]:
    """full gets `common` examples wrong, LoRA r4 and so on as many more, each seed a few of its own besides."""
    runs = []
    for name, more in {"full": 0, **differing}.items():
        method, _, rank = name.partition("-r")
        for seed in range(seeds):
            own = [1990 - 3 * seed, 1991 - 3 * seed]
            runs.append(run((method, int(rank) if rank else None), seed, np.r_[0 : common + more, own]))
    return runs


def test_differences_are_those_of_the_same_seeds(tmp_path):
    frame = compared(tmp_path, arms({"lora-r4": 0, "lora-r8": 60, "qlora-r4": -40})).set_index("arm")
    assert frame["difference"].to_dict() == pytest.approx(
        {"full": float("nan"), "lora-r4": 0.0, "lora-r8": -0.03, "qlora-r4": 0.02}, nan_ok=True, abs=1e-12
    )
    assert frame["verdict"].to_dict() == {
        **{"full": "baseline", "lora-r4": "equivalent", "lora-r8": "worse", "qlora-r4": "better"}
    }
    # All seeds differ on the same 60 examples: only other examples can change that.
    row, share = frame.loc["lora-r8"], 60 / ROWS
    se = np.sqrt(share * (1 - share) / (ROWS - 1))
    half = stats.t.ppf(0.975, ROWS - 1) * se
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((-share - half, -share + half), rel=1e-3)
    assert row["difference_seeds_low"] == pytest.approx(row["difference_seeds_high"])
    p = stats.binomtest(0, 60).pvalue
    assert row["mcnemar"] == "; ".join(f"{seed}: {p:.4g}" for seed in range(5))


def test_holm_counts_the_arms(tmp_path):
    frame = compared(tmp_path, arms({"lora-r4": 20, "lora-r8": 24})).set_index("arm")
    ordered = frame.loc[["lora-r8", "lora-r4"]]
    assert ordered["p_different_holm"].to_list() == pytest.approx(
        [2 * ordered["p_different"].iloc[0], max(2 * ordered["p_different"].iloc[0], ordered["p_different"].iloc[1])]
    )
    assert np.isnan(frame.loc["full", "p_different_holm"])


def test_what_the_runs_cannot_tell_is_undecided(tmp_path):
    first, count = {"full": 0, "lora": 5}, {"full": 40, "lora": 42}
    few = [
        run((method, rank), seed, np.arange(count[method]) + first[method] + seed)
        for method, rank in (("full", None), ("lora", 4))
        for seed in range(3)
    ]
    frame = compared(tmp_path, few, margin=0.001).set_index("arm")
    assert frame.loc["lora-r4", "verdict"] == "undecided"
    notes = " ".join(comparison_notes(frame.reset_index()))
    assert "Undecided: these runs cannot tell the arm from full, nor prove it equivalent." in notes
    assert "is found with a probability of 80 %" in notes


def test_one_seed_has_a_difference_and_no_interval(tmp_path):
    frame = compared(tmp_path, arms({"lora-r4": 10}, seeds=1))
    row = frame.set_index("arm").loc["lora-r4"]
    assert row["difference"] == pytest.approx(-0.005)
    assert row[["sd", "low", "difference_low", "p_different", "p_equivalent", "verdict"]].isna().all()
    assert comparison_readable(frame)["Verdict"].to_list() == ["baseline", "–"]
    assert "No interval or test for full, LoRA r4: 1 seed, where 3 or more are needed." in comparison_notes(frame)


def test_two_seeds_have_an_interval_over_seeds_and_no_test(tmp_path):
    row = compared(tmp_path, arms({"lora-r4": 60}, seeds=2)).set_index("arm").loc["lora-r4"]
    assert row[["seeds_low", "difference_seeds_low"]].notna().all()
    assert row[["low", "difference_low", "p_different", "smallest_difference", "verdict"]].isna().all()
    assert row["reason"] == "2 seeds, where 3 or more are needed"


def test_a_difference_over_fewer_seeds_says_so(tmp_path):
    runs = arms({"lora-r4": 10})
    runs[0] = (synthetic.oom("full", None, 0), {"row": [], "label": [], "prediction": []})
    cells = comparison_readable(compared(tmp_path, runs))
    assert cells["Difference, points"].to_list()[1].endswith("] (n = 4)")


def test_the_smallest_difference_is_that_of_holms_strictest_step(tmp_path):
    alone = compared(tmp_path / "a", arms({"lora-r4": 20})).set_index("arm")
    beside = compared(tmp_path / "b", arms({"lora-r4": 20, "lora-r8": 20})).set_index("arm")
    assert beside.loc["lora-r4", "smallest_difference"] > 1.05 * alone.loc["lora-r4", "smallest_difference"]


def test_a_regression_that_one_example_decides_has_no_test(tmp_path):
    """All predictions but one are the same: without that one there is no correlation."""
    labels = np.linspace(0, 1, ROWS)
    runs = []
    for method, rank in (("full", None), ("lora", 4)):
        for seed in range(3):
            predicted = np.zeros(ROWS)
            predicted[-1 - seed] = 1.0
            pearson = float(np.corrcoef(labels, predicted)[0, 1])
            changes = {"task": "regression", "metric": "pearson", "metric_value": pearson, "test_rows": ROWS}
            columns = {"row": np.arange(ROWS), "label": labels, "prediction": predicted}
            runs.append((synthetic.summary(method, rank, seed, **changes), columns))
    row = compared(tmp_path, runs).set_index("arm").loc["lora-r4"]
    assert row["reason"] == "the metric is not defined without some of the test examples"
    assert np.isnan(row["p_different"]) and pd.isna(row["mcnemar"])


def test_failed_runs_and_seeds_of_one_arm_alone_are_left_out(tmp_path):
    runs = arms({"lora-r4": 10})
    runs[-1] = (synthetic.oom("lora", 4, 4), {"row": [], "label": [], "prediction": []})
    runs += [(synthetic.oom("qlora", 4, 0), {"row": [], "label": [], "prediction": []})]
    frame = compared(tmp_path, runs).set_index("arm")
    assert frame["n"].to_dict() == {"full": 5, "lora-r4": 4, "qlora-r4": 0}
    assert frame.loc["lora-r4", "n_paired"] == 4
    assert frame.loc["qlora-r4", "reason"] == "no seed of which both this arm and the baseline have a metric"


def test_random_weights_are_not_compared(tmp_path):
    runs = [synthetic.randomly("full", None, seed) for seed in (0, 1)]
    frame = comparison_frame(tables.runs_frame(runs), "full", 0.01, lambda _: pytest.fail("read"))
    assert frame.empty and list(frame)[:3] == ["dataset", "model", "arm"]


def test_runs_of_other_data_are_refused(tmp_path):
    runs = arms({"lora-r4": 0}, seeds=2)
    for column in ("label", "prediction"):
        runs[-1][1][column] = 1 - runs[-1][1][column]
    with pytest.raises(InputError, match=r"full/seed0 and .*lora-r4/seed1 were tested on different examples"):
        compared(tmp_path, runs)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "missing, though the run's summary stands"),
        (lambda path: path.write_text("row,label\n1,1\n"), "not a run's predictions"),
        (lambda path: path.write_text("row,label,prediction,logit_0,logit_1\n1,1,1,0,1\n"), "1 rows, but"),
        (lambda path: path.write_text("row,label,prediction\n1,1,x\n"), "not a run's predictions"),
        (lambda path: path.write_text(path.read_text().replace(",1,0,", ",0,0,")), "its accuracy is 0.9"),
    ],
)
def test_broken_predictions_are_named(tmp_path, damage, said):
    runs = arms({"lora-r4": 0}, seeds=2)
    damaged = write(tmp_path, runs) / "sst2/distilbert/lora-r4/seed1/predictions.csv"
    damage(damaged)
    with pytest.raises(InputError, match=said) as caught:
        read_predictions(damaged, runs[-1][0])
    assert str(caught.value).startswith(f"{damaged}: ")


@pytest.mark.parametrize(("half_width", "expected"), [(0.9, 1), (1.24, 1), (2.9, 1), (3.1, 0), (12, 0), (0.023, 3)])
def test_an_interval_decides_the_digits(half_width, expected):
    assert decimals(half_width) == expected


def test_intervals_as_text():
    assert with_interval(0.8765, 0.8675, 0.8855, 100) == "87.6 [86.8, 88.5]"
    assert with_interval(-0.0003, -0.05, 0.04, 100, sign=True) == "0 [-5, +4]"
    assert with_interval(-0.014, -0.0276, -0.0004, 100, sign=True) == "-1.40 [-2.76, -0.04]"
    assert with_interval(0.9, None, None, 100) == "90.0"
    assert with_interval(None, None, None, 100) == "–"


def test_the_workflow_compares(finished):
    folder = finished / "results/tables"
    rows = list(csv.DictReader((folder / "comparison.csv").open()))
    assert [row["arm"] for row in rows] == ["full", "lora-r4", "qlora-r4"]
    summaries = tiny.summaries(finished)
    for row in rows[1:]:
        values = [summaries[f"{row['arm']}/seed{seed}"]["metric_value"] for seed in (0, 1)]
        full = [summaries[f"full/seed{seed}"]["metric_value"] for seed in (0, 1)]
        assert float(row["difference"]) == pytest.approx(np.mean(np.subtract(values, full)))
    assert (
        "Verdict" in (folder / "comparison.md").read_text() and "longtable" in (folder / "comparison.tex").read_text()
    )


def test_the_command_line_says_that_random_weights_have_nothing_to_compare(tmp_path):
    write(tmp_path, [(synthetic.randomly("full", None, 0), {"row": [], "label": [], "prediction": []})])
    grid = {"dataset": ["sst2"], "model": ["distilbert"], "arm": ["full"], "seed": [0]}
    words = ["--runs-dir", str(tmp_path / "runs"), "--grid", json.dumps(grid), "--baseline", "full", "--margin", "0.01"]
    words += ["--contract", str(synthetic.contract(tmp_path, [synthetic.randomly("full", None, 0)]))]
    script = tiny.REPOSITORY / "workflow_scripts/compare_arms.py"
    subprocess.run([sys.executable, str(script), *words, "--output-dir", str(tmp_path)], check=True)
    for kind in ("md", "tex"):
        assert (tmp_path / f"comparison.{kind}").read_text() == "Random weights: there is no metric to compare.\n"
    words[words.index("full")] = "fulll"
    done = subprocess.run([sys.executable, str(script), *words, "--output-dir", str(tmp_path)], capture_output=True)
    assert done.returncode == 1 and b"--baseline: no arm 'fulll' in --grid, which has full" in done.stderr
