# SPDX-License-Identifier: AGPL-3.0-only
"""systemd holds the sockets: the first connection starts the registry and gets its answer."""

from __future__ import annotations

import pytest

from system.registry import IPV4, IPV6, SERVICE, SOCKET, UNIX, Figure, Registry

BARE = "import asyncio, websockets.server, sqlite3"
TIMING = f"""
import subprocess, sys, time
began = time.monotonic()
subprocess.run([sys.executable, "-c", "{BARE}"], check=True)
print(time.monotonic() - began)
"""


@pytest.mark.parametrize("url", [IPV4, IPV6, UNIX])
def test_first_connection_starts_the_service_and_is_answered(
    registry: Registry, url: str, figure: Figure
) -> None:
    """Inactive, the service is started by the first connection, which gets its answer."""
    registry.register("kept")
    # Compiled bytecode and files in memory, as on a machine that has been up for a while.
    fastest = min(_first_answer_s(registry, url) for _ in range(3))
    figure(f"first answer over {url}", f"{fastest:.2f} s after connecting")
    run = registry.machine.run
    bare = min(float(run("python3", "-c", TIMING).check().stdout) for _ in range(3))
    figure("bare Python with the imports of such a daemon", f"{bare:.2f} s")


def _first_answer_s(registry: Registry, url: str) -> float:
    registry.systemctl("stop", SERVICE).check()
    registry.systemctl("reset-failed").check()
    assert not registry.is_active(SERVICE)
    assert registry.is_active(SOCKET)
    event, seconds = registry.timed("get", url=url, name="kept")
    assert event["backend"]["port"] == 4444
    assert registry.is_active(SERVICE)
    return seconds
