"""Errors a user can fix, without their secrets, and how a script ends on one."""

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar
from urllib.parse import unquote, urlsplit

SECRET = re.compile(r"KEY|TOKEN(?!IZERS)|SECRET|PASS|AUTH|CREDENTIAL|WEBHOOK", re.IGNORECASE)
HIDDEN = "…"
# Of a URL; a password may have @ or a slash in it, though they should be %40 and %2F. A number before one is a port.
USER = re.compile(r"(://)(?:[^/\s'\"]+|[^/@\s:'\"]{0,99}:(?!\d+/)[^\s'\"]{1,99})@")
QUERY = re.compile(r"(://[^\s?'\"]{1,2000}\?)[^\s'\"]+")  # not longer, lest a long text takes long
HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")
SHORTEST = 8  # characters; a shorter value of a variable may be any word
SHORTEST_PASSWORD = 4  # of a URL


def redacted(text: str) -> str:
    """One line of `text` without what could be a credential.

    Left out are values of environment variables with a telling name, users and queries of URLs, and any word of 20 or
    more characters with a digit in it, as keys are.
    """
    line = " ".join(text.split())
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= 4:
            line = line.replace(value, HIDDEN)
    return re.sub(r"(?=[\w-]*\d)[\w-]{20,}", HIDDEN, without_secrets(line))[:500]


def without_secrets(text: str) -> str:
    """`text` without users and queries of URLs, hub tokens and what the environment says is secret.

    Unlike `redacted` it leaves hashes, paths and line breaks as they are, so every message can go through it.
    """
    for secret in sorted(set(_secrets()), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = USER.sub(rf"\1{HIDDEN}@", text)
    text = QUERY.sub(rf"\1{HIDDEN}", text)
    return HUB_TOKEN.sub(HIDDEN, text)


def _secrets() -> Iterator[str]:
    """Values of variables with a telling name that are no path, and the passwords in the URLs of any variable."""
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= SHORTEST and not _is_path(value):
            yield value
        for word in value.split():
            if "@" in word and "://" in word:
                yield from _passwords(word)
            elif "@" in word and name.upper().endswith("_PROXY"):  # which need no scheme
                yield from _passwords(f"//{word}")


def _is_path(value: str) -> bool:
    try:
        return Path(value).exists()
    except (OSError, ValueError):  # too long for a name, say
        return False


def _passwords(url: str) -> Iterator[str]:
    try:
        password = urlsplit(url).password or ""
    except ValueError:
        return
    for written in (password, unquote(password)):
        if len(written) >= SHORTEST_PASSWORD:
            yield written


class SafeStream:
    """A text stream that writes to `stream` what `without_secrets` leaves; in all else it is that stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write `text`, and return its length, as a stream does."""
        self._stream.write(without_secrets(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


Result = TypeVar("Result")


class InputError(Exception):
    """Bad input. The message names the key, file, line or value and says what would be right."""


class RowError(InputError):
    """Bad input in one row of those that were given: its index from 0, and what is wrong with it."""

    def __init__(self, index: int, said: str) -> None:
        super().__init__(f"row {index + 1}: {said}")
        self.index, self.said = index, said


class LockLost(InputError):
    """Another process has taken over the run that this one was the writer of."""


def error_text(error: BaseException) -> str:
    """The message of an error on one line, or its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def run(main: Callable[[], Result]) -> Result:
    """What `main` returns; end with one line on stderr and status 1 on bad input or an unusable disk.

    Any other exception keeps its traceback: it is a defect, not a user's mistake. No secret of a URL or of the
    environment is written to stderr, which is a log: neither here nor by a library that warns or fails.
    """
    if not isinstance(sys.stderr, SafeStream):
        sys.stderr = SafeStream(sys.stderr)
    try:
        return main()
    except InputError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        remedy = {
            errno.ENOSPC: "no space left on the device: free some or set `output` to another disk; "
            "what is finished stays and the rest resumes",
            errno.EDQUOT: "disk quota exceeded: free some or set `output` to another disk; "
            "what is finished stays and the rest resumes",
            errno.EROFS: "the file system is read-only: set `output` to a folder that can be written",
            errno.EACCES: "permission denied: set `output` to a folder that can be written",
            errno.EEXIST: "a file where a folder must be: move it away",
            errno.ENOTDIR: "a file where a folder must be: move it away",
            errno.EISDIR: "a folder where a file must be: move it away",
            errno.ELOOP: "a link that leads to itself: remove it",
            errno.EIO: "the disk cannot read or write it: put it on another one; what is finished stays",
        }.get(error.errno or 0)
        if remedy is None:
            raise
        sys.exit(f"error: {error.filename or 'output'}: {remedy}")


NAMED_PLACES = 5  # line numbers an error spells out before "and n more"
NAMED_KINDS = 6  # kinds of fault that one error spells out


def listed(name: str, unit: str, places: Sequence[int]) -> str:
    """Places (1-based, of `unit`: "line" or "row") as an error names them: `a.tsv, lines 3, 7 and 2 more`."""
    shown = ", ".join(map(str, places[:NAMED_PLACES]))
    more = f" and {len(places) - NAMED_PLACES} more" if len(places) > NAMED_PLACES else ""
    return f"{name}, {unit}{'s' if len(places) > 1 else ''} {shown}{more}"


class Faults:
    """What is wrong in one file or table, by kind, each with its places."""

    def __init__(self, name: str, unit: str) -> None:
        self.name, self.unit = name, unit
        self.kinds: dict[str, list[int]] = {}
        self.remedies: dict[str, str] = {}

    def add(self, place: int, kind: str, remedy: str) -> None:
        """Note one bad place; places of one kind share a sentence, and kinds of one remedy the remedy."""
        self.kinds.setdefault(kind, []).append(place)
        self.remedies[kind] = remedy

    def texts(self) -> list[str]:
        """One text per kind: the places, what is wrong there, and the remedy where the next has another."""
        named = list(self.kinds.items())[:NAMED_KINDS]
        said = []
        for index, (kind, places) in enumerate(named):
            remedy = self.remedies[kind]
            again = index + 1 < len(named) and self.remedies[named[index + 1][0]] == remedy
            said.append(f"{listed(self.name, self.unit, places)}: {kind}" + ("" if again else f"; {remedy}"))
        if len(self.kinds) > NAMED_KINDS:
            rest = sum(len(places) for places in list(self.kinds.values())[NAMED_KINDS:])
            said.append(f"{rest} more bad {self.unit}{'s' if rest > 1 else ''}")
        return said


def refuse(faults: Sequence[Faults]) -> None:
    """Raise one InputError with all that is wrong; none if nothing is."""
    if texts := [text for fault in faults for text in fault.texts()]:
        raise InputError("; also ".join(texts))
