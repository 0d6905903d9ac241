"""The reference gate: a sweep against a stored one, what moved by more than noise and which setting differs."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import forks
import numpy as np
import pandas as pd
import pytest
import synthetic
import synthetic_predictions
import tiny
from peft_tradeoffs.analysis import reference
from peft_tradeoffs.analysis.gate import ALPHA, report
from peft_tradeoffs.analysis.gate import check as judge
from peft_tradeoffs.analysis.tables import runs_frame
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.config.preflight import check_reference
from peft_tradeoffs.core.errors import InputError
from scipy import stats

MARGIN, SWEEPS = 0.01, 25
ARMS = (("full", None), ("lora", 8))
GPU = {"driver_version": "580.1", "power_limit_W": 700.0, "uuid": "GPU-0", "sm_clock_MHz": 345}
PEAK = "probe_peak_allocated_MiB"
H100 = {"device": "cuda", "device_name": "NVIDIA H100 80GB HBM3"}


def check(stored: reference.Sweep, now: reference.Sweep, margin: float = MARGIN) -> pd.DataFrame:
    return judge(stored, now, margin)


def runs(seeds: int = 3, arms=ARMS, **changes: Any) -> list[dict[str, Any]]:
    """The summaries of a sweep, one process per arm."""
    own = {"startup_s": None} | changes
    return [synthetic.summary(*arm, seed, **H100 | (own if seed else changes)) for arm in arms for seed in range(seeds)]


def sweep(folder: Path, summaries: list[dict], noise: pd.DataFrame | None = None, **changes: Any) -> reference.Sweep:
    """The sweep of these summaries; `changes` are to each env.json."""
    synthetic.write(folder, summaries)
    for run in summaries:
        place = folder / "runs" / run["dataset"] / run["model"] / run["arm"] / f"seed{run['seed']}"
        env = {
            "device_name": run["device_name"],
            "host": folder.name,
            "fingerprint": run["fingerprint"],
            "gpu": GPU,
            "versions": {"torch": "2.11", "peft": "0.21"},
            "settings": {"arm": run["arm"], "learning_rate": run["learning_rate"], "peft": {"r": run["rank"]}},
        }
        (place / "env.json").write_text(json.dumps(env | changes))
        (place / "adapter").mkdir(exist_ok=True)
        (place / "adapter/adapter_model.safetensors").write_bytes(repr(run["metric_value"]).encode())
        synthetic.seal(place)
    path = None
    if noise is not None:
        path = folder / "noise.csv"
        noise.to_csv(path, index=False)
    return reference.of_runs(runs_frame(summaries), folder / "runs", path)


def noise(cv: float, repeats: int = 9) -> pd.DataFrame:
    """A noise floor of time and energy; the allocator's peak is the same in every repeat."""
    one = {"dataset": "sst2", "model": "distilbert", "arm": "full", "device_name": H100["device_name"], "n": repeats}
    sds = dict.fromkeys(("train_s", "energy_J_per_sample", "step_p50_ms"), 10.0 * cv) | {PEAK: 0.0}
    return pd.DataFrame([one | {"quantity": key, "mean": 10.0, "sd": sd} for key, sd in sds.items()])


@pytest.fixture
def stored(tmp_path: Path) -> reference.Sweep:
    """A reference that was written and read again, its noise 1 % over nine repeats."""
    reference.store(sweep(tmp_path / "before", runs(), noise(0.01)), tmp_path / "stored")
    return reference.read(tmp_path / "stored")


def verdicts(rows: pd.DataFrame, *but: str) -> dict[tuple[str, str], str]:
    """By arm and quantity, without those verdicts."""
    return {
        (row["arm"], row["quantity"]): row["verdict"] for row in rows.to_dict("records") if row["verdict"] not in but
    }


def test_a_sweep_against_itself_passes_and_says_that_nothing_differs(tmp_path, stored):
    now = sweep(tmp_path / "now", runs(), noise(0.01))
    rows = check(stored, now)
    assert set(rows["verdict"]) == {"within"} and (rows["change"] == 0).all()
    assert set(rows["quantity"]) == {
        *("metric_value", "probe_peak_allocated_MiB", "probe_peak_reserved_MiB", "probe_process_MiB", "weights_MiB"),
        *("step_p50_ms", "train_s", "energy_J_per_sample"),
    }
    text, good = report(rows, stored, now)
    assert good and text.splitlines()[-1] == f"Reference check: passed ({len(rows)} within)"
    assert "Nothing that is recorded: settings, data, model, code, versions, machine and driver" in text
    assert "Weights: bit-identical in 6 of the 6 runs that both completed." in text


LEVEL = 1 - ALPHA / 4 / 14  # 2 arms, 7 costs


def test_the_tolerance_of_a_cost_is_half_a_prediction_interval_by_the_references_own_noise(tmp_path, stored):
    rows = check(stored, sweep(tmp_path / "now", runs(), noise(0.03, repeats=5)))
    found = rows.set_index(["arm", "quantity"]).loc[("lora-r8", "train_s")]
    # A process trained all seeds, so one is what is drawn twice.
    assert found["tolerance"] == pytest.approx(stats.t.ppf(LEVEL, 8) * 0.01 * np.sqrt(2))
    assert (found["df"], found["source"]) == (8, "repeats")


def test_a_floor_that_was_measured_today_alone_stands_in(tmp_path):
    before = sweep(tmp_path / "before", runs())
    found = check(before, sweep(tmp_path / "now", runs(), noise(0.005, repeats=5))).set_index(["arm", "quantity"])
    assert found["tolerance"]["full", "train_s"] == pytest.approx(stats.t.ppf(LEVEL, 4) * 0.005 * np.sqrt(2))


def test_seeds_of_their_own_processes_count_each(tmp_path, stored):
    alone = sweep(tmp_path / "now", runs(startup_s=9.0), noise(0.01))
    found = check(stored, alone).set_index(["arm", "quantity"])["tolerance"]["full", "train_s"]
    assert found == pytest.approx(stats.t.ppf(LEVEL, 8) * 0.01 * np.sqrt(1 + 1 / 3))


@pytest.mark.parametrize(
    ("key", "factor", "said"),
    [
        ("train_s", 1.3, "| LoRA r8 | Training time, s"),
        ("train_s", 0.7, "| LoRA r8 | Training time, s"),
        (PEAK, 1.006, "| LoRA r8 | Peak memory, MiB"),
        ("weights_MiB", 1.006, "| LoRA r8 | Weights, MiB"),
        ("energy_J_per_sample", 1.2, "| LoRA r8 | Energy, J/sample"),
    ],
)
def test_a_cost_that_moved_is_named(tmp_path, stored, key, factor, said):
    changed = [run | ({key: run[key] * factor} if run["method"] == "lora" else {}) for run in runs()]
    now = sweep(tmp_path / "now", changed, noise(0.01))
    rows = check(stored, now)
    assert verdicts(rows, "within") == {("lora-r8", key): "moved"}
    text, good = report(rows, stored, now)
    assert not good and "Reference check: failed (1 moved, 15 within)" in text
    first = next(line for line in text.splitlines() if re.match(r"\| \w+ .*\d", line))
    assert first.startswith(said) and f"{100 * (factor - 1):+.1f}" in first and first.endswith("| moved     |")


def test_what_noise_explains_is_within(tmp_path, stored):
    slower = [run | {"train_s": run["train_s"] * 1.02} for run in runs()]
    slower = [run | {"weights_MiB": run["weights_MiB"] * 1.004} for run in slower]
    rows = check(stored, sweep(tmp_path / "now", slower, noise(0.01)))
    assert set(rows["verdict"]) == {"within"}
    tight = sweep(tmp_path / "tight", slower, noise(0.001))
    still = reference.Sweep(stored.runs, noise(0.001), stored.facts, stored.checksums)
    assert verdicts(check(still, tight), "within") == {(arm, "train_s"): "moved" for arm in ("full", "lora-r8")}


def test_a_metric_that_moved_on_the_same_seeds_is_named(tmp_path, stored):
    worse = [run | {"metric_value": run["metric_value"] - 0.02 - 1e-4 * run["seed"]} for run in runs()]
    now = sweep(tmp_path / "now", worse)
    rows = check(stored, now)
    assert verdicts(rows, "within") == {(arm, "metric_value"): "moved" for arm in ("full", "lora-r8")}
    text, _ = report(rows, stored, now)
    assert "-2.01 points" in text
    assert "Weights: bit-identical in 0 of the 6 runs that both completed; not in sst2/distilbert/full/seed0" in text


def test_a_metric_that_goes_up_and_down_did_not_move(tmp_path, stored):
    shaken = [run | {"metric_value": run["metric_value"] + (-0.01, 0.012, 0.001)[run["seed"]]} for run in runs()]
    assert set(check(stored, sweep(tmp_path / "now", shaken))["verdict"]) == {"within"}


def test_less_than_two_test_examples_are_no_move_however_alike_the_seeds_are(tmp_path):
    alike = [run | {"metric_value": 0.9} for run in runs()]
    before = sweep(tmp_path / "before", alike)
    for name, sentences, verdict in (("one", 1.9, "within"), ("two", 2.1, "moved")):
        fewer = [run | {"metric_value": 0.9 - sentences / 872} for run in alike]
        rows = check(before, sweep(tmp_path / name, fewer))
        assert set(rows[rows["quantity"] == "metric_value"]["verdict"]) == {verdict}


def test_a_change_cannot_explain_itself_by_its_own_spread(tmp_path):
    """Accuracy down by 30, 40, 35 points and two and a half times the time, unevenly: 3 seeds, no noise floor."""
    before = sweep(tmp_path / "before", runs())
    drop, slow = (0.3, 0.4, 0.35), (2.0, 3.0, 2.5)
    ruined = [
        run | {"metric_value": run["metric_value"] - drop[seed], "train_s": run["train_s"] * slow[seed]}
        for run in runs()
        for seed in [run["seed"]]
    ]
    now = sweep(tmp_path / "now", ruined)
    rows = check(before, now)
    bad = verdicts(rows, "within")
    assert {key: bad[key] for key in bad if key[1] == "metric_value"} == {
        (arm, "metric_value"): "moved" for arm in ("full", "lora-r8")
    }
    assert {(arm, "train_s") for arm in ("full", "lora-r8")} <= set(bad)
    text, good = report(rows, before, now)
    assert not good and "What the gate sees in every arm is a change of Accuracy beyond 0.97 points; " in text


def test_what_is_larger_than_may_pass_is_undecided_where_noise_explains_it(tmp_path):
    loud = noise(0.2, repeats=3)
    before = sweep(tmp_path / "before", runs(), loud)
    for name, factor, verdict in (("small", 1.09, "within"), ("large", 1.11, "undecided"), ("huge", 9.0, "moved")):
        now = sweep(tmp_path / name, [run | {"train_s": run["train_s"] * factor} for run in runs()], loud)
        rows = check(before, now)
        assert set(rows[rows["quantity"] == "train_s"]["verdict"]) == {verdict}
    text, good = report(check(before, now), before, now)
    assert not good and "whose noise explains more than may pass" in text


def test_an_arm_that_spreads_more_than_the_others_has_a_tolerance_of_its_own(tmp_path):
    arms = (("full", None), *(("lora", rank) for rank in (2, 4, 8, 16, 32)))
    wide = [
        run | {"metric_value": (0.5, 0.7, 0.86, 0.84)[run["seed"]]} if run["rank"] == 32 else run
        for run in runs(4, arms=arms)
    ]
    before = sweep(tmp_path / "before", wide)
    found = check(before, before, margin=1.0).set_index(["arm", "quantity"]).xs("metric_value", level="quantity")
    assert dict(found["df"]) == {**{arm: 15 for arm in found.index}, "lora-r32": 3}
    assert found["tolerance"]["full"] < 0.05 < found["tolerance"]["lora-r32"]


def drawn(random: np.random.Generator, arms: int, seeds: int, sd: float, drop: float = 0.0) -> reference.Sweep:
    """A sweep of metrics alone: `sd` between seeds, the first arm `drop` lower."""
    one = {"status": "completed", "dataset": "d", "model": "m", "method": "lora", "pretrained": True, "rank": None}
    one |= {"metric": "accuracy", "test_rows": 5000, "mixed_gpus": False, "startup_s": 1.0, **H100}
    rows = [
        one | {"arm": f"a{arm}", "seed": seed, "metric_value": random.normal(0.9 - drop * (arm == 0), sd)}
        for arm in range(arms)
        for seed in range(seeds)
    ]
    return reference.Sweep(pd.DataFrame(rows), None, {}, {})


def test_noise_passes_and_a_drop_of_twice_the_margin_in_one_arm_does_not():
    """Every run drawn anew, as by another version that rounds otherwise: 8 arms, 3 seeds, margin a point."""
    random, seeds, sd = np.random.default_rng(0), 3, 0.003
    passed = {0.0: 0, 2 * MARGIN: 0}
    for drop in passed:
        for _ in range(SWEEPS):
            rows = check(drawn(random, 8, seeds, sd), drawn(random, 8, seeds, sd, drop))
            passed[drop] += bool(rows["verdict"].eq("within").all())
    assert passed[0.0] >= 0.9 * SWEEPS  # 95 % at least, as far as these can tell
    assert passed[2 * MARGIN] == 0


def test_another_device_is_refused_by_name_but_for_the_metric(tmp_path, stored):
    now = sweep(tmp_path / "now", runs(device_name="NVIDIA A100"), noise(0.01))
    rows = check(stored, now)
    compared = rows[rows["verdict"] == "within"]
    assert set(compared["quantity"]) == {"metric_value"} and set(verdicts(rows, "within").values()) == {"not compared"}
    text, good = report(rows, stored, now)
    assert not good
    assert "the reference is of NVIDIA H100 80GB HBM3, this sweep of NVIDIA A100" in text
    assert "- device_name: NVIDIA H100 80GB HBM3 → NVIDIA A100 (every arm)" in text


def test_what_differs_is_said_by_name(tmp_path, stored):
    changed = [run | ({"learning_rate": 3e-4} if run["method"] == "lora" else {}) for run in runs()]
    now = sweep(
        tmp_path / "now",
        changed,
        gpu=GPU | {"driver_version": "590.2", "uuid": "GPU-1", "sm_clock_MHz": 1980},
        versions={"torch": "2.12", "peft": "0.21"},
    )
    text, good = report(check(stored, now), stored, now)
    assert good  # nothing moved
    differs = text.split("## What differs")[1].split("\n\n")[1].splitlines()
    assert sorted(differs) == [
        "- gpu.driver_version: 580.1 → 590.2 (every arm)",
        "- settings.learning_rate: 0.0005 → 0.0003 (sst2/distilbert/lora-r8)",
        "- versions.torch: 2.11 → 2.12 (every arm)",
    ]


def test_without_a_noise_floor_the_seeds_give_the_tolerance_and_the_report_says_so(tmp_path):
    spread = [run | {"train_s": 10.0 + run["seed"]} for run in runs()]
    before, now = (sweep(tmp_path / name, spread) for name in ("before", "now"))
    rows = check(before, now)
    found = rows.set_index(["arm", "quantity"]).loc[("full", "train_s")]
    assert (found["source"], found["df"]) == ("seeds", 4)  # the reference's two arms of three seeds
    assert found["explained"] == pytest.approx(stats.t.ppf(LEVEL, 4) * (1 / 11) * np.sqrt(2))
    assert found["tolerance"] == 0.1
    text, _ = report(rows, before, now)
    assert "no noise floor was measured, and seeds do not show how processes differ" in text
    assert "But not where seeds stand in for a noise floor" in text


def test_one_seed_and_no_noise_floor_decide_nothing(tmp_path):
    before = sweep(tmp_path / "before", runs(1))
    slower = sweep(tmp_path / "now", [run | {"train_s": run["train_s"] * 1.1} for run in runs(1)])
    rows = check(before, slower)
    assert verdicts(rows, "within") == {(arm, "train_s"): "undecided" for arm in ("full", "lora-r8")}
    text, good = report(rows, before, slower)
    assert not good and "one seed or run shows no spread: set `noise` in the config" in text


def test_what_is_missing_is_a_failure_and_what_is_new_is_none(tmp_path, stored):
    fewer = runs(2)
    fewer = [run for run in fewer if run["method"] == "full"]
    now = sweep(tmp_path / "now", fewer)
    rows = check(stored, now)
    gone = {("full", "runs"): "only in the reference", ("lora-r8", "runs"): "only in the reference"}
    assert verdicts(rows, "within") == gone
    text, good = report(rows, stored, now)
    assert not good and "seeds 2" in text and "no such arm now" in text

    more = sweep(tmp_path / "more", runs(4, arms=(*ARMS, ("lora", 16))))
    rows = check(stored, more)
    new = {(arm, "runs"): "only now" for arm in ("full", "lora-r8", "lora-r16")}
    assert verdicts(rows, "within") == new
    assert report(rows, stored, more)[1]


def test_a_run_that_ends_otherwise_and_a_number_that_is_lost_are_named(tmp_path, stored):
    changed = runs()
    changed[0] = synthetic.oom("full", None, 0, **H100)
    changed = [run | ({"energy_J_per_sample": None} if run["method"] == "lora" else {}) for run in changed]
    now = sweep(tmp_path / "now", changed)
    rows = check(stored, now)
    expected = {("full", "runs"): "moved", ("lora-r8", "energy_J_per_sample"): "only in the reference"}
    assert verdicts(rows, "within") == expected
    assert "seed 0: completed, now oom" in report(rows, stored, now)[0]


def test_every_data_set_has_a_noise_floor_of_its_own(tmp_path):
    both = [*runs(), *runs(dataset="cola")]
    floors = pd.concat([noise(0.01), noise(0.05).assign(dataset="cola")])
    before = sweep(tmp_path / "before", both, floors)
    slower = sweep(tmp_path / "now", [run | {"train_s": run["train_s"] * 1.1} for run in both], floors)
    rows = check(before, slower)
    moved = rows[rows["verdict"] == "moved"]
    assert set(zip(moved["dataset"], moved["quantity"], strict=True)) == {("sst2", "train_s")}
    assert report(rows, before, slower)[0].count("\n## ") == 3  # two data sets, and what differs


def test_random_weights_are_compared_without_a_metric(tmp_path):
    drawn = [synthetic.randomly("lora", 8, seed, **H100) for seed in range(3)]
    before, now = (sweep(tmp_path / name, drawn) for name in ("before", "now"))
    rows = check(before, now)
    assert "metric_value" not in set(rows["quantity"]) and report(rows, before, now)[1]


def without_a_run(text: str) -> str:
    """runs.csv cut to the runs of two seeds."""
    header, *rows = text.splitlines(keepends=True)
    return "".join([header, *(row for row in rows if ",2," not in row)])


@pytest.mark.parametrize(
    ("file", "damaged", "said"),
    [
        ("env.json", None, "env.json: no such file; a reference is a folder that `snakemake store_reference` made"),
        ("env.json", lambda text: text[:-9], "env.json: not JSON"),
        ("env.json", lambda text: "{}", "env.json: not of a reference of this version: "),
        ("env.json", lambda text: text.replace('"files"', '"file"'), "env.json: not of a reference of this version: "),
        ("runs.csv", None, "runs.csv: no such file, though the reference was stored with it; put back what is"),
        ("runs.csv", lambda text: "status,dataset\n", "runs.csv: not as it was stored: it lacks sst2/distilbert/full/"),
        (
            *("runs.csv", without_a_run),
            "runs.csv: not as it was stored: it lacks sst2/distilbert/full/seed2, sst2/distilbert/lora-r8/seed2; put",
        ),
        ("runs.csv", lambda text: text.replace("0.9", "0.8", 1), "runs.csv: not as it was stored (by its SHA-256 in"),
        ("noise.csv", None, "noise.csv: no such file, though the reference was stored with it"),
        ("noise.csv", lambda text: text.replace("0.1", "9.9", 1), "noise.csv: not as it was stored (by its SHA-256"),
    ],
)
def test_a_damaged_reference_is_an_error_that_names_the_file_before_anything_is_trained(
    tmp_path, stored, file, damaged, said
):
    path = tmp_path / "stored" / file
    text = path.read_text()
    path.unlink()
    if damaged:
        assert damaged(text) != text
        path.write_text(damaged(text))
    with pytest.raises(InputError, match=re.escape(said)):
        reference.read(tmp_path / "stored")
    planned = resolve(tiny.config(tmp_path, reference=str(tmp_path / "stored")))
    with pytest.raises(InputError, match=re.escape(f"config key reference: {tmp_path}") + ".*" + re.escape(said)):
        check_reference(planned)


def test_the_published_reference_is_whole():
    kept = reference.read(tiny.REPOSITORY / "docs/sst2-minilm")
    assert len(kept.runs) == 36 and kept.noise is not None
    assert set(check(kept, kept)["verdict"]) == {"within"}


def test_a_run_without_its_conditions_is_an_error(tmp_path):
    sweep(tmp_path, runs(1))
    next(tmp_path.rglob("env.json")).unlink()
    with pytest.raises(InputError, match="missing, though the run's summary lists it"):
        reference.of_runs(runs_frame(runs(1)), tmp_path / "runs", None)


def test_a_reference_holds_no_machine_names_and_its_scripts_end_with_a_status(tmp_path):
    for path in synthetic_predictions.answer(tmp_path / "secret-host", runs()).rglob("env.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"host": "secret-host"}))
    synthetic.seal_all(tmp_path / "secret-host")
    grid = {"dataset": ["sst2"], "model": ["distilbert"], "arm": ["full", "lora-r8"], "seed": [0, 1, 2]}
    read = ["--runs-dir", str(tmp_path / "secret-host/runs"), "--grid", json.dumps(grid)]

    def script(name: str, *words: str) -> subprocess.CompletedProcess[str]:
        return forks.script(tiny.REPOSITORY / "workflow_scripts" / name, *read, *words)

    assert script("store_reference.py", "--output-dir", str(tmp_path / "kept")).returncode == 0
    for path in (tmp_path / "kept").iterdir():
        assert b"secret-host" not in path.read_bytes()
    words = ["--reference", str(tmp_path / "kept"), "--margin", "0.01", "--output", str(tmp_path / "report.md")]
    done = script("check_reference.py", *words)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout == (tmp_path / "report.md").read_text()
    summary = next((tmp_path / "secret-host").rglob("full/seed1/summary.json"))
    synthetic.seal(summary.parent, json.loads(summary.read_text()) | {"status": "diverged"})
    done = script("check_reference.py", *words)
    assert done.returncode == 1 and "seed 1: completed, now diverged" in done.stdout


def test_the_targets_store_and_check(tmp_path, finished):
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    said = tiny.snakemake(folder, None, "check_reference", check=False)
    errors = [line for line in said.stdout.splitlines() if "rror" in line]
    assert said.returncode == 1 and len(errors) == 1
    assert errors[0].startswith("error: config key reference: not set; run `snakemake --snakefile ")
    assert " store_reference` after a sweep that you trust" in errors[0]
    tiny.snakemake(folder, None, "store_reference")
    (folder / "results/reference").rename(folder / "kept")
    assert {path.name for path in (folder / "kept").iterdir()} == {
        "runs.csv",
        "env.json",
        "answers.npz",
        "tunings.json",
        "factorials.json",
    }
    settings = tiny.config(folder, reference="kept")
    done = tiny.snakemake(folder, settings, "check_reference")
    assert "Reference check: passed" in done.stdout
    assert (folder / "results/check_reference.md").read_text() in done.stdout
    for path in folder.glob("results/runs/reviews/tiny/lora-r4/seed*/summary.json"):
        run = json.loads(path.read_text())
        synthetic.seal(path.parent, run | {"weights_MiB": 2 * run["weights_MiB"]})
    done = tiny.snakemake(folder, None, "check_reference", check=False)
    assert done.returncode == 1 and "Reference check: failed (2 moved," in done.stdout  # and the sum of all tensors
