# SPDX-License-Identifier: AGPL-3.0-only
"""A call that is ready to run: what the method table makes of a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from plexus_registry.access import Client
from plexus_registry.protocol.streams import ErrorStream, Stream

Reply = Callable[[Sequence[bytes]], None]
"""Takes the content of each data item as JSON, once, now or later."""

Handler = Callable[[Sequence[Any], Client, Reply], None]
"""Runs a method: parameter values in the order of declaration, who calls, the reply."""


class Call(msgspec.Struct, gc=False):
    """A call whose method is known and whose parameters fit.

    Attributes:
        stream: Makes the frames of what the handler replies.
        handler: What to run, with these values, the client, and a reply.
        values: The parameters, in the order of declaration.
        is_write: Its effect is in the order of submission, whenever its answer comes.
        changes: It may have an effect: it is carried out even if nobody waits for its answer.
    """

    stream: Stream | ErrorStream
    handler: Handler
    values: Sequence[Any]
    is_write: bool = False
    changes: bool = False


def constant(values: Sequence[Any], client: Client, reply: Reply) -> None:
    """Answer with contents that were encoded beforehand: a `Handler`."""
    reply(values)
