# SPDX-License-Identifier: AGPL-3.0-only
"""Where the user is at home."""

from __future__ import annotations

from pathlib import Path


def home() -> Path:
    """Return the home directory, the root for users who have none."""
    try:
        return Path.home()
    except RuntimeError:  # neither $HOME nor a line in passwd(5), as users of containers are
        return Path("/")
