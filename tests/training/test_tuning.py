"""Tuning: which rate is chosen, on which data, and what final runs make of it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from peft_tradeoffs.analysis.tuning_table import tuning_frame, tuning_notes, tuning_readable
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import sha256
from peft_tradeoffs.inputs.tokens import Split, carve, carve_dev, load_tokens
from peft_tradeoffs.runs import plan


def trial(rate, value, loss=1.0, status="completed", added=False):
    phase = None if status == "completed" else "train"
    step = 7 if status == "diverged" else None
    about = {"failed_phase": phase, "diverged_step": step, "steps": 10, "train_s": 1.0, "energy_J": None}
    return {"learning_rate": rate, "status": status, "value": value, "loss": loss, "added": added, **about}


def test_the_highest_metric_is_chosen():
    found = plan.chosen([trial(1e-4, 0.8), trial(3e-4, 0.9), trial(1e-3, 0.85)])
    assert found == {"learning_rate": 3e-4, "edge": None, "reason": None}


def test_ties_go_to_the_lower_loss_then_to_the_lower_rate():
    trials = [trial(1e-4, 0.9, loss=0.5), trial(3e-4, 0.9, loss=0.4), trial(1e-3, 0.9, loss=0.4), trial(3e-3, 0.7)]
    assert plan.chosen(trials)["learning_rate"] == 3e-4


def test_of_rates_that_were_tried_again_the_best_mean_decides():
    trials = [trial(1e-4, 0.90), trial(3e-4, 0.91), trial(1e-3, 0.95, status="diverged"), trial(3e-3, 0.905)]
    retries = [trial(1e-4, 0.94), trial(3e-4, 0.90), trial(1e-4, 0.93), trial(3e-4, 0.92)]
    found = plan.chosen(trials, retries)
    assert found == {"learning_rate": 1e-4, "edge": "lowest", "reason": None}
    assert plan.retried(trials, retries)[0]["value"] == pytest.approx((0.90 + 0.94 + 0.93) / 3)


def test_a_rate_that_fails_with_another_seed_is_not_taken():
    trials = [trial(1e-4, 0.90), trial(3e-4, 0.91)]
    retries = [trial(1e-4, 0.91), trial(3e-4, None, None, "diverged")]
    assert plan.chosen(trials, retries)["learning_rate"] == 1e-4


def test_where_all_that_were_tried_again_failed_the_best_other_rate_is_taken():
    both = [trial(1e-4, None, None, "oom"), trial(3e-4, None, None, "diverged")]
    trials = [trial(1e-4, 0.90), trial(3e-4, 0.91), trial(1e-3, 0.7), trial(3e-3, 0.6)]
    found = plan.chosen(trials, both)
    assert (found["learning_rate"], found["reason"]) == (1e-3, None)
    found = plan.chosen(trials[:2], both)  # the first trials are all that is left, and say nothing of what was missed
    assert found["learning_rate"] == 3e-4
    assert found["reason"] == (
        "every rate that gave a metric failed when it was tried again: the best of the first trials"
    )


def test_a_rate_added_later_that_is_clearly_better_is_taken():
    """Rates 1e-4 and 3e-4 tied and were tried again; 1e-3, beyond the edge, was not: it is no tie."""
    trials = [trial(1e-4, 0.90), trial(3e-4, 0.91), trial(1e-3, 0.97, added=True)]
    retries = [trial(1e-4, 0.90), trial(3e-4, 0.92)]
    assert plan.chosen(trials, retries)["learning_rate"] == 1e-3
    assert plan.beyond(trials[:2], 3e-4) == 9e-4
    assert plan.beyond(trials, 3e-4) is None


@pytest.mark.parametrize("status", ["oom", "diverged"])
def test_a_trial_that_failed_is_never_best(status):
    trials = [trial(1e-4, 0.6), trial(3e-4, 0.7), trial(1e-3, None, None, status)]
    assert plan.chosen(trials)["learning_rate"] == 3e-4
    assert plan.edge(trials) is None  # the rate beyond was tried: it fails
    assert plan.beyond(trials) is None


def test_a_metric_that_is_not_defined_is_never_best():
    """A correlation with a constant prediction."""
    assert plan.chosen([trial(1e-4, None, 0.1), trial(3e-4, -0.2)])["learning_rate"] == 3e-4


def test_without_any_metric_the_middle_of_the_grid_is_taken_and_said_so():
    found = plan.chosen([trial(rate, None, None, "oom") for rate in (1e-4, 3e-4, 1e-3, 3e-3)])
    assert found["learning_rate"] == 3e-4
    assert found["reason"] == "no trial has a metric (oom): the middle of the grid"


@pytest.mark.parametrize(
    ("values", "edge", "beyond"), [((0.9, 0.8, 0.7), "lowest", 2.5e-5), ((0.7, 0.8, 0.9), "highest", 8e-4)]
)
def test_an_edge_is_named_and_stepped_over(values, edge, beyond):
    rates = {"lowest": (5e-5, 1e-4, 4e-4), "highest": (1e-4, 2e-4, 4e-4)}[edge]
    trials = [trial(rate, value) for rate, value in zip(rates, values, strict=True)]
    assert plan.edge(trials) == edge
    assert plan.beyond(trials) == pytest.approx(beyond)


def split(texts: list[list[int]], labels: list) -> Split:
    return Split(
        np.concatenate(texts).astype(np.int32),
        None,
        np.cumsum([0, *map(len, texts)]),
        np.array(labels),
        np.arange(len(texts)),
    )


def test_the_dev_split_is_drawn_by_class_and_keeps_equal_texts_together():
    texts = [[1, 2 + i // 2] for i in range(80)]  # every text twice
    whole = split(texts, [int(i // 2 % 4 == 0) for i in range(80)])
    train, dev = carve(whole, whole.labels, 0.25, 0)
    assert sorted([*train.rows, *dev.rows]) == list(range(80))
    of = [{tuple(part.input_ids[a : a + 2]) for a in part.offsets[:-1]} for part in (train, dev)]
    assert not of[0] & of[1]
    assert len(dev) == 20


def test_the_dev_split_has_the_classes_in_proportion():
    labels = [int(i % 4 == 0) for i in range(400)]
    whole = split([[i] for i in range(400)], labels)
    train, dev = carve(whole, whole.labels, 0.1, 3)
    assert (len(train), len(dev), dev.labels.sum()) == (360, 40, 10)
    again, other = (carve(whole, whole.labels, 0.1, seed)[1] for seed in (3, 4))
    assert list(again.rows) == list(dev.rows) != list(other.rows)


def write_tokens(folder: Path, splits: dict[str, Split]) -> Path:
    """Tokens of a regression as tokenize_dataset.py writes them."""
    fields = ("input_ids", "offsets", "labels", "rows")
    arrays = {f"{name}_{key}": getattr(one, key) for name, one in splits.items() for key in fields}
    path = folder / "tokens.npz"
    np.savez(path, **arrays)
    described = {"max_length": 8, "pad_token_id": 0, "num_labels": 1, "labels": None, "task": "regression"}
    described |= {"rows": {name: len(one) for name, one in splits.items()}, "sha256": sha256(path)}
    described |= {"truncated": dict.fromkeys(splits, 0)}
    path.with_suffix(".json").write_text(json.dumps(described))
    return path


def texts(labels: list[float]) -> Split:
    return split([[1, 2 + i] for i in range(len(labels))], labels)


def test_a_dev_split_whose_targets_are_all_the_same_is_drawn_again(tmp_path):
    """Of 60 targets 3 are not 0: most draws of 6 rows have none of them, and no correlation could be computed."""
    tokens = write_tokens(tmp_path, {"train": texts([0.0] * 57 + [1.0, 2.0, 3.0]), "test": texts([0.0, 1.0])})
    for seed in range(12):
        carve_dev(tokens, 0.1, seed, tmp_path / "dev.npz")
        splits, described = load_tokens(tmp_path / "dev.npz")
        assert np.ptp(splits["test"].labels) > 0 and described["dev"] == "train"
    same = write_tokens(tmp_path, {"train": texts([0.0] * 60), "test": texts([0.0, 1.0])})
    with pytest.raises(InputError, match=r"tune\.fraction: with 0\.1 of the 60 rows of train all labels of the dev"):
        carve_dev(same, 0.1, 0, tmp_path / "dev.npz")


def test_a_validation_split_is_what_trials_are_judged_on(tmp_path):
    parts = {"train": texts([0.0, 1.0, 2.0]), "validation": texts([4.0, 5.0]), "test": texts([0.0, 1.0])}
    tokens = write_tokens(tmp_path, parts)
    for seed in (0, 1):
        carve_dev(tokens, 0.1, seed, tmp_path / "dev.npz")
        splits, described = load_tokens(tmp_path / "dev.npz")
        assert splits["train"].labels.tolist() == [0, 1, 2] and splits["test"].labels.tolist() == [4, 5]
        assert described["dev"] == "validation" and described["rows"] == {"train": 3, "test": 2}
    tokens = write_tokens(tmp_path, parts | {"validation": texts([4.0, 4.0])})
    with pytest.raises(InputError, match="the 2 rows of validation all have the same label"):
        carve_dev(tokens, 0.1, 0, tmp_path / "dev.npz")


def test_a_dev_split_too_small_is_refused():
    with pytest.raises(InputError, match=r"config key tune.fraction: 0.1 of the 8 different texts of train is 1, at"):
        carve(split([[i] for i in range(8)], [0, 1] * 4), np.array([0, 1] * 4), 0.1, 0)


def config(**methods):
    return {**tiny.config(None), "methods": methods}


GRID = [1e-4, 1e-3]


def test_a_method_is_tuned_at_its_middle_rank_for_all_its_ranks():
    lora = {"ranks": [4, 8, 16, 32], "peft": tiny.LORA}
    asked = config(full={"learning_rate": GRID}, lora={"learning_rate": GRID, **lora})
    found = resolve({**asked, "tune": {"by": "method"}})
    assert found.trials == {"full": GRID, "lora-r8": GRID}
    assert {name: arm.tuned_as for name, arm in found.arms.items()} == {
        "full": "full",
        **{f"lora-r{rank}": "lora-r8" for rank in (4, 8, 16, 32)},
    }
    assert found.arms["lora-r4"].settings["learning_rate"] is None


def test_checks_and_followers():
    lora = {"ranks": [4, 32], "peft": tiny.LORA}
    settings = config(
        lora={"learning_rate": GRID[::-1], **lora},
        other={"learning_rate": "lora", **lora},
        fixed={"learning_rate": 1e-3},
    )
    found = resolve({**settings, "tune": {"by": "method", "rank": 4, "check_ranks": [32]}})
    assert found.trials == {"lora-r4": GRID, "lora-r32": GRID}
    assert found.arms["other-r32"].tuned_as == "lora-r4"
    assert found.arms["fixed"].tuned_as is None
    found = resolve(settings)
    assert found.trials == {"lora-r4": GRID, "lora-r32": GRID}
    assert found.arms["other-r32"].tuned_as == "lora-r32"


NO_TIE = {"tied": [], "gaps": [], "retries": [], "earlier": []}


def tunings():
    best = {"dataset": "d", "model": "m", "metric": "accuracy", "seed": 1000, "batch_size": 32, "pretrained": True}
    best |= {"train_rows": 900, "dev_rows": 100, "dev": "train", "extensions": 0}
    full = [trial(1e-5, 0.7), trial(1e-4, 0.8), trial(1e-3, None, None, "diverged")]
    four = [trial(1e-4, 0.7), trial(1e-3, 0.9), trial(1e-2, 0.88), trial(1e-1, None, None, "oom", added=True)]
    eight = [trial(1e-4, 0.7), trial(1e-3, 0.8), trial(1e-2, 0.91)]
    return [
        {**best, "arm": arm, "method": method, "rank": rank, **plan.chosen(trials), **NO_TIE, "trials": trials}
        for arm, method, rank, trials in (
            ("full", "full", None, full),
            ("lora-r4", "lora", 4, four),
            ("lora-r8", "lora", 8, eight),
        )
    ]


def test_the_table_shows_every_trial():
    frame = tuning_frame(tunings(), {"full", "lora-r4"})
    shown = tuning_readable(frame)
    assert list(shown["Accuracy on dev, %"][:3]) == ["70.00", "80.00", "–"]
    assert list(shown["Status"][2:3]) == ["diverged at step 7"]
    assert list(shown[""]) == ["", "chosen", "", "", "chosen", "", "", "", "", "best here"]
    assert "0.1 (added)" in set(shown["Learning rate"])
    notes = " ".join(tuning_notes(frame))
    assert "LoRA r8: the best rate, 0.01, is the highest that was tried" in notes
    assert (
        "LoRA r8, a check, is best at 0.01; with the rate of LoRA r4, 0.001, its Accuracy is 11.00 points lower."
        in notes
    )
    assert "All trials together took 10.0 s of training steps." in notes
    assert "full: the best rate" not in notes


def test_a_tie_is_told_with_how_often_the_rates_were_tried():
    full, four, eight = tunings()
    trials = [trial(1e-4, 0.86), trial(1e-3, 0.87), trial(1e-2, 0.85), trial(1e-1, 0.5)]
    retries = [trial(rate, value) for rate, value in ((1e-4, 0.88), (1e-3, 0.89), (1e-4, 0.84), (1e-3, 0.88))]
    gaps = [{"learning_rate": 1e-4, "mean": 0.02, "variance": 4e-4, "trials": 3}]
    tied = four | plan.chosen(trials, retries) | {"trials": trials, "retries": retries, "tied": [1e-4], "gaps": gaps}
    frame = tuning_frame([full, tied, eight], {"full", "lora-r4"})
    notes = " ".join(tuning_notes(frame))
    assert "LoRA r4: 0.0001 (2.0 points ± 2.0 lower, by 3 trials each) cannot be told on dev from 0.001, which" in notes
    assert "±: one standard error; a rate within two of them is tied" in notes
    assert "tried again with it, 2 times, each time with a seed and a dev split of its own" in notes
    shown = tuning_readable(frame)[3:7]
    assert list(shown[""]) == ["tied", "chosen", "", ""]
    assert list(shown["Trials"]) == ["3", "3", "1", "1"]
    assert list(shown["Accuracy on dev, %"]) == ["86.00", "88.00", "85.00", "50.00"]
    row = frame[frame["tied"]].iloc[0]
    assert (row["gap"], row["gap_sd"], row["train_s"]) == (0.02, pytest.approx(0.02), 3.0)
    assert "cannot be told" not in " ".join(tuning_notes(tuning_frame(tunings(), {"full"})))


def test_a_rate_that_was_tried_once_is_tied_by_that_trial_alone():
    """0.001 was tried again and taken; 0.01 was not, and lies within two errors of it by the first trial."""
    full, four, eight = tunings()
    trials = [trial(1e-4, 0.86), trial(1e-3, 0.87), trial(1e-2, 0.83)]
    retries = [trial(rate, value) for rate, value in ((1e-4, 0.88), (1e-3, 0.89), (1e-4, None), (1e-3, 0.88))]
    retries[2] = trial(1e-4, None, None, "diverged")
    gaps = [{"learning_rate": 1e-2, "mean": 0.04, "variance": None, "trials": 1}]
    found = four | plan.chosen(trials, retries) | {"trials": trials, "retries": retries, "tied": [1e-2], "gaps": gaps}
    notes = " ".join(tuning_notes(tuning_frame([full, found, eight], {"full", "lora-r4"})))
    assert "LoRA r4: 0.01 (4.0 points lower, by 1 trial) cannot be told on dev from 0.001, which is taken." in notes
    assert "LoRA r4: 0.0001 (diverged at step 7) failed when tried again: a rate that does not always learn" in notes


def test_trials_on_a_validation_split_are_told_as_such():
    full, four, eight = ({**one, "dev": "validation"} for one in tunings())
    notes = " ".join(tuning_notes(tuning_frame([full, four, eight], {"full", "lora-r4"})))
    assert "trained on 900 rows of train and judged on 100 rows of validation, of which one is 1 %;" in notes
    assert "All trials are judged on the same rows, those of validation" in notes


def test_a_check_that_did_not_try_the_rate_says_so():
    full, four, eight = tunings()
    four["trials"][1]["value"] = 0.5
    four["trials"].append(trial(5e-3, 0.95, added=True))
    four |= plan.chosen(four["trials"])
    notes = " ".join(tuning_notes(tuning_frame([full, four, eight], {"full", "lora-r4"})))
    assert "LoRA r8, a check, is best at 0.01; with the rate of LoRA r4, 0.005, it was not tried." in notes


def test_the_budget_of_trials():
    """Epochs of its own count although final runs are ended by steps."""
    settings = config(full={"learning_rate": GRID})
    settings["training"] |= {"max_steps": 50}
    for tune, expected in (({}, (1, 50)), ({"epochs": 2}, (2, None)), ({"max_steps": 5}, (1, 5))):
        found = resolve({**settings, "tune": tune}).trial_settings("reviews", "tiny", "full")
        assert (found.epochs, found.max_steps) == expected


TUNED = ("runs", "results/tables/tuning.md")  # what is made of the benchmark below


@pytest.fixture(scope="module")
def tuned(tiny_bert, tmp_path_factory):
    """A finished benchmark with tuning: one rate that cannot learn and one that can."""
    folder = tmp_path_factory.mktemp("tuned")
    tiny.write_inputs(folder, tiny_bert, rows=128)
    settings = tiny.config(
        folder, seeds=[0], tune={"by": "method", "fraction": 0.25, "extend": True, "max_extensions": 1}
    )
    settings["training"]["epochs"] = 4
    settings["methods"] = {
        "full": {"learning_rate": [1e-9, 1e-8, 1e-3]},
        "lora": {"learning_rate": [1e-9, 1e-8, 1e-2], "ranks": [4, 8], "peft": tiny.LORA},
    }
    tiny.snakemake(folder, settings, *TUNED)
    return folder, settings


def best(folder, arm):
    return json.loads((folder / f"results/tune/best/reviews/tiny/{arm}.json").read_text())


def test_final_runs_take_the_tuned_rate(tuned):
    folder, _ = tuned
    found = tiny.summaries(folder)
    assert set(found) == {"full/seed0", "lora-r4/seed0", "lora-r8/seed0"}
    full, lora = best(folder, "full"), best(folder, "lora-r4")
    assert full["learning_rate"] == found["full/seed0"]["learning_rate"] == 1e-3
    for arm in ("lora-r4", "lora-r8"):
        assert found[f"{arm}/seed0"]["learning_rate"] == lora["learning_rate"]
        assert found[f"{arm}/seed0"]["tuned_as"] == "lora-r4"
        env = json.loads((folder / f"results/runs/reviews/tiny/{arm}/seed0/env.json").read_text())
        assert env["settings"]["learning_rate"] == lora["learning_rate"]


def test_a_grid_is_extended_at_its_edge(tuned):
    folder, _ = tuned
    found = best(folder, "full")
    assert found["rates"] == [1e-9, 1e-8, 1e-3]
    assert [one["learning_rate"] for one in found["trials"] if one["added"]] == [100.0]
    assert found["edge"] is None  # what lies beyond was tried


def test_trials_keep_no_weights_and_never_see_the_test_split(tuned):
    folder, _ = tuned
    trials = folder / "results/tune/trials/reviews/tiny"
    assert not [path for path in trials.rglob("*") if path.name in ("adapter", "checkpoint", "state")]
    splits, _ = load_tokens(folder / "results/tokens/reviews/tiny.npz")
    carved, _ = load_tokens(folder / "results/tune/tokens/reviews/tiny.npz")
    assert sorted([*carved["train"].rows, *carved["test"].rows]) == list(range(128))
    texts = [splits["train"].take(np.array([row])).input_ids.tolist() for row in carved["test"].rows]
    assert texts == [carved["test"].take(np.array([i])).input_ids.tolist() for i in range(len(carved["test"]))]
    rows = {line.split(",")[0] for line in (trials / "full/lr0.001/predictions.csv").read_text().splitlines()[1:]}
    assert rows == {str(row) for row in carved["test"].rows}


def test_rates_that_do_as_well_are_tried_again_on_dev_splits_of_their_own(tuned):
    """1e-9 and 1e-8 leave a model as it was: they are the best rates of neither method, nor is anything tried again."""
    folder, _ = tuned
    trials = folder / "results/tune/trials/reviews/tiny"
    for arm in ("full", "lora-r4"):
        found = best(folder, arm)
        assert {one["learning_rate"] for one in found["gaps"]} == {
            one["learning_rate"] for one in found["trials"] if one["value"] is not None
        } - {found["learning_rate"]}
        again = {path.relative_to(trials / arm).as_posix() for path in (trials / arm).glob("retry*/lr*")}
        rates = {one["learning_rate"] for one in found["retries"]}
        assert again == {f"retry{number}/lr{rate:g}" for number in (1, 2) for rate in rates}
        assert not rates or found["learning_rate"] in rates
    splits = [load_tokens(folder / f"results/tune/tokens/reviews/{name}.npz")[0] for name in ("tiny", "retry1/tiny")]
    assert set(splits[0]["test"].rows) != set(splits[1]["test"].rows)


MADE = ("tables", "results/report.html")  # of the benchmark below


@pytest.fixture(scope="module")
def tied(tiny_bert, tmp_path_factory):
    """A finished benchmark in which rates that learn nothing tie."""
    folder = tmp_path_factory.mktemp("tied")
    tiny.write_inputs(folder, tiny_bert, rows=96)
    settings = tiny.config(folder, seeds=[0, 1, 2], tune={"fraction": 0.25, "epochs": 1})
    settings["training"]["epochs"] = 1
    settings["methods"] = {
        "full": {"learning_rate": [1e-9, 1e-8]},
        "lora": {"learning_rate": [1e-9, 1e-8], "ranks": [4], "peft": tiny.LORA},
    }
    tiny.snakemake(folder, settings, *MADE)
    return folder


def test_a_tie_is_tried_again_and_told_wherever_the_difference_stands(tied):
    found = best(tied, "lora-r4")
    assert found["tied"] and {one["seed"] for one in found["retries"]} == {1001, 1002}
    assert [one["trials"] for one in found["gaps"]] == [3]
    trials = tied / "results/tune/trials/reviews/tiny/lora-r4"
    for number in (1, 2):
        dev = load_tokens(tied / f"results/tune/tokens/reviews/retry{number}/tiny.npz")[0]["test"]
        lines = (trials / f"retry{number}/lr1e-09/predictions.csv").read_text().splitlines()[1:]
        assert {line.split(",")[0] for line in lines} == {str(row) for row in dev.rows}
    other, rate = f"{found['tied'][0]:g}", found["learning_rate"]
    text = (tied / "results/tables/comparison.md").read_text()
    assert (
        "At the best rate tried" in text
        and f"LoRA r4: on the dev split {other} cannot be told from the rate taken" in text
    )
    tuning = (tied / "results/tables/tuning.md").read_text()
    assert re.search(rf"LoRA r4: {other} \(.* by 3 trials each\) cannot be told on dev from {rate:g}, which", tuning)
    page = (tied / "results/report.html").read_text()
    assert "At the best rate tried" in page
    status = tiny.snakemake(tied, None, "status").stdout
    assert "learning rate" in status and "4 trials made again" in status
    assert "nothing to be done" in tiny.snakemake(tied, None, "-n", *MADE).stdout.lower()


def study(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(tiny.REPOSITORY / "benchmarks/study.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True)


def test_every_statistic_can_be_made_again_of_what_a_reference_keeps(tied, tmp_path):
    tiny.snakemake(tied, None, "store_reference")
    for path in (*(tied / "results/reference").iterdir(), *(tied / "results/tables").glob("*.csv")):
        if path.name != "runs.csv" or path.parent.name == "reference":
            shutil.copy(path, tmp_path)
    done = study(tmp_path)
    assert (done.returncode, done.stdout) == (0, "every statistic is what the tables say\n"), done.stdout + done.stderr
    with np.load(tmp_path / "answers.npz") as file:
        arrays = {name: file[name] for name in file.files}
    places = {name.rpartition("/")[0] for name in arrays}
    assert places == {f"reviews/tiny/{split}" for split in ("test", "dev", "dev1", "dev2")}
    for place in ("test", "dev1"):
        bits = arrays[f"reviews/tiny/{place}/right"].copy()
        bits[-1] ^= 0xF0  # of the last run or trial
        changed = arrays | {f"reviews/tiny/{place}/right": bits}
        np.savez_compressed(tmp_path / "answers.npz", **changed)
        env = json.loads((tmp_path / "env.json").read_text())
        env["files"]["answers.npz"] = sha256(tmp_path / "answers.npz")
        (tmp_path / "env.json").write_text(json.dumps(env))
        done = study(tmp_path)
        assert done.returncode == 1
        assert ("comparison.csv, row " if place == "test" else "tunings.json, lora-r4, rate ") in done.stdout


def test_every_statistic_of_the_study_in_the_docs_is_what_its_tables_say():
    done = study(tiny.REPOSITORY / "docs/sst2-minilm")
    assert (done.returncode, done.stdout) == (0, "every statistic is what the tables say\n"), done.stdout + done.stderr


def test_a_study_of_which_no_answers_are_kept_is_one_line(tmp_path):
    folder = shutil.copytree(tiny.REPOSITORY / "docs/sst2-minilm", tmp_path / "study")
    (folder / "answers.npz").unlink()
    done = study(folder)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert "no answers.npz; it is of an earlier version: store the reference again" in done.stderr


def test_a_wider_grid_tries_the_new_rate_alone_and_keeps_final_runs(tuned):
    folder, settings = tuned
    before = tiny.summaries(folder)
    trial = folder / "results/tune/trials/reviews/tiny/full/lr0.001/summary.json"
    finished = json.loads(trial.read_text())["finished_at"]
    settings["methods"]["full"]["learning_rate"] = [1e-10, 1e-8, 1e-3]
    tiny.snakemake(folder, settings, *TUNED)
    assert [one["learning_rate"] for one in best(folder, "full")["trials"]][:3] == [1e-10, 1e-8, 1e-3]
    assert json.loads(trial.read_text())["finished_at"] == finished
    # What the grid before had, and what was added beyond its edge, was tried and is told; stale trials are not.
    assert [one["learning_rate"] for one in best(folder, "full")["earlier"]] == [1e-9]
    settings["methods"]["full"]["learning_rate"] = [1e-10, 1e-3, 1.0]
    stale = folder / "results/tune/trials/reviews/tiny/full/lr1e-09/summary.json"
    stale.write_text(json.dumps(json.loads(stale.read_text()) | {"fingerprint": "0"}))
    tiny.snakemake(folder, settings, *TUNED)
    assert [one["learning_rate"] for one in best(folder, "full")["earlier"]] == [1e-8, 100.0]
    text = (folder / "results/tables/tuning.md").read_text()
    assert re.search(r"\| +100 \(earlier grid\) \|", text)
    assert "full: of an earlier grid, so not chosen from, 1e-08, 100." in text
    assert tiny.summaries(folder) == before
    assert "nothing to be done" in tiny.snakemake(folder, None, "-n", *TUNED).stdout.lower()


def test_what_trials_disagree_on_is_read_of_the_rates_taken(tmp_path):
    best, trials = tmp_path / "best/d/m", tmp_path / "trials/d/m"
    best.mkdir(parents=True)
    for arm, wrong in (("full", 3), ("lora-r4", 5), ("lora-r8", 11)):
        found = {**tunings()[0], "arm": arm, "learning_rate": 1e-3, "rates": [1e-3], "reason": None}
        (best / f"{arm}.json").write_text(json.dumps(files.signed(found)))
        folder = trials / arm / "lr0.001"
        folder.mkdir(parents=True)
        rows = "".join(f"{row},1,{int(row >= wrong)}\n" for row in range(40))
        (folder / "predictions.csv").write_text(f"row,label,prediction\n{rows}")
    arms = {"full": "full", "LoRA r4": "lora-r4", "LoRA r8": "lora-r8"}
    assert plan.disagreement(best, arms, "full") == ("LoRA r8", 8, 40)
    assert plan.disagreement(best, {"full": "full", "LoRA r4": "lora-r4"}, "full") == ("LoRA r4", 2, 40)
    assert plan.disagreement(best, {"full": "full"}, "full") is None
    assert plan.disagreement(best, {"full": "full", "lost": "lost"}, "full") is None
    (trials / "full/lr0.001/predictions.csv").unlink()
    assert plan.disagreement(best, arms, "full") is None
