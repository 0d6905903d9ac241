"""How keys of the configuration are declared: bounds, names, checksums, and blocks that keep their keys' order.

And what a value of a wrong type was meant to be.
"""

import math
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, WrapValidator, model_validator
from pydantic.annotated_handlers import GetJsonSchemaHandler
from typing_extensions import TypeAliasType  # of Python 3.12


class Unique:
    """Of a list whose entries differ."""

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {**handler(core), "uniqueItems": True}


class OneOf:
    """Of a text that must be one of these names, which other rooms list."""

    def __init__(self, names: Iterable[str]):
        self.names = list(names)

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": self.names}


class PerSplit:
    """Of a mapping whose keys are these splits."""

    def __init__(self, *splits: str, required: tuple[str, ...] = ()):
        self.splits, self.required = splits, required

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        found = handler(core)
        needed = {"required": list(self.required)} if self.required else {}
        properties = dict.fromkeys(self.splits, found["additionalProperties"])
        return {"type": "object", "additionalProperties": False, **needed, "properties": properties}


class Exactly:
    """Of a value whose schema is written out here, because JSON says it better than a type."""

    def __init__(self, **schema: Any):
        self.schema = schema

    def __get_pydantic_json_schema__(self, core: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.schema)


def _as_written(value: Any, handler: Callable[[Any], Any]) -> Any:
    handler(value)
    return value


AsWritten = WrapValidator(_as_written)  # 1 stays 1 where a float may stand: settings are hashed as they are written
NonNegative = Annotated[float, Field(ge=0), AsWritten]
Positive = Annotated[float, Field(gt=0), AsWritten]
BelowOne = Annotated[float, Field(ge=0, lt=1), AsWritten]
Share = Annotated[float, Field(ge=0, le=1), AsWritten]
Carved = Annotated[float, Field(gt=0, le=0.9), AsWritten]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Rank = Annotated[int, Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]
Rows = Annotated[int, Field(ge=2)]
Arms = Annotated[list[str], Field(min_length=1), Unique()]
END = r"$(?!\n)"  # Python's $ alone stands before a last line break too
Name = TypeAliasType(
    "Name",
    Annotated[
        str,
        Field(
            description="letters, digits, '.', '_' and '-', starting with a letter or digit, at most 64",
            pattern=f"^[A-Za-z0-9][A-Za-z0-9._-]{{0,63}}{END}",
        ),
    ],
)
Revision = TypeAliasType(
    "Revision",
    Annotated[
        str,
        Field(
            description="a full commit hash (40 hexadecimal digits), so that the run can be repeated",
            pattern=f"^[0-9a-f]{{40}}{END}",
        ),
    ],
)
Requirement = TypeAliasType(
    "Requirement",
    Annotated[
        str,
        Field(description="Pinned wheel (name==version).", pattern=f"^[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+{END}"),
    ],
)
Subfolder = TypeAliasType(
    "Subfolder", Annotated[str, Field(description="Folder of the model inside the wheel.", min_length=1)]
)
_Checksum = Annotated[
    str,
    Field(
        description="must be 64 hexadecimal digits in lower case, as sha256sum prints them",
        pattern=f"^[0-9a-f]{{64}}{END}",
    ),
]
Sha256 = TypeAliasType(
    "Sha256",
    Annotated[dict[str, _Checksum], Field(description="Expected checksum of a file; a mismatch is an error.")],
)
Package = Annotated[str, Field(pattern=f"^[A-Za-z_][A-Za-z0-9_]*{END}")]


def _is_none(value: Any) -> bool:
    return value is None


def _without_null(schema: dict[str, Any]) -> None:
    schema.pop("default")
    alternatives = [option for option in schema.pop("anyOf", []) if option != {"type": "null"}]
    schema.update(*alternatives)


def absent(description: str | None = None, **bounds: Any) -> Any:
    """A key that may be left out and cannot be null; its value is None then."""
    return Field(default=None, description=description, exclude_if=_is_none, json_schema_extra=_without_null, **bounds)


def block(kind: "type[Block]") -> Any:
    """A block that stands with its defaults where it is not given."""
    return Field(default_factory=kind, json_schema_extra={"default": {}})


Conditions = list[dict[str, Any]]


class Block(BaseModel):
    """A mapping of the configuration."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, defer_build=True, regex_engine="python-re", protected_namespaces=()
    )
    conditions: ClassVar[Conditions] = []  # which keys go with which others, in the words of JSON schema
    _written: tuple[str, ...] = PrivateAttr(default=())

    @model_validator(mode="wrap")
    @classmethod
    def _keep_order(cls, value: Any, handler: Callable[[Any], Self]) -> Self:
        found = handler(value)
        if isinstance(value, dict):
            found._written = tuple(value)  # noqa: SLF001  (of this class)
        return found

    def to_dict(self) -> dict[str, Any]:
        """The block as rules and scripts take it: keys as they were written, then the defaults of others."""
        left = [
            name
            for name, field in type(self).model_fields.items()
            if name not in self._written and not (field.exclude_if and field.exclude_if(getattr(self, name)))
        ]
        return {name: _plain(getattr(self, name)) for name in (*self._written, *left)}

    def but(self, **changes: Any) -> Self:
        """The block with other values."""
        return self.model_copy(update=changes)


def _plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, Block) else value


def if_(key: str, value: str) -> dict[str, Any]:
    return {"properties": {key: {"const": value}}}


def none_of(*keys: str, **others: Any) -> dict[str, Any]:
    return {"properties": {**{key: {"not": {}} for key in keys}, **others}}


# Values of a wrong type -----------------------------------------------------------------------------------------------


YES_OR_NO = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
PER_CENT = re.compile(r"([-+]?\d+([.,]\d+)?)\s*%")
WITH_COMMA = re.compile(r"[-+]?\d+,\d+")
THOUSANDS = re.compile(r"[-+]?[1-9]\d{0,2}(,\d{3})+")  # or a decimal comma: 1,000 may be meant as either
WITH_UNIT = re.compile(r"[-+]?\d+(\.\d+)?\s*[A-Za-z/]+")
PARTS = re.compile(r"\s*[,;]\s*|\s+")
LISTED = re.compile(r"\s*[,;]\s*")

Fits = Callable[[Any], bool]


def written(value: Any) -> str:
    """A number or a text as YAML reads it back: 5.0e-05 and 'yes', for 5e-05 would be a text and yes a truth value."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return str(yaml.safe_dump(value, width=math.inf)).removesuffix("\n").removesuffix("\n...")


def as_number(text: str) -> float | None:
    """What a text says as a number, with a decimal comma too; None if it is none, or may be one of two."""
    comma = WITH_COMMA.fullmatch(text) and not THOUSANDS.fullmatch(text)
    try:
        found = float(text.replace(",", ".") if comma else text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def is_rate(value: Any) -> bool:
    """Whether a value may be a learning rate, or a list of them."""
    rates = value if isinstance(value, list) else [value]
    return all(isinstance(one, int | float) and 0 < one < 2 for one in rates)  # 2 % of what?


def how_to_write(value: Any, kinds: Iterable[str], fits: Fits) -> str:
    """How a value of a wrong type is written as one of the JSON types `kinds`, if that can be told; else "".

    `fits`: whether a value may stand there. Nothing is advised that would be refused in turn.
    """
    wanted = set(kinds)
    if isinstance(value, list) and len(value) == 1 and "array" not in wanted and fits(value[0]):
        return "write one value, without brackets"
    if isinstance(value, int | float):
        other = isinstance(value, bool) and not wanted <= {"string", "null"}
        return "put a text in quotes" if "string" in wanted and not other else ""
    text = value.strip() if isinstance(value, str) else ""
    if not text:
        return ""
    if text.lower() in ("none", "null", "nil", "~"):
        return "write null" if "null" in wanted else "write a value, or leave it out"
    if text.lower() in YES_OR_NO and "boolean" in wanted:
        return f"write {str(YES_OR_NO[text.lower()]).lower()}, without quotes"
    return _how_to_write_number(text, wanted, fits) or (_how_to_write_list(text, fits) if "array" in wanted else "")


def _how_to_write_number(text: str, wanted: set[str], fits: Fits) -> str:
    if not {"number", "integer"} & wanted:
        return ""
    if share := PER_CENT.fullmatch(text):
        part = written(round((as_number(share[1]) or 0.0) / 100, 12))
        if not fits(float(part)):
            return ""
        return f"write {part}" + (f" for {text} of 1" if fits(2.0) else "")
    if THOUSANDS.fullmatch(text) and "number" in wanted and "array" not in wanted:
        return "write it without a comma, and decimals behind a point"
    number = as_number(text.replace(",", "") if THOUSANDS.fullmatch(text) else text)
    if number is not None and fits(int(number) if number.is_integer() else number):
        return f"write {written(number)}" + (", without quotes" if text == written(number) else "")
    return "write the number alone, without its unit" if WITH_UNIT.fullmatch(text) else ""


def _how_to_write_list(text: str, fits: Fits) -> str:
    """The parts of a text as numbers or, where these do not fit, as texts."""
    parts = [part for part in PARTS.split(text.strip("[]() ")) if part]
    numbers = [as_number(part) for part in parts]
    named = [part for part in LISTED.split(text.strip("[]()")) if part]  # a name may have spaces in it
    whole: list[Any] = [int(one) if one is not None and one.is_integer() else one for one in numbers]
    found = next((values for values in (whole, named) if None not in values and fits(values)), None)
    if found is None:
        return ""
    several = len(named) == 1 < len(parts) and found == named and fits(parts)
    return f"write [{', '.join(map(written, found))}]" + (
        f", or [{', '.join(parts)}] if it is several" if several else ""
    )
