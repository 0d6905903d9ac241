"""Say what the rows of a fetched data set can decide, on stderr: what the plan could not count, or what trials showed.

Without --tunings-dir it is silent where the plan has said nearly the same. With it, arms are taken to disagree as often
as their trials do on dev rows.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from peft_tradeoffs.analysis.power import Asked, Design, told
from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.files import read_json
from peft_tradeoffs.core.text import wrapped
from peft_tradeoffs.runs.plan import disagreement

NEAR = 0.05  # a count that differs by less says the same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True, type=Path, help="folder that fetch_dataset.py wrote")
    parser.add_argument("--asked", required=True, metavar="JSON", help="what config.preflight.question gives")
    parser.add_argument("--tunings-dir", type=Path, metavar="DIR", help="holds {model}/{arm}.json of tune.py")
    arguments = parser.parse_args()
    asked = json.loads(arguments.asked)
    described = arguments.data_dir / "dataset.json"
    if not described.exists():  # a study that was brought home without its data
        return
    split = read_json(described)["splits"][asked["split"]]
    unit = "groups" if "groups" in split else "rows"
    count, name = split[unit], f"data set {arguments.data_dir.name}"
    design = Design(rows=count, seeds=asked["seeds"], arms=asked["arms"], disagree=asked["disagree"])
    if not design.decides:
        return
    question: dict[str, Any] = {key: asked[key] for key in ("margin", "baseline")} | {"unit": unit}
    question["of"] = f"{count:,} {'groups of ' if unit == 'groups' else ''}{asked['split']} rows"
    if arguments.tunings_dir is None:
        if abs(count - asked["said"]) > NEAR * count:
            words = told(design, Asked(**question, tuned=bool(asked["tuned"])))
            print(wrapped(f"note: {name}: {words}"), file=sys.stderr)
        return
    for model in asked["models"]:
        seen = disagreement(arguments.tunings_dir / model, asked["tuned"], asked["tuned_as"])
        if seen is not None:
            arm, differing, of = seen
            share = max(differing / of, 2 / (of + 2))  # none seen is not none
            shown = replace(design, disagree=share)
            pair = f"the trials of {arm} and {asked['tuned_as']} on {differing} of {of} dev rows"
            words = told(shown, Asked(**question, tuned=True, seen=pair))
            print(wrapped(f"note: {name}, model {model}, after tuning: {words}"), file=sys.stderr)


if __name__ == "__main__":
    run(main)
