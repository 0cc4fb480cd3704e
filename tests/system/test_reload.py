# SPDX-License-Identifier: AGPL-3.0-only
"""Reloads: asked for by systemctl, by a saved file, by SIGHUP; of good files and of broken ones."""

from __future__ import annotations

import re
import time

import pytest

from system.registry import BACKENDS, SERVICE, Figure, Registry, declaration

FAULT = f"{BACKENDS}:4: port: 0 is not accepted"


def test_reload_of_a_good_file_is_done_when_it_returns(registry: Registry, figure: Figure) -> None:
    """`systemctl reload` returns when the registry follows the file, and STATUS says so."""
    registry.declare(first=4001, second=4002)
    result = registry.systemctl("reload", SERVICE).check()
    assert registry.port_of("first") == 4001
    assert registry.port_of("second") == 4002
    assert re.search(r"last reload .*: \d added", registry.status)
    registry.declare(second=4003)
    registry.systemctl("reload", SERVICE).check()
    assert registry.port_of("first") is None
    assert registry.port_of("second") == 4003
    figure("systemctl reload", f"{result.seconds:.2f} s")


def test_reload_of_a_broken_file_fails_and_changes_nothing(registry: Registry) -> None:
    """`systemctl reload` fails; journal and STATUS name file, line and reason; nothing changes."""
    registry.declare(kept=4001)
    registry.systemctl("reload", SERVICE).check()
    before = registry.pid
    registry.declare(kept=0)
    assert registry.systemctl("reload", SERVICE).status != 0
    assert registry.port_of("kept") == 4001
    assert registry.is_active(SERVICE)
    assert registry.pid == before
    assert re.search(rf"last reload \S+ \S+ FAILED: .*{FAULT}", registry.status)
    assert any(FAULT in text for text in registry.messages("--priority=err"))
    # What the administrator sees who asks why.
    assert FAULT in registry.systemctl("status", SERVICE).stdout
    registry.declare(kept=4002)
    registry.systemctl("reload", SERVICE).check()
    assert registry.port_of("kept") == 4002
    assert "FAILED" not in registry.status


SAVES = {
    "vim": "vim.tiny -es -c '%s/4001/4002/' -c wq {file}",
    "sed": "sed -i s/4001/4002/ {file}",
    "cat": "sed s/4001/4002/ {file} >/tmp/new; cat /tmp/new >{file}",
    "mv": "sed s/4001/4002/ {file} >{file}.new; mv {file}.new {file}",
    "drop-in": "mkdir -p {folder}; sed 's/4001/4002/; s/kept/added/' {file} >{folder}/added.toml",
}


@pytest.mark.parametrize("how", SAVES)
def test_saved_file_is_followed(registry: Registry, how: str, figure: Figure) -> None:
    """What an editor saves is followed by itself, though the file system is read-only to it."""
    assert registry.show("ProtectSystem") == "strict"
    registry.declare(kept=4001)
    registry.systemctl("reload", SERVICE).check()
    save = SAVES[how].format(file=BACKENDS, folder=BACKENDS.replace(".toml", ".d"))
    registry.machine.sh(save).check()
    saved = time.monotonic()
    name = "added" if how == "drop-in" else "kept"
    registry.wait(lambda: registry.port_of(name) == 4002, f"the registry to follow {how}")
    figure(f"saved by {how}, followed within", f"{time.monotonic() - saved:.2f} s")
    applied = registry.messages("--grep=declared backends applied")
    assert "peer=inotify" in applied[-1]


def test_sighup_reloads(registry: Registry) -> None:
    """`kill -HUP` of the daemon makes it follow the files; a broken one it reports."""
    _save_and_hang_up(registry, kept=4001)
    applied = "declared backends applied added=1 updated=0 removed=0"
    registry.wait(lambda: _peers_of(registry, applied), applied)
    # Before inotify, which waits until the files stand still.
    assert _peers_of(registry, applied) == ["SIGHUP"]
    assert registry.port_of("kept") == 4001
    _save_and_hang_up(registry, kept=0)
    failed = "config reload failed"
    registry.wait(lambda: _peers_of(registry, failed), failed)
    assert _peers_of(registry, failed)[0] == "SIGHUP"
    assert "FAILED" in registry.status
    assert registry.port_of("kept") == 4001


def _save_and_hang_up(registry: Registry, **ports: int) -> None:
    script = f"cat >{BACKENDS} && kill -HUP {registry.pid}"
    registry.machine.run("sh", "-c", script, stdin=declaration(**ports)).check()


def _peers_of(registry: Registry, text: str) -> list[str]:
    return [
        entry["PLEXUS_PEER"] for entry in registry.journal() if entry["MESSAGE"].startswith(text)
    ]


@pytest.mark.parametrize("port", [4001, 0], ids=["good", "broken"])
def test_systemd_is_told_of_each_reload(registry: Registry, port: int) -> None:
    """RELOADING=1 with its time and then READY=1 arrive, also if the reload fails."""
    registry.machine.run("systemctl", "log-level", "debug").check()
    registry.declare(kept=port)
    registry.signal("HUP")
    registry.wait(lambda: "last reload" in registry.status, "a reload")
    heard = "\n".join(registry.messages("--grep=Got notification message"))
    told = re.findall(r"(RELOADING=1, MONOTONIC_USEC=\d+|READY=1)$", heard, re.MULTILINE)
    assert told[-2].startswith("RELOADING=1")
    assert told[-1] == "READY=1"
    assert registry.is_active(SERVICE)
    assert registry.show("SubState") == "running"
