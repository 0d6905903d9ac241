"""Carve from the train split the dev split on which learning rates are tuned, once for all trials.

Writes tokens as tokenize_dataset.py does, but of train alone: `train` is what is left of it, `test` the dev split. The
reported test split is not in the file, so tuning cannot look at it.
"""

import argparse
from pathlib import Path

from peft_tradeoffs.core.errors import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", required=True, type=Path, metavar="NPZ", help="tokenised splits, .json beside it")
    parser.add_argument("--fraction", required=True, type=float, help="share of train's texts carved off")
    parser.add_argument("--seed", required=True, type=int, help="of the draw")
    parser.add_argument("--output", required=True, type=Path, metavar="NPZ", help="the .npz to write, .json beside it")
    arguments = parser.parse_args()

    import numpy as np
    from peft_tradeoffs.core.files import atomic, sha256, write_json
    from peft_tradeoffs.inputs.tokens import carve, load_tokens

    splits, description = load_tokens(arguments.tokens)
    train, dev = carve(splits["train"], arguments.fraction, arguments.seed)
    arrays = {}
    for name, split in (("train", train), ("test", dev)):
        fields = {key: getattr(split, key) for key in ("input_ids", "token_type_ids", "offsets", "labels", "rows")}
        arrays |= {f"{name}_{key}": value for key, value in fields.items() if value is not None}
    with atomic(arguments.output) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    write_json(
        arguments.output.with_suffix(".json"),
        {
            **{key: description[key] for key in ("max_length", "pad_token_id", "num_labels", "labels", "task")},
            "rows": {"train": len(train), "test": len(dev)},
            # Which of the texts that have max_length tokens were longer is not known any more.
            "truncated": dict.fromkeys(("train", "test"), None if description["truncated"]["train"] else 0),
            "carved_from_sha256": description["sha256"],
            "sha256": sha256(arguments.output),
        },
    )


if __name__ == "__main__":
    run(main)
