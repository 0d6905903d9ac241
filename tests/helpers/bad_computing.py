"""The table of bad inputs, continued: engine, precision and random models."""

from typing import Any

import tiny
from bad_inputs import FRESH, Fetch, Plan, both, put

BERT = {
    "model_type": "bert",
    **{"vocab_size": 28, "hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
    **{"intermediate_size": 64, "max_position_embeddings": 64},
}


def drawn(**changes: Any) -> dict[str, Any]:
    """A random model with the tiny BERT's tokenizer, and changes of its config."""
    return {"source": "random", "config": {**BERT, **changes}, "tokenizer": FRESH}


CASES: dict[str, tuple[Plan | Fetch, tuple[str, ...]]] = {
    # Engine and precision.
    "unknown engine": (
        Plan(put("training.engine", "graphs")),
        ("config key training.engine: 'graphs' is unknown; must be one of captured, eager, null",),
    ),
    "captured on a CPU": (
        Plan(put("training.engine", "captured")),
        ("config key training.engine: captured needs CUDA graphs, which device cpu has not; set eager or remove it",),
    ),
    "text for a switch": (
        Plan(put("training.compile", "yes")),
        ("config key training.compile: 'yes' has the wrong type; must be true or false",),
    ),
    "unknown dtype": (
        Plan(put("methods.lora.dtype", "float16")),
        ("config key methods.lora.dtype: 'float16' is unknown; must be one of float32, bfloat16",),
    ),
    "full fine-tuning in bfloat16 without autocast": (
        Plan(put("methods.full.dtype", "bfloat16")),
        (
            "config key methods.full.dtype: bfloat16 weights with training.precision fp32: they need bf16 autocast; "
            "set training.precision bf16, or dtype float32",
        ),
    ),
    "bfloat16 weights under another autocast": (
        Plan(both(put("training.precision", "fp16"), put("methods.lora.dtype", "bfloat16"))),
        ("config key methods.lora.dtype: bfloat16 weights with training.precision fp16: they need bf16 autocast; ",),
    ),
    "4-bit weights unpacked to what fp16 is not": (
        Plan(put("training.precision", "fp16")),
        (
            "config key methods.qlora.quantization.bnb_4bit_compute_dtype: float32 with training.precision fp16",
            "; set float16",
        ),
    ),
    "4-bit weights unpacked to float16 in bf16": (
        Plan(both(put("training.precision", "bf16"), put("methods.qlora.quantization", tiny.NF4_FP16))),
        ("bnb_4bit_compute_dtype: float16 with training.precision bf16", "; set bfloat16"),
    ),
    "unknown schedule": (
        Plan(put("training.lr_scheduler_type", "cosin")),
        ("config key training.lr_scheduler_type: 'cosin' is unknown; ", "cosine"),
    ),
    "unknown optimizer": (
        Plan(put("training.optimizer", "adam8bit")),
        ("config key training.optimizer: 'adam8bit' is unknown; must be one of adamw, adamw_8bit, paged_adamw_8bit",),
    ),
    "pages on a CPU": (
        Plan(put("training.optimizer", "paged_adamw_8bit")),
        (
            "config key training.optimizer: paged_adamw_8bit moves pages between a GPU and the host, and "
            "training.device is cpu; set adamw_8bit, or training.device cuda",
        ),
    ),
    "a cap on memory that no peak holds": (
        Plan(
            both(
                put("training", {"device": "cuda", "precision": "fp32", "optimizer": "paged_adamw_8bit"}),
                put("recommendation", {"memory_GiB": 8}),
            )
        ),
        ("config key recommendation.memory_GiB: with training.optimizer paged_adamw_8bit peaks do not hold",),
    ),
    "a verdict by memory that no peak holds": (
        Plan(put("training", {"device": "cuda", "precision": "fp32", "optimizer": "paged_adamw_8bit"})),
        (
            "config key recommendation.cheapest: with training.optimizer paged_adamw_8bit peaks do not hold",
            "set it to time or energy, or set adamw_8bit",
        ),
    ),
    "arms in two precisions": (
        Plan(put("methods.qlora.quantization", {**tiny.NF4, "bnb_4bit_compute_dtype": "bfloat16"})),
        (
            "methods.qlora.quantization.bnb_4bit_compute_dtype: bfloat16 with training.precision fp32",
            "the arms would compute in different precisions; set float32",
        ),
    ),
    # The contract.
    "a fact that is none": (
        Plan(put("methods.lora.varies", ["warm_up"])),
        ("config key methods.lora.varies: there is no fact 'warm_up'; ", "batch_size"),
    ),
    "gradient checkpointing in one method": (
        Plan(put("methods.qlora.gradient_checkpointing", True)),
        ("config key methods.qlora.gradient_checkpointing: true, but full has false; set it alike, or add",),
    ),
    # Random models.
    "a random model without a tokenizer": (
        Plan(put("models.tiny", {"source": "random", "config": BERT})),
        ("config key models.tiny.tokenizer: missing; add it",),
    ),
    "a random model without a type": (
        Plan(put("models.tiny", {**drawn(), "config": {"hidden_size": 64}})),
        ("config key models.tiny.config.model_type: missing; add it",),
    ),
    "a checksum of random weights": (
        Plan(put("models.tiny", {**drawn(), "sha256": {"model.safetensors": "0" * 64}})),
        ("config key models.tiny.sha256: this key does not belong to this source; remove it",),
    ),
    "a config of a model that has its own": (
        Plan(put("models.tiny.config", BERT)),
        ("config key models.tiny.config: this key does not belong to this source; remove it",),
    ),
    "a random tokenizer": (
        Plan(put("models.tiny", {**drawn(), "tokenizer": {"source": "random"}})),
        ("config key models.tiny.tokenizer.source: 'random' is unknown; must be one of hub, folder, wheel",),
    ),
    "tokenizer folder that is not there": (
        Plan(put("models.tiny", {**drawn(), "tokenizer": {**FRESH, "path": "modle"}})),
        ("config key models.tiny.tokenizer.path: no such folder: modle",),
    ),
    "tokenizer folder without a tokenizer": (
        Plan(put("models.tiny", {**drawn(), "tokenizer": {**FRESH, "path": "results/runs"}})),
        ("config key models.tiny.tokenizer.path: results/runs: no tokenizer; tokenizer.json, vocab.txt,",),
    ),
    "unknown config field": (
        Fetch("models", drawn(hiden_size=64)),
        ("config key models.*.config.hiden_size: BertConfig has no such field to set; did you mean hidden_size?",),
    ),
    "vocabulary smaller than the tokenizer's": (
        Fetch("models", drawn(vocab_size=27)),
        ("models.*.config.vocab_size: 27 is below the tokenizer's 28 tokens; set it to 28 or more",),
    ),
}
