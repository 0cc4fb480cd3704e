# SPDX-License-Identifier: AGPL-3.0-only
"""What monitoring gets: health that asks the store, and metrics that are what happened."""

from __future__ import annotations

import asyncio
import http.client
import logging
import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from plexus_registry import __version__
from plexus_registry.config.settings import Settings
from plexus_registry.errors import StoreUnavailable
from plexus_registry.protocol.counts import Counts
from plexus_registry.server.pages import Answer
from plexus_registry.service.snapshot import Snapshot
from plexus_registry.service.web import Web
from plexus_registry.service.worker import Worker
from support.conversation import conversation
from support.rawsocket import head_of, raw_socket
from support.serving import Served, serving
from support.timing import TIMEOUT_S, wait_until


def get(served: Served, target: str) -> tuple[int, str]:
    """Ask for a page and return its status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", target)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def metrics(served: Served) -> dict[str, float]:
    """Scrape, and return the value of each series by its name and labels."""
    status, text = get(served, "/metrics")
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return {name.removeprefix("plexus_registry_"): value for name, value in found.items()}


# --- health ---------------------------------------------------------------------------------------


def test_health_is_told_while_the_store_answers(served: Served) -> None:
    """In words, with 200."""
    assert get(served, "/healthz") == (200, "ok: the registry serves and its store answers\n")


def test_a_database_that_is_gone_is_no_health(served: Served, settings: Settings) -> None:
    """503 while another file has its name, with the reason in the log and not on the page."""
    database = settings.database
    aside = database.with_name("aside")
    database.rename(aside)
    status, text = get(served, "/healthz")
    assert (status, text) == (
        503,
        "failing: the store cannot be read; the log of the registry says why\n",
    )
    aside.rename(database)
    assert get(served, "/healthz")[0] == 200


class Desk:
    """Pages whose store the test holds up.

    Attributes:
        checks: How often the store was asked.
        counts: What went wrong.
    """

    def __init__(self, patience_s: float) -> None:
        self.checks = 0
        self.fault: Exception | None = None
        self.release = threading.Event()
        self.counts = Counts()
        self.worker = Worker("store", asyncio.get_running_loop())
        self.web = Web(
            check_store=self._check,
            commits=self.worker,
            take=_never,
            counts=self.counts,
            health_patience_s=patience_s,
        )

    def _check(self) -> None:
        self.checks += 1
        assert self.release.wait(TIMEOUT_S)
        if self.fault:
            raise self.fault

    def ask(self) -> asyncio.Future[Answer]:
        """Ask for the health."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.web.pages["/healthz"](answer.set_result)
        return answer


def _never() -> Snapshot:
    raise AssertionError("nobody asked for metrics")


def test_a_store_that_hangs_is_no_health() -> None:
    """503 after a while, for everybody who asked; the store has one check to do, not many."""

    async def live() -> None:
        desk = Desk(patience_s=0.05)
        answers = [await desk.ask() for _ in range(3)]
        assert {answer.status for answer in answers} == {503}
        assert answers[0].body == b"failing: the store has not answered for 0.05 s\n"
        desk.release.set()
        assert (await desk.ask()).status in (200, 503)
        await desk.worker.run(lambda: None)
        assert desk.checks <= 2
        desk.worker.stop()

    asyncio.run(live())


def test_those_who_ask_together_share_one_check() -> None:
    """However many they are; and a failure is told to all of them, without its paths."""

    async def live() -> None:
        desk = Desk(patience_s=TIMEOUT_S)
        desk.fault = StoreUnavailable("database /secret/registry.db cannot be read")
        asked = [desk.ask() for _ in range(50)]
        desk.release.set()
        answers = await asyncio.gather(*asked)
        assert {answer.status for answer in answers} == {503}
        assert b"/secret" not in answers[0].body
        assert desk.checks == 1
        desk.fault = None
        assert (await desk.ask()).status == 200
        desk.worker.stop()

    asyncio.run(live())


def test_one_who_cannot_be_answered_keeps_nobody_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The others get their answers, the log one line, the metrics the number."""

    def broken(answer: Answer) -> None:
        raise OSError("no way to get there")

    async def live() -> None:
        desk = Desk(patience_s=TIMEOUT_S)
        asked = []
        for _ in range(10):
            desk.web.pages["/healthz"](partial(broken))
            asked.append(desk.ask())
        desk.release.set()
        assert {answer.status for answer in await asyncio.gather(*asked)} == {200}
        assert desk.counts.faults == 10
        page: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        desk.web.pages["/"](broken)
        desk.web.pages["/"](page.set_result)
        assert (await page).status == 200
        assert desk.counts.faults == 11
        desk.web.stop()
        desk.worker.stop()

    asyncio.run(live())
    first, told = [it for it in caplog.records if it.levelno >= logging.WARNING]
    assert first.getMessage() == "page could not be sent"
    assert first.exc_info is not None
    assert told.getMessage().endswith("not logged each time: page could not be sent times=10")


# --- metrics --------------------------------------------------------------------------------------


def test_metrics_count_what_happened(served: Served, settings: Settings) -> None:
    """Requests by method and outcome, commits, entries, connections."""
    before = metrics(served)
    with conversation(served.url) as client:
        for name in ("a", "b"):
            client.call("registry.register", {"name": name, "host": "h", "port": 1})
        client.request("registry.register", {"name": "c", "host": "h", "port": 0})
        client.call("registry.deregister", {"name": "b"})
        for spelling in ("registry.get", "registry_get"):
            client.request(spelling, {"name": "a"})
        client.call("registry.get", {"name": "nobody"})
        client.call("registry.list", {"after": "nobody"})
        client.request("registry.get", {})
        client.request("nope")
        client.call("registry.nope")
        client.send("no JSON")
        client.receive()
        after = metrics(served)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["requests_total{method=register,outcome=ok}"] == 2
    assert grown["requests_total{method=register,outcome=error}"] == 1
    assert grown["requests_total{method=deregister,outcome=ok}"] == 1
    assert grown["requests_total{method=get,outcome=ok}"] == 3
    assert grown["requests_total{method=get,outcome=error}"] == 0
    assert grown["requests_total{method=list,outcome=error}"] == 1
    assert grown["requests_total{method=invalid,outcome=error}"] == 4
    assert grown["request_duration_seconds_count{answer=deferred}"] == 3
    assert grown["request_duration_seconds_count{answer=at_once}"] == 6
    assert grown["commit_requests_count"] == grown["commit_requests_sum"] == 3
    assert after["entries{source=manual,state=active}"] == 1
    assert after["entries{source=manual,state=inactive}"] == 1
    assert after["connections"] == 2
    assert grown["connections_accepted_total"] == 2
    assert after["database_bytes"] == served.in_loop(lambda: served.service._facts().store_bytes)
    assert after[f"build_info{{python={sys.version.split()[0]},version={__version__}}}"] == 1


def test_calls_inside_calls_count_as_both(served: Served) -> None:
    """The hub called through itself, and what it called."""
    with conversation(served.url) as client:
        call = {"method": "registry.delete", "params": {"name": "nobody"}}
        client.call("registry-hub.call", call)
    found = metrics(served)
    assert found["requests_total{method=call,outcome=ok}"] == 1
    assert found["requests_total{method=delete,outcome=error}"] == 1
    assert found["requests_total{method=delete,outcome=ok}"] == 0


def test_no_client_can_make_a_series(served: Served) -> None:
    """Names that are made up, in any place of a request, leave the series as they were."""
    before = set(metrics(served))
    with conversation(served.url) as client:
        for number in range(50):
            client.request(f"registry.m{number}")
            client.call(f"registry.m{number}")
            client.call(f"a{number}.m")
            client.call("registry.schema", {"method": f"m{number}"})
    with raw_socket(served.port) as raw:
        raw.send(head_of("X-METHOD /x HTTP/1.1"))
        raw.read_response()
    assert set(metrics(served)) == before


def test_durations_are_cumulative_and_end_in_all(served: Served) -> None:
    """Each bucket holds those before it, as Prometheus expects."""
    with conversation(served.url) as client:
        for _ in range(20):
            client.call("registry.list")
    _, text = get(served, "/metrics")
    buckets = [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.endswith("duration_seconds_bucket") and sample.labels["answer"] == "at_once"
    ]
    bounds = [float(sample.labels["le"]) for sample in buckets]
    counts = [sample.value for sample in buckets]
    assert bounds == sorted(bounds)
    assert counts == sorted(counts)
    assert bounds[-1] == float("inf")
    assert counts[-1] == 20


def test_reloads_are_counted(served: Served, settings: Settings) -> None:
    """Those that were done and those that failed, and when and how the last one was."""
    assert "last_reload_ok" not in metrics(served)
    with conversation(served.url) as client:
        client.call("registry.reload")
        done = metrics(served)
        assert (done["reloads_total{outcome=ok}"], done["last_reload_ok"]) == (1, 1)
        settings.config.write_text("[[backend]]\n")
        client.call("registry.reload")
    failed = metrics(served)
    assert failed["reloads_total{outcome=error}"] >= 1
    assert failed["last_reload_ok"] == 0
    assert failed["last_reload_timestamp_seconds"] >= done["last_reload_timestamp_seconds"] > 1e9


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"Origin": "https://evil.example"}, "origin"),
        ({"Host": "evil.example"}, "host"),
        ({"Upgrade": None}, "request"),
        ({"Upgrade": "h2c"}, "request"),
        ({"Sec-WebSocket-Key": None}, "request"),
        ({"Sec-WebSocket-Version": "8"}, "request"),
        ({"Content-Length": "1"}, "request"),
        ({"X": "x" * 9000}, "request"),
        ({"X y": "no name of a header"}, "request"),
    ],
)
def test_refused_connections_are_counted(
    served: Served, headers: dict[str, str | None], reason: str
) -> None:
    """By the reason that the client was told."""
    with raw_socket(served.port) as raw:
        raw.send(head_of("GET /x HTTP/1.1", headers))
        raw.read_response()
    assert metrics(served)[f"connections_refused_total{{reason={reason}}}"] == 1


def test_ping_of_what_is_not_there_counts_as_an_error(served: Served) -> None:
    """Though it is answered by an event of its own and not by one of type `error`."""
    with conversation(served.url) as client:
        assert client.call("registry.ping", "nobody").content["success"] is False
    found = metrics(served)
    assert found["requests_total{method=ping,outcome=error}"] == 1
    assert found["requests_total{method=ping,outcome=ok}"] == 0


def test_scrapes_share_what_is_made(served: Served) -> None:
    """Many at once are answered alike, and the registry answers others meanwhile."""
    answers: list[tuple[int, str]] = []
    threads = [
        threading.Thread(target=lambda: answers.append(get(served, "/metrics"))) for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    with conversation(served.url) as client:
        assert client.call("registry.list").content["backends"] == []
    for thread in threads:
        thread.join()
    assert [status for status, _ in answers] == [200] * 16


def test_a_page_that_cannot_be_made_is_told(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """500, with the reason in the log; the next one is made again."""
    with monkeypatch.context() as broken:
        broken.setattr("plexus_registry.service.web._render_metrics", _raise)
        status, text = get(served, "/metrics")
    assert (status, text) == (
        500,
        "This page could not be made; the log of the registry says why.\n",
    )
    assert "page failed" in caplog.text
    assert get(served, "/metrics")[0] == 200


def _raise(snapshot: Snapshot) -> Answer:
    raise OSError("no such file")


def test_the_library_is_loaded_when_it_is_needed(settings: Settings) -> None:
    """Not before somebody scrapes, and then in another thread than the event loop's."""
    program = """
import asyncio, pathlib, sys, threading
from plexus_registry import Service, Settings

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "prometheus_client":
            print(threading.current_thread().name)

async def main():
    files = {"database": pathlib.Path(sys.argv[1]), "config": pathlib.Path(sys.argv[2])}
    async with Service(Settings(port=0, auto_register=None, **files)) as service:
        print("prometheus_client" in sys.modules, "plexus_registry.service.metrics" in sys.modules)
        sys.meta_path.insert(0, Watch())
        reader, writer = await asyncio.open_connection(*service.addresses[0].split(":"))
        writer.write(b"GET /metrics HTTP/1.0\\r\\n\\r\\n")
        print((await reader.read()).split(b"\\r\\n")[0].decode())
        writer.close()

asyncio.run(main())
"""
    command = [sys.executable, "-c", program, str(settings.database), str(settings.config)]
    root = str(Path(sys.modules["plexus_registry"].__file__ or "").parents[1])
    ended = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout.splitlines() == ["False False", "plexus-web", "HTTP/1.1 200 OK"]


def test_a_stop_while_metrics_are_made(settings: Settings) -> None:
    """Nothing hangs, whoever waits for them."""
    with serving(settings) as served, raw_socket(served.port) as raw:
        raw.send(head_of("GET /metrics HTTP/1.1", {"Upgrade": None}))
        wait_until(lambda: served.server.counts.accepted, "the request")
