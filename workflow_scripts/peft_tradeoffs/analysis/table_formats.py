"""Readable tables as Markdown and LaTeX, one section per data set and model."""

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from peft_tradeoffs.analysis.readable import NULL, heading
from peft_tradeoffs.core.csv_text import to_csv
from peft_tradeoffs.core.files import write_text
from peft_tradeoffs.core.markdown_text import inert, one_line, plain

Readable = Callable[[pd.DataFrame], pd.DataFrame]
Notes = Callable[[pd.DataFrame], list[str]]
LEFT = (
    *("Arm", "Quantity", "Effect", "Status", "Failed", "Base weights", "Engine", "Device", "Verdict", "Groups"),
    *("Qualifies", "Why", "Differs", "Fact", "Value", "Compared with", "Its value", "Experiment", "Method"),
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
    "Experiment": 20,
}
UPRIGHT = 10  # columns that still fit across a page held upright
# Up to so many columns: size of the text and gap between columns, pt.
SIZES = ((10, "footnotesize", 2.5), (12, "scriptsize", 2.5), (17, "scriptsize", 1.5), (99, "tiny", 1.5))
LATEX = str.maketrans(
    {char: rf"\{char}" for char in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$"}
    | {NULL: "--", "·": r"$\cdot$", "×": r"$\times$"}
)


def sections(frame: pd.DataFrame, by: str | None = None) -> Iterator[tuple[str, pd.DataFrame]]:
    """Heading and rows of each (data set, model, split) of the frame, in its order; of each value of column `by`."""
    keys = [key for key in ("dataset", "model", "split") if key in frame] + ([by] if by else [])
    for key, rows in frame.groupby(keys, sort=False):
        yield " · ".join([heading(rows), *([key[-1]] if by else [])]), rows


def escape_pipes(text: str) -> str:
    """Plain text as a cell of a Markdown table, inert."""
    return inert(text).replace("|", "\\|")


def markdown(
    frame: pd.DataFrame,
    readable: Readable,
    notes: Notes,
    lead: Notes | None = None,
    by: str | None = None,
    warned: Notes | None = None,
) -> str:
    """One Markdown section per (data set, model): a table of `readable` cells, `notes` below, `lead` listed above.

    With `by`, one section per value of that column. Texts of `warned` may quote a user's; they are listed below the
    table, before the notes.
    """
    parts = []
    for title, rows in sections(frame, by):
        above = "".join(f"- {line}\n" for line in lead(rows)) + "\n" if lead else ""
        below = warnings_box(warned(rows)) if warned else ""
        parts.append(f"## {inert(title)}\n\n{above}{grid(readable(rows))}\n\n{below}{' '.join(notes(rows))}\n")
    return "\n".join(parts)


def warnings_box(warnings: list[str]) -> str:
    """Warnings as a quote in Markdown, with an empty line below; nothing where there are none."""
    if not warnings:
        return ""
    lines = [f"> **Warning{'' if len(warnings) == 1 else 's'}**", ">", *(f"> - {plain(text)}" for text in warnings)]
    return "\n".join(lines) + "\n\n"


def grid(readable: pd.DataFrame) -> str:
    """Text cells as a Markdown table."""
    align = ["left" if key in LEFT else "right" for key in readable]
    return readable.map(escape_pipes).to_markdown(index=False, disable_numparse=True, colalign=align)


def escape_latex(text: str) -> str:
    """Plain text as LaTeX that prints it, on one line; not as the option of a line break before it."""
    escaped = one_line(text).translate(LATEX)
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped


def stack(lines: list[str], side: str) -> str:
    """Several short lines in one cell, as LaTeX; `side` is "l" or "r"."""
    text = r" \\ ".join(map(escape_latex, lines))
    return rf"\shortstack[{side}]{{{text}}}"


def latex_header(key: str) -> str:
    """A column's header on several short lines, the unit on the last one."""
    name, comma, unit = key.partition(", ")
    return stack(
        [*textwrap.wrap(name, 11, break_long_words=False), *([unit] if comma else [])], "l" if key in LEFT else "r"
    )


def latex(
    frame: pd.DataFrame,
    readable: Readable,
    notes: Notes,
    lead: Notes | None = None,
    by: str | None = None,
    warned: Notes | None = None,
) -> str:
    """One booktabs longtable per (data set, model), on its side where it is wide; arguments as those of `markdown`."""
    parts = [r"% needs \usepackage{booktabs,longtable,pdflscape} and a text of 16 cm by 24 cm"]
    for title, rows in sections(frame, by):
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
            caption=escape_latex(title),
        )
        size, gap = next((size, gap) for columns, size, gap in SIZES if len(align) <= columns)
        text = f"{{\\{size}\\setlength{{\\tabcolsep}}{{{gap}pt}}\n{text}"
        warnings = [f"Warning: {one_line(said)}" for said in warned(rows)] if warned else []
        said = [*(lead(rows) if lead else []), *warnings, *notes(rows)]
        text += f"\\noindent\\sloppy {escape_latex(' '.join(said))}\\par}}\n"
        parts.append(f"\\begin{{landscape}}\n{text}\\end{{landscape}}\n" if len(align) > UPRIGHT else text)
    return "\n".join(parts) + "\n"


def write_tables(
    folder: Path,
    name: str,
    frame: pd.DataFrame,
    readable: Readable,
    notes: Notes,
    *,
    lead: Notes | None = None,
    by: str | None = None,
    warned: Notes | None = None,
    nothing: str = "",
) -> None:
    """Write {folder}/{name}.csv, .md and .tex; `nothing` is what the last two say of a frame without rows."""
    write_text(folder / f"{name}.csv", to_csv(frame))
    for kind, write in (("md", markdown), ("tex", latex)):
        text = nothing if frame.empty and nothing else write(frame, readable, notes, lead, by, warned)
        write_text(folder / f"{name}.{kind}", text)
