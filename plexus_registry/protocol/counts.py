# SPDX-License-Identifier: AGPL-3.0-only
"""What was asked and how long answers took, in plain integers, for whoever shows them.

They are kept on the path of every request, so they cost what an addition costs: the clock is read
once for all requests that are answered together.
"""

from __future__ import annotations

from typing import Final

BUCKETS: Final = 64


class Count:
    """Answers of one method.

    Attributes:
        answers: All of them.
        errors: Those that say that the operation failed or was refused.
    """

    __slots__ = ("answers", "errors")

    def __init__(self) -> None:
        self.answers = 0
        self.errors = 0


class Durations:
    """How long answers took.

    Attributes:
        buckets: How many took less than 2 ** index nanoseconds and are in no bucket before.
        total_ns: All together.
    """

    __slots__ = ("buckets", "total_ns")

    def __init__(self) -> None:
        self.buckets = [0] * BUCKETS
        self.total_ns = 0

    def add(self, duration_ns: int, times: int = 1) -> None:
        """Count answers that took so long each."""
        self.buckets[duration_ns.bit_length()] += times
        self.total_ns += duration_ns * times


class Counts:
    """Everything that was asked of a hub.

    Attributes:
        methods: Answers by the names of the methods that there are; no client can add one.
        invalid: Requests that are none, name no method, or have parameters that do not fit.
        faults: Internal errors.
        at_once: Of answers from memory: from the turn in which a request is carried out to the
            write that carries its answer.
        deferred: Of answers that had to wait: for the disk, or for files that are read.
    """

    def __init__(self) -> None:
        self.methods: dict[str, Count] = {}
        self.invalid = Count()
        self.faults = 0
        self.at_once = Durations()
        self.deferred = Durations()

    def of(self, method: str) -> Count:
        """Return the count of a method."""
        return self.methods.setdefault(method, Count())
