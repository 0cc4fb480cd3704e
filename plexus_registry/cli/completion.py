# SPDX-License-Identifier: AGPL-3.0-only
"""What a shell's Tab key offers for the name of a backend: those that the registry has now."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import click
from click.shell_completion import CompletionItem

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
    token_file, ca_file = given.get("token_file"), given.get("ca_file")
    assert token_file is None or isinstance(token_file, Path)
    assert ca_file is None or isinstance(ca_file, Path)
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
