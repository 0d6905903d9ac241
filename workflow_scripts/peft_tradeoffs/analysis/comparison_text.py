"""The comparison for readers: its table, what must be known of it, one sentence each, and a methods paragraph."""

from typing import Any

import numpy as np
import pandas as pd

from peft_tradeoffs.analysis.comparison import (
    BASELINE,
    BETTER_WITHIN,
    EQUIVALENT,
    FAILED,
    GIVEN,
    SHARED,
    TUNED,
    UNDECIDED,
    WITHIN,
    WORSE_WITHIN,
)
from peft_tradeoffs.analysis.readable import (
    NULL,
    at_most,
    differs,
    failed_counts,
    finer,
    metric_places,
    number,
    sentences,
    supported_decimals,
    ways_of_failing,
)
from peft_tradeoffs.analysis.stats import LEVEL
from peft_tradeoffs.core.layout import VALIDATION
from peft_tradeoffs.core.text import and_list, arm_label, plural, records
from peft_tradeoffs.tasks.metrics import metric_called
from peft_tradeoffs.tasks.shown import difference_unit, metric_label, metric_words

FEW_GROUPS = 30


def label(row: dict[str, Any]) -> str:
    """An arm's name for readers."""
    return arm_label(row["method"], row["rank"])


def with_interval(value: Any, low: Any, high: Any, scale: float, sign: bool = False, places: int | None = None) -> str:
    """A value and its interval: "87.6 [86.8, 88.5]", with `places` decimals, or rounded as the interval supports.

    Without `places` at most four digits of the value, a digit finer where a bound that is not 0 would be rounded to it.
    The value alone, with three digits if no `places` are given, without an interval and where its bounds are equal;
    alone where they are equal as rounded.
    """
    if pd.isna(value):
        return NULL
    if pd.isna(low) or high - low <= 1e-9 * abs(value):
        return f"{'+' if sign and value > 0 else ''}{number(value * scale + 0.0, places)}"
    value, low, high = value * scale, low * scale, high * scale
    if places is None:
        places = finer(at_most(supported_decimals((high - low) / 2), value), low, high)
    value, low, high = (round(bound, places) + 0.0 for bound in (value, low, high))  # never -0
    shown = [f"{bound:{'+' if sign and bound else ''},.{places}f}" for bound in (value, low, high)]
    return shown[0] if low == high else "{} [{}, {}]".format(*shown)


def places_of(rows: pd.DataFrame, *bounds: str) -> int:
    """Decimals of a column of a metric or its differences: the metric's; one more where a bound would pass for 0.

    `bounds`: columns of the bounds, as stored.
    """
    metric = metric_called(rows["metric"].iloc[0])
    return finer(metric_places(metric.name), *(rows[list(bounds)].to_numpy(dtype=float).ravel() * metric.scale))


def p_value(p: Any) -> str:
    """A p value for readers."""
    return NULL if pd.isna(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def margin_words(row: dict[str, Any]) -> str:
    """The margin of a row with its unit: "1 point"."""
    metric = metric_called(row["metric"])
    size, unit = row["margin"] * metric.scale, metric.apart
    return f"{size:g} {unit.removesuffix('s') if f'{size:g}' == '1' else unit}".strip()


def verdict_words(row: dict[str, Any], verdict: str = "verdict") -> str:
    """A row's verdict for readers, with the margin where it is within that: "worse, by less than 1 point"."""
    found = row[verdict]
    if pd.isna(found):
        return NULL
    margin = margin_words(row)
    said = {
        WITHIN: f"within {margin}",
        EQUIVALENT: f"equivalent, within {margin}",
        BETTER_WITHIN: f"better, by less than {margin}",
        WORSE_WITHIN: f"worse, by less than {margin}",
    }
    return said.get(found, str(found))


def errors_of_margin(row: dict[str, Any]) -> dict[str, Any] | None:
    """What the margin is of the errors that the baseline, whose row this is, makes; None where none are counted."""
    if not metric_called(row["metric"]).share or pd.isna(row["mean"]) or row["mean"] >= 1:
        return None
    margin, more = margin_words(row), row["margin"] / (1 - row["mean"])
    return {"margin": margin, "one": margin.startswith("1 "), "percent": f"{100 * more:,.0f}"}


def family(tables: int) -> str:
    """How often so many tables of tests together may claim something of one kind falsely, in per cent."""
    return f"{min(100 * (1 - LEVEL) * tables, 100):.0f}"


AT_BEST = "At the best rate tried"
APART_ENDS, BEST_ENDS = ("difference_low", "difference_high"), ("at_best_low", "at_best_high")


def at_best_words(row: dict[str, Any], places: int) -> str:
    """A row's difference, its interval with what the choice of a rate may have missed: "-6.0 [-13.0, +0.9]"."""
    scale = metric_called(row["metric"]).scale
    shown = with_interval(row["difference"], row["at_best_low"], row["at_best_high"], scale, True, places)
    return shown if "[" in shown else NULL


def comparison_readable(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `comparison_frame` of one data set, model and split as text, units in the header."""
    metric, tuned = metric_called(rows["metric"].iloc[0]), rows["rate"].isin((TUNED, SHARED)).any()
    places, apart, best = (places_of(rows, *ends) for ends in ((), APART_ENDS, BEST_ENDS))
    cells = []
    for row in records(rows):
        low, high = (np.clip(row[bound], *metric.bounds) for bound in ("low", "high"))
        value, least, most = (row[key] for key in ("difference", "difference_low", "difference_high"))
        difference = with_interval(value, least, most, metric.scale, True, apart)
        if difference != NULL and row["n_paired"] != row["n"]:
            difference += f" (n = {row['n_paired']})"
        at_best = {AT_BEST: at_best_words(row, best)} if tuned else {}
        cells.append(
            {
                "Arm": arm_label(row["method"], row["rank"]),
                "n": str(row["n"]),
                metric_label(row): with_interval(row["mean"], low, high, metric.scale, places=places),
                f"Difference, {difference_unit(row)}": difference,
                **at_best,
                "p of a difference": p_value(row["p_different_holm"]),
                f"p within {margin_words(row)}": p_value(row["p_equivalent_holm"]),
                "Verdict": verdict_words(row),
                **differs(rows, row),
            }
        )
        if rows["groups"].notna().any():
            cells[-1]["Letters"] = NULL if pd.isna(row["groups"]) else row["groups"]
    return pd.DataFrame(cells)


def comparison_notes(rows: pd.DataFrame, tables: int = 1) -> list[str]:
    """What a reader must know of a comparison, one of so many tables with tests: one sentence each."""
    metric = metric_called(rows["metric"].iloc[0])
    baseline = records(rows[rows["arm"] == rows["baseline"]])[0]
    groups, unit = rows["test_groups"].max(), difference_unit(baseline)
    smallest = rows["smallest_difference"].max()
    most = number(metric.equivalence_margin * metric.scale, 0 if metric.scale > 1 else 2)
    given = {
        "split": rows["split"].iloc[0],
        "arms": len(rows),
        "baseline": baseline,
        "metric": metric_words(baseline),
        "better": "upwards" if metric.higher_is_better else "downwards",
        "worse": "downwards" if metric.higher_is_better else "upwards",
        "margin": margin_words(baseline),
        "in_metric": "" if metric.apart else f" in {unit}",
        "left_out": _left_out(rows),
        "intervals": rows["low"].notna().any(),
        "groups": None if pd.isna(groups) else f"{groups:,}",
        "few_groups": None if pd.isna(groups) or groups >= FEW_GROUPS else FEW_GROUPS,
        "examples": f"{rows['test_rows'].max():,}",
        "counted": _counted(rows),
        **_of_rates(rows),
        "compared": int(rows["p_different"].notna().sum()),
        "equivalent": f"{most} {metric.apart}".strip() if (rows["verdict"] == EQUIVALENT).any() else None,
        "errors": errors_of_margin(baseline),
        "tables": tables,
        "family": family(tables),
        "smallest": None
        if pd.isna(smallest)
        else number(smallest * metric.scale, metric.decimals - 1) + (f" {unit}" if metric.apart else f" in {unit}"),
        "alike": _bounded(rows, "difference_low", "difference_high"),
        "all_right": _bounded(rows, "low", "high"),
        "unstable": records(rows[rows["unstable"].notna()]),
        "undecided": (rows["verdict"] == UNDECIDED).any(),
        "letters": rows["groups"].notna().any(),
        "without": _without(rows),
    }
    return sentences("comparison/notes", given | {"name": label, "names": _labels, "plural": plural})


def _labels(rows: list[dict[str, Any]]) -> str:
    return ", ".join(map(label, rows))


def _left_out(rows: pd.DataFrame) -> str:
    """The arms of which runs have no metric, with what became of these."""
    return ", ".join(
        f"{_labels(records(arms))} ({failed_counts(left_out)}{' each' * (len(arms) > 1)})"
        for left_out, arms in rows.groupby("left_out", sort=False)
    )


def _of_rates(rows: pd.DataFrame) -> dict[str, Any]:
    """What the template knows of learning rates."""
    own = rows[rows["rate"] == TUNED]
    return {
        "tuned": rows["rate"].isin((TUNED, SHARED)).any(),
        "given": records(rows[rows["rate"] == GIVEN]),
        "shared": records(rows[rows["rate"] == SHARED]),
        "failed": records(rows[rows["rate"] == FAILED]),
        "tied": [_tied(row) for row in records(own[own["rates_as_good"].fillna("") != ""])],
        "edges": [(edge, records(arms)) for edge, arms in own.groupby("edge", sort=False)],
    }


def _tied(row: dict[str, Any]) -> tuple[dict[str, Any], str, str | None, str]:
    """An arm with tied rates, these, what the best may gain (empty: hardly anything; None: not known), and its SD."""
    metric, unit = metric_called(row["metric"]), difference_unit(row)
    if pd.isna(row["missed"]):
        return row, and_list(row["rates_as_good"].split("; ")), None, ""
    missed, sd = (round(row[key] * metric.scale, metric.decimals - 1) for key in ("missed", "missed_sd"))
    unit = unit.removesuffix("s") if missed == 1 and metric.apart else unit
    return row, and_list(row["rates_as_good"].split("; ")), f"{missed:g} {unit}" if missed else "", f"{sd:g}"


def _without(rows: pd.DataFrame) -> list[tuple[Any, Any, list[dict[str, Any]]]]:
    """What arms lack, why, and which they are."""
    tested = rows["p_different"].notna()
    if tested.any():
        tested |= rows["verdict"] == BASELINE
    what = tested.map({True: "No interval", False: "No interval or test"})
    what = what.mask(rows["low"].notna(), "No test of a difference")
    return [(missing, reason, records(arms)) for (reason, missing), arms in rows.groupby(["reason", what], sort=False)]


def _counted(rows: pd.DataFrame) -> str:
    """What the intervals are over: "872 examples", or "120 groups of rows"."""
    groups = rows["test_groups"].max()
    return f"{rows['test_rows'].max():,.0f} examples" if pd.isna(groups) else f"{groups:,.0f} groups of rows"


def _bounded(rows: pd.DataFrame, low: str, high: str) -> list[tuple[list[dict[str, Any]], str]]:
    """The arms whose interval is no narrower than so few examples allow, with half of that; one entry or none."""
    metric = metric_called(rows["metric"].iloc[0])
    if not metric.share:
        return []
    known = rows.dropna(subset=low)
    least = metric.floor(known["test_groups"].fillna(known["test_rows"]).astype(float), LEVEL)
    own = known[np.isclose(known[high] - known[low], 2 * least, rtol=1e-6)]
    if own.empty:
        return []
    half = number(metric.scale * least[own.index[0]], metric.decimals - 1)
    return [(records(own), f"{half} {metric.apart}")]


def methods_paragraph(
    runs: pd.DataFrame,
    envs: dict[str, dict[str, Any]],
    compared: pd.DataFrame,
    tuning: pd.DataFrame,
    checks: int | None = None,
) -> str:
    """A paragraph for a paper on how the runs of one data set and model were made and compared: what they recorded.

    `envs`: by arm, the env.json of one of its runs; `compared` and `tuning`: rows of comparison.csv and tuning.csv,
    none where there are none; `checks`: facts in which arms were found alike, None if some differ.
    """
    shared, differing = _shared(envs)
    first = next(iter(envs.values()))
    source = first.get("model") or {}
    own = compared[compared["split"] == "test"]
    given = {
        "model": runs["model"].iloc[0],
        "dataset": runs["dataset"].iloc[0],
        "source": source.get("path") if source.get("source") in ("hub", "wheel") else None,
        "revision": source.get("revision"),
        "rows": [
            f"{int(runs[key].dropna().iloc[0]):,} {name} rows"
            for key, name in (("train_rows", "training"), ("test_rows", "test"), ("heldout_rows", "heldout"))
            if runs[key].notna().any()
        ],
        "arms": [_arm_sentence(env["settings"]) for env in envs.values()],
        "several": len(envs) > 1,
        "schedule": _schedule(shared),
        "optimizer": _optimizer(shared),
        "checks": checks,
        "differing": differing,
        "tuned": _tuned(tuning),
        "judged": "" if tuning.empty else metric_words(records(tuning)[0]),
        "generated": (shared.get("generate") or {}).get("max_new_tokens"),
        "seeds": [str(seed) for seed in sorted(runs["seed"].unique())],
        "failed": "; ".join(f"{count} {plural('run', count)} ended {text}" for text, count in ways_of_failing(runs)),
        "metric": None if runs["metric_value"].isna().all() else metric_words(records(runs)[0]),
        **_statistics(own),
        "machines": sorted({_machine(env) for env in envs.values() if env.get("device_name")}),
        "software": _software(first),
    }
    return " ".join(sentences("methods/paragraph", given | {"and_list": and_list, "plural": plural}))


PER_ARM = ("arm", "method", "rank", "learning_rate", "peft", "quantization", "tuned_as", "dtype")


def _shared(envs: dict[str, dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """The settings that all arms have alike, and the names of the others."""
    first, *others = (env["settings"] for env in envs.values())
    unlike = [key for key in first if any(other.get(key) != first[key] for other in others)]
    return {key: value for key, value in first.items() if key not in unlike}, [
        key for key in unlike if key not in PER_ARM
    ]


def _arm_sentence(settings: dict[str, Any]) -> str:
    """An arm: its method, what its adapter is, how its base is quantised, its learning rate."""
    peft, quantization = settings.get("peft") or {}, settings.get("quantization") or {}
    parts = []
    if peft:
        modules = peft.get("target_modules")
        named = {"r": peft.get("r"), "alpha": peft.get("lora_alpha"), "dropout": peft.get("lora_dropout")}
        parts.append(f"PEFT type {peft.get('peft_type')}")
        parts += [f"{name} {value:g}" for name, value in named.items() if value is not None]
        parts += [f"on {modules if isinstance(modules, str) else and_list(modules)}"] if modules else []
    if quantization.get("load_in_4bit"):
        kind, compute = (str(quantization.get(f"bnb_4bit_{key}")) for key in ("quant_type", "compute_dtype"))
        parts.append(f"base weights in 4 bits ({kind.upper()}, computed in {compute})")
    elif quantization:
        parts.append("base weights quantised")
    if settings.get("dtype") and not quantization:
        parts.append(f"base weights in {settings['dtype']}")
    if settings.get("gradient_checkpointing"):
        parts.append("with gradient checkpointing")
    parts.append(f"learning rate {settings['learning_rate']:g}")
    return f"{arm_label(settings['method'], settings.get('rank'))}: {', '.join(parts)}"


def _schedule(shared: dict[str, Any]) -> str:
    """How long, in what batches and how precisely: what all arms have alike."""
    parts = []
    if shared.get("max_steps"):
        parts.append(f"for {shared['max_steps']:,} steps")
    elif shared.get("epochs"):
        parts.append(f"for {shared['epochs']:g} {plural('epoch', shared['epochs'])}")
    if shared.get("batch_size"):
        parts.append(f"with batches of {shared['batch_size']}")
    if (shared.get("gradient_accumulation_steps") or 1) > 1:
        parts.append(f"gradients accumulated over {shared['gradient_accumulation_steps']} parts of a batch")
    if shared.get("max_length"):
        parts.append(f"texts cut at {shared['max_length']} tokens")
    parts += [f"in {shared['precision']}"] if shared.get("precision") else []
    return ", ".join(parts)


def _optimizer(shared: dict[str, Any]) -> str:
    """The optimizer and its schedule, as far as all arms have them alike."""
    if not shared.get("optimizer"):
        return ""
    names = {"adam_beta1": "β1", "adam_beta2": "β2", "adam_epsilon": "ε", "weight_decay": "weight decay"}
    parts = [str(shared["optimizer"])]
    parts += [f"{name} {shared[key]:g}" for key, name in names.items() if shared.get(key) is not None]
    if shared.get("max_grad_norm"):
        parts.append(f"gradients clipped at a norm of {shared['max_grad_norm']:g}")
    if shared.get("lr_scheduler_type"):
        warmup = shared.get("warmup_ratio")
        after = f" after a warm-up over {100 * warmup:g} % of the steps" if warmup else ""
        parts.append(f"a {shared['lr_scheduler_type']} schedule{after}")
    return ", ".join(parts)


def _tuned(tuning: pd.DataFrame) -> dict[str, Any] | None:
    """What the template knows of tuning; None where nothing was tuned."""
    if tuning.empty:
        return None
    first, per_arm = records(tuning)[0], tuning.groupby("arm").size()
    low, high = per_arm.min(), per_arm.max()
    return {
        "dev_rows": f"{first['dev_rows']:,}",
        "dev": "of the validation split" if first["dev"] == VALIDATION else "carved from train",
        "rates": f"{low}" if low == high else f"{low} to {high}",
        "steps": f"{tuning['steps'].max():,.0f}",
        "seed": first["seed"],
        "retried": bool((tuning["trials"] > 1).any()),
    }


def _statistics(own: pd.DataFrame) -> dict[str, Any]:
    """What the template knows of the comparison; `own`: rows of comparison.csv on the test split."""
    if own.empty:
        return {"intervals": False, "counted": "", "tests": 0, "baseline": "", "margin": ""}
    baseline = records(own[own["arm"] == own["baseline"]])[0]
    return {
        "intervals": bool(own["low"].notna().any()),
        "counted": "examples" if own["test_groups"].isna().all() else "groups of examples",
        "tests": int(own["p_equivalent"].notna().sum()),
        "baseline": label(baseline),
        "margin": margin_words(baseline),
    }


def _machine(env: dict[str, Any]) -> str:
    gpu = env.get("gpu") or {}
    more = [f"driver {gpu['driver_version']}"] if gpu.get("driver_version") else []
    more += [f"CUDA {env['cuda_runtime_version']}"] if env.get("cuda_runtime_version") else []
    return f"{env['device_name']}{f' ({and_list(more)})' if more else ''}"


def _software(env: dict[str, Any]) -> list[str]:
    found = [f"Python {env['python']}"] if env.get("python") else []
    found += [f"{name} {version}" for name, version in (env.get("versions") or {}).items() if version]
    git = env.get("git") or {}
    changed = ", with changes that were not committed" if git.get("dirty") else ""
    return found + ([f"peft-tradeoffs at commit {git['commit'][:12]}{changed}"] if git.get("commit") else [])
