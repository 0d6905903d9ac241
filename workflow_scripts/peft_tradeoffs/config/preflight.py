"""What can be checked before any job starts: inputs, what is in them, what earlier calls wrote, what rows can decide.

The content of a file decides what is run again, whatever its date. Checksums of large files are remembered beside
Snakemake's own records, so that a plan reads no gigabytes twice.
"""

import ast
import contextlib
import filecmp
import functools
import hashlib
import itertools
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from peft_tradeoffs.analysis import power
from peft_tradeoffs.analysis.contract import DIFFERS, NOT_STRICT, Finding, compare, or_declare, unlike_text
from peft_tradeoffs.analysis.finished import FACTS, TUNING, Recorded
from peft_tradeoffs.config.experiment import Arm, Experiment
from peft_tradeoffs.config.model import Dataset, Model, Scorer, Tokenizer
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import is_weight, read_object
from peft_tradeoffs.core.layout import command
from peft_tradeoffs.core.text import arm_label, wrapped
from peft_tradeoffs.inputs.data_files import check_head, count_rows
from peft_tradeoffs.inputs.groups import GROUPS, needed_columns
from peft_tradeoffs.inputs.model_check import check_folder
from peft_tradeoffs.inputs.model_files import (
    check_gguf,
    check_targets,
    folder_files,
    gguf_file,
    refuse_no_tokenizer,
    required_files,
    tokenizer_files,
)
from peft_tradeoffs.measure import machine
from peft_tradeoffs.tasks.metrics import METRICS
from peft_tradeoffs.tasks.outputs import LIBRARIES, SCORED
from peft_tradeoffs.tasks.task import TASKS
from peft_tradeoffs.tasks.texts import GENERAL, OF_TOKENIZER, refuse_date

REMEMBERED = Path(".snakemake/peft_tradeoffs_checksums.json")
SMALL = 2**20  # bytes; such a file is read in a millisecond
SLOW = 2 * 2**30  # bytes; it takes seconds
SETTLED_S = 2.0  # a file that changed later than this may change again without another time
# What is read of a model's manifest, with the types that it has.
MANIFEST: dict[str, tuple[type, ...]] = {
    "source": (str,),
    "path": (str, type(None)),
    "revision": (str, type(None)),
    "modules": (list,),
    "linear": (list,),
}


def check_paths(experiment: Experiment) -> None:
    """Raise InputError for data or a model that is not there or not whole, or an output folder that cannot be written.

    Of a data file it reads the head alone; what its rows hold is the data set's own job.
    """
    for name, dataset in experiment.datasets.items():
        if dataset.chat_template not in (None, OF_TOKENIZER):
            _check_template(f"config key datasets.{name}.chat_template", dataset.chat_template)
        if dataset.source == "files":
            assert dataset.splits  # which the schema requires of files
            for split, path in dataset.splits.items():
                columns = needed_columns(dataset.to_dict(), split)
                _check_file(f"config key datasets.{name}.splits.{split}", path, columns, dataset.separator)
            _check_distinct_files(f"config key datasets.{name}.splits", dataset.splits)
        if dataset.generate is not None:
            versions_of_scoring()
        if dataset.scorer is not None:
            check_scorer(f"config key datasets.{name}.scorer.python", dataset.scorer)
        if (general := dataset.forgetting) is not None and general.source == "files":
            assert general.path and general.text  # which the schema requires of files
            _check_file(f"config key datasets.{name}.forgetting.path", general.path, general.text, general.separator)
    for name, model in experiment.models.items():
        _check_model_folder(f"config key models.{name}", model)
    output = Path(experiment.output)
    existing = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"config key output: {existing} is a file; name a folder")
    try:
        tempfile.TemporaryFile(dir=existing).close()  # os.access says yes to root, whatever the file system
    except OSError as error:
        raise InputError(
            f"config key output: {existing} cannot be written ({error.strerror}); name a folder that can be"
        ) from error


@functools.cache
def versions_of_scoring() -> dict[str, str]:
    """The versions of the libraries that score answers. Raises InputError for one that is not installed."""
    try:
        return {name: version(name) for name in LIBRARIES}
    except PackageNotFoundError as error:
        raise InputError(
            f"config key datasets.*.generate: {error.name} is not installed, and answers are scored with it; install "
            "envs/requirements.txt"
        ) from None


def _check_template(key: str, template: str) -> None:
    """Raise InputError for a chat template that no chat can be written by, or that writes the day of its use."""
    import jinja2  # which few plans need
    from jinja2.ext import Extension, loopcontrols

    class Generation(Extension):
        """The block {% generation %}, which Transformers knows too."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    try:
        jinja2.Environment(extensions=[Generation, loopcontrols], autoescape=False).from_string(template)
        refuse_date(template)
    except (jinja2.TemplateSyntaxError, SyntaxError) as error:  # the second of the Python that Jinja makes of it
        where = f", line {error.lineno}" if isinstance(error, jinja2.TemplateSyntaxError) else ""
        said = " ".join(str(error.msg if isinstance(error, SyntaxError) else error.message).split())
        raise InputError(f"{key}: broken Jinja{where}: {said}; correct it") from None
    except InputError as error:
        raise InputError(f"{key}: {error}") from None


def _check_file(key: str, path: str, columns: list[str], separator: str | None) -> None:
    if not Path(path).exists():
        raise InputError(f"{key}: no such file: {path} (relative paths start at {Path.cwd()})")
    try:
        check_head(Path(path), columns, separator)
    except InputError as error:
        raise InputError(f"{key}: {error}") from None


def _check_distinct_files(key: str, splits: dict[str, str]) -> None:
    """Raise InputError for two splits whose files are alike byte for byte; of files of one size alone it reads any."""
    ordered = sorted(splits.items(), key=lambda item: item[0] != "train")  # a copy of train is what is named
    for (other, same), (split, path) in itertools.combinations(ordered, 2):
        if Path(path).is_file() and Path(same).is_file() and filecmp.cmp(path, same, shallow=False):
            raise InputError(
                f"{key}.{split}: {path} has the same content as {other} ({same}), and every split needs rows of "
                "its own; name another file, or use fractions"
            )


def check_reference(experiment: Experiment) -> None:
    """Raise InputError unless the config names a folder as `snakemake store_reference` left it."""
    if experiment.reference is None:
        raise InputError(
            f"config key reference: not set; run `{command('store_reference')}` after a sweep that you trust, keep "
            f"{experiment.output}/reference under another name, and give that"
        )
    from peft_tradeoffs.analysis.reference import read_env  # with scipy, which no other plan waits for

    try:
        read_env(Path(experiment.reference))
    except InputError as error:
        raise InputError(f"config key reference: {error}") from None


def _check_model_folder(key: str, block: Model | Tokenizer) -> None:
    if isinstance(block, Model) and block.tokenizer:
        _check_model_folder(f"{key}.tokenizer", block.tokenizer)
    if block.source != "folder":
        return
    assert block.path  # which the schema requires of a folder
    folder = Path(block.path)
    if not folder.is_dir():
        raise InputError(f"{key}.path: no such folder: {folder} (a model on the hub has source: hub)")
    try:
        if isinstance(block, Tokenizer):
            refuse_no_tokenizer(str(folder), folder_files(folder))
        elif (name := gguf_file(str(folder), folder_files(folder))) is not None:
            check_gguf(folder / name)
        else:
            check_folder(str(folder), folder)
    except InputError as error:
        raise InputError(f"{key}.path: {error}") from None


def check_arms(experiment: Experiment) -> None:
    """Raise InputError for target modules that a model already fetched does not have.

    A model not yet fetched is checked by the arm's own job, before it trains.
    """
    for name, model in experiment.models.items():
        path = Path(experiment.output, "models", f"{name}.json")
        if not path.exists():
            continue
        manifest = read_object(path, MANIFEST, "a model's manifest", "delete it, and the model is fetched again")
        if (manifest["source"], manifest["path"], manifest["revision"], manifest.get("config")) != (
            model.source,
            model.path or model.requirement,
            model.revision,
            model.config,
        ):
            continue  # of an earlier configuration
        for arm in experiment.arms.values():
            try:
                check_targets((arm.peft or {}).get("target_modules"), manifest["modules"], manifest["linear"])
            except InputError as error:
                raise InputError(f"config key methods.{arm.method}.peft.{error} (model {name})") from None


def check_planned(experiment: Experiment) -> None:
    """Raise InputError, one line per method and fact, for what a strict contract would refuse after the runs."""
    if not experiment.contract.strict:
        return
    assert experiment.comparison.baseline is not None  # `resolve` names one where the configuration does not
    runs = {name: [_planned(experiment, arm)] for name, arm in experiment.arms.items()}
    facts = [fact for fact in FACTS.values() if fact.key]
    declared = {name: arm.varies for name, arm in experiment.arms.items()}
    lines: dict[tuple[str, str], str] = {}
    for found in compare(runs, experiment.comparison.baseline, declared, facts):
        if found.verdict == DIFFERS:
            method, fact = experiment.arms[found.arm].method, FACTS[found.fact]
            # A method's ranks have the same value, but for scaling: its first line says it.
            lines.setdefault(
                (method, fact.name),
                f"config key methods.{method}.{fact.key}: {_unlike(experiment, found)}; {fact.remedy}"
                f"{or_declare(fact, method)}, or {NOT_STRICT}",
            )
    if lines:
        raise InputError("\n".join(lines.values()))


def _unlike(experiment: Experiment, found: Finding) -> str:
    """As `unlike_text`; of tuning, whose trials have not run, the rates alone."""
    if found.fact != TUNING:
        return unlike_text(found)
    rates = {
        name: f"{len(experiment.trials[arm.tuned_as])} rates to tune" if arm.tuned_as else "a rate that is not tuned"
        for name, arm in experiment.arms.items()
    }
    return f"{rates[found.arm]}, but {found.compared_with} has {rates[found.compared_with]}"


def _planned(experiment: Experiment, arm: Arm) -> Recorded:
    """What the configuration says already of an arm's runs."""
    rates = len(experiment.trials[arm.tuned_as]) if arm.tuned_as else 0
    tuning = {"arm": arm.tuned_as, "rates": rates} if arm.tuned_as else None
    shared = experiment.training.of_run(arm.gpus)
    settings = {**arm.settings, "gpus": arm.gpus, "parallel": shared["parallel"], "method": arm.method}
    return Recorded({"settings": {**settings, "tuning": tuning}, "seed": 0}, {}, [])


SHOWN = 3  # runs that a warning names


def check_written(experiment: Experiment) -> None:
    """Raise InputError for tokens or fetched rows whose content is not what the step that wrote them recorded.

    Rows may be gone once all runs, or tokens of them for every model, are there: a study can be brought home without
    its texts.
    """
    output = Path(experiment.output)
    finished = all((run / "summary.json").exists() for run in run_folders(experiment))
    for dataset in experiment.datasets:
        tokens = (output / "tokens" / dataset / f"{model}.npz" for model in experiment.models)
        _check_groups(output / "data" / dataset)
        _check_rows(output / "data" / dataset, needed=not (finished or all(path.exists() for path in tokens)))
        for model in experiment.models:
            tuning = output / "tune/tokens" / dataset
            again = [tuning / f"retry{number}" for number in range(1, experiment.tune.retry + 1)]
            for folder in (output / "tokens" / dataset, tuning, *again):
                _check_tokens(folder / f"{model}.npz")


def _check_rows(folder: Path, needed: bool) -> None:
    described = folder / "dataset.json"
    splits = _object(described).get("splits")
    for split, entry in splits.items() if isinstance(splits, dict) else ():
        path, recorded = folder / f"{split}.parquet", entry.get("sha256") if isinstance(entry, dict) else None
        if recorded and (needed or path.exists()) and checksum(path) != recorded:
            raise InputError(
                f"{path}: {'not' if path.exists() else 'missing, so not'} what fetch_dataset wrote (its SHA-256 is not "
                f"that in {described}); delete {described}, and the next call makes both again"
            )


def _check_groups(folder: Path) -> None:
    """Groups have no texts and are read whenever arms are compared: where a data set has them, they are needed."""
    described, path = folder / "dataset.json", folder / GROUPS
    about = _object(described).get("group")
    recorded = about.get("sha256") if isinstance(about, dict) else None
    if recorded and checksum(path) != recorded:
        raise InputError(
            f"{path}: {'not' if path.exists() else 'missing, so not'} what fetch_dataset wrote (its SHA-256 is not "
            f"that in {described}); put it back, or delete {described}, and the next call makes both again"
        )


def _check_tokens(path: Path) -> None:
    described = path.with_suffix(".json")
    recorded = _object(described).get("sha256") if path.exists() else None
    if recorded and checksum(path) != recorded:
        raise InputError(
            f"{path}: not what tokenize wrote (its SHA-256 is not that in {described}); delete {path}, and the next "
            "call makes it again; runs that were made from what it wrote stay"
        )


def _object(path: Path) -> dict[str, Any]:
    """A JSON object that a step wrote; empty where there is none yet. Raises InputError for anything else."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path}: damaged ({error}); delete it, and the next call makes it again") from None
    if not isinstance(found, dict):
        raise InputError(f"{path}: damaged (no JSON object); delete it, and the next call makes it again")
    return found


def check_gpu_here(rules: list[str]) -> None:
    """Raise InputError where this machine has no GPU, which jobs of these rules are to run on."""
    if machine.without_gpu():
        raise InputError(
            "config key training.device: cuda, but there is no GPU here (no driver, or CUDA_VISIBLE_DEVICES is empty), "
            f"and {', '.join(rules)} would run here; take the profile of your cluster (profiles/slurm), or set "
            "device: cpu for a CPU run"
        )


def check_gpus(experiment: Experiment, arm: str, here: bool, limit: int | None) -> None:
    """Raise InputError where an arm's runs want more GPUs than all jobs may have or, if trained here, than are here."""
    own = experiment.arms[arm]
    of = "training" if own.gpus == experiment.training.gpus else f"methods.{own.method}"
    key = f"config key {of}.gpus: {own.gpus}"
    if limit is not None and own.gpus > limit:
        raise InputError(
            f"{key}, but all jobs together may have {limit} (--resources gpu={limit}, or gpu under resources in the "
            f"profile); give them {own.gpus} or more, or set fewer GPUs per run"
        )
    found = machine.gpus_here() if here else None
    if found is not None and own.gpus > found:
        raise InputError(
            f"{key}, but this machine has {found}, and the runs of {arm} would be trained here; set {found} or fewer, "
            "or take the profile of your cluster (profiles/slurm)"
        )


def warn_of_missing(experiment: Experiment) -> None:
    """Print a warning for finished runs that lack a file which their summary lists. Reads no file but the summaries."""
    lacking = list(_lacking(experiment))
    for run, lost in lacking[:SHOWN]:
        name, *others = lost
        more = f" and {len(others)} more file{'s'[: len(others) - 1]}" if others else ""
        kept = ", or set keep_weights: false where weights were removed on purpose" if all(map(is_weight, lost)) else ""
        print(
            f"warning: {run} lacks {name}{more}, which it published; delete the run's folder to train it again{kept}",
            file=sys.stderr,
        )
    if len(lacking) > SHOWN:
        print(f"warning: {len(lacking) - SHOWN} further runs lack published files", file=sys.stderr)


def _lacking(experiment: Experiment) -> Iterator[tuple[Path, list[str]]]:
    """Folders of finished runs, each with those of its files that are not there, weights first."""
    for run in run_folders(experiment):
        lost = [
            name
            for name in _listed(run / "summary.json")
            if not (run / name).exists() and not (is_weight(name) and not experiment.keep_weights)
        ]
        if lost:
            yield run, sorted(lost, key=lambda name: not name.endswith(".safetensors"))


def run_folders(experiment: Experiment) -> Iterator[Path]:
    """The folders of all runs, whether they are there or not."""
    grid = itertools.product(experiment.datasets, experiment.models, experiment.arms, experiment.seeds)
    for dataset, model, arm, seed in grid:
        yield Path(experiment.output, "runs", dataset, model, arm, f"seed{seed}")


def _listed(summary: Path) -> list[str]:
    """The files that a summary lists; none where there is no summary, or not one as runs write it."""
    try:
        listed = json.loads(summary.read_bytes())["files"]
        return sorted(map(str, listed))
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return []  # what reads the summary says what is wrong with it


def checksum(path: Path) -> str:
    """The SHA-256 of a file, remembered as long as its size, times and inode are the same; "" for no regular file."""
    try:
        found = path.stat()
    except OSError:
        return ""
    if not path.is_file():
        return ""
    if found.st_size <= SMALL:
        return files.sha256(path)
    known, key = _remembered(Path.cwd()), str(path.absolute())
    state = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]
    if key in known and known[key][0] == state:
        return known[key][1]
    if found.st_size > SLOW:
        print(f"reading {path} ({found.st_size / 2**30:.1f} GiB) for its checksum, once", file=sys.stderr)
    digest = files.sha256(path)
    if time.time() - max(found.st_mtime, found.st_ctime) > SETTLED_S:
        known[key] = [state, digest]
        _remember(known)
    return digest


def content(block: dict[str, Any]) -> str:
    """A SHA-256 over the files that a data set or model is read from; "" where they are not on this disk."""
    general = block.get("forgetting") or {}
    of_general = {GENERAL: Path(general["path"])} if general.get("source") == "files" else {}
    match block["source"]:
        case "files":
            named = {split: Path(path) for split, path in block["splits"].items()} | of_general
        case "folder":
            named = _model_files(Path(block["path"]))
        case "random":
            tokenizer = block["tokenizer"]
            if tokenizer["source"] != "folder":
                return ""
            folder = Path(tokenizer["path"])
            named = {name: folder / name for name in tokenizer_files(folder_files(folder))}
        case _:
            if not of_general:
                return ""
            named = of_general
    return content_of(named.items())


def content_of(named: Iterable[tuple[str, Path]]) -> str:
    """A SHA-256 over the contents of files, by the names given."""
    digest = hashlib.sha256()
    for name, path in sorted(named):
        digest.update(f"{name}\0{checksum(path)}\n".encode())
    return digest.hexdigest()


def _model_files(folder: Path) -> dict[str, Path]:
    """What loading the model reads; of what else stands beside it, that it is there."""
    names = folder_files(folder)
    gguf = gguf_file(str(folder), names)
    required = required_files(folder, names)[0] if gguf is None else {gguf}
    beside = {path.name for path in folder.iterdir() if path.is_file()} - required
    return {name: folder / name for name in required} | {f"beside\0{name}": folder / "" for name in beside}


@functools.cache
def _remembered(folder: Path) -> dict[str, Any]:
    """By absolute path, a file's [size, times, inode, device] and its checksum."""
    try:
        found = json.loads((folder / REMEMBERED).read_text(encoding="utf-8"))
        return {key: [state, digest] for key, (state, digest) in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _remember(known: dict[str, Any]) -> None:
    there = {key: value for key, value in known.items() if os.path.exists(key)}  # noqa: PTH110
    with contextlib.suppress(OSError):  # it is read again next time
        files.write_json(REMEMBERED, there)


def say_what_can_be_decided(experiment: Experiment) -> None:
    """Print to stderr what `what_can_be_decided` says."""
    for line in what_can_be_decided(experiment):
        print(wrapped(f"note: {line}"), file=sys.stderr)


def what_can_be_decided(experiment: Experiment) -> list[str]:
    """While a run is still to be trained, a sentence on each data set whose rows can be counted here.

    Of data sets whose metric is a share of right answers, and of models that were trained before. Of other metrics it
    says that nothing is known yet.
    """
    finished = all((run / "summary.json").exists() for run in run_folders(experiment))
    if finished or not _compares(experiment):
        return []
    if (seeds := len(experiment.seeds)) < power.FEWEST_SEEDS:
        said = "1 seed" if seeds == 1 else f"{seeds} seeds"
        needed = f"{power.FEWEST_SEEDS} or more are needed"
        return [f"{said}, where {needed}: no difference will have an interval, or be proven"]
    found = []
    for name in _by_other(experiment):
        dataset, metric = experiment.datasets[name], METRICS[str(experiment.datasets[name].metric)]
        of_texts = TASKS[dataset.task].reader is not None
        what = "answers to" if metric.name in SCORED else "losses of" if of_texts else "predictions of"
        found.append(
            f"data set {name}: which differences of {metric.noun or metric.label} its rows can show is not known "
            f"before the runs: it depends on how much the {what} rows differ between arms. The comparison says it, and "
            "what would decide"
        )
    for name in _by_share(experiment):
        if (rows := rows_of(experiment, name)) and rows > 1:
            found.append(f"data set {name}: {_told(experiment, name, rows)}")
        elif rows is None and experiment.datasets[name].group is not None:
            found.append(f"data set {name}: what its rows can show is told when they are fetched: rows of one group "
                         "count as one, and are looked for then")  # fmt: skip
    return found


def question(experiment: Experiment, name: str) -> dict[str, Any] | None:
    """What the step that fetches a data set needs to say the same; None where nothing can be said of it.

    `said` are the rows of which the plan has said it, or 0.
    """
    if name not in _by_share(experiment) or len(experiment.seeds) < power.FEWEST_SEEDS:
        return None
    return {
        "split": experiment.recommendation.split,
        "seeds": len(experiment.seeds),
        "arms": len(experiment.arms) - 1,
        "disagree": METRICS[str(experiment.datasets[name].metric)].disagree,
        "margin": experiment.comparison.margin_of(str(experiment.datasets[name].metric)),
        "baseline": _baseline(experiment),
        "said": rows_of(experiment, name) or 0,
        "tuned": _tuned(experiment),
        "tuned_as": _label_of(experiment, experiment.arms[str(experiment.comparison.baseline)].tuned_as),
        "models": [model for model, one in experiment.models.items() if one.source != "random"],
    }


def rows_of(experiment: Experiment, name: str) -> int | None:
    """How many rows of a data set arms are judged on, where its files or an earlier call say it; None elsewhere.

    Groups, where rows are in such. Of a split that is carved from train about as many, for rows of the same text stay
    together.
    """
    dataset, split = experiment.datasets[name], experiment.recommendation.split
    rows = _in_files(dataset, split) or _fetched(Path(experiment.output, "data", name, "dataset.json"), dataset, split)
    if dataset.group is not None:
        return rows
    limit = dataset.limit.get(split)
    return rows if limit is None else min(rows or limit, limit)


def _in_files(dataset: Dataset, split: str) -> int | None:
    if dataset.source != "files" or dataset.group is not None:
        return None
    assert dataset.splits  # which the schema requires of files
    own = dataset.splits.get(split)
    path = Path(own or dataset.splits["train"])
    try:
        found = path.stat()
    except OSError:
        return None
    rows = _counted(path, dataset.separator, found.st_mtime_ns, found.st_size, found.st_ino)
    return rows if own or rows is None else round(dataset.fractions[split] * rows)


@functools.cache
def _counted(path: Path, separator: str | None, mtime_ns: int, size: int, inode: int) -> int | None:
    return count_rows(path, separator)


def _fetched(described: Path, dataset: Dataset, split: str) -> int | None:
    """What `fetch_dataset` wrote of the split, if it was of this source."""
    try:
        found = json.loads(described.read_bytes())
        source, of_split = found["source"], found["splits"][split]
        rows = int(of_split["rows"] if dataset.group is None else of_split["groups"])
        same = source["source"] == dataset.source and all(
            source.get(key) == getattr(dataset, key) for key in ("path", "config", "revision")
        )
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None  # what reads it says what is wrong with it
    return rows if same else None


def _told(experiment: Experiment, name: str, rows: int) -> str:
    dataset, split = experiment.datasets[name], experiment.recommendation.split
    about = "about " if split in dataset.fractions and split not in dataset.limit else ""
    design = power.Design(
        rows=rows,
        seeds=len(experiment.seeds),
        arms=len(experiment.arms) - 1,
        disagree=METRICS[str(dataset.metric)].disagree,
    )
    grouped = dataset.group is not None
    asked = power.Asked(
        of=f"{about}{rows:,} {'groups of ' if grouped else ''}{split} rows",
        margin=experiment.comparison.margin_of(str(dataset.metric)),
        baseline=_baseline(experiment),
        tuned=bool(experiment.trials),
        unit="groups" if grouped else "rows",
    )
    return power.told(design, asked)


def _tuned(experiment: Experiment) -> dict[str, str]:
    """The arms that are tuned on their own, by their names for readers."""
    own = (arm for arm in experiment.arms.values() if arm.tuned_as == arm.name)
    return {arm_label(arm.method, arm.rank): arm.name for arm in own}


def _label_of(experiment: Experiment, name: str | None) -> str | None:
    arm = experiment.arms.get(name or "")
    return None if arm is None else arm_label(arm.method, arm.rank)


def _baseline(experiment: Experiment) -> str:
    assert experiment.comparison.baseline is not None  # `resolve` names one where the configuration does not
    arm = experiment.arms[experiment.comparison.baseline]
    return arm_label(arm.method, arm.rank)


def _compares(experiment: Experiment) -> bool:
    """Whether there are arms to compare by a metric: not those of random weights."""
    return len(experiment.arms) > 1 and any(model.source != "random" for model in experiment.models.values())


def _by_other(experiment: Experiment) -> list[str]:
    """Data sets on which arms are compared by a metric that is no share of right answers."""
    if not _compares(experiment):
        return []
    shares = _by_share(experiment)
    return [name for name, dataset in experiment.datasets.items() if dataset.metric and name not in shares]


def _by_share(experiment: Experiment) -> list[str]:
    """Data sets on which arms are compared by a share of right answers."""
    if not _compares(experiment):
        return []
    return [name for name, dataset in experiment.datasets.items() if dataset.metric and METRICS[dataset.metric].share]


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
OWN_SCOPE = (*FUNCTIONS, ast.ClassDef, ast.Lambda)
BINDERS = {"exec", "eval", "globals", "vars", "locals", "setattr", "modules"}  # by which a module gets any name


def check_scorer(key: str, scorer: Scorer) -> None:
    """Raise InputError for a scorer that certainly gives no number: no such file, no Python, no such name, or no
    function of prompt, references and output.

    What it imports may be installed where it scores alone, so what cannot be told by reading is left to that process.
    """
    name = scorer.python.rpartition(":")[2]
    tree = _read_scorer(key, scorer.file)
    bound = [node for node in _of_module(tree) if name in _names(node)]
    if _any_name(tree, name):
        return
    if not bound:
        functions = dict.fromkeys(node.name for node in _of_module(tree) if isinstance(node, FUNCTIONS))
        known = f"; it has {', '.join(functions)}" if functions else ""
        raise InputError(f"{key}: {scorer.file} has no function {name}{known}")
    if len(bound) == 1:  # of several only running it tells which one counts
        _check_function(key, scorer.file, name, bound[0])


def _read_scorer(key: str, path: Path) -> ast.Module:
    """A file as Python reads it, in the encoding that it declares."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{key}: {path}: {error.strerror}; name a file that can be read") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is Python all the same
            compile(content, str(path), "exec", dont_inherit=True)
            return ast.parse(content)
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise InputError(f"{key}: {path}{line}: no Python ({error.msg}); correct it") from None
    except (ValueError, RecursionError, MemoryError) as error:  # NUL bytes; nested too deep
        raise InputError(f"{key}: {path}: no Python ({error}); correct it") from None


def _of_module(node: ast.AST) -> Iterator[ast.AST]:
    """All below a node that is of the same scope: what if, try, for, with and match hold too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(node, ast.comprehension) and child is node.target:
            continue  # of the comprehension alone
        yield child
        if not isinstance(child, OWN_SCOPE):
            yield from _of_module(child)


def _names(node: ast.AST) -> list[str]:
    """The names that a node itself binds."""
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        return [node.name]
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        return [node.id]
    if isinstance(node, ast.alias):
        return [node.asname or node.name.partition(".")[0]]
    if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
        return [node.name] if node.name else []
    if isinstance(node, ast.MatchMapping):
        return [node.rest] if node.rest else []
    return []


def _any_name(tree: ast.Module, name: str) -> bool:
    """Whether the module may get this name by what is no statement of its own."""
    by_function = any(isinstance(node, ast.Global) and name in node.names for node in ast.walk(tree))
    stars = any(isinstance(node, ast.alias) and node.name == "*" for node in ast.walk(tree))
    looked_up = any(isinstance(node, FUNCTIONS) and node.name == "__getattr__" for node in _of_module(tree))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return by_function or stars or looked_up or not BINDERS.isdisjoint(used)


def _check_function(key: str, path: Path, name: str, node: ast.AST) -> None:
    """Raise InputError for the one thing that a name can be, where that certainly gives no number of three texts."""
    if isinstance(node, ast.ClassDef):
        made = any(isinstance(one, FUNCTIONS) and one.name == "__new__" for one in node.body)
        if not (node.bases or node.keywords or node.decorator_list or made):
            raise InputError(f"{key}: {path} has no function {name}, but a class, whose objects are no numbers")
    if not isinstance(node, FUNCTIONS) or node.decorator_list:  # a decorator may make anything of it
        return
    if isinstance(node, ast.AsyncFunctionDef):
        raise InputError(f"{key}: {name} is asynchronous; it must return its number, so write it without async")
    places, given = [*node.args.posonlyargs, *node.args.args], len(node.args.defaults)
    fits = len(places) - given <= 3 <= len(places) or (node.args.vararg and len(places) - given <= 3)
    if not fits or len(node.args.kwonlyargs) > sum(one is not None for one in node.args.kw_defaults):
        raise InputError(f"{key}: {name} must take three arguments: prompt, references and output")


SITE = "PEFT_TRADEOFFS_SITE"  # of the environment, in which a job on a cluster finds what its submitter knows


def tell_site(site: dict[str, Any]) -> dict[str, Any]:
    """The same, for the jobs that this process submits too."""
    os.environ[SITE] = json.dumps(site)
    return site


def site_told() -> dict[str, Any]:
    """What `tell_site` was given by what submitted this job; {} where its environment did not come along."""
    found: dict[str, Any] = json.loads(os.environ.get(SITE, "{}"))
    return found
