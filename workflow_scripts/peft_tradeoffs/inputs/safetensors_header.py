"""What a safetensors file says of its tensors, and whether the file is whole. Reads the header alone."""

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft_tradeoffs.core.errors import InputError
from peft_tradeoffs.inputs.pointers import foreign_content, refuse_pointer

HEADER_LIMIT = 100_000_000  # bytes; the format's own
LENGTH = struct.Struct("<Q")  # the header's length, which stands before it
FLOATS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}  # dtype: bits
BITS = {
    **FLOATS,
    **dict.fromkeys(("C64", "I64", "U64"), 64),
    **dict.fromkeys(("I32", "U32"), 32),
    **dict.fromkeys(("I16", "U16"), 16),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


@dataclass(frozen=True)
class Tensor:
    """One tensor of a header; `dtype` as safetensors names it, F32 say."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors by name. Raises InputError for a file that cannot be read, is another kind of file or not whole."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(LENGTH.size)
            length = LENGTH.unpack(start)[0] if len(start) == LENGTH.size else 0
            text = file.read(length) if 0 < length <= min(HEADER_LIMIT, size - LENGTH.size) else b""
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); correct its mode or copy it") from error
    refuse_pointer(path)
    if not text:
        found = foreign_content(path)
        raise _damaged(path, f"it holds {found}" if found else f"it ends after {size} bytes, within its header")
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "its header is no JSON") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is no JSON object")
    header.pop("__metadata__", None)
    spans = sorted(_span(path, name, value) for name, value in header.items())
    end = 0
    for begins, ends, name in spans:
        if begins != end:
            raise _damaged(path, f"tensor {name} starts at byte {begins}, the one before it ends at {end}")
        end = ends
    if (expected := LENGTH.size + length + end) != size:
        raise _damaged(path, f"it has {size} bytes, its header speaks of {expected}")
    return {name: Tensor(value["dtype"], tuple(value["shape"])) for name, value in header.items()}


def _span(path: Path, name: str, value: Any) -> tuple[int, int, str]:
    """Where the tensor's bytes begin and end, and its name."""
    try:
        shape, (begins, ends), bits = value["shape"], value["data_offsets"], BITS[value["dtype"]]
        whole = all(type(number) is int and number >= 0 for number in (*shape, begins, ends))
    except (TypeError, KeyError, ValueError) as error:
        raise _damaged(path, f"its header describes tensor {name} by {str(value)[:200]}") from error
    if not whole or (ends - begins) * 8 != math.prod(shape) * bits:
        raise _damaged(path, f"tensor {name} has other bytes than its shape needs")
    return begins, ends, name


def _damaged(path: Path, reason: str) -> InputError:
    return InputError(f"{path}: no whole safetensors file: {reason}; download or save it again")
