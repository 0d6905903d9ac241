"""A process that has a run's lock."""

import subprocess
import sys
from pathlib import Path

import tiny

HOLDS = """
import sys, time
sys.path.insert(0, {scripts!r})
from pathlib import Path
from peft_tradeoffs.runs.lock import RunLock
from peft_tradeoffs.core.errors import InputError
try:
    lock = RunLock(Path({run!r}))
    lock.acquire()
    print("has it", flush=True)
except InputError as error:
    sys.exit(str(error))
sys.stdin.read()
"""


def holder(run: Path) -> subprocess.Popen[str]:
    """A process that takes the lock if it can and has it until its input ends."""
    script = HOLDS.format(scripts=str(tiny.REPOSITORY / "workflow_scripts"), run=str(run))
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
