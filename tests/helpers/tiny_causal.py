"""Tiny causal models of several families with a tokenizer that has a chat template, and data that they can learn."""

import json
import random
from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", **SIZES, "tie_word_embeddings": False},
    "qwen": {"model_type": "qwen2", **SIZES, "tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", **SIZES},
    "gemma": {"model_type": "gemma2", **SIZES, "head_dim": 16, "final_logit_softcapping": 2.0},  # tied
    "phi": {"model_type": "phi3", **SIZES},
    "gpt2": {
        "model_type": "gpt2",
        **{"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512},
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
    },
}
OTHERS: dict[str, dict[str, Any]] = {  # that scale their logits
    "cohere": {"model_type": "cohere", **SIZES, "logit_scale": 0.25},
    "granite": {"model_type": "granite", **SIZES, "logits_scaling": 3.0},
}
WORDS = ["lines", "words", "with", "ending", "the", "letter", "vowel", "dog", "truck", "or", "and", "not", "a"]


def rows(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Prompts and completions: a description, and the first letters of some of its words."""
    chosen = random.Random(seed)
    found = []
    for _ in range(count):
        words = [chosen.choice(WORDS) for _ in range(chosen.randint(3, 12))]
        found.append((" ".join(words), "".join(f" .*{word[0]}" for word in words[: chosen.randint(1, 5)])))
    return found


def tokenizer(**changes: Any) -> Any:
    """A byte-level tokenizer of 300 tokens; `changes`: to its special tokens and template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    made.train_from_iterator((prompt + completion for prompt, completion in rows(200)), trainer)
    settings = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "model_max_length": 512, **changes}
    template = settings.pop("chat_template", CHATML)
    found = PreTrainedTokenizerFast(tokenizer_object=made, **settings)
    found.chat_template = template
    return found


def causal(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """Save a random causal model of a family with its tokenizer to `folder`; `changes`: to the tokenizer."""
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    own = tokenizer(**changes)
    pad = None if own.pad_token_id == own.eos_token_id else own.pad_token_id
    fields = {"vocab_size": len(own), "eos_token_id": own.eos_token_id, "pad_token_id": pad}
    fields |= {"bos_token_id": None, **(FAMILIES | OTHERS)[family]}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIG_MAPPING[fields.pop("model_type")](**fields)).save_pretrained(folder)
    own.save_pretrained(folder)
    return folder


def write_rows(path: Path, found: list[dict[str, Any]]) -> Path:
    """JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


def write_completions(path: Path, count: int, seed: int = 0) -> Path:
    """JSON lines with prompt and completion."""
    return write_rows(path, [{"prompt": prompt, "completion": completion} for prompt, completion in rows(count, seed)])


def chats(count: int, seed: int = 0) -> list[list[dict[str, str]]]:
    """Chats of one or two exchanges, the second with a system turn before it."""
    found = []
    pairs = rows(2 * count, seed)
    for number in range(count):
        turns = [{"role": "system", "content": "Answer in letters."}] if number % 2 else []
        for prompt, completion in pairs[2 * number : 2 * number + 1 + number % 2]:
            turns += [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion.strip()}]
        found.append(turns)
    return found


def encoded(count: int, own: Any, seed: int = 0) -> Any:
    """Completions as a split of tokens."""
    import numpy as np
    from peft_tradeoffs.inputs.tokens import Split
    from peft_tradeoffs.tasks.task import TASKS

    reader = TASKS["sft"].reader
    form = reader.form("datasets.x", {"source": "files", "prompt": "prompt", "completion": "completion"})
    found = reader.encode(own, rows(count, seed), form, 64)
    return Split(
        np.concatenate([row.ids for row in found]).astype(np.int32),
        None,
        np.cumsum([0, *(len(row.ids) for row in found)]),
        np.zeros(count, dtype=np.int64),
        np.arange(count),
        np.concatenate([row.targets for row in found]),
    )
