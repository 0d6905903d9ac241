"""A state as torch writes it, with the SHA-256 of all its bytes behind them: no part of it can change unseen.

The zip file's own checksums do not cover its headers, and torch does not ask for them.
"""

import hashlib
import os
import re
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import torch

PREFIX, DIGITS = b"\nsha256 ", 64
TRAILER = len(PREFIX) + DIGITS
CHUNK = 2**20  # bytes


class Damaged(Exception):
    """The file is not what was written; the message says in what way."""


class _Hashing:
    """An open file that hashes what is written to it, large parts while they are written, and keeps the disk's error.

    torch may answer a write that failed with an error of its own, which does not name it.
    """

    def __init__(self, file: BinaryIO, pool: ThreadPoolExecutor) -> None:
        self._file, self._pool = file, pool
        self._hash = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, part: bytes | memoryview) -> int:
        large = len(part) >= CHUNK
        hashed: Future[None] | None = self._pool.submit(self._hash.update, part) if large else None
        try:
            return self._file.write(part)
        except OSError as error:
            self.error = self.error or error
            raise
        finally:
            if hashed is None:
                self._hash.update(part)
            else:
                hashed.result()  # the memory is torch's again after this

    def flush(self) -> None:
        self._file.flush()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def write(state: dict[str, Any], path: Path) -> None:
    """Write `state` (tensors and plain values) to `path`. Raises OSError, for a full disk say."""
    with path.open("wb") as file, ThreadPoolExecutor(1) as pool:
        hashing = _Hashing(file, pool)
        try:
            torch.save(state, hashing)
        except (RuntimeError, OSError):
            if hashing.error is not None:
                raise hashing.error from None
            raise
        file.write(PREFIX + hashing.hexdigest().encode())


def read(path: Path) -> dict[str, Any]:
    """The state in `path`, its tensors on the CPU. Raises Damaged if it is not what `write` wrote, byte by byte."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END) - TRAILER
        if size < 0:
            raise Damaged("it is cut off")
        file.seek(size)
        trailer = file.read()
        if not re.fullmatch(re.escape(PREFIX) + rb"[0-9a-f]{%d}" % DIGITS, trailer):
            raise Damaged("it does not end in its SHA-256: it is cut off, or not a state of this version")
        file.seek(0)
        if _sha256(file.read, size) != trailer[len(PREFIX) :].decode():
            raise Damaged("its content is not that of its SHA-256")
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=True)


def _sha256(read: Callable[[int], bytes], size: int) -> str:
    digest = hashlib.sha256()
    while size > 0 and (part := read(min(size, CHUNK))):
        digest.update(part)
        size -= len(part)
    return digest.hexdigest()
