# SPDX-License-Identifier: AGPL-3.0-only
"""A file system that becomes read-only under the daemon."""

from __future__ import annotations

import random
import signal
from pathlib import Path

from faults.conftest import NewVolume, Record
from faults.daemons import Stopwatch, config_of, on_disk, start
from faults.injection import failing
from support.conversation import conversation
from support.load import Load, listed, stored

ROUNDS = 10
READ_ONLY = "Read-only file system"


def test_file_system_with_an_error_refuses_changes(
    home: Path, new_volume: NewVolume, chance: random.Random, record: Record
) -> None:
    """The kernel finds an error: refusals name it, reads go on; all is there after its repair."""
    volume = new_volume(32)
    database = volume.at / "registry.db"
    load = Load(config_of(home), chance)
    watch = Stopwatch()
    for _ in range(ROUNDS):
        volume.unmount()
        volume.check()
        volume.mount("errors=remount-ro")
        with on_disk(home, database) as running:
            with watch.lap():
                url = start(running, load)
            with load.on(url):
                load.wait_for_acknowledgements(chance.randint(1, 50))
                load.stop_counting()
                volume.break_down()
                load.wait_for_refusals(READ_ONLY, 20)
            with conversation(url) as client:
                assert listed(client)
            running.stop(signal.SIGKILL)
        volume.unmount()
        volume.check()
        volume.mount()
        assert load.settle(stored(database)) == []
    record(
        "file system read-only after an error",
        rounds=ROUNDS,
        acknowledged=load.acknowledged,
        lost=load.lost,
        recover_s=watch.longest_s,
        note=f"{len(load.refused)} changes refused with the reason, reads went on; Linux lets"
        " nobody write there before it is mounted anew, so the daemon was restarted",
    )


def test_read_only_file_system_that_becomes_writable_again(
    home: Path, chance: random.Random, record: Record
) -> None:
    """Refusals name it, reads go on, changes work again without a restart.

    By calls that fail, for Linux makes no file system read-only that has files open for writing.
    """
    database = home / "registry.db"
    files = [database, *(database.with_name(f"registry.db{end}") for end in ("-wal", ".lock"))]
    load = Load(config_of(home), chance)
    watch = Stopwatch()
    for _ in range(ROUNDS):
        with on_disk(home, database) as running:
            url = start(running, load)
            with load.on(url):
                load.wait_for_acknowledgements(chance.randint(1, 50))
                with failing(running, "pwrite64,openat", "EROFS", on=files):
                    load.wait_for_refusals(READ_ONLY, chance.randint(3, 20))
                with watch.lap():
                    load.wait_for_acknowledgements(1)
                load.wait_for_acknowledgements(chance.randint(1, 50))
                running.stop(signal.SIGKILL)
        assert load.settle(stored(database)) == []
    record(
        "file system read-only for a while",
        rounds=ROUNDS,
        acknowledged=load.acknowledged,
        lost=load.lost,
        recover_s=watch.longest_s,
        note=f"{len(load.refused)} changes refused with the reason, reads went on; no restart",
    )
