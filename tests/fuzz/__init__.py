# SPDX-License-Identifier: AGPL-3.0-only
"""Fuzzing: whatever comes from outside, what must always hold is checked.

Each module that `TARGETS` names has a function ``one_input(data: bytes)``: it makes input of the
bytes, gives it to the program, and raises if anything is not as it must be. ``corpus/TARGET`` has
seeds and what was found; `test_replay` runs them as tests, without the fuzzer, on every Python.
``make fuzz`` looks for more with atheris.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from pathlib import Path

TARGETS = ("declared", "frames", "handshake", "jsonrpc", "listen", "settings")
CORPUS = Path(__file__).parent / "corpus"

OneInput = Callable[[bytes], None]


def load(target: str) -> OneInput:
    """Import a target. What the registry logs as an error while it runs fails the input."""
    one_input: OneInput = importlib.import_module(f"{__name__}.{target}").one_input

    def watched(data: bytes) -> None:
        errors: list[logging.LogRecord] = []
        handler = _Collector(errors)
        logger = logging.getLogger("plexus_registry")
        logger.addHandler(handler)
        try:
            one_input(data)
        finally:
            logger.removeHandler(handler)
        assert not errors, [record.getMessage() for record in errors]

    return watched


class _Collector(logging.Handler):
    """Takes what is an error, except that a reload met a file with faults."""

    def __init__(self, errors: list[logging.LogRecord]) -> None:
        super().__init__(logging.ERROR)
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        self._errors.append(record)
