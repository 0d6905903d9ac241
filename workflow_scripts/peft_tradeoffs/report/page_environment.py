"""Where the runs of a report were made: what their env.json files say, without paths and names of machines."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peft_tradeoffs.analysis.finished import read_env, verified

# Keys of env.json by the name that readers see; a dot goes a level down.
FACTS = {
    "Device": "device_name",
    "GPU memory, MiB": "gpu.memory_MiB",
    "MIG": "gpu.mig_mode",
    "Driver": "gpu.driver_version",
    "CUDA runtime": "cuda_runtime_version",
    "cuDNN": "cudnn_version",
    "SM clock, MHz": "gpu.sm_clock_MHz",
    "Memory clock, MHz": "gpu.memory_clock_MHz",
    "Power limit, W": "gpu.power_limit_W",
    "Throttled by, under load": "under_load.clock_event_reasons",
    "Processor": "cpu",
    "Threads": "threads",
    "Platform": "platform",
    "Python": "python",
    "TF32 in matrix products": "flags.tf32_matmul",
    "Deterministic algorithms": "flags.deterministic_algorithms",
    "Workflow's commit": "git.commit",
    "Uncommitted changes": "git.dirty",
    "Training code, SHA-256": "code_sha256",
    "Data, SHA-256": "data_sha256",
    "Model, SHA-256": "model_sha256",
    "Model's revision": "model.revision",
}


def environment(folders: Iterable[Path]) -> list[dict[str, Any]]:
    """Each fact with its values and in how many runs each was so: [{"fact", "values": [[text, runs], …]}, …].

    `folders` are those of the runs. Facts that no run recorded are left out. Raises InputError for an env.json that is
    missing or not as its run published it.
    """
    files = [read_env(folder, verified(folder)) for folder in folders]
    facts = FACTS | {name: f"versions.{name}" for file in files for name in file.get("versions") or {}}
    found = []
    for name, key in facts.items():
        values: dict[str, int] = {}
        for file in files:
            if (text := _text(file, key)) is not None:
                values[text] = values.get(text, 0) + 1
        if values:
            found.append({"fact": name, "values": [[text, count] for text, count in values.items()]})
    return found


def _text(value: Any, key: str) -> str | None:
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "nothing"
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)
