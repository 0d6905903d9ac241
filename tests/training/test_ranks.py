"""A job of two processes: it ends well or badly as one, says why, leaves nothing behind, and goes on where it was."""

import itertools
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft_tradeoffs.analysis.finished import FACTS, Recorded
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.measure import devices, machine
from peft_tradeoffs.runs.interruption import EXIT_STATUS
from peft_tradeoffs.runs.lock import process_started
from peft_tradeoffs.training import engine, run
from peft_tradeoffs.training.step import TrainingStep
from ranks import Job
from reloaded import check
from safetensors.torch import load_file

assert run  # which has all libraries, which are imported once for all jobs
EPOCHS, PER_EPOCH = 20, 24  # 96 rows in batches of 4
FEW_EPOCHS = 6  # of sharded models, whose steps take longer
SOON_S = 15.0  # in which a job ends: seconds, were this machine not busy


def at_a_step(rank: int, step: int, happens: Callable[[], None]) -> Callable[[], None]:
    """Has something happen on one rank of a job in a step (from 1)."""

    def inside() -> None:
        taken, steps = TrainingStep.on_device, itertools.count(1)

        def take(self: TrainingStep, *shape: int) -> None:
            if self._world.rank == rank and next(steps) == step:
                happens()
            taken(self, *shape)

        TrainingStep.on_device = take  # type: ignore[method-assign]  # in a process of its own

    return inside


def runs_out_of_memory() -> None:
    raise torch.OutOfMemoryError("Tried to allocate 3.00 MiB")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Path:
    """Folder of tokens, a model and settings."""
    folder = tmp_path_factory.mktemp("prepared")
    tiny.write_inputs(folder, tiny_bert, rows=96)
    settings = tiny.config(folder, seeds=[0, 1])
    settings["training"].update(epochs=EPOCHS, batch_size=4, gpus=2)
    tiny.snakemake(folder, settings, "results/tokens/reviews/tiny.npz", "results/tune/tokens/reviews/tiny.npz")
    for parallel in ("data", "sharded"):
        settings["training"].update(parallel=parallel, epochs=EPOCHS if parallel == "data" else FEW_EPOCHS)
        for arm in ("full", "lora-r4", "qlora-r4"):
            chosen = resolve(settings).run_settings("reviews", "tiny", arm)
            (folder / f"{arm}-{parallel}.json").write_text(json.dumps(chosen.to_dict()))
    return folder


def start(
    prepared: Path, out: Path, arm: str = "full-data", inside: Callable[[], None] = lambda: None, **options: Any
) -> Job:
    """Begin a job; `options` by their names."""
    named = {"checkpoint-interval": 1000, "seeds": 0, **{key.replace("_", "-"): own for key, own in options.items()}}
    words = ["--settings", str(prepared / f"{arm}.json"), "--output-dir", str(out)]
    words += ["--tokens", str(prepared / "results/tokens/reviews/tiny.npz")]
    words += ["--model", str(prepared / "results/models/tiny")]
    words += [word for key, value in named.items() for word in (f"--{key}", *str(value).split())]
    return Job("train.py", words, prepared / "said", inside)


def finish(job: Job, within_s: float = 120.0) -> tuple[int, str]:
    """Exit status and what was said on stderr."""
    return job.wait(within_s), job.said()


def ranks(job: Job) -> list[int]:
    """Process ids of a job's ranks, in their order."""
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def at_its_steps(job: Job, run: Path) -> list[int]:
    """Wait until the run trains; process ids of its ranks."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert job.poll() is None, job.said()
        if (run / "state/attempts.json").exists():
            attempts = json.loads((run / "state/attempts.json").read_text())["attempts"]
            if attempts[-1]["first_step"] is not None:
                return ranks(job)
        time.sleep(0.005)
    raise AssertionError("the training did not begin")


def assert_nothing_left(out: Path, pids: list[int]) -> None:
    assert [pid for pid in pids if process_started(pid) is not None] == []
    assert not list(out.glob("**/.*.lock.*"))
    assert not list(out.glob("**/*.tmp"))


def weights(run: Path) -> bytes:
    return (run / "checkpoint/model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an undisturbed job gives."""
    out = tmp_path_factory.mktemp("whole")
    status, said = finish(start(prepared, out, seeds="0 1"))
    assert status == 0, said
    return out


def test_a_job_trains_its_runs_on_two_ranks_and_says_what_each_measured(prepared: Path, whole: Path, tmp_path: Path):
    env = json.loads((whole / "seed0/env.json").read_text())
    assert [rank["rank"] for rank in env["ranks"]] == [0, 1]
    peaks = [rank["phases"]["peaks"]["train_peak_rss_MiB"] for rank in env["ranks"]]
    summary = json.loads((whole / "seed0/summary.json").read_text())
    assert summary["train_peak_rss_MiB"] == max(peaks)
    assert (summary["gpus"], summary["parallel"], summary["train_gpu_s"]) == (2, "data", None)
    assert env["reduction_dtype"] == "float32"
    assert FACTS["gpus"].read(Recorded(env, summary, [])) == "2 (data, gradients summed in float32)"
    assert summary["status"] == "completed" and summary["steps"] == EPOCHS * PER_EPOCH
    assert not list(whole.glob("**/.*.lock.*"))
    status, said = finish(start(prepared, tmp_path))  # again, and its second seed not at all
    assert status == 0, said
    assert weights(tmp_path / "seed0") == weights(whole / "seed0") != weights(whole / "seed1")


def test_an_adapter_trained_on_two_ranks_loads_with_peft_alone(prepared: Path, tmp_path: Path, tiny_bert: Path) -> None:
    status, said = finish(start(prepared, tmp_path, arm="lora-r4-data"))
    assert status == 0, said
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(tiny_bert)
    loaded = PeftModel.from_pretrained(base, tmp_path / "seed0/adapter")
    saved = load_file(tmp_path / "seed0/adapter/adapter_model.safetensors")
    held = {name.replace(".default", ""): value for name, value in loaded.state_dict().items()}
    assert saved and all(torch.equal(held[name], value) for name, value in saved.items() if "lora" in name)
    assert any(value.abs().max() > 0 for name, value in saved.items() if "lora_B" in name)


@pytest.fixture(scope="module")
def sharded(prepared: Path) -> dict[str, Path]:
    """What undisturbed jobs of sharded models give, by arm, where the workflow would put it."""
    found = {}
    for arm in ("full", "lora-r4", "qlora-r4"):
        folder = prepared / f"results/runs/reviews/tiny/{arm}"
        status, said = finish(start(prepared, folder, f"{arm}-sharded"))
        assert status == 0, said
        found[arm] = folder / "seed0"
    return found


def test_what_is_trained_in_parts_is_saved_whole_and_loads_with_transformers_and_peft_alone(
    sharded: dict[str, Path], prepared: Path
) -> None:
    """It predicts what was recorded. An adapter of quantised weights, which learn little here, is as any other."""
    texts = [[line.split("\t")[0]] for line in (prepared / "test.tsv").read_text().splitlines()[1:]]
    check([sharded["full"], sharded["lora-r4"]], texts, 2)
    plain, quantised = (
        load_file(sharded[arm] / "adapter/adapter_model.safetensors") for arm in ("lora-r4", "qlora-r4")
    )
    assert {name: value.shape for name, value in plain.items()} == {name: v.shape for name, v in quantised.items()}
    assert all(quantised[name].abs().max() > 0 for name in quantised)
    config = json.loads((sharded["full"] / "checkpoint/config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    for folder in sharded.values():
        assert json.loads((folder / "summary.json").read_text())["engine"] == "eager"


def test_a_rank_of_a_sharded_model_that_is_killed_ends_the_job_and_the_run_goes_on_later(
    prepared: Path, sharded: dict[str, Path], tmp_path: Path
) -> None:
    job = start(prepared, tmp_path, "full-sharded", checkpoint_interval=0)
    pids = at_its_steps(job, tmp_path / "seed0")
    while not (tmp_path / "seed0/state/checkpoint.pt").exists():
        time.sleep(0.005)
    os.kill(pids[1], signal.SIGKILL)
    status, said = finish(job, SOON_S)
    assert status == 1 and "was killed by SIGKILL" in said and "Traceback" not in said, said
    assert_nothing_left(tmp_path, pids)
    status, said = finish(start(prepared, tmp_path, "full-sharded"))
    assert status == 0, said
    assert weights(tmp_path / "seed0") == weights(sharded["full"])


@pytest.mark.parametrize("killed", [0, 1])
def test_a_rank_that_is_killed_ends_the_job_by_its_name_and_the_run_goes_on_later(
    killed: int, prepared: Path, whole: Path, tmp_path: Path
) -> None:
    job = start(prepared, tmp_path, checkpoint_interval=0)
    pids = at_its_steps(job, tmp_path / "seed0")
    while not (tmp_path / "seed0/state/checkpoint.pt").exists():
        time.sleep(0.005)
    os.kill(pids[killed], signal.SIGKILL)
    began = time.monotonic()
    status, said = finish(job)
    assert time.monotonic() - began < SOON_S
    assert status == (1 if killed else 137)
    assert f"error: rank {killed} (process {pids[killed]}) was killed by SIGKILL" in said, said
    assert "nothing is lost, run again to go on" in said and "Traceback" not in said
    if killed:
        assert_nothing_left(tmp_path, pids)
    assert [pid for pid in pids if process_started(pid) is not None] == []
    status, said = finish(start(prepared, tmp_path))
    assert status == 0, said
    assert weights(tmp_path / "seed0") == weights(whole / "seed0")
    attempts = json.loads((tmp_path / "seed0/env.json").read_text())["attempts"]
    assert len(attempts) == 2 and attempts[1]["first_step"] > 1


def kills_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_an_evaluation(rank: int) -> Callable[[], None]:
    """Has a rank killed in the second evaluation."""

    def inside() -> None:
        evaluate, calls = engine.predict, itertools.count(1)

        def predict(subject: Any, *words: Any) -> Any:
            if subject.world.rank == rank and next(calls) == 2:
                kills_itself()
            return evaluate(subject, *words)

        engine.predict = predict

    return inside


def half_way_through_a_state(rank: int) -> Callable[[], None]:
    """Has a rank killed when the first one has written half of its second state."""

    def inside() -> None:
        from peft_tradeoffs.training import job as jobs

        written, calls = jobs.write_state, itertools.count(1)

        def write(state: dict[str, Any], path: Path) -> None:
            if next(calls) == 1:
                return written(state, path)
            path.write_bytes(b"half a state")
            pids = Path(f"/proc/{os.getppid()}/task/{os.getppid()}/children").read_text().split()
            os.kill(int(pids[rank]), signal.SIGKILL)
            time.sleep(60)

        jobs.write_state = write

    return inside


@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("when", [in_an_evaluation, half_way_through_a_state])
def test_a_rank_that_is_killed_at_the_worst_moment_leaves_the_last_state(
    when: Callable[[int], Callable[[], None]], killed: int, prepared: Path, whole: Path, tmp_path: Path
) -> None:
    job = start(prepared, tmp_path, inside=when(killed), checkpoint_interval=0)
    pids = at_its_steps(job, tmp_path / "seed0")
    status, said = finish(job, SOON_S + 15)
    assert status in (1, 137) and f"error: rank {killed} (process {pids[killed]}) was killed by SIGKILL" in said, said
    assert [pid for pid in pids if process_started(pid) is not None] == []
    status, said = finish(start(prepared, tmp_path))
    assert status == 0, said
    assert weights(tmp_path / "seed0") == weights(whole / "seed0")
    assert json.loads((tmp_path / "seed0/env.json").read_text())["attempts"][1]["first_step"] > 1
    assert not list(tmp_path.glob("**/*.tmp")) and not list(tmp_path.glob("**/.*.lock.*"))


def test_tuning_on_two_ranks_chooses_among_its_trials(prepared: Path, tmp_path: Path) -> None:
    words = [
        "--settings",
        str(prepared / "full-data.json"),
        "--rates",
        "1e-4",
        "1e-3",
        "--seed",
        "1000",
        "--extend",
        "0",
    ]
    words += ["--tokens", str(prepared / "results/tune/tokens/reviews/tiny.npz"), "--again"]
    words += ["--model", str(prepared / "results/models/tiny"), "--trials-dir", str(tmp_path / "trials")]
    job = Job("tune.py", [*words, "--output", str(tmp_path / "best.json")], tmp_path / "said")
    status, said = finish(job)
    assert status == 0, said
    found = json.loads((tmp_path / "best.json").read_text())
    assert [trial["status"] for trial in found["trials"]] == ["completed"] * 2
    assert found["learning_rate"] in (1e-4, 1e-3)


def test_ranks_end_with_the_process_that_watches_them(prepared: Path, tmp_path: Path) -> None:
    job = start(prepared, tmp_path)
    pids = at_its_steps(job, tmp_path / "seed0")
    assert len(pids) == 2
    os.kill(job.pid, signal.SIGKILL)
    job.wait(SOON_S)
    deadline = time.monotonic() + SOON_S
    while any(process_started(pid) is not None for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("told", ["the job", "rank 0", "rank 1", "all"])
def test_a_signal_to_any_process_ends_all_with_the_state_written(
    told: str, prepared: Path, whole: Path, tmp_path: Path
) -> None:
    job = start(prepared, tmp_path)
    pids = at_its_steps(job, tmp_path / "seed0")
    for pid in {"the job": [job.pid], "rank 0": pids[:1], "rank 1": pids[1:], "all": [job.pid, *pids]}[told]:
        os.kill(pid, signal.SIGTERM)
    status, said = finish(job, SOON_S)
    assert status == EXIT_STATUS, said
    assert said.count("ended by SIGTERM after step ") == 1
    assert_nothing_left(tmp_path, pids)
    status, said = finish(start(prepared, tmp_path))
    assert status == 0, said
    assert weights(tmp_path / "seed0") == weights(whole / "seed0")


@pytest.mark.parametrize(("rank", "parallel"), [(0, "data"), (1, "data"), (1, "sharded")])
def test_memory_that_runs_out_on_one_rank_is_the_runs_result(
    rank: int, parallel: str, prepared: Path, tmp_path: Path
) -> None:
    job = start(prepared, tmp_path, f"full-{parallel}", at_a_step(rank, 30, runs_out_of_memory), seeds="0 1")
    status, said = finish(job)
    assert status == 0, said
    for seed in (0, 1):  # whose processes are others
        summary = json.loads((tmp_path / f"seed{seed}/summary.json").read_text())
        assert (summary["status"], summary["failed_phase"], summary["oom_bytes"]) == ("oom", "train", 3 * 2**20)
    assert not list(tmp_path.glob("**/.*.lock.*")) and "Traceback" not in said


def test_a_rank_that_hangs_ends_the_job_by_the_time_out(prepared: Path, whole: Path, tmp_path: Path) -> None:
    inside = at_a_step(1, 30, lambda: time.sleep(1000))
    job = start(prepared, tmp_path, inside=inside, rank_timeout=3, checkpoint_interval=0)
    pids = at_its_steps(job, tmp_path / "seed0")
    status, said = finish(job, SOON_S)
    assert status == 1
    assert "rank 0 lost the others (rank 1 did not come)" in said, said
    assert "Traceback" not in said
    assert_nothing_left(tmp_path, pids)
    status, said = finish(start(prepared, tmp_path))
    assert status == 0, said
    assert weights(tmp_path / "seed0") == weights(whole / "seed0")


# The GPUs of a job ----------------------------------------------------------------------------------------------------


def with_gpus(folder: Path, uuids: list[str], *of_others: devices.Lease) -> Callable[[], None]:
    """Has a job lease GPUs in `folder`, as one on GPUs does; it computes on the CPU."""

    def inside() -> None:
        for lease in of_others:  # which a fork has too
            os.close(lease.descriptor)

        def opened(kind: str, shared: bool, waiting: Any, hold: Callable[[], Any], rank: int) -> devices.Device:
            with waiting:
                held = hold()
            print(f"rank {rank} has GPU {held.indices[rank]}", flush=True)
            cpu, nobody = torch.device("cpu"), machine.Isolation(machine.NO_GPU, shared)
            return devices.Device(cpu, machine.NO_GPU, nobody, held.idle_W, held.waited_s)

        run.open_device = opened  # type: ignore[assignment]
        devices.visible_uuids = lambda: uuids  # type: ignore[assignment]
        devices.acquire.__defaults__ = (folder, None, 1)

    return inside


def leases_of(pid: int) -> list[str]:
    links = [link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    return sorted(path.name for path in links if path.name.startswith("peft-tradeoffs-"))


def test_the_first_rank_leases_the_gpus_of_all_and_they_end_with_it(prepared: Path, tmp_path: Path) -> None:
    leases, uuids = tmp_path / "leases", ["c", "a", "b"]
    leases.mkdir()
    (held,) = devices.acquire(["c"], folder=leases)
    (other,) = devices.acquire(["b"], folder=leases)
    job = start(prepared, tmp_path, inside=with_gpus(leases, uuids, held, other))
    try:
        deadline = time.monotonic() + 60
        while "waits for 2 GPUs, has a: taken are c by" not in job.said("stdout"):
            assert job.poll() is None and time.monotonic() < deadline, job.said()
            time.sleep(0.01)
        os.close(held.descriptor)
        pids = at_its_steps(job, tmp_path / "seed0")
        assert sorted(job.said("stdout").splitlines()[-2:]) == ["rank 0 has GPU 0", "rank 1 has GPU 1"]
        # Of no other process, which would keep them beyond the first one's end; and no gate is kept.
        assert leases_of(pids[0]) == ["peft-tradeoffs-a.lock", "peft-tradeoffs-c.lock"]
        assert leases_of(pids[1]) == leases_of(job.pid) == []
        os.kill(pids[0], signal.SIGKILL)
        status, said = finish(job, SOON_S)
        assert status == 137, said
        for lease in [*devices.acquire(["a", "c"], folder=leases, count=2), other]:
            os.close(lease.descriptor)
    finally:
        if job.poll() is None:
            os.kill(job.pid, signal.SIGKILL)


def test_a_job_that_sees_fewer_gpus_than_its_runs_are_to_have_says_so(prepared: Path, tmp_path: Path) -> None:
    status, said = finish(start(prepared, tmp_path, inside=with_gpus(tmp_path, ["a"])))
    assert status == 1
    assert "error: config key training.gpus (or methods.full.gpus): 2 GPUs per run, but this job sees 1 GPU (" in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("peft-tradeoffs-*"))
