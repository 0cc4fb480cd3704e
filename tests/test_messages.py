# SPDX-License-Identifier: AGPL-3.0-only
"""Ids of log messages, the fields that go with them, and the catalog that explains them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from plexus_registry import messages
from plexus_registry.messages import FIELDS, fields

CATALOG = (Path(__file__).parents[1] / "systemd/plexus-registry.catalog").read_text("utf-8")
IDS = {
    name: value
    for name, value in vars(messages).items()
    if name.isupper() and isinstance(value, str)
}


def test_ids_are_128_bits_and_distinct() -> None:
    """An id is 32 lower-case hexadecimal digits (sd-id128(3)), and no two are the same."""
    assert len(IDS) >= 8
    for value in IDS.values():
        assert re.fullmatch(r"[0-9a-f]{32}", value)
        assert int(value, 16)
    assert len(set(IDS.values())) == len(IDS)


def test_catalog_explains_each_id_once_and_no_other() -> None:
    """`journalctl --catalog` has a text for every message with an id."""
    explained = re.findall(r"^-- (\S+)$", CATALOG, re.MULTILINE)

    assert sorted(explained) == sorted(IDS.values())


def test_catalog_entries_have_a_subject_and_refer_to_known_fields() -> None:
    """Each has the headers of a catalog entry, a text, and only fields that a message carries."""
    _, *entries = re.split(r"^-- ", CATALOG, flags=re.MULTILINE)
    for entry in entries:
        headers, _, text = entry.partition("\n\n")
        names = [line.partition(": ")[0] for line in headers.splitlines()[1:]]
        assert names == ["Subject", "Defined-By", "Documentation"]
        assert text.strip()
        assert set(re.findall(r"@(\w+)@", entry)) <= {*FIELDS}
        assert all(len(line) <= 100 for line in entry.splitlines() if not line.startswith(" "))


def test_catalog_advises_to_check_what_the_service_reads() -> None:
    """All of it, tokens and certificate included, wherever its settings put them."""
    advised = re.findall(r"^ +(plexus-registry .*--check-config.*)$", CATALOG, re.MULTILINE)
    assert set(advised) == {"plexus-registry --system --check-config"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"message_id": "i"}, {"MESSAGE_ID": "i"}),
        ({"backend": "b", "peer": ""}, {"PLEXUS_BACKEND": "b"}),
        (
            {"message_id": "i", "backend": "b", "peer": "p"},
            {"MESSAGE_ID": "i", "PLEXUS_BACKEND": "b", "PLEXUS_PEER": "p"},
        ),
    ],
)
def test_fields_leave_out_what_is_empty(given: dict[str, str], expected: dict[str, str]) -> None:
    """An empty field would be found by whoever looks for any value of it."""
    assert fields(**given) == expected
