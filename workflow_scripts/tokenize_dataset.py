"""Tokenise a data set's splits with a model's tokenizer, once for all runs, and write them as flat arrays.

Writes an .npz with, for each split s, {s}_input_ids (int32, all rows joined), {s}_token_type_ids (int8, where
the tokenizer returns them), {s}_offsets (int64 [n + 1]: row i is input_ids[offsets[i]:offsets[i + 1]]),
{s}_labels (int64 class index, float64 for regression) and {s}_rows (int64, row in the source split). Beside it
stands a .json. Texts longer than --max-length are truncated and counted; `tokens` in the .json are lengths before
truncation.
"""

import argparse
import itertools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_tradeoffs.core.errors import InputError, run

if TYPE_CHECKING:
    import numpy as np
    from transformers import PreTrainedTokenizerBase

# What is read of the files of the jobs before, with the types that it has.
DATASET = {"task": (str,), "pair": (bool,), "labels": (list, type(None)), "splits": (dict,), "sha256": (str,)}
MANIFEST = {"files": (dict,), "sha256": (str,)}
CHUNK = 4096  # rows encoded at once
# the models whose first position is padding_idx + 1, as in RoBERTa
OFFSET_POSITIONS = {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer"}


def longest_input(folder: Path, tokenizer: "PreTrainedTokenizerBase") -> int:
    """The most tokens the model takes: the lower of its position embeddings and its tokenizer's limit."""
    from peft_tradeoffs.core.files import read_json

    config = read_json(folder / "config.json")
    positions = config.get("max_position_embeddings") or config.get("n_positions")
    limits = [tokenizer.model_max_length]  # a huge number where it has none
    if positions and positions > 0:
        padding = config.get("pad_token_id")
        offset = (1 if padding is None else padding) + 1
        limits.append(positions - (offset if config.get("model_type") in OFFSET_POSITIONS else 0))
    return min(limits)


def check_max_length(max_length: int, folder: Path, tokenizer: "PreTrainedTokenizerBase", pair: bool) -> None:
    """Raise InputError unless `max_length` tokens fit the model and leave room for text."""
    longest = longest_input(folder, tokenizer)
    if max_length > longest:
        raise InputError(
            f"max_length {max_length} is above what the model {folder.name!r} takes, {longest} tokens; "
            f"set it to {longest} or less"
        )
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    if max_length < special + 1 + pair:
        raise InputError(
            f"max_length {max_length}: the model {folder.name!r} adds {special} special tokens, so at least "
            f"{special + 1 + pair} are needed"
        )


def encode(
    tokenizer: "PreTrainedTokenizerBase", texts: list[tuple[str, ...]], max_length: int
) -> tuple[dict[str, list[list[int]]], list[int]]:
    """Token lists by name for n rows of one or two texts, and their n lengths before truncation."""
    encoded: dict[str, list[list[int]]] = {"input_ids": []}
    if "token_type_ids" in tokenizer.model_input_names:
        encoded["token_type_ids"] = []
    lengths = []
    for start in range(0, len(texts), CHUNK):
        columns = [list(column) for column in zip(*texts[start : start + CHUNK], strict=True)]
        whole = tokenizer(*columns, verbose=False)
        lengths += map(len, whole["input_ids"])
        if max(lengths[start:]) > max_length:
            whole = tokenizer(*columns, truncation=True, max_length=max_length)
        for name, lists in encoded.items():
            lists += whole[name]
    return encoded, lengths


def check_split(path: Path, described: dict[str, Any]) -> None:
    """Raise InputError unless the split's file is there and is the one that dataset.json `described`."""
    from peft_tradeoffs.core.files import sha256

    remedy = f"delete {path.parent} and run again, which reads the data set anew"
    if not path.is_file():
        raise InputError(f"{path}: no such file; {remedy}")
    recorded = described.get("sha256")
    if recorded is not None and recorded != sha256(path):
        raise InputError(f"{path}: changed since dataset.json was written, which has another sha256 of it; {remedy}")


def tokenize_split(
    path: Path, tokenizer: "PreTrainedTokenizerBase", max_length: int, pair: bool, embeddings: int | None
) -> tuple[dict[str, "np.ndarray"], list[int]]:
    """A split's arrays by name (see the module's head) and its rows' lengths before truncation.

    Raises InputError for a row without tokens, or with one that is none of the model's `embeddings`.
    """
    import numpy as np
    import pyarrow.parquet as pq
    from peft_tradeoffs.inputs.model_check import check_ids

    table = pq.read_table(path)
    columns = ("text_a", "text_b") if pair else ("text_a",)
    texts = list(zip(*(table.column(column).to_pylist() for column in columns), strict=True))
    encoded, lengths = encode(tokenizer, texts, max_length)
    empty = [row for row, length in enumerate(lengths) if not length]
    if empty:
        raise InputError(f"{path}, row {empty[0] + 1}: {texts[empty[0]]} has no tokens; take such rows out")
    check_ids(str(path), encoded["input_ids"], tokenizer, embeddings)
    arrays = {
        "offsets": np.cumsum([0, *map(len, encoded["input_ids"])], dtype=np.int64),
        "labels": table.column("label").to_numpy(),
        "rows": table.column("row").to_numpy(),
    }
    for name, lists in encoded.items():
        flat = itertools.chain.from_iterable(lists)
        arrays[name] = np.fromiter(flat, dtype=np.int32 if name == "input_ids" else np.int8)
    return arrays, lengths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, type=Path, help="folder that fetch_dataset.py wrote")
    parser.add_argument("--model", required=True, type=Path, help="model folder, its manifest MODEL.json beside it")
    parser.add_argument("--max-length", required=True, type=int, metavar="N", help="most tokens of a row")
    parser.add_argument("--output", required=True, type=Path, metavar="NPZ", help="the .npz to write")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"

    import numpy as np
    from peft_tradeoffs.core.files import atomic, read_object, sha256, write_json
    from peft_tradeoffs.inputs.model_check import check_pad_token, load_tokenizer
    from peft_tradeoffs.inputs.model_files import check_manifest
    from peft_tradeoffs.inputs.splits import SPLITS

    manifest = arguments.model.with_name(f"{arguments.model.name}.json")
    described = arguments.data_dir / "dataset.json"
    for path, script in ((manifest, "fetch_model.py"), (described, "fetch_dataset.py")):
        if not path.is_file():
            raise InputError(f"{path}: no such file; make it with {script}")
    if not arguments.model.is_dir():
        raise InputError(f"{arguments.model}: no such folder; make it with fetch_model.py")
    dataset = read_object(described, DATASET, "a data set's description", "delete it, and the data set is read again")
    model = read_object(manifest, MANIFEST, "a model's manifest", "delete it, and the model is fetched again")
    check_manifest(arguments.model, model)
    tokenizer = load_tokenizer(arguments.model)
    embeddings = model.get("embeddings")
    check_pad_token(arguments.model, tokenizer, embeddings)
    check_max_length(arguments.max_length, arguments.model, tokenizer, dataset["pair"])

    arrays: dict[str, Any] = {}
    tokens, truncated = {}, {}
    for split in (split for split in SPLITS if split in dataset["splits"]):
        path = arguments.data_dir / f"{split}.parquet"
        check_split(path, dataset["splits"][split])
        of_split, lengths = tokenize_split(path, tokenizer, arguments.max_length, dataset["pair"], embeddings)
        arrays |= {f"{split}_{name}": array for name, array in of_split.items()}
        truncated[split] = sum(length > arguments.max_length for length in lengths)
        tokens[split] = {
            "mean": round(float(np.mean(lengths)), 2),
            "p99": int(np.percentile(lengths, 99, method="higher")),
            "max": max(lengths),
        }
    described_by = arguments.output.with_name(f"{arguments.output.stem}.json")
    described_by.unlink(missing_ok=True)  # a killed call leaves none that tells of other tokens
    with atomic(arguments.output) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    write_json(
        described_by,
        {
            "max_length": arguments.max_length,
            "pad_token_id": tokenizer.pad_token_id,
            "num_labels": 1 if dataset["labels"] is None else len(dataset["labels"]),
            "labels": dataset["labels"],
            "task": dataset["task"],
            "truncated": truncated,
            "tokens": tokens,
            "rows": {split: dataset["splits"][split]["rows"] for split in tokens},
            "data_sha256": dataset["sha256"],
            "model_sha256": model["sha256"],
            "sha256": sha256(arguments.output),
        },
    )


if __name__ == "__main__":
    run(main)
