# SPDX-License-Identifier: AGPL-3.0-only
"""Why no registry answers, and what to do about it, for ``plexus-registryctl doctor``.

What was tried tells how it failed; a remedy that belongs to another failure costs more time than
none.
"""

from __future__ import annotations

import contextlib
import errno
import http
import ipaddress
import os
import shlex
import socket
import ssl
import urllib.parse

from plexus_registry.cli import manager
from plexus_registry.cli.findings import Finding, problem
from plexus_registry.client import address
from plexus_registry.client.connection import NO_HUB, Broken
from plexus_registry.errors import Unreachable

_MOVED = range(300, 400)
_BEHIND_PROXY = (
    http.HTTPStatus.BAD_GATEWAY,
    http.HTTPStatus.SERVICE_UNAVAILABLE,
    http.HTTPStatus.GATEWAY_TIMEOUT,
)
_ON_THAT_MACHINE = (
    "on that machine, plexus-registryctl doctor tells whether it runs, and ss -ltn whether it"
    " listens on a network"
)
_DISCARD_PORT = 9


def explain(error: Unreachable) -> Finding:
    """Say why no registry answers, and what to do."""
    return problem(str(error), _remedy(error))


def is_here(url: str) -> bool:
    """Tell whether a URL leads to this machine. Names but its own are not looked up."""
    if url.startswith(address.UNIX_PREFIX):
        return True
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        given = ipaddress.ip_address(host)
    except ValueError:
        return host in ("localhost", socket.gethostname().lower()) or host.endswith(".localhost")
    if given.is_loopback or given.is_unspecified:
        return True
    family = socket.AF_INET if given.version == 4 else socket.AF_INET6
    # The kernel goes to an address of its own from that very address. This sends nothing.
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host, _DISCARD_PORT))
        return ipaddress.ip_address(probe.getsockname()[0]) == given
    return False


def _remedy(error: Unreachable) -> str:
    cause = error.__cause__
    if error.reason.startswith("no answer"):
        return _of_silence(error.url)
    if isinstance(cause, socket.gaierror) or error.reason.startswith("its name"):
        host = urllib.parse.urlsplit(error.url).hostname or ""
        return f"look whether that is its name: getent ahosts {shlex.quote(host)}"
    if isinstance(cause, OSError):
        return _of_system(error, cause)
    if isinstance(cause, ValueError):  # UnicodeError is one
        return "name its address in another way"
    if isinstance(error, Broken) and error.reason != NO_HUB:
        return f"try again; if that is all the same, see {_log(error.url)}"
    response = getattr(cause, "response", None)
    return _of_answer(error, getattr(response, "status_code", None))


def _of_silence(url: str) -> str:
    if is_here(url):
        return (
            f"something listens there and keeps silent: {_who_listens(url)}; if it is the"
            f" registry, see {_log(url)}, then restart it"
        )
    way = f"look whether that is its address, and a firewall lets port {port_of(url)} pass"
    return f"{way}; {_ON_THAT_MACHINE}"


def _of_system(error: Unreachable, cause: OSError) -> str:
    """Say what to do about an error of the operating system, or of OpenSSL."""
    url = error.url
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "name the authority of its certificate by --ca-file, or have the certificate renewed"
    if isinstance(cause, ssl.SSLError):
        return f"name it by ws:// if it is to speak no TLS, else see {_log(url)}"
    if isinstance(cause, PermissionError) and url.startswith(address.UNIX_PREFIX):
        path = shlex.quote(url.removeprefix(address.UNIX_PREFIX))
        return f"run this as a user who may use the socket: ls -l {path}"
    # The cause is that of the first address of a name, the reason has those of all.
    is_refused = os.strerror(errno.ECONNREFUSED) in error.reason
    if not is_here(url):
        what = "nothing listens there" if is_refused else "look whether that is its address"
        return f"{what}; {_ON_THAT_MACHINE}"
    if is_refused or isinstance(cause, FileNotFoundError):
        return manager.how_to_start()
    return f"see {_log(url)}"


def _of_answer(error: Unreachable, status: int | None) -> str:
    """Say what to do about an answer that is none of a registry that lets one in.

    Args:
        error: What came of it.
        status: Of HTTP; None if what answered was no HTTP.
    """
    if status == http.HTTPStatus.TOO_MANY_REQUESTS:
        return (
            f"find who opens so many connections, {_log(error.url)} names who was refused;"
            " or raise max_connections or max_connections_per_address"
        )
    if status == http.HTTPStatus.BAD_REQUEST and "TLS" in error.reason:
        return "name it by wss://"
    if status in _MOVED:
        return "name it by --url as it is there, if that is the registry"
    if status in _BEHIND_PROXY:
        return "a proxy answers there and finds no registry: look at that, and behind it"
    if not is_here(error.url):
        return "another program listens there: look whether that is the registry's host and port"
    return (
        f"another program listens there: {_who_listens(error.url)}; stop it, or give one of them"
        " another port"
    )


def _who_listens(url: str) -> str:
    if url.startswith(address.UNIX_PREFIX):
        path = shlex.quote(url.removeprefix(address.UNIX_PREFIX))
        return f"as root, ss -lxp src {path} shows which program"
    return f"as root, ss -ltnp 'sport = :{port_of(url)}' shows which program"


def port_of(url: str) -> int:
    """Return the TCP port of a URL."""
    parts = urllib.parse.urlsplit(url)
    return parts.port or (443 if parts.scheme == "wss" else 80)


def _log(url: str) -> str:
    if is_here(url) and manager.BOOTED.is_dir():
        return "journalctl -u plexus-registry -n 20"
    return "its log"
