"""The hub's paths against a loopback server: download, then offline, then a cache that cannot be written."""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hub_client import (
    DATASET,
    MODEL,
    OTHER,
    REVISION,
    dataset_call,
    fail,
    files,
    listing,
    model_call,
    read_only,
    succeed,
    tiny_bert,
    tiny_glue,
)
from hub_server import HubServer


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("hub") / "bert")


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_glue(tmp_path_factory.mktemp("hub") / "glue")


@pytest.fixture
def server(bert: Path, glue: Path):
    with HubServer({"models": {MODEL: {REVISION: bert}}, "datasets": {DATASET: {REVISION: glue}}}) as server:
        yield server


def test_model_online_offline_and_from_a_read_only_cache(server, tmp_path):
    home = tmp_path / "home"
    folder = succeed(home, server.url, model_call())
    assert folder.name == REVISION
    wanted = {"config.json", "model.safetensors", "vocab.txt", "tokenizer.json", "tokenizer_config.json"}
    assert files(folder) == wanted & files(server.repositories["models"][MODEL][REVISION])
    assert server.downloaded() == files(folder)
    assert "model.safetensors" in files(folder)

    asked = len(server.requests)
    assert succeed(home, server.url, model_call()) == folder
    assert len(server.requests) == asked, "a complete cache needs no request"

    locked = read_only(home, tmp_path / "locked")
    before = listing(locked)
    for offline in (False, True):
        found = succeed(locked, server.url, model_call(), offline=offline)
        assert found.is_relative_to(locked)
    assert len(server.requests) == asked
    assert listing(locked) == before


def test_offline_after_the_server_is_gone(bert, glue, tmp_path):
    with HubServer({"models": {MODEL: {REVISION: bert}}, "datasets": {DATASET: {REVISION: glue}}}) as server:
        model = succeed(tmp_path, server.url, model_call())
        data = succeed(tmp_path, server.url, dataset_call())
    assert succeed(tmp_path, server.url, model_call(), offline=True) == model
    assert succeed(tmp_path, server.url, dataset_call(), offline=True) == data
    assert succeed(tmp_path, server.url, model_call()) == model


def test_fetched_model_loads_and_runs_no_code_from_the_hub(server, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = succeed(tmp_path, server.url, model_call())
    tokens = AutoTokenizer.from_pretrained(folder)("a good film", return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False)
    assert model(**tokens).logits.shape == (1, 2)
    assert tokens["input_ids"].tolist() == [[2, 5, 6, 8, 3]]


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors", "tokenizer_config.json"])
def test_incomplete_cache_is_named_offline_and_mended_online(server, tmp_path, lost):
    folder = succeed(tmp_path, server.url, model_call())
    (folder / lost).resolve().unlink()
    said = fail(tmp_path, server.url, model_call(), offline=True)
    for part in (MODEL, REVISION, lost, "HF_HUB_OFFLINE", "snakemake fetch", "HF_HOME"):
        assert part in said
    succeed(tmp_path, server.url, model_call())
    assert (folder / lost).is_file()


def test_partial_shards_are_found_without_a_cached_listing(bert, tmp_path):
    """A cache that another tool filled has no listing: the index and the shards' names must tell."""
    sharded = tmp_path / "sharded"
    shutil.copytree(bert, sharded)
    (sharded / "model.safetensors").unlink()
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for shard in shards:
        shutil.copy(bert / "model.safetensors", sharded / shard)
    (sharded / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": {"a": shards[0], "b": shards[1]}})
    )
    with HubServer({"models": {MODEL: {REVISION: sharded}}}) as server:
        folder = succeed(tmp_path / "home", server.url, model_call())
        assert set(shards) <= files(folder)
        shutil.rmtree(folder.parents[1] / "trees")
        assert succeed(tmp_path / "home", server.url, model_call(), offline=True) == folder
        (folder / shards[1]).unlink()
        assert shards[1] in fail(tmp_path / "home", server.url, model_call(), offline=True)


def test_read_only_cache_that_lacks_a_file(server, tmp_path):
    folder = succeed(tmp_path / "home", server.url, model_call())
    (folder / "config.json").unlink()
    locked = read_only(tmp_path / "home", tmp_path / "locked")
    said = fail(locked, server.url, model_call())
    for part in ("config.json", "the cache cannot be written", "HF_HOME", str(locked)):
        assert part in said


def test_empty_cache_and_no_hub(tmp_path):
    with HubServer({}) as server:
        url = server.url
    for offline, why in ((True, "HF_HUB_OFFLINE is set"), (False, "cannot be reached")):
        said = fail(tmp_path, url, model_call(), offline=offline)
        for part in (MODEL, REVISION, "config.json", "model.safetensors", why, "snakemake fetch"):
            assert part in said
        said = fail(tmp_path, url, dataset_call(), offline=offline)
        for part in (DATASET, REVISION, "README.md", why, "snakemake fetch"):
            assert part in said


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        (model_call("tiny/nothing"), ["tiny/nothing", "no such repository", "`path`", "hf auth login"]),
        (model_call(revision=OTHER), [MODEL, OTHER, "no such revision"]),
        (model_call(revision="main"), ["main", "40 hex digits"]),
        (model_call("a/b/c"), ["a/b/c", "owner/name"]),
        (dataset_call(repo="tiny/nothing"), ["tiny/nothing", "no such repository"]),
        (dataset_call(revision=OTHER), [DATASET, OTHER, "no such revision"]),
        (dataset_call("sst3"), ["no configuration 'sst3'", "ax, sst2"]),
        (dataset_call(None), ["several configurations", "ax, sst2"]),
    ],
)
def test_what_the_hub_does_not_have(server, tmp_path, call, parts):
    said = fail(tmp_path, server.url, call)
    for part in parts:
        assert part in said


def test_gated_repository_needs_a_token(bert, tmp_path):
    with HubServer({"models": {MODEL: {REVISION: bert}}}, gated=(MODEL,)) as server:
        said = fail(tmp_path, server.url, model_call())
        for part in ("gated", "hf auth login", "HF_TOKEN", "licence"):
            assert part in said
        (tmp_path / "token").write_text("hf_test")
        assert "model.safetensors" in files(succeed(tmp_path, server.url, model_call()))


@pytest.mark.parametrize(
    ("lost", "parts"),
    [
        (
            "model.safetensors",
            ["no model.safetensors", "pytorch_model.bin", "safetensors", "save_pretrained"],
        ),
        ("config.json", ["no config.json"]),
    ],
)
def test_unfit_model_repository(bert, tmp_path, lost, parts):
    unfit = tmp_path / "unfit"
    shutil.copytree(bert, unfit)
    (unfit / lost).unlink()
    with HubServer({"models": {MODEL: {REVISION: unfit}}}) as server:
        said = fail(tmp_path / "home", server.url, model_call())
        assert server.downloaded() == set()
    for part in parts:
        assert part in said


def test_an_endpoint_that_is_no_hub(tmp_path):
    """A portal's or proxy's page in place of the hub's answer."""
    for answer, why in ((200, "does not answer as the hub does"), (503, "answered 503")):

        class Portal(BaseHTTPRequestHandler):
            status = answer

            def do_GET(self) -> None:
                self.send_response(self.status)
                self.end_headers()
                self.wfile.write(b"<html>please pay</html>")

        server = ThreadingHTTPServer(("127.0.0.1", 0), Portal)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        said = fail(tmp_path, f"http://127.0.0.1:{server.server_port}", model_call())
        server.shutdown()
        server.server_close()
        assert why in said
        assert MODEL in said
