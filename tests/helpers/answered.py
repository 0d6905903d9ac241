"""Runs that never ran and what they would have written: outputs, scores and the data that they are answers to."""

import csv
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import synthetic
from peft_tradeoffs.core.files import OUTPUTS, PREDICTIONS, SCORES
from peft_tradeoffs.tasks.metrics import NAMES, OF_TEXT, of_task
from peft_tradeoffs.tasks.outputs import STATISTICS, statistics
from peft_tradeoffs.tasks.task import TASKS

CUT = 24  # tokens after which an answer is cut
# Of a run that generates, beside what every run has.
GENERATED = {
    **{"max_new_tokens": CUT, "generate_batch_size": 16, "generate_engine": "eager", "scored_as": "5" * 64},
    **{"ended_share": 0.9, "answer_tokens": 12.0, "generate_s": 5.0, "generate_tokens_per_s": 190.0},
    **{f"generate_{peak}_MiB": 700.0 for peak in ("peak_allocated", "peak_reserved", "process", "peak_rss")},
}
Answer = tuple[str, bool]  # what was written, and whether the model ended it
Answering = Callable[[str, int, int], Answer]  # by arm, seed and row


def summary(method: str, rank: int | None, seed: int, metric: str = "exact_match", **changes: Any) -> dict[str, Any]:
    """A completed run whose model writes; the reported metric is one of what it writes, or of tokens."""
    value = synthetic.summary(method, rank, seed)["accuracy"] * (100 if metric in ("bleu", "chrf") else 1)
    scores = {**dict.fromkeys(NAMES), "metric_value": value, metric: value}
    if metric not in [one.name for one in of_task("outputs")]:
        scores["exact_match"] = 0.4
    own = {**GENERATED, **scores, "task": "sft", "metric": metric, "positive_class": None, "head_parameters": 0}
    on_gpu = changes.get("device") == "cuda"
    if not on_gpu:
        own |= {key: None for key in own if synthetic.GPU_ONLY.search(key)}
    return synthetic.summary(method, rank, seed, **{**own, **changes})


def write(
    folder: Path,
    summaries: Sequence[dict[str, Any]],
    asked: Sequence[Sequence[str]],
    answer: Answering,
    score: Callable[[list[str]], Any] | None = None,
) -> None:
    """Write what runs in `folder` answered to the rows `asked`, each a prompt and a reference, or a chat as JSON.

    `score`: the statistics [n, K] of n texts; without it they are what they are of those references.
    """
    for name in dict.fromkeys(run["dataset"] for run in summaries):
        data = folder / "data" / name
        data.mkdir(parents=True, exist_ok=True)
        columns = ("text_a", "text_b")[: len(asked[0])]
        table = pd.DataFrame([list(texts) for texts in asked], columns=list(columns))
        table.assign(label=0, row=range(len(asked))).to_parquet(data / "test.parquet")
        sha256 = hashlib.sha256((data / "test.parquet").read_bytes()).hexdigest()
        splits = {"test": {"rows": len(asked), "sha256": sha256}}
        described = {"task": "sft", "labels": None, "warnings": [], "splits": splits, "sha256": "e" * 64}
        (data / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    references = [[texts[-1]] for texts in asked]
    for run in summaries:
        target = folder / "runs" / run["dataset"] / run["model"] / run["arm"] / f"seed{run['seed']}"
        written = [answer(run["arm"], run["seed"], row) for row in range(len(asked))]
        texts = write_outputs(target, written)
        write_scores(target, statistics(texts, references) if score is None else score(texts))
        synthetic.seal(target)


def write_outputs(target: Path, written: Sequence[Answer]) -> list[str]:
    """Write the answers of a run; their texts."""
    lines = (
        {"row": row, "output": text, "tokens": len(text.split()) if ended else CUT, "ended": ended}
        for row, (text, ended) in enumerate(written)
    )
    (target / OUTPUTS).write_text(
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8"
    )
    return [text for text, _ in written]


def write_scores(target: Path, parts: Any) -> None:
    """Write what each answer adds to the metrics, the columns STATISTICS."""
    with (target / SCORES).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", *STATISTICS])
        for row, own in enumerate(parts):
            writer.writerow([row, *("" if math.isnan(value) else format(value, ".17g") for value in own)])


def untrained(folder: Path, asked: Sequence[Sequence[str]], written: Sequence[Answer], **changes: Any) -> Path:
    """Write what the model of sst2 and distilbert answered before any training; the folder of it."""
    target = folder / "untrained/sst2/distilbert"
    target.mkdir(parents=True)
    texts = write_outputs(target, written)
    write_scores(target, statistics(texts, [[own[-1]] for own in asked]))
    rows = np.arange(len(asked))
    numbers = np.column_stack([1.0 + rows, np.full(len(rows), 4.0), rows % 4])  # loss, tokens, right
    task = TASKS["sft"]
    task.write(target / PREDICTIONS, task.predicted(rows, numbers[:, 1], numbers))
    scored = task.read(target / PREDICTIONS, {"row": rows, **dict(zip(OF_TEXT, numbers.T, strict=True))}, len(rows))
    values = {metric.name: metric.of(scored) for metric in (*of_task("outputs"), *of_task("tokens"))}
    summary = {
        **{"status": "completed", "failed_phase": None, "dataset": "sst2", "model": "distilbert", "task": "sft"},
        **{"precision": "fp32", "dtype": "float32", "device": "cpu", "device_name": "a CPU", "pretrained": True},
        **{"test_rows": len(rows), "max_new_tokens": CUT, "test_loss": values["token_loss"], "data_sha256": "d" * 64},
        **{"ended_share": float(np.mean([ended for _, ended in written])), "answer_tokens": 3.25, "fingerprint": "f"},
    }
    synthetic.seal(target, {**summary, **values, "null_reasons": {}, **changes})
    return target
