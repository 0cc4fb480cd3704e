# SPDX-License-Identifier: AGPL-3.0-only
"""The daemon, unchanged, on the event loop of uvloop. Arguments: those of the daemon."""

from __future__ import annotations

import sys
from importlib import import_module
from unittest.mock import patch

from plexus_registry.cli.daemon import main

if __name__ == "__main__":
    # By name: uvloop need not be installed where types are checked.
    with patch("asyncio.run", import_module("uvloop").run):
        sys.exit(main(sys.argv[1:]))
