"""The files of a model that loads, as bytes: a BERT of one layer, made without torch, and variants of safetensors."""

import json
import struct
from functools import cache
from math import prod
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad"]
CONFIG = {
    "model_type": "bert",
    "vocab_size": len(WORDS),
    "hidden_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 4,
    "max_position_embeddings": 8,
}
LAYER = "encoder.layer.0"
SQUARES = [f"{LAYER}.attention.self.{name}" for name in ("query", "key", "value")]
SQUARES += [f"{LAYER}.attention.output.dense", f"{LAYER}.intermediate.dense", f"{LAYER}.output.dense", "pooler.dense"]
NORMS = ["embeddings.LayerNorm", f"{LAYER}.attention.output.LayerNorm", f"{LAYER}.output.LayerNorm"]
Shapes = dict[str, tuple[str, tuple[int, ...]]]  # dtype and shape by name


def shapes() -> Shapes:
    """What the weights of CONFIG are."""
    tables = {"word": len(WORDS), "position": 8, "token_type": 2}
    found = {f"embeddings.{name}_embeddings.weight": ("F32", (rows, 4)) for name, rows in tables.items()}
    found |= {f"{name}.weight": ("F32", (4, 4)) for name in SQUARES}
    found |= {f"{name}.weight": ("F32", (4,)) for name in NORMS}
    return found | {f"{name}.bias": ("F32", (4,)) for name in (*SQUARES, *NORMS)}


def safetensors(tensors: Shapes) -> bytes:
    """A file of tensors whose bytes are all the same, a small number of each type."""
    sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "I8": 1}
    header, end = {}, 0
    for name, (dtype, shape) in tensors.items():
        begin, end = end, end + prod(shape) * sizes[dtype]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\x3c" * end


@cache
def files() -> dict[str, bytes]:
    """The model's files by name."""
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    settings = {"tokenizer_class": "BertTokenizer", **{f"{name}_token": token for name, token in names.items()}}
    return {
        "config.json": json.dumps(CONFIG).encode(),
        "model.safetensors": safetensors(shapes()),
        "tokenizer.json": tokenizer.to_str().encode(),
        "tokenizer_config.json": json.dumps(settings).encode(),
        "vocab.txt": "\n".join(WORDS).encode(),
    }


def write(folder: Path, content: dict[str, bytes]) -> Path:
    """Write files by name below `folder`."""
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder
