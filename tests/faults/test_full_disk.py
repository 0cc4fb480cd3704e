# SPDX-License-Identifier: AGPL-3.0-only
"""A disk that is full."""

from __future__ import annotations

import random
import signal
from pathlib import Path

from faults.conftest import NewVolume, Record
from faults.daemons import Stopwatch, config_of, on_disk, start
from support.load import Load, stored

ROUNDS = 10
SIZE_MIB = 16
FULL = "the disk is full"


def test_full_disk_refuses_changes_and_recovers(
    home: Path, new_volume: NewVolume, chance: random.Random, record: Record
) -> None:
    """Refusals say that the disk is full, reads go on, changes work again once there is space."""
    volume = new_volume(SIZE_MIB)
    database = volume.at / "registry.db"
    load = Load(config_of(home), chance, most=10_000, metadata="x" * 4000)
    watch = Stopwatch()
    for _ in range(ROUNDS):
        with on_disk(home, database) as running:
            url = start(running, load)
            with load.on(url):
                load.wait_for_acknowledgements(chance.randint(1, 50))
                filler = volume.fill()
                load.wait_for_refusals(FULL, chance.randint(3, 20))
                filler.unlink()
                with watch.lap():
                    load.wait_for_acknowledgements(1)
                load.wait_for_acknowledgements(chance.randint(1, 50))
                filler = volume.fill()
                load.wait_for_refusals(FULL, 1)
                running.stop(signal.SIGKILL)
        filler.unlink()
        assert load.settle(stored(database)) == []
    assert all("cannot be used: " in message for message in load.refused)
    record(
        "disk full while clients write",
        rounds=ROUNDS,
        acknowledged=load.acknowledged,
        lost=load.lost,
        recover_s=watch.longest_s,
        note=f"{len(load.refused)} changes refused with the reason, reads went on; no restart",
    )
