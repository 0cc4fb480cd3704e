# SPDX-License-Identifier: AGPL-3.0-only
"""Addresses of sockets: how they are bound, named, and what is said if they cannot be bound."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import struct
from pathlib import Path

from plexus_registry.access import Client, Trust
from plexus_registry.errors import ListenError

# pid_t, uid_t, gid_t
_PEER_CREDENTIALS = struct.Struct("iII")
_OVERFLOW_UID = 65534
"""user_namespaces(7); it is nobody's on every distribution."""
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


async def listening_sockets(host: str, port: int, *, backlog: int) -> list[socket.socket]:
    """Listen on each address that *host* stands for and that this machine has, at least one.

    Raises:
        ListenError: If the address is taken, is not of this machine, or is not permitted.
    """
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    try:
        addresses = await asyncio.get_running_loop().getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, _, _, address in dict.fromkeys(addresses):
            try:
                sockets.append(_listening_socket(family, address, backlog))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                missing = error
        if missing is not None and not sockets:
            raise missing
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise ListenError(_explain(error, host, port)) from error
    return sockets


def _listening_socket(family: int, address: tuple[object, ...], backlog: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # Not to wait until the kernel has forgotten the connections of the process before us.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # One socket for each family, or the wildcard of IPv6 would take IPv4's port too.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def label_of(address: object) -> str:
    """Name a socket's address: ``127.0.0.1:4445``, ``[::1]:4445`` or ``unix:/PATH``."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    return f"unix:{address}"


def client_of(sock: socket.socket, address: object, *, place: str = "") -> Client:
    """Tell who the other end of a connection is, as far as the kernel knows.

    Its label is ``127.0.0.1:40000`` or ``unix:pid=PID,uid=UID``.

    Args:
        sock: As it was accepted.
        address: The other end's, as it came with the socket.
        place: From `crowd.place_of`; programs that use a Unix socket are told apart by their user.
    """
    if sock.family != socket.AF_UNIX:
        # Its own address counts, not ours: with route_localnet (ip-sysctl) others can reach
        # 127.0.0.1, but nobody can get an answer to there.
        assert isinstance(address, tuple)
        trust = Trust.LOCAL if is_loopback(address[0]) else Trust.REMOTE
        return Client(label_of(address), trust, place=place)
    # SO_PEERCRED, unix(7): who connected, from the kernel.
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    pid, uid, _ = _PEER_CREDENTIALS.unpack(credentials)
    # Whoever our user namespace does not know has the overflow id, one for all.
    is_owner = uid in (0, os.geteuid()) and uid != _OVERFLOW_UID
    trust = Trust.OWNER if is_owner else Trust.LOCAL
    return Client(f"unix:pid={pid},uid={uid}", trust, place=f"uid={uid}")


def is_loopback(host: str) -> bool:
    """Tell whether an IP address is of this machine alone, also if IPv4 is mapped into IPv6."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def own_names(hosts: Path = Path("/etc/hosts")) -> frozenset[str]:
    """Return how this machine is called, in lower case, without asking anybody else.

    They are its host name, its first label, the name in mDNS, and those that stand beside one of
    these in hosts(5): the full name is there.
    """
    name = socket.gethostname().lower()
    short = name.partition(".")[0]
    names = {name, short, f"{short}.local"} - {"", ".local"}
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in hosts.read_text(encoding="utf-8").lower().splitlines():
            beside = set(line.partition("#")[0].split()[1:])
            if beside & {name, short}:
                names |= beside
    return frozenset(names)


def _explain(error: OSError, host: str, port: int) -> str:
    where = label_of((host, port))
    if isinstance(error, socket.gaierror):
        return f"cannot listen on {where}: the name has no address; choose with --host"
    if error.errno == errno.EADDRINUSE:
        return (
            f"cannot listen on {where}: the port is taken, perhaps by another registry or Plexus"
            " tool; stop it or choose another with --port"
        )
    if error.errno == errno.EACCES:
        return (
            f"cannot listen on {where}: not permitted; ports below 1024 need a privilege,"
            " choose another with --port"
        )
    if error.errno in _NOT_HERE:
        return f"cannot listen on {where}: that is no address of this machine; choose with --host"
    return f"cannot listen on {where}: {error.strerror or error}"
