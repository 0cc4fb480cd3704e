# SPDX-License-Identifier: AGPL-3.0-only
"""What arrives in the journal and in syslog: fields, priorities, whole tracebacks."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from plexus_registry import messages
from plexus_registry.catalog import Catalog
from plexus_registry.errors import ConfigError, Fault
from plexus_registry.eventlog import LOGGED_FAULTS_MAX
from plexus_registry.registry import Registry
from plexus_registry.rules import Declare, Delete, Deregister, Ping, Register, Request, Update
from plexus_registry.service import log
from plexus_registry.service.log import JournalFormatter, NativeJournalHandler, Utf8Formatter
from support.daemon import environment
from support.memory import InlineOffload, MemoryStore, disk_full
from support.timing import TIMEOUT_S

PEER = "unix:pid=7,uid=8"


class Journal:
    """Stands where ``systemd.journal.send`` of python3-systemd does, and keeps what it gets.

    Attributes:
        entries: The fields of each entry.
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def send(self, message: str, **fields: Any) -> None:
        """Keep one entry."""
        message.encode()  # as it travels
        self.entries.append({"MESSAGE": message, **fields})

    def take(self) -> dict[str, Any]:
        """Return the only entry since the last time, without where in the code it comes from."""
        (entry,) = self.entries
        self.entries.clear()
        for name in ("CODE_FILE", "CODE_LINE", "CODE_FUNC", "LOGGER", "SYSLOG_IDENTIFIER"):
            del entry[name]
        return entry


@pytest.fixture
def journal() -> Iterator[Journal]:
    """A journal that gets all that the package logs."""
    journal = Journal()
    handler = NativeJournalHandler(journal.send)
    handler.setFormatter(Utf8Formatter("%(message)s"))
    logger = logging.getLogger("plexus_registry")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield journal
    logger.removeHandler(handler)
    logger.setLevel(level)


class Desk:
    """A registry in memory whose declarations are in the test's hand."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.declared: Declare | Exception = Declare(file={})
        self.registry = Registry(
            self.store,
            Catalog(),
            commits=InlineOffload(),
            reads=InlineOffload(),
            declarations=self._declarations,
        )

    def _declarations(self, explicit: bool) -> Declare:
        if isinstance(self.declared, Exception):
            raise self.declared
        return self.declared

    def ask(self, request: Request) -> None:
        """Carry out a request."""
        self.registry.submit(request, lambda event: None, peer=PEER)

    def reload(self) -> None:
        """Read what is declared."""
        self.registry.reload(lambda event: None, peer=PEER)


@pytest.fixture
def desk() -> Desk:
    """A registry."""
    return Desk()


def entry(message: str, priority: int, message_id: str = "", backend: str = "") -> dict[str, str]:
    """Return the fields of an entry that our peer caused."""
    fields = messages.fields(message_id, backend=backend, peer=PEER)
    return {"MESSAGE": message, "PRIORITY": str(priority), **fields}


# --- the native journal ---------------------------------------------------------------------------


def test_life_of_a_backend_is_a_query(journal: Journal, desk: Desk) -> None:
    """Every entry has the backend, who asked, and the id of what happened."""
    told = "name=prod url=ws://h:1 source=manual"
    desk.ask(Register(name="prod", host="h", port=1))
    assert journal.take() == entry(
        f"backend registered {told} peer={PEER}", 6, messages.BACKEND_REGISTERED, "prod"
    )
    desk.ask(Update(name="prod", port=2))
    assert journal.take() == entry(
        f"backend updated {told.replace(':1', ':2')} peer={PEER}",
        6,
        messages.BACKEND_UPDATED,
        "prod",
    )
    desk.ask(Ping(name="prod"))
    assert journal.take() == entry(f"backend pinged name=prod peer={PEER}", 7, backend="prod")
    desk.ask(Deregister(name="prod"))
    assert journal.take() == entry(
        f"backend deregistered name=prod peer={PEER}", 6, messages.BACKEND_DEREGISTERED, "prod"
    )
    desk.ask(Ping(name="prod"))
    assert journal.take() == entry(
        f"backend active again name=prod peer={PEER}", 6, messages.BACKEND_UPDATED, "prod"
    )
    desk.ask(Delete(name="prod"))
    assert journal.take() == entry(
        f"backend deleted name=prod peer={PEER}", 6, messages.BACKEND_DELETED, "prod"
    )


def test_entries_name_program_and_place_in_the_code(journal: Journal, desk: Desk) -> None:
    """SYSLOG_IDENTIFIER and CODE_* are what a program's own entries are found by."""
    desk.ask(Register(name="a", host="h", port=1))

    (found,) = journal.entries
    assert found["SYSLOG_IDENTIFIER"] == "plexus-registry"
    assert found["LOGGER"] == "plexus_registry.eventlog"
    assert found["CODE_FILE"].endswith("eventlog.py")
    assert found["CODE_FUNC"] == "_log_event"
    assert isinstance(found["CODE_LINE"], int)


def test_reload_has_an_id(journal: Journal, desk: Desk) -> None:
    """What was applied is told with the counts and who asked."""
    desk.reload()

    assert journal.take() == entry(
        f"declared backends applied added=0 updated=0 removed=0 unchanged=0 peer={PEER}",
        6,
        messages.RELOADED,
    )


def test_reload_failure_has_an_entry_for_each_fault(journal: Journal, desk: Desk) -> None:
    """Each is an error with the id of reload failures; very many are counted instead."""
    faults = [Fault("/f.toml", line, "bad") for line in range(1, LOGGED_FAULTS_MAX + 6)]
    desk.declared = ConfigError(faults)
    desk.reload()

    prefix = "config reload failed, keeping previous: "
    *each, rest = [found["MESSAGE"] for found in journal.entries]
    assert each == [f"{prefix}/f.toml:{line}: bad" for line in range(1, LOGGED_FAULTS_MAX + 1)]
    assert rest == f"{prefix}5 more faults"
    for found in journal.entries:
        assert found["PRIORITY"] == "3"
        assert found["MESSAGE_ID"] == messages.RELOAD_FAILED
        assert found["PLEXUS_PEER"] == PEER
        assert "PLEXUS_BACKEND" not in found


def test_fault_of_our_own_comes_with_its_whole_traceback(journal: Journal, desk: Desk) -> None:
    """One entry holds message and traceback."""
    desk.declared = ZeroDivisionError("first\nsecond")
    desk.reload()

    found = journal.take()
    lines = found.pop("MESSAGE").split("\n")
    assert found == {
        "PRIORITY": "3",
        "MESSAGE_ID": messages.RELOAD_FAILED,
        "PLEXUS_PEER": PEER,
    }
    assert lines[0] == "config reload failed, keeping previous"
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-2:] == ["ZeroDivisionError: first", "second"]


def test_commit_failure_has_an_id(journal: Journal, desk: Desk) -> None:
    """A full disk is told once for the group, with its reason."""
    desk.store.fail_next(disk_full())
    desk.ask(Register(name="a", host="h", port=1))

    assert journal.take() == {
        "MESSAGE": f"commit failed requests=1 reason={disk_full()}",
        "PRIORITY": "3",
        "MESSAGE_ID": messages.STORE_FAILED,
    }


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.DEBUG, "7"),
        (logging.INFO, "6"),
        (logging.WARNING, "4"),
        (logging.ERROR, "3"),
        (logging.CRITICAL, "2"),
    ],
)
def test_levels_are_the_priorities_of_syslog(journal: Journal, level: int, priority: str) -> None:
    """So that `journalctl -p` finds what it should."""
    logging.getLogger("plexus_registry.test").log(level, "said %s", "so")

    assert journal.take() == {"MESSAGE": "said so", "PRIORITY": priority}


def test_text_that_is_not_utf8_reaches_the_journal(journal: Journal) -> None:
    """A path may hold any bytes; those that cannot be sent are escaped."""
    logging.getLogger("plexus_registry.test").info("path=%s", os.fsdecode(b"/caf\xc3\xa9/\xff"))

    assert journal.take()["MESSAGE"] == "path=/café/\\udcff"


def test_lost_journal_is_told_and_survived(capsys: pytest.CaptureFixture[str]) -> None:
    """A journal that does not take an entry must not end what logs it."""

    def refuse(message: str, **fields: Any) -> None:
        raise ConnectionRefusedError(111, "Connection refused")

    handler = NativeJournalHandler(refuse)
    handler.handle(logging.LogRecord("n", logging.INFO, "file", 1, "message", None, None))

    assert "Connection refused" in capsys.readouterr().err


# --- which way it goes ----------------------------------------------------------------------------

TELL_HANDLER = """
import logging, os, sys
from plexus_registry.service import log
log.configure(os.environ)
log.set_level("info")
logging.getLogger("plexus_registry.test").error("said\\nso", extra={"PLEXUS_BACKEND": "b"})
"""
ABSENT = "import sys\nsys.modules['systemd'] = None\n"


def said_under_the_journal(home: Path, program: str, **variables: str) -> str:
    """Run a program whose standard error is the journal's socket, and return what it wrote."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        found = os.fstat(theirs.fileno())
        stream = f"{found.st_dev}:{found.st_ino}"
        subprocess.run(
            [sys.executable, "-c", program],
            env=environment(home, JOURNAL_STREAM=stream, **variables),
            stderr=theirs.fileno(),
            timeout=TIMEOUT_S,
            check=True,
        )
        theirs.close()
        with ours.makefile(encoding="utf-8") as lines:
            return lines.read()


def test_without_python3_systemd_lines_have_prefixes(tmp_path: Path) -> None:
    """Standard error carries the priority of every line."""
    assert said_under_the_journal(tmp_path, ABSENT + TELL_HANDLER) == "<3>said\n<3>so\n"


def test_with_python3_systemd_entries_have_fields(tmp_path: Path) -> None:
    """Its `send` gets them, and standard error gets nothing."""
    package = tmp_path / "lib" / "systemd"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "journal.py").write_text(
        "import json\n"
        "def send(message, **fields):\n"
        f"    with open({str(tmp_path / 'entries')!r}, 'a') as file:\n"
        "        print(json.dumps([message, fields]), file=file)\n"
    )
    path = os.pathsep.join([str(package.parent), os.environ.get("PYTHONPATH", "")])
    assert said_under_the_journal(tmp_path, TELL_HANDLER, PYTHONPATH=path) == ""

    message, fields = json.loads((tmp_path / "entries").read_text())
    assert message == "said\nso"
    assert fields["PRIORITY"] == "3"
    assert fields["PLEXUS_BACKEND"] == "b"


def test_each_event_is_one_line_with_a_prefix(desk: Desk) -> None:
    """The lines that go to standard error read well without the fields."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(self.format(record))

    handler = Lines()
    handler.setFormatter(JournalFormatter("%(message)s"))
    logger = logging.getLogger("plexus_registry")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        desk.ask(Register(name="a", host="h", port=1))
        desk.ask(Update(name="a", port=2))
        desk.ask(Deregister(name="a"))
        desk.ask(Delete(name="a"))
        desk.reload()
        desk.declared = ConfigError([Fault("/f.toml", 1, "bad")])
        desk.reload()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)

    begins = [re.match(r"<\d>[a-z]+ [a-z]+ [a-z]+", line) for line in lines]
    assert [match[0] if match else None for match in begins] == [
        "<6>backend registered name",
        "<6>backend updated name",
        "<6>backend deregistered name",
        "<6>backend deleted name",
        "<6>declared backends applied",
        "<3>config reload failed",
    ]
    assert not any("\n" in line for line in lines)


# --- syslog ---------------------------------------------------------------------------------------


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, as it was before when the test is over."""
    root = logging.getLogger()
    ours = logging.getLogger("plexus_registry")
    handlers, level, our_level = root.handlers[:], root.level, ours.level
    yield root
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(our_level)
    logging.captureWarnings(False)


@pytest.fixture
def address() -> Iterator[str]:
    """A path for syslog's socket, short enough."""
    with tempfile.TemporaryDirectory(prefix="plexus-") as folder:
        yield f"{folder}/log"


def test_syslog_gets_priority_and_identity(root_logger: logging.Logger, address: str) -> None:
    """Facility daemon, the severity of the level, and who says it with its process ID."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(address)
        syslog.settimeout(TIMEOUT_S)
        assert log.configure_syslog(address) == ""
        log.set_level("debug")
        logger = logging.getLogger("plexus_registry.test")
        for level, severity in (("DEBUG", 7), ("INFO", 6), ("WARNING", 4), ("ERROR", 3)):
            logger.log(logging.getLevelName(level), "said %s", level)
            said = syslog.recv(4096).rstrip(b"\0").decode()
            assert said == f"<{24 + severity}>plexus-registry[{os.getpid()}]: said {level}"
        logger.critical("path=%s", os.fsdecode(b"\xff\xc3\xa9"))
        said = syslog.recv(4096).rstrip(b"\0").decode()
        assert said == f"<26>plexus-registry[{os.getpid()}]: path=\\udcffé"


def test_syslog_that_is_not_there_yet_is_a_warning(
    root_logger: logging.Logger, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line names the socket; once syslog is there, it gets what is said then."""
    warning = log.configure_syslog(address)
    assert warning == (f"plexus-registry: there is no log, for syslog does not answer at {address}")
    log.set_level("info")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind(address)
        syslog.settimeout(TIMEOUT_S)
        logging.getLogger("plexus_registry.test").info("here")
        assert syslog.recv(4096).rstrip(b"\0").endswith(b": here")
    assert capsys.readouterr().err == ""
