"""Folders that can be pushed to a hub: a run's weights beside a model card with its numbers and how to load it."""

import json
import math
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from peft_tradeoffs.analysis.comparison_text import with_interval
from peft_tradeoffs.analysis.finished import check_all, has_weights, read_env, verified, weights_sha256
from peft_tradeoffs.analysis.readable import (
    NULL,
    escape_pipes,
    failed_counts,
    mean_sd,
    metric_places,
    number,
)
from peft_tradeoffs.analysis.tables import ARM, COMPLETED, OF_SPLIT, TENSORS, memory_key, with_tensors
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import to_csv
from peft_tradeoffs.core.layout import command
from peft_tradeoffs.core.text import (
    and_list,
    arm_label,
    fenced,
    literal,
    masked,
    one_line,
    plural,
    records,
    without_paths,
)
from peft_tradeoffs.report.export import described
from peft_tradeoffs.tasks.metrics import METRICS, Metric
from peft_tradeoffs.tasks.shown import metric_name, with_unit
from peft_tradeoffs.tasks.task import LABEL, TASKS, Task
from peft_tradeoffs.tasks.texts import GENERAL

SAVED = "OWNER/NAME"  # what a reader puts the repository's id, or a folder, in place of
OWN_BASE = "BASE"


def example(env: dict[str, Any], tokens: dict[str, Any], data: dict[str, Any], labels: list[str] | None = None) -> str:
    """A block of Python code that loads the run's weights and predicts one text, or goes on with it.

    `env`: the run's env.json; `tokens`: the description of its tokens; `data`: dataset.json, which says whether texts
    come in pairs; `labels`: the names of the classes, if they are few; of more, the file beside the adapter has them.
    """
    length = tokens["max_length"]
    texts = '"a text", "and its pair"' if data["pair"] else '"a text"'
    inputs = f"{texts}, truncation=True, max_length={length}"
    task = TASKS[env["settings"]["task"]]
    lines = _adapter(env, tokens, labels) if env["settings"]["peft"] else _checkpoint(task)
    if task.reader is not None:
        inputs, own = task.reader.prompt(data["source"]["form"])
        lines += own
    lines += task.usage(inputs, env.get("targets"))
    return fenced("\n".join(lines), "python")


def _checkpoint(task: Task) -> list[str]:
    return [
        "import torch",
        f"from transformers import {task.auto_class}, AutoTokenizer",
        "",
        f'saved = "{SAVED}"  # or this folder',
        "tokenizer = AutoTokenizer.from_pretrained(saved)",
        f"model = {task.auto_class}.from_pretrained(saved)",
    ]


def _adapter(env: dict[str, Any], tokens: dict[str, Any], labels: list[str] | None) -> list[str]:
    model, quantization, task = env["model"], env["settings"]["quantization"], TASKS[env["settings"]["task"]]
    lines = ["import torch", "from peft import PeftModel"]
    names = [task.auto_class, "AutoTokenizer", *(["BitsAndBytesConfig"] if quantization else [])]
    lines += [f"from transformers import {', '.join(names)}", "", f'saved = "{SAVED}"  # or this folder']
    if model["source"] == "hub":
        lines.append(f"base = {model['path']!r}")
        where = f"base, revision={model['revision']!r}"
    else:
        lines.append(f'base = "{OWN_BASE}"  # the folder of the base model, which is described below')
        where = "base"
    more, of_head = task.head_options(labels)
    lines += more
    labelled = task.reader is None
    options = [f"num_labels={tokens['num_labels']}", f"pad_token_id={tokens['pad_token_id']}"] if labelled else []
    options += of_head
    if quantization:
        fields = [f"{key}={value!r}" for key, value in quantization.items()]
        if labelled:  # a new head is never quantised, nor what some models have in it below another name
            skip = [name for part in model["head"] for name in (part, f"{part}.dense")]
            fields.append(f"llm_int8_skip_modules={skip!r}")
        lines.append(f"quantization = BitsAndBytesConfig({', '.join(fields)})")
        options.append("quantization_config=quantization")
    if labelled:
        options.append("ignore_mismatched_sizes=True")  # the base's head may have other classes; the adapter has ours
    return [
        *lines,
        f"tokenizer = AutoTokenizer.from_pretrained({where})",
        f"model = {task.auto_class}.from_pretrained({', '.join([where, *options])})",
        "model = PeftModel.from_pretrained(model, saved)",
    ]


NOT_SETTINGS = ("dataset", "model", "arm", "method", "rank", "allow_shared_gpu", "save_weights")
FEW = 20  # class names that are worth listing


@dataclass(frozen=True)
class Subject:
    """What there is to say of one run's weights."""

    run: dict[str, Any]  # summary.json
    env: dict[str, Any]  # env.json
    arm: dict[str, Any]  # row of `tables.arms_frame`
    compared: dict[str, dict[str, Any]]  # rows of `comparison.comparison_frame`, by split
    dataset: dict[str, Any]  # its block of the configuration
    data: dict[str, Any]  # its dataset.json
    tokens: dict[str, Any]  # what tokenize_dataset.py wrote beside the tokens
    weights_sha256: str

    @property
    def metric(self) -> Metric:
        """The metric that the run reports."""
        return METRICS[self.run["metric"]]

    @property
    def is_adapter(self) -> bool:
        """Whether the weights are a PEFT method's."""
        return self.env["settings"]["peft"] is not None

    @property
    def base(self) -> str | None:
        """Hub id of the base model; None where it is not from the hub."""
        model = self.env["model"]
        return model["path"] if model["source"] == "hub" else None

    @property
    def name(self) -> str:
        """What the model is called in its card."""
        run = self.run
        return f"{run['arm']} of {run['model']} on {run['dataset']}, seed {run['seed']}"


def model_card(subject: Subject) -> ModelCard:
    """The card. It names no path of this machine; licence and language are not known, so they are not stated."""
    labels = subject.data["labels"]
    parts = [
        f"# {subject.name}",
        _about(subject),
        "## How to load it",
        example(subject.env, subject.tokens, subject.data, labels if labels and len(labels) <= FEW else None),
        "## Numbers",
        _numbers(subject),
        "## Data",
        _data(subject),
        "## Training",
        _training(subject),
    ]
    return Card(f"---\n{metadata(subject).to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")


class Metadata(ModelCardData):
    """A card's metadata with every text in quotes, so that YAML 1.1 and 1.2 read it as one: 1e3, no, 12:30, ~."""

    def to_yaml(self, line_break: str | None = None, original_order: list[str] | None = None) -> str:
        """The YAML block."""
        if original_order:
            order = {key: place for place, key in enumerate(original_order)}
            self.__dict__ = dict(sorted(self.__dict__.items(), key=lambda item: order.get(item[0], len(order))))
        text = yaml.dump(
            self.to_dict(), Dumper=Quoting, sort_keys=False, allow_unicode=True, width=math.inf, line_break=line_break
        )
        return text.strip()


class Quoting(yaml.SafeDumper):
    """Texts in double quotes, but for keys."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        """Keys, which are the hub's words, without quotes."""
        node = super().represent_mapping(tag, mapping, flow_style)
        for key, _ in node.value:
            key.style = None
        return node


Quoting.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))


class Card(ModelCard):
    """A card whose metadata are quoted whenever it is written."""

    card_data_class = Metadata


def metadata(subject: Subject) -> Metadata:
    """What the hub reads of the card."""
    settings, base = subject.env["settings"], subject.base
    tags = ["peft-tradeoffs"]
    if subject.is_adapter:
        tags += [settings["peft"]["peft_type"].lower(), *([f"base_model:adapter:{base}"] if base else [])]
    if settings["quantization"]:
        tags.append("bitsandbytes")
    on_hub = [subject.dataset["path"]] if subject.dataset["source"] == "hub" else None
    results = _results(subject)
    return Metadata(
        model_name=subject.name,
        base_model=base,
        base_model_relation=("adapter" if subject.is_adapter else "finetune") if base else None,
        library_name="peft" if subject.is_adapter else "transformers",
        pipeline_tag=TASKS[settings["task"]].pipeline_tag,
        tags=tags,
        datasets=on_hub,
        metrics=[subject.metric.on_hub],
        eval_results=results or None,
    )


def _results(subject: Subject) -> list[EvalResult]:
    """The run's metric on each split; none where it is undefined."""
    run, block = subject.run, subject.dataset
    hub = block["source"] == "hub"
    return [
        EvalResult(
            task_type=TASKS[run["task"]].pipeline_tag,
            dataset_type=block["path"] if hub else run["dataset"],
            dataset_name=run["dataset"],
            dataset_config=block["config"] if hub else None,
            dataset_split=block.get("splits", {}).get(split, split) if hub else split,
            dataset_revision=block["revision"] if hub else None,
            metric_type=subject.metric.on_hub,
            metric_name=metric_name(run),
            metric_value=run[key],
        )
        for split, (key, _) in OF_SPLIT.items()
        if run[key] is not None
    ]


def _about(subject: Subject) -> str:
    run = subject.run
    what = f"{arm_label(run['method'], run['rank'])} adapter" if subject.is_adapter else "Full fine-tune"
    lines = [
        f"{what} of {_base(subject)}, trained for {run['task']} by peft-tradeoffs, a workflow that compares "
        "fine-tuning methods on the same data, batches and steps.",
        "The licences of the base model and of the data apply; this card does not know them.",
    ]
    return " ".join(lines)


def _base(subject: Subject) -> str:
    """The base model for a reader; of a folder its name in the configuration."""
    made_from = subject.env["model"].get("dequantised_from")
    if made_from is None:
        return _origin(subject)
    kind = made_from["file_type"] or ", ".join(made_from["tensor_types"])
    return f"{_origin(subject)} (its weights are those of the GGUF file {literal(made_from['file'])}, {kind})"


def _origin(subject: Subject) -> str:
    model = subject.env["model"]
    match model["source"]:
        case "hub":
            return f"{literal(model['path'])} at revision {literal(model['revision'])}"
        case "wheel":
            return f"the model in the Python package {literal(model['path'])}"
    return f"a model that its owner calls {literal(subject.run['model'])}"


def _numbers(subject: Subject) -> str:
    """One row per number: of this run, over the arm's runs, and how it was taken."""
    run, arm = with_tensors(subject.run), subject.arm
    rows, notes = [], []
    for split, (key, examples) in OF_SPLIT.items():
        if split == "test" or run[examples] is not None:
            metric = subject.metric
            own = NULL if run[key] is None else number(run[key] * metric.scale, metric.decimals)
            mean, note = _interval(subject, split)
            notes += note
            label = with_unit(f"{metric_name(run)} on {run[examples]:,} {split} examples", run)
            rows.append((label, own, mean, key))
    asked = run["forgetting"] is not None
    for label, key in (
        *((("Forgetting: loss on a general text, after less before, nats per token", "forgetting"),) if asked else ()),
        (LABEL[memory_key(run["device"])], memory_key(run["device"])),
        ("Training time, s", "train_s"),
        ("Energy, J", "energy_J"),
        ("Energy, J per row", "energy_J_per_sample"),
        ("Trained weights", "trainable_parameters"),
    ):
        mean = mean_sd(arm, key) if f"{key}_mean" in arm and key != TENSORS else ""  # of which every run has the same
        rows.append((label, number(run[key], 0 if key == "trainable_parameters" else None), mean, key))
    cells = [
        [label, own, mean, described(key) if own != NULL else f"not measured: {run['null_reasons'].get(key, '')}"]
        for label, own, mean, key in rows
    ]
    header = ["", "This run", f"Mean of {arm['n']} {plural('seed', arm['n'])}", "How it was taken"]
    lines = [header, [":--", "--:", "--:", ":--"], *cells]
    table = "\n".join(f"| {' | '.join(escape_pipes(one_line(cell)) for cell in line)} |" for line in lines)
    notes.append("±: sample standard deviation over seeds.")
    if run["energy_window_short"]:
        notes.append("The energy was measured over less than 30 s.")
    if run["shared_gpu"]:
        notes.append("Another process was on the GPU: times and energy are not this run's alone.")
    if arm["n_failed"]:
        notes.append(f"Of the arm's runs, {failed_counts(arm['failures'])}; no mean has them.")
    if not pd.isna(arm["differs"]):
        notes.append(f"The arm differs {one_line(arm['differs'])}.")
    return f"{table}\n\n{' '.join(notes)}"


def _interval(subject: Subject, split: str) -> tuple[str, list[str]]:
    """The arm's mean with its 95 % interval, and what that is over."""
    row = subject.compared.get(split)
    if row is None or pd.isna(row["mean"]):
        return NULL, []
    metric = subject.metric
    for low, high, over in (
        ("low", "high", "other seeds and other examples"),
        ("seeds_low", "seeds_high", "other seeds alone"),
    ):
        if not pd.isna(row[low]):
            bounds = np.clip([row[low], row[high]], *metric.bounds)
            text = with_interval(row["mean"], bounds[0], bounds[1], metric.scale, places=metric_places(metric.name))
            return text, [f"In brackets: 95 % interval over {over} ({split})."] if "[" in text else []
    return with_interval(row["mean"], None, None, metric.scale), [f"No interval ({split}): {row['reason']}."]


def _data(subject: Subject) -> str:
    """Where the data come from: a hub's revision, packages' versions, or the checksums of files, never their paths."""
    source, block = subject.data["source"], subject.dataset
    match source["source"]:
        case "hub":
            config = f", configuration {literal(source['config'])}" if source["config"] else ""
            origin = f"{literal(source['path'])} on the hub at revision {literal(source['revision'])}{config}"
        case "docstrings":
            versions = ", ".join(literal(f"{name}=={version}") for name, version in source["packages"].items())
            labelled = TASKS[subject.run["task"]].reader is None
            origin = f"docstrings of {versions}{'; the label is the package' if labelled else ''}"
        case _:
            files = [f"{split} {literal(file['sha256'])}" for split, file in sorted(source["files"].items())]
            origin = f"files of the owner's, by SHA-256: {', '.join(files)}"
    lines = [f"Source: {origin}."]
    cut = f"cut at {subject.tokens['max_length']} tokens"
    if (reader := TASKS[subject.run["task"]].reader) is not None:
        *before, last = map(literal, reader.form("datasets", block).columns)
        lines.append(f"Learned: {last}{f', after {and_list(before)}' if before else ''}, {cut}.")
    elif "text" in block:
        texts = " and ".join(map(literal, block["text"]))
        lines.append(f"Text: {texts}, {cut}. Label: {literal(block['label'])}.")
    carved = block["fractions"]
    for split, about in subject.data["splits"].items():
        text = f"{split}: {about['rows']:,} rows"
        if split in carved:
            text += f", a fraction of {carved[split]:g} carved from train"
        elif split == GENERAL:
            text += ", a general text, for forgetting alone"
        elif source["source"] == "hub":
            text += f", the data set's split {literal(block['splits'][split])}"
        lines.append(f"{text}.")
    names = subject.data["labels"]
    if names and len(names) <= FEW:
        classes = ", ".join(f"{index} is {literal(name)}" for index, name in enumerate(names))
        lines.append(f"Classes: {classes}.")
    return "\n".join(f"- {line}" for line in lines)


def _training(subject: Subject) -> str:
    run, env = subject.run, subject.env
    settings = {key: value for key, value in env["settings"].items() if key not in NOT_SETTINGS}
    versions = ", ".join(f"{name} {version}" for name, version in env["versions"].items() if version)
    head = ", ".join(map(literal, env["head"]["modules"]))
    lines = [
        f"{run['steps']:,} steps of {run['batch_size']} rows, seed {run['seed']}, on {one_line(run['device_name'])}.",
        *([f"The head, trained in full in every arm: {head}."] if head else []),
        f"Versions: {versions}.",
        f"SHA-256 of the base model's files {literal(env['model']['sha256'])}, of the data "
        f"{literal(subject.data['sha256'])}, of these weights {literal(subject.weights_sha256)}.",
        f"Fingerprint of settings, data, model, code and versions: {literal(run['fingerprint'])}.",
        "Every setting:",
    ]
    shown = json.dumps(masked(without_paths(settings, None)), indent=2, ensure_ascii=False)
    return "\n".join(f"- {line}" for line in lines) + f"\n\n{fenced(shown, 'json')}"


CARD = "README.md"
# What PEFT and Transformers write of where a model came from.
CONFIGS = ("adapter_config.json", "config.json", "tokenizer_config.json")
CLASSES = ("id2label", "label2id")  # in a model's config.json
INDEX = "index.csv"
# What a card reads of dataset.json.
DATASET: dict[str, tuple[type, ...]] = {
    **{"labels": (list, type(None)), "pair": (bool,), "source": (dict,), "splits": (dict,), "sha256": (str,)}
}


@dataclass(frozen=True)
class Folders:
    """Where what is published comes from, and where it goes."""

    runs: Path  # holds {dataset}/{model}/{arm}/seed{seed}
    data: Path  # {dataset}/dataset.json
    tokens: Path  # {dataset}/{model}.json
    output: Path


def publish(
    runs: pd.DataFrame,
    arms: pd.DataFrame,
    comparison: pd.DataFrame,
    datasets: dict[str, Any],
    folders: Folders,
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
    of_arm = {tuple(row[key] for key in ARM): row for row in records(arms)}
    for run in records(runs[[*ARM, "seed"]]):
        names = [*(run[key] for key in ARM), f"seed{run['seed']}"]
        folder = folders.runs.joinpath(*names)
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
                _read(folders.data / run["dataset"] / "dataset.json", DATASET),
                _read(folders.tokens / run["dataset"] / f"{run['model']}.json", {"max_length": (int,)}),
                str(sha256),
            )
            card = model_card(subject)
            weights = [folder / name for name in files.weight_files(summary)]
            write_folder(weights, folders.output.joinpath(*names), subject.base, str(card))
            row |= {"folder": "/".join(names), "library": card.data.library_name}
        rows.append(row)
    files.write_text(folders.output / INDEX, to_csv(pd.DataFrame(rows)))


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
        raise InputError(f"{path}: no such file; run `{command('export')}`, which makes it") from None


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
    if summary[files.WEIGHTS] == files.NOT_KEPT:
        return "its weights were not kept (keep_weights is false)"
    return "its weights are absent, as keep_weights: false allows"


def _compared(comparison: pd.DataFrame, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    own = comparison[(comparison[ARM] == [run[key] for key in ARM]).all(axis=1)]
    return {row["split"]: row for row in records(own)}
