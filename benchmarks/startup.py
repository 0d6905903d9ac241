"""Seconds from the start of a training process to its first step, against bare `import torch, transformers, peft`.

Both are whole processes, alternating, after one of each that fills the bytecode and file caches. What dominates is
printed from `python -X importtime`. Takes the folders of a finished workflow run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
BARE = "import torch, transformers, peft"
PARTS = {
    "startup_s": "interpreter, imports, device",
    "load_s": "tokens, weights, quantisation, adapter",
    "mask_s": "form of the attention mask (on a GPU)",
    "probe_s": "probe: the step that takes most memory, and its eager latency on a GPU",
    "prepare_s": "optimizer, data on the device, capture",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a finished run: {output}/runs/{dataset}/{model}/{arm}/seed{N}")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    bare_s, ours = [], []
    for repeat in range(arguments.repeats + 1):
        bare, summary = import_s(BARE), train(arguments.run)
        if repeat:
            bare_s.append(bare)
            ours.append(summary)
    bare = statistics.median(bare_s)
    parts = {key: statistics.median(summary[key] or 0.0 for summary in ours) for key in PARTS}
    load = parts["load_s"]
    others = sum(parts.values()) - load
    print(f"{ours[0]['arm']} on {ours[0]['device_name']}, median of {arguments.repeats}")
    print(f"bare `{BARE}`: {bare:.2f} s")
    print(f"start of the process to its first step: {others + load:.2f} s, of which loading the model {load:.2f} s;")
    print(f"  the rest is {others / bare:.2f} times the bare imports")
    for key, meaning in PARTS.items():
        print(f"  {parts[key]:6.2f} s  {meaning}")
    print("\nself time of the imports, by package:")
    for name, seconds in imports(arguments.run)[:10]:
        print(f"  {seconds:6.2f} s  {name}")


def import_s(code: str) -> float:
    """Seconds of a Python process that runs `code`."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def train(run: Path) -> dict:
    """The summary of a one-step repetition of `run`."""
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(command(run, Path(scratch)), check=True, capture_output=True)
        return json.loads(next(Path(scratch).glob("seed*/summary.json")).read_text(encoding="utf-8"))


def imports(run: Path) -> list[tuple[str, float]]:
    """Seconds that the modules of each top-level package took themselves, most first."""
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            command(run, Path(scratch), "-X", "importtime"), check=True, capture_output=True, text=True
        )
    totals: dict[str, float] = {}
    for line in done.stderr.splitlines():
        if line.startswith("import time:") and "self [us]" not in line:
            taken, _, name = line.removeprefix("import time:").split("|")
            package = name.strip().split(".")[0]
            totals[package] = totals.get(package, 0.0) + int(taken) / 1e6
    return sorted(totals.items(), key=lambda item: -item[1])


def command(run: Path, output: Path, *options: str) -> list[str]:
    """train.py on what `run` was made of, for one step."""
    settings = json.loads((run / "env.json").read_text(encoding="utf-8"))["settings"] | {"max_steps": 1}
    root = run.parents[4]
    return [
        *(sys.executable, *options, str(REPOSITORY / "workflow_scripts/train.py")),
        *("--settings", json.dumps(settings), "--seeds", run.name.removeprefix("seed")),
        *("--tokens", str(root / f"tokens/{settings['dataset']}/{settings['model']}.npz")),
        *("--model", str(root / f"models/{settings['model']}"), "--output-dir", str(output)),
    ]


if __name__ == "__main__":
    main()
