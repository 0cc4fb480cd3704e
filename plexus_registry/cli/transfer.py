# SPDX-License-Identifier: AGPL-3.0-only
"""``plexus-registryctl export`` and ``import``: entries as a file that declares them, and back."""

from __future__ import annotations

import shlex
from collections import deque
from pathlib import Path
from typing import Any

import click

from plexus_registry.backend import (
    DECLARED_FIELDS,
    GREATEST_LIMITS,
    Backend,
    Declaration,
    check_declaration,
)
from plexus_registry.cli.exits import Exit, Failure
from plexus_registry.cli.output import (
    complain,
    escaped,
    in_toml,
    json_option,
    source_option,
    tell,
    tell_json,
)
from plexus_registry.cli.target import Target, entries
from plexus_registry.client import results
from plexus_registry.client.connection import Connection
from plexus_registry.config import declared, files
from plexus_registry.errors import ConfigError, PlexusRegistryError, Refused, quote, word

_FILE_MODE = 0o644
_STANDARD_STREAM = Path("-")


class _FileOrStream(click.Path):
    """A file; a lone dash is a standard stream, and ``./-`` the file of that name."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return _STANDARD_STREAM if value == "-" else super().convert(value, param, ctx)


_file_type = _FileOrStream(path_type=Path, readable=False)


@click.command(name="export")
@click.argument("file", type=_file_type, required=False)
@click.option("--all", "is_all", is_flag=True, help="Those that are not active, too.")
@source_option
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.pass_obj
def export(
    target: Target, *, file: Path | None, is_all: bool, source: str | None, force: bool
) -> None:
    """Write the backends as a backends.toml that declares the same.

    To standard output, or into the new FILE.
    """
    if file is _STANDARD_STREAM:
        file = None

    async def ask(registry: Connection) -> list[Backend]:
        return await entries(registry, active_only=not is_all)

    found = target.ask(ask)
    # The Rust program takes any name and address; a file with one of those would not load.
    sound = []
    for one in found:
        if source not in (None, one.source.value):
            continue
        if check_declaration(_table(one), GREATEST_LIMITS)[0] is not None:
            sound.append(one)
        else:
            complain(f"left out, for no file can declare it: {word(one.name)} at {word(one.url)}")
    text = escaped(declared.dumps(sound), in_toml)
    if file is None:
        click.echo(text, nl=False)
    elif not file.parent.is_dir():
        raise Failure(Exit.IO, f"{file} cannot be written: there is no folder {file.parent}")
    elif force:
        files.replace(file, text, mode=_FILE_MODE)
    elif file.exists() or file.is_symlink():
        raise Failure(Exit.CANNOT_CREATE, f"{file} exists and is left as it is; --force replaces")
    else:
        try:
            files.write_new(file, text)
        except ConfigError as error:
            raise Failure(Exit.IO, str(error)) from error
    if file is not None:
        tell(f"{file}: {len(sound)} backends")


@click.command(name="import")
@click.argument("file", type=_file_type)
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@json_option
@click.pass_obj
def import_(target: Target, *, file: Path, dry_run: bool, as_json: bool) -> None:
    """Register what FILE declares, in the form of backends.toml; - is standard input.

    Adds what is not there, changes what is different, and leaves all else alone. What it adds and
    changes counts as registered by hand: it stands above what a file declares under that name. To
    have the registry follow a file, put it into the configuration directory instead.
    """
    wanted = _read(file)

    left: deque[dict[str, Any]] = deque()
    reached: list[dict[str, Any]] = []

    async def work(registry: Connection) -> None:
        held = {one.name: one for one in await entries(registry, active_only=False)}
        left.extend(_step(declaration, held.get(name)) for name, declaration in wanted.items())
        while left:
            if not dry_run:
                await _carry_out(registry, left[0], wanted[left[0]["name"]])
            reached.append(left.popleft())

    try:
        target.ask(work)
    except (PlexusRegistryError, KeyboardInterrupt):
        if left:
            _tell_steps(reached, len(left), dry_run=dry_run, as_json=as_json)
        raise
    failed = _tell_steps(reached, 0, dry_run=dry_run, as_json=as_json)
    if failed:
        raise Failure(Exit.REFUSED, f"{failed} of {len(reached)} were not imported, see above")


def _read(file: Path) -> dict[str, Declaration]:
    if file is _STANDARD_STREAM:
        return declared.read_standard_input()
    try:
        return declared.read_one(file)
    except ConfigError as error:
        if len(error.faults) == 1:
            raise
        command = f"plexus-registry --check-config --config {shlex.quote(str(file))}"
        raise Failure(Exit.CONFIG, f"{error}; {command} lists all") from error


def _tell_steps(steps: list[dict[str, Any]], left: int, *, dry_run: bool, as_json: bool) -> int:
    """Tell what became of the steps and how many are left; return how many were refused."""
    failed = [step for step in steps if "error" in step]
    done = [step for step in steps if "error" not in step]
    counts = {what: sum(step["action"] == what for step in done) for what in _MARKS}
    if as_json:
        counts |= {"failed": len(failed), "left": left}
        tell_json({"dry_run": dry_run, "steps": steps, **counts})
    else:
        for step in done:
            if step["action"] != "unchanged":
                tell(f"{_MARKS[step['action']]} {step['name']}{_shown(step)}")
        counts |= {"left, the first of them perhaps done": left} if left else {}
        told = ", ".join(f"{count} {what}" for what, count in counts.items())
        tell(f"{'would be' if dry_run else 'done'}: {told}")
    for step in failed:
        complain(f"{word(step['name'])}: {step['error']}")
    return len(failed)


_MARKS = {"added": "+", "changed": "~", "unchanged": "="}


def _table(one: Backend | Declaration) -> dict[str, Any]:
    found = {field: getattr(one, field) for field in DECLARED_FIELDS}
    return {field: value for field, value in found.items() if value is not None}


def _step(declaration: Declaration, held: Backend | None) -> dict[str, Any]:
    """Tell what has to be done for a declaration; ``changes`` has former and new values."""
    if held is None:
        return {"name": declaration.name, "action": "added", "changes": {}}
    changes = {
        field: [getattr(held, field), getattr(declaration, field)]
        for field in DECLARED_FIELDS
        if getattr(held, field) != getattr(declaration, field)
    }
    if not held.is_active:
        changes["state"] = ["inactive", "active"]
    action = "changed" if changes else "unchanged"
    return {"name": declaration.name, "action": action, "changes": changes}


def _shown(step: dict[str, Any]) -> str:
    return "".join(
        f" {field}: {quote(former) if former is not None else 'none'}"
        f" -> {quote(value) if value is not None else 'none'}"
        for field, (former, value) in step["changes"].items()
    )


async def _carry_out(registry: Connection, step: dict[str, Any], declaration: Declaration) -> None:
    fields = {field: getattr(declaration, field) for field in DECLARED_FIELDS}
    try:
        if step["action"] == "added":
            _compare(step, declaration, await results.REGISTER.ask(registry, fields))
        elif step["action"] == "changed":
            # An empty text clears, null would keep.
            cleared = {key: "" if value is None else value for key, value in fields.items()}
            _compare(step, declaration, await results.UPDATE.ask(registry, cleared))
            if "state" in step["changes"]:
                await results.PING.ask(registry, {"name": declaration.name})
    except Refused as refusal:
        step["error"] = str(refusal)


def _compare(step: dict[str, Any], declaration: Declaration, entry: Backend) -> None:
    """Note what is not as declared: registries pass over such extras as they do not take."""
    extras = ("version", "metadata")
    missed = [name for name in extras if getattr(entry, name) != getattr(declaration, name)]
    if missed:
        step["error"] = f"done but for {' and '.join(missed)}, which the registry does not take"
