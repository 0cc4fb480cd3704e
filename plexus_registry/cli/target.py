# SPDX-License-Identifier: AGPL-3.0-only
"""The registry that ``plexus-registryctl`` talks to, and what it asks it."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from plexus_registry.backend import Backend
from plexus_registry.cli.exits import Exit, Failure
from plexus_registry.cli.output import PROGRAM
from plexus_registry.client import address, results
from plexus_registry.client.address import TOKEN_VARIABLE
from plexus_registry.client.arguments import check_token
from plexus_registry.client.connection import Connection
from plexus_registry.client.paging import pages
from plexus_registry.client.results import NotUnderstood
from plexus_registry.config import files
from plexus_registry.errors import ConfigError, Fault, InvalidValue, Refused, Unreachable, word

RETRY_S = 0.2

_NOT_FOUND = re.compile(r"(Activation|Method) not found\b")

T = TypeVar("T")


class NoRegistry(Failure):
    """What answers is a Plexus hub, and no registry.

    Attributes:
        hub: What it calls itself.
    """

    def __init__(self, hub: str, url: str) -> None:
        super().__init__(
            Exit.UNAVAILABLE,
            f"{word(hub)} at {url} is a Plexus hub, but no registry; name another by --url",
        )
        self.hub = hub


@dataclass(frozen=True, slots=True)
class Target:
    """The registry that is asked.

    Attributes:
        url: As given; None to look for one.
        timeout_s: For connecting, and for each call.
        wait_s: How long to try until it answers.
        token_file: Holds the token to send; None for the one of the environment.
        ca_file: PEM file of authorities; None for those of the system.
    """

    url: str | None
    timeout_s: float
    wait_s: float = 0.0
    token_file: Path | None = None
    ca_file: Path | None = None

    def ask(
        self, work: Callable[[Connection], Coroutine[Any, Any, T]], *, limit_s: float | None = None
    ) -> T:
        """Connect, do *work*, and return what it returns.

        Args:
            work: What to do.
            limit_s: For all of it; None for no limit but those of each call.

        Raises:
            TimeoutError: If that is over.
            Unreachable, Refused: As `Connection` does.
            NoRegistry: If what answers is another hub.
            InvalidValue: If the URL or the file of authorities cannot be used.
            ConfigError: If the token cannot be.
        """
        return asyncio.run(self._ask(work, limit_s))

    async def _ask(
        self, work: Callable[[Connection], Coroutine[Any, Any, T]], limit_s: float | None
    ) -> T:
        async with asyncio.timeout(limit_s) as limit:
            connection = await self._open()
            try:
                return await work(connection)
            except (Refused, NotUnderstood) as error:
                if is_unrouted(error) and not await _is_registry(connection):
                    raise NoRegistry(connection.hub, connection.url) from error
                raise
            finally:
                # The one around ends what is waited for only once.
                async with asyncio.timeout_at(limit.when()):
                    await connection.close()

    async def _open(self) -> Connection:
        """Connect, and try again as long as is to be waited."""
        token = self.token()
        until = asyncio.get_running_loop().time() + self.wait_s
        while True:
            connection = Connection(
                self.find(), timeout_s=self.timeout_s, token=token, ca_file=self.ca_file
            )
            try:
                await connection.open()
            except Unreachable:
                if asyncio.get_running_loop().time() >= until:
                    raise
                await asyncio.sleep(RETRY_S)
            else:
                return connection

    def find(self) -> str:
        """Return where it is.

        Raises:
            InvalidValue: If it is given in a form that leads nowhere.
        """
        return address.find(os.environ) if self.url is None else address.check_url(self.url)

    def token(self) -> str:
        """Return the token to send, empty for none.

        Raises:
            ConfigError: If the file that should hold it does not, or the variable holds none. The
                message does not show what is there.
        """
        if self.token_file is None:
            text = os.environ.get(TOKEN_VARIABLE, "").strip()
            return _checked(text, f"${TOKEN_VARIABLE}") if text else ""
        content = files.read(self.token_file)
        if content is None:
            raise ConfigError([Fault(str(self.token_file), 0, "there is no such file")])
        return _checked(content.decode(errors="replace").strip(), str(self.token_file))

    @property
    def doctor(self) -> str:
        """The command that looks for what is in the way of this very registry."""
        given = {"--url": self.url, "--token-file": self.token_file, "--ca-file": self.ca_file}
        options = [
            part for option, value in given.items() if value for part in (option, str(value))
        ]
        return shlex.join([PROGRAM, *options, "doctor"])


def _checked(token: str, place: str) -> str:
    try:
        if token:
            return check_token(token)
    except InvalidValue:
        pass  # which is told as the same for a file and the variable
    message = "holds no token, expected the one line that `token new` printed"
    raise ConfigError([Fault(place, 0, message)])


def is_unrouted(error: Refused | NotUnderstood) -> bool:
    """Tell whether the hub knows no such method, or answers it as no registry does."""
    if isinstance(error, NotUnderstood):
        return error.is_foreign
    return _NOT_FOUND.match(str(error)) is not None


async def _is_registry(connection: Connection) -> bool:
    try:
        await results.LIST.ask(connection, {"limit": 1})
    except (Refused, NotUnderstood) as error:
        return not is_unrouted(error)
    return True


async def entries(registry: Connection, *, active_only: bool) -> list[Backend]:
    """Ask for all entries, in the order of their names."""

    async def ask(params: dict[str, Any]) -> list[Backend]:
        return await results.LIST.ask(registry, params)

    found = [one async for page in pages(ask, active_only=active_only) for one in page]
    return sorted(found, key=lambda one: one.name)
