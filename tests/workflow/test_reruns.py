"""Partial re-runs: exactly what must run is planned, and what is finished is kept."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import tiny
from peft_tradeoffs.core.layout import PAGE, TEMPLATES

ARMS = ["full", "lora-r4", "qlora-r4"]
TABLES = {name: 1 for name in ("check_contract", "make_tables", "compare_arms", "compare_at_budgets", "recommend")}
MADE = {**TABLES, "make_figures": 1, "make_report": 1}  # of all runs


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished benchmark, with Snakemake's records."""
    shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy"


def plan(folder: Path, settings: dict | None = None, *words: str) -> dict[str, list[str]]:
    """What `snakemake -n` plans: the arms of the training jobs, and how many jobs of every other rule."""
    said = tiny.snakemake(folder, settings, "-n", *words).stdout
    jobs = re.findall(r"^(?:local)?rule (\w+):\n((?:    .*\n)*)", said, re.MULTILINE)
    counts = Counter(name for name, _ in jobs)
    arms = sorted(re.search(r"arm=([^\s,]+)", text)[1] for name, text in jobs if name == "train")
    others = {name: count for name, count in counts.items() if name not in ("train", "all", "runs")}
    return {"train": arms, **others}


def test_the_same_content_is_the_same_input(folder):
    """Whatever its date, and whether it is a link or a folder."""
    for name in ("train.tsv", "test.tsv"):
        shutil.copyfile(folder / name, folder / "new")
        (folder / "new").replace(folder / name)
    shutil.copytree((folder / "model").resolve(), folder / "copied")
    (folder / "model").unlink()
    (folder / "copied").rename(folder / "model")
    assert plan(folder) == {"train": []}


def test_a_deleted_summary_is_run_again_alone(folder):
    before = tiny.summaries(folder)
    (folder / "results/runs/reviews/tiny/lora-r4/seed1/summary.json").unlink()
    assert plan(folder) == {"train": ["lora-r4"], **MADE}
    tiny.snakemake(folder, None)
    after = tiny.summaries(folder)
    rerun = {name for name in after if after[name]["finished_at"] != before[name]["finished_at"]}
    assert rerun <= {"lora-r4/seed1"}
    assert after["lora-r4/seed1"]["metric_value"] == before["lora-r4/seed1"]["metric_value"]
    assert plan(folder) == {"train": []}


def test_another_learning_rate_trains_that_method(folder):
    settings = tiny.config(folder)
    settings["methods"]["lora"]["learning_rate"] = 5e-3
    assert plan(folder, settings) == {"train": ["lora-r4"], **MADE}


def test_another_seed_trains_that_seed_alone(folder):
    before = {path: path.read_bytes() for path in folder.glob("results/runs/*/*/*/seed*/*.*")}
    settings = tiny.config(folder, seeds=[0, 1, 2])
    assert plan(folder, settings) == {"train": ARMS, **MADE}
    tiny.snakemake(folder, None, "runs")
    assert set(tiny.summaries(folder)) == {f"{arm}/seed{seed}" for arm in ARMS for seed in (0, 1, 2)}
    for path, content in before.items():
        assert path.read_bytes() == content, path
    assert plan(folder, None, "runs") == {"train": []}


def test_another_seed_is_a_job_of_its_own_where_seeds_have_jobs(folder):
    settings = tiny.config(folder, seeds_per_job=1)
    tiny.snakemake(folder, settings, "runs")
    said = tiny.snakemake(folder, {**settings, "seeds": [0, 1, 2]}, "-n").stdout
    planned = re.findall(r"wildcards: dataset=reviews, model=tiny, arm=(\S+), seed=(\d)", said)
    assert sorted(planned) == [(arm, "2") for arm in ARMS]


def test_another_rank_trains_that_arm(folder):
    settings = tiny.config(folder)
    settings["methods"]["lora"]["ranks"] = [4, 8]
    assert plan(folder, settings) == {"train": ["lora-r8"], **MADE}
    tiny.snakemake(folder, None, "runs")
    assert plan(folder, None, "runs") == {"train": []}


def test_another_data_row_runs_all_that_depends_on_it(folder):
    """Content decides, not the date: here it is older than the results, as `tar x` and `rsync -t` leave it."""
    with (folder / "train.tsv").open("a") as file:
        file.write("a good film\t1\n")
    os.utime(folder / "train.tsv", (1_600_000_000, 1_600_000_000))
    expected = {"train": ARMS, "fetch_dataset": 1, "tokenize": 1, **MADE}
    assert plan(folder) == expected


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("peft_tradeoffs/report/style.py", {"train": [], "make_figures": 1}),
        ("make_figures.py", {"train": [], "make_figures": 1}),
        ("peft_tradeoffs/report/page.py", {"train": [], "make_report": 1}),
        ("compare_arms.py", {"train": [], "compare_arms": 1, "recommend": 1, "make_figures": 1, "make_report": 1}),
        ("peft_tradeoffs/training/engine.py", {"train": ARMS, **MADE}),
        ("train.py", {"train": ARMS, **MADE}),
    ],
)
def test_edited_code_runs_what_depends_on_it(folder, script, expected):
    path = folder / "workflow/workflow_scripts" / script
    original = path.read_text()
    path.write_text(f"# a comment\n{original}\nprint(end='')\n")
    assert plan(folder) == expected
    path.write_text(f"# a comment\n{original}\n\ndef not_called():\n    return 1\n")
    assert plan(folder) == {"train": []}


def test_an_edited_schema_runs_what_decides_by_it(folder):
    path = folder / "workflow/schemas/peft.schema.json"
    schema = json.loads(path.read_text())
    schema["$defs"]["LORA"]["x-read-alone"] = True  # x-alpha-field would change the arms' settings too
    path.write_text(json.dumps(schema))
    planned = plan(folder)
    assert planned["train"] == [] and planned["check_contract"] == 1


@pytest.mark.parametrize("path", sorted(tiny.REPOSITORY.glob("report/page/*")), ids=lambda path: path.name)
def test_every_file_of_the_page_counts(path):
    assert path.name in PAGE


def test_an_edited_page_is_made_again(folder):
    with (folder / "workflow/report/page/page.css").open("a") as file:
        file.write("p { margin: 0 }\n")
    assert plan(folder) == {"train": [], "make_report": 1}


@pytest.mark.parametrize("template", ["recommendation/notes", "shared/family", "comparison/notes"])
def test_an_edited_template_makes_again_what_says_it(folder, template):
    """The table of the comparison is what others are made of, so that these are made again too."""
    with (folder / "workflow" / TEMPLATES / f"{template}.md.j2").open("a") as file:
        file.write("One sentence more.\n")
    planned = plan(folder)
    assert planned["train"] == []
    assert planned["recommend"] == planned["make_report"] == 1
    assert ("compare_arms" in planned) == (template != "recommendation/notes")


def test_a_checkout_that_moves_runs_nothing(folder):
    words = ["-n", "--snakefile", str(tiny.REPOSITORY / "Snakefile")]
    said = tiny.snakemake(folder, None, *words).stdout
    assert "Nothing to be done" in said, said


def test_the_same_content_fetched_again_trains_nothing(folder):
    """Snakemake plans the jobs, since a file is newer; they find their results made from the same and end."""
    before = tiny.summaries(folder)
    tiny.snakemake(folder, None, "runs", "--forcerun", "tokenize")
    assert tiny.summaries(folder) == before


def test_groups_added_to_given_splits_train_nothing(folder):
    before = {name: run["finished_at"] for name, run in tiny.summaries(folder).items()}
    settings = tiny.config(folder)
    settings["datasets"]["reviews"]["group"] = "contained"
    assert plan(folder, settings)["fetch_dataset"] == 1
    tiny.snakemake(folder, None, "runs")
    assert {name: run["finished_at"] for name, run in tiny.summaries(folder).items()} == before
    described = json.loads((folder / "results/data/reviews/dataset.json").read_text())
    assert described["group"]["by"] == "contained"
    assert described["splits"]["test"]["groups"] == 32


def test_a_failing_seed_loses_no_finished_one(folder):
    """Seed 2 cannot be saved; the others' summaries stay, and the next call trains what is missing."""
    before = tiny.summaries(folder)
    blocker = folder / "results/runs/reviews/tiny/lora-r4/seed2/adapter"
    blocker.parent.mkdir()
    blocker.write_text("in the way")
    settings = tiny.config(folder, seeds=[0, 1, 2])
    done = tiny.snakemake(folder, settings, "runs", "--keep-going", check=False)
    assert done.returncode != 0
    after = tiny.summaries(folder)
    assert {name: after.get(name) for name in before} == before
    blocker.unlink()
    tiny.snakemake(folder, None, "runs")
    after = tiny.summaries(folder)
    assert {name: after[name] for name in before} == before
    assert "lora-r4/seed2" in after


def test_plan_is_made_without_torch_or_network(tmp_path):
    """The reference benchmark: nine arms, planned with torch out of reach."""
    (tmp_path / "torch.py").write_text("raise ImportError('torch at parse level')")
    (tmp_path / "config.yaml").write_bytes((tiny.REPOSITORY / "config.yaml").read_bytes())
    said = tiny.snakemake(tmp_path, None, "-n", PYTHONPATH=str(tmp_path)).stdout
    arms = sorted(re.findall(r"wildcards: dataset=sst2, model=distilbert, arm=(\S+)", said))
    ranks = sorted(f"{method}-r{rank}" for method in ("lora", "qlora") for rank in (4, 8, 16, 32))
    assert arms == ["full", *ranks]
    assert json.loads(json.dumps(said)).count("seed4/summary.json") >= 9


def test_seeds_finished_before_one_failed_are_not_trained_again(finished, tmp_path):
    """Snakemake removes the summaries that a failed job made; the next call puts them back from its state."""
    for name in ("train.tsv", "test.tsv"):
        shutil.copyfile(finished / name, tmp_path / name)
    (tmp_path / "model").symlink_to((finished / "model").resolve())
    settings = tiny.config(tmp_path)
    settings["methods"] = {"lora": settings["methods"]["lora"]}
    runs = tmp_path / "results/runs/reviews/tiny/lora-r4"
    (runs / "seed1").mkdir(parents=True)
    (runs / "seed1/adapter").write_text("in the way")
    assert tiny.snakemake(tmp_path, settings, "runs", check=False).returncode != 0
    assert not (runs / "seed1/summary.json").exists()
    kept = json.loads((runs / "seed0/state/summary.json").read_text())
    (runs / "seed1/adapter").unlink()
    tiny.snakemake(tmp_path, None, "runs")
    found = tiny.summaries(tmp_path)
    assert found["lora-r4/seed0"] == kept
    assert set(found) == {"lora-r4/seed0", "lora-r4/seed1"}
    assert not list(runs.glob("seed*/state"))


def test_results_of_two_settings_never_mix(folder):
    """A job fails under a new rate, Snakemake puts old summaries back: the old rate trains what is not its own."""
    runs = folder / "results/runs/reviews/tiny/lora-r4"
    before = tiny.summaries(folder)
    shutil.rmtree(runs / "seed1/adapter")
    (runs / "seed1/adapter").write_text("in the way")
    settings = tiny.config(folder)
    settings["methods"]["lora"]["learning_rate"] = 5e-3
    assert tiny.snakemake(folder, settings, "runs", check=False).returncode != 0
    (runs / "seed1/adapter").unlink()
    tiny.snakemake(folder, tiny.config(folder), "runs", "--forcerun", "train")
    for seed in (0, 1):
        environment = json.loads((runs / f"seed{seed}/env.json").read_text())
        summary = json.loads((runs / f"seed{seed}/summary.json").read_text())
        assert environment["fingerprint"] == summary["fingerprint"] == before[f"lora-r4/seed{seed}"]["fingerprint"]
        assert environment["settings"]["learning_rate"] == summary["learning_rate"] == 1e-2


def test_a_run_has_one_writer(tmp_path):
    from peft_tradeoffs.core.errors import InputError
    from peft_tradeoffs.training.job import RunDirectory

    first, second = (RunDirectory(tmp_path / "seed0", "f", 60) for _ in range(2))
    first.lock()
    with pytest.raises(InputError, match="another process trains this run"):
        second.lock()
    first.unlock()


def test_weights_that_are_not_kept_are_no_reason_to_train(folder):
    """A study brought home without them is planned and taken as it is; a new seed saves none."""
    for weights in folder.glob("results/runs/*/*/*/seed*/checkpoint"):
        shutil.rmtree(weights)
    assert plan(folder, tiny.config(folder, keep_weights=False))["train"] == []
    arm = folder / "results/runs/reviews/tiny/full"
    settings = json.loads((arm / "seed0/env.json").read_text())["settings"]
    before = {path: path.read_bytes() for path in arm.glob("seed*/*")}
    words = ["--settings", json.dumps(settings), "--seeds", "0", "1", "2", "--output-dir", str(arm)]
    words += [
        "--tokens",
        str(folder / "results/tokens/reviews/tiny.npz"),
        "--model",
        str(folder / "results/models/tiny"),
    ]
    script = folder / "workflow/workflow_scripts/train.py"
    done = subprocess.run([sys.executable, script, *words, "--keep-weights", "0"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert {path: path.read_bytes() for path in before} == before
    summary = json.loads((arm / "seed2/summary.json").read_text())
    assert summary["weights"] == "not kept" and "predictions.csv" in summary["files"]
    assert not (arm / "seed2/checkpoint").exists()
