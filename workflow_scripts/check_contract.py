"""Check what the runs recorded against the contract: which facts the arms have alike, and in what they differ.

Reads every run of a grid and writes contract as .csv, .md and .tex. A file that is not as its run published it, weights
and predictions too, is an error, a line each. With --strict it writes nothing where arms differ in more than they
declare, but ends with an error, one line per difference.
"""

import argparse
import json
from pathlib import Path

from peft_tradeoffs.core.errors import InputError, run
from peft_tradeoffs.core.files import to_csv
from peft_tradeoffs.core.layout import add_keep_weights, add_runs


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_runs(parser)
    add_keep_weights(parser)
    parser.add_argument("--baseline", required=True, metavar="ARM", help="the arm that the others are compared with")
    parser.add_argument(
        "--declared",
        type=json.loads,
        default={},
        metavar="JSON",
        help='{"lora-r8": ["dtype"], ...}: facts that arms have otherwise on purpose (default: none)',
    )
    parser.add_argument(
        "--tunings-dir", type=Path, required=True, metavar="DIR", help="holds {dataset}/{model}/{arm}.json of tune.py"
    )
    parser.add_argument("--strict", action="store_true", help="refuse differences that are not declared")
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="folder the tables go to")
    return parser.parse_args()


def earlier(tables: Path) -> list[Path]:
    """Where tables and figures of an earlier state are, beside the folder of the tables."""
    folders = (folder for folder in (tables, tables.parent / "figures") if any(folder.glob("**/*.*")))
    return [*folders, *(path for path in [tables.parent / "report.html"] if path.exists())]


def main() -> None:
    """Write the tables, or refuse."""
    args = arguments()
    if args.baseline not in args.grid["arm"]:
        raise InputError(f"--baseline: no arm {args.baseline!r} in --grid, which has {', '.join(args.grid['arm'])}")
    from peft_tradeoffs.analysis.contract import compare, read_grid, refusal, undeclared

    runs = read_grid(args.runs_dir, args.tunings_dir, args.grid, args.keep_weights)
    findings = {pair: compare(own, args.baseline, args.declared) for pair, own in runs.items()}
    if args.strict and any(map(undeclared, findings.values())):
        raise InputError(refusal(findings, runs, earlier(args.output_dir)))
    from peft_tradeoffs.analysis.contract import contract_frame, contract_latex, contract_markdown, contract_notes
    from peft_tradeoffs.core.files import write_text

    frame = contract_frame(runs, findings, args.declared)
    notes = {
        pair: contract_notes(frame[(frame["dataset"] == pair[0]) & (frame["model"] == pair[1])], own, args.declared)
        for pair, own in runs.items()
    }
    write_text(args.output_dir / "contract.csv", to_csv(frame))
    write_text(args.output_dir / "contract.md", contract_markdown(frame, notes))
    write_text(args.output_dir / "contract.tex", contract_latex(frame, notes))


if __name__ == "__main__":
    run(main)
