# SPDX-License-Identifier: AGPL-3.0-only
"""Reads what the environment and the files declare, for the registry's reload."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from plexus_registry.backend import Declaration
from plexus_registry.config import declared
from plexus_registry.rules import Declare

logger = logging.getLogger(__name__)


class DeclarationReader:
    """Remembers what it read last, by its digest, so that only real changes count.

    Args:
        path: The main file; drop-ins are in the directory beside it.
        env: What the environment declares; a later declaration of a name replaces an earlier.

    Attributes:
        is_sound: Whether what was read last had no faults.
    """

    def __init__(self, path: Path, env: Iterable[Declaration]) -> None:
        self._path = path
        self._env = {declaration.name: declaration for declaration in env}
        self.is_sound = False
        self._digest: str | None = None
        self._main: bytes | None = None

    def __call__(self, explicit: bool) -> Declare | None:
        """Read everything anew. Blocks.

        Args:
            explicit: Somebody asked: unchanged files count too, and files that are not there
                declare nothing. Otherwise their entries stay, for a file that vanishes by
                accident must not empty the registry.

        Raises:
            ConfigError: With every fault of every file.
        """
        snapshot = declared.take(self._path)
        if not explicit and snapshot.digest == self._digest:
            return None
        self._digest = snapshot.digest
        self.is_sound = False
        declare = self._parse(snapshot, explicit)
        self.is_sound = True
        return declare

    def forget(self) -> None:
        """Take the files for changed at the next reading, for what they say was not applied."""
        self._digest = None

    def _parse(self, snapshot: declared.Snapshot, explicit: bool) -> Declare:
        if snapshot.is_absent and not explicit:
            return Declare(env=self._env)
        backends = declared.parse(snapshot).backends
        main = dict(snapshot.files).get(self._path)
        if main is None and self._main is not None and not explicit:
            backends = self._declared_by_vanished_main() | backends
        else:
            self._main = main if isinstance(main, bytes) else None
        return Declare(env=self._env, file=backends)

    def _declared_by_vanished_main(self) -> dict[str, Declaration]:
        """Return what the main file declared when it was last there; the drop-ins still are."""
        logger.warning(
            "declared backends kept, their file is missing path=%s; reload explicitly to forget"
            " them",
            self._path,
        )
        assert self._main is not None
        vanished = declared.Snapshot(((self._path, self._main),), digest="")
        return declared.parse(vanished).backends
