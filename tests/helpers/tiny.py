"""Tiny models, data sets and a way to run the workflow on them."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import forks
import numpy as np
import warm
import yaml

REPOSITORY = Path(__file__).parents[2]
GOOD = ["good", "fine", "great", "lovely", "warm"]
BAD = ["bad", "poor", "awful", "dull", "cold"]
FILLER = ["the", "film", "is", "a", "very", "long", "story", "of", "two", "people", "and", "their", "dog"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LORA = {"peft_type": "LORA", "target_modules": ["query", "value"], "lora_dropout": 0.05}
NO_HUB = {"HF_ENDPOINT": "http://127.0.0.1:9"}
NF4 = {"load_in_4bit": True, "bnb_4bit_compute_dtype": "float32"}
NF4_BF16 = {  # on a GPU
    "load_in_4bit": True,
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "bnb_4bit_compute_dtype": "bfloat16",
}
NF4_FP16 = {**NF4_BF16, "bnb_4bit_compute_dtype": "float16"}
TRAINING = {  # settings of the engine; tests change what they are about
    "learning_rate": 1e-3,
    "epochs": 5,
    "max_steps": None,
    "batch_size": 8,
    "gradient_accumulation_steps": 1,
    "evaluation_batch_size": 16,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.1,
    "optimizer": "adamw",
    "weight_decay": 0.01,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "generate": None,
    "precision": "bf16",
    "early_stopping": None,
    "task": "classification",
    "metric": "accuracy",
    "engine": "captured",
    "compile": False,
}


def bert(folder: Path) -> Path:
    """Save a random two-layer BERT with its tokenizer to `folder`."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    vocabulary = [*SPECIAL, *GOOD, *BAD, *FILLER]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    return folder


def build(folder: Path, **changes: Any) -> Any:
    """The model in `folder`, trained in full on two classes on a CPU; `changes`: to recipe, outputs, seed or device."""
    from peft_tradeoffs.training.methods import Outputs, Recipe, build

    recipe = {"peft": None, "quantization": None, "gradient_checkpointing": False, "head": None}
    recipe |= {"task": "classification", "dtype": "float32"}
    outputs = {"num_labels": 2, "pad_token_id": 0, "labels": None}
    rest = {"seed": 0, "device": "cpu", "checkpoint_arguments": None} | changes
    recipe, outputs = ({key: rest.pop(key, value) for key, value in each.items()} for each in (recipe, outputs))
    return build(folder, Recipe(**recipe), Outputs(**outputs), **rest)


def llama(folder: Path) -> Path:
    """Save a random two-layer Llama, whose tokenizer has no pad token, to `folder`."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    words = ["<s>", "</s>", "<unk>", *GOOD, *BAD, *FILLER]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaModel(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=64,
    ).save_pretrained(folder)
    return folder


def wheel(model: Path, folder: Path) -> Path:
    """Pack `model` as tiny_model==1.0 (under tiny_model/model) into a wheel in `folder`."""
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(model.iterdir()):
            archive.write(file, f"tiny_model/model/{file.name}")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def sentences(count: int, seed: int = 0) -> list[tuple[str, int]]:
    """Distinct-length sentences with their label: 1 if the words in them are good ones."""
    random = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        label = i % 2
        words = list(random.choice(FILLER, random.integers(3, 20)))
        for position in random.integers(0, len(words), 2):
            words[position] = str(random.choice(GOOD if label else BAD))
        rows.append((" ".join(words), label))
    return rows


def splits(
    tables: dict[str, Any], text: Sequence[str] = ("text",), task: str = "classification", **settings: Any
) -> Any:
    """The splits of tables with a column `label`, and the classes' names; `settings`: those of a draw, and warnings."""
    from peft_tradeoffs.inputs.splits import Draw, make_splits
    from peft_tradeoffs.tasks.task import TASKS

    warnings = settings.pop("warnings", [])
    return make_splits(tables, text, "label", TASKS[task], Draw(**settings), warnings)


def write_splits(splits: Any, names: list[str] | None, folder: Path, task: str = "classification") -> None:
    """Write splits that were made of local files."""
    from peft_tradeoffs.inputs.splits import write_splits
    from peft_tradeoffs.tasks.task import TASKS

    write_splits(splits, names, TASKS[task], {"source": "files"}, folder)


def write_tsv(path: Path, rows: list[tuple], header: str = "sentence\tlabel") -> Path:
    """Write rows under `header`, tab-separated."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [header, *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    """A small experiment on files below `folder`: full, LoRA and QLoRA, two seeds, one epoch."""
    return {
        "output": "results",
        "datasets": {
            "reviews": {
                "source": "files",
                "splits": {"train": "train.tsv", "test": "test.tsv"},
                "text": ["sentence"],
                "label": "label",
            }
        },
        "models": {"tiny": {"source": "folder", "path": "model"}},
        "methods": {
            "full": {"learning_rate": 1e-3},
            "lora": {"learning_rate": 1e-2, "ranks": [4], "peft": LORA},
            "qlora": {"learning_rate": 1e-2, "ranks": [4], "peft": LORA, "quantization": NF4},
        },
        "training": {"device": "cpu", "precision": "fp32", "epochs": 1, "batch_size": 8, "max_length": 32},
        "seeds": [0, 1],
        **changes,
    }


def write_inputs(folder: Path, model: Path, rows: int = 64) -> None:
    """Put train.tsv, test.tsv and a link to `model` into `folder`."""
    write_tsv(folder / "train.tsv", sentences(rows, seed=1))
    write_tsv(folder / "test.tsv", sentences(rows // 2, seed=2))
    if not (folder / "model").exists():
        (folder / "model").symlink_to(model)


def copy_workflow(folder: Path) -> None:
    """Put a copy of the workflow into `folder`, for a test that edits it or moves the folder."""
    for name in ("Snakefile", "rules", "workflow_scripts", "schemas", "envs", "report"):
        source, target = REPOSITORY / name, folder / "workflow" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def command(folder: Path, *words: str, cores: int = 2) -> list[str]:
    """The snakemake command line for config.yaml in `folder`, by the workflow's copy there if it has one."""
    copy = folder / "workflow" / "Snakefile"
    return [
        *(sys.executable, "-m", "snakemake"),
        *("--snakefile", str(copy if copy.exists() else REPOSITORY / "Snakefile"), "--directory", str(folder)),
        *("--cores", str(cores), "--rerun-incomplete", *words),
    ]


def environment(**changes: str) -> dict[str, str]:
    """This environment with no hub but a closed loopback port."""
    return {**os.environ, **NO_HUB, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **changes}


def snakemake(
    folder: Path, settings: dict[str, Any] | None, *words: str, check: bool = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the workflow in `folder` with `settings` as its config.yaml; on failure show what it said.

    What runs no job is done in a fork of a process that has imported Snakemake, unless `variables` say where to import;
    jobs run in forks of one that has imported what they need (`warm`).
    """
    if settings is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    jobless = {"-n", "--lint", "--unlock"} & set(words) and "PYTHONPATH" not in variables
    words = command(folder, *words)
    if jobless:
        done = _fork(words, environment(**variables))
    else:
        done = _run([warm.python(tuple(NO_HUB.items())), *words[1:]], environment(**variables))
    if check and done.returncode:
        logs = "\n".join(
            f"--- {log}\n{log.read_text()}" for log in sorted(folder.rglob("logs/**/*.log")) if log.stat().st_size
        )
        raise AssertionError(f"snakemake ended with {done.returncode}\n{done.stdout}\n{logs}")
    return done


def _run(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    pipe = subprocess.PIPE
    return subprocess.run(
        words, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=subprocess.STDOUT, text=True
    )


def _fork(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    with tempfile.NamedTemporaryFile() as said:
        call = forks.start(words[3:], Path(said.name), environment)
        call.join()
        return subprocess.CompletedProcess(words, call.exitcode or 0, Path(said.name).read_text())


def summaries(folder: Path) -> dict[str, dict[str, Any]]:
    """Every run's summary below `folder`, by "arm/seed"."""
    return {
        f"{path.parts[-3]}/{path.parts[-2]}": json.loads(path.read_text())
        for path in sorted(folder.glob("results/runs/*/*/*/seed*/summary.json"))
    }


def curve(run: Path) -> list[list[str]]:
    """metrics.csv without the seconds."""
    lines = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    seconds = lines[0].index("train_s")
    return [line[:seconds] + line[seconds + 1 :] for line in lines]
