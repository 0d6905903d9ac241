"""The training process imports what it needs, from its start to its end, and nothing else."""

import json
import subprocess
import sys

import tiny

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
