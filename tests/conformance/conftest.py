# SPDX-License-Identifier: AGPL-3.0-only
"""The summary of the checklist: one line for each statement, from how its tests really ended."""

from __future__ import annotations

import pytest

from support.checklist import HOLDS_IN_PART, STATEMENTS, Outcomes


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Tell how the statements stand: all with ``-rA``, ``-v`` or ``-s``, else those that fail."""
    outcomes = Outcomes()
    for outcome, reports in terminalreporter.stats.items():
        if outcome in ("passed", "failed", "error", "skipped", "xfailed", "xpassed"):
            outcomes.add(outcome, [report.nodeid.partition("[")[0] for report in reports])
    is_detailed = (
        bool({"A", "P", "p"} & set(config.option.reportchars))
        or config.option.verbose > 0
        or config.option.capture == "no"
    )
    terminalreporter.section("wire protocol, C1 to C68")
    for number in STATEMENTS:
        if is_detailed or outcomes.fails(number):
            terminalreporter.write_line(outcomes.line(number))
    holding = [number for number in STATEMENTS if outcomes.holds(number)]
    in_part = [number for number in holding if number in HOLDS_IN_PART]
    failing = [number for number in STATEMENTS if outcomes.fails(number)]
    terminalreporter.write_line(
        f"of {len(STATEMENTS)} statements {len(holding)} hold, {len(in_part)} of them in part;"
        f" {len(failing)} fail; {len(STATEMENTS) - len(holding) - len(failing)} were not run"
    )
