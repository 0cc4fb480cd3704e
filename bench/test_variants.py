# SPDX-License-Identifier: AGPL-3.0-only
"""The comparison of interpreters: it runs and compares with the first. Never a time.

Not one of the tests that run by themselves: `make test ARGS=bench/test_variants.py`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from bench.servers import ROOT
from support.timing import SCALE


def test_every_load_is_measured_on_every_interpreter(tmp_path: Path) -> None:
    """Each row has a cost for each interpreter; the first is compared with itself."""
    arguments = ["--rounds", "1", "--seconds", "0.02", "--folder", str(tmp_path / "work")]
    done = subprocess.run(
        [sys.executable, "-m", "bench.variants", sys.executable, sys.executable, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=55 * SCALE,
        check=True,
    )
    lines = re.findall(
        r"^\| (get|list of 100|register), \d+ × \d+ (.*)$", done.stdout, re.MULTILINE
    )
    assert [what for what, _ in lines] == ["get"] * 3 + ["list of 100"] * 3 + ["register"] * 2
    cost = r"\| \d+\.\d µs ±0%, "
    assert all(re.match(rf"{cost}1\.00× {cost}\d+\.\d\d× \|", cells) for _, cells in lines)
    assert list((tmp_path / "work").iterdir()) == []
