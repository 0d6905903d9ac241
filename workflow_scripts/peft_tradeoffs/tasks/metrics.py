"""Metrics as objects: what each is computed from, how it is said and shown, what it can be, which task it is for.

A metric is added here alone: one entry of METRICS. Schemas, tables, comparison, page, export and cards read it.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from peft_tradeoffs.tasks.outputs import BLEU, CHRF, OWN, STATISTICS, bleu, chrf

if TYPE_CHECKING:
    pass

# Kinds of what metrics are for.
CLASSIFICATION, REGRESSION, TOKENS, OUTPUTS = "classification", "regression", "tokens", "outputs"
FEW_ERRORS = 0.2  # of a baseline's errors, that an equivalent arm may differ by
TOLERANCE = 1e-9  # of margins, which are decimal fractions
LONGEST = 40  # characters of a class name that are shown


class Answered(Protocol):
    """A split's labels and what was predicted of them: class indices below `classes`, or values."""

    @property
    def target(self) -> np.ndarray:
        """Labels [n]."""

    @property
    def prediction(self) -> np.ndarray:
        """Predictions [n]."""

    @property
    def classes(self) -> int:
        """How many classes there are; 1 for values."""


@dataclass(frozen=True)
class Scored:
    """One run on one split, n examples, as its predictions file says."""

    rows: np.ndarray  # int64 [n], in the source
    target: np.ndarray  # [n] class indices, or values; of texts how many tokens are to be predicted
    prediction: np.ndarray  # [n] likewise; of texts the sum of their losses
    logits: np.ndarray  # [n, k] what the model gives, in the data's units; of texts the columns OF_TEXT
    written: np.ndarray | None = None  # float64 [n, K], the columns `outputs.STATISTICS`, where a model has written

    @property
    def classes(self) -> int:
        """How many classes there are; 1 for values."""
        return int(self.logits.shape[1])


OF_TEXT = ("loss", "tokens", "right")  # of a text: sum of the losses of its target tokens, how many, and how many right


@dataclass(frozen=True)
class Answers:
    """Labels and predictions alone."""

    target: np.ndarray  # [n]
    prediction: np.ndarray  # [n]
    classes: int


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A number that says how good predictions are, computed from a statistic that adds up over examples.

    `value` of the sum of `statistic` over any examples is the metric of these, so that examples, and groups of them,
    can be left out by subtraction.
    """

    name: str  # in the configuration and in tables
    label: str  # for readers
    about: str  # for schemas: what it is of a split
    task: str  # the kind of task that it is for
    statistic: Callable[[Answered], np.ndarray]  # [n, k]
    value: Callable[[np.ndarray], float | None]  # of the statistic's sums [k]; None where it is not defined
    variance: Callable[[float], float]  # of one example's part at a value, roughly: digits are chosen by it
    bounds: tuple[float, float]  # what it can be
    largest_margin: float = 0.2  # of equivalence, as stored: more is taken for a slip
    equivalence_margin: float = 0.02  # the largest, as stored, within which an arm is called equivalent
    scale: float = 1.0  # what it is multiplied by when shown
    unit: str = ""  # that it is shown in
    decimals: int = 4  # of one run's, as shown
    noun: str = ""  # its name within a sentence, if not the label
    higher_is_better: bool = True
    share: bool = False  # whether it is that of examples that are right: Clopper and Pearson's interval holds
    disagree: float = 0.07  # the share on which runs of two arms are taken to disagree, before any is trained
    of_class: bool = False  # of two classes that of the positive one, of more a macro average
    on_terminal: bool = False  # in the line of an evaluation
    hub_id: str = ""  # on Hugging Face's hub, if not the name
    sums: Callable[[Answered], np.ndarray] | None = None  # the statistic's [k], where a row per example takes memory
    # Where sums would round otherwise than what runs have recorded: the metric, and (the metric, the metric without
    # each example [n]), as they have always been taken.
    recorded: Callable[[Answered], float | None] | None = None
    left_out: Callable[[Answered], tuple[float, np.ndarray]] | None = None

    def of(self, scored: Answered) -> float | None:
        """The metric of predictions, as a run records it; None where it is not defined."""
        if self.recorded:
            return self.recorded(scored)
        return self.value(self.sums(scored) if self.sums else self.statistic(scored).sum(axis=0, dtype=float))

    def contributions(self, scored: Answered, groups: np.ndarray | None = None) -> np.ndarray:
        """Tukey's jackknife pseudo-values [n]: n times the metric, less n - 1 times it without that example.

        Of a share they are 1 where the example is right and 0 elsewhere; their mean is the metric but for a bias of
        order 1/n. (Efron, The Jackknife, the Bootstrap and Other Resampling Plans, 1982, chapter 3.) Of examples in
        `groups` ([n] int, from 0) those of the groups [g], each of which is left out whole.
        """
        if groups is not None:
            return self._of_groups(scored, groups)
        if self.share:
            return self.statistic(scored)[:, 0].astype(float)
        count = len(scored.target)
        whole, without = self.left_out(scored) if self.left_out else self._without(scored)
        return count * whole - (count - 1) * without

    def _of_groups(self, scored: Answered, groups: np.ndarray) -> np.ndarray:
        count = int(groups.max()) + 1
        if self.left_out:  # a metric of ranks is not one of sums
            kept = (groups != group for group in range(count))
            rest = (Answers(scored.target[own], scored.prediction[own], scored.classes) for own in kept)
            without = np.array([_or_nan(self.of(one)) for one in rest])
        else:
            statistic = self.statistic(scored).astype(float)
            sums = np.zeros((count, statistic.shape[1]))
            np.add.at(sums, groups, statistic)
            without = np.array([_or_nan(self.value(sums.sum(axis=0) - own)) for own in sums])
        return count * _or_nan(self.of(scored)) - (count - 1) * without

    def _without(self, scored: Answered) -> tuple[float, np.ndarray]:
        statistic = self.statistic(scored)
        sums = statistic.sum(axis=0, dtype=float)
        first, which = _distinct(statistic)  # examples of the same statistic contribute alike
        without = np.array([_or_nan(self.value(sums - statistic[index])) for index in first])
        return _or_nan(self.value(sums)), without[which]

    def gain(self, value: Any) -> Any:
        """A value, or a difference, as a number of which more is better; arrays as they are."""
        return value if self.higher_is_better else -value

    def floor(self, units: Any, level: float) -> Any:
        """The least half width of an interval at `level` that so many examples allow, as stored; arrays as they are.

        Of a share what none in `units` leaves possible, else 0.
        """
        return unseen((1 - level) / 2, units) if self.share else 0.0

    def calls_equivalent(self, margin: float, baseline: float) -> bool:
        """Whether an arm within `margin` of this baseline is equivalent in plain words.

        It is where the margin is small in itself and at most FEW_ERRORS of what the baseline lacks to the best value.
        """
        lacks = self.bounds[1] - baseline if self.higher_is_better else baseline - self.bounds[0]
        return margin <= self.equivalence_margin + TOLERANCE and margin <= FEW_ERRORS * lacks + TOLERANCE

    @property
    def on_hub(self) -> str:
        """Its id on Hugging Face's hub."""
        return self.hub_id or self.name

    @property
    def apart(self) -> str:
        """What differences are given in; "" where that has no name of its own."""
        return "points" if self.unit == "%" else self.unit


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of rows [n, k] one place of each that differs, and [n] which of these each is; compared byte by byte."""
    whole = np.ascontiguousarray(rows)
    _, first, which = np.unique(
        whole.view(np.dtype((np.void, whole.dtype.itemsize * whole.shape[1]))), return_index=True, return_inverse=True
    )
    return first, which.reshape(-1)


def unseen(alpha: float, examples: Any) -> Any:
    """The largest share of all examples of which so many drawn may show none with a probability of `alpha` or more."""
    return 1 - alpha ** (1 / examples)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def right(scored: Answered) -> np.ndarray:
    """[n, 2]: whether an example is right, and 1."""
    same = scored.target == scored.prediction
    return np.column_stack([same, np.ones_like(same)]).astype(np.int8)


def class_counts(scored: Answered) -> np.ndarray:
    """[n, 3 · classes]: of every class whether the example is one predicted right, is one, is predicted to be one."""
    count = len(scored.target)
    found = np.zeros((count, 3, scored.classes), dtype=np.int8)
    row, same = np.arange(count), scored.target == scored.prediction
    found[row[same], 0, scored.target[same]] = 1
    found[row, 1, scored.target] = 1
    found[row, 2, scored.prediction] = 1
    return found.reshape(count, -1)


def class_sums(scored: Answered) -> np.ndarray:
    """The sums [3 · classes] of `class_counts`: whole numbers, so that they are exact."""
    same = scored.target == scored.prediction
    parts = (scored.target[same], scored.target, scored.prediction)
    return np.concatenate([np.bincount(part, minlength=scored.classes) for part in parts]).astype(float)


def moments(scored: Answered) -> np.ndarray:
    """[n, 6]: 1, x, y, x², y² and xy of labels x and predictions y, both less their means among these examples."""
    x, y = (values.astype(float) - values.mean(dtype=float) for values in (scored.target, scored.prediction))
    return np.column_stack([np.ones(len(x)), x, y, x**2, y**2, x * y])


def rank_moments(scored: Answered) -> np.ndarray:
    """As `moments`, of ranks among all examples."""
    return moments(_ranked(scored))


def _ranked(scored: Answered) -> Answers:
    from scipy.stats import rankdata

    return Answers(rankdata(scored.target), rankdata(scored.prediction), scored.classes)


def _accuracy(sums: np.ndarray) -> float:
    return float(sums[0] / sums[1])


def _f1(sums: np.ndarray) -> float:
    hits, true, found = sums.reshape(3, -1)
    f1 = 2 * hits / np.maximum(true + found, 1)
    return float(f1[1] if len(f1) == 2 else f1[true + found > 0].mean())


def _mcc(sums: np.ndarray) -> float:
    hits, true, found = sums.reshape(3, -1)
    count = true.sum()
    spread = (count**2 - true @ true) * (count**2 - found @ found)
    return float((hits.sum() * count - true @ found) / np.sqrt(spread)) if spread else 0.0


def _balanced_accuracy(sums: np.ndarray) -> float | None:
    hits, true, _ = sums.reshape(3, -1)
    occurs = true > 0
    return float((hits[occurs] / true[occurs]).mean()) if occurs.any() else None


ROUNDING = 1e-12  # of a sum of squares: a spread below it is none


def _correlation(sums: np.ndarray) -> float | None:
    """Pearson's from the sums of `moments`; None for a constant."""
    count, x, y, xx, yy, xy = sums
    spreads = (count * xx - x**2, count * yy - y**2)
    if any(spread <= ROUNDING * count * raw for spread, raw in zip(spreads, (xx, yy), strict=True)):
        return None
    return float(np.clip((count * xy - x * y) / math.sqrt(spreads[0] * spreads[1]), -1, 1))


def _varies(scored: Answered) -> bool:
    return bool(np.ptp(scored.prediction) > 0 and np.ptp(scored.target) > 0)


def _pearson(scored: Answered) -> float | None:
    from scipy.stats import pearsonr

    return float(pearsonr(scored.prediction, scored.target).statistic) if _varies(scored) else None


def _spearman(scored: Answered) -> float | None:
    from scipy.stats import spearmanr

    return float(spearmanr(scored.prediction, scored.target).statistic) if _varies(scored) else None


def _correlations(scored: Answered) -> tuple[float, np.ndarray]:
    """Pearson's correlation, and without each example [n]."""
    x, y = scored.target.astype(float), scored.prediction.astype(float)
    count = len(x)
    x, y = x - x.mean(), y - y.mean()
    xx, yy, xy = x @ x, y @ y, x @ y
    # a sum of products about the mean loses n / (n - 1) of an example's own
    own = count / (count - 1)
    spreads = [raw - own * values**2 for raw, values in ((xx, x), (yy, y))]
    for spread, raw in zip(spreads, (xx, yy), strict=True):
        spread[spread <= ROUNDING * count * raw] = math.nan  # the others are all the same
    without = (xy - own * x * y) / np.sqrt(spreads[0] * spreads[1])
    return float(xy / np.sqrt(xx * yy)), without


def _rank_correlations(scored: Answered) -> tuple[float, np.ndarray]:
    """Spearman's correlation, and without each example [n], the others ranked anew."""
    ranks = _ranked(scored)
    x, y = ranks.target, ranks.prediction
    count, without = len(x), np.full(len(x), math.nan)
    for first in range(0, count, step := max(1, AT_ONCE // count)):
        out = np.arange(first, min(first + step, count))
        spreads = []
        for values in (x, y):
            # Without an example those above it are a rank lower, and those that are equal half a rank.
            lower = (values > values[out, None]) + 0.5 * (values == values[out, None])
            own = values - lower - count / 2  # the mean of count - 1 ranks
            own[np.arange(len(out)), out] = 0.0
            spreads.append(own)
        (one, other), sums = spreads, [(own**2).sum(axis=1) for own in spreads]
        with np.errstate(invalid="ignore", divide="ignore"):  # nan where the others are all the same
            without[out] = (one * other).sum(axis=1) / np.sqrt(sums[0] * sums[1])
    return _correlations(ranks)[0], without


AT_ONCE = 2_000_000  # ranks of examples left out, times those of the others


def token_losses(scored: Answered) -> np.ndarray:
    """[n, 2]: the sum of the losses of a text's target tokens, and how many they are."""
    return _of_text(scored)[:, [0, 1]]


def tokens_right(scored: Answered) -> np.ndarray:
    """[n, 2]: how many of a text's target tokens are the likeliest ones, and how many they are."""
    return _of_text(scored)[:, [2, 1]]


def _of_text(scored: Answered) -> np.ndarray:
    """[n, 3] float64, the columns OF_TEXT."""
    if not isinstance(scored, Scored):
        raise TypeError("labels and predictions alone do not tell what a text's tokens lose")
    return scored.logits.astype(np.float64)


def _mean_of_sums(sums: np.ndarray) -> float | None:
    return float(sums[0] / sums[1]) if sums[1] else None


def _perplexity(sums: np.ndarray) -> float | None:
    mean = _mean_of_sums(sums)
    return None if mean is None else float(np.exp(min(mean, LARGEST_EXPONENT)))


LARGEST_EXPONENT = 700.0  # of e, that float64 holds


def _mean_of(column: str) -> Callable[[Answered], np.ndarray]:
    """Of what a model has written [n, 2]: a column of STATISTICS, and 1."""

    def statistic(scored: Answered) -> np.ndarray:
        own = _of_outputs(scored, (column,))
        return np.column_stack([own, np.ones_like(own)])

    return statistic


def _of_outputs(scored: Answered, columns: tuple[str, ...]) -> np.ndarray:
    """[n, k] float64: these columns of STATISTICS."""
    if not isinstance(scored, Scored):
        raise TypeError("labels and predictions alone do not tell what a model has written")
    if scored.written is None:
        raise ValueError("nothing is known of what the model has written: its outputs were not scored")
    return scored.written[:, [STATISTICS.index(column) for column in columns]].astype(np.float64)


def _mean_of_known(sums: np.ndarray) -> float | None:
    """The mean of a column; None where it is NaN in some row."""
    mean = _mean_of_sums(sums)
    return None if mean is None or math.isnan(mean) else mean


def _of_share(value: float) -> float:
    return value * (1 - value)


def _of_percent(value: float) -> float:
    return value * (100 - value)  # as of a share, of a number from 0 to 100


def _of_loss(value: float) -> float:
    return value**2  # as of an exponential distribution


def _of_perplexity(value: float) -> float:
    return (value * math.log(max(value, 1.0))) ** 2  # the derivative's square times that of a loss


def _of_correlation(value: float) -> float:
    return (1 - value**2) ** 2


OF_ANSWERS = 0.2  # of a model that answers about half of them right
_OF_OUTPUTS: Mapping[str, Any] = {"task": OUTPUTS, "variance": _of_share, "bounds": (0.0, 1.0), "decimals": 2}
_MEAN: Mapping[str, Any] = {**_OF_OUTPUTS, "value": _mean_of_known, "scale": 100.0, "unit": "%"}
_CORPUS: Mapping[str, Any] = {
    **_OF_OUTPUTS,
    "variance": _of_percent,
    "bounds": (0.0, 100.0),
    "largest_margin": 20.0,
    "equivalence_margin": 1.0,
}

ACCURACY = Metric(
    name="accuracy",
    label="Accuracy",
    noun="accuracy",
    about="Share of test rows predicted right.",
    task=CLASSIFICATION,
    statistic=right,
    value=_accuracy,
    variance=_of_share,
    bounds=(0.0, 1.0),
    scale=100.0,
    unit="%",
    decimals=2,
    share=True,
    on_terminal=True,
)
# In the order of columns; the first of a task is its default.
_ALL = (
    ACCURACY,
    Metric(
        name="f1",
        label="F1",
        about="F1 of positive_class for two classes, macro average over the classes that occur for more.",
        task=CLASSIFICATION,
        statistic=class_counts,
        sums=class_sums,
        value=_f1,  # 0 where not defined
        variance=_of_share,
        bounds=(0.0, 1.0),
        of_class=True,
    ),
    Metric(
        name="mcc",
        label="MCC",
        about="Matthews correlation coefficient (Gorodkin's for several classes).",
        task=CLASSIFICATION,
        statistic=class_counts,
        sums=class_sums,
        value=_mcc,  # of k classes: Gorodkin, Computational Biology and Chemistry 28, 2004; 0 for a constant
        variance=_of_correlation,  # it is that of two classes
        bounds=(-1.0, 1.0),
        on_terminal=True,
        hub_id="matthews_correlation",
    ),
    Metric(
        name="balanced_accuracy",
        label="Balanced accuracy",
        noun="balanced accuracy",
        about="Mean over the classes that occur of the share of their test rows predicted right.",
        task=CLASSIFICATION,
        statistic=class_counts,
        sums=class_sums,
        value=_balanced_accuracy,
        variance=_of_share,
        bounds=(0.0, 1.0),
        scale=100.0,
        unit="%",
        decimals=2,
    ),
    Metric(
        name="pearson",
        label="Pearson correlation",
        about="Pearson correlation of predictions and labels (scipy).",
        task=REGRESSION,
        statistic=moments,
        value=_correlation,
        variance=_of_correlation,
        bounds=(-1.0, 1.0),
        on_terminal=True,
        hub_id="pearsonr",
        recorded=_pearson,
        left_out=_correlations,
    ),
    Metric(
        name="spearman",
        label="Spearman correlation",
        about="Spearman rank correlation of predictions and labels (scipy).",
        task=REGRESSION,
        statistic=rank_moments,
        value=_correlation,
        variance=_of_correlation,
        bounds=(-1.0, 1.0),
        hub_id="spearmanr",
        recorded=_spearman,
        left_out=_rank_correlations,
    ),
    Metric(
        name="token_loss",
        label="Loss per token",
        noun="loss per token",
        about="Mean cross-entropy of the target tokens of all test rows, in nats.",
        task=TOKENS,
        statistic=token_losses,
        value=_mean_of_sums,
        variance=_of_loss,
        bounds=(0.0, math.inf),
        largest_margin=1.0,
        unit="nats",
        decimals=4,
        higher_is_better=False,
        on_terminal=True,
    ),
    Metric(
        name="perplexity",
        label="Perplexity",
        noun="perplexity",
        about="e to the power of token_loss.",
        task=TOKENS,
        statistic=token_losses,
        value=_perplexity,
        variance=_of_perplexity,
        bounds=(1.0, math.inf),
        largest_margin=5.0,
        equivalence_margin=0.1,
        decimals=3,
        higher_is_better=False,
        on_terminal=True,
    ),
    Metric(
        name="token_accuracy",
        label="Token accuracy",
        noun="token accuracy",
        about="Share of the target tokens that are the likeliest ones after the true tokens before them. It says less "
        "than it seems to: a model that writes has its own tokens before it.",
        task=TOKENS,
        statistic=tokens_right,
        value=_mean_of_sums,
        variance=_of_share,
        bounds=(0.0, 1.0),
        scale=100.0,
        unit="%",
        decimals=2,
        hub_id="accuracy",
    ),
    Metric(
        name="exact_match",
        label="Exact match",
        noun="exact match",
        about="Share of test rows whose output is a reference, but for white space at the ends of both.",
        statistic=_mean_of("exact_match"),
        share=True,
        disagree=OF_ANSWERS,
        on_terminal=True,
        **_MEAN,
    ),
    Metric(
        name="token_f1",
        label="Token F1",
        about="Mean over test rows of SQuAD's F1 of the words of output and reference, in lower case, without "
        "punctuation and articles; of several references the best one.",
        statistic=_mean_of("token_f1"),
        equivalence_margin=0.01,
        **_MEAN,
    ),
    Metric(
        name="rouge_l",
        label="ROUGE-L",
        about="Mean over test rows of F of the longest common subsequence of output and reference (rouge-score, no "
        "stemmer; words of a to z and 0 to 9 alone); of several references the best one.",
        statistic=_mean_of("rouge_l"),
        equivalence_margin=0.01,
        hub_id="rouge",
        **_MEAN,
    ),
    Metric(
        name="numeric",
        label="Numeric answer",
        noun="numeric answer",
        about="Share of test rows the last number of whose output is that of a reference.",
        statistic=_mean_of("numeric"),
        share=True,
        disagree=OF_ANSWERS,
        **_MEAN,
    ),
    Metric(
        name="bleu",
        label="BLEU",
        about="BLEU of all test rows, 0 to 100 (sacrebleu).",
        statistic=lambda scored: _of_outputs(scored, BLEU),
        value=bleu,
        on_terminal=True,
        hub_id="sacrebleu",
        **_CORPUS,
    ),
    Metric(
        name="chrf",
        label="chrF",
        about="chrF of all test rows, 0 to 100 (sacrebleu).",
        statistic=lambda scored: _of_outputs(scored, CHRF),
        value=chrf,
        **_CORPUS,
    ),
    Metric(
        name=OWN,
        label="Own score",
        noun="own score",
        about="Mean over test rows of what the scorer that scorer.python names gives an output.",
        task=OUTPUTS,
        statistic=_mean_of(OWN),
        value=_mean_of_known,
        variance=_of_loss,
        bounds=(-math.inf, math.inf),
        largest_margin=20.0,
        on_terminal=True,
    ),
)
OF_LOPSIDED = "mcc"  # of labels that are nearly all alike: who always says the commonest has an MCC of 0
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _ALL}
NAMES = tuple(METRICS)
EVERY_TASK = tuple(dict.fromkeys(metric.task for metric in _ALL))


def of_task(task: str) -> list[Metric]:
    """The metrics of a kind of task, the default first."""
    return [metric for metric in _ALL if metric.task == task]


def names_of(task: str) -> tuple[str, ...]:
    """The names of the metrics of a kind of task, the default first."""
    return tuple(metric.name for metric in of_task(task))


def metric_called(name: Any) -> Metric:
    """The metric of this name; for another one, of imported results say, or null, one that is shown as it is stored."""
    if name in METRICS:
        return METRICS[name]
    text = "" if null(name) else str(name)
    anything = (-math.inf, math.inf)
    return Metric(
        name=text, label=text, about="", task="", statistic=_unknown, value=_unknown, variance=_unknown, bounds=anything
    )


def _unknown(_: Any) -> Any:
    raise ValueError("not a metric that is computed here")


def predictions(logits: np.ndarray, task: str) -> np.ndarray:
    """Class indices [n] of logits [n, classes], or the values [n] of logits [n, 1] for regression."""
    return logits[:, 0] if task == REGRESSION else logits.argmax(axis=1)


def evaluate(logits: np.ndarray, labels: np.ndarray, task: str) -> dict[str, float | None]:
    """Loss and metrics of float32 logits [n, k] against labels [n].

    loss is the mean cross-entropy, or the mean squared error for regression. A metric that is not the task's, or not
    defined (a correlation with a constant), is None. As scikit-learn, whose import costs a training process 140 MiB.
    """
    logits = logits.astype(np.float64)
    predicted = predictions(logits, task)
    result: dict[str, float | None] = dict.fromkeys(("loss", *NAMES))
    if task == REGRESSION:
        result["loss"] = float(np.mean((predicted - labels) ** 2))
    else:
        chosen = logits[np.arange(len(labels)), labels]
        result["loss"] = float((np.logaddexp.reduce(logits, axis=1) - chosen).mean())
    scored = Answers(labels, predicted, logits.shape[1])
    return result | {metric.name: metric.of(scored) for metric in of_task(task)}


def null(value: Any) -> bool:
    """Whether a value of a row is missing."""
    return value is None or value != value
