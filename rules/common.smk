"""Everything the rules share: the configuration, the grid and the paths."""

import json
import logging
import os
import shlex
import sys
from pathlib import Path

# Not workflow.basedir: where another workflow takes this one as a module, that is the other one's.
REPOSITORY = Path(str(workflow.current_basedir)).parent
SCRIPTS = REPOSITORY / "workflow_scripts"
sys.path.insert(0, str(SCRIPTS))
# `python` in shell commands is the one that runs Snakemake (a conda environment still comes first).
os.environ.update(
    PATH=os.pathsep.join(
        [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    )
)

from snakemake.logging import logger

from peft_tradeoffs.runs import lock, slurm_executor, terminal
from peft_tradeoffs.runs.plan import Standing, Trials, possible_trials
from peft_tradeoffs.core.code import fingerprint
from peft_tradeoffs.config.experiment import resolve
from peft_tradeoffs.config.file import check_file
from peft_tradeoffs.core.errors import run
from peft_tradeoffs.core.files import sha256
from peft_tradeoffs.core import layout
from peft_tradeoffs.core.layout import (
    FIGURES,
    TUNING_FIGURES,
    sweep_figures,
)
from peft_tradeoffs.report.imported import find
from peft_tradeoffs.config.preflight import (
    check_arms,
    check_gpu_here,
    check_gpus,
    check_paths,
    check_planned,
    check_reference,
    check_written,
    content,
    content_of,
    question,
    say_what_can_be_decided,
    site_told,
    tell_site,
    versions_of_scoring,
    warn_of_missing,
)
from peft_tradeoffs.core.slurm import check_commands, check_resources
from peft_tradeoffs.report.tracking import NONE, not_installed, project_name
from peft_tradeoffs.report.tracking import Account, end_following, failed_attempts
from peft_tradeoffs.report.tracking import is_live, start_following
from peft_tradeoffs.config.experiment import factors

slurm_executor.install()
if workflow.is_main_process:
    layout.tell_command(sys.argv[1:])
TERMINAL = terminal.Lines(logging.Formatter(), lambda: True)
# Where another workflow takes this one as a module, the terminal is the other one's; a SLURM job's log has no other file.
if workflow.is_main_process and workflow.modifier.is_main_snakefile():
    TERMINAL = terminal.say_briefly(
        logger, lambda: workflow.dryrun or workflow.output_settings.verbose
    )


report: "../report/workflow.rst"


onstart:
    if not all(job.is_local for job in workflow.dag.needrun_jobs()):
        run(lambda: check_commands(workflow.executor_plugin))
    if EXPERIMENT.training.device == "cuda":
        run(check_gpu)
    if {job.rule.name for job in workflow.dag.jobs} == {"status"}:
        # At its end Snakemake removes every lock in the folder, those of a call that is still at work too.
        workflow.persistence.unlock = workflow.persistence.noop
    else:
        lock.record()
    TERMINAL.left = sweep(list(workflow.dag.needrun_jobs())).left
    if "train" in {job.rule.name for job in workflow.dag.needrun_jobs()}:
        follow_runs()


# Of targets that always run: what a person reads at their end.
SAID = {"gpu_check": "gpu_check.txt", "estimate": "estimate.md"}


onsuccess:
    end_followers()
    asked = {job.rule.name for job in workflow.dag.jobs}
    for name, file in SAID.items():
        if name in asked:
            print(Path(OUT, file).read_text(encoding="utf-8"), end="", flush=True)
    if {"make_report", "recommend"} <= asked:
        print(
            terminal.ended_well(
                Path(f"{OUT}/tables/recommendation.md"), Path(f"{OUT}/report.html")
            ),
            flush=True,
        )


onerror:
    end_followers()
    print(terminal.ended_badly(TERMINAL), file=sys.stderr, flush=True)


FOLLOWERS = []  # processes that send points of runs while they train


def follow_runs():
    """Runs are about to be trained: let the tracker have their points meanwhile."""
    if is_live(EXPERIMENT.tracking, os.environ) and not workflow.touch:
        account = Account(EXPERIMENT.tracking, project_name(OUT), tracking_folder())
        log = Path(OUT, "logs", "follow_runs.log")
        FOLLOWERS.append(start_following(account, Path(OUT), log))


def end_followers():
    """Nothing trains any more."""
    while FOLLOWERS:
        end_following(FOLLOWERS.pop())


def check_gpu():
    """Before the first job: training that is to run on this machine finds no GPU. What looks for one itself may run."""
    jobs = [
        job.rule.name
        for job in workflow.dag.needrun_jobs()
        if job.is_local and job.resources.get("gpu") and job.rule.name not in SAID
    ]
    if jobs:
        check_gpu_here(sorted(set(jobs)))
    for job in workflow.dag.needrun_jobs():
        if job.rule.name in TRAIN_ARMS and job.resources.get("gpu"):
            check_gpus(EXPERIMENT, job.wildcards.arm, job.is_local, gpu_limit())


# Rules whose jobs have the GPUs of their arm.
TRAIN_ARMS = ("train", "tune", "repeat", "train_at_equal_memory")


def gpu_limit():
    """GPUs that all jobs together may have; None without such a limit."""
    return getattr(workflow.global_resources.get("gpu"), "value", None)


def gpus(wildcards):
    """GPUs of a job that trains an arm. Snakemake lowers them to its limit and says nothing."""
    if EXPERIMENT.training.device == "cpu":
        return 0
    if workflow.dryrun:  # which has no onstart
        run(lambda: check_gpus(EXPERIMENT, wildcards.arm, False, gpu_limit()))
    return EXPERIMENT.arms[wildcards.arm].gpus


def processes(wildcards):
    """Of a job that trains an arm, with one thread each: one per GPU, on a CPU as many."""
    return EXPERIMENT.arms[wildcards.arm].gpus


def experiment():
    found = resolve(config, workflow.config_settings.config)
    check_paths(found)
    check_arms(found)
    check_planned(found)
    return found


for path in workflow.configfiles:
    run(lambda: check_file(Path(path)))

# A file that names data sets stands alone; any other is laid over the reference benchmark.
if "datasets" not in config:
    run(lambda: check_file(Path("config.yaml")))

    configfile: "config.yaml"


EXPERIMENT = run(experiment)
OUT = EXPERIMENT.output
if workflow.is_main_process:
    run(
        lambda: check_resources(
            workflow.resource_settings.default_resources,
            workflow.resource_settings.overwrite_resources,
        )
    )
    run(lambda: check_written(EXPERIMENT))
    warn_of_missing(EXPERIMENT)
    say_what_can_be_decided(EXPERIMENT)
if workflow.is_main_process and (missing := not_installed(EXPERIMENT.tracking)):
    print(
        f"warning: config key tracking: {missing}; no run waits for it, and none is sent until it is there",
        file=sys.stderr,
    )
RESULTS = ["runs", "arms", "memory", "cost"]
EXPORTED = ["runs", "arms", "metrics", "null_reasons"]
COMPARISONS = ["comparison"]
CONTRACT = ["contract"]
FACTORIALS = {
    name: factors(name, arms, EXPERIMENT.arms)
    for name, arms in EXPERIMENT.attribution.items()
}
IMPORTED = run(lambda: find(EXPERIMENT.imported))
# Data sets and models whose answers before any training stand beside the arms'; random weights have none to show.
UNTRAINED = [
    (dataset, model)
    for dataset, block in EXPERIMENT.datasets.items()
    for model, of_model in EXPERIMENT.models.items()
    if block.generate is not None and of_model.source != "random"
]
# What is made only where the configuration asks for it.
ASKED_FOR = {
    "untrained": UNTRAINED,
    "tuning": EXPERIMENT.trials,
    "noise": EXPERIMENT.noise,
    "equal_memory": EXPERIMENT.equal_memory,
    "attribution": FACTORIALS,
    "forgetting": any(block.forgetting for block in EXPERIMENT.datasets.values()),
    "imported": IMPORTED,
}
VIEWS = ["equal_cost", *(name for name, block in ASKED_FOR.items() if block)]
SWEEPS = list(sweep_figures((arm.method, arm.rank) for arm in EXPERIMENT.arms.values()))
DRAWN = [*FIGURES, *SWEEPS, *(TUNING_FIGURES if EXPERIMENT.trials else [])]
# Where Snakemake's report lists each table.
SUBJECTS = {
    "recommendation": "Decision",
    **{name: subject for name, (_, subject) in layout.TABLES.items()},
}
GRID = {
    "dataset": list(EXPERIMENT.datasets),
    "model": list(EXPERIMENT.models),
    "arm": list(EXPERIMENT.arms),
    "seed": EXPERIMENT.seeds,
}
TUNED = f"{OUT}/tune/best/{{dataset}}/{{model}}/{{arm}}.json"
RUN = f"{OUT}/runs/{{dataset}}/{{model}}/{{arm}}/seed{{seed}}/summary.json"
ANSWERED = f"{OUT}/untrained/{{dataset}}/{{model}}/summary.json"
RECORD = f"{OUT}/tracking/sent/{EXPERIMENT.tracking}/{{dataset}}/{{model}}/{{arm}}/seed{{seed}}.json"
REPEAT = f"{OUT}/noise/repeat{{repeat}}/{{dataset}}/{{model}}/{{arm}}"


wildcard_constraints:
    dataset="|".join(map(re.escape, GRID["dataset"])),
    model="|".join(map(re.escape, GRID["model"])),
    arm="|".join(map(re.escape, GRID["arm"])),
    seed="|".join(map(str, GRID["seed"])),
    repeat=r"[1-9]\d*",


def script(name):
    """The path of a script, as a param that is derived, which Snakemake does not compare: a checkout may move."""
    return lambda wildcards, threads: str(SCRIPTS / name)


def as_json(asked):
    """A part of the experiment as JSON, for a script's option."""
    return json.dumps(asked, default=lambda block: block.to_dict())


def code(script):
    """What a script's code means, as a param: an edit of it reruns what depends on it, one of its comments does not."""
    return fingerprint(SCRIPTS / script)[:16]


def summaries():
    return expand(RUN, **GRID)


def sweep(jobs):
    """How far the trainings of these jobs are."""
    tunings, tune = {}, EXPERIMENT.tune
    for job in jobs:
        if job.rule.name == "tune":
            own = job.wildcards
            folder = Path(OUT, "tune", "trials", own.dataset, own.model, own.arm)
            stood, left = Standing(EXPERIMENT, own.dataset, own.model, own.arm).trials()
            extensions = tune.max_extensions * tune.extend
            paths = possible_trials(
                folder, EXPERIMENT.trials[own.arm], extensions, tune.retry
            )
            tunings[Path(str(job.output[0]))] = Trials(paths, stood, left)
    runs = [
        Path(str(path))
        for job in jobs
        if job.rule.name == "train"
        for path in job.output
    ]
    return terminal.Sweep(runs, tunings)


def repeated():
    """The runs that measure the noise floor repeats, as a grid."""
    noise = EXPERIMENT.noise
    return GRID | {"arm": noise.arms, "seed": [noise.seed]}


def repeats():
    numbers = range(1, EXPERIMENT.noise.repeats + 1)
    return expand(f"{REPEAT}/seed{{seed}}/summary.json", repeat=numbers, **repeated())


def noise_table():
    return expand(
        f"{OUT}/tables/{{name}}.csv", name=["noise"] if EXPERIMENT.noise else []
    )


def noise_option(wildcards, input):
    return f"--noise {shlex.quote(str(input.noise))}" if EXPERIMENT.noise else ""


# Scripts that look at the runs' weights: what they need to know where the runs may have none.
NO_WEIGHTS = "" if EXPERIMENT.keep_weights else "--no-keep-weights"


def tell_power(wildcards, threads):
    """Behind a data set's fetching: what its rows can decide, where the plan could not count them. Not compared."""
    asked = question(EXPERIMENT, wildcards.dataset)
    if asked is None:
        return ""
    folder = f"{OUT}/data/{wildcards.dataset}"
    words = ["--data-dir", folder, "--asked", json.dumps(asked)]
    return f" && python {shlex.join([str(SCRIPTS / 'tell_power.py'), *words])}"


def tell_power_of_trials(wildcards, threads):
    """Behind the table of trials: what each data set's rows can decide, if runs disagree as trials do. Not compared."""
    said = ""
    for name in GRID["dataset"]:
        if (asked := question(EXPERIMENT, name)) is not None and asked[
            "tuned_as"
        ] is not None:
            words = ["--data-dir", f"{OUT}/data/{name}", "--asked", json.dumps(asked)]
            words += ["--tunings-dir", f"{OUT}/tune/best/{name}"]
            said += f" && python {shlex.join([str(SCRIPTS / 'tell_power.py'), *words])}"
    return said


def check_reference_key(wildcards):
    """Before anything is trained for it: is there a reference? Its files are no input, so that Snakemake does not rebuild them."""
    run(lambda: check_reference(EXPERIMENT))
    return []


def fetched_files():
    return expand(f"{OUT}/models/{{model}}.json", model=GRID["model"]) + expand(
        f"{OUT}/data/{{dataset}}/dataset.json", dataset=GRID["dataset"]
    )


def descriptions():
    """What describes the data sets, with its warnings; where the runs are there without their data, only what is left."""
    paths = expand(f"{OUT}/data/{{dataset}}/dataset.json", dataset=GRID["dataset"])
    there = [path for path in paths if Path(path).exists()]
    brought = len(there) < len(paths) and all(map(os.path.exists, summaries()))
    return there if brought else paths


def token_descriptions():
    """What describes the tokens, with its warnings; where the runs are there without their data, only what is left."""
    paths = expand(f"{OUT}/tokens/{{dataset}}/{{model}}.json", **GRID)
    there = [path for path in paths if Path(path).exists()]
    brought = len(there) < len(paths) and all(map(os.path.exists, summaries()))
    return there if brought else paths


def answered_untrained():
    """What the untrained models gave; where the runs are there without their tokens, only what is left."""
    found = [
        (
            ANSWERED.format(dataset=dataset, model=model),
            Path(OUT, "tokens", dataset, f"{model}.npz"),
        )
        for dataset, model in UNTRAINED
    ]
    brought = all(map(os.path.exists, summaries()))
    return [
        path
        for path, tokens in found
        if os.path.exists(path) or tokens.exists() or not brought
    ]


def table_files(names=CONTRACT + RESULTS + COMPARISONS + VIEWS):
    return expand(
        f"{OUT}/tables/{{name}}.{{kind}}", name=names, kind=["csv", "md", "tex"]
    )


def recommendation_files():
    return expand(f"{OUT}/tables/recommendation.{{kind}}", kind=["csv", "md"])


def report_tables():
    names = CONTRACT + RESULTS + COMPARISONS + VIEWS + ["recommendation"]
    return expand(f"{OUT}/tables/{{name}}.csv", name=names)


def profiles_option():
    """The profiles that there are, for the report, and their state; no input, for none are made for it."""
    index = Path(OUT, "profiles/index.csv")
    if not index.is_file():
        return {"option": "", "sha256": None}
    return {"option": f"--profiles {shlex.quote(str(index))}", "sha256": sha256(index)}


def page_content(wildcards):
    """A checksum of the page's template, style and script."""
    paths = [f"report/page/{name}" for name in layout.PAGE]
    return content_of((path, REPOSITORY / path) for path in paths)[:16]


def templates_of(table):
    """A checksum of the templates of the sentences beside a table."""
    found = (
        path.relative_to(REPOSITORY)
        for folder in (table, "shared")
        for path in sorted(Path(REPOSITORY, layout.TEMPLATES, folder).glob("*.j2"))
    )
    return content_of((str(path), REPOSITORY / path) for path in found)[:16]


def export_files():
    return [
        *expand(
            f"{OUT}/export/{{name}}.{{kind}}",
            name=EXPORTED,
            kind=["csv", "parquet", "json", "schema.json"],
        ),
        f"{OUT}/export/datapackage.json",
    ]


def results():
    """All that is made unless a target is named."""
    made = [*summaries(), *table_files(), *recommendation_files(), *figure_files()]
    return [*made, f"{OUT}/report.html", *tracked()]


def figure_files(dataset=GRID["dataset"], model=GRID["model"]):
    """Each figure with its title and notes; and in paper/ bare, its caption beside it."""
    titled = expand("{figure}.{format}", figure=DRAWN, format=["svg", "pdf", "png"])
    bare = expand("paper/{figure}.{format}", figure=DRAWN, format=["svg", "pdf", "txt"])
    folder = f"{OUT}/figures/{{dataset}}/{{model}}"
    return [
        path
        for name in [*titled, *bare]
        for path in expand(f"{folder}/{name}", dataset=dataset, model=model)
    ]


def in_report(path, category, subcategory, caption=None):
    """A file as Snakemake's report has it, with the caption of its name or of another."""
    name = Path(path).stem
    return report(
        path,
        caption=f"../report/captions/{caption or name}.rst",
        category=category,
        subcategory=subcategory,
        labels={category.removesuffix("s"): name.replace("_", " ")},
    )


def tables_in_report(files):
    """Outputs: the report has each table once, as CSV with all its digits, and the words of the recommendation."""
    shown = {"recommendation": ".md"}
    return [
        (
            in_report(path, "Tables", SUBJECTS[Path(path).stem])
            if path.endswith(shown.get(Path(path).stem, ".csv"))
            else path
        )
        for path in files
    ]


def figures_in_report(files):
    """Outputs: the report has each figure once, as SVG."""
    return [
        (
            in_report(
                path,
                "Figures",
                "{dataset}, {model}",
                caption="sweep" if Path(path).stem in SWEEPS else None,
            )
            if path.endswith(".svg") and Path(path).parent.name != "paper"
            else path
        )
        for path in files
    ]


def source_files(block):
    """Files of the user that a data set or model is read from; their content is a param, so their dates do not count."""
    general = getattr(block, "forgetting", None)
    of_general = [general.path] if general and general.source == "files" else []
    if block.source == "files":
        return ancient([*block.splits.values(), *of_general])
    if block.source == "random":
        return source_files(block.tokenizer)
    if block.source == "folder":
        names = (str(path) for path in Path(block.path).iterdir() if path.is_file())
        return ancient(sorted(name for name in names if not set(name) & set("{}")))
    return ancient(of_general)


def tokens_at_hand(wildcards):
    """Tokens of data sets and models that are fetched, or stand on this disk: an estimate makes what needs no network."""
    models = [
        name
        for name, model in EXPERIMENT.models.items()
        if Path(OUT, "models", f"{name}.json").exists() or model.source == "folder"
    ]
    datasets = [
        name
        for name, block in EXPERIMENT.datasets.items()
        if Path(OUT, "data", name, "dataset.json").exists()
        or "hub" not in (block.source, getattr(block.forgetting, "source", None))
    ]
    return expand(
        f"{OUT}/tokens/{{dataset}}/{{model}}.npz", dataset=datasets, model=models
    )


def submits_jobs():
    """Whether this call sends jobs elsewhere, as a cluster's profile has it."""
    return workflow.is_main_process and workflow.non_local_exec


def site():
    """Where jobs run, and how many at once."""
    if not workflow.is_main_process:
        return site_told()
    settings = workflow.resource_settings
    return tell_site(
        {
            "local": not workflow.non_local_exec,
            "gpus": gpu_limit(),
            "jobs": settings.nodes,
            "cores": settings.cores or os.cpu_count(),
        }
    )


def scoring(wildcards):
    """What scores the answers to a data set's prompts, as the option of scripts that train."""
    asked = EXPERIMENT.scoring(wildcards.dataset)
    if asked is None:
        return ""
    # By what: another version is another param, so that finished runs are scored again.
    asked["by"] = {"code": code("score_outputs.py"), **versions_of_scoring()}
    return f"--scoring {shlex.quote(json.dumps(asked))}"


def tuned_rate(wildcards):
    """The file of an arm's tuned learning rate, where it has one."""
    arm = EXPERIMENT.arms[wildcards.arm].tuned_as
    return expand(TUNED, arm=arm, allow_missing=True) if arm else []


def tunings():
    """What tune.py wrote of every arm that is tuned."""
    arms = list(EXPERIMENT.trials)
    return expand(TUNED, dataset=GRID["dataset"], model=GRID["model"], arm=arms)


def tuning_csv():
    return f"{OUT}/tables/tuning.csv" if EXPERIMENT.trials else []


def job_outputs(file=RUN):
    """Summaries of one training job: all seeds of an arm, or one. Or another file, of which each run has one."""
    if EXPERIMENT.seeds_per_job == 1:
        return file
    return expand(file, seed=GRID["seed"], allow_missing=True)


def job_seeds(wildcards):
    return wildcards.get("seed", GRID["seed"])


def job_log(rule="train"):
    name = "seed{seed}.log" if EXPERIMENT.seeds_per_job == 1 else f"{rule}.log"
    return f"{OUT}/logs/{rule}/{{dataset}}/{{model}}/{{arm}}/{name}"


def tracked():
    """What its tracker has of each run."""
    return [] if EXPERIMENT.tracking == NONE else expand(RECORD, **GRID)


def tracking_folder():
    """Of what a tracker keeps here."""
    return Path(OUT, "tracking", EXPERIMENT.tracking)


def failed_to_track(wildcards):
    """How often runs of a training job could not be sent."""
    made = expand(job_outputs(RECORD), **wildcards)
    return sum(failed_attempts(Path(path)) for path in made)
