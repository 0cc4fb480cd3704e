# SPDX-License-Identifier: AGPL-3.0-only
"""What a test looks for in the log."""

from __future__ import annotations

import logging

import pytest


def first_lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return all records but those that tell, at the end, how many more there would have been."""
    return [one for one in caplog.records if not one.message.startswith("as before, and not")]
