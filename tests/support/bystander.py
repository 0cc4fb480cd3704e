# SPDX-License-Identifier: AGPL-3.0-only
"""A well-behaved client in a process of its own, which asks a few hundred times a second.

As a program it tells, for each line on standard input, when it asked since the line before and how
long each answer took, as JSON. It ends with a fault if an answer is missing or not as it should be.
"""

from __future__ import annotations

import json
import select
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from support.rawsocket import raw_websocket, text_frame
from support.timing import TIMEOUT_S

INTERVAL_S = 0.003
PER_CENT = 99


class Sample(NamedTuple):
    """One question: when it was asked (CLOCK_MONOTONIC), and how long the answer took."""

    asked_at: float
    took_s: float


class Bystander:
    """The process.

    Args:
        port: Of the registry.
        source: The client's own address.
        ca_file: With TLS: the authority that the registry's certificate is from.
    """

    def __init__(self, port: int, *, source: str, ca_file: Path | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.bystander", str(port), source, str(ca_file or "")],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def samples(self) -> list[Sample]:
        """Return what it saw since this was asked before; it must have got every answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the well-behaved client did not get its answers"
        return [Sample(*pair) for pair in json.loads(line)]

    def stop(self) -> None:
        """End it."""
        self._process.communicate("", TIMEOUT_S)
        assert self._process.returncode == 0


def p99_ms(samples: list[Sample]) -> float:
    """Return the time in which 99 of 100 answers came."""
    times = sorted(sample.took_s for sample in samples)
    return round(times[len(times) * PER_CENT // 100] * 1000, 2)


def main(port: int, source: str, ca_file: str) -> None:
    """Ask until standard input ends."""
    tls = ssl.create_default_context(cafile=ca_file) if ca_file else None
    request = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "registry-hub.call",
        "params": {"method": "registry.get", "params": {"name": "bystander"}},
    }
    samples: list[Sample] = []
    with raw_websocket(port, source=source, tls=tls) as raw:
        while True:
            asked_at = time.monotonic()
            raw.send(text_frame(request))
            response, data, done = (raw.read_frame().json for _ in range(3))
            samples.append(Sample(asked_at, time.monotonic() - asked_at))
            assert response["id"] == 1
            assert data["params"]["result"]["content"]["type"] == "backend"
            assert done["params"]["result"]["type"] == "done"
            if select.select([sys.stdin], [], [], INTERVAL_S)[0]:
                if not sys.stdin.readline():
                    return
                print(json.dumps(samples), flush=True)
                samples.clear()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
