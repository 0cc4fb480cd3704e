# SPDX-License-Identifier: AGPL-3.0-only
"""An ordinary user's own registry, under the user's systemd."""

from __future__ import annotations

import re

import pytest

from system.machine import Machine
from system.registry import SERVICE, SOCKET, Registry, declaration

USER = "ann"


@pytest.fixture
def of_user(machine: Machine) -> Registry:
    """Return the registry of a user whose systemd runs without a login; the system's is stopped."""
    machine.run("systemctl", "disable", "--now", SOCKET, SERVICE).check()
    machine.run("useradd", "--create-home", "--shell=/bin/sh", USER).check()
    machine.run("loginctl", "enable-linger", USER).check()
    uid, _ = machine.account(USER)
    machine.run("systemctl", "start", f"user@{uid}.service").check()
    return Registry(machine, USER)


def test_first_connection_starts_the_users_registry(of_user: Registry) -> None:
    """`enable --now` of the socket is all; the daemon runs as the user, in a sandbox."""
    of_user.systemctl("enable", "--now", SOCKET).check()
    assert not of_user.is_active(SERVICE)
    uid, home = of_user.machine.account(USER)
    of_user.ask(
        "register",
        url=f"unix:/run/user/{uid}/plexus-registry/registry.sock",
        name="mine",
        host="127.0.0.1",
        port=4444,
    )
    assert of_user.is_active(SERVICE)
    assert of_user.port_of("mine") == 4444
    status = of_user.machine.run("cat", f"/proc/{of_user.pid}/status").check().stdout
    assert re.search(rf"^Uid:\t{uid}\t{uid}\t", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE)
    database = of_user.machine.root / home.lstrip("/") / ".local/state/plexus-registry/registry.db"
    assert database.stat().st_uid == uid


def test_users_registry_reloads_and_restarts(of_user: Registry) -> None:
    """Start, reload of good and broken files, the journal and restart work as in the system."""
    of_user.systemctl("start", SERVICE).check()
    _, home = of_user.machine.account(USER)
    backends = f"{home}/.config/plexus/backends.toml"
    of_user.put(backends, declaration(mine=4001), user=USER)
    of_user.systemctl("reload", SERVICE).check()
    assert of_user.port_of("mine") == 4001
    of_user.put(backends, declaration(mine=0), user=USER)
    assert of_user.systemctl("reload", SERVICE).status != 0
    assert of_user.port_of("mine") == 4001
    assert re.search(rf"FAILED: .*{backends}:4: port: 0", of_user.status)
    assert any(f"{backends}:4" in text for text in of_user.messages("--priority=err"))
    of_user.put(backends, declaration(mine=4002), user=USER)
    of_user.systemctl("restart", SERVICE).check()
    assert of_user.port_of("mine") == 4002


def test_plexus_registryctl_of_a_user_finds_the_users_registry(of_user: Registry) -> None:
    """Without a URL the control command talks to the user's registry."""
    of_user.systemctl("start", SERVICE).check()
    done = of_user.machine.run("plexus-registryctl", "reload", user=USER).check()
    assert done.stdout.startswith("reloaded: ")
