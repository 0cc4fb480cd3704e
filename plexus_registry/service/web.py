# SPDX-License-Identifier: AGPL-3.0-only
"""The pages that the registry has for browsers and monitoring, beside its WebSocket.

Whoever asks at the same time shares one look at the store and one page of metrics: asking often
costs the registry no more than asking.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib import resources
from typing import Final

from plexus_registry.notices import Notices
from plexus_registry.protocol.counts import Counts
from plexus_registry.registry import Offload
from plexus_registry.server.pages import Answer, Page
from plexus_registry.service.snapshot import Snapshot
from plexus_registry.service.worker import Worker

logger = logging.getLogger(__name__)

HEALTH_PATIENCE_S: Final = 2.0
"""How long the store may take to answer before it counts as hanging."""
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
STATUS_PAGE: Final = "status.html"
STOPPING: Final = "the registry is stopping"

Give = Callable[[Answer], None]


class Web:
    """The pages, by path.

    Args:
        check_store: Reads from the store. Blocks; raises if it cannot.
        commits: Runs the store's work.
        take: Returns a snapshot.
        counts: Counts faults of ours.
        health_patience_s: How long the store may take to answer.

    Attributes:
        pages: For `plexus_registry.server.listener.Server`.
    """

    def __init__(
        self,
        *,
        check_store: Callable[[], None],
        commits: Offload,
        take: Callable[[], Snapshot],
        counts: Counts,
        health_patience_s: float = HEALTH_PATIENCE_S,
    ) -> None:
        self._worker: Worker | None = None
        self._take = take
        self._desk = desk = _Desk(counts)
        self._health = _Health(check_store, commits, health_patience_s, desk)
        self._metrics = _Shared(self._make_metrics, desk)
        self._status = _Shared(self._make_status, desk)
        self._status_page: Answer | None = None
        self.pages: Mapping[str, Page] = {
            "/": self._give_status,
            "/healthz": self._health,
            "/metrics": self._metrics,
        }

    def stop(self) -> None:
        """Let go of the thread; what is not done is answered with 503."""
        if self._worker is not None:
            self._worker.leave(RuntimeError(STOPPING))
        self._desk.notices.tell_left_out()

    def _run(self, job: Callable[[], Answer], done: Callable[[Answer | Exception], None]) -> None:
        """Run *job* in a thread that is there from the first page on."""
        if self._worker is None:
            self._worker = Worker("plexus-web", asyncio.get_running_loop())
        self._worker(job, done)

    def _make_metrics(self, done: Callable[[Answer | Exception], None]) -> None:
        self._run(partial(_render_metrics, self._take()), done)

    def _give_status(self, give: Give) -> None:
        if self._status_page is not None:
            give(self._status_page)
        else:
            self._status(give)

    def _make_status(self, done: Callable[[Answer | Exception], None]) -> None:
        def keep(outcome: Answer | Exception) -> None:
            if isinstance(outcome, Answer):
                self._status_page = outcome
            done(outcome)

        self._run(_load_status_page, keep)


class _Desk:
    """Hands answers out.

    Args:
        counts: Counts faults of ours.

    Attributes:
        notices: Logs what whoever asks again can cause again.
    """

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self.notices = Notices(logger)

    def tell_fault(self, message: str, error: Exception) -> None:
        """Log and count what should not be."""
        self._counts.faults += 1
        self.notices.log(logging.ERROR, message, exc_info=error)

    def give(self, waiting: Iterable[Give], answer: Answer) -> None:
        """Answer all who wait, also behind one who cannot be answered."""
        for give in waiting:
            try:
                give(answer)
            except Exception as error:
                self.tell_fault("page could not be sent", error)


class _Shared:
    """A page that is made once for all who ask meanwhile."""

    def __init__(
        self, make: Callable[[Callable[[Answer | Exception], None]], None], desk: _Desk
    ) -> None:
        self._make = make
        self._desk = desk
        self._waiting: list[Give] = []

    def __call__(self, give: Give) -> None:
        self._waiting.append(give)
        if len(self._waiting) == 1:
            self._make(self._made)

    def _made(self, outcome: Answer | Exception) -> None:
        waiting, self._waiting = self._waiting, []
        if isinstance(outcome, Exception):
            self._desk.tell_fault("page failed", outcome)
            text = b"This page could not be made; the log of the registry says why.\n"
            outcome = Answer(text, status=http.HTTPStatus.INTERNAL_SERVER_ERROR)
        self._desk.give(waiting, outcome)


class _Health:
    """Says whether the store answers. A store that hangs is not asked a second time meanwhile."""

    def __init__(
        self, check: Callable[[], None], commits: Offload, patience_s: float, desk: _Desk
    ) -> None:
        self._check = check
        self._commits = commits
        self._patience_s = patience_s
        self._is_checking = False
        self._waiting: dict[Give, asyncio.TimerHandle] = {}
        self._desk = desk

    def __call__(self, give: Give) -> None:
        loop = asyncio.get_running_loop()
        self._waiting[give] = loop.call_later(self._patience_s, self._give_up, give)
        if not self._is_checking:
            self._is_checking = True
            self._commits(self._check, self._checked)

    def _checked(self, outcome: Exception | None) -> None:
        self._is_checking = False
        waiting, self._waiting = self._waiting, {}
        answer = Answer(b"ok: the registry serves and its store answers\n")
        if outcome is not None:
            answer = _ill("the store cannot be read; the log of the registry says why")
            self._desk.notices.log(
                logging.ERROR, "store cannot be read reason=%s", outcome, kind=str(outcome)
            )
        for timer in waiting.values():
            timer.cancel()
        self._desk.give(waiting, answer)

    def _give_up(self, give: Give) -> None:
        del self._waiting[give]
        self._desk.notices.warning("store does not answer patience_s=%g", self._patience_s)
        self._desk.give([give], _ill(f"the store has not answered for {self._patience_s:g} s"))


def _ill(reason: str) -> Answer:
    return Answer(f"failing: {reason}\n".encode(), status=http.HTTPStatus.SERVICE_UNAVAILABLE)


def _render_metrics(snapshot: Snapshot) -> Answer:
    # The library takes a tenth of a second to be imported.
    from plexus_registry.service import metrics

    return Answer(metrics.render(snapshot), METRICS_TYPE)


def _load_status_page() -> Answer:
    """Read the page, and allow it its own script and style, and nothing else."""
    page = resources.files(__package__).joinpath(STATUS_PAGE).read_bytes()
    sources = {tag: _hash_of(page, tag) for tag in ("script", "style")}
    policy = "; ".join(
        [
            "default-src 'none'",
            *(f"{tag}-src 'sha256-{digest}'" for tag, digest in sources.items()),
            "connect-src 'self'",
            "img-src data:",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
            *(f"{name} 'none'" for name in ("base-uri", "form-action", "frame-ancestors")),
        ]
    )
    headers = (f"Content-Security-Policy: {policy}", "Referrer-Policy: no-referrer")
    return Answer(page, "text/html; charset=utf-8", headers=headers)


def _hash_of(page: bytes, tag: str) -> str:
    """Return what a policy names the page's only script or style by (CSP 3, 6.7.2.2)."""
    [content] = re.findall(rb"<%b>(.*?)</%b>" % (tag.encode(), tag.encode()), page, re.DOTALL)
    return base64.b64encode(hashlib.sha256(content).digest()).decode()
