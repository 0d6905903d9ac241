"""Which arms a configuration tunes, and which arms take a rate from them."""

from typing import Any

from peft_tradeoffs.config.config_errors import is_number, suggestion
from peft_tradeoffs.core.errors import InputError

Methods = dict[str, dict[str, Any]]


def tuned_as(method: str, rank: int | None, methods: Methods, tune: dict[str, Any]) -> str | None:
    """The arm whose tuning gives an arm its learning rate; None where that is a number.

    Raises InputError for a learning rate that names no tuned method.
    """
    rates = methods[method]["learning_rate"]
    if isinstance(rates, int | float):
        return None
    if isinstance(rates, str):
        method = _followed(method, rates, methods)
    ranks = methods[method].get("ranks")
    if not ranks:
        return method
    if tune["by"] == "method":
        rank = tune["rank"] if tune["rank"] in ranks else sorted(ranks)[(len(ranks) - 1) // 2]
    elif rank not in ranks:
        lacks = (
            "is tuned at each of its ranks, and an arm without a rank has none"
            if rank is None
            else f"has no rank {rank}"
        )
        remedy = "give a rate" if rank is None else "give it that rank"
        raise InputError(
            f"config key tune.by: arm, but {method}, whose rate is taken, {lacks}; {remedy}, or set tune.by method"
        )
    return f"{method}-r{rank}"


def _followed(method: str, named: str, methods: Methods) -> str:
    where = f"config key methods.{method}.learning_rate"
    if is_number(named):
        raise InputError(f"{where}: {named!r} is a text; must be a number (in YAML write 5.0e-4, not 5e-4 or '5')")
    if named not in methods:
        raise InputError(
            f"{where}: {named!r} is no number, and there is no method {named!r}; "
            f"{suggestion(named, methods, 'methods: ')}"
        )
    if not isinstance(methods[named]["learning_rate"], list):
        raise InputError(f"{where}: {named} has no list of rates to tune; give it one, or write a number here")
    return named


def check_tuning(tune: dict[str, Any], methods: Methods, seeds: list[int]) -> dict[str, list[float]]:
    """The learning rates to try, ascending, by arm: of those that decide a rate, then of those that check it.

    Raises InputError for a grid that would not tune all methods alike.
    """
    grids = {name: sorted(block["learning_rate"]) for name, block in methods.items() if _has_grid(block)}
    if not grids:
        return {}
    if tune["seed"] in seeds:
        raise InputError(
            f"config key tune.seed: {tune['seed']} is one of seeds, whose runs would not be fresh; change it"
        )
    first = next(iter(grids))
    for name, rates in grids.items():
        if len(rates) != len(grids[first]):
            raise InputError(
                f"config key methods.{name}.learning_rate: {len(rates)} rates, but methods.{first} has "
                f"{len(grids[first])}; give every method as many trials"
            )
    ranked = {name: methods[name]["ranks"] for name in grids if methods[name].get("ranks")}
    if tune["by"] == "arm":
        for key in ("rank", "check_ranks"):
            if tune[key]:
                raise InputError(f"config key tune.{key}: with tune.by arm every rank is tuned; remove it")
    for key, ranks in (("rank", [tune["rank"]] if tune["rank"] else []), ("check_ranks", tune["check_ranks"])):
        for rank in ranks:
            if not any(rank in known for known in ranked.values()):
                raise InputError(f"config key tune.{key}: no tuned method has rank {rank}; name one that is in ranks")
    arms = [(name, rank) for name in grids for rank in methods[name].get("ranks", [None])]
    deciding = {tuned_as(name, rank, methods, tune): grids[name] for name, rank in arms}
    checking = {f"{name}-r{rank}": grids[name] for name, rank in arms if rank in tune["check_ranks"]}
    return {**deciding, **{arm: rates for arm, rates in checking.items() if arm not in deciding}}


def _has_grid(method: dict[str, Any]) -> bool:
    return isinstance(method["learning_rate"], list)
