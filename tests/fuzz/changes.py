"""Changes that make a broken file of a whole one: of its bytes, its lines and its JSON."""

import json
from typing import Any

from hypothesis import strategies as st

# Words at which readers of text, CSV, JSON, YAML and safetensors take another turn.
WORDS = [
    *(b'"', b'""', b"'", b",", b"\t", b"\n", b"\r", b"\r\n", b";", b"\\", b"\0", b"{", b"}", b"[", b"]", b":", b"#"),
    *(b"nan", b"NaN", b"inf", b"-inf", b"null", b"None", b"true", b"True", b"1e999", b"-1", b"0.0", b"00", b"1_0"),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\xe2\x80\x8b", b"e\xcc\x81", b"\xed\xa0\x80", b"\xc2\xa0"),
    *(b"\x1f\x8b", b"PK\x03\x04", b"PAR1", b"version https://git-lfs.github.com/spec/v1\n", b"\\ud800", b"&a [*a]"),
    *(b"~", b"$HOME", b"${X}", b"../", b"/dev/null", b"-x", b" ", b"  ", b"---\n", b"...\n", b"? ", b"- ", b"|\n"),
    *(b"<<: *x", b"!!python", b">\n", b"%", b"0x1"),
]  # fmt: skip
POSITION = st.floats(0, 1, exclude_max=True)  # of the whole
BYTES = st.one_of(st.sampled_from(WORDS), st.binary(min_size=1, max_size=8))
CHANGE = st.one_of(
    st.tuples(st.just("flip"), POSITION, st.integers(0, 7)),
    st.tuples(st.just("insert"), POSITION, BYTES),
    st.tuples(st.just("overwrite"), POSITION, BYTES),
    st.tuples(st.just("cut"), POSITION, st.just(b"")),
    st.tuples(st.just("delete"), POSITION, st.integers(1, 64)),
    st.tuples(st.just("repeat"), POSITION, st.integers(1, 64)),
    st.tuples(st.just("drop line"), POSITION, st.just(0)),
    st.tuples(st.just("double line"), POSITION, st.just(0)),
)
CHANGES = st.lists(CHANGE, min_size=1, max_size=6)

TEXTS = st.one_of(
    st.sampled_from([word.decode("utf-8", "surrogateescape") for word in WORDS if b"\xed" not in word]),
    st.text(max_size=12),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.integers(),
    st.sampled_from([1e308, -0.0, 5e-324, 10**400, 2**63, float("nan"), float("inf")]),
    st.floats(),
    TEXTS,
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
EDIT = st.tuples(st.sampled_from(["set", "remove", "rename", "copy"]), POSITION, VALUES, TEXTS)
EDITS = st.lists(EDIT, min_size=1, max_size=3)


def changed(content: bytes, changes: list[tuple[str, float, Any]]) -> bytes:
    """`content` after `changes` (of CHANGES), each at its share of the length."""
    for kind, share, what in changes:
        if kind in ("drop line", "double line"):
            lines = content.splitlines(keepends=True)
            if lines:
                at = int(share * len(lines))
                lines[at : at + 1] = [] if kind == "drop line" else [lines[at]] * 2
            content = b"".join(lines)
            continue
        at = int(share * len(content))
        match kind:
            case "flip" if content:
                content = content[:at] + bytes([content[at] ^ 1 << what]) + content[at + 1 :]
            case "insert":
                content = content[:at] + what + content[at:]
            case "overwrite":
                content = content[:at] + what + content[at + len(what) :]
            case "cut":
                content = content[:at]
            case "delete":
                content = content[:at] + content[at + what :]
            case "repeat":
                content = content[: at + what] + content[at:]
    return content


def edited(tree: Any, edits: list[tuple[str, float, Any, str]]) -> Any:
    """A JSON value after `edits` (of EDITS), each at its share of all keys and items."""
    tree = json.loads(json.dumps(tree))
    for kind, share, value, name in edits:
        places = list(_places(tree))
        if not places:
            return value
        holder, key = places[int(share * len(places))]
        match kind:
            case "set":
                holder[key] = value
            case "remove":
                del holder[key]
            case "rename" if isinstance(holder, dict):
                holder[name] = holder.pop(key)
            case "copy" if isinstance(holder, dict):
                holder[name] = holder[key]
            case _:
                holder[key] = name
    return tree


def _places(tree: Any) -> Any:
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])
