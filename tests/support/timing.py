# SPDX-License-Identifier: AGPL-3.0-only
"""Limits on waiting: generous, scaled for slow machines, never part of what is asserted."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

SCALE = float(os.environ.get("PLEXUS_TEST_TIMEOUT_SCALE", "1"))
TIMEOUT_S = 10.0 * SCALE


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = TIMEOUT_S) -> None:
    """Wait until *condition* holds, and fail with *what* if it does not come to hold."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_s} s in vain: {what}")
        time.sleep(0.01)
