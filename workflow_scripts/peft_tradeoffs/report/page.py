"""The report's page: what it says, as one HTML file that asks the network for nothing."""

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import vl_convert
from markdown_it import MarkdownIt
from markdown_it.token import Token

from peft_tradeoffs.analysis import readable, tables
from peft_tradeoffs.analysis.comparison import read_comparison
from peft_tradeoffs.analysis.finished import read_env, verified
from peft_tradeoffs.analysis.notices import warnings_by_pair
from peft_tradeoffs.analysis.tables import COMPLETED, read_table
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import read_text
from peft_tradeoffs.core.layout import PAGE, REPOSITORY, TABLES, run_folder
from peft_tradeoffs.core.text import and_list, method_label, plural, records
from peft_tradeoffs.report.page_data import AXES, LABEL, imported_data, method_data, pair_data
from peft_tradeoffs.report.sweep import Tables, colours, load
from peft_tradeoffs.tasks.recorded import QUANTITIES

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
VERDICT = "recommendation"
MADE_AGAIN = "delete it, and Snakemake makes it again"
# Columns of a table that the page reads itself, and those of them that hold numbers.
NEEDED = {
    "contract": ("fact", "verdict"),
    VERDICT: ("dataset", "model", "arm", "cheapest"),
    "attribution": ("dataset", "model", "factorial", "quantity", "effect", "kind", "percent", "value", "low", "high"),
    "imported": ("source", "experiment", "method", "rank", "metric_value", "peak_memory_MiB", "train_s"),
}
NUMBERS = ("cheapest", "percent", "value", "low", "high", "rank", "metric_value", "peak_memory_MiB", "train_s")
SHOWN = 5  # reasons of a verdict that are always shown


def report(files: dict[str, Path], runs_dir: Path, data_dir: Path | None = None) -> str:
    """The page as HTML. `files` are the CSV tables by name, runs.csv among them, each with its Markdown beside it.

    `data_dir` holds {dataset}/dataset.json, whose warnings are shown. Raises InputError if a table or a file of a run
    is missing.
    """
    if "runs" not in files:
        raise InputError("--tables: no runs.csv among them; make_tables.py writes it")
    if unknown := set(files) - {*TITLES, VERDICT}:
        raise InputError(f"--tables: {', '.join(sorted(unknown))} unknown; known are {', '.join([*TITLES, VERDICT])}")
    texts = {name: _read(path) for name, path in files.items()}
    runs = tables.read_runs(files["runs"])
    pairs = runs[["dataset", "model"]].drop_duplicates().itertuples(index=False)
    comparison, attribution, judged, imported = (
        _frame(files, name) for name in ("comparison", "attribution", VERDICT, "imported")
    )
    sweeps = [
        load(Tables(files["runs"], *map(files.get, OF_SWEEP)), runs_dir / dataset / model, dataset, model)
        for dataset, model in pairs
    ]
    styles, warnings = sweeps[0].styles, warnings_by_pair(runs, runs_dir, data_dir)
    shown = [name for name in TITLES if name in files]
    data = {
        "pairs": [
            pair_data(sweep, comparison, attribution, judged, warnings[sweep.dataset, sweep.model]) for sweep in sweeps
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
        title=title(styles),
        summary=summary(runs, files),
        verdict=verdict(_markdown(files[VERDICT])) if VERDICT in files else [],
        pairs=[f"{sweep.dataset} · {sweep.model}" for sweep in sweeps],
        sections={section["name"]: section for section in sections},
        environment=environment(run_folders(runs, runs_dir)),
        definitions=definitions(),
        light=list(colours(styles).values()),
        dark=list(colours(styles, dark=True).values()),
    )


def run_folders(runs: pd.DataFrame, runs_dir: Path) -> list[Path]:
    """The folder of every run of runs.csv."""
    return [run_folder(runs_dir, run["dataset"], run["model"], run["arm"], run["seed"]) for run in records(runs)]


def title(methods: Any) -> str:
    """What is compared, e.g. "full fine-tuning, LoRA and QLoRA compared"."""
    names = ["full fine-tuning" if name == "full" else method_label(name) for name in methods]
    if len(names) > 4:
        names = [*names[:3], f"{len(names) - 3} more"]
    text = and_list(names) if len(names) == 1 else f"{and_list(names)} compared"
    return text[0].upper() + text[1:]


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
        facts = _frame(files, "contract")
        broken = facts[facts["verdict"] == "differs"]
        lines.append(
            "The contract is kept: what must be equal between arms is equal in what the runs recorded."
            if broken.empty
            else f"The contract is broken: arms differ in {', '.join(broken['fact'].unique())}."
        )
    ended = runs["finished_at"].dropna()
    return [*lines, f"The last run ended on {ended.max()[:10]}."] if len(ended) else lines


def verdict(text: str) -> list[dict[str, str]]:
    """recommendation.md as HTML, one part per data set and model: what to take and its first reasons, and the rest."""
    parts = []
    for section in text.split("\n## "):
        lines = section.removeprefix("## ").splitlines()
        bullets = [index for index, line in enumerate(lines) if line.startswith("- ")]
        cut = bullets[SHOWN] if len(bullets) > SHOWN else bullets[-1] + 1 if bullets else len(lines)
        head, rest = ("\n".join(part) for part in (["## " + lines[0], *lines[1:cut]], lines[cut:]))
        label = f"Which arms of {lines[0]} qualify"
        parts.append({"head": markdown_html(head, label), "rest": markdown_html(rest, label)})
    return parts


def definitions() -> list[tuple[str, str]]:
    """How each number of the page was taken, as its quantity says."""
    found = [(LABEL[key], QUANTITIES[key].description) for key in AXES if key in QUANTITIES]
    return [*found, (LABEL["hours"], f"{QUANTITIES['wall_s'].description} Here in hours, mean of an arm's runs.")]


def _count(number: int, noun: str) -> str:
    return f"{number} {plural(noun, number)}"


def _read(path: Path) -> str:
    try:
        return read_text(path, MADE_AGAIN)
    except FileNotFoundError:
        raise InputError(f"{path}: no such table; run the workflow's target `tables` first") from None


def _markdown(path: Path) -> str:
    return _read(path.with_suffix(".md"))


def _frame(files: dict[str, Path], name: str) -> pd.DataFrame:
    columns = ["dataset", "model", "arm", "split", "kind"]
    names = ("method", "quantity", "experiment", "source", "status", "positive_class", "factorial", "effect", "metric")
    if name not in files:
        return pd.DataFrame(columns=columns)
    if name == "comparison":
        return read_comparison(files[name])
    texts = dict.fromkeys((*columns, *names), object)
    numbers = [key for key in NUMBERS if key in NEEDED[name]]
    return read_table(files[name], NEEDED[name], MADE_AGAIN, texts, numbers)
