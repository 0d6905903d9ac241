"""How far jobs differ in intervals of time and energy: what is pooled, what is added, and that it covers."""

import numpy as np
import pandas as pd
import pytest
import synthetic
from peft_tradeoffs.analysis import tables
from peft_tradeoffs.analysis.stats import (
    UNKNOWN_SPREAD,
    JobNoise,
    interval,
    interval_notes,
    job_noise,
    noise_notes,
    over_jobs,
    over_seeds,
    processes,
    read_noise,
)
from peft_tradeoffs.core.errors import InputError
from scipy import stats

OF = {"dataset": "sst2", "model": "distilbert", "device_name": "Example CPU, 2 cores"}


def table(*rows: tuple[str, str, int, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["arm", "quantity", "n", "mean", "sd"]).assign(**OF)


def test_arms_of_the_noise_table_are_pooled():
    runs = tables.runs_frame([synthetic.summary("full", None, 0)])
    noise = table(
        ("full", "train_s", 3, 10.0, 0.1), ("lora", "train_s", 5, 20.0, 0.4), ("lora", "step_p50_ms", 9, 1, 1)
    )
    found = job_noise(noise, runs, "train_s")
    assert found == JobNoise(pytest.approx(np.sqrt((2 * 0.01**2 + 4 * 0.02**2) / 6)), 6)
    assert job_noise(noise, runs, "energy_J") is None and job_noise(None, runs, "train_s") is None
    energy = table(("full", "energy_J_per_sample", 3, 0.02, 0.001))
    assert job_noise(energy, runs, "energy_J").cv == pytest.approx(0.05)
    for other in ({"dataset": "imdb"}, {"model": "bert"}, {"device_name": "NVIDIA H100 80GB HBM3"}):
        assert job_noise(noise.assign(**other), runs, "train_s") is None
    assert job_noise(table(("full", "train_s", 1, 10.0, np.nan)), runs, "train_s") is None


def test_the_variance_of_a_job_is_divided_by_the_jobs():
    values, noise = np.array([99.0, 100.0, 101.0, 100.0]), JobNoise(0.02, 9)
    of_seeds = values.var(ddof=1) / 4
    for jobs in (1, 2):
        found = over_jobs(values, [values], [jobs], noise)
        assert (found.se, found.df) == (pytest.approx(np.sqrt(of_seeds + 4 / jobs)), 3)
        assert over_jobs(values, [values], [jobs], None) is None
    assert over_jobs(values, [values], [4], None).se == pytest.approx(np.sqrt(of_seeds))
    assert over_jobs(values - values, [values, values], [4, 1], None) is None
    assert over_jobs(values, [values], [1], JobNoise(0.02, 2)).df == 2
    assert over_jobs(values[:1], [values[:1]], [1], noise) is None


def test_the_interval_of_a_time_is_above_0_and_that_of_a_difference_need_not_be():
    """Two jobs of 3 and 1 s: by a symmetric interval a job might take -10 s."""
    one, other = np.array([3.0, 1.0]), np.array([1.0, 1.1])
    low, high = over_jobs(one, [one], [2], None).interval()
    assert 0 < low < 2 < high and low * high == pytest.approx(4)
    sd = np.sqrt(np.log(1 + 0.5**2))  # of the logarithm: the standard error is 1 s of 2
    assert np.log(high / 2) == pytest.approx(stats.t.ppf(0.975, 1) * sd)
    low, high = over_jobs(one - other, [one, other], [2, 2], None).interval()
    assert low < 0 and low + high == pytest.approx(2 * 0.95)
    # Jobs that hardly differ: as a symmetric interval.
    close = np.array([99.0, 100.0, 101.0])
    assert over_jobs(close, [close], [3], None).interval() == pytest.approx(over_seeds(close).interval(), rel=5e-4)


def test_processes_are_those_that_said_when_they_started():
    frame = tables.runs_frame([synthetic.summary("full", None, seed) for seed in range(3)])
    assert processes(frame) == 3
    assert processes(frame.assign(startup_s=[9.1, None, None])) == processes(frame.assign(startup_s=None)) == 1


def test_identical_arms_are_told_apart_no_more_often_than_said():
    """Jobs that differ by 2 %, seeds of a job by 0.3 %: by seeds alone 86 % of the intervals would not hold 0."""
    draw, cv, trials, missed = np.random.default_rng(0), 0.02, 1000, 0
    for _ in range(trials):
        arms = [100 * (1 + draw.normal(0, cv)) + draw.normal(0, 0.3, 5) for _ in range(2)]
        noise = JobNoise(cv * np.sqrt(stats.chi2.ppf(draw.uniform(), 6) / 6), 6)  # three arms of three repeats
        low, high = over_jobs(arms[0] - arms[1], arms, [1, 1], noise).interval()
        missed += not low <= 0 <= high
    assert missed / trials < 0.06


def test_notes():
    unknown = {"unknown": True, "jobs": 1, "percent": None}
    assert noise_notes({"energy": unknown}) == [
        "One job per arm: how far jobs differ was not measured (set noise), so energy has no interval."
    ]
    assert noise_notes({"energy": unknown | {"jobs": 2}})[0].startswith("Several seeds per job: how far jobs differ")
    assert noise_notes({"energy": unknown | {"unknown": False}}) == []


def test_a_broken_noise_table_is_named(tmp_path):
    path = tmp_path / "noise.csv"
    with pytest.raises(InputError, match=r"noise\.csv: no such file; make it again with measure_noise\.py"):
        read_noise(path)
    table(("full", "train_s", 3, 10.0, 0.1)).drop(columns="sd").to_csv(path, index=False)
    with pytest.raises(InputError, match=r"noise\.csv: no column sd; make it again"):
        read_noise(path)
    path.write_text("")
    with pytest.raises(InputError, match=r"noise\.csv: not a table of this workflow"):
        read_noise(path)
    assert read_noise(None) is None


def test_figures_and_page_have_the_intervals_of_the_tables():
    """Seeds that share a job have none of time or throughput without a noise table, and with one that counts jobs."""
    runs = tables.runs_frame(
        [synthetic.summary("lora", 8, seed, device="cuda", startup_s=None if seed else 9.0) for seed in range(5)]
    )
    columns = ("dataset", "model", "arm", "device_name", "quantity", "n", "mean", "sd")
    name = runs["device_name"].iloc[0]
    rows = [("sst2", "distilbert", "lora-r8", name, key, 3, 100.0, 2.0) for key in ("train_s", "samples_per_s")]
    noise = pd.DataFrame(rows, columns=columns)
    for key in ("train_s", "samples_per_s"):
        assert interval(runs, key, None) is None
        values = runs[key].to_numpy(dtype=float)
        expected = over_jobs(values, [values], [1], JobNoise(0.02, 2)).interval()
        assert interval(runs, key, noise) == pytest.approx(expected)
    assert interval(runs, "energy_J", noise) is None  # of which the table has nothing
    assert interval(runs, "metric_value", None) == pytest.approx(over_seeds(runs["accuracy"].to_numpy()).interval())
    assert interval(runs.head(2), "metric_value", None) is None
    high = runs.assign(metric_value=[0.99, 1.0, 1.0, 0.97, 1.0])
    assert interval(high, "metric_value", None, 100.0)[1] == 100.0  # by t alone 100.8
    (note,) = interval_notes(runs, None, ["samples_per_s"])
    assert (
        note == f"Time, throughput and energy have no interval where seeds shared a job: {UNKNOWN_SPREAD} (set noise)."
    )
    assert "over jobs too" in interval_notes(runs, noise, ["samples_per_s", "metric_value"])[0]
