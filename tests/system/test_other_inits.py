# SPDX-License-Identifier: AGPL-3.0-only
"""The package on a Debian whose init is not systemd: SysV init, OpenRC."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from system.base import Cache
from system.command import Result, in_tree
from system.machine import Boot, Machine
from system.packages import OPENRC, SYSV, Packages
from system.registry import BACKENDS, Figure, Registry, declaration

EXAMPLES = "/usr/share/doc/plexus-registry/examples"
PID_FILE = "/run/plexus-registry/plexus-registry.pid"
# For each init: its packages, how an operator enables the script, how it is called.
INITS = {
    "sysv": (SYSV, "update-rc.d plexus-registry defaults", "service plexus-registry"),
    "openrc": (OPENRC, "rc-update add plexus-registry default", "rc-service plexus-registry"),
}


@pytest.fixture(params=INITS)
def init(request: pytest.FixtureRequest) -> str:
    """Return the name of an init."""
    name: str = request.param
    return name


@pytest.fixture
def roots(cache: Cache, base: Path, packages: Packages, init: str) -> list[Path]:
    """Return what a Debian with that init is made of, with the package and the init's script."""
    needed, enable, _ = INITS[init]

    def install(root: Path) -> None:
        shutil.copy(packages.old, root / "srv")
        apt = "apt-get -qq --yes --no-install-recommends --allow-remove-essential install"
        steps = (
            f"{apt} {needed}",
            f"{apt} /srv/{packages.old.name}",
            f"install -m 0755 {EXAMPLES}/{init}/plexus-registry /etc/init.d/",
            enable,
        )
        in_tree(root, ["sh", "-ec", "\n".join(steps)]).check()

    return [cache.layer(init, [base], install, INITS[init], str(packages.old)), base]


def test_script_starts_reloads_and_stops_the_registry(
    init: str, roots: list[Path], boot: Boot, figure: Figure
) -> None:
    """Booted without systemd: started at boot, reloaded with good and bad files, stopped."""
    with boot(*roots, init="/sbin/init") as machine:
        registry = Registry(machine)
        assert not (machine.root / "run/systemd/system").exists()

        def service(verb: str) -> Result:
            return machine.sh(f"{INITS[init][2]} {verb}")

        # Its runlevel is reported before the scripts of the runlevel have run.
        registry.wait(lambda: registry.try_ask("list").status == 0, "the start at boot")
        service("status").check()
        figure(f"boot with {init}", f"{machine.boot_s:.1f} s")
        registry.register("kept")
        _, home = machine.account("plexus-registry")
        assert _owner(machine, registry) == "plexus-registry"
        assert (machine.root / home.lstrip("/") / "registry.db").exists()

        registry.put(BACKENDS, declaration(declared=4001))
        service("reload").check()
        registry.wait(lambda: registry.port_of("declared") == 4001, "the reload")
        registry.wait(lambda: "peer=SIGHUP" in _log(machine), "the signal that the script sent")

        registry.put(BACKENDS, declaration(declared=0))
        refused = service("reload")
        assert refused.status != 0
        assert f"{BACKENDS}:4: port: 0 is not accepted" in refused.stdout + refused.stderr
        assert registry.port_of("declared") == 4001
        # It could not start again: it is not stopped.
        before = _pid(machine)
        assert service("restart").status != 0
        assert _pid(machine) == before
        service("stop").check()
        refused = service("start")
        assert refused.status != 0
        assert f"{BACKENDS}:4: port: 0 is not accepted" in refused.stdout + refused.stderr

        registry.put(BACKENDS, declaration(declared=4002))
        started = service("start").check()
        figure(f"start by {init}", f"{started.seconds:.2f} s")
        assert registry.port_of("declared") == 4002
        assert registry.port_of("kept") == 4444
        before = _pid(machine)
        service("restart").check()
        assert _pid(machine) != before
        assert registry.port_of("kept") == 4444

        service("stop").check()
        assert service("status").status == 3
        assert "refused" in registry.try_ask("list").stderr
        assert machine.run("test", "-e", PID_FILE).status != 0
        listening = rf"plexus-registry\[{before}\]: listening address=127\.0\.0\.1:4445"
        assert re.search(listening, _log(machine))


def _log(machine: Machine) -> str:
    return machine.sh("cat /var/log/syslog /var/log/daemon.log 2>/dev/null; true").stdout


def _pid(machine: Machine) -> int:
    return int(machine.run("cat", PID_FILE).check().stdout)


def _owner(machine: Machine, registry: Registry) -> str:
    stat = registry.machine.run("stat", "--format=%U", f"/proc/{_pid(machine)}").check()
    return stat.stdout.strip()
