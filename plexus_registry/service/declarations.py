# SPDX-License-Identifier: AGPL-3.0-only
"""Reads what the environment and the files declare, for the registry's reload.

The rule on files that vanish:

- A main file that is not there keeps its backends until somebody reloads explicitly, also across
  restarts: losing it by accident must not empty the registry. Entries do not say which file they
  are from, so while it is missing every entry from a file stays that nothing declares any more,
  but for the next case.
- A drop-in is taken at its word, as removing it is how one takes back what it declares: what this
  process has read in a drop-in, and no file declares any more, is removed at once.
- After an explicit reload without the main file it is not missed any more, until it is there
  again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from plexus_registry.backend import DEFAULT_LIMITS, Backend, Declaration, Source, TextLimits
from plexus_registry.config import declared
from plexus_registry.errors import ConfigError, word
from plexus_registry.notices import Notices
from plexus_registry.rules import Declare

logger = logging.getLogger(__name__)

LOGGED_NAMES_MAX = 20
WARNINGS_MAX = 10
"""How often a minute the same is said, however often somebody asks for a reload."""


class DeclarationReader:
    """Remembers what it read last, by its digest, so that only real changes count.

    Args:
        path: The main file; drop-ins are in the directory beside it.
        env: What the environment declares; a later declaration of a name replaces an earlier.
        unreadable_names: Returns the names that the store holds and cannot read: declarations of
            them are left out, or they would replace what the store keeps.
        limits: How long texts may be.

    Attributes:
        is_sound: Whether what was read last had no faults.
        fault: Why not, if that is known.
        is_absent: Whether there was neither the main file nor a drop-in.
        notices: Bounds what is said at each reload.
    """

    def __init__(
        self,
        path: Path,
        env: Iterable[Declaration],
        *,
        unreadable_names: Callable[[], Collection[str]] = frozenset,
        limits: TextLimits = DEFAULT_LIMITS,
    ) -> None:
        self._limits = limits
        self._path = path
        self._env = {declaration.name: declaration for declaration in env}
        self._unreadable_names = unreadable_names
        self.notices = Notices(logger, burst=WARNINGS_MAX)
        self.is_sound = False
        self.fault: ConfigError | None = None
        self.is_absent = False
        self._digest: str | None = None
        self._is_main_missed = True
        self._of_drop_ins: frozenset[str] = frozenset()
        self._beside_missing: Collection[str] | None = None

    def __call__(self, explicit: bool) -> Declare | None:
        """Read everything anew. Blocks.

        Args:
            explicit: Somebody asked: unchanged files count too, and a main file that is not there
                declares nothing.

        Raises:
            ConfigError: With every fault of every file.
        """
        snapshot = declared.take(self._path)
        if not explicit and snapshot.digest == self._digest:
            return None
        self._digest = snapshot.digest
        self.is_sound = False
        self.fault = None
        try:
            declare = self._parse(snapshot, explicit)
        except ConfigError as fault:
            self.fault = fault
            raise
        self.is_sound = True
        return declare

    def is_changed(self) -> bool:
        """Tell whether the files are others than at the last reading. Blocks."""
        return declared.take(self._path).digest != self._digest

    def forget(self) -> None:
        """Take the files for changed at the next reading, for what they say was not applied."""
        self._digest = None

    def count_kept(self, entries: Iterable[Backend]) -> int:
        """Count the entries that only stay because the main file is missing.

        Returns:
            0 if it is not missed, or if this was asked already since the last reading.
        """
        beside, self._beside_missing = self._beside_missing, None
        if beside is None:
            return 0
        return sum(held.source is Source.FILE and held.name not in beside for held in entries)

    def _parse(self, snapshot: declared.Snapshot, explicit: bool) -> Declare:
        found = declared.parse(snapshot, self._limits)
        self.is_absent = found.is_absent
        is_main_there = self._path in found.files
        if is_main_there or explicit:
            self._is_main_missed = is_main_there
        in_main = {name for name, path in found.places.items() if path == self._path}
        self._of_drop_ins = (self._of_drop_ins | found.places.keys()) - in_main
        is_missing = self._is_main_missed and not is_main_there
        self._beside_missing = found.backends.keys() if is_missing else None
        held = self._unreadable_names()
        return Declare(
            env=self._without(held, self._env),
            file=self._without(held, found.backends),
            removable=self._of_drop_ins if is_missing else None,
        )

    def _without(
        self, held: Collection[str], declarations: Mapping[str, Declaration]
    ) -> Mapping[str, Declaration]:
        """Leave out declarations whose names rows hold that cannot be read, and log which."""
        names = sorted(name for name in held if name in declarations)
        if not names:
            return declarations
        self.notices.warning(
            "declarations skipped, unreadable rows of the database hold their names entries=%d"
            " names=%s",
            len(names),
            ",".join(map(word, names[:LOGGED_NAMES_MAX])),
        )
        return {name: one for name, one in declarations.items() if name not in held}
