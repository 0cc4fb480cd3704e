# SPDX-License-Identifier: AGPL-3.0-only
"""All entries of a registry, in pages as large as it gives them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from plexus_registry.backend import Backend
from plexus_registry.errors import Refused

PAGE_SIZE: Final = 1000

_SHRINK = 8


async def pages(
    ask: Callable[[dict[str, Any]], Awaitable[list[Backend]]],
    *,
    active_only: bool,
    size: int = PAGE_SIZE,
) -> AsyncIterator[list[Backend]]:
    """Go over all entries, the newest first, at most *size* at a time.

    Goes on from the entry before where the last one is gone meanwhile, and asks for fewer where a
    page is too large for the registry.

    Args:
        ask: Calls ``registry.list`` with the parameters that it is given.
        active_only: Leave out those that said good-bye.
        size: Of a page. The Rust program gives all of them each time.
    """
    params: dict[str, Any] = {"active_only": active_only, "limit": size}
    seen: set[str] = set()
    trail: list[str] = []
    while True:
        behind = {"after": trail[-1]} if trail else {}
        try:
            found = await ask(params | behind)
        except Refused as refusal:
            if is_too_large(refusal) and params["limit"] > 1:
                params["limit"] = max(1, params["limit"] // _SHRINK)
            elif trail and "after: " in str(refusal):
                trail.pop()
            else:
                raise
            continue
        page = [one for one in found if one.name not in seen]
        if page:
            yield page
        if not page or len(found) < params["limit"]:
            return
        names = [one.name for one in page]
        seen.update(names)
        trail += names


def is_too_large(refusal: Refused) -> bool:
    """Tell whether the registry gives as much at no time, and less at a time."""
    return "max_answer_size" in str(refusal)
