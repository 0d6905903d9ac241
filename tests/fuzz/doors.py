"""The commands that read what users, disks and other programs write, each with inputs and a judge.

An input is kept as bytes: a first line that says what the rest is, then the file.
"""

import copy
import io
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import changes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import synthetic
import tiny
import yaml
from hypothesis import strategies as st
from peft_tradeoffs.core import errors, files
from peft_tradeoffs.inputs import data_files
from peft_tradeoffs.runs import status
from peft_tradeoffs.training import job

NAMES = ("data", "config", "run", "state", "model")
TEXTS = [*tiny.GOOD, *tiny.BAD]
ROWS = [(f'a {word}, "long" film', index % 2) for index, word in enumerate(TEXTS * 2)]


@dataclass(frozen=True)
class Door:
    """`make` turns one of `inputs` into bytes; `judge` raises unless they are read, or refused by a line."""

    name: str
    inputs: st.SearchStrategy[Any]
    make: Callable[[Any], bytes]
    judge: Callable[[bytes], None]


class Passed(AssertionError):
    """Damage that was accepted where none may be."""


def open_door(name: str, folder: Path) -> Door:
    """The door of that name, with its whole files in `folder`; the working folder becomes that of the config's."""
    folder.mkdir(parents=True)
    return {"data": data, "config": config, "run": run, "state": state_files, "model": model}[name](folder)


def refusal(call: Callable[[], Any]) -> str | None:
    """The words of a refusal, None if there was none. Raises AssertionError for one in no words."""
    try:
        errors.run(call)
    except SystemExit as end:
        assert isinstance(end.code, str) and end.code.startswith("error: ") and len(end.code) > 20, repr(end.code)
        return end.code
    return None


def script(name: str, *words: str) -> Callable[[], None]:
    """A command of the workflow, in this process."""

    def call() -> None:
        before, sys.argv = sys.argv, [name, *words]
        try:
            __import__(name).main()
        finally:
            sys.argv = before

    return call


def headed(head: str, content: bytes) -> bytes:
    """An input."""
    return head.encode() + b"\n" + content


def parted(content: bytes) -> tuple[str, bytes]:
    """What `headed` joined."""
    head, _, rest = content.partition(b"\n")
    return head.decode(), rest


def _damaged(whole: dict[str, bytes]) -> st.SearchStrategy[bytes]:
    """One of the files with changed bytes."""
    return st.builds(
        lambda name, edits: headed(name, changes.changed(whole[name], edits)),
        st.sampled_from(sorted(whole)),
        changes.CHANGES,
    )


def _edited(whole: dict[str, bytes]) -> st.SearchStrategy[bytes]:
    """One of the files that are JSON, with other content."""
    trees = {name: json.loads(content) for name, content in whole.items() if name.endswith(".json")}
    return st.builds(
        lambda name, edits: headed(name, json.dumps(changes.edited(trees[name], edits)).encode()),
        st.sampled_from(sorted(trees)),
        changes.EDITS,
    )


# Data files -----------------------------------------------------------------------------------------------------------


def data(folder: Path) -> Door:
    """A training file of any kind, fetched beside a whole test file."""
    whole = _tables()
    block = {"source": "files", "text": ["text"], "label": "label", "separator": None}
    (folder / "test.jsonl").write_text(
        "".join(json.dumps({"text": f"another {text}", "label": label}) + "\n" for text, label in ROWS)
    )

    def judge(content: bytes) -> None:
        head, content = parted(content)
        kind, task, *carved = head.split()
        path = folder / f"train.{kind}"
        path.write_bytes(content)
        own = {**block, "task": task, "splits": {"train": str(path), "test": str(folder / "test.jsonl")}}
        if carved:
            own["splits"].pop("test")
            own["fractions"] = {"test": 0.3}
        refusal(script("fetch_dataset", "--source", json.dumps(own), "--output-dir", str(folder / "fetched")))

    inputs = st.tuples(
        st.sampled_from(sorted(whole)),
        st.sampled_from(sorted(whole)),
        st.sampled_from(["classification", "classification carved", "regression"]),
        st.one_of(changes.CHANGES, st.just([])),
    )

    def make(chosen: tuple[str, str, str, list]) -> bytes:
        kind, inside, task, edits = chosen
        if edits:
            inside = kind  # else a whole file of one kind under the name of another
        return headed(f"{kind} {task}", changes.changed(whole[inside], edits))

    return Door("data", inputs, make, judge)


def _tables() -> dict[str, bytes]:
    """A whole file by extension."""
    rows = [{"text": text, "label": label} for text, label in ROWS]
    parquet = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    quoted = ['"{}",{}'.format(text.replace('"', '""'), label) for text, label in ROWS]
    return {
        "csv": "\n".join(["text,label", *quoted, ""]).encode(),
        "tsv": "\n".join(["text\tlabel", *(f"{text}\t{label}" for text, label in ROWS), ""]).encode(),
        "jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "parquet": parquet.getvalue(),
    }


# Configurations -------------------------------------------------------------------------------------------------------


def config(folder: Path) -> Door:
    """A config.yaml, checked as the Snakefile does it before it plans."""
    from peft_tradeoffs.config.experiment import resolve
    from peft_tradeoffs.config.file import check_file
    from peft_tradeoffs.config.preflight import check_arms, check_paths, check_planned

    tiny.write_inputs(folder, tiny.bert(folder / "model"))
    os.chdir(folder)
    small = tiny.config(folder)
    rich = copy.deepcopy(small) | {
        "tune": {"fraction": 0.2, "epochs": 1},
        "comparison": {"margin": 0.1, "baseline": "full"},
        "recommendation": {"train_s": 60},
        "noise": {"arms": ["lora-r4"], "repeats": 2, "seed": 0},
        "equal_memory": {"arms": ["full", "lora-r4"], "max_batch_size": 64},
        "attribution": {"which": ["full", "lora-r4", "qlora-r4"]},
        "budgets": {"train_s": [10, 20]},
    }
    rich["methods"]["lora"]["learning_rate"] = [1e-3, 1e-2]
    trees = [small, rich]
    examples = sorted((tiny.REPOSITORY / "examples").glob("*.yaml"))
    texts = [path.read_bytes() for path in (tiny.REPOSITORY / "config.yaml", *examples)]
    texts += [yaml.safe_dump(tree).encode() for tree in trees]
    path = folder / "config.yaml"

    def judge(content: bytes) -> None:
        path.write_bytes(parted(content)[1])

        def plan() -> None:
            found = resolve(check_file(path))
            check_paths(found)
            check_arms(found)
            check_planned(found)

        refusal(plan)

    def dumped(tree: Any) -> bytes:
        try:
            return yaml.dump(tree, Dumper=yaml.CSafeDumper).encode()
        except UnicodeEncodeError:  # half a surrogate pair, which libyaml does not write: JSON is YAML too
            return json.dumps(tree).encode()

    edited = st.builds(lambda tree, edits: dumped(changes.edited(tree, edits)), st.sampled_from(trees), changes.EDITS)
    broken = st.builds(changes.changed, st.sampled_from(texts), changes.CHANGES)
    return Door("config", st.one_of(edited, broken), lambda content: headed("config.yaml", content), judge)


# Finished runs --------------------------------------------------------------------------------------------------------


def run(folder: Path) -> Door:
    """One file of one finished run of two, then the tables that say whether runs may be compared."""
    synthetic.write(folder, [synthetic.summary("full", None, 0), synthetic.summary("lora", 4, 0)])
    names = folder / "runs/sst2/distilbert/lora-r4/seed0"
    write_weights(names)
    summary = files.seal(files.read_json(names / "summary.json"), names)
    files.write_json(names / "summary.json", summary)
    whole = {path.relative_to(names).as_posix(): path.read_bytes() for path in names.rglob("*") if path.is_file()}
    grid = {"dataset": ["sst2"], "model": ["distilbert"], "arm": ["full", "lora-r4"], "seed": [0]}
    runs = ["--runs-dir", str(folder / "runs"), "--grid", json.dumps(grid), "--output-dir", str(folder / "tables")]
    check = script("check_contract", *runs, "--baseline", "full", "--tunings-dir", str(folder / "tunings"))
    tables = script("make_tables", *runs, "--contract", str(folder / "tables/contract.csv"))
    assert (words := refusal(check)) is None and (words := refusal(tables)) is None, words

    def judge(content: bytes) -> None:
        name, content = parted(content)
        resealed, name = name.startswith("resealed "), name.removeprefix("resealed ")
        (names / name).write_bytes(content)
        try:
            words = refusal(check)
            if words is None:
                if not (resealed or content == whole[name] or _same_summary(name, content, summary)):
                    raise Passed(name)
                refusal(tables)
        finally:
            (names / name).write_bytes(whole[name])

    resealed = st.builds(lambda edits: headed("resealed summary.json", _resealed(summary, edits)), changes.EDITS)
    return Door("run", st.one_of(_damaged(whole), _edited(whole), resealed), lambda content: content, judge)


def write_weights(run: Path) -> None:
    """An adapter as a run leaves it, of a few bytes."""
    from safetensors.numpy import save_file

    (run / "adapter").mkdir()
    save_file({"lora_A.weight": np.ones((2, 4), np.float32)}, run / "adapter/adapter_model.safetensors")
    (run / "adapter/adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')


def _same_summary(name: str, content: bytes, summary: dict[str, Any]) -> bool:
    """Whether a summary was written anew with the same content: in other spaces, say."""
    try:
        return name == "summary.json" and _exactly(json.loads(content), summary)
    except (ValueError, RecursionError):
        return False


def _exactly(value: Any, expected: Any) -> bool:
    return json.dumps(value, sort_keys=True) == json.dumps(expected, sort_keys=True)


def _resealed(summary: dict[str, Any], edits: list) -> bytes:
    tree = changes.edited({key: value for key, value in summary.items() if key not in files.KEYS}, edits)
    if isinstance(tree, dict):
        tree |= {key: summary[key] for key in files.KEYS if key != files.SHA256}
        tree[files.SHA256] = files.code.digest(tree)
    return json.dumps(tree).encode()


# State of unfinished runs ---------------------------------------------------------------------------------------------


def state_files(folder: Path) -> Door:
    """What a killed run left, read by the attempt that goes on with it and by `status`."""
    import torch

    fingerprint = "f" * 64
    place = folder / "runs/sst2/distilbert/full/seed0"

    def directory() -> job.RunDirectory:
        return job.RunDirectory(place, fingerprint, 60.0)

    first = directory()
    first.lock()
    first.attempts.begin()
    first.begin(0)
    first.reached(3, 10)
    saved = {"weights": {"a": torch.arange(6.0).reshape(2, 3)}, "step": 3, "rows": [{"loss": 0.5}], "rng": [1, 2]}
    first.save(saved)
    first.unlock()
    whole = {path.name: path.read_bytes() for path in (place / "state").iterdir() if path.is_file()}
    grid = {"dataset": ["sst2"], "model": ["distilbert"], "arm": ["full"], "seed": [0]}

    def judge(content: bytes) -> None:
        name, content = parted(content)
        (place / "state" / name).write_bytes(content)
        try:
            again = directory()
            loaded = again.load()
            if loaded is not None and not _same_state(loaded, saved):
                raise Passed(f"{name}: loaded as if whole")
            if name == "checkpoint.pt" and loaded is not None and content != whole[name]:
                raise Passed(f"{name}: damage that does not show was not seen")
            again.attempts.begin()
            again.attempts.end("error")
            wall = status.wall_s(again.attempts.end("error"))
            assert 0 <= wall < 1e6, wall
            status.table(status.grid_status(folder, grid, [], None))
        finally:
            for file, before in whole.items():
                (place / "state" / file).write_bytes(before)

    return Door("state", st.one_of(_damaged(whole), _edited(whole)), lambda content: content, judge)


def _same_state(loaded: dict[str, Any], saved: dict[str, Any]) -> bool:
    same = loaded["weights"]["a"].equal(saved["weights"]["a"])
    return same and all(loaded[key] == saved[key] for key in ("step", "rows", "rng"))


# Models ---------------------------------------------------------------------------------------------------------------


def model(folder: Path) -> Door:
    """One file of a model's folder, fetched."""
    place = tiny.bert(folder / "model")
    whole = {path.name: path.read_bytes() for path in place.iterdir() if path.is_file()}
    source = json.dumps({"source": "folder", "path": str(place)})
    fetch = script("fetch_model", "--source", source, "--output", str(folder / "models/tiny.json"))
    assert (words := refusal(fetch)) is None, words
    heads = {"model.safetensors": 8 + int.from_bytes(whole["model.safetensors"][:8], "little")}

    def judge(content: bytes) -> None:
        name, content = parted(content)
        (place / name).write_bytes(content)
        try:
            refusal(fetch)
        finally:
            (place / name).write_bytes(whole[name])

    def damage(name: str, edits: list) -> bytes:
        head = heads.get(name, len(whole[name]))  # a change among a model's numbers is another model
        return headed(name, changes.changed(whole[name][:head], edits) + whole[name][head:])

    damaged = st.builds(damage, st.sampled_from(sorted(whole)), changes.CHANGES)
    return Door("model", st.one_of(damaged, _edited(whole)), lambda content: content, judge)


# Faults planted on purpose --------------------------------------------------------------------------------------------


def _plant_data() -> None:
    """A file that is not UTF-8 is a traceback."""
    data_files._text = lambda path, faults: path.read_text(encoding="utf-8")


def _plant_run() -> None:
    """Files of a run are not compared with its summary."""
    files.check_files = lambda *_: None


FAULTS = {"data": _plant_data, "run": _plant_run}
