"""Bad lines of a data file, collected, so that one error lists them all."""

from collections.abc import Sequence

from peft_tradeoffs.core.errors import InputError

NAMED_PLACES = 5  # line numbers an error spells out before "and n more"
NAMED_KINDS = 6  # kinds of fault that one error spells out


def listed(name: str, unit: str, places: Sequence[int]) -> str:
    """Places (1-based, of `unit`: "line" or "row") as an error names them: `a.tsv, lines 3, 7 and 2 more`."""
    shown = ", ".join(map(str, places[:NAMED_PLACES]))
    more = f" and {len(places) - NAMED_PLACES} more" if len(places) > NAMED_PLACES else ""
    return f"{name}, {unit}{'s' if len(places) > 1 else ''} {shown}{more}"


class Faults:
    """What is wrong in one file or table, by kind, each with its places."""

    def __init__(self, name: str, unit: str) -> None:
        self.name, self.unit = name, unit
        self.kinds: dict[str, list[int]] = {}
        self.remedies: dict[str, str] = {}

    def add(self, place: int, kind: str, remedy: str) -> None:
        """Note one bad place; places of one kind share a sentence, and kinds of one remedy the remedy."""
        self.kinds.setdefault(kind, []).append(place)
        self.remedies[kind] = remedy

    def texts(self) -> list[str]:
        """One text per kind: the places, what is wrong there, and the remedy where the next has another."""
        named = list(self.kinds.items())[:NAMED_KINDS]
        said = []
        for index, (kind, places) in enumerate(named):
            remedy = self.remedies[kind]
            again = index + 1 < len(named) and self.remedies[named[index + 1][0]] == remedy
            said.append(f"{listed(self.name, self.unit, places)}: {kind}" + ("" if again else f"; {remedy}"))
        if len(self.kinds) > NAMED_KINDS:
            rest = sum(len(places) for places in list(self.kinds.values())[NAMED_KINDS:])
            said.append(f"{rest} more bad {self.unit}{'s' if rest > 1 else ''}")
        return said


def refuse(faults: Sequence[Faults]) -> None:
    """Raise one InputError with all that is wrong; none if nothing is."""
    if texts := [text for fault in faults for text in fault.texts()]:
        raise InputError("; also ".join(texts))
