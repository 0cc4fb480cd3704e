# SPDX-License-Identifier: AGPL-3.0-only
"""The command ``plexus-registryctl``: what it asks, what it says, its exit statuses."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from plexus_registry import __version__
from plexus_registry.cli import control
from support.activation import activated, listener
from support.certificates import Authority
from support.control import (
    MAIN,
    MAIN_BOUND_BY_MODES,
    SCRIPT,
    Ended,
    ctl,
    done,
    environment_of,
    failed,
)
from support.conversation import conversation
from support.daemon import Daemon, daemon
from support.timing import TIMEOUT_S, wait_until

SOUND = '[[backend]]\nname = "a"\nhost = "h"\nport = 1\n'


def lost(reason: str, url: str = "") -> str:
    """Return what is said if no registry answers: the doctor is to examine the same one."""
    option = f"--url {shlex.quote(url)} " if url else ""
    return f"{reason}; plexus-registryctl {option}doctor looks for the cause"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The declared backends, one to begin with."""
    path = tmp_path / ".config" / "plexus" / "backends.toml"
    path.parent.mkdir(parents=True)
    path.write_text(SOUND)
    return path


@pytest.fixture
def running(tmp_path: Path, config: Path) -> Iterator[Daemon]:
    """A daemon that serves."""
    with daemon(tmp_path) as running:
        assert running.url
        yield running


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Where the database of a user is."""
    return tmp_path / ".local" / "state" / "plexus-registry" / "registry.db"


def names_in(database: Path) -> set[str]:
    """Return the names in a database that nobody uses."""
    with contextlib.closing(sqlite3.connect(database)) as opened:
        return {name for (name,) in opened.execute("SELECT name FROM backends")}


# --- the command line -----------------------------------------------------------------------------


def test_version_is_told(tmp_path: Path) -> None:
    """--version names program and version."""
    ended = ctl(tmp_path, "--version", program=SCRIPT)
    assert done(ended) == f"plexus-registryctl {__version__}"


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_lists_the_commands(tmp_path: Path, option: str) -> None:
    """Each with what it does; each command has its own help."""
    ended = ctl(tmp_path, option, program=SCRIPT)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("Usage: plexus-registryctl ")
    _, commands = ended.stdout.split("\nBackends:\n")
    commands, _ = commands.split("\nExamples:\n")
    listed = [line.split()[0] for line in commands.splitlines() if line.startswith("  ")]
    assert sorted(listed) == sorted(control.command.commands)
    for command in listed:
        own = ctl(tmp_path, command, option)
        assert (own.returncode, own.stderr) == (0, "")
        assert own.stdout.startswith(f"Usage: plexus-registryctl {command} ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope"], r"No such command '?nope'?"),
        (["--nope"], r"No such option:? '?--nope'?"),
        (["reload", "extra"], r"Got unexpected extra argument \(extra\)"),
        (["backup"], r"Missing (argument|parameter):? '?[Ff][Ii][Ll][Ee]'?"),
        (["--timeout", "0", "reload"], r"Invalid value for '--timeout': .*"),
        (["--timeout", "x", "reload"], r"Invalid value for '--timeout': .*"),
        (["--url"], r"Option '--url' requires an argument"),
    ],
    ids=" ".join,
)
def test_wrong_command_line_is_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    """With status 64 and where to look."""
    line = failed(ctl(tmp_path, *arguments), 64)
    verb = f" {arguments[0]}" if arguments[0] in ("reload", "backup") else ""
    assert re.fullmatch(rf"{message}; see plexus-registryctl{verb} --help", line), line


@pytest.mark.parametrize(
    ("arguments", "right"),
    [
        (["status", "--url", "ws://h:1"], "put --url before the verb: {} --url URL status"),
        (["status", "--url=ws://h:1"], "put --url before the verb: {} --url URL status"),
        (["list", "--wait", "3"], "put --wait before the verb: {} --wait SECONDS list"),
        (["token", "new", "--url", "x"], "put --url before the verb: {} --url URL token new"),
        (["--json", "list"], "put --json after the verb: {} list --json"),
        (["--timeout", "3", "--all", "export"], "put --all after the verb: {} export --all"),
        (["--json"], "put --json after the verb: {} list --json"),
        (
            ["--namespace", "n", "update"],
            "put --namespace after the verb: {} update --namespace TEXT",
        ),
        (
            ["token", "--tokens", "f", "list"],
            "put --tokens after the verb: {} token list --tokens FILE",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_option_on_the_wrong_side_of_the_verb_is_told_its_place(
    tmp_path: Path, arguments: list[str], right: str
) -> None:
    """With the command line as it would be right."""
    line = failed(ctl(tmp_path, *arguments), 64)
    assert line == right.format("plexus-registryctl")


def test_option_that_the_verb_has_not_got_is_no_matter_of_its_place(tmp_path: Path) -> None:
    """Though others have it."""
    for arguments in (["--json", "token"], ["status", "--all"]):
        assert failed(ctl(tmp_path, *arguments), 64).startswith("No such option")


def test_missing_command_shows_the_help(tmp_path: Path) -> None:
    """And is an error."""
    ended = ctl(tmp_path)

    assert ended.returncode == 64
    assert ended.stdout.startswith("Usage: ")
    assert (
        ended.stderr == "plexus-registryctl: a command is missing; see plexus-registryctl --help\n"
    )


@pytest.mark.parametrize(
    "url", ["localhost:4445", "http://h:1", "ws://", "ws://h:99999", "ws://[::1", "unix:relative"]
)
@pytest.mark.parametrize("is_option", [True, False], ids=["option", "variable"])
def test_url_of_no_registry_is_refused(tmp_path: Path, url: str, *, is_option: bool) -> None:
    """With status 64 and what would be accepted, wherever it was given."""
    if is_option:
        ended = ctl(tmp_path, "--url", url, "reload")
    else:
        ended = ctl(tmp_path, "reload", PLEXUS_REGISTRY_URL=url)

    assert failed(ended, 64) == (
        f'url: "{url}" is not accepted, expected ws://HOST:PORT, wss://HOST:PORT or unix:/PATH'
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_no_reason_for_a_traceback(
    tmp_path: Path, unbuffered: str
) -> None:
    """A full disk and a reader that leaves: status 74, and a line where it is anybody's fault."""
    for arguments in (["--help"], ["--version"]):
        command = [*MAIN, *arguments]
        environ = environment_of(tmp_path, PYTHONUNBUFFERED=unbuffered)
        with open("/dev/full", "w") as full:
            ended = subprocess.run(
                command, env=environ, stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert (
            failed_quietly(ended) == "plexus-registryctl: standard output: No space left on device"
        )

        read_end, write_end = os.pipe()
        os.close(read_end)
        ended = subprocess.run(
            command, env=environ, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(write_end)
        assert failed_quietly(ended) == ""


def failed_quietly(ended: Ended) -> str:
    """Return what a command that could not print said instead."""
    assert ended.returncode == 74, ended.stderr
    return ended.stderr.rstrip("\n")


# --- the token ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_file", [True, False], ids=["file", "variable"])
@pytest.mark.parametrize("token", ["plexus_SECRET\nHost: SECRET", "SECRET a", "SECRET\xfc"])
def test_token_that_can_be_none_is_neither_sent_nor_shown(
    tmp_path: Path, token: str, *, is_file: bool
) -> None:
    """What holds it is at fault, and named; nobody is asked."""
    file = tmp_path / "token"
    file.write_text(f"{token}\n")
    with socket.create_server(("127.0.0.1", 0)) as registry:
        command = ("--url", f"ws://127.0.0.1:{registry.getsockname()[1]}", "list")
        if is_file:
            ended = ctl(tmp_path, "--token-file", str(file), *command)
        else:
            ended = ctl(tmp_path, *command, PLEXUS_REGISTRY_TOKEN=f" {token}\n")
        registry.setblocking(False)
        with pytest.raises(BlockingIOError):
            registry.accept()
    place = file if is_file else "$PLEXUS_REGISTRY_TOKEN"
    line = failed(ended, 78)
    assert line == f"{place}: holds no token, expected the one line that `token new` printed"


def test_token_of_blanks_is_none(tmp_path: Path, running: Daemon) -> None:
    """As of a variable that a script leaves empty."""
    ended = ctl(tmp_path, "--url", running.url, "reload", PLEXUS_REGISTRY_TOKEN=" \n")
    assert done(ended).startswith("reloaded: ")


# --- reload ---------------------------------------------------------------------------------------


def test_reload_tells_what_came_of_it(tmp_path: Path, config: Path, running: Daemon) -> None:
    """It returns when the files are applied: status 0 and the counts."""
    other = config.with_name("other.toml.new")
    other.write_text(SOUND + SOUND.replace('"a"', '"b"'))
    nothing_new = ctl(tmp_path, "--url", running.url, "reload", program=SCRIPT)
    assert done(nothing_new) == "reloaded: 0 added, 0 updated, 0 removed, 1 unchanged"

    other.replace(config)
    counts = done(ctl(tmp_path, "--url", running.url, "reload"))
    with conversation(running.url) as client:
        assert client.call("registry.get", {"name": "b"}).content["backend"]
    # inotify may have been quicker.
    assert counts in (
        "reloaded: 1 added, 0 updated, 0 removed, 1 unchanged",
        "reloaded: 0 added, 0 updated, 0 removed, 2 unchanged",
    )


def test_reload_that_fails_tells_file_and_line(
    tmp_path: Path, config: Path, running: Daemon
) -> None:
    """In one line, with status 1."""
    config.write_text(SOUND + "[[backend]\n")
    line = failed(ctl(tmp_path, "--url", running.url, "reload"), 1)

    assert line.startswith(f"Failed to parse TOML config: {config}:5: ")


def test_registry_that_is_not_there_is_told(tmp_path: Path) -> None:
    """In one line, with status 69."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"ws://127.0.0.1:{free.getsockname()[1]}"
    line = failed(ctl(tmp_path, "--url", url, "reload"), 69)
    assert line == lost(f"no registry answers at {url}: Connection refused", url)

    url = f"unix:{tmp_path}/nobody here"
    reason = f"no registry answers at {url}: No such file or directory"
    assert failed(ctl(tmp_path, "reload", PLEXUS_REGISTRY_URL=url), 69) == lost(reason)
    line = failed(ctl(tmp_path, "--url", url, "reload"), 69)
    assert line == lost(reason, url)
    command = line.rpartition("; ")[2].removesuffix(" looks for the cause")
    examined = ctl(tmp_path, *shlex.split(command)[1:]).stdout
    assert examined.startswith(f"problem: {reason}")


def test_doctor_is_named_with_all_that_says_which_registry(tmp_path: Path) -> None:
    """Else it would find faults that are none, or none."""
    files = ("--token-file", str(tmp_path / "a token"), "--ca-file", "/etc/ssl/cert.pem")
    (tmp_path / "a token").write_text("plexus_x\n")
    url = f"unix:{tmp_path}/nobody"
    line = failed(ctl(tmp_path, "--timeout", "9", *files, "--url", url, "list"), 69)
    command = shlex.join(["plexus-registryctl", "--url", url, *files, "doctor"])
    assert line.endswith(f"; {command} looks for the cause")


def test_registry_that_does_not_answer_is_told_in_time(tmp_path: Path) -> None:
    """--timeout is how long it takes."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        line = failed(ctl(tmp_path, "--url", url, "--timeout", "0.1", "reload"), 69)
    assert line == lost(f"no registry answers at {url}: no answer within 0.1 s", url)


def test_url_comes_from_the_option_then_the_variable(tmp_path: Path, running: Daemon) -> None:
    """The option counts, whatever the variable says."""
    assert done(ctl(tmp_path, "reload", PLEXUS_REGISTRY_URL=running.url))
    ended = ctl(tmp_path, "--url", running.url, "reload", PLEXUS_REGISTRY_URL="unix:/nobody")
    assert done(ended)


def test_unix_socket_is_given_or_found(tmp_path: Path, config: Path) -> None:
    """By URL, or as the registry of the user's manager in $XDG_RUNTIME_DIR."""
    with tempfile.TemporaryDirectory(prefix="plexus-") as folder:
        runtime = Path(folder)
        (runtime / "plexus-registry").mkdir()
        with listener("unix", runtime) as listening:
            path = runtime / "plexus-registry" / "registry.sock"
            (runtime / "0.sock").rename(path)
            numbers = [listening.fileno()]
            with daemon(tmp_path, program=activated(numbers), pass_fds=numbers):
                assert done(ctl(tmp_path, "--url", f"unix:{path}", "reload"))
                assert done(ctl(tmp_path, "reload", XDG_RUNTIME_DIR=folder))


def test_interrupt_ends_without_a_traceback(tmp_path: Path) -> None:
    """Ctrl-C while it waits; nobody who started the tests has a say in what it does then."""
    minding = ("import signal; signal.signal(signal.SIGINT, signal.default_int_handler)", MAIN[-1])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(TIMEOUT_S)
        url = f"ws://127.0.0.1:{silent.getsockname()[1]}"
        with (
            subprocess.Popen(
                [*MAIN[:-1], "; ".join(minding), "--url", url, "reload"],
                env=environment_of(tmp_path),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as process,
            silent.accept()[0] as sock,
        ):
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                received = sock.recv(4096)
                assert received
                request += received
            process.send_signal(signal.SIGINT)
            stdout, stderr = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, stdout, stderr) == (-signal.SIGINT, "", "\n")


def test_reload_over_tls(tmp_path: Path, config: Path) -> None:
    """With the authority that is named; one that nobody named is not trusted."""
    authority = Authority(tmp_path)
    with daemon(tmp_path, authority.issue().options) as running:
        url = running.url.replace("ws:", "wss:")
        trusting = ("--url", url, "--ca-file", str(authority.file))
        assert done(ctl(tmp_path, *trusting, "reload")).startswith("reloaded: ")
        reason = failed(ctl(tmp_path, "--url", url, "reload"), 69)
        assert "its certificate is not accepted" in reason
        wrong = failed(ctl(tmp_path, "--url", url, "--ca-file", str(config), "reload"), 64)
        assert "expected a file of certificates in PEM" in wrong


# --- backup ---------------------------------------------------------------------------------------


def test_backup_copies_the_registry_that_the_settings_name(
    tmp_path: Path, running: Daemon, database: Path
) -> None:
    """Readable by its owner only, whole, and in one file."""
    copy = tmp_path / "copy.db"
    line = done(ctl(tmp_path, "backup", str(copy), program=SCRIPT))

    assert line == f"{copy}: copy of {database}, checked"
    assert names_in(copy) == {"a", "plexus"}
    assert copy.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == ["copy.db"]


def test_backup_needs_no_running_registry(tmp_path: Path, config: Path) -> None:
    """A database at rest is copied the same way; relative names are as typed."""
    with daemon(tmp_path, ["--db-path", str(tmp_path / "x.db")]) as running:
        assert running.url
        running.stop()
    line = done(ctl(tmp_path, "backup", "copy.db", "--database", "x.db"))

    assert line == "copy.db: copy of x.db, checked"
    assert names_in(tmp_path / "copy.db") == {"a", "plexus"}


def test_backup_of_a_busy_registry_has_all_that_was_acknowledged(
    tmp_path: Path, running: Daemon, database: Path
) -> None:
    """Whatever was answered before it began is in the copy, which is sound."""
    acknowledged: list[str] = []
    client_stops = threading.Event()

    def register() -> None:
        with contextlib.suppress(ConnectionClosed), conversation(running.url) as client:
            while not client_stops.is_set():
                name = f"n{len(acknowledged)}"
                params = {"name": name, "host": "h", "port": 1}
                assert client.call("registry.register", params).content["backend"]
                acknowledged.append(name)

    thread = threading.Thread(target=register)
    thread.start()
    try:
        for number in range(3):
            wanted = len(acknowledged) + 20
            wait_until(partial(lambda count: len(acknowledged) > count, wanted), "more entries")
            before = set(acknowledged)
            copy = tmp_path / f"copy{number}.db"
            done(ctl(tmp_path, "backup", str(copy)))
            assert len(acknowledged) > len(before), "the registry was not busy"
            assert before <= names_in(copy)
            with contextlib.closing(sqlite3.connect(copy)) as opened:
                assert opened.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        client_stops.set()
        thread.join(TIMEOUT_S)


def test_backup_of_a_database_that_lost_its_log_says_so(tmp_path: Path, database: Path) -> None:
    """What is left is copied, and not called complete, each time; with the log, it is."""
    with daemon(tmp_path) as running, conversation(running.url) as client:
        client.call("registry.register", {"name": "later", "host": "h", "port": 1})
        running.stop(signal.SIGKILL)
    log = database.with_name("registry.db-wal")
    kept = log.rename(log.with_name("kept"))
    for number in range(2):
        copy = tmp_path / f"copy{number}.db"
        ended = ctl(tmp_path, "backup", str(copy))
        assert ended.returncode == 0
        assert ended.stdout == f"{copy}: copy of {database}, checked, NOT COMPLETE\n"
        lost = f"{log} is missing or empty, changes that were in it are lost"
        assert ended.stderr == f"plexus-registryctl: {lost}\n"
    kept.rename(log)
    assert done(ctl(tmp_path, "backup", str(tmp_path / "all.db"))).endswith(", checked")
    assert "later" in names_in(tmp_path / "all.db")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT])
def test_backup_that_is_interrupted_leaves_nothing(
    tmp_path: Path, database: Path, number: signal.Signals
) -> None:
    """As systemd stops a job; the next one finds the name free."""
    with daemon(tmp_path) as running:
        assert running.url
        running.stop()
    copy = tmp_path / "copy.db"
    minding = ("import signal; signal.signal(signal.SIGINT, signal.default_int_handler)", MAIN[-1])
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as holder:
        holder.execute("PRAGMA journal_mode = DELETE")
        holder.execute("BEGIN EXCLUSIVE")  # so that it waits
        process = subprocess.Popen(
            [*MAIN[:-1], "; ".join(minding), "backup", str(copy)], env=environment_of(tmp_path)
        )
        try:
            wait_until((tmp_path / ".copy.db.partial").exists, "a copy that was begun")
            process.send_signal(number)
            time.sleep(0.1)  # so that the signal finds it waiting
            holder.execute("ROLLBACK")
            assert process.wait(TIMEOUT_S) == -number
        finally:
            process.kill()
            process.wait()
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == []
    done(ctl(tmp_path, "backup", str(copy)))


def test_backup_of_a_database_whose_log_was_taken_blames_the_database(
    tmp_path: Path, running: Daemon, database: Path
) -> None:
    """While the registry still has it open."""
    with conversation(running.url) as client:
        client.call("registry.register", {"name": "a", "host": "h", "port": 1})
    database.with_name("registry.db-wal").rename(tmp_path / "elsewhere")
    line = failed(ctl(tmp_path, "backup", str(tmp_path / "copy.db")), 74)
    assert line.startswith(f"database {database} ")


def test_complaint_that_cannot_be_written_keeps_its_status(tmp_path: Path) -> None:
    """Python's own for a full device, 120, would say nothing."""
    for arguments, status in (
        (("--url", "ws://127.0.0.1:1", "reload"), 69),
        (("nonsense",), 64),
        (("token", "revoke", "a"), 64),
    ):
        with open("/dev/full", "w") as full:
            ended = subprocess.run(
                [*MAIN, *arguments],
                env=environment_of(tmp_path, PYTHONUNBUFFERED=""),
                stderr=full,
                check=False,
            )
        assert ended.returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_further_signals_leave_no_more_of_a_backup(
    tmp_path: Path, database: Path, number: signal.Signals
) -> None:
    """Whoever sends it again and again, at each file that is removed, has nothing left behind."""
    with daemon(tmp_path) as running:
        assert running.url
        running.stop()
    minding = (
        "import os, signal; signal.signal(signal.SIGINT, signal.default_int_handler)",
        f"send = {{'os.remove': lambda: os.kill(os.getpid(), {number:d})}}",
        "sys.addaudithook(lambda event, _: send.get(event, int)())",
        MAIN[-1],
    )
    command = (*MAIN[:-1], "import sys; " + "; ".join(minding))
    ended = ctl(tmp_path, "backup", str(tmp_path / "copy.db"), program=command)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-number, "", "")
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == []


def test_backup_goes_on_where_signals_are_to_be_ignored(tmp_path: Path, running: Daemon) -> None:
    """Under nohup(1) the end of the terminal is none of the copy."""
    minding = (
        "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN)",
        "send = {'os.remove': lambda: os.kill(os.getpid(), signal.SIGHUP)}",
        "sys.addaudithook(lambda event, _: send.get(event, int)())",
        MAIN[-1],
    )
    command = (*MAIN[:-1], "; ".join(minding))
    done(ctl(tmp_path, "backup", str(tmp_path / "copy.db"), program=command))
    assert names_in(tmp_path / "copy.db") == {"a", "plexus"}


def test_closed_output_is_no_fault(tmp_path: Path, running: Daemon) -> None:
    """Who closes it wants to read nothing; the work is done, and a failure has its status."""
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        for verb, status in (("list", 0), ("delete nobody", 1)):
            script = f"{shlex.join(MAIN)} --url {running.url} {verb} {closed}"
            ended = subprocess.run(
                ["sh", "-c", script], env=environment_of(tmp_path), capture_output=True, check=False
            )
            assert ended.returncode == status, ended.stderr
            assert b"Error" not in ended.stderr


def test_copy_can_be_restored_as_the_help_says(
    tmp_path: Path, config: Path, database: Path
) -> None:
    """Stop, put it in the place of the database, remove its log, start: all is as it was."""
    copy = tmp_path / "copy.db"
    with daemon(tmp_path) as running, conversation(running.url) as client:
        client.call("registry.register", {"name": "kept", "host": "h", "port": 1})
        done(ctl(tmp_path, "backup", str(copy)))
        client.call("registry.delete", {"name": "kept"})
        client.call("registry.register", {"name": "later", "host": "h", "port": 1})
        running.stop(signal.SIGKILL)  # the log stays behind
    assert database.with_name("registry.db-wal").exists()

    shutil.copy(copy, database)
    for suffix in ("-wal", "-shm"):
        database.with_name(f"registry.db{suffix}").unlink(missing_ok=True)
    with daemon(tmp_path) as running, conversation(running.url) as client:
        listed = client.call("registry.list").content["backends"]
        assert {entry["name"] for entry in listed} == {"a", "kept", "plexus"}


def test_copy_can_have_any_name(tmp_path: Path, running: Daemon) -> None:
    """What is not UTF-8 in it is shown with escapes."""
    name = os.fsdecode(b"copy\xff.db")
    assert done(ctl(tmp_path, "backup", name)).startswith("copy\\udcff.db: copy of ")
    assert names_in(tmp_path / name) == {"a", "plexus"}


def test_backup_never_overwrites(tmp_path: Path, running: Daemon) -> None:
    """A file that exists is kept; status 73."""
    copy = tmp_path / "copy.db"
    copy.write_text("precious")
    line = failed(ctl(tmp_path, "backup", str(copy)), 73)

    assert line == f'"{copy}" exists, expected the name of a new file'
    assert copy.read_text() == "precious"


def test_backup_that_cannot_be_made_is_told_and_leaves_nothing(
    tmp_path: Path, running: Daemon, database: Path
) -> None:
    """No database, no database at all, no folder for the copy, no permission."""
    copy = tmp_path / "copy.db"
    missing = tmp_path / "missing.db"
    line = failed(ctl(tmp_path, "backup", str(copy), "--database", str(missing)), 74)
    assert line == f"{missing} cannot be used: No such file or directory"

    other = tmp_path / "other.db"
    other.write_text("no database " * 100)
    line = failed(ctl(tmp_path, "backup", str(copy), "--database", str(other)), 65)
    assert line.startswith(f"database {other} is not sound")

    line = failed(ctl(tmp_path, "backup", str(tmp_path / "no" / "copy.db")), 74)
    assert "No such file or directory" in line

    closed = tmp_path / "closed"
    closed.mkdir(0o500)
    line = failed(bound(tmp_path, "backup", str(closed / "copy.db")), 74)
    assert f"(the directory {closed} is not writable, permit user {os.getuid()} to" in line
    assert [path.name for path in tmp_path.iterdir() if "copy" in path.name] == []


def bound(home: Path, *arguments: str) -> Ended:
    """Run the command bound by the modes of files, whoever runs the tests."""
    return ctl(home, *arguments, program=MAIN_BOUND_BY_MODES)


def permit(database: Path) -> None:
    """Give back what a test took."""
    database.parent.chmod(0o700)
    for path in database.parent.glob(f"{database.name}*"):
        path.chmod(0o600)


@pytest.mark.parametrize("suffix", ["", "-wal"])
def test_backup_of_what_cannot_be_read_blames_that_and_not_the_copy(
    tmp_path: Path, running: Daemon, database: Path, suffix: str
) -> None:
    """The database or its log: named, with what to do."""
    copy = tmp_path / "copy.db"
    culprit = database.with_name(database.name + suffix)
    culprit.chmod(0)
    line = failed(bound(tmp_path, "backup", str(copy), "--database", str(database)), 74)
    assert line == (
        f"database {database} cannot be used: Permission denied (the file {culprit} is not"
        f" readable, permit user {os.getuid()} to read it) (SQLITE_CANTOPEN)"
    )
    assert not copy.exists()
    permit(database)
    assert bound(tmp_path, "backup", str(copy)).returncode == 0


def test_backup_does_not_ask_for_the_lock_file(
    tmp_path: Path, running: Daemon, database: Path
) -> None:
    """It needs no lock of a registry, so that nobody is told to open it."""
    running.send(signal.SIGTERM)
    running.wait()
    copy = tmp_path / "copy.db"
    lock = database.with_name(f"{database.name}.lock")
    lock.chmod(0)
    assert bound(tmp_path, "backup", str(copy), "--database", str(database)).returncode == 0
    copy.unlink()
    for beside in ("-wal", "-shm"):  # a reader's, who may not take them away
        database.with_name(database.name + beside).unlink(missing_ok=True)
    database.parent.chmod(0o500)
    try:
        line = failed(bound(tmp_path, "backup", str(copy), "--database", str(database)), 74)
    finally:
        permit(database)
    assert f"(the directory {database.parent} is not writable" in line


def test_backup_from_a_folder_that_may_not_be_entered_blames_the_folder(
    tmp_path: Path, running: Daemon, database: Path
) -> None:
    """The outermost one that keeps the user out."""
    database.parent.chmod(0)
    copy = tmp_path / "copy.db"
    try:
        line = failed(bound(tmp_path, "backup", str(copy), "--database", str(database)), 74)
    finally:
        permit(database)
    assert f"(the directory {database.parent} may not be entered, permit user" in line


def test_backup_from_a_folder_that_cannot_be_written_blames_the_folder(
    tmp_path: Path, running: Daemon, database: Path
) -> None:
    """A write-ahead log needs its files beside it, for readers too; no registry runs here."""
    copy = tmp_path / "copy.db"
    running.send(signal.SIGTERM)
    running.wait()
    database.parent.chmod(0o500)
    try:
        line = failed(bound(tmp_path, "backup", str(copy), "--database", str(database)), 74)
    finally:
        permit(database)
    assert line.startswith(f"database {database} cannot be used: Permission denied (the directory")
    assert f"{database.parent} is not writable, permit user {os.getuid()} to write it" in line
    assert not copy.exists()


@pytest.mark.parametrize("mode", [0o700, 0])
def test_systems_registry_comes_first_where_it_can_be_read(
    tmp_path: Path, config: Path, database: Path, mode: int
) -> None:
    """Wherever its settings put it. Whoever may not enter its folder gets a database of his own."""
    folder, etc = tmp_path / "system", tmp_path / "etc"
    system = folder / "other.db"
    etc.mkdir()
    (etc / "registry.toml").write_text(f'database = "{system}"\n')
    for path in (system, database):
        with daemon(tmp_path, ["--db-path", str(path)]) as running:
            assert running.url
            running.stop()
    program = (
        *MAIN_BOUND_BY_MODES[:-1],
        "import sys\n"
        "from plexus_registry.config import places\n"
        f"places.SYSTEM['STATE_DIRECTORY'] = {str(folder)!r}\n"
        f"places.SYSTEM['CONFIGURATION_DIRECTORY'] = {str(etc)!r}\n"
        "from plexus_registry.cli import control\n"
        "sys.exit(control.main())\n",
    )
    folder.chmod(mode)
    line = done(ctl(tmp_path, "backup", "copy.db", program=program))
    folder.chmod(0o700)

    assert line == f"copy.db: copy of {system if mode else database}, checked"


def test_user_without_a_home_has_a_database_too(tmp_path: Path) -> None:
    """Neither $HOME nor a line in passwd(5), as in containers: its path is told as any other."""
    program = (
        *MAIN[:-1],
        "import sys\n"
        "from pathlib import Path\n"
        "def home():\n"
        "    raise RuntimeError('Could not determine home directory.')\n"
        "Path.home = home\n"
        "from plexus_registry.config import places\n"
        f"places.SYSTEM['STATE_DIRECTORY'] = {str(tmp_path / 'nobody')!r}\n"
        "from plexus_registry.cli import control\n"
        "sys.exit(control.main())\n",
    )
    variables = {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_CONFIG_HOME": str(tmp_path)}
    line = failed(ctl(tmp_path, "backup", "copy.db", program=program, **variables), 74)

    wanted = tmp_path / "state" / "plexus-registry" / "registry.db"
    assert line.startswith(f"{wanted} cannot be used: No such file or directory")
