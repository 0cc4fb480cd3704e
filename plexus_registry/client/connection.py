# SPDX-License-Identifier: AGPL-3.0-only
"""One conversation with a registry, one call after another."""

from __future__ import annotations

import asyncio
import http
import itertools
import os
import socket
import ssl
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from plexus_registry.client.address import UNIX_PREFIX
from plexus_registry.errors import InvalidValue, Refused, Unreachable

DEFAULT_TIMEOUT_S = 10.0

_NOT_WELCOME = (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)
_SENTENCE_MAX_CHARACTERS = 240
_NO_HUB = "what answers is no Plexus hub"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Connection:
    """A connection to a registry, to be used as ``async with Connection(url) as registry``.

    Args:
        url: ``ws://HOST:PORT``, ``wss://HOST:PORT`` or ``unix:/PATH``.
        timeout_s: For connecting, and for each call.
        token: To be sent if it is not empty. It is readable on the way, but for ``wss://``.
        ca_file: PEM file of the authorities that a ``wss`` registry's certificate may come from;
            None for those of the system, or of ``$SSL_CERT_FILE`` (OpenSSL).

    Attributes:
        hub: What the hub calls itself.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        token: str = "",
        ca_file: Path | None = None,
    ) -> None:
        self.url = url
        self.hub = ""
        self._timeout_s = timeout_s
        self._token = token
        self._ca_file = ca_file
        self._websocket: ClientConnection | None = None
        self._ids = itertools.count(1)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        """Connect and ask who is there.

        Raises:
            Unreachable: If nobody answers there, or not as a Plexus hub.
            Refused: If this client, or its token, is not welcome.
            InvalidValue: If the file of authorities cannot be used.
        """
        options: dict[str, Any] = {
            "compression": None,
            "max_size": None,
            "open_timeout": None,  # ours is around it
            "close_timeout": self._timeout_s,
        }
        if self._token:
            options["additional_headers"] = {"Authorization": f"Bearer {self._token}"}
        if self.url.startswith(UNIX_PREFIX):
            opening = unix_connect(self.url.removeprefix(UNIX_PREFIX), **options)
        else:
            if self.url.startswith("wss:"):
                options["ssl"] = _context(self._ca_file)
            # The library would ask the environment for a proxy (version 15 and later).
            opening = connect(self.url, proxy=None, **options)
        try:
            self._websocket = await asyncio.wait_for(opening, self._timeout_s)
        except TimeoutError:
            raise Unreachable(self.url, f"no answer within {self._timeout_s:g} s") from None
        except OSError as error:
            raise Unreachable(self.url, _reason_of(error)) from error
        except InvalidStatus as error:
            words = bytes(error.response.body or b"").decode(errors="replace").strip()
            if error.response.status_code in _NOT_WELCOME and _is_sentence(words):
                raise Refused(words) from error
            raise Unreachable(self.url, str(error)) from error
        except WebSocketException as error:
            raise Unreachable(self.url, str(error)) from error
        try:
            self.hub = (await self.request("_info", None))["backend"]
        except (Refused, LookupError, TypeError) as error:
            raise Unreachable(self.url, _NO_HUB) from error
        finally:
            if not self.hub:
                await self.close()

    async def close(self) -> None:
        """Close the connection. Idempotent."""
        if self._websocket is not None:
            await self._websocket.close()
            self._websocket = None

    async def call(self, method: str, params: object = None) -> dict[str, Any]:
        """Call a method through the hub and return its event.

        Args:
            method: With its namespace, as in ``registry.get``.
            params: Anything that JSON can hold.

        Raises:
            Refused: If the call failed; with the registry's own words.
            Unreachable: If the answer did not come.
        """
        event = await self.request(f"{self.hub}.call", {"method": method, "params": params})
        if event.get("type") == "error":
            raise Refused(event["message"])
        return event

    async def request(self, method: str, params: object) -> dict[str, Any]:
        """Start the subscription *method* and return the content of its data item.

        Raises:
            Refused: If it was refused; with the registry's own words.
            Unreachable: If the answer did not come.
        """
        try:
            return await asyncio.wait_for(self._request(method, params), self._timeout_s)
        except TimeoutError:
            reason = f"no answer to {method} within {self._timeout_s:g} s"
            raise Unreachable(self.url, reason) from None
        except (ConnectionClosed, OSError) as error:
            raise Unreachable(self.url, str(error)) from error
        except (msgspec.DecodeError, LookupError, TypeError, AttributeError) as error:
            raise Unreachable(self.url, _NO_HUB) from error

    async def _request(self, method: str, params: object) -> dict[str, Any]:
        assert self._websocket is not None, "not connected"
        id = next(self._ids)
        request = {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
        await self._websocket.send(_encode(request).decode())
        content: dict[str, Any] = {}
        subscription = None
        while True:
            frame = _decode(await self._websocket.recv())
            if frame.get("id") == id:
                if "error" in frame:
                    raise Refused(_words_of(frame["error"]))
                subscription = frame["result"]
            elif subscription is not None and frame["params"]["subscription"] == subscription:
                item = frame["params"]["result"]
                if item["type"] == "error":
                    raise Refused(item["message"])
                if item["type"] == "done":
                    return content
                content = item["content"]


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        expected = f"a file of certificates in PEM ({_reason_of(error)})"
        raise InvalidValue("ca_file", str(ca_file), expected) from None


def _reason_of(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    # asyncio puts the address in place of the reason; these two have numbers of their own.
    if error.errno and not isinstance(error, socket.gaierror | ssl.SSLError):
        return os.strerror(error.errno)
    return error.strerror or str(error)


def _is_sentence(text: str) -> bool:
    """Tell whether a server says something to a person, and not a page for a browser."""
    return 1 <= len(text) <= _SENTENCE_MAX_CHARACTERS and text.isprintable()


def _words_of(error: dict[str, Any]) -> str:
    data = error.get("data")
    return f"{error['message']}: {data}" if data else str(error["message"])
