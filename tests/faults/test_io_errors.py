# SPDX-License-Identifier: AGPL-3.0-only
"""Reading, writing and flushing that fail, and what was acknowledged around it.

Each round ends with a power cut, so that it shows whether a change that was acknowledged after a
failed flush was on disk. What was refused before a later acknowledgement may not be there.
"""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import NamedTuple

import pytest

from faults.conftest import NewVolume, Record
from faults.daemons import Stopwatch, config_of, on_disk, start
from faults.injection import failing
from support.conversation import conversation
from support.load import Load, stored

ROUNDS = 6
FLUSH, WRITE, READ = "fsync,fdatasync", "pwrite64", "pread64"


class Failing(NamedTuple):
    """Calls that fail, in words too; with which error; and what refusals say then."""

    calls: str
    what: str
    error: str
    reason: str


FAILING = {
    "flush": Failing(FLUSH, "flushes fail", "EIO", "cannot be used"),
    "write": Failing(WRITE, "writes fail", "EIO", "reading or writing failed"),
    "read": Failing(f"{READ},{WRITE}", "reads and writes fail", "EIO", "cannot be used"),
    "space": Failing(f"{FLUSH},{WRITE}", "writes find no space", "ENOSPC", "cannot be used"),
}


@pytest.mark.parametrize("fault", FAILING.values(), ids=FAILING)
def test_calls_that_fail_lose_nothing(
    fault: Failing, home: Path, new_volume: NewVolume, chance: random.Random, record: Record
) -> None:
    """Changes are refused while calls fail, reads go on, and what works again is on disk."""
    volume = new_volume(64)
    database = volume.at / "registry.db"
    load = Load(config_of(home), chance)
    watch = Stopwatch()
    for round in range(ROUNDS):
        with on_disk(home, database) as running:
            with load.on(start(running, load)):
                load.wait_for_acknowledgements(chance.randint(1, 30))
                with failing(running, fault.calls, fault.error):
                    load.wait_for_refusals(fault.reason, chance.randint(1, 20))
                with watch.lap():
                    load.wait_for_acknowledgements(1)
                some = f"{chance.randint(1, 3)}+{chance.randint(10, 30)}"
                with failing(running, fault.calls, fault.error, when=some):
                    # Where each change takes more calls than that, none of them works. What
                    # refusals say differs: SQLite calls a read that fails once damage.
                    load.wait_for_refusals("", 1)
                    load.wait_for_outcomes(chance.randint(1, 200))
                if round % 2:
                    load.wait_for_acknowledgements(1)
                load.stop_counting()
                volume.cut_power()
            running.stop(signal.SIGKILL)
        volume.restore_power()
        assert load.settle(stored(database)) == []
    volume.unmount()
    volume.check()
    record(
        f"{fault.what} ({fault.error}), then a power cut",
        rounds=ROUNDS,
        acknowledged=load.acknowledged,
        lost=load.lost,
        recover_s=watch.longest_s,
        note=f"{len(load.refused)} changes refused, none of them there later; no restart",
    )


def test_pages_that_cannot_be_read_are_not_left_out(home: Path, new_volume: NewVolume) -> None:
    """A database that moves to a new file after a failed flush stays where it is until it can."""
    volume = new_volume(64)
    database = volume.at / "registry.db"
    names = [f"b{number}" for number in range(400)]

    def register(name: str) -> str:
        params = {"name": name, "host": "h", "port": 1, "metadata": "x" * 16_000}
        return str(client.call("registry.register", params).content["type"])

    with on_disk(home, database) as running, conversation(running.url) as client:
        assert {register(name) for name in names} == {"backend_registered"}
        with failing(running, FLUSH, "EIO"):
            assert register("refused") == "error"
        before = database.stat().st_ino
        with failing(running, READ, "EIO"):  # the database is larger than what SQLite keeps of it
            assert register("refused") == "error"
        assert database.stat().st_ino == before
        assert register("last") == "backend_registered"
        assert database.stat().st_ino != before
        running.stop(signal.SIGKILL)
    assert list(stored(database)) == [*names, "last"]
    volume.unmount()
    volume.check()


def test_disk_that_loses_what_it_cannot_flush_loses_nothing(
    home: Path, new_volume: NewVolume, chance: random.Random, record: Record
) -> None:
    """Flushes that fail for real, after which Linux takes for written what is not on disk.

    The disk promises more space than there is behind it, and what is behind it is filled.
    """
    behind = new_volume(48, "-b", "4096")
    written = "lazy_itable_init=0,lazy_journal_init=0,nodiscard"  # what the file system itself uses
    volume = new_volume(128, "-b", "4096", "-J", "size=4", "-E", written, inside=behind)
    database = volume.at / "registry.db"
    load = Load(config_of(home), chance, most=10_000, metadata="x" * 16_000)
    watch = Stopwatch()
    for _ in range(ROUNDS):
        volume.write_block_by_block()
        with on_disk(home, database) as running:
            with load.on(start(running, load)):
                load.wait_for_acknowledgements(chance.randint(1, 30))
                filler = behind.fill()
                load.wait_for_refusals("cannot be used", chance.randint(1, 20))
                filler.unlink()
                behind.flush()
                with watch.lap():
                    load.wait_for_acknowledgements(1)
                load.wait_for_acknowledgements(chance.randint(1, 30))
                load.stop_counting()
                volume.cut_power()
            running.stop(signal.SIGKILL)
        volume.restore_power()
        assert load.settle(stored(database)) == []
    volume.unmount()
    volume.check()
    record(
        "flushes fail on a thin disk that is full, then a power cut",
        rounds=ROUNDS,
        acknowledged=load.acknowledged,
        lost=load.lost,
        recover_s=watch.longest_s,
        note=f"{len(load.refused)} changes refused, none of them there later; no restart",
    )
