"""What the hub says of its files is kept: what was cut off or changed is found offline, and fetched again online."""

import json
from pathlib import Path

import pytest
from hub_client import DATASET, MODEL, REVISION, dataset_call, fail, hub, model_call, succeed, tiny_glue
from hub_server import HubServer
from huggingface_hub import RepoFile
from peft_tradeoffs.inputs.hub import damaged
from small_model import files, write

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("hub")
    model, data = write(folder / "bert", files()), tiny_glue(folder / "glue")
    return {"models": {MODEL: {REVISION: model}}, "datasets": {DATASET: {REVISION: data}}}


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.resolve().write_bytes(content)


def cut(path: Path) -> None:
    path.resolve().write_bytes(path.read_bytes()[:-20])


def empty(path: Path) -> None:
    path.resolve().write_bytes(b"")


def test_a_damaged_model_is_named_offline_and_fetched_again_online(repositories, tmp_path):
    with HubServer(repositories) as server:
        folder = succeed(tmp_path, server.url, model_call())
        cut(folder / "model.safetensors")
        flip(folder / "tokenizer.json")
        said = fail(tmp_path, server.url, model_call(), offline=True)
        for part in ("damaged in the cache", "model.safetensors: it has", "tokenizer.json: its hash is not the hub's"):
            assert part in said
        server.requests.clear()
        assert succeed(tmp_path, server.url, model_call()) == folder
        assert server.downloaded() == {"model.safetensors", "tokenizer.json"}
        assert succeed(tmp_path, server.url, model_call(), offline=True) == folder
    assert {name: (folder / name).read_bytes() for name in files()} == files()


def test_a_damaged_data_set_is_fetched_again(repositories, tmp_path):
    name = "sst2/train-00000-of-00001.parquet"
    with HubServer(repositories) as server:
        folder = succeed(tmp_path, server.url, dataset_call())
        whole = (folder / name).read_bytes()
        flip(folder / name)
        empty(folder / "README.md")
        said = fail(tmp_path, server.url, dataset_call(), offline=True)
        assert "README.md: it has 0 bytes" in said
        assert succeed(tmp_path, server.url, dataset_call()) == folder
    assert (folder / name).read_bytes() == whole


def test_what_comes_damaged_from_the_network_is_refused(repositories, tmp_path):
    with HubServer(repositories, cut=("tokenizer.json",)) as server:
        said = fail(tmp_path, server.url, model_call())
    assert "tokenizer.json" in said


@pytest.mark.parametrize("change", [cut, flip, empty])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_content_is_compared_with_the_listing_and_with_the_blob_s_name(repositories, tmp_path, name, change):
    import hashlib

    from hub_server import _git_oid, _tree

    origin = repositories["models"][MODEL][REVISION]
    tree = {entry["path"]: RepoFile(**entry) for entry in _tree(origin)}
    content = files()[name]
    oid = hashlib.sha256(content).hexdigest() if name == "model.safetensors" else _git_oid(content)
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "blobs" / oid).write_bytes(content)
    (tmp_path / "snapshot" / name).symlink_to(f"../blobs/{oid}")
    for known in (tree, {}):
        assert damaged(tmp_path / "snapshot", [name], known) == {}
    change(tmp_path / "snapshot" / name)
    for known in (tree, {}):
        assert damaged(tmp_path / "snapshot", [name], known).keys() == {name}


def test_a_mirror_s_own_names_are_no_damage(tmp_path):
    import hashlib

    content = b"content"
    (tmp_path / "blobs").mkdir()
    plain = hashlib.sha1(content, usedforsecurity=False).hexdigest()
    for name in (plain, "W/weak-etag", "0" * 32):
        blob = tmp_path / "blobs" / name.replace("/", "-")
        blob.write_bytes(content)
        (tmp_path / "file").symlink_to(blob)
        assert damaged(tmp_path, ["file"], {}) == {}
        (tmp_path / "file").unlink()
    (tmp_path / "file").write_bytes(content)  # a cache without links
    assert damaged(tmp_path, ["file"], {}) == {}
    told = RepoFile(path="file", size=len(content), oid=plain)
    assert damaged(tmp_path, ["file"], {"file": told}) == {}


@pytest.mark.parametrize(
    ("refusal", "token", "parts"),
    [
        ((401, "Invalid credentials in Authorization header"), True, ["does not take the token", "expired", "unset"]),
        ((403, "Access to this resource is disabled."), False, ["has disabled this repository"]),
        ((429, "Too many requests, 100 in 5 minutes"), False, ["answered 429", "wait, or log in"]),
        ((500, "Internal error, id 7"), False, ["answered 500", "snakemake fetch"]),
    ],
)
def test_the_hub_s_own_words_stand_in_the_line(tmp_path, refusal, token, parts):
    if token:
        (tmp_path / "token").write_text("hf_old")
    with HubServer({}, refusal=refusal) as server:
        said = fail(tmp_path, server.url, model_call())
    for part in (MODEL, f"the hub says ({refusal[0]}): {refusal[1]}", *parts):
        assert part in said
    assert said.count("\n") == 1


def test_a_repository_that_is_an_adapter_says_so_by_its_file_alone(tmp_path):
    adapter = {"adapter_config.json": json.dumps({"base_model_name_or_path": "owner/base"}).encode()}
    folder = write(tmp_path / "adapter", {**adapter, "adapter_model.safetensors": b"", "config.json": b"{}"})
    with HubServer({"models": {MODEL: {REVISION: folder}}}) as server:
        found = succeed(tmp_path / "home", server.url, model_call())
        assert server.downloaded() == {"adapter_config.json"}
    assert (found / "adapter_config.json").is_file()


def test_no_secret_of_any_setting_is_written(tmp_path, monkeypatch):
    closed = "user:s3cretpass@127.0.0.1:9"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, f"http://{closed}")
    for url in (f"http://{closed}", "http://127.0.0.1:9?token=s3cretpass"):
        done = hub(tmp_path, url, model_call())
        assert done.returncode == 1
        assert "s3cretpass" not in done.stderr + done.stdout
        assert "cannot be reached" in done.stderr or "HF_ENDPOINT" in done.stderr
    done = hub(tmp_path, "http://127.0.0.1:9", model_call(f"https://{closed}/owner/name"))
    assert "s3cretpass" not in done.stderr + done.stdout
