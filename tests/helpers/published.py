"""Results in the shape that PEFT's method_comparison publishes, for the tests of what is imported."""

import json
from pathlib import Path
from typing import Any

MIB = 2**20
LORA = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 32,
    "lora_alpha": 64,
    "target_modules": ["q_proj", "v_proj"],
}


def result(**changes: Any) -> dict[str, Any]:
    """LoRA's result as published since 2025; a change "train_info.status" replaces what stands at that key."""
    evaluation = {"step": 250, "valid accuracy": 0.34, "train loss": 0.98, "train time": 31.4, "eval time": 11.3}
    tested = {"step": 5000, "test accuracy": 0.482, "train loss": 0.607, "train samples": 20000, "forgetting": 0.1}
    content = {
        "run_info": {
            "created_at": "2025-06-19T19:15:35+00:00",
            "total_time": 1993.5,
            "experiment_name": "lora/llama-3.2-3B-rank32",
            "peft_branch": "main",
            "train_config": {
                "model_id": "meta-llama/Llama-3.2-3B",
                **{"dtype": "bfloat16", "batch_size": 4, "max_steps": 5000, "seed": 0},
                "optimizer_kwargs": {"lr": 1e-4, "weight_decay": 0.1},
            },
            "peft_config": dict(LORA),
            "error_msg": "",
        },
        "train_info": {
            "accelerator_memory_reserved_avg": 11000 * MIB,
            "accelerator_memory_max": 22000 * MIB,
            "accelerator_memory_reserved_99th": 17000 * MIB,
            "train_time": 1796.2,
            "file_size": 35 * MIB,
            "num_trainable_params": 9175040,
            "num_total_params": 3221924864,
            "status": "success",
            "metrics": [evaluation, tested],
        },
        "meta_info": {
            "model_info": {"sha": "1" * 40, "created_at": "2024-09-18T15:23:48+00:00"},
            "dataset_info": {"metamath": {"sha": "2" * 40}, "gsm8k": {"sha": "3" * 40}},
            "package_info": {
                "peft-version": "0.15.2",
                "transformers-version": "4.52.4",
                "torch-version": "2.7.1+cu126",
            },
            "system_info": {"system": "Linux", "accelerator": "NVIDIA L40S"},
            "pytorch_info": "PyTorch built with: GCC",
        },
    }
    for key, value in changes.items():
        *above, last = key.split(".")
        place = content
        for name in above:
            place = place[name]
        place[last] = value
    return content


def full() -> dict[str, Any]:
    """Full fine-tuning as published before the memory's keys were renamed."""
    old = result(**{"run_info.peft_config": None, "run_info.experiment_name": "full-finetuning/llama-3.2-3B"})
    info = old["train_info"]
    for key in [key for key in info if key.startswith("accelerator_")]:
        info[key.replace("accelerator_", "cuda_")] = info.pop(key)
    old["meta_info"]["system_info"] = {"gpu": "NVIDIA L40S"}
    info |= {"num_trainable_params": 3212749824, "num_total_params": 3212749824}
    return old


def cancelled() -> dict[str, Any]:
    """A run that ended early on another task, whose adapter could not be saved; its method this PEFT may not know."""
    return result(
        **{
            "run_info.experiment_name": "novel|method/flux <b>",
            "run_info.error_msg": "CUDA out of memory.\nTried to allocate 2 GiB",
            "run_info.peft_config": {"peft_type": "NOVEL", "r": 8},
            "run_info.train_config": {"model_id": "owner/flux", "dataset_id": "owner/cats", "batch_size": True},
            "train_info.status": "canceled",
            "train_info.metrics": [],
            "train_info.file_size": 99999999,
            "train_info.train_time": float("nan"),
        }
    )


def write(folder: Path) -> list[Path]:
    """The three results as files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, content in (("lora.json", result()), ("full.json", full()), ("novel.json", cancelled())):
        paths.append(folder / name)
        paths[-1].write_text(json.dumps(content, indent=2), encoding="utf-8")
    return paths
