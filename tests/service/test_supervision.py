# SPDX-License-Identifier: AGPL-3.0-only
"""What the service manager hears of a daemon: readiness, reloads, hang-ups, the end."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.conversation import HUB, conversation
from support.daemon import daemon, environment, run
from support.notifications import Notifications, notifications
from support.timing import wait_until

WATCHDOG_S = 0.4
SILENCE_S = 1.0
"""More than two limits: a watchdog would have bitten."""

SOUND = '[[backend]]\nname = "a"\nhost = "h"\nport = 1\n'


@pytest.fixture
def manager() -> Iterator[Notifications]:
    """The service manager's socket."""
    with (
        tempfile.TemporaryDirectory(prefix="plexus-") as folder,
        notifications(Path(folder)) as manager,
    ):
        yield manager


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The declared backends, one to begin with."""
    path = tmp_path / ".config" / "plexus" / "backends.toml"
    path.parent.mkdir(parents=True)
    path.write_text(SOUND)
    return path


def environ_of(home: Path, manager: Notifications, **variables: str) -> dict[str, str]:
    """Return the environment of a service of this manager."""
    return environment(home, NOTIFY_SOCKET=manager.address, **variables)


def watched(home: Path, manager: Notifications) -> dict[str, str]:
    """Return the environment of a service with a watchdog."""
    return environ_of(home, manager, WATCHDOG_USEC=str(round(WATCHDOG_S * 1_000_000)))


def is_ready(message: str) -> bool:
    """Tell whether it is a READY=1 and nothing else."""
    return message == "READY=1"


def is_alive(message: str) -> bool:
    """Tell whether it feeds the watchdog."""
    return message == "WATCHDOG=1"


def save(path: Path, text: str) -> None:
    """Replace a file in one step, as careful editors do."""
    other = path.parents[2] / "other"
    other.write_text(text)
    other.replace(path)


# --- start ----------------------------------------------------------------------------------------


def test_ready_daemon_answers_at_once(tmp_path: Path, config: Path, manager: Notifications) -> None:
    """READY=1 comes once and last, and whoever connects at that moment gets an answer."""
    with daemon(tmp_path, environ=environ_of(tmp_path, manager)) as running:
        *before, _ = manager.receive_until(is_ready)
        with conversation(running.url) as client:
            client.expect_silence()

        assert before[-1] == "STATUS=serving 2 backends (1 auto, 1 file)"
        assert not any(is_ready(message) for message in manager.pending())


def test_refused_start_tells_its_reason_and_is_never_ready(
    tmp_path: Path, config: Path, manager: Notifications
) -> None:
    """STATUS has file, line and reason, for `systemctl status` to show after the end."""
    config.write_text("\n[[backend]\n")
    ended = run(tmp_path, "--port", "0", environ=environ_of(tmp_path, manager))

    assert ended.returncode == 78
    messages = manager.pending()
    assert messages[-1].startswith(f"STATUS=start refused: {config}:2: ")
    assert not any("READY=1" in message for message in messages)


def test_bad_setting_tells_its_reason_and_is_never_ready(
    tmp_path: Path, manager: Notifications
) -> None:
    """So does a fault that is found before anything is opened."""
    ended = run(tmp_path, "--port", "x", environ=environ_of(tmp_path, manager))

    assert ended.returncode == 64
    (message,) = manager.pending()
    assert message.startswith('STATUS=start refused: --port: port: "x" is not accepted')


def test_long_start_asks_for_patience(tmp_path: Path, manager: Notifications) -> None:
    """As long as the database is opened, more time is asked for again and again."""
    hurried = (
        sys.executable,
        "-c",
        "import sys\n"
        "from plexus_registry.service import supervision\n"
        "supervision.EXTENSION_S = 0.3\n"
        "from plexus_registry.cli.daemon import main\n"
        "sys.exit(main())\n",
    )
    database = tmp_path / "registry.db"
    extension = "EXTEND_TIMEOUT_USEC=300000"
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        arguments = ["--db-path", str(database)]
        environ = environ_of(tmp_path, manager)
        with daemon(tmp_path, arguments, environ, program=hurried) as running:
            first = [manager.receive() for _ in range(4)]
            other.execute("ROLLBACK")
            assert first == [f"STATUS=opening the database {database}", *[extension] * 3]
            manager.receive_until(is_ready)
            manager.pending()
            with conversation(running.url) as client:
                client.expect_silence()
            assert manager.pending(SILENCE_S) == []


# --- reload ---------------------------------------------------------------------------------------


def test_reload_is_framed_by_reloading_and_ready(
    tmp_path: Path, config: Path, manager: Notifications
) -> None:
    """RELOADING=1 with a time that systemd can compare, READY=1, then STATUS with the outcome."""
    with daemon(tmp_path, environ=environ_of(tmp_path, manager)) as running:
        manager.receive_until(is_ready)
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        running.send(signal.SIGHUP)
        reloading, ready, status = (manager.receive() for _ in range(3))
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

        state, stamp = reloading.split("\nMONOTONIC_USEC=")
        assert state == "RELOADING=1"
        assert before <= int(stamp) <= after
        assert ready == "READY=1"
        counts = "STATUS=serving 2 backends (1 auto, 1 file); last reload "
        assert status.startswith(counts)
        assert status.endswith(": 0 added, 0 updated, 0 removed")


def test_failed_reload_is_ready_again_and_says_what_failed(
    tmp_path: Path, config: Path, manager: Notifications
) -> None:
    """READY=1 comes also then; STATUS names file and line until a reload works."""
    with daemon(tmp_path, environ=environ_of(tmp_path, manager)) as running:
        manager.receive_until(is_ready)
        save(config, SOUND + "\n[[backend]\n")
        reloading, ready, status = (manager.receive() for _ in range(3))

        assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert ready == "READY=1"
        assert status.startswith("STATUS=serving 2 backends (1 auto, 1 file); last reload ")
        assert " FAILED: " in status
        assert f"{config}:6: " in status

        save(config, SOUND + SOUND.replace('"a"', '"b"'))
        messages = manager.receive_until(lambda message: "1 added" in message)
        assert messages[-1].startswith("STATUS=serving 3 backends (1 auto, 2 file); last reload ")
        assert messages[-2] == "READY=1"
        with conversation(running.url) as client:
            client.expect_silence()


def test_overlapping_reloads_are_ready_once_both_are_done(
    tmp_path: Path, config: Path, manager: Notifications
) -> None:
    """READY=1 of the first must not be taken for that of the second, which is still at work."""
    database = tmp_path / "registry.db"
    arguments = ["--db-path", str(database)]
    with daemon(tmp_path, arguments, environ_of(tmp_path, manager)) as running:
        manager.receive_until(is_ready)
        with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")  # the first cannot be written until the end of this
            save(config, SOUND + SOUND.replace('"a"', '"b"'))
            manager.receive_until(lambda message: message.startswith("RELOADING=1\n"))
            running.send(signal.SIGHUP)
            assert manager.receive().startswith("RELOADING=1\n")
            assert manager.pending(SILENCE_S / 4) == []
        messages = manager.receive_until(is_ready)
        messages += manager.pending(SILENCE_S / 4)

        assert [message for message in messages if is_ready(message)] == ["READY=1"]
        assert "; last reload " in messages[-1]


# --- stop -----------------------------------------------------------------------------------------


def test_stopping_is_said_first(tmp_path: Path, manager: Notifications) -> None:
    """STOPPING=1 is the answer to SIGTERM, and nothing says READY=1 after it."""
    with daemon(tmp_path, environ=environ_of(tmp_path, manager)) as running:
        manager.receive_until(is_ready)
        assert manager.pending() == []
        assert running.stop() == 0

        assert manager.pending() == [
            "STOPPING=1",
            "STATUS=stopping: finishing what was accepted",
        ]


# --- the watchdog ---------------------------------------------------------------------------------


def test_watchdog_is_fed_again_and_again(tmp_path: Path, manager: Notifications) -> None:
    """Each WATCHDOG=1 comes well before the limit, the first right after the start."""
    with daemon(tmp_path, environ=watched(tmp_path, manager)):
        manager.receive_until(is_ready)
        last = time.monotonic()
        gaps = []
        for _ in range(5):
            assert manager.receive() == "WATCHDOG=1"
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    assert sorted(gaps)[2] < WATCHDOG_S  # the median: one gap can be the machine's


def test_watchdog_of_another_process_is_not_fed(tmp_path: Path, manager: Notifications) -> None:
    """$WATCHDOG_PID says whom it watches."""
    environ = {**watched(tmp_path, manager), "WATCHDOG_PID": "1"}
    with daemon(tmp_path, environ=environ):
        manager.receive_until(is_ready)
        assert manager.pending(SILENCE_S) == []


def test_watchdog_starves_when_the_process_hangs(tmp_path: Path, manager: Notifications) -> None:
    """A process that does not run does not feed it; once it runs again, it does."""
    with daemon(tmp_path, environ=watched(tmp_path, manager)) as running:
        manager.receive_until(is_alive)
        running.send(signal.SIGSTOP)
        os.waitid(os.P_PID, running.process.pid, os.WSTOPPED | os.WNOWAIT)
        manager.pending()
        assert manager.pending(SILENCE_S) == []
        running.send(signal.SIGCONT)
        assert manager.receive() == "WATCHDOG=1"


def test_watchdog_starves_when_the_store_hangs(tmp_path: Path, manager: Notifications) -> None:
    """A commit that does not come back stops it, although the event loop answers reads."""
    database = tmp_path / "registry.db"
    arguments = ["--db-path", str(database)]
    with (
        daemon(tmp_path, arguments, watched(tmp_path, manager)) as running,
        conversation(running.url) as writer,
        conversation(running.url) as reader,
        contextlib.closing(sqlite3.connect(database, isolation_level=None)) as other,
    ):
        manager.receive_until(is_alive)
        other.execute("BEGIN IMMEDIATE")
        params = {"name": "late", "host": "h", "port": 1}
        call = {"method": "registry.register", "params": params}
        request = {"jsonrpc": "2.0", "id": 1, "method": f"{HUB}.call", "params": call}
        writer.send(request)
        # The request is in the store's thread once a later one of the same client is answered.
        writer.send({"jsonrpc": "2.0", "id": 2, "method": "_info", "params": None})
        assert writer.receive()["id"] in (1, 2)
        reader.expect_silence()
        manager.pending()
        assert manager.pending(SILENCE_S) == []
        listed = reader.call("registry.list").content["backends"]
        assert "late" not in {entry["name"] for entry in listed}

        other.execute("ROLLBACK")
        assert manager.receive() == "WATCHDOG=1"
        wait_until(
            lambda: reader.call("registry.get", {"name": "late"}).content["backend"], "the commit"
        )
