# SPDX-License-Identifier: AGPL-3.0-only
"""What a shell's Tab key offers for the name of a backend: those that the registry has now.

Also which of the words before the cursor is the one to complete, as bash and fish pass the line.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    add_completion_class,
    split_arg_string,
)

from plexus_registry.backend import Backend
from plexus_registry.cli.output import safe
from plexus_registry.cli.target import Target, entries
from plexus_registry.client.connection import Connection

TIMEOUT_S = 0.8
"""For all of it: a person waits, and nobody would read why there is nothing to offer."""
OFFERED_MAX = 500

_PLAIN = re.compile(r"(?!-)[\w.:+-]+")
"""What is one word to every shell, and nothing else: bash puts it on the line as it is."""


def complete_names(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Offer names that begin so and are not on the line already; none if nobody answers in time.

    Whoever may register a backend chooses its name: one that a shell could take for more than a
    word, or the program for an option, is not offered.
    """
    logging.disable()
    given = context.find_root().params
    token_file, ca_file = (_expanded(given.get(name)) for name in ("token_file", "ca_file"))
    target = Target(given.get("url"), TIMEOUT_S, token_file=token_file, ca_file=ca_file)

    async def ask(registry: Connection) -> list[Backend]:
        return await entries(registry, active_only=False)

    try:
        found = target.ask(ask, limit_s=TIMEOUT_S)
    except Exception:  # whatever it is, a message would end up in what the person types
        return []
    on_line = context.params.get(parameter.name or "") or ()
    return [
        CompletionItem(one.name, help=safe(one.description or one.url))
        for one in found
        if one.name.startswith(incomplete)
        and one.name not in on_line
        and _PLAIN.fullmatch(one.name)
    ][:OFFERED_MAX]


def _expanded(path: Path | None) -> Path | None:
    """Do what the shell does before it runs the command: here the line is as it was typed."""
    return None if path is None else Path(os.path.expandvars(path.expanduser()))


class _UpToCursor(ShellComplete):
    """The line is given up to the cursor, as one text."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one to complete, and that one, empty if it is a new one.

        Both without their quotes. The shells count words in other ways than the split that click
        makes, so the number that they give is not the one of that word.
        """
        line = os.environ["COMP_WORDS"]
        _, *words = split_arg_string(line)
        # Another letter goes on with the last word, unless that one has ended.
        is_new = len(split_arg_string(f"{line}x")) > len(words) + 1
        return (words, "") if is_new or not words else (words[:-1], words[-1])


@add_completion_class
class _Bash(_UpToCursor, BashComplete):
    """Bash, with packaging/completions/bash."""


@add_completion_class
class _Fish(_UpToCursor, FishComplete):
    """Fish, with packaging/completions/fish."""
