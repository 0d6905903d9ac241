"""What a reader sees of runs in a table: its cells and the notes below it."""

from peft_tradeoffs.analysis import readable, tables


def cells(summaries: list[dict], of=readable.arms_readable):
    """The readable table of these runs."""
    runs = tables.runs_frame(summaries)
    return of(runs if of is readable.runs_readable else tables.arms_frame(runs))


def notes(summaries: list[dict]) -> str:
    """What stands below the table of arms."""
    return " ".join(readable.costs_notes(tables.arms_frame(tables.runs_frame(summaries))))
