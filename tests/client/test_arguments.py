# SPDX-License-Identifier: AGPL-3.0-only
"""What callers give: requests that have a JSON text, and those that have none."""

from __future__ import annotations

from typing import Any

import pytest

from plexus_registry.client.arguments import encoded
from plexus_registry.errors import InvalidValue

ENDLESS: dict[str, Any] = {}
ENDLESS["self"] = ENDLESS


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"sound": 1, "name": "\ud800"}, "name"),
        ({"metadata": {"pid": object()}}, "pid"),
        ({"metadata": {"pids": ["\udcff"]}}, "pids"),
        ({"metadata": {"\ud800": 1}}, "metadata"),
        ({"metadata": {(1, 2): 3}}, "metadata"),
        ("\ud800", "params"),
        ({"metadata": ENDLESS}, "params"),
    ],
)
def test_what_has_no_json_is_told_by_its_name(params: object, field: str) -> None:
    """The innermost, but of what has no end the outermost; in words that can be printed."""
    with pytest.raises(InvalidValue) as refused:
        encoded({"method": "m", "params": {"method": "n", "params": params}})
    assert refused.value.field == field
    assert str(refused.value).isascii()


def test_what_has_json_is_as_it_was() -> None:
    """Whatever Unicode has."""
    assert encoded({"name": "é\U0001f600"}) == '{"name":"é\U0001f600"}'.encode()
