# SPDX-License-Identifier: AGPL-3.0-only
"""The standard streams, which may be closed or full: no reason for another exit status."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TextIO


def fill_gaps() -> None:
    """Open nowhere for each standard stream that is closed.

    Else the next files get their numbers, and whoever writes to standard error writes there.
    Reading standard input goes on failing.
    """
    if sys.stdin is None:
        os.open(os.devnull, os.O_WRONLY)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def tell_line(line: str) -> None:
    """Print a line to standard error; what cannot be told there cannot be told."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def settled() -> Iterator[None]:
    """Write what standard error still holds back at the end of the block, or give it up."""
    try:
        yield
    finally:
        try:
            sys.stderr.flush()
        except OSError:
            give_up(sys.stderr)


def give_up(stream: TextIO) -> None:
    """Lead *stream* to nowhere.

    Else Python tries once more when it ends, and puts its own status, 120, in place of ours.
    """
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
