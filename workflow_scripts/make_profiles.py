"""Make what readers see of the profiles: all arms side by side, the top operators and the memory of each.

Writes index.csv and index.md into --profiles-dir and, into the folder of each arm, operators.md, memory.svg and
memory.png.
"""

import argparse
import itertools
import json
from pathlib import Path

from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.files import to_csv

REMEDY = "delete the folder, and Snakemake profiles that arm again"


def main() -> None:
    """Write the tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--profiles-dir", type=Path, required=True, metavar="DIR", help="holds a folder {dataset}/{model}/{arm} each"
    )
    parser.add_argument(
        "--grid",
        type=json.loads,
        required=True,
        metavar="JSON",
        help='{"dataset": [...], "model": [...], "arm": [...]}: profiled are all combinations',
    )
    args = parser.parse_args()
    from peft_tradeoffs.analysis.tables import read_table
    from peft_tradeoffs.core.files import read_object, write_text
    from peft_tradeoffs.report import style
    from peft_tradeoffs.report.profiles import index_frame, index_text, memory_figure, operators_text

    arms = []
    for values in itertools.product(*args.grid.values()):
        place = dict(zip(args.grid, values, strict=True))
        folder = args.profiles_dir.joinpath(*values)
        engines, operators, memory = (
            read_table(folder / f"{name}.csv", (), REMEDY) for name in ("engines", "operators", "memory")
        )
        env = read_object(folder / "env.json", {"problems": (list,), "settings": (dict,)}, "a profile's", REMEDY)
        title = f"{place['arm']} · {place['dataset']}, {place['model']}"
        text = operators_text(f"Profile of {title}", operators, engines, env["problems"])
        write_text(folder / "operators.md", text)
        figure = memory_figure(memory, f"Memory of a training step · {title}", env["settings"]["device"])
        style.save(figure, folder, "memory")
        arms.append((place, engines, operators, memory))
    frame = index_frame(arms)
    write_text(args.profiles_dir / "index.csv", to_csv(frame))
    write_text(args.profiles_dir / "index.md", index_text(frame))


if __name__ == "__main__":
    run(main)
