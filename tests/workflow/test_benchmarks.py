"""Benchmarks of training run from end to end, small and on a CPU."""

import functools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
from peft_tradeoffs.core import files

ROWS, LENGTH = 64, 8


def rows(script: str, *words: str, count: str = "--steps") -> list[list[str]]:
    """The cells of the table that a benchmark prints, without its head; `count`: its option for how much it times."""
    command = [sys.executable, str(tiny.REPOSITORY / "benchmarks" / script), "--device", "cpu", count, "1", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=tiny.environment())
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def numbers(cells: list[str]) -> list[float]:
    return [float(cell.replace(",", "")) for cell in cells]


@pytest.mark.parametrize("script", ["contests", "plan", "power", "slurm", "startup", "survival"])
def test_a_benchmark_that_is_not_run_here_finds_its_modules(script, tmp_path):
    command = [sys.executable, str(tiny.REPOSITORY / f"benchmarks/{script}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "usage:" in done.stdout, done.stderr


def test_a_large_models_benchmark_has_a_row_an_arm():
    table = rows("large_model.py", "--shape", "tiny", "--batch", "2", "--length", "16")
    assert [row[:2] for row in table] == [[arm, "eager"] for arm in ("full", "LoRA r16", "QLoRA r16")]
    for _, _, step_ms, tokens_per_s, tflops, share, peak, once in table:
        values = numbers([step_ms, tokens_per_s, tflops, once])
        assert np.isfinite(values).all() and min(values[:2]) > 0
        assert values[1] == pytest.approx(2 * 16 / values[0] * 1000, rel=0.02, abs=0.5)  # it is a whole number
        assert (share, peak) == ("–", "–")  # of a GPU alone


def test_several_gpus_are_processes_on_a_cpu():
    words = ["--shape", "tiny", "--batch", "2", "--length", "16", "--gpus", "1", "2", "--arms", "LoRA r16"]
    table = rows("several_gpus.py", *words, "--kinds", "weak")
    assert [row[:4] for row in table] == [["LoRA r16", "eager", "alone", "1"], ["LoRA r16", "eager", "weak", "2"]]
    steps, rates, ratios = ([float(row[place].replace(",", "")) for row in table] for place in (4, 5, 6))
    assert min(steps) > 0 and ratios[0] == 1 and ratios[1] == pytest.approx(rates[1] / rates[0], abs=0.02)
    assert rates[1] == pytest.approx(2 * 2 * 16 / steps[1] * 1000, rel=0.02, abs=1)


def test_what_fits_says_what_it_expects_and_what_came():
    words = ["--shapes", "tiny", "--batch", "2", "--length", "16", "--gpus", "1", "2", "--arms", "QLoRA r16"]
    table = rows("what_fits.py", *words)
    assert [row[:3] for row in table] == [["tiny", "QLoRA r16", "1"], ["tiny", "QLoRA r16", "2"]]
    for *_, predicted, measured, ratio, rate in table:
        assert min(numbers([predicted, rate])) > 0 and (measured, ratio) == ("–", "–")  # of a GPU alone


def test_the_benchmark_of_decoding_has_a_row_a_loop():
    words = ["--shape", "tiny", "--batch", "2", "--prompt", "8", "--new", "4", "--arms", "LoRA r16", "LoRA r16 merged"]
    table = rows("decoding.py", *words, count="--batches")
    arms = ["LoRA r16", "LoRA r16 merged"]
    assert [row[:2] for row in table] == [[arm, loop] for arm in arms for loop in ("generate", "eager")]
    for _, _, seconds, once, times, tokens_per_s, peak, same in table:
        assert min(numbers([seconds, times, tokens_per_s])) > 0 and (peak, once) == ("–", "0.0")
        assert same.endswith(" %")


def test_the_engines_benchmark_has_a_row_a_loop(tmp_path: Path):
    random = np.random.default_rng(0)
    np.savez(
        tmp_path / "tokens.npz",
        train_input_ids=random.integers(1, 500, ROWS * LENGTH).astype(np.int32),
        train_offsets=np.arange(ROWS + 1) * LENGTH,
        train_labels=np.arange(ROWS) % 2,
        train_rows=np.arange(ROWS),
    )
    description = {"rows": {"train": ROWS}, "sha256": files.sha256(tmp_path / "tokens.npz")}
    (tmp_path / "tokens.json").write_text(json.dumps(description), encoding="utf-8")
    words = ["--tokens", str(tmp_path / "tokens.npz"), "--layers", "1", "--width", "96", "--arms", "LoRA r8"]
    ((loop, step_ms, ratio, _),) = rows("engine.py", *words, "--skip", "Trainer, fp32", "Trainer, bf16, by length")
    assert (loop, ratio) == ("eager", "–")
    assert np.isfinite(numbers([step_ms])).all() and float(step_ms) > 0


def test_intervals_cover_and_tests_hold_their_level_in_a_short_simulation(monkeypatch):
    monkeypatch.syspath_prepend(str(tiny.REPOSITORY / "benchmarks"))
    import interval_coverage as simulation

    # Its own interval is not judged here, and takes most of the time.
    monkeypatch.setattr(simulation, "bootstrap", functools.partial(simulation.bootstrap, draws=5))
    random = np.random.default_rng(0)
    for world in simulation.WORLDS:
        covered = simulation.coverage(world, random, repeats=300, seeds=5, texts=300)
        assert 0.91 < covered["seeds and examples"] < 0.985, world.name  # 95 % ± 3 standard errors
    texts_of_their_own = simulation.coverage(simulation.WORLDS[2], random, repeats=300, seeds=5, texts=300)
    assert texts_of_their_own["seeds alone"] < 0.85  # the simulation can tell
    found = simulation.levels(random, repeats=300, seeds=5, texts=300, margin=0.02)
    assert max(found.values()) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


def test_intervals_of_bleu_cover_by_document_and_the_control_by_sentence_does_not(monkeypatch):
    monkeypatch.syspath_prepend(str(tiny.REPOSITORY / "benchmarks"))
    import corpus_coverage as simulation

    random, repeats = np.random.default_rng(0), 100
    design = simulation.Design(documents=40, sentences=10, seeds=5)
    found = simulation.coverage(simulation.World(), design, random, repeats, margin=5.0)
    least = 0.95 - 3 * np.sqrt(0.95 * 0.05 / repeats)
    assert min(found["document, alone"], found["document, difference"]) > least
    assert max(found["sentence, alone"], found["sentence, difference"]) < least  # the simulation can tell
    assert max(found["within"], found["not worse"]) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / repeats)


def test_what_is_true_of_all_documents_is_what_many_of_them_have(monkeypatch):
    monkeypatch.syspath_prepend(str(tiny.REPOSITORY / "benchmarks"))
    import corpus_coverage as simulation

    world = simulation.World(seed=0.0)
    ((run,),) = world.draw(np.random.default_rng(0), 1, 20_000, 2, (-0.5,))
    assert simulation.bleu(run.sum(axis=0)) == pytest.approx(world.true(-0.5), abs=0.3)
    assert world.true(-0.5) < world.true() - 5
