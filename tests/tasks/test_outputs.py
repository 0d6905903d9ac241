"""Metrics of what a generative model writes are those of the libraries and of their definitions, and add up."""

import logging
import math
import subprocess
import sys
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pytest
import sacrebleu
import tiny
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.tasks import outputs
from peft_tradeoffs.tasks.metrics import METRICS, Answers, Scored, names_of
from peft_tradeoffs.tasks.outputs import BLEU, CHRF, NUMBER, STATISTICS, number_in, signatures, statistics, token_f1
from peft_tradeoffs.tasks.task import TASKS
from rouge_score.rouge_scorer import RougeScorer

WORDS = [
    "the",
    "a",
    "cat",
    "dogs",
    "sat",
    "on",
    "mat",
    ".",
    ",",
    "?",
    "3",
    "1,200",
    "Straße",
    "naïve",
    "東京",
    "😀",
    ".*([AEIOU])",
    "\\b",
    "(.*truck.*){3,}",
    "it's",
    "Don't",
    "well-known",
]
NUMERIC = STATISTICS.index("numeric")


def drawn(seed: int, count: int = 200, references: Sequence[int] = (1, 2, 3)) -> tuple[list[str], list[list[str]]]:
    """Outputs, each of which has gone wrong in a word or more of a reference, or is empty; references of each."""
    random = np.random.default_rng(seed)
    written, wanted = [], []
    for _ in range(count):
        own = [list(random.choice(WORDS, random.integers(1, 15))) for _ in range(random.choice(references))]
        of_one = [word for word in own[0] if random.random() < 0.85]
        of_one = [str(random.choice(WORDS)) if random.random() < 0.15 else word for word in of_one]
        shown = own[0] if random.random() < 0.2 else [] if random.random() < 0.05 else of_one
        written.append(" " * random.integers(2) + " ".join(shown) + "\n" * random.integers(2))
        wanted.append([" ".join(words) for words in own])
    assert "" in {text.strip() for text in written}
    return written, wanted


def streams(references: list[list[str]]) -> list[list[str | None]]:
    """References as sacrebleu takes them: of all rows the first, then the second, None where a row has none."""
    most = max(map(len, references))
    return [[own[place] if place < len(own) else None for own in references] for place in range(most)]


def scored(written: np.ndarray) -> Scored:
    """As a run's test split, of which the other numbers are the same in every row."""
    count = len(written)
    numbers = np.column_stack([np.full(count, 2.0), np.full(count, 3.0), np.ones(count)])
    return Scored(np.arange(count), numbers[:, 1], numbers[:, 0], numbers, written)


def of(name: str, written: np.ndarray) -> float | None:
    return METRICS[name].of(scored(written))


CASES = {"one reference each": (1,), "two": (2,), "one to three": (1, 2, 3)}


@pytest.mark.parametrize("count", CASES.values(), ids=CASES)
@pytest.mark.parametrize("seed", range(3))
def test_bleu_and_chrf_are_those_of_sacrebleu_to_the_last_bit(count, seed):
    texts, references = drawn(seed, references=count)
    found = statistics(texts, references)
    assert of("bleu", found) == sacrebleu.corpus_bleu(texts, streams(references)).score > 5
    assert of("chrf", found) == sacrebleu.corpus_chrf(texts, streams(references)).score > 5


@pytest.mark.parametrize("row", range(60))
def test_they_are_so_of_corpora_without_a_longer_word_in_common_too(row):
    """Of one row each, where few n-grams are right and a length may be 0."""
    texts, references = (part[row : row + 1] for part in drawn(7))
    found = statistics(texts, references)
    assert of("bleu", found) == min(sacrebleu.corpus_bleu(texts, streams(references), force=True).score, 100)
    assert of("chrf", found) == sacrebleu.corpus_chrf(texts, streams(references)).score


def test_a_reference_that_a_row_does_not_have_is_not_an_empty_one():
    texts, references = ["a", "a b c d e f g"], [["a b c d e f g"], ["a b c d e f g", "x"]]
    found = statistics(texts, references)
    assert found[0, STATISTICS.index("bleu_reference")] == 7  # of an empty one 0, which is nearer to 1
    empty = sacrebleu.corpus_bleu(texts, [["a b c d e f g"] * 2, ["", "x"]]).score
    assert of("bleu", found) < empty


def test_rouge_l_is_the_mean_of_rouge_score():
    texts, references = drawn(1)
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    expected = [scorer.score_multi(own, text)["rougeL"].fmeasure for text, own in zip(texts, references, strict=True)]
    found = statistics(texts, references)
    assert found[:, STATISTICS.index("rouge_l")].tolist() == expected
    assert of("rouge_l", found) == pytest.approx(np.mean(expected)) and 0.3 < np.mean(expected) < 1


@pytest.mark.parametrize(
    ("output", "reference", "expected"),
    [
        ("The cat sat.", "a cat sat", 1.0),
        ("the cat sat on the mat", "cat mat", 2 * (2 / 4) * 1 / (2 / 4 + 1)),  # 4 words, 2 right, of 2
        ("cat cat cat", "cat dog", 2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2)),  # a word counts as often as both have it
        ("Don't", "dont", 1.0),
        ("well-known theory", "wellknown theory", 1.0),  # punctuation goes without a blank in its place
        ("bathe", "bthe", 0.0),  # an article is a word of its own
        ("東京 is big", "東京", 2 * (1 / 3) * 1 / (1 / 3 + 1)),
        ("", "cat", 0.0),
        ("cat", "", 0.0),
        ("the", "a", 1.0),  # no words on either side
        ("dog", "cat", 0.0),
    ],
)
def test_token_f1_is_squads_by_hand(output, reference, expected):
    assert token_f1(output, reference) == pytest.approx(expected, abs=1e-15)
    assert statistics([output], [["zebra", reference]])[0, STATISTICS.index("token_f1")] == token_f1(output, reference)


@pytest.mark.parametrize(
    ("output", "references", "expected"),
    [
        (" .*[aeiou]\n", [".*[aeiou]"], 1.0),
        ("x", ["y", "\tx "], 1.0),
        ("X", ["x"], 0.0),
        ("a  b", ["a b"], 0.0),
        ("", [" "], 1.0),
        ("a", ["ab"], 0.0),
    ],
)
def test_an_exact_match_is_the_text_but_for_white_space_at_its_ends(output, references, expected):
    assert statistics([output], [references])[0, 0] == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7.", "7"),
        ("$1,234.50", "1234.5"),
        ("it costs -$5", "-5"),
        ("$-5 then", "-5"),
        ("from 3-2", "2"),  # less, not a sign
        ("x = \u22123", "-3"),
        ("12,34", "34"),
        ("3,14", "14"),  # no decimal comma
        ("1,234", "1234"),
        ("1.234,5", "5"),
        ("1,234,567 in all", "1234567"),
        ("it is .5", "0.5"),
        ("1e3", "1000"),
        ("1.5e-2", "0.015"),
        ("2 apples", "2"),
        ("0042", "42"),
        ("-0", "0"),
        ("no number: -, $ and .", None),
        ("", None),
        ("9" * 400, "9" * 400),
    ],
)
def test_the_last_number_of_a_text(text, number):
    assert number_in(text) == (None if number is None else Decimal(number))


def test_a_numeric_answer_is_right_where_its_number_is_a_references():
    texts = ["so it is $1,000.00", "about 1000 or 999", "", "it is 7", "7.5"]
    references = [["1000"], ["1000"], ["5"], ["six", "7.0"], ["7"]]
    found = statistics(texts, references)
    assert found[:, NUMERIC].tolist() == [1, 0, 0, 1, 0] and of("numeric", found) == 0.4


@pytest.mark.parametrize(
    ("pattern", "text", "number"),
    [
        (r"####\s*(.*)", "2 + 2\n#### 1,004\n", "1004"),
        (r"####\s*(.*)", "2 + 2 = 4", None),
        (r"\d+ (?:apples|pears)", "3 apples, 4 pears, 5 plums", "4"),
        (r"answer: (\d+)|none", "answer: 3, none", None),  # what it found last has no number
        (NUMBER, "3 and $4", "4"),
    ],
)
def test_a_pattern_says_where_the_number_stands(pattern, text, number):
    assert number_in(text, pattern) == (None if number is None else Decimal(number))
    (found,) = statistics([text], [["#### " + (number or "1")]], pattern)
    assert found[NUMERIC] == (number is not None)


def test_a_reference_may_be_the_number_alone():
    pattern = r"answer is (.*)"
    assert statistics(["the answer is 12", "12"], [["12"], ["12"]], pattern)[:, NUMERIC].tolist() == [1, 0]


def test_references_without_a_number_have_no_numeric_answer():
    found = statistics(["3", "4"], [["3"], ["four"]])
    assert found[0, NUMERIC] == 1 and np.isnan(found[1, NUMERIC]) and of("numeric", found) is None
    assert of("exact_match", found) == 0.5


@pytest.mark.parametrize(
    ("references", "pattern", "said"),
    [
        (
            [["3"], ["four", "IV"]],
            NUMBER,
            "row 2: no number in the reference 'four', which a numeric answer is compared",
        ),
        ([["3"], []], None, "row 2: an output is compared with a list of references; give one or more"),
        ([["3"], "four"], None, "row 2: an output is compared with a list of references; give one or more"),
        (
            [["3"], ["4"]],
            "(",
            "'(' is no regular expression (missing ), unterminated subpattern at position 0); correct",
        ),
    ],
)
def test_references_and_patterns_that_do_not_do_are_one_line(references, pattern, said):
    with pytest.raises(InputError) as refused:
        statistics(["3", "4"], references, pattern)
    assert str(refused.value).startswith(said) and "\n" not in str(refused.value)


def test_references_of_other_rows_are_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="2 outputs, but references of 1"):
        statistics(["a", "b"], [["a"]])
    assert statistics([], []).shape == (0, len(STATISTICS))


def written(seed: int, count: int) -> np.ndarray:
    """Statistics with a number at each end, wrong in every fifth row, and a score of the user's own."""
    texts, references = drawn(seed)
    answers = [f"{text} {4 if row % 5 == 4 else 3}" for row, text in enumerate(texts[:count])]
    found = statistics(answers, [[f"{one} 3" for one in own] for own in references[:count]])
    found[:, -1] = np.random.default_rng(seed).normal(size=count)
    return found


@pytest.mark.parametrize("name", names_of("outputs"))
def test_the_sums_of_any_partition_give_the_corpus(name):
    whole, metric = written(2, 200), METRICS[name]
    assert not np.isnan(whole).any()
    for parts in (2, 7, 200):
        of_row = np.random.default_rng(parts).integers(0, parts, 200)
        sums = [metric.statistic(scored(whole[of_row == part])).sum(axis=0) for part in range(parts)]
        assert metric.value(np.sum(sums, axis=0)) == pytest.approx(of(name, whole), rel=1e-12)
    low, high = metric.bounds
    assert low < of(name, whole) < high


@pytest.mark.parametrize("name", names_of("outputs"))
@pytest.mark.parametrize("groups", [None, np.array([0, 1, 0, 2, 2, 2, 3, 4, 1, 5, 5, 6])], ids=["rows", "groups"])
def test_contributions_are_what_leaving_an_output_or_a_group_out_makes(name, groups):
    """Brute force. All rows have as many target tokens and the same loss: what is written alone tells them apart."""
    rows = written(3, 12)
    units = np.arange(12) if groups is None else groups
    count = len(np.unique(units))
    expected = [count * of(name, rows) - (count - 1) * of(name, rows[units != unit]) for unit in range(count)]
    assert len(set(np.round(expected, 9))) > 1
    assert METRICS[name].contributions(scored(rows), groups) == pytest.approx(np.array(expected), abs=1e-9)


def test_an_output_whose_absence_leaves_no_longer_match_is_left_out_as_sacrebleu_would():
    texts = ["a b c d", "a b x y", "p q"]
    references = [["a b c d"], ["a b c d"], ["p q r"]]
    rest = [sacrebleu.corpus_bleu(texts[1:], [["a b c d", "p q r"]]).score]  # no three words right: smoothed
    found = METRICS["bleu"].contributions(scored(statistics(texts, references)))
    whole = sacrebleu.corpus_bleu(texts, streams(references)).score
    assert found[0] == pytest.approx(3 * whole - 2 * rest[0]) and rest[0] > 0


def test_without_outputs_their_metrics_are_not_known():
    answered = TASKS["sft"].predicted(np.arange(2), np.zeros(2), np.array([[6.0, 3, 1], [1.0, 1, 1]]))
    found = TASKS["sft"].evaluate(answered)
    assert {found[name] for name in names_of("outputs")} == {None} and found["token_loss"] == 7 / 4
    with pytest.raises(ValueError, match="its outputs were not scored"):
        METRICS["bleu"].of(answered)
    with pytest.raises(TypeError, match="do not tell what a model has written"):
        METRICS["exact_match"].of(Answers(np.zeros(2), np.zeros(2), 1))


def test_a_task_that_learns_completions_has_them_and_one_of_plain_texts_has_not():
    whole = written(4, 50)
    found = TASKS["sft"].evaluate(scored(whole))
    assert {name: found[name] for name in names_of("outputs")} == {
        name: of(name, whole) for name in names_of("outputs")
    }
    assert None not in {found[name] for name in TASKS["sft"].metrics}
    assert TASKS["sft"].metrics == (*names_of("tokens"), *names_of("outputs"))
    assert TASKS["lm"].metrics == names_of("tokens")
    of_plain = TASKS["lm"].evaluate(scored(whole))
    assert {of_plain[name] for name in names_of("outputs")} == {None}


def test_a_score_of_the_users_own_that_some_row_lacks_is_not_known():
    rows = written(5, 20)
    assert of("own_score", rows) == pytest.approx(rows[:, -1].mean())
    rows[3, -1] = math.nan
    assert of("own_score", rows) is None


def test_signatures_are_sacrebleus_and_name_versions():
    bleu, chrf = sacrebleu.BLEU(), sacrebleu.CHRF()
    bleu.corpus_score(["a"], [["a"]])
    chrf.corpus_score(["a"], [["a"]])
    found = signatures()
    assert found["bleu"] == str(bleu.get_signature()) == "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"
    assert found["chrf"] == str(chrf.get_signature()) == "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0"
    assert found["rouge_l"] == "rougeL|stemmer:no|version:0.1.2"
    assert signatures([["a", "b"], ["c", "d"]])["bleu"].startswith("nrefs:2|")
    assert signatures([["a"], ["c", "d"]])["chrf"].startswith("nrefs:var|")


def test_outputs_that_end_in_a_blank_and_a_full_stop_bring_no_warning(caplog):
    with caplog.at_level(logging.WARNING):
        statistics(["a b ."] * 200, [["a b ."]] * 200)
    assert not caplog.records


def test_columns_are_named_once_and_in_order():
    assert (*outputs.MEANS, *BLEU, *CHRF, "own_score") == STATISTICS and len(set(STATISTICS)) == 4 + 10 + 18 + 1
    (row,) = statistics(["a b"], [["a b c"]])
    of_column = dict(zip(STATISTICS, row, strict=True))
    assert (of_column["bleu_output"], of_column["bleu_reference"]) == (2, 3)
    assert (of_column["bleu_correct_1"], of_column["bleu_correct_2"], of_column["bleu_total_2"]) == (2, 1, 1)
    assert [of_column[f"chrf_{what}_1"] for what in ("output", "reference", "matches")] == [2, 3, 2]


def test_what_training_imports_brings_no_scorer():
    program = (
        "import sys, peft_tradeoffs.tasks.task, peft_tradeoffs.tasks.outputs; "
        "print({'sacrebleu', 'rouge_score', 'nltk', 'absl', 'lxml'} & set(sys.modules))"
    )
    folder = tiny.REPOSITORY / "workflow_scripts"
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
