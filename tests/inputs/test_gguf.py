"""Models in one GGUF file: dequantised at fetch, recorded as such, refused by one line where they cannot be."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import tiny
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.config.preflight import check_paths, content
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import sha256
from peft_tradeoffs.inputs.model_files import dequantise, gguf_file
from peft_tradeoffs.inputs.models import fetch_model

HIDDEN, LAYERS, HEADS, INNER = 64, 2, 4, 128
WORDS = ["good", "bad", "film"]


def vocabulary() -> tuple[list[str], list[str]]:
    """Tokens of a byte-level BPE, special ones first, and its merges."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    tokens, merges = ["<s>", "</s>", *bytes_to_unicode().values()], []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens:
                tokens.append(word[:end])
                merges.append(f"{word[: end - 1]} {word[end - 1]}")
    return tokens, merges


def tensors() -> dict[str, np.ndarray]:
    """Random weights of a Llama with tied embeddings, by the format's names."""
    random, size = np.random.default_rng(0), len(vocabulary()[0])
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (size, HIDDEN), "output_norm.weight": (HIDDEN,)}
    for block in (f"blk.{layer}" for layer in range(LAYERS)):
        shapes |= {f"{block}.attn_{part}.weight": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")}
        shapes |= {f"{block}.ffn_{part}.weight": (INNER, HIDDEN) for part in ("gate", "up")}
        shapes |= {f"{block}.ffn_down.weight": (HIDDEN, INNER)}
        shapes |= {f"{block}.{part}_norm.weight": (HIDDEN,) for part in ("attn", "ffn")}
    return {name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def write(path: Path, arch: str = "llama", **changes: np.ndarray | None) -> Path:
    """A tiny model as one GGUF file, its matrices in Q8_0; `changes` are to its tensors, None takes one out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tokens, merges = vocabulary()
    writer = gguf.GGUFWriter(path, arch)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_merges(merges)
    writer.add_token_types([3, 3, *[1] * (len(tokens) - 2)])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, values in (tensors() | changes).items():
        if values is None:
            continue
        if values.ndim == 2:
            packed = gguf.quantize(values, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def fetched(tmp_path: Path, folder: Path, **source: Any) -> dict[str, Any]:
    manifest = tmp_path / "models/tiny.json"
    fetch_model({"source": "folder", "path": str(folder), **source}, manifest)
    found: dict[str, Any] = json.loads(manifest.read_text())
    return found


def test_its_weights_are_what_its_bits_stand_for(tmp_path):
    from safetensors.numpy import load_file

    path = write(tmp_path / "origin/tiny.Q8_0.gguf")
    made = dequantise(path, tmp_path / "model")
    assert made == {
        "file": "tiny.Q8_0.gguf",
        "sha256": sha256(path),
        "file_type": "MOSTLY_Q8_0",
        "tensor_types": ["F32", "Q8_0"],
    }
    found, own = load_file(tmp_path / "model/model.safetensors"), tensors()
    q8 = gguf.GGMLQuantizationType.Q8_0
    for name, key in (("model.embed_tokens", "token_embd"), ("model.layers.1.mlp.down_proj", "blk.1.ffn_down")):
        expected = gguf.dequantize(gguf.quantize(own[f"{key}.weight"], q8), q8)
        assert np.array_equal(found[f"{name}.weight"], expected)
        assert not np.array_equal(found[f"{name}.weight"], own[f"{key}.weight"])
    assert "lm_head.weight" not in found  # tied
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["tie_word_embeddings"] and "quantization_config" not in config


def test_a_folder_with_one_becomes_a_model_that_trains(tmp_path):
    path = write(tmp_path / "origin/tiny.Q8_0.gguf")
    manifest = fetched(tmp_path, path.parent, sha256={"tiny.Q8_0.gguf": sha256(path)})
    assert manifest["dequantised_from"]["file_type"] == "MOSTLY_Q8_0"
    assert manifest["pretrained"] and manifest["model_type"] == "llama" and "model.safetensors" in manifest["files"]
    place = tmp_path / "models/tiny"
    assert not place.is_symlink() and not [name for name in tmp_path.glob("models/.*")]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place)
    assert tokenizer.convert_ids_to_tokens(tokenizer("good")["input_ids"]) == ["good"]
    again = write(tmp_path / "other/tiny.Q8_0.gguf", **{"output_norm.weight": np.ones(HIDDEN, np.float32)})
    assert fetched(tmp_path, again.parent)["sha256"] != manifest["sha256"]


def test_beside_safetensors_it_is_left_alone():
    names = {"config.json", "model.safetensors", "a.gguf", "b.gguf"}
    assert gguf_file("model x", names) is None
    assert gguf_file("model x", {"a.gguf", "pytorch_model.bin"}) is None  # which is refused, with the remedy
    assert gguf_file("model x", {"a.GGUF", "README.md"}) == "a.GGUF"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("a.gguf", "b.gguf"), r"2 GGUF files \(a.gguf, b.gguf\), where one model is needed; keep one of them"),
        (("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"), "m-00001-of-00002.gguf is a part of a GGUF file; merge"),
    ],
)
def test_several_are_refused(names, said):
    with pytest.raises(InputError, match=said):
        gguf_file("model x", set(names))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text(path: Path) -> None:
    path.write_text("no model")


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


@pytest.mark.parametrize(
    ("damage", "said"),
    [(cut, "no model can be made of it: "), (text, "no GGUF file"), (pointer, "Git LFS")],
)
def test_a_damaged_one_is_one_line(tmp_path, damage, said):
    path = write(tmp_path / "origin/tiny.gguf")
    damage(path)
    with pytest.raises(InputError, match=said) as caught:
        fetched(tmp_path, path.parent)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    assert not (tmp_path / "models/tiny.json").exists() and not list(tmp_path.glob("models/.*"))


def test_another_architecture_another_checksum_and_weights_that_are_no_numbers_are_refused(tmp_path):
    path = write(tmp_path / "other/tiny.gguf", arch="whisper")
    with pytest.raises(InputError, match=r"tiny\.gguf: no model can be made of it: .*whisper.*; take another"):
        fetched(tmp_path, path.parent)
    path = write(tmp_path / "origin/tiny.gguf")
    with pytest.raises(InputError, match=r"tiny\.gguf has the wrong checksum: expected sha256 0000"):
        fetched(tmp_path, path.parent, sha256={"tiny.gguf": "0" * 64})
    path = write(tmp_path / "nan/tiny.gguf", **{"output_norm.weight": np.full(HIDDEN, np.nan, np.float32)})
    with pytest.raises(InputError, match="weights that are not finite"):
        fetched(tmp_path, path.parent)


def test_what_it_lacks_and_what_is_not_read_of_it_is_refused(tmp_path):
    path = write(tmp_path / "lacking/tiny.gguf", **{"blk.1.ffn_down.weight": None})
    with pytest.raises(InputError, match=r"it has no weights for model\.layers\.1\.mlp\.down_proj\.weight; "):
        fetched(tmp_path, path.parent)
    path = write(tmp_path / "rope/tiny.gguf", **{"rope_freqs.weight": np.ones(8, np.float32)})
    with pytest.raises(InputError, match="does not read its scaling of rotary positions, so the model"):
        fetched(tmp_path, path.parent)
    path = write(tmp_path / "bias/tiny.gguf", **{"blk.0.attn_q.bias": np.ones(HIDDEN, np.float32)})
    with pytest.raises(InputError, match="does not read its biases"):
        fetched(tmp_path, path.parent)


def test_the_plan_looks_at_it_and_tells_another_content_from_the_former(tmp_path, monkeypatch):
    path = write(tmp_path / "model/tiny.gguf")
    monkeypatch.chdir(tmp_path)
    tiny.write_tsv(tmp_path / "train.tsv", tiny.sentences(40, seed=1))
    tiny.write_tsv(tmp_path / "test.tsv", tiny.sentences(20, seed=2))
    experiment = resolve(tiny.config(tmp_path))
    check_paths(experiment)
    before = content(experiment.models["tiny"].to_dict())
    write(path, **{"output_norm.weight": np.ones(HIDDEN, np.float32)})
    assert content(experiment.models["tiny"].to_dict()) != before
    path.write_text("no model")
    with pytest.raises(InputError, match=r"config key models\.tiny\.path: .*tiny\.gguf: no GGUF file"):
        check_paths(experiment)
