"""What the files are that a plan depends on: their content decides, whatever their dates.

Checksums of large files are remembered beside Snakemake's own records, so that a plan reads no gigabytes twice.
"""

import contextlib
import functools
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peft_tradeoffs.core import files
from peft_tradeoffs.inputs.model_files import folder_files, required_files, tokenizer_files

REMEMBERED = Path(".snakemake/peft_tradeoffs_checksums.json")
SMALL = 2**20  # bytes; such a file is read in a millisecond
SLOW = 2 * 2**30  # bytes; it takes seconds
SETTLED_S = 2.0  # a file that changed later than this may change again without another time


def checksum(path: Path) -> str:
    """The SHA-256 of a file, remembered as long as its size, times and inode are the same; "" for no regular file."""
    try:
        found = path.stat()
    except OSError:
        return ""
    if not path.is_file():
        return ""
    if found.st_size <= SMALL:
        return files.sha256(path)
    known, key = _remembered(Path.cwd()), str(path.absolute())
    state = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]
    if key in known and known[key][0] == state:
        return known[key][1]
    if found.st_size > SLOW:
        print(f"reading {path} ({found.st_size / 2**30:.1f} GiB) for its checksum, once", file=sys.stderr)
    digest = files.sha256(path)
    if time.time() - max(found.st_mtime, found.st_ctime) > SETTLED_S:
        known[key] = [state, digest]
        _remember(known)
    return digest


def content(block: dict[str, Any]) -> str:
    """A SHA-256 over the files that a data set or model is read from; "" where they are not on this disk."""
    match block["source"]:
        case "files":
            named = {split: Path(path) for split, path in block["splits"].items()}
        case "folder":
            named = _model_files(Path(block["path"]))
        case "random":
            tokenizer = block["tokenizer"]
            if tokenizer["source"] != "folder":
                return ""
            folder = Path(tokenizer["path"])
            named = {name: folder / name for name in tokenizer_files(folder_files(folder))}
        case _:
            return ""
    return content_of(named.items())


def content_of(named: Iterable[tuple[str, Path]]) -> str:
    """A SHA-256 over the contents of files, by the names given."""
    digest = hashlib.sha256()
    for name, path in sorted(named):
        digest.update(f"{name}\0{checksum(path)}\n".encode())
    return digest.hexdigest()


def _model_files(folder: Path) -> dict[str, Path]:
    """What loading the model reads; of what else stands beside it, that it is there."""
    required, _ = required_files(folder, folder_files(folder))
    beside = {path.name for path in folder.iterdir() if path.is_file()} - required
    return {name: folder / name for name in required} | {f"beside\0{name}": folder / "" for name in beside}


@functools.cache
def _remembered(folder: Path) -> dict[str, Any]:
    """By absolute path, a file's [size, times, inode, device] and its checksum."""
    try:
        found = json.loads((folder / REMEMBERED).read_text(encoding="utf-8"))
        return {key: [state, digest] for key, (state, digest) in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _remember(known: dict[str, Any]) -> None:
    there = {key: value for key, value in known.items() if os.path.exists(key)}  # noqa: PTH110
    with contextlib.suppress(OSError):  # it is read again next time
        files.write_json(REMEMBERED, there)
