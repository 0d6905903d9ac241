"""One run: load, train, evaluate, save, and write down what it gave; and a model as it is fetched, which answers."""

import dataclasses
import functools
import gc
import importlib
import json
import shutil
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import transformers
from torch.distributed import DistError

from peft_tradeoffs.core import files
from peft_tradeoffs.core.errors import InputError, error_text
from peft_tradeoffs.core.quantities import IS_THE_ORIGINAL, Missing
from peft_tradeoffs.inputs.model_check import load_tokenizer
from peft_tradeoffs.inputs.model_files import tokenizer_files
from peft_tradeoffs.inputs.tokens import END_TOKENS, LONGEST_PROMPT, Split, load_tokens
from peft_tradeoffs.measure import machine
from peft_tradeoffs.measure.devices import (
    FORGETTING,
    MASK,
    MIB,
    PREPARE,
    STATE,
    Device,
    Held,
    check_precision,
    free_memory,
    lease,
    open_device,
    refused_bytes,
    requested_bytes,
)
from peft_tradeoffs.measure.machine import IdlePower
from peft_tradeoffs.runs.interruption import LEFT, Interrupted, Rank
from peft_tradeoffs.runs.plan import Plan, trial_name
from peft_tradeoffs.runs.status import TerminalReporter
from peft_tradeoffs.tasks.shown import said
from peft_tradeoffs.tasks.task import TASKS
from peft_tradeoffs.training import engine, methods
from peft_tradeoffs.training.batches import (
    Data,
    ResidentSplit,
    Sizes,
    check_causal,
    check_padding,
    choose_kernels,
    longest_text,
    no_mask,
    padded_length,
    padding_mask,
    shortest_texts,
)
from peft_tradeoffs.training.decoding import Decoded, Decoding, check_prompts, context_of, decode
from peft_tradeoffs.training.job import RunDirectory
from peft_tradeoffs.training.parallel import ALONE, REDUCTION, RanksApart, World, connect, join, leave, tell, told
from peft_tradeoffs.training.scoring import write_outputs
from peft_tradeoffs.training.sharding import Shards
from peft_tradeoffs.training.step import BlockGenerators, Randomness, Settings, Subject, autocast
from peft_tradeoffs.training.summary import (
    NO_GENERAL,
    Bench,
    Outcome,
    check,
    general_losses,
    summarise,
    summarise_untrained,
)
from peft_tradeoffs.training.updates import ADAMW

PADDED = 8  # texts by which a model shows whether it reads padding
WEIGHTS = ("checkpoint", "adapter")  # folder of a full model's, of an adapter's
T = TypeVar("T")
REPORTED = {  # phases that the summary does not name
    FORGETTING: "evaluate",
    MASK: "load",
    PREPARE: "train",
    STATE: "train",
    None: "evaluate",
}


def prepare_process(
    settings: dict[str, Any],
    threads: int,
    idle: IdlePower | None,
    waiting: AbstractContextManager[None],
    hold: Callable[[], Held] | None = None,
    rank: int = 0,
) -> Device:
    """Import what the arm needs, set threads, quiet libraries and take the device.

    `idle`: a first reading of the GPU's idle power. `waiting`: entered while other jobs have the GPU. `hold`: leases
    the GPUs of all ranks, of which this process is one. Raises InputError if the device is not there or not free.
    """
    libraries = {
        "peft": settings["peft"],
        "bitsandbytes": settings["quantization"] or settings["optimizer"] != ADAMW,
        **dict.fromkeys(TASKS[settings["task"]].libraries, True),
    }
    for library, needed in libraries.items():
        if needed:
            importlib.import_module(library)  # start-up, not loading
    gc.freeze()  # the libraries' half a million objects: 0.3 s per collection
    torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    hold = hold or functools.partial(lease, idle=idle)
    device = open_device(settings["device"], settings["allow_shared_gpu"], waiting, hold, rank)
    check_precision(device.torch, settings["precision"])
    return device


def run(plan: Plan, bench: Bench, directory: RunDirectory) -> bool:
    """Train one seed of an arm, or go on with it, and publish its results in `directory`.

    Running out of memory and a loss that is not finite are results too. The process's random generators are left as
    they were. Returns whether torch.compile made something. Raises Interrupted, the state saved, if the process must
    end.
    """
    with Randomness.kept(bench.device.torch):
        return _run(plan, bench, directory)


def _run(plan: Plan, bench: Bench, directory: RunDirectory) -> bool:
    settings = plan.settings
    place = f"{settings['dataset']}/{settings['model']}/{settings['arm']}"
    name = trial_name(directory.path) or f"seed {plan.seed}"
    reporter = TerminalReporter(f"{place} {name}", directory.attempts.point)
    bench.world.begin(Task(plan, bench.probed))
    tokens, outcome = _begun(plan, bench, directory), Outcome()
    watch = engine.Watch(directory, reporter)
    _as_far_as_memory(lambda: _train(plan, bench, watch, tokens, outcome), bench, directory.results, outcome)
    _take_in(bench)
    if outcome.trained is None and outcome.reached is not None:
        outcome.trained = outcome.reached()
    attempts = _ended(bench, directory, outcome)

    summary = summarise(plan, bench, tokens.description, outcome, attempts)
    rows = outcome.trained.progress.rows if outcome.trained else []
    for row in rows:
        check("metrics", row)
    files.write_csv(directory.results / "metrics.csv", rows)
    facts = {
        "attention_mask": outcome.trained.progress.mask if outcome.trained else None,
        "head": outcome.head,
        "targets": outcome.targets,
        "seed": plan.seed,
        "reduction_dtype": REDUCTION if bench.world.size > 1 else None,
        "ranks": bench.ranks,
    }
    _write_down(plan, bench, directory, summary, {"attempts": attempts, **facts})
    reporter.done(_last_line(summary))
    return bool(outcome.trained and outcome.trained.progress.compile_s)


def _begun(plan: Plan, bench: Bench, directory: RunDirectory) -> "Tokens":
    """The tokens of a plan, where its attempt has been noted and an empty folder waits for what it gives."""
    device = bench.device
    gpu_name = machine.device_name("cuda") if device.torch.type == "cuda" else None
    directory.attempts.on(device.gpu.uuid if device.gpu else None, gpu_name)
    bench.phases.switch("load")
    tokens = Tokens(*load_tokens(plan.tokens))
    shutil.rmtree(directory.results, ignore_errors=True)
    directory.results.mkdir(parents=True)
    return tokens


def _as_far_as_memory(work: Callable[[], None], bench: Bench, results: Path, outcome: Outcome) -> None:
    """Do the work; that memory ran out is its `outcome` too."""
    phases, world = bench.phases, bench.world
    try:
        work()
    except (torch.OutOfMemoryError, RuntimeError, MemoryError, RanksApart) as error:
        ran_out, outcome.oom_bytes = refused_bytes(error)
        elsewhere = world.full()
        if not ran_out and not elsewhere:
            raise
        world.part()
        outcome.status = "oom"
        outcome.failed_phase = REPORTED.get(phases.current, phases.current)
        if elsewhere:
            outcome.failed_phase, outcome.oom_bytes = elsewhere["phase"], elsewhere["bytes"]
        for name in WEIGHTS:
            shutil.rmtree(results / name, ignore_errors=True)  # half of one
    phases.switch(None)


def _ended(bench: Bench, directory: RunDirectory, outcome: Outcome) -> list[dict[str, Any]]:
    """All attempts, the last of which is at its end: from here on a signal waits."""
    bench.device.isolation.check()
    directory.interruption.hold()  # a few seconds more, and nothing of the run is to be done again
    return directory.attempts.end(outcome.status)


def _write_down(
    plan: Plan, bench: Bench, directory: RunDirectory, summary: dict[str, Any], facts: dict[str, Any]
) -> None:
    """Publish the results with this summary, and with an env.json that has `facts` too."""
    results, device = directory.results, bench.device
    files.write_csv(results / "summary.csv", [{**summary, "null_reasons": json.dumps(summary["null_reasons"])}])
    files.write_json(
        results / "env.json",
        {
            **machine.describe(plan.settings["device"], bench.threads, device.gpu),
            "under_load": bench.clocks.totals() if device.gpu else None,
            "other_processes": device.isolation.others(),
            **facts,
            "fingerprint": plan.fingerprint,
            **{key: plan.conditions[key] for key in ("data_sha256", "model_sha256", "code_sha256")},
            "model": plan.model.manifest,
            "settings": plan.settings,
        },
    )
    directory.publish(summary)


class Tokens(NamedTuple):
    """Tokenised splits by name, and their description."""

    splits: dict[str, Split]
    description: dict[str, Any]

    def data(self, task: str) -> Data:
        """What a model of this task is trained on. Raises InputError for targets that cannot be scaled."""
        return Data.of(self.splits, self.description["pad_token_id"], task)


@dataclass(frozen=True)
class Arm:
    """The model of an arm on the device."""

    built: methods.Built
    generators: BlockGenerators | None  # of its dropout
    frozen_linear_dtype: str | None  # what most of its frozen linear layers are held in
    world: World = ALONE

    @classmethod
    def of(cls, plan: Plan, tokens: Tokens, device: torch.device, world: World = ALONE) -> "Arm":
        """Build the model that a plan asks for, alike on all ranks."""
        settings = plan.settings
        # torch.compile recomputes dropout by itself, and cannot trace generators of our own.
        own = device.type == "cuda" and settings["gradient_checkpointing"] and not settings["compile"]
        generators = BlockGenerators(world.seed(plan.seed)) if own else None
        choose_kernels(no_mask)  # as when the process began: an earlier seed may have left some out
        built = methods.build(
            plan.model.path,
            methods.Recipe.of(settings),
            methods.Outputs.of(tokens.description),
            plan.seed,
            str(device),
            generators.checkpoint_arguments() if generators else None,
        )
        manifest = plan.model.manifest
        if built.is_peft and manifest["source"] == "hub":  # so that the adapter is found its base model anywhere
            configurations: Any = built.model.peft_config
            adapter = configurations["default"]
            adapter.base_model_name_or_path, adapter.revision = manifest["path"], manifest["revision"]
        held = methods.hold_as_computed(
            built.model, settings["precision"], device, longest_text(tokens.splits["train"])
        )
        free_memory(device)  # the workspaces of its forward pass are no weights
        return cls(built, generators, held, world)

    def subject(self, plan: Plan, data: Data) -> Subject:
        """What is trained by the settings of a plan; the model of several ranks is sharded here, where it is to be."""
        model, settings = self.built.model, plan.settings
        shards = Shards(model, self.world) if self.world.size > 1 and settings["parallel"] == "sharded" else None
        return Subject(model, data, Settings.of(settings), plan.seed, self.generators, self.world, shards)


def _train(plan: Plan, bench: Bench, watch: engine.Watch, tokens: Tokens, outcome: Outcome) -> None:
    """Build, train and save; `outcome` keeps what was reached should memory run out."""
    learned = _learn(plan, bench, watch, tokens, outcome)
    if outcome.status == "completed" and bench.world.leads:
        assert isinstance(watch.state, RunDirectory)
        _keep(plan, bench, watch.state, tokens, outcome, learned)


def _learn(
    plan: Plan, bench: Bench, watch: engine.Watch, tokens: Tokens, outcome: Outcome
) -> tuple[methods.Built, Data]:
    """Build and train, and have the model answer: what all ranks of a run do. The model, and what it learned of."""
    settings, device = plan.settings, bench.device.torch
    cuda = device.type == "cuda"
    data = tokens.data(settings["task"])
    if not plan.model.manifest["pretrained"]:
        data = dataclasses.replace(data, general=None)
    outcome.original = original_losses(plan, bench, tokens, data)
    outcome.held_before = requested_bytes() if cuda else None
    arm = Arm.of(plan, tokens, device, bench.world)
    built, outcome.frozen_linear_dtype = arm.built, arm.frozen_linear_dtype
    outcome.parameters, outcome.head = built.parameters, methods.head_facts(built)
    outcome.training_bytes = methods.training_bytes(built.model, settings["optimizer"])
    if outcome.held_before is not None:
        outcome.weights_measured = requested_bytes() - outcome.held_before
    if isinstance(watch.state, RunDirectory):
        _check_space(watch.state.path, built)
    wanted = _checked(plan, tokens, built, device)
    free_memory(device)
    subject = arm.subject(plan, data)
    outcome.trained = trained = engine.train(subject, device, bench.phases, watch, outcome.ask, bench.probed)
    if trained.logits is None:
        outcome.status, outcome.failed_phase = "diverged", "train"
    elif wanted is not None:
        outcome.reached = None  # which has what training held
        outcome.answers = _answer(plan, bench, watch.state, tokens, built.model, wanted)
    if subject.shards is not None and trained.logits is not None:
        bench.phases.switch("save")
        if bench.world.agree(bool(settings["save_weights"]) and bench.keep_weights):  # as rank 0 is to
            subject.shards.unite(computes=data.scale is not None)
    return built, data


def _keep(
    plan: Plan,
    bench: Bench,
    directory: RunDirectory,
    tokens: Tokens,
    outcome: Outcome,
    learned: tuple[methods.Built, Data],
) -> None:
    """Save what was trained, and what it predicts."""
    (built, data), settings, device, trained = learned, plan.settings, bench.device.torch, outcome.trained
    assert trained is not None and trained.logits is not None
    bench.phases.switch("save")
    directory.confirm()
    task, split = TASKS[settings["task"]], tokens.splits["test"]
    test = task.predicted(split.rows, split.labels, trained.logits)
    outcome.prediction_spread = task.spread(test)
    if settings["save_weights"] and bench.keep_weights:
        weights = directory.results / WEIGHTS[built.is_peft]
        text = longest_text(tokens.splits["train"])
        forward = functools.partial(_logits, built.model, text, settings["precision"], device)
        outcome.targets = methods.save(built, weights, data.scale, forward)
        if not built.is_peft:
            for name in tokenizer_files(set(plan.model.manifest["files"])):
                shutil.copyfile(plan.model.path / name, weights / name)
    task.write(directory.results / files.PREDICTIONS, test)
    if trained.heldout_logits is not None:
        split = tokens.splits["heldout"]
        heldout = task.predicted(split.rows, split.labels, trained.heldout_logits)
        task.write(directory.results / files.HELDOUT, heldout)
    if data.general is not None and (found := general_losses(trained, outcome.original)):
        rows = zip(data.general.rows.tolist(), *(values.tolist() for values in found.values()), strict=True)
        shown = [[row, int(tokens), *(format(loss, ".17g") for loss in losses)] for row, tokens, *losses in rows]
        files.write_csv(
            directory.results / files.GENERAL, [dict(zip(("row", *found), row, strict=True)) for row in shown]
        )


def _checked(plan: Plan, tokens: Tokens, built: methods.Built, device: torch.device) -> Decoding | None:
    """How the model is to answer prompts, if it is. Raises InputError for a model that cannot do what is asked."""
    settings = plan.settings
    try:
        _check_padding(built.model, tokens, settings["precision"], device)
    except methods.REFUSALS as error:  # that PEFT raises only where the model computes
        if not built.is_peft or refused_bytes(error)[0]:
            raise
        kind = settings["peft"]["peft_type"] + (" on a quantised model" if settings["quantization"] else "")
        raise InputError(f"{kind} cannot compute: {error_text(error)}; choose another peft_type") from error
    if not settings["generate"]:
        return None
    wanted, context = _decoding(plan, tokens), context_of(built.model)
    check_prompts(tokens.splits["test"].prompts, wanted, context)
    longest = tokens.description.get(LONGEST_PROMPT, 0)  # of the final runs too, where this is a trial
    check_prompts([np.zeros(longest, np.int32)] if longest else tokens.splits["test"].prompts, wanted, context)
    return wanted


def _decoding(plan: Plan, tokens: Tokens) -> Decoding:
    """How the model answers the test split's prompts."""
    settings, found = plan.settings, tokens.description
    return Decoding(
        max_new_tokens=settings["generate"]["max_new_tokens"],
        batch_size=settings["generate"]["batch_size"],
        end_tokens=tuple(found[END_TOKENS]),
        pad_token_id=found["pad_token_id"],
        precision=settings["precision"],
        engine=settings["engine"],
    )


def _answer(
    plan: Plan, bench: Bench, directory: engine.State, tokens: Tokens, model: torch.nn.Module, wanted: Decoding
) -> Decoded:
    """Have the model answer the test split's prompts; the answers are kept as text.

    Raises Interrupted if the process must end; the state of the last step is saved.
    """
    device, split = bench.device.torch, tokens.splits["test"]
    for parameter in model.parameters():
        parameter.grad = None  # training's
    free_memory(device)
    bench.phases.switch("generate")
    # No rank computes without the others where each holds a part of the model: all write all answers.
    world = ALONE if plan.settings["parallel"] == "sharded" else bench.world
    answers = decode(model, split.prompts, wanted, device, functools.partial(_poll, directory), world)
    bench.phases.switch(None)
    if not isinstance(directory, RunDirectory):
        return answers
    tokenizer = load_tokenizer(plan.model.path)
    texts = tokenizer.batch_decode(
        [ids.tolist() for ids in answers.tokens], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    lengths = [len(ids) for ids in answers.tokens]
    write_outputs(directory.results / files.OUTPUTS, split.rows.tolist(), texts, lengths, answers.ended)
    return answers


def _poll(directory: engine.State) -> None:
    if (name := directory.interrupted()) is not None:
        raise Interrupted(name, "while the model answered")


def original_losses(plan: Plan, bench: Bench, tokens: Tokens, data: Data) -> np.ndarray | Missing:
    """Losses on the general text, as `engine.general_losses`, of the model that the arm quantises, or why none.

    It is loaded alone, before the arm is, and freed. Seeds of one process share them.
    """
    settings, device, phases = plan.settings, bench.device.torch, bench.phases
    if data.general is None:
        return NO_GENERAL
    if not settings["quantization"]:
        return Missing(IS_THE_ORIGINAL)
    if (found := bench.originals.get(settings["arm"])) is not None:
        return found
    phases.switch(FORGETTING)
    found = Missing("memory did not suffice for the model that is not quantised")
    model = _if_it_fits(lambda: _original(plan, bench, tokens))
    if not bench.world.agree(model is None) and model is not None:  # of each rank
        subject = Subject(model, data, Settings.of(settings), plan.seed, world=bench.world)
        computed = _if_it_fits(lambda: _losses_of(subject, device))
        found = found if computed is None else computed
        del subject
    del model
    free_memory(device)
    phases.switch("load")
    bench.originals[settings["arm"]] = found
    return found


def _if_it_fits(work: Callable[[], T]) -> T | None:
    """What the work gives; None where memory does not suffice."""
    try:
        return work()
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        if not refused_bytes(error)[0]:
            raise
    return None


def _original(plan: Plan, bench: Bench, tokens: Tokens) -> torch.nn.Module:
    """The model that the arm quantises, as it is fetched."""
    device = bench.device.torch
    recipe = dataclasses.replace(
        methods.Recipe.of(plan.settings), quantization=None, peft=None, gradient_checkpointing=False
    )
    choose_kernels(no_mask)
    built = methods.build(plan.model.path, recipe, methods.Outputs.of(tokens.description), plan.seed, str(device), None)
    return built.model.requires_grad_(False)


def _losses_of(subject: Subject, device: torch.device) -> np.ndarray:
    mask = engine.chosen_mask(subject, device) if device.type == "cuda" else padding_mask
    choose_kernels(mask, subject.model)
    return engine.general_losses(subject, device, mask)


@torch.no_grad()
def _logits(model: torch.nn.Module, text: torch.Tensor, precision: str, device: torch.device) -> torch.Tensor:
    """Logits [1, k] of a text, int64 [t]."""
    ids = text.to(device)[None]
    model.eval()
    with autocast(precision, device):
        logits: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits


def _check_padding(model: torch.nn.Module, tokens: Tokens, precision: str, device: torch.device) -> None:
    """Raise InputError for a model that reads the padding beside a text, or the tokens that it is to predict."""
    split = tokens.splits["train"]
    texts = [text.to(device) for text in shortest_texts(split, PADDED)]
    context = functools.partial(autocast, precision, device)
    if split.targets is not None:
        check_causal(model, longest_text(split).to(device), context)
    check_padding(model, texts, padded_length(split.lengths), tokens.description["pad_token_id"], context)


def _last_line(summary: dict[str, Any]) -> str:
    """How the run ended, for a person."""
    if summary["status"] == "oom":
        return f"out of memory in phase {summary['failed_phase']}"
    if summary["status"] == "diverged":
        return f"diverged: loss not finite at step {summary['diverged_step']}"
    if summary["max_new_tokens"] is not None:
        return f"{summary['test_rows']} prompts answered, {summary['train_s']:.1f} s of training"
    value = "undefined" if summary["metric_value"] is None else f"{summary['metric_value']:.4f}"
    return f"{said(summary)} {value}, {summary['train_s']:.1f} s of training"


def _check_space(folder: Path, built: methods.Built) -> None:
    """Raise InputError if the disk cannot hold a state (weights, two moments) twice and the results."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = sum(p.numel() * p.element_size() for p in built.model.parameters() if p.requires_grad)
    needed, free = 7 * trained, shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: {free / MIB:.0f} MiB free, a run needs up to {needed / MIB:.0f} MiB for its state and "
            "results: free some or set `output` to another disk; what is finished stays"
        )


# A run that several processes share -----------------------------------------------------------------------------------


class Task(NamedTuple):
    """A run that the other ranks are to take part in."""

    plan: Plan
    probed: bool


# What the first rank tells the others before it tells them of runs, by names of which runs have none.
OPENING, GPUS = "opening", "gpus"


class Opening(NamedTuple):
    """How the other ranks begin: what their device is prepared by."""

    settings: dict[str, Any]
    timeout_s: float


class Following:
    """The state and the reports of a rank that leaves both to the first one."""

    def load(self) -> dict[str, Any] | None:
        """It is sent the state."""
        return None

    def begin(self, step: int) -> None:
        """Nothing: signals go to the first rank."""

    def reached(self, step: int, total: int) -> None:
        """Nothing."""

    def interrupted(self) -> str | None:
        """Never of itself."""
        return None

    def due(self) -> bool:
        """Never of itself."""
        return False

    def save(self, state: dict[str, Any]) -> None:
        """Nothing."""

    def step(self, step: int, total: int, epoch: int, epochs: int, loss: float) -> None:
        """Nothing."""

    def losses(self, row: dict[str, Any]) -> None:
        """Nothing."""

    def evaluation(self, rows: list[dict[str, Any]]) -> None:
        """Nothing."""


def bring_together(
    rank: Rank,
    settings: dict[str, Any],
    threads: int,
    timeout_s: float,
    idle: IdlePower | None,
    waiting: AbstractContextManager[None],
) -> tuple[Device, World]:
    """Prepare the first of a job's processes, have the others prepare themselves, and come together with them.

    The first one leases the GPUs of all, and tells each its own.
    """
    store = connect(rank)
    tell(store, OPENING, Opening(settings, timeout_s))
    keys = f"training.gpus (or methods.{settings['method']}.gpus)"

    def hold() -> Held:
        held = lease(rank.count, keys, idle)
        tell(store, GPUS, held)
        return held

    device = prepare_process(settings, threads, idle, waiting, hold)
    return device, join(rank, store, device.torch, timeout_s)


def take_part(rank: Rank, threads: int) -> int:
    """Be one of a job's other processes until the first one is done; the exit status."""
    try:
        store = connect(rank)
        opening: Opening = told(store, OPENING)
        hold = functools.partial(told, store, GPUS)
        device = prepare_process(opening.settings, threads, None, nullcontext(), hold, rank.number)
        world = join(rank, store, device.torch, opening.timeout_s)
        originals: dict[str, Any] = {}  # as the first one has them: who has one computes none with the others
        for task in world.tasks():
            bench = Bench(device, threads=threads, keep_weights=False, startup_s=None, compiled_before=False)
            bench.world, bench.probed, bench.originals = world, task.probed, originals
            if not _taken_part(task.plan, bench):
                return LEFT
        leave(world)
    except (RanksApart, DistError, Interrupted):
        return LEFT  # the first one says why
    return 0


def _taken_part(plan: Plan, bench: Bench) -> bool:
    """Take part in a run; whether it came to its end, not that of memory."""
    phases, follower = bench.phases, Following()
    with Randomness.kept(bench.device.torch):
        phases.switch("load")
        tokens = Tokens(*load_tokens(plan.tokens))
        try:
            _learn(plan, bench, engine.Watch(follower, follower), tokens, Outcome())
        except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
            ran_out, refused = refused_bytes(error)
            if not ran_out:
                raise
            bench.world.say_full(REPORTED.get(phases.current, phases.current), refused)
            return False
        finally:
            with suppress(RuntimeError):  # of a broken device
                phases.switch(None)
                bench.world.report(_measured(bench))
    return True


def _measured(bench: Bench) -> dict[str, Any]:
    """What a rank measured, for the first one's env.json and summary."""
    gpu = bench.device.gpu
    idle_W = bench.device.idle_W[bench.world.rank] if gpu else gpu
    return {
        "rank": bench.world.rank,
        "gpu": gpu.facts() if gpu else None,
        "idle_power_W": None if isinstance(idle_W, Missing) else idle_W,
        "phases": bench.phases.totals(),
    }


def _take_in(bench: Bench) -> None:
    """Take in what the other ranks measured of the run."""
    bench.ranks = [_measured(bench), *bench.world.reports()] if bench.world.size > 1 else []
    for rank, found in enumerate(bench.ranks[1:], 1):
        bench.phases.take_in(rank, found and found["phases"])


# A model as it is fetched ---------------------------------------------------------------------------------------------


def answer_untrained(plan: Plan, bench: Bench, directory: RunDirectory) -> bool:
    """Have the model answer as it was fetched, by the settings that arms answer by, and publish what it wrote.

    Its test loss is taken too. No step is trained, and nothing is drawn. Out of memory is a result, as is a loss that
    is not finite. Returns False: nothing is compiled. Raises Interrupted if the process must end.
    """
    settings = plan.settings
    reporter = TerminalReporter(f"{settings['dataset']}/{settings['model']} untrained")
    with Randomness.kept(bench.device.torch):
        tokens, outcome = _begun(plan, bench, directory), Outcome()
        scores: dict[str, float | None] = {}
        _as_far_as_memory(
            lambda: scores.update(_evaluated(plan, bench, directory, tokens, outcome)),
            bench,
            directory.results,
            outcome,
        )
        attempts = _ended(bench, directory, outcome)
        summary = summarise_untrained(plan, bench, tokens.description, outcome, scores)
        _write_down(plan, bench, directory, summary, {"attempts": attempts})
    reporter.done(f"{summary['test_rows']} prompts {'answered' if outcome.answers else 'not answered'}")
    return False


def _evaluated(
    plan: Plan, bench: Bench, directory: RunDirectory, tokens: Tokens, outcome: Outcome
) -> dict[str, float | None]:
    """Loss and metrics of tokens of the test split; `outcome` gets the answers to its prompts."""
    settings, device, split = plan.settings, bench.device.torch, tokens.splits["test"]
    data = dataclasses.replace(tokens.data(settings["task"]), general=None)
    arm = Arm.of(plan, tokens, device)
    model = arm.built.model.requires_grad_(False)
    wanted = _checked(plan, tokens, arm.built, device)
    if wanted is None:
        raise InputError(f"data set {settings['dataset']} asks for no answers; set generate")
    free_memory(device)
    directory.interruption.hold()  # it is asked between two batches
    bench.phases.switch(MASK)
    subject = arm.subject(plan, data)
    mask = engine.chosen_mask(subject, device) if device.type == "cuda" else padding_mask
    choose_kernels(mask, model)
    bench.phases.switch("evaluate")
    resident, sizes = ResidentSplit(split, data.pad_token_id, device), Sizes.of(split)
    poll = functools.partial(_poll, directory)
    logits = engine.predict(subject, resident, sizes, mask, poll)
    bench.phases.switch(None)
    if not np.isfinite(logits).all():
        outcome.status, outcome.failed_phase = "diverged", "evaluate"
        return {}
    task = TASKS[settings["task"]]
    predicted = task.predicted(split.rows, split.labels, logits)
    task.write(directory.results / files.PREDICTIONS, predicted)
    outcome.answers = _answer(plan, bench, directory, tokens, model, wanted)
    return task.evaluate(predicted)
