# SPDX-License-Identifier: AGPL-3.0-only
"""A clock that steps, by libfaketime. Only the time of day does; what measures goes on."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

from faults import host
from faults.conftest import Record
from faults.daemons import config_of, on_disk, start
from support.conversation import conversation
from support.daemon import environment
from support.load import Load, listed, stored

DAY_S = 86_400
STEPS_S = (0, 400 * DAY_S, -400 * DAY_S, 60, -60, 80 * 365 * DAY_S, 0)
"""From the true time; the last but one is beyond 2038."""

ROUNDS = 10


class Clock:
    """The time of day of a daemon."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        self.step(0)

    def environ(self, home: Path) -> dict[str, str]:
        """Return the environment of a daemon that goes by it."""
        return environment(
            home,
            LD_PRELOAD=str(host.clock_library()),
            FAKETIME_TIMESTAMP_FILE=str(self._file),
            FAKETIME_NO_CACHE="1",
            FAKETIME_DONT_FAKE_MONOTONIC="1",
            FAKETIME_FORCE_MONOTONIC_FIX="0",  # of a glibc of old; it makes waits too long
        )

    def step(self, offset_s: int) -> None:
        """Let it be so far from the true time, from now on."""
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{offset_s:+d}\n")
        fresh.replace(self._file)


def test_entries_keep_their_order_and_times_when_the_clock_steps(
    home: Path, record: Record
) -> None:
    """Each change has the time that the clock told, and the list goes by insertion, kept or new."""
    clock = Clock(home)
    database = home / "registry.db"
    before: dict[str, Any] = {}
    with on_disk(home, database, environ=clock.environ(home)) as running:
        with conversation(running.url) as client:
            for number, offset in enumerate(STEPS_S):
                clock.step(offset)
                began = int(time.time()) + offset
                params = {"name": f"n{number}", "host": "h", "port": 1}
                entry = client.call("registry.register", params).content["backend"]
                client.call("registry.ping", {"name": "n0"})
                update = {"name": "n0", "port": number + 1}
                changed = client.call("registry.update", update).content["backend"]
                told = range(began, int(time.time()) + offset + 1)
                assert {entry[at] for at in ("created_at", "registered_at", "updated_at")} <= {
                    *told
                }
                assert changed["updated_at"] in told
                assert changed["last_seen"] in told
                assert changed["created_at"] == before.get("n0", entry)["created_at"]
                before = listed(client)
                assert list(before) == [f"n{one}" for one in range(number + 1)]
        running.stop(signal.SIGKILL)
    with on_disk(home, database) as running, conversation(running.url) as client:
        found = listed(client)
    lost = sum(found.get(name) != entry for name, entry in before.items())
    assert lost == 0
    assert list(found) == list(before)
    record(
        "clock steps between changes",
        rounds=len(STEPS_S),
        acknowledged=3 * len(STEPS_S),
        lost=lost,
        note="by up to 80 years, forth and back; order by insertion, times as the clock told",
    )


def test_clock_that_steps_under_load_loses_nothing(
    home: Path, chance: random.Random, record: Record
) -> None:
    """While clients write the clock jumps; a kill then loses nothing and mixes up no order."""
    clock = Clock(home)
    database = home / "registry.db"
    load = Load(config_of(home), chance)
    steps = 0
    for _ in range(ROUNDS):
        with (
            on_disk(home, database, environ=clock.environ(home)) as running,
            load.on(start(running, load)),
        ):
            for _ in range(chance.randint(3, 10)):
                clock.step(chance.randint(-1000, 1000) * chance.choice((1, DAY_S)))
                steps += 1
                load.wait_for_acknowledgements(5)
            running.stop(signal.SIGKILL)
        assert load.settle(stored(database)) == []
    assert load.refused == []
    record(
        "clock steps while clients write, then kill -9",
        rounds=ROUNDS,
        acknowledged=load.acknowledged,
        lost=load.lost,
        note=f"{steps} steps of up to 1000 days, forth and back",
    )
