"""Whether files in the hub's cache are what the hub has: their sizes, hashes and the names of the cache's blobs.

All of this is known offline: the listing of a revision is kept in the cache, and a blob is named by its content.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from huggingface_hub import RepoFile

CHUNK = 1 << 20  # bytes read at once
HEX = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def damaged(folder: Path, names: Iterable[str], tree: Mapping[str, RepoFile]) -> dict[str, str]:
    """What is wrong with those of the files `names` in snapshot `folder` that are not as the hub says, by name.

    `tree` is the revision's listing, as far as it is known. A file of which nothing is known is not damaged.
    """
    found = {}
    for name in sorted(names):
        if said := _difference(folder / name, tree.get(name)):
            found[name] = said
    return found


def _difference(path: Path, entry: RepoFile | None) -> str | None:
    size = path.stat().st_size
    if entry is not None and entry.size != size:
        return f"it has {size} bytes, the hub says {entry.size}"
    told = _told(path, entry)
    if told and not told & _hashes(path, size, {len(one) for one in told}):
        return f"its hash is not the hub's ({sorted(told)[0]})"
    return None


def _told(path: Path, entry: RepoFile | None) -> set[str]:
    """The hashes by which the hub knows the file: that of large files, else Git's, and the blob's name."""
    told = set()
    if entry is not None:
        told.add(entry.lfs.sha256 if entry.lfs is not None else entry.blob_id)
    if path.is_symlink() and (target := path.readlink()).parent.name == "blobs":
        told.add(target.name)
    return {one for one in told if HEX.fullmatch(one)}


def _hashes(path: Path, size: int, lengths: set[int]) -> set[str]:
    """The content's hashes of those lengths: SHA-256, or Git's SHA-1 and, as mirrors give it, the plain one."""
    made = [hashlib.sha256()] if 64 in lengths else []
    if 40 in lengths:
        made += [hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), hashlib.sha1(usedforsecurity=False)]
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            for one in made:
                one.update(chunk)
    return {one.hexdigest() for one in made}
