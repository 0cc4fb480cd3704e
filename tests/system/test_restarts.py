# SPDX-License-Identifier: AGPL-3.0-only
"""Start, status, stop and restart, also while a client calls in a loop."""

from __future__ import annotations

from system.registry import IPV4, SERVICE, SOCKET, UNIX, Figure, Registry

RESTARTS = 5


def test_start_of_the_service_starts_its_sockets(registry: Registry) -> None:
    """With both stopped nobody listens; `systemctl start` of the service brings the sockets."""
    registry.systemctl("stop", SOCKET, SERVICE).check()
    assert "refused" in registry.try_ask("list").stderr
    registry.systemctl("start", SERVICE).check()
    assert registry.is_active(SOCKET)
    registry.register("after")
    assert registry.port_of("after") == 4444


def test_status_says_what_the_registry_holds(registry: Registry) -> None:
    """`systemctl status` has a line with the number of entries, a source each."""
    registry.declare(declared=4001)
    registry.systemctl("reload", SERVICE).check()
    registry.register("manual")
    expected = 'Status: "serving 3 backends (1 auto, 1 file, 1 manual); last reload '
    registry.wait(lambda: expected in registry.systemctl("status", SERVICE).stdout, expected)


def test_stop_ends_the_service_and_keeps_the_sockets(registry: Registry) -> None:
    """`systemctl stop` ends the daemon with status 0 and its sockets stay open."""
    registry.register("kept")
    registry.systemctl("stop", SERVICE).check()
    assert registry.show("Result") == "success"
    assert registry.show("ExecMainStatus") == "0"
    assert registry.is_active(SOCKET)
    assert any(text.startswith("stopping") for text in registry.messages())
    assert "stopped" in registry.messages()
    for url in (IPV4, UNIX):
        assert registry.ask("get", url=url, name="kept")["backend"]["port"] == 4444


def test_restarts_refuse_no_client_and_lose_no_write(registry: Registry, figure: Figure) -> None:
    """A client that calls in a loop sees no refused connection; acknowledged writes are kept."""
    registry.begin_load()
    for _ in range(RESTARTS):
        before = registry.pid
        registry.systemctl("restart", SERVICE).check()
        assert registry.pid != before
        registry.await_load(20)
    load = registry.end_load()
    assert load.faults == []
    # What it had received it answered: unanswered is what was sent when it had said good-bye.
    assert load.unanswered <= RESTARTS
    assert set(load.acknowledged) <= set(registry.names())
    registry.systemctl("restart", SERVICE).check()
    assert set(load.acknowledged) <= set(registry.names())
    figure("restarts under a client in a loop", RESTARTS)
    figure("acknowledged writes, all of them kept", len(load.acknowledged))
    figure("calls that met the good-bye, and were made again", load.unanswered)
    figure("longest time without an answer", f"{load.gap_s:.2f} s")


def test_stops_refuse_no_client_either(registry: Registry, figure: Figure) -> None:
    """The service is stopped under a client in a loop: its next connection starts it again."""
    registry.begin_load()
    for _ in range(RESTARTS):
        registry.systemctl("stop", SERVICE).check()
        registry.await_load(20)
    load = registry.end_load()
    assert load.faults == []
    assert set(load.acknowledged) <= set(registry.names())
    figure("stops under a client in a loop", RESTARTS)
    figure("longest time without an answer", f"{load.gap_s:.2f} s")
