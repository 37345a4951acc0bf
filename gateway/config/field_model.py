"""Format of one field of a reading and of the payload around it: parts of an entry of `routes`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    PlainSerializer,
    Tag,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from gateway.config.types import Expression, FieldName, Section, fault, reading, setting
from gateway.core.events import FieldValue
from gateway.decode.decoders.delimited import CsvSpec
from gateway.decode.fields import FieldSpec, word
from gateway.decode.formulas import Formula
from gateway.decode.payload import PayloadSpec, check_charset


def _formula(text: str) -> str:
    Formula(text)
    return text


FormulaText = Annotated[
    str, AfterValidator(reading(_formula)), WithJsonSchema({"type": "string", "$comment": "CEL"})
]
"""A CEL expression in which every number is a double."""


def _words(value: object) -> object:
    """Keys of `map` as text, as they stand in the file."""
    if not isinstance(value, Mapping):
        return value
    return {word(key) if word(key) is not None else key: number for key, number in value.items()}


Words = Annotated[
    Mapping[str, FieldValue],
    BeforeValidator(_words),
    AfterValidator(lambda words: MappingProxyType(dict(words))),
    PlainSerializer(dict, return_type=dict[str, FieldValue]),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["number", "string", "boolean"]}}),
]


class FieldModel(Section):
    """One field where a path alone is not enough: found, parsed, mapped, then `× scale + offset`."""

    from_: Expression | None = setting(
        None, description="Where the value stands, as JMESPath or `{level}`.", alias="from"
    )
    parse: Literal["number", "json", "hex", "base64"] | None = setting(
        None,
        description="How text is read. `number`: `21,5`, `20.6 °C`, `-76 dBm`, `0x1F`. `json`: text that is "
        "JSON; of a path, the rest is looked up inside. `hex`: a whole number. `base64`: text.",
    )
    map: Words | None = setting(
        None,
        description="Words and what they count as. Any other word, null or absence is a miss.",
        examples=[{"OPEN": 1, "CLOSED": 0}],
    )
    scale: float = setting(1.0, description="Factor, applied after `parse` and `map`.")
    offset: float = setting(0.0, description="What is added after `scale`.")
    unit: str = setting(
        "",
        description="Unit of the result, for people and in window results.",
        max_length=32,
        examples=["kWh"],
    )
    compute: FormulaText | None = setting(
        None,
        description="Instead of `from`: a [CEL](https://cel.dev) expression over the fields before it, the "
        "members of the item and the levels of the topic.",
        examples=["t - (100.0 - h) / 5.0"],
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> FieldModel:
        reading(lambda _: self.spec())(None)
        return self

    def spec(self) -> FieldSpec:
        """Return the record for `gateway.decode.fields`."""
        return FieldSpec(self.from_, self.scale, self.offset, self.unit, self.map, self.parse, self.compute)


def _kind(value: object) -> str:
    return "[section]" if isinstance(value, (dict, FieldModel)) else "[expression]"


FieldEntry = Annotated[
    Annotated[Expression, Tag("[expression]")] | Annotated[FieldModel, Tag("[section]")], Discriminator(_kind)
]


def _dumped(fields: Mapping[str, str | FieldModel]) -> dict[str, Any]:
    return {
        name: entry if isinstance(entry, str) else entry.model_dump(by_alias=True, exclude_defaults=True)
        for name, entry in fields.items()
    }


Fields = Annotated[
    Mapping[FieldName, FieldEntry],
    AfterValidator(lambda fields: MappingProxyType(dict(fields))),
    PlainSerializer(_dumped, return_type=dict[str, Any]),
]


class PayloadModel(Section):
    """Encoding around the text or bytes that the decoder reads."""

    compression: Literal["auto", "none", "gzip", "zlib", "deflate", "zstd"] = setting(
        "auto", description="`auto`: a payload that the decoder refuses is tried as each of them."
    )
    charset: Annotated[str, AfterValidator(reading(check_charset))] = setting(
        "auto",
        description="`auto`: UTF-8, a byte order mark, UTF-16, else Latin-1, which is counted. Or a name "
        "such as `utf-16` or `cp1252`.",
    )
    encoding: Literal["none", "base64", "hex"] = setting(
        "none",
        description=(
            "Encoding of payloads that are bytes written as text; they are turned back into bytes first."
        ),
    )
    duplicates: Literal["last", "number"] = setting(
        "last",
        description=(
            "For JSON objects that have a key twice. `last`: the last value is used. `number`: all are "
            "used, the second as `name-2`; this is counted."
        ),
    )

    def spec(self) -> PayloadSpec:
        """Return the record for `gateway.decode.payload`."""
        return PayloadSpec(self.compression, self.charset, self.encoding, self.duplicates)


def _one_character(value: str) -> str:
    value = {"tab": "\t", "\\t": "\t"}.get(value, value)
    if len(value) != 1 or value in '"\r\n':
        raise fault("must be one character, or tab")
    return value


Separator = Annotated[str, AfterValidator(_one_character)]


class CsvModel(Section):
    """Format of lines for the decoder `csv`."""

    columns: tuple[FieldName, ...] = setting(
        (), description="Names of the columns. Unset: those of the header, else `c1`, `c2`, …"
    )
    separator: Separator = setting(",", description="Character between two cells, or `tab`.")
    decimal: Literal[".", ","] = setting(".", description="The decimal sign.")
    header: bool = setting(False, description="Whether the first line of each payload names the columns.")

    @field_validator("decimal")
    @classmethod
    def _is_no_separator(cls, decimal: str, info: Any) -> str:
        if decimal == info.data.get("separator"):
            raise fault("the decimal sign is also the separator", 'write separator: ";"')
        return decimal

    @field_validator("columns")
    @classmethod
    def _are_different(cls, columns: tuple[str, ...]) -> tuple[str, ...]:
        if len({*columns}) != len(columns):
            raise fault("names a column twice")
        return columns

    def spec(self) -> CsvSpec:
        """Return the record for `gateway.decode.decoders.delimited`."""
        return CsvSpec(self.columns, self.separator, self.decimal, self.header)
