"""The report's page, as one HTML file that asks the network for nothing: what it says, and what it draws, as JSON."""

import base64
import hashlib
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import vl_convert
from markdown_it import MarkdownIt
from markdown_it.token import Token

from peft_tradeoffs.analysis import readable, tables
from peft_tradeoffs.analysis.before_training import beside_arms, read_table_of_untrained
from peft_tradeoffs.analysis.comparison import SHARED, TUNED, read_comparison
from peft_tradeoffs.analysis.comparison_text import (
    APART_ENDS,
    AT_BEST,
    BEST_ENDS,
    at_best_words,
    places_of,
    verdict_words,
    with_interval,
)
from peft_tradeoffs.analysis.contract import facts_compared
from peft_tradeoffs.analysis.finished import read_env, verified
from peft_tradeoffs.analysis.stats import WITHOUT, counted, interval_notes
from peft_tradeoffs.analysis.tables import COMPLETED, OF_SPLIT, read_table, warnings_by_pair
from peft_tradeoffs.analysis.tuning_table import tuning_cost
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import read_text
from peft_tradeoffs.core.layout import PAGE, REPOSITORY, TABLES, UNTRAINED, command, run_folder
from peft_tradeoffs.core.quantities import HIGH, LOW, Quantity
from peft_tradeoffs.core.text import and_list, arm_label, method_label, plain, plural, records
from peft_tradeoffs.report.answers import Asked, ROOM_bytes, panel
from peft_tradeoffs.report.imported import imported_data
from peft_tradeoffs.report.sweep import (
    Sweep,
    Tables,
    attribution_data,
    colours,
    conditions,
    curves_data,
    finite,
    load,
    memory_data,
    methods,
    no_metric,
    trials_data,
)
from peft_tradeoffs.tasks.metrics import metric_called
from peft_tradeoffs.tasks.shown import Row, difference_unit, heldout_label, metric_label, metric_of
from peft_tradeoffs.tasks.task import LABEL, QUANTITIES

FOLDER = REPOSITORY / "report" / "page"
SCRIPTS = [name for name in PAGE if name.endswith(".js")]
# Vega, Vega-Lite and Vega-Embed with what they use, as one script. Whoever hands the page on hands on its licences.
LIBRARY = "window.vegaEmbed = vegaEmbed;"


def render(data: dict[str, Any], **shown: Any) -> str:
    """The page: `data` is what its script reads as JSON, `shown` what the template names."""
    scripts = [vl_convert.javascript_bundle(LIBRARY), "\n".join((FOLDER / name).read_text("utf-8") for name in SCRIPTS)]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        data=inline_json(data),
        scripts=scripts,
        hashes=[digest(script) for script in scripts],
        css=(FOLDER / "page.css").read_text("utf-8"),
        licences=(FOLDER / "licences.txt").read_text("utf-8"),
        **shown,
    )


def inline_json(value: Any) -> str:
    """JSON that no HTML parser takes for markup, for a script element of type application/json."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def digest(script: str) -> str:
    """A script's hash as a Content-Security-Policy names it."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def markdown_html(text: str, label: str) -> str:
    """A Markdown table of ours with its headings, lists and notes as HTML; markup in it stays text.

    Headings become h3, tables scroll in a region that is called `label`.
    """
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink", "code"])
    tokens = reader.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = "h3"
        if token.type == "th_open":
            token.attrSet("scope", "col")
    wrapped: list[Token] = []
    name = str(jinja2.filters.do_forceescape(label))
    for token in tokens:
        if token.type == "table_open":
            html = f'<div class="scroll" role="region" tabindex="0" aria-label="{name}">'
            wrapped.append(Token("html_block", "", 0, content=html))
        wrapped.append(token)
        if token.type == "table_close":
            wrapped.append(Token("html_block", "", 0, content="</div>"))
    return reader.renderer.render(wrapped, reader.options, {})


# Keys of env.json by the name that readers see; a dot goes a level down.
FACTS = {
    "Device": "device_name",
    "GPU memory, MiB": "gpu.memory_MiB",
    "MIG": "gpu.mig_mode",
    "Driver": "gpu.driver_version",
    "CUDA runtime": "cuda_runtime_version",
    "cuDNN": "cudnn_version",
    "SM clock, MHz": "gpu.sm_clock_MHz",
    "Memory clock, MHz": "gpu.memory_clock_MHz",
    "Power limit, W": "gpu.power_limit_W",
    "Throttled by, under load": "under_load.clock_event_reasons",
    "Processor": "cpu",
    "Threads": "threads",
    "Platform": "platform",
    "Python": "python",
    "TF32 in matrix products": "flags.tf32_matmul",
    "Deterministic algorithms": "flags.deterministic_algorithms",
    "Workflow's commit": "git.commit",
    "Uncommitted changes": "git.dirty",
    "Training code, SHA-256": "code_sha256",
    "Data, SHA-256": "data_sha256",
    "Model, SHA-256": "model_sha256",
    "Model's revision": "model.revision",
}


def environment(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Each fact with its values and in how many runs each was so: [{"fact", "values": [[text, runs], …]}, …].

    `folders` are those of the runs. Facts that no run recorded are left out. Raises InputError for an env.json that is
    missing or not as its run published it.
    """
    files = [read_env(folder, verified(folder)) for folder in folders]
    facts = FACTS | {name: f"versions.{name}" for file in files for name in file.get("versions") or {}}
    found = []
    for name, key in facts.items():
        values: dict[str, int] = {}
        for file in files:
            if (text := _text(file, key)) is not None:
                values[text] = values.get(text, 0) + 1
        if values:
            found.append({"fact": name, "values": [[text, count] for text, count in values.items()]})
    return found


def _text(value: Any, key: str) -> str | None:
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "nothing"
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)


TITLES = {name: title for name, (title, _) in TABLES.items()}
OF_SWEEP = ("tuning", "noise", "comparison")
VERDICT, FORGETTING = "recommendation", "forgetting"
MADE_AGAIN = "delete it, and Snakemake makes it again"
# Columns of a table that the page reads itself, and those of them that hold numbers.
NEEDED = {
    "contract": ("fact", "value", "verdict"),
    VERDICT: ("dataset", "model", "arm", "cheapest_by", "cheapest"),
    "attribution": ("dataset", "model", "factorial", "quantity", "effect", "kind", "percent", "value", "low", "high"),
    FORGETTING: ("dataset", "model", "arm", "forgetting_low", "forgetting_high"),
    "imported": ("source", "experiment", "method", "rank", "metric_value", "peak_memory_MiB", "train_s"),
}
NUMBERS = (
    "forgetting_low",
    "forgetting_high",
    "cheapest",
    "percent",
    "value",
    "low",
    "high",
    "rank",
    "metric_value",
    "peak_memory_MiB",
    "train_s",
)
SHOWN = 5  # reasons of a verdict that are always shown


def report(
    files: dict[str, Path],
    runs_dir: Path,
    data_dir: Path | None = None,
    tokens_dir: Path | None = None,
    untrained_dir: Path | None = None,
) -> str:
    """The page as HTML. `files` are the CSV tables by name, runs.csv among them, each with its Markdown beside it.

    `data_dir` holds {dataset}/dataset.json and `tokens_dir` {dataset}/{model}.json, whose warnings are shown; prompts
    and references beside answers are those of {dataset}/test.parquet in `data_dir`; what the untrained model answered
    is in {dataset}/{model} of `untrained_dir`. Raises InputError if a table or a file of a run is missing.
    """
    if "runs" not in files:
        raise InputError("--tables: no runs.csv among them; make_tables.py writes it")
    if unknown := set(files) - {*TITLES, VERDICT}:
        raise InputError(f"--tables: {', '.join(sorted(unknown))} unknown; known are {', '.join([*TITLES, VERDICT])}")
    texts = {name: _read(path) for name, path in files.items()}
    runs = tables.read_runs(files["runs"])
    pairs = runs[["dataset", "model"]].drop_duplicates().itertuples(index=False)
    comparison, attribution, judged, forgotten, imported = (
        _frame(files, name) for name in ("comparison", "attribution", VERDICT, FORGETTING, "imported")
    )
    sweeps = [
        load(Tables(files["runs"], *map(files.get, OF_SWEEP)), runs_dir / dataset / model, dataset, model)
        for dataset, model in pairs
    ]
    styles, warnings = sweeps[0].styles, warnings_by_pair(runs, runs_dir, data_dir, tokens_dir)
    shown = [name for name in TITLES if name in files]
    room = ROOM_bytes // len(sweeps)
    before = untrained_rows(files)
    answers = [panel(sweep, Asked(data_dir, tokens_dir, untrained_dir), room) for sweep in sweeps]
    facts = _frame(files, "contract")
    checks = facts_compared(facts) if len(facts) and not facts["verdict"].eq("differs").any() else None
    judgement = _markdown(files[VERDICT]) if VERDICT in files else ""
    data: dict[str, Any] = {
        "pairs": [
            pair_data(sweep, comparison, attribution, judged, forgotten)
            | {"warnings": _unsaid(warnings[sweep.dataset, sweep.model], judgement), "answers": own}
            | {"untrained": untrained_data(before, sweep)}
            for sweep, own in zip(sweeps, answers, strict=True)
        ],
        "methods": method_data(styles),
        "imported": imported_data(imported),
        "files": {f"{name}.csv": texts[name] for name in shown},
    }
    sections = [
        {"name": name, "title": TITLES[name], "html": markdown_html(_markdown(files[name]), TITLES[name])}
        for name in shown
    ]
    return render(
        data,
        title=title(sweeps, styles),
        date=max(runs["finished_at"].dropna(), default="")[:10],
        summary=summary(runs, files),
        verdict=verdict(judgement) if judgement else [],
        pairs=[f"{sweep.dataset} · {sweep.model}" for sweep in sweeps],
        answers=any(answers),
        sections={section["name"]: section for section in sections},
        environment=environment(run_folders(runs, runs_dir)),
        methods=[(f"{sweep.dataset} · {sweep.model}", methods(sweep, checks)) for sweep in sweeps],
        definitions=definitions(axis["key"] for pair in data["pairs"] for axis in pair["axes"]),
        tuning=[(f"{sweep.dataset} · {sweep.model}", text) for sweep in sweeps if (text := tuning_cost(sweep.tuning))],
        light=list(colours(styles).values()),
        dark=list(colours(styles, dark=True).values()),
    )


def untrained_rows(files: dict[str, Path]) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows of untrained.csv by data set and model; none where there is no such table."""
    found = records(read_table_of_untrained(files[UNTRAINED])) if UNTRAINED in files else []
    return {(row["dataset"], row["model"]): row for row in found}


def untrained_data(rows: dict[tuple[str, str], dict[str, Any]], sweep: Sweep) -> dict[str, str] | None:
    """What the untrained model's metric says beside the arms' (`beside_arms`), and the header of its column.

    None where it was not asked.
    """
    row = rows.get((sweep.dataset, sweep.model))
    if row is None or sweep.metric is None:
        return None
    return beside_arms(row, sweep.metric) | {"header": metric_label(sweep.named)}


def run_folders(runs: pd.DataFrame, runs_dir: Path) -> list[Path]:
    """The folder of every run of runs.csv."""
    return [run_folder(runs_dir, run["dataset"], run["model"], run["arm"], run["seed"]) for run in records(runs)]


def title(sweeps: list[Sweep], methods: Any) -> str:
    """What is compared on what: "minilm on sst2: full fine-tuning, LoRA and QLoRA compared"."""
    names = ["full fine-tuning" if name == "full" else method_label(name) for name in methods]
    if len(names) > 4:
        names = [*names[:3], f"{len(names) - 3} more"]
    text = and_list(names) if len(names) == 1 else f"{and_list(names)} compared"
    datasets, models = ([getattr(sweep, part) for sweep in sweeps] for part in ("dataset", "model"))
    return f"{_few(models, 'models')} on {_few(datasets, 'data sets')}: {text}"


def _few(names: list[str], noun: str) -> str:
    """These names in a title, each once, or how many there are."""
    names = list(dict.fromkeys(names))
    return and_list(names) if len(names) <= 3 else f"{len(names)} {noun}"


def _unsaid(warnings: list[str], judgement: str) -> list[str]:
    """The warnings that the verdict above does not show already."""
    return [text for text in warnings if f"> - {plain(text)}\n" not in judgement]


def summary(runs: pd.DataFrame, files: dict[str, Path]) -> list[str]:
    """What a reader should know first: how many runs, how they ended, on what, and whether the contract was kept."""
    done = int((runs["status"] == COMPLETED).sum())
    seeds, pairs = runs["seed"].nunique(), len(runs[["dataset", "model"]].drop_duplicates())
    counts = [_count(runs["arm"].nunique(), "arm"), _count(seeds, "seed")]
    counts += [f"{pairs} pairs of data set and model"] if pairs > 1 else []
    lines = [f"{', '.join(counts)}: {done} of {_count(len(runs), 'run')} completed."]
    lines += [f"{_count(count, 'run')}: {text}." for text, count in readable.ways_of_failing(runs)]
    if seeds == 1:
        lines.append("One seed: how much of any difference is chance is not known.")
    devices = list(runs["device_name"].dropna().unique())
    lines.append(f"Trained on {' and '.join(devices)}." if devices else "No run got so far as to name its device.")
    if "contract" in files:
        lines.append(f"Fair comparison: {fairness(_frame(files, 'contract'))}.")
    ended = runs["finished_at"].dropna()
    return [*lines, f"The last run ended on {ended.max()[:10]}."] if len(ended) else lines


def fairness(facts: pd.DataFrame) -> str:
    """Whether arms are alike in all that they must be: "passed (35 facts compared)"; `facts`: rows of contract.csv."""
    broken = facts.loc[facts["verdict"] == "differs", "fact"].unique()
    return (
        f"not passed, arms differ in {', '.join(broken)}"
        if len(broken)
        else f"passed ({_count(facts_compared(facts), 'fact')} compared)"
    )


def verdict(text: str) -> list[dict[str, str]]:
    """recommendation.md as HTML, one part per data set and model.

    "head": what to take and its first reasons; "rest": further ones and the table; "notes": what stands below that.
    """
    parts = []
    for section in text.split("\n## "):
        lines = section.removeprefix("## ").splitlines()
        bullets = [index for index, line in enumerate(lines) if line.startswith("- ")]
        cut = bullets[SHOWN] if len(bullets) > SHOWN else bullets[-1] + 1 if bullets else len(lines)
        below = max((index + 1 for index, line in enumerate(lines) if line.startswith("|")), default=len(lines))
        cuts = {"head": ["## " + lines[0], *lines[1:cut]], "rest": lines[cut:below], "notes": lines[max(cut, below) :]}
        label = f"Which arms of {lines[0]} qualify"
        parts.append({name: markdown_html("\n".join(own), label) for name, own in cuts.items()})
    return parts


def definitions(measured: Iterable[str] | None = None) -> list[tuple[str, str]]:
    """How each number of the page was taken, as its quantity says: of the axes `measured`, by default of all."""
    keys = set(AXES if measured is None else measured)
    each = ", times its GPUs" if "train_gpu_s" in keys else ""
    found = [(LABELS[key], QUANTITIES[key].description) for key in AXES if key in QUANTITIES and key in keys]
    return [
        *found,
        (LABELS["hours"], f"{QUANTITIES['wall_s'].description} Here in hours{each}, mean of an arm's runs."),
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {plural(noun, number)}"


def _read(path: Path) -> str:
    try:
        return read_text(path, MADE_AGAIN)
    except FileNotFoundError:
        raise InputError(f"{path}: no such table; run `{command('tables')}` first") from None


def _markdown(path: Path) -> str:
    return _read(path.with_suffix(".md"))


def _frame(files: dict[str, Path], name: str) -> pd.DataFrame:
    columns = ["dataset", "model", "arm", "split", "kind"]
    names = (
        "method",
        "quantity",
        "experiment",
        "source",
        "status",
        "positive_class",
        "factorial",
        "effect",
        "metric",
        "cheapest_by",
    )
    if name not in files:
        return pd.DataFrame(columns=columns)
    if name == "comparison":
        return read_comparison(files[name])
    texts = dict.fromkeys((*columns, *names), object)
    numbers = [key for key in NUMBERS if key in NEEDED[name]]
    if name == "contract":  # whose values are texts
        texts["value"], numbers = object, []
    return read_table(files[name], NEEDED[name], MADE_AGAIN, texts, numbers)


def arms_table(arms: pd.DataFrame, comparison: pd.DataFrame) -> dict[str, Any]:
    """The table of arms: headers, and one row per arm of what is shown and what it is sorted by."""
    metric = metric_of(arms)
    columns = {
        "n": "n",
        "Failed": "n_failed",
        "Learning rate": "learning_rate",
        metric_label(metric): "metric_value_mean",
        heldout_label(metric): "heldout_metric_value_mean",
        **{label: f"{key}_mean" for key, label in LABEL.items()},
        LABEL["trainable_parameters"]: "trainable_parameters",
        "Trainable, %": "trainable_percent",
    }
    text = readable.arms_readable(arms)
    of_setup = [*(["n"] if arms["n"].nunique() > 1 else []), "Learning rate"]  # `conditions` says n if all have as many
    text = text[[*(header for header in text if header not in ("n", *of_setup)), *of_setup]]
    text = text[[header for header in text if header == "Arm" or text[header].ne(readable.NULL).any()]]
    by = {header: pd.to_numeric(arms[columns[header]], errors="coerce") for header in text if header in columns}
    better = {header: _better_of(columns[header], metric) for header in by}
    for split in dict.fromkeys(comparison["split"]):
        rows = comparison[comparison["split"] == split].set_index("arm").reindex(arms["arm"]).reset_index()
        where = "" if split == "test" else f" ({split})"
        _add_comparison(text, by, rows, metric, where)
    cells = [
        {
            "arm": arm,
            "cells": [
                {"text": text[header].iloc[index], "by": _sorted_by(by, text, header, index)} for header in text.columns
            ],
        }
        for index, arm in enumerate(arms["arm"])
    ]
    best = better | {header: _better_of("metric_value_mean", metric) for header in by if header not in better}
    return {
        "headers": list(text.columns),
        "numeric": [header in by for header in text.columns],
        "high_first": [best.get(header) == HIGH for header in text.columns],
        "rows": cells,
    }


def _better_of(column: str, metric: Row) -> str | None:
    """Which end of a column of arms.csv is better, if one is."""
    key = column.removesuffix("_mean")
    if key in OF_KEYS:
        return HIGH if metric_called(metric["metric"]).higher_is_better else LOW
    return QUANTITIES[key].better if key in QUANTITIES else None


def _sorted_by(by: dict[str, pd.Series], text: pd.DataFrame, header: str, index: int) -> Any:
    if header == "Arm":
        return index
    return finite(by[header].iloc[index]) if header in by else text[header].iloc[index]


def _add_comparison(text: pd.DataFrame, by: dict[str, pd.Series], rows: pd.DataFrame, metric: Row, where: str) -> None:
    """Put the difference to the baseline and the verdict behind the column of the metric."""
    header = metric_label(metric) if not where else heldout_label(metric)
    if header not in text:
        return
    scale = metric_called(metric["metric"]).scale
    at = list(text.columns).index(header) + 1
    name = f"Difference{where}, {difference_unit(metric)}"
    known = rows.dropna(subset="metric")
    places, best = (places_of(known, *ends) if len(known) else 0 for ends in (APART_ENDS, BEST_ENDS))
    shown = [
        with_interval(row["difference"], row["difference_low"], row["difference_high"], scale, True, places)
        for row in records(rows)
    ]
    text.insert(at, name, shown)
    if rows["rate"].isin((TUNED, SHARED)).any():
        at += 1
        text.insert(at, f"{AT_BEST}{where}", [at_best_words(row, best) for row in records(rows)])
        by[f"{AT_BEST}{where}"] = rows["difference"].reset_index(drop=True)
    text.insert(at + 1, f"Verdict{where}", [verdict_words(row) for row in records(rows)])
    by[name] = rows["difference"].reset_index(drop=True)


# What an axis of the trade-off can show, and which end of it is better: results, costs by their unit, settings.
_UNITS = ("MiB", "s", "ms", "rows/s", "tokens/s", "J", "J/row")
_KINDS = ("result", "cost", "setting")


def _place(quantity: Quantity) -> tuple[int, int]:
    unit = _UNITS.index(quantity.unit) if quantity.unit in _UNITS else len(_UNITS)
    return _KINDS.index(quantity.kind), unit


AXES = {
    quantity.name: quantity.better
    for quantity in sorted((each for each in QUANTITIES.values() if each.better), key=_place)
} | {"hours": LOW}
OF_KEYS = tuple(keys[0] for keys in OF_SPLIT.values())  # the metrics, whose intervals are the comparison's
LABELS = LABEL | {"hours": "GPU or machine hours per run"}


def pair_data(
    sweep: Sweep,
    comparison: pd.DataFrame,
    attribution: pd.DataFrame,
    recommendation: pd.DataFrame,
    forgetting: pd.DataFrame,
) -> dict[str, Any]:
    """What the page draws of one data set and model; the others are rows of their tables, for any pair."""
    gpus = sweep.runs["gpus"].where(sweep.runs["device"].eq("cuda"), 1).astype(float)
    runs = sweep.runs.copy().assign(hours=gpus * sweep.runs["wall_s"].astype(float) / 3600)
    arms = tables.arms_frame(runs)
    random = tables.random_weights(runs)
    axes = _axes(sweep, arms, random)
    own, causes, judged, forgotten = (
        table[(table["dataset"] == sweep.dataset) & (table["model"] == sweep.model)]
        for table in (comparison, attribution, recommendation, forgetting)
    )
    return {
        "dataset": sweep.dataset,
        "model": sweep.model,
        "random": readable.RANDOM if random else "",
        "no_metric": no_metric(sweep),
        "metric": {
            "label": sweep.metric_name,
            "axis": sweep.metric_axis,
            "scale": sweep.scale,
            "unit": _unit(sweep),
            "better": _better(sweep),
            "places": readable.metric_places(sweep.metric),
        },
        "conditions": conditions(runs),
        "notes": readable.costs_notes(arms),
        "axes": axes,
        "absent": _absent(runs, {axis["key"] for axis in axes}),
        "arms": _arms(sweep, runs, arms, axes, forgotten),
        "runs": _runs(sweep, runs, axes),
        "intervals": _interval_notes(sweep, axes),
        "curves": curves_data(sweep),
        "trials": trials_data(sweep),
        "memory": memory_data(arms),
        "attribution": attribution_data(causes),
        "decides": _deciding(judged, {axis["key"] for axis in axes}),
        "taken": judged["arm"][judged["cheapest"].eq(True)].tolist() if len(judged) else [],
        "table": arms_table(arms, own),
    }


DECIDING = {"memory": ("probe_peak_allocated_MiB", "tensors_MiB"), "time": ("train_s",), "energy": ("energy_J",)}


def _deciding(judged: pd.DataFrame, measured: set[str]) -> str | None:
    """The axis of the cost that decides between arms of a recommendation; memory without a verdict, if it is drawn."""
    by = judged["cheapest_by"].iloc[0] if len(judged) else "memory"
    return next((key for key in (*DECIDING.get(by, ()), *DECIDING["memory"], "weights_MiB") if key in measured), None)


def _unit(sweep: Sweep) -> str:
    return difference_unit(sweep.named) if sweep.metric else ""


def _better(sweep: Sweep) -> str:
    """Which end of the metric is better."""
    return HIGH if metric_called(sweep.metric).higher_is_better else LOW


def _scale(sweep: Sweep, key: str) -> float:
    return sweep.scale if key in OF_KEYS else 1.0


def _axes(sweep: Sweep, arms: pd.DataFrame, random: bool) -> list[dict[str, Any]]:
    names = LABELS | {
        "metric_value": metric_label(sweep.named),
        "heldout_metric_value": heldout_label(sweep.named),
    }
    return [
        {
            "key": key,
            "label": names[key],
            "better": _better(sweep) if key in OF_KEYS else better,
            "places": _places(sweep, arms, key),
            "uncompared": sweep.uncompared(key),
        }
        for key, better in _axes_of(sweep.runs).items()
        if _mean(arms, key).notna().any() and not (random and key in OF_KEYS)
    ]


def _axes_of(runs: pd.DataFrame) -> dict[str, str | None]:
    """AXES but for seconds of GPUs where each run had one: they are its training time."""
    return {key: better for key, better in AXES.items() if key != "train_gpu_s" or not runs["gpus"].eq(1).all()}


def _places(sweep: Sweep, arms: pd.DataFrame, key: str) -> int:
    """Decimals of an axis's means."""
    return readable.metric_places(sweep.metric) if key in OF_KEYS else readable.column_places(_mean(arms, key))


def _interval_notes(sweep: Sweep, axes: list[dict]) -> list[str]:
    """Which measurements have no interval though seeds would give one, and why."""
    keys = [axis["key"] for axis in axes if axis["key"] in sweep.runs and axis["key"] not in OF_KEYS]
    keys = [key for key in keys if key not in WITHOUT and not sweep.uncompared(key)]
    return interval_notes(sweep.runs, sweep.noise, keys)[1:]


def _absent(runs: pd.DataFrame, measured: set[str]) -> list[str]:
    """What no run has a value of, and why: a text a reason."""
    reasons: dict[str, list[str]] = {}
    for key in _axes_of(runs):
        if key not in measured and key in tables.COLUMNS:
            for why in readable.null_reasons(runs, key):
                reasons.setdefault(why, []).append(LABELS[key].partition(",")[0])
    return [f"{', '.join(keys)} ({why})" for why, keys in reasons.items()]


def _mean(arms: pd.DataFrame, key: str) -> pd.Series:
    """An axis's mean of every arm: a setting where the arm has one value, as numbers."""
    return pd.to_numeric(arms[f"{key}_mean" if f"{key}_mean" in arms else key], errors="coerce")


def _arms(
    sweep: Sweep, runs: pd.DataFrame, arms: pd.DataFrame, axes: list[dict], forgetting: pd.DataFrame
) -> list[dict[str, Any]]:
    found = []
    over_texts = {row["arm"]: (row["forgetting_low"], row["forgetting_high"]) for row in records(forgetting)}
    for position, row in enumerate(records(arms)):
        own = runs[runs["arm"] == row["arm"]]
        values = {}
        for key, places in ((axis["key"], axis["places"]) for axis in axes):
            mean = _mean(arms, key).iloc[position]
            if pd.isna(mean):
                continue
            scale = _scale(sweep, key)
            # That of forgetting is over other texts too, as its own table has it, or there is none.
            ends = over_texts.get(row["arm"]) if key == FORGETTING else sweep.interval(own, key) if key in own else None
            low, high = ends or (math.nan, math.nan)
            values[key] = {
                "mean": finite(mean * scale),
                "low": finite(low * scale),
                "high": finite(high * scale),
                "text": with_interval(mean, low, high, scale, places=places),
            }
        found.append(
            {
                "arm": row["arm"],
                "label": arm_label(row["method"], row["rank"]),
                "method": row["method"],
                "rank": None if pd.isna(row["rank"]) else int(row["rank"]),
                "n": int(row["n"]),
                "values": values,
            }
        )
    return found


def _runs(sweep: Sweep, runs: pd.DataFrame, axes: list[dict]) -> list[dict[str, Any]]:
    """One row per seed: the values that the means are taken over."""
    values: dict[tuple[str, int], dict[str, Any]] = {}
    for key in (axis["key"] for axis in axes):
        for row in records(counted(runs, key)):
            values.setdefault((row["arm"], row["seed"]), {})[key] = finite(row[key] * _scale(sweep, key))
    return [{"arm": arm, "seed": int(seed), "values": own} for (arm, seed), own in values.items()]


def method_data(styles: dict[str, Any]) -> list[dict[str, str]]:
    """The methods in order with their names and shapes; their colours are CSS variables --m0, --m1 …"""
    return [
        {"method": method, "label": method_label(method), "shape": SHAPES[styles[method].marker]} for method in styles
    ]


# Vega's shapes for matplotlib's markers.
SHAPES = {
    "o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "P": "cross",
    "X": "triangle-left", "p": "triangle-right",
}  # fmt: skip
