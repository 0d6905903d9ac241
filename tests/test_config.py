"""The configuration as rules take it."""

from pathlib import Path

import pytest
import tiny
from peft_tradeoffs.config import resolve


@pytest.mark.parametrize("given", ["results/x/", "./results/x", "results//x", "results/y/../x"])
def test_the_output_folder_is_as_rules_need_it(given):
    """Rules put names behind it: a slash or a dot too many would be another file to Snakemake."""
    assert resolve(tiny.config(Path(), output=given)).output == "results/x"
