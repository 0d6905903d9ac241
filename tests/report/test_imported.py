"""Published results of PEFT's method_comparison: read, checked, and shown apart."""

import json
from pathlib import Path

import forks
import pandas as pd
import published
import pytest
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.report import imported
from tiny import REPOSITORY


def make(folder: Path, results: dict[str, list[Path]]) -> pd.DataFrame:
    """The table as make_imported.py writes it."""
    words = json.dumps({label: [str(path) for path in paths] for label, paths in results.items()})
    script = REPOSITORY / "workflow_scripts/make_imported.py"
    done = forks.script(script, "--results", words, "--output-dir", folder)
    assert done.returncode == 0, done.stderr
    return pd.read_csv(folder / "imported.csv", keep_default_na=False, na_values=[""])


def row(tmp_path: Path, content: dict) -> dict:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return imported.row("math", path)


def test_a_row_a_result_and_none_is_ours(tmp_path):
    lora, full, novel = published.write(tmp_path / "published")
    table = make(tmp_path, {"math": [lora, full], "images": [novel]})
    assert table["source"].tolist() == ["math", "math", "images"]
    assert table["measured_here"].tolist() == [False] * 3
    assert list(table.columns[:5]) == ["source", "file", "sha256", "measured_here", "pretrained"]
    assert list(table.columns[5:]) == [*imported.COLUMNS, "null_reasons"]
    first = table.iloc[0]
    assert (first["method"], first["rank"], first["experiment"]) == ("LORA", 32, "lora/llama-3.2-3B-rank32")
    assert (first["dataset"], first["model"]) == ("metamath; gsm8k", "meta-llama/Llama-3.2-3B")
    assert (first["metric"], first["metric_value"]) == ("accuracy", 0.482)
    assert (first["peak_memory_MiB"], first["memory_p99_MiB"], first["memory_mean_MiB"]) == (22000, 17000, 11000)
    assert (first["train_s"], first["total_s"], first["file_size_MiB"]) == (1796.2, 1993.5, 35)
    assert (first["trainable_parameters"], first["total_parameters"]) == (9175040, 3221924864)
    assert first["trainable_percent"] == pytest.approx(0.28477, abs=1e-5)
    assert (first["peft_version"], first["torch_version"]) == ("0.15.2", "2.7.1+cu126")
    assert (first["device_name"], first["created_at"]) == ("NVIDIA L40S", "2025-06-19T19:15:35+00:00")
    assert (first["learning_rate"], first["seed"], first["batch_size"], first["max_steps"]) == (1e-4, 0, 4, 5000)


def test_the_names_of_before_are_read_too(tmp_path):
    old = row(tmp_path, published.full())
    assert (old["method"], old["rank"], old["peak_memory_MiB"]) == ("full-finetuning", None, 22000)
    assert old["device_name"] == "NVIDIA L40S"
    assert json.loads(old["null_reasons"])["rank"] == "full fine-tuning has no rank"


def test_what_is_not_stated_is_null_with_a_reason(tmp_path):
    found = row(tmp_path, published.cancelled())
    reasons = json.loads(found["null_reasons"])
    assert (found["status"], found["error"]) == ("canceled", "CUDA out of memory. Tried to allocate 2 GiB")
    assert found["dataset"] == "owner/cats"
    for key, reason in {
        "rank": "it is not known which field of NOVEL is a rank",
        "metric_value": "it was not evaluated on the test split",
        "train_s": "the file does not say",
        "file_size_MiB": "the benchmark could not save it",
        "batch_size": "the file does not say",
        "learning_rate": "the file does not say",
    }.items():
        assert (found[key], reasons[key]) == (None, reason)
    assert reasons.keys() == {key for key, value in found.items() if value is None}


@pytest.mark.parametrize("kind", ["IA3", "BOFT"])
def test_a_field_that_is_no_rank_is_not_taken_for_one(tmp_path, kind):
    found = row(tmp_path, published.result(**{"run_info.peft_config": {"peft_type": kind, "r": 8}}))
    assert (found["rank"], json.loads(found["null_reasons"])["rank"]) == (None, f"{kind} has no rank")


def test_without_a_method_no_rank_is_looked_for(tmp_path):
    found = row(tmp_path, published.result(**{"run_info.peft_config": {"r": 8}}))
    assert (found["method"], found["rank"]) == (None, None)
    assert json.loads(found["null_reasons"])["rank"] == "the file does not say"


def test_numbers_that_no_column_holds_are_null(tmp_path):
    found = row(tmp_path, published.result(**{"train_info.num_total_params": 10**400, "train_info.train_time": "9"}))
    assert found["total_parameters"] is found["trainable_percent"] is found["train_s"] is None


def test_readers_are_told_that_it_was_not_measured_here(tmp_path):
    lora, full, novel = published.write(tmp_path / "published")
    make(tmp_path, {"math": [lora, full], "images": [novel]})
    text = (tmp_path / "imported.md").read_text(encoding="utf-8")
    sections = text.split("## ")[1:]
    assert [section.splitlines()[0] for section in sections] == [
        "metamath; gsm8k · meta-llama/Llama-3.2-3B · math",
        "owner/cats · owner/flux · images",
    ]
    for section in sections:
        assert section.split("\n\n")[1].startswith("- Not measured here: ")
    shown = [cell.strip() for cell in sections[0].splitlines()[6].split("|")]
    assert shown[1:9] == ["lora/llama-3.2-3B-rank32", "LoRA", "32", "success", "48.20", "22,000", "1,796", "–"]
    assert r"novel\|method/flux &lt;b>" in sections[1] and "did not end" in sections[1]
    assert "Not measured here: " in (tmp_path / "imported.tex").read_text(encoding="utf-8")


def test_patterns_are_looked_up_and_every_file_is_once(tmp_path, monkeypatch):
    published.write(tmp_path / "published")
    monkeypatch.chdir(tmp_path)
    found = imported.find({"math": ["published/l*.json", "published/*l*.json"]})
    assert found == {"math": ["published/lora.json", "published/full.json", "published/novel.json"]}
    (tmp_path / "published/odd[1].json").write_text(json.dumps(published.result()))
    assert imported.find({"math": ["published/odd[1].json"]}) == {"math": ["published/odd[1].json"]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON ("),
        ("[" * 100_000, "not JSON of ours (nested too deep)"),
        ("[]", "no run_info.experiment_name, so it is not a result of PEFT's method_comparison"),
        (json.dumps({"run_info": {"experiment_name": "x", "train_config": []}}), "no run_info.train_config.model_id"),
        (json.dumps(published.result(**{"train_info.metrics": None})), "no train_info.metrics, so it is not"),
        (json.dumps(published.result(**{"train_info.status": 1})), "no train_info.status, so it is not"),
        (json.dumps(published.result(**{"run_info.experiment_name": " "})), "no run_info.experiment_name, so it is"),
    ],
)
def test_a_file_that_is_no_result_is_named_with_its_key(tmp_path, content, said):
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        imported.find({"math": [str(path)]})
    assert str(caught.value).startswith(f"config key imported.math.0: {path}: {said}")


def after_test(right: int, items: int, *evaluated: tuple[int, float]) -> dict:
    """A result of so many test items right; by evaluation on the way its step and the seconds of steps before it."""
    entries = [{"step": step, "valid accuracy": 0.4, "train time": seconds} for step, seconds in evaluated]
    last = {"step": 5000, "test accuracy": right / items, "train loss": 0.6, "forgetting": 0.1}
    return published.result(**{"train_info.metrics": [*entries, last], "train_info.train_time": 942.0})


def test_the_time_in_steps_is_that_of_all_evaluations_or_none(tmp_path):
    assert row(tmp_path, after_test(630, 1319, (2500, 300.25), (5000, 284.5)))["step_s"] == 584.75
    for evaluated, why in (
        ([(2500, 300.25)], "the file has those up to its last evaluation on the validation split alone"),
        ([(2500, 300.25), (5000, None)], "the file does not say"),
        ([], "the file does not say"),
    ):
        found = row(tmp_path, after_test(630, 1319, *evaluated))
        assert (found["step_s"], json.loads(found["null_reasons"])["step_s"]) == (None, why)


@pytest.mark.parametrize(
    ("right", "items", "told"),
    [
        (630, 1319, 1319),
        (1, 1319, 1319),
        (290, 872, 436),
        (50_001, 99_991, 99_991),
        (333, 1000, None),
        (3, 100_003, None),
    ],
)
def test_how_many_items_a_share_is_of_stands_in_its_digits(right, items, told):
    assert imported.items_of(right / items) == told


@pytest.mark.parametrize("share", [0.0, 1.0, 0.482, 0.4776, 2**-0.5])
def test_a_share_that_was_rounded_or_is_none_tells_no_items(share):
    assert imported.items_of(share) is None


def test_readers_are_told_what_the_clock_holds_and_what_the_items_tell_apart(tmp_path):
    paths = []
    for name, content in (("a", after_test(630, 1319, (5000, 585.0))), ("b", after_test(677, 1319, (5000, 596.0)))):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(content), encoding="utf-8")
    make(tmp_path / "tables", {"math": paths})
    text = (tmp_path / "tables/imported.md").read_text(encoding="utf-8")
    assert "It holds the generation of the test split's answers" in text and "It holds the evaluations" in text
    assert "a share of 1,319 test items" in text and "lie up to 3.8 points apart by chance" in text  # p = 0.4955
    assert "| 942 | 585 |" in " ".join(text.split())
    paths[1].write_text(json.dumps(published.result()), encoding="utf-8")  # rounded to 0.482
    make(tmp_path / "tables", {"math": paths})
    assert "test items" not in (tmp_path / "tables/imported.md").read_text(encoding="utf-8")
