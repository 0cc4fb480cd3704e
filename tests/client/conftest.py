# SPDX-License-Identifier: AGPL-3.0-only
"""Fixtures of the client's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.resolver import Resolver, join_look_ups, mute_resolver


@pytest.fixture(autouse=True)
def no_look_up_is_left() -> Iterator[None]:
    """End no test before its look-ups of names have."""
    yield
    join_look_ups()


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    """The resolver of this process, which hangs for mute names."""
    with mute_resolver() as resolver:
        yield resolver
