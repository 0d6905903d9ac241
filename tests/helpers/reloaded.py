"""What runs saved, loaded with Transformers and PEFT alone in a new process, beside what the runs recorded."""

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import tiny

# Knows nothing of the project: the saved folder, the base model, the texts.
PREDICT = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

def predict(request):
    tokenizer = AutoTokenizer.from_pretrained(request["base"])
    if request["adapter"]:
        from peft import PeftModel
        quantization = request["quantization"] and BitsAndBytesConfig(
            **request["quantization"], llm_int8_skip_modules=request["skip"])
        model = AutoModelForSequenceClassification.from_pretrained(
            request["base"], num_labels=request["num_labels"], quantization_config=quantization,
            pad_token_id=request["pad_token_id"])
        model = PeftModel.from_pretrained(model, request["saved"])
    else:
        model = AutoModelForSequenceClassification.from_pretrained(request["saved"])
        tokenizer = AutoTokenizer.from_pretrained(request["saved"])
    model.eval()
    for text in request["texts"]:
        inputs = tokenizer(*text, truncation=True, max_length=request["max_length"], return_tensors="pt")
        with torch.no_grad():
            yield model(**inputs).logits[0].float().tolist()

json.dump([list(predict(request)) for request in json.load(sys.stdin)], sys.stdout)
"""


def _request(run: Path, texts: list[list[str]], num_labels: int, pad_token_id: int) -> dict[str, Any]:
    environment = json.loads((run / "env.json").read_text())
    settings = environment["settings"]
    adapter = (run / "adapter").is_dir()
    return {
        "base": str(run.parents[4] / "models" / settings["model"]),
        "adapter": adapter,
        "saved": str(run / ("adapter" if adapter else "checkpoint")),
        "quantization": settings["quantization"],
        "skip": [name for part in environment["model"]["head"] for name in (part, f"{part}.dense")],
        "max_length": settings["max_length"],
        "texts": texts,
        "num_labels": num_labels,
        "pad_token_id": pad_token_id,
    }


def check(
    runs: Iterable[Path], texts: list[list[str]] | dict[int, list[str]], num_labels: int, pad_token_id: int = 0
) -> None:
    """Compare every logit and prediction of the runs with those of the models they saved."""
    tables = {run: pd.read_csv(run / "predictions.csv") for run in runs}
    requests = [
        _request(run, [texts[row] for row in table["row"]], num_labels, pad_token_id) for run, table in tables.items()
    ]
    done = subprocess.run(
        [sys.executable, "-c", PREDICT],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        env=tiny.environment(),
    )
    assert tables and done.returncode == 0, done.stderr
    for (run, table), logits in zip(tables.items(), json.loads(done.stdout), strict=True):
        _compare(run, table, pd.DataFrame(logits), num_labels)


def _compare(run: Path, recorded: pd.DataFrame, logits: pd.DataFrame, num_labels: int) -> None:
    columns = [name for name in recorded if name.startswith("logit_")]
    assert len(columns) == num_labels
    # NF4 in evaluation runs in bfloat16 on CPUs that have it, unless told otherwise as the workflow does.
    tolerance = 0.03 if "qlora" in run.parent.name else 1e-4
    assert abs(logits.to_numpy() - recorded[columns].to_numpy()).max() < tolerance
    if num_labels == 1:
        assert recorded["prediction"].tolist() == recorded["logit_0"].tolist()
        return
    ordered = recorded[columns].to_numpy().copy()
    ordered.sort(axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 2 * tolerance
    assert clear.sum() > len(recorded) / 2
    assert (logits.to_numpy().argmax(axis=1)[clear] == recorded["prediction"][clear]).all()


# As PREDICT, of causal models: the mean loss of each row's completion, a row as the tokenizer's template writes it.
LOSSES = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

def losses(request):
    if request["adapter"]:
        from peft import PeftModel
        quantization = request["quantization"] and BitsAndBytesConfig(**request["quantization"])
        model = AutoModelForCausalLM.from_pretrained(request["base"], quantization_config=quantization)
        model = PeftModel.from_pretrained(model, request["saved"])
    else:
        model = AutoModelForCausalLM.from_pretrained(request["saved"])
    tokenizer = AutoTokenizer.from_pretrained(request["base"] if request["adapter"] else request["saved"])
    model.eval()
    for prompt, completion in request["texts"]:
        turns = [{"role": "user", "content": prompt}]
        before = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        end = tokenizer.eos_token
        ids = tokenizer(before + completion + end, add_special_tokens=False, return_tensors="pt")["input_ids"]
        start = len(tokenizer(before, add_special_tokens=False)["input_ids"])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, start - 1 : -1].float()
        yield torch.nn.functional.cross_entropy(logits, ids[0, start:], reduction="sum").item()

json.dump([list(losses(request)) for request in json.load(sys.stdin)], sys.stdout)
"""


def check_losses(runs: Iterable[Path], data: Path) -> None:
    """Compare the loss of every test row, a prompt and a completion, with that of the models that the runs saved."""
    texts = pd.read_parquet(data).set_index("row")[["text_a", "text_b"]]
    tables = {run: pd.read_csv(run / "predictions.csv") for run in runs}
    requests = [_request(run, texts.loc[table["row"]].to_numpy().tolist(), 0, 0) for run, table in tables.items()]
    done = subprocess.run(
        [sys.executable, "-c", LOSSES], input=json.dumps(requests), capture_output=True, text=True,
        env=tiny.environment(),
    )  # fmt: skip
    assert tables and done.returncode == 0, done.stderr
    for (run, table), found in zip(tables.items(), json.loads(done.stdout), strict=True):
        tolerance = 0.05 if "qlora" in run.parent.name else 1e-3
        assert abs(table["loss"].to_numpy() - found).max() < tolerance, run
