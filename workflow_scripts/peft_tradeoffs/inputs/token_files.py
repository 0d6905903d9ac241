"""The files of tokenised splits, .npz with .json beside it, and whether they belong together. Cheap to import."""

import functools
from pathlib import Path
from typing import Any

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.files import read_json, sha256


def read_description(path: Path) -> dict[str, Any]:
    """The description (.json) beside the tokens `path`. Raises InputError if there is none."""
    described = path.with_suffix(".json")
    try:
        description = read_json(described, _remedy(path))
    except FileNotFoundError:
        raise InputError(f"{described}: no such file; it is made with the tokens, by tokenize_dataset.py") from None
    missing = [key for key in ("sha256", "rows") if not isinstance(description, dict) or key not in description]
    if missing:
        raise InputError(f"{described}: not a description of tokens, no {', '.join(missing)}; {_remedy(path)}")
    return description


def check_tokens(path: Path, expected: str) -> None:
    """Raise InputError unless `path` has the SHA-256 that its description recorded."""
    try:
        found = path.stat()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; make it with tokenize_dataset.py") from None
    if _sha256(path, found.st_mtime_ns, found.st_size, found.st_ino) != expected:
        raise InputError(
            f"{path}: its SHA-256 is not that of {path.with_suffix('.json').name} beside it, so it has other tokens; "
            f"{_remedy(path)}"
        )


def _remedy(path: Path) -> str:
    """What helps against tokens that are damaged or changed."""
    return f"delete {path} and run again, which makes it anew"


@functools.lru_cache(maxsize=8)
def _sha256(path: Path, mtime_ns: int, size: int, inode: int) -> str:
    return sha256(path)
