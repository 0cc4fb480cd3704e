# SPDX-License-Identifier: AGPL-3.0-only
"""Parameters: how they are read, by name and by place, and how they are published."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from plexus_registry.protocol.parameters import (
    ANY,
    BOOLEAN,
    LENIENT_STRING,
    PROTOCOL,
    STRING,
    U16,
    U32,
    Kind,
    Mismatch,
    Parameter,
    read_direct,
    read_routed,
    schema_of,
)

NAME = Parameter("name", STRING, "Name", required=True)
PORT = Parameter("port", U16, "Port", required=True)
ACTIVE_ONLY = Parameter("active_only", BOOLEAN, "Active", default=True)
TEXT = Parameter("text", STRING, "Text")
SEVERAL = (NAME, PORT, ACTIVE_ONLY, TEXT)


def routed(params: object, *parameters: Parameter, bare: bool = False) -> list[Any] | str:
    """Read routed params; return the values, or the text of the mismatch."""
    try:
        return read_routed(parameters, params, takes_bare_value=bare)
    except Mismatch as mismatch:
        return str(mismatch)


def direct(params: object, *parameters: Parameter) -> list[Any] | str:
    """Read direct params; return the values, or the text of the mismatch."""
    try:
        return read_direct(parameters, params)
    except Mismatch as mismatch:
        return str(mismatch)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (STRING, "", ""),
        (STRING, "x", "x"),
        (STRING, 7, "invalid type: integer `7`, expected a string"),
        (STRING, None, "invalid type: null, expected a string"),
        (STRING, True, "invalid type: boolean `true`, expected a string"),
        (STRING, 1.5, "invalid type: floating point `1.5`, expected a string"),
        (STRING, [], "invalid type: sequence, expected a string"),
        (STRING, {}, "invalid type: map, expected a string"),
        (BOOLEAN, False, False),
        (BOOLEAN, 0, "invalid type: integer `0`, expected a boolean"),
        (BOOLEAN, "true", 'invalid type: string "true", expected a boolean'),
        (U16, 0, 0),
        (U16, 65535, 65535),
        (U16, 65536, "invalid value: integer `65536`, expected u16"),
        (U16, -1, "invalid value: integer `-1`, expected u16"),
        (U16, 2**200, "invalid value: integer `an integer beyond 128 bits`, expected u16"),
        (U16, True, "invalid type: boolean `true`, expected u16"),
        (U16, 80.0, "invalid type: floating point `80.0`, expected u16"),
        (U16, "80", 'invalid type: string "80", expected u16'),
        (U32, 2**32 - 1, 2**32 - 1),
        (U32, 2**32, "invalid value: integer `4294967296`, expected u32"),
        (PROTOCOL, "http", "http"),
        (PROTOCOL, 1, "invalid type: integer `1`, expected a string"),
        (LENIENT_STRING, "x", "x"),
        (LENIENT_STRING, 1.5, "1.5"),
        (LENIENT_STRING, {"a": [None]}, '{"a":[null]}'),
        (LENIENT_STRING, {"ä": 2**70}, '{"ä":1180591620717411303424}'),
        (ANY, "x", "x"),
        (ANY, False, False),
        (ANY, {"ä": [None]}, {"ä": [None]}),
    ],
)
def test_types(kind: Kind, value: object, expected: object) -> None:
    """A value of the type is returned; another is told by its type and what is expected."""
    parameter = Parameter("p", kind, "P", required=True)
    for outcome in (
        routed({"p": value}, parameter),
        direct({"p": value}, parameter),
        direct([value], parameter),
    ):
        assert outcome == ([expected] if not _is_mismatch(expected) else f"{expected} for p")


def _is_mismatch(expected: object) -> bool:
    return isinstance(expected, str) and expected.startswith("invalid ")


@pytest.mark.parametrize("read", [routed, direct])
def test_named_parameters(read: Any) -> None:
    """By name: unknown keys are ignored, null or absent optional ones take their default."""
    assert read({"name": "a", "port": 1}, *SEVERAL) == ["a", 1, True, None]
    given = {"text": None, "active_only": None, "port": 1, "name": "a", "unknown": [1]}
    assert read(given, *SEVERAL) == ["a", 1, True, None]
    given = {"text": "t", "active_only": False, "port": 1, "name": "a"}
    assert read(given, *SEVERAL) == ["a", 1, False, "t"]


@pytest.mark.parametrize("read", [routed, direct])
def test_first_fault_in_the_order_of_declaration_is_told(read: Any) -> None:
    """Of several faults the first parameter's is reported, missing or mistyped."""
    assert read({}, *SEVERAL) == "missing field: name"
    assert read({"port": "x"}, *SEVERAL) == "missing field: name"
    assert read({"name": 1, "port": "x"}, *SEVERAL).startswith("invalid type: integer `1`")
    assert read({"name": "a", "text": 1}, *SEVERAL) == "missing field: port"


@pytest.mark.parametrize("params", [None, [], ["a", 1], "a", 1, True])
def test_routed_calls_need_an_object(params: object) -> None:
    """Several parameters are taken from an object and from nothing else."""
    assert routed(params, *SEVERAL) == "expected object"


def test_routed_bare_value() -> None:
    """Where a bare value is taken, it stands for the first parameter; null for none."""
    assert routed("a", NAME, bare=True) == ["a"]
    assert routed(None, NAME, bare=True) == "invalid type: null, expected a string for name"
    assert routed(["a"], NAME, bare=True) == "invalid type: sequence, expected a string for name"
    assert routed(None, ACTIVE_ONLY, TEXT, bare=True) == [True, None]
    assert routed(False, ACTIVE_ONLY, TEXT, bare=True) == [False, None]


@pytest.mark.parametrize("params", [None, [], {}, "x", {"a": 1}])
def test_methods_without_parameters_take_anything(params: object) -> None:
    """What a method does not know is ignored, directly and routed."""
    assert routed(params) == []
    assert direct(params) == []


def test_direct_camel_case() -> None:
    """Direct calls take camel case too; the snake case spelling counts if both stand."""
    assert ACTIVE_ONLY.camel_name == "activeOnly"
    assert direct({"activeOnly": False}, ACTIVE_ONLY) == [False]
    assert direct({"activeOnly": False, "active_only": True}, ACTIVE_ONLY) == [True]
    assert routed({"activeOnly": False}, ACTIVE_ONLY) == [True]


def test_direct_by_place() -> None:
    """By place: trailing optional values may be missing, surplus ones are ignored."""
    assert direct(["a", 1], *SEVERAL) == ["a", 1, True, None]
    assert direct(["a", 1, None, "t", 5, 6], *SEVERAL) == ["a", 1, True, "t"]
    assert direct(["a"], *SEVERAL) == "No more params"
    assert direct([], *SEVERAL) == "No more params"
    assert direct(None, *SEVERAL) == "No more params"
    assert direct([None, 1], *SEVERAL) == "invalid type: null, expected a string for name"
    assert direct(None, ACTIVE_ONLY) == [True]


@pytest.mark.parametrize("params", ["a", 7, True, 1.5])
def test_direct_scalars_are_refused(params: object) -> None:
    """Direct params are an object or an array."""
    assert "expected an object or an array" in str(direct(params, NAME))


def test_published_schema() -> None:
    """Types, required names and defaults are published; an enum as a named definition."""
    protocol = Parameter("protocol", PROTOCOL, "Protocol", default="ws")
    anything = Parameter("anything", ANY, "Anything")
    assert schema_of((NAME, PORT, ACTIVE_ONLY, protocol, anything)) == {
        "type": "object",
        "properties": {
            "name": {"description": "Name", "type": "string"},
            "port": {
                "description": "Port",
                "type": "integer",
                "format": "uint16",
                "minimum": 0,
                "maximum": 65535,
            },
            "active_only": {
                "description": "Active",
                "type": ["boolean", "null"],
                "default": True,
            },
            "protocol": {
                "description": "Protocol",
                "anyOf": [{"$ref": "#/$defs/Protocol"}, {"type": "null"}],
                "default": "ws",
            },
            "anything": {"description": "Anything", "default": None},
        },
        "required": ["name", "port"],
        "$defs": {
            "Protocol": {"description": "URL scheme", "type": "string", "enum": ["ws", "wss"]}
        },
    }
    assert schema_of((ACTIVE_ONLY,)).keys() == {"type", "properties"}


def test_messages_are_bounded() -> None:
    """A mismatch repeats only so much of what a peer sent."""
    for value in ("x" * 10**6, [0] * 10**6, {"k" * 10**6: 1}, 10**4000):
        outcome = routed({"port": value}, PORT)
        assert isinstance(outcome, str)
        assert len(outcome) < 200
        assert json.loads(msgspec.json.encode(outcome)) == outcome
