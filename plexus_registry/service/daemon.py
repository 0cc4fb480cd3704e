# SPDX-License-Identifier: AGPL-3.0-only
"""The registry as a process of its own: signals in, one service, an end that loses nothing."""

from __future__ import annotations

import asyncio
import logging
import resource
import signal
from functools import partial

from plexus_registry import __version__
from plexus_registry.config.settings import Settings
from plexus_registry.service.service import Service

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
RELOAD_SIGNAL = signal.SIGHUP


def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reloads what is declared.

    Raises:
        StoreError, ConfigError, ListenError: If the registry cannot start.
    """
    raise_descriptor_limit()
    asyncio.run(_serve(settings))


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard one: each client is a descriptor.

    The soft limit is low for programs that use select(2) on descriptors, which we do not.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for stop_signal in STOP_SIGNALS:
        loop.add_signal_handler(stop_signal, stop.set)
    service = Service(settings)
    loop.add_signal_handler(RELOAD_SIGNAL, partial(service.start_reload, peer="SIGHUP"))
    logger.info("starting version=%s", __version__)
    async with service:
        await stop.wait()
        logger.info("stopping")
    logger.info("stopped")
    # The loop gives signals their default action back when it closes: an impatient second one
    # would end the process before its exit status says that all is well.
    signal.pthread_sigmask(signal.SIG_BLOCK, {*STOP_SIGNALS, RELOAD_SIGNAL})
