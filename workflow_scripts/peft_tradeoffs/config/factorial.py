"""The factors of a factorial: the settings in which its arms differ, each on or off. Cheap to import."""

import itertools
import json
from collections import Counter
from typing import Any

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.layout import json_schema

OFF = (None, False, "float32")  # what a setting is without its factor; of another pair, what the first arm has
Settings = dict[str, Any]


def factorial(name: str, arms: dict[str, tuple[int | None, Settings]]) -> dict[str, Any]:
    """{"factors": [name, …], "arms": {arm: [0 or 1 a factor]}} of arms given by rank and resolved settings.

    A factor is a setting (quantization, gradient checkpointing, dtype, rank or a field of the PEFT configuration) with
    two values. Learning rates may differ. Raises InputError unless the arms have every combination of two or more
    factors once.
    """
    where = f"config key attribution.{name}"
    table = _settings(arms)
    values = {key: list(dict.fromkeys(_text(row.get(key)) for row in table.values())) for key in _keys(table)}
    differing = [key for key, found in values.items() if len(found) > 1]
    ons = {key: _on(key, table) for key in differing}
    if len(differing) < 2:
        among = f"in {_label(differing[0], ons[differing[0]])} alone" if differing else "in no setting"
        raise InputError(
            f"{where}: its arms differ {among} (learning rates aside); name the arms of every combination of two "
            "settings or more"
        )
    for key in differing:
        if len(values[key]) > 2:
            first: dict[str, str] = {}
            for arm, row in table.items():
                first.setdefault(_text(row.get(key)), arm)
            raise InputError(
                f"{where}: {_said(key)} has {len(first)} values (in {', '.join(first.values())}), where a "
                "factor has two; name arms that have two of them"
            )
    factors = [_label(key, ons[key]) for key in differing]
    cells = {arm: [int(_text(row.get(key)) == _text(ons[key])) for key in differing] for arm, row in table.items()}
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


def _settings(arms: dict[str, tuple[int | None, Settings]]) -> dict[str, Settings]:
    """What decides memory, time and energy, flat: what all arms have field by field, what some lack as a whole."""
    known = json_schema("peft")["$defs"]
    whole = {key for key in ("quantization", "peft") if any(settings[key] is None for _, settings in arms.values())}
    table = {}
    for arm, (rank, settings) in arms.items():
        row = {key: settings[key] for key in ("gradient_checkpointing", "dtype")}
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


def _keys(table: dict[str, Settings]) -> list[str]:
    """Every setting, quantization first."""
    found = dict.fromkeys(key for row in table.values() for key in row)
    return sorted(found, key=lambda key: not key.startswith("quantization"))


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _on(key: str, table: dict[str, Settings]) -> Any:
    """The value of a setting that has its factor on, where it has two."""
    values = [row.get(key) for row in table.values()]
    others = [value for value in values if not any(value is off or value == off for off in OFF)]
    if len(others) < len(values) and others:
        return others[0]
    return next(value for value in values if _text(value) != _text(values[0]))


def _said(key: str) -> str:
    """A setting as readers know it."""
    return key.removeprefix("peft.").removeprefix("quantization.").replace("gradient_check", "gradient check")


def _label(key: str, on: Any) -> str:
    """A factor's name."""
    if key == "quantization":
        return on["bnb_4bit_quant_type"].upper()
    if key == "peft":
        return on["peft_type"]
    if key == "dtype":
        return f"{on} base weights"
    if on is True:
        return _said(key)
    value = ", ".join(on) if isinstance(on, list) else on if isinstance(on, str) else _text(on)
    return f"{_said(key)} {value}"
