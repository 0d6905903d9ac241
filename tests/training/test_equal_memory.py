"""The view of equal memory: the search ends at the largest batch under a cap; what is trained and shown of it."""

import json

import pytest
import synthetic
import tiny
from peft_tradeoffs.analysis.equal_cost import (
    RAN_ON,
    equal_memory_frame,
    equal_memory_notes,
    equal_memory_readable,
    read_capped,
)
from peft_tradeoffs.analysis.finished import FACTS
from peft_tradeoffs.core import files
from peft_tradeoffs.core.code import dependencies
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.runs.interruption import Interrupted
from peft_tradeoffs.training.search import KeptPeaks, candidates, ended_at, largest_batches, scaled_rate

SCRIPTS = tiny.REPOSITORY / "workflow_scripts"


ROWS = 10**6  # of training, more than any batch


class Peaks:
    """A peak of 100 MiB and 2 MiB a row; memory runs out above `oom` rows."""

    def __init__(self, oom=10**9):
        self.asked, self.oom = [], oom

    def __call__(self, size):
        self.asked.append(size)
        return None if size > self.oom else 100.0 + 2 * size


def test_sizes_to_try():
    assert candidates(40, ROWS) == [1, 2, 4, 8, 16, 24, 32, 40]
    assert candidates(40, 30) == [1, 2, 4, 8, 16, 24]
    assert candidates(3, ROWS) == [1, 2]
    assert candidates(40, ROWS, parts=16) == [16, 32]
    assert candidates(60, ROWS, parts=3) == [3, 6, 12, 24, 48]


def test_no_size_to_try_is_an_error_that_says_why():
    with pytest.raises(InputError, match=r"equal_memory\.largest_batch_size: 2 rows do not divide into the 3 parts"):
        candidates(2, ROWS, parts=3)
    with pytest.raises(InputError, match="2 training rows make no batch of 3 parts"):
        candidates(16, 2, parts=3)


@pytest.mark.parametrize("start", [1, 32, 1024, 4096])
@pytest.mark.parametrize("cap", [102.0, 103.9, 116.0, 180.0, 1000.0, 2147.9, 2148.0])
def test_the_largest_batch_under_the_cap_is_found_in_few_measurements(cap, start):
    sizes, peaks = candidates(1024, ROWS), Peaks()
    (fit,) = largest_batches(peaks, [cap], sizes, start)
    assert fit.batch_size == max(size for size in sizes if 100 + 2 * size <= cap)
    assert fit.peak_MiB == 100 + 2 * fit.batch_size
    larger = [size for size in sizes if size > fit.batch_size]
    assert fit.next_size == (larger[0] if larger else None)
    assert len(peaks.asked) == len(set(peaks.asked)) <= 20  # 2 log2(1024)


def test_caps_share_their_measurements():
    peaks = Peaks()
    fits = largest_batches(peaks, [150.0, 300.0], candidates(1024, ROWS), 32)
    assert [fit.batch_size for fit in fits] == [24, 96]
    assert len(peaks.asked) == len(set(peaks.asked))


def test_out_of_memory_is_above_every_cap():
    (fit,) = largest_batches(Peaks(oom=50), [10**6], candidates(1024, ROWS), 32)
    assert (fit.batch_size, fit.next_size, fit.next_peak_MiB) == (48, 56, None)


def test_why_a_search_ended():
    (under,) = largest_batches(Peaks(), [150.0], candidates(1024, ROWS), 32)
    (at_end,) = largest_batches(Peaks(), [10**6], candidates(64, ROWS), 32)
    assert [ended_at(under, 1024, ROWS), ended_at(at_end, 64, ROWS)] == ["cap", "largest_batch_size"]
    assert ended_at(at_end, 1024, 64) == "train rows"


def test_a_search_that_is_interrupted_goes_on_where_it_was(tmp_path):
    path, conditions, asked = tmp_path / "search.json", {"device_name": "a card"}, []

    def measure(size):
        if len(asked) == 3:
            raise Interrupted("SIGTERM")
        asked.append(size)
        return None if size > 100 else 100.0 + 2 * size

    def search(peaks):
        return largest_batches(peaks, [250.0, 10**6], candidates(1024, ROWS), 32)

    with pytest.raises(Interrupted):
        search(KeptPeaks(path, conditions, measure))
    later = Peaks(oom=100)
    fits = search(KeptPeaks(path, conditions, later))
    assert [fit.batch_size for fit in fits] == [72, 96]
    assert len(asked) == 3 and later.asked and not set(asked) & set(later.asked)
    again = Peaks()
    assert search(KeptPeaks(path, conditions, again)) == fits
    assert again.asked == []  # one where memory ran out neither
    elsewhere = Peaks()
    search(KeptPeaks(path, {"device_name": "a larger card"}, elsewhere))
    assert elsewhere.asked[0] == 32 and 128 in elsewhere.asked


def test_the_code_of_the_search_is_not_that_of_the_runs():
    search = {"search.py"}
    assert not search & {path.name for path in dependencies(SCRIPTS / "train.py")}
    assert search <= {path.name for path in dependencies(SCRIPTS / "train_at_equal_memory.py")}


def test_nothing_fits():
    (fit,) = largest_batches(Peaks(), [101.0], candidates(64, ROWS), 32)
    assert (fit.batch_size, fit.peak_MiB, fit.next_size, fit.next_peak_MiB) == (None, None, 1, 102.0)


def test_rates_follow_the_rule():
    assert [scaled_rate(1e-3, 4.0, rule) for rule in ("sqrt", "linear", "constant")] == [2e-3, 4e-3, 1e-3]


def found(folder, method, rank, caps, **changes):
    """What train_at_equal_memory.py writes of an arm, and env.json of its runs; `caps`: (GiB, changes to the fit)."""
    arm = method if rank is None else f"{method}-r{rank}"
    fits = []
    for cap, of_fit in caps:
        fit = {"cap_MiB": 1024.0 * cap, "batch_size": 64, "peak_MiB": 1000.0 * cap, "next_size": 72}
        fit |= {"next_peak_MiB": None, "ended_at": "cap", "seeds": (0, 1), "env": {}, "run": {}} | of_fit
        seeds, env, run = (fit.pop(key) for key in ("seeds", "env", "run"))
        fit["summaries"] = []
        for summary in [synthetic.summary(method, rank, seed, device="cuda", **run) for seed in seeds]:
            run_folder = folder / "sst2/distilbert" / arm / f"batch{fit['batch_size']}/seed{summary['seed']}"
            run_folder.mkdir(parents=True, exist_ok=True)
            recorded = {"settings": {"device": "cuda"}, "seed": summary["seed"], "fingerprint": summary["fingerprint"]}
            (run_folder / "env.json").write_text(json.dumps({"code_sha256": "a" * 64, **recorded, **env}))
            fit["summaries"].append(synthetic.seal(run_folder, summary))
        fits.append(fit)
    of_arm = {"dataset": "sst2", "model": "distilbert", "arm": arm, "method": method, "rank": rank, "device": "cuda"}
    of_arm |= {"metric": "accuracy", "max_steps": None, "gradient_accumulation_steps": 1, "base_batch_size": 32}
    return {**of_arm, "rule": "sqrt", "largest": 1024, "train_rows": 6400, "caps": fits, **changes}


def test_what_was_found_is_as_it_was_written(tmp_path):
    path = tmp_path / "full.json"
    path.write_text(json.dumps(files.signed({"caps": [{"cap_MiB": 1024.0, "peak_MiB": 1000.0}]})))
    assert read_capped(path)["caps"][0]["peak_MiB"] == 1000
    path.write_text(path.read_text().replace("1000.0", "900.0"))
    with pytest.raises(InputError, match=r"full\.json: changed after it was written: .*; delete it, and Snakemake"):
        read_capped(path)


def table(folder, *arms):
    """Cells and notes of the table."""
    frame = equal_memory_frame(list(arms), {"distilbert": True}, folder)
    return equal_memory_readable(frame), " ".join(equal_memory_notes(frame))


def test_training_above_the_cap_is_marked(tmp_path):
    peaks = [(1, {"run": {"train_peak_allocated_MiB": 1100.0}}), (2, {"run": {"train_peak_allocated_MiB": 1100.0}})]
    cells, notes = table(tmp_path, found(tmp_path, "full", None, peaks))
    assert list(cells["Training peak, MiB"]) == ["1,100 ± 0*", "1,100 ± 0"]
    assert "on the longest texts; captured training holds more." in notes
    _, notes = table(tmp_path, found(tmp_path, "full", None, [(1, {})], device="cpu"))
    assert "on the longest texts. " in notes and "captured" not in notes
    assert "*: the training peak is above the cap." in notes
    _, notes = table(tmp_path, found(tmp_path, "full", None, peaks[1:]))
    assert "*:" not in notes


def test_the_notes_say_why_a_search_ended_and_what_has_no_interval(tmp_path):
    def notes(**fit):
        return table(tmp_path, found(tmp_path, "lora", 8, [(1, fit)], train_rows=640))[1]

    assert "up to the 640 training rows)" in notes()
    ended = notes(ended_at="train rows")
    assert "The search ended at the number of training rows, before the cap was reached, for LoRA r8." in ended
    assert "raise equal_memory" not in ended
    assert "ended before the cap was reached for LoRA r8: raise" in notes(ended_at="largest_batch_size")
    assert "No intervals: one completed run an arm." in notes(seeds=(0,))
    nothing = {"batch_size": None, "peak_MiB": None, "next_size": 1, "seeds": ()}
    failed = {"run": {"status": "oom", "failed_phase": "train", "metric_value": None, "accuracy": None}}
    for fit in (nothing, failed, {}):
        assert "No intervals" not in notes(**fit)


def test_runs_of_a_cap_that_ran_on_something_else_are_named(tmp_path):
    assert set(RAN_ON) <= set(FACTS)
    full = found(tmp_path, "full", None, [(1, {}), (2, {"batch_size": 128})])
    other = {"code_sha256": "b" * 64, "gpu": {"driver_version": "1"}}
    lora = found(tmp_path, "lora", 8, [(1, {}), (2, {"batch_size": 128, "env": other})])
    _, notes = table(tmp_path, full, lora)
    assert "At 2 GiB, LoRA r8 differs from full in driver, code." in notes
    assert "At 1 GiB" not in notes
    (tmp_path / "sst2/distilbert/lora-r8/batch64/seed1/env.json").unlink()
    with pytest.raises(InputError, match=r"env\.json: missing"):
        table(tmp_path, full, lora)
    full["caps"][0]["summaries"][0]["train_s"] = 1.0
    with pytest.raises(InputError, match="trained again meanwhile"):
        table(tmp_path, full, lora)


def test_arms_are_trained_at_the_batch_that_fits(tiny_bert, tmp_path):
    tiny.write_inputs(tmp_path, tiny_bert)
    settings = tiny.config(tmp_path, seeds=[0], equal_memory={"caps_GiB": [0.001, 50, 100], "largest_batch_size": 16})
    settings["methods"] = {"full": {"learning_rate": 1e-3}}
    target = "results/tables/equal_memory.md"
    tiny.snakemake(tmp_path, settings, target)
    output = tmp_path / "results/equal_memory/found/reviews/tiny/full.json"
    found = json.loads(output.read_text())
    small, middle, large = found["caps"]
    assert (small["batch_size"], small["summaries"]) == (None, [])
    assert small["next_size"] == 1 and small["next_peak_MiB"] > 1.024
    assert (large["batch_size"], large["next_size"], large["ended_at"]) == (16, None, "largest_batch_size")
    (summary,) = large["summaries"]
    assert (summary["batch_size"], summary["learning_rate"], summary["steps"]) == (16, pytest.approx(2**0.5 * 1e-3), 4)
    assert middle["summaries"] == large["summaries"]  # caps that come to the same batch share its runs
    folder = tmp_path / "results/equal_memory/runs/reviews/tiny/full"
    assert sorted(path.name for path in folder.iterdir()) == ["batch16", "search.json"]
    assert (folder / "batch16/seed0/env.json").exists() and not (folder / "batch16/seed0/checkpoint").exists()
    text = (tmp_path / target).read_text()
    assert "none fits" in text
    assert "No intervals: one completed run an arm." in text
    assert "The search ended before the cap was reached for full: raise equal_memory.largest_batch_size." in text
    assert (tmp_path / "results/tables/contract.csv").exists()  # a strict contract refuses this table too
    # Made again, the search and the runs are kept.
    search = folder / "search.json"
    before = search.stat().st_mtime_ns
    tiny.snakemake(tmp_path, None, "--forcerun", "train_at_equal_memory", target)
    assert search.stat().st_mtime_ns == before
    assert json.loads(output.read_text())["caps"] == found["caps"]
