# SPDX-License-Identifier: AGPL-3.0-only
"""A registry with its real files against a simple model, through reloads, restarts and clock steps.

What each operation means to the entries is the model of `support.model`, which `test_rules` has
too. What is added here is all that lies around the rules: SQLite, files that come, break and
vanish, the environment, what a process remembers and what it forgets, and reads.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from plexus_registry.backend import Declaration
from plexus_registry.catalog import Catalog
from plexus_registry.config import declared
from plexus_registry.errors import ConfigError, InvalidValue
from plexus_registry.registry import Registry
from plexus_registry.rules import (
    AutoRegister,
    Declare,
    Delete,
    Deregister,
    Event,
    Ping,
    Register,
    Request,
    Update,
)
from plexus_registry.service.declarations import DeclarationReader
from plexus_registry.store.sqlite import SqliteStore
from support.memory import InlineOffload
from support.model import (
    ALL_NAMES,
    NAMES,
    REGISTERS,
    UPDATES,
    Entry,
    Model,
    declarations,
    ids,
)

MAIN = "backends.toml"
DROP_INS = ["backends.d/1.toml", "backends.d/2.toml"]
FILES = st.sampled_from([MAIN, MAIN, *DROP_INS])
RELOADS = st.sampled_from(["none", "by inotify", "by an operator"])
IN_FILES = declarations(st.sampled_from([None, "one", "two"])).map(lambda it: list(it.values()))
FIRST_FILES = st.fixed_dictionaries({}, optional=dict.fromkeys([MAIN, *DROP_INS], IN_FILES))
IN_ENVIRONMENT = declarations(st.none())
BROKEN = "[[backend]]\nname ="

# Thousands of commits: what a disk takes to flush them is not what is tested here.
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None

Content = list[Declaration] | None
"""What a file of the model declares, None if it is broken."""


class ModelOfFiles:
    """What one run of the daemon makes of the files, said again.

    Args:
        files: What each file declares, by name; the main file is `MAIN`.
    """

    def __init__(self, files: dict[str, Content]) -> None:
        self.files = files
        self._last: dict[str, Content] | None = None
        self._is_main_missed = True
        self._seen_in_drop_ins: set[str] = set()

    @property
    def is_sound(self) -> bool:
        """Whether no file is broken, and no name is declared twice."""
        contents = list(self.files.values())
        names = [one.name for content in contents if content for one in content]
        return None not in contents and len(set(names)) == len(names)

    def read(self, env: dict[str, Declaration], *, explicit: bool) -> Declare | str:
        """Return what to follow, or a word why nothing is to be followed."""
        if not explicit and self.files == self._last:
            return "unchanged"
        self._last = dict(self.files)
        if not self.is_sound:
            return "faulty"
        found: dict[str, Declaration] = {}
        for name in sorted(self.files, key=lambda name: (name != MAIN, name)):
            for one in self.files[name] or []:
                found[one.name] = one
        in_main = {one.name for one in self.files.get(MAIN) or []}
        self._seen_in_drop_ins |= found.keys() - in_main
        self._seen_in_drop_ins -= in_main
        if MAIN in self.files:
            self._is_main_missed = True  # should it vanish
        elif explicit:
            self._is_main_missed = False  # somebody knows that it is gone
        keeps = MAIN not in self.files and self._is_main_missed
        removable = frozenset(self._seen_in_drop_ins) if keeps else None
        return Declare(env=env, file=found, removable=removable)


class Everything(RuleBasedStateMachine):
    """Whatever is asked, saved, exported and restarted, registry and model say the same."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="plexus-", dir=IN_MEMORY))
        self.path = self.folder / MAIN
        declared.drop_in_directory(self.path).mkdir()
        self.now = 1_000_000_000
        self.new_id = ids()
        self.model = Model()
        self.env: dict[str, Declaration] = {}
        self.files = ModelOfFiles({})

    def teardown(self) -> None:
        """Leave nothing behind."""
        self.store.close()
        shutil.rmtree(self.folder)

    # --- the daemon's life ------------------------------------------------------------------------

    def start(self) -> bool:
        """Open the database and follow what is declared, as the service does at start.

        Returns:
            False if the files have faults, so that nothing was followed.
        """
        self.store = SqliteStore.open(self.folder / "registry.db")
        reader = DeclarationReader(
            self.path, self.env.values(), unreadable_names=lambda: self.store.unreadable_names
        )
        self.registry = Registry(
            self.store,
            Catalog(self.store.load()),
            commits=InlineOffload(),
            reads=InlineOffload(),
            declarations=reader,
            clock=lambda: self.now,
            new_id=self.new_id,
        )
        self.files = ModelOfFiles(self.files.files)
        expected = self.files.read(self.env, explicit=False)
        if expected == "faulty":
            with pytest.raises(ConfigError):
                reader(False)
            return False
        found = reader(False)
        assert isinstance(expected, Declare)
        assert isinstance(found, Declare)
        event = answer_of(lambda reply: self.registry.follow(found, reply))
        assert event == self.model.declare(expected, self.now)
        return True

    @initialize(env=IN_ENVIRONMENT, hub=NAMES, files=FIRST_FILES)
    def begin(
        self, env: dict[str, Declaration], hub: str, files: dict[str, list[Declaration]]
    ) -> None:
        """Start for the first time."""
        for name, content in files.items():
            self.save_file(name, content, "none")
        self.start_at_last(env, hub)

    @rule(env=st.none() | IN_ENVIRONMENT, hub=NAMES)
    def restart(self, env: dict[str, Declaration] | None, hub: str) -> None:
        """Stop and start, perhaps in another environment."""
        self.store.close()
        self.start_at_last(self.env if env is None else env, hub)

    def start_at_last(self, env: dict[str, Declaration], hub: str) -> None:
        """Start, if need be once more without the files, and enter the local hub."""
        self.env = env
        if not self.start():
            self.entries_agree()
            for name in list(self.files.files):
                self.remove_file(name, "none")
            self.store.close()
            assert self.start()
        local = Declaration(name=hub, host="127.0.0.1", port=4444)
        self.ask(AutoRegister(local), self.model.auto_register(local, self.now))

    @rule(seconds=st.sampled_from([-100_000, -1, 1, 100_000]))
    def step_clock(self, seconds: int) -> None:
        """Set the clock forward or back."""
        self.now += seconds

    # --- files ------------------------------------------------------------------------------------

    @rule(name=FILES, content=IN_FILES, reload=RELOADS)
    def save_file(self, name: str, content: list[Declaration], reload: str) -> None:
        """Save a sound file."""
        (self.folder / name).write_text(declared.dumps(content), encoding="utf-8")
        self.files.files[name] = content
        self.reload(reload)

    @rule(name=FILES, reload=RELOADS)
    def break_file(self, name: str, reload: str) -> None:
        """Save half a file."""
        (self.folder / name).write_text(BROKEN, encoding="utf-8")
        self.files.files[name] = None
        self.reload(reload)

    @rule(name=FILES, reload=RELOADS)
    def remove_file(self, name: str, reload: str) -> None:
        """Remove a file that may be there."""
        (self.folder / name).unlink(missing_ok=True)
        self.files.files.pop(name, None)
        self.reload(reload)

    @rule(reload=RELOADS)
    def export(self, reload: str) -> None:
        """Save all entries as the main file and declare nothing else."""
        for name in list(self.files.files):
            self.remove_file(name, "none")
        text = declared.dumps(self.registry.catalog)
        self.path.write_text(text, encoding="utf-8")
        keys = Declaration.__struct_fields__
        self.files.files[MAIN] = [
            Declaration(**{key: held[key] for key in keys if key in held})
            for held in self.model.entries.values()
        ]
        self.reload(reload)

    @rule(how=RELOADS)
    def reload(self, how: str) -> None:
        """Reload, because a file may have changed or because somebody asks."""
        if how == "none":
            return
        explicit = how == "by an operator"
        event = answer_of(lambda reply: self.registry.reload(reply, explicit=explicit))
        expected = self.files.read(self.env, explicit=explicit)
        if isinstance(expected, Declare):
            assert event == self.model.declare(expected, self.now)
        elif expected == "faulty":
            assert event == {"type": "error"}
        else:
            counts = dict.fromkeys(["count", "updated", "removed", "unchanged"], 0)
            assert event == {"type": "reloaded"} | counts

    # --- requests ---------------------------------------------------------------------------------

    def ask(self, request: Request, expected: Entry) -> None:
        """Submit a request and compare its answer."""
        assert answer_of(lambda reply: self.registry.submit(request, reply)) == expected

    @rule(request=REGISTERS)
    def register(self, request: Register) -> None:
        """Register by hand or by announcement."""
        self.ask(request, self.model.register(request, self.now))

    @rule(request=UPDATES)
    def update(self, request: Update) -> None:
        """Update any of the fields."""
        self.ask(request, self.model.update(request, self.now))

    @rule(name=NAMES, what=st.sampled_from([Delete, Ping, Deregister]))
    def name_an_entry(self, name: str, what: type[Delete | Ping | Deregister]) -> None:
        """Ask for what only needs a name, known or not."""
        if what is Delete:
            self.ask(Delete(name), self.model.delete(name))
        elif what is Ping:
            self.ask(Ping(name), self.model.ping(name, self.now))
        else:
            self.ask(Deregister(name), self.model.deregister(name, self.now))

    # --- reads ------------------------------------------------------------------------------------

    @invariant()
    def entries_agree(self) -> None:
        """Memory, disk and model hold the same entries in the same order, and reads show them."""
        entries, catalog = self.model.entries, self.registry.catalog
        assert plain(catalog) == plain(self.store.load()) == list(entries.values())
        for name in ALL_NAMES:
            found = catalog.get_json(name)
            assert (None if found is None else json.loads(found)) == entries.get(name)
        for after in (None, *ALL_NAMES):
            for active_only in (True, False):
                for limit in (None, 1, 2):
                    self.check_page(active_only, limit, after)

    def check_page(self, active_only: bool, limit: int | None, after: str | None) -> None:
        """Compare a page of the listing."""
        ask = partial(
            self.registry.catalog.list_json, active_only=active_only, limit=limit, after=after
        )
        if after is not None and after not in self.model.entries:
            with pytest.raises(InvalidValue, match="after"):
                ask()
            return
        newest_first = list(reversed(self.model.entries.values()))
        start = 0 if after is None else 1 + [held["name"] for held in newest_first].index(after)
        shown = [held for held in newest_first[start:] if held["is_active"] or not active_only]
        assert json.loads(ask()) == shown[:limit]


def answer_of(ask: Callable[[Callable[[Event], None]], None]) -> dict[str, Any]:
    """Ask, and return the content of the one answer, without messages."""
    answers: list[Event] = []
    ask(answers.append)
    (event,) = answers
    content: dict[str, Any] = msgspec.to_builtins(event)
    content.pop("message", None)
    return content


def plain(entries: Iterable[object]) -> list[Any]:
    """Return entries as their JSON has them."""
    return [msgspec.to_builtins(held) for held in entries]


# Finding the shortest way to a failure takes longer than a test may otherwise.
TestEverything = pytest.mark.timeout(600)(Everything.TestCase)
TestEverything.settings = settings(max_examples=90, stateful_step_count=40, deadline=None)
