# SPDX-License-Identifier: AGPL-3.0-only
"""A database that is damaged when the daemon starts, or while it runs."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from faults.conftest import NewVolume, Record
from faults.daemons import Stopwatch, config_of, on_disk
from plexus_registry.backend import Put
from plexus_registry.errors import StoreUnavailable
from plexus_registry.store.sqlite import SqliteStore
from support.conversation import conversation
from support.load import Entries, Load, listed, stored
from support.memory import entry

ROUNDS = 8
PAGE_BYTES = 4096
SET_ASIDE = re.compile(
    r"CRITICAL .*database damaged, set aside path=(\S+/registry\.db\.corrupt-\w+) salvaged=(\d+) "
)


def scribble(database: Path, chance: random.Random) -> None:
    """Write random bytes over some pages."""
    with database.open("r+b") as file:
        pages = os.fstat(file.fileno()).st_size // PAGE_BYTES
        for page in chance.sample(range(pages), max(1, pages // 8)):
            file.seek(page * PAGE_BYTES)
            file.write(chance.randbytes(PAGE_BYTES))


def truncate(database: Path, chance: random.Random) -> None:
    """Cut the file off somewhere."""
    os.truncate(database, chance.randint(1, database.stat().st_size - 1))


def is_noticed(database: Path) -> bool:
    """Tell whether SQLite finds that a database is damaged; looks at a copy."""
    copy = database.with_name("copy")
    copy.write_bytes(database.read_bytes())
    try:
        with contextlib.closing(sqlite3.connect(copy)) as connection:
            return connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]
    except sqlite3.DatabaseError:
        return True
    finally:
        copy.unlink()


def harm(
    database: Path, damage: Callable[[Path, random.Random], None], chance: random.Random
) -> bytes:
    """Damage a database so that it shows: not only pages that hold nothing. Return what is left."""
    whole = database.read_bytes()
    damage(database, chance)
    while not is_noticed(database):
        database.write_bytes(whole)
        damage(database, chance)
    return database.read_bytes()


DAMAGES = {"random bytes over pages": scribble, "file cut off": truncate}


def fill(home: Path, database: Path, chance: random.Random, end: signal.Signals) -> Entries:
    """Have clients write into a database, end its daemon by a signal, and return what is in it."""
    load = Load(config_of(home), chance)
    with on_disk(home, database) as running:
        with load.on(running.url):
            load.wait_for_acknowledgements(200)
        assert running.stop(end) == (0 if end == signal.SIGTERM else -end)
    config_of(home).unlink()
    return stored(database)


def test_rebuilding_that_is_cut_short_is_finished(new_volume: NewVolume) -> None:
    """The old database is out of its place, the new one not yet in it: the next attempt goes on."""
    volume = new_volume(64)
    database = volume.at / "registry.db"
    entries = [entry(f"b{number}") for number in range(5)]
    journal = volume.at / "registry.db-journal"
    with SqliteStore.open(database) as store:
        store.commit([Put(one) for one in entries])
        journal.touch()
        subprocess.run(["chattr", "+i", journal], check=True)  # it cannot be moved
        try:
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match="Operation not permitted"):
                    store.rebuild(entries, "reason")
                assert not database.exists()
        finally:
            subprocess.run(["chattr", "-i", journal], check=True)
        salvage = store.rebuild(entries, "reason")
        store.commit([Put(entry("later"))])
        assert [one.name for one in store.load()] == [*(one.name for one in entries), "later"]
    assert {path.name for path in volume.at.glob("*.corrupt-*")} <= {
        f"{Path(salvage.aside).name}{suffix}" for suffix in ("", "-journal", "-wal", "-shm")
    }
    volume.unmount()
    volume.check()


def serve_again(home: Path, database: Path, watch: Stopwatch) -> tuple[Entries, list[str]]:
    """Return what is served of a database, and the log; a change is made, and survives a kill."""
    with on_disk(home, database) as running:
        with watch.lap():
            url = running.url
        with conversation(url) as client:
            found = listed(client)
            params = {"name": "new", "host": "h", "port": 1}
            assert client.call("registry.register", params).content["backend"]
        running.stop(signal.SIGKILL)
    assert "new" in stored(database)
    return found, running.log


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_database_is_set_aside_and_the_service_is_up(
    damage: str, home: Path, chance: random.Random, record: Record
) -> None:
    """Whatever is served then is an entry as it was; changes work, and the new file is sound."""
    watch = Stopwatch()
    entries = salvaged = 0
    for number in range(ROUNDS):
        database = home / str(number) / "registry.db"
        before = fill(home, database, chance, signal.SIGTERM)
        left = harm(database, DAMAGES[damage], chance)
        found, lines = serve_again(home, database, watch)
        assert found.items() <= before.items()
        (told,) = filter(None, map(SET_ASIDE.search, lines))
        assert Path(told[1]).read_bytes() == left
        assert int(told[2]) == len(found)
        entries += len(before)
        salvaged += len(found)
    record(
        f"database damaged at start: {damage}",
        rounds=ROUNDS,
        recover_s=watch.longest_s,
        note=f"set aside in each; {salvaged} of {entries} entries salvaged, none of them changed",
    )


def test_missing_log_is_told_and_the_service_is_up(
    home: Path, chance: random.Random, record: Record
) -> None:
    """What was in a write-ahead log that somebody removed is gone; nobody is left to find out."""
    watch = Stopwatch()
    entries = left = 0
    for number in range(ROUNDS):
        database = home / str(number) / "registry.db"
        before = fill(home, database, chance, signal.SIGKILL)
        log = database.with_name("registry.db-wal")
        assert log.stat().st_size > 0
        log.unlink()
        found, lines = serve_again(home, database, watch)
        (told,) = [line for line in lines if "write-ahead log of the database" in line]
        assert "CRITICAL" in told
        assert f"path={log}" in told
        entries += len(before)
        left += len(found)
    record(
        "write-ahead log missing at start",
        rounds=ROUNDS,
        recover_s=watch.longest_s,
        note=f"told at critical level in each; {left} of {entries} entries were in the database",
    )
