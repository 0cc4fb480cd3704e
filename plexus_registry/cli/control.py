# SPDX-License-Identifier: AGPL-3.0-only
"""``plexus-registryctl``: asks a running registry to do something."""

from __future__ import annotations

import contextlib
import io
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import click

from plexus_registry import __version__
from plexus_registry.cli import check, commandline, doctor, entries, state, streams, transfer
from plexus_registry.cli.exits import Exit, Failure, status_of
from plexus_registry.cli.home import home
from plexus_registry.cli.output import PROGRAM, complain, tell
from plexus_registry.cli.target import Target
from plexus_registry.cli.tokens import token
from plexus_registry.client import address
from plexus_registry.client.address import TOKEN_VARIABLE
from plexus_registry.client.connection import DEFAULT_TIMEOUT_S
from plexus_registry.client.results import NotUnderstood
from plexus_registry.config import places, sources
from plexus_registry.errors import PlexusRegistryError, Unreachable

# Whether it can be read is found out by reading, which is no fault of the command line.
_FILE = click.Path(path_type=Path, readable=False)

EXAMPLES = """\
Examples:
  plexus-registryctl register prod wss://plexus.example.com:4444
  plexus-registryctl list --all
  plexus-registryctl check
  websocat "$(plexus-registryctl url prod)"
  plexus-registryctl export >backends.toml
  plexus-registryctl --url wss://registry.example.com:4445 --token-file laptop.token ping prod

Exit status:
  0 done, 1 refused or not found, 64 wrong command line, 65 no sound database, 69 no registry
  answers, 73 the file exists, 74 cannot be read or written, 78 faults in settings or in a file to
  read; Ctrl-C ends it by that signal, for a shell 130
"""


class _Seconds(click.FloatRange):
    """A time that comes to an end."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value} is no number of seconds", param, ctx)
        return found


class _Group(click.Group):
    """The commands, under headings, in the order in which somebody needs them."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.sections: dict[str, list[click.Command]] = {}

    def add_section(self, heading: str, *commands: click.Command) -> None:
        """Add commands under a heading."""
        self.sections[heading] = list(commands)
        for one in commands:
            commandline.take_text_only(one)
            self.add_command(one)

    def invoke(self, ctx: click.Context) -> Any:
        """Carry out a verb; name whoever looks for the cause if no registry answers."""
        try:
            return super().invoke(ctx)
        except NotUnderstood:  # somebody does
            raise
        except Unreachable as error:
            target = ctx.find_object(Target) or Target(None, DEFAULT_TIMEOUT_S)
            message = f"{error}; {target.doctor} looks for the cause"
            raise Failure(status_of(error), message) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands of each section."""
        for heading, commands in self.sections.items():
            with formatter.section(heading):
                rows = [(one.name or "", one.get_short_help_str(60)) for one in commands]
                formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are."""
        formatter.write_paragraph()
        formatter.write(EXAMPLES)
        formatter.write(f"\nplexus-registryctl COMMAND --help tells more, {PROGRAM}(1) all.\n")


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGUMENT]...",
)
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
    type=_Seconds(min=0, min_open=True),
    default=DEFAULT_TIMEOUT_S,
    show_default=True,
    help="How long to wait for the registry, or for a backend.",
)
@click.option(
    "--wait",
    "wait_s",
    metavar="SECONDS",
    type=_Seconds(min=0),
    default=0.0,
    help="Try so long until the registry answers, as after a boot.  [default: once]",
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
    help="With wss://: the authorities that certificates may come from, in PEM. If not given:"
    " $SSL_CERT_FILE, else those of the system.",
)
@click.pass_context
def command(
    context: click.Context,
    *,
    url: str | None,
    timeout_s: float,
    wait_s: float,
    token_file: Path | None,
    ca_file: Path | None,
) -> None:
    """Look into a Plexus registry and change it.

    The registry knows under which name which backend is where. What is changed here counts as
    registered by hand and stands above what files declare.
    """
    context.obj = Target(url, timeout_s, wait_s, token_file, ca_file)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
        raise click.UsageError("a command is missing")


@click.command()
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
    # Not the end at once, which would leave half a copy.
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup(1) means it
            signal.signal(number, _interrupt)
    is_complete = copy(database, file)
    tell(f"{file}: copy of {database}, checked{'' if is_complete else ', NOT COMPLETE'}")
    if not is_complete:
        complain(f"{database}-wal is missing or empty, changes that were in it are lost")


command.add_section("Backends", entries.list_, entries.get, entries.url, check.check)
command.add_section(
    "Changes",
    entries.register,
    entries.update,
    entries.delete,
    entries.ping,
    entries.deregister,
    transfer.export,
    transfer.import_,
)
command.add_section("Registry", state.status, state.reload_, backup, token, doctor.doctor)


_ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class _Interrupted(BaseException):
    """A signal came that ends the program. Click does not know it, and prints nothing about it."""


def _interrupt(number: int, frame: object) -> None:
    """End what is being done by an exception, and let no further signal into its cleaning up."""
    for one in _ENDING:
        signal.signal(one, _pass_over)
    raise _Interrupted(number)


def _pass_over(number: int, frame: object) -> None:
    """Do nothing. SIG_IGN would have Python complain of signals that are on their way."""


def _end_by_signal(interrupt: BaseException) -> int:
    """End by the signal that interrupted: the shell's script that runs this ends by Ctrl-C, too."""
    number = next(iter(interrupt.args), signal.SIGINT)
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    return Exit.SOFTWARE  # somebody blocks it


def main() -> int:
    """Run the program and return its exit status."""
    streams.fill_gaps()
    with streams.settled():
        return _main()


def _main() -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a path may hold any bytes
    try:
        command.main(prog_name=PROGRAM, standalone_mode=False)
    except PlexusRegistryError as error:
        complain(str(error))
        return status_of(error)
    except click.UsageError as error:
        complain(commandline.told(error, sys.argv[1:]))
        return Exit.USAGE
    except (click.Abort, KeyboardInterrupt, _Interrupted) as error:
        return _end_by_signal(error.__cause__ or error)
    except SystemExit:
        pass  # click's: whoever reads has read enough
    except OSError as error:
        place = error.filename or "standard output"
        complain(f"{place}: {error.strerror}")
    else:
        return Exit.OK
    streams.give_up(sys.stdout)
    return Exit.IO
