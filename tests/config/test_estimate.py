"""The estimate: trainings as the plan has them, totals by hand, and a reason for all that is not known."""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from peft_tradeoffs.config import estimate, estimate_text
from peft_tradeoffs.config.experiment import Experiment, resolve
from peft_tradeoffs.core import files
from peft_tradeoffs.core.code import fingerprint
from peft_tradeoffs.core.layout import SCRIPTS
from peft_tradeoffs.core.quantities import Missing, Span
from peft_tradeoffs.runs.plan import Finished
from peft_tradeoffs.training.forecast import Batch, Need, Timed, Work

GOLDEN = Path(__file__).with_name("estimate_demo.md")
RATES = {"learning_rate": [1e-3, 1e-2, 1e-1]}
LORA = {"peft_type": "LORA", "target_modules": "all-linear"}


def experiment(settings: dict[str, Any], folder: Path) -> Experiment:
    return resolve({**settings, "output": str(folder / "results")})


def small(**changes: Any) -> dict[str, Any]:
    """The small experiment, its model from the hub: nothing is fetched, and no data is looked at."""
    hub = {"source": "hub", "path": "owner/model", "revision": "0" * 40}
    return json.loads(json.dumps(tiny.config(Path(), models={"tiny": hub}, **changes)))


def example(name: str, folder: Path) -> Experiment:
    return experiment(yaml.safe_load((tiny.REPOSITORY / name).read_text(encoding="utf-8")), folder)


def tuned(settings: dict[str, Any]) -> dict[str, Any]:
    for method in settings["methods"].values():
        method |= RATES
    settings["methods"]["lora"]["ranks"] = [2, 4, 8]
    return settings


@pytest.mark.parametrize(
    ("settings", "trainings"),
    [
        (small(), (6, 6)),
        # Three rates for each of five arms, twice more where they are tied; two seeds.
        (tuned(small(seeds_per_job=1)), (15 + 10, 15 + 10 + 30)),
        # One rank of each method is tuned; up to three rates are added, and tried again as the others.
        (tuned(small(tune={"by": "method", "extend": True})), (9 + 10, 9 + 10 + 3 * (3 + 2 * 6))),
        (
            small(noise={"repeats": 3}, equal_memory={"caps_GiB": [1, 2], "arms": ["full"]}, seeds=[0, 1, 2]),
            (9 + 3, 9 + 3 + 6),
        ),
    ],
    ids=["plain", "tuned", "by method", "noise and caps"],
)
def test_trainings_and_jobs_are_those_of_the_plan(settings, trainings, tmp_path):
    found = estimate.look(experiment(settings, tmp_path), estimate.Site(), steps=False)
    assert found.trainings == Span(*trainings)
    tiny.write_inputs(tmp_path, tmp_path)
    planned = tiny.snakemake(tmp_path, settings, "-n", "--quiet", "rules").stdout
    jobs = {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", planned, re.MULTILINE)}
    training = ("tune", "train", "repeat", "train_at_equal_memory", "answer_untrained")
    assert found.jobs() == {rule: jobs[rule] for rule in training if rule in jobs}


CODE = fingerprint(SCRIPTS / "train.py")


def finish(asked, folder, trial=False, rate=0.1, **changes):
    """Leave what a finished run of an arm leaves, or a trial; `changes`: to its settings."""
    place = folder.relative_to(asked.output).parts
    names = place[place.index("reviews") :][:3]
    settings = asked.trial_settings(*names) if trial else asked.run_settings(*names)
    seed = asked.tune.seed if trial else int(place[-1].removeprefix("seed"))
    if trial:
        rate = float(place[-1].removeprefix("lr"))
        seed += int(place[-2].removeprefix("retry")) if place[-2].startswith("retry") else 0
    folder.mkdir(parents=True)
    own = {**settings.to_dict(), "learning_rate": settings.learning_rate or rate, **changes}
    env = {"settings": own, "code_sha256": CODE, "fingerprint": "f", "data_sha256": "d"}
    (folder / "env.json").write_text(json.dumps(env))
    (folder / "summary.json").write_text(json.dumps(files.seal({"fingerprint": "f", "seed": seed}, folder)))


def choose(asked, arm="full", rate=1e-2, **changes):
    """Leave what tune.py writes of an arm whose trials are those of the grid."""
    settings = asked.trial_settings("reviews", "tiny", arm)
    trial = {"added": False, "status": "completed", "value": 0.9, "loss": 0.3}
    rates = asked.trials[arm]
    found = {
        **{key: getattr(settings, key) for key in ("dataset", "model", "arm", "method", "rank", "metric")},
        **{key: getattr(settings, key) for key in ("epochs", "max_steps", "batch_size")},
        **{"learning_rate": rate, "edge": None, "rates": rates, "tied": [], "dev": "train", "code_sha256": CODE},
        **{"extensions": 0, "retry": asked.tune.retry, "seed": asked.tune.seed, "gaps": [], "earlier": []},
        **{"trials": [{**trial, "learning_rate": one} for one in rates], "retries": []},
        **changes,
    }
    path = Path(asked.output, f"tune/best/reviews/tiny/{arm}.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(files.signed(found)))
    return found


def counts(asked, arm="full"):
    return estimate.counted(asked, "reviews", "tiny", arm)


TRIALS = "results/tune/trials/reviews/tiny/full"


def tried(asked, folder, *more):
    """Leave the trials of full's grid, and `more`."""
    for trial in (*(f"lr{rate:g}" for rate in asked.trials["full"]), *more):
        finish(asked, folder / TRIALS / trial, trial=True)


def test_what_is_finished_is_said(tmp_path):
    """Trials of a tuning that has ended are counted as they were, also where they are deleted since."""
    asked = experiment(tuned(small()), tmp_path)
    finish(asked, tmp_path / "results/runs/reviews/tiny/full/seed0", rate=1e-2)
    for trial in ("lr0.001", "lr0.01", "retry1/lr0.01"):
        finish(asked, tmp_path / TRIALS / trial, trial=True)
    found = counts(asked)
    assert found.finished == Finished(trials=3), "no rate is chosen, at which a run could be finished"
    assert (found.trials_all, found.left.trials, found.left.runs) == (Span(4, 9), Span(1, 6), Span(1, 2))
    chosen = choose(asked)
    retry = {**chosen["trials"][1], "retry": 1}
    choose(asked, retries=[retry])
    for _ in range(2):
        found = counts(asked)
        assert found.settled and found.finished.runs == 1
        assert (found.trials_all, found.left.trials, found.left.runs) == (Span(4, 4), Span(0, 0), Span(1, 1))
        shutil.rmtree(tmp_path / "results/tune/trials", ignore_errors=True)
    said = estimate_text.text(estimate.look(asked, estimate.Site(), steps=False))
    assert "5 of them are finished, 21 to 45 are still to run." in said.replace("\n", " ") and "## Still to run" in said
    assert "4 trials by which learning rates were chosen" in said


@pytest.mark.parametrize("changed", ["nothing", "seed", "retry", "extend", "epochs", "fraction", "rates", "code"])
def test_a_choice_of_a_rate_counts_as_long_as_the_same_is_asked(changed, tmp_path):
    """With its trials there or deleted; whatever is not asked for as it was has tuning begin again, or go on."""
    tune: dict[str, Any] = {"seed": {"seed": 2000}, "retry": {"retry": 3}, "extend": {"extend": True}}.get(changed, {})
    if changed == "fraction":
        tune = {"fraction": 0.2}
    settings = tuned(small(tune=tune))
    before = experiment(tuned(small()), tmp_path)
    tried(before, tmp_path)
    choose(before, **({"code_sha256": "0" * 64} if changed == "code" else {}))
    dev = tmp_path / "results/tune/tokens/reviews/tiny.json"
    dev.parent.mkdir(parents=True)
    dev.write_text(json.dumps({"dev": "train", "carved": {"fraction": 0.1, "seed": 1000}, "sha256": "d"}))
    if changed == "epochs":
        settings["training"]["epochs"] = 9
    if changed == "rates":
        settings["methods"]["full"]["learning_rate"] = [1e-2, 1e-1, 1.0]
        settings["methods"]["lora"]["learning_rate"] = settings["methods"]["qlora"]["learning_rate"] = [1e-2, 1e-1, 1.0]
    asked = experiment(settings, tmp_path)
    if changed == "seed":  # as if its dev split, too, were made anew
        dev.write_text(json.dumps({"dev": "train", "carved": {"fraction": 0.1, "seed": 2000}, "sha256": "d"}))
    stand = {"nothing": 3, "retry": 3, "extend": 3, "code": 3, "rates": 2}.get(changed, 0)
    found = counts(asked)
    assert (found.settled, found.finished.trials) == (changed == "nothing", stand)
    shutil.rmtree(tmp_path / "results/tune/trials")
    assert counts(asked).settled == (changed == "nothing")


def test_runs_are_finished_at_the_rate_that_is_chosen_now(tmp_path):
    asked = experiment(tuned(small()), tmp_path)
    tried(asked, tmp_path)
    choose(asked, rate=1e-3)
    for seed in asked.seeds:
        finish(asked, tmp_path / f"results/runs/reviews/tiny/full/seed{seed}", rate=1e-3)
    assert (counts(asked).finished.runs, counts(asked).left.runs) == (2, Span(0, 0))
    choose(asked, rate=1e-2)
    assert (counts(asked).finished.runs, counts(asked).left.runs) == (0, Span(2, 2))
    asked = experiment(tuned(small(tune={"retry": 4})), tmp_path)  # which may choose either
    assert (counts(asked).finished.runs, counts(asked).left.runs) == (0, Span(0, 2))


def test_rates_beyond_the_grid_that_may_follow_are_said(tmp_path):
    """`extend` was set since: of a best rate at the edge one more is sure, and runs may follow at the rate found."""
    before = experiment(tuned(small()), tmp_path)
    tried(before, tmp_path)
    choose(before, rate=1e-1, edge="highest")
    for seed in before.seeds:
        finish(before, tmp_path / f"results/runs/reviews/tiny/full/seed{seed}", rate=1e-1)
    assert counts(before).left.all == Span(0, 0)
    asked = experiment(tuned(small(tune={"extend": True})), tmp_path)
    assert counts(asked).left.trials == Span(1, 3 + 6 * 2) and counts(asked).left.runs == Span(0, 2)
    said = estimate_text.text(estimate.look(asked, estimate.Site(), steps=False))
    assert "Tuning has not ended: if it chooses another learning rate" in said.replace("\n  ", " ")
    for trial in ("lr1", "lr10", "lr100", "lr0.0001", "retry1/lr1"):
        finish(asked, tmp_path / TRIALS / trial, trial=True)
    found = counts(asked)
    assert found.finished.trials == 3 + 3 + 1, "three are added at most, at whichever edge"
    assert found.left.trials == Span(0, 3 + 12 - 4)


def test_what_is_finished_takes_no_time(tmp_path):
    """One of two runs of an arm is finished, then both: neither its seconds nor its job's start are to come."""
    asked = experiment(small(), tmp_path)
    run_s = TIMED.run_s(WORK, 1)
    for seed, left in ((0, 3 * (2 * run_s + 1) - run_s), (1, 2 * (2 * run_s + 1))):
        finish(asked, tmp_path / f"results/runs/reviews/tiny/lora-r4/seed{seed}")
        found = known(asked, estimate.Site(cores=1))
        assert found.device_s().least == found.wall_s().most == pytest.approx(left)


@pytest.mark.parametrize("changed", ["nothing", "epochs", "code", "trials alone", "not a record", "edited"])
def test_what_was_made_otherwise_is_still_to_run(changed, tmp_path):
    """A run of other settings or other code is not finished; nor is a choice of rates whose trials are of such."""
    asked = experiment(tuned(small()), tmp_path)
    run, trial = tmp_path / "results/runs/reviews/tiny/full/seed0", tmp_path / TRIALS / "lr0.01"
    finish(asked, run)
    tried(asked, tmp_path)
    choose(asked, rate=0.1)
    if changed == "epochs":
        asked = experiment(tuned({**small(), "training": {**small()["training"], "epochs": 9}}), tmp_path)
    for folder in {"code": (run, trial), "trials alone": (trial,)}.get(changed, ()):
        env = json.loads((folder / "env.json").read_text())
        (folder / "env.json").write_text(json.dumps({**env, "code_sha256": "0" * 64}))
    if changed == "not a record":
        (run / "env.json").write_text("[1]")
        (trial / "env.json").unlink()
    if changed == "edited":
        for folder in (run, trial):
            summary = json.loads((folder / "summary.json").read_text())
            (folder / "summary.json").write_text(json.dumps({**summary, "metric_value": 1.0}))
    found = counts(asked)
    stands = {"nothing": (1, 3), "trials alone": (1, 2), "epochs": (0, 0)}.get(changed, (0, 2))
    assert (found.finished.runs, found.finished.trials) == stands and found.settled == (changed == "nothing")


def test_trials_that_are_not_asked_for_do_not_count(tmp_path):
    """Those of other rates, made again more often than now, with another seed, on another dev split."""
    asked = experiment(tuned(small()), tmp_path)
    others = ("lr0.2", "lr0.4", "lr0.8", "retry3/lr0.01", "retry1/lr0.2")
    for trial in others:
        finish(asked, tmp_path / TRIALS / trial, trial=True)
    found = counts(asked)
    assert (found.finished.trials, found.left.trials, found.trials_all) == (0, Span(3, 9), Span(3, 9))
    finish(experiment(tuned(small(tune={"seed": 7})), tmp_path), tmp_path / TRIALS / "lr0.1", trial=True)
    assert counts(asked).finished.trials == 0
    finish(asked, tmp_path / TRIALS / "lr0.01", trial=True)
    assert counts(asked).finished.trials == 1
    dev = tmp_path / "results/tune/tokens/reviews/tiny.json"
    dev.parent.mkdir(parents=True)
    dev.write_text(json.dumps({"sha256": "of other rows"}))
    assert counts(asked).finished.trials == 0


def test_a_seed_that_a_killed_job_finished_is_finished(tmp_path):
    """Snakemake removed its summary; the next call puts it back from the run's state."""
    asked = experiment(small(), tmp_path)
    run = tmp_path / "results/runs/reviews/tiny/full/seed0"
    finish(asked, run)
    (run / "state").mkdir()
    (run / "summary.json").rename(run / "state/summary.json")
    assert counts(asked).finished.runs == 1
    (run / "state/summary.json").write_text(json.dumps(files.seal({"fingerprint": "another", "seed": 0}, run)))
    assert counts(asked).finished.runs == 0


@pytest.mark.parametrize("changed", ["nothing", "epochs", "rate", "caps"])
def test_runs_at_equal_memory_are_compared_with_what_is_asked(changed, tmp_path):
    """Their batch is that of their folder, their rate follows it, and no weights are kept."""
    memory = {"caps_GiB": [1, 2], "arms": ["full"]}
    before = experiment(small(equal_memory=memory), tmp_path)
    for seed in before.seeds:
        run = tmp_path / f"results/equal_memory/runs/reviews/tiny/full/batch32/seed{seed}"
        finish(before, run, batch_size=32, learning_rate=2e-3, save_weights=False)
    settings = small(equal_memory={**memory, "caps_GiB": [1, 3]} if changed == "caps" else memory)
    if changed == "epochs":
        settings["training"]["epochs"] = 9
    if changed == "rate":
        settings["methods"]["full"]["learning_rate"] = 1e-4
    asked = experiment(settings, tmp_path)
    done = 2 if changed in ("nothing", "caps") else 0
    assert (counts(asked).finished.at_caps, counts(asked).left.at_caps) == (done, Span(0, 4 - done))
    caps = [{"cap_MiB": cap * 1024, "batch_size": size} for cap, size in ((1, None), (2, 32))]
    found = {"caps": caps, "rule": "sqrt", "largest": 1024, "base_batch_size": 8}
    path = tmp_path / "results/equal_memory/found/reviews/tiny/full.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(files.signed(found)))
    most = 4 if changed == "caps" else 2
    assert (counts(asked).at_caps, counts(asked).left.at_caps) == (most, Span(0, most - done))


def test_answers_of_the_untrained_model_are_compared_with_what_is_asked(tmp_path):
    asked = experiment(small(), tmp_path)
    folder = tmp_path / "results/untrained/reviews/tiny"
    settings = asked.untrained_settings("reviews", "tiny")
    folder.mkdir(parents=True)
    sha256 = fingerprint(SCRIPTS / "answer_untrained.py")
    env = {"settings": settings.to_dict(), "code_sha256": sha256, "fingerprint": "f"}
    (folder / "summary.json").write_text(json.dumps(files.seal({"fingerprint": "f", "seed": 0}, folder)))
    for code, length, stands in ((sha256, 32, True), (CODE, 32, False), (sha256, 16, False)):
        (folder / "env.json").write_text(json.dumps({**env, "code_sha256": code}))
        now = small()
        now["training"]["max_length"] = length
        assert estimate.answered(experiment(now, tmp_path), "reviews", "tiny") == stands


def test_a_whole_workflow_that_has_ended_leaves_nothing_and_other_epochs_all_of_it(finished, demo, monkeypatch):
    """Of settings alone, and of tuned rates: what the estimate takes for finished is what real runs leave."""
    monkeypatch.setattr(estimate, "_Looker", None)  # nothing is measured
    for folder in (finished, demo.parent):
        monkeypatch.chdir(folder)
        settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        found = estimate.look(resolve(settings), estimate.Site())
        said = estimate_text.text(found)
        assert found.left == Span(0, 0) and found.trainings.most >= 6
        assert "All of them are finished: nothing is left to run." in said.replace("\n", " ")
        assert "unknown" not in said and "Jobs" not in said and json.dumps(estimate_text.as_json(found))
        for block in {"training", "tune"} & {*settings}:
            settings[block]["epochs"] = 9
        changed = [estimate.counted(resolve(settings), one.dataset, one.model, one.arm.name) for one in found.arms]
        assert sum(one.finished.all for one in changed) == 0
        assert all(one.left.runs == Span(one.runs, one.runs) for one in changed)


def test_what_is_not_known_has_a_reason(tmp_path, monkeypatch):
    """The reference benchmark without a network and without a GPU: exact trainings, and nothing is 0."""
    monkeypatch.setattr(estimate.machine, "gpus_here", lambda: 0)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    found = estimate.look(example("config.yaml", tmp_path), estimate.Site(gpus=2))
    said = estimate_text.text(found)
    assert "**45 trainings**: 45 runs. Jobs: 9 train." in said
    assert "Memory of all arms unknown: model distilbert is not fetched yet; run `snakemake" in said
    assert "no GPU here; estimate in a job, with your cluster's profile and the same configuration" in said
    lines = said.splitlines()
    assert len(lines) <= 60 and max(map(len, lines)) <= 160
    assert not re.search(r"\b0(\.0+)? (s|min|h|GiB|MiB|kWh)", said)
    values = estimate_text.as_json(found)
    assert [values[key] for key in ("device_s", "wall_s", "disk_MiB", "energy_J")] == [None] * 4
    for arm in values["arms"]:
        assert arm["run_s"] is arm["memory_MiB"] is None
        assert arm["memory"]["unknown"] and arm["seconds"]["unknown"]
    json.dumps(values)


def test_memory_needs_no_weights(tmp_path, tiny_bert):
    """A model's folder is enough, and where texts are not tokenised memory is that of max_length."""
    settings = tiny.config(tmp_path)
    settings["models"]["tiny"]["path"] = str(tiny_bert)
    found = estimate.look(experiment(settings, tmp_path), estimate.Site(), steps=False)
    assert all(one.need.probe_peak_allocated_MiB > 64 for one in found.arms)
    assert [one.peak_MiB for one in found.arms] == [one.need.tensors_MiB for one in found.arms]  # on a CPU
    assert "memory is at most that of max_length 32" in estimate_text.text(found).replace("\n  ", " ")
    assert all(isinstance(one.timed, Missing) for one in found.arms)


WORK = Work(1000, 100, {(10, 8): 50.0, (10, 16): 50.0}, 2, 1000, 0, 0, 0, 200, Batch((10, 16)))
TIMED = Timed(1.0, 0.5, 0.25, 0.0, 0.0, [(80, 0.1), (160, 0.3)], 0.001, None, 0.0, None, 500.0)


def known(asked: Experiment, site: estimate.Site, start_s: float = 1.0) -> estimate.Estimate:
    """An estimate in which each arm takes a MiB of its own and the same seconds."""
    arms = []
    for place, (name, arm) in enumerate(asked.arms.items()):
        dataset, model = next(iter(asked.datasets)), next(iter(asked.models))
        one = estimate.ArmEstimate(dataset, model, arm, estimate.counted(asked, dataset, model, name), WORK)
        one.trial = WORK.of_trial(0.5, 1, None, 100, 10)
        one.on_cpu = asked.training.device == "cpu"
        one.need = Need(100.0, 10.0, 20.0, 30.0, 1024.0 * (1 + place), 5)
        one.timed = TIMED
        arms.append(one)
    return estimate.Estimate(asked, site, arms, start_s, "a processor")


def test_seconds_by_hand(tmp_path):
    """A run loads, probes, prepares, takes 50 steps of 0.1 s and 50 of 0.3 s, and reads 2 x 1,000 tokens."""
    run = 1.0 + 0.5 + 0.25 + 50 * 0.1 + 50 * 0.3 + 2 * 1000 * 0.001
    assert TIMED.run_s(WORK, 1) == pytest.approx(run)
    assert TIMED.step_s(120) == pytest.approx(0.2)
    trial = WORK.of_trial(0.5, 1, None, 100, 10)  # half the rows, once: 50 steps; no probe
    assert (trial.steps, trial.evaluations) == (50, 1)
    assert TIMED.run_s(trial, 1, probed=False) == pytest.approx(1.0 + 0.25 + 25 * 0.1 + 25 * 0.3 + 100 * 0.001)
    asked = experiment(small(), tmp_path)  # three arms of two seeds
    one, two = (known(asked, estimate.Site(cores=cores)) for cores in (1, 2))
    assert one.disk_MiB().least == pytest.approx(3 * 2 * (10 + 200 * 40 / 2**20))  # weights, and 200 predictions
    assert one.device_s().least == pytest.approx(3 * (2 * run + 1.0))
    assert one.wall_s() == one.device_s()
    assert two.wall_s().most == pytest.approx(2 * (2 * run + 1.0))  # the third arm's job waits for one of two
    assert one.energy_J() == pytest.approx(500 * 6 * run)


def test_runs_wait_for_the_tuning_of_their_rate(tmp_path):
    asked = experiment(tuned(small(seeds=[0])), tmp_path)
    many = known(asked, estimate.Site(cores=50))
    one = many.arms[0]
    assert many.wall_s().least == pytest.approx(3 * one.trial_s + 1.0 + one.run_s + 1.0)
    assert many.wall_s().most == pytest.approx(9 * one.trial_s + 1.0 + one.run_s + 1.0)


def test_gpus_money_and_what_does_not_fit(tmp_path, monkeypatch):
    """The local profile asks for one GPU more than there are; a limit and the device's memory are kept."""
    monkeypatch.setattr(estimate.machine, "gpus_here", lambda: 1)
    changes: dict[str, Any] = {"recommendation": {"memory_GiB": 2.5}, "cost": {"gpu_hour": 3600, "currency": "EUR"}}
    settings = small(**changes)
    settings["training"] |= {"device": "cuda"}
    found = known(experiment(settings, tmp_path), estimate.Site(gpus=2))
    assert found.slots() == 1
    monkeypatch.setattr(estimate.machine, "gpus_here", lambda: 0)
    assert found.slots() is None and "as many at once as there are GPUs" in estimate_text.text(found)
    monkeypatch.setattr(estimate.machine, "gpus_here", lambda: 1)
    assert dataclasses.replace(found, site=estimate.Site(local=False, gpus=8, jobs=100)).slots() == 8
    runs = 6 * found.arms[0].run_s  # in three jobs, each of which takes a second to start
    assert found.wall_s().most == found.device_s().most == pytest.approx(runs + 3)
    ahead = dataclasses.replace(found, site=estimate.Site(gpus=2, cores=4))  # a job starts while another's runs train
    assert ahead.wall_s().most == pytest.approx(runs + 1) and ahead.device_s() == found.device_s()
    found.device_MiB, found.device = 1536.0, "a GPU"
    assert found.too_large() == [
        "Above recommendation.memory_GiB 2.5: qlora-r4 (3.00 GiB)",
        "Above the 2 GiB of a GPU: lora-r4 (2.00 GiB), qlora-r4 (3.00 GiB)",
    ]
    said = estimate_text.text(found)
    assert "## What does not fit" in said
    assert f"per GPU hour: {found.device_s().least:.2f} EUR" in said  # a currency unit per second; no range of one


def test_gpus_of_a_run_count_each(tmp_path, monkeypatch):
    """Three arms of two runs each, one job per arm: full on two GPUs, the others on one."""
    monkeypatch.setattr(estimate.machine, "gpus_here", lambda: 2)
    settings = small()
    settings["training"] |= {"device": "cuda"}
    settings["methods"]["full"] |= {"gpus": 2, "varies": ["gpus"]}
    found = known(experiment(settings, tmp_path), estimate.Site(gpus=2))
    job = 2 * found.arms[0].run_s + 1.0
    assert [one.arm.gpus for one in found.arms] == [2, 1, 1]
    assert found.device_s().most == pytest.approx(4 * job)
    assert found.wall_s().most == pytest.approx(2 * job)  # full alone, then the others beside each other
    assert found.energy_J() == pytest.approx(4 * (job - 1.0) * 500.0)
    said = estimate_text.text(found)
    assert "on 2 GPUs: " in said and "each GPU of a run counts" in said and "with its share of a batch" in said
    assert re.search(r"\| Arm +\| +GPUs +\|", said)
    monkeypatch.setattr(estimate.machine, "gpus_here", lambda: 1)
    assert found.wall_s() is None
    assert found.too_large() == ["More GPUs than the 1 that jobs may have at once: full (2)"]


def test_a_gpus_share_of_a_batch():
    """Seven rows on two GPUs: one has four; each reads half of what is evaluated."""
    work = dataclasses.replace(WORK, shapes={(7, 8): 3.0, (8, 8): 2.0}, evaluated=101, once=7)
    own = work.share(2)
    assert own.shapes == {(4, 8): 5.0} and (own.evaluated, own.once) == (51, 4)
    assert (own.steps, own.rows) == (work.steps, work.rows)
    assert dataclasses.replace(work, prompts=7).share(2).prompts == 4
    assert own.largest.shape[0] == -(-work.largest.shape[0] // 2) and work.share(1) == work


def test_forty_arms(tmp_path):
    """Ranks between the smallest and the largest are interpolated once time is up, and it says which."""
    methods = {
        name: {"learning_rate": 1e-3, "ranks": list(range(1, 14)), "peft": {**LORA, **fields}}
        for name, fields in {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}.items()
    }
    asked = experiment(small(methods={"full": {"learning_rate": 1e-3}, **methods}), tmp_path)
    assert len(asked.arms) == 40
    arms = known(asked, estimate.Site()).arms
    looked_at = []

    def look(one: estimate.ArmEstimate) -> Need:
        looked_at.append(one.arm.name)
        return Need(1.0, 1.0, 1.0, 1.0, 100.0 + (one.arm.rank or 0), one.arm.rank or 0)

    estimate._along_ranks(arms, look, "need", budget_s=0.0)
    assert looked_at == ["full", "lora-r1", "lora-r13", "rslora-r1", "rslora-r13", "dora-r1", "dora-r13"]
    assert {one.need.probe_peak_allocated_MiB - (one.arm.rank or 0) for one in arms} == {100.0}
    assert sum(one.between for one in arms) == 33
    found = estimate.Estimate(asked, estimate.Site(), arms, 1.0, "a processor")
    assert "dora-r12" in estimate_text.text(found).partition("Between ranks that were looked at")[2]


def test_an_arm_that_cannot_be_is_said_and_the_others_are_looked_at(tmp_path, tiny_bert):
    settings = tiny.config(tmp_path)
    settings["models"]["tiny"]["path"] = str(tiny_bert)
    settings["methods"]["lora"]["peft"] = {"peft_type": "LORA", "target_modules": ["nowhere"]}
    found = estimate.look(experiment(settings, tmp_path), estimate.Site(), steps=False)
    full, lora, qlora = found.arms
    assert full.need and qlora.need
    assert isinstance(lora.need, Missing) and "nowhere matches nothing in the model" in lora.need.reason


def test_the_demo_as_it_is_told(tmp_path, monkeypatch):
    """UPDATE_GOLDEN=1 writes it anew."""
    monkeypatch.chdir(tmp_path)
    found = known(example("examples/demo.yaml", Path()), estimate.Site(cores=2), 4.0)
    said = estimate_text.text(found)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(said, encoding="utf-8")
    assert said == GOLDEN.read_text(encoding="utf-8")
