# SPDX-License-Identifier: AGPL-3.0-only
"""Verbs of ``plexus-registryctl`` about the registry itself: how it is, and reading files again."""

from __future__ import annotations

from typing import Any

import click
from msgspec.structs import asdict

from plexus_registry.cli.output import (
    ago,
    bytes_in_words,
    json_option,
    safe,
    seconds_in_words,
    tell,
    tell_json,
)
from plexus_registry.cli.target import Target, entries
from plexus_registry.client import results
from plexus_registry.client.connection import Connection
from plexus_registry.errors import Refused


@click.command()
@json_option
@click.pass_obj
def status(target: Target, *, as_json: bool) -> None:
    """Show how the registry is doing.

    Version, uptime, entries by source, the last reload, the database, connections.
    """
    found = target.ask(ask_status)
    if as_json:
        tell_json(found)
        return
    for label, value in _lines(found):
        click.echo(f"{label + ':':<13}{safe(value)}")


async def ask_status(registry: Connection) -> dict[str, Any]:
    """Ask for the status, with ``url`` and ``hub`` added.

    The Rust program of the same name has no such method: of it there are only the entries.
    """
    known = {"url": registry.url, "hub": registry.hub}
    try:
        event = await registry.call(results.STATUS.name)
        results.STATUS.read(registry.url, event)
    except Refused as refusal:
        if "Method not found" not in str(refusal):
            raise
        found = await entries(registry, active_only=False)
        active = sum(one.is_active for one in found)
        counts = {"total": len(found), "active": active, "inactive": len(found) - active}
        return {**known, "entries": counts}
    return known | {key: value for key, value in event.items() if key != "type"}


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    entries = found["entries"]
    by_source = entries.get("by_source", {})
    sources = [f"{count} {source}" for source, count in by_source.items() if count]
    lines = [
        ("registry", f"{found['hub']} at {found['url']}"),
        ("version", found.get("version") or "unknown: a registry of another make"),
    ]
    if "uptime_s" in found:
        lines.append(("running", f"for {seconds_in_words(found['uptime_s'])}"))
    told = f"{entries['active']} active, {entries['inactive']} inactive"
    lines.append(("backends", f"{told}{' (' + ', '.join(sources) + ')' if sources else ''}"))
    if "reload" in found:
        lines.append(("last reload", _reload(found["reload"])))
    if "store" in found:
        lines.append(("database", _store(found["store"])))
    if "connections" in found:
        open_, most = found["connections"]["open"], found["connections"]["max"]
        lines.append(("connections", f"{open_} of at most {most}"))
    return lines


def _reload(reload: dict[str, Any] | None) -> str:
    if reload is None:
        return "none since the start"
    when = ago(reload["at"])
    if not reload["ok"]:
        return f"FAILED {when}: {reload['message']}"
    words = ("added", "updated", "removed", "unchanged")
    return f"{when}: {', '.join(f'{reload[word]} {word}' for word in words if word in reload)}"


def _store(store: dict[str, Any]) -> str:
    size = bytes_in_words(store["bytes"])
    return f"{size}, sound" if store["ok"] else f"{size}, CANNOT WRITE: {store['last_failure']}"


@click.command(name="reload")
@json_option
@click.pass_obj
def reload_(target: Target, *, as_json: bool) -> None:
    """Read the declared backends again and wait until they are applied.

    Fails, and changes nothing, if a file has a fault.
    """
    found = asdict(target.ask(results.RELOAD.ask))
    # The Rust program tells the first only.
    told = {word: count for word, count in found.items() if count is not None}
    if as_json:
        tell_json(told)
    else:
        tell(f"reloaded: {', '.join(f'{count} {word}' for word, count in told.items())}")
