# SPDX-License-Identifier: AGPL-3.0-only
"""The statements C1 to C68 of the wire protocol's checklist, and what became of their tests."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

STATEMENTS = range(1, 69)

_CLOSED = "the library behind the sockets cannot keep a connection that broke the limit"
HOLDS_IN_PART = {
    12: f"the limit is 1 MiB unless it is raised, and a larger message ends in close code 1009: "
    f"{_CLOSED}",
    17: "shown without waiting for 120 s: no timer runs and no ping is sent",
    19: "there is no JSON-RPC over HTTP POST: POST is answered with a clean 405",
    20: "the limit is 10,000 connections unless it is set; shown with a small one",
}
"""Statements that do not hold word for word, with what is right instead."""

_NAME = re.compile(r"test_c(\d\d)_")
_FAILURES = ("failed", "error", "skipped", "xfailed", "xpassed")


def statement_of(test: str) -> int | None:
    """Return the number that a test's name carries, None if it carries none."""
    match = _NAME.match(test.rpartition("::")[2])
    return int(match[1]) if match else None


def find_tests(folder: Path) -> dict[int, list[str]]:
    """Find the tests of each statement in the files of *folder*."""
    found: dict[int, list[str]] = {}
    for path in sorted(folder.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.FunctionDef):
                statement = statement_of(node.name)
                if statement is not None:
                    found.setdefault(statement, []).append(node.name)
    return found


class Outcomes:
    """How the tests of each statement ended."""

    def __init__(self) -> None:
        self._counts: dict[int, Counter[str]] = {number: Counter() for number in STATEMENTS}

    def add(self, outcome: str, tests: Iterable[str]) -> None:
        """Count tests, given by their node ids, that ended with *outcome*."""
        for test in tests:
            statement = statement_of(test)
            if statement in self._counts:
                self._counts[statement][outcome] += 1

    def holds(self, number: int) -> bool:
        """Tell whether a statement was tested and all its tests passed."""
        counts = self._counts[number]
        return bool(counts["passed"]) and not self.fails(number)

    def fails(self, number: int) -> bool:
        """Tell whether a statement has a test that did not pass."""
        return any(self._counts[number][outcome] for outcome in _FAILURES)

    def line(self, number: int) -> str:
        """Say in one line how a statement stands."""
        counts = self._counts[number]
        if not counts:
            return f"C{number} was not run"
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        if not self.holds(number):
            return f"C{number} DOES NOT HOLD ({told})"
        if number in HOLDS_IN_PART:
            return f"C{number} holds in part ({told}): {HOLDS_IN_PART[number]}"
        return f"C{number} holds ({told})"
