"""Build every arm of a model without weights, so that a wrong PEFT field, target or head fails before training.

Writes the number of trainable parameters of each arm.
"""

import argparse
import json
import os
from pathlib import Path

from peft_tradeoffs import errors, files

os.environ["HF_HUB_OFFLINE"] = "1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, type=Path, help="model folder")
    parser.add_argument("--arms", required=True, type=json.loads, help="JSON: arm name to PEFT block or null")
    parser.add_argument("--head", type=json.loads, default=None, help="JSON: head modules, null for the default")
    parser.add_argument("--output", required=True, type=Path)
    arguments = parser.parse_args()

    from peft_tradeoffs import methods

    counts = {}
    for arm, peft in arguments.arms.items():
        model = methods.empty_model(arguments.model)
        head = methods.head_modules(model, arguments.head)
        if peft:
            try:
                model = methods.add_adapter(model, peft, head)
            except errors.InputError as error:
                raise errors.InputError(f"arm {arm}: {error}") from error
        counts[arm] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    files.write_json(arguments.output, {"head": head, "trainable_parameters": counts})


if __name__ == "__main__":
    errors.run(main)
