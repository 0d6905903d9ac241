"""What a data file really is: told before its name is believed, and before anything is read of it."""

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import socket
import sqlite3
import tarfile
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.data_files import check_head, read_table

COLUMNS = ["text", "label"]
CSV = "text,label\n" + "".join(f"row {i},{i % 2}\n" for i in range(40))
JSONL = "".join(json.dumps({"text": f"中文字{i}", "label": i % 2}, ensure_ascii=False) + "\n" for i in range(40))


def archive(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        for name in names:
            packed.writestr(name, CSV)
    return file.getvalue()


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as packed:
        info = tarfile.TarInfo("a.csv")
        info.size = len(CSV)
        packed.addfile(info, io.BytesIO(CSV.encode()))
    return file.getvalue()


def frame(write: str) -> bytes:
    file = io.BytesIO()
    getattr(pd.DataFrame({"text": ["a", "b"], "label": [0, 1]}), write)(file)
    return file.getvalue()


def database(folder: Path) -> bytes:
    with sqlite3.connect(folder / "db") as connection:
        connection.execute("create table a(b)")
    return (folder / "db").read_bytes()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n"
KINDS = {
    "gzip": ("a.csv", gzip.compress(CSV.encode()), "it is gzip, not a table; unpack it (gunzip)"),
    "zip": ("a.csv", archive("a.csv"), "it is zip, not a table; unpack it (unzip)"),
    "gzip by its own name": ("a.csv.gz", gzip.compress(CSV.encode()), "it is gzip"),
    "gzip named parquet": ("a.parquet", gzip.compress(CSV.encode()), "it is gzip"),
    "bzip2": ("a.tsv", bz2.compress(CSV.encode()), "it is bzip2, not a table; unpack it (bunzip2)"),
    "xz": ("a.jsonl", lzma.compress(CSV.encode()), "it is xz, not a table; unpack it (unxz)"),
    "zstd": ("a.csv", b"\x28\xb5\x2f\xfd\x04", "it is zstd"),
    "7z": ("a.csv", b"7z\xbc\xaf\x27\x1c\x00", "it is 7z"),
    "tar": ("a.csv", tar(), "it is a tar archive, not a table; unpack it (tar xf)"),
    "Excel": ("a.csv", archive("[Content_Types].xml", "xl/workbook.xml"), "an Excel workbook; save its sheet as CSV"),
    "Excel by its own name": ("a.xlsx", archive("xl/workbook.xml"), "an Excel workbook; save its sheet as CSV"),
    "OpenDocument": ("a.csv", archive("mimetype", "content.xml"), "an OpenDocument file; save its sheet"),
    "Git LFS, csv": ("a.csv", POINTER, "a Git LFS pointer, not the file itself; run `git lfs pull`"),
    "Git LFS, jsonl": ("a.jsonl", POINTER, "a Git LFS pointer"),
    "Git LFS, parquet": ("a.parquet", POINTER, "a Git LFS pointer"),
    "git-annex": ("a.csv", b"/annex/objects/SHA256E-s9--0.csv\n", "a git-annex pointer"),
    "Xet": ("a.csv", b"# xet version 0\nfilesize = 9\n", "a Xet pointer, not the file itself; run `git xet pull`"),
    "HTML": ("a.csv", b"\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "an HTML page, perhaps that of a"),
    "HTML named parquet": ("a.parquet", b"<html></html>", "an HTML page"),
    "PDF": ("a.csv", b"%PDF-1.7\n%\xe2\xe3", "a PDF document; export its table as CSV"),
    "pickle": ("a.csv", pickle.dumps({"a": 1}), "a Python pickle, which is never opened"),
    "HDF5": ("a.csv", b"\x89HDF\r\n\x1a\n\x00", "an HDF5 file"),
    "Feather": ("a.csv", frame("to_feather"), "an Arrow or Feather file; write it as Parquet"),
    "Feather named parquet": ("a.parquet", frame("to_feather"), "an Arrow or Feather file"),
    "Parquet named csv": ("a.csv", frame("to_parquet"), "a Parquet file; name it .parquet"),
    "encrypted Parquet": ("a.parquet", b"PARE" + bytes(50) + b"PARE", "an encrypted Parquet file; write it without"),
    "CSV named parquet": ("a.parquet", CSV.encode(), "text, not Parquet; give it the name that it should have"),
    "a JSON array named csv": ("a.csv", b'[\n {"text": "a"}]', "it holds JSON, not column names; name the file .jsonl"),
    "JSON lines named csv": ("a.csv", JSONL.encode(), "it holds JSON, not column names; name the file .jsonl"),
    "a JSON array": ("a.jsonl", b' [\n{"text": "a", "label": 1}\n]', "a JSON array, not JSON lines; write one object"),
    "cut off by a crash": ("a.csv", bytes(999), "it begins with NUL bytes alone"),
    **{
        f"{encoding} of {name}": (name, text.encode(encoding), f"{said}, not UTF-8; convert it: iconv -f {said} -t")
        for name, text in (("a.csv", CSV), ("a.jsonl", JSONL))
        for encoding, said in (
            ("utf-16", "UTF-16"),
            ("utf-16-le", "UTF-16LE"),
            ("utf-16-be", "UTF-16BE"),
            ("utf-32", "UTF-32"),
            ("utf-32-le", "UTF-32LE"),
            ("utf-32-be", "UTF-32BE"),
        )
    },
}


@pytest.mark.parametrize("case", KINDS)
def test_kind_is_told_at_plan_time_and_when_read(tmp_path, case):
    name, content, message = KINDS[case]
    path = tmp_path / name
    path.write_bytes(content)
    for look in (check_head, read_table):
        with pytest.raises(InputError) as raised:
            look(path, COLUMNS)
        assert str(raised.value).startswith(f"{path}: {message}"), raised.value


def test_database(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(database(tmp_path))
    with pytest.raises(InputError, match="an SQLite database; export the table as CSV"):
        check_head(path, COLUMNS)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def a_socket(path: Path) -> None:
    socket.socket(socket.AF_UNIX).bind(path.name)


NODES = {
    "a named pipe": (fifo, "a named pipe, which is never opened; write its content to a file"),
    "a link to one": (link_to_fifo, "a named pipe, which is never opened"),
    "a socket": (a_socket, "a socket, which is never opened"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "a device, which is never opened"),
    "a folder": (Path.mkdir, "a folder; give one file per split"),
    "a link to nothing": (lambda path: path.symlink_to("gone.csv"), "a link to gone.csv, where no file is; correct"),
    "a link to itself": (lambda path: path.symlink_to("a.csv"), "cannot be read (Too many levels of symbolic links)"),
    "an annexed file": (
        lambda path: path.symlink_to(".git/annex/objects/x/y.csv"),
        "a link to .git/annex/objects/x/y.csv, where no file is; git annex get it",
    ),
    "nothing": (lambda path: None, "no such file"),
}


@pytest.mark.parametrize("case", NODES)
def test_what_is_no_regular_file_is_never_opened(tmp_path, monkeypatch, case):
    make, message = NODES[case]
    monkeypatch.chdir(tmp_path)  # the path of a socket is short
    make(tmp_path / "a.csv")
    for look in (check_head, read_table):
        with pytest.raises(InputError, match=r"^a\.csv: ") as raised:
            look(Path("a.csv"), COLUMNS)
        assert message in str(raised.value)


def test_names_that_no_file_can_have():
    for name in ("x" * 300 + ".csv", "nul\0.csv"):
        with pytest.raises(InputError, match="cannot be read"):
            check_head(Path(name), COLUMNS)


@pytest.mark.parametrize(
    "text",
    [
        "text,label\nPAR1,0\nPK,1\n",
        "text,label\n" + "中文,0\n" * 3000,  # the head ends within a character
        "BZh,text,label\n7z,a,0\n%PDF,b,1\n",
        "PAR1,text,label\n1,a,0\n1,a,PAR1\n",
        "text,label\nversion https://git-lfs.github.com/spec/v1,0\n<html>,1\n",
    ],
)
def test_text_that_resembles_another_kind_is_read(tmp_path, text):
    (tmp_path / "a.csv").write_text(text, encoding="utf-8", newline="")
    check_head(tmp_path / "a.csv", COLUMNS)
    assert len(read_table(tmp_path / "a.csv", COLUMNS)) == text.count("\n") - 1
