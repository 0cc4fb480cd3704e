# SPDX-License-Identifier: AGPL-3.0-only
"""The benchmark in its short form: it runs and counts answers. Never a time.

Not one of the tests that run by themselves: `make test ARGS=bench/test_short.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from bench.results import Row
from support.timing import SCALE

ROOT = Path(__file__).parent.parent

GROUPS = {
    "get",
    "list",
    "register",
    "writes",
    "commits",
    "growth",
    "idle",
    "reload",
    "start",
    "fairness",
}
# What needs another program that not every machine has.
MAY_BE_MISSING = ("get.rust.", "list.rust.", "register.rust.", "commits.slow")


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmark with files in *folder*, without the Rust program."""
    environ = {name: value for name, value in os.environ.items() if name != "PLEXUS_BENCH_RUST"}
    return subprocess.run(
        [sys.executable, "-m", "bench", "--folder", str(folder / "work"), *arguments],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=55 * SCALE,
        check=False,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one short run gave: its output, its JSON, and where the files are."""
    folder = tmp_path_factory.mktemp("bench")
    json_file, svg_file = folder / "results.json", folder / "results.svg"
    done = run(folder, "--short", "--json", str(json_file), "--svg", str(svg_file))
    assert done.returncode == 0, done.stderr
    return {
        "output": done.stdout,
        "svg": ElementTree.fromstring(svg_file.read_text("utf-8")),
        "left": list((folder / "work").iterdir()),
        **json.loads(json_file.read_text("utf-8")),
    }


def test_short_form_counts_answers_in_every_row(results: dict[str, Any]) -> None:
    """Each row rests on answers that were counted, or says which program it lacks."""
    silent = {row["key"]: row["figure"] for row in results["rows"] if not row["answers"]}
    assert all(key.startswith(MAY_BE_MISSING) for key in silent), silent
    assert all(silent.values())


def test_short_form_measures_every_group(results: dict[str, Any]) -> None:
    """No group of rows is left out, and no two rows have the same key."""
    keys = [row["key"] for row in results["rows"]]
    assert {key.partition(".")[0] for key in keys} == GROUPS
    assert len(set(keys)) == len(keys)


def test_no_row_failed(results: dict[str, Any]) -> None:
    """Every group ended, and no request of the benchmark was refused."""
    failed = {row["key"]: row["figure"] for row in results["rows"] if row["verdict"] == "FAILED"}
    assert failed == {}


def test_answers_to_one_read_leave_in_one_write(results: dict[str, Any]) -> None:
    """The one figure that is no time: segments for each batch of requests."""
    (row,) = (row for row in results["rows"] if row["key"] == "writes.get")
    assert row["samples"]["segments"][0] == pytest.approx(1, abs=0.2)


def test_table_has_a_line_for_every_row(results: dict[str, Any]) -> None:
    """What people read holds what the JSON holds, and the machine's description."""
    for row in results["rows"]:
        assert row["what"] in results["output"]
    assert results["machine"]["processor"] in results["output"]


def test_plot_has_a_bar_for_every_row_with_a_bar(results: dict[str, Any]) -> None:
    """The plot is sound XML and shows what was compared."""
    svg = "{http://www.w3.org/2000/svg}"
    background, *bars = results["svg"].findall(f"{svg}rect")
    assert background.get("width")
    assert len(bars) == sum(row["margin"] is not None for row in results["rows"])


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Run some groups on registries that are soon full; return their rows by key."""
    folder = tmp_path_factory.mktemp("full")
    json_file = folder / "results.json"
    groups, options = "writes,register,growth,fairness", "--max-entries 50"
    done = run(folder, "--short", "--only", groups, "--daemon", options, "--json", str(json_file))
    assert done.returncode == 1, done.stderr
    results = json.loads(json_file.read_text("utf-8"))
    assert results["machine"]["daemon"] == f"with {options}"
    return {row["key"]: row for row in results["rows"]}


def test_refusals_are_no_throughput(full: dict[str, dict[str, Any]]) -> None:
    """A row whose requests were refused has failed, and says how many they were."""
    for key in ("register.ours.16x4", "register.processor"):
        assert full[key]["verdict"] == "FAILED"
        assert 0 < full[key]["refused"] <= full[key]["answers"]


def test_group_that_fails_costs_no_other_rows(full: dict[str, dict[str, Any]]) -> None:
    """A row says why, and the groups before and after it are there."""
    assert full["growth.failed"]["verdict"] == "FAILED"
    assert "requests register were refused" in full["growth.failed"]["figure"]
    assert full["writes.get"]["refused"] == full["fairness.get"]["refused"] == 0


@pytest.mark.parametrize(
    ("margins", "verdict"),
    [
        ([1.0, 1.2, 3.0], "ok"),
        ([0.9, 1.1, 1.1, 1.1, 1.1], "ok, 4 of 5"),
        ([0.8, 0.9, 0.9, 0.9, 7.0], "MISSED, 4 of 5"),
        ([0.8, 0.9, 1.1, 1.1, 1.1], "too noisy"),
        ([0.8, 0.9, 0.9, 1.1, 1.1], "too noisy"),
        ([0.9], "MISSED"),
    ],
)
def test_rounds_must_be_of_one_mind(margins: list[float], verdict: str) -> None:
    """One round in four may speak against the others; with more, the row proves nothing."""
    assert Row(key="a.b", what="", figure="", bar="1", margins=margins).verdict == verdict


def test_nothing_is_left_behind(results: dict[str, Any]) -> None:
    """Databases and logs go when the run is over."""
    assert results["left"] == []


def test_unknown_rows_are_refused(tmp_path: Path) -> None:
    """A wrong name says which there are."""
    done = run(tmp_path, "--only", "everything")
    assert done.returncode == 2
    assert "no such rows: everything; there are get, list" in done.stderr
