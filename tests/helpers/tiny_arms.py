"""LoRA without dropout and NF4 as arms of the tiny models have them, and a batch for these models."""

import tiny
import torch

LORA = {**tiny.LORA, "r": 4, "lora_alpha": 8, "lora_dropout": 0.0}
NF4 = {**tiny.NF4, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}


def batch(rows: int = 8) -> dict[str, torch.Tensor]:
    """Texts of random words, each class in turn."""
    random = torch.Generator().manual_seed(1)
    return {
        "input_ids": torch.randint(5, 20, (rows, 16), generator=random),
        "attention_mask": torch.ones(rows, 16, dtype=torch.long),
        "labels": torch.arange(rows) % 2,
    }
