# SPDX-License-Identifier: AGPL-3.0-only
"""The registry as a process of its own: signals in, one service, an end that loses nothing."""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, MutableMapping, Sequence
from functools import partial

from plexus_registry import __version__
from plexus_registry.config.settings import Settings
from plexus_registry.errors import (
    ConfigError,
    PlexusRegistryError,
    StoreCorrupt,
    StoreTooNew,
    word,
)
from plexus_registry.server.addresses import label_of
from plexus_registry.service import systemd
from plexus_registry.service.service import Service
from plexus_registry.service.supervision import Supervision

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
RELOAD_SIGNAL = signal.SIGHUP
REFUSALS = (ConfigError, StoreCorrupt, StoreTooNew)
"""Why a start fails that fails again as long as nobody does something."""
REFUSAL_PAUSE_S = 2.0
"""How long a refused start lasts where connections start us: clients that try again and again must
not bring systemd to its StartLimitBurst=, with which it gives up on the sockets, too."""


def run(
    load_settings: Callable[[], Settings],
    environ: MutableMapping[str, str],
    *,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reloads what is declared.

    Args:
        load_settings: Returns what to serve, or raises `ConfigError`.
        environ: The environment, for what systemd passes in it.
        on_ready: Called when the registry serves.

    Raises:
        StoreError, ConfigError, ListenError: If the registry cannot start.
    """
    # The watchdog ends a hanging daemon with SIGABRT: let it say where it hung.
    if sys.stderr is not None:
        faulthandler.enable()
    raise_descriptor_limit()
    notifier = systemd.Notifier(environ)
    sockets: list[socket.socket] = []
    try:
        for passed in systemd.take_sockets(environ):
            sockets.append(passed.socket)
            address = label_of(passed.socket.getsockname())
            logger.info("socket passed name=%s address=%s", word(passed.name), address)
        watchdog_interval_s = systemd.watchdog_interval_s(environ)
        settings = load_settings()
        default = Settings(database=settings.database, config=settings.config)
        if sockets and (settings.host, settings.port) != (default.host, default.port):
            message = "host and port have no effect, systemd has the sockets address=%s:%d"
            logger.warning(message, settings.host, settings.port)
        asyncio.run(_serve(settings, sockets, notifier, watchdog_interval_s, on_ready))
    except PlexusRegistryError as error:
        notifier.status(f"start refused: {error}")
        if sockets and isinstance(error, REFUSALS):
            time.sleep(REFUSAL_PAUSE_S)
            systemd.turn_away(sockets)
        raise


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard one: each client is a descriptor.

    The soft limit is low for programs that use select(2) on descriptors, which we do not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(
    settings: Settings,
    sockets: Sequence[socket.socket],
    notifier: systemd.Notifier,
    watchdog_interval_s: float | None,
    on_ready: Callable[[], None],
) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for stop_signal in STOP_SIGNALS:
        loop.add_signal_handler(stop_signal, _stop, stop, stop_signal)
    service = Service(settings, sockets=sockets)
    loop.add_signal_handler(RELOAD_SIGNAL, partial(service.start_reload, peer="SIGHUP"))
    logger.info("starting version=%s", __version__)
    supervision = Supervision(service, notifier, watchdog_interval_s)
    supervision.starting()
    try:
        async with service:
            # What was loaded stays. A search for garbage through 100,000 entries takes 30 ms.
            gc.freeze()
            supervision.ready()
            on_ready()
            await stop.wait()
            supervision.stopping()
    finally:
        supervision.stopped()
    logger.info("stopped")
    # The loop gives signals their default action back when it closes: an impatient second one
    # would end the process before its exit status says that all is well.
    signal.pthread_sigmask(signal.SIG_BLOCK, {*STOP_SIGNALS, RELOAD_SIGNAL})


def _stop(stop: asyncio.Event, number: signal.Signals) -> None:
    if not stop.is_set():
        logger.info("stopping signal=%s", number.name)
        stop.set()
