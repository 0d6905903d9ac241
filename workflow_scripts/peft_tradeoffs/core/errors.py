"""Errors a user can mend, and how a script ends on one."""

import errno
import sys
from collections.abc import Callable
from typing import TypeVar

from peft_tradeoffs.core.redaction import SafeStream

Result = TypeVar("Result")


class InputError(Exception):
    """Bad input. The message names the key, file, line or value and says what would be right."""


class LockLost(InputError):
    """Another process has taken over the run that this one was the writer of."""


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
        }.get(error.errno)
        if remedy is None:
            raise
        sys.exit(f"error: {error.filename or 'output'}: {remedy}")
