"""How wide text is before it is drawn, so that it is broken or cut where a figure has no more room."""

import functools
import re
from collections.abc import Iterable

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextToPath

FAMILY = "DejaVu Sans"  # comes with matplotlib: figures look the same everywhere
BREAKS = re.compile(r"[^\s_/-]+[_/-]*|[_/-]+")  # where a name may be broken: after these characters


@functools.lru_cache(maxsize=20_000)
def width(text: str, size: float) -> float:
    """Inches that one line takes; `size` in points."""
    font = FontProperties(family=FAMILY, size=size)
    return TextToPath().get_text_width_height_descent(text, font, ismath=False)[0] / 72


def widest(texts: Iterable[str], size: float) -> float:
    """Inches of the widest line of these texts, 0 if there is none."""
    return max((width(line, size) for text in texts for line in text.split("\n")), default=0.0)


def wrap(text: str, room: float, size: float) -> list[str]:
    """The text in lines that are no wider than `room` inches: broken at blanks, a word that is wider within."""
    lines = [""]
    for word in text.split():
        for index, part in enumerate(_pieces(word, room, size)):
            longer = lines[-1] + (" " if index == 0 and lines[-1] else "") + part
            if lines[-1] and width(longer, size) > room:
                lines.append(part)
            else:
                lines[-1] = longer
    return lines if lines[0] else []


def _pieces(word: str, room: float, size: float) -> list[str]:
    """A word that is wider than `room` in parts: after _, / and -, or anywhere."""
    if width(word, size) <= room:
        return [word]
    parts: list[str] = []
    for part in BREAKS.findall(word):
        while width(part, size) > room and len(part) > 1:
            fits = next(end for end in range(len(part) - 1, 0, -1) if end == 1 or width(part[:end], size) <= room)
            parts.append(part[:fits])
            part = part[fits:]
        parts.append(part)
    return parts


def shorten(text: str, room: float, size: float) -> str:
    """The text, or as many of its words as `room` inches hold, with an ellipsis."""
    if width(text, size) <= room:
        return text
    words = text.split()
    while words and width(" ".join(words).rstrip(",;:(") + " …", size) > room:
        words.pop()
    return (" ".join(words).rstrip(",;:(") + " …").lstrip()
