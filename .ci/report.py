# SPDX-License-Identifier: AGPL-3.0-only
"""Add up the JUnit reports of several test runs; fail if a skipped test was not allowed to be.

Usage: report.py ALLOWED_SKIPS LABEL=REPORT...
"""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

# The reports come from the runs just before this.
from xml.etree import ElementTree


class Run(NamedTuple):
    """What one run counted."""

    passed: int
    failed: int
    skipped: dict[str, str]


def read_run(report: Path) -> Run:
    """Read one report; the skipped tests come with the reason of each."""
    passed = failed = 0
    skipped = {}
    for case in ElementTree.parse(report).iter("testcase"):
        skip = case.find("skipped")
        if skip is not None:
            skipped[name_of(case)] = reason_of(skip)
        elif case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        else:
            passed += 1
    return Run(passed, failed, skipped)


def reason_of(skip: ElementTree.Element) -> str:
    """Return why a test was skipped, on one line."""
    reason = skip.get("message") or "no reason given"
    if reason == "collection skipped":
        # A module skipped itself; the text is: ('path', line, 'Skipped: reason')
        reason = (skip.text or "").partition("Skipped: ")[2][:-2]
    return " ".join(reason.split())


def name_of(case: ElementTree.Element) -> str:
    """Name a test as pytest does on its command line, classes aside."""
    module = case.get("classname") or case.get("name") or ""
    parts = module.split(".")
    while parts and not Path(*parts).with_suffix(".py").is_file():
        parts.pop()
    if not parts:
        return f"{module}::{case.get('name')}"
    rest = [
        *module.split(".")[len(parts) :],
        *([case.get("name")] if case.get("classname") else []),
    ]
    return "::".join([f"{'/'.join(parts)}.py", *filter(None, rest)])


def main(allowed_file: str, *labelled: str) -> int:
    """Print the skipped tests of each run and the sums; return the exit status."""
    lines = Path(allowed_file).read_text(encoding="utf-8").splitlines()
    allowed = [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]
    passed = failed = skipped = unexpected = 0
    for label, _, report in (item.partition("=") for item in labelled):
        if not Path(report).is_file():
            print(f"{label}: no report, the run broke off")
            failed += 1
            continue
        run = read_run(Path(report))
        passed, failed, skipped = (
            passed + run.passed,
            failed + run.failed,
            skipped + len(run.skipped),
        )
        print(f"{label}: {len(run.skipped)} skipped")
        for name, reason in run.skipped.items():
            is_allowed = any(name == pattern or fnmatchcase(name, pattern) for pattern in allowed)
            unexpected += not is_allowed
            print(f"  {'allowed' if is_allowed else 'NOT ALLOWED'}: {name}: {reason}")
    if unexpected:
        print(f"{unexpected} skipped that {allowed_file} does not list")
    print(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return 1 if failed or unexpected or not passed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
