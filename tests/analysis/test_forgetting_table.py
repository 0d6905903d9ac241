"""The table of forgetting: differences per token of all texts, their intervals, and what is said of them."""

import csv
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from peft_tradeoffs.analysis.before_training import (
    Losses,
    estimated,
    forgetting_frame,
    forgetting_notes,
    forgetting_readable,
    read_losses,
)
from peft_tradeoffs.analysis.stats import over_seeds_and_examples
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.quantities import IS_THE_ORIGINAL
from scipy import stats

ARMS = {"full": ("full", None), "lora-r4": ("lora", 4), "qlora-r4": ("qlora", 4)}
MEANS = {"full": 0.3, "lora-r4": 0.1, "qlora-r4": 0.05}  # forgetting, nats per token
QUANTISED = 0.02  # nats per token that quantisation loses


def losses(random: np.random.Generator, texts: int = 40) -> dict[tuple[str, int], Losses]:
    """By arm and seed: three seeds, texts of unlike length, of which each arm forgets some more than others."""
    tokens, start = random.integers(2, 60, texts), random.normal(3, 1, texts)
    found = {}
    for arm, mean in MEANS.items():
        of_text = random.normal(0, 0.2, texts)
        before = tokens * (start + QUANTISED * (arm == "qlora-r4"))
        for seed in range(3):
            lost = mean + random.normal(0, 0.02) + of_text + random.normal(0, 0.05, texts)
            original = tokens * start if arm == "qlora-r4" else None
            found[arm, seed] = Losses(np.arange(texts), tokens, before, before + tokens * lost, original)
    return found


def runs(found: dict[tuple[str, int], Losses], **changes: Any) -> pd.DataFrame:
    rows = []
    for arm, seed in found:
        method, rank = ARMS[arm]
        row = {"dataset": "d", "model": "m", "arm": arm, "method": method, "rank": rank, "seed": seed}
        row |= {"status": "completed", "pretrained": True, "differs": None, "forgetting": 0.1, "forgetting_s": 1.0}
        quantised = found[arm, seed].original is not None
        row |= {"forgetting_loss_original": 3.0 if quantised else None}
        row |= {"null_reasons": json.dumps({} if quantised else {"forgetting_loss_original": IS_THE_ORIGINAL})}
        rows.append(row | changes)
    return pd.DataFrame(rows)


def frame(found: dict[tuple[str, int], Losses], **changes: Any) -> pd.DataFrame:
    made = forgetting_frame(runs(found, **changes), "full", lambda run: found[run["arm"], run["seed"]])
    return made.set_index("arm", drop=False)


def test_what_is_missing_has_its_reason():
    """An original that did not fit into memory, and a baseline of fewer seeds than its arms."""
    found = losses(np.random.default_rng(0))
    table = runs(found)
    lacking = table["arm"] == "qlora-r4"
    table.loc[lacking, "forgetting_loss_original"] = None
    table.loc[lacking, "null_reasons"] = json.dumps({"forgetting_loss_original": "memory did not suffice"})
    given = {key: dataclasses.replace(one, original=None) for key, one in found.items()}
    made = forgetting_frame(table, "full", lambda run: given[run["arm"], run["seed"]]).set_index("arm")
    assert made.loc["qlora-r4", "reason"] == "no loss of the original model: memory did not suffice"
    assert made["reason"].drop("qlora-r4").isna().all()
    fewer = table[(table["arm"] != "full") | (table["seed"] < 2)]
    made = forgetting_frame(fewer, "full", lambda run: given[run["arm"], run["seed"]]).set_index("arm")
    assert made.loc["full", "reason"] == "2 seeds, where 3 or more are needed for an interval"
    others = made["reason"].drop("full")
    assert others.str.contains("2 seeds that the baseline has too, where 3 or more are needed").all()
    alone = forgetting_frame(table[table["arm"] != "full"], "full", lambda run: given[run["arm"], run["seed"]])
    assert alone["reason"].str.contains("0 seeds that the baseline has too").all()


def by_hand(seeds: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float, float]:
    """Value and 95 % interval of total difference over total tokens, of (differences, tokens) by seed.

    Texts are left out one by one, seeds and texts are crossed, and two texts stand for those that were not seen.
    """
    n, s = len(seeds[0][0]), len(seeds)
    theta = [lost.sum() / tokens.sum() for lost, tokens in seeds]
    parts = np.array(
        [
            [n * t - (n - 1) * np.delete(lost, i).sum() / np.delete(tokens, i).sum() for i in range(n)]
            for t, (lost, tokens) in zip(theta, seeds, strict=True)
        ]
    )
    step = np.abs(parts - np.array(theta)[:, None]).max()
    u = np.column_stack([parts, np.full(s, step), np.full(s, -step)])
    m = n + 2
    ms_seed = m * sum((u[i].mean() - u.mean()) ** 2 for i in range(s)) / (s - 1)
    ms_text = s * sum((u[:, j].mean() - u.mean()) ** 2 for j in range(m)) / (m - 1)
    ms_both = sum((u[i, j] - u[i].mean() - u[:, j].mean() + u.mean()) ** 2 for i in range(s) for j in range(m)) / (
        (s - 1) * (m - 1)
    )
    a, b, i = (mean_square / (s * m) for mean_square in (ms_seed, ms_text, ms_both))
    variance = a + max(b - i, 0)
    df = variance**2 / (a**2 / (s - 1) + (b**2 / (m - 1) + i**2 / ((s - 1) * (m - 1))) * (b > i))
    half = stats.t.ppf(0.975, max(df, s - 1)) * variance**0.5
    return np.mean(theta), np.mean(theta) - half, np.mean(theta) + half


def test_differences_and_intervals_are_those_computed_by_hand():
    found = losses(np.random.default_rng(0))
    table = frame(found)
    for arm in ARMS:
        own = [found[arm, seed] for seed in range(3)]
        expected = by_hand([(one.after - one.before, one.tokens) for one in own])
        assert table.loc[arm, ["forgetting", "forgetting_low", "forgetting_high"]].tolist() == pytest.approx(expected)
        assert table.loc[arm, "before"] == pytest.approx(own[0].before.sum() / own[0].tokens.sum())
    own = [found["qlora-r4", seed] for seed in range(3)]
    expected = by_hand([(one.after - one.original, one.tokens) for one in own])
    columns = ["vs_original", "vs_original_low", "vs_original_high"]
    assert table.loc["qlora-r4", columns].tolist() == pytest.approx(expected)
    assert table.loc["qlora-r4", "vs_original"] - table.loc["qlora-r4", "forgetting"] == pytest.approx(QUANTISED)
    assert table.loc[["full", "lora-r4"], columns].isna().all(axis=None)
    pairs = [(found["lora-r4", seed], found["full", seed]) for seed in range(3)]
    expected = by_hand([(one.after - one.before - (two.after - two.before), one.tokens) for one, two in pairs])
    columns = ["difference", "difference_low", "difference_high"]
    assert table.loc["lora-r4", columns].tolist() == pytest.approx(expected)
    assert table.loc["full", columns].isna().all()
    assert table["n_paired"].dropna().tolist() == [3, 3]


def test_intervals_cover_what_other_seeds_and_texts_would_give():
    """Texts of unlike length, five seeds; texts alone would miss what seeds add."""
    random, truth, hits, of_texts, repeats = np.random.default_rng(1), 0.1, 0, 0, 500
    for _ in range(repeats):
        tokens = np.ceil(random.lognormal(3, 0.7, 50))
        of_text, parts, values = random.normal(0, 0.2, 50), [], []
        for seed in random.normal(0, 0.05, 5):
            lost = tokens * (truth + seed + of_text + random.normal(0, 0.1, 50))
            run = Losses(np.arange(50), tokens, np.zeros(50), lost)
            parts.append(run.parts(run.before))
            values.append(run.per_token(lost))
        low, high = estimated(parts, values).interval()
        hits += low <= truth <= high
        alone = np.mean(parts, axis=0)
        of_texts += abs(alone.mean() - truth) <= stats.t.ppf(0.975, 49) * alone.std(ddof=1) / 50**0.5
    error = 3 * (0.95 * 0.05 / repeats) ** 0.5
    assert 0.95 - error <= hits / repeats <= 0.995
    assert of_texts / repeats < 0.9


def test_an_arm_that_forgets_nothing_has_exactly_none():
    found = {key: dataclasses.replace(one, after=one.before) for key, one in losses(np.random.default_rng(0)).items()}
    row = frame(found).loc["lora-r4"]
    columns = [f"{name}{end}" for name in ("forgetting", "difference") for end in ("", "_low", "_high")]
    assert row[columns].tolist() == [0.0] * 6


def test_what_texts_differ_in_cancels():
    """A pair of a long, surprising text before and after is one difference: the interval does not grow with losses."""
    found = losses(np.random.default_rng(0))
    far = {
        key: dataclasses.replace(one, before=one.before * 100, after=one.after + 99 * one.before)
        for key, one in found.items()
    }
    near, wide = frame(found).loc["lora-r4"], frame(far).loc["lora-r4"]
    assert wide["forgetting_low"] == pytest.approx(near["forgetting_low"])
    unpaired = [one.parts(np.zeros(40)) for (arm, _), one in far.items() if arm == "lora-r4"]
    low, high = over_seeds_and_examples(np.stack(unpaired)).interval()
    assert high - low > 10 * (wide["forgetting_high"] - wide["forgetting_low"])


def test_seeds_without_a_figure_are_counted_and_say_why():
    found = losses(np.random.default_rng(0))
    table = runs(found)
    lacking = (table["arm"] == "lora-r4") & (table["seed"] == 1)
    table.loc[lacking, "forgetting"] = None
    table.loc[lacking, "null_reasons"] = json.dumps({"forgetting": "memory did not suffice"})
    made = forgetting_frame(table, "full", lambda run: found[run["arm"], run["seed"]]).set_index("arm")
    assert made.loc["lora-r4", "reason"].endswith("1 seed without a figure: memory did not suffice")
    assert made.loc["lora-r4", "n"] == made.loc["full", "n"] - 1
    assert made["reason"].drop("lora-r4").isna().all()


def test_too_few_seeds_and_failed_arms_say_so():
    found = {key: one for key, one in losses(np.random.default_rng(0)).items() if key[1] < 2}
    table = frame(found)
    assert table["forgetting"].notna().all() and table["forgetting_low"].isna().all()
    assert set(table["reason"]) == {"2 seeds, where 3 or more are needed for an interval"}
    own = runs(found)
    own.loc[own["arm"] == "lora-r4", ["status", "forgetting"]] = ["oom", None]
    table = forgetting_frame(own, "full", lambda run: found[run["arm"], run["seed"]]).set_index("arm")
    assert table.loc["lora-r4", "n"] == 0 and "no run of it" in table.loc["lora-r4", "reason"]
    assert frame(found, pretrained=False).empty and frame(found, forgetting_s=None).empty


def test_runs_of_other_texts_are_refused():
    found = losses(np.random.default_rng(0))
    found["lora-r4", 1] = dataclasses.replace(found["lora-r4", 1], rows=np.arange(1, 41))
    with pytest.raises(InputError, match=r"full/seed0 and lora-r4/seed1 read other general texts"):
        frame(found)


def test_what_readers_see():
    rows = frame(losses(np.random.default_rng(0))).reset_index(drop=True)
    text, notes = forgetting_readable(rows), " ".join(forgetting_notes(rows))
    assert text["To full, nats/token"].iloc[0] == "baseline"
    assert text["Original, nats/token"].tolist()[:2] == ["–", "–"]
    assert text["Forgetting, nats/token"].str.match(r"\+0\.\d+ \[.*\]").all()
    assert "above 0 it reads that text worse" in notes and "95 % intervals over other seeds and other texts" in notes
    assert "–: nothing is quantised, unless a reason stands below." in notes
    plain = rows[rows["arm"] != "qlora-r4"]
    assert "Original, nats/token" not in forgetting_readable(plain)
    assert "quantised" not in " ".join(forgetting_notes(plain))


@pytest.fixture
def written(tmp_path, monkeypatch) -> tuple[Path, dict[str, Any]]:
    """A run's file, and the figures of its summary."""
    monkeypatch.setattr("peft_tradeoffs.analysis.before_training.verified", lambda *_: {})
    path = tmp_path / files.GENERAL
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["row", "tokens", "loss_before", "loss_after", "loss_original"])
        rows.writerows([[0, 2, 2.0, 5.0, 1.0], [3, 18, 30.0, 31.0, 27.0]])
    figures = {"before": 1.6, "after": 1.8, "original": 1.4}
    return path, {"forgetting_vs_original": 0.4, **{f"forgetting_loss_{name}": one for name, one in figures.items()}}


def test_a_runs_file_is_read_and_must_give_the_summarys_figures(written):
    path, run = written
    found = read_losses(path, run)
    assert found.rows.tolist() == [0, 3] and found.per_token(found.original) == 1.4
    assert read_losses(path, run | {"forgetting_vs_original": None}).original is None
    with pytest.raises(InputError, match=r"forgetting_loss_after is 1.800000, but the summary says 1.900000"):
        read_losses(path, run | {"forgetting_loss_after": 1.9})
    path.write_text("row,tokens\n0,1\n")
    with pytest.raises(InputError, match=r"not a run's losses on a general text \('loss_before'\)"):
        read_losses(path, run)


def test_a_file_that_the_run_did_not_write_is_refused(tmp_path):
    (tmp_path / "summary.json").write_text(json.dumps({}))
    with pytest.raises(InputError, match=r"summary\.json: no weights, files, sha256"):
        read_losses(tmp_path / files.GENERAL, {})
