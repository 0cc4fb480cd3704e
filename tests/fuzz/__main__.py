# SPDX-License-Identifier: AGPL-3.0-only
"""Look for new inputs with atheris: ``make fuzz ARGS='frames --seconds 60'``."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from pathlib import Path

from fuzz import CORPUS, TARGETS, load

INPUT_TIMEOUT_S = 30
MAX_BYTES = 4096


def main() -> None:
    """Run one target; does not return. An input that fails is kept, and its name is printed."""
    parser = argparse.ArgumentParser("python -m fuzz", description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--runs", type=int, default=-1, help="how many inputs (default: no limit)")
    parser.add_argument("--seconds", type=int, default=0, help="how long (default: no limit)")
    parser.add_argument("--seed", type=int, default=1, help="of the random numbers (default: 1)")
    parser.add_argument(
        "--found",
        type=Path,
        default=Path(".fuzz"),
        help="folder for what is found (default: .fuzz): inputs that reach code that no other"
        " does, and crash-* files, which belong into the corpus once their cause is mended",
    )
    options = parser.parse_args()
    # The order of sets decides what is reached.
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "fuzz", *sys.argv[1:]])
    try:
        import atheris
    except ImportError:
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        sys.exit(f"atheris is not installed; is there a wheel of it for Python {version}?")
    logging.getLogger().addHandler(logging.NullHandler())
    with atheris.instrument_imports(include=["plexus_registry", "websockets", "tomllib"]):
        importlib.import_module(f"fuzz.{options.target}")
    found = options.found / options.target
    found.mkdir(parents=True, exist_ok=True)
    arguments = {
        "runs": options.runs,
        "max_total_time": options.seconds,
        "seed": options.seed,
        "max_len": MAX_BYTES,
        "timeout": INPUT_TIMEOUT_S,
        "artifact_prefix": f"{found}/",
    }
    flags = [f"-{name}={value}" for name, value in arguments.items()]
    atheris.Setup(
        [sys.argv[0], *flags, str(found), str(CORPUS / options.target)], load(options.target)
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
