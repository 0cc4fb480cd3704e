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


def test_every_answer_was_what_was_asked_for(results: dict[str, Any]) -> None:
    """No registration of the benchmark was refused."""
    figures = [row["figure"] for row in results["rows"] if "refused" in row["figure"]]
    assert figures
    assert all("; 0 refused" in figure or "; refused 0 of" in figure for figure in figures)


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


def test_nothing_is_left_behind(results: dict[str, Any]) -> None:
    """Databases and logs go when the run is over."""
    assert results["left"] == []


def test_unknown_rows_are_refused(tmp_path: Path) -> None:
    """A wrong name says which there are."""
    done = run(tmp_path, "--only", "everything")
    assert done.returncode == 2
    assert "no such rows: everything; there are get, list" in done.stderr
