# SPDX-License-Identifier: AGPL-3.0-only
"""``plexus-registryctl`` as a user would run it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from support.daemon import BOUND_BY_MODES, PROGRAM, environment, run

INSTALLED = shutil.which("plexus-registryctl", path=str(Path(sys.executable).parent))
MAIN = (
    sys.executable,
    "-c",
    "import sys; from plexus_registry.cli.control import main; sys.exit(main())",
)
SCRIPT = (INSTALLED,) if INSTALLED else MAIN
"""What is installed as ``plexus-registryctl``; where nothing is, what would be in it."""
MAIN_BOUND_BY_MODES = (*BOUND_BY_MODES[: -len(PROGRAM)], *MAIN)

Ended = subprocess.CompletedProcess[str]


def ctl(
    home: Path,
    *arguments: str,
    program: tuple[str, ...] = MAIN,
    text: str = "",
    **variables: str,
) -> Ended:
    """Run the command to its end; *text* is its input."""
    environ = environment_of(home, **variables)
    return run(home, *arguments, program=program, environ=environ, text=text)


def environment_of(home: Path, **variables: str) -> dict[str, str]:
    """Return an environment that names no registry unless *variables* do."""
    environ = environment(home)
    environ.pop("PLEXUS_REGISTRY_URL", None)
    return environ | variables


def done(ended: Ended) -> str:
    """Return the only line of a command that went well."""
    assert (ended.returncode, ended.stderr) == (0, "")
    (line,) = ended.stdout.splitlines()
    return line


def failed(ended: Ended, status: int) -> str:
    """Return the only line of a command that failed, without the program's name."""
    assert (ended.returncode, ended.stdout) == (status, ""), ended.stderr
    (line,) = ended.stderr.splitlines()
    assert line.startswith("plexus-registryctl: ")
    return line.removeprefix("plexus-registryctl: ")
