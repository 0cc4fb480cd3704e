# SPDX-License-Identifier: AGPL-3.0-only
"""What holds for every test of the server: no client, however broken, makes it log an error."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_error_is_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test during which an error was logged, by us or by the event loop."""
    caplog.set_level(logging.INFO)
    yield
    errors = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
    assert not errors, caplog.text
