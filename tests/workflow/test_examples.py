"""Every file in examples/ runs, on tiny models and, where it reads files, on files written here."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import reloaded
import sacrebleu
import small_examples
import tiny
import tiny_causal
import yaml
from peft_tradeoffs.report.answers import legible
from small_examples import EXAMPLES, docstrings, example
from transformers import AutoModelForCausalLM, AutoTokenizer

# of GLUE's files: arms
SST2 = {"sst2-minilm": 3, "sst2-minilm-gpu": 12, "sst2-choice": 9, "learning-rate-trap": 6}


def rows(count: int, seed: int) -> list[tuple[str, int]]:
    return tiny.sentences(count, seed)


def texts(path: Path, columns: list[str]) -> list[list[str]]:
    readers = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    frame = readers[path.suffix](path)
    return frame[columns].astype(str).to_numpy().tolist()


def docstring_texts(folder: Path) -> dict[int, list[str]]:
    """Test texts of the docstring data set by row."""
    frame = pd.read_parquet(folder / "results/data/docstrings/test.parquet").set_index("row")
    return {row: [text] for row, text in frame["text_a"].items()}


def test_demo_in_small_from_a_wheel(demo):
    """Docstrings, wheel, all arms and seeds, tables, figures."""
    found = tiny.summaries(demo.parent)
    arms = ["full", "lora-r4", "lora-r16", "qlora-r16"]
    assert set(found) == {f"{arm}/seed{seed}" for arm in arms for seed in range(3)}
    assert {run["train_rows"] for run in found.values()} == {64}
    table = pd.read_csv(demo / "tables/arms.csv")
    assert table["arm"].tolist() == arms
    figures = [path for path in demo.glob("figures/docstrings/minilm/*") if path.is_file()]
    bare = {path.name for path in demo.glob("figures/docstrings/minilm/paper/*")}
    assert bare == {f"{path.stem}{kind}" for path in figures for kind in (".svg", ".pdf", ".txt")}
    formats = {figure.suffix for figure in figures}
    assert formats == {".svg", ".pdf", ".png"}
    assert len(figures) == 16 * len(formats)  # with a sweep and the learning-rate grid
    assert all(figure.stat().st_size > 2000 for figure in figures)


def test_peft_methods_are_configuration(tmp_path, tiny_bert):
    (tmp_path / "model").symlink_to(tiny_bert)
    settings = docstrings(example("peft-methods"))
    settings["methods"]["vera"]["ranks"] = [16]
    tiny.snakemake(tmp_path, settings, "tables")
    found = {name.split("/")[0]: run for name, run in tiny.summaries(tmp_path).items()}
    assert set(found) == {"lora-r8", "dora-r8", "rslora-r8", "ia3", "vera-r16", "oft"}
    adapters = {arm: run["adapter_parameters"] for arm, run in found.items()}
    layers, width = 2, 64
    assert adapters["lora-r8"] == adapters["rslora-r8"] == layers * 2 * 2 * 8 * width
    assert adapters["dora-r8"] == adapters["lora-r8"] + layers * 2 * width  # a magnitude a column
    assert adapters["ia3"] == layers * 4 * width  # key, value and two output.dense
    assert adapters["vera-r16"] == layers * 2 * (16 + width)
    assert adapters["oft"] == layers * 2 * (width // 32) * (32 * 31 // 2)  # skew-symmetric blocks
    assert len({run["head_parameters"] for run in found.values()}) == 1
    saved = [tmp_path / f"results/runs/docstrings/minilm/{arm}/seed0" for arm in found]
    reloaded.check(saved, docstring_texts(tmp_path), num_labels=5)


def test_sentence_pairs(tmp_path, tiny_bert):
    (tmp_path / "model").symlink_to(tiny_bert)
    for name, count in (("train", 64), ("test", 24)):
        path = tmp_path / f"data/paraphrases/{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        pairs = zip(rows(count, 1), rows(count, 3), strict=True)
        frame = pd.DataFrame(
            [(a, b, "same" if i % 2 else "other") for i, ((a, _), (b, _)) in enumerate(pairs)],
            columns=["sentence1", "sentence2", "label"],
        )
        frame.to_csv(path, index=False)
    tiny.snakemake(tmp_path, example("sentence-pairs"), "tables")
    found = tiny.summaries(tmp_path)
    for run in found.values():
        assert run["metric"] == "f1"
        assert run["metric_value"] == run["f1"]
    pairs = texts(tmp_path / "data/paraphrases/test.csv", ["sentence1", "sentence2"])
    reloaded.check((tmp_path / f"results/runs/paraphrases/minilm/{name}" for name in found), pairs, num_labels=2)


def test_multi_class(tmp_path, tiny_bert):
    (tmp_path / "model").symlink_to(tiny_bert)
    frame = pd.DataFrame(rows(90, 1), columns=["text", "topic"])
    frame["topic"] = [["sport", "art", "news"][i % 3] for i in range(len(frame))]
    (tmp_path / "data").mkdir()
    frame.to_json(tmp_path / "data/topics.jsonl", orient="records", lines=True)
    tiny.snakemake(tmp_path, example("multi-class"), "tables")
    for name, run in tiny.summaries(tmp_path).items():
        assert run["metric_value"] == run["mcc"]
        assert 0 <= run["f1"] <= 1
        curve = pd.read_csv(tmp_path / f"results/runs/topics/minilm/{name}/metrics.csv")
        assert set(curve["split"]) == {"validation", "test"}
        assert (curve.groupby("split").size() == round(run["epochs"])).all()


def test_regression(tmp_path, tiny_bert):
    (tmp_path / "model").symlink_to(tiny_bert)
    for name, count in (("train", 64), ("test", 24)):
        path = tmp_path / f"data/similarity/{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pairs = list(zip(rows(count, 1), rows(count, 3), strict=True))
        frame = pd.DataFrame([(a, b) for (a, _), (b, _) in pairs], columns=["sentence1", "sentence2"])
        frame["score"] = [len(set(a.split()) & set(b.split())) / 3 for (a, _), (b, _) in pairs]
        frame.to_parquet(path)
    tiny.snakemake(tmp_path, example("regression"))
    found = tiny.summaries(tmp_path)
    for run in found.values():
        assert run["accuracy"] is None
        assert "accuracy" in run["null_reasons"]
        assert -1 <= run["pearson"] <= 1
        assert run["metric_value"] == run["spearman"]
    pairs = texts(tmp_path / "data/similarity/test.parquet", ["sentence1", "sentence2"])
    reloaded.check((tmp_path / f"results/runs/similarity/minilm/{name}" for name in found), pairs, num_labels=1)


def test_decoder(tmp_path, tiny_llama):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/llama").symlink_to(tiny_llama)
    settings = docstrings(example("decoder", source="folder", path="models/llama"))
    tiny.snakemake(tmp_path, settings, "runs")
    found = tiny.summaries(tmp_path)
    assert {run["head_parameters"] for run in found.values()} == {5 * 64}  # one row per class, no bias
    saved = (tmp_path / f"results/runs/docstrings/llama/{name}" for name in found)
    reloaded.check(saved, docstring_texts(tmp_path), num_labels=5, pad_token_id=1)


def without_rates(methods: dict[str, Any]) -> dict[str, Any]:
    return {name: {**block, "learning_rate": None} for name, block in methods.items()}


def causal(name: str, folder: Path, **training: Any) -> dict[str, Any]:
    """An example of a causal model in small, in fp32 on a CPU, its model in `folder`.

    generate.yaml has three methods; the others have the same four. sft.yaml's run; of the others two do.
    """
    tiny_causal.causal(folder / "model")
    settings = example(name)
    if name == "generate":
        del settings["methods"]["qlora"]
    else:
        assert without_rates(settings["methods"]) == without_rates(example("sft")["methods"])
    if name not in ("sft", "generate"):
        settings["methods"] = {method: settings["methods"][method] for method in ("full", "qlora")}
    settings["training"].update(device="cpu", precision="fp32", max_length=96, **training)
    if "qlora" in settings["methods"]:
        settings["methods"]["qlora"]["quantization"]["bnb_4bit_compute_dtype"] = "float32"
    return settings


def test_sft(tmp_path):
    """Prompts and completions through a template, rates tuned by the loss on validation; what runs saved loads."""
    for name, count in (("train", 64), ("val", 24), ("test", 24)):
        pairs = [(prompt, completion.strip()) for prompt, completion in tiny_causal.rows(count, len(name))]
        tiny.write_tsv(tmp_path / f"data/NL-RX-Turk/{name}.tsv", pairs, "description\tregex")
    settings = causal("sft", tmp_path)
    for method in settings["methods"].values():
        method["learning_rate"] = [1e-3, 1e-2]
    settings["tune"] = {"retry": 0}
    texts = pd.DataFrame({"text": [prompt for prompt, _ in tiny_causal.rows(20, 9)]})
    texts.to_csv(tmp_path / "data/general.csv", index=False)
    general = {"source": "files", "path": "data/general.csv", "text": ["text"], "rows": 12}
    settings["datasets"]["regex"]["forgetting"] = general
    tiny.snakemake(tmp_path, settings)
    found = tiny.summaries(tmp_path)
    assert set(found) == {f"{arm}/seed0" for arm in ("full", "lora-r16", "qlora-r16", "dora-r16")}
    for name, run in found.items():
        assert run["metric_value"] == run["token_loss"] == run["test_loss"] and run["accuracy"] is None
        assert run["perplexity"] == pytest.approx(math.exp(run["token_loss"]))
        chosen = json.loads((tmp_path / f"results/tune/best/regex/smollm2/{name.split('/')[0]}.json").read_text())
        losses = {trial["learning_rate"]: trial["value"] for trial in chosen["trials"]}
        assert chosen["learning_rate"] == min(losses, key=losses.get) and chosen["dev"] == "validation"
    table = pd.read_csv(tmp_path / "results/tables/comparison.csv").set_index("arm")
    gap = table["mean"] - table.loc["full", "mean"]
    assert table["difference"].dropna().to_dict() == pytest.approx(gap.drop("full").to_dict())
    page = (tmp_path / "results/report.html").read_text(encoding="utf-8")
    assert "Loss per token" in page and "nats" in page
    saved = [tmp_path / f"results/runs/regex/smollm2/{name}" for name in found]
    reloaded.check_losses(saved, tmp_path / "results/data/regex/test.parquet")
    check_forgetting(tmp_path, found)


def test_generate(tmp_path):
    """What models write is kept, right, and chooses rates; another scorer scores it again without training."""
    for name, count in (("train", 64), ("val", 16), ("test", 24)):
        pairs = [(prompt, completion.strip()) for prompt, completion in tiny_causal.rows(count, len(name))]
        tiny.write_tsv(tmp_path / f"data/NL-RX-Turk/{name}.tsv", pairs, "description\tregex")
    settings = causal("generate", tmp_path)
    for method in settings["methods"].values():
        method["learning_rate"] = [1e-3, 1e-2]
    settings["tune"] = {"retry": 0}
    settings["comparison"] = {"margin": 0.5}
    block = settings["datasets"]["regex"]
    block |= {"generate": {"max_new_tokens": 12, "batch_size": 16}, "metric": "chrf"}
    block["scorer"] = {"python": "own.py:f", "range": [0, 1]}
    (tmp_path / "own.py").write_text("def f(prompt, references, output):\n    return bool(output)\n")
    planned = tiny.snakemake(tmp_path, settings, "tables", "-n").stdout
    assert re.search(r"^answer_untrained +1$", planned, re.MULTILINE)
    tiny.snakemake(tmp_path, settings, "tables", "results/report.html")
    found = tiny.summaries(tmp_path)
    assert set(found) == {"full/seed0", "lora-r16/seed0"}
    test = pd.read_parquet(tmp_path / "results/data/regex/test.parquet").set_index("row")
    for name, run in found.items():
        folder = tmp_path / f"results/runs/regex/smollm2/{name}"
        answers = [json.loads(line) for line in (folder / "outputs.jsonl").read_text().splitlines()]
        assert [one["row"] for one in answers] == test.index.tolist()
        texts, right = [one["output"] for one in answers], test["text_b"].tolist()
        assert run["chrf"] == run["metric_value"] == pytest.approx(sacrebleu.corpus_chrf(texts, [right]).score)
        assert run["exact_match"] == np.mean([one.strip() == other for one, other in zip(texts, right, strict=True)])
        assert run["own_score"] == np.mean([bool(text) for text in texts])
        assert run["ended_share"] == np.mean([one["ended"] for one in answers])
        assert run["answer_tokens"] == pytest.approx(np.mean([one["tokens"] for one in answers]))
        chosen = json.loads((tmp_path / f"results/tune/best/regex/smollm2/{name.split('/')[0]}.json").read_text())
        values = {trial["learning_rate"]: trial["value"] for trial in chosen["trials"]}
        assert chosen["metric"] == "chrf" and values[chosen["learning_rate"]] == max(values.values())
    run = tmp_path / "results/runs/regex/smollm2/full/seed0"
    assert_written_by(run / "checkpoint", run, test["text_a"].tolist())
    untrained = check_untrained(tmp_path, test, found)
    table = pd.read_csv(tmp_path / "results/tables/comparison.csv").set_index("arm")
    assert table.loc["lora-r16", "difference"] == pytest.approx(table["mean"].diff().iloc[1])

    (tmp_path / "own.py").write_text("def f(prompt, references, output):\n    return 0.25\n")
    tiny.snakemake(tmp_path, settings, "tables")
    again = tiny.summaries(tmp_path)
    for name, run in again.items():
        changed = {key for key in run if run[key] != found[name][key]} - {"files", "sha256"}
        assert changed == {"own_score", "scored_as"} and run["own_score"] == 0.25
    before = json.loads((tmp_path / "results/untrained/regex/smollm2/summary.json").read_text())
    assert {key for key in before if before[key] != untrained[key]} - {"files", "sha256"} == {"own_score", "scored_as"}
    assert pd.read_csv(tmp_path / "results/tables/untrained.csv")["own_score"].tolist() == [0.25]


def check_untrained(folder: Path, test: pd.DataFrame, runs: dict[str, Any]) -> dict[str, Any]:
    """What the model wrote before any training stands beside the arms, and nothing compares it; its summary."""
    own = folder / "results/untrained/regex/smollm2"
    summary = json.loads((own / "summary.json").read_text())
    assert_written_by(folder / "model", own, test["text_a"].tolist())
    answers = [json.loads(line) for line in (own / "outputs.jsonl").read_text().splitlines()]
    texts = [one["output"] for one in answers]
    chrf = sacrebleu.corpus_chrf(texts, [test["text_b"].tolist()]).score
    row = pd.read_csv(folder / "results/tables/untrained.csv").iloc[0]
    for found in (summary, row):
        assert found["chrf"] == pytest.approx(chrf) and found["own_score"] == np.mean([bool(text) for text in texts])
        assert found["ended_share"] == np.mean([one["ended"] for one in answers])
        assert found["answer_tokens"] == pytest.approx(np.mean([one["tokens"] for one in answers]))
    assert row["chrf_low"] < row["chrf"] < row["chrf_high"] and row["token_loss"] == summary["test_loss"]
    assert all(run["test_loss"] < summary["test_loss"] for run in runs.values())  # it is what training bought
    first = pd.read_csv(folder / "results/runs/regex/smollm2/full/seed0/predictions.csv")
    assert pd.read_csv(own / "predictions.csv")["tokens"].equals(first["tokens"])
    tables = {path.stem: path.read_text() for path in (folder / "results/tables").glob("*.csv")}
    assert [name for name, text in tables.items() if "untrained" in text] == []
    page = (folder / "results/report.html").read_text(encoding="utf-8")
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    (pair,) = data["pairs"]
    assert [arm["arm"] for arm in pair["arms"]] == ["full", "lora-r16"]
    assert pair["untrained"]["line"].startswith(f"Untrained: chrF {row['chrf']:.2f} [{row['chrf_low']:.2f}, ")
    shown = {one["row"]: one["untrained"] for one in pair["answers"]["prompts"]}
    assert {row: one["text"] for row, one in shown.items()} == dict(zip(test.index, map(legible, texts), strict=True))
    return summary


def assert_written_by(checkpoint: Path, run: Path, prompts: list[str]) -> None:
    """Transformers writes the texts of a run with this checkpoint, one prompt after another."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    answers = [json.loads(line)["output"] for line in (run / "outputs.jsonl").read_text().splitlines()]
    for prompt, answer in zip(prompts, answers, strict=True):
        turns = [{"role": "user", "content": prompt}]
        given = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        written = model.generate(**given, max_new_tokens=12, do_sample=False)[0, given["input_ids"].shape[1] :]
        assert tokenizer.decode(written, skip_special_tokens=True) == answer


def check_forgetting(folder: Path, found: dict[str, dict[str, Any]]) -> None:
    """Beside the test split each run has the loss on 12 general texts, its trials have none."""
    table = pd.read_csv(folder / "results/tables/forgetting.csv").set_index("arm")
    for name, run in found.items():
        arm, quantised = name.split("/")[0], name.startswith("qlora")
        own = pd.read_csv(folder / f"results/runs/regex/smollm2/{name}/predictions_general.csv")
        sums = own.drop(columns="row").sum()
        assert len(own) == table.loc[arm, "texts"] == 12 and run["forgetting_s"] > 0
        assert ("loss_original" in own) == quantised
        assert run["forgetting"] == pytest.approx((sums["loss_after"] - sums["loss_before"]) / sums["tokens"])
        assert table.loc[arm, "forgetting"] == pytest.approx(run["forgetting"])
        if quantised:
            lost = (sums["loss_after"] - sums["loss_original"]) / sums["tokens"]
            assert table.loc[arm, "vs_original"] == pytest.approx(lost) == run["forgetting_vs_original"]
            assert lost != pytest.approx(run["forgetting"], abs=1e-6)
        else:
            assert run["null_reasons"]["forgetting_vs_original"] == "the base model is not quantised"
    start = {name: run["forgetting_loss_before"] for name, run in found.items()}
    assert start["lora-r16/seed0"] == pytest.approx(start["full/seed0"], rel=1e-6)
    assert start["full/seed0"] == pytest.approx(found["qlora-r16/seed0"]["forgetting_loss_original"], rel=1e-6)
    assert start["full/seed0"] != pytest.approx(start["qlora-r16/seed0"], rel=1e-6)
    trial = json.loads(next(folder.glob("results/tune/trials/**/summary.json")).read_text(encoding="utf-8"))
    assert trial["null_reasons"]["forgetting"] == "the data set names no general text"
    page = (folder / "results/report.html").read_text(encoding="utf-8")
    assert "What was forgotten" in page and "Against the original" in page


def test_chat(tmp_path):
    chats = [{"messages": turns} for turns in tiny_causal.chats(40)]
    tiny_causal.write_rows(tmp_path / "data/chats.jsonl", chats)
    tiny.snakemake(tmp_path, causal("chat", tmp_path), "runs")
    assert {run["status"] for run in tiny.summaries(tmp_path).values()} == {"completed"}
    tokens = json.loads((tmp_path / "results/tokens/chats/smollm2.json").read_text())
    assert len(tokens["chat_template_sha256"]) == 64 and tokens["dropped"] == {"train": 0, "test": 0}


def test_alpaca(tmp_path):
    rows = [
        {"instruction": prompt, "input": "" if i % 2 else prompt[:5], "output": completion}
        for i, (prompt, completion) in enumerate(tiny_causal.rows(40))
    ]
    tiny_causal.write_rows(tmp_path / "data/instructions.jsonl", rows)
    settings = causal("alpaca", tmp_path)
    settings["training"]["max_length"] = 384
    tiny.snakemake(tmp_path, settings, "runs")
    assert {run["status"] for run in tiny.summaries(tmp_path).values()} == {"completed"}
    dropped = json.loads((tmp_path / "results/tokens/instructions/smollm2.json").read_text())["dropped"]
    counts = next(iter(tiny.summaries(tmp_path).values()))
    assert counts["train_rows"] + counts["test_rows"] == 40 - sum(dropped.values())


def test_lm(tmp_path):
    settings = docstrings(causal("lm", tmp_path))
    tiny.snakemake(tmp_path, settings, "runs")
    runs = tiny.summaries(tmp_path)
    assert {run["status"] for run in runs.values()} == {"completed"}
    tokens = json.loads((tmp_path / "results/tokens/docstrings/smollm2.json").read_text())
    assert tokens["target_tokens"]["test"] > 32 * 5


RANDOM = {
    "llama": {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    | {"num_key_value_heads": 2},
    "distilbert": {"dim": 64, "hidden_dim": 64, "n_layers": 2, "n_heads": 2},
}


@pytest.mark.parametrize("kind", RANDOM)
def test_llama_1b_in_small_with_random_weights(tmp_path, tiny_bert, kind):
    """The example on a CPU: a model of its kind, and an encoder, drawn small, with a tokenizer from a folder."""
    (tmp_path / "origin").symlink_to(tiny_bert)
    fields = {"model_type": kind, "vocab_size": 28, "max_position_embeddings": 64, "dtype": "bfloat16", **RANDOM[kind]}
    model = {"source": "random", "config": fields, "tokenizer": {"source": "folder", "path": "origin"}}
    settings = docstrings(example("llama-1b", **model))
    assert settings["training"].pop("compile")
    settings["training"].update(device="cpu", max_steps=3)
    tiny.snakemake(tmp_path, settings, "tables" if kind == "llama" else "runs")
    manifest = json.loads((tmp_path / "results/models/llama-1b.json").read_text())
    assert (manifest["pretrained"], manifest["model_type"]) == (False, kind)
    found = tiny.summaries(tmp_path)
    assert set(found) == {"full/seed0", "lora-r16/seed0", "qlora-r16/seed0"}
    assert {run["status"] for run in found.values()} == {"completed"}
    assert {run["pretrained"] for run in found.values()} == {False}
    assert {run["metric_value"] for run in found.values()} == {None}
    weights = {name.split("/")[0]: run["weights_MiB"] for name, run in found.items()}
    assert weights["qlora-r16"] < weights["lora-r16"]


def test_llama_1b_has_a_billion_parameters_and_is_planned(tmp_path):
    import torch
    from transformers import AutoModel, LlamaConfig

    settings = yaml.safe_load((EXAMPLES / "llama-1b.yaml").read_text(encoding="utf-8"))
    with torch.device("meta"):
        model = AutoModel.from_config(LlamaConfig(**settings["models"]["llama-1b"]["config"]))
    assert 1.0e9 < sum(parameter.numel() for parameter in model.parameters()) < 1.1e9
    said = tiny.snakemake(tmp_path, settings, "-n").stdout
    assert said.count("rule train:") == 3
    assert "rule fetch_model:" in said


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_tested_here(path):
    """Each example is run here by name, except those on SST-2, which need GLUE's files; they are planned."""
    if path.stem not in SST2:
        texts = "".join(Path(file).read_text(encoding="utf-8") for file in (__file__, small_examples.__file__))
        assert f'example("{path.stem}"' in texts or f'causal("{path.stem}"' in texts


def test_rates_of_the_study_differ_from_sft_in_rates_alone():
    """docs/studies.md names it as what its table was made with."""
    from peft_tradeoffs.config.experiment import resolve

    settings, other = example("sft-rates"), example("sft")
    assert all(settings[key] == other[key] for key in ("datasets", "models", "training", "seeds"))
    assert list(resolve(settings).arms) == ["full", "lora-r16", "qlora-r16", "lora-at-fulls-rate-r16"]


@pytest.mark.parametrize(("name", "arms"), SST2.items())
def test_sst2_example_is_planned(tmp_path, name, arms):
    for split, count in (("train", 12), ("dev", 10)):
        tiny.write_tsv(tmp_path / f"data/SST-2/{split}.tsv", rows(count, 1))
    settings = yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text(encoding="utf-8"))
    said = tiny.snakemake(tmp_path, settings, "-n").stdout
    assert said.count("rule train:") == arms
