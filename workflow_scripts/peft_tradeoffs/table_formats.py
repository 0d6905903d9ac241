"""Readable tables as Markdown and LaTeX, a section a data set and model."""

import textwrap
from collections.abc import Callable, Iterator

import pandas as pd

from peft_tradeoffs.readable import NULL, heading

Readable = Callable[[pd.DataFrame], pd.DataFrame]
Notes = Callable[[pd.DataFrame], list[str]]
LEFT = (
    "Arm",
    "Status",
    "Failed",
    "Base weights",
    "Engine",
    "Device",
    "Verdict",
    "Differs",
    "Fact",
    "Value",
    "Compared with",
    "Its value",
)
# Characters a line of these columns in LaTeX.
WRAPPED = {
    "Status": 16,
    "Failed": 9,
    "Base weights": 9,
    "Engine": 9,
    "Device": 11,
    "Differs": 20,
    "Value": 28,
    "Its value": 28,
}
UPRIGHT = 10  # columns that still fit across a page held upright
# Up to so many columns: size of the text and gap between columns, pt.
SIZES = ((10, "footnotesize", 2.5), (12, "scriptsize", 2.5), (17, "scriptsize", 1.5), (99, "tiny", 1.5))
LATEX = str.maketrans(
    {char: rf"\{char}" for char in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$"}
    | {NULL: "--", "·": r"$\cdot$"}
)


def sections(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """The rows of each (data set, model) of the frame, in its order."""
    for _, rows in frame.groupby(["dataset", "model"], sort=False):
        yield rows


def escape_pipes(text: str) -> str:
    """Plain text as a cell of a Markdown table."""
    return text.replace("|", "\\|")


def markdown(frame: pd.DataFrame, readable: Readable, notes: Notes) -> str:
    """A Markdown section with a table a (data set, model): cells from `readable`, `notes` below."""
    parts = []
    for rows in sections(frame):
        table = readable(rows).map(escape_pipes)
        align = ["left" if key in LEFT else "right" for key in table]
        grid = table.to_markdown(index=False, disable_numparse=True, colalign=align)
        parts.append(f"## {heading(rows)}\n\n{grid}\n\n{' '.join(notes(rows))}\n")
    return "\n".join(parts)


def escape_latex(text: str) -> str:
    """Plain text as LaTeX that prints it."""
    return text.translate(LATEX)


def stack(lines: list[str], side: str) -> str:
    """Several short lines in one cell, as LaTeX; `side` is "l" or "r"."""
    text = r" \\ ".join(map(escape_latex, lines))
    return rf"\shortstack[{side}]{{{text}}}"


def latex_header(key: str) -> str:
    """A column's header on several short lines, the unit on the last one."""
    name, comma, unit = key.partition(", ")
    return stack([*textwrap.wrap(name, 11), *([unit] if comma else [])], "l" if key in LEFT else "r")


def latex(frame: pd.DataFrame, readable: Readable, notes: Notes) -> str:
    """A booktabs longtable a (data set, model), on its side where it is wide: cells from `readable`, `notes` below."""
    parts = [r"% needs \usepackage{booktabs,longtable,pdflscape} and a text of 16 cm by 24 cm"]
    for rows in sections(frame):
        shown = readable(rows)
        table = shown.map(escape_latex)
        for key in [key for key in WRAPPED if key in shown]:
            table[key] = shown[key].map(lambda text, width=WRAPPED[key]: stack(textwrap.wrap(text, width), "l"))
        align = "".join("l" if key in LEFT else "r" for key in table)
        text = table.rename(columns=latex_header).to_latex(
            index=False,
            escape=False,
            longtable=True,
            column_format=f"@{{}}{align}@{{}}",
            caption=escape_latex(heading(rows)),
        )
        size, gap = next((size, gap) for columns, size, gap in SIZES if len(align) <= columns)
        text = f"{{\\{size}\\setlength{{\\tabcolsep}}{{{gap}pt}}\n{text}"
        text += f"\\noindent\\sloppy {escape_latex(' '.join(notes(rows)))}\\par}}\n"
        parts.append(f"\\begin{{landscape}}\n{text}\\end{{landscape}}\n" if len(align) > UPRIGHT else text)
    return "\n".join(parts) + "\n"
