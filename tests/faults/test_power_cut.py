# SPDX-License-Identifier: AGPL-3.0-only
"""Power cuts: what had not reached the disk when the power went is gone."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from faults.conftest import NewVolume, Record
from faults.daemons import Stopwatch, alarms, config_of, on_disk, start
from faults.volume import Volume
from support.daemon import PROGRAM
from support.load import Load, stored

ROUNDS = 40
RELAXED_ROUNDS = 5
RELAXED = (sys.executable, str(Path(__file__).with_name("relaxed.py")))


class Cuts:
    """Rounds of clients that write and a power cut, on one disk.

    Attributes:
        load: The clients.
        watch: Times each start on the disk that was cut off.
        alarms: What was logged of damage and loss.
    """

    def __init__(self, home: Path, volume: Volume, chance: random.Random) -> None:
        self.load = Load(config_of(home), chance)
        self.watch = Stopwatch()
        self.alarms: list[str] = []
        self._home = home
        self._volume = volume
        self._chance = chance

    def cut(self, program: Sequence[str] = PROGRAM) -> list[str]:
        """Cut the power while clients write; return what is not as it was acknowledged."""
        database = self._volume.at / "registry.db"
        with on_disk(self._home, database, program=program) as running:
            with self.watch.lap():
                url = start(running, self.load)
            with self.load.on(url):
                self.load.wait_for_acknowledgements(self._chance.randint(1, 100))
                time.sleep(self._chance.random() / 50)
                self.load.stop_counting()
                self._volume.cut_power()
                self.load.wait_for_refusals("cannot be used", 1)
            running.stop(signal.SIGKILL)
        self.alarms += alarms(running)
        self._volume.restore_power()
        return self.load.settle(stored(database))


def test_power_cut_loses_nothing(
    home: Path, new_volume: NewVolume, chance: random.Random, record: Record
) -> None:
    """After each of many power cuts all is there that was acknowledged, and no half reload.

    Nor is anything told to be damaged or lost.
    """
    volume = new_volume(64)
    cuts = Cuts(home, volume, chance)
    for _ in range(ROUNDS):
        assert cuts.cut() == []
    assert cuts.alarms == []
    volume.unmount()
    volume.check()
    record(
        "power cut while clients write",
        rounds=ROUNDS,
        acknowledged=cuts.load.acknowledged,
        lost=cuts.load.lost,
        recover_s=cuts.watch.longest_s,
        note=f"{cuts.load.declarer.acknowledged} reloads, none half there",
    )


def test_power_cut_without_flushes_loses_changes(
    home: Path, new_volume: NewVolume, chance: random.Random, record: Record
) -> None:
    """With synchronous=NORMAL acknowledged changes are gone: the test above can fail."""
    cuts = Cuts(home, new_volume(64), chance)
    lost = sum(len(cuts.cut(RELAXED)) for _ in range(RELAXED_ROUNDS))
    assert lost > 0
    record(
        "power cut, with synchronous=NORMAL",
        rounds=RELAXED_ROUNDS,
        acknowledged=cuts.load.acknowledged,
        lost=lost,
        recover_s=cuts.watch.longest_s,
        note="not the program as it is: it shows that this test would notice",
    )
