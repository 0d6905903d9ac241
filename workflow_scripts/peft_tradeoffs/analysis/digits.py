"""How many digits of a metric its uncertainty supports."""

import math
from typing import Any

from peft_tradeoffs.analysis.stats import Estimate

NORMAL = 1.96  # 97.5 % quantile of the normal distribution


def supported_decimals(half_width: float) -> int:
    """Decimals that an interval supports: its half width to one digit, to two where the first is 1 or 2."""
    if not half_width > 0:
        return 0
    exponent = math.floor(math.log10(half_width))
    return max(0, -exponent + (half_width / 10**exponent < 3))


def at_most(places: int, value: float, digits: int = 4) -> int:
    """`places`, or fewer where they would show more than so many significant digits of the value."""
    return min(places, max(0, digits - 1 - math.floor(math.log10(abs(value))))) if value else places


def finer(places: int, *values: float) -> int:
    """`places`, or a decimal more where one of these values, not 0, would be rounded to 0."""
    return places + any(value and not round(value, places) for value in values)


def sampling_error(metric: str, value: float, examples: int) -> float:
    """Standard error of a metric over test examples, roughly, to choose digits by; no less than one example.

    That of a share for accuracy and F1, of a correlation for the others (MCC is the correlation of two classes).
    """
    spread = value * (1 - value) if metric in ("accuracy", "f1") else (1 - value**2) ** 2
    return math.sqrt((spread + 1 / examples) / examples)


def metric_places(metric: str, mean: float, sd: float, seeds: int, examples: Any, scale: float) -> int:
    """Decimals of a mean metric shown `scale` times as large: what other seeds and other examples leave sure of it.

    `sd` may be nan, for one seed. `examples` is a number, or several as "872; 800", of which the least counts.
    """
    least = min(int(float(number)) for number in str(examples).split("; "))
    half = NORMAL * sampling_error(metric, mean, least)
    if seeds > 1 and not math.isnan(sd):
        half = math.hypot(half, Estimate(mean, sd / math.sqrt(seeds), seeds - 1).half_width())
    return finer(supported_decimals(half * scale), 0.0 if math.isnan(sd) else sd * scale)
