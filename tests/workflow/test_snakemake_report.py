"""Snakemake's own report of a finished workflow: without a network, every table and figure once, with its caption."""

import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
import tiny
from peft_tradeoffs.core.layout import FIGURES, TABLES, TUNING_FIGURES

CAPTIONS = tiny.REPOSITORY / "report" / "captions"
SUBJECTS = {
    "Decision": ["recommendation.md"],
    "Results": ["arms.csv", "cost.csv", "memory.csv", "runs.csv"],
    "Comparisons": ["comparison.csv", "equal_cost.csv"],
    "Checks": ["contract.csv"],
}


@pytest.fixture(scope="module")
def page(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the report; whatever asked for the network would end in an error."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("report") / "copy", symlinks=True)
    path = folder.with_name("report.zip")
    closed = "http://127.0.0.1:9"
    tiny.snakemake(folder, None, "--report", str(path), http_proxy=closed, https_proxy=closed)
    with zipfile.ZipFile(path) as archive:
        return archive.read("report/report.html").decode()


def data(page: str, name: str) -> Any:
    """One of the report's variables."""
    start = page.rindex(f'var {name} = {{"') + len(f"var {name} = ")
    return json.JSONDecoder().raw_decode(page, start)[0]


def plain(text: str) -> str:
    """Words alone, of reStructuredText or HTML."""
    return " ".join(re.findall(r"[\w.,:;%-]+", re.sub(r"<[^>]+>|``", " ", text)))


def test_every_table_and_figure_is_in_its_category(page, finished):
    categories = data(page, "categories")
    tables = {subject: sorted(Path(path).name for path in paths) for subject, paths in categories["Tables"].items()}
    assert tables == SUBJECTS
    made = {path.stem for path in (finished / "results/tables").iterdir()}
    assert made == {Path(name).stem for names in SUBJECTS.values() for name in names}
    titled = (path for path in (finished / "results/figures").rglob("*.svg") if path.parent.name != "paper")
    drawn = sorted(str(path.relative_to(finished)) for path in titled)
    assert {name: sorted(paths) for name, paths in categories["Figures"].items()} == {"reviews, tiny": drawn}
    assert categories.keys() == {"Tables", "Figures", "Report"}
    (pages,) = categories["Report"].values()
    assert [Path(path).name for path in pages] == ["report.html"]


def test_each_has_its_label_and_caption(page):
    results = data(page, "results")
    shown = [path for subjects in data(page, "categories").values() for paths in subjects.values() for path in paths]
    for path in shown:
        name = Path(path).stem
        assert list(results[path]["labels"].values()) == [name.replace("_", " ")]
        assert plain(results[path]["caption"]) == plain((CAPTIONS / f"{name}.rst").read_text(encoding="utf-8")), name


def test_no_output_lacks_a_caption_and_no_caption_an_output():
    declared = (tiny.REPOSITORY / "rules" / "common.smk").read_text(encoding="utf-8")
    declared += (
        (tiny.REPOSITORY / "rules" / "report.smk").read_text(encoding="utf-8").replace("report.html", '"report"')
    )
    figures = {*FIGURES, *TUNING_FIGURES}
    missing = {path.stem for path in CAPTIONS.iterdir() if f'"{path.stem}"' not in declared} - figures
    assert missing == set()
    tables = [*(name for name in TABLES if name != "profiles"), "sweep", "recommendation"]
    assert {*figures, *tables} <= {path.stem for path in CAPTIONS.iterdir()}


def test_the_report_says_what_the_workflow_is(page):
    assert "What does each fine-tuning method cost, and what does it buy?" in page
