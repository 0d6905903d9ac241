"""Tokenise a data set's splits with a model's tokenizer, once for all runs, and write them as flat arrays.

Writes an .npz with, for each split s, {s}_input_ids (int32, all rows joined), {s}_token_type_ids (int8, where
the tokenizer returns them), {s}_offsets (int64 [n + 1]: row i is input_ids[offsets[i]:offsets[i + 1]]),
{s}_labels (int64 class index, or float64 value) and {s}_rows (int64, row in the source split). Beside it
stands a .json. Texts longer than --max-length are truncated and counted; `tokens` in the .json are lengths before
truncation.
"""

import argparse
import os
from pathlib import Path

from peft_tradeoffs.core.errors import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, type=Path, help="folder that fetch_dataset.py wrote")
    parser.add_argument("--model", required=True, type=Path, help="model folder, its manifest MODEL.json beside it")
    parser.add_argument("--max-length", required=True, type=int, metavar="N", help="most tokens of a row")
    parser.add_argument("--output", required=True, type=Path, metavar="NPZ", help="the .npz to write")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"

    from peft_tradeoffs.inputs.tokens import tokenize

    tokenize(arguments.data_dir, arguments.model, arguments.max_length, arguments.output)


if __name__ == "__main__":
    run(main)
