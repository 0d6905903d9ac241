"""A model folder is looked at before anything is queued: one line for what is not whole, not plain or not one model."""

import json
import os
import struct
from collections.abc import Callable
from math import prod
from pathlib import Path

import pytest
import small_model
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.model_check import check_folder, read_header, refuse_nan
from peft_tradeoffs.inputs.model_files import check_manifest
from peft_tradeoffs.inputs.models import fetch_model

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
ANNEX = b"/annex/objects/SHA256E-s12345--0000.safetensors\n"
Change = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return small_model.write(tmp_path / "model", small_model.files())


def put(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


def config(**changes: object) -> Change:
    return put("config.json", json.dumps({**small_model.CONFIG, **changes}).encode())


def weights(changes: small_model.Shapes, lost: tuple[str, ...] = ()) -> Change:
    tensors = {name: shape for name, shape in small_model.shapes().items() if name not in lost}
    return put("model.safetensors", small_model.safetensors({**tensors, **changes}))


def cut(size: int) -> Change:
    return put("model.safetensors", small_model.files()["model.safetensors"][:size])


def header(text: bytes, data: int = 0) -> Change:
    return put("model.safetensors", struct.pack("<Q", len(text)) + text + bytes(data))


def instead(name: str, make: Callable[[Path], object]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def sharded(change: Callable[[dict[str, str]], object] = lambda shards: None, **content: bytes) -> Change:
    """The weights in two shards, a and b; `change` changes the index, `content` shards by letter."""

    def shard(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        shards = {name: f"model-{'ab'[name.endswith('bias')]}.safetensors" for name in small_model.shapes()}
        for letter in "ab":
            of_shard = {n: s for n, s in small_model.shapes().items() if shards[n] == f"model-{letter}.safetensors"}
            data = content.get(letter, small_model.safetensors(of_shard))
            (folder / f"model-{letter}.safetensors").write_bytes(data)
        change(shards)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))

    return shard


def no_metadata(folder: Path) -> None:
    sharded()(folder)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index["weight_map"]}))


ADAPTER = put("adapter_config.json", b'{"peft_type": "LORA", "base_model_name_or_path": "owner/base"}')


def adapter_alone(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    ADAPTER(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (put("model.safetensors", LFS), ["model/model.safetensors is a Git LFS pointer", "git lfs pull"]),
        (put("tokenizer.json", LFS), ["model/tokenizer.json is a Git LFS pointer"]),
        (put("config.json", LFS), ["model/config.json is a Git LFS pointer"]),
        (put("vocab.txt", LFS), ["model/vocab.txt is a Git LFS pointer"]),
        (sharded(b=LFS), ["model/model-b.safetensors is a Git LFS pointer"]),
        (put("model.safetensors", ANNEX), ["git-annex pointer", "git annex get"]),
        (ADAPTER, ["adapter_config.json: an adapter lies beside the model", "Transformers would load", "away"]),
        (adapter_alone, ["adapter_config.json is an adapter of owner/base, no model", "merge"]),
        (cut(0), ["model.safetensors: no whole safetensors file: it ends after 0 bytes"]),
        (cut(7), ["it ends after 7 bytes, within its header"]),
        (cut(200), ["it ends after 200 bytes, within its header"]),
        (cut(-1), ["bytes, its header speaks of", "download or save it again"]),
        (sharded(a=b""), ["model-a.safetensors: no whole safetensors file: it ends after 0 bytes"]),
        (sharded(lambda shards: shards.update(lost="model-a.safetensors")), ["model-a.safetensors: it lacks", "lost"]),
        (sharded(lambda shards: shards.update(lost="model-c.safetensors")), ["no model-c.safetensors"]),
        (put("model.safetensors", b"<!DOCTYPE html><html>" * 9), ["it holds markup, a web page"]),
        (put("model.safetensors", b"PK\x03\x04" * 99), ["it holds a zip archive, as torch.save writes"]),
        (header(b"{nonsense"), ["its header is no JSON"]),
        (header(b"[" * 100_000), ["its header is no JSON"]),
        (header(b"{}"), ["it holds no weights"]),
        (header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', 4), ["a has other bytes"]),
        (header(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}', 8), ["a starts at byte 4"]),
        (no_metadata, ["index.json: no `metadata`, which Transformers reads"]),
        (header(b'{"a": {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}}', 4), ["describes tensor a"]),
        (config(quantization_config={"quant_method": "gptq", "bits": 4}), ["quantised (gptq); take the unquantised"]),
        (config(quantization_config={"quant_method": "awq"}), ["config.json: the checkpoint is quantised (awq)"]),
        (config(text_config={"quantization_config": {"quant_method": "fp8"}}), ["quantised (fp8)"]),
        (config(compression_config={"quant_method": "compressed-tensors"}), ["quantised (compressed-tensors)"]),
        (put("quantize_config.json", b"{}"), ["quantize_config.json: the checkpoint is quantised (gptq)"]),
        (weights({"pooler.dense.weight": ("U8", (8, 1))}), ["quantised (pooler.dense.weight U8)"]),
        (weights({"pooler.dense.weight": ("F8_E4M3", (4, 4))}), ["quantised (pooler.dense.weight F8_E4M3)"]),
        (weights({"pooler.dense.qweight": ("I32", (1, 4))}), ["quantised (pooler.dense.qweight I32)"]),
        (config(transformers_weights="other.safetensors"), ["`transformers_weights` leads to other files"]),
        (config(configuration_files=["config.4.0.0.json"]), ["`configuration_files` leads to other files"]),
        (config(num_hidden_layers=10**9), ["config.json: it asks for 1000000000 layers", "different models"]),
        (put("config.json", b"[" * 200_000), ["config.json: JSON nested too deeply"]),
        (instead("model.safetensors", os.mkfifo), ["model.safetensors: a pipe, socket or device"]),
        (instead("config.json", Path.mkdir), ["config.json: a folder where a file must be"]),
        (instead("vocab.txt", lambda path: path.symlink_to("/gone")), ["vocab.txt: a link to /gone", "not there"]),
    ],
)
def test_a_folder_that_is_no_whole_plain_model(folder, change, parts):
    change(folder)
    with pytest.raises(InputError) as caught:
        check_folder(str(folder), folder)
    assert [part for part in parts if part not in str(caught.value)] == [], caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        sharded(),
        weights({"embeddings.position_ids": ("I64", (1, 8))}),  # of older versions of Transformers
        weights({"h.0.attn.bias": ("U8", (8, 8))}),  # GPT-2's causal mask
        weights({"pooler.dense.weight": ("BF16", (4, 4))}),
        config(quantization_config=None),
        put("pytorch_model.bin", LFS),  # which is not loaded
        put("model.safetensors.index.json", b"{}"),  # nor is it, beside model.safetensors
        put("adapter_model.safetensors", b""),  # nor this without its config
    ],
)
def test_what_loads_is_not_refused(folder, change):
    change(folder)
    assert "config.json" in check_folder(str(folder), folder)


def test_every_cut_and_every_flipped_length_of_weights_is_found(tmp_path):
    whole = small_model.files()["model.safetensors"]
    path = tmp_path / "model.safetensors"
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="no whole safetensors file"):
            read_header(path)
    for bit in range(64):
        path.write_bytes(struct.pack("<Q", struct.unpack("<Q", whole[:8])[0] ^ (1 << bit)) + whole[8:])
        with pytest.raises(InputError, match="no whole safetensors file"):
            read_header(path)


ORDER: small_model.Shapes = {  # as bytes stand in the file
    "a.weight": ("F32", (64, 8)),
    "a.bias": ("F32", (64,)),
    "b.weight": ("F32", (32, 8)),
    "b.bias": ("F32", (32,)),
    "c.weight": ("F32", (4, 8)),
}
BYTES = {name: 4 * prod(shape) for name, (_, shape) in ORDER.items()}
WHOLE = small_model.safetensors(ORDER)


def zero_end(count: int, content: bytes = WHOLE) -> bytes:
    return content[: len(content) - count] + bytes(count)


C_B, BOTH_B = BYTES["c.weight"], BYTES["c.weight"] + BYTES["b.bias"]


@pytest.mark.parametrize(
    ("count", "whole"),
    [
        (1, True),
        (C_B, True),  # a new head
        (C_B - 40, True),
        (BOTH_B, True),  # with biases
        (BOTH_B - 30, True),
        (BOTH_B + 32, True),  # and a row of padding
        (BOTH_B + BYTES["b.weight"], True),  # two whole ones
        (BOTH_B + 33, False),
        (BOTH_B + 500, False),
        (BOTH_B + BYTES["b.weight"] + 60, False),
        (BOTH_B + BYTES["b.weight"] + BYTES["a.bias"], True),
        (sum(BYTES.values()) // 2, False),
        (sum(BYTES.values()) - 1, False),
        (sum(BYTES.values()), False),
    ],
)
def test_an_end_that_was_never_written(tmp_path, count, whole):
    path = tmp_path / "model.safetensors"
    path.write_bytes(zero_end(count))
    if whole:
        assert list(read_header(path)) == list(ORDER)
        return
    with pytest.raises(
        InputError, match=r"model\.safetensors: no whole safetensors file: it is zero from byte"
    ) as raised:
        read_header(path)
    assert f"from byte {len(WHOLE) - count} to its end at {len(WHOLE)}" in str(raised.value)


def test_zero_biases_alone_and_a_large_end_that_is_zero(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(zero_end(200, small_model.safetensors({"bias": ("F32", (50,))})))
    assert list(read_header(path)) == ["bias"]
    path.write_bytes(zero_end(5_000_000, small_model.safetensors({"a": ("F16", (2000, 2000)), "b": ("F16", (9, 9))})))
    with pytest.raises(InputError, match="it is zero from byte"):
        read_header(path)


def test_a_folder_whose_weights_end_in_zeros_is_refused(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(zero_end(308, content))  # biases, norms, the pooler and half a square
    for look in (lambda: check_folder(str(folder), folder), lambda: fetch(folder)):
        with pytest.raises(InputError, match="it is zero from byte"):
            look()


NAN = {"F64": "<d", "F32": "<f", "F16": "<e"}


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("index", [0, 299_999])
def test_nan_among_the_weights(tmp_path, dtype, index):
    sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
    shapes = {"before": ("F32", (3,)), "w": ("F16", (500, 600)), "after": ("I64", (2,))}
    content = bytearray(small_model.safetensors({**shapes, "w": (dtype, (500, 600))}))
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    refuse_nan(tmp_path, ["model.safetensors", "config.json"])
    size = sizes[dtype]
    place = len(content) - 16 - 300_000 * size + index * size
    for text, nan in (("inf", False), ("-inf", False), ("nan", True)):
        value = float(text)
        bits = struct.pack("<f", value)[2:] if dtype == "BF16" else struct.pack(NAN[dtype], value)
        content[place : place + size] = bits
        path.write_bytes(content)
        if nan:
            with pytest.raises(InputError, match=r"model\.safetensors: tensor w holds NaN"):
                refuse_nan(tmp_path, ["model.safetensors"])
        else:
            refuse_nan(tmp_path, ["model.safetensors"])


def test_a_model_with_nan_is_not_fetched(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-4:] = struct.pack("<f", float("nan"))
    (folder / "model.safetensors").write_bytes(content)
    check_folder(str(folder), folder)  # which reads no weights
    with pytest.raises(InputError, match=r"tensor \S+\.bias holds NaN"):
        fetch(folder)


def fetch(folder: Path, **block: object) -> dict:
    manifest = folder.parent / "out" / "m.json"
    fetch_model({"source": "folder", "path": str(folder), **block}, manifest)
    return json.loads(manifest.read_text())


def extra_token(folder: Path, **changes: object) -> None:
    """A ninth token, of which the model has no embedding."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    token = {"id": 8, "content": "<user>", "single_word": False, "lstrip": False, "rstrip": False}
    tokenizer["added_tokens"] = [{**token, "normalized": False, "special": False}]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    if changes:
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, **changes}))


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (config(num_hidden_layers=2), ["lacks 16 backbone weights", "encoder.layer.1", "different models"]),
        (config(vocab_size=9), ["word_embeddings.weight is [8, 4], its config.json asks for [9, 4]"]),
        (config(model_type="gpt2"), ["backbone weights", "different models"]),
        (config(model_type="nonesuch"), ["nonesuch"]),
        (config(hidden_size="4"), ["config.json: ", "hidden_size", "expected int, got str"]),
        (config(_attn_implementation="flash_attention_2"), ["no bert model can be built of it", "FlashAttention2"]),
        (config(hidden_act="nonesuch"), ["model/config.json: no bert model can be built of it", "nonesuch"]),
        (config(pad_token_id=8), ["model/config.json: pad_token_id 8 is beyond the model's 8 embeddings"]),
        (weights({}, lost=("embeddings.word_embeddings.weight",)), ["lacks 1 backbone weights"]),
        (config(id2label={"x": "y"}), ["invalid literal", "(correct its config.json)"]),
        (put("tokenizer.json", b"{}"), ["its tokenizer cannot be loaded"]),
        (
            put("tokenizer_config.json", b'{"model_max_length": "x"}'),
            ["tokenizer_config.json: model_max_length is 'x'"],
        ),
        (put("tokenizer_config.json", b'{"model_max_length": -1}'), ["tokenizer_config.json: model_max_length is -1"]),
        (put("tokenizer_config.json", b"[" * 200_000), ["its tokenizer cannot be loaded", "recursion"]),
        (lambda folder: extra_token(folder, pad_token="<user>"), ["pad token 8 ('<user>') is beyond", "resize"]),
    ],
)
def test_a_model_that_does_not_load_as_a_classifier(folder, change, parts):
    change(folder)
    with pytest.raises(InputError) as caught:
        fetch(folder)
    assert [part for part in parts if part not in str(caught.value)] == [], caught.value


def test_a_longer_tokenizer_and_missing_layers_and_poolers_are_notes(folder, capsys):
    assert fetch(folder)["embeddings"] == len(small_model.WORDS)
    assert capsys.readouterr().err == ""
    extra_token(folder)
    fetch(folder)
    assert "has 8 embeddings, and its tokenizer tokens beyond them: 8 ('<user>'); a text" in capsys.readouterr().err
    weights({"encoder.layer.1.output.dense.bias": ("F32", (4,))}, lost=("pooler.dense.bias",))(folder)
    fetch(folder)
    said = capsys.readouterr().err
    assert "has no bert.pooler.dense.bias that fits: the pooler starts" in said
    assert "has weights of layers that config.json does not have, encoder.layer.1" in said


def test_files_that_changed_since_the_fetch_are_found(folder):
    manifest = fetch(folder)
    check_manifest(folder, manifest)
    (folder / "README.md").write_text("not read by loading")
    check_manifest(folder, manifest)
    whole = small_model.files()["model.safetensors"]
    state = (folder / "model.safetensors").stat()
    (folder / "model.safetensors").write_bytes(whole[:-1] + b"\1")
    os.utime(folder / "model.safetensors", ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(InputError, match=r"model\.safetensors: changed since the model was fetched"):
        check_manifest(folder, manifest)
    (folder / "model.safetensors").write_bytes(whole)
    for name in ("adapter_config.json", "added_tokens.json"):
        (folder / name).write_text("{}")
        with pytest.raises(InputError, match=f"{name}: not there when the model was fetched"):
            check_manifest(folder, manifest)
        (folder / name).unlink()
    (folder / "vocab.txt").unlink()
    with pytest.raises(InputError, match=r"vocab\.txt: a file of the model is gone"):
        check_manifest(folder, manifest)
    with pytest.raises(InputError, match="no manifest"):
        check_manifest(folder, {"sha256": "x"})
