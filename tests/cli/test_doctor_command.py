# SPDX-License-Identifier: AGPL-3.0-only
"""``plexus-registryctl doctor``: each thing that can be in the way is found and has a remedy."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plexus_registry.cli import doctor, manager
from plexus_registry.config.settings import Settings
from support.certificates import Authority
from support.control import MAIN, ctl, failed
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


def remedy_at(home: Path, url: str, *options: str) -> str:
    """Return what is to be done about the registry that is named and does not answer."""
    ended = ctl(home, *options, "--url", url, "doctor", "--json")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    (found,) = [one for one in json.loads(ended.stdout) if one["level"] == "problem"]
    return str(found["remedy"])


def test_registry_that_does_not_run_is_to_be_started(tmp_path: Path) -> None:
    """Whether it was looked for at an address, a name or a Unix socket of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for url in (f"ws://127.0.0.1:{port}", f"ws://localhost:{port}", f"unix:{tmp_path}/nobody"):
        # In which of three ways depends on the machine: that of the units, if there are any.
        assert remedy_at(tmp_path, url) == manager.how_to_start()


def test_registry_that_is_full_is_not_started_again(settings: Settings, tmp_path: Path) -> None:
    """Somebody holds its connections, or they are too few."""
    with serving(replace(settings, max_connections=1)) as served, conversation(served.url):
        remedy = remedy_at(tmp_path, served.url)
    assert remedy.startswith("find who opens so many connections")
    assert "raise max_connections" in remedy


def test_what_keeps_silent_is_told_as_that(tmp_path: Path) -> None:
    """As a process that was stopped does: the kernel takes the connection, and nobody answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        remedy = remedy_at(tmp_path, f"ws://127.0.0.1:{port}", "--timeout", "0.1")
    # The address of a Unix socket has to be short.
    with tempfile.TemporaryDirectory(prefix="plexus-") as folder:
        path = f"{folder}/socket"
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(path)
            other.listen()
            of_socket = remedy_at(tmp_path, f"unix:{path}", "--timeout", "0.1")
    for told, command in ((remedy, f"ss -ltnp 'sport = :{port}'"), (of_socket, f"src {path} ")):
        assert told.startswith("something listens there and keeps silent")
        assert command in told


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        ("220 mail.example.com ESMTP", "another program listens there: as root, ss -ltnp"),
        ("HTTP/1.1 404 Not Found", "another program listens there: as root, ss -ltnp"),
        ("HTTP/1.1 502 Bad Gateway", "a proxy answers there and finds no registry"),
        ("HTTP/1.1 301 Moved\r\nLocation: wss://other.example", "name it by --url as it is there"),
    ],
    ids=lambda text: text.partition("\r")[0],
)
def test_other_program_on_the_port_is_told_as_that(
    tmp_path: Path, answer: str, remedy: str
) -> None:
    """A mail server, a web server, a proxy, and one that knows where to go."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        thread = threading.Thread(target=say, args=(other, answer))
        thread.start()
        told = remedy_at(tmp_path, f"ws://127.0.0.1:{other.getsockname()[1]}")
        thread.join()
    assert told.startswith(remedy)


def say(listening: socket.socket, answer: str) -> None:
    """Answer one client, whatever it asks."""
    sock, _ = listening.accept()
    with sock:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += sock.recv(4096)
        sock.sendall(f"{answer}\r\nContent-Length: 0\r\n\r\n".encode())


def test_registry_of_another_machine_is_looked_for_there(tmp_path: Path) -> None:
    """Nothing that could be started here would help."""
    for url in ("wss://192.0.2.1:4445", "ws://registry.invalid:4445"):
        remedy = remedy_at(tmp_path, url, "--timeout", "0.1")
        assert remedy.startswith(("look whether that is its", "nothing listens there; on that"))


def test_tls_and_its_absence_are_told_with_the_url_that_works(tmp_path: Path) -> None:
    """And a certificate of nobody known, with the option that names who issued it."""
    authority = Authority(tmp_path)
    with daemon(tmp_path, authority.issue().options) as running:
        assert remedy_at(tmp_path, running.url) == "name it by wss://"
        url = running.url.replace("ws:", "wss:")
        assert "--ca-file" in remedy_at(tmp_path, url)
        nowhere = remedy_at(tmp_path, url, "--ca-file", str(tmp_path / "nobody"))
    assert nowhere.startswith("nothing was asked")
    with daemon(tmp_path) as running:
        assert "by ws://" in remedy_at(tmp_path, running.url.replace("ws:", "wss:"))


def test_token_that_is_refused_is_told_in_the_registrys_words(tmp_path: Path) -> None:
    """It is a registry, and sound; the remedy names where the token is from."""
    file = tmp_path / "mine.token"
    file.write_text("plexus_other\n")
    with daemon(tmp_path, ["--write-access", "token"]) as running:
        for options, place in (
            ((), "$PLEXUS_REGISTRY_TOKEN"),
            (("--token-file", str(file)), str(file)),
        ):
            command = (*options, "--url", running.url, "doctor", "--json")
            ended = ctl(tmp_path, *command, PLEXUS_REGISTRY_TOKEN="plexus_wrong")
            (found, _) = json.loads(ended.stdout)
            assert ended.returncode == 1
            assert found["text"].startswith(f"{running.url} refuses: This token is not known here")
            assert f"from {place}: put another there" in found["remedy"]


def test_token_that_can_be_none_is_a_problem_that_does_not_show_it(
    running: Daemon, tmp_path: Path
) -> None:
    """Nothing was asked, and the rest is looked at all the same."""
    ended = ctl(
        tmp_path,
        *("doctor", "--json"),
        PLEXUS_REGISTRY_TOKEN="plexus_SECRET\nx",
        PLEXUS_REGISTRY_URL=running.url,
    )
    assert ended.returncode == 1
    found = json.loads(ended.stdout)
    assert found[0]["text"].startswith("$PLEXUS_REGISTRY_TOKEN: holds no token")
    assert "settings are sound" in {one["text"] for one in found}
    assert "SECRET" not in ended.stdout + ended.stderr


def test_synapse_is_to_be_called_with_the_port_of_the_registry(
    running: Daemon, tmp_path: Path
) -> None:
    """Unless it looks there anyway; behind a Unix socket the port is what the unit says."""
    port = running.url.rpartition(":")[2]
    found = findings(tmp_path, running.url, 0)
    told = [one for one in found["note"] + found["ok"] if "4444" in one["text"]]
    assert len(told) == 1
    assert told[0]["level"] == "ok" or told[0]["remedy"] == f"call it as synapse -P {port}"
    listens = "Listen=/run/plexus-registry/registry.sock (Stream)\nListen=[::1]:4445 (Stream)\n"
    assert manager.port_in(listens) == 4445
    assert manager.port_in("Listen=/run/x:1.sock (Stream)\nListen=127.0.0.1:53 (Datagram)") is None


# --- units ----------------------------------------------------------------------------------------

ACTIVE = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled"}
INACTIVE = ACTIVE | {"ActiveState": "inactive"}
FAILED = ACTIVE | {"ActiveState": "failed"}
OFF = INACTIVE | {"UnitFileState": "disabled"}


def not_loaded(state: str) -> dict[str, str]:
    """Return the properties of a unit that systemd has not loaded."""
    return {"LoadState": state, "ActiveState": "inactive", "UnitFileState": ""}


def judged(service: dict[str, str], socket: dict[str, str]) -> list[tuple[str, str]]:
    """Return level and remedy of what is found in the properties of two units."""
    found = list(manager.judge(service, socket))
    assert all("plexus-registry" in one.text or one.level == "note" for one in found)
    return [(one.level, one.remedy) for one in found]


UNMASK, VERIFY = "systemctl unmask {}", "systemd-analyze verify {} tells what is wrong"
RELOAD = "systemctl daemon-reload if its file is"


@pytest.mark.parametrize(
    ("state", "remedy"),
    [("masked", UNMASK), ("bad-setting", VERIFY), ("error", VERIFY), ("not-found", RELOAD)],
)
def test_unit_that_is_active_without_the_other_is_a_problem(state: str, remedy: str) -> None:
    """A socket whose service cannot start takes connections that nobody answers."""
    for found, name in (
        (judged(not_loaded(state), ACTIVE), manager.SERVICE),
        (judged(not_loaded(state), FAILED), manager.SERVICE),  # once somebody has connected
        (judged(not_loaded(state), INACTIVE), manager.SERVICE),  # from the next boot on
        (judged(ACTIVE, not_loaded(state)), manager.SOCKET),
    ):
        ((level, told),) = found
        assert level == "problem"
        assert told.startswith(remedy.format(name))


def test_units_that_are_not_to_run_are_no_problem() -> None:
    """What is not installed, and what somebody masked; a faulty file is one all the same."""
    missing, masked = not_loaded("not-found"), not_loaded("masked")
    assert judged(missing, missing) == [("note", "")]
    assert judged(missing | {"ActiveState": "failed"}, missing) == [("note", "")]  # was removed
    assert [level for level, _ in judged(missing | {"ActiveState": "active"}, missing)] == [
        "problem"
    ] * 2
    assert [level for level, _ in judged(masked, masked)] == ["note", "note"]
    assert [level for level, _ in judged(masked, OFF)] == ["note"]
    assert [level for level, _ in judged(not_loaded("bad-setting"), OFF)] == ["problem"]
    assert [level for level, _ in judged({}, {})] == ["note"]


def test_state_of_units_that_are_loaded_is_judged() -> None:
    """Both are to be active; a failed service and a socket that is off have remedies."""
    assert judged(ACTIVE, ACTIVE) == [("ok", "")]
    assert judged(INACTIVE, ACTIVE) == [("ok", "")]
    turn_on = ("problem", f"systemctl enable --now {manager.SOCKET}")
    assert judged(INACTIVE, INACTIVE) == [turn_on]
    assert judged(ACTIVE, INACTIVE) == [turn_on]
    assert [level for level, _ in judged(FAILED, ACTIVE)] == ["problem", "ok"]
    at_boot = judged(ACTIVE, ACTIVE | {"UnitFileState": "disabled"})
    assert at_boot == [("note", f"systemctl enable {manager.SOCKET}")]


def test_what_systemctl_tells_decides_the_exit_status(running: Daemon, tmp_path: Path) -> None:
    """Its properties are read as it prints them, here of a service that is masked."""
    (tmp_path / "bin").mkdir()
    systemctl = tmp_path / "bin/systemctl"
    systemctl.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "*.service) printf 'LoadState=masked\\nActiveState=inactive\\n' ;;\n"
        "*.socket) printf 'LoadState=loaded\\nActiveState=active\\n' ;;\n"
        "esac\n"
    )
    systemctl.chmod(0o755)
    booted = "from pathlib import Path; from plexus_registry.cli import manager"
    program = (*MAIN[:-1], f"{booted}; manager.BOOTED = Path('/'); {MAIN[-1]}")
    ended = ctl(
        tmp_path,
        "doctor",
        program=program,
        PLEXUS_REGISTRY_URL=running.url,
        PATH=f"{systemctl.parent}:{os.environ['PATH']}",
    )
    (line,) = [one for one in ended.stdout.splitlines() if one.startswith("problem:")]
    assert line == (
        "problem: plexus-registry.service is masked, and plexus-registry.socket is active;"
        " systemctl unmask plexus-registry.service"
    )
    assert ended.returncode == 1


# --- files ----------------------------------------------------------------------------------------


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
