# SPDX-License-Identifier: AGPL-3.0-only
"""The examples of the manual and of ``--help`` do what they say, against registries that run.

Those that need a machine of their own are in the operator's guide, too, which tests/system types.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from plexus_registry.access import Policy
from plexus_registry.cli.control import EXAMPLES
from plexus_registry.config import declared, tokens
from plexus_registry.config.settings import Settings
from support.certificates import Authority, Issued
from support.control import MAIN
from support.daemon import environment, run
from support.serving import serving
from support.timing import TIMEOUT_S

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs/operators-guide.md").read_text(encoding="utf-8")

AT_HOME = "wss://plexus.example.com:4444"
UNIX = "unix:/run/plexus-registry/registry.sock"
ELSEWHERE = re.compile(r"(?P<scheme>wss?://)registry\.example\.com:4445")
TOKEN = "plexus_..."
STAND_INS = {
    'websocat "': 'echo "',
    "jq -r '.[].name'": "grep name",
    "ssh other ": "env PLEXUS_REGISTRY_URL=ws://registry.example.com:4445 ",
    "/etc/ssl/example-ca.pem": "ca.pem",
    "/var/backups/": "",
}
"""What the examples name that not every machine has, and what does for it."""


def blocks(page: str) -> list[str]:
    """Return the blocks under EXAMPLES of a manual page, as they are shown."""
    source = (ROOT / f"docs/man/{page}.scd").read_text(encoding="utf-8")
    _, _, section = source.partition("\n# EXAMPLES\n")
    section, _, _ = section.partition("\n# ")
    shown: list[str] = re.findall(r"^```\n(.*?)^```$", section, re.M | re.DOTALL)
    return [block.replace("\\\\", "\\") for block in shown]


def commands(block: str) -> list[str]:
    """Return the commands of a block, each as one line."""
    return re.sub(r"\\\n\s*", "", block).splitlines()


OF_PAGE = [command for block in blocks("plexus-registryctl.1") for command in commands(block)]
OF_HELP = [
    line.strip() for line in EXAMPLES.partition("Examples:\n")[2].partition("\n\n")[0].splitlines()
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder where the command is found as it would be if it were installed."""
    command = tmp_path / "bin/plexus-registryctl"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {shlex.join(MAIN)} "$@"\n')
    command.chmod(0o755)
    return tmp_path


@pytest.fixture
def certificate(home: Path) -> Issued:
    """What a registry elsewhere has for TLS; who issued it is known."""
    (home / "authority").mkdir()
    authority = Authority(home / "authority")
    (home / "ca.pem").write_bytes(authority.file.read_bytes())
    return authority.issue()


@contextlib.contextmanager
def elsewhere(command: str, settings: Settings, certificate: Issued) -> Iterator[str]:
    """Serve the registry that *command* asks: over TLS, strict or on a Unix socket, if need be.

    Yields:
        The command, with the address that it has here.
    """
    with contextlib.ExitStack() as stack:
        own = replace(settings, database=settings.database.with_name("elsewhere.db"))
        sockets = []
        if "token" in command.lower():
            own = replace(own, write_access=Policy.TOKEN)
        if "wss://" in command:
            own = certificate.secure(own)
        if UNIX in command:
            # In a folder whose path is short.
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="plexus-"))
            sockets.append(stack.enter_context(socket.socket(socket.AF_UNIX)))
            sockets[0].bind(f"{folder}/registry.sock")
            sockets[0].listen()
        served = stack.enter_context(serving(own, sockets=sockets))
        if sockets:
            yield command.replace(UNIX, f"unix:{sockets[0].getsockname()}")
        else:
            yield ELSEWHERE.sub(rf"\g<scheme>127.0.0.1:{served.port}", command)


@pytest.mark.parametrize("listed", [OF_PAGE, OF_HELP], ids=["manual", "help"])
def test_examples_of_the_control_command_run(
    home: Path,
    settings: Settings,
    certificate: Issued,
    listed: list[str],
) -> None:
    """Each as it stands, one after another, but for what only their authors' machines have."""
    settings = replace(settings, config=home / "prod.toml", token_file=home / "tokens")
    settings.config.write_text('[[backend]]\nname = "prod"\nhost = "h"\nport = 1\n')
    _, token = tokens.add(home / "tokens", "of-the-test")
    (home / "laptop.token").write_text(f"{token}\n")
    said: dict[str, str] = {}
    with serving(replace(settings, config=home / "none.toml")) as served:
        environ = environment(
            home,
            PLEXUS_REGISTRY_URL=served.url,
            REGISTRY_DB_PATH=str(settings.database),
            REGISTRY_TOKEN_FILE=str(home / "tokens"),
            SSL_CERT_FILE=str(home / "ca.pem"),
        )
        environ["PATH"] = f"{home / 'bin'}:{environ['PATH']}"
        for example in listed:
            if "plexus-registryctl" not in example:
                continue
            command = example.replace(AT_HOME, served.url).replace(TOKEN, token)
            for absent, present in STAND_INS.items():
                command = command.replace(absent, present)
            with contextlib.ExitStack() as stack:
                if UNIX in command or ELSEWHERE.search(command):
                    command = stack.enter_context(elsewhere(command, settings, certificate))
                ended = subprocess.run(
                    ["bash", "-o", "pipefail", "-c", command],
                    cwd=home,
                    env=environ,
                    capture_output=True,
                    text=True,
                    timeout=6 * TIMEOUT_S,
                    check=False,
                )
            assert ended.returncode == 0, (example, ended.stdout, ended.stderr)
            said[example] = ended.stdout
        url = served.url
    assert len(said) >= 6
    assert said['websocat "$(plexus-registryctl url prod)"'] == f"{url}\n"
    assert declared.read_one(home / "backends.toml")["prod"].address.url == url
    if listed is OF_PAGE:
        assert list(home.glob("registry-2*.db"))


def test_restoring_is_told_as_in_the_guide() -> None:
    """Which is typed into a machine; here only the name of the copy is another."""
    (block,) = [block for block in blocks("plexus-registryctl.1") if "systemctl" in block]
    (typed,) = [
        typed
        for typed in re.findall(r"^```sh\n(.*?)^```$", GUIDE, re.M | re.DOTALL)
        if typed.startswith("systemctl stop") and "/var/backups/" in typed
    ]
    told = re.sub(r"registry-[0-9-]+\.db", "registry.db", block).replace(" 0600 ", " 600 ")
    assert commands(told) == commands(typed)


def test_examples_of_the_daemon_run(tmp_path: Path) -> None:
    """Those that ask for no more than what would be; the one that serves is asked that, too."""
    found = [
        command
        for page in ("plexus-registry.8", "plexus-registry.toml.5")
        for block in blocks(page)
        for command in commands(block)
        if command.startswith("plexus-registry ")
    ]
    assert len(found) == 4
    for command in found:
        _, *arguments = shlex.split(command)
        if "--port" in arguments:
            arguments.append("--print-config")
        ended = run(tmp_path, *(it for it in arguments if it != "--system"))
        assert ended.returncode == 0, (command, ended.stderr)


def test_examples_of_files_are_taken(tmp_path: Path) -> None:
    """The settings and the declared backends, by the daemon that checks them."""
    settings, backends = tmp_path / "registry.toml", tmp_path / "backends.toml"
    settings.write_text(blocks("plexus-registry.toml.5")[0], encoding="utf-8")
    backends.write_text(blocks("backends.toml.5")[0], encoding="utf-8")
    options = ("--settings", str(settings), "--config", str(backends), "--check-config")
    ended = run(tmp_path, *options)
    assert ended.returncode == 0, ended.stderr
    assert list(declared.read_one(backends)) == ["prod", "dev"]
