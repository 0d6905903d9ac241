"""The fairness contract: what arms have alike, what a method varies on purpose, what differs, as tables; factorials."""

import argparse
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from peft_tradeoffs.analysis.finished import (
    ADAPTER,
    FACTS,
    LEARNING_RATE,
    NOT_REACHED,
    SCALING,
    SEEDS,
    Fact,
    Recorded,
    read_run,
)
from peft_tradeoffs.analysis.readable import NULL, escape_latex, escape_pipes, latex, sections
from peft_tradeoffs.analysis.tables import ARM, read_summaries, read_table, runs_frame
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.layout import command, json_schema, run_folder, summaries
from peft_tradeoffs.core.text import arm_label, groups_of, plural

EQUAL, DECLARED, DIFFERS, OWN, UNREACHED = "equal", "declared", "differs", "own", "not reached"
NOT_SET = "not set"
REQUIRED = "what every arm must have"  # compared with it where no arm's value decides
NOT_STRICT = "set contract.strict: false, which prints tables and figures that say what differs"


@dataclass(frozen=True)
class Finding:
    """What an arm has of a fact, beside what it is compared with."""

    arm: str
    fact: str
    value: str  # for readers; empty where no run reached it
    compared_with: str  # an arm; itself where its own seeds differ; REQUIRED
    other: str  # its value
    verdict: str  # EQUAL, DECLARED, DIFFERS, OWN (what an arm is, not to be equal) or UNREACHED


OFF = (None, False, "float32")  # what a setting is without its factor; of another pair, what the first arm has

Settings = dict[str, Any]
Runs = dict[str, list[Recorded]]  # of one data set and model, by arm
Values = list[tuple[Any, str, list[int]]]  # distinct values of an arm: as recorded, for readers, seeds that have it


def read_grid(
    runs_dir: Path, tunings: Path, grid: dict[str, list[Any]], keep_weights: bool = True
) -> dict[tuple[str, str], Runs]:
    """What the runs of a grid recorded, by data set and model. A run without a summary is a seed that its arm lacks.

    `tunings` holds {dataset}/{model}/{arm}.json of tune.py; `keep_weights`: the runs' weights must be there. Raises
    InputError for an arm without any run, and for files that are not as their runs published them: all of them, a line
    each.
    """
    found: dict[tuple[str, str], Runs] = {}
    damages: list[str] = []
    for dataset in grid["dataset"]:
        for model in grid["model"]:
            arms: Runs = {}
            for arm in grid["arm"]:
                arms[arm], broken = [], len(damages)
                for seed in grid["seed"]:
                    folder = run_folder(runs_dir, dataset, model, arm, seed)
                    try:
                        run = read_run(folder, tunings / dataset / model, keep_weights)
                    except InputError as error:
                        damages += str(error).splitlines()
                    else:
                        arms[arm] += [run] if run is not None else []
                if not arms[arm] and len(damages) == broken:
                    raise InputError(
                        f"{runs_dir / dataset / model / arm}: no run has a summary; run `{command('runs')}` first"
                    )
            found[dataset, model] = arms
    if damages:
        raise InputError(damaged(damages))
    return found


def damaged(lines: list[str]) -> str:
    """What is said of files that are not as their runs published them, a line each."""
    lines = list(dict.fromkeys(lines))
    if len(lines) == 1:
        return lines[0]
    return "\n  ".join(
        [f"{len(lines)} files are not as their runs wrote them: no table or figure is made, every run is kept", *lines]
    )


def compare(
    runs: Runs, baseline: str, declared: dict[str, list[str]], facts: Iterable[Fact] = tuple(FACTS.values())
) -> list[Finding]:
    """One finding per arm and fact, of the runs of one data set and model.

    An arm has what its seeds have, which must be one value, the baseline's (where that has none, the first arm's that
    has). `declared` are the facts that an arm may have otherwise.
    """
    found = []
    for fact in facts:
        values = {arm: _values(fact, own) for arm, own in runs.items()}
        if fact.name == LEARNING_RATE:
            of_fact = _learning_rates(runs, baseline, values)
        elif fact.name in (ADAPTER, SCALING):
            of_fact = _of_kinds(fact, runs, values, baseline, declared)
        elif fact.name == SEEDS:
            of_fact = _with_reference(fact, {arm: _seeds(own) for arm, own in runs.items()}, baseline)
        else:
            of_fact = _with_reference(fact, values, baseline)
        found += [
            replace(one, verdict=DECLARED)
            if one.verdict == DIFFERS and fact.may_vary and fact.name in declared.get(one.arm, [])
            else one
            for one in of_fact
        ]
    return found


def undeclared(findings: Iterable[Finding]) -> list[Finding]:
    """Those that a strict contract refuses."""
    return [found for found in findings if found.verdict == DIFFERS]


def refusal(
    findings: dict[tuple[str, str], list[Finding]], runs: dict[tuple[str, str], Runs], earlier: Sequence[Path] = ()
) -> str:
    """What is refused, one line per data set, model, method and difference.

    `earlier`: folders and files with tables and figures that were made before, and say nothing of these runs.
    """
    lines: dict[tuple[str, ...], list[str]] = {}
    for (dataset, model), of_pair in findings.items():
        for one in undeclared(of_pair):
            method = runs[dataset, model][one.arm][0].settings["method"]
            same = (dataset, model, method, one.fact, one.value, one.compared_with, one.other)
            lines.setdefault(same, []).append(one.arm)
    told = []
    for (dataset, model, method, name, value, compared_with, other), arms in lines.items():
        one = Finding(arms[0], name, value, compared_with, other, DIFFERS)
        told.append(
            f"  {dataset}/{model}, {', '.join(arms)}: {name}: {unlike_text(one)}; {FACTS[name].remedy}"
            f"{or_declare(FACTS[name], method)}"
        )
    count = f"{len(told)} {plural('difference', len(told))} that no method declares"
    return "\n".join(
        [
            f"the contract is broken by {count}: no table or figure is made, every run is kept",
            *told,
            f"  Or {NOT_STRICT}.",
            *([f"  Of an earlier state, not of these runs: {', '.join(map(str, earlier))}."] if earlier else []),
        ]
    )


def or_declare(fact: Fact, method: str) -> str:
    """The other remedy, where there is one: to follow a fact's own."""
    return f", or add {fact.name} to methods.{method}.varies" if fact.may_vary else ""


def unlike_text(found: Finding) -> str:
    """The value and what it should be."""
    if found.compared_with == REQUIRED:
        return f"{found.value}, where every arm must have {found.other}"
    if found.compared_with == found.arm:
        return f"its own seeds differ: {found.value}"
    if found.value == found.other:  # a learning rate, which methods must not share
        return f"{found.value}, which {found.compared_with} has too"
    return f"{found.value}, but {found.compared_with} has {found.other}"


def _values(fact: Fact, runs: list[Recorded]) -> Values:
    """The distinct values that the runs of an arm reached."""
    found: dict[str, tuple[Any, str, list[int]]] = {}
    for run in runs:
        value = fact.read(run)
        if value is NOT_REACHED:
            continue
        key = json.dumps(value, sort_keys=True)
        detail = fact.detail(run)
        text = shown(value) + (f" ({detail})" if detail else "")
        found.setdefault(key, (value, text, []))[2].append(run.env.get("seed", 0))
    return list(found.values())


def _seeds(runs: list[Recorded]) -> Values:
    seeds = sorted(run.env.get("seed", 0) for run in runs)
    return [(seeds, shown(seeds), seeds)]


def _with_reference(fact: Fact, values: dict[str, Values], baseline: str) -> list[Finding]:
    reference = baseline if values.get(baseline) else next((arm for arm in values if values[arm]), baseline)
    expected = values[reference]
    found = []
    for arm, own in values.items():
        if not own:
            found.append(Finding(arm, fact.name, "", reference, _text(expected, expected), UNREACHED))
        elif fact.required is not None:
            right = all(value == fact.required for value, _, _ in own)
            found.append(Finding(arm, fact.name, _text(own, own), REQUIRED, fact.required, EQUAL if right else DIFFERS))
        else:
            differs = [value for value, _, _ in own] != [value for value, _, _ in expected]
            with_itself = not differs and len(own) > 1
            found.append(
                Finding(
                    arm,
                    fact.name,
                    _text(own, own if with_itself else expected),
                    arm if with_itself else reference,
                    _text(expected, own),
                    DIFFERS if differs or with_itself else EQUAL,
                )
            )
    return found


def _learning_rates(runs: Runs, baseline: str, values: dict[str, Values]) -> list[Finding]:
    """Full fine-tuning and PEFT must not share a rate that was not tuned for both."""
    whole = {arm: own[0].trains_all for arm, own in runs.items()}
    ordered = sorted(runs, key=lambda arm: arm != baseline)
    found = []
    for arm, own in values.items():
        rates = [value for value, _, _ in own]
        text = "; ".join(_rate(value) for value in rates)
        one = Finding(arm, LEARNING_RATE, text, arm, text, OWN)
        for other in (other for other in ordered if whole[other] != whole[arm] and arm != baseline):
            others = [value for value, _, _ in values[other]]
            shared = any(rate in others and rate["tuned_for"] is None for rate in rates)
            borrowed = any(rate["tuned_for"] == other for rate in rates)
            if shared or borrowed:
                one = Finding(arm, LEARNING_RATE, text, other, "; ".join(map(_rate, others)), DIFFERS)
                break
        if len(rates) > 1:
            mixed = "; ".join(f"{_rate(value)} ({_of_seeds(seeds)})" for value, _, seeds in own)
            one = Finding(arm, LEARNING_RATE, mixed, arm, mixed, DIFFERS)
        found.append(one)
    return found


def _rate(value: dict[str, Any]) -> str:
    if value["rate"] is None:
        return f"that tuned for {value['tuned_for']}"
    return f"{value['rate']:g}, {'tuned for ' + value['tuned_for'] if value['tuned_for'] else 'not tuned'}"


def _of_kinds(
    fact: Fact, runs: Runs, values: dict[str, Values], baseline: str, declared: dict[str, list[str]]
) -> list[Finding]:
    """Alike at every rank of a method, and in the first arms of all methods of one PEFT type.

    Those are compared with one that does not declare the fact: the baseline's method, or the first.
    """
    kinds = {arm: (own[0].settings["peft"] or {}).get("peft_type") for arm, own in runs.items()}
    first_kind = next((kind for kind in kinds.values() if kind), None)
    values = _filled(values, kinds)
    method = {arm: own[0].settings["method"] for arm, own in runs.items()}
    first_of_method = {method[arm]: arm for arm in reversed(runs)}
    varies = {arm: fact.name in declared.get(arm, []) for arm in runs}
    of_kind: dict[str | None, str] = {}
    for arm in sorted(runs, key=lambda arm: (varies[arm], method[arm] != method.get(baseline))):  # else their order
        of_kind.setdefault(kinds[arm], arm)
    found = []
    for arm, own in values.items():
        of_method = first_of_method[method[arm]]
        reference = of_kind[kinds[arm]] if arm == of_method else of_method
        expected = values[reference]
        same = [value for value, _, _ in own] == [value for value, _, _ in expected] and len(own) == 1
        one = Finding(arm, fact.name, _text(own, expected), reference, _text(expected, own), EQUAL)
        if not same:
            one = replace(one, verdict=DIFFERS)
        elif kinds[arm] not in (None, first_kind) and own[0][0] is not None:
            one = replace(one, verdict=OWN)
        found.append(one)
    return found


def _filled(values: dict[str, Values], kinds: dict[str, str | None]) -> dict[str, Values]:
    """Mappings with the keys that any arm of their kind has."""
    keys: dict[str | None, dict[str, str]] = {}
    for arm, own in values.items():
        for value, _, _ in own:
            keys.setdefault(kinds[arm], {}).update(dict.fromkeys(value if isinstance(value, dict) else (), NOT_SET))

    def filled(arm: str, value: Any, text: str) -> tuple[Any, str]:
        if not isinstance(value, dict):
            return value, text
        return (whole := keys[kinds[arm]] | value), shown(whole)

    return {arm: [(*filled(arm, value, text), seeds) for value, text, seeds in own] for arm, own in values.items()}


def _text(own: Values, other: Values) -> str:
    """Values for readers, with their seeds where there are several; of mappings only what `other` has otherwise."""
    if not own:
        return ""
    pairs = [*own, *other]
    keys = None
    if all(isinstance(value, dict) for value, _, _ in pairs):
        keys = [key for key in own[0][0] if len({json.dumps(value.get(key)) for value, _, _ in pairs}) > 1]
    texts = [shown({key: value[key] for key in keys}) if keys else text for value, text, _ in own]
    if len(own) == 1:
        return texts[0]
    return "; ".join(f"{text} ({_of_seeds(seeds)})" for text, (_, _, seeds) in zip(texts, own, strict=True))


def _of_seeds(seeds: list[int]) -> str:
    return f"{plural('seed', len(seeds))} {', '.join(map(str, seeds))}"


def shown(value: Any) -> str:
    """A recorded value for readers: checksums cut, mappings as "key value, key value"."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    text = str(value)
    return text[:12] if len(text) == 64 and set(text) <= set("0123456789abcdef") else text


COLUMNS = (
    "dataset", "model", "arm", "method", "rank", "pretrained", "fact", "value", "compared_with", "compared_value",
    "declared", "verdict",
)  # fmt: skip
READ = ("dataset", "model", "arm", "method", "rank", "fact", "compared_with", "verdict")  # of it, by other scripts
NONE = shown(None)


def contract_frame(
    runs: dict[tuple[str, str], Runs],
    findings: dict[tuple[str, str], list[Finding]],
    declared: dict[str, list[str]],
) -> pd.DataFrame:
    """One row per (data set, model, arm, fact), columns as in COLUMNS.

    value and compared_value are texts, those of seeds that differ one after another; compared_with is an arm, the row's
    own where its seeds differ, or what every arm must have. declared: the method's `varies` names the fact. verdict:
    equal, declared (differs as declared), differs, own (not to be equal), not reached (no run came that far).
    """
    rows = []
    for (dataset, model), of_pair in findings.items():
        for one in of_pair:
            summary = runs[dataset, model][one.arm][0].summary
            rows.append(
                {
                    **{"dataset": dataset, "model": model},
                    **{key: summary[key] for key in ("arm", "method", "rank", "pretrained")},
                    **{"fact": one.fact, "value": one.value or None},
                    **{"compared_with": one.compared_with, "compared_value": one.other or None},
                    **{"declared": one.fact in declared.get(one.arm, []), "verdict": one.verdict},
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"rank": "Int64"})


def differences(frame: pd.DataFrame) -> dict[tuple[str, str, str], str | None]:
    """What each (data set, model, arm) of a contract differs in, as in "from full in batch_size, steps"; None: nothing.

    It can follow the arm's name and "differs".
    """
    found: dict[tuple[str, str, str], str | None] = {}
    for _, rows in sections(frame):
        labels = _labels(rows)
        for key, own in groups_of(rows, ARM):
            unlike = _unlike(own)
            parts = []
            for (other, verdict), same in groups_of(unlike, ["compared_with", "verdict"]):
                whom = "between its seeds" if other == key[2] else f"from {labels.get(other, other)}"
                as_declared = " (declared)" if verdict == DECLARED else ""
                parts.append(f"{whom} in {', '.join(same['fact'])}{as_declared}")
            found[key] = "; ".join(parts) or None
    return found


def read_runs(args: argparse.Namespace) -> pd.DataFrame:
    """The runs that --runs-dir, --grid and --contract name, as `runs_frame` has them, with `differs` filled in."""
    found = runs_frame(read_summaries(summaries(args.runs_dir, args.grid)))
    return with_differences(found, args.contract)


def with_differences(runs: pd.DataFrame, contract_csv: Path) -> pd.DataFrame:
    """`runs` (of `runs_frame`) with the column `differs` filled in.

    Raises InputError if contract.csv is missing or damaged, or has not all their arms.
    """
    kinds = {**dict.fromkeys(COLUMNS, str), "rank": "Int64"}
    frame = read_table(contract_csv, READ, "make it again with check_contract.py", kinds)
    found = differences(frame)
    keys = list(zip(*(runs[name] for name in ARM), strict=True))
    if missing := [key for key in keys if key not in found]:
        raise InputError(
            f"{contract_csv}: no arm {'/'.join(missing[0])}; make it again with check_contract.py over the same runs"
        )
    return runs.assign(differs=pd.Series([found[key] for key in keys], runs.index, dtype=object))


def contract_markdown(frame: pd.DataFrame, notes: dict[tuple[str, str], list[str]]) -> str:
    """One section per (data set, model): a sentence, what differs, the notes, each arm's own, what all have alike."""
    parts = []
    for title, rows in sections(frame):
        parts += [f"## {title}", summary_sentence(rows)]
        unlike, alike = _unlike(rows), _alike(rows)
        if len(unlike):
            parts.append(_grid(unlike_readable(unlike, _labels(rows))))
        parts += notes[tuple(rows.iloc[0][["dataset", "model"]])]
        parts += ["Each arm's own:", _grid(_own(rows)), "All arms have alike:", _grid(alike)]
    return "\n\n".join(parts) + "\n"


def contract_latex(frame: pd.DataFrame, notes: dict[tuple[str, str], list[str]]) -> str:
    """As `contract_markdown`: the sentence below the table of what differs."""
    parts = []
    for title, rows in sections(frame):
        below = [summary_sentence(rows), *notes[tuple(rows.iloc[0][["dataset", "model"]])]]
        alike = "; ".join(f"{fact} {value}" for fact, value in _alike(rows)[["Fact", "Value"]].to_numpy())
        own = _own(rows)
        each = "; ".join(f"{cells['Arm']}: {', '.join(cells[1:])}" for _, cells in own.iterrows())
        below.append(f"Each arm's own {', '.join(own.columns[1:])}: {each}. All arms have alike: {alike}.")
        if len(_unlike(rows)):
            parts.append(_unlike_latex(rows, below))
        else:
            parts.append(rf"\noindent {escape_latex(' '.join([f'{title}.', *below]))}" + "\n")
    return "\n".join(parts)


def _unlike_latex(rows: pd.DataFrame, below: list[str]) -> str:
    labels = _labels(rows)
    return latex(_unlike(rows), lambda unlike: unlike_readable(unlike, labels), lambda _: below)


def summary_sentence(rows: pd.DataFrame) -> str:
    """What the contract of one data set and model comes to."""
    arms = rows["arm"].nunique()
    every = f"All {arms} arms" if arms > 1 else "The one arm"
    unlike = _unlike(rows)
    own = _own_facts(rows)
    checked = facts_compared(rows)
    but = f", but for each arm's own {', '.join(own)}" if own else ""
    if unlike.empty:
        return f"{every} keep the contract: none of the {checked} facts that these runs have differs{but}."
    told = {DIFFERS: "differ, and no method declares it", DECLARED: "differ as declared"}
    parts = []
    for verdict, text in told.items():
        facts = list(dict.fromkeys(unlike[unlike["verdict"] == verdict]["fact"]))
        if facts:
            parts.append(f"{', '.join(facts)} {text.replace('differ', 'differs', 1) if len(facts) == 1 else text}")
    return (
        f"Of the {checked} facts of the contract that these runs have, {'; '.join(parts)}. In all others the arms are "
        f"equal{but}."
    )


def contract_notes(rows: pd.DataFrame, runs: Runs, declared: dict[str, list[str]]) -> list[str]:
    """What a reader must know of the contract of one data set and model: one sentence each."""
    lines = [
        "The contract: arms are alike in every fact (setting, version or checksum) but in what they are (method, rank, "
        "quantization, a learning rate of their own), so that a difference in results comes from that. Compared is "
        "what the runs recorded, not what was asked for."
    ]
    used = rows[rows["verdict"] == DECLARED]
    of_method = {arm: own[0].summary["method"] for arm, own in runs.items()}
    needed = {(of_method[arm], fact) for arm, fact in used[["arm", "fact"]].to_numpy()}
    named = {(of_method[arm], fact): None for arm, facts in declared.items() for fact in facts if arm in of_method}
    for method, fact in (pair for pair in named if pair not in needed):
        lines.append(f"methods.{method}.varies names {fact}, which does not differ: it can go.")
    every = [run for own in runs.values() for run in own]
    if not any(run.settings.get("tuning") for run in every):
        lines.append("No learning rate was tuned: each is the one that the config gives.")
    if any(run.summary.get("stopped_early") for run in every):
        lines.append("Early stopping ended some runs; their steps and epochs are a result and are not compared.")
    if not all(run.completed for run in every):
        lines.append("Runs that ran out of memory or diverged are compared in what they reached.")
    return [" ".join(lines)]


def unlike_readable(rows: pd.DataFrame, labels: dict[str, str]) -> pd.DataFrame:
    """Rows of what differs as text; `labels` are the arms' names for readers."""
    return pd.DataFrame(
        {
            "Arm": [arm_label(*pair) for pair in zip(rows["method"], rows["rank"], strict=True)],
            "Fact": rows["fact"].to_list(),
            "Value": rows["value"].fillna(NULL).to_list(),
            "Compared with": [
                "its own seeds" if other == arm else labels.get(other, other)
                for arm, other in zip(rows["arm"], rows["compared_with"], strict=True)
            ],
            "Its value": rows["compared_value"].fillna(NULL).to_list(),
            "Verdict": rows["verdict"].to_list(),
        }
    )


def facts_compared(rows: pd.DataFrame) -> int:
    """How many facts, of those that some run has, were compared between arms; what is each arm's own was not."""
    found = 0
    for _, own in groups_of(rows, "fact"):
        reached = own[own["verdict"] != UNREACHED]
        alike = len(reached) > 0 and (reached["verdict"] == EQUAL).all() and (reached["value"] != NONE).any()
        found += bool(alike or len(_unlike(own)))
    return found


def _unlike(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["verdict"].isin([DIFFERS, DECLARED])]


def _own_facts(rows: pd.DataFrame) -> list[str]:
    """The facts that are not to be equal in every arm: those in which one is said to be its own."""
    return list(dict.fromkeys(rows[rows["verdict"] == OWN]["fact"]))


def _own(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per arm: what it has of such facts."""
    values = rows[rows["fact"].isin(_own_facts(rows))].pivot(index="arm", columns="fact", values="value")
    values = values.loc[rows["arm"].unique(), _own_facts(rows)].fillna(NULL)
    return values.rename(index=_labels(rows)).rename_axis(index="Arm", columns=None).reset_index()


def _alike(rows: pd.DataFrame) -> pd.DataFrame:
    """The facts that all arms have alike, but for those that none has, with their values."""
    cells = []
    for fact, own in groups_of(rows, "fact"):
        reached = own[own["verdict"] != UNREACHED]
        if len(reached) and (reached["verdict"] == EQUAL).all() and (reached["value"] != NONE).any():
            values = [value for value in reached["value"].unique() if value != NONE]
            cells.append({"Fact": fact, "Value": "; ".join(values), "What it is": FACTS[fact].about})
    return pd.DataFrame(cells, columns=["Fact", "Value", "What it is"])


def _grid(cells: pd.DataFrame) -> str:
    return cells.map(escape_pipes).to_markdown(
        index=False, disable_numparse=True, colalign=["left"] * len(cells.columns)
    )


def _labels(rows: pd.DataFrame) -> dict[str, str]:
    return {arm: arm_label(method, rank) for arm, method, rank in rows[["arm", "method", "rank"]].to_numpy()}


# Factorials -----------------------------------------------------------------------------------------------------------


def factorial(name: str, arms: dict[str, tuple[int | None, Settings]]) -> dict[str, Any]:
    """{"factors": [name, …], "arms": {arm: [0 or 1 a factor]}} of arms given by rank and resolved settings.

    A factor is a setting (quantization, gradient checkpointing, dtype, rank or a field of the PEFT configuration) with
    two values. Learning rates may differ. Raises InputError unless the arms have every combination of two or more
    factors once.
    """
    where = f"config key attribution.{name}"
    table = _flat(arms)
    values = {key: list(dict.fromkeys(_json(row.get(key)) for row in table.values())) for key in _setting_keys(table)}
    differing = [key for key, found in values.items() if len(found) > 1]
    ons = {key: _on(key, table) for key in differing}
    if len(differing) < 2:
        among = f"in {_factor_label(differing[0], ons[differing[0]])} alone" if differing else "in no setting"
        raise InputError(
            f"{where}: its arms differ {among} (learning rates aside); name the arms of every combination of two "
            "settings or more"
        )
    for key in differing:
        if len(values[key]) > 2:
            first: dict[str, str] = {}
            for arm, row in table.items():
                first.setdefault(_json(row.get(key)), arm)
            raise InputError(
                f"{where}: {_said(key)} has {len(first)} values (in {', '.join(first.values())}), where a "
                "factor has two; name arms that have two of them"
            )
    factors = [_factor_label(key, ons[key]) for key in differing]
    cells = {arm: [int(_json(row.get(key)) == _json(ons[key])) for key in differing] for arm, row in table.items()}
    for (i, one), (j, other) in itertools.combinations(enumerate(factors), 2):
        if len({cell[i] ^ cell[j] for cell in cells.values()}) == 1:
            raise InputError(
                f"{where}: {one} and {other} change together, so that what each does cannot be told; give both the "
                "same value in all arms but for one of them, or add arms"
            )
    counts = Counter(map(tuple, cells.values()))
    if twice := next((cell for cell, count in counts.items() if count > 1), None):
        same = [arm for arm, cell in cells.items() if tuple(cell) == twice]
        raise InputError(f"{where}: {' and '.join(same)} have the same settings; name one of them")
    for cell in itertools.product((0, 1), repeat=len(factors)):
        if cell not in counts:
            on = " and ".join(itertools.compress(factors, cell))
            off = " and ".join(itertools.compress(factors, [not bit for bit in cell]))
            lacking = " and ".join([f"with {on}"] * bool(on) + [f"without {off}"] * bool(off))
            raise InputError(
                f"{where}: its arms differ in {len(factors)} settings ({', '.join(factors)}), so there must be "
                f"{2 ** len(factors)}, one per combination; add one {lacking}, or name arms that differ in fewer"
            )
    return {"factors": factors, "arms": cells}


def _flat(arms: dict[str, tuple[int | None, Settings]]) -> dict[str, Settings]:
    """What decides memory, time and energy, flat: what all arms have field by field, what some lack as a whole."""
    known = json_schema("peft")["$defs"]
    whole = {key for key in ("quantization", "peft") if any(settings[key] is None for _, settings in arms.values())}
    table = {}
    for arm, (rank, settings) in arms.items():
        row = {"gpus": settings.get("gpus", 1), **{key: settings[key] for key in ("gradient_checkpointing", "dtype")}}
        for key in ("quantization", "peft"):
            block = settings[key]
            if key in whole:
                row[key] = block
                continue
            if key == "peft":
                fields = known[block["peft_type"]]
                block = _per_rank(block, rank, fields["x-rank-field"], fields["x-alpha-field"])
            row |= {f"{key}.{field}": value for field, value in block.items()}
        table[arm] = row
    return table


def _per_rank(peft: Settings, rank: int | None, rank_field: str | None, alpha_field: str | None) -> Settings:
    """The PEFT configuration with alpha as a multiple of the rank, which it follows."""
    if rank is None or alpha_field not in peft:
        return peft
    others = {key: value for key, value in peft.items() if key not in (rank_field, alpha_field)}
    return {"rank": rank, f"{alpha_field} / rank": peft[alpha_field] / rank, **others}


def _setting_keys(table: dict[str, Settings]) -> list[str]:
    """Every setting, quantization first."""
    found = dict.fromkeys(key for row in table.values() for key in row)
    return sorted(found, key=lambda key: not key.startswith("quantization"))


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _on(key: str, table: dict[str, Settings]) -> Any:
    """The value of a setting that has its factor on, where it has two."""
    values = [row.get(key) for row in table.values()]
    others = [value for value in values if not any(value is off or value == off for off in OFF)]
    if len(others) < len(values) and others:
        return others[0]
    return next(value for value in values if _json(value) != _json(values[0]))


def _said(key: str) -> str:
    """A setting as readers know it."""
    return key.removeprefix("peft.").removeprefix("quantization.").replace("gradient_check", "gradient check")


def _factor_label(key: str, on: Any) -> str:
    """A factor's name."""
    if key == "quantization":
        return on["bnb_4bit_quant_type"].upper()
    if key == "peft":
        return on["peft_type"]
    if key == "dtype":
        return f"{on} base weights"
    if on is True:
        return _said(key)
    value = ", ".join(on) if isinstance(on, list) else on if isinstance(on, str) else _json(on)
    return f"{_said(key)} {value}"
