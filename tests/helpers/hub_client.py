"""What the hub's tests share: repositories to serve, and hub.py called in processes of their own."""

import ctypes
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas
import tiny

SCRIPTS = Path(__file__).parents[2] / "workflow_scripts"
MODEL, DATASET = "tiny/bert", "tiny/glue"
REVISION = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 24, 1
LIBC = ctypes.CDLL(None)

# GLUE's own shape: the first configuration is not the one asked for; dataset_info states features and sizes.
GLUE_CARD = """\
---
license: other
configs:
- config_name: ax
  data_files:
  - split: test
    path: ax/test-*
- config_name: sst2
  data_files:
  - split: train
    path: sst2/train-*
  - split: validation
    path: sst2/validation-*
dataset_info:
- config_name: ax
  features:
  - {name: premise, dtype: string}
  splits:
  - {name: test, num_bytes: 100, num_examples: 4}
- config_name: sst2
  features:
  - {name: sentence, dtype: string}
  - name: label
    dtype:
      class_label:
        names: {'0': negative, '1': positive}
  - {name: idx, dtype: int32}
  splits:
  - {name: train, num_bytes: 300, num_examples: 6}
  - {name: validation, num_bytes: 100, num_examples: 2}
---
# Tiny GLUE
"""


def tiny_bert(folder: Path) -> Path:
    """A random BERT with a WordPiece tokenizer, and beside them the files that must not be fetched."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film"]
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForMaskedLM(BertConfig(vocab_size=len(words), max_position_embeddings=32, **shape))
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_evil.EvilModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "onnx").mkdir()
    for name in ("pytorch_model.bin", "tf_model.h5", "modeling_evil.py", "onnx/model.onnx", "README.md"):
        (folder / name).write_text("raise SystemExit('executed')")
    return folder


def tiny_glue(folder: Path) -> Path:
    """A data set repository of GLUE's shape: two configurations, Parquet files, a card."""
    (folder / "sst2").mkdir(parents=True)
    (folder / "ax").mkdir()
    (folder / "README.md").write_text(GLUE_CARD)
    for split, rows in (("train", 6), ("validation", 2)):
        frame = pandas.DataFrame(
            {"sentence": [f"{split} {i}" for i in range(rows)], "label": [i % 2 for i in range(rows)]}
        )
        frame["idx"] = pandas.Series(range(rows), dtype="int32")
        frame.to_parquet(folder / "sst2" / f"{split}-00000-of-00001.parquet", index=False)
    pandas.DataFrame({"premise": list("abcd")}).to_parquet(folder / "ax" / "test-00000-of-00001.parquet")
    return folder


def hub(home: Path, url: str, call: str, offline: bool = False) -> subprocess.CompletedProcess[str]:
    imports = "from peft_tradeoffs.core.errors import run\nfrom peft_tradeoffs.inputs.hub import *\n"
    code = f"{imports}run(lambda: print({call}))\n"
    return python(
        ["-c", code],
        HF_HOME=str(home),
        HF_ENDPOINT=url,
        HF_HUB_OFFLINE=str(int(offline)),
        NO_PROXY="127.0.0.1",
    )


def python(arguments: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """Python in a new process, for huggingface_hub reads its environment at import; file modes bind."""
    environment |= {"PATH": os.environ["PATH"], "PYTHONPATH": str(SCRIPTS), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        preexec_fn=obey_modes,
    )


def model_call(repo: str = MODEL, revision: str = REVISION) -> str:
    return f"model_snapshot({repo!r}, {revision!r})"


def dataset_call(config: str | None = "sst2", repo: str = DATASET, revision: str = REVISION) -> str:
    return f"dataset_snapshot({repo!r}, {revision!r}, {config!r})"


def succeed(*arguments, **options) -> Path:
    done = hub(*arguments, **options)
    assert done.returncode == 0, done.stderr
    assert "it/s" not in done.stderr, "no progress bars in a log"
    return Path(done.stdout.strip())


def fail(*arguments, **options) -> str:
    done = hub(*arguments, **options)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "error: " in done.stderr
    return done.stderr


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def listing(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every path below `folder` with inode, size and modification time."""
    states = {str(path): path.lstat() for path in [folder, *folder.rglob("*")]}
    return {path: (state.st_ino, state.st_size, state.st_mtime_ns) for path, state in states.items()}


def obey_modes() -> None:
    """Before exec: make file modes bind root as they bind everybody else."""
    LIBC.prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0)


def read_only(home: Path, to: Path) -> Path:
    """A copy of the cache that nobody may write to."""
    shutil.copytree(home, to, symlinks=True)
    subprocess.run(["chmod", "-R", "a-w,a+rX", str(to)], check=True)
    return to


LOADING = """
import sys
from pathlib import Path
from peft_tradeoffs.inputs.hub import load_dataset
folder, config, cache = sys.argv[1:]
data = load_dataset(Path(folder), config, Path(cache))
print({split: (len(rows), rows.features["label"]) for split, rows in data.items()}, data["train"][1])
"""


def load(home: Path, folder: Path, config: str, cache: Path) -> str:
    arguments = ["-c", LOADING, str(folder), config, str(cache)]
    done = python(arguments, HF_HOME=str(home), HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    return done.stdout


def experiment(output: str) -> dict:
    """Full and LoRA on a model and a data set of the hub, one seed."""
    settings = tiny.config(None, output=output, seeds=[0])
    settings["datasets"] = {
        "sst2": {
            "source": "hub",
            "path": DATASET,
            "config": "sst2",
            "revision": REVISION,
            "splits": {"train": "train", "test": "validation"},
            "text": ["sentence"],
            "label": "label",
        }
    }
    settings["models"] = {"tiny": {"source": "hub", "path": MODEL, "revision": REVISION}}
    del settings["methods"]["qlora"]
    return settings


def repositories(folder: Path) -> dict:
    """What HubServer serves to `experiment`, its files in `folder`."""
    model, data = tiny_bert(folder / "bert"), tiny_glue(folder / "glue")
    return {"models": {MODEL: {REVISION: model}}, "datasets": {DATASET: {REVISION: data}}}
