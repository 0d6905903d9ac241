"""Tables: values, order, failures, escapes."""

import csv
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import synthetic
from peft_tradeoffs import tables
from peft_tradeoffs.errors import InputError

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "workflow_scripts" / "make_tables.py"
ARMS = synthetic.grid(["lora", "qlora", "full"], [16, 4])


def make(folder: Path, summaries: list[dict]) -> subprocess.CompletedProcess:
    """Write the runs and run make_tables.py over them."""
    synthetic.write(folder, summaries)
    axes = ("dataset", "model", "arm", "seed")
    grid = {axis: list(dict.fromkeys(run[axis] for run in summaries)) for axis in axes}
    options = ["--runs-dir", folder / "runs", "--grid", json.dumps(grid), "--output-dir", folder / "tables"]
    return subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_files_hold_every_run_and_arm_in_order(tmp_path):
    summaries = [synthetic.summary(method, rank, seed) for method, rank in ARMS for seed in (1, 0)]
    assert make(tmp_path, summaries).returncode == 0
    folder = tmp_path / "tables"
    assert {path.name for path in folder.iterdir()} == {
        f"{table}.{kind}" for table in ("runs", "arms") for kind in ("csv", "md", "tex")
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
        for key in set(tables.COLUMNS) - {"null_reasons"}:
            value = expected[key]
            number = isinstance(value, float)
            assert (float(row[key]) if number else row[key]) == (
                value if number else "" if value is None else str(value)
            )


def test_arms_have_mean_and_sample_sd(tmp_path):
    summaries = [synthetic.summary("lora", 8, seed) for seed in range(4)]
    arm = tables.arms_frame(tables.runs_frame(summaries)).iloc[0]
    for key in ("metric_value", "peak_rss_MiB", "train_s"):
        values = [run[key] for run in summaries]
        assert arm[f"{key}_mean"] == pytest.approx(statistics.mean(values))
        assert arm[f"{key}_sd"] == pytest.approx(statistics.stdev(values))
        assert arm[f"{key}_n"] == 4
    assert (arm["n"], arm["n_failed"], arm["learning_rate"]) == (4, 0, 5e-4)
    assert arm["trainable_parameters"] == summaries[0]["trainable_parameters"]
    assert math.isnan(arm["gpu_peak_allocated_MiB_mean"]) and arm["gpu_peak_allocated_MiB_n"] == 0


def test_one_seed_has_no_sd(tmp_path):
    assert make(tmp_path, [synthetic.summary("full", None, 0)]).returncode == 0
    (arm,) = rows(tmp_path / "tables" / "arms.csv")
    assert arm["metric_value_mean"] != "" and arm["metric_value_sd"] == "" and arm["rank"] == ""
    assert "±" not in (tmp_path / "tables" / "arms.md").read_text(encoding="utf-8").split("\n\n")[1]


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
    assert tables.arms_readable(arms)["Samples/s"][0].endswith("(n = 2)")


def test_memory_says_which_and_devices_stay_apart():
    cpu = tables.arms_readable(tables.arms_frame(tables.runs_frame([synthetic.summary("full", None, 0)])))
    assert "Peak RSS, MiB" in cpu and not any("CUDA" in key for key in cpu)
    mixed = [synthetic.summary("full", None, 0, device="cuda"), synthetic.summary("lora", 4, 0)]
    table = tables.arms_readable(tables.arms_frame(tables.runs_frame(mixed)))
    assert [value == "–" for value in table["Peak RSS, MiB"]] == [True, False]
    assert [value == "–" for value in table["Peak CUDA allocated, MiB"]] == [False, True]
    assert "Device" in table


def test_no_mean_of_time_over_different_devices():
    summaries = [synthetic.summary("lora", 4, 0), synthetic.summary("lora", 4, 1, device_name="another CPU")]
    arm = tables.arms_frame(tables.runs_frame(summaries)).iloc[0]
    assert math.isnan(arm["train_s_mean"]) and math.isnan(arm["peak_rss_MiB_mean"])
    assert arm["train_s_n"] == 0
    assert arm["metric_value_mean"] == pytest.approx(statistics.mean(run["metric_value"] for run in summaries))
    assert arm["device_name"] == "Example CPU, 2 cores; another CPU"


def test_settings_that_differ_are_all_shown():
    summaries = [synthetic.summary("lora", 4, 0), synthetic.summary("lora", 4, 1, learning_rate=1e-3)]
    arm = tables.arms_frame(tables.runs_frame(summaries)).iloc[0]
    assert arm["learning_rate"] == "0.0005; 0.001"


def test_a_key_of_a_later_version_is_kept_and_averaged():
    summaries = [synthetic.summary("lora", 4, seed, energy_J=100.0 + seed, note="x") for seed in (0, 1)]
    runs = tables.runs_frame(summaries)
    assert list(runs)[-3:] == ["energy_J", "note", "null_reasons"]
    assert tables.arms_frame(runs)["energy_J_mean"][0] == 100.5


def test_a_section_a_pair_and_escapes():
    runs = tables.runs_frame(
        [synthetic.summary("full", None, 0), synthetic.summary("a|b_$%", None, 0, dataset="other_set", arm="a")]
    )
    arms = tables.arms_frame(runs)
    text = tables.markdown(arms, tables.arms_readable)
    assert text.count("\n## ") + text.startswith("## ") == 2
    assert r"a\|b_$%" in text
    table = [line for line in text.split("## other_set")[1].splitlines() if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in table}) == 1
    latex = tables.latex(arms, tables.arms_readable)
    assert r"a\textbar{}b\_\$\%" in latex and r"other\_set" in latex
    assert latex.count(r"\begin{longtable}") == latex.count(r"\end{longtable}") == 2
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")
    assert latex.isascii()


@pytest.mark.parametrize("char", list(r"&%$#_{}~^\<>|"))
def test_latex_specials_are_escaped(char):
    assert tables.escape_latex(char).startswith("\\")


def test_runs_csv_comes_back_as_written(tmp_path):
    summaries = [synthetic.summary(method, rank, 0, dataset="1", model="NA") for method, rank in ARMS]
    runs = tables.runs_frame(summaries)
    runs.to_csv(tmp_path / "runs.csv", index=False)
    again = tables.read_runs(tmp_path / "runs.csv")
    assert list(again["model"].unique()) == ["NA"] and list(again["dataset"].unique()) == ["1"]
    assert tables.arms_frame(again).to_csv() == tables.arms_frame(runs).to_csv()


def test_columns_agree_with_the_schema():
    schema = json.loads((ROOT / "schemas" / "summary.schema.json").read_text(encoding="utf-8"))
    assert set(tables.COLUMNS) == set(schema["properties"])


def test_bad_input_is_named(tmp_path):
    run = synthetic.summary("full", None, 0)
    with pytest.raises(InputError, match="given twice"):
        tables.runs_frame([run, run])
    with pytest.raises(InputError, match="different metrics"):
        tables.runs_frame([run, synthetic.summary("full", None, 1, metric="f1")])
    with pytest.raises(InputError, match="no such summary"):
        tables.read_summaries([tmp_path / "summary.json"])
    broken = tmp_path / "summary.json"
    for text, message in (("{", "not JSON"), ("[]", "not a run's summary"), ('{"status": "completed"}', "no dataset")):
        broken.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=message):
            tables.read_summaries([broken])


def test_each_summary_is_read_once(tmp_path, monkeypatch):
    listing = synthetic.write(tmp_path, [synthetic.summary("lora", 4, seed) for seed in range(5)])
    paths = [Path(line) for line in listing.read_text(encoding="utf-8").splitlines()]
    read = []
    original = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or original(path))
    tables.runs_frame(tables.read_summaries(paths))
    assert read == paths


def test_help_needs_no_heavy_import():
    for script in ("make_tables.py", "make_figures.py"):
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
        assert "--output-dir" in done.stdout
