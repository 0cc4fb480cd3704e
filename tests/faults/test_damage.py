# SPDX-License-Identifier: AGPL-3.0-only
"""A database that is damaged when the daemon starts."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from faults.conftest import Record
from faults.daemons import Stopwatch, config_of, on_disk
from support.conversation import conversation
from support.load import Load, listed, stored

ROUNDS = 8
PAGE_BYTES = 4096


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


DAMAGES = {"random bytes over pages": scribble, "file cut off": truncate}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_database_is_set_aside_and_the_service_is_up(
    damage: str, home: Path, chance: random.Random, record: Record
) -> None:
    """Whatever is served then is an entry as it was; changes work, and the new file is sound."""
    watch = Stopwatch()
    entries = salvaged = 0
    for number in range(ROUNDS):
        database = home / str(number) / "registry.db"
        load = Load(config_of(home), chance)
        with on_disk(home, database) as running:
            with load.on(running.url):
                load.wait_for_acknowledgements(200)
            assert running.stop() == 0
        before = stored(database)
        DAMAGES[damage](database, chance)
        config_of(home).unlink()
        with on_disk(home, database) as running:
            with watch.lap():
                url = running.url
            with conversation(url) as client:
                found = listed(client)
                assert found.items() <= before.items()
                params = {"name": "new", "host": "h", "port": 1}
                assert client.call("registry.register", params).content["backend"]
            running.stop(signal.SIGKILL)
        assert "new" in stored(database)
        assert len(list(database.parent.glob("registry.db*"))) > 3
        entries += len(before)
        salvaged += len(found)
    record(
        f"database damaged at start: {damage}",
        rounds=ROUNDS,
        recover_s=watch.longest_s,
        note=f"set aside in each; {salvaged} of {entries} entries salvaged, none of them changed",
    )
