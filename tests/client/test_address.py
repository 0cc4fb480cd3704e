# SPDX-License-Identifier: AGPL-3.0-only
"""Where a client looks for the registry."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from plexus_registry.client import address
from plexus_registry.errors import InvalidValue


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for the address of a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="plexus-") as folder:
        yield Path(folder)


@pytest.fixture
def system_socket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of the system's registry, in a folder of ours."""
    path = folder / "system.sock"
    monkeypatch.setattr(address, "_SYSTEM_SOCKET", path)
    return path


def bind(path: Path) -> None:
    """Leave a socket's file at *path*."""
    path.parent.mkdir(exist_ok=True)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize(
    "url",
    [
        "ws://127.0.0.1:4445",
        "ws://localhost",
        "ws://[::1]:4445/",
        "wss://plexus.example.com:443/registry",
        "unix:/run/plexus-registry/registry.sock",
        "unix:/with space/ü",
    ],
)
def test_url_that_leads_to_a_registry_is_accepted(url: str) -> None:
    """As it is."""
    assert address.check_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:4445",
        "http://localhost:4445",
        "unix:relative",
        "unix:",
        "ws:",
        "ws://",
        "ws://:4445",
        "ws://h:0",
        "ws://h:65536",
        "ws://h:x",
        "ws://[::1",
        "ws://h o",
        "ws://h/#part",
        "ws://h\n",
    ],
)
def test_other_url_is_refused_with_what_would_be_accepted(url: str) -> None:
    """So that it does not fail later, in the words of a library."""
    with pytest.raises(InvalidValue) as refused:
        address.check_url(url)
    assert refused.value.field == "url"
    assert str(refused.value).endswith(
        "is not accepted, expected ws://HOST:PORT, wss://HOST:PORT or unix:/PATH"
    )


def test_variable_comes_first(folder: Path, system_socket: Path) -> None:
    """Whoever sets it means it."""
    bind(system_socket)
    bind(folder / "plexus-registry" / "registry.sock")
    environ = {"PLEXUS_REGISTRY_URL": "ws://elsewhere:1", "XDG_RUNTIME_DIR": str(folder)}

    assert address.find(environ) == "ws://elsewhere:1"
    with pytest.raises(InvalidValue):
        address.find({**environ, "PLEXUS_REGISTRY_URL": "elsewhere"})


def test_users_registry_comes_before_the_systems(folder: Path, system_socket: Path) -> None:
    """Its socket has to be there; an empty variable names nothing."""
    bind(system_socket)
    environ = {"PLEXUS_REGISTRY_URL": "", "XDG_RUNTIME_DIR": str(folder)}
    assert address.find(environ) == f"unix:{system_socket}"

    bind(folder / "plexus-registry" / "registry.sock")
    assert address.find(environ) == f"unix:{folder}/plexus-registry/registry.sock"
    assert address.find({}) == f"unix:{system_socket}"


def test_port_of_this_machine_comes_last(folder: Path, system_socket: Path) -> None:
    """Where no socket is: a regular file is none."""
    system_socket.touch()

    assert address.find({"XDG_RUNTIME_DIR": str(folder)}) == "ws://127.0.0.1:4445"
