# SPDX-License-Identifier: AGPL-3.0-only
"""``plexus-registryctl``: asks a running registry to do something."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from plexus_registry import __version__
from plexus_registry.cli.exits import Exit, status_of
from plexus_registry.cli.home import home
from plexus_registry.cli.tokens import token
from plexus_registry.client import address
from plexus_registry.client.connection import DEFAULT_TIMEOUT_S, Connection
from plexus_registry.config import files, places, sources
from plexus_registry.errors import ConfigError, Fault, PlexusRegistryError
from plexus_registry.service import log

PROGRAM = "plexus-registryctl"
TOKEN_VARIABLE = "PLEXUS_REGISTRY_TOKEN"  # noqa: S105

# Whether it can be read is found out by reading, which is no fault of the command line.
_FILE = click.Path(path_type=Path, readable=False)


@dataclass(frozen=True, slots=True)
class _Target:
    """The registry that is asked."""

    url: str | None
    timeout_s: float
    token_file: Path | None
    ca_file: Path | None

    def ask(self, work: Callable[[Connection], Coroutine[Any, Any, dict[str, Any]]]) -> Any:
        """Connect, do *work*, and return its event."""

        async def run() -> dict[str, Any]:
            url = address.find(os.environ) if self.url is None else address.check_url(self.url)
            token = self._token()
            async with Connection(
                url, timeout_s=self.timeout_s, token=token, ca_file=self.ca_file
            ) as registry:
                return await work(registry)

        return asyncio.run(run())

    def _token(self) -> str:
        """Return the token to send, empty for none."""
        if self.token_file is None:
            return os.environ.get(TOKEN_VARIABLE, "").strip()
        content = files.read(self.token_file)
        if content is None:
            raise ConfigError([Fault(str(self.token_file), 0, "there is no such file")])
        text = content.decode(errors="replace").strip()
        if not text or not text.isascii() or not text.isprintable() or " " in text:
            message = "holds no token, expected the one line that `token new` printed"
            raise ConfigError([Fault(str(self.token_file), 0, message)])
        return text


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, invoke_without_command=True)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
@click.option(
    "--url",
    metavar="URL",
    help=f"The registry to talk to: {address.ACCEPTED}. If not given: ${address.URL_VARIABLE},"
    " else the Unix socket of the user's or the system's registry, else"
    f" {address.DEFAULT_URL}.",
)
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=DEFAULT_TIMEOUT_S,
    show_default=True,
    help="How long to wait for the registry.",
)
@click.option(
    "--token-file",
    metavar="FILE",
    type=_FILE,
    help="A file with the token to send, where the registry asks for one. If not given:"
    f" ${TOKEN_VARIABLE}, else none.",
)
@click.option(
    "--ca-file",
    metavar="FILE",
    type=_FILE,
    help="With wss://: the authorities that the registry's certificate may come from, in PEM. If"
    " not given: $SSL_CERT_FILE, else those of the system.",
)
@click.pass_context
def command(
    context: click.Context,
    url: str | None,
    timeout_s: float,
    token_file: Path | None,
    ca_file: Path | None,
) -> None:
    """Control a running Plexus registry."""
    context.obj = _Target(url, timeout_s, token_file, ca_file)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        raise click.UsageError("a command is missing")


@command.command(name="reload")
@click.pass_obj
def reload_(target: _Target) -> None:
    """Read the declared backends again and wait until they are applied.

    Fails, and changes nothing, if a file has a fault.
    """
    event = target.ask(lambda registry: registry.call("registry.reload"))
    # The Rust program tells the first only.
    words = {"count": "added"} | {word: word for word in ("updated", "removed", "unchanged")}
    told = [f"{event[key]} {word}" for key, word in words.items() if key in event]
    _tell(f"reloaded: {', '.join(told)}")


@command.command()
@click.argument("file", type=_FILE)
@click.option(
    "--database",
    metavar="FILE",
    type=_FILE,
    help="The database to copy. If not given: the one of the system's registry, if it is"
    " installed (`plexus-registry --system --print-config` shows which), else the one that"
    " `plexus-registry --print-config` shows.",
)
def backup(file: Path, database: Path | None) -> None:
    """Copy the registry's database, running or not, into the new FILE.

    The copy is consistent, complete up to the last acknowledged change, and checked. To restore
    it, stop the registry, put the copy in the place of the database, remove the database's -wal
    and -shm files, and start the registry.
    """
    # Imported late: the other commands need no SQLite.
    from plexus_registry.store.backup import backup as copy

    if database is None:
        is_system = os.access(places.SYSTEM["STATE_DIRECTORY"], os.X_OK)
        environ = places.of_system(os.environ) if is_system else os.environ
        database = sources.resolve({}, environ, home()).settings.database
    copy(database, file)
    _tell(f"{file}: copy of {database}, checked")


def _tell(text: str) -> None:
    click.echo(log.priority_prefix(logging.INFO, sys.stdout, os.environ) + text)


def _complain(text: str) -> None:
    prefix = log.priority_prefix(logging.ERROR, sys.stderr, os.environ)
    print(f"{prefix}{PROGRAM}: {text}", file=sys.stderr)


command.add_command(token)


def main() -> int:
    """Run the program and return its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a path may hold any bytes
    try:
        command.main(prog_name=PROGRAM, standalone_mode=False)
    except PlexusRegistryError as error:
        _complain(str(error))
        return status_of(error)
    except click.UsageError as error:
        problem = error.format_message().removesuffix(".")
        _complain(f"{problem}; see {PROGRAM} --help")
        return Exit.USAGE
    except (click.Abort, KeyboardInterrupt):
        return Exit.SOFTWARE
    except SystemExit:
        pass  # click's: whoever reads has read enough
    except OSError as error:
        place = error.filename or "standard output"
        _complain(f"{place}: {error.strerror}")
    else:
        return Exit.OK
    if sys.stdout is not None:
        # What is still held back would fail again, and be told, when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.IO
