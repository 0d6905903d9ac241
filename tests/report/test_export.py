"""Results as CSV, Parquet and JSON: the values of the tables, typed, with a schema that says what each column is."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import forks
import pandas as pd
import pyarrow.parquet
import pytest
import synthetic
from peft_tradeoffs.analysis import tables
from peft_tradeoffs.report import export
from tiny import REPOSITORY

RUNS = [
    *(synthetic.summary("full", None, seed) for seed in (0, 1)),
    synthetic.summary("lora", 4, 0),
    synthetic.summary("lora", 4, 1, learning_rate=1e-3, stopped_early=True),
    synthetic.summary("qlora", 4, 0, device="cuda", gradient_checkpointing=True, f1=None),
    synthetic.oom("qlora", 4, 1, device="cuda"),
]
NAMES = ("runs", "arms", "metrics", "null_reasons")
# How a value of each type is written as CSV, by Table Schema and pandas' reader.
TEXT = {
    "integer": re.compile(r"-?\d+"),
    "number": re.compile(r"-?\d+(\.\d+)?(e-?\d+)?"),
    "boolean": re.compile("True|False"),
    "object": re.compile(r"\{.*\}", re.DOTALL),
    "string": re.compile(".+", re.DOTALL),
}
JSON = {"integer": int, "number": float, "boolean": bool, "object": dict, "string": str}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables and the export of RUNS, in `tables` and `export`."""
    folder = tmp_path_factory.mktemp("export")
    synthetic.write(folder, RUNS)
    make("make_tables.py", folder, folder / "tables")
    make("export_results.py", folder, folder / "export")
    return folder


def make(script: str, folder: Path, output: Path, **grid: list[Any]) -> None:
    grid = {
        "dataset": ["sst2"],
        "model": ["distilbert"],
        "arm": ["full", "lora-r4", "qlora-r4"],
        "seed": [0, 1],
        **grid,
    }
    words = ["--runs-dir", folder / "runs", "--grid", json.dumps(grid)]
    words += ["--contract", synthetic.contract(folder, RUNS, qlora="batch_size"), "--output-dir", output]
    done = forks.script(REPOSITORY / "workflow_scripts" / script, *words)
    assert done.returncode == 0, done.stderr


def schema(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"export/{name}.schema.json").read_text(encoding="utf-8"))


def texts(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


@pytest.mark.parametrize("name", ["runs", "arms"])
def test_the_export_equals_the_tables(folder, name):
    assert (folder / f"export/{name}.csv").read_bytes() == (folder / f"tables/{name}.csv").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_every_value_has_the_type_of_its_column(folder, name):
    found, fields = texts(folder / f"export/{name}.csv"), schema(folder, name)["fields"]
    assert [field["name"] for field in fields] == list(found.columns)
    assert len(found) > 0
    rows = json.loads((folder / f"export/{name}.json").read_text(encoding="utf-8"))
    for field in fields:
        constraints = field.get("constraints", {})
        for text, row in zip(found[field["name"]], rows, strict=True):
            value = row[field["name"]]
            if text == "":
                assert value is None and not constraints.get("required"), field
                continue
            assert TEXT[field["type"]].fullmatch(text), (field, text)
            assert type(value) is JSON[field["type"]], (field, value)
            assert value in constraints.get("enum", [value]), field
            if field["type"] in ("integer", "number"):
                assert value == float(text)
                assert constraints.get("minimum", value) <= value <= constraints.get("maximum", value), field
            elif field["type"] == "object":
                assert value == json.loads(text)
            else:
                assert str(value) == text


@pytest.mark.parametrize("name", NAMES)
def test_parquet_says_the_same_and_keeps_types(folder, name):
    path = folder / f"export/{name}.parquet"
    arrow, frame = pyarrow.parquet.read_table(path), pd.read_parquet(path)
    rows = json.loads((folder / f"export/{name}.json").read_text(encoding="utf-8"))
    fields = schema(folder, name)["fields"]
    objects = [field["name"] for field in fields if field["type"] == "object"]
    assert [row | {key: json.loads(row[key]) for key in objects} for row in arrow.to_pylist()] == rows
    types = {"integer": ("int64", "Int64"), "number": ("double", "float64"), "boolean": ("bool", "boolean")}
    for field in fields:
        stored = arrow.schema.field(field["name"])
        if field["type"] in types:
            assert (str(stored.type), str(frame[field["name"]].dtype)) == types[field["type"]], field
        else:
            assert str(stored.type) == "string", field
        assert stored.metadata[b"description"].decode() == field["description"]
        assert stored.metadata.get(b"unit", b"").decode() == field.get("unit", "")


def test_a_summary_is_exported_as_it_is(folder):
    rows = json.loads((folder / "export/runs.json").read_text(encoding="utf-8"))
    for run in RUNS:
        (row,) = (row for row in rows if (row["arm"], row["seed"]) == (run["arm"], run["seed"]))
        assert {key: row[key] for key in run} == run
    assert {row["arm"]: row["differs"] for row in rows} == {
        **{"full": None, "lora-r4": None},
        "qlora-r4": "from full in batch_size",
    }


def test_every_null_of_a_run_keeps_its_reason(folder):
    rows = json.loads((folder / "export/null_reasons.json").read_text(encoding="utf-8"))
    found = {(row["arm"], row["seed"], row["column"]): row["reason"] for row in rows}
    expected = {(run["arm"], run["seed"], key): why for run in RUNS for key, why in run["null_reasons"].items()}
    assert found == expected
    assert found["qlora-r4", 1, "train_s"] == "not reached: the run ended in probe"


def test_the_curves_of_all_runs_are_one_table(folder):
    found = pd.read_parquet(folder / "export/metrics.parquet")
    parts = []
    for run in RUNS:
        path = folder / f"runs/sst2/distilbert/{run['arm']}/seed{run['seed']}/metrics.csv"
        parts.append(pd.read_csv(path).assign(arm=run["arm"], seed=run["seed"]))
    expected = pd.concat(parts)
    assert len(found) == len(expected) == 5 * 6  # the run that did not fit has none
    keys = ["arm", "seed", "step", "split"]
    columns = [*keys, "epoch", "train_loss", "loss", "accuracy", "pearson"]
    left, right = (frame[columns].sort_values(keys, ignore_index=True) for frame in (found, expected))
    pd.testing.assert_frame_equal(left, right, check_dtype=False)
    assert set(found["rank"].dropna()) == {4} and found["rank"].isna().sum() == 12


def test_a_setting_in_which_runs_differ_is_a_text(folder):
    field = {field["name"]: field for field in schema(folder, "arms")["fields"]}
    assert field["learning_rate"]["type"] == "string"
    assert pd.read_parquet(folder / "export/arms.parquet").set_index("arm")["learning_rate"].to_dict() == {
        **{"full": "3e-05", "lora-r4": "0.0005; 0.001"},
        "qlora-r4": "0.0005",
    }
    assert (field["batch_size"]["type"], field["trainable_parameters"]["type"]) == ("integer", "integer")


def test_units_and_descriptions_are_those_of_the_summary(folder):
    summary = json.loads((REPOSITORY / "schemas/summary.schema.json").read_text(encoding="utf-8"))["properties"]
    fields = {field["name"]: field for field in schema(folder, "runs")["fields"]}
    assert {name: fields[name]["description"] for name in summary} == {
        name: about["description"] for name, about in summary.items()
    }
    assert {
        name: fields[name].get("unit") for name in ("train_s", "step_p50_ms", "probe_peak_rss_MiB", "oom_bytes")
    } == {**{"train_s": "s", "step_p50_ms": "ms", "probe_peak_rss_MiB": "MiB", "oom_bytes": "B"}}
    units = {"energy_J_per_sample": "J/row", "mean_power_W": "W", "samples_per_s": "rows/s", "trainable_percent": "%"}
    assert {name: fields[name].get("unit") for name in units} == units
    assert not any("unit" in fields[name] for name in ("rank", "steps", "epochs", "accuracy", "device_name", "f1"))
    arm = {field["name"]: field for field in schema(folder, "arms")["fields"]}
    assert arm["train_s_mean"]["unit"] == arm["train_s_sd"]["unit"] == "s" and "unit" not in arm["train_s_n"]
    constraints = {name: fields[name].get("constraints") for name in ("accuracy", "status", "rank", "seed")}
    assert constraints == {
        "accuracy": {"minimum": 0, "maximum": 1},
        "status": {"required": True, "enum": ["completed", "oom", "diverged"]},
        "rank": {"minimum": 1},
        "seed": {"required": True, "minimum": 0},
    }
    assert arm["train_s_sd"]["description"].endswith(summary["train_s"]["description"])


def test_the_package_lists_the_files_with_their_checksums(folder):
    package = json.loads((folder / "export/datapackage.json").read_text(encoding="utf-8"))
    resources = {resource["path"]: resource for resource in package["resources"]}
    assert set(resources) == {f"{name}.{kind}" for name in NAMES for kind in ("csv", "json")}
    for path, resource in resources.items():
        content = (folder / "export" / path).read_bytes()
        assert resource["hash"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
        own = json.loads((folder / "export" / resource["schema"]).read_text(encoding="utf-8"))
        rows = texts(folder / f"export/{Path(path).stem}.csv")
        assert not rows.duplicated(own["primaryKey"]).any()


def test_a_key_of_another_version_is_kept():
    runs = tables.runs_frame([synthetic.summary("full", None, 0, new_s=1.5, odd=["a", 1])])
    fields = {field["name"]: field for field in export.run_fields(runs)}
    assert (fields["new_s"]["type"], fields["odd"]["type"]) == ("number", "any")
    assert "another version" in fields["new_s"]["description"] and "unit" not in fields["new_s"]
    assert (
        export.arrow_table(export.results(runs, export.read_metrics(runs.iloc[:0], Path()))["runs"]).to_pylist()[0][
            "odd"
        ]
        == '["a", 1]'
    )
    arms = {field["name"]: field for field in export.arm_fields(tables.arms_frame(runs))}
    assert arms["new_s_mean"]["type"] == "number" and "another version" in arms["new_s_mean"]["description"]


def test_the_same_runs_are_exported_alike(folder, tmp_path):
    make("export_results.py", folder, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in (folder / "export").iterdir()
    }
