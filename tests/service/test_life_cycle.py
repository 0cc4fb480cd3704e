# SPDX-License-Identifier: AGPL-3.0-only
"""Start and stop: in which order, with which exit status, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

import plexus_registry
from plexus_registry import (
    ConfigError,
    ListenError,
    PlexusRegistryError,
    Register,
    Service,
    Settings,
    StoreError,
)
from plexus_registry.eventlog import CHANGES_BURST, SAME_FAILURES_MAX
from plexus_registry.rules import BackendRegistered, Failed, Reloaded
from support.conversation import HUB, Conversation, conversation
from support.daemon import BOUND_BY_MODES, command, daemon, environment, run
from support.serving import serving
from support.timing import TIMEOUT_S, wait_until

PACKAGE_DIR = Path(plexus_registry.__file__).parents[1]


def names(client: Conversation) -> set[str]:
    """Return the names of all entries."""
    listed = client.call("registry.list", {"active_only": False}).content["backends"]
    return {entry["name"] for entry in listed}


def declare(path: Path, count: int) -> None:
    """Declare so many backends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "".join(f'[[backend]]\nname = "d{i}"\nhost = "h"\nport = 1\n' for i in range(count))
    )


def close_code(end: ConnectionClosed) -> int | None:
    """Return the code in the close frame of the server, None if it sent none."""
    return end.rcvd.code if end.rcvd else None


class Pipeliner:
    """Registers one backend after another without waiting, and notes which were answered.

    Attributes:
        answered: The names.
        end: How the connection ended.
    """

    IN_FLIGHT = 256

    def __init__(self, client: Conversation) -> None:
        self.answered: set[str] = set()
        self.end: ConnectionClosed | None = None
        self._client = client
        self._free = threading.Semaphore(self.IN_FLIGHT)
        self._threads = [threading.Thread(target=one) for one in (self._send, self._receive)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        try:
            for number in itertools.count():
                self._free.acquire()
                params = {"name": f"p{number}", "host": "h", "port": 1}
                call = {"method": "registry.register", "params": params}
                request = {"jsonrpc": "2.0", "id": number, "method": f"{HUB}.call", "params": call}
                self._client.send(request)
        except ConnectionClosed:
            return

    def _receive(self) -> None:
        try:
            while True:
                item = self._client.receive().get("params", {}).get("result", {})
                if item.get("type") == "data":
                    assert item["content"]["type"] == "backend_registered"
                    self.answered.add(item["content"]["backend"]["name"])
                    self._free.release()
        except ConnectionClosed as end:
            self.end = end
            self._free.release()

    def join(self) -> None:
        """Wait until the connection is closed."""
        for thread in self._threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive()


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name)
def test_stop_signal_ends_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """Clients are told with close code 1001, the exit status is 0, and the log ends in order."""
    with daemon(tmp_path) as running, conversation(running.url) as client:
        assert names(client) == {"plexus"}
        running.send(number)
        with pytest.raises(ConnectionClosed) as closed:
            client.receive()

        assert close_code(closed.value) == 1001
        assert running.wait() == 0
        assert [line.split(" INFO     ")[1] for line in running.log[-2:]] == [
            f"stopping signal={number.name}",
            "stopped",
        ]
        assert "Traceback" not in "\n".join(running.log)


def test_stop_in_the_middle_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    """With many requests on their way, every one that was answered is there after a restart."""
    with daemon(tmp_path) as running, conversation(running.url) as client:
        pipeliner = Pipeliner(client)
        wait_until(lambda: len(pipeliner.answered) > 2 * Pipeliner.IN_FLIGHT, "the first answers")
        assert running.stop() == 0
        pipeliner.join()

    assert pipeliner.end is not None
    assert close_code(pipeliner.end) == 1001
    with daemon(tmp_path) as running, conversation(running.url) as client:
        assert names(client) - {"plexus"} == pipeliner.answered


def test_signals_while_stopping_are_harmless(tmp_path: Path) -> None:
    """However often it is told to reload or stop, the daemon goes on stopping and exits with 0."""
    with daemon(tmp_path) as running:
        host, port = running.url.removeprefix("ws://").split(":")
        # A client that never answers the close frame holds the daemon in its stopping.
        with socket.create_connection((host, int(port)), TIMEOUT_S) as silent:
            silent.sendall(
                b"GET / HTTP/1.1\r\nHost: localhost\r\n"
                b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
            assert silent.recv(1024).startswith(b"HTTP/1.1 101")
            running.send(signal.SIGTERM)
            running.wait_for_log(" stopping")
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                running.send(number)
            assert running.process.poll() is None
        while running.process.poll() is None:
            for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
                running.send(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.process.wait(0.001)

        assert running.wait() == 0
        assert running.log[-1].endswith(" stopped")
        assert "Traceback" not in "\n".join(running.log)


def test_stop_does_not_wait_for_a_reading_for_ever(settings: Settings) -> None:
    """Who asked for the reload is told that it did not come to its end."""
    begun, may_end = threading.Event(), threading.Event()
    hold_reading(settings.config, begun, may_end)

    async def live() -> None:
        async with asyncio.timeout(TIMEOUT_S), Service(settings) as service:
            begun.clear()
            may_end.clear()
            asked = asyncio.create_task(service.reload())
            assert await asyncio.to_thread(begun.wait, TIMEOUT_S)
        assert await asked == Failed(
            f"Failed to parse TOML config: {settings.config}: not read to its end, for the"
            " registry stops"
        )

    try:
        asyncio.run(live())
    finally:
        may_end.set()
    wait_until(lambda: "plexus-config" not in _thread_names(), "the end of the thread")


def hold_reading(path: Path, begun: threading.Event, may_end: threading.Event) -> None:
    """Let the thread that opens *path* wait from now on, if *may_end* is not set by then."""
    may_end.set()

    def hold(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]) == str(path):
            begun.set()
            may_end.wait()

    sys.addaudithook(hold)


def _thread_names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_process_ends_while_a_file_is_read(tmp_path: Path) -> None:
    """A reading that never ends does not keep the daemon."""
    program = (
        sys.executable,
        "-c",
        "import sys, threading\n"
        "from plexus_registry.cli.daemon import main\n"
        "readings = []\n"
        "def hold(event, arguments):\n"
        "    if event == 'open' and str(arguments[0]).endswith('backends.toml'):\n"
        "        readings.append(1)\n"
        "        if len(readings) > 1:\n"
        "            print('reading', file=sys.stderr, flush=True)\n"
        "            threading.Event().wait()\n"
        "sys.addaudithook(hold)\n"
        "sys.exit(main())\n",
    )
    with daemon(tmp_path, program=program) as running:
        assert running.url
        running.send(signal.SIGHUP)
        running.wait_for_log("reading")
        assert running.stop() == 0
        assert running.log[-1].endswith(" stopped")


# --- the beginning --------------------------------------------------------------------------------


def test_start_goes_from_the_store_to_the_sockets(tmp_path: Path) -> None:
    """The log shows the order: store, what is declared, the local hub, then listening."""
    declare(tmp_path / ".config" / "plexus" / "backends.toml", 3)
    with daemon(tmp_path, ["--backend", "e=ws://h:1"]) as running:
        database = tmp_path / ".local" / "state" / "plexus-registry" / "registry.db"
        address = running.url.removeprefix("ws://")
        shown = [line.split(" INFO     ")[1] for line in running.log]
        version = run(tmp_path, "--version").stdout.split()[1]

    assert [line.partition(" ")[0] for line in shown] == [
        "starting",
        "database",
        *["backend"] * 4,
        "declared",
        "backend",
        "listening",
    ]
    assert shown[0] == f"starting version={version}"
    assert shown[6].startswith("declared backends applied added=4 updated=0 removed=0 unchanged=0")
    assert shown[7].startswith("backend registered name=plexus url=ws://127.0.0.1:4444 source=auto")
    assert shown[8] == (
        f"listening address={address} hub=registry-hub entries=5 database={database}"
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda one: one.name)
def test_stop_signal_during_the_start_ends_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """A start that is called off leaves nothing half done, and no traceback."""
    declare(tmp_path / ".config" / "plexus" / "backends.toml", 5000)
    with daemon(tmp_path) as running:
        running.wait_for_log(" starting")
        assert running.stop(number) == 0
        assert "Traceback" not in "\n".join(running.log)

    with daemon(tmp_path) as running, conversation(running.url) as client:
        assert len(names(client)) == 5001


def test_reload_signal_during_the_start_reloads_after_it(tmp_path: Path) -> None:
    """SIGHUP does not end a daemon that is not ready yet; it reloads as soon as it is."""
    declare(tmp_path / ".config" / "plexus" / "backends.toml", 5000)
    with daemon(tmp_path) as running:
        running.wait_for_log(" starting")
        running.send(signal.SIGHUP)
        running.wait_for_log("unchanged=5000")

        order = [line for line in running.log if "listening" in line or "applied" in line]
        assert ["applied" in line for line in order] == [True, False, True]
        assert running.stop() == 0


def test_reload_signals_right_at_the_start_are_harmless(tmp_path: Path) -> None:
    """SIGHUP does not end a daemon that does not mind signals yet, however often it comes."""
    program = (
        sys.executable,
        "-c",
        "import os, signal, sys\n"
        "from plexus_registry.cli.daemon import main\n"
        "def hang_up(event, arguments):\n"  # at every module that only serving needs
        "    if event == 'import' and arguments[0].startswith('plexus_registry.'):\n"
        "        print('hanging up', file=sys.stderr)\n"
        "        os.kill(os.getpid(), signal.SIGHUP)\n"
        "sys.addaudithook(hang_up)\n"
        "sys.exit(main())\n",
    )
    with daemon(tmp_path, program=program) as running:
        with conversation(running.url) as client:
            assert names(client) == {"plexus"}
        assert running.log[0] == "hanging up"
        assert running.stop() == 0
        assert running.log[-1].endswith(" stopped")


def test_second_daemon_is_refused_with_the_first_ones_process_id(tmp_path: Path) -> None:
    """One daemon for one database, also if it is named through a symbolic link."""
    database = tmp_path / "registry.db"
    (tmp_path / "link.db").symlink_to(database)
    with daemon(tmp_path, ["--db-path", str(database)]) as running:
        assert running.url
        second = run(tmp_path, "--port", "0", "--db-path", str(tmp_path / "link.db"))

        assert second.returncode == 75
        assert second.stderr.splitlines()[1:] == [
            f"plexus-registry: database {database} is in use by process {running.process.pid}:"
            " stop that one first, or give this one another database"
        ]


def test_database_of_a_killed_daemon_is_free(tmp_path: Path) -> None:
    """SIGKILL leaves no lock behind."""
    with daemon(tmp_path) as running:
        assert running.url
        assert running.stop(signal.SIGKILL) == -signal.SIGKILL
    with daemon(tmp_path) as running:
        assert running.url


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", ".lock"])
def test_database_without_write_permission_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    """The one file that is in the way is named, and nothing is left that fails a later start."""
    database = tmp_path / "registry.db"
    arguments = ("--port", "0", "--db-path", str(database))
    with daemon(tmp_path, arguments[2:]) as running:
        assert running.url
        if suffix in ("-wal", "-shm"):
            running.stop(signal.SIGKILL)
        else:
            running.stop()
    before = sorted(os.listdir(tmp_path))
    culprit = tmp_path / f"registry.db{suffix}"
    culprit.chmod(0o444)

    ended = run(tmp_path, *arguments, program=BOUND_BY_MODES)

    assert ended.returncode == 74
    assert ended.stderr.splitlines()[-1] == (
        f"plexus-registry: {database} cannot be used: Permission denied (the file {culprit} is not"
        f" writable, permit user {os.getuid()} to write it)"
    )
    assert sorted(os.listdir(tmp_path)) == before
    culprit.chmod(0o600)
    with daemon(tmp_path, arguments[2:], program=BOUND_BY_MODES) as running:
        assert running.url


def test_directory_without_write_permission_is_refused_by_name(tmp_path: Path) -> None:
    """SQLite needs it for its log, and the lock file is in it."""
    directory = tmp_path / "state"
    directory.mkdir(mode=0o500)

    ended = run(tmp_path, "--db-path", str(directory / "r.db"), program=BOUND_BY_MODES)

    assert ended.returncode == 74
    assert ended.stderr.splitlines()[-1] == (
        f"plexus-registry: {directory}/r.db cannot be used: Permission denied (the directory"
        f" {directory} is not writable, permit user {os.getuid()} to write it)"
    )


@pytest.mark.parametrize("closed", [".config", ".config/plexus"])
def test_configuration_directory_that_cannot_be_searched_is_told(
    tmp_path: Path, closed: str
) -> None:
    """In one line that names the file that was looked for."""
    (tmp_path / ".config" / "plexus").mkdir(parents=True)
    (tmp_path / closed).chmod(0)
    try:
        ended = run(tmp_path, "--port", "0", program=BOUND_BY_MODES)
    finally:
        (tmp_path / closed).chmod(0o700)

    assert ended.returncode == 78
    assert ended.stderr.splitlines()[-1] == (
        f"plexus-registry: {tmp_path}/.config/plexus/registry.toml: cannot be read: Permission"
        " denied"
    )
    assert "Traceback" not in ended.stderr


def test_taken_port_is_told_in_one_line(tmp_path: Path) -> None:
    """The line names the address and a way out, and the exit status is 69."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run(tmp_path, "--port", str(port))

    assert ended.returncode == 69
    (line,) = [line for line in ended.stderr.splitlines() if not re.match(r"\d{4}-", line)]
    assert line.startswith(f"plexus-registry: cannot listen on 127.0.0.1:{port}: the port is taken")
    assert "--port" in line


# --- the log --------------------------------------------------------------------------------------


def test_log_has_times_and_levels_without_a_journal(tmp_path: Path) -> None:
    """On stderr that is no journal each line begins with date, time and level."""
    with daemon(tmp_path, environ=environment(tmp_path, JOURNAL_STREAM="1:2")) as running:
        assert running.url
        running.stop()

    for line in running.log:
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO     \w", line), line


def test_log_has_priorities_under_the_journal(tmp_path: Path) -> None:
    """Where stderr is the journal's socket each line begins with its priority, refusals as well."""
    program = (
        sys.executable,
        "-c",
        "import sys\n"
        "sys.modules['systemd'] = None\n"  # as where python3-systemd is not installed
        "from plexus_registry.cli.daemon import main\n"
        "sys.exit(main())\n",
    )
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        found = os.fstat(theirs.fileno())
        environ = environment(tmp_path, JOURNAL_STREAM=f"{found.st_dev}:{found.st_ino}")
        for arguments in (["--db-path", "/dev/null/registry.db"], ["--host", "a b"]):
            subprocess.run(
                [*program, "--port", "0", *arguments],
                env=environ,
                stderr=theirs.fileno(),
                timeout=TIMEOUT_S,
                check=False,
            )
        theirs.close()
        with ours.makefile(encoding="utf-8") as stream:
            started, unusable, bad_host = stream.read().splitlines()

    assert started.startswith("<6>starting version=")
    assert re.match(r"<[23]>.*: /dev/null/registry.db cannot be used: ", unusable)
    assert re.match(r'<[23]>.*: --host: host: "a b" is not accepted', bad_host)


def test_log_level_leaves_out_what_is_below(tmp_path: Path) -> None:
    """With --log-level warning a start and an end say nothing."""
    with daemon(tmp_path, ["--log-level", "warning"]) as running:
        wait_until((tmp_path / ".local/state/plexus-registry/registry.db").exists, "the database")
        assert running.stop() == 0

    assert running.log == []


def test_daemon_without_standard_error_serves(tmp_path: Path) -> None:
    """A closed stderr is a log that nobody reads, no reason to fail."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command("--port", str(port))]
    with subprocess.Popen(arguments, env=environment(tmp_path)) as process:
        try:
            wait_until(lambda: _accepts(port) or process.poll() is not None, "an open port")
            with conversation(f"ws://127.0.0.1:{port}") as client:
                assert names(client) == {"plexus"}
        finally:
            process.terminate()
            status = process.wait(TIMEOUT_S)
    assert status == 0


def _accepts(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


# --- in another program ---------------------------------------------------------------------------


def open_descriptors() -> int:
    """Count the open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def test_start_and_stop_leave_no_descriptor(settings: Settings) -> None:
    """Neither a life with clients and reloads nor a start that fails leaves anything open."""
    declare(settings.config, 10)

    def live() -> None:
        with serving(settings) as served, conversation(served.url) as client:
            assert len(names(client)) == 10

    def fail(bad: Settings, error: type[PlexusRegistryError]) -> None:
        with pytest.raises(error), serving(bad):
            pass

    live()  # what is opened once and for all is open now
    before = open_descriptors()
    for _ in range(3):
        live()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        fail(dataclasses.replace(settings, port=taken.getsockname()[1]), ListenError)
    with serving(settings):
        fail(settings, StoreError)
    settings.config.write_text("=")
    fail(settings, ConfigError)
    assert open_descriptors() == before


def test_failed_start_leaves_the_address_and_database_free(settings: Settings) -> None:
    """After the fault is mended the same settings work."""
    settings.config.write_text("=")
    with pytest.raises(ConfigError), serving(settings):
        pass
    settings.config.write_text("")
    with serving(settings) as served, conversation(served.url) as client:
        assert names(client) == set()


def test_two_registries_in_one_program_do_not_meet(settings: Settings, tmp_path: Path) -> None:
    """Each has its own port, database and entries; a stopped one starts again with what it had."""
    other = dataclasses.replace(settings, database=tmp_path / "other.db")

    async def live() -> None:
        first, second = Service(settings), Service(other)
        async with first, second:
            assert first.addresses != second.addresses
            event = await first.submit(Register(name="a", host="h", port=1))
            assert isinstance(event, BackendRegistered)
            assert [entry.name for entry in first.registry.catalog] == ["a"]
            assert list(second.registry.catalog) == []
        assert first.addresses == []
        async with first:
            assert [entry.name for entry in first.registry.catalog] == ["a"]

    asyncio.run(live())


def test_stop_finishes_what_the_embedder_asked_for(settings: Settings) -> None:
    """Requests that wait for a commit when the stop begins are committed and answered."""

    async def live() -> None:
        asked = []
        async with Service(settings) as service:
            for number in range(20):
                request = Register(name=f"n{number}", host="h", port=1)
                asked.append(asyncio.create_task(service.submit(request)))
                await asyncio.sleep(0)  # so that they do not all share the first commit
            asked.append(asyncio.create_task(service.reload()))
            await asyncio.sleep(0)
        events = await asyncio.gather(*asked)
        assert {type(event) for event in events[:-1]} == {BackendRegistered}
        assert isinstance(events[-1], Reloaded)
        async with Service(settings) as service:
            assert len(list(service.registry.catalog)) == 20

    asyncio.run(live())


def test_stop_tells_which_lines_were_left_out(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """The last words on changes and failures, which would wait for ever for the next of them."""
    caplog.set_level(logging.INFO)
    count = CHANGES_BURST + 100
    with serving(settings) as served, conversation(served.url) as client:
        for first in range(0, count, 500):
            numbers = range(first, min(first + 500, count))
            batch = [
                {
                    "jsonrpc": "2.0",
                    "id": number,
                    "method": "registry.register",
                    "params": {"name": f"n{number}", "host": "h", "port": 1},
                }
                for number in numbers
            ]
            client.send(batch)
            for _ in range(1 + 2 * len(numbers)):
                client.receive()
        settings.config.write_text("[[backend]]\nname = 'a/b'\n")
        for _ in range(SAME_FAILURES_MAX + 5):
            assert client.call("registry.reload").content["type"] == "error"
    told = [it.getMessage() for it in caplog.records if it.levelno == logging.WARNING]
    [changes] = [line for line in told if line.startswith("too many changes")]
    said = sum(line.startswith("backend registered") for line in caplog.messages)
    assert said + int(changes.rpartition("=")[2]) == count
    assert any(line.startswith("as before, and not logged each time: ") for line in told)


def test_stopped_service_says_that_it_does_not_run(settings: Settings) -> None:
    """Before start and after stop there are no entries to be had; a stop can be repeated."""

    async def live() -> None:
        service = Service(settings)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="not running"):
                _ = service.registry
            service.start_reload(peer="nobody")
            async with service:
                assert service.addresses
            await service.stop()

    asyncio.run(live())


def test_import_does_no_io() -> None:
    """Importing the package opens nothing but modules, and loads nothing heavy."""
    program = """
import sys
seen = []
sys.addaudithook(lambda event, arguments: seen.append((event, arguments)))
known = set(sys.modules)
import plexus_registry
from plexus_registry import __version__
loaded = set(sys.modules) - known
events = list(seen)
print(sorted(loaded & {"asyncio", "websockets", "sqlite3", "socket", "logging", "pyinotify"}))
print(sorted(name for name in loaded if name.startswith("plexus_registry")))
opened = [arguments[0] for event, arguments in events if event == "open"]
print([path for path in opened if not str(path).endswith((".py", ".pyc"))])
outside = ("os.", "socket.", "subprocess.", "sqlite3.", "shutil.", "tempfile.", "fcntl.")
print(sorted({event for event, _ in events if event.startswith(outside)} - {"os.listdir"}))
"""
    ended = subprocess.run(
        [sys.executable, "-B", "-c", program],
        env={**os.environ, "PYTHONPATH": str(PACKAGE_DIR)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=True,
    )
    assert ended.stdout.splitlines() == ["[]", "['plexus_registry']", "[]", "[]"]
