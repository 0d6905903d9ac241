"""Model cards: in folders that can be pushed, with the run's numbers, nothing of the machine, whatever names hold."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import published
import pytest
import synthetic
import tiny
import yaml
from hub_server import HubServer
from hub_writes import card_problems
from huggingface_hub import ModelCard
from peft_tradeoffs.analysis import tables
from peft_tradeoffs.analysis.comparison import COLUMNS
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.text import without_paths
from peft_tradeoffs.report import cards
from peft_tradeoffs.report.cards import Subject, model_card

ARMS = ("full", "lora-r4", "qlora-r4")
HOSTILE = 'own"er/a: b\n---\n# `x` | <b> {{y}} é'
HUB = {"source": "hub", "path": "owner/reviews", "config": "sst2", "revision": "c" * 40, "task": "classification"}
BLOCK = {**HUB, "text": ["sentence"], "label": "label", "fractions": {"heldout": 0.1}}
BLOCK["splits"] = {"train": "train", "test": "validation"}
VALIDATE = """
import sys
from huggingface_hub import ModelCard
for path in sys.argv[1:]:
    ModelCard.load(path).validate()
"""
PREDICT = """
import json, sys, torch
request, logits, classes = json.load(sys.stdin), [], []
for code in request["codes"]:
    space = {}
    exec(code, space)
    with torch.no_grad():
        read = lambda text: space["tokenizer"](text, truncation=True, max_length=32, return_tensors="pt")
        logits.append([space["model"](**read(text)).logits[0].tolist() for text in request["texts"]])
    classes.append([space["model"].config.id2label, space["model"].config.label2id])
json.dump([logits, classes], sys.stdout)
"""


@pytest.fixture(scope="module")
def exported(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished benchmark after `snakemake export`, with published results imported too."""
    folder = tmp_path_factory.mktemp("exported") / "copy"
    shutil.copytree(finished, folder, symlinks=True)
    published.write(folder / "published")
    before = content(folder / "results/runs")
    settings = tiny.config(folder, imported={"peft": ["published/*.json"]})
    done = tiny.snakemake(folder, settings, "all", "export")
    assert "  export" in done.stdout and "  train " not in done.stdout and "  tokenize " not in done.stdout
    assert content(folder / "results/runs") == before
    return folder


def content(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Bytes and time of change (ns) of every file below `folder`."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def saved(exported: Path, arm: str, seed: int = 1) -> Path:
    return exported / f"results/export/models/reviews/tiny/{arm}/seed{seed}"


def test_an_export_leaves_nothing_to_do(exported):
    done = tiny.snakemake(exported, None, "-n", "all", "export")
    assert "Nothing to be done" in done.stdout, done.stdout
    assert len(pd.read_csv(exported / "results/tables/imported.csv")) == 3
    for name in ("runs", "arms"):
        files = [exported / f"results/{folder}/{name}.csv" for folder in ("tables", "export")]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_every_run_has_a_card_with_its_numbers(exported):
    index = pd.read_csv(exported / "results/export/models/index.csv")
    assert index["reason"].isna().all() and len(index) == 6
    for row in index.itertuples():
        summary = json.loads((exported / f"results/runs/{row.folder}/summary.json").read_text())
        card = ModelCard.load(exported / "results/export/models" / row.folder / "README.md")
        (result,) = card.data.eval_results
        assert (result.metric_type, result.metric_value) == ("accuracy", summary["metric_value"])
        assert (result.dataset_name, result.dataset_split) == ("reviews", "test")
        assert card.data.library_name == row.library == ("transformers" if row.arm == "full" else "peft")
        assert (card.data.base_model, card.data.license, card.data.datasets) == (None, None, None)
        cells = [cell.strip() for cell in re.search(r"\| Training time, s .*", card.text)[0].split("|")]
        assert float(cells[2]) == pytest.approx(summary["train_s"], rel=0.01)
        assert f"| Trained weights | {summary['trainable_parameters']:,} |" in card.text
        assert "| Energy, J | – | – | not measured: no GPU" in card.text
        assert row.weights_sha256 in card.text and summary["fingerprint"] in card.text


def test_cards_are_valid_and_folders_can_be_pushed(exported, tmp_path):
    written = sorted((exported / "results/export/models").rglob("README.md"))
    with HubServer({}) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_token", "HF_HOME": str(tmp_path)}
        environment |= {"HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
        call(sys.executable, "-c", VALIDATE, *written, env=environment)
        assert hub.requests.count(("POST", "/api/validate-yaml")) == len(written) == 6
        for arm in ("full", "lora-r4"):
            command = Path(sys.executable).with_name("hf")
            call(command, "upload", f"me/{arm}", saved(exported, arm), ".", env=environment)
            files = {path.name: path.read_bytes() for path in saved(exported, arm).iterdir()}
            assert hub.pushed.files[f"me/{arm}"] == files
            assert {"README.md", "config.json" if arm == "full" else "adapter_config.json"} <= set(files)


def call(*words: Any, env: dict[str, str], given: str | None = None) -> str:
    done = subprocess.run(list(map(str, words)), env=env, input=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_loopback_hub_refuses_a_wrong_card():
    good = {"library_name": "peft", "model-index": [{"name": "a", "results": [{"task": {"type": "t"}}]}]}
    good["model-index"][0]["results"][0] |= {
        "dataset": {"type": "d", "name": "d"},
        "metrics": [{"type": "m", "value": 1}],
    }
    assert card_problems(f"---\n{yaml.safe_dump(good)}---\n") == []
    for key, value in (("base_model", "/home/me/model"), ("tags", [True]), ("library_name", 1), ("datasets", ["a b"])):
        assert len(card_problems(f"---\n{yaml.safe_dump({**good, key: value})}---\n")) == 1, key
    good["model-index"][0]["results"][0]["metrics"][0]["value"] = None
    assert len(card_problems(f"---\n{yaml.safe_dump(good)}---\n")) == 1
    assert card_problems("---\na: b: c\n---\n") and card_problems("# no metadata")


def test_the_example_in_the_card_predicts_what_was_recorded(exported):
    texts = [line.split("\t")[0] for line in (exported / "test.tsv").read_text().splitlines()[1:]]
    codes = []
    for arm in ARMS:
        text = (saved(exported, arm) / "README.md").read_text(encoding="utf-8")
        code = re.search(r"```python\n(.*?)\n```", text, re.DOTALL)[1]
        assert f'"{saved(exported, arm)}"' not in code and "OWNER/NAME" in code
        code = code.replace('"OWNER/NAME"', repr(str(saved(exported, arm))))
        codes.append(code.replace('"BASE"', repr(str(exported / "model"))))
    request = json.dumps({"codes": codes, "texts": texts})
    logits, classes = json.loads(call(sys.executable, "-c", PREDICT, env=tiny.environment(), given=request))
    assert json.loads((exported / "results/data/reviews/dataset.json").read_text())["labels"] == ["0", "1"]
    assert classes == 3 * [[{"0": "0", "1": "1"}, {"0": 0, "1": 1}]]
    for arm, found in zip(ARMS, logits, strict=True):
        recorded = pd.read_csv(exported / f"results/runs/reviews/tiny/{arm}/seed1/predictions.csv")
        expected = recorded.filter(like="logit_").to_numpy()
        # NF4 in evaluation runs in bfloat16 on CPUs that have it, unless told otherwise as the workflow does.
        tolerance = 0.03 if arm == "qlora-r4" else 1e-4
        assert abs(pd.DataFrame(found).loc[recorded["row"]].to_numpy() - expected).max() < tolerance


def test_nothing_names_a_place_on_this_machine(exported):
    run = json.loads((exported / "results/runs/reviews/tiny/lora-r4/seed1/adapter/adapter_config.json").read_text())
    assert run["base_model_name_or_path"] == "results/models/tiny"  # what must not go out
    for path in (exported / "results/export/models").rglob("*"):
        if path.is_file() and path.suffix != ".safetensors":
            text = path.read_text(encoding="utf-8")
            places = (str(exported), "results/", ".tsv", str(Path.home()), "[More Information Needed]")
            assert not [place for place in places if place in text], path


def test_weights_take_no_room(exported):
    for arm, name in (("full", "checkpoint/model"), ("lora-r4", "adapter/adapter_model")):
        own = exported / f"results/runs/reviews/tiny/{arm}/seed1/{name}.safetensors"
        assert (saved(exported, arm) / own.name).stat().st_ino == own.stat().st_ino
        assert own.stat().st_nlink == 2


def subject(run: dict[str, Any], **changes: Any) -> Subject:
    """What a card is made of, for a run that never ran, its model and data from the hub."""
    runs = tables.runs_frame([run])
    (arm,) = tables.arms_frame(runs).to_dict("records")
    env = synthetic.environment(run)
    env["model"] = {
        "source": "hub",
        "path": "owner/base",
        "revision": "b" * 40,
        "sha256": "a" * 64,
        "head": ["classifier"],
    }
    splits = {"train": {"rows": 6400}, "test": {"rows": 872}, "heldout": {"rows": 711}}
    data = {"labels": ["bad", "good"], "pair": False, "splits": splits, "sha256": "d" * 64}
    data["source"] = {key: BLOCK[key] for key in ("source", "path", "config", "revision")}
    tokens = {"max_length": 128, "pad_token_id": 0, "num_labels": 2}
    values = {"run": run, "env": env, "arm": arm, "compared": {}, "dataset": BLOCK, "data": data, "tokens": tokens}
    return Subject(**{**values, "weights_sha256": "e" * 64, **changes})


def test_a_card_of_the_hub_names_base_data_and_splits():
    run = synthetic.summary("lora", 4, 0, device="cuda", heldout_metric_value=0.93, heldout_rows=711)
    compared = {
        "test": {"mean": 0.88, "low": 0.861, "high": 0.899, "seeds_low": 0.87, "seeds_high": 0.89},
        "heldout": {
            "mean": 0.93,
            "low": None,
            "high": None,
            "seeds_low": 0.92,
            "seeds_high": 0.94,
            "reason": "2 seeds",
        },
    }
    card = model_card(subject(run, compared=compared))
    assert card_problems(str(card)) == []
    data = ModelCard(str(card)).data
    assert (data.base_model, data.base_model_relation, data.datasets) == ("owner/base", "adapter", ["owner/reviews"])
    assert data.tags == ["peft-tradeoffs", "lora", "base_model:adapter:owner/base"]
    results = [
        (one.dataset_type, one.dataset_config, one.dataset_revision, one.dataset_split) for one in data.eval_results
    ]
    assert results == [("owner/reviews", "sst2", "c" * 40, split) for split in ("validation", "heldout")]
    assert [one.metric_value for one in data.eval_results] == [run["metric_value"], 0.93]
    assert "| 88.0 [86.1, 89.9] |" in card.text and "| 93.0 [92.0, 94.0] |" in card.text
    assert "95 % interval over other seeds and other examples (test)." in card.text
    assert "95 % interval over other seeds alone (heldout)." in card.text
    assert "torch.cuda.max_memory_allocated" in card.text and "| Energy, J | 3" in card.text
    assert "base = 'owner/base'" in card.text and f"revision='{'b' * 40}'" in card.text
    assert "heldout: 711 rows, a fraction of 0.1 carved from train." in card.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"energy_window_short": True}, "The energy was measured over less than 30 s."),
        ({"shared_gpu": True}, "Another process was on the GPU"),
        ({"differs": "from full in batch_size"}, "The arm differs from full in batch_size."),
        ({"failures": "oom 2", "n_failed": 2}, "Of the arm's runs, 2 out of memory; no mean has them."),
    ],
)
def test_what_qualifies_a_number_stands_below_it(changes, said):
    plain, marked = (
        subject(synthetic.summary("lora", 4, 0, device="cuda", energy_window_short=False)) for _ in range(2)
    )
    for key, value in changes.items():
        (marked.arm if key in marked.arm and key not in marked.run else marked.run)[key] = value
    assert said in model_card(marked).text and said not in model_card(plain).text


def test_an_undefined_metric_is_no_result():
    run = synthetic.summary("lora", 4, 0, metric="mcc", metric_value=None, null_reasons={"metric_value": "one class"})
    card = model_card(subject(run))
    assert card.data.eval_results is None and "not measured: one class" in card.text
    assert card.data.metrics == ["matthews_correlation"]
    assert card_problems(str(card)) == []


NAMES = (
    *(
        "null",
        "1e5",
        "on",
        "2026-01-01",
        "0x1F",
        "1e3",
        "no",
        "1_000",
        ".inf",
        "yes",
        "12:30",
        "=",
        "~",
        "a: b",
        "a #b",
    ),
    *(
        "'",
        '"',
        "😀",
        "\\",
        "%x",
        "@x",
        "`x",
        "!x",
        "&x",
        "*x",
        "? x",
        "- x",
        "[x",
        "{x",
        "0o17",
        "1:2:3",
        "<<",
        "True",
    ),
)


def values(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """The scalars below a node, without keys."""
    if isinstance(node, yaml.ScalarNode):
        yield node
    for child in node.value if not isinstance(node, yaml.ScalarNode) else []:
        yield from values(child[1] if isinstance(node, yaml.MappingNode) else child)


@pytest.mark.parametrize("name", NAMES)
def test_names_that_yaml_takes_for_values_stay_texts(name):
    card = model_card(subject(synthetic.summary("lora", 4, 0, dataset=name, model=name)))
    (result,) = ModelCard(str(card)).data.eval_results
    assert result.dataset_name == name and card_problems(str(card)) == []
    block = re.match(r"---\n(.*?)\n---\n", str(card), re.DOTALL)[1]
    unquoted = {node.tag.rpartition(":")[2] for node in values(yaml.compose(block)) if node.style != '"'}
    assert unquoted <= {"float", "int", "bool"}  # whatever version a reader has, it takes no text for more
    assert name in {node.value for node in values(yaml.compose(block))}


def test_class_names_that_yaml_takes_for_values_stay_texts():
    made = subject(synthetic.summary("lora", 4, 0))
    made.data["labels"] = ["no", "1e3"]
    card = model_card(made)
    assert "labels = ['no', '1e3']" in card.text and "0 is `no`, 1 is `1e3`" in card.text


def test_texts_of_users_break_neither_metadata_nor_markdown():
    block = {**BLOCK, "path": HOSTILE, "text": [HOSTILE], "label": "a``b|c\n# d"}
    made = subject(synthetic.summary("lora", 4, 0), dataset=block)
    made.data["labels"] = ["```", HOSTILE]
    made.data["source"]["path"] = HOSTILE
    made.env["settings"]["peft"]["target_modules"] = "\n```\n# out of the block"
    card = model_card(made)
    data = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", str(card), re.DOTALL)[1])
    assert data["datasets"] == [HOSTILE]
    assert data["model-index"][0]["results"][0]["dataset"]["type"] == HOSTILE
    headings = [line for line in card.text.splitlines() if re.match("#+ ", line)]
    assert [line.split()[1] for line in headings] == ["lora-r4", "How", "Numbers", "Data", "Training"]
    assert "Label: ``` a``b|c # d ```." in card.text
    assert '0 is ```` ``` ````, 1 is `` own"er/a: b --- # `x` | <b> {{y}} é ``.' in card.text


def test_paths_in_settings_are_not_shown():
    made = subject(synthetic.summary("lora", 4, 0))
    made.env["settings"]["peft"] |= {
        "tokenizer_name_or_path": "models/own",
        "extra": ["/home/me/x", "~/y", "C:\\z", "a/b"],
    }
    card = model_card(made).text
    assert "models/own" not in card and "/home/me" not in card and "~/y" not in card and "C:" not in card
    assert card.count("(a path, not shown)") == 3 and '"a/b"' in card


def test_folders_lose_paths_and_keep_the_rest(tmp_path, monkeypatch):
    run, files = tmp_path / "run", {}
    (run / "adapter").mkdir(parents=True)
    files["adapter_config.json"] = {
        "base_model_name_or_path": "owner/base",
        "r": 4,
        "tokenizer_name_or_path": "/home/x",
    }
    files["tokenizer_config.json"] = {"name_or_path": "/home/x", "tokenizer_file": "/y", "sep_token": "/", "auto": None}
    for name, value in files.items():
        (run / "adapter" / name).write_text(json.dumps(value))
    (run / "adapter/adapter_model.safetensors").write_bytes(b"weights")
    (run / "adapter/README.md").write_text("a stub")
    before = content(run)
    for link in (os.link, no_links):
        monkeypatch.setattr(cards.os, "link", link)
        cards.write_folder((run / "adapter").iterdir(), tmp_path / "out", "owner/base", "the card")
        found = {path.name: path for path in (tmp_path / "out").iterdir()}
        assert json.loads(found["adapter_config.json"].read_text()) == {"base_model_name_or_path": "owner/base", "r": 4}
        assert json.loads(found["tokenizer_config.json"].read_text()) == {"sep_token": "/", "auto": None}
        assert found["adapter_model.safetensors"].read_bytes() == b"weights"
        assert found["README.md"].read_text() == "the card" and len(found) == 4
    assert content(run) == before
    assert without_paths({"base_model_name_or_path": None}, None) == {}


def test_data_of_packages_and_a_model_of_a_wheel_are_named_by_version():
    made = subject(synthetic.summary("full", None, 0), dataset={"source": "docstrings", "fractions": {"test": 0.2}})
    made.data["source"] = {"source": "docstrings", "packages": {"numpy": "2.4.6", "sympy": "1.14.0"}}
    made.env["model"] |= {"source": "wheel", "path": "tiny-model==1.0", "revision": None}
    card = model_card(made)
    assert "Full fine-tune of the model in the Python package `tiny-model==1.0`" in card.text
    assert "docstrings of `numpy==2.4.6`, `sympy==1.14.0`" in card.text
    made.env["model"]["dequantised_from"] = {"file": "m.gguf", "file_type": "MOSTLY_Q4_1", "tensor_types": ["Q4_1"]}
    said = "(its weights are those of the GGUF file `m.gguf`, MOSTLY_Q4_1), trained for"
    assert f"the model in the Python package `tiny-model==1.0` {said}" in model_card(made).text
    assert "test: 872 rows, a fraction of 0.2 carved from train." in card.text
    assert (card.data.datasets, card.data.base_model, card.data.eval_results[0].dataset_type) == (None, None, "sst2")


def no_links(source: Path, target: Path) -> None:
    raise OSError("another file system")


def test_what_a_card_needs_and_is_missing_is_named(tmp_path):
    run = synthetic.summary("lora", 4, 0)
    synthetic.write(tmp_path, [run])
    weights = tmp_path / "runs/sst2/distilbert/lora-r4/seed0/adapter/adapter_model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"weights")
    synthetic.seal(weights.parents[1])
    frame = tables.runs_frame([run])
    words = (frame, tables.arms_frame(frame), pd.DataFrame(columns=list(COLUMNS)))
    folders = (tmp_path / "runs", tmp_path / "data", tmp_path, tmp_path / "models")
    with pytest.raises(InputError, match=r"data/sst2/dataset\.json: no such file; run `snakemake export`"):
        cards.publish(*words, {"sst2": BLOCK}, cards.Folders(*folders))
    with pytest.raises(InputError, match="--datasets: no block of the data set sst2"):
        cards.publish(*words, {}, cards.Folders(*folders))


def test_runs_without_weights_are_listed_with_the_reason(tmp_path):
    runs = [
        synthetic.oom("full", None, 0),
        synthetic.summary("lora", 4, 0),
        synthetic.summary("lora", 8, 0, pretrained=False),
    ]
    synthetic.write(tmp_path, runs)
    frame = tables.runs_frame(runs)
    none = pd.DataFrame(columns=list(COLUMNS))
    folders = (tmp_path / "runs", tmp_path, tmp_path, tmp_path / "models")
    cards.publish(frame, tables.arms_frame(frame), none, {"sst2": BLOCK}, cards.Folders(*folders))
    index = pd.read_csv(tmp_path / "models/index.csv")
    assert index["folder"].isna().all()
    assert index.set_index("arm")["reason"].to_dict() == {
        "full": "the run ended in status oom",
        "lora-r4": "its weights were not kept (keep_weights is false)",
        "lora-r8": "its base model has random weights, which nobody else has",
    }
