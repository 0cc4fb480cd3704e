# SPDX-License-Identifier: AGPL-3.0-only
"""The daemon, unchanged, that also tells how many commits it made.

Argument: the file that gets ``COMMITS REQUESTS`` when the daemon stops; then those of the daemon.
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import patch

from plexus_registry.cli.daemon import main
from plexus_registry.service import daemon
from plexus_registry.service.service import Service


class CountedService(Service):
    """A service that writes its counters down before it stops."""

    path: Path

    async def stop(self) -> None:
        """Write, then stop."""
        if self.addresses:
            registry = self.registry
            self.path.write_text(
                f"{registry.tally.commits} {registry.tally.committed_requests}", "ascii"
            )
        await super().stop()


if __name__ == "__main__":
    CountedService.path = Path(sys.argv[1])
    with patch.object(daemon, "Service", CountedService):
        sys.exit(main(sys.argv[2:]))
