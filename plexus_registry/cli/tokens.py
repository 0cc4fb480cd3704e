# SPDX-License-Identifier: AGPL-3.0-only
"""``plexus-registryctl token``: makes, lists and takes back access tokens.

It works on the file, not through the registry, which follows the file while it runs.
"""

from __future__ import annotations

import grp
import os
from pathlib import Path

import click

from plexus_registry.cli import streams
from plexus_registry.cli.home import home
from plexus_registry.config import places, sources, tokens

_SYSTEM_GROUP = "plexus-registry"
_SAME_GROUP = -1

_file = click.option(
    "--tokens",
    "file",
    metavar="FILE",
    type=click.Path(path_type=Path, readable=False),
    help="The file of tokens. If not given: the one of the system's registry where it can be"
    " written (`plexus-registry --system --print-config` shows which), else the one that"
    " `plexus-registry --print-config` shows.",
)


@click.group(no_args_is_help=False)
def token() -> None:
    """Make, list and take back tokens, with which others may write.

    The registry follows the file: a change counts within a second, for open connections too.
    """


@token.command()
@click.argument("name", required=False, default="")
@_file
def new(name: str, file: Path | None) -> None:
    """Make a token called NAME and print it, this one time.

    Only its hash is kept. Without a NAME it gets one that is free.
    """
    path, group = _file_and_group(file)
    name, made = tokens.add(path, name, group=group)
    try:
        click.echo(made)
    except OSError:  # a token that nobody has been told
        tokens.revoke(path, name)
        raise
    streams.tell_line(
        f"{name}: added to {path}. Keep the token, it is not shown again. Clients send\n"
        "it as Authorization: Bearer TOKEN or as the cookie access_token; plexus-registryctl\n"
        "takes it from $PLEXUS_REGISTRY_TOKEN or --token-file."
    )


@token.command(name="list")
@_file
def list_(file: Path | None) -> None:
    """Print the names of the tokens."""
    for name in tokens.read(_file_and_group(file)[0]):
        click.echo(name)


@token.command()
@click.argument("name")
@_file
def revoke(name: str, file: Path | None) -> None:
    """Take the token called NAME back.

    Faults elsewhere in the file are no obstacle, but have to be mended: until then the registry
    goes on with what the file held before, this token included.
    """
    path, _ = _file_and_group(file)
    faults = tokens.revoke(path, name)
    click.echo(f"{name}: removed from {path}")
    for fault in faults:
        streams.tell_line(f"warning: {fault}")
    if faults:
        text = "warning: a registry that runs keeps the former tokens until this is mended"
        streams.tell_line(text)


def _file_and_group(named: Path | None) -> tuple[Path, int]:
    """Return the file, and the group that has to read it: the system's registry is not root."""
    if named is not None:
        return named, _SAME_GROUP
    is_system = os.access(places.SYSTEM["CONFIGURATION_DIRECTORY"], os.W_OK)
    environ = places.of_system(os.environ) if is_system else os.environ
    found = sources.resolve({}, environ, home()).settings.token_file
    assert found is not None, "it has a default"
    if not is_system or os.geteuid() != 0:
        return found, _SAME_GROUP
    try:
        return found, grp.getgrnam(_SYSTEM_GROUP).gr_gid
    except KeyError:  # there is no system's registry, or not from a package
        return found, _SAME_GROUP
