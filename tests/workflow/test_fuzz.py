"""`make fuzz` finds what is broken: faults planted on purpose."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

FUZZ = tiny.REPOSITORY / "tests/fuzz"


@pytest.mark.parametrize("fault", ["data", "run"])
def test_a_fault_planted_on_purpose_is_found(fault: str, tmp_path: Path) -> None:
    places = [FUZZ, FUZZ.parent / "helpers", tiny.REPOSITORY / "workflow_scripts"]
    done = subprocess.run(
        [sys.executable, FUZZ / "fuzz.py", "--only", fault, "--plant", fault, "--inputs", "60", "--seed", "0"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert {"data": "UnicodeDecodeError", "run": "Passed"}[fault] in done.stdout
    assert list((tmp_path / "fuzz-findings").iterdir())
