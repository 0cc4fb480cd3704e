# SPDX-License-Identifier: AGPL-3.0-only
"""One registry, from its database to its sockets, inside a running event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from plexus_registry import __version__
from plexus_registry.access import Access
from plexus_registry.backend import Declaration
from plexus_registry.catalog import Catalog
from plexus_registry.config.settings import Settings
from plexus_registry.config.watch import Watch
from plexus_registry.errors import ConfigError, Fault, StoreError, word
from plexus_registry.eventlog import AT_START, log_salvage
from plexus_registry.notices import Notices
from plexus_registry.protocol.hub import Hub
from plexus_registry.protocol.status import Facts
from plexus_registry.registry import Registry
from plexus_registry.rules import AutoRegister, Declare, Event, Failed, LimitReached, Request
from plexus_registry.server.listener import Server
from plexus_registry.service import snapshot
from plexus_registry.service.certificates import CertificateReader
from plexus_registry.service.declarations import DeclarationReader
from plexus_registry.service.expiry import Expiry
from plexus_registry.service.reading import Reading
from plexus_registry.service.snapshot import Snapshot
from plexus_registry.service.web import Web
from plexus_registry.service.worker import Worker
from plexus_registry.store.port import Salvage
from plexus_registry.store.sqlite import SqliteStore

logger = logging.getLogger(__name__)

OPENING = "opening the database"
RETRY_S = 30.0
READING_PATIENCE_S = 3.0
"""How long a stop waits for declarations that are being read: a large file takes far longer."""


class Service:
    """A registry that serves, to be used as ``async with Service(settings) as service``.

    Args:
        settings: What to serve, where, and from which database.
        sockets: Listening stream sockets to serve instead of the settings' host and port. The
            service closes its descriptors; it neither shuts the sockets down nor unlinks them.
        retry_s: When declarations that could not be written are tried again, in seconds.
        clock: Returns the time in Unix seconds, by which a certificate expires.

    Attributes:
        settings: As given.
        phase: What start-up is doing, in words.
        on_reload: Called when a reload begins.
        on_reloaded: Called when a reload is over, however it went.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        sockets: Sequence[socket.socket] = (),
        retry_s: float = RETRY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.phase = ""
        self.on_reload: Callable[[], None] = _nothing
        self.on_reloaded: Callable[[], None] = _nothing
        self._sockets = sockets
        self._retry_s = retry_s
        self._clock = clock
        self._retry: asyncio.TimerHandle | None = None
        self._commits: Worker | None = None
        self._give_up_reading: Callable[[], None] = _nothing
        self._read_tokens: Callable[[], None] = _nothing
        self._undo = contextlib.AsyncExitStack()
        self._store: SqliteStore | None = None
        self._registry: Registry | None = None
        self._server: Server | None = None
        self._is_ready = False
        self._put_off: list[partial[None]] = []

    @property
    def registry(self) -> Registry:
        """The entries: `Registry.catalog` answers reads. Only while the service runs."""
        if self._registry is None:
            raise RuntimeError("the service is not running: enter it with `async with`")
        return self._registry

    @property
    def salvage(self) -> Salvage | None:
        """What became of the database that was found damaged, if it was."""
        return self._store.salvage if self._store else None

    @property
    def addresses(self) -> list[str]:
        """Where it listens, as ``host:port``; empty unless it runs."""
        return list(self._server.addresses) if self._server else []

    async def start(self) -> None:
        """Open the store, load it, apply what is declared, listen.

        Raises:
            StoreError: If the database cannot be opened.
            ConfigError: If what is declared has faults.
            ListenError: If the address cannot be listened on.
        """
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        settings, loop = self.settings, asyncio.get_running_loop()
        commits = self._commits = Worker("plexus-store", loop)
        self._undo.callback(commits.stop)
        reads = Worker("plexus-config", loop)
        not_read = Fault(str(settings.config), 0, "not read to its end, for the registry stops")
        self._give_up_reading = partial(reads.leave, ConfigError([not_read]))
        self._undo.callback(self._give_up_reading)
        self.phase = OPENING
        store = await commits.run(partial(SqliteStore.open, settings.database))
        self._undo.push_async_callback(commits.run, store.close)
        self._store = store
        if store.salvage is not None:
            log_salvage(store.salvage)
        reader = DeclarationReader(
            settings.config,
            settings.backends,
            unreadable_names=lambda: store.unreadable_names,
            limits=settings.text_limits,
        )
        self._undo.callback(reader.notices.tell_left_out)
        refusals = Notices(logger)
        self._undo.callback(refusals.tell_left_out)
        access = Access(settings.write_access, warn=refusals.warning)
        certificate = self._certificate_reader()
        reading = Reading(reader, settings.token_file, access, certificate)
        # Reading what is declared may take seconds: a token that was revoked is not to outlive it.
        quick = Worker("plexus-tokens", loop)
        self._undo.callback(partial(quick.leave, ConfigError([not_read])))
        self._read_tokens = partial(quick, reading.read_tokens, _tell_nobody)
        self._registry = Registry(
            store,
            Catalog(await commits.run(store.load)),
            commits=commits,
            reads=reads,
            declarations=reading,
            later=loop.call_later,
            max_entries=settings.max_entries,
            limits=settings.text_limits,
        )
        self._registry.on_reloaded = partial(self._reload_ends, reader, reading)
        self._undo.push_async_callback(self._drain)
        self.phase = "applying what is declared"
        # Watched first, then read: what changes in between is not missed.
        watch = Watch(settings.config, self._files_changed, loop=loop, also=reading.files)
        self._undo.callback(watch.stop)
        watch.start()
        self._registry.on_reload = partial(self._reload_begins, watch)
        declared = await reads.run(partial(reading, False))
        if isinstance(declared, Declare):
            await self._expect(partial(self._registry.follow, declared, peer=AT_START))
        if not self._warn_of_missing_file(reader) and reader.is_absent:
            message = "no backends declared in files, there is no file path=%s"
            logger.info(message, settings.config)
        if settings.auto_register is not None:
            await self._auto_register(settings.auto_register, store.unreadable_names)
        hub = Hub(
            self._registry,
            namespace=settings.hub_namespace,
            version=__version__,
            access=access,
            facts=self._facts,
            max_batch=settings.max_batch,
            max_nested_calls=settings.max_nested_calls,
            max_nesting=settings.max_nesting,
            max_answer_bytes=settings.max_answer_size,
        )
        web = Web(check_store=store.check, commits=commits, take=self._snapshot, counts=hub.counts)
        self._undo.callback(web.stop)
        self._server = Server(
            hub,
            max_connections=settings.max_connections,
            max_connections_per_address=settings.max_connections_per_address,
            max_message_size=settings.max_message_size,
            max_buffered_input=settings.max_buffered_input,
            max_buffered_output=settings.max_buffered_output,
            max_pending_calls=settings.max_pending_calls,
            max_small_frames=settings.max_small_frames,
            handshake_timeout_s=settings.handshake_timeout,
            slow_reader_timeout_s=settings.slow_reader_timeout,
            slow_sender_timeout_s=settings.slow_sender_timeout,
            allowed_origins=settings.allowed_origins,
            allowed_hosts={settings.host.lower(), *settings.allowed_hosts},
            tls=certificate.take(None),
            pages=web.pages,
        )
        self._undo.callback(self._server.notices.tell_left_out)
        self._undo.push_async_callback(self._server.stop)
        for passed in self._sockets:
            await self._server.listen_on(passed)
        if not self._sockets:
            await self._server.listen(settings.host, settings.port)
        logger.info(
            "listening address=%s hub=%s entries=%d database=%s",
            ",".join(self.addresses),
            settings.hub_namespace,
            len(self._registry.catalog),
            settings.database,
        )
        self._is_ready = True
        self.phase = "serving"
        while self._put_off:
            self._put_off.pop()()

    async def stop(self) -> None:
        """Stop accepting, finish and commit what was received, release everything. Idempotent."""
        self._is_ready = False
        loop = asyncio.get_running_loop()
        patience = loop.call_later(READING_PATIENCE_S, self._give_up_reading)
        try:
            await self._undo.aclose()
        finally:
            patience.cancel()
        if self._retry is not None:
            self._retry.cancel()
        self._store = self._registry = self._server = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def submit(self, request: Request) -> Event:
        """Carry out one request of `rules` and return its event, once it is on disk."""
        return await _event_of(partial(self.registry.submit, request, peer="embedder"))

    async def reload(self, *, peer: str = "embedder") -> Event:
        """Read what is declared and follow it. Returns `Reloaded`, or `Failed` with the reason."""
        return await _event_of(partial(self.registry.reload, peer=peer))

    def start_reload(self, *, peer: str, explicit: bool = True) -> None:
        """Start a reload that nobody waits for; the log tells how it went.

        While the service starts it is put off, so that what was read earlier cannot overtake it.
        While the service stops, or is stopped, it waits for the next start.

        Args:
            peer: Who asks, for the log.
            explicit: See `Registry.reload`.
        """
        if self._is_ready:
            self._read_tokens()
            self.registry.reload(lambda event: None, peer=peer, explicit=explicit)
        else:
            self._put_off.append(partial(self.start_reload, peer=peer, explicit=explicit))

    def probe_store(self, answers: Callable[[], None]) -> None:
        """Call *answers* once the store's thread has got to it: it does not hang."""
        assert self._commits is not None
        self._commits(lambda: None, lambda outcome: answers())

    def _facts(self) -> Facts:
        store, server = self._store, self._server
        return Facts(
            store_bytes=store.bytes if store else 0,
            connections=len(server.connections) if server else 0,
            max_connections=server.max_connections if server else 0,
        )

    def _snapshot(self) -> Snapshot:
        assert self._server is not None
        max_entries = self.settings.max_entries
        return snapshot.take(self.registry, self._server, self._facts(), max_entries=max_entries)

    # --- parts ------------------------------------------------------------------------------------

    def _certificate_reader(self) -> CertificateReader:
        path, key = self.settings.tls_certificate, self.settings.tls_key
        if path is None:
            return CertificateReader(path, key)
        later = asyncio.get_running_loop().call_later
        expiry = Expiry(path, later=later, clock=self._clock)
        self._undo.callback(expiry.stop)
        return CertificateReader(path, key, expiry=expiry)

    async def _auto_register(self, wanted: Declaration, unreadable_names: Collection[str]) -> None:
        assert self._registry is not None
        if wanted.name in unreadable_names:
            logger.warning(
                "backend not registered, an unreadable row of the database holds its name name=%s",
                word(wanted.name),
            )
            return
        asked = partial(self._registry.submit, AutoRegister(wanted), peer=AT_START)
        await self._expect(asked, is_optional=True)

    def _files_changed(self, cause: str) -> None:
        self.start_reload(peer=cause, explicit=False)

    def _reload_begins(self, watch: Watch) -> None:
        watch.note_reading()
        self.on_reload()

    def _reload_ends(self, reader: DeclarationReader, reading: Reading, event: Event) -> None:
        self.on_reloaded()
        if not isinstance(event, Failed):
            if self._server is not None:
                self._server.tls = reading.certificate.take(self._server.tls)
            self._warn_of_missing_file(reader)
            return
        reading.certificate.forget()
        if isinstance(event, LimitReached):
            reader.forget()
        elif reading.is_sound:
            # What was read is right and could not be written. Nobody saves the file again when
            # the disk has space again, so try by ourselves.
            reader.forget()
            if self._retry is not None:
                self._retry.cancel()
            retry = partial(self.start_reload, peer="retry", explicit=False)
            self._retry = asyncio.get_running_loop().call_later(self._retry_s, retry)

    def _warn_of_missing_file(self, reader: DeclarationReader) -> bool:
        """Say that entries stay whose file is missing, if there are any and it was not said."""
        kept = reader.count_kept(self.registry.catalog)
        if kept:
            logger.warning(
                "declared backends kept, their file is missing path=%s entries=%d, reload"
                " explicitly to forget them",
                self.settings.config,
                kept,
            )
        return kept > 0

    async def _drain(self) -> None:
        idle = asyncio.Event()
        self.registry.drain(idle.set)
        await idle.wait()

    async def _expect(self, ask: partial[None], *, is_optional: bool = False) -> None:
        event = await _event_of(ask)
        if isinstance(event, LimitReached):
            if not is_optional:
                raise ConfigError([Fault(str(self.settings.config), 0, event.message)])
        elif isinstance(event, Failed):
            raise StoreError(event.message)


def _nothing() -> None:
    """Stand in for an observer that nobody needs."""


def _tell_nobody(outcome: object) -> None:
    """Leave it to the reload that follows to tell what is wrong."""


async def _event_of(ask: partial[None]) -> Event:
    answer: asyncio.Future[Event] = asyncio.get_running_loop().create_future()

    def reply(event: Event) -> None:
        if not answer.cancelled():
            answer.set_result(event)

    ask(reply=reply)
    return await answer
