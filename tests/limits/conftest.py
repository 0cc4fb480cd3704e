# SPDX-License-Identifier: AGPL-3.0-only
"""Daemons with limits low enough to be reached in a second, each with a well-behaved client."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.attacks import (
    BYSTANDER,
    HANDSHAKE_TIMEOUT_S,
    MAX_ANSWER,
    MAX_BUFFERED,
    MAX_CONNECTIONS,
    MAX_ENTRIES,
    MAX_MESSAGE,
    MAX_PER_ADDRESS,
    SLOW_SENDER_TIMEOUT_S,
    Arena,
    program,
)
from support.bystander import Bystander
from support.certificates import Authority
from support.daemon import daemon


@contextlib.contextmanager
def _arena(home: Path, *options: str, ca_file: Path | None = None) -> Iterator[Arena]:
    limits = {
        "--auto-register": "bystander=ws://127.0.0.1:1",
        "--max-connections": MAX_CONNECTIONS,
        "--max-connections-per-address": MAX_PER_ADDRESS,
        "--max-entries": MAX_ENTRIES,
        "--max-message-size": MAX_MESSAGE,
        "--max-answer-size": MAX_ANSWER,
        "--max-buffered-input": MAX_BUFFERED,
        "--max-buffered-output": MAX_BUFFERED,
        "--handshake-timeout": HANDSHAKE_TIMEOUT_S,
        "--slow-sender-timeout": SLOW_SENDER_TIMEOUT_S,
        "--config": home / "backends.toml",
    }
    arguments = [str(word) for pair in limits.items() for word in pair]
    with daemon(home, [*arguments, *options], program=program()) as running:
        port = int(running.url.rpartition(":")[2])
        bystander = Bystander(port, source=BYSTANDER, ca_file=ca_file)
        try:
            bystander.samples()
            yield Arena(home, running, bystander)
        finally:
            bystander.stop()
        assert running.stop() == 0
    assert not [line for line in running.log if "Traceback" in line]


@pytest.fixture(scope="module")
def _plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    with _arena(tmp_path_factory.mktemp("limits")) as arena:
        yield arena


@pytest.fixture(scope="module")
def _secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    home = tmp_path_factory.mktemp("limits-tls")
    authority = Authority(home)
    with _arena(home, *authority.issue().options, ca_file=authority.file) as arena:
        yield arena


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Callable[[str, object], None]:
    """Return what takes figures for the report; record_property is not for all forms of it."""

    def note(name: str, value: object) -> None:
        request.node.user_properties.append((name, value))

    return note


@pytest.fixture
def arena(_plain: Arena, note: Callable[[str, object], None]) -> Arena:
    """A daemon with low limits and a client that asks it all the time."""
    return _plain.recording(note)


@pytest.fixture
def secure_arena(_secure: Arena, note: Callable[[str, object], None]) -> Arena:
    """The same with TLS."""
    return _secure.recording(note)
