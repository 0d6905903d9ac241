"""Damage to one finished run of four: each is refused by a line that names the file, and nothing counts in silence."""

import json
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import check_contract
import pandas as pd
import pytest
import synthetic
from peft_tradeoffs.analysis import tables
from peft_tradeoffs.analysis.comparison import read_predictions
from peft_tradeoffs.analysis.finished import LINE_ENDS
from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.layout import run_folder, summaries
from peft_tradeoffs.report import cards, export

GRID = {"dataset": ["sst2"], "model": ["distilbert"], "arm": ["full", "lora-r4"], "seed": [0, 1]}
ROWS, WRONG = 872, 44
BITS = bytes(range(256)) * 8
Damage = Callable[[Path], Any]


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms with two seeds, which saved weights; both seeds of an arm are right equally often, in other rows."""
    folder = tmp_path_factory.mktemp("study")
    accuracy = 1 - WRONG / ROWS
    runs = [
        synthetic.summary(*arm, seed, accuracy=accuracy, metric_value=accuracy)
        for arm in (("full", None), ("lora", 4))
        for seed in (0, 1)
    ]
    synthetic.write(folder, runs)
    for run in runs:
        place = folder / "runs/sst2/distilbert" / run["arm"] / f"seed{run['seed']}"
        wrong = range(run["seed"] * WRONG, (run["seed"] + 1) * WRONG)
        lines = ["row,label,prediction,logit_0,logit_1"]
        for row in range(ROWS):
            label = row % 2
            predicted = 1 - label if row in wrong else label
            lines.append(f"{row},{label},{predicted},{1.25 - predicted:g},{predicted / 2 + 0.125:g}")
        (place / "predictions.csv").write_bytes(("\r\n".join(lines) + "\r\n").encode())
        (place / "summary.csv").write_text("status\ncompleted\n")
        weights = place / ("checkpoint" if run["arm"] == "full" else "adapter")
        weights.mkdir()
        (weights / f"{'model' if run['arm'] == 'full' else 'adapter_model'}.safetensors").write_bytes(
            BITS + bytes([run["seed"]])
        )
        name = "config.json" if run["arm"] == "full" else "adapter_config.json"
        (weights / name).write_text(json.dumps({"peft_type": "LORA", "r": run["rank"]}, indent=2))
    synthetic.seal_all(folder)
    return folder


@pytest.fixture
def study(pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy; of the cards only the look at what they are made of is taken (test_cards.py has the rest)."""
    monkeypatch.setattr(cards, "_reason", lambda summary, there: "no card is wanted")
    folder = tmp_path / "study"
    shutil.copytree(pristine, folder)
    return folder


def contract(study: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """What check_contract.py says of the study: its error, or "" where it wrote its tables."""
    shutil.rmtree(study / "tables", ignore_errors=True)
    options = {"--runs-dir": study / "runs", "--grid": json.dumps(GRID), "--baseline": "full"}
    options |= {"--tunings-dir": study / "tune", "--output-dir": study / "tables"}
    call = ["check_contract.py", *(str(word) for pair in options.items() for word in pair), "--strict", *words]
    monkeypatch.setattr(sys, "argv", call)
    try:
        check_contract.main()
    except InputError as error:
        assert not (study / "tables").exists()
        return str(error)
    assert (study / "tables/contract.md").exists()
    return ""


def read(study: Path, keep_weights: bool = True) -> list[Any]:
    """What tables, comparison, export and cards read of the lora-r4 run of seed 0, each by its own reader."""
    runs = tables.runs_frame(tables.read_summaries(summaries(study / "runs", GRID)))
    one = runs[(runs["arm"] == "lora-r4") & (runs["seed"] == 0)]
    folder = run_folder(study / "runs", "sst2", "distilbert", "lora-r4", 0)
    predicted = read_predictions(folder / "predictions.csv", one.iloc[0].to_dict())
    places = (study / "runs", study, study, study / "published")
    cards.publish(one, tables.arms_frame(runs), pd.DataFrame(), {"sst2": {}}, cards.Folders(*places), keep_weights)
    return [runs.to_csv(), predicted, export.read_metrics(runs, study / "runs").to_csv()]


def edited(**values: Any) -> Damage:
    """The summary with other values, which are no numbers of JSON perhaps; ... takes a key out."""

    def damage(run: Path) -> None:
        summary = json.loads((run / "summary.json").read_text()) | values
        (run / "summary.json").write_text(
            json.dumps({key: value for key, value in summary.items() if value is not ...})
        )

    return damage


def text(name: str, of: Callable[[str], str]) -> Damage:
    return lambda run: (run / name).write_bytes(of((run / name).read_bytes().decode()).encode())


def cut(name: str, size: int = 500) -> Damage:
    return lambda run: os.truncate(run / name, size)


def gone(name: str) -> Damage:
    return lambda run: shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()


def flipped(name: str, place: int = 777) -> Damage:
    def damage(run: Path) -> None:
        content = bytearray((run / name).read_bytes())
        content[place] ^= 16
        (run / name).write_bytes(content)

    return damage


def replaced(name: str, make: Callable[[Path], Any]) -> Damage:
    """Something else in the place of a file."""

    def damage(run: Path) -> None:
        gone(name)(run)
        make(run / name)

    return damage


def from_run(name: str, other: str) -> Damage:
    def damage(run: Path) -> None:
        gone(name)(run)
        source = run.parents[1] / other / name
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, run / name)

    return damage


def scaled(run: Path) -> None:
    table = pd.read_csv(run / "predictions.csv")
    table[["logit_0", "logit_1"]] *= 3
    table.to_csv(run / "predictions.csv", index=False)


def swapped_row(line: str) -> str:
    row, label, predicted, *logits = line.split(",")
    return ",".join([row, label, predicted, *reversed(logits)])


def on_line(number: int, of: Callable[[str], str]) -> Callable[[str], str]:
    def change(content: str) -> str:
        lines = content.split("\r\n")
        return "\r\n".join(of(line) if index == number else line for index, line in enumerate(lines))

    return change


def alone(run: Path) -> None:
    for path in run.iterdir():
        if path.name != "summary.json":
            gone(path.name)(run)


def other_settings(run: Path) -> None:
    env = json.loads((run / "env.json").read_text())
    env["settings"]["batch_size"] = 8
    (run / "env.json").write_text(json.dumps(env))


def whole_folder_of(other: str) -> Damage:
    def damage(run: Path) -> None:
        shutil.rmtree(run)
        shutil.copytree(run.parents[1] / other, run)

    return damage


SUMMARY, ADAPTER, CONFIG = "summary.json", "adapter/adapter_model.safetensors", "adapter/adapter_config.json"
PREDICTIONS, METRICS, ENV = "predictions.csv", "metrics.csv", "env.json"
# The forty damages of the audit: what is done to the run, and the file that the error must name.
FORTY: dict[str, tuple[Damage, str]] = {
    "time edited": (edited(train_s=1.0), SUMMARY),
    "peak memory edited": (edited(probe_peak_rss_MiB=10.0), SUMMARY),
    "accuracy alone edited": (edited(accuracy=0.99), SUMMARY),
    "status oom": (edited(status="oom"), SUMMARY),
    "a value NaN": (edited(train_s=float("nan")), SUMMARY),
    "two keys missing": (edited(train_s=..., wall_s=...), SUMMARY),
    "an extra key": (edited(extra=1), SUMMARY),
    "summary.csv deleted": (gone("summary.csv"), "summary.csv"),
    "logits scaled by 3": (scaled, PREDICTIONS),
    "predictions of the other seed": (from_run(PREDICTIONS, "lora-r4/seed1"), PREDICTIONS),
    "weights missing": (gone(ADAPTER), ADAPTER),
    "adapter folder missing": (gone("adapter"), ADAPTER),
    "a flipped bit": (flipped(ADAPTER), ADAPTER),
    "weights cut": (cut(ADAPTER), ADAPTER),
    "another arm's name": (edited(arm="full"), SUMMARY),
    "a text for a number": (edited(train_s="fast"), SUMMARY),
    "1e308": (edited(train_s=1e308), SUMMARY),
    "a list": (text(SUMMARY, lambda content: f"[{content}]"), SUMMARY),
    "adapter_config.json cut": (cut(CONFIG, 10), CONFIG),
    "metric edited": (edited(metric_value=0.99), SUMMARY),
    "metric and accuracy edited": (edited(metric_value=0.99, accuracy=0.99), SUMMARY),
    "fingerprint edited": (edited(fingerprint="1" * 64), SUMMARY),
    "seed swapped": (edited(seed=1), SUMMARY),
    "summary cut": (cut(SUMMARY), SUMMARY),
    "summary empty": (cut(SUMMARY, 0), SUMMARY),
    "of another version": (edited(sha256=..., files=..., weights=...), SUMMARY),
    "a row removed": (text(PREDICTIONS, on_line(9, lambda line: "")), PREDICTIONS),
    "a label changed": (text(PREDICTIONS, on_line(9, lambda line: line.replace("8,0,", "8,1,"))), PREDICTIONS),
    "a row's number changed": (text(PREDICTIONS, on_line(9, lambda line: f"9{line}")), PREDICTIONS),
    "logits of a row swapped": (text(PREDICTIONS, on_line(9, swapped_row)), PREDICTIONS),
    "predictions missing": (gone(PREDICTIONS), PREDICTIONS),
    "NUL bytes": (text(PREDICTIONS, lambda content: content.replace("8,0,", "\0,0,")), PREDICTIONS),
    "metrics missing": (gone(METRICS), METRICS),
    "metrics cut": (cut(METRICS, 100), METRICS),
    "metrics edited": (text(METRICS, lambda content: content.replace("0.6,", "0.5,")), METRICS),
    "env missing": (gone(ENV), ENV),
    "env cut": (cut(ENV), ENV),
    "env of other settings": (other_settings, ENV),
    "run folder missing": (lambda run: shutil.rmtree(run), "seeds"),
    "summary alone": (alone, ENV),
}
DEEP = "[" * 200_000 + "]" * 200_000
SIBLINGS: dict[str, tuple[Damage, str]] = {
    "predictions with a BOM": (text(PREDICTIONS, lambda content: "\ufeff" + content), PREDICTIONS),
    "rows twice": (text(PREDICTIONS, lambda content: content + content.split("\r\n")[-2] + "\r\n"), PREDICTIONS),
    "rows in another order": (
        text(
            PREDICTIONS, lambda content: "\r\n".join([*content.split("\r\n")[:1], *sorted(content.split("\r\n")[1:])])
        ),
        PREDICTIONS,
    ),
    "env of another run": (from_run(ENV, "lora-r4/seed1"), ENV),
    "adapter of the other seed": (from_run("adapter", "lora-r4/seed1"), ADAPTER),
    "adapter_config.json of another rank": (text(CONFIG, lambda content: content.replace("4", "8")), CONFIG),
    "a folder for a file": (replaced(METRICS, Path.mkdir), METRICS),
    "a folder for the summary": (replaced(SUMMARY, Path.mkdir), SUMMARY),
    "a named pipe for the summary": (replaced(SUMMARY, os.mkfifo), SUMMARY),
    "a named pipe for predictions": (replaced(PREDICTIONS, os.mkfifo), PREDICTIONS),
    "a link to itself": (replaced(ENV, lambda path: path.symlink_to(path)), ENV),
    "a summary that links to itself": (replaced(SUMMARY, lambda path: path.symlink_to(path)), SUMMARY),
    "a file for the adapter folder": (replaced("adapter", Path.touch), ADAPTER),
    "an empty adapter folder": (replaced("adapter", Path.mkdir), ADAPTER),
    "another adapter beside it": (
        lambda run: (run / "adapter/adapter_model.bin").write_bytes(BITS),
        "adapter_model.bin",
    ),
    "a checkpoint beside the adapter": (
        lambda run: [(run / "checkpoint").mkdir(), (run / "checkpoint/model.safetensors").write_bytes(BITS)],
        "checkpoint/model.safetensors",
    ),
    "a name in other letters": (lambda run: (run / ADAPTER).rename(run / "adapter/Adapter_Model.safetensors"), ADAPTER),
    "a key twice": (text(SUMMARY, lambda content: content.replace("{", '{"train_s": 1.0, ', 1)), SUMMARY),
    "a huge exponent": (text(SUMMARY, lambda content: content.replace('"load_s": 1.4', '"load_s": 1e999')), SUMMARY),
    "a number of 5,000 digits": (
        text(SUMMARY, lambda content: content.replace('"load_s": 1.4', f'"load_s": {"9" * 5000}')),
        SUMMARY,
    ),
    "nested too deep": (text(SUMMARY, lambda content: DEEP), SUMMARY),
    "nested too deep within": (text(SUMMARY, lambda content: content.replace("1.4", DEEP, 1)), SUMMARY),
    "not UTF-8": (lambda run: (run / SUMMARY).write_bytes(b"\xff\xfe{}"), SUMMARY),
    "null": (text(SUMMARY, lambda content: "null"), SUMMARY),
    "null_reasons a text": (edited(null_reasons="none"), SUMMARY),
    "files a list": (edited(files=[]), SUMMARY),
    "the other seed's folder": (whole_folder_of("lora-r4/seed1"), SUMMARY),
    "the other arm's folder": (whole_folder_of("full/seed0"), SUMMARY),
    "the other seed's summary": (from_run(SUMMARY, "lora-r4/seed1"), SUMMARY),
    "weights longer": (lambda run: (run / ADAPTER).write_bytes(BITS + b"\0\0"), ADAPTER),
    "weights of zeros": (lambda run: (run / ADAPTER).write_bytes(bytes(len(BITS))), ADAPTER),
}


@pytest.mark.parametrize("name", [*FORTY, *SIBLINGS])
def test_a_damaged_run_is_named_by_one_line(study: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    damage, file = (FORTY | SIBLINGS)[name]
    run = run_folder(study / "runs", "sst2", "distilbert", "lora-r4", 0)
    damage(run)
    said = contract(study, monkeypatch)
    assert file in said and "lora-r4" in said, said
    if file != "seeds":
        assert str(run) in said
    with pytest.raises(InputError, match=r"run it again|run `snakemake runs` first|move it away"):
        read(study)  # whoever comes later, should the contract have been checked before the damage


def test_a_whole_study_is_read(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert contract(study, monkeypatch) == ""
    assert len(read(study)) == 3


def test_all_damages_are_named_at_once(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = study / "runs/sst2/distilbert"
    flipped(ADAPTER)(runs / "lora-r4/seed0")
    gone(METRICS)(runs / "lora-r4/seed1")
    edited(train_s=1.0)(runs / "full/seed1")
    first, *lines = contract(study, monkeypatch).splitlines()
    assert first.startswith("3 files are not as their runs wrote them: no table or figure is made, every run is kept")
    named = ["full/seed1/summary.json", f"lora-r4/seed0/{ADAPTER}", f"lora-r4/seed1/{METRICS}"]
    assert len(lines) == 3 and all(file in line for file, line in zip(named, lines, strict=True))


@pytest.mark.parametrize("place", range(0, len(BITS), 41))
def test_a_bit_of_the_weights_is_not_flipped_unseen(pristine: Path, tmp_path: Path, place: int) -> None:
    source = run_folder(pristine / "runs", "sst2", "distilbert", "lora-r4", 1)
    run = tmp_path / "seed1"
    shutil.copytree(source, run)
    flipped(ADAPTER, place)(run)
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: changed after the run wrote it"):
        files.check_files(run, files.read_json(run / SUMMARY))


@pytest.mark.parametrize("name", [PREDICTIONS, METRICS, ENV, CONFIG])
def test_line_ends_that_git_converted_are_said_to_be(study: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def convert(content: str) -> str:
        return content.replace("\r\n", "\n") if "\r\n" in content else content.replace("\n", "\r\n")

    if name == ENV:
        return  # of one line, in these runs
    run = run_folder(study / "runs", "sst2", "distilbert", "lora-r4", 0)
    text(name, convert)(run)
    assert contract(study, monkeypatch) == f"{run / name}: {LINE_ENDS}"


def test_a_summary_whose_layout_alone_changed_stands(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run_folder(study / "runs", "sst2", "distilbert", "lora-r4", 0) / SUMMARY
    summary = json.loads(path.read_text())
    path.write_bytes(json.dumps(dict(reversed(summary.items())), indent=4).replace("\n", "\r\n").encode())
    assert contract(study, monkeypatch) == ""


def test_hidden_files_of_a_file_system_do_no_harm(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_folder(study / "runs", "sst2", "distilbert", "lora-r4", 0)
    for name in (".DS_Store", ".nfs0001", ".ipynb_checkpoints/a.json", "adapter_config.json~", "README.md.bak"):
        (run / "adapter" / name).parent.mkdir(exist_ok=True)
        (run / "adapter" / name).write_text("x")
    (run / "notes.txt").write_text("looks good")
    assert contract(study, monkeypatch) == ""
    (run / "adapter/adapter_model.bin").write_text("x")
    assert contract(study, monkeypatch) == f"{run}/adapter/adapter_model.bin: the run did not write it; move it away"


def test_weights_that_were_not_brought_home_block_the_export_alone(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in study.rglob("*.safetensors"):  # rsync --exclude '*.safetensors'
        path.unlink()
    assert contract(study, monkeypatch).count("missing, though the run's summary lists it") == 4
    assert contract(study, monkeypatch, "--no-keep-weights") == ""
    for path in [*study.rglob("adapter"), *study.rglob("checkpoint")]:
        shutil.rmtree(path)
    assert contract(study, monkeypatch).count("missing, though the run's summary lists it") == 8
    assert contract(study, monkeypatch, "--no-keep-weights") == ""
    read(study, keep_weights=False)
    with pytest.raises(InputError, match=r"adapter_config\.json: missing"):
        read(study)


def test_a_part_of_the_weights_is_never_enough(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_folder(study / "runs", "sst2", "distilbert", "lora-r4", 0)
    (run / "adapter/adapter_model-2.safetensors").write_bytes(b"a second part")
    synthetic.seal(run)
    gone(ADAPTER)(run)
    assert ADAPTER in contract(study, monkeypatch, "--no-keep-weights")
    (run / "adapter/adapter_model-2.safetensors").unlink()
    assert contract(study, monkeypatch, "--no-keep-weights") == ""


def test_a_file_that_may_not_be_read_is_named(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for root, whom no mode keeps out."""
    run = run_folder(study / "runs", "sst2", "distilbert", "lora-r4", 0)
    for name in (SUMMARY, ADAPTER):
        path, original = run / name, Path.open

        def refuse(self: Path, *words: Any, path: Path = path, original: Any = original, **named: Any) -> Any:
            if self == path:
                raise PermissionError(13, "Permission denied", str(path))
            return original(self, *words, **named)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", refuse)
            assert f"{path}: cannot be read (Permission denied)" in contract(study, monkeypatch)
    assert stat.S_ISREG((run / SUMMARY).stat().st_mode)
