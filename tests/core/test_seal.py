"""A run's summary vouches for the files beside it: any that is missing or changed is named by one line."""

import json
from pathlib import Path
from typing import Any

import pytest
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError

CONTENT = {
    "summary.csv": b"status\ncompleted\n",
    "metrics.csv": b"epoch,loss\n1,0.5\n",
    "env.json": b"{}\n",
    "predictions.csv": b"row,label\n0,1\n",
    "adapter/adapter_config.json": b"{}",
    "adapter/adapter_model.safetensors": bytes(range(256)),
    "adapter/tokenizer/vocab.txt": b"a\nb\n",
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for name, content in {**CONTENT, "state/checkpoint.pt": b"no result", "card.md": b"of no run"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    files.write_json(tmp_path / "summary.json", files.seal({"accuracy": 0.1 + 0.2, "arm": "é", "rank": None}, tmp_path))
    return tmp_path


def read(run: Path) -> dict[str, Any]:
    return files.read_json(run / "summary.json")


def test_what_a_run_wrote_stands(run: Path) -> None:
    summary = read(run)
    files.check_summary(summary, run / "summary.json")
    files.check_files(run, summary)
    assert set(summary["files"]) == set(CONTENT)
    assert summary["weights"] == "kept"
    assert sorted(files.weight_files(summary) + files.other_files(summary)) == sorted(CONTENT)
    assert files.seal(summary, run) == summary  # sealed again, it is the same


def test_a_run_without_weights_says_so(run: Path) -> None:
    for name in files.weight_files(read(run)):
        (run / name).unlink()
    summary = files.seal(read(run), run)
    assert (summary["weights"], files.weight_files(summary)) == ("not kept", [])
    files.check_files(run, summary)


@pytest.mark.parametrize("name", sorted(CONTENT))
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "longer", "bit", "folder", "link to nothing"])
def test_a_file_that_is_not_what_was_published_is_named(run: Path, name: str, damage: str) -> None:
    path, content = run / name, CONTENT[name]
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage == "link to nothing":
        path.symlink_to(run / "nowhere")
    elif damage != "missing":
        flipped = bytes([content[0] ^ 4]) + content[1:]
        path.write_bytes({"empty": b"", "cut": content[:-1], "longer": content + b"\n", "bit": flipped}[damage])
    with pytest.raises(InputError, match=rf"{name}: (missing|changed)"):
        files.check_files(run, read(run))
    others = [other for other in CONTENT if other != name]
    files.check_files(run, read(run), others)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"accuracy": 0.31}, "changed after"),
        ({"accuracy": float("nan")}, "changed after"),
        ({"rank": 4}, "changed after"),
        ({"files": {}}, "changed after"),
        ({"weights": "not kept"}, "changed after"),
        ({"another": 1}, "changed after"),
        ({"sha256": "0" * 64}, "changed after"),
        ({"sha256": None}, "changed after"),
    ],
)
def test_a_summary_that_was_edited_is_named(run: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=f"summary.json: {said}"):
        files.check_summary(read(run) | changes, run / "summary.json")


@pytest.mark.parametrize("summary", [[], None, "text", 3, {}, {"accuracy": 1.0}])
def test_what_is_no_summary_is_named(summary: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"summary.json: (not a run's summary|no weights, files, sha256)"):
        files.check_summary(summary, tmp_path / "summary.json")


@pytest.mark.parametrize("listing", [[], {"../../secret": "0" * 64}, {"/etc/passwd": "0" * 64}, {"env.json": None}])
def test_a_forged_listing_leads_nowhere_else(listing: Any, tmp_path: Path) -> None:
    """A summary that is signed again with names outside its folder."""
    forged = files.signed({"files": listing, "weights": "kept"})
    with pytest.raises(InputError, match="not what a run writes"):
        files.check_summary(json.loads(json.dumps(forged)), tmp_path / "summary.json")
