"""Scorers of examples/generate.yaml: functions of prompt, references and output that give one number per answer."""

import re


def compiles(prompt: str, references: list[str], output: str) -> bool:
    """Whether an answer is a regular expression at all."""
    try:
        re.compile(output)
    except re.error:
        return False
    return bool(output.strip())
