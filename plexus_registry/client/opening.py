# SPDX-License-Identifier: AGPL-3.0-only
"""Opening a WebSocket to a registry, and saying what was wrong if that fails."""

from __future__ import annotations

import asyncio
import http
import os
import socket
import ssl
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect, unix_connect
from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.uri import parse_uri

from plexus_registry.client import names
from plexus_registry.client.address import UNIX_PREFIX
from plexus_registry.errors import InvalidValue, Refused, Unreachable, quote

CLOSE_TIMEOUT_S = 1.0
"""How long a registry is given to say good-bye."""

INFO_MAX_BYTES = 16 * 1024
"""More than any hub has to say about itself: what else answers must not fill our memory."""

_MOVED = range(300, 400)
_NOT_WELCOME = (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)
_SENTENCE_MAX_CHARACTERS = 240
# OpenSSL's names, which differ from version to version.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


class _Connect(connect):
    """An opening that goes nowhere else than where it was told to."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


async def open_websocket(
    url: str, *, timeout_s: float, token: str = "", ca_file: Path | None = None
) -> ClientConnection:
    """Connect to *url*; the arguments are those of `Connection`.

    It takes messages of `INFO_MAX_BYTES` until `allow` says otherwise.

    Raises:
        Unreachable: If no WebSocket can be opened there in time.
        Refused: If this client, or its token, is not welcome.
        InvalidValue: If the file of authorities cannot be used.
    """
    options: dict[str, Any] = {
        "compression": None,
        "max_size": INFO_MAX_BYTES,
        "open_timeout": None,  # ours is around it
        "close_timeout": min(timeout_s, CLOSE_TIMEOUT_S),
    }
    if token:
        options["additional_headers"] = {"Authorization": f"Bearer {token}"}
    if url.startswith("wss:"):
        options["ssl"] = _context(ca_file)
    until = asyncio.get_running_loop().time() + timeout_s
    try:
        if url.startswith(UNIX_PREFIX):
            async with asyncio.timeout_at(until):
                return await unix_connect(url.removeprefix(UNIX_PREFIX), **options)
        places = await _places(url, until, timeout_s)
        async with asyncio.timeout_at(until):
            sock = await names.connected(places)
            # The library would ask the environment for a proxy (version 15 and later).
            return await _Connect(url, proxy=None, sock=sock, **options)
    except TimeoutError:
        # A plain server may wait for the end of what it takes for a request.
        advice = "; if it speaks no TLS, use ws://" if url.startswith("wss:") else ""
        raise Unreachable(url, f"no answer within {timeout_s:g} s{advice}") from None
    except OSError as error:
        raise Unreachable(url, _reason_of(error)) from error
    except names.NotConnected as error:
        reasons = dict.fromkeys(map(_reason_of, error.faults))  # mostly one, for all addresses
        raise Unreachable(url, ", ".join(reasons)) from error.faults[0]
    except UnicodeError as error:  # of the codec that puts a host into ASCII
        raise Unreachable(url, f"its host is no DNS name: {error}") from error
    except ValueError as error:  # of the library that splits URLs
        raise Unreachable(url, f"that is no URL: {error}") from error
    except InvalidStatus as error:
        elsewhere = error.response.headers.get("Location")
        if elsewhere is not None and error.response.status_code in _MOVED:
            raise Unreachable(url, f"it is not there, but at {quote(elsewhere)}") from error
        words = bytes(error.response.body or b"").decode(errors="replace").strip()
        if not _is_sentence(words):
            raise Unreachable(url, str(error)) from error
        if error.response.status_code in _NOT_WELCOME:
            raise Refused(words) from error
        raise Unreachable(url, f"{error}: {words}") from error
    except WebSocketException as error:
        raise Unreachable(url, str(error)) from error


async def _places(url: str, until: float, timeout_s: float) -> list[names.Place]:
    target = parse_uri(url)
    try:
        async with asyncio.timeout_at(until):
            return await names.resolve(target.host, target.port)
    except TimeoutError:
        raise Unreachable(url, f"its name was not resolved within {timeout_s:g} s") from None


def allow(websocket: ClientConnection, max_bytes: int) -> None:
    """Take messages of at most so many bytes from now on."""
    protocol = websocket.protocol
    is_old = not hasattr(protocol, "max_message_size")  # websockets 15
    setattr(protocol, "max_size" if is_old else "max_message_size", max_bytes)


def _context(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        expected = f"a file of certificates in PEM ({_reason_of(error)})"
        raise InvalidValue("ca_file", str(ca_file), expected) from None


def _reason_of(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason in _NO_TLS:
        return f"what answers speaks no TLS, use ws:// ({error.strerror})"
    # asyncio puts the address in place of the reason; these two have numbers of their own.
    if error.errno and not isinstance(error, socket.gaierror | ssl.SSLError):
        return os.strerror(error.errno)
    return error.strerror or str(error)


def _is_sentence(text: str) -> bool:
    """Tell whether a server says something to a person, and not a page for a browser."""
    return 1 <= len(text) <= _SENTENCE_MAX_CHARACTERS and text.isprintable()
