# SPDX-License-Identifier: AGPL-3.0-only
"""``python -m plexus_registry`` is the daemon."""

import sys

from plexus_registry.cli.daemon import main

if __name__ == "__main__":
    sys.exit(main())
