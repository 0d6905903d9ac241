"""The workflow on hub sources: fetched online at a pinned revision, then run offline, then from a locked cache."""

import subprocess
from pathlib import Path

import hub_client
import pytest
import tiny
from hub_server import HubServer


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return hub_client.repositories(tmp_path_factory.mktemp("hub"))


def test_fetch_online_then_run_offline_then_from_a_read_only_cache(repositories, tmp_path):
    home = tmp_path / "home"
    with HubServer(repositories) as server:
        online = {"HF_HOME": str(home), "HF_ENDPOINT": server.url, "NO_PROXY": "127.0.0.1"}
        tiny.snakemake(tmp_path, hub_client.experiment("results"), "fetch", **online)
        downloaded = server.downloaded()
    assert not any(name.endswith((".bin", ".py", ".h5", ".onnx")) or "/ax/" in name for name in downloaded)
    link = tmp_path / "results/models/tiny"
    assert link.is_symlink(), "no second copy of the weights"
    assert link.resolve().is_relative_to(home)

    offline = {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    tiny.snakemake(tmp_path, hub_client.experiment("results"), "runs", **offline)
    found = tiny.summaries(tmp_path)
    assert set(found) == {"full/seed0", "lora-r4/seed0"}
    adapter = (tmp_path / "results/runs/sst2/tiny/lora-r4/seed0/adapter/adapter_config.json").read_text()
    assert hub_client.MODEL in adapter and hub_client.REVISION in adapter

    locked = hub_client.read_only(home, tmp_path / "locked")
    before = hub_client.listing(locked)
    (tmp_path / "config.yaml").unlink()
    done = subprocess.run(
        [
            *tiny.command(tmp_path, "tables"),
            "--configfile",
            str(write(tmp_path / "second.yaml", hub_client.experiment("again"))),
        ],
        env=tiny.environment(HF_HOME=str(locked), HF_HUB_OFFLINE="1"),
        capture_output=True,
        text=True,
        preexec_fn=hub_client.obey_modes,
    )
    assert done.returncode == 0, done.stderr
    assert hub_client.listing(locked) == before
    first, second = (
        (tmp_path / output / "runs/sst2/tiny/lora-r4/seed0/predictions.csv").read_bytes()
        for output in ("results", "again")
    )
    assert first == second


def write(path: Path, experiment: dict) -> Path:
    import yaml

    path.write_text(yaml.safe_dump(experiment), encoding="utf-8")
    return path
