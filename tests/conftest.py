# SPDX-License-Identifier: AGPL-3.0-only
"""Fixtures of all tests, and the check that none leaves anything running."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from plexus_registry.config.settings import Settings
from support.conversation import Conversation, conversation
from support.serving import Served, serving

# A background job of a shell ignores the first two, one under nohup(1) the last; so would every
# program that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
for number in (signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)

# The same examples in every run, so that a run that fails fails again. To look for new ones:
# HYPOTHESIS_PROFILE=search.
hypothesis.settings.register_profile("repeatable", derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("search", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


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
