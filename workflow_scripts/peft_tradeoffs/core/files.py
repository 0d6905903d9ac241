"""Files that are whole or absent, their checksums and seals, and tables as CSV in which no spreadsheet computes a text.

The seal of a run: its summary names what was published beside it, each file by its SHA-256. Whoever reads a run can so
tell whether its files are still those that the summary was made with.
"""

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_tradeoffs.core import code
from peft_tradeoffs.core.errors import InputError

KINDS = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a named pipe", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device"}
SHOWN = 60  # characters of a value in a message
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # how JSON spells half of a surrogate pair, or a whole one


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it takes `path`'s place only if the block succeeds, and then for good.

    An error of the system that names no file, as a full disk's, names `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until the disk has a file's content, or a folder's list of files where the file system can say so."""
    folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if not (folder and error.errno in (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM)):
            raise


def sync_tree(folder: Path) -> None:
    """`sync` everything in `folder`, and itself."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically, as JSON; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path, remedy: str = "", unique: bool = False) -> Any:
    """Read JSON from `path`; `unique`: no object may say a key twice.

    Raises InputError, which ends in `remedy`, for what is no file, cannot be read or is not JSON, however it is broken.
    A file that is not there stays FileNotFoundError: what that means, the caller knows.
    """
    try:
        text = read_text(path, remedy)
        value = json.loads(text, object_pairs_hook=_unique if unique else None)
        if HALF.search(text) and not _encodable(value):
            raise ValueError("it has half of a surrogate pair, which no file can hold")
        return value
    except RecursionError:
        raise InputError(f"{path}: not JSON of ours (nested too deep){_then(remedy)}") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}){_then(remedy)}") from None


def read_object(path: Path, kinds: dict[str, tuple[type, ...]], what: str, remedy: str) -> dict[str, Any]:
    """Read a JSON object that has the keys of `kinds`, each with a value of one of its types. Raises as `read_json`.

    `what` the file should be, for the message; true and false are no numbers.
    """
    return check_object(path, read_json(path, remedy), kinds, what, remedy)


def check_object(path: Path, value: Any, kinds: dict[str, tuple[type, ...]], what: str, remedy: str) -> dict[str, Any]:
    """`value`, read from `path`, if it is an object that has these keys; else InputError, as `read_object` has it."""
    if not isinstance(value, dict):
        raise InputError(f"{path}: not {what}: no JSON object{_then(remedy)}")
    for key, kind in kinds.items():
        if key not in value:
            raise InputError(f"{path}: not {what}: no {key}{_then(remedy)}")
        if type(value[key]) not in kind:
            raise InputError(f"{path}: not {what}: {key} is {shown(value[key])}{_then(remedy)}")
    return value


def read_bytes(path: Path, remedy: str = "") -> bytes:
    """The content of a regular file; InputError for anything else, a FIFO say, which would be waited for without end.

    A file that is not there stays FileNotFoundError.
    """
    try:
        check_regular(path, remedy)
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}){_then(remedy)}") from None


def read_text(path: Path, remedy: str = "") -> str:
    """The content of a regular file as UTF-8; raises as `read_bytes` does, and InputError for other bytes."""
    try:
        return read_bytes(path, remedy).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}){_then(remedy)}") from None


def check_regular(path: Path, remedy: str = "") -> None:
    """Raise InputError if `path` is there and is no file (a folder, a FIFO, a device); OSError if it is not there."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        what = next((name for test, name in KINDS.items() if test(mode)), "no file")
        raise InputError(f"{path}: {what}, where a file must be{_then(remedy)}")


def shown(value: Any) -> str:
    """A value as short text for a message."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 1]}…"


def _encodable(value: Any) -> bool:
    """Whether a JSON value can be written: escapes of half a surrogate pair are read without a word."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"it says {next(key for key in keys if keys.count(key) > 1)!r} twice")
    return found


def _then(remedy: str) -> str:
    return f"; {remedy}" if remedy else ""


@contextlib.contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Raise OSError on `path` where safetensors names the system's error, a full disk say, in its message alone."""
    from safetensors import SafetensorError

    try:
        yield
    except SafetensorError as error:
        if found := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
        raise


def shared(folder: Path) -> None:
    """Give the files that a library made in `folder` the mode of new files: who the umask allows can read them.

    safetensors (0.8) keeps what it writes to its owner, whatever the umask.
    """
    probe = folder / f".mode.{os.getpid()}"  # the umask, and what the folder itself says (ACLs)
    try:
        probe.touch()
        mode = stat.S_IMODE(probe.stat().st_mode)
    finally:
        probe.unlink(missing_ok=True)
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) != mode:
            with contextlib.suppress(PermissionError):  # some file systems have no modes
                path.chmod(mode)


def sha256(path: Path) -> str:
    """The file's SHA-256, as lower-case hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(paths: Iterable[Path]) -> str:
    """SHA-256 over the names and contents of files."""
    return code.digest([[path.name, sha256(path)] for path in paths])


FILES, WEIGHTS, SHA256 = "files", "weights", "sha256"
KEYS = (WEIGHTS, FILES, SHA256)  # that `seal` adds
KEPT, NOT_KEPT = "kept", "not kept"
GENERAL = "predictions_general.csv"
PREDICTIONS, HELDOUT = "predictions.csv", "predictions_heldout.csv"
OUTPUTS, SCORES = "outputs.jsonl", "scores.csv"  # what a model answered, and what each answer adds to its metrics
NAMES = (
    *("summary.csv", "metrics.csv", "env.json", PREDICTIONS, HELDOUT),
    *(GENERAL, OUTPUTS, SCORES),
)
FOLDERS = ("adapter", "checkpoint")  # of a run's weights
TENSORS = ".safetensors"
REMEDY = "delete the run's folder and run it again"


def seal(summary: dict[str, Any], folder: Path) -> dict[str, Any]:
    """`summary` with the three keys, of the results that stand in `folder`."""
    found = {path.relative_to(folder).as_posix(): sha256(path) for path in _published(folder)}
    kept = KEPT if any(is_weight(name) for name in found) else NOT_KEPT
    own = {key: value for key, value in summary.items() if key not in KEYS}
    return signed({**own, WEIGHTS: kept, FILES: found})


def check_summary(summary: Any, path: Path) -> None:
    """Raise InputError unless `summary`, read from `path`, is as it was sealed."""
    if not isinstance(summary, dict):
        raise InputError(f"{path}: not a run's summary, which is a JSON object; {REMEDY}")
    missing = [key for key in KEYS if key not in summary]
    if missing:
        raise InputError(f"{path}: no {', '.join(missing)}, which every run writes; {REMEDY}")
    if summary[SHA256] != signed(summary)[SHA256]:
        raise InputError(f"{path}: changed after the run wrote it: its content is not that of its sha256; {REMEDY}")
    if not _is_listing(summary[FILES]) or summary[WEIGHTS] not in (KEPT, NOT_KEPT):
        raise InputError(f"{path}: files and weights are not what a run writes; {REMEDY}")


def check_files(run_folder: Path, summary: dict[str, Any], names: Iterable[str] | None = None) -> None:
    """Raise InputError for a published file that is missing or has other content.

    `names`: only these files, as the summary lists them; None: all. A name that the summary does not list is missing
    from it, and so an error too.
    """
    listed = summary[FILES]
    for name in sorted(listed if names is None else names):
        path = run_folder / name
        if name not in listed:
            raise InputError(f"{path}: the run's summary does not list it; {REMEDY}")
        if not path.is_file():
            raise InputError(f"{path}: missing, though the run's summary lists it; {REMEDY}")
        if sha256(path) != listed[name]:
            raise InputError(f"{path}: changed after the run wrote it: its SHA-256 is not the summary's; {REMEDY}")


def expected(run_folder: Path, summary: dict[str, Any], keep_weights: bool = True) -> list[str]:
    """The published files that must stand. All of them; but without `keep_weights` a run may have lost its weights.

    It has where no file of tensors is there: rsync may have left those alone out, and what lies beside them stayed.
    """
    weights = weight_files(summary)
    gone = [name for name in weights if not (run_folder / name).exists()]
    if keep_weights or any(name.endswith(TENSORS) for name in weights if name not in gone):
        gone = []
    return sorted(set(summary[FILES]) - set(gone))


def weight_files(summary: dict[str, Any]) -> list[str]:
    """The files of the run's weights that its summary lists: all that stands in adapter/ or checkpoint/."""
    return sorted(name for name in summary[FILES] if is_weight(name))


def other_files(summary: dict[str, Any]) -> list[str]:
    """The files that the run's summary lists beside its weights: predictions, metrics, env.json, summary.csv."""
    return sorted(name for name in summary[FILES] if not is_weight(name))


def is_weight(name: str) -> bool:
    """Whether a published file is of the run's weights."""
    return name.partition("/")[0] in FOLDERS


ANSWER: dict[str, tuple[type, ...]] = {"row": (int,), "output": (str,), "tokens": (int,), "ended": (bool,)}


def read_outputs(path: Path) -> list[dict[str, Any]]:
    """The answers of a run, a JSON object a line, with the keys of ANSWER. Raises InputError for other content."""
    found = []
    for number, line in enumerate(read_text(path, REMEDY).split("\n")[:-1], 1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not JSON ({error}); {REMEDY}") from None
        found.append(check_object(path, value, ANSWER, f"answers of a run (line {number})", REMEDY))
    return found


def signed(value: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with `sha256`, the SHA-256 of the rest of it in code.digest's form."""
    content = {key: found for key, found in value.items() if key != SHA256}
    return {**content, SHA256: code.digest(content)}


def read_signed(path: Path) -> dict[str, Any]:
    """The JSON object that `signed` made, without `sha256`. Raises FileNotFoundError, or InputError if it changed."""
    value = read_json(path)
    if not isinstance(value, dict) or value.get(SHA256) != signed(value)[SHA256]:
        raise InputError(f"{path}: changed after it was written: its content is not that of its sha256")
    return {key: found for key, found in value.items() if key != SHA256}


def _published(folder: Path) -> Iterator[Path]:
    yield from (folder / name for name in NAMES if (folder / name).is_file())
    for name in FOLDERS:
        yield from sorted(path for path in (folder / name).rglob("*") if path.is_file())


def _is_listing(value: Any) -> bool:
    """Whether it is an object of checksums by names that stay in the run's folder."""
    return isinstance(value, dict) and all(
        isinstance(sha256, str) and not name.startswith("/") and ".." not in name.split("/")
        for name, sha256 in value.items()
    )


if TYPE_CHECKING:
    import pandas as pd

MARK = "'"  # a spreadsheet takes what follows it for text
# What a spreadsheet may take for a formula, behind white space and signs that cannot be seen too.
FORMULA = re.compile(r"[\s\x00-\x1f\u200b-\u200f\u2060\ufeff]*[=+\-@＝＋－＠]|[\t\r\n]")
MARKED = re.compile(rf"{MARK}+(?:{FORMULA.pattern})")
NUMBER = re.compile(r"-?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|-?(?:inf|nan)", re.IGNORECASE)


def marked(value: Any) -> Any:
    """A cell as it is written: a text that would be computed gets a MARK before it; anything else stays."""
    if not isinstance(value, str) or NUMBER.fullmatch(value):
        return value
    return MARK + value if FORMULA.match(value) or MARKED.match(value) else value


def unmarked(value: Any) -> Any:
    """A cell as it was before `marked`."""
    return value[len(MARK) :] if isinstance(value, str) and MARKED.match(value) else value


def _cell(value: Any) -> Any:
    """`marked`; without carriage returns, which end a row though they stand in no quotes."""
    return marked(value.replace("\r\n", "\n").replace("\r", "\n") if isinstance(value, str) else value)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows of the same keys, the header first."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows({key: marked(value) for key, value in row.items()} for row in rows)


def rows_to_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as `to_csv` writes a table, where pandas is not to be loaded; what a row lacks, or is None, is empty."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(map(_cell, columns))
    lines.writerows([_cell(row.get(name)) for name in columns] for row in rows)
    return text.getvalue()


def to_csv(frame: "pd.DataFrame") -> str:
    """The table as CSV, its texts and the names of its columns marked, line breaks in them as "\\n"."""
    texts = frame.select_dtypes(include=["object", "string", "category"]).columns
    shown = frame.astype(dict.fromkeys(texts, object))
    shown[texts] = shown[texts].map(_cell)
    return shown.rename(columns=_cell).to_csv(index=False, lineterminator="\n")


def restored(frame: "pd.DataFrame") -> "pd.DataFrame":
    """A table that was read from what `to_csv` made, as it was before."""
    texts = frame.select_dtypes(include=["object", "string"]).columns
    changed = {name: frame[name].map(unmarked) for name in texts}
    return frame.assign(**changed).rename(columns=unmarked) if changed else frame.rename(columns=unmarked)


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; a link takes none."""
    if path.is_symlink() or not path.exists():
        return 0
    return sum(map(size, path.iterdir())) if path.is_dir() else path.stat().st_size
