"""The hub's paths against a loopback server: download, then offline, then a cache that cannot be written."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas
import pytest
from hub_server import HubServer

SCRIPTS = Path(__file__).parents[1] / "workflow_scripts"
MODEL, DATASET = "tiny/bert", "tiny/glue"
REVISION = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
LIBC = ctypes.CDLL(None)

# GLUE's own shape: the first configuration is not the one asked for; dataset_info states features and sizes.
GLUE_CARD = """\
---
license: other
configs:
- config_name: ax
  data_files:
  - split: test
    path: ax/test-*
- config_name: sst2
  data_files:
  - split: train
    path: sst2/train-*
  - split: validation
    path: sst2/validation-*
dataset_info:
- config_name: ax
  features:
  - {name: premise, dtype: string}
  splits:
  - {name: test, num_bytes: 100, num_examples: 4}
- config_name: sst2
  features:
  - {name: sentence, dtype: string}
  - name: label
    dtype:
      class_label:
        names: {'0': negative, '1': positive}
  - {name: idx, dtype: int32}
  splits:
  - {name: train, num_bytes: 300, num_examples: 6}
  - {name: validation, num_bytes: 100, num_examples: 2}
---
# Tiny GLUE
"""


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT with a WordPiece tokenizer, and beside them the files that must not be fetched."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    folder = tmp_path_factory.mktemp("hub") / "bert"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film"]
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForMaskedLM(BertConfig(vocab_size=len(words), max_position_embeddings=32, **shape))
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_evil.EvilModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "onnx").mkdir()
    for name in ("pytorch_model.bin", "tf_model.h5", "modeling_evil.py", "onnx/model.onnx", "README.md"):
        (folder / name).write_text("raise SystemExit('executed')")
    return folder


@pytest.fixture(scope="session")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub") / "glue"
    (folder / "sst2").mkdir(parents=True)
    (folder / "ax").mkdir()
    (folder / "README.md").write_text(GLUE_CARD)
    for split, rows in (("train", 6), ("validation", 2)):
        frame = pandas.DataFrame(
            {"sentence": [f"{split} {i}" for i in range(rows)], "label": [i % 2 for i in range(rows)]}
        )
        frame["idx"] = pandas.Series(range(rows), dtype="int32")
        frame.to_parquet(folder / "sst2" / f"{split}-00000-of-00001.parquet", index=False)
    pandas.DataFrame({"premise": list("abcd")}).to_parquet(folder / "ax" / "test-00000-of-00001.parquet")
    return folder


@pytest.fixture
def server(bert: Path, glue: Path):
    with HubServer({"models": {MODEL: {REVISION: bert}}, "datasets": {DATASET: {REVISION: glue}}}) as server:
        yield server


def hub(home: Path, url: str, call: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
    code = (
        "from peft_tradeoffs.errors import run\n"
        "from peft_tradeoffs.hub import *\n"
        f"run(lambda: print({call}))\n"
    )
    return python(
        ["-c", code],
        HF_HOME=str(home),
        HF_ENDPOINT=url,
        HF_HUB_OFFLINE=str(int(offline)),
        NO_PROXY="127.0.0.1",
    )


def python(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, for huggingface_hub reads its environment at import; file modes bind."""
    environment |= {"PATH": os.environ["PATH"], "PYTHONPATH": str(SCRIPTS), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        preexec_fn=obey_modes,
    )


def model_call(repo: str = MODEL, revision: str = REVISION) -> str:
    return f"model_snapshot({repo!r}, {revision!r})"


def dataset_call(config: str | None = "sst2", repo: str = DATASET, revision: str = REVISION) -> str:
    return f"dataset_snapshot({repo!r}, {revision!r}, {config!r})"


def succeed(*arguments, **options) -> Path:
    done = hub(*arguments, **options)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def fail(*arguments, **options) -> str:
    done = hub(*arguments, **options)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr
    return done.stderr


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def listing(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every path below `folder` with inode, size and modification time."""
    states = {str(path): path.lstat() for path in [folder, *folder.rglob("*")]}
    return {path: (state.st_ino, state.st_size, state.st_mtime_ns) for path, state in states.items()}


def obey_modes() -> None:
    """Before exec: make file modes bind root as they bind everybody else."""
    LIBC.prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


def read_only(home: Path, to: Path) -> Path:
    """A copy of the cache that nobody may write to."""
    shutil.copytree(home, to, symlinks=True)
    subprocess.run(["chmod", "-R", "a-w,a+rX", str(to)], check=True)
    return to


LOADING = """
import sys
from pathlib import Path
from peft_tradeoffs.hub import load_dataset
folder, config, cache = sys.argv[1:]
data = load_dataset(Path(folder), config, Path(cache))
print({split: (len(rows), rows.features["label"]) for split, rows in data.items()}, data["train"][1])
"""


def load(home: Path, folder: Path, config: str, cache: Path) -> str:
    arguments = ["-c", LOADING, str(folder), config, str(cache)]
    done = python(arguments, HF_HOME=str(home), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    return done.stdout


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


def test_dataset_fetches_one_configuration_and_loads_offline(server, tmp_path):
    home = tmp_path / "home"
    folder = succeed(home, server.url, dataset_call())
    parquet = {f"sst2/{split}-00000-of-00001.parquet" for split in ("train", "validation")}
    assert files(folder) == {"README.md", *parquet}
    assert server.downloaded() == files(folder)
    asked = len(server.requests)

    locked = read_only(home, tmp_path / "locked")
    before = listing(locked)
    found = succeed(locked, server.url, dataset_call(), offline=True)
    said = load(locked, found, "sst2", tmp_path / "scratch")
    labels = "ClassLabel(names=['negative', 'positive'])"
    splits = f"{{'train': (6, {labels}), 'validation': (2, {labels})}}"
    assert said.strip() == f"{splits} {{'sentence': 'train 1', 'label': 1, 'idx': 1}}"
    assert len(server.requests) == asked
    assert listing(locked) == before


def test_second_configuration_is_added_to_the_same_snapshot(server, tmp_path):
    first = succeed(tmp_path, server.url, dataset_call())
    assert "not in the cache" in fail(tmp_path, server.url, dataset_call("ax"), offline=True)
    assert succeed(tmp_path, server.url, dataset_call("ax")) == first
    assert "ax/test-00000-of-00001.parquet" in files(first)
    assert succeed(tmp_path, server.url, dataset_call("ax"), offline=True) == first


def test_dataset_without_configurations_falls_back_to_folder_names(glue, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(glue, plain)
    (plain / "README.md").write_text("# no metadata\n")
    with HubServer({"datasets": {DATASET: {REVISION: plain}}}) as server:
        folder = succeed(tmp_path / "home", server.url, dataset_call())
        assert {name.split("/")[0] for name in files(folder)} == {"README.md", "sst2"}
        assert "no data file matches 'mrpc/**'" in fail(tmp_path / "home", server.url, dataset_call("mrpc"))
        assert "'train': (6, Value('int64'))" in load(tmp_path / "home", folder, "sst2", tmp_path / "scratch")
        everything = succeed(tmp_path / "home", server.url, dataset_call(None))
        assert "ax/test-00000-of-00001.parquet" in files(everything)


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


def test_partial_data_files_are_found_without_a_cached_listing(glue, tmp_path):
    split = tmp_path / "split"
    shutil.copytree(glue, split)
    train = split / "sst2" / "train-00000-of-00001.parquet"
    shutil.copy(train, split / "sst2" / "train-00001-of-00002.parquet")
    train.rename(split / "sst2" / "train-00000-of-00002.parquet")
    with HubServer({"datasets": {DATASET: {REVISION: split}}}) as server:
        folder = succeed(tmp_path / "home", server.url, dataset_call())
        shutil.rmtree(folder.parents[1] / "trees")
        assert succeed(tmp_path / "home", server.url, dataset_call(), offline=True) == folder
        (folder / "sst2" / "train-00001-of-00002.parquet").unlink()
        said = fail(tmp_path / "home", server.url, dataset_call(), offline=True)
        assert "sst2/train-00001-of-00002.parquet" in said


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


def test_dataset_with_a_loading_script_alone(tmp_path):
    folder = tmp_path / "script"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "glue.py").write_text("raise SystemExit('executed')")
    with HubServer({"datasets": {DATASET: {REVISION: folder}}}) as server:
        said = fail(tmp_path / "home", server.url, dataset_call(None))
        assert server.downloaded() == {"README.md"}
    assert "glue.py is not run" in said


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
