"""What a generative model writes, what is right of it, and what each output adds to the metrics of what it writes.

Training imports this, so sacrebleu and rouge-score are imported where they are used.
"""

import json
import math
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from importlib.metadata import version
from typing import Any

import numpy as np

from peft_tradeoffs.core.errors import Faults, InputError, RowError
from peft_tradeoffs.tasks.classes import clean, encodable

WORDS, CHARACTERS = 4, 6  # the longest n-grams that BLEU and chrF count
BETA = 2  # of chrF: how often recall counts what precision does
MEANS = ("exact_match", "token_f1", "rouge_l", "numeric")  # columns whose mean is a metric
_GRAMS = [f"bleu_{what}_{n}" for what in ("correct", "total") for n in range(1, WORDS + 1)]
BLEU = ("bleu_output", "bleu_reference", *_GRAMS)  # lengths in words, and n-grams
CHRF = tuple(f"chrf_{what}_{n}" for n in range(1, CHARACTERS + 1) for what in ("output", "reference", "matches"))
OWN = "own_score"  # of a scorer of the user's own
STATISTICS: tuple[str, ...] = (*MEANS, *BLEU, *CHRF, OWN)  # columns [K] of an output; each adds up over outputs
LIBRARIES = ("sacrebleu", "rouge-score")  # that score
SCORED = (*MEANS, "bleu", "chrf", OWN)  # metrics of what models write
NOT_DEFINED = {OWN: "the data set names no scorer", "numeric": "some references have no number"}  # why a metric is null
ABOUT_GENERATE = (
    "Of sft: what trained models write is kept and scored. One of your own and the metrics "
    f"{', '.join(name for name in SCORED if name != OWN)} need it."
)
ABOUT_NUMBER = (
    "For the metric numeric, a regular expression that finds the answer, of which the last match counts; its first "
    "group, if it has one. Default, the last number."
)
NUMBER = (
    r"(?:(?<![\w.)])[-+\u2212])?"  # a sign, where nothing stands before it that it could be taken from
    r"\$?(?<![\d.])(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"  # thousands may have commas
    r"(?:[eE][-+]?\d{1,3}(?!\w))?"
)  # finds numbers as people write them


def statistics(outputs: Sequence[str], references: Sequence[Sequence[str]], pattern: str | None = None) -> np.ndarray:
    """What n outputs add to the metrics: float64 [n, K], the columns STATISTICS. own_score is NaN.

    Each output has one reference or more; the one that is best for it counts in exact match, token F1, ROUGE-L and the
    numeric answer, and BLEU and chrF take several as sacrebleu does. With a `pattern` (NUMBER is that of any number)
    numbers are asked for: the last one that it finds is the answer. Without one it is the last number of a text, and
    of rows none of whose references has a number the column is NaN. Raises InputError, which names the row, for one
    without a reference and, with a pattern, for one whose references have no number.
    """
    if len(outputs) != len(references):
        raise ValueError(f"{len(outputs)} outputs, but references of {len(references)}")
    found = np.full((len(outputs), len(STATISTICS)), math.nan)
    if not len(outputs):
        return found
    for row, own in enumerate(references):
        if isinstance(own, str) or not len(own):
            raise RowError(row, "an output is compared with a list of references; give one or more")
    if pattern is not None and (lacking := without_number(references, pattern)):
        raise RowError(lacking[0], no_number(references[lacking[0]]))
    found[:, 0] = _best(exact_match, outputs, references)
    found[:, 1] = _best(token_f1, outputs, references)
    found[:, 2] = _rouge_l(outputs, references)
    found[:, 3] = [_numeric(output, own, pattern) for output, own in zip(outputs, references, strict=True)]
    found[:, len(MEANS) : -1] = np.column_stack(_sacrebleu(outputs, references))
    return found


def without_number(references: Sequence[Sequence[str]], pattern: str | None = None) -> list[int]:
    """The rows, from 0, none of whose references has a number. Raises InputError for what is no pattern."""
    _compiled(pattern)
    rows = enumerate(references)
    return [row for row, own in rows if all(_of_reference(reference, pattern) is None for reference in own)]


def no_number(own: Sequence[str]) -> str:
    """What is wrong with such a row, and the remedy."""
    return (
        f"no number in the reference {own[0] if len(own) else ''!r:.60}, which a numeric answer is compared with; "
        "remove the row, or take another metric, and generate.number out"
    )


def signatures(references: Sequence[Sequence[str]] = (("",),)) -> dict[str, str]:
    """How BLEU, chrF and ROUGE-L are computed, by metric: sacrebleu's signatures, and rouge-score's version.

    The signature has how many references a row has, "var" where that differs.
    """
    counts = {len(own) for own in references}
    found = {}
    for name, scorer in _scorers().items():
        scorer.num_refs = max(counts) if len(counts) == 1 else -1  # sacrebleu's word for "var"
        found[name] = str(scorer.get_signature())
    return found | {"rouge_l": f"rougeL|stemmer:no|version:{version('rouge-score')}"}


# Each of one output and one reference.


def exact_match(output: str, reference: str) -> float:
    """1 where both are the same but for white space at their ends, else 0."""
    return float(output.strip() == reference.strip())


def token_f1(output: str, reference: str) -> float:
    """F1 of the words of both, as SQuAD counts them (Rajpurkar and others, 2018): see `squad_words`.

    Where one of them has no words it is 1 if the other has none, else 0.
    """
    own, true = squad_words(output), squad_words(reference)
    if not own or not true:
        return float(own == true)
    same = sum((Counter(own) & Counter(true)).values())
    precision, recall = same / len(own), same / len(true)
    return 2 * precision * recall / (precision + recall) if same else 0.0


def squad_words(text: str) -> list[str]:
    """The words of a text in lower case, without ASCII punctuation and the articles a, an, the."""
    without = "".join(character for character in text.lower() if character not in PUNCTUATION)
    return ARTICLES.sub(" ", without).split()


PUNCTUATION = frozenset(string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")


def number_in(text: str, pattern: str | None = None) -> Decimal | None:
    """The number that a pattern finds last in a text: in its first group if it has one, else in all that it matches.

    None where it finds none. Raises InputError for what is no pattern.
    """
    compiled = _compiled(pattern)
    found = list(compiled.finditer(text))
    if not found:
        return None
    own = found[-1][1 if compiled.groups else 0] or ""
    return _read(own) if pattern in (None, NUMBER) else number_in(own)


def _compiled(pattern: str | None) -> re.Pattern[str]:
    try:
        return re.compile(NUMBER if pattern is None else pattern)
    except re.error as error:
        raise InputError(f"{pattern!r} is no regular expression ({error}); correct it") from None


def _read(number: str) -> Decimal:
    """A number as NUMBER finds it."""
    return Decimal(number.replace(",", "").replace("$", "").replace("\u2212", "-"))


def _of_reference(reference: str, pattern: str | None) -> Decimal | None:
    """The number of a reference, which may be the number alone where the pattern is one of outputs."""
    found = number_in(reference, pattern)
    return number_in(reference) if found is None else found


def _numeric(output: str, references: Sequence[str], pattern: str | None) -> float:
    """1 where an output's number is that of a reference, else 0; NaN where no reference has one."""
    true = {number for reference in references if (number := _of_reference(reference, pattern)) is not None}
    return float(number_in(output, pattern) in true) if true else math.nan


def _best(
    score: Callable[[str, str], float], outputs: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float]:
    """Of each output the score with the reference that is best for it."""
    return [max(score(output, one) for one in own) for output, own in zip(outputs, references, strict=True)]


def _rouge_l(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """F of the longest common subsequence (Lin, 2004), as rouge-score counts it, without its stemmer."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)

    def score(output: str, reference: str) -> float:
        return float(scorer.score(reference, output)["rougeL"].fmeasure)

    return _best(score, outputs, references)


def _scorers() -> dict[str, Any]:
    """Those of sacrebleu, as they are by default."""
    from sacrebleu import metrics

    return {"bleu": metrics.BLEU(force=True), "chrf": metrics.CHRF()}  # force: no warning of blanks before full stops


def _sacrebleu(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> list[np.ndarray]:
    """The sums that sacrebleu makes BLEU and chrF of, an output each: [n, 10] and [n, 18].

    Where a row has fewer references than others it has None in their place, which sacrebleu leaves out; an empty text
    would be a reference of no words, whose length counts in BLEU.
    """
    most = max(map(len, references))
    streams = [[own[place] if place < len(own) else None for own in references] for place in range(most)]
    return [
        np.array(scorer._extract_corpus_statistics(list(outputs), streams), dtype=np.float64)  # noqa: SLF001, it is pinned
        for scorer in _scorers().values()
    ]


# The metrics of sums. They compute in the order of sacrebleu's own, so that they are the same floats.


def bleu(sums: np.ndarray) -> float:
    """A corpus's BLEU (Papineni and others, 2002), 0 to 100, from its sums [10], the columns BLEU, as sacrebleu has it.

    Where a corpus has none of its n-grams right their number counts as 1/2, 1/4 and so on for the first such n, the
    second and so on (sacrebleu's smoothing "exp"). It is the same function that is computed without an output, or a
    group of them, so the jackknife is that of the number reported, also where the others have no such n-gram right.
    sacrebleu gives 100.00000000000004 where all is right, which is 100 here.
    """
    numbers: list[float] = sums.tolist()
    written, wanted, correct, total = numbers[0], numbers[1], numbers[2 : 2 + WORDS], numbers[2 + WORDS :]
    if not any(correct):
        return 0.0
    brevity = 1.0
    if written < wanted:
        brevity = math.exp(1 - wanted / written) if written > 0 else 0.0
    precisions, smooth = [0.0] * WORDS, 1.0
    for place, (hits, all_of) in enumerate(zip(correct, total, strict=True)):
        if all_of == 0:
            break
        if hits == 0:
            smooth *= 2
            precisions[place] = 100.0 / (smooth * all_of)
        else:
            precisions[place] = 100.0 * hits / all_of
    if not all(precisions):
        return 0.0
    return min(brevity * math.exp(sum(math.log(precision) for precision in precisions) / WORDS), 100.0)


def chrf(sums: np.ndarray) -> float:
    """chrF of a corpus, 0 to 100, from its sums [18], the columns CHRF (Popović, 2015), as sacrebleu has it.

    F of the mean precision and recall of the n that both sides have, with recall BETA times as important.
    """
    numbers: list[float] = sums.tolist()
    precision, recall, orders = 0.0, 0.0, 0
    for place in range(0, 3 * CHARACTERS, 3):
        written, wanted, matches = numbers[place : place + 3]
        if written > 0 and wanted > 0:
            precision, recall, orders = precision + matches / written, recall + matches / wanted, orders + 1
    if not precision + recall:
        return 0.0
    precision, recall, factor = precision / orders, recall / orders, BETA**2
    return 100 * ((1 + factor) * precision * recall / (factor * precision + recall))


def pattern_of(given: str | None, metric: str | None) -> str | None:
    """What finds a numeric answer: a pattern that is `given`, or any number where that is the `metric`."""
    return given or (NUMBER if metric == "numeric" else None)


def check_answers(key: str, block: Mapping[str, Any], metric: str) -> None:
    """Raise InputError for answers that are asked for without what scores them, and the other way round."""
    asked, scorer = block.get("generate"), block.get("scorer")
    if asked is None:
        scores = "scores what models write"
        given = {
            "metric": f"{metric} {scores}" if metric in SCORED else None,
            "scorer": f"it {scores}" if scorer else None,
            "references": "what models write is compared with them" if block.get("references") else None,
        }
        for name, said in given.items():
            if said is not None:
                raise InputError(
                    f"config key {key}.{name}: {said}; set generate too, as in generate: {{max_new_tokens: 64}}"
                )
        return
    if asked["number"] is not None:
        try:
            re.compile(asked["number"])
        except re.error as error:
            raise InputError(f"config key {key}.generate.number: no regular expression ({error})") from None
    if metric == OWN and scorer is None:
        raise InputError(
            f"config key {key}.metric: {OWN} is what a function of yours gives; name it, as in scorer: "
            "{python: scorers.py:execution, range: [0, 1]}"
        )
    if scorer is not None and not -math.inf < scorer["range"][0] < scorer["range"][1] < math.inf:
        said = f"{scorer['range']} is not the lowest value and the highest, both finite"
        raise InputError(f"config key {key}.scorer.range: {said}")


REMEDY = (
    "write a text, or in JSON lines and Parquet a list of texts; a row that has no further reference repeats its own"
)


def further_references(
    column: str, values: Sequence[Any], places: Sequence[int], faults: Faults
) -> list[tuple[str, ...]]:
    """The further references of n rows, a text or a list of texts each; what is none goes to `faults`."""
    found = []
    for place, value in zip(places, values, strict=True):
        own = tuple(value) if isinstance(value, list) else (value,)
        if fault := _fault(own, isinstance(value, list)):
            faults.add(place, f"{column!r} {fault}", REMEDY)
        found.append(own)
    return found


def _fault(own: tuple[Any, ...], listed: bool) -> str:
    """What is wrong with the further references of a row; "" where nothing is."""
    if not own:
        return "is an empty list"
    start = "has in its list" if listed else "is"
    for one in own:
        if one is None:
            return f"{start} no text (null)"
        if not isinstance(one, str):
            return f"{start} {type(one).__name__}, not text"
        if not clean(one):
            return f"{start} an empty text"
        if not encodable(one):
            return "has half of a surrogate pair"
    return ""


def written_before(turn: str, prompt: str, content: str, special: Sequence[str]) -> str | None:
    """What a chat template writes in the assistant's turn before its content, as an answer has it: "" mostly.

    `turn` is the chat up to the end of that turn and `prompt` what the answer follows, both by the template; `special`
    tokens are no text of an answer. None where the turn does not go on from the prompt, or ends otherwise than its
    content, or that has special tokens in it: an answer as it was learned has other text than the reference then.
    """
    if not turn.startswith(prompt) or any(token in content for token in special):
        return None
    own = turn[len(prompt) :]
    for token in sorted(special, key=len, reverse=True):
        own = own.replace(token, "")
    own = own.strip()
    for end in (content.rstrip(), content.strip()):  # templates may trim a content
        if own.endswith(end):
            before = own[: len(own) - len(end)]
            return before if before.strip() else ""
    return None


def without_start(output: str, begins: str) -> str:
    """An answer without what a chat template `begins` every turn of the assistant with, where it begins so."""
    return output.lstrip().removeprefix(begins) if begins and output.lstrip().startswith(begins) else output


def refuse_calls(turn: Mapping[str, Any]) -> None:
    """Raise InputError for a last turn of the assistant that calls a tool: its text is no answer."""
    if turn.get("tool_calls") or not clean(turn["content"] or ""):
        raise InputError(
            "the assistant's last turn calls a tool, and answers are compared as texts; remove such rows, or `generate`"
        )


def reference_of(texts: Sequence[str], further: Sequence[str] = ()) -> tuple[Any, list[str]]:
    """Of a row as its data set keeps it what a model is asked, and what is right: a prompt, or turns of a chat.

    Its own completion is always right, `further` ones are beside it.
    """
    if len(texts) == 2:
        return texts[0], [texts[1], *further]
    read = json.loads(texts[0])
    turns = read["messages"] if isinstance(read, dict) else read
    last = max(number for number, turn in enumerate(turns) if turn["role"] == "assistant")
    return turns[:last], [turns[last]["content"] or "", *further]
