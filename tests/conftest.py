# SPDX-License-Identifier: AGPL-3.0-only
"""Fixtures of all tests, and the check that none leaves anything running."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from plexus_registry.config.settings import Settings
from support.conversation import Conversation, conversation
from support.serving import Served, serving


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Fail a test that leaves a thread behind."""
    before = set(threading.enumerate())
    yield
    left = set(threading.enumerate()) - before
    assert not left, f"threads left behind: {left}"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a registry that is empty, on a free port, with files in a folder of its own."""
    return Settings(
        port=0,
        database=tmp_path / "registry.db",
        config=tmp_path / "backends.toml",
        auto_register=None,
    )


@pytest.fixture
def served(settings: Settings) -> Iterator[Served]:
    """A running registry."""
    with serving(settings) as served:
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[Conversation]:
    """A client of the running registry."""
    with conversation(served.url) as client:
        yield client
