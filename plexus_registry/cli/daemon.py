# SPDX-License-Identifier: AGPL-3.0-only
"""``plexus-registry``: the daemon's command line."""

from __future__ import annotations

import argparse
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from plexus_registry import __version__
from plexus_registry.backend import DEFAULT_LIMITS
from plexus_registry.cli import streams
from plexus_registry.cli.exits import MEANINGS, Exit, status_of
from plexus_registry.cli.home import home as home_directory
from plexus_registry.config import (
    declared,
    files,
    places,
    settings,
    settings_toml,
    sources,
    tokens,
    values,
)
from plexus_registry.errors import ConfigError, Fault, PlexusRegistryError
from plexus_registry.messages import CONFIG_REFUSED, fields
from plexus_registry.service import log

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

    from plexus_registry.service import detach

logger = logging.getLogger(__name__)

PROGRAM = "plexus-registry"
_USAGE = """%(prog)s [SETTING ...] [--daemonize [--pid-file FILE]]
       %(prog)s --print-config | --check-config | --write-default-config
                       [--system] [SETTING ...]
       %(prog)s --install-user-units [--force]
       %(prog)s --help | --version"""
_LOOKING = ("print_config", "check_config", "write_default_config")


class _Parser(argparse.ArgumentParser):
    def print_help(self, file: SupportsWrite[str] | None = None) -> None:
        """Print the help; a failure is not passed over, as argparse does before Python 3.14."""
        print(self.format_help(), end="", file=file)

    def error(self, message: str) -> NoReturn:
        """Refuse the command line in one line, with the status of sysexits.h."""
        self.exit(Exit.USAGE, f"{PROGRAM}: {message}; see {PROGRAM} --help\n")


def parser() -> argparse.ArgumentParser:
    """Build the parser: what to do (nothing given: serve), and an option for each setting."""
    statuses = "\n".join(f"  {status.value:2}  {text}" for status, text in MEANINGS.items())
    parser = _Parser(
        prog=PROGRAM,
        usage=_USAGE,
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
    actions.add_argument(
        "--install-user-units",
        action="store_true",
        help="write units with which your systemd runs these programs, where pipx or pip put them",
    )
    actions.add_argument(
        "--daemonize",
        action="store_true",
        help="detach from the terminal and log to syslog, for an init other than systemd",
    )
    parser.add_argument(
        "--system",
        action="store_true",
        help="with --print-config, --check-config or --write-default-config: look at what the"
        f" system's service would use, in {' and '.join(places.SYSTEM.values())}",
    )
    parser.add_argument(
        "--pid-file", metavar="FILE", help="with --daemonize: keep the process ID there"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="with --install-user-units: replace units that somebody changed",
    )
    settings.add_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program and return its exit status."""
    streams.fill_gaps()
    with streams.settled():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold any bytes
    try:
        try:
            return _run(_parse(arguments))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        pass  # whoever reads has read enough
    except OSError as error:
        _report([f"standard output: {error.strerror}"])
    streams.give_up(sys.stdout)
    return Exit.IO


def _run(options: Mapping[str, object]) -> Exit:
    """Do what the options ask for."""
    home = home_directory()
    environ = places.of_system(os.environ) if options["system"] else os.environ
    try:
        if options["check_config"]:
            return _check(options, environ, home)
        if options["write_default_config"]:
            return _write_defaults(options, environ, home)
        if options["install_user_units"]:
            return _install_units(places.user_units(environ, home), force=bool(options["force"]))
        if options["print_config"]:
            print(settings_toml.render(sources.resolve(options, environ, home)), end="")
            return Exit.OK
        # Not the end of a daemon that does not mind signals yet.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        load = partial(_load, options, home)
        if options["daemonize"]:
            return _daemonize(load, options["pid_file"])
        log.configure(os.environ)
        return _serve(load)
    except ConfigError as error:
        _report(error.faults)
        return status_of(error)
    except PlexusRegistryError as error:
        _report([error])
        return status_of(error)
    except OSError as error:
        if error.filename is not None:
            _report([f"{error.filename}: {error.strerror}"])
            return Exit.IO
        if not isinstance(error, FileNotFoundError):
            raise
        # os.getcwd()
        _report(["the working directory is gone: change to another, or give absolute paths"])
        return Exit.USAGE
    except KeyboardInterrupt:  # before the daemon minds signals, or after
        return Exit.OK


def _parse(arguments: Sequence[str] | None) -> dict[str, object]:
    wanted = parser()
    options = vars(wanted.parse_args(arguments))
    if options["pid_file"] and not options["daemonize"]:
        wanted.error("--pid-file goes with --daemonize")
    if options["force"] and not options["install_user_units"]:
        wanted.error("--force goes with --install-user-units")
    names = ("settings", *(setting.name for setting in settings.SETTINGS))
    if options["install_user_units"] and any(options[name] is not None for name in names):
        wanted.error("--install-user-units takes no settings: registry.toml is the place for them")
    if options["system"] and not any(options[action] for action in _LOOKING):
        wanted.error(
            "--system goes with --check-config, --print-config or --write-default-config;"
            " systemctl start plexus-registry starts the service"
        )
    return options


def _load(options: Mapping[str, object], home: Path) -> settings.Settings:
    loaded = sources.resolve(options, os.environ, home).settings
    log.set_level(loaded.log_level)
    return loaded


def _serve(
    load: Callable[[], settings.Settings], on_ready: Callable[[], None] = lambda: None
) -> Exit:
    try:
        # Imported late: what the other options do needs neither sockets nor SQLite.
        from plexus_registry.service import daemon

        daemon.run(load, os.environ, on_ready=on_ready)
    except PlexusRegistryError:
        raise
    except Exception:  # the last one to know of a fault of ours
        logger.critical("internal error", exc_info=True)
        return Exit.SOFTWARE
    return Exit.OK


def _daemonize(load: Callable[[], settings.Settings], pid_file: object) -> Exit:
    """Serve in a detached process; return its status when it is ready or cannot be."""
    from plexus_registry.service import detach, systemd

    if systemd.is_started_by_systemd(os.environ):
        _report(["--daemonize is not for systemd, which wants its daemons in the foreground"])
        return Exit.USAGE
    # Faults are told here, while there is a terminal; relative paths are meant for this directory.
    loaded = load()
    held = detach.PidFile(Path.cwd() / str(pid_file)) if pid_file else None
    status, text = detach.detached(held, partial(_serve_detached, lambda: loaded))
    if text:
        streams.tell_line(text)
    return Exit(status)


def _serve_detached(load: Callable[[], settings.Settings], report: detach.Report) -> Exit:
    try:
        warning = log.configure_syslog()
        return _serve(load, on_ready=partial(report.send, Exit.OK, warning))
    except PlexusRegistryError as error:
        faults = error.faults if isinstance(error, ConfigError) else [error]
        report.send(status_of(error), "\n".join(f"{PROGRAM}: {fault}" for fault in faults))
        return status_of(error)


def _check(options: Mapping[str, object], environ: Mapping[str, str], home: Path) -> Exit:
    """Print every fault of settings, declared backends and access tokens."""
    faults: list[Fault] = []
    resolved = None
    try:
        resolved = sources.resolve(options, environ, home)
    except ConfigError as error:
        faults += error.faults
    else:
        try:
            _check_certificate(resolved.settings)
        except ConfigError as error:
            faults += error.faults
        print(
            f"settings are sound: {resolved.file if resolved.file_exists else 'no settings file'}"
        )
    path = sources.config_path(options, environ, home)
    if path is not None:
        try:
            limits = resolved.settings.text_limits if resolved else DEFAULT_LIMITS
            found = declared.read_declared(path, limits)
        except ConfigError as error:
            faults += error.faults
        else:
            read = ", ".join(map(str, found.files))
            what = f"{len(found.backends)} in {read}" if read else f"none, {path} does not exist"
            print(f"declared backends are sound: {what}")
            faults += _check_count(resolved.settings if resolved else None, found.backends)
    faults += _check_tokens(resolved.settings.token_file if resolved else None)
    _report(faults)
    return status_of(ConfigError(faults)) if faults else Exit.OK


def _check_count(found: settings.Settings | None, in_files: Iterable[str]) -> list[Fault]:
    """Compare how many are declared with how many there may be."""
    if found is None:
        return []
    count = len({*in_files, *(declaration.name for declaration in found.backends)})
    if count <= found.max_entries:
        return []
    message = f"{count} backends are declared, and it allows {found.max_entries}: raise it"
    return [Fault("max_entries", 0, message)]


def _check_tokens(path: Path | None) -> list[Fault]:
    try:
        found = tokens.read(path) if path else {}
    except ConfigError as error:
        return error.faults
    if found:
        print(f"access tokens are sound: {len(found)} in {path}")
    return []


def _check_certificate(found: settings.Settings) -> None:
    from plexus_registry.config import certificate
    from plexus_registry.service.certificates import CertificateReader

    CertificateReader(found.tls_certificate, found.tls_key).read(explicit=True)
    if found.tls_certificate is not None:
        print(f"certificate and key are sound: {found.tls_certificate}")
        key = found.tls_key or found.tls_certificate
        mode = certificate.public_mode(key)
        if mode:
            print(f"but every user of this machine can read the key: {key} (mode {mode:04o})")


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


def _install_units(directory: Path, *, force: bool) -> Exit:
    """Write the user's units, and print what to type next."""
    from plexus_registry.cli import units

    try:
        found = units.install(directory, sys.argv[0], force=force)
    except ConfigError as error:
        _report(error.faults)
        return Exit.CANNOT_CREATE
    for path, what in found.items():
        print(f"{path}: {what}")
    print("next:", *units.NEXT, sep="\n    ")
    return Exit.OK


def _report(faults: Sequence[object]) -> None:
    """Tell each fault in one line, to a person or to the journal."""
    if log.leads_to_journal(os.environ):
        log.configure(os.environ)
        for fault in faults:
            extra = fields(CONFIG_REFUSED) if isinstance(fault, Fault) else {}
            logger.critical("start refused: %s", fault, extra=extra)
        return
    for fault in faults:
        streams.tell_line(f"{PROGRAM}: {fault}")
