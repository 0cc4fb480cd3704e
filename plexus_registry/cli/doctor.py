# SPDX-License-Identifier: AGPL-3.0-only
"""``plexus-registryctl doctor``: what usually is in the way, and what to do about it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from plexus_registry.cli import manager, silence
from plexus_registry.cli.exits import Exit, Failure
from plexus_registry.cli.findings import Finding, note, ok, problem
from plexus_registry.cli.home import home
from plexus_registry.cli.output import json_option, safe, tell_json
from plexus_registry.cli.state import ask_status
from plexus_registry.cli.target import NoRegistry, Target
from plexus_registry.client import address
from plexus_registry.client.connection import Connection
from plexus_registry.client.opening import INFO_MAX_BYTES
from plexus_registry.client.results import NotUnderstood
from plexus_registry.config import certificate, declared, places, sources, tokens
from plexus_registry.config.settings import Settings
from plexus_registry.errors import (
    ConfigError,
    InvalidValue,
    PlexusRegistryError,
    Refused,
    Unreachable,
)

ACCOUNT = "plexus-registry"
"""The user that the system's service runs as."""
SYNAPSE_URL = "ws://127.0.0.1:4444"
"""Where Synapse looks for a registry unless told otherwise."""
PROBE_TIMEOUT_S = 2.0
NEARLY_FULL = 0.9
SETTLED_S = 5.0
"""How long a file may be changed before the registry has to have noticed."""


@click.command()
@json_option
@click.pass_obj
def doctor(target: Target, as_json: bool) -> None:
    """Look for what is in the way, and say what to do.

    Whether the registry answers and who else might be on its port; units; settings, declared
    backends, tokens and certificates; owners of files; changes that it has not taken; Synapse's
    default port. Exits with 1 if there is a problem.
    """
    found = list(examine(target))
    if as_json:
        tell_json([asdict(one) for one in found])
    else:
        for one in found:
            remedy = f"; {one.remedy}" if one.remedy else ""
            click.echo(safe(f"{one.level + ':':<9}{one.text}{remedy}"))
    problems = sum(one.level == "problem" for one in found)
    if problems:
        told = "1 problem" if problems == 1 else f"{problems} problems"
        raise Failure(Exit.REFUSED, f"{told} found")


def examine(target: Target) -> Iterator[Finding]:
    """Look at everything, one thing after another."""
    status, findings = _registry(target)
    yield from findings
    if not _is_own(target.find()):
        yield note(f"files and units are not looked at, for {target.find()} was asked for by name")
        if status is not None:
            yield from _state(status)
        return
    yield from manager.units()
    # Those of the service, for whoever may look into its folders.
    is_system = os.access(places.SYSTEM["STATE_DIRECTORY"], os.X_OK)
    environ = places.of_system(os.environ) if is_system else os.environ
    settings = None
    try:
        resolved = sources.resolve({}, environ, home())
    except ConfigError as error:
        yield from _faults(error, is_system)
    else:
        settings = resolved.settings
        yield ok("settings are sound")
        yield from _files(settings, is_system)
        if is_system:
            yield from _unreadable(settings, places.settings_file(environ, home()))
        yield from _database(settings.database)
    if status is not None:
        yield from _state(status)
        if settings is not None:
            yield from _staleness(status, settings, environ)
        yield from _synapse(status)


def _is_own(url: str) -> bool:
    """Tell whether a registry is on this machine, and would be found without --url."""
    wanted, found = (each.rstrip("/") for each in (url, address.find(os.environ)))
    return wanted == found and silence.is_here(wanted)


# --- the registry ---------------------------------------------------------------------------------


def _registry(target: Target) -> tuple[dict[str, Any] | None, list[Finding]]:
    """Ask the registry for its status; else find out who is there in its place."""
    url = target.find()
    try:
        status = target.ask(ask_status)
    except NotUnderstood as error:
        remedy = "if it is of a later version than this program, update this; else see its log"
        return None, [problem(str(error), remedy)]
    except Unreachable as error:
        return None, [silence.explain(error)]
    except NoRegistry as error:
        remedy = "stop that hub, give one of them another port, or name the registry by --url"
        return None, [problem(f"at {url} answers {error.hub}, which is no registry", remedy)]
    except Refused as error:
        words = str(error).removesuffix(".")
        return None, [problem(f"{url} refuses: {words}", _how_to_be_let_in(target))]
    except (InvalidValue, ConfigError) as error:  # of the token or the authorities
        return None, [problem(str(error), "nothing was asked; mend that, or do without")]
    found = [ok(f"{status['hub']} {status.get('version', '')} answers at {status['url']}")]
    if "version" not in status:
        found.append(note(f"at {url} is a registry of another make, which tells less about itself"))
    return status, found


def _how_to_be_let_in(target: Target) -> str:
    if not target.token():
        return "the registry's log says who was refused, and why"
    place = target.token_file or f"${address.TOKEN_VARIABLE}"
    return f"if it is for the token, which is from {place}: put another there, or none"


def _hub_at(url: str) -> str:
    """Return what the hub at *url* calls itself; empty if there is none."""

    async def ask() -> str:
        async with Connection(
            url, timeout_s=PROBE_TIMEOUT_S, answer_max_bytes=INFO_MAX_BYTES
        ) as connection:
            return connection.hub

    try:
        return asyncio.run(ask())
    except PlexusRegistryError:
        return ""


def _state(status: dict[str, Any]) -> Iterator[Finding]:
    """Look at what the registry says about itself."""
    reload, store = status.get("reload"), status.get("store", {"ok": True})
    if reload is not None and not reload["ok"]:
        remedy = "mend the file; the backends of before count"
        yield problem(f"the last reload failed: {reload['message']}", remedy)
    if not store["ok"]:
        remedy = "see to the disk; it writes again by itself, and reading works"
        yield problem(f"changes cannot be written: {store['last_failure']}", remedy)
    connections = status.get("connections", {"open": 0, "max": 1})
    if connections["open"] >= NEARLY_FULL * connections["max"]:
        text = f"{connections['open']} of {connections['max']} connections are taken"
        yield problem(text, "raise max_connections, or find who opens so many")


def _synapse(status: dict[str, Any]) -> Iterator[Finding]:
    hub = _hub_at(SYNAPSE_URL)
    if hub == status["hub"]:
        yield ok("Synapse finds a registry on its default port 4444")
        return
    there = f"has {hub}, a hub" if hub else "has nothing"
    port = _port_of(status["url"])
    yield note(
        f"port 4444, where Synapse looks by default, {there}",
        f"call it as synapse -P {port or 'PORT, with the port of the registry'}",
    )


def _port_of(url: str) -> int | None:
    """Return the TCP port of the registry at *url*; None if only a Unix socket is known."""
    if not url.startswith(address.UNIX_PREFIX):
        return silence.port_of(url)
    return manager.port(of_user=not url.startswith(f"{address.UNIX_PREFIX}/run/plexus-registry/"))


# --- files ----------------------------------------------------------------------------------------


def _faults(error: ConfigError, is_system: bool) -> Iterator[Finding]:
    check = f"plexus-registry {'--system ' if is_system else ''}--check-config shows all faults"
    for fault in error.faults:
        yield problem(str(fault), f"mend it; {check}")


def _files(settings: Settings, is_system: bool) -> Iterator[Finding]:
    """Read what the registry reads."""
    try:
        found = declared.read_declared(settings.config, settings.text_limits)
    except ConfigError as error:
        yield from _faults(error, is_system)
    else:
        yield ok(f"{len(found.backends)} declared backends in {len(found.files)} files are sound")
    if settings.token_file is not None:
        try:
            count = len(tokens.read(settings.token_file))
        except ConfigError as error:
            yield from _faults(error, is_system)
        else:
            yield ok(f"{count} tokens in {settings.token_file}")
    if settings.tls_certificate is not None:
        try:
            certificate.load(settings.tls_certificate, settings.tls_key)
        except ConfigError as error:
            yield from _faults(error, is_system)
        else:
            yield ok(f"{settings.tls_certificate} is valid")


def _unreadable(settings: Settings, settings_file: Path) -> Iterator[Finding]:
    """Look whether the service's user can read what root can: it starts, and fails at a reload."""
    try:
        account = pwd.getpwnam(ACCOUNT)
    except KeyError:
        return
    groups = set(os.getgrouplist(ACCOUNT, account.pw_gid))
    given = [settings.token_file, settings.tls_certificate, settings.tls_key]
    files = [settings_file, settings.config, *_drop_ins(settings.config), *filter(None, given)]
    for file in files:
        # The folders on the way have to let it pass, beginning with the outermost.
        way = [(folder, stat.S_IXOTH) for folder in reversed(file.parents)]
        for place, wanted in [*way, (file, stat.S_IROTH)]:
            with contextlib.suppress(OSError):
                if not _may(place.stat(), wanted, account.pw_uid, groups):
                    text = f"the user {ACCOUNT} cannot read {file}: {place} keeps it out"
                    there = shlex.quote(str(place))
                    yield problem(text, f"chgrp {ACCOUNT} {there} && chmod g+rX {there}")
                    break


def _may(found: os.stat_result, wanted: int, user: int, groups: set[int]) -> bool:
    """Tell whether modes let somebody, for whom *wanted* is the bit if he is none of them."""
    if found.st_uid == user:
        return bool(found.st_mode & wanted << 6)
    if found.st_gid in groups:
        return bool(found.st_mode & wanted << 3)
    return bool(found.st_mode & wanted)


def _database(path: Path) -> Iterator[Finding]:
    """Look at owners: who restores as root leaves a file that the registry cannot write."""
    try:
        owner = path.parent.stat().st_uid
        held = sorted(path.parent.glob(f"{path.name}*"))
        files = [(one, one.stat()) for one in held if one.is_file()]
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            remedy = "run this as root or as the registry's user"
            yield note(f"{path} cannot be looked at: {error.strerror}", remedy)
        return
    strangers = [one for one, stat in files if stat.st_uid != owner]
    for one in strangers:
        remedy = f"chown --reference={shlex.quote(str(path.parent))} {shlex.quote(str(one))}"
        yield problem(f"{one} does not belong to the owner of its folder", remedy)
    for one, _ in files:
        if ".corrupt-" in one.name and not one.name.endswith(("-wal", "-shm")):
            remedy = "remove it once nobody needs what it held"
            yield note(f"{one} is a database that was damaged and set aside", remedy)
    if files and not strangers:
        yield ok(f"{path} and what belongs to it have one owner")


def _staleness(status: dict[str, Any], settings: Settings, environ: Any) -> Iterator[Finding]:
    """Compare times: what changed after the registry read it."""
    if "started_at" not in status or status["url"] != address.find(os.environ):
        return
    changed = _changed_at(places.settings_file(environ, home()))
    if changed > status["started_at"] + SETTLED_S:
        text = "settings were saved after the registry started, which reads them at start only"
        how = f": systemctl restart {manager.SERVICE}" if manager.BOOTED.is_dir() else ""
        yield note(text, f"if any was changed, restart it{how}")
    reload = status.get("reload")
    read_at = max(status["started_at"], reload["at"] if reload else 0)
    files = [settings.config, *_drop_ins(settings.config)]
    late = [one for one in files if _changed_at(one) > read_at + SETTLED_S]
    if late:
        text = f"{late[0]} was changed after the registry read it last"
        yield problem(text, "plexus-registryctl reload, and look for inotify in its log")


def _drop_ins(path: Path) -> list[Path]:
    try:
        return declared.drop_ins(path)
    except OSError:
        return []


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
