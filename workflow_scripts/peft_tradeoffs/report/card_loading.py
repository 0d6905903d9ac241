"""How saved weights are loaded with Transformers and PEFT alone, as an example for a model card."""

from typing import Any

from peft_tradeoffs.core.markdown_text import fenced

HEAD = "head.json"  # as classifier.HEAD, whose import takes seconds
SAVED = "OWNER/NAME"  # what a reader puts the repository's id, or a folder, in place of
OWN_BASE = "BASE"


def example(env: dict[str, Any], tokens: dict[str, Any], pair: bool, labels: list[str] | None = None) -> str:
    """A block of Python code that loads the run's weights and predicts one text.

    `env`: the run's env.json; `tokens`: the description of its tokens; `pair`: texts come in pairs; `labels`: the names
    of the classes, if they are few; of more, the file beside the adapter has them.
    """
    length = tokens["max_length"]
    texts = '"a text", "and its pair"' if pair else '"a text"'
    lines = _adapter(env, tokens, labels) if env["settings"]["peft"] else _checkpoint()
    lines += [
        "model.eval()",
        f'inputs = tokenizer({texts}, truncation=True, max_length={length}, return_tensors="pt")',
        "with torch.no_grad():",
        "    logits = model(**inputs).logits",
    ]
    if targets := env.get("targets"):
        if targets["in_weights"]:
            lines.append("value = logits[0, 0]  # in the units of the data")
        else:  # what is learned are standard deviations from the mean of the training targets
            lines.append(f"value = logits[0, 0] * {targets['sd']!r} + {targets['mean']!r}  # in the units of the data")
    return fenced("\n".join(lines), "python")


def _checkpoint() -> list[str]:
    return [
        "import torch",
        "from transformers import AutoModelForSequenceClassification, AutoTokenizer",
        "",
        f'saved = "{SAVED}"  # or this folder',
        "tokenizer = AutoTokenizer.from_pretrained(saved)",
        "model = AutoModelForSequenceClassification.from_pretrained(saved)",
    ]


def _adapter(env: dict[str, Any], tokens: dict[str, Any], labels: list[str] | None) -> list[str]:
    model, quantization = env["model"], env["settings"]["quantization"]
    lines = ["import torch", "from peft import PeftModel"]
    names = ["AutoModelForSequenceClassification", "AutoTokenizer", *(["BitsAndBytesConfig"] if quantization else [])]
    lines += [f"from transformers import {', '.join(names)}", "", f'saved = "{SAVED}"  # or this folder']
    if model["source"] == "hub":
        lines.append(f"base = {model['path']!r}")
        where = f"base, revision={model['revision']!r}"
    else:
        lines.append(f'base = "{OWN_BASE}"  # the folder of the base model, which is described below')
        where = "base"
    options = [f"num_labels={tokens['num_labels']}", f"pad_token_id={tokens['pad_token_id']}"]
    if tokens["num_labels"] == 1:
        options.append('problem_type="regression"')
    elif not labels:
        lines.append(f"# the names of the classes: `labels` in the file {HEAD} beside the adapter")
    else:
        lines.append(f"labels = {labels!r}")
        options.append("id2label=dict(enumerate(labels))")
        options.append("label2id={name: index for index, name in enumerate(labels)}")
    if quantization:
        # The head is never quantised, nor what some models have in it below another name.
        skip = [name for part in model["head"] for name in (part, f"{part}.dense")]
        fields = [f"{key}={value!r}" for key, value in quantization.items()]
        lines.append(f"quantization = BitsAndBytesConfig({', '.join(fields)}, llm_int8_skip_modules={skip!r})")
        options.append("quantization_config=quantization")
    options.append("ignore_mismatched_sizes=True")  # the base's own head may have other classes; the adapter has ours
    return [
        *lines,
        f"tokenizer = AutoTokenizer.from_pretrained({where})",
        f"model = AutoModelForSequenceClassification.from_pretrained({where}, {', '.join(options)})",
        "model = PeftModel.from_pretrained(model, saved)",
    ]
