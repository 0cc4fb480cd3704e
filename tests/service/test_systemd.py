# SPDX-License-Identifier: AGPL-3.0-only
"""What passes between systemd and the daemon: sockets in, notifications out, the watchdog."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from plexus_registry.errors import ConfigError
from plexus_registry.service import systemd
from support.activation import activated, connected_to, listener, listeners
from support.conversation import Conversation, conversation
from support.daemon import daemon, environment
from support.notifications import Notifications, notifications
from support.timing import TIMEOUT_S

TAKER = (
    sys.executable,
    "-W",
    "always::ResourceWarning",  # of sockets that nobody closed
    "-c",
    "import json, os\n"
    "from plexus_registry.errors import ConfigError\n"
    "from plexus_registry.service.systemd import take_sockets\n"
    "told = {}\n"
    "try:\n"
    "    taken = take_sockets(os.environ)\n"
    "    told['taken'] = [\n"
    "        [it.name, it.socket.fileno(), it.socket.family, it.socket.getsockname(),\n"
    "         os.get_inheritable(it.socket.fileno()), it.socket.getblocking()]\n"
    "        for it in taken\n"
    "    ]\n"
    "    for it in taken:\n"
    "        it.socket.close()\n"
    "except ConfigError as error:\n"
    "    told['fault'] = str(error)\n"
    "told['left'] = sorted(name for name in os.environ if name.startswith('LISTEN_'))\n"
    "print(json.dumps(told))\n",
)
"""Takes passed sockets and tells in JSON what became of it."""

ALL_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


@pytest.fixture
def short(tmp_path: Path) -> Iterator[Path]:
    """A folder whose path is short enough for the address of a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="plexus-") as folder:
        yield Path(folder)


def take(home: Path, descriptors: Sequence[int], **variables: str) -> dict[str, Any]:
    """Pass descriptors to a child process that takes them, and return what it tells."""
    ended = subprocess.run(
        activated(descriptors, TAKER),
        env=environment(home, **variables),
        pass_fds=descriptors,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ended.stderr == ""
    told: dict[str, Any] = json.loads(ended.stdout)
    assert told["left"] == []
    return told


# --- sockets in -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"LISTEN_PID": str(os.getpid())},
        {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "a"},
        {"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b", "LISTEN_PIDFDID": "7"},
        {"LISTEN_PID": str(2**64 - 1), "LISTEN_FDS": "1"},
        {"LISTEN_PID": "", "LISTEN_FDS": ""},
    ],
    ids=["none", "no count", "no process", "another process", "huge process", "empty"],
)
def test_nothing_is_taken_that_was_not_passed_to_this_process(variables: dict[str, str]) -> None:
    """Without sockets of its own it takes none, and no child will take what is not its own."""
    environ = {**variables, "OTHER": "1"}

    assert systemd.take_sockets(environ) == []
    assert environ == {"OTHER": "1"}


@pytest.mark.parametrize("variable", ["LISTEN_PID", "LISTEN_FDS"])
@pytest.mark.parametrize(
    "value", ["0", "-1", "x", "1.5", " 1", "+1", "1_0", "0x1", "²", "٣", "9" * 21, "9" * 5000]
)
def test_variable_that_makes_no_sense_is_refused(variable: str, value: str) -> None:
    """Anything but a whole number above 0 is told by name, in one line, and removed."""
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", variable: value}

    with pytest.raises(ConfigError) as refused:
        systemd.take_sockets(environ)

    message = str(refused.value)
    assert message.startswith(f"${variable}: ")
    assert message.endswith("is not accepted, expected a whole number above 0")
    assert message.isascii() or value[:3] == "999"
    assert "\n" not in message
    assert len(message) < 200
    assert environ == {}


@pytest.mark.parametrize(
    "kinds",
    [
        (),
        ("v4",),
        ("v6",),
        ("unix",),
        ("v4", "v6", "unix"),
        ("unix", "v4", "unix", "v6", "v4") * 4,
    ],
    ids=lambda kinds: f"{len(kinds)} {'+'.join(kinds[:3])}",
)
def test_passed_sockets_are_taken_in_order(
    tmp_path: Path, short: Path, kinds: tuple[str, ...]
) -> None:
    """Any number of any family; close-on-exec, not blocking, and the variables are gone."""
    variables = {} if kinds else {"LISTEN_FDS": "", "LISTEN_PID": ""}
    with listeners(kinds, short) as passed:
        told = take(tmp_path, [sock.fileno() for sock in passed], **variables)

        assert told["taken"] == [
            ["unknown", 3 + index, sock.family, json.loads(json.dumps(sock.getsockname())), 0, 0]
            for index, sock in enumerate(passed)
        ]


def test_sockets_have_the_names_of_their_units(tmp_path: Path, short: Path) -> None:
    """$LISTEN_FDNAMES gives them, also empty ones."""
    with listeners(("v4", "v6", "unix"), short) as passed:
        numbers = [sock.fileno() for sock in passed]
        told = take(tmp_path, numbers, LISTEN_FDNAMES="plexus-registry.socket::lan")

    assert [taken[0] for taken in told["taken"]] == ["plexus-registry.socket", "", "lan"]


@pytest.mark.parametrize("names", ["a", "a:b:c", ":::"])
def test_wrong_number_of_names_is_refused(tmp_path: Path, short: Path, names: str) -> None:
    """Names that do not fit the sockets would be wrong for some."""
    count = len(names.split(":"))
    with listeners(("v4", "unix"), short) as passed:
        told = take(tmp_path, [sock.fileno() for sock in passed], LISTEN_FDNAMES=names)

    assert told["fault"] == f"$LISTEN_FDNAMES: {count} names for 2 sockets"


def not_listening(folder: Path) -> socket.socket:
    """Return a stream socket that is bound only."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    return sock


def datagram(folder: Path) -> socket.socket:
    """Return a UDP socket, as of a unit with ListenDatagram=."""
    sock = socket.socket(type=socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


def sequential(folder: Path) -> socket.socket:
    """Return a listening socket of packets, as of a unit with ListenSequentialPacket=."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.bind(str(folder / "packets"))
    sock.listen()
    return sock


@pytest.mark.parametrize("make", [not_listening, datagram, sequential])
def test_socket_of_the_wrong_kind_is_refused(
    tmp_path: Path, short: Path, make: Callable[[Path], socket.socket]
) -> None:
    """The message says which descriptor it is and what the unit needs."""
    with listener("v4", short) as good, make(short) as bad:
        told = take(tmp_path, [good.fileno(), bad.fileno()], LISTEN_FDNAMES="good:bad")

    assert told["fault"] == (
        "$LISTEN_FDS: descriptor 4 (bad) is no listening stream socket of TCP or Unix;"
        " the socket unit needs ListenStream= and Accept=no"
    )


def test_names_cannot_forge_the_message(tmp_path: Path, short: Path) -> None:
    """What $LISTEN_FDNAMES holds is quoted where it is more than a plain word, and bounded."""
    with listener("v4", short) as good:
        told = take(tmp_path, [good.fileno()], LISTEN_FDS="2", LISTEN_FDNAMES="a:b\nc" + "x" * 999)

    assert told["fault"] == (
        f'$LISTEN_FDS: descriptor 4 ("b\\nc{"x" * 77}"… (1002 characters)) is no socket:'
        " Bad file descriptor"
    )


def test_descriptor_that_is_no_socket_is_refused(tmp_path: Path) -> None:
    """A regular file is told as what it is not."""
    with (tmp_path / "file").open("w") as file:
        told = take(tmp_path, [file.fileno()])

    assert told["fault"] == (
        "$LISTEN_FDS: descriptor 3 (unknown) is no socket: Socket operation on non-socket"
    )


@pytest.mark.parametrize("count", [2, 1000, 2**64 - 1])
def test_descriptor_that_is_closed_is_refused(tmp_path: Path, short: Path, count: int) -> None:
    """More sockets announced than passed is told at the first that is missing."""
    with listener("v4", short) as passed:
        told = take(tmp_path, [passed.fileno()], LISTEN_FDS=str(count))

    assert told["fault"] == (
        "$LISTEN_FDS: descriptor 4 (unknown) is no socket: Bad file descriptor"
    )


# --- a daemon with passed sockets -----------------------------------------------------------------


def converse(client: Conversation, name: str) -> None:
    """Do a little of everything: ask who is there, write, read."""
    assert client.request("_info").content["backend"] == "registry-hub"
    params = {"name": name, "host": "h", "port": 1}
    assert client.call("registry.register", params).content["type"] == "backend_registered"
    assert client.call("registry.get", {"name": name}).content["backend"]["name"] == name


@contextlib.contextmanager
def conversation_on(listening: socket.socket) -> Iterator[Conversation]:
    """Converse through a listening socket of any family."""
    with connected_to(listening) as sock, conversation_over(sock) as client:
        yield client


def conversation_over(sock: socket.socket) -> contextlib.AbstractContextManager[Conversation]:
    """Converse over a connected socket of any family."""
    return conversation("ws://localhost", sock=sock, unix=sock.family == socket.AF_UNIX)


@pytest.mark.parametrize(
    "kinds", [(), ("v4",), ("v4", "v6"), ("v4", "v6", "unix"), ("unix", "unix")], ids="+".join
)
def test_daemon_serves_on_all_sockets_alike(
    tmp_path: Path, short: Path, kinds: tuple[str, ...]
) -> None:
    """With a socket of its own, or with one, two or three passed ones: the same conversation."""
    with listeners(kinds, short) as passed:
        numbers = [sock.fileno() for sock in passed]
        if not kinds:
            with daemon(tmp_path) as running, conversation(running.url) as client:
                converse(client, "own")
                return
        with daemon(tmp_path, program=activated(numbers), pass_fds=numbers) as running:
            for number, sock in enumerate(passed):
                with conversation_on(sock) as client:
                    converse(client, f"n{number}")
            assert running.stop() == 0
            log = "\n".join(running.log)

    for number, kind in enumerate(kinds):
        label = {"v4": "127.0.0.1:", "v6": "[::1]:", "unix": f"unix:{short}/{number}.sock"}[kind]
        (line,) = [line for line in running.log if " listening address=" in line]
        assert line.partition("address=")[2].split()[0].split(",")[number].startswith(label)
    peer = f"peer=unix:pid={os.getpid()},uid={os.geteuid()}"
    assert log.count(peer) == kinds.count("unix")


def test_sockets_outlive_the_daemon(tmp_path: Path, short: Path) -> None:
    """After its end whoever passed them accepts on them, and the next daemon serves on them."""
    with listeners(("v4", "v6", "unix"), short) as passed:
        numbers = [sock.fileno() for sock in passed]
        for number in range(2):
            with daemon(tmp_path, program=activated(numbers), pass_fds=numbers) as running:
                for sock in passed:
                    with conversation_on(sock) as client:
                        converse(client, f"n{number}")
                assert running.stop() == 0
            assert stat.S_ISSOCK((short / "2.sock").stat().st_mode)
            for sock in passed:
                sock.settimeout(TIMEOUT_S)
                with connected_to(sock) as ours, sock.accept()[0] as theirs:
                    ours.sendall(b"x")
                    assert theirs.recv(1) == b"x"


def test_client_that_came_before_the_daemon_is_served(tmp_path: Path, short: Path) -> None:
    """A connection that made systemd start the daemon gets its answer."""
    with listeners(("unix",), short) as (listening,), connected_to(listening) as early:
        numbers = [listening.fileno()]
        with (
            daemon(tmp_path, program=activated(numbers), pass_fds=numbers),
            conversation_over(early) as client,
        ):
            converse(client, "early")


def test_host_and_port_count_for_nothing_with_passed_sockets(tmp_path: Path, short: Path) -> None:
    """An address that cannot be listened on, and one that is taken, do no harm; the log tells."""
    with listeners(("unix", "v4"), short) as (listening, taken):
        numbers = [listening.fileno()]
        port = str(taken.getsockname()[1])
        for arguments in (["--host", "192.0.2.1"], ["--port", port]):
            program = activated(numbers)
            with (
                daemon(tmp_path, arguments, program=program, pass_fds=numbers) as running,
                conversation_on(listening) as client,
            ):
                client.expect_silence()
                running.wait_for_log("host and port have no effect, systemd has the sockets")


def test_sockets_for_another_process_are_left_alone(tmp_path: Path, short: Path) -> None:
    """A daemon in a shell of an activated service listens where its settings say."""
    with listeners(("unix",), short) as (listening,):
        numbers = [listening.fileno()]
        environ = environment(tmp_path, LISTEN_PID="1", LISTEN_FDS="1")
        program = activated(numbers)
        with daemon(tmp_path, environ=environ, program=program, pass_fds=numbers) as running:
            assert running.url.startswith("ws://127.0.0.1:")


def test_refused_start_turns_away_who_waits(tmp_path: Path, short: Path) -> None:
    """Exit 78 leaves no connection pending, for which systemd would start the daemon anew."""
    folder = tmp_path / ".config" / "plexus"
    folder.mkdir(parents=True)
    (folder / "backends.toml").write_text("[[backend]\n")
    with listeners(("v4", "unix"), short) as passed, contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(connected_to(sock)) for sock in passed for _ in range(3)]
        numbers = [sock.fileno() for sock in passed]
        with daemon(tmp_path, program=activated(numbers), pass_fds=numbers) as running:
            assert running.wait() == 78

        for sock in waiting:
            assert sock.recv(1) == b""
        for sock in passed:
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.accept()


def test_turning_away_leaves_the_sockets_listening(short: Path) -> None:
    """Who waits is let go; who comes later can be accepted."""
    with listeners(("v4", "v6", "unix"), short) as passed, contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(connected_to(sock)) for sock in passed for _ in range(2)]
        for sock in passed:
            sock.setblocking(False)
        systemd.turn_away(passed)

        for sock in waiting:
            assert sock.recv(1) == b""
        for sock in passed:
            with connected_to(sock), sock.accept()[0]:
                pass


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, False),
        ({"NOTIFY_SOCKET": ""}, False),
        ({"NOTIFY_SOCKET": "/run/systemd/notify"}, True),
        ({"SYSTEMD_EXEC_PID": str(os.getpid())}, True),
        ({"SYSTEMD_EXEC_PID": "1", "INVOCATION_ID": "x", "JOURNAL_STREAM": "1:2"}, False),
    ],
)
def test_started_by_systemd_is_told_from_started_below_it(
    variables: dict[str, str], expected: bool
) -> None:
    """A shell of a service hands variables on that say nothing about this process."""
    assert systemd.is_started_by_systemd(variables) is expected


# --- notifications out ----------------------------------------------------------------------------


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, short: Path) -> Iterator[Notifications]:
    """The service manager's socket, in each form that its address may have."""
    with notifications(short, is_abstract=request.param == "abstract") as manager:
        yield manager


@contextlib.contextmanager
def notifying(monkeypatch: pytest.MonkeyPatch, address: str) -> Iterator[systemd.Notifier]:
    """Make a notifier for an address."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    notifier = systemd.Notifier(os.environ)
    try:
        yield notifier
    finally:
        if notifier._notifier is not None:
            notifier._notifier.socket.close()


def test_each_state_is_a_message_of_its_own(
    manager: Notifications, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A READY=1 travels alone, for nothing beside it may keep it from arriving."""
    with notifying(monkeypatch, manager.address) as notifier:
        assert notifier.is_active
        notifier.status("starting")
        notifier.extend_timeout(30)
        notifier.ready()
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        notifier.reloading(time.monotonic_ns() // 1000)
        notifier.ready()
        notifier.alive()
        notifier.stopping()

    messages = manager.pending()
    state, stamp = messages.pop(3).split("\n")
    assert state == "RELOADING=1"
    assert stamp.startswith("MONOTONIC_USEC=")
    assert before <= int(stamp.partition("=")[2]) < before + TIMEOUT_S * 1_000_000
    assert messages == [
        "STATUS=starting",
        "EXTEND_TIMEOUT_USEC=30000000",
        "READY=1",
        "READY=1",
        "WATCHDOG=1",
        "STOPPING=1",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("serving — all well…", "serving \\u2014 all well\\u2026"),
        ("Grüße \U0001f680", "Gr\\xfc\\xdfe \\U0001f680"),
        ("path \udcff", "path \\udcff"),
        ("one\ntwo\r\n\tthree  four\n", "one two three four"),
        ("forged\nREADY=1", "forged READY=1"),
    ],
    ids=ascii,
)
def test_status_is_one_line_of_ascii(
    manager: Notifications, monkeypatch: pytest.MonkeyPatch, text: str, line: str
) -> None:
    """What sdnotify could not send is escaped; a line break cannot pass for another state."""
    with notifying(monkeypatch, manager.address) as notifier:
        notifier.status(text)
        notifier.ready()

    assert manager.pending() == [f"STATUS={line}", "READY=1"]


def test_unchanged_status_is_not_sent_again(
    manager: Notifications, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what differs from the last line is news."""
    with notifying(monkeypatch, manager.address) as notifier:
        for text in ("a", "a", " a\n", "b", "a"):
            notifier.status(text)

    assert manager.pending() == ["STATUS=a", "STATUS=b", "STATUS=a"]


def say_everything(notifier: systemd.Notifier) -> None:
    """Send one message of each kind."""
    notifier.ready()
    notifier.status("x")
    notifier.reloading(1)
    notifier.alive()
    notifier.extend_timeout(1)
    notifier.stopping()


# sdnotify forgets the socket that it could not connect.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_manager_that_is_not_there_is_a_warning(
    short: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The daemon serves all the same."""
    for address in (str(short / "nobody"), "@nobody-listens-here", "vsock:2:1", "x" * 200):
        caplog.clear()
        with notifying(monkeypatch, address) as notifier:
            assert not notifier.is_active
            say_everything(notifier)
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert record.getMessage().startswith("service manager cannot be notified reason=")


def test_manager_that_goes_away_is_a_warning(
    short: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each lost message is told by its state, without its text."""
    with notifications(short) as manager, notifying(monkeypatch, manager.address) as notifier:
        manager._socket.close()
        say_everything(notifier)

    lost = [record.getMessage().partition(" reason=")[0] for record in caplog.records]
    states = ["READY", "STATUS", "RELOADING", "WATCHDOG", "EXTEND_TIMEOUT_USEC", "STOPPING"]
    assert lost == [f"notification lost state={state}" for state in states]


def test_nothing_is_notified_outside_of_systemd(caplog: pytest.LogCaptureFixture) -> None:
    """Without the variable every message goes nowhere, and no warning comes."""
    notifier = systemd.Notifier({})
    say_everything(notifier)

    assert not notifier.is_active
    assert not caplog.records


# --- the watchdog ---------------------------------------------------------------------------------

OURS = str(os.getpid())


@pytest.mark.parametrize(
    ("variables", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": OURS}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": ""}, None),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "x"}, None),
        ({"WATCHDOG_USEC": "1", "WATCHDOG_PID": OURS}, 0.0000005),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "1.5"}, None),
        ({"WATCHDOG_USEC": "30s"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({"WATCHDOG_PID": OURS}, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_watchdog_is_fed_twice_in_its_limit(
    variables: dict[str, str], interval_s: float | None
) -> None:
    """If it watches this process and its limit is a number; else there is no watchdog."""
    assert systemd.watchdog_interval_s(variables) == interval_s
