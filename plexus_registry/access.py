# SPDX-License-Identifier: AGPL-3.0-only
"""Who may change the registry: what a client is, what the policy asks of it, how it is refused.

Pure. Reading is open to whoever can connect. Who a client is, is decided once, when it connects;
what it may is looked up when it calls a method that writes, so that a token that is taken back
counts no more on connections that are open.

A token is 256 random bits. Nobody can guess one from its hash, so a plain SHA-256 keeps it safe at
rest; the slow, salted hashes that passwords need would add nothing but the time they take.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

logger = logging.getLogger(__name__)

ORIGIN_OF_TOKENS = "made by plexus-registryctl token new"


class Policy(enum.StrEnum):
    """Who may write without a token."""

    LOCAL = "local"
    """Clients of this machine."""
    TOKEN = "token"  # noqa: S105
    """Nobody, but for those that could read and write the registry's files as well."""
    OPEN = "open"
    """Everybody, as in the Rust program of the same name."""


class Trust(enum.IntEnum):
    """How near a client is, as far as the kernel vouches for it; the higher includes the lower."""

    REMOTE = 0
    """It may be anybody."""
    LOCAL = 1
    """It runs on this machine: it came by loopback or by a Unix socket."""
    OWNER = 2
    """It runs as root or as the registry's own user, and came by a Unix socket."""


_ENOUGH = {Policy.LOCAL: Trust.LOCAL, Policy.TOKEN: Trust.OWNER, Policy.OPEN: Trust.REMOTE}
"""The trust that writes without a token."""

_TERMS = {
    Policy.LOCAL: "policy local: only loopback and Unix sockets do without",
    Policy.TOKEN: "policy token: only root and the registry's user do without, on a Unix socket",
}


def digest_of(token: str) -> bytes:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


@dataclass(frozen=True, slots=True)
class Client:
    """The other end of a connection.

    Attributes:
        label: Who it is, for the log.
        trust: How near it is.
        digest: Of the token that it gave; empty if it gave none.
        place: Whose lines in the log are counted together with its own; see `notices.Notices`.
    """

    label: str
    trust: Trust = Trust.REMOTE
    digest: bytes = b""
    place: str = ""


def _warn(message: str, *values: object, place: str = "") -> None:
    """Log each line, wherever it is from."""
    logger.warning(message, *values)


class Access:
    """The policy on writing, and the tokens that are accepted.

    Args:
        policy: Who may write without a token.
        warn: Logs a refusal: message and values, as of `logging.Logger.warning`, and the client's
            *place*.

    Attributes:
        policy: As given.
        tokens: The digests that are accepted, by the names of their tokens. To be replaced as a
            whole.
        warn: As given.
    """

    def __init__(
        self,
        policy: Policy = Policy.LOCAL,
        *,
        tokens: Mapping[str, bytes] | None = None,
        warn: Callable[..., None] = _warn,
    ) -> None:
        self.policy = policy
        self.tokens: Mapping[str, bytes] = tokens or {}
        self.warn = warn
        self._enough = _ENOUGH[policy]

    def identify(self, client: Client, *, bearer: str = "", cookie: str = "") -> Client | None:
        """Tell who a client is by the token that it gives, if it needs one at all.

        Args:
            client: As it was accepted.
            bearer: The token of its ``Authorization`` header. It is meant for us: a wrong one is a
                mistake that has to be told.
            cookie: The token of its cookie. Browsers send the cookies of every program on this
                host, and Synapse the token of a hub: a wrong one keeps nobody from reading.

        Returns:
            The client with its token, or None if the bearer token is not known.
        """
        if client.trust >= self._enough or not (bearer or cookie):
            return client
        for token in filter(None, (bearer, cookie)):
            digest = digest_of(token)
            name = self._name_of(digest)
            if name:
                return replace(client, label=f"{client.label},token={name}", digest=digest)
        return None if bearer else replace(client, digest=digest_of(cookie))

    def refusal(self, client: Client) -> str | None:
        """Return why a client may not write now and what it needs, or None if it may."""
        if client.trust >= self._enough or (client.digest and self._name_of(client.digest)):
            return None
        problem = (
            "the token that came with this connection is not known here"
            if client.digest
            else f"writing needs a token from {client.label} ({_TERMS[self.policy]})"
        )
        return f"{problem}; send Authorization: Bearer TOKEN, {ORIGIN_OF_TOKENS}"

    def _name_of(self, digest: bytes) -> str:
        """Return the name of a token, empty if it is not accepted.

        All are compared, each in constant time: how long it takes tells nothing about them.
        """
        found = ""
        for name, accepted in self.tokens.items():
            if hmac.compare_digest(accepted, digest):
                found = name
        return found
