"""The figure of the learning-rate sweep: ranks told apart, and a rate that ruins an arm."""

import dataclasses
from pathlib import Path

import pages
import pandas as pd
import synthetic
from matplotlib.figure import Figure
from peft_tradeoffs.analysis.tuning_table import ruined
from peft_tradeoffs.report.lines import learning_rate_grid
from synthetic_sweeps import GRIDS, sweep_of, texts

RUNS = [synthetic.summary(*arm, 0) for arm in GRIDS[9]]


def drawn(folder: Path, lost: dict[str, float]) -> Figure:
    return learning_rate_grid(dataclasses.replace(sweep_of(folder, RUNS), tuning=synthetic.tuning(RUNS, lost)))


def test_ranks_are_told_apart(tmp_path):
    figure = drawn(tmp_path, {})
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title("left") for axes in shown] == ["full", "LoRA", "QLoRA"]
    for axes, arms in zip(shown, (1, 4, 4), strict=True):
        lines = [line for line in axes.lines if len(line.get_xdata()) == 3]
        assert len(lines) == len({line.get_color() for line in lines}) == arms
    assert [text.get_text() for text in shown[2].get_legend().texts] == ["rank 4", "rank 8", "rank 16", "rank 32"]


def test_a_rate_that_ruins_an_arm_does_not_press_the_others_together(tmp_path):
    whole = drawn(tmp_path / "whole", {"lora-r32": 0.04})
    assert whole.axes[0].get_ylim()[0] < 88 and not any("Triangles" in text for text in texts(whole))
    figure = drawn(tmp_path / "cut", {"lora-r32": 0.40})
    assert 85 < figure.axes[0].get_ylim()[0] < 90
    assert any("down to 52 (table tuning)" in text for text in texts(figure))
    marked = [sum(len(found.get_offsets()) for found in axes.collections) for axes in figure.axes[:2]]
    assert marked == [1, 4 + 1]  # rings, and LoRA's triangle


def test_what_is_ruined_depends_on_how_far_apart_the_best_are():
    trials = pd.DataFrame({"arm": list("aaabbb"), "value": [0.93, 0.50, 0.40, 0.90, 0.86, None], "metric": "accuracy"})
    assert ruined(trials).tolist() == [False, True, True, False, False, False]
    trials["value"] = [0.93, 0.50, 0.40, 0.75, 0.38, None]  # 0.18 apart: down to 0.39
    assert ruined(trials).tolist() == [False, False, False, False, True, False]


def test_of_a_loss_what_is_far_above_the_best_is_ruined():
    trials = pd.DataFrame({"arm": list("aabb"), "value": [1.2, 4.0, 1.3, 1.45], "metric": "token_loss"})
    assert ruined(trials).tolist() == [False, True, False, False]


def test_the_page_cuts_it_too_and_its_numbers_have_it(tmp_path):
    pages.make(tmp_path, RUNS)
    synthetic.tuning(RUNS, {"lora-r32": 0.40}).to_csv(tmp_path / "tables/tuning.csv", index=False)
    (tmp_path / "tables/tuning.md").write_text("The trials.", encoding="utf-8")
    made = pages.report(tmp_path)
    with pages.chromium() as browser, pages.opened(browser, made) as page:
        assert "Triangles at the foot" in page.locator("#chart-rates-note").inner_text()
        ticks = page.locator("#chart-rates .role-axis-label text").all_text_contents()
        heights = [float(tick) for tick in ticks if float(tick.replace(",", "")) > 1]
        assert heights and min(heights) > 87 and max(heights) < 95
        labels = page.locator("#chart-rates path[aria-label]").evaluate_all("all => all.map(e => e.ariaLabel)")
        assert len(labels) == 3 * 9 and any("LoRA r32; Rate: 0.0004" in label for label in labels), labels
        pages.numbers(page, "rates")
        numbers = page.locator("details[data-table=rates] tbody tr").all_inner_texts()
        assert ["LoRA r32", "0.0004", "52.0"] in [row.split("\t")[:3] for row in numbers], numbers
        pages.redrawn(page, lambda: page.locator("#filter").fill("lora-r8 -qlora"))
        left = page.locator("details[data-table=rates] tbody tr").all_inner_texts()
        assert [row.split("\t")[:2] for row in left] == [["LoRA r8", rate] for rate in ("0.0001", "0.0002", "0.0004")]
        assert "Triangles" not in page.locator("#chart-rates-note").inner_text()
