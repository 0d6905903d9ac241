"""The configuration as types: every key with what it means, its bounds and its default.

`workflow_scripts/write_schemas.py` makes schemas/config.schema.yaml of it. A configuration is checked against that
schema, of which the messages are worded; these models then hold its values and the defaults. A default that depends on
other keys is in a function `settled`.
"""

import ast
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from peft_tradeoffs.config.fields import (
    END,
    Arms,
    AsWritten,
    BelowOne,
    Block,
    Carved,
    Conditions,
    Exactly,
    Name,
    NonNegative,
    OneOf,
    Package,
    PerSplit,
    Positive,
    Rank,
    Requirement,
    Revision,
    Rows,
    Seed,
    Sha256,
    Share,
    Subfolder,
    Text,
    Unique,
    absent,
    block,
    if_,
    none_of,
)
from peft_tradeoffs.core.layout import VALIDATION
from peft_tradeoffs.tasks.metrics import METRICS
from peft_tradeoffs.tasks.outputs import ABOUT_GENERATE, ABOUT_NUMBER, OWN, pattern_of
from peft_tradeoffs.tasks.shown import ABOUT_MARGIN, BY_METRIC, margin_of
from peft_tradeoffs.tasks.task import TASKS

SPLITS = ("train", "validation", "test", "heldout")


# Data and models ------------------------------------------------------------------------------------------------------


LABELLED = [name for name, task in TASKS.items() if task.reader is None]


class GeneralText(Block):
    source: Literal["hub", "files", "docstrings"]
    path: str | None = absent("Hub id of the data set, or the file.", min_length=1)
    config: str | None = absent("Hub configuration (subset).")
    revision: Revision | None = absent()
    split: str | None = absent("Split of the hub's data set.", min_length=1)
    packages: Annotated[list[Package], Field(min_length=1), Unique()] | None = absent(
        "Installed packages whose docstrings are the texts."
    )
    separator: str | None = absent("Field separator, as that of a data set.")
    text: Annotated[list[Text], Field(min_length=1, max_length=1)] | None = absent("The text column.")
    rows: Rows = Field(
        default=500, description="Texts that are read at most, drawn with split_seed of those that differ."
    )
    conditions: ClassVar[Conditions] = [
        {
            "if": if_("source", "hub"),
            "then": {"required": ["path", "revision", "split", "text"]},
            "else": none_of("revision", "split", "config"),
        },
        {"if": if_("source", "files"), "then": {"required": ["path", "text"]}, "else": none_of("separator")},
        {
            "if": if_("source", "docstrings"),
            "then": {"required": ["packages"], **none_of("path", "text")},
            "else": none_of("packages"),
        },
    ]


class Generate(Block):
    """What trained models write is kept and scored: greedy decoding of the test split's prompts, of the dev split's in
    trials."""

    max_new_tokens: int = Field(ge=1, description="Tokens after which an answer is cut; cut answers are counted.")
    batch_size: int = Field(default=64, ge=1, description="Prompts decoded at once.")
    number: str | None = Field(default=None, min_length=1, description=ABOUT_NUMBER)


def _imported(path: Path) -> set[str]:
    """Modules that a file imports, by the first part of their names; none of one that is no Python."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return set()  # what looks at the scorer says so
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {name.partition(".")[0] for name in names} - {""}


class Scorer(Block):
    """A metric of your own: a Python function of prompt, references and output that gives one number per row."""

    python: str = Field(
        pattern=f"^.+\\.py:[A-Za-z_][A-Za-z0-9_]*{END}",
        description="File and function, as scorers.py:execution. It is called in a process of its own as "
        "f(prompt, references, output), with texts and a list of texts; of chats the prompt is a list of turns.",
    )
    range: Annotated[list[float], Field(min_length=2, max_length=2)] = Field(
        description="The lowest and the highest value that it can give; more is better."
    )
    timeout_s: Positive = Field(default=600.0, description="Seconds that importing it and its calls may take, per run.")

    @property
    def file(self) -> Path:
        """The file that the function stands in."""
        return Path(self.python.rpartition(":")[0])

    def files(self) -> list[Path]:
        """That file, and modules beside it that it imports, and so on, in a fixed order."""
        found: set[Path] = set()
        todo = [self.file]
        while todo:
            path = todo.pop()
            found.add(path)
            for name in sorted(_imported(path)):
                beside = (self.file.parent / f"{name}.py", *(self.file.parent / name).glob("**/*.py"))
                todo += [one for one in beside if one.is_file() and one not in found]
        return sorted(found)


class Dataset(Block):
    source: Literal["hub", "files", "docstrings"]
    path: str | None = absent("Hub id of the data set.", min_length=1)
    config: str | None = Field(default=None, description="Hub configuration (subset).")
    revision: Revision | None = absent()
    packages: Annotated[list[Package], Field(min_length=2), Unique()] | None = absent(
        "Installed packages whose docstrings are the texts; the label is the package."
    )
    splits: Annotated[dict[str, Text], PerSplit(*SPLITS, required=("train",))] | None = absent(
        "Hub split name or file of each split. test is the reported one; heldout, evaluated once per run, after its "
        "last step, compares the arms on more examples."
    )
    fractions: Annotated[dict[str, Carved], PerSplit(*SPLITS[1:])] = Field(
        default={}, description="Share of train carved off for a split that has no file or hub split of its own."
    )
    limit: Annotated[dict[str, Rows], PerSplit(*SPLITS)] = Field(
        default={}, description="Rows kept of a split, drawn stratified by label."
    )
    split_seed: int = Field(
        default=0, ge=0, description="Seed by which rows are drawn for fractions, limit and the general text."
    )
    separator: str | None = Field(
        default=None,
        description="Field separator of CSV or TSV files. Quotes enclose fields in .csv files; in .tsv files only "
        "where the whole file shows it.",
    )
    text: Annotated[list[Text], Field(min_length=1, max_length=2), Unique()] | None = absent(
        "One text column, or two for sentence pairs."
    )
    label: str | None = absent("Label column.", min_length=1)
    # of supervised fine-tuning
    prompt: str | None = absent("Column of what is read before a completion, and not learned.", min_length=1)
    completion: str | None = absent("Column of what is learned after a prompt.", min_length=1)
    instruction: str | None = absent(
        "Column of instructions, as Alpaca's; with a chat_template they are a user's turn.",
        min_length=1,
    )
    input: str | None = absent("Column of what an instruction is about; may be empty.", min_length=1)
    output: str | None = absent("Column of what is learned after an instruction.", min_length=1)
    messages: str | None = absent(
        "Column of chats, each a list of turns with role and content, or from and value.",
        min_length=1,
    )
    tools: str | None = absent(
        "Of messages: column of the tools that a chat may call, each a list as OpenAI's, or JSON of one; may be empty.",
        min_length=1,
    )
    chat_template: str | None = absent(
        "How turns become text. tokenizer, the default of messages: the template that comes with the model's "
        "tokenizer; else a template in Jinja. Where it is not set, prompts are joined to completions as they are, and "
        "instructions are written as Alpaca's.",
        min_length=1,
    )
    loss_on: Literal["assistant", "last"] | None = absent(
        "Of messages: which turns of the assistant are learned, all (the default) or the last one."
    )
    group: str | None = absent(
        "Column that says which rows belong together (document, author, conversation), in all splits; of docstrings, "
        "module. Or contained: texts that are equal or part of one another belong together. Such groups are not parted "
        "by fractions and the dev split, and comparisons count groups. A column named contained needs another name.",
        min_length=1,
    )
    forgetting: GeneralText | None = absent(
        "A general text, of tasks that learn tokens: its loss before and after training says what was forgotten."
    )
    task: Annotated[str, OneOf(TASKS)] = Field(
        default=next(iter(TASKS)),
        description="What is learned of a row: a class, a number, or the tokens of a text.",
    )
    generate: Generate | None = absent(ABOUT_GENERATE)
    references: str | None = absent(
        "With generate: column of further references of a row, beside its completion or last turn: a text, or in JSON "
        "lines and Parquet a list of texts. test and validation have it (or train, of which they are carved).",
        min_length=1,
    )
    metric: Annotated[str, OneOf(METRICS)] | None = absent(
        "The reported metric; the others of the task are recorded beside it."
    )
    scorer: Scorer | None = absent(f"What gives the metric {OWN}.")
    positive_class: Annotated[Any, Exactly(type=["string", "number", "boolean"])] = absent(
        "The class that F1 is of, of two. Default, the second in order; of several classes F1 is macro F1."
    )
    conditions: ClassVar[Conditions] = [
        {
            "if": if_("source", "hub"),
            "then": {"required": ["path", "revision", "splits"]},
            "else": none_of("path", "revision"),
        },
        {"if": if_("source", "files"), "then": {"required": ["splits"]}},
        {
            "if": {"properties": {"source": {"enum": ["hub", "files"]}, "task": {"enum": LABELLED}}},
            "then": {"required": ["text", "label"]},
        },
        {
            "if": if_("source", "docstrings"),
            "then": {"required": ["packages"], **none_of("splits", "text", "label", separator={"const": None})},
            "else": none_of("packages"),
        },
    ]

    def settled(self) -> Self:
        """With the first metric of its task unless another is named."""
        return self if self.metric else self.but(metric=TASKS[self.task].metrics[0])

    def numbers(self, in_trials: bool) -> dict[str, Any]:
        """What finds numeric answers and the splits whose rows are answered, `in_trials` too; else {}."""
        pattern = pattern_of(self.generate.number if self.generate else None, self.metric)
        dev = VALIDATION if VALIDATION in self.all_splits() else "train"
        return {} if pattern is None else {"number": pattern, "answered": ["test", *[dev] * in_trials]}

    def all_splits(self) -> set[str]:
        """Names of the splits that it has of its own or carved."""
        return {*(self.splits or {"train": ""}), *self.fractions}


ORIGIN: Conditions = [  # the keys that say where the files of a source are
    {
        "if": if_("source", "hub"),
        "then": {"required": ["path", "revision"]},
        "else": none_of("revision"),
    },
    {"if": if_("source", "folder"), "then": {"required": ["path"]}},
    {
        "if": if_("source", "wheel"),
        "then": {"required": ["requirement", "subfolder"], **none_of("path")},
        "else": none_of("requirement", "subfolder"),
    },
]


class Tokenizer(Block):
    source: Literal["hub", "folder", "wheel"]
    path: str | None = absent("Hub id or folder.", min_length=1)
    revision: Revision | None = absent()
    requirement: Requirement | None = absent()
    subfolder: Subfolder | None = absent()
    sha256: Sha256 | None = absent()
    conditions: ClassVar[Conditions] = ORIGIN


class Model(Block):
    source: Literal["hub", "folder", "wheel", "random"] = Field(
        description="random draws weights from seed 0. Such a model shows speed and memory, never quality."
    )
    path: str | None = absent("Hub id or folder.", min_length=1)
    revision: Revision | None = absent()
    requirement: Requirement | None = absent()
    subfolder: Subfolder | None = absent()
    sha256: Sha256 | None = absent()
    config: (
        Annotated[
            dict[str, Any],
            Exactly(
                type="object",
                required=["model_type"],
                properties={
                    "model_type": {"description": "As in a model's config.json.", "type": "string", "minLength": 1},
                    "dtype": {"enum": ["float32", "bfloat16"]},
                },
            ),
        ]
        | None
    ) = absent("Fields of the Transformers config of a random model. dtype is what its weights are stored in.")
    tokenizer: Tokenizer | None = absent(
        "Where a random model's tokenizer comes from; of that model tokenizer files alone are taken."
    )
    head: Annotated[list[Text], Field(min_length=1)] | None = absent(
        "Modules trained in full in every arm. Default, what stands outside the base model, and its pooler."
    )
    conditions: ClassVar[Conditions] = [
        *ORIGIN,
        {
            "if": if_("source", "random"),
            "then": {"required": ["config", "tokenizer"], **none_of("path", "sha256")},
            "else": none_of("config", "tokenizer"),
        },
    ]


# Methods and their training -------------------------------------------------------------------------------------------


COMPUTED = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # by training.precision


class Quantization(Block):
    """Fields of transformers.BitsAndBytesConfig. `load_in_4bit: true` alone is enough. The head is never quantised."""

    load_in_4bit: Literal[True] = Field(description="Hold the base weights in 4 bits.")
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = Field(default="nf4", description="How 4 bits stand for a weight.")
    bnb_4bit_use_double_quant: bool = Field(default=True, description="Quantise the scales of the weights, too.")
    bnb_4bit_compute_dtype: Literal["float32", "bfloat16", "float16"] | None = absent(
        "What weights are made into when they are used. Default, that of training.precision; no other one goes with it."
    )


class Method(Block):
    """Full fine-tuning without peft; any PEFT method by its configuration."""

    learning_rate: Annotated[
        Any,
        Exactly(
            type=["number", "array", "string"],
            exclusiveMinimum=0,
            minItems=2,
            uniqueItems=True,
            items={"type": "number", "exclusiveMinimum": 0},
        ),
    ] = Field(
        description="A number; or a list, the grid that is tuned (as many rates for every method, see tune); or the "
        "name of a method with such a list, whose tuned rate is taken."
    )
    ranks: Annotated[list[Rank], Field(min_length=1), Unique()] | None = absent(
        "One arm per rank. Alpha is twice the rank unless peft sets it."
    )
    peft: (
        Annotated[
            dict[str, Any],
            Exactly(type="object", required=["peft_type"], properties={"peft_type": {"type": "string"}}),
        ]
        | None
    ) = absent("PEFT configuration by its own field names, checked against schemas/peft.schema.json.")
    quantization: Quantization | None = absent()
    gradient_checkpointing: bool = False
    gpus: int | None = absent(
        "GPUs of each of its runs. Default, training.gpus. Where they are not the baseline's, varies must name gpus.",
        ge=1,
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="Precision in which the base weights are held; of a quantised base those that are not quantised. "
        "Without peft, gradients and AdamW's moments are in it too: half the memory, and changes of a weight below a "
        "256th of it are lost. bfloat16 needs precision bf16. Adapter and head are always float32.",
    )
    varies: Annotated[list[str], Unique()] = Field(
        default=[],
        description="Facts of the contract, by the names of tables/contract.md, in which this method's arms differ "
        "from the baseline (adapter and scaling: from other methods of the same peft_type) on purpose. Not data, "
        "model, metric, trained_head and reported_step, which no arm may have otherwise.",
    )

    def settled(self, training: "Training") -> Self:
        """With the GPUs of all methods, and quantised layers in training.precision, unless it names others."""
        found = self.but(gpus=self.gpus or training.gpus)
        asked = self.quantization
        if asked is None or asked.bnb_4bit_compute_dtype is not None:
            return found
        return found.but(quantization=asked.but(bnb_4bit_compute_dtype=COMPUTED[training.precision]))

    @property
    def each_rank(self) -> list[int | None]:
        """Its ranks; None alone where it has none."""
        return [*self.ranks] if self.ranks else [None]

    @property
    def rates(self) -> list[float]:
        """The grid that is tuned, ascending; empty for a rate, and for another method's."""
        return sorted(self.learning_rate) if isinstance(self.learning_rate, list) else []


class EarlyStopping(Block):
    """Ends a run on the validation split, never on test. Epochs without a better metric."""

    patience: int = Field(ge=1, description="Epochs without a better metric after which a run ends.")
    min_delta: NonNegative = Field(default=0.0, description="Gain that counts as better.")


class Training(Block):
    """The same for every arm."""

    device: Literal["cpu", "cuda"] = Field(description="A missing GPU is an error; nothing falls back to the CPU.")
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        description="bf16 and fp16 are autocast. The weights are fp32 but for those of a method with dtype bfloat16. "
        "fp16 is for GPUs without bf16 (V100, T4, RTX 20): the loss is scaled, and a step whose gradients overflow is "
        "skipped and counted."
    )
    engine: Literal["captured", "eager"] | None = Field(
        default=None,
        description="captured replays the step from CUDA graphs, eager issues its kernels one by one. Default, "
        "captured on cuda and eager on cpu, and where parallel is sharded.",
    )
    compile: bool = Field(
        default=False,
        description="Train with torch.compile. It costs a minute or two once and pays on models of a billion "
        "parameters.",
    )
    gpus: int = Field(
        default=1,
        ge=1,
        description="GPUs of one node that a run has, each with a process of its own that computes its rows of every "
        "batch. Batches, their order and their mean stay those of one GPU. On device cpu so many processes, which is "
        "for tests.",
    )
    parallel: Annotated[str, OneOf(["data", "sharded"])] | None = Field(
        default=None,
        description="How several GPUs share a run: data, the default where there are several, gives each GPU the whole "
        "model and sums the gradients. sharded gives each a part of every weight, of its gradient and of AdamW's "
        "moments, which is for models that one GPU cannot hold: layers are put together as they compute, by steps "
        "that are eager.",
    )
    allow_shared_gpu: bool = Field(
        default=False,
        description="Train although another process uses the GPU. It is an error otherwise, for it spoils the figures. "
        "Jobs of this workflow that see the same GPU take turns on it all the same, under SLURM too.",
    )
    epochs: int = Field(default=3, ge=1, description="Passes over train.")
    max_steps: int | None = Field(default=None, ge=1, description="Optimizer steps after which a run ends.")
    batch_size: int = Field(default=32, ge=1, description="Rows per optimizer step.")
    gradient_accumulation_steps: int = Field(
        default=1, ge=1, description="Parts that a batch is computed in; the batch size stays what it is."
    )
    evaluation_batch_size: int = Field(default=64, ge=1, description="Rows that are evaluated at once.")
    max_length: int = Field(default=128, ge=4, description="Tokens; longer texts are truncated and counted.")
    lr_scheduler_type: Literal["linear", "cosine", "constant_with_warmup"] = Field(
        default="linear",
        description="How the learning rate goes on after its linear warm-up, by Transformers' names: to 0 in a line, "
        "to 0 in half a cosine wave, or not at all.",
    )
    warmup_ratio: Share = Field(default=0.1, description="Share of the steps in which the learning rate rises from 0.")
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = Field(
        default="adamw",
        description="AdamW of torch; or of bitsandbytes, which holds the moments in 8 bits (those of tensors below "
        "4,096 elements in 32), or in 8 bits on pages that move to the host when the GPU's memory is short, and that "
        "no memory peak holds. The 8-bit update is launched from the host after each step's CUDA graph.",
    )
    weight_decay: NonNegative = 0.01
    adam_beta1: BelowOne = 0.9
    adam_beta2: BelowOne = 0.999
    adam_epsilon: Positive = 1e-8
    max_grad_norm: Positive = 1.0
    early_stopping: EarlyStopping | None = None

    def settled(self) -> Self:
        """With the fastest engine of its device unless one is named."""
        if self.engine:
            return self
        return self.but(engine="captured" if self.device == "cuda" and self.parallel != "sharded" else "eager")

    def of_run(self, gpus: int) -> dict[str, Any]:
        """What a run on so many GPUs has of it in its settings."""
        return {**self.to_dict(), "gpus": gpus, "parallel": (self.parallel or "data") if gpus > 1 else None}

    @property
    def engine_trained_with(self) -> str:
        """Its engine as profiles name it, once it is settled."""
        return "-".join(["captured"] * (self.engine == "captured") + ["compiled"] * self.compile) or "eager"


class Tune(Block):
    """How learning rates that are lists are tuned: every rate is a trial with a seed of its own, judged on a dev split,
    which is the validation split, or carved from train where there is none; the rate of the best trial is that of the
    final runs, which train on all of train."""

    metric: Literal["reported", "loss"] = Field(
        default="reported",
        description="What trials are judged by. loss is the cheap way where the reported metric is of what models "
        "write: the loss per token on dev, for which nothing is decoded. What the choice of a rate may have missed of "
        "the metric is not known then, so that fewer differences are proven.",
    )
    by: Literal["method", "arm"] = Field(
        default="arm",
        description="arm tunes every arm; method tunes a method at one rank and gives all its ranks that rate, which "
        "takes fewer trials, and compares ranks at a rate that may suit one of them alone.",
    )
    retry: int = Field(
        default=2,
        ge=0,
        le=20,
        description="How often rates that cannot be told from the best one on the dev split are tried again with it, "
        "each time with a seed of their own and, where it is carved from train, a dev split of their own. 0 takes the "
        "rate of one trial; what that choice may have missed is in the intervals either way.",
    )
    rank: int | None = Field(
        default=None,
        ge=1,
        description="The rank that methods with ranks are tuned at. Default, the middle one of each (the lower of "
        "two).",
    )
    check_ranks: Annotated[list[Rank], Unique()] = Field(
        default=[],
        description="Ranks at which the grid is tried too, to see whether the rate of the tuned rank holds there. They "
        "decide nothing.",
    )
    seed: Seed = Field(default=1000, description="The seed of every trial; no final run may have it.")
    fraction: Annotated[float, Field(gt=0, le=0.5), AsWritten] = Field(
        default=0.1, description="Share of train carved off as the dev split."
    )
    epochs: int | None = Field(default=None, ge=1, description="Of a trial. Default, those of the final runs.")
    max_steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps of a trial. Default, those of the final runs."
    )
    extend: bool = Field(
        default=False, description="Where the best rate is the grid's lowest or highest, try further ones beyond it."
    )
    max_extensions: int = Field(default=3, ge=1, description="Rates added so at most.")

    def tuned_rank(self, ranks: list[int]) -> int:
        """The rank that a method of these ranks is tuned at, where one rate is for all of them."""
        return self.rank if self.rank in ranks else sorted(ranks)[(len(ranks) - 1) // 2]


# What is asked of the runs --------------------------------------------------------------------------------------------


class Comparison(Block):
    """What arms are compared with, and what difference counts as none."""

    baseline: str | None = Field(
        default=None,
        description="The arm that the others are compared with. Default, the first that trains all weights, else the "
        "first.",
    )
    margin: Annotated[
        Any,
        Exactly(
            type=["number", "object"],
            exclusiveMinimum=0,
            minProperties=1,
            propertyNames={"enum": list(METRICS)},
            additionalProperties={"type": "number", "exclusiveMinimum": 0},
        ),
    ] = Field(
        default=0.01,
        description=f"An arm is within the margin where its difference is proven smaller than this, {ABOUT_MARGIN}. "
        f"{BY_METRIC}",
    )

    @property
    def chosen(self) -> bool:
        """Whether the margin was named."""
        return "margin" in self._written

    def margin_of(self, metric: str) -> float:
        """The margin in the unit of a metric that it is named for, if it is named by metric."""
        return margin_of(self.margin, metric)


class Contract(Block):
    """What must be equal between the arms of a data set and model. After the runs the recorded facts are compared with
    the baseline's; what a method's `varies` names may differ."""

    strict: bool = Field(
        default=True,
        description="true refuses to print tables and figures of arms that differ otherwise; false prints what "
        "differs.",
    )


class Budgets(Block):
    """For the view of equal time or energy: the metric that each arm has reached by then. Default, what the cheapest
    arm and the dearest take to their ends, where their times are compared."""

    train_s: Annotated[list[Positive], Unique()] = Field(default=[], description="Seconds of training steps per run.")
    energy_J: Annotated[list[Positive], Unique()] = Field(default=[], description="Energy of training steps per run.")


class EqualMemory(Block):
    """For the view of equal memory, arms trained again at the largest batch whose peak stays under a cap."""

    caps_GiB: Annotated[list[Positive], Field(min_length=1), Unique()] = Field(
        description="Peak memory of the probe, on a CPU that of its process."
    )
    arms: Arms | None = absent("Default, all whose runs have one GPU.")
    largest_batch_size: int = Field(default=1024, ge=1, description="The search ends there.")
    learning_rate_rule: Literal["sqrt", "linear", "constant"] = Field(
        default="sqrt",
        description="How the learning rate follows a batch k times training.batch_size: times the square root of k "
        "(sqrt; Malladi et al., 2022, for Adam), times k, or not at all.",
    )

    def settled(self, arms: list[str]) -> Self:
        """With all `arms` unless some are named."""
        return self if self.arms else self.but(arms=arms)


class Recommendation(Block):
    """What an arm must keep to be recommended; comparison.margin is what it may lose. Not set, no limit."""

    memory_GiB: Positive | None = Field(
        default=None,
        description="Peak memory of the probe; on a CPU the sizes of tensors, which is less than a process takes.",
    )
    train_s: Positive | None = Field(default=None, description="Seconds of training steps per run.")
    energy_J: Positive | None = Field(default=None, description="Energy of training steps per run.")
    cheapest: Literal["memory", "time", "energy"] = Field(
        default="memory", description="What decides between arms that qualify."
    )
    split: Literal["test", "heldout"] = Field(
        default="test",
        description="The split on which an arm is judged; heldout where a data set has it and test is too small.",
    )


class Cost(Block):
    """What computing costs, for the target estimate. It decides no result."""

    gpu_hour: Positive | None = Field(default=None, description="Price of an hour of one GPU. Not set, none is shown.")
    currency: Text = Field(default="USD", description="What the price is in, as it is shown.")


class Noise(Block):
    """The same arms with the same seed again, to see what of a result and of its cost is noise."""

    arms: Arms | None = absent("Default, the baseline.")
    repeats: int = Field(default=3, ge=2, description="Runs per arm.")
    seed: Seed | None = absent("Default, the first of seeds.")

    def settled(self, baseline: str, seeds: list[int]) -> Self:
        """With the baseline and the first of the seeds unless others are named."""
        return self.but(arms=self.arms or [baseline], seed=seeds[0] if self.seed is None else self.seed)


class Profiles(Block):
    """What the target profiles records of an arm: a few steps under torch.profiler, apart from all that is
    benchmarked."""

    arms: Arms | None = absent("Default, all whose runs have one GPU.")
    engines: Annotated[list[Literal["eager", "captured", "compiled", "captured-compiled"]], Unique()] | None = absent(
        "Beside eager and the one that training takes, which are always there. compiled launches what torch.compile "
        "makes kernel by kernel, captured-compiled replays it. Default, captured and compiled on cuda."
    )
    steps: int = Field(default=5, ge=1, description="Recorded, of each batch with each engine.")
    warmup_steps: int = Field(default=3, ge=1, description="Done before anything is measured.")
    timed_steps: int = Field(default=20, ge=1, description="Done without the profiler, for the median time of a step.")

    def settled(self, arms: list[str], training: Training) -> Self:
        """With all `arms` unless some are named, and the engines of settled `training` beside those asked for."""
        defaults = ["captured", "compiled"] if training.device == "cuda" else []
        asked = defaults if self.engines is None else self.engines
        engines = list(dict.fromkeys(["eager", *asked, training.engine_trained_with]))
        return self.but(arms=self.arms or arms, engines=engines)


class Config(Block):
    """The experiment. Site settings (partitions, accounts, cores) belong to profiles/."""

    output: str = Field(
        default="results",
        min_length=1,
        description="Folder for all that the workflow writes, relative to the working directory.",
    )
    datasets: dict[Name, Dataset] = Field(min_length=1)
    models: dict[Name, Model] = Field(min_length=1)
    methods: dict[Name, Method] = Field(
        min_length=1,
        description="A method with ranks gives one arm per rank (lora-r8); any other gives one arm of its own name.",
    )
    training: Training
    comparison: Comparison = block(Comparison)
    tune: Tune = block(Tune)
    contract: Contract = block(Contract)
    attribution: dict[Name, Annotated[list[str], Field(min_length=4), Unique()]] = Field(
        default={},
        description="Factorials by name, each a list of arms that between them have every combination of two or more "
        "settings, as bf16 or NF4 with and without gradient checkpointing.",
    )
    budgets: Budgets = block(Budgets)
    equal_memory: EqualMemory | None = None
    recommendation: Recommendation = block(Recommendation)
    cost: Cost = block(Cost)
    noise: Noise | None = None
    profiles: Profiles = block(Profiles)
    reference: str | None = Field(
        default=None,
        min_length=1,
        description="Folder of an earlier sweep's reference, with which the target check_reference compares this one. "
        "A change of the metric above comparison.margin never passes.",
    )
    imported: dict[Name, Annotated[list[Text], Field(min_length=1), Unique()]] = Field(
        default={},
        description="Published results of PEFT's method_comparison, shown in a table of their own and compared with "
        "nothing: paths or patterns (results/*.json) of its JSON files, by a label of your choice.",
    )
    tracking: Literal[
        "none", "aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb"
    ] = Field(
        default="none",
        description="Experiment tracker, of those that accelerate knows, that runs are sent to: when they are done, "
        "and to some trackers while they train. You install and log in to it yourself; unless its own environment "
        "variables say otherwise, it stays offline and writes below output/tracking.",
    )
    seeds: Annotated[list[Seed], Field(min_length=1), Unique()] = Field(
        description="One run per seed and arm. A seed decides head, adapter, batch order and dropout."
    )
    seeds_per_job: Literal["all", 1] = Field(
        default="all",
        description="all trains the seeds of an arm one after another in one process; 1 gives each its own job.",
    )
    keep_weights: bool = Field(
        default=True,
        description="false: runs save no weights, and finished runs whose weights are gone (a study brought home "
        "without them) are taken as they are. Nothing else of a run changes; weights cannot be exported then.",
    )

    def settled(self) -> Self:
        """With methods that have what training says where they say nothing."""
        return self.but(methods={name: method.settled(self.training) for name, method in self.methods.items()})
