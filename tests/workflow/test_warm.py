"""Jobs that are forks of a server end, are ended, and see what is around them, as processes of their own do."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import tiny
import warm

SCRIPT = """
import os, signal, sys, time
print(os.getcwd(), os.environ["WORD"], sys.argv[1], "torch" in sys.modules, flush=True)
if sys.argv[1] == "wait":
    print(os.getpid(), flush=True)
    time.sleep(60)
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "workflow_scripts/a.py"
    path.parent.mkdir()
    path.write_text(SCRIPT)
    return path


def begun(script: Path, *words: str) -> "subprocess.Popen[str]":
    python = Path(warm.python(tuple(tiny.NO_HUB.items()))).with_name("python")
    given = {**os.environ, **tiny.NO_HUB, "WORD": "said"}
    return subprocess.Popen(
        [str(python), str(script), *words], cwd=script.parent, env=given, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("status", [0, 3])
def test_it_ends_as_it_says(script, status):
    job = begun(script, str(status))
    said, _ = job.communicate()
    assert said.split() == [str(script.parent), "said", str(status), "True"] and job.returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_reaches_it(script, number):
    job = begun(script, "wait")
    assert job.stdout is not None
    job.stdout.readline()
    fork = int(job.stdout.readline())
    job.send_signal(number)
    assert job.wait() == -number
    for _ in range(100):
        if not Path(f"/proc/{fork}").exists():
            return
        time.sleep(0.1)
    raise AssertionError("it goes on")


def test_a_signal_right_after_the_start_is_not_lost(script):
    """It may come while the request is on its way."""
    for wait in (0.02, 0.05, 0.1):
        job = begun(script, "wait")
        time.sleep(wait)
        job.send_signal(signal.SIGTERM)
        assert job.wait(timeout=30) == -signal.SIGTERM
