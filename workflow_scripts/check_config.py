"""Check a configuration without Snakemake, which would run Python that stands in it.

Reads the files as `snakemake --configfile` lays them over each other (config.yaml first, unless one names data sets),
and says in one line what is wrong, or what the experiment is. Nothing in the files is run and nothing is written.
"""

import argparse
from pathlib import Path

from peft_tradeoffs.config.file import check_file
from peft_tradeoffs.core.errors import run

DEFAULT = Path("config.yaml")  # the reference benchmark's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, default=[DEFAULT], metavar="FILE", help="default: config.yaml")
    arguments = parser.parse_args()

    contents = [check_file(path) for path in arguments.files]
    if not any("datasets" in content for content in contents):
        contents.insert(0, check_file(DEFAULT))

    from peft_tradeoffs.config.experiment import resolve
    from peft_tradeoffs.config.preflight import check_arms, check_paths, check_planned
    from snakemake.utils import update_config

    merged: dict = {}
    for content in contents:
        update_config(merged, content)
    experiment = resolve(merged)
    check_paths(experiment)
    check_arms(experiment)
    check_planned(experiment)
    print(
        f"{len(experiment.datasets)} data set(s), {len(experiment.models)} model(s), {len(experiment.arms)} arm(s): "
        f"{', '.join(experiment.arms)}; {len(experiment.seeds)} seed(s); results in {experiment.output}"
    )


if __name__ == "__main__":
    run(main)
