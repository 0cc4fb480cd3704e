# SPDX-License-Identifier: AGPL-3.0-only
"""What `pip install` of the wheel fetches, for the Python of a machine, which has no network."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from system.packages import ROOT

# These come as source only; pure Python, so that a wheel made here is good for any.
_SOURCE_ONLY = ("pyinotify", "sdnotify")
# pipx renews it for the environments that it makes.
_OF_PIPX = ("pip",)
# pip judges markers by the Python that it runs under, and not by the one it is asked for.
_NEWER_PYTHON = ("pyasyncore",)
_PLATFORMS = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")


def fetch(wheel: Path, python: str, folder: Path) -> None:
    """Put a wheel and those of all it needs into a folder, at the versions of constraints.txt.

    Args:
        python: Version of the Python that they are for, as in ``3.13``.

    Raises:
        subprocess.CalledProcessError: If pip fails.
    """
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    constraints = ["--constraint", str(ROOT / "constraints.txt")]
    made = ["wheel", "--no-deps", "--wheel-dir", str(folder), *constraints, *_SOURCE_ONLY]
    machines = [f"--platform={name}_{platform.machine()}" for name in _PLATFORMS]
    download = [
        *("download", "--dest", str(folder), "--find-links", str(folder), *constraints),
        *("--only-binary=:all:", f"--python-version={python}", *machines),
        *(str(wheel), *_NEWER_PYTHON, *_OF_PIPX),
    ]
    environ = os.environ | {"PIP_BUILD_CONSTRAINT": str(ROOT / "constraints.txt")}
    for command in (made, download):
        subprocess.run([*pip, *command], env=environ, check=True)
