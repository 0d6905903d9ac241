"""Time `snakemake -n` for 50, 500 and 5,000 runs, and what of it is start-up, parsing and the plan.

No training: the grid is planned in an empty folder, then (--finished) in one where every file exists.
"""

import argparse
import io
import json
import pstats
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[50, 500, 5000], help="grid sizes (multiples of 50)")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    print(f"snakemake --version: {seconds(['--version'], Path.cwd(), arguments.repeats):.1f} s (start-up alone)")
    print("| runs | jobs | -n, nothing done, s | -n, all done, s | one job per seed, s |")
    print("|---:|---:|---:|---:|---:|")
    for runs in arguments.runs:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            config = grid(runs)
            empty = plan(folder, config, arguments.repeats)
            single = plan(folder, {**config, "seeds_per_job": 1}, arguments.repeats)
            make_outputs(folder, config)
            plan_once(folder, config, "--touch")
            done = plan(folder, config, arguments.repeats)
            jobs = len(config["methods"]["lora"]["ranks"]) + 5
            print(f"| {runs} | {jobs} | {empty:.1f} | {done:.1f} | {single:.1f} |", flush=True)
    print(
        f"\nWhere the time goes at {arguments.runs[-1]} runs (cProfile, nothing done):\n{profile(arguments.runs[-1])}"
    )


def grid(runs: int) -> dict:
    """A configuration of `runs` runs: LoRA at runs / 5 ranks, five seeds."""
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text(encoding="utf-8"))
    config["output"] = "results"
    lora = config["methods"]["lora"]
    config["methods"] = {"lora": {**lora, "ranks": list(range(1, runs // 5 + 1))}}
    config["seeds"] = list(range(5))
    return config


def make_outputs(folder: Path, config: dict) -> None:
    """Create every declared output, empty; `--touch` then records it as up to date."""
    listed = plan_once(folder, config, "-n", "--summary").stdout.splitlines()[1:]
    for line in listed:
        path = folder / line.split("\t")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({}) if path.suffix == ".json" else "")
    (folder / "results/models/distilbert.json").unlink(missing_ok=True)
    manifest = {"source": "", "path": "", "revision": "", "modules": [], "linear": []}
    (folder / "results/models/distilbert.json").write_text(json.dumps(manifest))


def plan(folder: Path, config: dict, repeats: int) -> float:
    """Fastest of `repeats` dry-runs, in seconds."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return seconds(["-n", "--quiet", "all", "--cores", "1"], folder, repeats)


def plan_once(folder: Path, config: dict, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return subprocess.run(
        [*snakemake(), *words, "--cores", "1"], cwd=folder, check=True, capture_output=True, text=True
    )


def seconds(words: list[str], folder: Path, repeats: int) -> float:
    """Fastest of `repeats` calls of snakemake with `words` in `folder`."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([*snakemake(), *words], cwd=folder, check=True, capture_output=True)
        taken.append(time.perf_counter() - start)
    return min(taken)


def snakemake() -> list[str]:
    return [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]


def profile(runs: int) -> str:
    """The ten functions in which a dry-run of `runs` runs spends most, by own time."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.yaml").write_text(yaml.safe_dump(grid(runs)), encoding="utf-8")
        output = folder / "profile"
        command = [sys.executable, "-m", "cProfile", "-o", str(output), "-m", *snakemake()[2:]]
        subprocess.run([*command, "-n", "--quiet", "all", "--cores", "1"], cwd=folder, check=True, capture_output=True)
        text = io.StringIO()
        pstats.Stats(str(output), stream=text).sort_stats("tottime").print_stats(10)
    lines = text.getvalue().splitlines()
    return "\n".join(line for line in lines[lines.index(next(x for x in lines if "ncalls" in x)) :] if line.strip())


if __name__ == "__main__":
    main()
