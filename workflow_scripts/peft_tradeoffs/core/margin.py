"""The margin: what an arm may lose and count as no worse. Cheap to import."""

from peft_tradeoffs.core.errors import InputError

LARGEST = 0.2  # in the metric's unit: 20 points of accuracy


def check_margin(where: str, margin: float) -> None:
    """Raise InputError for what is no margin in the metric's unit: 1, say, where a point of accuracy is meant."""
    if 0 < margin <= LARGEST:
        return
    unit = "it is in the metric's unit, and accuracy is a fraction, of which a point is 0.01"
    points = f"; did you mean {margin / 100:g}?" if LARGEST < margin <= 100 * LARGEST else ""
    raise InputError(f"{where}: {margin:g} is not above 0 and at most {LARGEST}; {unit}{points}")
