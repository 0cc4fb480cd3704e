# SPDX-License-Identifier: AGPL-3.0-only
"""``python -m bench``: measure, print one table, write JSON and a plot."""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from bench import chart, report, servers, system
from bench.results import Plan, Row
from bench.rows import GROUPS


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    made.add_argument("--short", action="store_true", help="only see that everything runs")
    made.add_argument(
        "--only", metavar="ROW,…", default="", help=f"groups of rows: {', '.join(GROUPS)}"
    )
    made.add_argument("--seconds", type=float, help="length of a round (default: 2)")
    made.add_argument("--rounds", type=int, help="how many rounds (default: 5)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    made.add_argument("--svg", type=Path, metavar="FILE", help="write a plot of the ratios there")
    made.add_argument(
        "--folder",
        type=Path,
        default=servers.CACHE,
        help="where databases go; on the disk that is to be measured (default: .cache/bench)",
    )
    made.add_argument(
        "--rust",
        action="store_true",
        help="have cargo build the Rust program, unless PLEXUS_BENCH_RUST names it",
    )
    made.add_argument(
        "--daemon", metavar="OPTIONS", default="", help="more options of our daemon, in one word"
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for.

    Returns:
        1 if a group of rows could not be measured or requests were refused; a bar that is missed
        is a result like any other.
    """
    asked = parser().parse_args(arguments)
    names = asked.only.split(",") if asked.only else list(GROUPS)
    if unknown := [name for name in names if name not in GROUPS]:
        parser().error(f"no such rows: {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    try:
        rust, missing = servers.rust_program(install=asked.rust), ""
    except servers.NotAvailable as reason:
        rust, missing = None, str(reason)
    asked.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=asked.folder.absolute()) as folder:
        plan = Plan(
            folder=Path(folder),
            seconds=asked.seconds or (0.1 if asked.short else 2.0),
            rounds=asked.rounds or (1 if asked.short else 5),
            is_short=asked.short,
            options=tuple(shlex.split(asked.daemon)),
            rust=rust,
            rust_missing=missing,
        )
        machine = system.describe(plan.folder, 0.1 if plan.is_short else 1.0)
        machine["rounds"] = (
            f"{plan.rounds} of {plan.seconds:g} s, taken in turns; median ± range/2,"
            " of latencies median (lowest–highest)"
        )
        if plan.options:
            machine["daemon"] = f"with {asked.daemon}"
        system.use_client_core()
        rows = _measure(names, plan)
    print(report.machine_text(machine), report.table(rows, is_short=plan.is_short), sep="\n\n")
    if asked.json:
        text = report.to_json(machine, rows, is_short=plan.is_short)
        asked.json.write_text(text, "utf-8")
    if asked.svg:
        asked.svg.write_text(chart.chart(machine, rows), "utf-8")
    return int(any(row.has_failed for row in rows))


def _measure(names: Sequence[str], plan: Plan) -> list[Row]:
    rows: list[Row] = []
    for name in names:
        print(f"measuring {name}", file=sys.stderr)
        try:
            for row in GROUPS[name](plan):
                rows.append(row)
        except Exception as error:  # whatever it is, the other rows are worth having
            traceback.print_exc()
            figure = "".join(traceback.format_exception_only(error)).strip()
            what = f"{name}: the rest of these rows"
            rows.append(Row(key=f"{name}.failed", what=what, figure=figure, is_fault=True))
    return rows


if __name__ == "__main__":
    sys.exit(main())
