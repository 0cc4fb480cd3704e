# SPDX-License-Identifier: AGPL-3.0-only
"""systemd restarts a registry that hangs: all of it, or only the thread that writes to the disk."""

from __future__ import annotations

import time

from system.registry import SERVICE, Figure, Registry

LIMIT_S = 2
LIMITS = f"[Service]\nWatchdogSec={LIMIT_S}\nTimeoutAbortSec=5\n"

# A control group of threads (cgroups(7)): freezing it hangs them and leaves the others alone.
FREEZE = """
group=/sys/fs/cgroup/$1/frozen
mkdir "$group"
echo threaded >"$group/cgroup.type"
echo "$2" >"$group/cgroup.threads"
echo 1 >"$group/cgroup.freeze"
until grep -q 'frozen 1' "$group/cgroup.events"; do sleep 0.01; done
"""


def test_stopped_process_is_replaced(registry: Registry, figure: Figure) -> None:
    """After SIGSTOP the watchdog starves, systemd starts the registry anew, nothing is lost."""
    _watch_closely(registry)
    registry.register("kept")
    began = time.monotonic()
    registry.signal("STOP")
    _await_restart(registry)
    figure(f"stopped, served again (WatchdogSec={LIMIT_S})", f"{time.monotonic() - began:.1f} s")
    assert registry.port_of("kept") == 4444


def test_hanging_writer_is_noticed_though_the_event_loop_lives(
    registry: Registry, figure: Figure
) -> None:
    """Only the thread that writes is frozen: questions are answered, and systemd restarts it."""
    _watch_closely(registry)
    registry.register("kept")
    writer = _writer_thread(registry)
    assert writer != registry.pid
    began = time.monotonic()
    group = registry.show("ControlGroup")
    registry.machine.run("sh", "-ec", FREEZE, "sh", group, str(writer)).check()
    assert registry.port_of("kept") == 4444
    assert registry.show("NRestarts") == "0"
    _await_restart(registry)
    figure(f"hung, served again (WatchdogSec={LIMIT_S})", f"{time.monotonic() - began:.1f} s")
    assert registry.port_of("kept") == 4444
    registry.register("after")
    # What was hanging is said by the traceback of the one that ended.
    words = [entry for entry in registry.journal() if "Fatal Python error" in entry["MESSAGE"]]
    assert [(entry["MESSAGE"], entry["PRIORITY"]) for entry in words] == [
        ("Fatal Python error: Aborted", "3")
    ]


def _watch_closely(registry: Registry) -> None:
    registry.drop_in(LIMITS)
    registry.systemctl("restart", SERVICE).check()


def _await_restart(registry: Registry) -> None:
    registry.wait(lambda: registry.show("NRestarts") == "1", "systemd to restart the registry")
    registry.wait(registry.is_active, "the registry to be ready again")
    assert any("Watchdog timeout" in text for text in registry.messages())


def _writer_thread(registry: Registry) -> int:
    """Return the thread that works most while entries are written, the main one aside."""
    before = _waits(registry)
    for number in range(5):
        registry.register(f"busy-{number}")
    after = _waits(registry)
    return max(after, key=lambda thread: after[thread] - before.get(thread, 0))


def _waits(registry: Registry) -> dict[int, int]:
    """Count how often each thread but the main one has gone to sleep."""
    pid = registry.pid
    listed = registry.machine.sh(
        f"cd /proc/{pid}/task && grep ^voluntary_ctxt_switches: */status"
    ).check()
    counts = {}
    for line in listed.stdout.splitlines():
        path, _, count = line.split(":")
        counts[int(path.partition("/")[0])] = int(count)
    del counts[pid]
    return counts
