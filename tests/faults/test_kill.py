# SPDX-License-Identifier: AGPL-3.0-only
"""SIGKILL at any moment."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

from faults.conftest import Record
from faults.daemons import Stopwatch, alarms, config_of, on_disk, start
from support.load import Load, stored

ROUNDS = 200
START_S = 0.25
"""How long a start takes, about."""


def test_kill_at_any_moment_loses_nothing(
    home: Path, chance: random.Random, record: Record
) -> None:
    """Rounds of concurrent changes and reloads: what was acknowledged is there, no half reload.

    Nor is anything told to be damaged or lost.
    """
    database = home / "registry.db"
    load = Load(config_of(home), chance)
    watch = Stopwatch()
    kills_in_start = 0
    for _ in range(ROUNDS):
        with on_disk(home, database) as running:
            if chance.random() < 0.1:
                time.sleep(chance.random() * START_S)
                running.stop(signal.SIGKILL)
                kills_in_start += 1
            else:
                with watch.lap():
                    url = start(running, load)
                with load.on(url):
                    load.wait_for_acknowledgements(chance.randint(1, 60))
                    time.sleep(chance.random() / 50)
                    running.stop(signal.SIGKILL)
        assert alarms(running) == []
        if database.exists():
            assert load.settle(stored(database)) == []
    assert load.refused == []
    record(
        "kill -9 while clients write",
        rounds=ROUNDS,
        acknowledged=load.acknowledged,
        lost=load.lost,
        recover_s=watch.longest_s,
        note=f"{load.declarer.acknowledged} reloads, none half there; {kills_in_start} kills came"
        " while the daemon started",
    )
