"""Where things stand, and the options by which scripts are told of a grid of runs."""

import argparse
import functools
import itertools
import json
import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[3]
SCRIPTS = REPOSITORY / "workflow_scripts"
SCHEMAS = REPOSITORY / "schemas"
TEXTS = ("$comment", "title", "description")  # keywords of a JSON schema that decide nothing
VALIDATION = "validation"  # the split that trials are judged on, where a data set has it
AXES = ("dataset", "model", "arm", "seed")
# What report.html is made of, in report/page: template, style, scripts in their order, licences of what it takes in.
PAGE = ("page.html.j2", "page.css", "page.js", "charts.js", "table.js", "answers.js", "main.js", "licences.txt")
TEMPLATES = Path("report", "templates")  # of the sentences beside tables: in the repository
# Every table of a sweep, in the page's order: the title of its section, and where Snakemake's report lists it.
TABLES = {
    "comparison": ("Differences to the baseline, with tests", "Comparisons"),
    "arms": ("Arms", "Results"),
    "untrained": ("Before any training: what the model as it is fetched writes", "Results"),
    "runs": ("Runs", "Results"),
    "memory": ("What memory went to", "Results"),
    "attribution": ("What each factor of the factorial changes", "Comparisons"),
    "equal_cost": ("The metric at equal time or energy", "Comparisons"),
    "equal_memory": ("Each arm at the largest batch under a cap", "Comparisons"),
    "forgetting": ("What was forgotten: the loss on a general text", "Comparisons"),
    "tuning": ("Learning rates tried", "Checks"),
    "noise": ("How far identical runs lie apart", "Checks"),
    "cost": ("Total cost", "Results"),
    "profiles": ("Profiles: eager, captured and compiled steps side by side", "Checks"),
    "imported": ("Published elsewhere, not measured here", "Comparisons"),
    "contract": ("Fair comparison: what all arms have alike, and what differs", "Checks"),
}
# Every figure by name: the module of report whose function of that name draws it.
FIGURES = {
    "metric_by_arm": "bars",
    "peak_memory_by_arm": "bars",
    "memory_split_by_arm": "bars",
    "trainable_parameters_by_arm": "bars",
    "accuracy_gain_per_million_by_arm": "bars",
    "samples_per_s_by_arm": "bars",
    "energy_by_arm": "bars",
    "metric_vs_memory": "scatter",
    "metric_vs_trainable_parameters": "scatter",
    "metric_vs_samples_per_s": "scatter",
    "metric_vs_rank": "lines",
    "speed_vs_rank": "lines",
    "best_by_method": "bars",
    "learning_curves": "lines",
}
TUNING_FIGURES = {"learning_rate_grid": "lines"}  # drawn where rates were tuned
UNTRAINED = "untrained"  # what is no arm: the model as it is fetched; its folder, its table and its name for readers
HEAD = "head.json"  # beside an adapter: what Transformers must be given, beside the base model, to make its head

COMMAND = "PEFT_TRADEOFFS_COMMAND"  # of the environment: how Snakemake was called, before a target's name and behind it


def tell_command(words: Sequence[str]) -> None:
    """Keep of Snakemake's command line, for this process and its jobs, what another target has to be called with."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in ("--snakefile -s", "--directory -d", "--workflow-profile", "--profile", "--cores -c"):
        parser.add_argument(*option.split())
    for option in ("--configfile --configfiles", "--config -C"):
        parser.add_argument(*option.split(), nargs="+")
    try:
        given = parser.parse_known_args(words)[0]._get_kwargs()  # noqa: SLF001  (vars() hides what is read)
    except argparse.ArgumentError:
        return
    told = {name: value for name, value in given if value is not None}
    if not {"profile", "cores"} & set(told) and "SNAKEMAKE_PROFILE" not in os.environ:
        told["profile"] = "profiles/local" if Path("profiles/local").is_dir() else str(REPOSITORY / "profiles/local")
    behind = [f"--configfile={told['configfile'][0]}", *told.pop("configfile")[1:]] if "configfile" in told else []
    behind += ["--config", *told.pop("config")] if "config" in told else []
    before = [word for name, value in told.items() for word in (f"--{name.replace('_', '-')}", value)]
    os.environ[COMMAND] = json.dumps([shlex.join(before), shlex.join(behind)])


def command(target: str) -> str:
    """How a target is called for the configuration in use, as a person types it."""
    before, behind = json.loads(os.environ.get(COMMAND, '["", ""]'))
    return " ".join(filter(None, ("snakemake", before, target, behind)))


def sweep_figures(arms: Iterable[tuple[str, float | None]]) -> dict[str, str]:
    """By name, "sweep_lora" and so on: the method that such a figure is of, one with several ranks.

    `arms`: method and rank of each, None without one.
    """
    ranks: dict[str, set[float]] = {}
    for method, rank in arms:
        ranks.setdefault(method, set()).update([] if rank is None else [rank])
    return {f"sweep_{method}": method for method, own in ranks.items() if len(own) > 1}


@functools.cache
def json_schema(name: str, folder: Path = SCHEMAS) -> dict[str, Any]:
    """A schema that is written as JSON, "summary", "peft" or "metrics", without its texts. Not to be changed.

    What it says counts as code where the name is written out (core/code.py). Texts are published from
    core/quantities.py, so that none in a schema's file runs anything again.
    """
    schema = json.loads((folder / f"{name}.schema.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = _without_texts(schema)
    return found


def _without_texts(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_without_texts(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: _without_texts(of) for key, of in schema.items() if not (key in TEXTS and isinstance(of, str))}


def add_grid(parser: argparse.ArgumentParser) -> None:
    """The option --grid."""
    parser.add_argument(
        "--grid",
        type=json.loads,
        required=True,
        metavar="JSON",
        help='{"dataset": [...], "model": [...], "arm": [...], "seed": [...]}: the runs are all combinations',
    )


def add_runs(parser: argparse.ArgumentParser) -> None:
    """The options --runs-dir and --grid."""
    parser.add_argument(
        "--runs-dir",
        type=Path,
        required=True,
        metavar="DIR",
        help="holds one folder {dataset}/{model}/{arm}/seed{seed} per run",
    )
    add_grid(parser)


def add_keep_weights(parser: argparse.ArgumentParser) -> None:
    """The option --no-keep-weights."""
    parser.add_argument(
        "--no-keep-weights",
        dest="keep_weights",
        action="store_false",
        help="weights may be absent: keep_weights is false, or the runs were brought here without them",
    )


def add_contract(parser: argparse.ArgumentParser) -> None:
    """The option --contract."""
    parser.add_argument(
        "--contract", type=Path, required=True, metavar="CSV", help="contract.csv of check_contract.py over these runs"
    )


def add_noise(parser: argparse.ArgumentParser) -> None:
    """The option --noise."""
    parser.add_argument(
        "--noise",
        type=Path,
        metavar="CSV",
        help="noise.csv of measure_noise.py; without it, time and energy of seeds that share a job have no interval",
    )


def add_tokens(parser: argparse.ArgumentParser) -> None:
    """The option --tokens-dir."""
    parser.add_argument(
        "--tokens-dir",
        type=Path,
        metavar="DIR",
        help="holds {dataset}/{model}.json of tokenize_dataset.py, whose warnings are shown; without it none are",
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """The option --data-dir."""
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="holds {dataset}/dataset.json of fetch_dataset.py, whose warnings are shown; without it none are",
    )


def run_folder(runs_dir: Path, dataset: str, model: str, arm: str, seed: int) -> Path:
    """The folder of a run."""
    return runs_dir / dataset / model / arm / f"seed{seed}"


def summaries(runs_dir: Path, grid: dict[str, list[Any]]) -> list[Path]:
    """The summary.json of every run of a grid."""
    runs = itertools.product(*(grid[axis] for axis in AXES))
    return [run_folder(runs_dir, *run) / "summary.json" for run in runs]
