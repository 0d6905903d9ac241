"""Warnings of data sets and constant predictions: in the tables, the verdict and the page; hostile names are inert."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import forks
import pages
import pytest
import synthetic
import tiny
from markdown_it import MarkdownIt
from peft_tradeoffs.analysis import tables
from peft_tradeoffs.analysis.readable import latex, markdown
from peft_tradeoffs.analysis.recommendation import load_warnings, recommendation_frame
from peft_tradeoffs.analysis.recommendation_text import answer, recommendation_markdown
from peft_tradeoffs.analysis.tables import constant, warnings_by_pair
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.text import plain
from synthetic_comparison import BAD, GOOD, NO_LIMITS, compared

PAIR = ("sst2", "distilbert")
LEAKED = "64 of 64 test rows (100 %) have the text of a training row."
HOSTILE = (
    "The labels '<img src=x onerror=alert(1)>' and '[a](javascript:alert(1)) **b** `c` <https://x.y> www.x.y _d_ "
    "| $e$ &lt; ~~f~~ ![g](h)' differ in case alone."
)
ARMS = (("full", None), ("lora", 8), ("qlora", 8))
BLOCKS = (
    "# a heading",
    "- an item",
    "+ an item",
    "1. an item",
    "12) an item",
    "> a quote",
    "    code",
    "```code",
    "---",
)


def arm(method: str, rank: int | None, constant_in: tuple[int, ...] = (), seeds: int = 3, **changes: Any) -> list[dict]:
    return [
        synthetic.summary(method, rank, seed, constant_prediction=seed in constant_in, **changes)
        for seed in range(seeds)
    ]


def predictions(folder: Path, run: dict[str, Any], predicted: int) -> None:
    target = folder / "runs" / run["dataset"] / run["model"] / run["arm"] / f"seed{run['seed']}"
    target.mkdir(parents=True, exist_ok=True)
    (target / "predictions.csv").write_text(f"row,label,prediction,logit_0,logit_1\n0,0,{predicted},0.1,0.2\n")


def described(folder: Path, **content: Any) -> Path:
    path = folder / "data/sst2/dataset.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"labels": ["anomaly", "normal"], **content}), encoding="utf-8")
    return folder / "data"


def warned(folder: Path, summaries: list[dict], data: Path | None = None) -> list[str]:
    return warnings_by_pair(tables.runs_frame(summaries), folder / "runs", data)[PAIR]


def test_what_is_constant_is_named_by_arm_class_and_seeds(tmp_path):
    summaries = [*arm("full", None), *arm("lora", 8, (0, 2)), *arm("lora", 4, (0, 1, 2)), *arm("qlora", 4, (0, 1, 2))]
    for run in summaries:
        if run["constant_prediction"]:
            predictions(tmp_path, run, 1)
    assert warned(tmp_path, summaries, described(tmp_path)) == [
        "LoRA r4 and QLoRA r4 predict 'normal' for every test row in all 3 seeds: there the answer does not depend on "
        "the text.",
        "LoRA r8 predicts 'normal' for every test row in 2 of 3 seeds: there the answer does not depend on the text.",
    ]
    predictions(tmp_path, next(run for run in summaries if run["arm"] == "lora-r8"), 0)
    assert warned(tmp_path, summaries)[1].startswith("LoRA r8 predicts one and the same class for every test row in 2 ")
    (one,) = warned(tmp_path, arm("full", None, (0,), seeds=1))
    assert one.startswith("full predicts one and the same class for every test row in its only seed:")


@pytest.mark.parametrize(
    ("summaries", "count"),
    [
        (arm("full", None, (0,), accuracy=1.0), 0),  # the only class of the test split, rightly
        (arm("full", None, (0,)), 1),
        (arm("full", None, (0,), test_rows=1), 0),
        ([synthetic.randomly("full", None, 0)], 0),
        ([synthetic.oom("full", None, 0)], 0),
        ([{key: run[key] for key in run if key != "constant_prediction"} for run in arm("full", None)], 0),
        (arm("full", None, task="regression", metric="pearson", accuracy=None, prediction_spread=0.004), 3),
        (arm("full", None, task="regression", metric="pearson", accuracy=None, prediction_spread=0.4), 0),
        (arm("full", None, (1,), task="regression", metric="pearson", accuracy=None, prediction_spread=None), 1),
    ],
    ids=["right", "constant", "one row", "random", "oom", "older", "no spread", "spread", "regression"],
)
def test_which_runs_are_constant(summaries, count):
    assert constant(tables.runs_frame(summaries)).sum() == count


def test_a_regression_without_spread_is_said(tmp_path):
    runs = arm("full", None, task="regression", metric="pearson", accuracy=None, prediction_spread=0.004)
    assert warned(tmp_path, runs) == [
        "full predicts nearly the same value for every test row in all 3 seeds: there the answer does not depend on "
        "the text."
    ]


def test_what_tokens_warn_of_stands_behind_what_data_do(tmp_path):
    runs, path = arm("full", None), tmp_path / "tokens" / PAIR[0] / f"{PAIR[1]}.json"
    frame, data = tables.runs_frame(runs), described(tmp_path, warnings=[LEAKED])

    def found():
        return warnings_by_pair(frame, tmp_path / "runs", data, tmp_path / "tokens")[PAIR][1:]

    (missing,) = found()
    assert "is not there, so which texts of 'sst2' were cut or left out" in missing
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"warnings": ["max_length 6 cut the end of texts: 1 of 4 rows of train."]}))
    assert found() == ["max_length 6 cut the end of texts: 1 of 4 rows of train."]
    path.write_text("{}")
    assert not found()  # as an earlier version wrote it
    path.write_text('{"warnings": [1]}')
    with pytest.raises(InputError, match="not a description of tokens: warnings holds more than texts"):
        found()


def test_what_the_description_warns_of(tmp_path):
    runs = arm("full", None)
    assert warned(tmp_path, runs, described(tmp_path, warnings=[LEAKED])) == [LEAKED]
    assert warned(tmp_path, runs, described(tmp_path)) == []  # as an earlier version wrote it
    (missing,) = warned(tmp_path, runs, tmp_path / "none")
    assert "dataset.json is not there, so warnings about the data set 'sst2' are not known" in missing
    for content in ('{"warnings": "text"}', '{"warnings": [1]}', "[]", '{"labels": 3}', "{"):
        (tmp_path / "data/sst2/dataset.json").write_text(content)
        with pytest.raises(InputError, match=r"sst2/dataset\.json: .*run `snakemake fetch`"):
            warned(tmp_path, runs, tmp_path / "data")


@pytest.mark.parametrize("text", [HOSTILE, *BLOCKS, "a\nb\n\n# c", "64. of", "snake_case_name and _edge_"])
def test_a_text_in_markdown_stays_text(text):
    reader = MarkdownIt("commonmark", {"html": True, "linkify": False}).enable(["table", "strikethrough"])
    tokens = reader.parse(f"> - {plain(text)}\n")
    assert [token.type for token in tokens if token.type.endswith("_open")] == [
        *("blockquote_open", "bullet_list_open", "list_item_open", "paragraph_open")
    ]
    (inline,) = (token for token in tokens if token.type == "inline")
    assert {child.type for child in inline.children} <= {"text", "text_special"}
    assert "".join(child.content for child in inline.children) == " ".join(text.split())


def test_characters_that_cannot_be_seen_are_shown(tmp_path):
    (text,) = warned(tmp_path, arm("full", None), described(tmp_path, warnings=["'pos\u200b' and '\u202epos\x1b[2J'"]))
    assert text == "'pos(U+200B)' and '(U+202E)pos(U+001B)[2J'"


def test_tables_show_warnings_below(tmp_path):
    runs = tables.runs_frame(arm("full", None))

    def made(write: Any) -> str:
        return write(runs, lambda rows: rows[["arm"]], lambda rows: ["A note."], warned=lambda rows: [LEAKED, "100_%"])

    assert f"> **Warnings**\n>\n> - {LEAKED}\n> - 100\\_%\n\nA note.\n" in made(markdown)
    assert r"Warning: 64 of 64 test rows (100 \%) have the text of a training row. Warning: 100\_\% A note." in made(
        latex
    )


def verdict(summaries: list[dict], quality: dict[str, Any], warnings: list[str] = ()) -> tuple[Any, str, str]:
    frame = recommendation_frame(tables.runs_frame(summaries), compared(quality), NO_LIMITS)
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    text = recommendation_markdown(frame, NO_LIMITS, {PAIR: list(warnings)})
    return frame.set_index("arm"), answer(rows, NO_LIMITS), text


def test_an_arm_that_gives_every_row_the_same_answer_does_not_qualify():
    summaries = [*arm("full", None), *arm("lora", 8, (0, 1, 2)), *arm("qlora", 8, (1,))]
    frame, said, text = verdict(summaries, {"lora-r8": GOOD, "qlora-r8": GOOD}, [LEAKED])
    assert frame["qualifies"].to_dict() == {"full": "yes", "lora-r8": "no", "qlora-r8": "yes"}
    assert frame.loc["lora-r8", "why"] == "it gives every test row the same answer"
    assert said.startswith("Take QLoRA r8")
    assert text.split("\n\n")[2] == f"> **Warning**\n>\n> - {LEAKED}"  # right below the answer
    assert "- Does not qualify: LoRA r8: it gives every test row the same answer." in text


def test_a_baseline_that_gives_every_row_the_same_answer_judges_nothing():
    _, said, text = verdict([*arm("full", None, (0, 1, 2)), *arm("lora", 8)], {"lora-r8": GOOD})
    assert said == (
        "No recommendation: full, the baseline, gives every test row the same answer, so no other arm can be judged by "
        "it; train it at other learning rates or for longer."
    )
    assert "set comparison.baseline to one of them, or train the baseline at other learning rates" in text
    assert "Warning" not in text


def test_an_arm_that_is_constant_and_worse_is_not_proven_elsewhere():
    frame, _, _ = verdict([*arm("full", None), *arm("lora", 8, (0, 1, 2))], {"lora-r8": BAD})
    assert frame.loc["lora-r8", "why"].startswith("it gives every test row the same answer; ")


def test_scripts_and_the_page(tmp_path):
    summaries = [*arm("full", None), *arm("lora", 8, (0, 1))]
    described(tmp_path, warnings=[LEAKED, HOSTILE])
    made = pages.make(tmp_path, summaries)
    for name in ("runs", "arms"):
        text = (tmp_path / f"tables/{name}.md").read_text()
        assert f"> - {LEAKED}" in text and "> - LoRA r8 predicts 'normal' for every test row in 2 of 3 seeds" in text
        assert "\\<img src=x" in text and "<img" not in text.replace("\\<img", "")
    assert "Warning" not in (tmp_path / "tables/cost.md").read_text()
    with pages.chromium() as browser, pages.opened(browser, made) as page:
        shown = page.locator("#warnings li").all_inner_texts()
        assert shown[:2] == [LEAKED, HOSTILE] and len(shown) == 3
        assert page.locator("main img").count() == 0
        page.locator("#table-arms summary").click()
        assert page.locator("#table-arms blockquote li").all_inner_texts() == shown


def test_a_verdict_on_the_page_has_its_warnings(tmp_path):
    from peft_tradeoffs.report.page import verdict as shown

    _, _, text = verdict([*arm("full", None), *arm("lora", 8)], {"lora-r8": GOOD}, [HOSTILE, LEAKED])
    (part,) = shown(text)
    head = part["head"]
    assert head.index("<strong>Take") < head.index("<blockquote>") < head.index("Asked for")
    assert "<img" not in head and "&lt;img src=x onerror=alert(1)&gt;" in head and LEAKED in head


def test_the_command_line_of_the_verdict(tmp_path):
    summaries = [*arm("full", None), *arm("lora", 8)]
    synthetic.write(tmp_path, summaries)
    compared({"lora-r8": GOOD}).to_csv(tmp_path / "comparison.csv", index=False)
    grid = {"dataset": ["sst2"], "model": ["distilbert"], "arm": ["full", "lora-r8"], "seed": [0, 1, 2]}
    words = ["--runs-dir", tmp_path / "runs", "--grid", json.dumps(grid), "--output-dir", tmp_path]
    words += ["--comparison", tmp_path / "comparison.csv", "--contract", synthetic.contract(tmp_path, summaries)]
    words += ["--data-dir", described(tmp_path, warnings=[LEAKED])]
    script = tiny.REPOSITORY / "workflow_scripts/recommend.py"
    forks.script(script, *words).check_returncode()
    assert f"> - {LEAKED}" in (tmp_path / "recommendation.md").read_text()


@pytest.mark.parametrize(
    ("skipped", "steps", "said"), [(6, 600, None), (5, 100, None), (7, 600, "LoRA r8 up to 1 %"), (None, 600, None)]
)
def test_more_than_a_few_skipped_steps_are_said(tmp_path, skipped, steps, said):
    runs = [*arm("full", None, precision="fp16", skipped_steps=2), *arm("lora", 8, precision="fp16", skipped_steps=0)]
    runs[-1] |= {"skipped_steps": skipped, "steps": steps}
    found = warned(tmp_path, runs)
    assert len(found) == bool(said)
    if said:
        assert found[0].startswith("Some runs skipped many steps, whose gradients overflowed in fp16")
        assert f"({said} of a run's)" in found[0]


def test_memory_that_no_peak_holds_is_said(tmp_path):
    (found,) = warned(tmp_path, arm("full", None, optimizer="paged_adamw_8bit"))
    assert found.startswith("No memory peak holds the optimizer's state of paged_adamw_8bit")


@pytest.mark.parametrize(("edges", "said"), [(("highest", None), True), ((None, None), False)])
def test_a_rate_at_the_edge_of_its_grid_is_warned_of(edges, said):
    quality = compared({"lora-r8": GOOD}).assign(rate="tuned", edge=edges)
    frame = recommendation_frame(tables.runs_frame(arm("full", None) + arm("lora", 8)), quality, NO_LIMITS)
    text = recommendation_markdown(frame, NO_LIMITS)
    warning = (
        "> - The learning rate of full is the highest that was tried, so a better one may lie beyond: widen the grid, "
        "or set tune: {extend: true}.\n"
    )
    assert (warning in text) == said


@pytest.mark.parametrize(
    ("begun", "device", "said"),
    [
        ({"full": 0, "lora-r8": 10, "qlora-r8": 100}, "cpu", "QLoRA r8 0 %; full and LoRA r8 50 %"),
        ({"full": 0, "lora-r8": 2, "qlora-r8": 4}, "cpu", None),  # all have neighbours
        ({"full": 0, "lora-r8": 100, "qlora-r8": 200}, "cpu", None),  # none has
        ({"full": 0, "lora-r8": 10, "qlora-r8": 100}, "cuda", None),
    ],
)
def test_times_under_unequal_load_are_warned_of(tmp_path, begun, device, said):
    """One run of 20 s per arm, from this second on."""
    summaries = [synthetic.summary(*arm, 0, device=device) for arm in ARMS]
    synthetic.write(tmp_path, summaries)
    for summary in summaries:
        folder = tmp_path / "runs/sst2/distilbert" / summary["arm"] / "seed0"
        env = json.loads((folder / "env.json").read_text())
        start = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=begun[summary["arm"]])
        end = start + timedelta(seconds=20)
        env["attempts"] = [{"host": "vm", "started_at": start.isoformat(), "ended_at": end.isoformat()}]
        (folder / "env.json").write_text(json.dumps(env))
        synthetic.seal(folder)
    found = load_warnings(tables.runs_frame(summaries), tmp_path / "runs")
    if said is None:
        assert not found
    else:
        (line,) = found["sst2", "distilbert"]
        assert said in line and "--cores 1" in line
