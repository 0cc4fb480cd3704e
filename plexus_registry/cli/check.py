# SPDX-License-Identifier: AGPL-3.0-only
"""``plexus-registryctl check``: whether each backend answers where it is said to be."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from plexus_registry.backend import Backend
from plexus_registry.cli.completion import complete_names
from plexus_registry.cli.entries import unknown
from plexus_registry.cli.exits import Exit, Failure
from plexus_registry.cli.output import json_option, tell_json, tell_table
from plexus_registry.cli.target import Target, entries
from plexus_registry.client import names
from plexus_registry.client.connection import Connection
from plexus_registry.client.opening import INFO_MAX_BYTES
from plexus_registry.errors import PlexusRegistryError, Unreachable

AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one backend.

    Attributes:
        name: Under which it is entered.
        url: Where it should be.
        reachable: It answered as a Plexus hub.
        latency_ms: Until it had answered, connecting included; None if it did not.
        hub: What it calls itself.
        problem: Why it is not reachable, or that its name is another one; empty for none.
    """

    name: str
    url: str
    reachable: bool
    latency_ms: float | None = None
    hub: str = ""
    problem: str = ""


@click.command()
@click.argument("names", metavar="[NAME...]", nargs=-1, shell_complete=complete_names)
@json_option
@click.pass_obj
def check(target: Target, *, names: tuple[str, ...], as_json: bool) -> None:
    """Ask each backend who it is: all active ones, or those that are named.

    Shows whether it answers, how fast, and whether the hub there calls itself by the name or
    namespace of the entry. Exits with 1 if one does not answer. The token is not sent to backends.
    """

    async def ask(registry: Connection) -> list[Backend]:
        return await entries(registry, active_only=not names)

    known = {one.name: one for one in target.ask(ask)}
    missing = [name for name in names if name not in known]
    if missing:
        raise Failure(Exit.REFUSED, unknown(missing[0]))
    wanted = [known[name] for name in dict.fromkeys(names)] if names else list(known.values())
    with _progress(len(wanted)) as advance:
        found = asyncio.run(ask_all(wanted, target.timeout_s, target.ca_file, advance))
    if as_json:
        tell_json([asdict(one) for one in found])
    else:
        rows = [
            [
                one.name,
                one.url,
                "ok" if one.reachable else "FAILED",
                "-" if one.latency_ms is None else f"{one.latency_ms:.1f} ms",
                one.problem,
            ]
            for one in found
        ]
        tell_table(["NAME", "URL", "ANSWERS", "IN", "REMARK"], rows)
    failed = sum(not one.reachable for one in found)
    if failed:
        raise Failure(Exit.REFUSED, f"{failed} of {len(found)} backends do not answer")


async def ask_all(
    backends: Sequence[Backend],
    timeout_s: float,
    ca_file: Path | None,
    advance: Callable[[], None],
) -> list[Finding]:
    """Ask all side by side, so many at a time; in the order of *backends*."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(backend: Backend) -> Finding:
        async with free:
            await names.room()  # not part of the backend's time
            found = await ask_hub(backend, timeout_s, ca_file)
        advance()
        return found

    return await asyncio.gather(*map(one, backends))


async def ask_hub(backend: Backend, timeout_s: float, ca_file: Path | None) -> Finding:
    """Connect to a backend and ask who it is, all within *timeout_s*."""
    connection = Connection(
        backend.url, timeout_s=timeout_s, ca_file=ca_file, answer_max_bytes=INFO_MAX_BYTES
    )
    clock = asyncio.get_running_loop().time
    began = clock()
    try:
        await connection.open()
        latency_ms = round((clock() - began) * 1000, 3)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(began + timeout_s):
                await connection.close()
    except Unreachable as error:
        problem = str(error).partition(f"{backend.url}: ")[2] or str(error)
        return Finding(backend.name, backend.url, reachable=False, problem=problem)
    except (PlexusRegistryError, ValueError) as error:
        return Finding(backend.name, backend.url, reachable=False, problem=str(error))
    hub = connection.hub
    names = {backend.name, backend.namespace}
    problem = "" if hub in names else f"calls itself {hub}"
    return Finding(backend.name, backend.url, True, latency_ms, hub, problem)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """Show on a terminal how far it is."""
    if not sys.stderr.isatty() or total < 2:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("asking", total=total)
        yield lambda: progress.advance(task)
