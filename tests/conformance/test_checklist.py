# SPDX-License-Identifier: AGPL-3.0-only
"""The checklist is whole: every statement has a test, and none is left out in silence."""

from __future__ import annotations

import ast
from pathlib import Path

from support.checklist import HOLDS_IN_PART, STATEMENTS, Outcomes, find_tests

FOLDER = Path(__file__).parent


def test_every_statement_has_a_test() -> None:
    """C1 to C68 each have at least one test that carries the number, and there is no C69."""
    assert sorted(find_tests(FOLDER)) == list(STATEMENTS)


def test_statements_that_hold_in_part_say_why() -> None:
    """Each statement that is not met word for word is one of the list and has a reason."""
    assert set(HOLDS_IN_PART) <= set(STATEMENTS)
    assert all(len(reason) > 20 for reason in HOLDS_IN_PART.values())


def test_no_conformance_test_is_skipped_or_expected_to_fail() -> None:
    """No test here is marked or ends itself in a way that would hide a statement."""
    hidden = [
        f"{path.name}:{node.lineno}"
        for path in FOLDER.glob("test_*.py")
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Attribute)
        if node.attr in ("skip", "skipif", "xfail", "importorskip")
    ]
    assert hidden == []


def test_a_statement_holds_only_if_all_its_tests_passed() -> None:
    """The summary counts a statement as met if its tests ran and every one of them passed."""
    outcomes = Outcomes()
    outcomes.add("passed", ["a.py::test_c01_x", "a.py::test_c02_x", "a.py::test_c12_x"])
    outcomes.add("failed", ["a.py::test_c02_y"])
    outcomes.add("skipped", ["a.py::test_c03_x"])
    outcomes.add("passed", ["a.py::test_other"])
    assert outcomes.line(1) == "C1 holds (1 passed)"
    assert outcomes.line(2) == "C2 DOES NOT HOLD (1 failed, 1 passed)"
    assert outcomes.line(3) == "C3 DOES NOT HOLD (1 skipped)"
    assert outcomes.line(4) == "C4 was not run"
    assert outcomes.line(12).startswith("C12 holds in part (1 passed): the limit")
    assert [number for number in STATEMENTS if outcomes.holds(number)] == [1, 12]
    assert [number for number in STATEMENTS if outcomes.fails(number)] == [2, 3]
