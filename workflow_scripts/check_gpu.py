"""Try the GPU of this job as training uses it, before a day of work is queued; a minute or two.

Reports the GPU, its driver and the libraries, takes a few captured steps of a tiny model, full and QLoRA, and ends with
one line, the verdict. Ends with status 1 if a GPU was asked for and is not there or does not work.
"""

import argparse
import os
import sys
import warnings
from pathlib import Path

from peft_tradeoffs.core.errors import run

os.environ["HF_HUB_OFFLINE"] = "1"


def main() -> None:
    """Print the report, and write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True, help="the config's training.device")
    parser.add_argument(
        "--precision", choices=["fp32", "bf16", "fp16"], required=True, help="the config's training.precision"
    )
    parser.add_argument("--allow-shared-gpu", action="store_true", help="the config's training.allow_shared_gpu")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="gets the report")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")

    import transformers
    from peft_tradeoffs.core.files import write_text
    from peft_tradeoffs.training import gpu_check

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    report, good = gpu_check.check(args.device, args.precision, args.allow_shared_gpu)
    write_text(args.output, report)
    print(report, end="", flush=True)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    run(main)
