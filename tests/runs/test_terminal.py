"""What Snakemake says of a job is short: lists of files end after a line."""

import io
import logging

from peft_tradeoffs.runs.status import WIDTH, say_briefly, shortened


def test_a_list_is_cut_between_its_entries_and_the_rest_is_counted() -> None:
    line = "    input: " + ", ".join(f"results/runs/reviews/tiny/full/seed{seed}/summary.json" for seed in range(40))
    text = shortened(line)
    assert len(text) <= WIDTH and text.endswith("summary.json and 38 more")
    assert line.startswith(text.removesuffix(" and 38 more"))
    assert shortened(text) == text


def test_paths_are_never_cut_within() -> None:
    paths = [f"{'x' * 150}/{name}.tsv" for name in ("train", "test", "heldout")]
    assert shortened(f"    input: {', '.join(paths)}") == f"    input: {paths[0]} and 2 more"
    assert shortened(f"    reason: {'x' * 500}") == f"    reason: {'x' * 500}"


def test_lines_of_jobs_are_cut_and_no_others() -> None:
    logger, stream = logging.Logger("workflow"), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    dry = [False]
    say_briefly(logger, lambda: dry[0])
    say_briefly(logger, lambda: dry[0])
    long = ", ".join(["results/a.csv"] * 100)
    logger.info("rule a:\n    input: %s", long, extra={"event": "job_info"})
    logger.info(long)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "rule a:" and lines[1].endswith(" more") and len(lines[1]) <= WIDTH
    assert lines[2] == long
    dry[0] = True
    logger.info("rule a:\n    input: %s", long, extra={"event": "job_info"})
    assert stream.getvalue().splitlines()[-1] == f"    input: {long}"
