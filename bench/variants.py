# SPDX-License-Identifier: AGPL-3.0-only
"""``python -m bench.variants``: what an answer costs on other Pythons and event loops.

The daemon runs on each of several interpreters, which take turns. Processor time is compared, not
rates: other programs on the machine disturb it little.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from bench import report, servers, system, wire
from bench.results import Plan, median, paired, spread
from bench.rows.contender import CONNECTIONS, Contender, enter, register_all, take_turn
from bench.rows.throughput import new_names
from bench.wire import Requests, Same

DAEMON, ON_UVLOOP = "plexus_registry", "bench.on_uvloop"
UVLOOP_MARK: Final = "+uvloop"
LISTED: Final = [f"backend-{number:03d}" for number in range(100)]
READ_LOADS: Final = ((CONNECTIONS, 32), (CONNECTIONS, 1), (1, 1))
WRITE_LOADS: Final = ((CONNECTIONS, 4), (1, 1))


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="python -m bench.variants", description=__doc__)
    made.add_argument(
        "pythons",
        nargs="+",
        metavar=f"PYTHON[{UVLOOP_MARK}]",
        help="an interpreter that has the package; the others are compared with the first",
    )
    made.add_argument("--seconds", type=float, default=1.0, help="length of a round (default: 1)")
    made.add_argument("--rounds", type=int, default=9, help="how many rounds (default: 9)")
    made.add_argument("--folder", type=Path, default=servers.CACHE, help="where databases go")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    asked = parser().parse_args(arguments)
    asked.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=asked.folder.absolute()) as name:
        plan = Plan(folder=Path(name), seconds=asked.seconds, rounds=asked.rounds, is_short=False)
        machine = system.describe(plan.folder, 0.1)
        machine["Python"] = f"{machine['Python']} of the generator"
        machine |= {python: _version(python) for python in asked.pythons}
        system.use_client_core()
        lines = list(_measure(asked.pythons, plan))
    print(report.machine_text(machine), "\n".join(lines), sep="\n\n")
    return 0


def _version(python: str) -> str:
    command = [python.partition(UVLOOP_MARK)[0], "-VV"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _measure(pythons: Sequence[str], plan: Plan) -> Iterator[str]:
    """Return the lines of a table: a row for each kind of load, a column for each variant."""
    get, listing = Same(wire.call("get", name=LISTED[0])), Same(wire.call("list"))
    with contextlib.ExitStack() as stack:
        contenders: dict[str, Contender] = {}
        # By number: the same interpreter twice shows how much is noise.
        for number, python in enumerate(pythons):
            program, mark, _ = python.partition(UVLOOP_MARK)
            command = (program, "-m", ON_UVLOOP if mark else DAEMON)
            server = servers.registry(plan.folder / str(number), program=command)
            child = stack.enter_context(server)
            register_all(child, LISTED)
            contenders[str(number)] = enter(stack, child, is_checked=True)
        yield _line("processor time of an answer", *pythons)
        yield _line(*["---"] * (len(pythons) + 1))
        kinds: Sequence[tuple[str, Sequence[tuple[int, int]], Callable[..., Requests]]] = (
            ("get", READ_LOADS, lambda load: get),
            (f"list of {len(LISTED)}", READ_LOADS, lambda load: listing),
            ("register", WRITE_LOADS, partial(new_names, plan)),
        )
        for what, loads, requests in kinds:
            for one in contenders.values():
                one.tallies.clear()
                one.cpu_s.clear()
            for _ in range(plan.rounds):
                take_turn(plan, contenders, loads, requests)
            for load in loads:
                cells = (_cell(one, contenders["0"], load) for one in contenders.values())
                yield _line(f"{what}, {load[0]} × {load[1]}", *cells)


def _cell(one: Contender, reference: Contender, load: tuple[int, int]) -> str:
    if one.failed(load):
        raise ValueError(f"{one.failed(load)} of {one.answers(load)} answers were refusals")
    costs = one.costs_us(load)
    ratio = paired(costs, reference.costs_us(load))
    return f"{median(costs):.1f} µs {spread(costs)}, {ratio:.2f}×"


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(main())
