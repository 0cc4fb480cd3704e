# SPDX-License-Identifier: AGPL-3.0-only
"""The package: built, installed, upgraded, downgraded, removed, purged."""

from __future__ import annotations

import re
from pathlib import Path

from system.machine import Boot
from system.packages import BUILD_AS_DOCUMENTED, ROOT, Packages
from system.registry import BACKENDS, CONFIGURATION, SERVICE, SOCKET, STATE, Figure, Registry


def test_package_builds_with_its_tests_and_lintian_is_silent(
    packages: Packages, figure: Figure
) -> None:
    """dpkg-buildpackage runs the tests on the tree to be installed; lintian fails on warnings."""
    counted = re.findall(r"\b(\d+) passed\b.* in ([\d.]+)s", packages.log)
    assert counted, packages.log
    figure("tests at build", f"{counted[-1][0]} passed in {counted[-1][1]} s")
    hints = re.findall(r"^[EWIPX]: plexus-registry[^:]*: .*$", packages.log, re.MULTILINE)
    assert [hint for hint in hints if hint.startswith(("E", "W"))] == []
    figure("hints of lintian", "; ".join(hints) or "none, informational and pedantic included")


def test_the_documented_command_builds_the_same_package(packages: Packages) -> None:
    """The README's dpkg-buildpackage gives the very same file: builds are reproducible."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"`{BUILD_AS_DOCUMENTED}`" in readme
    assert packages.again.name == packages.old.name
    assert packages.again.read_bytes() == packages.old.read_bytes()


def test_install_makes_a_running_service(
    base: Path, boot: Boot, packages: Packages, figure: Figure
) -> None:
    """`apt install` of the file enables and starts everything; the journal has no warning."""
    with boot(base) as machine:
        installed = machine.run(
            *("apt-get", "install", "--yes", f"/srv/{packages.old.name}"), timeout_s=300
        ).check()
        figure("apt install", f"{installed.seconds:.1f} s")
        registry = Registry(machine)
        for unit in (SOCKET, SERVICE):
            assert registry.is_active(unit)
            assert registry.show("UnitFileState", unit) == "enabled"
            of_users = machine.run("systemctl", "--global", "is-enabled", unit)
            assert of_users.stdout == "disabled\n"  # a user's own is the user's choice
        assert registry.messages("--priority=warning") == []
        registry.register("first")
        assert registry.show("NRestarts") == "0"
        assert machine.run("dpkg", "--verify", "plexus-registry").check().stdout == ""
        assert machine.run("systemctl", "is-system-running").stdout.strip() == "running"


def test_upgrade_and_downgrade_refuse_no_client_and_lose_no_write(
    registry: Registry, packages: Packages, figure: Figure
) -> None:
    """Under a client in a loop the package goes to the next version and back."""
    sockets_since = registry.show("ActiveEnterTimestampMonotonic", SOCKET)
    versions = [packages.old_version]
    for name, version, package in (
        ("upgrade", packages.new_version, packages.new),
        ("downgrade", packages.old_version, packages.old),
    ):
        registry.begin_load()
        registry.machine.run(
            *("apt-get", "install", "--yes", "--allow-downgrades", f"/srv/{package.name}")
        ).check()
        registry.await_load(20)
        load = registry.end_load()
        versions.append(version)
        assert load.faults == []
        assert load.versions == versions[-2:]
        assert set(load.acknowledged) <= set(registry.names())
        figure(f"longest time without an answer in the {name}", f"{load.gap_s:.2f} s")
    figure("versions that the client saw", " → ".join(versions))
    assert registry.show("ActiveEnterTimestampMonotonic", SOCKET) == sockets_since


def test_remove_keeps_entries_and_purge_deletes_them(
    registry: Registry, packages: Packages
) -> None:
    """After remove, state and configuration are there for a reinstallation; purge leaves none."""
    run, root = registry.machine.run, registry.machine.root
    state, configuration = (root / path.lstrip("/") for path in (STATE, CONFIGURATION))
    registry.declare(declared=4001)
    registry.register("kept")

    run("apt-get", "remove", "--yes", "plexus-registry").check()
    assert "refused" in registry.try_ask("list").stderr
    assert (state / "registry.db").exists()
    assert (root / BACKENDS.lstrip("/")).read_text(encoding="utf-8").count("declared") == 1
    assert not run("systemctl", "list-unit-files", "plexus-registry*").stdout.count("plexus")
    assert run("systemctl", "is-system-running").stdout.strip() == "running"

    run("apt-get", "install", "--yes", f"/srv/{packages.old.name}").check()
    assert registry.port_of("kept") == 4444
    assert registry.port_of("declared") == 4001

    run("apt-get", "purge", "--yes", "plexus-registry").check()
    left = run(
        *("find", "/", "-xdev", "-path", "/proc", "-prune", "-o"),
        *("-name", "*plexus*", "-not", "-path", "/srv/*", "-not", "-path", "/sys/*", "-print"),
    ).check()
    assert left.stdout == ""
    assert not state.exists()
    assert not configuration.exists()
    assert run("test", "-e", "/run/plexus-registry").status != 0


def test_purge_leaves_a_mount_point_and_nothing_in_it(registry: Registry) -> None:
    """A volume for the state can be emptied and not removed; purging ends all the same."""
    run = registry.machine.run
    registry.systemctl("stop", SOCKET, SERVICE).check()
    run("mount", "-t", "tmpfs", "tmpfs", STATE).check()
    registry.systemctl("start", SOCKET, SERVICE).check()
    registry.register("kept")
    assert run("test", "-e", f"{STATE}/registry.db").status == 0
    purged = run("apt-get", "purge", "--yes", "plexus-registry").check()
    assert STATE in purged.stdout  # of dpkg, which has both streams there
    assert run("find", STATE, "-mindepth", "1").check().stdout == ""
    assert run("dpkg-query", "--status", "plexus-registry").status != 0


def test_reboot_keeps_entries(registry: Registry, figure: Figure) -> None:
    """After a reboot of the machine the registry serves, with every entry."""
    registry.declare(declared=4001)
    registry.systemctl("reload", SERVICE).check()
    registry.register("kept")
    registry.machine.reboot()
    assert registry.is_active(SERVICE)
    assert registry.names() == ["declared", "kept", "plexus"]
    figure("boot, up to the running system", f"{registry.machine.boot_s:.1f} s")
    assert registry.machine.run("systemctl", "is-system-running").stdout.strip() == "running"
