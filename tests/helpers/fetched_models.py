"""Models fetched by fetch_model.py: the command, and what it leaves when it succeeds and when it fails."""

import contextlib
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import fetch_model
import pytest
from peft_tradeoffs.core.errors import run

SCRIPT = Path(__file__).parents[2] / "workflow_scripts" / "fetch_model.py"


def digest(content: bytes) -> str:
    """SHA-256 as a manifest has it."""
    return hashlib.sha256(content).hexdigest()


def fetch(source: object, manifest: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command; in this process, which has imported torch, unless the hub's variables matter at an import."""
    text = source if isinstance(source, str) else json.dumps(source)
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PIP_"))}
    variables = {**clean, "PIP_NO_INDEX": "1", "NO_PROXY": "127.0.0.1", **environment}
    words = [str(SCRIPT), "--source", text, "--output", str(manifest)]
    if not any(name.startswith("HF_") for name in environment):
        return fetch_here(words, variables)
    return subprocess.run(
        [sys.executable, *words],
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def fetch_here(words: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """The command in this process, in an environment of these variables alone."""
    said, status = io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(sys, "argv", words)
        for name in os.environ.keys() - variables.keys():
            patch.delenv(name)
        for name, value in variables.items():
            patch.setenv(name, value)
        try:
            run(fetch_model.main)
        except SystemExit as end:
            status = 1 if isinstance(end.code, str) else end.code
            said.write(f"{end.code}\n")
    return subprocess.CompletedProcess(words, status, "", said.getvalue())


def succeed(source: object, manifest: Path, **environment: str) -> dict[str, object]:
    """The manifest of a fetch that must succeed."""
    done = fetch(source, manifest, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(manifest.read_text())


def fail(source: object, manifest: Path, *parts: str, **environment: str) -> None:
    """A fetch that must fail: its message has all `parts`, and nothing is left."""
    done = fetch(source, manifest, **environment)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("error: "), done.stderr
    for part in parts:
        assert part in done.stderr
    assert beside(manifest) == [], "nothing is left in place"


def beside(manifest: Path) -> list[str]:
    """What is in the manifest's folder."""
    return sorted(path.name for path in manifest.parent.glob("*")) + sorted(
        path.name for path in manifest.parent.glob(".*")
    )
