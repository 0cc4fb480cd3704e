# SPDX-License-Identifier: AGPL-3.0-only
"""``python -m bench.soak``: mixed load on one registry; status 1 if it grows or errs."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from bench import report, servers, system
from bench.soak import plot, samples
from bench.soak.load import MixedLoad
from bench.soak.samples import Sample

SAMPLES: Final = 200
"""How many are taken, evenly over the time."""
REST_TIMEOUT_S: Final = 30.0
"""How long descriptors may take to be closed once all clients have gone."""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    made.add_argument("--seconds", type=float, default=600.0, help="how long (default: 600)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    made.add_argument("--svg", type=Path, metavar="FILE", help="write a plot over time there")
    made.add_argument(
        "--folder",
        type=Path,
        default=servers.CACHE,
        help="where the database goes (default: .cache/bench)",
    )
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Load, watch, judge."""
    asked = parser().parse_args(arguments)
    asked.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="soak-", dir=asked.folder.absolute()) as name:
        folder = Path(name)
        machine = system.describe(folder, 0.1)
        system.use_client_core()
        config = folder / "config" / "backends.toml"
        config.parent.mkdir()
        with servers.registry(folder, config=config) as child:
            at_rest = system.descriptors(child.pid)
            load = MixedLoad(child.port, config)
            taken = _watch(child, load, folder / "registry.db", asked.seconds)
            load.finish()
            left = _descriptors_at_rest(child.pid, at_rest)
        faults = [*load.faults, *_logged_faults(child.log)]
    grown = samples.growth(taken)
    if left > at_rest:
        grown.append(f"descriptors without clients grew from {at_rest} to {left}")
    print(report.machine_text(machine), samples.table(taken), sep="\n\n", end="\n\n")
    print(_summary(load, faults, at_rest, left))
    for line in (*faults, *grown):
        print(line, file=sys.stderr)
    if asked.json:
        document = {
            "machine": machine,
            "steps": load.steps,
            "answers": load.answers,
            "faults": faults,
            "growth": grown,
            "samples": [asdict(one) for one in taken],
        }
        asked.json.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    if asked.svg:
        asked.svg.write_text(plot.plot(machine, taken), "utf-8")
    return 1 if faults or grown else 0


def _watch(child: servers.Child, load: MixedLoad, database: Path, seconds: float) -> list[Sample]:
    """Take steps until the time is over and each kind was taken, and samples in between."""
    start = time.monotonic()
    taken: list[Sample] = []
    for _ in load.run():
        at_s = time.monotonic() - start
        if at_s >= seconds * len(taken) / SAMPLES:
            answers = load.answers.total()
            taken.append(samples.take(child.pid, database, at_s=at_s, answers=answers))
        if at_s >= seconds and load.kinds <= load.steps.keys():
            break
    return taken


def _descriptors_at_rest(pid: int, expected: int) -> int:
    deadline = time.monotonic() + REST_TIMEOUT_S
    while (count := system.descriptors(pid)) > expected and time.monotonic() < deadline:
        time.sleep(0.05)
    return count


def _logged_faults(log: Path) -> list[str]:
    """Return what the registry says about faults of its own."""
    with log.open(encoding="utf-8") as lines:
        return [f"logged: {line.strip()}" for line in lines if "Traceback" in line]


def _summary(load: MixedLoad, faults: Sequence[str], at_rest: int, left: int) -> str:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in load.steps.most_common())
    return (
        f"{load.answers.total():,} answers, {len(faults)} faults; descriptors without clients:"
        f" {at_rest} before, {left} after\nsteps: {kinds}"
    )


if __name__ == "__main__":
    sys.exit(main())
