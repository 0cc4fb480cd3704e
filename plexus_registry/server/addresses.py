# SPDX-License-Identifier: AGPL-3.0-only
"""Addresses of sockets: how they are bound, named, and what is said if they cannot be bound."""

from __future__ import annotations

import asyncio
import errno
import socket
import struct

from plexus_registry.errors import ListenError

_PEER_CREDENTIALS = struct.Struct("3i")
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


def peer_of(sock: socket.socket, address: object) -> str:
    """Name the other end of a connection: ``127.0.0.1:40000`` or ``unix:pid=PID,uid=UID``.

    Args:
        sock: As it was accepted.
        address: The other end's, as it came with the socket.
    """
    if sock.family != socket.AF_UNIX:
        return label_of(address)
    # SO_PEERCRED, unix(7): who connected, from the kernel.
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
    pid, uid, _ = _PEER_CREDENTIALS.unpack(credentials)
    return f"unix:pid={pid},uid={uid}"


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
