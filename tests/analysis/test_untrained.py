"""The table of untrained models: each metric with its interval over examples or groups, and the line beside arms."""

import json
from pathlib import Path

import answered
import numpy as np
import pandas as pd
import pytest
from peft_tradeoffs.analysis import before_training
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import sha256, to_csv
from peft_tradeoffs.core.text import records
from scipy import stats

ROWS = 40
ASKED = [(f"prompt {row}", f"reference {row}") for row in range(ROWS)]


def answers(right: int) -> list[answered.Answer]:
    """The first so many are right; every fourth is cut."""
    return [(f"reference {row}" if row < right else f"reference {row} or so", row % 4 > 0) for row in range(ROWS)]


def row_of(folder: Path, data_dir: Path | None = None) -> dict:
    return records(before_training.untrained_frame([folder], data_dir))[0]


def grouped(folder: Path, of_row: np.ndarray) -> Path:
    """A data set whose test rows are in these groups."""
    data = folder / "data/sst2"
    data.mkdir(parents=True)
    table = pd.DataFrame({"split": "test", "row": np.arange(len(of_row)), "group": of_row})
    table.to_parquet(data / "groups.parquet")
    about = {"by": "author", "sha256": sha256(data / "groups.parquet")}
    (data / "dataset.json").write_text(json.dumps({"group": about}))
    return folder / "data"


def test_each_metric_has_the_t_interval_of_what_the_examples_add(tmp_path):
    row = row_of(answered.untrained(tmp_path, ASKED, answers(10)))
    assert (row["exact_match"], row["ended_share"], row["test_rows"]) == (0.25, 0.75, ROWS)
    right = np.arange(ROWS) < 10
    half = stats.t.ppf(0.975, ROWS - 1) * right.std(ddof=1) / np.sqrt(ROWS)
    assert [row["exact_match_low"], row["exact_match_high"]] == pytest.approx([0.25 - half, 0.25 + half])
    for name in ("chrf", "bleu", "token_f1", "rouge_l", "token_loss", "perplexity", "token_accuracy"):
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"], name
    assert pd.isna(row["own_score"]) and pd.isna(row["own_score_low"]) and pd.isna(row["test_groups"])


def test_none_right_is_not_proven_to_be_none(tmp_path):
    """Clopper and Pearson's bound, as of an arm alone; no share lies below 0."""
    row = row_of(answered.untrained(tmp_path, ASKED, answers(0)))
    assert (row["exact_match"], row["exact_match_low"]) == (0, 0)
    assert row["exact_match_high"] == pytest.approx(1 - 0.025 ** (1 / ROWS))


def test_groups_are_counted_where_the_data_set_has_them(tmp_path):
    folder = answered.untrained(tmp_path, ASKED, answers(10))
    of_row = np.arange(ROWS) // 2
    row = row_of(folder, grouped(tmp_path, of_row))
    assert row["test_groups"] == ROWS / 2
    right = (np.arange(ROWS) < 10).astype(float)
    whole, count = right.mean(), ROWS // 2
    parts = [count * whole - (count - 1) * right[of_row != group].mean() for group in range(count)]
    half = stats.t.ppf(0.975, count - 1) * np.std(parts, ddof=1) / np.sqrt(count)
    assert [row["exact_match_low"], row["exact_match_high"]] == pytest.approx([whole - half, whole + half])
    assert "over other groups of test rows" in before_training.beside_arms(row, "exact_match")["line"]


def test_few_groups_have_no_interval_and_the_table_says_why(tmp_path):
    folder = answered.untrained(tmp_path, ASKED, answers(10))
    frame = before_training.untrained_frame([folder], grouped(tmp_path, np.arange(ROWS) // 10))
    assert pd.isna(frame["exact_match_low"].iloc[0]) and frame["exact_match"].iloc[0] == 0.25
    said = "4 groups of test rows, where 10 or more are needed"
    assert frame["reason"].tolist() == [said]
    assert before_training.untrained_notes(frame)[-1] == f"What is missing: {said}."
    assert before_training.beside_arms(records(frame)[0], "exact_match")["cell"] == "25.00"


def test_readers_see_each_metric_in_its_unit_and_decimals(tmp_path):
    folder = answered.untrained(tmp_path, ASKED, answers(10))
    frame = before_training.untrained_frame([folder], None)
    shown = before_training.untrained_readable(frame).set_index("Quantity")["Untrained"].to_dict()
    assert list(shown)[:2] == ["Exact match, %", "Token F1, %"] and "Own score" not in shown
    assert shown["Exact match, %"] == "25.00 [10.98, 39.02]"
    assert shown["Loss per token, nats"].startswith("5.1250 [")
    assert shown["Answers that it ended, %"] == "75.0" and shown["Length of an answer (mean), tokens"] == "3.2"
    notes = " ".join(before_training.untrained_notes(frame))
    assert (
        before_training.NOT_COMPARED in notes
        and "Weights in float32, not quantised, fp32 on a CPU; 40 test rows" in notes
    )


def test_what_stands_beside_the_arms_names_the_metric_and_says_that_nothing_is_compared(tmp_path):
    frame = before_training.untrained_frame([answered.untrained(tmp_path, ASKED, answers(10))], None)
    (tmp_path / "untrained.csv").write_text(to_csv(frame))
    (row,) = records(before_training.read_table_of_untrained(tmp_path / "untrained.csv"))
    assert before_training.beside_arms(row, "exact_match") == {
        "cell": "25.00 [10.98, 39.02]",
        "line": "Untrained: exact match 25.00 % [10.98, 39.02] (95 %, over other test examples), by the model as it is "
        f"fetched. {before_training.NOT_COMPARED}",
    }
    unknown = before_training.beside_arms(row, "own_score")
    assert unknown["cell"] == "" and unknown["line"].startswith("Untrained: not known (it is not scored).")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("outputs.jsonl", "outputs.jsonl: changed after the run wrote it"),
        ("scores.csv", "scores.csv: changed after the run wrote it"),
        ("predictions.csv", "predictions.csv: changed after the run wrote it"),
        ("summary.json", "summary.json: changed after the run wrote it"),
    ],
)
def test_what_is_not_as_it_was_published_is_refused(tmp_path, name, said):
    folder = answered.untrained(tmp_path, ASKED, answers(10))
    path = folder / name
    path.write_text(path.read_text().replace("5", "6", 1))
    with pytest.raises(InputError, match=said):
        before_training.untrained_frame([folder], None)


def test_one_that_lies_in_another_folder_or_is_missing_is_refused(tmp_path):
    folder = answered.untrained(tmp_path, ASKED, answers(10))
    other = folder.rename(folder.with_name("other"))
    with pytest.raises(InputError, match=r"summary.json: of another model, sst2/distilbert"):
        before_training.read_untrained(other)
    with pytest.raises(InputError, match=r"no such file; answer_untrained.py writes it"):
        before_training.read_untrained(folder)


def test_a_metric_that_the_answers_do_not_give_is_refused(tmp_path):
    folder = answered.untrained(tmp_path, ASKED, answers(10), exact_match=0.5)
    with pytest.raises(InputError, match=r"its exact_match is 0.25, but its summary says 0.5"):
        before_training.untrained_frame([folder], None)
