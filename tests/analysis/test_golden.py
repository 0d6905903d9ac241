"""Every table of one sweep, number for number and sentence for sentence, as golden/ has it.

The runs are synthetic, with arms that are equivalent, worse, better, out of memory and diverged, so that the tables
change only where what they say or how they compute changes. After a change that is meant, UPDATE_GOLDEN=1 writes them
anew: read the difference.
"""

import json
import os
from pathlib import Path

import pages
import pandas as pd
import pytest
import synthetic
import synthetic_predictions

GOLDEN = Path(__file__).parent / "golden"
ARMS = {"lora-r4": 24, "lora-r8": 0, "qlora-r4": 80, "qlora-r8": -30}
FAILED = ((synthetic.oom, "lora", 16), (synthetic.diverged, "ia3", None))
LIMITS = {"memory_GiB": 4, "cheapest": "time"}
SCRIPTS = {
    "check_contract.py": ["--baseline", "full", "--declared", "{}"],
    "make_tables.py": [],
    "compare_arms.py": ["--baseline", "full", "--margin", "0.01"],
    "compare_at_budgets.py": ["--budgets", json.dumps({"train_s": [], "energy_J": []})],
    "recommend.py": ["--limits", json.dumps(LIMITS)],
}
TABLES = ("contract", "runs", "arms", "memory", "cost", "comparison", "equal_cost", "recommendation")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tables."""
    folder = tmp_path_factory.mktemp("golden")
    runs = synthetic_predictions.arms(ARMS)
    runs_dir = synthetic_predictions.write(folder, runs)
    lost = [failed(*arm, seed) for seed in range(5) for failed, *arm in FAILED]
    synthetic.write(folder, lost)
    described = folder / "data/sst2/dataset.json"
    described.parent.mkdir(parents=True)
    described.write_text(
        json.dumps({"labels": ["bad", "good"], "splits": {}, "warnings": ["12 test rows are in train too."]})
    )
    summaries = [summary for summary, _ in runs] + lost
    grid = {key: list(dict.fromkeys(run[key] for run in summaries)) for key in ("dataset", "model", "arm", "seed")}
    tables = folder / "tables"
    for script, options in SCRIPTS.items():
        given = ["--runs-dir", runs_dir, "--grid", json.dumps(grid), "--output-dir", tables, *options]
        if script == "check_contract.py":
            given += ["--tunings-dir", folder / "tune"]
        else:
            given += ["--contract", tables / "contract.csv"]
        if script in ("make_tables.py", "compare_arms.py", "recommend.py"):
            given += ["--data-dir", folder / "data"]
        if script == "recommend.py":
            given += ["--comparison", tables / "comparison.csv"]
        pages.script(script, *given)
    if os.environ.get("UPDATE_GOLDEN"):
        for name in TABLES:
            for suffix in ("csv", "md"):
                (GOLDEN / f"{name}.{suffix}").write_bytes((tables / f"{name}.{suffix}").read_bytes())
    return tables


@pytest.mark.parametrize("name", TABLES)
def test_the_words_are_the_same(made: Path, name: str) -> None:
    assert (made / f"{name}.md").read_text(encoding="utf-8") == (GOLDEN / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TABLES)
def test_the_numbers_are_the_same(made: Path, name: str) -> None:
    """Within what floats of another processor round otherwise."""
    found, expected = (pd.read_csv(folder / f"{name}.csv") for folder in (made, GOLDEN))
    pd.testing.assert_frame_equal(found, expected, rtol=1e-9, atol=1e-12)
