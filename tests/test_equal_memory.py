"""The view of equal memory: the search ends at the largest batch under a cap; what is trained and shown of it."""

import json

import pytest
import tiny
from peft_tradeoffs.batch_search import candidates, largest_batches, scaled_rate


class Peaks:
    """A peak of 100 MiB and 2 MiB a row; memory runs out above `oom` rows."""

    def __init__(self, oom=10**9):
        self.asked, self.oom = [], oom

    def __call__(self, size):
        self.asked.append(size)
        return None if size > self.oom else 100.0 + 2 * size


def test_sizes_to_try():
    assert candidates(40) == [1, 2, 4, 8, 16, 24, 32, 40]
    assert candidates(3) == [1, 2]
    assert candidates(40, parts=16) == [16, 32]


@pytest.mark.parametrize("start", [1, 32, 1024, 4096])
@pytest.mark.parametrize("cap", [102.0, 103.9, 116.0, 180.0, 1000.0, 2147.9, 2148.0])
def test_the_largest_batch_under_the_cap_is_found_in_few_measurements(cap, start):
    sizes, peaks = candidates(1024), Peaks()
    (fit,) = largest_batches(peaks, [cap], sizes, start)
    assert fit.batch_size == max(size for size in sizes if 100 + 2 * size <= cap)
    assert fit.peak_MiB == 100 + 2 * fit.batch_size
    larger = [size for size in sizes if size > fit.batch_size]
    assert fit.next_size == (larger[0] if larger else None)
    assert len(peaks.asked) == len(set(peaks.asked)) <= 20  # 2 log2(1024)


def test_caps_share_their_measurements():
    peaks = Peaks()
    fits = largest_batches(peaks, [150.0, 300.0], candidates(1024), 32)
    assert [fit.batch_size for fit in fits] == [24, 96]
    assert len(peaks.asked) == len(set(peaks.asked))


def test_out_of_memory_is_above_every_cap():
    (fit,) = largest_batches(Peaks(oom=50), [10**6], candidates(1024), 32)
    assert (fit.batch_size, fit.next_size, fit.next_peak_MiB) == (48, 56, None)


def test_nothing_fits():
    (fit,) = largest_batches(Peaks(), [101.0], candidates(64), 32)
    assert (fit.batch_size, fit.peak_MiB, fit.next_size, fit.next_peak_MiB) == (None, None, 1, 102.0)


def test_rates_follow_the_rule():
    assert [scaled_rate(1e-3, 4.0, rule) for rule in ("sqrt", "linear", "constant")] == [2e-3, 4e-3, 1e-3]


def test_arms_are_trained_at_the_batch_that_fits(tiny_bert, tmp_path):
    tiny.write_inputs(tmp_path, tiny_bert)
    settings = tiny.config(tmp_path, seeds=[0], equal_memory={"caps_GiB": [0.001, 100], "largest_batch_size": 16})
    settings["methods"] = {"full": {"learning_rate": 1e-3}}
    target = "results/tables/equal_memory.md"
    tiny.snakemake(tmp_path, settings, target)
    found = json.loads((tmp_path / "results/equal_memory/found/reviews/tiny/full.json").read_text())
    small, large = found["caps"]
    assert (small["batch_size"], small["summaries"]) == (None, [])
    assert small["next_size"] == 1 and small["next_peak_MiB"] > 1.024
    assert (large["batch_size"], large["next_size"]) == (16, None)
    (summary,) = large["summaries"]
    assert (summary["batch_size"], summary["learning_rate"], summary["steps"]) == (16, pytest.approx(2**0.5 * 1e-3), 4)
    text = (tmp_path / target).read_text()
    assert "none fits" in text
    assert "No intervals: one seed." in text
    assert "The search ended before the cap was reached for full: raise equal_memory.largest_batch_size." in text
    # An edited table is made again; the search and the runs are kept.
    search = tmp_path / "results/equal_memory/runs/reviews/tiny/full/search.json"
    before = search.stat().st_mtime_ns
    tiny.snakemake(tmp_path, None, "--forcerun", "train_at_equal_memory", target)
    assert search.stat().st_mtime_ns == before
    again = json.loads((tmp_path / "results/equal_memory/found/reviews/tiny/full.json").read_text())
    assert again["caps"] == found["caps"]
