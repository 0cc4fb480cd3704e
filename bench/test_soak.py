# SPDX-License-Identifier: AGPL-3.0-only
"""The soak: it does everything it says, and tells growth from noise. Never a time.

Not one of the tests that run by themselves: `make test ARGS=bench/test_soak.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.servers import ROOT
from bench.soak import samples
from bench.soak.samples import Sample
from support.timing import SCALE

ANSWERLESS = {"leave_unfinished", "read_slowly", "replace", "reset", "save", "wait_to_be_cut"}
"""Steps that need not get an answer: clients that leave or wait, and files."""


def steady(count: int = 100) -> list[Sample]:
    """Samples of a registry that does not grow."""
    values = {measure.key: 40.0 for measure in samples.MEASURES}
    return [Sample(at_s=at, answers=at * 10, values=dict(values)) for at in range(count)]


def test_short_soak_takes_every_step_and_finds_no_fault(tmp_path: Path) -> None:
    """Each kind of step is taken and answered as it should be; all clients' files are closed."""
    json_file, svg_file = tmp_path / "soak.json", tmp_path / "soak.svg"
    command = ["--seconds", "2", "--json", str(json_file), "--svg", str(svg_file)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.soak", "--folder", str(tmp_path / "work"), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=55 * SCALE,
        check=False,
    )
    result = json.loads(json_file.read_text("utf-8"))
    assert result["faults"] == [], done.stderr
    assert not [line for line in result["growth"] if "without clients" in line]
    assert all(result["steps"].values())
    silent = {kind for kind in result["steps"] if not result["answers"].get(kind)}
    assert silent <= ANSWERLESS
    assert "trend/min" in done.stdout
    assert ElementTree.fromstring(svg_file.read_text("utf-8")).findall("{*}polyline")
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("key", ["rss", "descriptors", "threads", "database", "wal"])
def test_steady_growth_is_found(key: str) -> None:
    """What grows all the time is named; what stays is not."""
    grown = steady()
    for one in grown:
        one.values[key] += one.at_s / 5
    (title,) = (measure.title for measure in samples.MEASURES if measure.key == key)
    assert [line.partition(" grew")[0] for line in samples.growth(grown)] == [title]
    assert samples.growth(steady()) == []


def test_growth_of_the_warm_up_does_not_count() -> None:
    """A first quarter that rises to what stays is no leak, and no trend either."""
    warmed_up = steady()
    for one in warmed_up[:20]:
        one.values["rss"] = one.at_s
    assert samples.growth(warmed_up) == []
    rss = samples.MEASURES[0]
    assert samples.trend_per_min(rss, warmed_up) == pytest.approx(0)


def test_single_peaks_are_noise() -> None:
    """One sample in four may be anything: medians are compared."""
    noisy = steady()
    for one in noisy[::4]:
        one.values["descriptors"] *= 10
    assert samples.growth(noisy) == []
