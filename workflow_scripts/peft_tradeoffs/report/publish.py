"""Folders that can be pushed to a hub as they are: a run's weights beside their model card, nothing of the machine."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from peft_tradeoffs.analysis.finished import check_all, has_weights, read_env, verified
from peft_tradeoffs.analysis.run_files import weights_sha256
from peft_tradeoffs.analysis.tables import ARM, COMPLETED
from peft_tradeoffs.core import files, seal
from peft_tradeoffs.core.csv_text import to_csv
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.markdown_text import without_paths
from peft_tradeoffs.report.card import Subject, model_card

CARD = "README.md"
# What PEFT and Transformers write of where a model came from.
CONFIGS = ("adapter_config.json", "config.json", "tokenizer_config.json")
CLASSES = ("id2label", "label2id")  # in a model's config.json
INDEX = "index.csv"
# What a card reads of dataset.json.
DATASET: dict[str, tuple[type, ...]] = {
    **{"labels": (list, type(None)), "pair": (bool,), "source": (dict,), "splits": (dict,), "sha256": (str,)}
}


def publish(
    runs: pd.DataFrame,
    arms: pd.DataFrame,
    comparison: pd.DataFrame,
    datasets: dict[str, Any],
    runs_dir: Path,
    data_dir: Path,
    tokens_dir: Path,
    output: Path,
    keep_weights: bool = True,
) -> None:
    """Write {output}/{dataset}/{model}/{arm}/seed{seed} for each run that has weights, and index.csv over all runs.

    `runs`, `arms` and `comparison` are as of `tables.runs_frame`, `arms_frame` and `read_comparison`; `datasets` are
    the blocks of the configuration by name. index.csv says of a run without a folder why it has none: without
    `keep_weights`, that its weights are absent, too. Raises InputError for a block that is missing, and for a file of a
    run that is missing or not as it was published.
    """
    if unknown := set(runs["dataset"]) - set(datasets):
        raise InputError(f"--datasets: no block of the data set {min(unknown)}; give that of the configuration")
    rows = []
    of_arm = {tuple(row[key] for key in ARM): row for row in arms.to_dict("records")}
    for run in runs[[*ARM, "seed"]].to_dict("records"):
        names = [*(run[key] for key in ARM), f"seed{run['seed']}"]
        folder = runs_dir.joinpath(*names)
        summary = verified(folder)
        check_all(folder, summary, keep_weights)
        there = has_weights(folder, summary)
        sha256 = weights_sha256(summary) if there else None
        row = {**run, "folder": None, "library": None, "weights_sha256": sha256, "reason": _reason(summary, there)}
        if row["reason"] is None:
            subject = Subject(
                summary,
                read_env(folder, summary),
                of_arm[tuple(run[key] for key in ARM)],
                _compared(comparison, run),
                datasets[run["dataset"]],
                _read(data_dir / run["dataset"] / "dataset.json", DATASET),
                _read(tokens_dir / run["dataset"] / f"{run['model']}.json", {"max_length": (int,)}),
                str(sha256),
            )
            card = model_card(subject)
            weights = [folder / name for name in seal.weight_files(summary)]
            write_folder(weights, output.joinpath(*names), subject.base, str(card))
            row |= {"folder": "/".join(names), "library": card.data.library_name}
        rows.append(row)
    files.write_text(output / INDEX, to_csv(pd.DataFrame(rows)))


def write_folder(weights: Iterable[Path], target: Path, hub_id: str | None, card: str) -> None:
    """Put the files of a run's weights into `target`, whose content is replaced, with this card.

    Weights are hard links where the file system has them, so they take no room; the rest is copied, without the places
    of files on this machine (a base model's that is `hub_id` stays). The run's files are not changed.
    """
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for source in weights:
        copy = target / source.name
        if source.name in CONFIGS:
            saved = files.read_json(source)
            classes = {key: saved[key] for key in CLASSES if key in saved}  # a class may be called name_or_path
            files.write_json(copy, without_paths(saved, hub_id) | classes)
        elif source.suffix == ".safetensors":
            _link(source, copy)
        else:
            shutil.copyfile(source, copy)
    files.write_text(target / CARD, card)  # in place of PEFT's own, which has no numbers and a path


def _read(path: Path, kinds: dict[str, tuple[type, ...]]) -> dict[str, Any]:
    try:
        return files.read_object(path, kinds, "what this workflow writes", "delete it, and Snakemake makes it again")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; run the workflow's target `export`, which makes it") from None


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)


def _reason(summary: dict[str, Any], there: bool) -> str | None:
    """Why there is nothing to publish of a run; None if there is."""
    if summary["status"] != COMPLETED:
        return f"the run ended in status {summary['status']}"
    if not summary["pretrained"]:
        return "its base model has random weights, which nobody else has"
    if there:
        return None
    if summary[seal.WEIGHTS] == seal.NOT_KEPT:
        return "its weights were not kept (keep_weights is false)"
    return "its weights are absent, as keep_weights: false allows"


def _compared(comparison: pd.DataFrame, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    own = comparison[(comparison[ARM] == [run[key] for key in ARM]).all(axis=1)]
    return {row["split"]: row for row in own.to_dict("records")}
