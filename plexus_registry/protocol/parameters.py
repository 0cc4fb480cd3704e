# SPDX-License-Identifier: AGPL-3.0-only
"""Parameters of a method: one declaration gives the types, the checks and the JSON Schema.

What is checked here is the type alone; whether a value makes sense (a port of 0, a host name) is
the backend's affair. The wording of type faults follows the Rust servers that clients know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from plexus_registry.backend import PROTOCOLS
from plexus_registry.errors import quote

_encode = msgspec.json.Encoder().encode


class Mismatch(Exception):
    """A value has another type than its parameter."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of parameter.

    Attributes:
        read: Returns the value, or raises `Mismatch`.
        schema: The type's own keys in a JSON Schema.
    """

    read: Callable[[object], Any]
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a method, by name or by place.

    Attributes:
        name: In snake case.
        kind: Its type.
        description: For the published schema.
        required: Whether it must be given.
        default: What absence and null stand for, if it need not be given.
    """

    name: str
    kind: Kind
    description: str
    required: bool = False
    default: Any = None

    @property
    def camel_name(self) -> str:
        """The name in camel case, which direct calls may use too."""
        first, *rest = self.name.split("_")
        return first + "".join(word.capitalize() for word in rest)

    @property
    def schema(self) -> dict[str, Any]:
        """The parameter's JSON Schema, in the form that Synapse's parser reads."""
        schema: dict[str, Any] = {"description": self.description}
        if self.required:
            return schema | self.kind.schema
        if "$ref" in self.kind.schema:
            schema["anyOf"] = [dict(self.kind.schema), {"type": "null"}]
        elif "type" in self.kind.schema:
            schema |= self.kind.schema | {"type": [self.kind.schema["type"], "null"]}
        return schema | {"default": self.default}


def describe(value: object) -> str:
    """Name a JSON value by its type, as in "expected a string" messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return f"boolean `{quote(value)}`"
    if isinstance(value, int):
        return f"integer `{quote(value)}`"
    if isinstance(value, float):
        return f"floating point `{value!r}`"
    if isinstance(value, str):
        return f"string {quote(value)}"
    return "sequence" if isinstance(value, list) else "map"


def _read_string(value: object) -> str:
    if isinstance(value, str):
        return value
    raise Mismatch(f"invalid type: {describe(value)}, expected a string")


def _read_boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise Mismatch(f"invalid type: {describe(value)}, expected a boolean")


def _reader_of_unsigned(bits: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise Mismatch(f"invalid type: {describe(value)}, expected u{bits}")
        if not 0 <= value < 2**bits:
            raise Mismatch(f"invalid value: {describe(value)}, expected u{bits}")
        return value

    return read


def _read_any(value: object) -> object:
    return value


def _read_as_text(value: object) -> str:
    """Return a text as it is, and anything else as its JSON."""
    return value if isinstance(value, str) else _encode(value).decode()


PROTOCOL_DEFINITION = {
    "Protocol": {"description": "URL scheme", "type": "string", "enum": list(PROTOCOLS)}
}

STRING = Kind(_read_string, {"type": "string"})
BOOLEAN = Kind(_read_boolean, {"type": "boolean"})
U16 = Kind(
    _reader_of_unsigned(16),
    {"type": "integer", "format": "uint16", "minimum": 0, "maximum": 65535},
)
U32 = Kind(
    _reader_of_unsigned(32),
    {"type": "integer", "format": "uint32", "minimum": 0, "maximum": 4294967295},
)
PROTOCOL = Kind(_read_string, {"$ref": "#/$defs/Protocol"})
LENIENT_STRING = Kind(_read_as_text, {"type": "string"})
"""A string that hubs of other versions may send as anything; it must not fail the call."""
ANY = Kind(_read_any, {})


def schema_of(parameters: Sequence[Parameter]) -> dict[str, Any]:
    """Return the JSON Schema of the ``params`` object."""
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {parameter.name: parameter.schema for parameter in parameters},
    }
    required = [parameter.name for parameter in parameters if parameter.required]
    if required:
        schema["required"] = required
    if any(parameter.kind is PROTOCOL for parameter in parameters):
        schema["$defs"] = PROTOCOL_DEFINITION
    return schema


def read_routed(
    parameters: Sequence[Parameter], params: object, *, takes_bare_value: bool
) -> list[Any]:
    """Read parameters as the hub's ``call`` passes them (wire protocol, 4.1).

    Args:
        parameters: In the order of their declaration; the first fault is the one reported.
        params: The decoded ``params``.
        takes_bare_value: Anything but an object stands for the first parameter.

    Raises:
        Mismatch: With the text that follows "Invalid params: ".
    """
    if isinstance(params, dict):
        values = []
        for parameter in parameters:
            value = params.get(parameter.name)
            if value is not None:
                values.append(_convert(parameter, value))
            elif not parameter.required:
                values.append(parameter.default)
            else:
                values.append(_read(parameter, parameter.name, params))
        return values
    if takes_bare_value:
        first, *rest = parameters
        return [
            _convert(first, params) if first.required else _convert_optional(first, params),
            *(parameter.default for parameter in rest),
        ]
    if not parameters:
        return []
    raise Mismatch("expected object")


def read_direct(parameters: Sequence[Parameter], params: object) -> list[Any]:
    """Read parameters of a direct call: by name, in either case, or by place (4.2).

    Raises:
        Mismatch: With the text for the error object's ``data``.
    """
    if not parameters:
        return []
    if isinstance(params, dict):
        return [
            _read(
                parameter,
                parameter.name if parameter.name in params else parameter.camel_name,
                params,
            )
            for parameter in parameters
        ]
    if params is None:
        params = []
    if not isinstance(params, list):
        raise Mismatch(f"invalid type: {describe(params)}, expected an object or an array")
    values = []
    for index, parameter in enumerate(parameters):
        if index < len(params):
            convert = _convert if parameter.required else _convert_optional
            values.append(convert(parameter, params[index]))
        elif parameter.required:
            raise Mismatch("No more params")
        else:
            values.append(parameter.default)
    return values


def _read(parameter: Parameter, key: str, params: dict[str, object]) -> Any:
    if not parameter.required:
        return _convert_optional(parameter, params.get(key))
    if key not in params:
        raise Mismatch(f"missing field: {parameter.name}")
    return _convert(parameter, params[key])


def _convert(parameter: Parameter, value: object) -> Any:
    try:
        return parameter.kind.read(value)
    except Mismatch as fault:
        raise Mismatch(f"{fault} for {parameter.name}") from None


def _convert_optional(parameter: Parameter, value: object) -> Any:
    return parameter.default if value is None else _convert(parameter, value)
