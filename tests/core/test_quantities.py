"""The registry of quantities: schemas follow from it, and one line in it is a key, a column and an exported field."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import synthetic
from peft_tradeoffs.core.code import fingerprint
from peft_tradeoffs.core.quantities import ANYWHERE, RULES, UNREACHED, Missing, Quantity, with_metrics, without_missing
from peft_tradeoffs.tasks.task import EVALUATION, QUANTITIES, evaluation_schema, summary_schema
from tiny import REPOSITORY

RUNS = [synthetic.summary(method, rank, seed) for method, rank in (("full", None), ("lora", 4)) for seed in (0, 1)]
LINE = (
    'Quantity("fan_rpm", "cost", "number", "rpm", "Speed of the fan.", "Null: no fan.", label="Fan, rpm", better=LOW),'
)


def written(name: str) -> dict:
    return json.loads((REPOSITORY / f"schemas/{name}.schema.json").read_text(encoding="utf-8"))


def test_the_schemas_are_those_of_the_registry():
    why = "run workflow_scripts/write_schemas.py"
    assert written("summary") == json.loads(json.dumps(summary_schema())), why
    assert written("metrics") == json.loads(json.dumps(evaluation_schema())), why
    assert list(written("summary")["properties"]) == [name for name, one in QUANTITIES.items() if one.recorded]
    for schema in (summary_schema(), evaluation_schema()):
        jsonschema.Draft202012Validator.check_schema(schema)


def test_each_quantity_is_described_without_contradiction():
    for quantity in (*QUANTITIES.values(), *EVALUATION.values()):
        assert quantity.about.endswith(".") and quantity.about == quantity.about.strip(), quantity.name
        assert not (quantity.lacks and quantity.null is None), f"{quantity.name} is never null, and null of some runs"
        assert {quantity.has, *quantity.lacks} - {None} <= set(RULES)
        assert quantity.has not in quantity.lacks, quantity.name
        assert quantity.noise is None or QUANTITIES[quantity.noise].averaged, quantity.name
        assert quantity.better is None or quantity.label, quantity.name
        assert quantity.numeric or (quantity.unit is None and quantity.maximum is None), quantity.name


def test_a_metric_of_other_bounds_stands_behind_the_reported_one():
    one, other = (
        Quantity(name, "result", "number", None, "A metric.", UNREACHED, comparable=ANYWHERE, minimum=low, maximum=high)
        for name, low, high in (("share", 0, 1), ("perplexity", 1, None))
    )
    found = with_metrics([one, other], ["sorting"])
    names = [quantity.name for quantity in found]
    assert names[names.index("metric_value") :][:3] == ["metric_value", "share", "perplexity"]
    by_name = {quantity.name: quantity.schema() for quantity in found}
    assert (by_name["metric"]["enum"], by_name["task"]["enum"]) == (["share", "perplexity"], ["sorting"])
    for name in ("metric_value", "heldout_metric_value"):
        assert by_name[name]["minimum"] == 0 and "maximum" not in by_name[name]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package in which one line adds a quantity, the schemas written anew, tables and export of RUNS."""
    folder = tmp_path_factory.mktemp("quantities")
    for name in ("workflow_scripts", "schemas"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    registry = folder / "workflow_scripts/peft_tradeoffs/core/quantities.py"
    text = registry.read_text(encoding="utf-8")
    at = text.index('    Quantity("mean_power_W"')
    registry.write_text(f"{text[:at]}    {LINE}\n{text[at:]}", encoding="utf-8")
    call(folder, "write_schemas.py")
    runs = [run | {"fan_rpm": 1000.0 + run["seed"]} for run in RUNS]
    synthetic.write(folder, runs)
    grid = {"dataset": ["sst2"], "model": ["distilbert"], "arm": ["full", "lora-r4"], "seed": [0, 1]}
    words = ["--runs-dir", folder / "runs", "--grid", json.dumps(grid), "--contract", synthetic.contract(folder, runs)]
    call(folder, "make_tables.py", *words, "--output-dir", folder / "tables")
    call(folder, "export_results.py", *words, "--output-dir", folder / "export")
    return folder


def call(folder: Path, script: str, *words: object) -> None:
    command = [sys.executable, folder / "workflow_scripts" / script, *words]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_quantity_is_one_line(copy):
    schema = json.loads((copy / "schemas/summary.schema.json").read_text(encoding="utf-8"))
    assert schema["properties"]["fan_rpm"] == {
        "type": ["number", "null"],
        "description": "Speed of the fan. Null: no fan.",
        "minimum": 0,
    }
    assert "fan_rpm" in schema["required"]
    assert [row["fan_rpm"] for row in rows(copy / "tables/runs.csv")] == ["1000.0", "1001.0"] * 2
    for row in rows(copy / "tables/arms.csv"):
        assert [float(row[f"fan_rpm_{part}"]) for part in ("mean", "sd", "n")] == [1000.5, pytest.approx(0.5**0.5), 2]
    for name, key in (("runs", "fan_rpm"), ("arms", "fan_rpm_mean")):
        table = json.loads((copy / f"export/{name}.schema.json").read_text(encoding="utf-8"))
        (field,) = (field for field in table["fields"] if field["name"] == key)
        assert field["unit"] == "rpm" and field["description"].endswith("Speed of the fan. Null: no fan.")
        assert len(rows(copy / f"export/{name}.csv")) == len(rows(copy / f"tables/{name}.csv"))
    code = "from peft_tradeoffs.report.page import definitions; print(dict(definitions())['Fan, rpm'])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": str(copy / "workflow_scripts")}
    )
    assert done.stdout == "Speed of the fan. Null: no fan.\n", done.stderr


def test_a_new_quantity_trains_anew_and_a_word_about_one_does_not(copy, tmp_path):
    """Every run must have what tables ask of it; how it is described is no part of what a run is."""
    reworded = tmp_path / "reworded"
    for name in ("workflow_scripts", "schemas"):
        shutil.copytree(copy / name, reworded / name, ignore=shutil.ignore_patterns("__pycache__"))
    registry = reworded / "workflow_scripts/peft_tradeoffs/core/quantities.py"
    registry.write_text(registry.read_text(encoding="utf-8").replace("Speed of the fan.", "How fast the fan turns."))
    call(reworded, "write_schemas.py")
    assert "How fast the fan turns." in (reworded / "schemas/summary.schema.json").read_text(encoding="utf-8")
    before, added, said = (fingerprint(tree / "workflow_scripts/train.py") for tree in (REPOSITORY, copy, reworded))
    assert before != added == said


def test_what_is_missing_becomes_null_with_its_reason_and_nothing_else_does():
    values, reasons = without_missing(
        {"energy_J": Missing("no counter"), "oom_bytes": None, "steps": 0, "shared": False}
    )
    assert values == {"energy_J": None, "oom_bytes": None, "steps": 0, "shared": False}
    assert reasons == {"energy_J": "no counter"}
    assert not Missing("no counter")
