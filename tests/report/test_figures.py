"""Figures: every declared file, what is drawn, and that nothing overlaps."""

import dataclasses
import itertools
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import seaborn as sns
import synthetic
from matplotlib.collections import PathCollection
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from peft_tradeoffs.analysis import readable, tables
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.layout import TUNING_FIGURES
from peft_tradeoffs.core.text import arm_label
from peft_tradeoffs.report import style
from peft_tradeoffs.report.bars import choose
from peft_tradeoffs.report.scatter import pareto
from peft_tradeoffs.report.style import compact, drawings, message, sweeps
from peft_tradeoffs.report.sweep import PALETTE, Sweep, Tables, colours, load, method_styles
from scipy import stats
from synthetic_sweeps import EIGHT, GRIDS, prepare, sweep_of, texts

ROOT = Path(__file__).parents[2]
FIGURES = drawings()
METRIC = [name for name in FIGURES if name.startswith(("metric", "accuracy"))] + ["best_by_method", "learning_curves"]
KNOWN_BEFORE = "trainable_parameters_by_arm"  # needs no run that completed


def points(axes) -> list[tuple[float, float]]:
    return [
        tuple(point) for drawn in axes.collections if isinstance(drawn, PathCollection) for point in drawn.get_offsets()
    ]


def means_by_arm(axes) -> dict[str, Line2D]:
    """The thick lines by the name that the legend has for their colour."""
    handles = axes.get_legend().legend_handles
    names = {matplotlib.colors.to_hex(handle.get_color()): handle.get_label() for handle in handles}
    thick = [line for line in axes.lines if line.get_linewidth() > 1 and len(line.get_xdata()) > 1]
    return {names[matplotlib.colors.to_hex(line.get_color())]: line for line in thick}


def misplaced(figure) -> list[tuple[str, str]]:
    """Pairs of drawn texts that overlap by more than a pixel at either edge, and texts that the figure cuts."""
    style.lay_out(figure)
    figure.set_dpi(style.DPI)
    renderer = figure.canvas.get_renderer()
    unseen = {text for axes in figure.axes for text in undrawn(axes)}
    kept = [
        text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip() and text not in unseen
    ]
    boxes = [(text.get_text(), text.get_window_extent(renderer).padded(-1)) for text in kept]
    cut = [(text, "cut") for text, box in boxes if Bbox.union([figure.bbox, box]).bounds != figure.bbox.bounds]
    pairs = itertools.combinations(boxes, 2)
    return cut + [(one, two) for (one, box), (two, other) in pairs if box.overlaps(other)]


def undrawn(axes) -> list[Text]:
    """Texts that exist but are not drawn: all of hidden axes, tick labels beyond the limits."""
    if not axes.get_visible():
        return axes.findobj(Text)
    found = []
    for axis, part in ((axes.xaxis, 0), (axes.yaxis, 1)):
        low, high = sorted(axis.get_view_interval())
        for label in axis.get_ticklabels(which="both"):
            if not low <= label.get_position()[part] <= high:
                found.append(label)
        for tick in [*axis.get_major_ticks(), *axis.get_minor_ticks()]:
            found += [label for label in (tick.label1, tick.label2) if not label.get_visible()]
    return found


@pytest.mark.parametrize("arms", [1, 9, 41])
def test_texts_neither_overlap_nor_are_cut(tmp_path, arms):
    seeds = range(1 if arms == 1 else 3)
    sweep = sweep_of(tmp_path, [synthetic.summary(*arm, seed) for arm in GRIDS[arms] for seed in seeds])
    ranked = dict(list(sweeps(sweep).items())[:1])
    for name, draw in (FIGURES | ranked).items():
        figure = draw(sweep)
        assert misplaced(figure) == [], name
        assert figure.get_figwidth() in (style.SINGLE, style.DOUBLE)
        assert min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text()) >= 7, name


def test_command_writes_every_format_the_same_each_time(tmp_path):
    summaries = [synthetic.summary(*arm, 0, dataset="a_$b$", model="m_{x}") for arm in GRIDS[5]]
    runs, runs_dir = prepare(tmp_path, summaries)
    for out in ("one", "two"):
        options = ["--runs", runs, "--runs-dir", runs_dir, "--output-dir", tmp_path / out]
        script = ROOT / "workflow_scripts" / "make_figures.py"
        done = subprocess.run(
            [sys.executable, script, *options, "--dataset", "a_$b$", "--model", "m_{x}"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
    files = {str(path.relative_to(tmp_path / "one")) for path in (tmp_path / "one").rglob("*.*")}
    drawn = [*FIGURES, "sweep_lora", "sweep_qlora"]
    titled = {f"{name}.{kind}" for name in drawn for kind in ("svg", "pdf", "png")}
    assert files == titled | {f"paper/{name}.{kind}" for name in drawn for kind in ("svg", "pdf", "txt")}
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    svg = (tmp_path / "one" / "metric_by_arm.svg").read_text(encoding="utf-8")
    assert svg.startswith("<?xml") and "<dc:date>" not in svg and "font-family" not in svg


@pytest.mark.parametrize("name", ["metric_by_arm", "metric_vs_memory", "learning_curves"])
def test_a_bare_figure_has_its_title_and_notes_beside_it(tmp_path, name):
    sweep = sweep_of(tmp_path, [synthetic.summary(*arm, seed, device="cuda") for arm in GRIDS[5] for seed in range(3)])
    figure = FIGURES[name](sweep)
    height, said = figure.get_figheight(), [figure.get_suptitle(), figure.get_supxlabel()]
    style.save_bare(figure, tmp_path / "out", name)
    caption = (tmp_path / f"out/paper/{name}.txt").read_text(encoding="utf-8")
    assert all(word in caption for text in said for word in text.replace(" · sst2, distilbert", "").split())
    assert (figure.get_suptitle(), figure.get_supxlabel()) == ("", "")
    assert figure.get_figheight() < height - 0.4
    assert misplaced(figure) == []


def test_a_bare_figure_of_random_weights_says_so(tmp_path):
    sweep = sweep_of(tmp_path, [synthetic.randomly(*arm, 0, device="cuda") for arm in GRIDS[5]])
    figure = FIGURES["peak_memory_by_arm"](sweep)
    style.save_bare(figure, tmp_path / "out", "memory")
    assert figure.get_suptitle() == "Random weights: speed and memory only"
    assert "Random weights" in (tmp_path / "out/paper/memory.txt").read_text(encoding="utf-8")


def test_names_are_told_without_a_plotting_library():
    code = "import sys; from peft_tradeoffs.core import layout; print({'matplotlib', 'seaborn'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "workflow_scripts", capture_output=True, text=True)
    assert told.stdout == "set()\n", told.stderr
    assert all(callable(draw) for draw in (FIGURES | drawings(TUNING_FIGURES)).values())


def test_every_seed_is_a_point_and_the_mean_is_written(tmp_path):
    summaries = [synthetic.summary(*arm, seed) for arm in GRIDS[5] for seed in range(3)]
    figure = FIGURES["metric_by_arm"](sweep_of(tmp_path, summaries))
    (axes,) = figure.axes
    drawn = sorted(x for x, _ in points(axes))
    assert drawn == pytest.approx(sorted(100 * run["metric_value"] for run in summaries))
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "full", "LoRA r4", "LoRA r16", "QLoRA r4", "QLoRA r16",
    ]  # fmt: skip
    arms = tables.arms_frame(tables.runs_frame(summaries))
    as_in_arms_md = readable.arms_readable(arms)["Accuracy, %"].to_list()
    assert " ± " in as_in_arms_md[0] and [text for text in texts(figure) if text in as_in_arms_md] == as_in_arms_md
    assert axes.get_xlabel() == "Accuracy on the test split, %"


@pytest.mark.parametrize(("device", "label"), [("cpu", "Memory of tensors, MiB"), ("cuda", "Peak memory, MiB")])
def test_memory_bars_start_at_zero_and_name_what_they_show(tmp_path, device, label):
    summaries = [synthetic.summary(*arm, 0, device=device) for arm in GRIDS[5]]
    sweep = sweep_of(tmp_path, summaries)
    (axes,) = FIGURES["peak_memory_by_arm"](sweep).axes
    assert axes.get_xlim()[0] == 0 and axes.get_xlabel() == label
    assert axes.patches[0].get_width() == pytest.approx(tables.runs_frame(summaries)[tables.memory_key(device)][0])
    assert FIGURES["metric_vs_memory"](sweep).axes[0].get_xlabel() == label


def test_devices_get_a_panel_each(tmp_path):
    summaries = [synthetic.summary(*arm, 0, device="cuda" if arm[0] == "full" else "cpu") for arm in GRIDS[5]]
    sweep = sweep_of(tmp_path, summaries)
    for name in ("peak_memory_by_arm", "samples_per_s_by_arm", "metric_vs_memory"):
        assert len(FIGURES[name](sweep).axes) == 2, name


def test_pareto_front():
    cost, gain = [4, 1, 2, 3, 2, 1], [9, 5, 7, 6, 7, 4]
    assert pareto(cost, gain) == [1, 2, 4, 0]
    assert pareto([1], [1]) == [0]


def test_only_members_of_the_front_are_labelled(tmp_path):
    sweep = sweep_of(tmp_path, [synthetic.summary(*arm, 0, device="cuda") for arm in GRIDS[9]])
    arms = sweep.arms
    front = pareto(list(arms["probe_peak_allocated_MiB_mean"]), list(arms["metric_value_mean"]))
    names = [arm_label(arms["method"][index], arms["rank"][index]) for index in front]
    axes = FIGURES["metric_vs_memory"](sweep).axes[0]
    assert sorted(text.get_text() for text in axes.texts) == sorted(names)
    assert 0 < len(front) < len(arms)


def test_what_is_not_compared_has_no_front_no_line_and_no_spread(tmp_path):
    """A CPU's time, where one job trained all seeds of an arm."""
    runs = [synthetic.summary(*arm, seed) for arm in GRIDS[5] for seed in range(3)]
    alone = sweep_of(tmp_path / "alone", runs)
    sweep = sweep_of(tmp_path / "shared", [run | ({"startup_s": None} if run["seed"] else {}) for run in runs])
    assert sweep.uncompared("train_s") and not sweep.uncompared("metric_value")
    assert not alone.uncompared("train_s") and not sweep.uncompared("tensors_MiB")
    for one, name, spread in ((sweep, "samples_per_s_by_arm", False), (alone, "samples_per_s_by_arm", True)):
        figure = FIGURES[name](one)
        assert any(" ± " in text.get_text() for text in figure.axes[0].texts) == spread
        assert any("arms are not compared by it" in text for text in texts(figure)) == (not spread)
    for one, width in ((sweep, 0), (alone, 1.2)):
        lines = [line for line in FIGURES["speed_vs_rank"](one).axes[2].lines if line.get_marker() in ("o", "s")]
        assert {line.get_linewidth() for line in lines} == {width}
    for one, front in ((sweep, False), (alone, True)):
        handles = FIGURES["metric_vs_samples_per_s"](one).axes[0].get_legend().legend_handles
        assert ("Pareto front" in [handle.get_label() for handle in handles]) == front


def test_one_colour_a_method_everywhere(tmp_path):
    sweep = sweep_of(tmp_path, [synthetic.summary(*arm, 0) for arm in GRIDS[9]])
    lora = sweep.styles["lora"].colour
    for name in ("metric_vs_memory", "metric_vs_rank"):
        handles = FIGURES[name](sweep).axes[0].get_legend().legend_handles
        assert lora in [matplotlib.colors.to_rgb(handle.get_color()) for handle in handles], name
    assert matplotlib.colors.to_rgb(colours(["full", "lora", "qlora"])["lora"]) == pytest.approx(lora, abs=1 / 255)
    assert len({look.colour for look in method_styles(EIGHT).values()}) == len(EIGHT)
    known = sns.color_palette("colorblind").as_hex()
    assert [colour for colour in PALETTE if colour in known] == list(PALETTE[:7])  # the page has them without seaborn


def test_failed_arms_are_gaps_with_their_status(tmp_path):
    summaries = [(synthetic.oom if arm[0] == "full" else synthetic.summary)(*arm, 0, device="cuda") for arm in GRIDS[5]]
    sweep = sweep_of(tmp_path, summaries)
    for name, draw in FIGURES.items():
        if name != KNOWN_BEFORE:
            assert any("out of memory in probe, 12.0 GiB asked for, 1 run" in text for text in texts(draw(sweep))), name


def test_peaks_that_failed_runs_reached_make_no_axis(tmp_path):
    reached = {"probe_peak_allocated_MiB": 79_854.0}
    sweep = sweep_of(tmp_path, [synthetic.oom(*arm, 0, device="cuda") | reached for arm in GRIDS[5]])
    (axes,) = FIGURES["peak_memory_by_arm"](sweep).axes
    assert not len(axes.get_xticks())
    assert "out of memory in probe, 12.0 GiB asked for, 1 run" in texts(axes.figure)


def test_runs_that_changed_gpus_are_not_drawn_beside_a_mean_without_them(tmp_path):
    summaries = [synthetic.summary("lora", 4, seed, device="cuda") for seed in range(3)]
    summaries[2] |= {"mixed_gpus": True, "samples_per_s": 1.0}
    changed = [synthetic.summary("full", None, 0, device="cuda") | {"mixed_gpus": True}]
    figure = FIGURES["samples_per_s_by_arm"](sweep_of(tmp_path, summaries + changed))
    (axes,) = figure.axes
    assert len(points(axes)) == 2
    assert "resumed on a GPU of another model" in texts(figure)


def test_partly_failed_arms_are_marked(tmp_path):
    summaries = [synthetic.summary(*arm, seed, device="cuda") for arm in GRIDS[5] for seed in (0, 1)]
    summaries[1] = synthetic.diverged(*GRIDS[5][0], 1, device="cuda")
    sweep = sweep_of(tmp_path, summaries)
    for name, draw in FIGURES.items():
        if name not in (KNOWN_BEFORE, "best_by_method"):
            assert any("(1 diverged)" in text for text in texts(draw(sweep))), name


def test_an_arm_that_failed_in_two_ways_names_both(tmp_path):
    arm = GRIDS[5][1]
    failed = [synthetic.oom(*arm, 0, device="cuda"), synthetic.diverged(*arm, 1, device="cuda")]
    sweep = sweep_of(tmp_path, [synthetic.summary("full", None, 0, device="cuda"), *failed])
    for name in ("peak_memory_by_arm", "memory_split_by_arm", "energy_by_arm"):
        told = "out of memory in probe, 1 run; diverged at step 17, 1 run"
        assert any(told in text for text in texts(FIGURES[name](sweep))), name


def test_random_weights_are_marked_and_have_no_metric(tmp_path):
    summaries = [synthetic.randomly(*arm, 0, device="cuda") for arm in GRIDS[5]]
    sweep = sweep_of(tmp_path, summaries)
    for name, draw in FIGURES.items():
        figure = draw(sweep)
        assert "Random weights: speed and memory only" in figure.get_suptitle(), name
        assert misplaced(figure) == [], name
        if name in METRIC:
            assert not figure.axes and any("the weights are random" in text for text in texts(figure)), name
        else:
            assert figure.axes, name
    pretrained = sweep_of(tmp_path / "pretrained", [synthetic.summary(*arm, 0) for arm in GRIDS[5]])
    assert not any("andom" in text for draw in FIGURES.values() for text in texts(draw(pretrained)))


def test_energy_is_drawn_where_it_was_measured(tmp_path):
    summaries = [synthetic.summary(*arm, 0, device="cuda") for arm in GRIDS[5]]
    summaries[1] |= {"energy_window_short": True}
    figure = FIGURES["energy_by_arm"](sweep_of(tmp_path / "gpu", summaries))
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([run["energy_J_per_sample"] for run in summaries])
    assert any("Measured over less than 30 s: LoRA r4." in text for text in texts(figure))
    for run in summaries:
        run |= {"energy_J_per_sample": None, "null_reasons": {"energy_J_per_sample": "MIG has no counter"}}
    summaries[0] = synthetic.oom(*GRIDS[5][0], 0, device="cuda")
    figure = FIGURES["energy_by_arm"](sweep_of(tmp_path / "none", summaries))
    assert not figure.axes and "Nothing to draw: MIG has no counter" in texts(figure)


def test_a_fallen_back_engine_is_named_beside_times(tmp_path):
    summaries = [synthetic.summary(*arm, 0, device="cuda") for arm in GRIDS[5]]
    summaries[1] |= {"engine": "eager", "engine_reason": "it broke", "capture_s": None}
    sweep = sweep_of(tmp_path, summaries)
    for name in ("samples_per_s_by_arm", "energy_by_arm"):
        assert any("Eager instead of captured: LoRA r4 (it broke)." in text for text in texts(FIGURES[name](sweep))), (
            name
        )


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_memory_parts_are_stacked_to_their_sum(tmp_path, device):
    summaries = [synthetic.summary(*arm, 0, device=device) for arm in GRIDS[5]]
    summaries[2] = synthetic.oom(*GRIDS[5][2], 0, device=device)
    figure = FIGURES["memory_split_by_arm"](sweep_of(tmp_path, summaries))
    (axes,) = figure.axes
    bars = [bar for bar in axes.patches if bar.get_height() == pytest.approx(0.7) and bar.get_width()]
    sizes = [run[key] for run in summaries if run["status"] == "completed" for key in tables.SPLIT]
    assert [bar.get_width() for bar in bars] == pytest.approx(sizes)
    assert [bar.get_x() for bar in bars[:4]] == pytest.approx([0, sizes[0], sum(sizes[:2]), sum(sizes[:3])])
    assert len({bar.get_facecolor() for bar in bars}) == 4
    assert readable.number(sum(sizes[:4])) in texts(figure)
    lines = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata())]
    peaks = [run["probe_peak_allocated_MiB"] for run in summaries if run["status"] == "completed"]
    assert lines == (pytest.approx(peaks) if device == "cuda" else [])
    assert ("Peak allocated" in texts(figure)) == (device == "cuda")


def test_nothing_measured_says_why(tmp_path):
    summaries = [synthetic.summary(*arm, 0) for arm in GRIDS[5]]
    for run in summaries:
        run["samples_per_s"] = None
        run["null_reasons"] = {"samples_per_s": "the clock was broken"}
    sweep = sweep_of(tmp_path / "null", summaries)
    figure = FIGURES["samples_per_s_by_arm"](sweep)
    assert not figure.axes and any("the clock was broken" in text for text in texts(figure))
    sweep = sweep_of(tmp_path / "oom", [synthetic.oom(*arm, 0) for arm in GRIDS[5]])
    for name, draw in FIGURES.items():
        figure = draw(sweep)
        if name == KNOWN_BEFORE:
            assert "665,858" in texts(figure)
        elif name == "speed_vs_rank":
            assert not figure.axes and "Nothing to draw: no completed run has a rank" in texts(figure)
        else:
            assert not figure.axes and any("asked for, 5 runs" in text for text in texts(figure)), name


def test_without_ranks_the_rank_figure_says_so(tmp_path):
    figure = FIGURES["metric_vs_rank"](sweep_of(tmp_path, [synthetic.summary("full", None, 0)]))
    assert any("no completed run has a rank" in text for text in texts(figure))


def test_rank_axis_has_the_ranks(tmp_path):
    sweep = sweep_of(tmp_path, [synthetic.summary(*arm, 0) for arm in GRIDS[9]])
    axes = FIGURES["metric_vs_rank"](sweep).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "8", "16", "32"]
    assert "full (no rank)" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_learning_curves_show_the_test_split(tmp_path):
    summaries = [synthetic.summary(*arm, seed) for arm in GRIDS[5] for seed in (0, 1)]
    sweep = sweep_of(tmp_path, summaries)
    axes = FIGURES["learning_curves"](sweep).axes[0]
    means = {name: line.get_ydata() for name, line in means_by_arm(axes).items()}
    expected = 50 * sum(run["metric_value"] for run in summaries if run["arm"] == "lora-r4")
    assert list(means) == ["full", "LoRA r4", "LoRA r16", "QLoRA r4", "QLoRA r16"]
    assert means["LoRA r4"][-1] == pytest.approx(expected)
    assert len(means["LoRA r4"]) == 3


def test_a_mean_curve_ends_where_a_seed_stopped_early(tmp_path):
    summaries = [synthetic.summary("lora", 4, seed) for seed in (0, 1)]
    runs, runs_dir = prepare(tmp_path, summaries)
    path = runs_dir / "lora-r4" / "seed1" / "metrics.csv"
    pd.read_csv(path).query("epoch < 3").to_csv(path, index=False)
    synthetic.seal(path.parent)
    axes = FIGURES["learning_curves"](load(Tables(runs), runs_dir, "sst2", "distilbert")).axes[0]
    assert list(means_by_arm(axes)["LoRA r4"].get_xdata()) == [1, 2]


def test_dollars_and_underscores_stay_as_they_are(tmp_path):
    sweep = sweep_of(tmp_path, [synthetic.summary("my_$x$_method", 4, 0, dataset="d_$1", model="m_$2$")])
    for name, draw in FIGURES.items():
        figure = draw(sweep)
        assert any("d_$1, m_$2$" in text for text in texts(figure)), name
        assert not any(text.get_parse_math() for text in figure.findobj(Text) if "$" in text.get_text()), name


def test_a_long_reason_fits(tmp_path):
    sweep = sweep_of(tmp_path, [synthetic.summary("full", None, 0)])
    figure = message(sweep, "Title", "because " * 30)
    figure.draw_without_rendering()
    box = figure.texts[0].get_window_extent(figure.canvas.get_renderer())
    assert box.x0 > 0 and box.x1 < figure.bbox.x1


@pytest.mark.parametrize(("value", "text"), [(500, "500"), (20_000, "20k"), (5e6, "5M"), (66_955_010, "67M")])
def test_counts_in_short(value, text):
    assert compact(value) == text


def test_bad_input_is_named(tmp_path):
    runs, runs_dir = prepare(tmp_path, [synthetic.summary("full", None, 0)])
    with pytest.raises(InputError, match=r"no run of sst2/other; it has sst2/distilbert"):
        load(Tables(runs), runs_dir, "sst2", "other")
    (runs_dir / "full" / "seed0" / "metrics.csv").unlink()
    with pytest.raises(InputError, match=r"metrics\.csv: missing, though"):
        load(Tables(runs), runs_dir, "sst2", "distilbert")
    with pytest.raises(InputError, match="no such file; make it again with make_tables"):
        load(Tables(tmp_path / "none.csv"), runs_dir, "sst2", "distilbert")


def test_every_seed_has_its_point_and_every_mean_its_interval(tmp_path):
    summaries = [synthetic.summary("lora", rank, seed) for rank in (4, 16) for seed in range(3)]
    sweep = sweep_of(tmp_path, summaries)
    values = np.array([100 * run["metric_value"] for run in summaries[:3]])
    low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
    (axes,) = FIGURES["metric_by_arm"](sweep).axes
    whiskers = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2]
    assert any(whisker == pytest.approx([low, high]) for whisker in whiskers)
    for name in ("metric_vs_memory", "metric_vs_rank"):
        axes = FIGURES[name](sweep).axes[0]
        assert any(line.get_ydata() == pytest.approx([low, high]) for line in axes.lines if len(line.get_ydata()) == 2)
        heights = [y for _, y in points(axes)]
        assert all(any(y == pytest.approx(value) for y in heights) for value in values), name
    few = sweep_of(tmp_path / "few", summaries[:2])
    assert not any("interval" in text for draw in FIGURES.values() for text in texts(draw(few)))


def test_accuracy_gain_is_over_the_majority_class_of_the_test_split(tmp_path):
    sweep = sweep_of(tmp_path, [synthetic.summary(*arm, 0) for arm in GRIDS[5]])
    (axes,) = FIGURES["accuracy_gain_per_million_by_arm"](sweep).axes
    row = sweep.runs[sweep.runs["arm"] == "full"].iloc[0]
    expected = 100 * (row["accuracy"] - 444 / 872) / (row["trainable_parameters"] / 1e6)
    assert axes.patches[0].get_width() == pytest.approx(expected)
    assert axes.get_xlabel() == "Gain, points per million trainable parameters"
    assert any("most frequent class, 50.9 %" in text for text in texts(axes.figure))
    (sweep.runs_dir / "full" / "seed0" / "predictions.csv").unlink()
    with pytest.raises(InputError, match=r"predictions\.csv: missing, though"):
        FIGURES["accuracy_gain_per_million_by_arm"](sweep)


def test_no_share_of_parameters_beyond_all_of_them(tmp_path):
    sweep = sweep_of(tmp_path, [synthetic.summary("full", None, seed) for seed in range(2)])
    counts, share = FIGURES["trainable_parameters_by_arm"](sweep).axes
    assert any(text.startswith("Where an arm trains the model's head") for text in texts(counts.figure))  # not all do
    shown = [tick for tick in share.get_xticks() if share.get_xlim()[0] <= tick <= share.get_xlim()[1]]
    assert max(shown) == pytest.approx(100)


def trials(rates: dict[str, float], values: dict[str, float]) -> pd.DataFrame:
    """What tuning found for these arms, and another rate that is better for all."""
    rows = [{"arm": arm, "learning_rate": rates[arm], "value": value} for arm, value in values.items()]
    return pd.DataFrame(rows + [{"arm": arm, "learning_rate": 0.5, "value": 1.0} for arm in values])


def test_the_best_arm_is_chosen_without_the_test_split_where_that_is_possible(tmp_path):
    def lora(rank: int, test: float, heldout: float | None) -> list[dict]:
        scores = {"metric_value": test, "accuracy": test, "heldout_metric_value": heldout}
        return [synthetic.summary("lora", rank, seed, **scores) for seed in (0, 1)]

    def best(sweep: Sweep) -> tuple[str, str]:
        found = choose(sweep)
        return found.arms["arm"].item(), found.how

    runs = lora(4, 0.80, 0.90) + lora(8, 0.85, 0.88)
    validated = sweep_of(tmp_path / "validated", runs)  # synthetic validation follows test
    assert best(validated)[0] == "lora-r8" and "validation split" in best(validated)[1]
    curves = validated.curves[validated.curves["split"] == "test"]
    heldout = dataclasses.replace(validated, curves=curves)
    assert best(heldout)[0] == "lora-r4" and "heldout split" in best(heldout)[1]
    bare = dataclasses.replace(heldout, runs=heldout.runs.assign(heldout_metric_value=None))
    tuned = dataclasses.replace(
        bare, tuning=trials({"lora-r4": 5e-4, "lora-r8": 5e-4}, {"lora-r4": 0.7, "lora-r8": 0.6})
    )
    assert best(tuned)[0] == "lora-r4" and "dev split" in best(tuned)[1]
    other = dataclasses.replace(
        bare, tuning=trials({"lora-r4": 1e-4, "lora-r8": 5e-4}, {"lora-r4": 0.7, "lora-r8": 0.6})
    )
    for sweep in (bare, other):  # no trial of lora-r4 at the rate of its runs
        assert best(sweep)[0] == "lora-r8" and "flatters" in best(sweep)[1]
    assert any("flatters" in text for text in texts(FIGURES["best_by_method"](bare)))
    failed = sweep_of(tmp_path / "failed", [*runs[:3], synthetic.diverged("lora", 8, 1)])
    assert best(failed)[0] == "lora-r4"


def test_axes_start_at_zero_or_are_marked(tmp_path):
    sweep = sweep_of(tmp_path, [synthetic.summary(*arm, seed, device="cuda") for arm in GRIDS[5] for seed in (0, 1, 2)])
    for name, draw in (FIGURES | sweeps(sweep)).items():
        for axes in draw(sweep).axes:
            strokes = sum(line.get_marker() not in (None, "None", "", "o", "s", "D", "h", "x") for line in axes.lines)
            cut = [axis for axis, kind in ((axes.get_xlim(), axes.get_xscale()), (axes.get_ylim(), axes.get_yscale()))
                   if kind == "linear" and min(axis) > 0]  # fmt: skip
            if "curves" in name:
                cut = cut[1:]  # epochs
            assert strokes == 2 * len(cut), name


def test_a_sweep_has_four_panels_and_the_ranks(tmp_path):
    sweep = sweep_of(tmp_path, [synthetic.summary(*arm, 0) for arm in GRIDS[9]] + [synthetic.summary("dora", 4, 0)])
    assert list(sweeps(sweep)) == ["sweep_lora", "sweep_qlora"]  # dora has one rank
    figure = sweeps(sweep)["sweep_lora"](sweep)
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["Accuracy on the test split, %", "Trainable parameters", "Memory of tensors, MiB", "Samples/s"]
    for axes in figure.axes:
        assert [label.get_text() for label in axes.get_xticklabels()] == ["4", "8", "16", "32"]
    assert list(figure.axes[1].lines[0].get_ydata()) == [665_858, 739_586, 887_042, 1_181_954]


def test_long_names_are_broken_and_seen_whole(tmp_path):
    names = ["lora_on_query_and_value_with_rank_stabilised_scaling", "averyveryverylongnamewithoutanyplacetobreakit"]
    sweep = sweep_of(tmp_path, [synthetic.summary(name, rank, 0) for name in names for rank in (4, 8)])
    for name, draw in (FIGURES | sweeps(sweep)).items():
        figure = draw(sweep)
        assert [pair for pair in misplaced(figure) if "cut" in pair] == [], name
    shown = [label.get_text().replace("\n", "") for label in FIGURES["metric_by_arm"](sweep).axes[0].get_yticklabels()]
    assert [name.replace(" ", "") for name in shown] == [f"{name}r{rank}" for name in names for rank in (4, 8)]
