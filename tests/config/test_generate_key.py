"""What a data set's `generate`, metric, scorer and margin must be is said in one line, before anything runs."""

import copy
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from peft_tradeoffs.config.experiment import Experiment, resolve
from peft_tradeoffs.config.model import Scorer
from peft_tradeoffs.config.preflight import check_paths, check_scorer
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.tasks.outputs import NUMBER
from peft_tradeoffs.training.scoring import load_scorer

EXAMPLE = yaml.safe_load((tiny.REPOSITORY / "examples/generate.yaml").read_text(encoding="utf-8"))
del EXAMPLE["datasets"]["regex"]["scorer"]  # whose file each test would need
OWN = {"python": "own.py:f", "range": [0, 1]}


def asked(**changes: Any) -> dict[str, Any]:
    """The example, keys of its data set changed; None takes one out."""
    config = copy.deepcopy(EXAMPLE)
    block = config["datasets"]["regex"]
    block.update(changes)
    for key in [key for key, value in block.items() if value is None]:
        del block[key]
    return config


def with_top(**changes: Any) -> dict[str, Any]:
    return {**asked(), **changes}


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no metric": (asked(metric=None), "datasets.regex.metric: with generate it must be named; one of token_loss,"),
    "a metric of answers without answers": (asked(generate=None), "datasets.regex.metric: exact_match scores what mod"),
    "a scorer without answers": (
        asked(generate=None, metric="token_loss", scorer=OWN),
        "datasets.regex.scorer: it scores what models write; set generate too",
    ),
    "references without answers": (
        asked(generate=None, metric="token_loss", references="others"),
        "datasets.regex.references: what models write is compared with them; set generate too",
    ),
    "references that are the completion": (asked(references="regex"), "references: regex is read already; name ano"),
    "references that are no name": (asked(references=["x"]), "datasets.regex.references: .* has the wrong type"),
    "no scorer": (asked(metric="own_score"), "own_score is what a function of yours gives; name it, as in scorer"),
    "a metric of classes": (asked(metric="accuracy"), "datasets.regex.metric: accuracy does not go with sft"),
    "a metric that there is not": (asked(metric="rougeL"), "datasets.regex.metric: 'rougeL' is unknown"),
    "no tokens": (asked(generate={"max_new_tokens": 0}), "datasets.regex.generate.max_new_tokens: 0 is not allowed"),
    "no number of tokens": (asked(generate={}), "datasets.regex.generate.max_new_tokens: missing; add it"),
    "sampling": (asked(generate={"max_new_tokens": 8, "temperature": 1}), "generate.temperature: unknown key"),
    "a truth value": (asked(generate=True), "datasets.regex.generate: true has the wrong type"),
    "a broken pattern": (
        asked(generate={"max_new_tokens": 8, "number": "("}),
        "datasets.regex.generate.number: no regular expression",
    ),
    "no function in the name": (
        asked(scorer={"python": "own.py", "range": [0, 1]}),
        "datasets.regex.scorer.python: 'own.py' is not allowed",
    ),
    "a range the wrong way round": (asked(scorer={**OWN, "range": [1, 0]}), "scorer.range: .* is not the lowest value"),
    "half a range": (asked(scorer={**OWN, "range": [1]}), "scorer.range: .* too short"),
    "no time": (asked(scorer={**OWN, "timeout_s": 0}), "scorer.timeout_s: 0 is not allowed; must be above 0"),
    "no margin": (with_top(comparison={}), "comparison.margin: exact_match has no default"),
    "a margin in points": (with_top(comparison={"margin": 2}), "comparison.margin: 2 is not above 0 .* mean 0.02"),
    "a margin for another metric": (with_top(comparison={"margin": {"bleu": 1}}), "margin: none for exact_match"),
    "a margin by no metric": (with_top(comparison={"margin": {"exact": 1}}), "comparison.margin: 'exact' is unknown"),
    "a margin in words": (with_top(comparison={"margin": "small"}), "comparison.margin: 'small' has the wrong type"),
    "tuning by another metric": (with_top(tune={"metric": "bleu"}), "tune.metric: 'bleu' is unknown"),
    "tuning by the loss of another task": (
        {**asked(generate=None, metric="perplexity"), "tune": {"metric": "loss"}},
        "tune.metric: loss, but data set regex reports perplexity",
    ),
    "a verdict on heldout": (
        {**asked(fractions={"heldout": 0.1}), "recommendation": {"split": "heldout"}},
        "recommendation.split: heldout, but models answer the test prompts",
    ),
    "references of plain texts": (
        asked(
            **{"task": "lm", "text": ["regex"], "metric": "token_loss", "references": "others"},
            **dict.fromkeys(("prompt", "completion", "chat_template", "generate")),
        ),
        "datasets.regex.references: lm does not take it",
    ),
    "lm": (
        asked(task="lm", prompt=None, completion=None, chat_template=None, text=["regex"], metric="token_loss"),
        "datasets.regex.generate: lm does not take it",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_one_line_names_the_key(name: str) -> None:
    config, said = BAD[name]
    with pytest.raises(InputError, match=said) as error:
        resolve(config)
    assert str(error.value).startswith("config key ") and "\n" not in str(error.value)


def test_two_metrics_need_a_margin_each() -> None:
    config = asked()
    config["datasets"]["other"] = {**copy.deepcopy(config["datasets"]["regex"]), "metric": "bleu"}
    with pytest.raises(InputError, match="one number for bleu, exact_match, which have units of their own"):
        resolve(config)
    config["comparison"]["margin"] = {"exact_match": 0.02, "bleu": 0.5}
    found = resolve(config)
    assert [found.comparison.margin_of(name) for name in ("bleu", "exact_match")] == [0.5, 0.02]


def resolved(**changes: Any) -> Experiment:
    return resolve(asked(**changes))


def test_what_decides_answers_is_in_the_settings_of_runs_and_trials() -> None:
    found = resolved(generate={"max_new_tokens": 9, "number": "x"})
    expected = {"max_new_tokens": 9, "batch_size": 64}
    assert found.run_settings("regex", "smollm2", "full").generate == expected
    trial = found.trial_settings("regex", "smollm2", "full")
    assert (trial.generate, trial.metric) == (expected, "exact_match")
    assert resolved(generate=None, metric="token_loss").run_settings("regex", "smollm2", "full").generate is None


def test_a_trial_that_is_judged_by_its_loss_answers_nothing() -> None:
    found = resolve(with_top(tune={"metric": "loss"}))
    trial, run = found.trial_settings("regex", "smollm2", "full"), found.run_settings("regex", "smollm2", "full")
    assert (trial.generate, trial.metric, run.metric) == (None, "token_loss", "exact_match")


def test_what_scores_is_told_by_content(tmp_path: Path) -> None:
    own = tmp_path / "own.py"
    own.write_text("def f(prompt, references, output):\n    return 1\n")
    scorer = {"python": f"{own}:f", "range": [0, 1]}
    first = resolved(scorer=scorer).scoring("regex")
    own.touch()
    assert resolved(scorer=scorer).scoring("regex") == first
    own.write_text("def f(prompt, references, output):\n    return 0\n")
    second = resolved(scorer=scorer).scoring("regex")
    assert first and second and first["scorer"]["sha256"] != second["scorer"]["sha256"]
    assert first["number"] is None and resolved(metric="numeric").scoring("regex")["number"] == NUMBER


def test_how_answers_are_judged_fetches_nothing_again() -> None:
    first = resolved().fetched("regex")
    assert resolved(metric="token_loss", generate={"max_new_tokens": 5}, scorer=OWN).fetched("regex") == first
    assert resolved(generate=None, metric="token_loss").fetched("regex") != first  # whose prompts become no tokens
    assert resolved(completion="text").fetched("regex") != first


def test_a_column_of_references_is_looked_for_in_the_files_that_need_it(tmp_path: Path) -> None:
    splits = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
    for path in splits.values():
        Path(path).write_text('{"description": "a", "regex": "b"}\n' * 2, encoding="utf-8")
    with pytest.raises(InputError, match=r"config key datasets.regex.splits.test: .*no column 'others'"):
        check_paths(resolved(splits=splits, references="others"))
    Path(splits["test"]).write_text('{"description": "c", "regex": "b", "others": ["d"]}\n' * 2, encoding="utf-8")
    check_paths(resolved(splits=splits, references="others"))


def test_numbers_are_looked_for_where_they_are_compared() -> None:
    def told(**changes: Any) -> Any:
        return resolved(**changes).fetched("regex")["generate"]

    assert told() == {} and told(metric="numeric") == {"number": NUMBER, "answered": ["test", "validation"]}
    own = EXAMPLE["datasets"]["regex"]["splits"]
    splits = {name: own[name] for name in ("train", "test")}
    found = told(generate={"max_new_tokens": 9, "number": "x"}, splits=splits)
    assert found == {"number": "x", "answered": ["test", "train"]}
    untuned = {**asked(metric="numeric"), "tune": {"metric": "loss"}}
    assert resolve(untuned).fetched("regex")["generate"]["answered"] == ["test"]


HEAD = "def f(prompt, references, output):\n    return 1\n"
INDENTED = "    def f(prompt, references, output):\n        return 1\n"
FINE: dict[str, str | bytes] = {
    "as asked": HEAD,
    "with a default": "def f(prompt, references, output, scale=1):\n    return scale\n",
    "of any arguments": "def f(*given):\n    return 1\n",
    "by assignment": "def g(p, r, o):\n    return 1\n\n\nf = g\n",
    "a byte order mark": b"\xef\xbb\xbf" + HEAD.encode(),
    "another encoding, declared": b"# -*- coding: latin-1 -*-\nNAME = '\xe9'\n" + HEAD.encode(),
    "under a condition": f"import sys\n\nif sys.version_info > (3,):\n{INDENTED}",
    "in either branch": f"if len(__name__) > 1:\n{INDENTED}else:\n    f = 3\n",
    "tried": f"try:\n    import json\nexcept ImportError:\n    pass\nelse:\n{INDENTED}",
    "in a context": f"import contextlib\n\nwith contextlib.nullcontext():\n{INDENTED}",
    "in a match": f"match 1:\n    case 1:\n        import sys\n\n    {INDENTED}".replace(
        "        return", "            return"
    ),
    "made": "def make():\n    return lambda p, r, o: 1\n\n\nf = make()\n",
    "partial": "import functools\n\n\ndef g(s, p, r, o):\n    return s\n\n\nf = functools.partial(g, 1)\n",
    "one of two": "f, g = (lambda p, r, o: 1), None\n",
    "with a type": "from typing import Any\n\nf: Any = lambda p, r, o: 1\n",
    "in an expression": "print(f := lambda p, r, o: 1)\n",
    "by a loop": "for f in [lambda p, r, o: 1]:\n    pass\n",
    "as global": "def make():\n    global f\n    f = lambda p, r, o: 1\n\n\nmake()\n",
    "by exec": "exec('f = lambda p, r, o: 1')\n",
    "among globals": "globals()['f'] = lambda p, r, o: 1\n",
    "looked up": "def __getattr__(name):\n    return lambda p, r, o: 1\n",
    "decorated": "def g(own):\n    return lambda p, r, o: own()\n\n\n@g\ndef f():\n    return 1\n",
    "written again": f"async def f():\n    pass\n\n\n{HEAD}",
    "a class of numbers": "class f(float):\n    def __new__(cls, p, r, o):\n        return float.__new__(cls, 1)\n",
    "a backslash that Python warns of": f"X = '\\d'\n{HEAD}",
    "imported": "from beside_it import g as f\n",
    "imported by its name": "from beside_it import f\n",
    "imported whole": "from beside_it import *\n",
    "a module": "import beside_it as f\n",
}


@pytest.mark.filterwarnings("ignore:invalid escape")
@pytest.mark.parametrize("name", FINE)
def test_a_scorer_that_can_be_imported_is_not_refused(tmp_path: Path, name: str) -> None:
    text = FINE[name]
    (tmp_path / "own.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    scorer = Scorer(python=f"{tmp_path}/own.py:f", range=[0.0, 1.0])
    check_scorer("key", scorer)
    if "beside_it" not in str(text):
        assert load_scorer(scorer.python)("", [], "") == 1  # which is why


SCORERS: dict[str, tuple[str | bytes, str]] = {
    "a class": ("class f:\n    pass\n", "has no function f"),
    "another name": ("def g(p, r, o):\n    return 1\n", "has no function f; it has g"),
    "a method": ("class A:\n    def f(p, r, o):\n        return 1\n", "has no function f$"),
    "within another": ("def g():\n    def f(p, r, o):\n        return 1\n", "has no function f; it has g"),
    "only used": ("print(f)\n", "has no function f$"),
    "of a comprehension": ("[f for f in range(3)]\n", "has no function f$"),
    "two arguments": ("def f(prompt, output):\n    return 1\n", "must take three arguments"),
    "two under a condition": ("if True:\n    def f(prompt, output):\n        return 1\n", "must take three arguments"),
    "four arguments": ("def f(a, b, c, d):\n    return 1\n", "must take three arguments"),
    "keywords": ("def f(a, b, c, *, d):\n    return 1\n", "must take three arguments"),
    "asynchronous": ("async def f(a, b, c):\n    return 1\n", "is asynchronous"),
    "no Python": (f"{HEAD}\n\ndef g(:\n", r"own.py, line 5: no Python \(invalid syntax\); correct it"),
    "no Python that runs": (f"{HEAD}\nreturn 3\n", r"own.py, line 4: no Python \('return' outside function\)"),
    "no text": (b"x = '\xe9'\n" + HEAD.encode(), r"no Python \(.*utf-8"),
    "NUL bytes": (b"\x00" + HEAD.encode(), "no Python"),
    "no encoding": (b"# coding: klingon\n" + HEAD.encode(), "no Python .*klingon"),
}


@pytest.mark.parametrize("name", SCORERS)
def test_a_scorer_is_looked_at_before_anything_runs(tmp_path: Path, name: str) -> None:
    text, said = SCORERS[name]
    (tmp_path / "own.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    scorer = Scorer(python=f"{tmp_path}/own.py:f", range=[0.0, 1.0])
    with pytest.raises(InputError, match=said):
        check_scorer("key", scorer)


def test_a_scorer_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"key: .*own.py: No such file"):
        check_scorer("key", Scorer(python=f"{tmp_path}/own.py:f", range=[0.0, 1.0]))
