"""Tables: values, order, failures, escapes."""

import csv
import json
import math
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import forks
import jsonschema
import pytest
import synthetic
from peft_tradeoffs.analysis import readable, tables
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import to_csv
from peft_tradeoffs.core.quantities import PHASES
from shown_tables import cells, notes

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "workflow_scripts" / "make_tables.py"
SCHEMA = json.loads((ROOT / "schemas" / "summary.schema.json").read_text(encoding="utf-8"))
ARMS = synthetic.grid(["lora", "qlora", "full"], [16, 4])


def make(folder: Path, summaries: list[dict]) -> subprocess.CompletedProcess:
    """Write the runs and run make_tables.py over them."""
    synthetic.write(folder, summaries)
    contract = synthetic.contract(folder, summaries)
    axes = ("dataset", "model", "arm", "seed")
    grid = {axis: list(dict.fromkeys(run[axis] for run in summaries)) for axis in axes}
    options = ["--runs-dir", folder / "runs", "--grid", json.dumps(grid), "--output-dir", folder / "tables"]
    options += ["--contract", contract]
    return forks.script(SCRIPT, *options)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_files_hold_every_run_and_arm_in_order(tmp_path):
    summaries = [synthetic.summary(method, rank, seed) for method, rank in ARMS for seed in (1, 0)]
    assert make(tmp_path, summaries).returncode == 0
    folder = tmp_path / "tables"
    assert {path.name for path in folder.iterdir()} == {
        f"{table}.{kind}" for table in ("runs", "arms", "memory", "cost") for kind in ("csv", "md", "tex")
    }
    runs, arms = rows(folder / "runs.csv"), rows(folder / "arms.csv")
    assert list(runs[0]) == list(tables.COLUMNS)
    assert [row["arm"] for row in arms] == ["full", "lora-r4", "lora-r16", "qlora-r4", "qlora-r16"]
    assert [(row["arm"], row["seed"]) for row in runs[:4]] == [
        ("full", "0"), ("full", "1"), ("lora-r4", "0"), ("lora-r4", "1"),
    ]  # fmt: skip
    by_key = {(run["arm"], str(run["seed"])): run for run in summaries}
    for row in runs:
        expected = by_key[row["arm"], row["seed"]]
        assert json.loads(row["null_reasons"]) == expected["null_reasons"]
        assert row["differs"] == ""
        assert float(row[tables.TENSORS]) == pytest.approx(sum(expected[key] for key in tables.SPLIT))
        for key in set(tables.COLUMNS) - {"differs", "null_reasons", tables.TENSORS}:
            value = expected[key]
            number = isinstance(value, float)
            assert (float(row[key]) if number else row[key]) == (
                value if number else "" if value is None else str(value)
            )


def test_arms_have_mean_and_sample_sd(tmp_path):
    summaries = [synthetic.summary("lora", 8, seed) for seed in range(4)]
    arm = tables.arms_frame(tables.runs_frame(summaries)).iloc[0]
    for key in ("metric_value", "probe_peak_rss_MiB", "train_s"):
        values = [run[key] for run in summaries]
        assert arm[f"{key}_mean"] == pytest.approx(statistics.mean(values))
        assert arm[f"{key}_sd"] == pytest.approx(statistics.stdev(values))
        assert arm[f"{key}_n"] == 4
    assert (arm["n"], arm["n_failed"], arm["learning_rate"]) == (4, 0, 5e-4)
    assert arm["trainable_parameters"] == summaries[0]["trainable_parameters"]
    assert math.isnan(arm["probe_peak_allocated_MiB_mean"]) and arm["probe_peak_allocated_MiB_n"] == 0


def test_one_seed_has_no_sd(tmp_path):
    assert make(tmp_path, [synthetic.summary("full", None, 0)]).returncode == 0
    (arm,) = rows(tmp_path / "tables" / "arms.csv")
    assert arm["metric_value_mean"] != "" and arm["metric_value_sd"] == "" and arm["rank"] == ""
    assert "±" not in (tmp_path / "tables" / "arms.md").read_text(encoding="utf-8").split("\n\n")[1]


@pytest.mark.parametrize(("mean", "sd", "expected"), [(9.876, 0.4, "9.9 ± 0.4"), (9.876, 0.0004, "9.88 ± < 0.01")])
def test_a_mean_has_no_more_digits_than_its_sd_supports(mean, sd, expected):
    assert readable.mean_sd({"train_s_mean": mean, "train_s_sd": sd, "train_s_n": 3, "n": 3}, "train_s") == expected


def test_failed_runs_are_counted_never_averaged(tmp_path):
    good = [synthetic.summary("lora", 4, seed) for seed in (0, 1)]
    bad = synthetic.oom("lora", 4, 2) | {"metric_value": 0.1, "train_s": 1.0}
    gone = [synthetic.oom("full", None, seed) for seed in range(3)]
    gone[1]["status"] = "diverged"
    assert make(tmp_path, [*good, bad, *gone]).returncode == 0
    full, lora = rows(tmp_path / "tables" / "arms.csv")
    assert (lora["n"], lora["n_failed"], lora["failures"]) == ("2", "1", "oom 1")
    assert float(lora["metric_value_mean"]) == pytest.approx(statistics.mean(run["metric_value"] for run in good))
    assert float(lora["train_s_mean"]) == pytest.approx(statistics.mean(run["train_s"] for run in good))
    assert (full["n"], full["n_failed"], full["failures"]) == ("0", "3", "oom 2; diverged 1")
    assert full["metric_value_mean"] == full["metric_value_sd"] == ""
    line = next(
        line for line in (tmp_path / "tables" / "arms.md").read_text(encoding="utf-8").splitlines() if "| full" in line
    )
    cells = [cell.strip() for cell in line.split("|")]
    assert cells.count("–") >= 4 and "0" in cells  # n is 0, what was not measured is not


def test_all_runs_failed(tmp_path):
    assert make(tmp_path, [synthetic.oom("full", None, seed) for seed in (0, 1)]).returncode == 0
    (arm,) = rows(tmp_path / "tables" / "arms.csv")
    assert (arm["n"], arm["n_failed"]) == ("0", "2")


def test_a_missing_value_is_told_apart_from_n():
    summaries = [synthetic.summary("lora", 4, seed) for seed in range(3)]
    summaries[1]["samples_per_s"] = None
    arms = tables.arms_frame(tables.runs_frame(summaries))
    expected = (summaries[0]["samples_per_s"] + summaries[2]["samples_per_s"]) / 2
    assert arms["samples_per_s_mean"][0] == pytest.approx(expected)
    assert readable.arms_readable(arms)["Samples/s"][0].endswith("(n = 2)")


def test_memory_says_which_and_devices_stay_apart():
    cpu = readable.arms_readable(tables.arms_frame(tables.runs_frame([synthetic.summary("full", None, 0)])))
    assert "Memory of tensors, MiB" in cpu and not any("Peak" in key or "CUDA" in key for key in cpu)
    mixed = [synthetic.summary("full", None, 0, device="cuda"), synthetic.summary("lora", 4, 0)]
    table = readable.arms_readable(tables.arms_frame(tables.runs_frame(mixed)))
    assert [value == "–" for value in table["Memory of tensors, MiB"]] == [True, False]
    assert [value == "–" for value in table["Peak memory, MiB"]] == [False, True]
    assert "Device" in table


def test_a_table_of_before_the_sum_of_tensors_has_it(tmp_path):
    runs = tables.runs_frame([synthetic.summary("lora", 4, seed) for seed in (0, 1)])
    path = tmp_path / "runs.csv"
    path.write_text(to_csv(runs.drop(columns=tables.TENSORS)), encoding="utf-8")
    read = tables.read_runs(path)
    assert list(read) == list(runs) and read[tables.TENSORS].tolist() == pytest.approx(runs[tables.TENSORS].tolist())


def test_a_key_of_a_later_version_is_kept_and_averaged():
    summaries = [synthetic.summary("lora", 4, seed, carbon_g=100.0 + seed, note="x") for seed in (0, 1)]
    runs = tables.runs_frame(summaries)
    assert list(runs)[-3:] == ["carbon_g", "note", "null_reasons"]
    assert tables.arms_frame(runs)["carbon_g_mean"][0] == 100.5


def test_what_has_no_value_has_a_reason_below_the_table_once():
    few = {"step_p50_ms": "fewer than 3 steps", "samples_per_s": "fewer than 3 steps"}
    summaries = [synthetic.summary("lora", 4, seed, **dict.fromkeys(few), null_reasons=few) for seed in (0, 1)]
    summaries += [synthetic.summary("full", None, 0), synthetic.oom("full", None, 1)]
    runs = tables.runs_frame(summaries)
    for rows in (runs, tables.arms_frame(runs)):
        said = readable.costs_notes(rows, runs)[-1]
        assert said == (
            "Without a value in some runs or all: Step p50, Samples/s (fewer than 3 steps); Energy (no CUDA device: "
            "the run was on the CPU)."
        )
    of_full = tables.arms_frame(runs).iloc[:1]
    assert of_full["arm"].to_list() == ["full"] and "Step p50, Samples" not in " ".join(
        readable.costs_notes(of_full, runs)
    )
    undefined = synthetic.summary("full", None, 0, metric_value=None, null_reasons={"metric_value": "one class"})
    alone = tables.runs_frame([undefined])
    assert "all: Accuracy (one class); Energy" in readable.costs_notes(alone, alone)[-1]
    known = tables.runs_frame([synthetic.summary("lora", 4, 0, device="cuda")])
    assert "Without a value" not in " ".join(readable.costs_notes(known, known))


def test_a_gpu_has_three_memories_both_steps_and_energy():
    run = synthetic.summary("lora", 4, 0, device="cuda")
    (row,) = cells([run]).to_dict("records")
    for header, key in (
        ("Peak memory, MiB", "probe_peak_allocated_MiB"),
        ("Peak CUDA reserved, MiB", "probe_peak_reserved_MiB"),
        ("NVML process, MiB", "probe_process_MiB"),
        ("Step p50, ms", "step_p50_ms"),
        ("Eager probe p50, ms", "probe_step_p50_ms"),
        ("Energy, J/sample", "energy_J_per_sample"),
    ):
        assert row[header] == readable.number(run[key]), header
    assert len({row[header] for header in row if header.endswith("MiB")}) == 4
    (row,) = cells([synthetic.summary("lora", 4, 0)]).to_dict("records")
    assert not [header for header in row if "CUDA" in header or "NVML" in header or "J/" in header or "Eager" in header]


def test_a_short_energy_window_is_marked():
    short = synthetic.summary("lora", 4, 0, device="cuda", energy_window_short=True)
    long = synthetic.summary("full", None, 0, device="cuda")
    assert [text.endswith("*") for text in cells([short, long])["Energy, J/sample"]] == [False, True]
    assert [text.endswith("*") for text in cells([short, long], readable.runs_readable)["Energy, J/sample"]] == [
        False, True,
    ]  # fmt: skip
    assert "*: measured over less than 30 s" in notes([short, long])
    assert "30 s" not in notes([long])


def test_a_fallen_back_engine_is_shown_with_its_reason():
    captured = synthetic.summary("full", None, 0, device="cuda")
    eager = {"device": "cuda", "engine": "eager", "capture_s": None}
    fell = synthetic.summary("lora", 4, 0, **eager, engine_reason="it\nbroke")
    assert list(cells([captured, fell])["Engine"]) == ["captured", "eager"]
    assert list(cells([fell])["Engine"]) == ["eager"]
    assert "Eager instead of captured: LoRA r4 (it broke)." in notes([captured, fell])
    assert "Engine" not in cells([captured]) and "captured in CUDA graphs" in notes([captured])
    assert "captured" not in notes([synthetic.summary("lora", 4, 0, **eager)])


def test_failures_are_told_in_words():
    summaries = [
        synthetic.summary("full", None, 0),
        synthetic.oom("full", None, 1, "load"),
        synthetic.diverged("lora", 4, 0, step=1234),
        synthetic.oom("lora", 4, 1, oom_bytes=None),
    ]
    assert list(cells(summaries, readable.runs_readable)["Status"]) == [
        "completed", "out of memory in load, 12.0 GiB asked for", "diverged at step 1,234", "out of memory in probe",
    ]  # fmt: skip
    assert list(cells(summaries)["Failed"]) == ["1 out of memory", "1 diverged; 1 out of memory"]


@pytest.mark.parametrize(
    ("values", "rows", "shown"),
    [
        ([0.8891, 0.8934, 0.8912], 872, "89.1 ± 0.2"),
        ([0.8891, 0.8892, 0.8890], 872, "88.9 ± < 0.1"),  # the spread is not 0
        ([0.81, 0.93, 0.88], 872, "87.3 ± 6.0"),
        ([0.8891], 10**6, "88.9"),
        ([1.0, 1.0, 1.0], 100, "100.0 ± 0.0"),
    ],
)
def test_a_mean_accuracy_has_one_decimal_everywhere(values, rows, shown):
    runs = [
        synthetic.summary("lora", 4, seed, accuracy=value, metric_value=value, test_rows=rows)
        for seed, value in enumerate(values)
    ]
    assert list(cells(runs)["Accuracy, %"]) == [shown]
    assert cells(runs, readable.runs_readable)["Accuracy, %"].iloc[0] == f"{100 * values[0]:.2f}"


@pytest.mark.parametrize(
    ("values", "places"),
    [
        ([1738.2, 575.0], 0), ([97.5, 98.0], 1), ([255.4, 2.54], 1), ([100.0, 0.993, 1.1], 2), ([0.294, 1.5], 2),
        ([1000.0, 0.0004], 2), ([math.nan, 0.0], 0), ([], 0),
    ],
)  # fmt: skip
def test_decimals_of_a_column(values, places):
    """Three digits of the largest, two of the smallest, which adds no more than two decimals."""
    assert readable.column_places(values) == places


def test_all_cells_of_a_column_have_as_many_decimals():
    arms = (("full", None), ("lora", 4), ("lora", 16))
    changes = {"full": 97.52, "lora-r4": 98.04, "lora-r16": 102.0}
    runs = [synthetic.summary(*arm, seed, device="cuda") for arm in arms for seed in range(3)]
    runs = [run | {"train_s": changes[run["arm"]] + run["seed"] / 100} for run in runs]
    for of in (readable.arms_readable, readable.runs_readable):
        shown = cells(runs, of)["Training time, s"]
        assert len({len(text.split(" ")[0].partition(".")[2]) for text in shown}) == 1, list(shown)


def test_what_is_not_compared_has_no_spread_in_tables():
    """On a CPU the time of one job that trained every seed of an arm. Sizes of tensors are the same every time."""
    runs = [synthetic.summary("lora", 4, seed) for seed in range(3)]
    shared = [run | ({"startup_s": None} if run["seed"] else {}) for run in runs]
    for given, time in ((runs, True), (shared, False)):
        (row,) = cells(given).to_dict("records")
        assert "±" not in row["Memory of tensors, MiB"] and ("±" in row["Training time, s"]) == time
    assert "has no ±" not in notes(runs)
    assert "on a CPU that others may use" in notes(shared)


def test_the_heldout_split_has_a_column_only_where_there_is_one():
    without = [synthetic.summary("lora", 4, seed) for seed in range(3)]
    assert not [
        header
        for of in (readable.arms_readable, readable.runs_readable)
        for header in cells(without, of)
        if "heldout" in header
    ]
    assert "eldout" not in notes(without)
    runs = [
        synthetic.summary("lora", 4, seed, heldout_rows=6735, heldout_metric_value=0.88 + 0.001 * seed)
        for seed in range(3)
    ]
    failed = synthetic.oom("full", None, 0, heldout_rows=6735)
    assert list(cells([*runs, failed])["Accuracy (heldout), %"]) == ["–", "88.1 ± 0.1"]
    assert list(cells(runs, readable.runs_readable)["Accuracy (heldout), %"]) == ["88.00", "88.10", "88.20"]
    assert "Heldout: 6,735 examples kept out of training, evaluated once per run." in notes(runs)
    arm = tables.arms_frame(tables.runs_frame(runs)).iloc[0]
    assert arm["heldout_metric_value_mean"] == pytest.approx(0.881) and arm["heldout_rows"] == 6735
    assert arm["metric_value_mean"] != arm["heldout_metric_value_mean"]


def test_random_weights_are_marked_everywhere(tmp_path):
    summaries = [synthetic.randomly("lora", rank, 0, model="llama") for rank in (4, 8)]
    assert (
        make(tmp_path, [*summaries, synthetic.summary("lora", 4, 0), synthetic.summary("lora", 8, 0)]).returncode == 0
    )
    for name in ("runs", "arms", "memory", "cost"):
        for kind in ("md", "tex"):
            text = (tmp_path / "tables" / f"{name}.{kind}").read_text(encoding="utf-8")
            heads = [line for line in text.splitlines() if line.startswith(("## ", r"\caption{"))]
            marked = [line for line in heads if "random weights: speed and memory only" in line]
            assert len(marked) == 1 and len(heads) == 2 and "llama" in marked[0], (name, kind)
        assert {(row["model"], row["pretrained"]) for row in rows(tmp_path / "tables" / f"{name}.csv")} == {
            ("llama", "False"), ("distilbert", "True"),
        }  # fmt: skip
    assert not [header for header in cells(summaries) if "Accuracy" in header]


def test_memory_has_each_part_beside_what_was_measured(tmp_path):
    runs = [synthetic.summary("lora", 4, seed, device="cuda") for seed in (0, 1)]
    assert make(tmp_path, [*runs, synthetic.oom("full", None, 0, device="cuda"), synthetic.oom("full", None, 1)])
    full, lora = rows(tmp_path / "tables" / "memory.csv")
    assert float(lora["activations_MiB_mean"]) == pytest.approx(statistics.mean(run["activations_MiB"] for run in runs))
    assert full["activations_MiB_mean"] == full["weights_measured_MiB_mean"] == "" and full["n_failed"] == "2"
    (row,) = cells(runs[:1], readable.memory_readable).to_dict("records")
    for part in ("weights", "gradients", "optimizer", "activations"):
        assert row[f"{part.capitalize()}, MiB"] == readable.number(runs[0][f"{part}_MiB"])
        assert row[f"{part.capitalize()} measured, MiB"] == readable.number(runs[0][f"{part}_measured_MiB"])
    total = sum(runs[0][key] for key in tables.SPLIT)
    assert row["Sum, MiB"] == readable.number(total)
    (row,) = cells([synthetic.summary("lora", 4, 0)], readable.memory_readable).to_dict("records")
    assert not [header for header in row if "measured" in header] and "Peak RSS, MiB" in row


def test_cost_is_the_sum_over_all_runs_and_attempts(tmp_path):
    done = [synthetic.summary("lora", 4, seed, device="cuda", wall_s=1800.0, queue_s=360.0) for seed in (0, 1)]
    done[1]["attempts"] = 3
    failed = synthetic.oom("lora", 4, 2, device="cuda", wall_s=36.0, queue_s=0.0)
    whole = [synthetic.summary("full", None, seed, device="cuda") for seed in (0, 1, 2)]
    assert make(tmp_path, [*done, failed, *whole]).returncode == 0
    full, lora = rows(tmp_path / "tables" / "cost.csv")
    assert (lora["n_runs"], lora["attempts"]) == ("3", "5")
    assert float(lora["hours"]) == pytest.approx((2 * 1800 + 36) / 3600)
    assert float(lora["training_hours"]) == pytest.approx(sum(run["train_s"] for run in done) / 3600)
    assert float(lora["queue_hours"]) == pytest.approx(0.2) and full["queue_hours"] == ""
    assert float(lora["energy_Wh"]) == pytest.approx(sum(run["energy_J"] for run in done) / 3600)
    text = (tmp_path / "tables" / "cost.md").read_text(encoding="utf-8")
    assert "GPU hours" in text and "| All " in text and "Queue hours" in text
    (*_, total) = readable.cost_readable(readable.cost_frame(tables.runs_frame(done))).to_dict("records")
    assert (total["Arm"], total["Runs"], total["GPU hours"]) == ("All", "2", "1.00")


@pytest.mark.parametrize("seconds", [0.0, 31.5])
def test_a_run_that_stood_still_is_told_of(seconds):
    summaries = [synthetic.summary("lora", 4, seed) for seed in (0, 1)]
    summaries[1]["stood_still_s"] = seconds
    runs = tables.runs_frame(summaries)
    for rows in (runs, tables.arms_frame(runs)):
        assert any("stood_still_s" in note for note in readable.costs_notes(rows)) == (seconds > 0)


def test_each_gpu_of_a_run_counts_in_gpu_hours(tmp_path):
    """Two runs of 1,800 s on four GPUs each, beside two on one; energy is that of all four already."""
    wide = {"gpus": 4, "parallel": "data", "device": "cuda", "wall_s": 1800.0}
    done = [synthetic.summary("full", None, seed, **wide) for seed in (0, 1)]
    done += [synthetic.summary("lora", 4, seed, device="cuda", wall_s=1800.0) for seed in (0, 1)]
    full, lora = readable.cost_frame(tables.runs_frame(done)).to_dict("records")
    assert (full["gpus"], full["hours"], full["wall_hours"]) == ("4", pytest.approx(4.0), pytest.approx(1.0))
    assert full["training_hours"] == pytest.approx(4 * 2 * done[0]["train_s"] / 3600)
    assert full["energy_Wh"] == pytest.approx(2 * done[0]["energy_J"] / 3600)
    assert lora["hours"] == lora["wall_hours"] == pytest.approx(1.0)
    first, second, total = readable.cost_readable(readable.cost_frame(tables.runs_frame(done))).to_dict("records")
    assert [row["GPUs"] for row in (first, second, total)] == ["4", "1", readable.NULL]
    assert (first["GPU hours"], first["Wall hours"], total["GPU hours"]) == ("4.00", "1.00", "5.00")
    alone = readable.cost_readable(readable.cost_frame(tables.runs_frame(done[2:])))
    assert not {"GPUs", "Wall hours"} & set(alone)
    processes = [synthetic.summary("full", None, 0, gpus=2, parallel="data", wall_s=1800.0)]  # of a CPU
    assert readable.cost_frame(tables.runs_frame(processes))["hours"].item() == pytest.approx(0.5)


def test_a_table_of_before_runs_had_several_gpus_has_one_each(tmp_path):
    done = [synthetic.summary("lora", 4, 0, device="cuda"), synthetic.summary("full", None, 0)]
    frame = tables.runs_frame(done)
    frame.drop(columns=["gpus", "parallel", "train_gpu_s"]).to_csv(tmp_path / "runs.csv", index=False)
    found = tables.read_runs(tmp_path / "runs.csv").set_index("arm")
    assert found["gpus"].eq(1).all() and found["parallel"].isna().all()
    assert found.loc["lora-r4", "train_gpu_s"] == done[0]["train_s"] and math.isnan(found.loc["full", "train_gpu_s"])


@pytest.mark.parametrize(("key", "column"), [("energy_J", "energy_Wh"), ("queue_s", "queue_hours")])
def test_cost_gives_no_part_of_a_sum_as_the_whole(key, column):
    known, unknown = (synthetic.summary("lora", 4, seed, device="cuda", queue_s=60.0) for seed in (0, 1))
    assert readable.cost_frame(tables.runs_frame([known, unknown]))[column].notna().all()
    unknown[key] = None
    assert readable.cost_frame(tables.runs_frame([known, unknown]))[column].isna().all()


def test_cost_of_a_machine_without_a_gpu():
    frame = readable.cost_frame(tables.runs_frame([synthetic.summary("lora", 4, 0)]))
    (row, _) = readable.cost_readable(frame).to_dict("records")
    assert "Machine hours" in row and "Queue hours" not in row and "Energy, Wh" not in row


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex")
def test_latex_fits_its_page(tmp_path):
    summaries = []
    for method, rank in ARMS:
        for seed in (0, 1):
            summaries.append(synthetic.summary(method, rank, seed, device="cuda"))
    summaries[0] = synthetic.diverged(*ARMS[0], 0, device="cuda")
    summaries[1] = synthetic.oom(*ARMS[0], 1, device="cuda")
    summaries[2] |= {"engine": "eager", "engine_reason": "it broke", "device_name": "NVIDIA H200", "dtype": "bfloat16"}
    assert make(tmp_path, summaries).returncode == 0
    page = r"\usepackage[paperwidth=21cm,paperheight=29.7cm,textwidth=16cm,textheight=24cm]{geometry}"
    for name in ("runs", "arms", "memory", "cost"):
        body = rf"\usepackage{{booktabs,longtable,pdflscape}}\begin{{document}}\input{{{name}.tex}}\end{{document}}"
        (tmp_path / "tables" / "page.tex").write_text(rf"\documentclass{{article}}{page}{body}", encoding="utf-8")
        for _ in range(2):  # longtable settles its widths in the second
            command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
            done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path / "tables")
        assert done.returncode == 0, done.stdout
        assert "Overfull" not in done.stdout, name


def test_a_section_a_pair_and_escapes():
    runs = tables.runs_frame(
        [synthetic.summary("full", None, 0), synthetic.summary("a|b_$%", None, 0, dataset="other_set", arm="a")]
    )
    arms = tables.arms_frame(runs)
    text = readable.markdown(arms, readable.arms_readable, readable.costs_notes)
    assert text.count("\n## ") + text.startswith("## ") == 2
    assert r"a\|b_$%" in text
    table = [line for line in text.split("## other_set")[1].splitlines() if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in table}) == 1
    latex = readable.latex(arms, readable.arms_readable, readable.costs_notes)
    assert r"a\textbar{}b\_\$\%" in latex and r"other\_set" in latex
    assert latex.count(r"\begin{longtable}") == latex.count(r"\end{longtable}") == 2
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")
    assert latex.isascii()


@pytest.mark.parametrize("char", list(r"&%$#_{}~^\<>|"))
def test_latex_specials_are_escaped(char):
    assert readable.escape_latex(char).startswith("\\")


def test_runs_csv_comes_back_as_written(tmp_path):
    summaries = [synthetic.summary(method, rank, 0, dataset="1", model="NA") for method, rank in ARMS]
    runs = tables.runs_frame(summaries)
    runs.to_csv(tmp_path / "runs.csv", index=False)
    again = tables.read_runs(tmp_path / "runs.csv")
    assert list(again["model"].unique()) == ["NA"] and list(again["dataset"].unique()) == ["1"]
    assert tables.arms_frame(again).to_csv() == tables.arms_frame(runs).to_csv()


def test_columns_agree_with_the_schema():
    columns = set(tables.COLUMNS) - {"differs", tables.TENSORS}  # of the contract, and of other columns
    assert columns == set(SCHEMA["properties"]) == set(SCHEMA["required"])
    kinds = {key: SCHEMA["properties"][key].get("type") for key in columns}
    texts = {key for key, kind in tables.KINDS.items() if kind is object}
    assert {key for key in columns if "string" in kinds[key]} == texts - {"differs", "null_reasons"}
    assert {key for key in columns if "integer" in kinds[key] and "null" in kinds[key]} == tables.KINDS.keys() - texts


RUNS = {
    "cpu": synthetic.summary("lora", 4, 0),
    "cuda": synthetic.summary("lora", 4, 0, device="cuda"),
    "random": synthetic.randomly("lora", 4, 0, device="cuda"),
    "diverged": synthetic.diverged("lora", 4, 0, device="cuda"),
} | {f"oom-{phase}": synthetic.oom("lora", 4, 0, phase, device="cuda") for phase in PHASES}


@pytest.mark.parametrize("name", RUNS)
def test_synthetic_runs_are_what_the_schema_says(name):
    run = RUNS[name]
    jsonschema.validate(run, SCHEMA)
    assert {key for key, value in run.items() if value is None} - set(synthetic.NOTHING) == set(run["null_reasons"])


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("cpu", {"train_s": None}),
        ("cpu", {"failed_phase": "train"}),
        ("cpu", {"probe_peak_allocated_MiB": 1.0}),
        ("cpu", {"engine": "captured"}),
        ("cuda", {"probe_peak_allocated_MiB": None}),
        ("cuda", {"capture_s": None}),
        ("cuda", {"test_loss": None}),
        ("random", {"metric_value": 0.5}),
        ("diverged", {"diverged_step": None}),
        ("oom-probe", {"failed_phase": None}),
        ("oom-probe", {"diverged_step": 3}),
        ("cuda", {"status": "crashed"}),
    ],
)
def test_the_schema_refuses_a_summary_that_contradicts_itself(name, changes):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(RUNS[name] | changes, SCHEMA)


def test_bad_input_is_named(tmp_path):
    run = synthetic.summary("full", None, 0)
    with pytest.raises(InputError, match="given twice"):
        tables.runs_frame([run, run])
    with pytest.raises(InputError, match="different metrics"):
        tables.runs_frame([run, synthetic.summary("full", None, 1, metric="f1")])
    with pytest.raises(InputError, match="no such summary"):
        tables.read_summaries([tmp_path / "summary.json"])
    broken = tmp_path / "summary.json"
    for text, message in (("{", "not JSON"), ("[]", "not a run's summary"), ('{"status": "completed"}', "no weights")):
        broken.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            tables.read_summaries([broken])


def test_each_summary_is_read_once(tmp_path, monkeypatch):
    listing = synthetic.write(tmp_path, [synthetic.summary("lora", 4, seed) for seed in range(5)])
    paths = [Path(line) for line in listing.read_text(encoding="utf-8").splitlines()]
    tables.read_summaries(paths[:1])  # the schema, once a process
    read = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or original(path))
    tables.runs_frame(tables.read_summaries(paths))
    assert [path for path in read if path.is_relative_to(tmp_path)] == paths


def test_help_needs_no_heavy_import():
    for script in ("make_tables.py", "make_figures.py", "make_report.py", "recommend.py", "attribute_changes.py"):
        program = (
            "import runpy, sys\n"
            f"sys.argv = [{script!r}, '--help']\n"
            "try:\n"
            f"    runpy.run_path({str(ROOT / 'workflow_scripts' / script)!r}, run_name='__main__')\n"
            "except SystemExit as stop:\n"
            "    heavy = {'pandas', 'matplotlib', 'seaborn', 'torch'} & set(sys.modules)\n"
            "    sys.exit(str(heavy) if heavy else stop.code)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT / "workflow_scripts"
        )
        assert done.returncode == 0, done.stderr
        assert ("--output HTML" if script == "make_report.py" else "--output-dir") in done.stdout
