"""What stands in place of a file that was never downloaded. Reads its first bytes alone."""

import re
from pathlib import Path

from peft_tradeoffs.core.errors import InputError

POINTER_LIMIT = 1024  # bytes; pointers are shorter
POINTERS = {
    re.compile(rb"version https://(git-lfs\.github|hawser\.github)\.com/spec/"): ("Git LFS pointer", "git lfs pull"),
    re.compile(rb"(\.\./)*\.git/annex/objects/|/annex/objects/"): ("git-annex pointer", "git annex get ."),
    re.compile(rb"# xet version "): ("Xet pointer", "git xet pull"),
}
OTHERS = {  # how other content than weights begins
    b"PK\x03\x04": "a zip archive, as torch.save writes (pickled weights are not loaded)",
    b"GGUF": "GGUF, which is quantised; take the safetensors weights",
    b"\x1f\x8b": "gzip; unpack it",
    b"\x80": "a pickle, which is not loaded",
    b"\x89HDF": "HDF5; take the safetensors weights",
    b"<": "markup, a web page say, instead of the file",
    b'{"error': "a server's error message instead of the file",
}


def pointer_kind(start: bytes) -> str | None:
    """Which Git LFS, git-annex or Xet pointer a file that begins so is, and the remedy; None for any other file.

    Args:
        start: The file's first bytes, more than POINTER_LIMIT if it has so many.
    """
    if len(start) <= POINTER_LIMIT:
        for pattern, (kind, remedy) in POINTERS.items():
            if pattern.match(start):
                return f"a {kind}, not the file itself; run `{remedy}` in its repository, or download the file itself"
    return None


def refuse_pointer(path: Path) -> None:
    """Raise InputError for a Git LFS, git-annex or Xet pointer; a file that cannot be read is none."""
    if kind := pointer_kind(_start(path)):
        raise InputError(f"{path} is {kind}")


def foreign_content(path: Path) -> str | None:
    """What `path` holds, if its first bytes tell; for a file that is no safetensors."""
    start = _start(path)
    return next((said for mark, said in OTHERS.items() if start.lstrip(b" \r\n\xef\xbb\xbf").startswith(mark)), None)


def _start(path: Path) -> bytes:
    """The first bytes, more than a pointer has if there are so many."""
    try:
        with path.open("rb") as file:
            return file.read(POINTER_LIMIT + 1)
    except OSError:
        return b""
