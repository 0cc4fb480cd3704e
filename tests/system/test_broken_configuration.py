# SPDX-License-Identifier: AGPL-3.0-only
"""A registry whose configuration has a fault: said once for each attempt, and no restart storm."""

from __future__ import annotations

import time

import pytest

from system.registry import BACKENDS, CONFIGURATION, SERVICE, SOCKET, Figure, Registry

BROKEN = {
    BACKENDS: ('[[backend]]\nname = "x"\nhost = "127.0.0.1"\nport = 0\n', f"{BACKENDS}:4: port: 0"),
    f"{CONFIGURATION}/registry.toml": (
        "port = true\n",
        f"{CONFIGURATION}/registry.toml:1: port: true",
    ),
}
CLIENTS = 4
CONFIG_REFUSED = "2a3aa8ae996d490aa7add5c33826ef0e"


@pytest.mark.parametrize("path", BROKEN)
def test_each_attempt_says_once_what_is_wrong(registry: Registry, path: str) -> None:
    """Start fails with status 78 and one clear line; the sockets stay; mended, it serves again."""
    text, message = BROKEN[path]
    registry.register("kept")
    good = registry.machine.run("cat", path).check().stdout
    registry.systemctl("stop", SERVICE).check()
    registry.put(path, text)

    assert registry.systemctl("start", SERVICE).status != 0
    _assert_refused(registry, message, attempts=1)
    # A client is another attempt: it is turned away, and does not keep systemd busy.
    assert registry.try_ask("list").status != 0
    registry.wait(lambda: registry.show("ActiveState") == "failed", "the second attempt to fail")
    _assert_refused(registry, message, attempts=2)

    registry.put(path, good)
    assert registry.port_of("kept") == 4444
    assert registry.is_active()


def _assert_refused(registry: Registry, message: str, attempts: int) -> None:
    assert registry.show("ActiveState") == "failed"
    assert registry.show("ExecMainStatus") == "78"
    assert registry.show("NRestarts") == "0"
    assert registry.is_active(SOCKET)
    assert message in registry.status
    own = [entry for entry in registry.journal("--priority=warning") if entry["_PID"] != "1"]
    assert len(own) == attempts, [entry["MESSAGE"] for entry in own]
    assert all(message in entry["MESSAGE"] for entry in own)
    assert {entry["MESSAGE_ID"] for entry in own} == {CONFIG_REFUSED}
    assert {entry["PRIORITY"] for entry in own} == {"2"}


def test_clients_that_do_not_give_up_cause_no_storm(registry: Registry, figure: Figure) -> None:
    """However often clients try, systemd tries rarely and keeps the sockets; mended, it serves."""
    text, message = BROKEN[BACKENDS]
    registry.register("kept")
    registry.systemctl("stop", SERVICE).check()
    registry.put(BACKENDS, text)
    limit_s = int(registry.show("StartLimitIntervalUSec").removesuffix("s"))
    end = time.monotonic() + limit_s + 2
    clients = 0
    while time.monotonic() < end:
        trying = [registry.start_asking("list") for _ in range(CLIENTS)]
        assert all(client.finish().status != 0 for client in trying)
        clients += CLIENTS
    attempts = sum(message in told for told in registry.messages("--priority=crit"))
    figure(f"attempts to start for {clients} clients in {limit_s + 2} s", attempts)
    assert 1 <= attempts < int(registry.show("StartLimitBurst"))
    assert registry.is_active(SOCKET)
    registry.put(BACKENDS, "")
    registry.wait(lambda: registry.try_ask("list").status == 0, "the registry to serve again")
    assert registry.port_of("kept") == 4444
