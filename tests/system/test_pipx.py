# SPDX-License-Identifier: AGPL-3.0-only
"""The wheel, installed by pipx for one user, as the README says."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from system import wheels
from system.base import Cache
from system.command import in_tree
from system.formats import Formats
from system.machine import Boot, Machine
from system.packages import ROOT
from system.registry import SERVICE, SOCKET, Figure, Registry, declaration

USER = "ann"
OFFLINE = "PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv/wheels"


@pytest.fixture
def machine(
    cache: Cache, base: Path, boot: Boot, formats: Formats, tmp_path: Path
) -> Iterator[Machine]:
    """Boot a machine with pipx and a user whose systemd runs without a login."""
    apt = ["apt-get", "-qq", "--yes", "--no-install-recommends", "install", "pipx"]
    with_pipx = cache.layer("pipx", [base], lambda root: in_tree(root, apt).check(), apt)
    with boot(with_pipx, base) as machine:
        machine.run("useradd", "--create-home", "--shell=/bin/sh", USER).check()
        machine.run("loginctl", "enable-linger", USER).check()
        uid, _ = machine.account(USER)
        machine.run("systemctl", "start", f"user@{uid}.service").check()
        found = machine.run("python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
        wheels.fetch(formats.wheel, found.check().stdout.strip(), tmp_path)
        for folder, name in ((tmp_path, "wheels"), (formats.first, "dist")):
            place = machine.root / "srv" / name
            shutil.copytree(folder, place)
            place.chmod(0o755)
        yield machine


def documented() -> tuple[list[str], list[str]]:
    """Return the README's commands for one user, to install and to remove.

    Without the first, which builds the wheel, and the last, for who logs in.
    """
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## For one user, with pipx")[2].partition("\n## ")[0]
    install, remove = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    commands = install.splitlines()
    assert commands[0] == "make dist"
    assert commands[-1] == "loginctl enable-linger"
    return commands[1:-1], remove.splitlines()


def as_user(machine: Machine, command: str) -> str:
    """Run a command in the user's shell, with what pipx installs on its path."""
    uid, home = machine.account(USER)
    path = f"PATH={home}/.local/bin:$PATH XDG_RUNTIME_DIR=/run/user/{uid}"
    shell = f"cd /srv; export {path} {OFFLINE}; {command}"
    return machine.run("sh", "-ec", shell, user=USER, timeout_s=120).check().stdout


def test_pipx_gives_one_user_a_registry(machine: Machine, figure: Figure) -> None:
    """The commands of the README, line by line: both programs, and a service of the user's own."""
    install, remove = documented()
    for command in install:
        as_user(machine, command)
    _, home = machine.account(USER)
    registry = Registry(machine, USER)
    assert registry.is_active(SOCKET)
    assert registry.is_active(SERVICE)
    assert registry.show("ExecStart").count(f"{home}/.local/bin/plexus-registry ")
    assert as_user(machine, "plexus-registryctl register mine ws://127.0.0.1:4001")
    assert as_user(machine, "plexus-registryctl url mine") == "ws://127.0.0.1:4001\n"
    registry.put(f"{home}/.config/plexus/backends.toml", declaration(declared=4002), user=USER)
    registry.systemctl("reload", SERVICE).check()
    assert as_user(machine, "plexus-registryctl url declared") == "ws://127.0.0.1:4002\n"
    figure("installed by pipx", as_user(machine, "plexus-registry --version").strip())
    # The same again is an upgrade.
    as_user(machine, install[0].replace("install", "install --force"))
    for command in install[1:]:
        as_user(machine, command)
    assert as_user(machine, "plexus-registryctl url mine") == "ws://127.0.0.1:4001\n"

    for command in remove:
        as_user(machine, command)
    assert not registry.is_active(SOCKET)
    left = as_user(machine, "find ~ -name '*plexus*' -not -path '*/.local/state/*'")
    assert {Path(line).name for line in left.splitlines()} <= {"plexus"}  # the configuration


def test_programs_of_pipx_run_by_hand(machine: Machine) -> None:
    """Without systemd: the daemon checks its configuration, the control command completes names."""
    as_user(machine, documented()[0][0])
    assert as_user(machine, "plexus-registry --check-config")
    assert as_user(machine, "plexus-registryctl --version").startswith("plexus-registryctl ")
    again = as_user(machine, "plexus-registry --install-user-units")
    assert again.count(": written\n") == 2
    assert as_user(machine, "plexus-registry --install-user-units").count(": unchanged\n") == 2
