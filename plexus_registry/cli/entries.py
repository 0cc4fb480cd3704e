# SPDX-License-Identifier: AGPL-3.0-only
"""Verbs of ``plexus-registryctl`` that read and change entries."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import click

from plexus_registry import backend as fields
from plexus_registry.backend import Backend
from plexus_registry.cli.completion import complete_names
from plexus_registry.cli.exits import Exit, Failure
from plexus_registry.cli.output import (
    ago,
    complain,
    json_option,
    moment,
    safe,
    source_option,
    tell,
    tell_json,
    tell_table,
)
from plexus_registry.cli.target import Target, entries, is_unrouted
from plexus_registry.client import results
from plexus_registry.client.connection import Connection
from plexus_registry.client.results import Method
from plexus_registry.errors import BackendNotFound, PlexusRegistryError, Refused, word

F = TypeVar("F", bound=Callable[..., Any])

_NOT_FOUND = "Backend not found: "
"""How the registry says so, also in the event of a ping."""
_WHERE_TO_LOOK = "`list --all` shows all that are"

_name = click.argument("name", shell_complete=complete_names)
_names = click.argument(
    "names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_names
)


def _text_options(command: F) -> F:
    for option in (
        click.option("--namespace", metavar="TEXT", help="The hub's namespace; '' for none."),
        click.option("--description", metavar="TEXT", help="What it is; '' for none."),
    ):
        command = option(command)
    return command


@click.command(name="list")
@click.option("--all", "is_all", is_flag=True, help="Those that are not active, too.")
@source_option
@json_option
@click.pass_obj
def list_(target: Target, *, is_all: bool, source: str | None, as_json: bool) -> None:
    """List the backends.

    Where standard output is no terminal: one line each, with name, URL, source, whether it is
    active, when it was seen last in Unix seconds, and description, separated by tabs.
    """

    async def ask(registry: Connection) -> list[Backend]:
        return await entries(registry, active_only=not is_all)

    found = [one for one in target.ask(ask) if source in (None, one.source.value)]
    if as_json:
        tell_json(found)
        return
    is_person = sys.stdout.isatty()
    rows = [
        [
            one.name,
            one.url,
            one.source.value,
            _state(one),
            ago(one.last_seen) if is_person else str(one.last_seen or "-"),
            one.description or "",
        ]
        for one in found
    ]
    tell_table(["NAME", "URL", "SOURCE", "STATE", "SEEN", "DESCRIPTION"], rows)
    if is_person and not found:
        more = "" if is_all else "; --all shows those that are not active, too"
        click.echo(f"no backends{more}")


@click.command()
@_name
@json_option
@click.pass_obj
def get(target: Target, *, name: str, as_json: bool) -> None:
    """Show all that is known of one backend."""
    found = _known(target, name)
    if as_json:
        tell_json(found)
        return
    shown = {
        "name": found.name,
        "url": found.url,
        "source": found.source.value,
        "state": _state(found),
        "description": found.description,
        "namespace": found.namespace,
        "version": found.version,
        "metadata": found.metadata,
        "seen": ago(found.last_seen),
        "registered": moment(found.registered_at),
        "updated": moment(found.updated_at),
        "id": found.id,
    }
    for label, value in shown.items():
        if value is not None:
            click.echo(f"{label + ':':<13}{safe(value)}")


@click.command()
@_name
@click.pass_obj
def url(target: Target, *, name: str) -> None:
    """Print the URL of one backend, and nothing else.

    For scripts, as in: websocat "$(plexus-registryctl url prod)".
    """
    found = _known(target, name)
    click.echo(safe(found.url))
    if not found.is_active:
        complain(f"{word(name)} is not active: it was deregistered", logging.WARNING)


@click.command()
@click.argument("name")
@click.argument("url", metavar="URL")
@_text_options
@json_option
@click.pass_obj
def register(
    target: Target,
    *,
    name: str,
    url: str,
    description: str | None,
    namespace: str | None,
    as_json: bool,
) -> None:
    """Enter a backend at URL: ws://HOST:PORT or wss://HOST:PORT.

    The same again refreshes it; `update` changes one that is there.
    """
    address = fields.parse_url(url)
    params = {"name": name, **address._asdict()}
    params |= {"description": description, "namespace": namespace}
    found = target.ask(lambda registry: results.REGISTER.ask(registry, params))
    _tell_entry("registered", found, as_json=as_json)


@click.command()
@_name
@click.argument("url", metavar="[URL]", required=False)
@_text_options
@json_option
@click.pass_obj
def update(
    target: Target,
    *,
    name: str,
    url: str | None,
    description: str | None,
    namespace: str | None,
    as_json: bool,
) -> None:
    """Change the URL or the texts of a backend that is there.

    What is not given stays. It counts as registered by hand from then on, and stands above what a
    file declares under its name.
    """
    if url is None and description is None and namespace is None:
        raise click.UsageError("nothing to change: give a URL, --description or --namespace")
    params: dict[str, Any] = {"name": name, "description": description, "namespace": namespace}
    if url is not None:
        params |= fields.parse_url(url)._asdict()
    try:
        found = target.ask(lambda registry: results.UPDATE.ask(registry, params))
    except BackendNotFound as error:
        raise Failure(Exit.REFUSED, f"{error}; {_WHERE_TO_LOOK}") from error
    _tell_entry("updated", found, as_json=as_json)


@click.command()
@_names
@json_option
@click.pass_obj
def delete(target: Target, *, names: tuple[str, ...], as_json: bool) -> None:
    """Forget backends.

    What a file or the environment declares comes back with the next reload.
    """
    _each(target, results.DELETE, names, "deleted", as_json=as_json)


@click.command()
@_names
@json_option
@click.pass_obj
def ping(target: Target, *, names: tuple[str, ...], as_json: bool) -> None:
    """Record that backends are alive. Nobody connects to them; `check` does."""
    _each(target, results.PING, names, "seen now", as_json=as_json)


@click.command()
@_names
@json_option
@click.pass_obj
def deregister(target: Target, *, names: tuple[str, ...], as_json: bool) -> None:
    """Mark backends as not active, as a hub does when it stops.

    Their entries stay, and `list --all` shows them.
    """
    _each(target, results.DEREGISTER, names, "not active", as_json=as_json)


def _state(one: Backend) -> str:
    return "active" if one.is_active else "inactive"


def _known(target: Target, name: str) -> Backend:
    found = target.ask(lambda registry: results.GET.ask(registry, {"name": name}))
    if found is None:
        raise Failure(Exit.REFUSED, unknown(name))
    return found


def unknown(name: str) -> str:
    """Say that there is no such backend, and where to look."""
    return f"there is no backend called {word(name)}; {_WHERE_TO_LOOK}"


def _tell_entry(what: str, found: Backend, *, as_json: bool) -> None:
    if as_json:
        tell_json(found)
    else:
        tell(f"{what}: {found.name} at {found.url}")


def _each(
    target: Target,
    method: Method[str | None],
    names: tuple[str, ...],
    what: str,
    *,
    as_json: bool,
) -> None:
    """Call a method for each name; those that fail do not keep the others from it.

    Each is told when it is done, and how many are left if something ends it; in JSON at the end.
    """
    left = deque(dict.fromkeys(names))
    events: list[dict[str, Any]] = []
    refusals: list[str] = []

    async def work(registry: Connection) -> None:
        while left:
            name = left[0]
            try:
                message = await method.ask(registry, {"name": name})
            except Refused as refusal:
                if is_unrouted(refusal):
                    raise
                message = str(refusal)
            left.popleft()
            events.append({"name": name, "ok": message is None, "message": message})
            if message is not None:
                # The last one is told with how many failed.
                if refusals and not as_json:
                    complain(refusals[-1])
                refusals.append(message)
            elif not as_json:
                tell(f"{what}: {name}")

    try:
        target.ask(work)
    except (PlexusRegistryError, KeyboardInterrupt):
        if events and left:
            _tell_cut(events, list(left), refusals, as_json=as_json)
        raise
    if as_json:
        tell_json(events)
    if refusals:
        more = f" ({len(refusals)} of {len(events)} failed)" if len(events) > 1 else ""
        is_unknown = any(one.startswith(_NOT_FOUND) for one in refusals)
        where = f"; {_WHERE_TO_LOOK}" if is_unknown else ""
        raise Failure(Exit.REFUSED, f"{refusals[-1]}{more}{where}")


def _tell_cut(
    events: list[dict[str, Any]], left: list[str], refusals: list[str], *, as_json: bool
) -> None:
    """Tell what was not told before something ended it, and what is left."""
    if as_json:
        messages = ["perhaps done", *["not done"] * (len(left) - 1)]
        rest = [
            {"name": name, "ok": None, "message": message}
            for name, message in zip(left, messages, strict=True)
        ]
        tell_json(events + rest)
        return
    for refusal in refusals[-1:]:
        complain(refusal)
    tell(f"{len(left)} left, the first of them perhaps done")
