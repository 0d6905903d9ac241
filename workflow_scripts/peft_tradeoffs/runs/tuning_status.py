"""How far the tuning of each arm is. Cheap to import."""

import itertools
from pathlib import Path
from typing import Any

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.squeue import Job
from peft_tradeoffs.runs.run_status import RunStatus, is_alive, progress, read_live, says_an_error
from peft_tradeoffs.runs.tuning import read_found


def tuning_status(
    output: Path,
    grid: dict[str, list[Any]],
    trials: dict[str, list[float]],
    jobs: list[Job],
    unfinished: set[str] | None = None,
) -> dict[str, list[RunStatus]]:
    """One line per arm that is tuned, by data set and model, as `grid_status` has them for runs.

    `trials`: the learning rates to try, by arm.
    """
    found: dict[str, list[RunStatus]] = {}
    for dataset, model, arm in itertools.product(grid["dataset"], grid["model"], trials):
        names = (dataset, model, arm)
        state, detail = _tuned_status(output, names, trials[arm], jobs, unfinished)
        found.setdefault(f"{dataset} · {model}", []).append(RunStatus(arm, None, state, detail))
    return found


def _tuned_status(
    output: Path, names: tuple[str, str, str], rates: list[float], jobs: list[Job], unfinished: set[str] | None
) -> tuple[str, str]:
    path = Path(*names)
    try:
        best = read_found(output / "tune/best" / path.with_name(f"{path.name}.json"))
    except FileNotFoundError:
        best = None
    except InputError as error:
        return "failed", str(error)
    if best is not None and best["rates"] == rates:
        return "done", f"learning rate {best['learning_rate']:.3g} of {len(best['trials'])} tried"
    own = [job for job in jobs if job.comment == "rule_tune_wildcards_" + "_".join(names)]
    job = own[-1] if own else None
    trials = output / "tune/trials" / path
    tried = sum((trials / f"lr{rate:g}/summary.json").exists() for rate in rates)
    counted, folders = f"{tried} of {len(rates)} rates tried", sorted(trials.glob("lr*"))
    for folder in folders:
        live = read_live(folder)
        if is_alive(folder, live, job, unfinished):
            return "running", f"{counted}, {folder.name.removeprefix('lr')} at {progress(live, job)}"
    if job is not None:
        return ("queued", f"job {job.id}, {job.reason}") if job.waits else ("running", f"{counted}, job {job.id}")
    log = output / "logs/tune" / path.with_name(f"{path.name}.log")
    if says_an_error(log):
        return "failed", str(log)
    return ("interrupted", f"{counted}; the next call goes on") if folders else ("not started", "")
