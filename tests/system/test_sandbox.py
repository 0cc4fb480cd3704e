# SPDX-License-Identifier: AGPL-3.0-only
"""What the daemon may do, on the machine, under exactly the unit that is shipped."""

from __future__ import annotations

import re
import stat

from system.registry import SERVICE, SOCKET, STATE, UNIX, Figure, Registry

EXPOSURE_AIM = 1.2
EXPOSURE_MAX = 1.5

# Besides its own directory, what every service has: folders of its own alone, devices without
# memory, and where it tells systemd how scarce memory is for it.
MAY_WRITE = re.compile(
    rf"{STATE}(/.*)?|/tmp|/var/tmp|/dev/(full|null|ptmx|random|tty|urandom|zero|shm|mqueue|pts/.*)"
    rf"|/sys/fs/cgroup/system\.slice/{SERVICE}/memory\.pressure"
)


def test_process_and_state_belong_to_the_account(registry: Registry) -> None:
    """The daemon runs as plexus-registry, and only that account can read the state directory."""
    root = registry.machine.root
    uid, home = registry.machine.account("plexus-registry")
    assert home == STATE
    uids = set(_process(registry, "Uid").split())
    assert uids == {str(uid)}
    registry.register("written")
    state = root / STATE.lstrip("/")
    owned = {
        path.name: (path.stat().st_uid, stat.filemode(path.stat().st_mode))
        for path in state.iterdir()
    }
    assert "registry.db" in owned
    assert set(owned.values()) == {(uid, "-rw-------")}
    assert state.stat().st_uid == uid
    assert stat.filemode(state.stat().st_mode) == "drwx------"


def test_daemon_has_no_privileges(registry: Registry) -> None:
    """It has no capability, can gain none, and its system calls are filtered."""
    assert _process(registry, "NoNewPrivs") == "1"
    assert _process(registry, "Seccomp") == "2"
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(_process(registry, kind), 16) == 0


def _process(registry: Registry, field: str) -> str:
    status = registry.machine.run("cat", f"/proc/{registry.pid}/status").check().stdout
    (value,) = re.findall(rf"^{field}:\s*(.*)$", status, re.MULTILINE)
    return str(value)


def test_daemon_can_write_in_its_directories_only(registry: Registry, figure: Figure) -> None:
    """In the daemon's own view of the file system its account can write nowhere else."""
    uid, _ = registry.machine.account("plexus-registry")
    found = registry.machine.run(
        *("nsenter", f"--target={registry.pid}", "--mount", f"--setuid={uid}", f"--setgid={uid}"),
        *("find", "/", "-path", "/proc", "-prune", "-o", "-writable", "(", "-type", "f", "-o"),
        *("-type", "d", "-o", "-type", "c", "-o", "-type", "b", ")", "-print"),
    )
    places = found.stdout.splitlines()
    assert STATE in places
    assert [place for place in places if not MAY_WRITE.fullmatch(place)] == []
    figure("writable for the daemon", ", ".join(places))


def test_nothing_is_written_outside_of_its_directories(registry: Registry) -> None:
    """After all kinds of work no file of the machine has changed but the registry's and logs."""
    run = registry.machine.run
    run("touch", "/run/began").check()
    drive(registry)
    changed = run(
        *("find", "/", "(", "-path", "/proc", "-o", "-path", "/sys", ")", "-prune", "-o"),
        *("-newer", "/run/began", "-not", "-type", "d", "-not", "-type", "c", "-print"),
    ).stdout.splitlines()
    expected = re.compile(
        rf"{STATE}/registry\.db(-wal|-shm|\.lock)?|/(var|run)/log/journal/.*|/run/systemd/.*|/etc/plexus/.*"
        r"|/run/plexus-registry/registry\.sock|/run/began|/srv/.*"
    )
    assert [path for path in changed if not expected.fullmatch(path)] == []
    assert f"{STATE}/registry.db" in changed or f"{STATE}/registry.db-wal" in changed


def drive(registry: Registry) -> None:
    """Make the registry do everything that it can do."""
    registry.register("driven")
    registry.ask("update", name="driven", port=4555)
    registry.ask("deregister", url=UNIX, name="driven")
    registry.ask("ping", name="driven")
    registry.ask("delete", name="driven")
    registry.declare(driven=4001)
    registry.wait(lambda: registry.port_of("driven") == 4001, "a saved file to be followed")
    registry.declare(driven=0)
    assert registry.systemctl("reload", SERVICE).status != 0
    registry.declare(driven=4002)
    registry.systemctl("reload", SERVICE).check()
    registry.signal("HUP")
    registry.begin_load()
    registry.await_load(100)
    registry.end_load()
    registry.systemctl("restart", SERVICE).check()
    registry.systemctl("restart", SOCKET).check()
    assert registry.port_of("driven") == 4002


def test_no_system_call_is_refused(registry: Registry) -> None:
    """With a filter that kills instead of refusing, the daemon does everything and lives."""
    registry.drop_in("[Service]\nSystemCallErrorNumber=\n")
    registry.systemctl("restart", SERVICE).check()
    drive(registry)
    assert registry.show("NRestarts") == "0"
    assert registry.show("Result") == "success"
    ended = registry.machine.run("journalctl", "--output=cat", f"--unit={SERVICE}", "_PID=1").stdout
    assert "SYS" not in ended
    # That this filter kills: a shell in the same unit, which asks for more than it may.
    registry.drop_in(
        "[Service]\nSystemCallErrorNumber=\nType=oneshot\nExecStart=\n"
        "ExecStart=/usr/bin/python3 -c 'import os; os.chroot(\"/\")'\nRestart=no\n"
    )
    assert registry.systemctl("restart", SERVICE).status != 0
    assert registry.show("ExecMainStatus") == "31"


def test_exposure_is_low(registry: Registry, figure: Figure) -> None:
    """`systemd-analyze security` stays below the gate, and the aim is shown beside it."""
    result = registry.machine.run("systemd-analyze", "security", "--no-pager", SERVICE).check()
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", result.stdout)
    figure("systemd-analyze security", f"{exposure} (aim {EXPOSURE_AIM}, gate {EXPOSURE_MAX})")
    assert float(exposure) <= EXPOSURE_MAX


def test_units_are_clean(registry: Registry) -> None:
    """`systemd-analyze verify` says nothing about any of the four units."""
    run = registry.machine.run
    for folder in ("system", "user"):
        for unit in (SERVICE, SOCKET):
            verified = run(
                *("systemd-analyze", f"--{folder}", "--man=no", "verify"),
                f"/usr/lib/systemd/{folder}/{unit}",
                environ={"XDG_RUNTIME_DIR": "/run"},
            ).check()
            assert verified.stdout + verified.stderr == ""
