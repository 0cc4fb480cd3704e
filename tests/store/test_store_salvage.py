# SPDX-License-Identifier: AGPL-3.0-only
"""A damaged database is set aside, and nothing comes out of it that was not put in."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path

import pytest

from plexus_registry.backend import Backend, Put, Remove
from plexus_registry.errors import (
    StoreCorrupt,
    StoreDamaged,
    StoreError,
    StoreInUse,
    StoreTooNew,
    StoreUnavailable,
)
from plexus_registry.store.backup import backup
from plexus_registry.store.migrations import APPLICATION_ID
from plexus_registry.store.salvage import Salvager
from plexus_registry.store.sqlite import SqliteStore
from plexus_registry.store.wal import read_log
from support.report import record_fault

MakeBackend = Callable[..., Backend]
Execute = Callable[..., list[tuple[object, ...]]]
Files = Callable[[], dict[str, bytes]]
Python = Callable[[str], subprocess.Popen[str]]
Opened = Callable[[], contextlib.AbstractContextManager[SqliteStore]]

PAGE = 4096
TABLE_LEAF, INDEX_LEAF, INDEX_INNER, TABLE_INNER = 13, 10, 2, 5


@dataclass(frozen=True)
class Image:
    """A database as bytes, and the entries in it."""

    content: bytes
    entries: dict[str, Backend]

    @property
    def pages(self) -> range:
        """The numbers of its pages, from 1."""
        return range(1, len(self.content) // PAGE + 1)

    def kind(self, number: int) -> int:
        """Return the first byte of a page, which is its kind if it is one of a tree."""
        return self.content[(number - 1) * PAGE]

    @property
    def free(self) -> int:
        """The number of the first page of the list of free pages; 0 if there is none."""
        return int.from_bytes(self.content[32:36], "big")

    def damaged(self, number: int, with_what: bytes) -> bytes:
        """Return the database with another page in the place of one."""
        assert len(with_what) == PAGE
        return self.content[: (number - 1) * PAGE] + with_what + self.content[number * PAGE :]


@pytest.fixture
def image(path: Path, backend: MakeBackend) -> Image:
    """A database with a history: long rows, changed rows, and free pages with deleted rows."""

    def make(number: int, **fields: object) -> Backend:
        metadata = json.dumps("x" * (9000 if number % 50 == 0 else number % 90))
        return backend(f"b{number}", metadata=metadata, **fields)

    with SqliteStore.open(path) as store:
        store._open_connection().execute("PRAGMA secure_delete = OFF")
        store.commit([Put(make(number)) for number in range(300)])
        store.commit([Remove(f"b{number}") for number in range(20, 60)])
        store.commit([Put(make(number, updated_at=2, version="2")) for number in range(200, 220)])
        entries = {one.name: one for one in store.load()}
    content = path.read_bytes()
    path.unlink()
    made = Image(content, entries)
    assert made.free
    assert {TABLE_LEAF, TABLE_INNER, INDEX_LEAF, INDEX_INNER} <= set(map(made.kind, made.pages))
    return made


class Trials:
    """Opens damaged copies of an image and keeps figures."""

    def __init__(self, path: Path, image: Image) -> None:
        self.path = path
        self.image = image
        self.rounds = 0
        self.lost = 0
        self.longest_s = 0.0

    def open(self, content: bytes) -> set[str]:
        """Open a damaged database; return the names that came out of it.

        Checks what holds for each: the service comes up and writes, nothing is invented, the old
        file is kept as it was, and the report is right.
        """
        for one in self.path.parent.iterdir():
            one.unlink()
        self.path.write_bytes(content)
        began = time.monotonic()
        with SqliteStore.open(self.path) as store:
            loaded = {one.name: one for one in store.load()}
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            assert loaded.items() <= self.image.entries.items()
            if store.salvage is not None:
                assert Path(store.salvage.aside).read_bytes() == content
                assert store.salvage.salvaged == len(loaded)
                missing = self.image.entries.keys() - loaded
                assert store.salvage.lost in (None, len(missing))
                assert missing.issuperset(store.salvage.names)
            store.commit([Put(next(iter(self.image.entries.values())))])
        self.rounds += 1
        self.lost += len(self.image.entries) - len(loaded)
        return set(loaded)

    def record(self, name: str, note: str) -> None:
        """Report the figures."""
        acknowledged = self.rounds * len(self.image.entries)
        figures = {"rounds": self.rounds, "acknowledged": acknowledged, "lost": self.lost}
        record_fault(name, **figures, recover_s=round(self.longest_s, 3), note=note)


@pytest.fixture
def trials(path: Path, image: Image) -> Trials:
    """Damaged copies of `image`."""
    return Trials(path, image)


@pytest.mark.parametrize("what", ["random", "zeros"])
def test_any_page_can_be_lost(trials: Trials, image: Image, what: str) -> None:
    """Without the rows of a table's page, all others come back; without another page, all do."""
    everything = set(image.entries)
    for number in image.pages:
        with_what = random.Random(number).randbytes(PAGE) if what == "random" else bytes(PAGE)
        found = trials.open(image.damaged(number, with_what))
        if image.kind(number) == TABLE_LEAF:
            assert len(everything) > len(found) > len(everything) - PAGE // 40
        elif number in (1, image.free) or image.kind(number) in (INDEX_LEAF, INDEX_INNER, 5):
            assert found == everything, number
        else:  # a part of a long row, or a free page
            assert len(found) >= len(everything) - 1
    trials.record(f"a page of the database: {what}", "lost: what only that page held")


def test_database_can_be_cut_off_anywhere(trials: Trials, image: Image) -> None:
    """What is in the pages that are left comes back, whether the cut is in a page or between."""
    found = []
    for number in image.pages:
        for size in (number * PAGE - PAGE // 3, number * PAGE)[number % 4 > 0 :]:
            if size < len(image.content):
                found.append(trials.open(image.content[:size]))
    assert all(small <= large for small, large in itertools.pairwise(found))
    assert len(found[-1]) > len(image.entries) // 2
    trials.record("a database that was cut off", "lost: what was in the part that is gone")


@pytest.mark.parametrize("size", [1, 15, 16, 18, 50, 64, 72, 99])
def test_database_of_which_a_part_of_the_header_is_left_is_set_aside(
    trials: Trials, image: Image, size: int
) -> None:
    """It says as far as it goes that it is ours; the registry starts without an entry."""
    assert not trials.open(image.content[:size])
    assert list(trials.path.parent.glob("*.corrupt-*"))


def test_damage_of_a_few_bytes_is_survived(trials: Trials, image: Image) -> None:
    """Rubbish over part of the schema or of an inner page never keeps the registry from starting.

    Bytes 18 to 99 are what marks a database as ours, or another program's, and are left alone.
    """
    chance = random.Random(5)
    inner = [number for number in image.pages if image.kind(number) in (INDEX_INNER, TABLE_INNER)]
    for _ in range(60):
        number = chance.choice([1, *inner])
        start = (number - 1) * PAGE + chance.randrange(100 if number == 1 else 0, PAGE - 32)
        rubbish = chance.randbytes(chance.choice([1, 4, 32]))
        content = image.content[:start] + rubbish + image.content[start + len(rubbish) :]
        assert trials.open(content) == set(image.entries)
    trials.record("a few bytes of the schema or an inner page", "random")


def test_entry_that_the_index_contradicts_is_left_out(
    path: Path, backend: MakeBackend, image: Image
) -> None:
    """A name that was mangled in the table is told by the index, and not made up."""
    row = b"b123127.0.0.1"
    assert row in image.content
    path.write_bytes(image.content.replace(row, b"bXYZ127.0.0.1"))
    with SqliteStore.open(path) as store:
        assert store.salvage is not None
        assert {one.name for one in store.load()} == set(image.entries) - {"b123"}
        assert "b123" in store.salvage.names


# --- the log ------------------------------------------------------------------------------------

KILLED = """
import os, sys
from pathlib import Path
from plexus_registry.backend import Backend, Put, Source
from plexus_registry.store.sqlite import SqliteStore

times = {"registered_at": 1, "created_at": 1, "updated_at": 1}

def put(number):
    name = f"b{number}"
    return Put(Backend(id=f"id-{name}", name=name, host="127.0.0.1", port=4444, protocol="ws",
                       source=Source.MANUAL, is_active=True, **times))

store = SqliteStore.open(Path(sys.argv[1]))
store.commit([put(number) for number in range(600)])
store._open_connection().execute("PRAGMA wal_checkpoint(TRUNCATE)")
for number in range(600, 640):
    store.commit([put(number)])
os._exit(0)
"""


@pytest.fixture
def log(path: Path, python: Python) -> Path:
    """Leave a database with 600 entries and a log with 40 commits of one more; return the log."""
    python(KILLED).communicate()
    made = path.with_name(f"{path.name}-wal")
    assert made.stat().st_size > 40 * PAGE
    return made


@pytest.fixture
def opened(path: Path, backend: MakeBackend) -> Opened:
    """Open the database of `log`; every entry has to be what was acknowledged."""

    @contextlib.contextmanager
    def run() -> Iterator[SqliteStore]:
        with SqliteStore.open(path) as store:
            for one in store.load():
                assert one == backend(one.name)
            yield store

    return run


def test_log_that_is_whole_is_no_damage(log: Path, opened: Opened) -> None:
    """A kill needs no salvage."""
    with opened() as store:
        assert (len(store.load()), store.salvage) == (640, None)


def lost_logs(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the messages that a log is missing."""
    return [one.message for one in caplog.records if "write-ahead log of the da" in one.message]


ONE_FRAME = 32 + 24 + PAGE
"""How much of a log holds its header and a page: no commit of ours is that small."""


@pytest.mark.parametrize(
    "lose",
    [
        Path.unlink,
        lambda log: log.write_bytes(bytes(PAGE)),
        *(partial(os.truncate, length=size) for size in (0, 32, ONE_FRAME)),
    ],
)
def test_missing_log_takes_its_commits_along_and_is_reported(
    log: Path, opened: Opened, lose: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The database is as it was at the last checkpoint; it is told once, and at critical level.

    So it is if the log is there, but not one commit in it.
    """
    lose(log)
    path = log.with_name("registry.db")
    assert not backup(path, path.with_name("copy"))
    with opened() as store:
        found = len(store.load())
        assert (found, store.salvage) == (600, None)
    (told,) = lost_logs(caplog)
    assert f"path={log}" in told
    assert [one.levelname for one in caplog.records if one.message == told] == ["CRITICAL"]
    with opened() as store:
        assert len(store.load()) == 600
    assert lost_logs(caplog) == [told]
    record_fault(
        "a missing -wal",
        rounds=1,
        acknowledged=640,
        lost=640 - found,
        recover_s=None,
        note="told at critical level",
    )


def test_log_that_was_merged_or_belongs_to_another_file_is_not_missed(
    log: Path, path: Path, opened: Opened, python: Python, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither an orderly stop nor a restored copy, under the same name or in place, is a loss."""
    with opened():
        pass
    assert not log.exists()
    with opened() as store:
        store.backup(path.with_name("copy"))
    for restore in ("install", "cp"):
        python(KILLED).communicate()
        log.unlink()
        subprocess.run([restore, path.with_name("copy"), path], check=True)
        with opened() as store:
            assert len(store.load()) == 640
        path.unlink()
    assert lost_logs(caplog) == []


@pytest.fixture
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder beside the one of the database."""
    return tmp_path_factory.mktemp("copies")


def copied(path: Path, into: Path, *leave_out: str, to_second: bool = False) -> Path:
    """Copy the folder of a database as ``cp -a`` does, or as an archive without fractions."""
    subprocess.run(["cp", "-a", path.parent, into], check=True)
    for name in leave_out:
        (into / name).unlink()
    copy = into / path.name
    if to_second:
        os.utime(copy, (int(copy.stat().st_mtime),) * 2)
    return copy


@pytest.mark.parametrize("to_second", [False, True])
def test_folder_that_was_copied_without_the_log_is_reported(
    log: Path, path: Path, copies: Path, caplog: pytest.LogCaptureFixture, *, to_second: bool
) -> None:
    """Once; neither the folder with its log nor one that was copied afterwards lacks anything."""
    whole = copied(path, copies / "whole")
    copy = copied(path, copies / "copy", log.name, f"{path.name}-shm", to_second=to_second)
    for _ in range(2):
        with SqliteStore.open(copy) as store:
            assert len(store.load()) == 600
    (told,) = lost_logs(caplog)
    assert f"path={copy}-wal" in told
    for sound in (whole, path):
        with SqliteStore.open(sound) as store:
            assert len(store.load()) == 640
        with SqliteStore.open(copied(sound, copies / f"of-{sound.parent.name}")) as store:
            assert len(store.load()) == 640
    assert lost_logs(caplog) == [told]


@pytest.mark.parametrize("place", ["original", "copy"])
def test_log_that_another_program_merged_is_not_missed_in_a_copy(
    log: Path, path: Path, copies: Path, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    """The note beside the database says that a log follows; the database is another since."""
    copy = copies / "copy"
    if place == "copy":
        copied(path, copy)
    opened = path if place == "original" else copy / path.name
    with contextlib.closing(sqlite3.connect(opened)) as other:
        assert other.execute("SELECT count(*) FROM backends").fetchone() == (640,)
    assert not opened.with_name(log.name).exists()
    if place == "original":
        copied(path, copy)
    with SqliteStore.open(copy / path.name) as store:
        assert len(store.load()) == 640
    assert lost_logs(caplog) == []


KILLED_SOON = KILLED.partition("store.commit")[0] + "store.commit([put(1)])\nos._exit(0)"


@pytest.mark.parametrize("restore", ["cp -a", "cp -a --remove-destination", "mv"])
def test_older_copy_that_is_put_back_is_no_loss(
    log: Path, opened: Opened, python: Python, restore: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Though it is what the database of the note was, to the nanosecond: somebody wanted that."""
    with opened():
        pass
    path = log.with_name("registry.db")
    kept = path.with_name("kept")
    subprocess.run(["cp", "-a", path, kept], check=True)
    python(KILLED_SOON).communicate()
    assert b"log follows" in path.with_name(f"{path.name}.lock").read_bytes()
    assert path.stat().st_mtime_ns == kept.stat().st_mtime_ns
    log.unlink()
    subprocess.run([*restore.split(), kept, path], check=True)
    with opened() as store:
        assert len(store.load()) == 640
    assert lost_logs(caplog) == []


def test_database_alone_has_no_note_of_its_log(
    log: Path, path: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is told is known; of a file without its lock file nothing is."""
    alone = tmp_path / "alone.db"
    subprocess.run(["cp", "-a", path, alone], check=True)
    with SqliteStore.open(alone) as store:
        assert len(store.load()) == 600
    assert lost_logs(caplog) == []


@pytest.mark.parametrize(
    "text", ["log follows 1", "log follows a b c d", "\n\n", "log follows\n" * 9]
)
def test_rubbish_in_the_lock_file_is_no_note(
    log: Path, path: Path, opened: Opened, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is emptied, and the database is used."""
    path.with_name(f"{path.name}.lock").write_text(f"1\n{text}")
    log.unlink()
    with opened() as store:
        assert len(store.load()) == 600
    assert lost_logs(caplog) == []


KILLED_AFTER_MERGE = (
    KILLED.partition("store.commit")[0]
    + """
for number in range(100_000):
    store.commit([put(number)])
    if store._flushes._in_log == 0:  # merged just now
        break
print(number + 1, flush=True)
os._exit(0)
"""
)


def test_log_without_commits_of_its_own_is_not_missed(
    path: Path, opened: Opened, python: Python, caplog: pytest.LogCaptureFixture
) -> None:
    """After a merge all there is is in the database, whatever becomes of the log."""
    count, _ = python(KILLED_AFTER_MERGE).communicate()
    log = path.with_name(f"{path.name}-wal")
    assert log.stat().st_size > 0
    log.unlink()
    with opened() as store:
        assert len(store.load()) == int(count)
    assert lost_logs(caplog) == []


@pytest.mark.parametrize("size", [24, 5 * PAGE])
def test_rubbish_for_a_log_is_noticed(log: Path, opened: Opened, size: int) -> None:
    """SQLite would take it for an empty log and overwrite it."""
    rubbish = random.Random(size).randbytes(size)
    log.write_bytes(rubbish)
    with opened() as store:
        assert len(store.load()) == 600
        assert store.salvage is not None
        assert store.salvage.reason == "the header of its write-ahead log is damaged"
        assert store.salvage.lost is None
        assert Path(f"{store.salvage.aside}-wal").read_bytes() == rubbish


def test_damage_in_the_middle_of_the_log_loses_only_what_it_hit(log: Path, opened: Opened) -> None:
    """SQLite would take the log up to there, and not say that commits follow."""
    content = bytearray(log.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 64] = bytes(64)
    log.write_bytes(content)
    with opened() as store:
        assert len(store.load()) >= 638
        assert store.salvage is not None
        assert store.salvage.reason == "its write-ahead log is damaged in the middle"
    record_fault(
        "rubbish in the middle of the -wal",
        **{"rounds": 1, "acknowledged": 640, "lost": 640 - store.salvage.salvaged},
        **{"recover_s": None, "note": "what follows is read too"},
    )


@pytest.mark.parametrize("ending", ["cut", "zeros", "rubbish"])
def test_torn_last_commit_is_no_damage(log: Path, opened: Opened, ending: str) -> None:
    """A power cut tears what was not acknowledged yet, and that is no reason for alarm."""
    content = log.read_bytes()
    torn = {"cut": b"", "zeros": bytes(900), "rubbish": random.Random(1).randbytes(900)}[ending]
    log.write_bytes(content[:-900] + torn)
    with opened() as store:
        assert (len(store.load()), store.salvage) == (639, None)


def test_log_of_zeros_that_never_had_a_commit_is_no_damage(
    log: Path, path: Path, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    """A power cut before a new log was flushed leaves it so, and no note of a commit."""
    log.write_bytes(bytes(PAGE))
    path.with_name(f"{path.name}.lock").write_text("1\n")
    with opened() as store:
        assert (len(store.load()), store.salvage) == (600, None)
    assert lost_logs(caplog) == []


@pytest.mark.parametrize("size", [32, PAGE, 3 * PAGE])
@pytest.mark.parametrize("what", ["zeros", "random"])
def test_log_that_lost_its_beginning_is_set_aside_and_read_from_there_on(
    log: Path, opened: Opened, caplog: pytest.LogCaptureFixture, size: int, what: str
) -> None:
    """SQLite would take it for an empty log and overwrite it."""
    beginning = bytes(size) if what == "zeros" else random.Random(size).randbytes(size)
    damaged = beginning + log.read_bytes()[size:]
    log.write_bytes(damaged)
    path = log.with_name("registry.db")
    assert not backup(path, path.with_name("copy"))
    with opened() as store:
        assert len(store.load()) >= 638
        assert store.salvage is not None
        assert store.salvage.reason == "the header of its write-ahead log is damaged"
        assert store.salvage.lost is None
        assert Path(f"{store.salvage.aside}-wal").read_bytes() == damaged
    assert lost_logs(caplog) == []  # told with the salvage


KILLED_ANEW = KILLED.replace(
    "os._exit(0)",
    """
store._open_connection().execute("PRAGMA wal_checkpoint(PASSIVE)")
log = Path(sys.argv[1] + "-wal")
log.with_name("before").write_bytes(log.read_bytes())
store.commit([put(640)])
os._exit(0)
""",
)


@pytest.mark.parametrize("size", [32, ONE_FRAME])
def test_log_that_was_being_begun_anew_is_not_missed(
    path: Path, python: Python, opened: Opened, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    """What was in it is in the database; a power cut may leave a note of before that."""
    python(KILLED_ANEW).communicate()
    log = path.with_name(f"{path.name}-wal")
    log.write_bytes(log.read_bytes()[:size] + path.with_name("before").read_bytes()[size:])
    assert b"log follows" in path.with_name(f"{path.name}.lock").read_bytes()
    assert backup(path, path.with_name("copy"))
    with opened() as store:
        assert (len(store.load()), store.salvage) == (640, None)
    assert lost_logs(caplog) == []


def test_log_of_commits_that_changed_nothing_is_not_missed(
    path: Path, opened: Opened, python: Python, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite writes nothing of them, so a log that is missing afterwards had nothing."""
    python(
        "import os, sys\n"
        "from pathlib import Path\n"
        "from plexus_registry.backend import Remove\n"
        "from plexus_registry.store.sqlite import SqliteStore\n"
        "store = SqliteStore.open(Path(sys.argv[1]))\n"
        "store.commit([Remove('nobody')])\n"
        "os._exit(0)"
    ).communicate()
    with opened() as store:
        assert store.load() == []
    assert lost_logs(caplog) == []


def test_log_of_an_empty_file_is_read(path: Path, log: Path, opened: Opened) -> None:
    """SQLite would delete it; what is in it may be all there is."""
    before = log.read_bytes()
    path.write_bytes(b"")
    with opened() as store:
        assert {f"b{number}" for number in range(600, 640)} <= {one.name for one in store.load()}
        assert store.salvage is not None
        assert store.salvage.lost is None
        assert Path(f"{store.salvage.aside}-wal").read_bytes() == before


# --- what is not set aside ----------------------------------------------------------------------


def refused_untouched(path: Path, files: Files, error: type[StoreError], match: str) -> None:
    """Check that the database is refused, and that no file changes."""
    before = files()
    with pytest.raises(error, match=match):
        SqliteStore.open(path)
    after = {name: content for name, content in files().items() if not name.endswith("-shm")}
    assert after == {name: content for name, content in before.items() if not name.endswith("-shm")}


@pytest.mark.parametrize("application_id", [0, 7])
def test_damaged_database_of_another_program_is_left_untouched(
    path: Path, execute: Execute, files: Files, application_id: int
) -> None:
    """Whoever gave us the wrong path keeps the chance to repair the file."""
    execute("CREATE TABLE bookmarks (url TEXT PRIMARY KEY)")
    execute("INSERT INTO bookmarks VALUES (hex(randomblob(9000)))")
    execute(f"PRAGMA application_id = {application_id}")
    with path.open("r+b") as file:
        file.seek(PAGE)
        file.write(random.Random(3).randbytes(2 * PAGE))
    refused_untouched(path, files, StoreError, "belongs to another program|does not look like one")


@pytest.mark.parametrize("size", [19, 72, 99])
def test_part_of_a_header_that_is_not_ours_is_left_untouched(
    path: Path, execute: Execute, image: Image, files: Files, size: int
) -> None:
    """A database of another program that was cut off says so as far as it goes."""
    path.write_bytes(image.content)
    execute("PRAGMA journal_mode = DELETE" if size < 68 else "PRAGMA application_id = 7")
    os.truncate(path, size)
    refused_untouched(path, files, StoreCorrupt, "does not look like one")


@pytest.mark.parametrize("content", [b"SQLite 3", b"sqlite format 3", b"SQLite format 3\0\x10\0ab"])
def test_short_file_that_is_no_database_is_left_untouched(
    path: Path, files: Files, content: bytes
) -> None:
    """A mistake in a setting moves nobody's file."""
    path.write_bytes(content)
    refused_untouched(path, files, StoreCorrupt, "does not look like one")


def test_damaged_database_of_a_newer_version_is_left_untouched(
    path: Path, image: Image, files: Files
) -> None:
    """We cannot know what a newer version has in it."""
    content = bytearray(image.damaged(3, b"\xa5" * PAGE))
    content[60:64] = (99).to_bytes(4, "big")
    path.write_bytes(content)
    refused_untouched(path, files, StoreTooNew, "version 99")
    content[100:110] = b"\xa5" * 10  # SQLite cannot even begin to read it
    path.write_bytes(content)
    refused_untouched(path, files, StoreTooNew, "version 99")
    path.write_bytes(content[:64])
    refused_untouched(path, files, StoreCorrupt, "does not look like one")


HOLDER = """
import sys
from pathlib import Path
from plexus_registry.store.sqlite import SqliteStore

with SqliteStore.open(Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_damaged_database_of_a_running_daemon_is_left_untouched(
    path: Path, python: Python, image: Image, files: Files
) -> None:
    """What the one daemon has open, a second one does not move away."""
    path.write_bytes(image.content)
    holder = python(HOLDER)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "open\n"
    os.truncate(path, 3 * PAGE)
    refused_untouched(path, files, StoreInUse, "in use by process")


@pytest.mark.parametrize("statement", ["BEGIN EXCLUSIVE", "BEGIN IMMEDIATE"])
def test_lock_of_another_program_is_no_damage(
    path: Path, image: Image, python: Python, statement: str, files: Files
) -> None:
    """A database that cannot be looked at now is not set aside."""
    path.write_bytes(image.content)
    holder = python(
        "import sqlite3, sys\n"
        "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "connection.execute('PRAGMA locking_mode = EXCLUSIVE')\n"
        f"connection.execute({statement!r})\n"
        "print('locked', flush=True)\n"
        "sys.stdin.read()"
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "locked\n"
    before = files()[path.name]
    with pytest.raises(StoreInUse, match="locked by another program"):
        SqliteStore.open(path, busy_timeout_s=0.1)
    assert files()[path.name] == before
    assert not list(path.parent.glob("*.corrupt-*"))


NO_SPACE = """
import resource, sys
from pathlib import Path
from plexus_registry.errors import StoreUnavailable
from plexus_registry.store.sqlite import SqliteStore

resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
try:
    SqliteStore.open(Path(sys.argv[1]))
except StoreUnavailable as fault:
    print(fault)
"""


def test_salvage_for_which_there_is_no_space_moves_nothing(
    path: Path, python: Python, image: Image, files: Files
) -> None:
    """When there is space again, the next start does it."""
    path.write_bytes(image.damaged(2, bytes(PAGE)))
    before = files()
    output, _ = python(NO_SPACE).communicate()
    assert "cannot be used" in output
    left = {name: content for name, content in files().items() if content}
    assert left == before
    with SqliteStore.open(path) as store:
        assert len(store.load()) == len(image.entries)


# --- the swap -----------------------------------------------------------------------------------

CRASHING = """
import itertools, os, signal, sys
from pathlib import Path
from plexus_registry.store.sqlite import SqliteStore

path, count = Path(sys.argv[1]), itertools.count(1)

def hook(event, arguments):
    if event == "os.rename" and next(count) == int(os.environ["CRASH_AT"]):
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
SqliteStore.open(path).close()
"""


def test_kill_amid_the_salvage_leaves_the_old_or_the_new(
    path: Path, python: Python, log: Path, opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever it happens, the old log never meets the new database, and all comes back."""
    content = bytearray(path.read_bytes())
    unchanged = {*range(1, len(content) // PAGE + 1)} - read_log(path).pages.keys()
    leaf = min(one for one in unchanged if content[(one - 1) * PAGE] == TABLE_LEAF)
    content[(leaf - 1) * PAGE : leaf * PAGE] = bytes(PAGE)
    old_log = log.read_bytes()
    counts = set()
    for number in itertools.count(1):
        for one in path.parent.iterdir():
            one.unlink()
        path.write_bytes(content)
        log.write_bytes(old_log)
        monkeypatch.setenv("CRASH_AT", str(number))
        if python(CRASHING).wait() != -signal.SIGKILL:
            break
        with opened() as store:
            assert store.salvage is not None
            assert Path(store.salvage.aside).read_bytes() == content
            assert Path(f"{store.salvage.aside}-wal").read_bytes() == old_log
            assert store.salvage.salvaged == len(store.load())
            counts.add(store.salvage.salvaged)
        left = sorted(one.name for one in path.parent.iterdir() if "corrupt" not in one.name)
        assert left == ["registry.db", "registry.db.lock"]
        assert len(list(path.parent.glob("*.corrupt-*"))) in (2, 3)  # -shm is no loss
    assert number > 4
    (count,) = counts
    assert 500 < count < 640
    record_fault(
        "a kill amid the salvage",
        **{"rounds": number - 1, "acknowledged": count * (number - 1), "lost": 0},
        **{
            "recover_s": None,
            "note": "before each rename; entries of the damaged page not counted",
        },
    )


def test_backup_that_was_restored_amid_the_salvage_is_used(
    path: Path, python: Python, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a person puts in the place of the database after a crash wins; all else is kept."""
    damaged = image.damaged(2, bytes(PAGE))
    path.write_bytes(damaged)
    monkeypatch.setenv("CRASH_AT", "3")  # the old database has just been moved
    assert python(CRASHING).wait() == -signal.SIGKILL
    assert not path.exists()
    path.write_bytes(image.content)
    with SqliteStore.open(path) as store:
        assert store.salvage is None
        assert len(store.load()) == len(image.entries)
    aside, salvaged = sorted(path.parent.glob("*.corrupt-*"))
    assert aside.read_bytes() == damaged
    assert salvaged.name == f"{aside.name}-salvaged"


def test_database_that_was_set_aside_is_never_overwritten(path: Path, image: Image) -> None:
    """Two in a second get two names; mode and owner's rights stay."""
    asides = set()
    for number in (2, 3, 4):
        path.write_bytes(image.damaged(number, bytes(PAGE)))
        path.chmod(0o640)
        with SqliteStore.open(path) as store:
            assert store.salvage is not None
            asides.add(store.salvage.aside)
        assert path.stat().st_mode & 0o777 == 0o640
    assert len(asides) == 3
    assert all(Path(aside).stat().st_size for aside in asides)


def test_salvaged_database_is_sound_and_ours(path: Path, image: Image, execute: Execute) -> None:
    """It has the schema, the marks and the order of any other, and needs no salvage again."""
    path.write_bytes(image.damaged(1, bytes(PAGE)))
    SqliteStore.open(path).close()
    with SqliteStore.open(path) as store:
        assert store.salvage is None
        assert store.load() == list(image.entries.values())
    assert execute("PRAGMA integrity_check") == [("ok",)]
    assert execute("PRAGMA application_id") == [(APPLICATION_ID,)]


def test_rust_database_that_is_damaged_is_salvaged(
    path: Path, rust_database: list[tuple[object, ...]], execute: Execute, files: Files
) -> None:
    """It has no mark, but its table is known."""
    with path.open("r+b") as file:
        file.seek(3 * PAGE)  # an index
        file.write(b"\xa5" * PAGE)
    with SqliteStore.open(path) as store:
        assert store.salvage is not None
        # One could not be registered today, but the table can be read to its end.
        assert [one.name for one in store.load()] == [*map(itemgetter(1), rust_database[:4])]
        assert store.salvage.names == ("alien",)


# --- while it runs ------------------------------------------------------------------------------


def damaged(
    store: SqliteStore, backend: MakeBackend, execute: Execute, count: int
) -> list[Backend]:
    """Have so many entries written, then damage their database, and see that it is noticed."""
    entries = [backend(f"b{number}") for number in range(count)]
    store.commit([Put(one) for one in entries])
    execute("DROP TABLE backends")
    with pytest.raises(StoreCorrupt):
        store.commit([Put(backend("later"))])
    return entries


@pytest.mark.parametrize("stage", ["writing", "opening"])
def test_rebuilding_that_fails_is_made_up_for(
    path: Path,
    store: SqliteStore,
    backend: MakeBackend,
    *,
    execute: Execute,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
) -> None:
    """Until it works the database counts as damaged; then there is one that was set aside."""
    entries = damaged(store, backend, execute, 5)
    in_the_way = path.with_name(path.name + (".salvaging" if stage == "writing" else "-wal"))
    if stage == "writing":
        in_the_way.mkdir()
    else:  # when the new database has its place, a folder takes that of its log
        connect = Salvager.connect

        def connect_after(salvager: Salvager) -> sqlite3.Connection:
            in_the_way.mkdir(exist_ok=True)
            return connect(salvager)

        monkeypatch.setattr(Salvager, "connect", connect_after)
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            store.rebuild(entries, "reason")
        for use in (store.check, partial(store.commit, [Put(backend("later"))])):
            with pytest.raises(StoreDamaged, match="reason"):
                use()
    monkeypatch.undo()
    in_the_way.rmdir()
    salvage = store.rebuild(entries, "reason")
    assert salvage.reason == "reason"
    store.check()
    store.commit([Put(backend("later"))])
    assert [one.name for one in store.load()] == [*(one.name for one in entries), "later"]
    aside = {str(one) for one in path.parent.glob(f"{path.name}.corrupt-*")}
    assert salvage.aside in aside
    assert aside <= {salvage.aside + suffix for suffix in ("", "-wal", "-shm")}


def test_rebuilt_database_holds_what_it_is_given(
    path: Path, store: SqliteStore, backend: MakeBackend, execute: Execute
) -> None:
    """The damaged one is aside, and the store goes on in the new one."""
    entries = damaged(store, backend, execute, 50)
    salvage = store.rebuild(entries, "reason")
    assert salvage == store.salvage
    assert (salvage.salvaged, salvage.lost, salvage.reason) == (50, 0, "reason")
    with contextlib.closing(sqlite3.connect(salvage.aside)) as old:
        assert not old.execute("SELECT * FROM sqlite_schema").fetchall()
    store.commit([Put(backend("later"))])
    assert [one.name for one in store.load()] == [*(one.name for one in entries), "later"]
    store.close()
    with SqliteStore.open(path) as again:
        assert again.salvage is None
        assert len(again.load()) == 51
