"""Write schemas/summary.schema.json and schemas/metrics.schema.json: what a run records.

Both follow from core/quantities.py and the metrics. Run it again after a change of either.
"""

import argparse
from pathlib import Path

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.files import write_json
from peft_tradeoffs.core.layout import SCHEMAS
from peft_tradeoffs.tasks.recorded import evaluation_schema, summary_schema


def main() -> None:
    """Parse the command line and write the schemas."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output-dir", type=Path, default=SCHEMAS, metavar="DIR", help="folder of the schemas")
    folder = parser.parse_args().output_dir
    write_json(folder / "summary.schema.json", summary_schema())
    write_json(folder / "metrics.schema.json", evaluation_schema())


if __name__ == "__main__":
    run(main)
