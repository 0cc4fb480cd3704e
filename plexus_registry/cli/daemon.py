# SPDX-License-Identifier: AGPL-3.0-only
"""``plexus-registry``: the daemon's command line."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from plexus_registry import __version__
from plexus_registry.cli.exits import MEANINGS, Exit, status_of
from plexus_registry.config import declared, files, settings, settings_toml, sources, values
from plexus_registry.errors import ConfigError, Fault, PlexusRegistryError
from plexus_registry.service import log

logger = logging.getLogger(__name__)

PROGRAM = "plexus-registry"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Refuse the command line in one line, with the status of sysexits.h."""
        self.exit(Exit.USAGE, f"{PROGRAM}: {message}; see {PROGRAM} --help\n")


def parser() -> argparse.ArgumentParser:
    """Build the parser: what to do (nothing given: serve), and an option for each setting."""
    statuses = "\n".join(f"  {status.value:2}  {text}" for status, text in MEANINGS.items())
    parser = _Parser(
        prog=PROGRAM,
        description="Serve the Plexus backend registry in the foreground.",
        epilog=f"exit status:\n{statuses}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    actions = parser.add_mutually_exclusive_group()
    actions.add_argument(
        "--print-config", action="store_true", help="print every setting and where it comes from"
    )
    actions.add_argument(
        "--check-config",
        action="store_true",
        help="validate all settings and declared backends, print every fault",
    )
    actions.add_argument(
        "--write-default-config",
        action="store_true",
        help="write commented files to start from, where there are none yet",
    )
    settings.add_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold any bytes
    try:
        try:
            return _run(vars(parser().parse_args(arguments)))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        pass  # whoever reads has read enough
    except OSError as error:
        _report([f"standard output: {error.strerror}"])
    if sys.stdout is not None:
        # What is still held back would fail again, and be told, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.IO


def _run(options: Mapping[str, object]) -> Exit:
    """Do what the options ask for."""
    home = _home()
    try:
        if options["check_config"]:
            return _check(options, os.environ, home)
        if options["write_default_config"]:
            return _write_defaults(options, os.environ, home)
        resolved = sources.resolve(options, os.environ, home)
        if options["print_config"]:
            print(settings_toml.render(resolved), end="")
            return Exit.OK
        return _serve(resolved.settings)
    except ConfigError as error:
        _report(error.faults)
        return status_of(error)
    except PlexusRegistryError as error:
        _report([error])
        return status_of(error)
    except FileNotFoundError:  # os.getcwd(): files themselves are looked after
        _report(["the working directory is gone: change to another, or give absolute paths"])
        return Exit.USAGE
    except KeyboardInterrupt:  # before the daemon minds signals, or after
        return Exit.OK


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # neither $HOME nor a line in passwd(5), as users of containers are
        return Path("/")


def _serve(wanted: settings.Settings) -> Exit:
    log.configure(wanted.log_level, os.environ)
    try:
        # Imported late: what the other options do needs neither sockets nor SQLite.
        from plexus_registry.service import daemon

        daemon.run(wanted)
    except PlexusRegistryError:
        raise
    except Exception:  # the last one to know of a fault of ours
        logger.critical("internal error", exc_info=True)
        return Exit.SOFTWARE
    return Exit.OK


def _check(options: Mapping[str, object], environ: Mapping[str, str], home: Path) -> Exit:
    """Print every fault of settings and declared backends."""
    faults: list[Fault] = []
    try:
        resolved = sources.resolve(options, environ, home)
    except ConfigError as error:
        faults += error.faults
    else:
        print(
            f"settings are sound: {resolved.file if resolved.file_exists else 'no settings file'}"
        )
    path = sources.config_path(options, environ, home)
    if path is not None:
        try:
            found = declared.read_declared(path)
        except ConfigError as error:
            faults += error.faults
        else:
            read = ", ".join(map(str, found.files))
            what = f"{len(found.backends)} in {read}" if read else f"none, {path} does not exist"
            print(f"declared backends are sound: {what}")
    _report(faults)
    return Exit.CONFIG if faults else Exit.OK


def _write_defaults(options: Mapping[str, object], environ: Mapping[str, str], home: Path) -> Exit:
    """Write the start files; one that is there already is left alone, and a failure."""
    named = options["settings"] or environ.get(settings.FILE_VARIABLE)
    place = (
        values.path("settings", named, values.Context(home, Path(), is_text=True))
        if named
        else None
    )
    if place is not None and not os.path.lexists(place):
        options = {**options, "settings": os.devnull}  # what is to be written sets nothing yet
    resolved = sources.resolve(options, environ, home)
    status = Exit.OK
    for path, text in (
        (resolved.settings.config, declared.example()),
        (place or resolved.file, settings_toml.example()),
    ):
        try:
            files.write_new(path, text)
        except ConfigError as error:
            _report(error.faults)
            status = Exit.CANNOT_CREATE
        else:
            print(f"{path}: written")
    return status


def _report(faults: Sequence[object]) -> None:
    """Print one line for each fault; the journal takes it for what it is."""
    is_journal = sys.stderr is not None and log.is_journal_stream(os.environ, sys.stderr.fileno())
    for fault in faults:
        print(f"{'<3>' if is_journal else ''}{PROGRAM}: {fault}", file=sys.stderr)
