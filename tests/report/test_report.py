"""report.html in a browser: it draws, sorts, filters, downloads, is silent and reachable by all; hostile names."""

import itertools
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pages
import pandas as pd
import published
import pytest
import synthetic
from axe_playwright_python.sync_playwright import Axe
from peft_tradeoffs.analysis import tables
from peft_tradeoffs.analysis.recommendation import recommendation_frame
from peft_tradeoffs.analysis.recommendation_text import recommendation_markdown
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.text import arm_label
from peft_tradeoffs.report.page import inline_json, pair_data, report
from peft_tradeoffs.report.scatter import pareto
from playwright.sync_api import Browser, Page
from synthetic_comparison import GOOD, NO_LIMITS, compared
from synthetic_sweeps import sweep_of

HOSTILE = f"<script>window.hacked = 1</script>\"'`*_&amp;\u202egnirts {'n' * 130}/{'ä' * 60} {'漢' * 40}"
GPU_ARMS = (("full", None), ("lora", 8))
CHARTS = ("tradeoff", "rank-metric", "rank-memory", "rank-time", "curves", "rates", "memory", "attribution")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with pages.chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def output(request: pytest.FixtureRequest) -> Path:
    """What the demo in small left; REPORT_OF=results/demo looks at the demo itself."""
    return Path(os.environ["REPORT_OF"]).resolve() if "REPORT_OF" in os.environ else request.getfixturevalue("demo")


@pytest.fixture
def page(browser: Browser, output: Path) -> Iterator[Page]:
    with pages.opened(browser, output / "report.html") as page:
        yield page


def arms_shown(page: Page) -> list[str]:
    return page.locator("#arms-table tbody tr").evaluate_all("rows => rows.map(row => row.dataset.arm)")


def drawn(page: Page) -> dict[str, bool]:
    """Whether each figure is a picture; one that is not says why."""
    pictures = {name: page.locator(f"#chart-{name} svg").count() == 1 for name in CHARTS}
    for name, picture in pictures.items():
        if page.locator(f"#chart-{name}").is_visible():
            assert picture or page.locator(f"#chart-{name} .empty").inner_text().startswith("Nothing to draw: ")
    return pictures


def test_a_sweep_is_drawn_and_everything_is_there(page, output):
    runs = pd.read_csv(output / "tables/runs.csv")
    dataset, model = runs["dataset"].iloc[0], runs["model"].iloc[0]
    assert page.locator("h1").inner_text() == f"{model} on {dataset}: full fine-tuning, LoRA and QLoRA compared"
    assert page.title().endswith(f"compared · {runs['finished_at'].max()[:10]}")
    facts = pd.read_csv(output / "tables/contract.csv")
    summary = page.locator(".summary").inner_text()
    count = re.search(r"none of the (\d+) facts", (output / "tables/contract.md").read_text())[1]
    assert f"Fair comparison: passed ({count} facts compared)." in summary  # one count, wherever it stands
    assert f"{count} facts were compared" in page.locator("#methods-paragraph p").text_content()
    assert int(count) < facts["fact"].nunique()
    assert f"The last run ended on {runs['finished_at'].max()[:10]}." in summary
    assert "3 seeds" in summary
    tops = page.evaluate("['#verdict', '.controls'].map(name => document.querySelector(name).offsetTop)")
    assert tops == sorted(tops)
    assert page.locator("#chart-attribution").is_hidden()  # nobody asked for one
    verdict = (output / "tables/recommendation.md").read_text().split("**")[1]
    assert page.locator("#verdict strong").first.inner_text() == verdict
    pictures = drawn(page)
    assert pictures["tradeoff"] and pictures["curves"] and pictures["memory"]
    titles = page.locator("details.table summary").all_inner_texts()
    assert "Differences to the baseline, with tests" in titles and "Environment that the runs recorded" in titles
    for one in page.locator("details.table:not(#methods-paragraph)").all():
        one.locator("summary").click()
        if one.get_attribute("id") == "table-equal_cost":  # of times that are not compared
            assert "Nothing to compare: the time of one job per arm" in one.inner_text()
            continue
        assert one.locator("table").count() >= 1 and one.locator("td").first.is_visible()
    page.locator("#methods-paragraph summary").click()
    assert page.locator("#methods-paragraph p").inner_text().startswith(f"We fine-tuned {model}")
    notes = page.locator("#how").inner_text()
    assert "Memory of tensors, MiB" in notes  # and nothing of what a CPU cannot measure
    assert "torch.cuda.max_memory_allocated" not in notes and "Energy" not in notes and "Forgetting" not in notes


def test_sorting(page, output):
    arms = pd.read_csv(output / "tables/arms.csv")
    assert arms_shown(page) == arms["arm"].tolist()
    header = page.locator("#arms-table th", has_text="Training time, s")
    for ascending in (True, False):
        header.locator("button").click()
        expected = arms.sort_values("train_s_mean", ascending=ascending)["arm"].tolist()
        assert arms_shown(page) == expected
        assert header.get_attribute("aria-sort") == ("ascending" if ascending else "descending")
    page.locator("#arms-table th", has_text="Accuracy, %").first.locator("button").click()  # the best first
    assert arms_shown(page) == arms.sort_values("metric_value_mean", ascending=False, kind="stable")["arm"].tolist()
    assert page.locator("#arms-table [aria-sort='none']").count() == page.locator("#arms-table thead th").count() - 1


def test_filter_by_words_and_methods(page):
    every = arms_shown(page)
    assert len(every) > 2
    pages.redrawn(page, lambda: page.locator("#filter").fill("lora -qlora"))
    assert arms_shown(page) == [arm for arm in every if arm.startswith("lora")]
    pages.redrawn(page, lambda: page.locator("#filter").fill(""))
    pages.redrawn(page, lambda: page.get_by_label("QLoRA", exact=True).uncheck())
    assert arms_shown(page) == [arm for arm in every if not arm.startswith("qlora")]
    pages.numbers(page, "tradeoff")
    assert "QLoRA" not in page.locator("details[data-table=tradeoff] tbody").inner_text()


AXIS = "key => document.querySelectorAll('[data-table=tradeoff] th')[4]?.dataset.key === key"


def test_the_front_follows_the_axes(browser, tmp_path):
    grid = synthetic.grid(["full", "lora", "qlora"], [4, 16])
    runs = [synthetic.summary(*arm, seed, device="cuda") for arm in grid for seed in range(3)]
    with pages.opened(browser, pages.make(tmp_path, runs)) as page:
        arms = pd.read_csv(tmp_path / "tables/arms.csv").rename(columns=lambda name: name.removesuffix("_mean"))
        labels = [arm_label(*pair) for pair in zip(arms["method"], arms["rank"], strict=True)]
        pages.numbers(page, "tradeoff")
        for x, y in (
            ("probe_peak_allocated_MiB", "metric_value"), ("samples_per_s", "metric_value"), ("weights_MiB", "train_s"),
        ):  # fmt: skip
            page.locator("#axis-x").select_option(x)
            page.locator("#axis-y").select_option(y)
            page.wait_for_function(AXIS, arg=y)
            page.wait_for_function(AXIS.replace("[4]", "[1]"), arg=x)
            rows = page.locator("details[data-table=tradeoff] tbody tr").all()
            front = {
                row.locator("td").first.inner_text() for row in rows if row.locator("td").last.inner_text() == "yes"
            }
            sign = {"samples_per_s": -1, "train_s": -1}
            members = pareto((sign.get(x, 1) * arms[x]).tolist(), (sign.get(y, 1) * arms[y]).tolist())
            assert front == {labels[index] for index in members}
            title = page.locator("#axis-x option:checked").inner_text().partition(" (")[0]
            assert title in page.locator("#chart-tradeoff svg").text_content()


def test_what_is_not_compared_has_no_front(page):
    """The demo's time is that of one job per arm; its memory is compared."""
    under = pages.numbers(page, "tradeoff")
    assert "On the front" in under.locator("thead").inner_text()
    assert page.locator("#chart-tradeoff-title").inner_text() == "Accuracy against memory of tensors"
    page.select_option("#axis-x", "train_s")
    page.wait_for_function(AXIS.replace("[4]", "[1]"), arg="train_s")
    assert "On the front" not in under.locator("thead").inner_text()
    note = page.locator("#chart-tradeoff-note").inner_text()
    assert "Training time: as measured, arms are not compared by it" in note
    assert page.locator("#chart-tradeoff .mark-line").count() == 0
    assert page.locator("#chart-rank-time .mark-line path").count() == 0
    assert page.locator("#chart-rank-metric .mark-line path").count() > 0
    heads = page.locator("#arms-table thead th").all_inner_texts()
    column = next(index for index, head in enumerate(heads) if "Training time" in head)
    assert "±" not in "".join(page.locator(f"#arms-table tbody tr > :nth-child({column + 1})").all_inner_texts())


@pytest.mark.parametrize(
    ("cheapest", "axis"),
    [("memory", "probe_peak_allocated_MiB"), ("time", "train_s"), ("energy", "energy_J")],
)
def test_the_trade_off_begins_with_the_cost_that_decides(browser, tmp_path, cheapest, axis):
    pages.make(tmp_path, [synthetic.summary(*arm, seed, device="cuda") for arm in GPU_ARMS for seed in range(3)])
    limits = NO_LIMITS | {"cheapest": cheapest}
    runs = tables.read_runs(tmp_path / "tables/runs.csv")
    judged = recommendation_frame(runs, compared({"lora-r8": GOOD}), limits)
    judged.to_csv(tmp_path / "tables/recommendation.csv", index=False)
    (tmp_path / "tables/recommendation.md").write_text(recommendation_markdown(judged, limits), encoding="utf-8")
    with pages.opened(browser, pages.report(tmp_path, "--data-dir", tmp_path / "data")) as page:
        assert page.locator("#axis-x").input_value() == axis


def test_words_of_the_page_are_explained_on_it(page):
    page.locator("#verdict a[href='#words']").click()
    page.wait_for_function("() => document.querySelector('#words').getBoundingClientRect().top < innerHeight")
    explained = " ".join(page.locator("#words + dl dt").all_inner_texts())
    for word in ("Arm", "Trial", "dev split", "Probe", "Margin", "Holm's correction", "noise", "Pareto front"):
        assert word in explained, word


def test_what_tuning_took_stands_below_the_total_cost(page, output):
    trials = pd.read_csv(output / "tables/tuning.csv")
    page.locator("#table-cost summary").click()
    said = page.locator("#table-cost > p").last.inner_text()
    assert f"Tuning took {trials['trials'].sum()} more trainings: " in said and "not in the table" in said
    steps_s = float(re.search(r": ([\d.,]+) s of training steps", said)[1].replace(",", ""))
    assert steps_s == pytest.approx(trials["train_s"].sum(), rel=0.01)


def test_one_evaluation_makes_no_curve_and_one_rank_no_sizes(browser, tmp_path):
    pages.make(tmp_path, [synthetic.summary(*arm, seed, device="cuda") for arm in GPU_ARMS for seed in range(3)])
    with pages.opened(browser, tmp_path / "report.html") as page:
        assert page.locator("#chart-curves svg").count() == 1
        assert "Size: rank" not in page.locator("#chart-tradeoff-note").inner_text()
        marks = page.locator("#chart-tradeoff .mark-symbol.role-mark path[stroke='var(--ground)']")
        sizes = marks.evaluate_all("all => all.map(one => Math.round(one.getBBox().width))")
        assert len(sizes) == 2 and max(sizes) - min(sizes) <= 3  # a circle and a square of one area
        wide = page.evaluate("document.querySelector('#chart-memory svg').getBoundingClientRect().width")
        assert wide > 0.9 * page.locator("#memory").bounding_box()["width"]  # no empty half beside it
    html = (tmp_path / "report.html").read_text("utf-8")
    start, end = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL).span(1)
    data = json.loads(html[start:end])
    for pair in data["pairs"]:
        last = max(row["step"] for row in pair["curves"])
        pair["curves"] = [row for row in pair["curves"] if row["step"] == last]
    once = tmp_path / "once.html"
    once.write_text(html[:start] + inline_json(data) + html[end:], encoding="utf-8")
    with pages.opened(browser, once) as page:
        assert page.locator("#chart-curves svg").count() == 0
        assert "every run was evaluated once" in page.locator("#chart-curves").inner_text()


def test_seeds_are_lighter_on_a_dark_ground(browser, output):
    seen = {}
    for scheme in ("light", "dark"):
        with pages.opened(browser, output / "report.html", color_scheme=scheme) as page:
            dots = page.locator("#chart-tradeoff .mark-symbol.role-mark").first.locator("path").first
            seen[scheme] = float(dots.get_attribute("opacity"))
    assert seen["dark"] > seen["light"] + 0.2


def test_numbers_under_a_figure_have_labels_and_decimals(page):
    under = pages.numbers(page, "tradeoff")
    heads = under.locator("th").all_inner_texts()
    assert heads[0] == "Arm" and not [head for head in heads if "_" in head]
    accuracy = under.locator(f"td:nth-child({heads.index('Accuracy, %') + 1})").all_inner_texts()
    assert accuracy and all(len(text.partition(".")[2]) == 1 for text in accuracy)


def test_a_table_that_is_cut_says_so(browser, output):
    with pages.opened(browser, output / "report.html", viewport={"width": 390, "height": 844}) as page:
        hint = page.locator("#arms .hint")
        assert hint.is_visible() and "goes on to the right" in hint.inner_text()
        beyond = page.locator("#arms-table thead th").evaluate_all(
            "all => all.filter(one => one.getBoundingClientRect().right > innerWidth - 5).map(one => one.innerText)"
        )
        assert len(beyond) > 3  # the first is named, the others are counted
        assert " ".join(beyond[0].split()) in hint.inner_text()
        assert f"and {len(beyond) - 2} more columns" in hint.inner_text()
        box = page.locator("#arms .scroll")
        assert "goes-on" in box.get_attribute("class")
        box.evaluate("one => { one.scrollLeft = one.scrollWidth; }")
        page.wait_for_function("() => !document.querySelector('#arms .scroll').classList.contains('goes-on')")


def test_the_table_of_arms_fits_a_wide_screen_and_has_no_empty_column(browser, output):
    with pages.opened(browser, output / "report.html", viewport={"width": 1440, "height": 900}) as page:
        assert page.locator("#arms .hint:visible").count() == 0
        heads = page.locator("#arms-table thead th").all_inner_texts()
        assert not [head for head in heads if "Step p50" in head]  # the demo has too few steps for one
        for column, head in enumerate(heads, start=1):
            cells = page.locator(f"#arms-table tbody tr > :nth-child({column})").all_inner_texts()
            assert set(cells) != {"–"}, head
            assert not [cell for cell in cells if cell.startswith("[")], head  # no interval without its mean


def test_a_checksum_stays_within_its_table(browser, output):
    for width in (1440, 390):
        with pages.opened(browser, output / "report.html", viewport={"width": width, "height": 900}) as page:
            page.locator("#table-environment summary").click()
            over = page.locator("#table-environment td").evaluate_all(
                "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.innerText)"
            )
            assert over == []


def test_the_verdict_fills_the_first_screen_of_a_phone(browser, output):
    with pages.opened(browser, output / "report.html", viewport={"width": 390, "height": 844}) as page:
        answer = page.locator("#verdict strong").first.bounding_box()
        assert answer["y"] + answer["height"] < 500
        assert (
            page.locator("#verdict").bounding_box()["y"] < 300 and page.locator(".controls").bounding_box()["y"] > 600
        )


def test_downloads_are_the_tables(page, output):
    for name in ("arms.csv", "runs.csv"):
        if name == "runs.csv":
            page.locator("#table-runs summary").click()
        with page.expect_download() as download:
            page.locator(f"button[data-file='{name}']").first.click()
        assert download.value.suggested_filename == name
        assert Path(download.value.path()).read_bytes() == (output / "tables" / name).read_bytes()
    pages.numbers(page, "memory")
    with page.expect_download() as download:
        page.locator("details[data-table=memory] .download").click()
    shown = pd.read_csv(download.value.path())
    arms = pd.read_csv(output / "tables/arms.csv").set_index("arm")
    weights = shown[shown["part"] == "Weights"].set_index("arm")["MiB"]
    assert weights.to_dict() == pytest.approx(arms["weights_MiB_mean"].to_dict(), rel=1e-6)


def test_by_keyboard(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.innerText") == "Skip to the content"
    page.keyboard.press("Enter")
    reached = []
    for _ in range(200):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.closest('section')?.id"))
        if page.evaluate("document.activeElement.matches('#arms-table thead button')"):
            break
    page.keyboard.press("Enter")
    assert page.locator("#arms-table [aria-sort='descending']").count() == 1
    assert page.evaluate("document.activeElement.matches('#arms-table thead button')")
    while not page.evaluate("document.activeElement.matches('#arms-table tbody button')"):
        page.keyboard.press("Tab")
    page.keyboard.press("Space")
    picked = page.locator("#arms-table tr.picked")
    assert picked.count() == 1
    assert picked.locator("button").get_attribute("aria-pressed") == "true"
    assert "highlighted" in page.locator("#status").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#arms-table tr.picked").count() == 0
    assert "verdict" in reached


def test_an_arm_picked_in_a_figure_is_highlighted_everywhere(page):
    mark = page.locator("#chart-memory .mark-rect path").first
    mark.click()
    picked = page.locator("#arms-table tr.picked")
    assert picked.get_attribute("data-arm") == "full"
    faint = page.locator("#chart-tradeoff .mark-symbol path[opacity='0.12']")
    page.wait_for_function("() => document.querySelectorAll(\"#chart-tradeoff [opacity='0.12']\").length > 0")
    assert faint.count() > 0
    page.locator("#clear").click()
    assert picked.count() == 0


NAMES = """() => {
  const boxes = (selector) => [...document.querySelectorAll(`#chart-tradeoff ${selector}`)].map((one) => {
    const { left, right, top, bottom } = one.getBoundingClientRect();
    return [one.textContent, left, right, top, bottom];
  });
  const names = boxes(".mark-text.role-mark text").filter(([text]) => text);
  return [names, boxes(".mark-symbol.role-mark path[stroke='var(--ground)']")];
}"""


def names(page: Page) -> tuple[list[list], list[list]]:
    """The names that the trade-off shows and its arms' marks: text, left, right, top, bottom in px."""
    return tuple(page.evaluate(NAMES))


def meet(one: list, other: list) -> bool:
    return one[1] < other[2] and other[1] < one[2] and one[3] < other[4] and other[3] < one[4]


@pytest.mark.parametrize("width", [390, 1280])
def test_names_in_the_trade_off_lie_on_no_arm_and_on_no_other_name(browser, tmp_path, width):
    grid = synthetic.grid(["full", "lora", "qlora", "a-method-with-a-long-name"], [4, 8, 16, 32])
    runs = [synthetic.summary(*arm, seed, device="cuda") for arm in grid for seed in range(3)]
    keys = ("metric_value", "trainable_parameters", "probe_peak_allocated_MiB", "train_s")
    with pages.opened(browser, pages.make(tmp_path, runs), viewport={"width": width, "height": 844}) as page:
        for x, y in itertools.permutations(keys, 2):
            for axis, key in (("#axis-x", x), ("#axis-y", y)):
                if page.locator(axis).input_value() != key:
                    pages.redrawn(page, lambda axis=axis, key=key: page.locator(axis).select_option(key))
            shown, marks = names(page)
            assert len(marks) == len(grid) and (shown or width == 390)  # where the front's one name may be too long
            assert max((right for _, _, right, *_ in shown), default=0) <= width
            assert not [(x, y, one, mark) for one in shown for mark in marks if meet(one, mark)]
            assert not [(x, y, pair) for pair in itertools.combinations(shown, 2) if meet(*pair)]
        page.locator("#arms-table tbody button", has_text="a-method-with-a-long-name r32").click()
        page.wait_for_function(f"() => ({NAMES})()[0].length === 1")
        assert names(page)[0][0][0] == "a-method-with-a-long-name r32"


def test_the_arm_that_is_recommended_is_named_in_the_trade_off(browser, tmp_path):
    runs = [synthetic.summary(*arm, seed, device="cuda") for arm in (("full", None), ("lora", 8)) for seed in range(3)]
    pages.make(tmp_path, runs)
    judged = recommendation_frame(tables.runs_frame(runs), compared({"lora-r8": GOOD}), NO_LIMITS)
    (taken,) = judged["arm"][judged["cheapest"].eq(True)]
    judged.to_csv(tmp_path / "tables/recommendation.csv", index=False)
    (tmp_path / "tables/recommendation.md").write_text(recommendation_markdown(judged, NO_LIMITS), encoding="utf-8")
    with pages.opened(browser, pages.report(tmp_path, "--data-dir", tmp_path / "data")) as page:
        assert page.locator(f"tr[data-arm={taken}] button").inner_text() in [text for text, *_ in names(page)[0]]


def test_loss_and_forgetting_are_axes(browser, tmp_path):
    """The lower the better; the interval of forgetting is that of its own table, over seeds and texts."""
    runs = [
        synthetic.summary(
            method, rank, seed, device="cuda", test_loss=loss + seed / 100, forgetting=lost + seed / 100,
            forgetting_loss_before=3.0, forgetting_loss_after=3.0 + lost + seed / 100, forgetting_s=2.0,
        )
        for method, rank, loss, lost in (("full", None, 0.3, 0.4), ("lora", 8, 0.4, 0.1), ("qlora", 8, 0.5, 0.2))
        for seed in range(3)
    ]  # fmt: skip
    pages.make(tmp_path, runs)
    over_texts = {"full": (0.3, 0.6), "lora-r8": (0.05, 0.2)}
    rows = [("sst2", "distilbert", arm, *ends) for arm, ends in over_texts.items()]
    columns = ["dataset", "model", "arm", "forgetting_low", "forgetting_high"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "tables/forgetting.csv", index=False)
    (tmp_path / "tables/forgetting.md").write_text("## sst2\n", encoding="utf-8")
    with pages.opened(browser, pages.report(tmp_path, "--data-dir", tmp_path / "data")) as page:
        labels = page.locator("#axis-y option").all_inner_texts()
        assert "Forgetting, nats/token (lower is better)" in labels
        assert "Loss on the test split (lower is better)" in labels
        pages.redrawn(page, lambda: page.locator("#axis-y").select_option("forgetting"))
        pages.redrawn(page, lambda: page.locator("#axis-x").select_option("test_loss"))
        pages.numbers(page, "tradeoff")
        table = page.locator("details[data-table=tradeoff] tbody tr").all()
        cells = {row.locator("td").first.inner_text(): row.locator("td").all_inner_texts() for row in table}
        means = {arm: [float(own[1]), float(own[4])] for arm, own in cells.items()}
        assert means == {"full": [0.31, 0.41], "LoRA r8": [0.41, 0.11], "QLoRA r8": [0.51, 0.21]}
        assert [[*map(float, cells[arm][5:7]), cells[arm][7]] for arm in ("full", "LoRA r8")] == [
            [0.3, 0.6, "yes"],
            [0.05, 0.2, "yes"],
        ]
        assert cells["QLoRA r8"][5:] == ["–", "–", "no"]
        note = page.locator("#chart-tradeoff-note").inner_text()
        assert "of the loss over other seeds; of forgetting over other seeds and texts)" in note


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible(browser, output, scheme):
    with pages.opened(browser, output / "report.html", color_scheme=scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
        found = Axe().run(page).response["violations"]
    assert [
        (one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")
    ] == []


def test_on_a_phone_and_in_print(browser, output):
    with pages.opened(browser, output / "report.html", viewport={"width": 390, "height": 844}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.emulate_media(media="print", color_scheme="dark")
        assert page.locator("nav").is_hidden() and page.locator(".controls").is_hidden()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.locator("#arms-table tbody button").first.is_visible()


def test_hostile_names_are_inert_and_legible(browser, tmp_path):
    names = {"full": HOSTILE.replace("/", "|"), "lora": "$x$ </script><b>"}
    runs = [
        synthetic.summary(method, 8, seed, dataset=HOSTILE, model=HOSTILE[::-1], arm=method) | {"method": name}
        for method, name in names.items()
        for seed in (0, 1)
    ]
    with pages.opened(browser, pages.make(tmp_path, runs), viewport={"width": 390, "height": 844}) as page:
        assert page.evaluate("window.hacked") is None
        assert page.locator("main b").count() == 0 and page.locator("main script").count() == 0
        shown = page.locator("#arms .pair").inner_text()
        assert HOSTILE in shown
        assert HOSTILE.replace("/", "|") in page.locator("#arms-table").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        point = page.locator("#chart-tradeoff .mark-symbol.role-mark path").last
        point.hover()
        page.wait_for_selector("#vg-tooltip-element.visible")
        assert page.evaluate("window.hacked") is None


def test_what_failed_is_said_and_one_seed_too(browser, tmp_path):
    runs = [
        synthetic.summary("full", None, 0, device="cuda"),
        synthetic.oom("lora", 8, 0, device="cuda"),
        synthetic.diverged("qlora", 8, 0, device="cuda", batch_size=16),
    ]
    with pages.opened(browser, pages.make(tmp_path, runs)) as page:
        summary = page.locator(".summary").inner_text()
        assert "1 of 3 runs completed" in summary and "One seed" in summary
        assert "out of memory in probe, 12.0 GiB asked for" in summary and "diverged at step 17" in summary
        assert "Fair comparison: not passed, arms differ in batch_size" in summary
        assert arms_shown(page) == ["full", "lora-r8", "qlora-r8"]
        assert "lack of a value: LoRA r8, QLoRA r8" in page.locator("#chart-tradeoff-note").inner_text()
        assert drawn(page)["tradeoff"]
        page.locator("#arms-table th button", has_text="Accuracy").click()
        assert arms_shown(page)[0] == "full"  # without a value: last
        page.locator("#arms-table th button", has_text="Accuracy").click()
        assert arms_shown(page)[0] == "full"


def test_random_weights_have_no_metric(browser, tmp_path):
    arms = [("full", None), ("lora", 8), ("lora", 16)]
    runs = [synthetic.randomly(*arm, seed, device="cuda") for arm in arms for seed in (0, 1)]
    with pages.opened(browser, pages.make(tmp_path, runs)) as page:
        assert "random weights: speed and memory only" in page.locator("#arms .pair").inner_text()
        pictures = drawn(page)
        assert pictures["tradeoff"] and pictures["rank-memory"] and not pictures["curves"]
        assert "metric_value" not in page.locator("#axis-y option").evaluate_all("all => all.map(one => one.value)")


def test_published_results_and_profiles_stand_apart(browser, tmp_path):
    pages.make(tmp_path, [synthetic.summary(method, None, seed) for method in ("full", "ia3") for seed in (0, 1)])
    results = json.dumps({"math": [str(path) for path in published.write(tmp_path / "published")]})
    pages.script("make_imported.py", "--results", results, "--output-dir", tmp_path / "tables")
    index = tmp_path / "profiles" / "index.csv"
    index.parent.mkdir()
    index.write_text("dataset,model,arm,engine\nsst2,distilbert,full,eager\n", encoding="utf-8")
    index.with_suffix(".md").write_text("## sst2\n\n| Arm | Engine |\n|:--|:--|\n| full | eager |\n", encoding="utf-8")
    with pages.opened(browser, pages.report(tmp_path, "--profiles", index)) as page:
        assert arms_shown(page) == ["full", "ia3"]
        assert "not measured here" in page.locator("#published h2").inner_text()
        assert page.locator("#chart-published svg").count() == 1
        pages.numbers(page, "published")
        assert "lora/llama-3.2-3B-rank32" in page.locator("details[data-table=published] tbody").inner_text()
        assert page.locator("a[href='profiles/index.md']").is_visible()
        assert page.locator("#table-profiles td", has_text="eager").count() == 1


def test_forty_arms_of_two_models_stay_small_and_keep_in_step(browser, tmp_path):
    methods = ["full", "lora", "qlora", "dora", "rslora", "vera", "oft", "loha", "hra"]
    runs = [
        take(method, rank, seed, model=model, device="cuda")
        for method, rank in synthetic.grid(methods, [2, 4, 8, 16, 32])
        for seed in range(5)
        for model, take in (("one", synthetic.summary), ("two", synthetic.randomly))
    ]
    made = pages.make(tmp_path, runs)
    assert made.stat().st_size < 5_000_000
    with pages.opened(browser, made) as page:
        every = arms_shown(page)
        assert len(every) == 41
        page.locator("#arms-table th button", has_text="Accuracy").click()  # of which pair two has none
        page.locator("tr[data-arm=lora-r2] button").click()
        pages.redrawn(page, lambda: page.locator("#filter").fill("qlora"))
        assert page.locator("#status").inner_text() == "" and page.locator("#clear").is_disabled()
        page.locator("tr[data-arm=qlora-r2] button").click()
        pages.redrawn(page, lambda: page.locator("#pair").select_option("1"))
        assert "two" in page.locator("#arms .pair").inner_text()
        assert page.locator("#status").inner_text() == ""
        assert arms_shown(page) == [arm for arm in every if arm.startswith("qlora")]
        pages.redrawn(page, lambda: page.locator("#filter").fill("nothing"))
        assert set(page.locator(".chart .empty").all_inner_texts()) == {
            "Nothing to draw: no arm is left by the filter."
        }


def test_a_table_that_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no runs\.csv among them"):
        report({}, tmp_path)
    with pytest.raises(InputError, match=r"--tables: other unknown; known are comparison"):
        report({"runs": tmp_path / "runs.csv", "other": tmp_path / "other.csv"}, tmp_path)
    runs = [synthetic.summary("full", None, 0)]
    tables.runs_frame(runs).to_csv(tmp_path / "runs.csv", index=False)
    with pytest.raises(InputError, match=r"runs\.csv: no such|arms\.csv: no such table"):
        report({"runs": tmp_path / "runs.csv", "arms": tmp_path / "arms.csv"}, tmp_path)


def test_the_page_carries_the_licences_of_what_it_holds(tmp_path):
    text = pages.make(tmp_path, [synthetic.summary("full", None, seed) for seed in (0, 1)]).read_text("utf-8")
    notices = text[text.index('<details id="licences">') : text.index("</footer>")]
    for words in (
        *("Vega-Lite", "Vega-Embed", "d3", "University of Washington Interactive Data Lab", "Mike Bostock"),
        *("Redistributions in binary form must reproduce", "BSD 3-Clause", "ISC License", "this permission notice"),
    ):
        assert words in notices, words


def test_seconds_of_gpus_are_an_axis_where_some_run_had_several(tmp_path):
    nothing = pd.DataFrame(columns=["dataset", "model", "arm", "cheapest", "kind", "split", "verdict"])

    def keys(folder: Path, **changes: object) -> set[str]:
        runs = [synthetic.summary("full", None, seed, device="cuda", **changes) for seed in range(3)]
        runs += [synthetic.summary("lora", 8, seed, device="cuda") for seed in range(3)]
        drawn = pair_data(sweep_of(folder, runs), nothing, nothing, nothing, nothing)
        hours = {arm["arm"]: arm["values"]["hours"]["mean"] for arm in drawn["arms"]}
        wall_s = runs[0]["wall_s"]
        assert hours["full"] == pytest.approx(changes.get("gpus", 1) * wall_s / 3600)
        return {axis["key"] for axis in drawn["axes"]}

    alone, shared = keys(tmp_path / "alone"), keys(tmp_path / "shared", gpus=4, parallel="data", train_gpu_s=800.0)
    assert shared - alone == {"train_gpu_s"} and not alone - shared
