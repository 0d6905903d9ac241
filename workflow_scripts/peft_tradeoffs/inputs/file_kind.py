"""What a file really is, from its first bytes: an error that says so before its name is believed."""

import os
import re
import stat
import zipfile
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


HEAD = 4096  # bytes
COMPRESSED = {  # first bytes: name, how to unpack it
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"\xfd7zXZ\x00": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
    b"\x04\x22\x4d\x18": ("lz4", "unlz4"),
    b"7z\xbc\xaf\x27\x1c": ("7z", "7z x"),
    **{
        b"BZh%d%s" % (level, block): ("bzip2", "bunzip2")
        for level in range(1, 10)
        for block in (b"1AY&SY", b"\x17rE8P\x90")
    },
    b"Rar!\x1a\x07": ("RAR", "unrar x"),
    b"\x1f\x9d": ("compress (.Z)", "uncompress"),
}
PANDAS = "write it as CSV or Parquet with the tool that made it"
WORKBOOK = "save its sheet as CSV (UTF-8)"
MAGIC = {  # first bytes that no text begins with: name, remedy
    b"%PDF-": ("a PDF document", "export its table as CSV"),
    b"{\\rtf": ("an RTF document", "save its table as plain text, as CSV"),
    b"SQLite format 3\x00": ("an SQLite database", "export the table as CSV"),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an old Excel or Office file", WORKBOOK),
    b"ARROW1\x00\x00": ("an Arrow or Feather file", "write it as Parquet"),
    b"\xff\xff\xff\xff": ("an Arrow stream", "write it as Parquet"),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", PANDAS),
    b"\x93NUMPY": ("a NumPy array", PANDAS),
    b"Obj\x01": ("an Avro file", PANDAS),
    b"ORC\x0a": ("an ORC file", PANDAS),
    b"\x89PNG\r\n\x1a\n": ("an image", "give the table itself"),
    b"\xff\xd8\xff": ("an image", "give the table itself"),
    b"\x7fELF": ("a program", "give the table itself"),
}
ENDS = {  # first and last bytes, which a text may begin with
    b"PAR1": ("a Parquet file", "name it .parquet"),
    b"PARE": ("an encrypted Parquet file", "write it without encryption"),
    b"FEA1": ("a Feather file", "write it as Parquet"),
}
PAGES = (b"<!doctype html", b"<html", b"<head", b"<script")
NODES = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_kind(path: Path) -> None:
    """Raise InputError, which names the kind and the remedy, for a file that is no table or not as its name says.

    Reads the first 4 KiB at most. What is no regular file is never opened, so a pipe does not block. A file that is
    plain text passes whatever its extension, but for .parquet; so does an empty one.
    """
    _check_node(path)
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4))
            tail = file.read(4)
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read: permission denied; chmod it or copy it") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); copy it to another place") from error
    for said in (_pointer, _packed, _other_format, _wide_text):
        if found := said(path, head, tail):
            raise InputError(f"{path}: {found}")


def _check_node(path: Path) -> None:
    """Raise InputError unless `path` leads to a regular file."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_symlink():
            to = str(path.readlink())
            fetch = "git annex get it" if "annex/objects" in to else "correct the link, or name the file itself"
            raise InputError(f"{path}: a link to {to}, where no file is; {fetch}") from error
        raise InputError(f"{path}: no such file; paths are relative to the folder Snakemake runs in") from error
    except PermissionError as error:
        raise InputError(f"{path}: a folder above it cannot be read: permission denied; chmod it") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{path!s:.200}: cannot be read ({reason}); name a regular file") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path}: a folder; give one file per split (.csv, .tsv, .jsonl, .json or .parquet)")
    if not stat.S_ISREG(mode):
        node = NODES.get(stat.S_IFMT(mode), "no regular file")
        raise InputError(f"{path}: {node}, which is never opened; write its content to a file and name that")


def _pointer(path: Path, head: bytes, tail: bytes) -> str | None:
    return pointer_kind(head)


def _packed(path: Path, head: bytes, tail: bytes) -> str | None:
    for magic, (name, unpack) in COMPRESSED.items():
        if head.startswith(magic):
            return f"it is {name}, not a table; unpack it ({unpack}) and name what comes out"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip_kind(path)
    if head[257:262] == b"ustar":
        return "it is a tar archive, not a table; unpack it (tar xf) and name the file in it"
    return None


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile):  # damaged, encrypted or packed in an unknown way
        names = []
    if any(name.startswith("xl/") for name in names):
        return f"an Excel workbook; {WORKBOOK} and name that"
    if "content.xml" in names and "mimetype" in names:
        return f"an OpenDocument file; {WORKBOOK} and name that"
    if any(name.startswith("word/") for name in names):
        return "a Word document; save its table as CSV (UTF-8) and name that"
    return "it is zip, not a table; unpack it (unzip) and name the file in it"


def _other_format(path: Path, head: bytes, tail: bytes) -> str | None:
    parquet = path.suffix.lower() == ".parquet"
    for magic, (name, remedy) in MAGIC.items():
        if head.startswith(magic):
            return f"{name}; {remedy}"
    if head[:4] in ENDS and (tail == head[:4] or not _is_text(head)):
        name, remedy = ENDS[head[:4]]
        return None if parquet and head[:4] == b"PAR1" else f"{name}; {remedy}"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "a Python pickle, which is never opened, for it can run code; write it as CSV or Parquet"
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith(PAGES) or (start.startswith(b"<?xml") and b"<html" in start):
        return "an HTML page, perhaps that of a download or a login; download the file itself"
    if start.startswith(b"<?xml"):
        return "an XML document; save its table as CSV (UTF-8)"
    if head and not head.strip(b"\x00"):
        return "it begins with NUL bytes alone, as files do that were cut off by a crash; copy or download it again"
    if parquet and head and not head.startswith(b"PAR1") and _is_text(head):
        return "text, not Parquet; give it the name that it should have, .csv, .tsv or .jsonl"
    return None


def _is_text(head: bytes) -> bool:
    try:
        head[: HEAD - 4].decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start > len(head) - 8  # cut within a character
    return b"\x00" not in head


def _wide_text(path: Path, head: bytes, tail: bytes) -> str | None:
    """UTF-16 or UTF-32, told by its mark, or by where its zero bytes stand."""
    encoding = None
    if head.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        encoding = "UTF-32"
    elif head.startswith((b"\xff\xfe", b"\xfe\xff")):
        encoding = "UTF-16"
    elif b"\x00" in head and path.suffix.lower() != ".parquet":
        zeros = [head[start::4].count(0) for start in range(4)]
        quarter = len(head) / 4
        if min(zeros[1:]) > 0.6 * quarter or min(zeros[:3]) > 0.6 * quarter:
            encoding = "UTF-32LE" if zeros[0] < zeros[3] else "UTF-32BE"
        else:
            even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
            if max(even, odd) > 0.02 * len(head) and max(even, odd) > 4 * min(even, odd):
                encoding = "UTF-16LE" if odd > even else "UTF-16BE"
        if encoding and not _decodes(head, encoding):
            encoding = None
    if encoding is None:
        return None
    return f"{encoding}, not UTF-8; convert it: iconv -f {encoding} -t UTF-8 {path.name} > utf8{path.suffix}"


def _decodes(head: bytes, encoding: str) -> bool:
    """Whether the head (cut to whole characters of 4 bytes) is text with line ends in this encoding."""
    try:
        text = head[: len(head) // 4 * 4].decode(encoding)
    except UnicodeDecodeError as error:
        if error.start < len(head) - 8:
            return False
        text = head[: error.start].decode(encoding)
    return any(mark in text for mark in "\r\n,;\t{")
