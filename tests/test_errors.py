# SPDX-License-Identifier: AGPL-3.0-only
"""What errors and log lines show of values that others chose."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from plexus_registry import errors
from plexus_registry.errors import ConfigError, Fault, InvalidValue, quote, word

MEBIBYTE = 1 << 20
QUOTED_MAX = 280
"""240 of the text itself, and how much of it there was."""

SHOWN: list[tuple[Any, str]] = [
    ("dev", '"dev"'),
    ("", '""'),
    ('say "hi"', '"say \\"hi\\""'),
    ("two\nlines", '"two\\nlines"'),
    ("\x1b[31m", '"\\u001b[31m"'),
    ("café", '"caf\\u00e9"'),
    ("\ud800", '"\\ud800"'),
    (True, "true"),
    (None, "null"),
    (0, "0"),
    (-70000, "-70000"),
    (2**127, str(2**127)),
    (10**5000, "an integer beyond 128 bits"),
    (1.5, "1.5"),
    (float("inf"), "inf"),
    ([1, 2], "a list of 2"),
    ({"a": 1}, "a table of 1"),
    (b"x", "a bytes"),
]


@pytest.mark.parametrize(("value", "shown"), SHOWN, ids=[shown for _, shown in SHOWN])
def test_a_quoted_value_looks_like_json(value: object, shown: str) -> None:
    """A value is shown as JSON where that is short, else by its type and size."""
    assert quote(value) == shown


def test_a_long_text_is_cut_and_its_length_told() -> None:
    """Of a text beyond 80 characters the first 80 are shown, and how many there were."""
    assert quote("x" * 80) == f'"{"x" * 80}"'
    assert quote("x" * 81) == f'"{"x" * 80}"… (81 characters)'


@settings(deadline=None)
@given(st.text(alphabet=st.characters(), max_size=200))
@example("😀" * MEBIBYTE)
@example("\n" * MEBIBYTE)
@example("é" * 41)
def test_a_quoted_text_neither_floods_nor_forges(text: str) -> None:
    """Whatever the text, it takes one short line of ASCII and names a beginning of it."""
    shown, cut, rest = quote(text).partition("…")
    assert len(shown) + len(rest) <= QUOTED_MAX
    assert shown.isascii()
    assert shown.isprintable()
    whole = json.loads(shown)
    assert text.startswith(whole)
    assert rest == (f" ({len(text)} characters)" if cut else "")
    assert bool(cut) == (whole != text)


@pytest.mark.parametrize(
    "text", ["a", "dev", "größe", "127.0.0.1:40000", "ws://[::1]:4444", "a=b", "x" * 128]
)
def test_one_plain_word_is_shown_as_it_is(text: str) -> None:
    """A printable text without white space needs no quotes."""
    assert word(text) == text


@pytest.mark.parametrize(
    "text",
    ["", " ", "two words", "a\nb", "a\xa0b", "a\u2028b", "a\u202eb", "a\x00", "\ud800", "x" * 129],
    ids=ascii,
)
def test_anything_but_a_plain_word_is_quoted(text: str) -> None:
    """Empty, long or unprintable text and white space are shown in quotes."""
    assert word(text) == quote(text)


@settings(deadline=None)
@given(st.text(), st.text())
@example("\x00", '"\\u0000"')
def test_two_texts_are_never_shown_as_the_same_word(one: str, other: str) -> None:
    """A text that looks quoted is quoted itself, so a short text cannot pass for another."""
    if one != other and max(len(one), len(other)) <= 20:
        assert word(one) != word(other)


def test_an_invalid_value_names_field_value_and_what_is_accepted() -> None:
    """The message is one sentence with all three, and the field can be asked for."""
    fault = InvalidValue("port", 70000, "an integer from 1 to 65535")
    assert str(fault) == "port: 70000 is not accepted, expected an integer from 1 to 65535"
    assert (fault.field, fault.accepted) == ("port", "an integer from 1 to 65535")


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault("backends.toml", 3, "no"), "backends.toml:3: no"),
        (Fault("$REGISTRY_PORT", 0, "no"), "$REGISTRY_PORT: no"),
    ],
)
def test_a_fault_names_its_place(fault: Fault, text: str) -> None:
    """A fault in a file has a line, one in a setting has none."""
    assert str(fault) == text


def test_a_configuration_error_shows_the_first_fault_and_counts_the_others() -> None:
    """The sentence stays short however many faults there are."""
    faults = [Fault("a.toml", line, "no") for line in range(1, 4)]
    assert str(ConfigError(faults[:1])) == "a.toml:1: no"
    assert str(ConfigError(faults)) == "a.toml:1: no (and 2 more)"
    assert ConfigError(faults).faults == faults


def test_the_documented_tree_is_the_tree_of_classes() -> None:
    """The docstring of the module draws every class under its base."""
    assert errors.__doc__
    drawn = re.findall(r"^    (\W*)([A-Z]\w+)", errors.__doc__, re.MULTILINE)
    ancestors: dict[int, str] = {}
    bases = {}
    for branch, name in drawn:
        depth = len(branch) // 4
        ancestors[depth] = name
        bases[name] = ancestors.get(depth - 1, "Exception")
    classes = {
        name: kind.__base__.__name__
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, Exception) and kind.__base__
    }
    assert bases == classes
