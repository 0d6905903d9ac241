"""The training process imports what it needs, from its start to its end, and nothing else."""

import json
import subprocess
import sys
import time

import tiny
from peft_tradeoffs.training.job import RunDirectory

REPORTS = """
import sys
sys.path.insert(0, {scripts!r})
import train
train.main()
print("LOADED", *sorted(name for name in sys.modules if "." not in name))
"""


def test_nothing_of_preparing_or_tabulating_is_imported(tmp_path, finished):
    results = finished / "results"
    loaded = {}
    for arm in ("full", "qlora-r4"):
        settings = json.loads((results / f"runs/reviews/tiny/{arm}/seed0/env.json").read_text())["settings"]
        words = ["--settings", json.dumps(settings), "--seeds", "0", "--output-dir", str(tmp_path / arm)]
        words += ["--tokens", str(results / "tokens/reviews/tiny.npz"), "--model", str(results / "models/tiny")]
        script = REPORTS.format(scripts=str(tiny.REPOSITORY / "workflow_scripts"))
        done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        line = next(line for line in done.stdout.splitlines() if line.startswith("LOADED"))
        loaded[arm] = set(line.split()[1:])
    for modules in loaded.values():
        unwanted = {"datasets", "pandas", "pyarrow", "sklearn", "matplotlib", "seaborn", "snakemake"}
        assert modules & unwanted == set()
    assert "bitsandbytes" in loaded["qlora-r4"] and not {"peft", "bitsandbytes"} & loaded["full"]


def test_the_wait_for_another_writer_is_no_part_of_the_start(tmp_path, finished):
    results = finished / "results"
    settings = json.loads((results / "runs/reviews/tiny/full/seed0/env.json").read_text())["settings"]
    words = ["--settings", json.dumps(settings), "--seeds", "0", "--output-dir", str(tmp_path), "--lock-wait", "120"]
    words += ["--tokens", str(results / "tokens/reviews/tiny.npz"), "--model", str(results / "models/tiny")]
    writer = RunDirectory(tmp_path / "seed0", "another", 60)
    writer.lock()
    script = tiny.REPOSITORY / "workflow_scripts/train.py"
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, script, *words], stderr=subprocess.PIPE, text=True)
    assert process.stderr.readline().startswith("waits up to 120 s")
    waits = time.monotonic()
    time.sleep(10)  # longer than the run takes
    held_s = time.monotonic() - waits
    writer.unlock()
    said = process.communicate()[1]
    assert process.returncode == 0, said
    summary = json.loads((tmp_path / "seed0/summary.json").read_text())
    own_s = time.monotonic() - began - held_s
    assert summary["startup_s"] < own_s + 1  # the kernel gives the boot, from which a start counts, in whole seconds
    assert summary["wall_s"] < own_s
