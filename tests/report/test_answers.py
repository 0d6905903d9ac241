"""What the arms wrote, on the page: which prompts are shown, what stands beside an answer, and that it stays text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import answered
import numpy as np
import pages
import pandas as pd
import pytest
import synthetic
from axe_playwright_python.sync_playwright import Axe
from peft_tradeoffs.analysis import tables
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import OUTPUTS, SCORES
from peft_tradeoffs.report import answers
from peft_tradeoffs.report.page import inline_json, report
from peft_tradeoffs.report.sweep import Sweep, Tables, load
from peft_tradeoffs.tasks.outputs import STATISTICS
from playwright.sync_api import Browser

ARMS = (("full", None), ("lora", 8), ("qlora", 8))
EXACT_MATCH = STATISTICS.index("exact_match")
HOSTILE = (
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "</script><script>window.hacked = 1</script><b>bold</b>",
    '{"__proto__": 1} ${window.hacked = 1} `&lt;b&gt;` <!-- --> ]]>',
    "\u202egnirts \u2067rtl\u2066 \x1b[31mred\x00",
    "w" * 3000,
    "漢" * 400,
    "שלום עולם, 123 <b>",
    "  two  spaces\n\ttab\r\n\nend ",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with pages.chromium() as browser:
        yield browser


def runs_of(seeds: int = 2, metric: str = "exact_match", arms: Any = ARMS) -> list[dict[str, Any]]:
    return [answered.summary(*arm, seed, metric) for arm in arms for seed in range(seeds)]


def written(folder: Path, runs: list[dict[str, Any]], asked: Any, answer: Any, score: Any = None) -> Path:
    """Runs, what they wrote, and runs.csv."""
    synthetic.write(folder, runs)
    answered.write(folder, runs, asked, answer, score)
    (folder / "tables").mkdir(exist_ok=True)
    tables.runs_frame(runs).to_csv(folder / "tables/runs.csv", index=False)
    (folder / "tables/runs.md").write_text("## sst2\n", encoding="utf-8")
    return folder


def swept(folder: Path) -> Sweep:
    return load(Tables(folder / "tables/runs.csv"), folder / "runs/sst2/distilbert", "sst2", "distilbert")


def panel(folder: Path, **options: Any) -> dict[str, Any] | None:
    dirs = {name: options.pop(name) for name in ("tokens_dir", "untrained_dir") if name in options}
    return answers.panel(swept(folder), answers.Asked(folder / "data", **dirs), **options)


def asked_for(count: int) -> list[tuple[str, str]]:
    return [(f"prompt {row}", f"reference {row}") for row in range(count)]


def test_prompts_on_which_arms_differ_come_first_and_the_others_lie_evenly(tmp_path):
    """Of 200 prompts LoRA alone is right on 60, and on 130 in one of two seeds; on 7 QLoRA is wrong in other words."""

    def answer(arm: str, seed: int, row: int) -> answered.Answer:
        right = arm == "lora-r8" and (row == 60 or (row == 130 and seed == 0))
        return f"reference {row}" if right else "slip" if arm == "qlora-r8" and row == 7 else "wrong", True

    found = panel(written(tmp_path, runs_of(), asked_for(200), answer))
    rows = [one["row"] for one in found["prompts"]]
    assert rows[:3] == [60, 130, 7] and len(set(rows)) == len(rows) == answers.SHOWN
    rest = rows[3:]
    assert rest == sorted(rest) and (rest[0], rest[-1]) == (0, 199) and max(np.diff(rest)) <= 6
    assert found["about"] == (
        "48 of 200 prompts of the test split: the 3 on which the arms differ most in exact match (mean over seeds), "
        "and behind them 45 spread evenly over the others."
    )
    assert found["prompts"][0]["references"] == [{"text": "reference 60"}]


def test_no_more_than_half_are_those_on_which_arms_differ(tmp_path):
    def answer(arm: str, seed: int, row: int) -> answered.Answer:
        return f"reference {row}" if arm == "full" and row >= 50 else "wrong", True

    found = panel(written(tmp_path, runs_of(1), asked_for(100), answer))
    rows = [one["row"] for one in found["prompts"]]
    assert rows[:24] == list(range(50, 74)) and sum(row < 50 for row in rows[24:]) > 12
    assert "the 24 on which the arms differ most in exact match, and" in found["about"]


def test_beside_an_answer_stands_whether_it_is_right_ended_and_of_which_seeds(tmp_path):
    def answer(arm: str, seed: int, row: int) -> answered.Answer:
        if arm == "full":
            return f" reference {row}\n", True
        return ("reference", False) if arm == "lora-r8" else (f"seed {seed}", True)

    found = panel(written(tmp_path, runs_of(3), asked_for(4), answer))
    assert [arm["label"] for arm in found["arms"]] == ["full", "LoRA r8", "QLoRA r8"]
    assert found["prompts"][2]["answers"] == [
        [{"seeds": [0, 1, 2], "text": " reference 2\n", "right": True}],
        [{"seeds": [0, 1, 2], "text": "reference", "right": False, "cut": answered.CUT}],
        [{"seeds": [seed], "text": f"seed {seed}", "right": False} for seed in range(3)],
    ]
    assert found["about"].startswith("All 4 prompts of the test split, those first on which the arms differ most in")
    assert found["notes"] == ["Each arm's answer is that of its first seed, those of other seeds are below it."]


def test_a_corpus_metric_is_that_of_the_answer_alone_and_one_of_tokens_none(tmp_path):
    def answer(arm: str, seed: int, row: int) -> answered.Answer:
        return ("one two three four five" if arm == "full" and row == 1 else "one two three six"), True

    asked = [("count", "one two three four five")] * 3
    found = panel(written(tmp_path / "bleu", runs_of(1, "bleu"), asked, answer))
    assert [one["row"] for one in found["prompts"]] == [1, 0, 2]
    (best,), (other,), _ = found["prompts"][0]["answers"]
    assert (best["score"], other["score"]) == ("100.00", "46.31")  # exp(-1/4) (3/4 · 2/3 · 1/2 · 1/2)^(1/4)
    assert "right" not in best and "BLEU beside an answer is of that answer alone." in found["notes"]
    found = panel(written(tmp_path / "loss", runs_of(1, "token_loss"), asked, answer))
    assert [one["row"] for one in found["prompts"]] == [1, 0, 2]
    assert found["prompts"][0]["answers"][0] == [{"seeds": [0], "text": "one two three four five"}]
    assert "differ most in their texts" in found["about"]


def test_answers_that_are_not_scored_yet_are_told_apart_by_their_texts(tmp_path):
    def answer(arm: str, seed: int, row: int) -> answered.Answer:
        return ("other" if arm == "full" and row == 2 else "same"), True

    written(tmp_path, runs_of(1), asked_for(3), answer)
    for path in tmp_path.rglob(SCORES):
        path.unlink()
    synthetic.seal_all(tmp_path)
    found = panel(tmp_path)
    assert [one["row"] for one in found["prompts"]] == [2, 0, 1] and found["metric"] == ""


def test_a_chat_is_shown_turn_by_turn_without_its_answer(tmp_path):
    turns = [("system", "be short"), ("user", "hello\nthere"), ("assistant", "hi")]
    chat = {"messages": [{"role": role, "content": content} for role, content in turns]}
    nothing = lambda texts: np.zeros((len(texts), len(STATISTICS)))  # noqa: E731
    written(tmp_path, runs_of(1), [(json.dumps(chat),)] * 2, lambda *_: ("hi", True), nothing)
    shown = panel(tmp_path)["prompts"][0]
    assert shown["prompt"] == {"text": "system: be short\n\nuser: hello\nthere"}
    assert shown["references"] == [{"text": "hi"}]


def test_a_long_text_is_shortened_and_says_so_and_a_prompt_keeps_both_ends(tmp_path):
    asked = [("start" + "x" * 5000 + "end", "reference " * 500)]
    found = panel(written(tmp_path, runs_of(1), asked, lambda *_: ("y" * 2001, True)))
    (shown,) = found["prompts"]
    assert shown["prompt"]["of"] == 5008 and len(shown["prompt"]["text"]) == 2000 + len(answers.GAP)
    assert shown["prompt"]["text"].startswith("start") and shown["prompt"]["text"].endswith("end")
    assert shown["answers"][0][0]["text"] == "y" * 2000 and shown["answers"][0][0]["of"] == 2001
    assert "Texts of more than 2,000 characters are shortened, and searched as they are shown." in found["notes"]


def test_the_untrained_answer_stands_first_and_has_no_part_in_the_choice_of_prompts(tmp_path):
    """It alone is right on row 3, so nothing but its own answer differs there."""
    written(tmp_path, runs_of(1), asked_for(60), lambda arm, _, row: (f"{arm if row == 50 else 'wrong'}", True))
    before = [(f"reference {row}" if row == 3 else "x " * 30, row == 3) for row in range(60)]
    plain = panel(tmp_path)
    answered.untrained(tmp_path, asked_for(60), before)
    found = panel(tmp_path, untrained_dir=tmp_path / "untrained")
    assert [one["row"] for one in found["prompts"]] == [one["row"] for one in plain["prompts"]]
    assert found["prompts"][0]["row"] == 50 and found["arms"] == plain["arms"] and found["about"] == plain["about"]
    shown = {one["row"]: one["untrained"] for one in found["prompts"]}
    assert shown[50] == {"seeds": [0], "text": "x " * 30, "right": False, "cut": answered.CUT}
    assert "First stands what the model wrote before any training (untrained), which is no arm." in found["notes"]
    assert all("untrained" not in one for one in plain["prompts"]) and "untrained" not in " ".join(plain["notes"])


def test_an_untrained_model_that_answered_other_rows_is_not_shown(tmp_path):
    written(tmp_path, runs_of(1), asked_for(3), lambda *_: ("x", True))
    answered.untrained(tmp_path, asked_for(2), [("x", True)] * 2)
    with pytest.raises(InputError, match=r"distilbert/outputs.jsonl: answers to other rows than those of full/seed0"):
        panel(tmp_path, untrained_dir=tmp_path / "untrained")


@pytest.mark.parametrize("name", [OUTPUTS, SCORES])
def test_answers_that_are_not_as_the_run_published_them_are_not_shown(tmp_path, name):
    written(tmp_path, runs_of(1), asked_for(3), lambda *_: ("x", True))
    path = tmp_path / "runs/sst2/distilbert/lora-r8/seed0" / name
    path.write_text(path.read_text(encoding="utf-8").replace("2", "3", 1), encoding="utf-8")
    with pytest.raises(InputError, match=rf"lora-r8/seed0/{name}: changed after the run wrote it"):
        panel(tmp_path)


def test_runs_that_answered_other_rows_are_not_shown_side_by_side(tmp_path):
    runs = runs_of(1)
    written(tmp_path, runs, asked_for(3), lambda *_: ("x", True))
    answered.write(tmp_path, runs[2:], asked_for(2), lambda *_: ("x", True))
    with pytest.raises(
        InputError, match=r"qlora-r8/seed0/outputs.jsonl: answers to other rows than those of full/seed0"
    ):
        panel(tmp_path)


def test_without_the_data_that_was_read_no_answer_stands_beside_a_prompt(tmp_path):
    assert panel(written(tmp_path, runs_of(1), asked_for(3), lambda *_: ("x", True)))["empty"] == ""
    data = tmp_path / "data/sst2/test.parquet"
    pd.read_parquet(data).assign(text_a="another prompt").to_parquet(data)
    assert panel(tmp_path) == {"empty": "data/sst2/ holds other data now than the runs were of"}
    tokens = tmp_path / "tokens/sst2/distilbert.json"
    tokens.parent.mkdir(parents=True)
    for of_data, of_tokens, same in (("e", "d", True), ("f", "d", False), ("e", "f", False)):
        answered.write(tmp_path, runs_of(1), asked_for(3), lambda *_: ("x", True))
        tokens.write_text(json.dumps({"data_sha256": of_data * 64, "sha256": of_tokens * 64}), encoding="utf-8")
        assert (panel(tmp_path, tokens_dir=tmp_path / "tokens")["empty"] == "") is same
    data.unlink()
    assert panel(tmp_path) == {"empty": "prompts and references are not here: no test.parquet in data/sst2/"}


def test_runs_without_answers_have_no_panel(tmp_path):
    runs = [synthetic.summary("full", None, seed) for seed in (0, 1)]
    synthetic.write(tmp_path, runs)
    (tmp_path / "tables").mkdir()
    tables.runs_frame(runs).to_csv(tmp_path / "tables/runs.csv", index=False)
    (tmp_path / "tables/runs.md").write_text("## sst2\n", encoding="utf-8")
    assert panel(tmp_path) is None
    html = report({"runs": tmp_path / "tables/runs.csv"}, tmp_path / "runs")
    assert 'id="answers"' not in html and 'href="#answers"' not in html


def test_nine_arms_five_seeds_and_2500_prompts_stay_under_5_MB(tmp_path, monkeypatch):
    """Texts are long and hold signs that take more room; where it is less, beside other pairs, less is shown."""
    arms = synthetic.grid(["full", "lora", "rslora", "dora", "qlora"], [4, 16])
    runs = [answered.summary(*arm, seed) for arm in arms for seed in range(5)]
    text = "<漢字> & plain words of an answer " * 10

    def score(texts: list[str]) -> np.ndarray:
        parts = np.zeros((len(texts), len(STATISTICS)))
        parts[::3, EXACT_MATCH] = 1
        return parts

    def answer(arm: str, seed: int, row: int) -> answered.Answer:
        return f"{arm} {seed} {row} {text}", row % 2 == 0

    asked = [(f"{row} {text * 20}", f"{row} {text}") for row in range(2500)]
    written(tmp_path, runs, asked, answer, score)
    read = answers.read_runs(swept(tmp_path))
    monkeypatch.setattr(answers, "read_runs", lambda _: read)  # it takes seconds
    html = report({"runs": tmp_path / "tables/runs.csv"}, tmp_path / "runs", tmp_path / "data")
    assert len(html.encode()) < 5_000_000 and "48 of 2,500 prompts of the test split" in html
    found = panel(tmp_path)
    assert len(found["prompts"]) == answers.SHOWN and len(found["arms"]) == 9
    assert max(len(own) for own in found["prompts"][0]["answers"]) == 5
    for room in (answers.ROOM_bytes, answers.ROOM_bytes // 5):
        found = panel(tmp_path, room=room)
        assert len(inline_json(found).encode()) <= room
    assert "those of other seeds had no room here" in " ".join(found["notes"])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of runs that were asked, and answered, what could break a page."""
    folder = tmp_path_factory.mktemp("hostile")
    asked = [(text, HOSTILE[place - 1]) for place, text in enumerate(HOSTILE)]
    runs = runs_of(2, arms=[*ARMS, ("dora", 8)])

    def answer(arm: str, seed: int, row: int) -> answered.Answer:
        return HOSTILE[(row + len(arm) + seed) % len(HOSTILE)], arm != "lora-r8"

    pages.make(folder, runs)
    answered.write(folder, runs, asked, answer)
    return pages.report(folder, "--data-dir", folder / "data")


@pytest.mark.parametrize("width", [390, 1280])
def test_what_was_written_stays_text_and_within_the_page(browser, hostile, width):
    with pages.opened(browser, hostile, viewport={"width": width, "height": 844}) as page:
        page.locator("#answers-more").click()
        assert page.locator("#answers .prompt").count() == len(HOSTILE) and page.locator("#answers-more").is_hidden()
        for one in page.locator("#answers details").all():
            one.locator("summary").click()
        assert page.evaluate("window.hacked") is None
        assert page.locator("#answers :is(script, img, b)").count() == 0
        shown = page.locator("#answers .written").all_text_contents()
        for text in HOSTILE[:4]:
            assert text in shown
        assert "(U+202E)gnirts (U+2067)rtl(U+2066) (U+001B)[31mred(U+0000)" in shown
        spaced = page.locator("#answers .written", has_text="two  spaces").first
        assert spaced.evaluate("one => one.innerText") == "  two  spaces\n\ttab\n\nend "
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        wide = "all => all.filter((one) => one.scrollWidth > one.clientWidth + 1).map((one) => one.textContent)"
        assert page.locator("#answers .written, #answers .answer, #answers .prompt").evaluate_all(wide) == []
        places = (
            page.locator("#answers .prompt")
            .first.locator(".answer")
            .evaluate_all(
                "all => all.map((one) => [one.getBoundingClientRect().left, one.getBoundingClientRect().top])"
            )
        )
        columns = {round(left) for left, _ in places}
        assert len(places) == 4 and (len(columns) == 1 if width == 390 else len(columns) > 2)
        violations = Axe().run(page, "#answers").response["violations"]
        assert [one["id"] for one in violations if one["impact"] in ("serious", "critical")] == []


HEADINGS = "[...document.querySelectorAll('#answers h3')].map((one) => one.textContent).join('|')"


def test_search_and_the_filter_of_arms(browser, tmp_path):
    def answer(arm: str, seed: int, row: int) -> answered.Answer:
        if row == 11:
            return ("needle" if arm == "qlora-r8" else "hay"), arm != "full"
        return (f"reference {row}" if arm == "lora-r8" and row % 2 else "wrong"), True

    runs = runs_of()
    pages.make(tmp_path, runs)
    answered.write(tmp_path, runs, asked_for(40), answer)
    with pages.opened(browser, pages.report(tmp_path, "--data-dir", tmp_path / "data")) as page:
        prompts, more, count = (
            page.locator("#answers .prompt"),
            page.locator("#answers-more"),
            page.locator("#answers-count"),
        )
        assert prompts.count() == 6 and more.inner_text() == "Show 6 more of 40 prompts"
        more.click()
        assert prompts.count() == 12
        headings = prompts.locator("h3").all_inner_texts()
        assert headings[0] == "Row 2 1 of 3 arms right" and len(set(headings)) == 12
        search = page.locator("#answers-search")
        for words, rows in (
            ("NEEDLE", ["Row 12 0 of 3 arms right"]),
            ("prompt 31", ["Row 32 1 of 3 arms right"]),
            ("hay needle", ["Row 12 0 of 3 arms right"]),
            ("needle -hay", []),
        ):
            search.fill(words)
            page.wait_for_function(f"{HEADINGS} === '{'|'.join(rows)}'")
            assert count.inner_text() == f"{len(rows)} of 40 prompts"
        assert page.locator("#answers .empty").inner_text() == "Nothing to show: no prompt is left by the search."
        search.fill("needle")
        page.wait_for_function("document.querySelector('#answers-count').textContent === '1 of 40 prompts'")
        assert prompts.locator(".answer strong").all_inner_texts() == ["full", "LoRA r8", "QLoRA r8"]
        assert prompts.locator(".answer .mark").all_inner_texts() == [
            *("✗ wrong", "✂ not ended, cut at 24 tokens", "✗ wrong", "✗ wrong")
        ]
        pages.redrawn(page, lambda: page.locator("#filter").fill("full"))
        assert count.inner_text() == "0 of 40 prompts"  # of an arm that is not shown nothing is found
        search.fill("")
        page.wait_for_function("document.querySelectorAll('#answers .prompt').length === 6")
        assert set(prompts.locator(".answer strong").all_inner_texts()) == {"full"}


def test_the_untrained_model_stands_below_the_arms_and_first_among_the_answers(browser, tmp_path):
    """Whatever is filtered or sorted; it is no row of the table's body, so nothing highlights or counts it."""
    runs, asked = runs_of(), asked_for(40)
    pages.make(tmp_path, runs)
    answered.write(tmp_path, runs, asked, lambda _, seed, row: (f"reference {row}" if row % 2 else "wrong", True))
    folder = answered.untrained(
        tmp_path, asked, [(f"reference {row}" if row == 1 else "babble", row > 5) for row in range(40)]
    )
    pages.script("make_untrained.py", "--untrained", folder / "summary.json", "--output-dir", tmp_path / "tables")
    more = ("--data-dir", tmp_path / "data", "--untrained-dir", tmp_path / "untrained")
    with pages.opened(browser, pages.report(tmp_path, *more)) as page:
        line = page.locator("#arms-untrained")
        assert line.inner_text().startswith("Untrained: exact match 2.50 % [")
        assert "nothing is tested against it, and no verdict takes it in" in line.inner_text()
        foot = page.locator("#arms-table tfoot tr")
        assert foot.count() == 1 and foot.locator("th").inner_text() == "untrained"
        assert any(text.startswith("2.50 [") for text in foot.locator("td").all_inner_texts())
        assert page.locator("#arms-table tbody tr").count() == 3
        first = page.locator("#answers .prompt").first
        assert first.locator(".answer strong").all_inner_texts() == ["untrained", "full", "LoRA r8", "QLoRA r8"]
        assert "3 arms right" in first.locator("h3").inner_text()
        page.locator("#answers-search").fill("babble")
        page.wait_for_function("document.querySelector('#answers-count').textContent.startsWith('39 of 40')")
        pages.redrawn(page, lambda: page.locator("#filter").fill("qlora"))
        assert page.locator("#arms-table tbody tr").count() == 1 and foot.count() == 1
        assert set(page.locator("#answers .answer strong").all_inner_texts()) == {"untrained", "QLoRA r8"}
        assert "Before any training: what the model as it is fetched writes" in page.locator("#tables").inner_text()
        violations = Axe().run(page, "#answers, #arms").response["violations"]
        assert [one["id"] for one in violations if one["impact"] in ("serious", "critical")] == []
