"""The contract as tables, and what other tables and figures say of it."""

import argparse
from pathlib import Path

import pandas as pd

from peft_tradeoffs.analysis.contract import DECLARED, DIFFERS, EQUAL, OWN, UNREACHED, Finding, Runs, shown
from peft_tradeoffs.analysis.facts import FACTS
from peft_tradeoffs.analysis.readable import NULL, escape_latex, escape_pipes, latex, sections
from peft_tradeoffs.analysis.tables import ARM, read_summaries, read_table, runs_frame
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.layout import summaries
from peft_tradeoffs.core.text import arm_label

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
        for key, own in rows.groupby(ARM, sort=False):
            unlike = _unlike(own)
            parts = []
            for (other, verdict), same in unlike.groupby(["compared_with", "verdict"], sort=False):
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
        unlike = _unlike(rows)
        if len(unlike):
            labels = _labels(rows)
            parts.append(latex(unlike, lambda own, of=labels: unlike_readable(own, of), lambda _, said=below: said))
        else:
            parts.append(rf"\noindent {escape_latex(' '.join([f'{title}.', *below]))}" + "\n")
    return "\n".join(parts)


def summary_sentence(rows: pd.DataFrame) -> str:
    """What the contract of one data set and model comes to."""
    arms = rows["arm"].nunique()
    every = f"All {arms} arms" if arms > 1 else "The one arm"
    unlike = _unlike(rows)
    own = _own_facts(rows)
    checked = len(set(unlike["fact"]) | set(_alike(rows)["Fact"]) - set(own))
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
        "Compared is what the runs recorded, not what was asked for. What arms are (method, rank, quantization, a "
        "learning rate of their own) need not be equal."
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
    for fact, own in rows.groupby("fact", sort=False):
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
