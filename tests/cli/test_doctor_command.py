# SPDX-License-Identifier: AGPL-3.0-only
"""``plexus-registryctl doctor``: each thing that can be in the way is found and has a remedy."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plexus_registry.cli import doctor
from plexus_registry.config.settings import Settings
from support.control import ctl, failed
from support.conversation import conversation
from support.daemon import Daemon, daemon
from support.hubs import answering_info_only
from support.puppet import Peer, in_loop, puppet
from support.serving import serving


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with files in the home of its user, on a free port."""
    (tmp_path / ".config/plexus").mkdir(parents=True)
    with daemon(tmp_path, ["--auto-register", "none"]) as running:
        assert running.url
        yield running


def findings(home: Path, url: str, status: int) -> dict[str, list[dict[str, Any]]]:
    """Return what the doctor finds, by level."""
    ended = ctl(home, "--url", url, "doctor", "--json", PLEXUS_REGISTRY_URL=url)
    assert ended.returncode == status, ended.stdout + ended.stderr
    found: dict[str, list[dict[str, Any]]] = {"ok": [], "note": [], "problem": []}
    for one in json.loads(ended.stdout):
        found[one["level"]].append(one)
    assert all(one["remedy"] for one in found["problem"])
    return found


def only_problem(home: Path, url: str) -> dict[str, Any]:
    """Return the one problem that there is."""
    (problem,) = findings(home, url, 1)["problem"]
    return problem


def test_sound_registry_has_no_problem(running: Daemon, tmp_path: Path) -> None:
    """The exit status is 0, and each thing that was looked at is told."""
    found = findings(tmp_path, running.url, 0)
    assert any("answers at" in one["text"] for one in found["ok"])
    shown = ctl(tmp_path, "--url", running.url, "doctor").stdout
    assert shown.startswith("ok:      registry-hub ")


def test_registry_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    """It says how to start it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{free.getsockname()[1]}"
    assert "no registry answers" in only_problem(tmp_path, url)["text"]


def test_faulty_files_are_problems_with_their_lines(running: Daemon, tmp_path: Path) -> None:
    """Settings, declared backends and tokens are read as the registry reads them."""
    config = tmp_path / ".config/plexus"
    (config / "registry.toml").write_text("prt = 1\n")
    assert f"{config}/registry.toml:1: " in only_problem(tmp_path, running.url)["text"]
    (config / "registry.toml").unlink()
    (config / "tokens").write_text("nonsense\n")
    (config / "tokens").chmod(0o600)
    problems = findings(tmp_path, running.url, 1)["problem"]
    assert f"{config}/tokens:1: " in problems[0]["text"]


def test_failed_reload_is_a_problem(running: Daemon, tmp_path: Path) -> None:
    """The registry goes on with the backends of before, which nobody would notice otherwise."""
    (tmp_path / ".config/plexus/backends.toml").write_text("[[backend]]\nname = 7\n")
    ctl(tmp_path, "--url", running.url, "reload")
    texts = [one["text"] for one in findings(tmp_path, running.url, 1)["problem"]]
    assert any(text.startswith("the last reload failed: ") for text in texts)
    assert any("backends.toml:2: " in text for text in texts)


def test_settings_saved_after_the_start_are_noted(running: Daemon, tmp_path: Path) -> None:
    """They count from the next start on; whether one was changed only its author knows."""
    file = tmp_path / ".config/plexus/registry.toml"
    file.write_text('log_level = "debug"\n')
    later = file.stat().st_mtime + 60
    os.utime(file, (later, later))
    notes = findings(tmp_path, running.url, 0)["note"]
    (told,) = [one for one in notes if one["text"].startswith("settings were saved after")]
    assert "restart" in told["remedy"]


def test_files_of_another_registry_are_not_judged(running: Daemon, tmp_path: Path) -> None:
    """Who names a registry by --url does not hear of the files of the user's own."""
    (tmp_path / ".config/plexus/registry.toml").write_text("prt = 1\n")
    ended = ctl(tmp_path, "--url", running.url, "doctor", "--json")
    assert ended.returncode == 0, ended.stdout
    texts = [one["text"] for one in json.loads(ended.stdout)]
    assert len(texts) == 2
    assert texts[1] == f"files and units are not looked at, for {running.url} was asked for by name"


def test_files_are_not_those_of_another_machine(tmp_path: Path) -> None:
    """Nor are they if the variable names a registry that is elsewhere."""
    for url in ("ws://registry.invalid:4445", "ws://192.0.2.1:4445"):
        ended = ctl(tmp_path, "--timeout", "0.1", "doctor", "--json", PLEXUS_REGISTRY_URL=url)
        levels = [one["level"] for one in json.loads(ended.stdout)]
        assert levels == ["problem", "note"]
    for url in ("ws://localhost:1", "ws://[::1]:1/", "unix:/nowhere"):
        ended = ctl(tmp_path, "--url", url, "doctor", "--json", PLEXUS_REGISTRY_URL=url.rstrip("/"))
        assert "settings are sound" in ended.stdout


def test_what_the_modes_keep_from_somebody_is_told() -> None:
    """Owner, group and others each have bits of their own (path_resolution(7))."""
    for mode, user, groups, may in [
        (0o600, 7, set[int](), True),
        (0o600, 8, {9}, False),
        (0o640, 8, {9}, True),
        (0o604, 8, {9}, False),
        (0o604, 8, {5}, True),
        (0o044, 7, {9}, False),
    ]:
        found = os.stat_result((mode, 0, 0, 1, 7, 9, 0, 0, 0, 0))
        assert doctor._may(found, stat.S_IROTH, user, groups) is may, oct(mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_database_of_another_owner_is_a_problem(running: Daemon, tmp_path: Path) -> None:
    """Who restores a backup as root forgets that easily; the remedy mends it."""
    state = tmp_path / ".local/state/plexus-registry"
    os.chown(state / "registry.db", 65534, 65534)
    problem = only_problem(tmp_path, running.url)
    assert problem["text"].startswith(f"{state}/registry.db does not belong")
    assert os.system(problem["remedy"]) == 0
    assert findings(tmp_path, running.url, 0)["problem"] == []


def test_hub_that_is_no_registry_is_told_by_its_name(settings: Settings, tmp_path: Path) -> None:
    """Another Plexus tool on the port is named, not taken for a registry that fails."""
    with answering_info_only("substrate") as url:
        problem = only_problem(tmp_path, url)
    assert "answers substrate, which is no registry" in problem["text"]


def test_nearly_all_connections_taken_is_a_problem(settings: Settings, tmp_path: Path) -> None:
    """Before clients are refused."""
    with serving(replace(settings, max_connections=2)) as served, conversation(served.url):
        problems = findings(tmp_path, served.url, 1)["problem"]
    assert any("connections are taken" in one["text"] for one in problems)


@in_loop
async def test_status_that_is_not_understood_is_no_silence(tmp_path: Path) -> None:
    """Somebody answers: to start it would be wrong advice; `status` gives the reason, too."""

    async def behave(peer: Peer) -> None:
        while True:
            request, _ = await peer.receive_call()
            await peer.answer(request, {"type": "status", "version": "9"})

    async with puppet(behave) as url:
        told = await asyncio.to_thread(ctl, tmp_path, "--url", url, "status")
        problem = await asyncio.to_thread(only_problem, tmp_path, url)
    reason = failed(told, 69)
    assert reason.startswith(f"{url} answers, but its answer to registry.status is not understood")
    assert reason.endswith("missing required field `started_at`")
    assert problem["text"] == reason
    assert problem["remedy"].startswith("if it is of a later version than this program, update")
