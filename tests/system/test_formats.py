# SPDX-License-Identifier: AGPL-3.0-only
"""The package in every format: the same contents, the same service, the same bytes twice."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import contents
from system import packages as debian
from system.base import Cache
from system.command import in_tree
from system.formats import FORMATS, NO_NAMCAP, Formats
from system.machine import Boot, Machine
from system.packages import ROOT
from system.registry import BACKENDS, SERVICE, SOCKET, STATE, Figure, Registry, declaration
from system.unpacked import INTERPRETERS, PROGRAMS, differences, entries

# --- builds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["rpm", "arch"])
def test_build_runs_the_tests(formats: Formats, format: str, figure: Figure) -> None:
    """%check and check() run the tests on the tree that is packaged."""
    counted = re.findall(r"\b(\d+) passed\b.* in ([\d.]+)s", formats.logs[format])
    assert counted, formats.logs[format]
    assert not re.search(r"^=+ .*\b\d+ (?:failed|errors?)\b", formats.logs[format], re.MULTILINE)
    assert int(counted[-1][0]) > 2000
    figure(f"tests at build of {format}", f"{counted[-1][0]} passed in {counted[-1][1]} s")


def test_linters_are_silent(formats: Formats, figure: Figure) -> None:
    """Rpmlint finds no reason for a warning in spec and packages, nor does namcap where it is."""
    summary = formats.logs["rpmlint"].splitlines()[-1]
    assert re.search(r"\b0 errors, 0 warnings\b", summary), formats.logs["rpmlint"]
    namcap = formats.logs["namcap"].strip()
    assert namcap in ("", NO_NAMCAP)
    figure("namcap", namcap or "silent")


def test_makepkg_has_nothing_to_complain_of(formats: Formats) -> None:
    """No error passes unnoticed that does not end it."""
    told = re.findall(r"^(?:==> )?(?:error|warning): (.*)$", formats.logs["arch"], re.M | re.I)
    assert told == ["Skipping dependency checks."]  # they are Arch's


def test_builds_are_reproducible(formats: Formats, figure: Figure) -> None:
    """Two builds of each artefact are identical.

    The second is made later, and in another time zone, locale and umask; wheel and sdist in another
    folder, too.
    """
    names = sorted(path.name for path in formats.first.iterdir())
    assert names == sorted(path.name for path in formats.second.iterdir())
    kinds = (".deb", ".noarch.rpm", ".src.rpm", ".pkg.tar.zst", ".tar.gz", ".whl")
    assert sorted(kind for name in names for kind in kinds if name.endswith(kind)) == sorted(kinds)
    assert len(names) == len(kinds)
    for name in names:
        assert (formats.first / name).read_bytes() == (formats.second / name).read_bytes(), name
    figure("built twice and identical", ", ".join(names))


def test_spec_finds_the_source_of_a_release_candidate(formats: Formats) -> None:
    """RPM has 0.2.0~rc1 where the sdist is called 0.2.0rc1."""
    names = set(formats.logs["candidate"].split())
    assert names == {"plexus_registry-0.2.0rc1.tar.gz", "plexus_registry-0.2.0rc1"}


# --- contents -------------------------------------------------------------------------------------


def compared(formats: Formats, format: str, unpacked: Path) -> list[str]:
    """Compare an unpacked package with the list of its format and with the wheel."""
    return list(differences(unpacked, format, contents.of_format(format), formats.wheel))


@pytest.mark.parametrize("format", FORMATS)
def test_package_holds_what_is_listed_and_nothing_else(formats: Formats, format: str) -> None:
    """Files, folders, links, contents, modes, owners: those of contents.toml and of the wheel."""
    assert compared(formats, format, formats.unpacked / format) == []


def test_rpm_is_root_s(formats: Formats) -> None:
    """By its header, which decides at installation; unpacked, files are of who unpacks them."""
    lines = formats.logs["rpmowners"].splitlines()
    assert len(lines) > len(contents.of_format("rpm").files)
    assert [line for line in lines if not line.startswith("root root /")] == []


def spoil(root: Path, how: str) -> str:
    """Spoil an unpacked package and return the path that is to be told."""
    (site_packages,) = root.glob("usr/lib/python3*/*-packages")
    (metadata,) = site_packages.glob("*.dist-info")
    unit = root / "usr/lib/systemd/system/plexus-registry.service"
    stray = root / "opt/stray"
    compiled = site_packages / "tests/__pycache__/x.pyc"
    match how:
        case "missing":
            unit.unlink()
        case "metadata":
            (metadata / "entry_points.txt").unlink()
            unit = metadata / "entry_points.txt"
        case "content":
            unit.write_text(f"# changed\n{unit.read_text()}")
        case "mode":
            unit.chmod(0o666)
        case "owner":
            os.chown(unit, 1, 1)
        case "folder":
            unit = root / "usr/bin"
            unit.chmod(0o700)
        case "setuid":
            unit = metadata / "more"
            unit.touch()
            unit.chmod(0o4755)
        case "stray":
            stray.mkdir(parents=True)
            unit = stray
        case "compiled":
            compiled.parent.mkdir(parents=True)
            compiled.touch()
            unit = compiled
        case "script":
            unit = root / ".INSTALL"
            unit.touch()
    return f"/{unit.relative_to(root)} "


@pytest.mark.parametrize("format", FORMATS)
def test_comparison_sees_what_is_wrong(formats: Formats, format: str, tmp_path: Path) -> None:
    """It can fail: each kind of fault, made in a copy, is told by its path."""
    kinds = "missing metadata content mode owner folder setuid stray compiled script"
    for how in kinds.split():
        copy = tmp_path / how
        subprocess.run(["cp", "-a", str(formats.unpacked / format), str(copy)], check=True)
        path = spoil(copy, how)
        told = compared(formats, format, copy)
        assert any(line.startswith(path) for line in told), (how, told)
        assert len(told) <= 3  # a stray file has stray folders


def test_formats_differ_only_where_they_may(formats: Formats) -> None:
    """Manual and configuration are the same in all; so are programs, but for their Python."""
    found = {name: entries(formats.unpacked / name) for name in FORMATS}
    files = contents.of_format("deb").files
    for path in {file.to for file in files if file.is_page or file.source is None}:
        assert len({found[name][path].content for name in FORMATS}) == 1, path
    for program in PROGRAMS:
        texts = [found[name][program].content or b"" for name in FORMATS]
        assert all(text.startswith(INTERPRETERS) for text in texts)
        assert len({text.partition(b"\n")[2] for text in texts}) == 1


def test_packages_know_their_configuration(formats: Formats) -> None:
    """What /etc holds is a conffile, %config(noreplace) and in backup=, as the packages say it."""
    files = contents.of_format("deb").files
    configuration = {file.to for file in files if file.source is None}
    assert set(formats.logs["conffiles"].split()) == configuration
    flags = dict(line.rsplit(" ", 1) for line in formats.logs["rpmflags"].splitlines())
    # (none), or letters: c config, n noreplace (rpm-queryformat(7)).
    assert {path for path, flag in flags.items() if flag == "cn"} == configuration
    assert not any("c" in flag for path, flag in flags.items() if path not in configuration)
    notes = entries(formats.unpacked / "arch")["/.PKGINFO"].content or b""
    kept = re.findall(r"^backup = (.*)$", notes.decode(), re.MULTILINE)
    assert {f"/{path}" for path in kept} == configuration


def test_sdist_holds_every_file_of_the_project(formats: Formats) -> None:
    """Units, manual, completions, recipes, tests."""
    with tarfile.open(formats.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = {path.relative_to(ROOT).as_posix() for path in debian.source_files()}
    assert tracked - names == set()
    assert names - tracked == {"PKG-INFO"}


# --- installed ------------------------------------------------------------------------------------

INSTALL = {
    "rpm": ("rpm", "--install", "--nodeps"),
    "arch": ("pacman", "--upgrade", "--noconfirm", "--nodeps", "--nodeps"),
}
REINSTALL = {
    "rpm": ("rpm", "--upgrade", "--nodeps", "--force"),
    "arch": INSTALL["arch"],
}
REMOVE = {
    "rpm": ("rpm", "--erase", "plexus-registry"),
    "arch": ("pacman", "--remove", "--noconfirm", "--nodeps", "--nodeps", "plexus-registry"),
}
SET_ASIDE = {"rpm": "rpmsave", "arch": "pacsave"}
VERIFY = {
    "rpm": ("rpm", "--verify", "--nodeps", "plexus-registry"),
    "arch": ("pacman", "--query", "--check", "--check", "plexus-registry"),
}
# What they may say of what was not changed but for the configuration.
VERIFIED = {
    "rpm": r"S\.5\.\.\.\.T\.  c /etc/plexus/backends\.toml",
    "arch": (
        r"backup file: plexus-registry: /etc/plexus/backends\.toml \(.* mismatch\)"
        r"|plexus-registry: \d+ total files, 0 altered files"
    ),
}


@pytest.fixture(scope="session")
def foreign(cache: Cache, base: Path) -> list[Path]:
    """Return what a Debian 13 with rpm, pacman and what the registry needs is made of."""
    apt = ["apt-get", "-qq", "--yes", "--no-install-recommends"]
    install = [*apt, "install", *debian.FORMAT_TOOLS, *debian.to_run()]

    def make(root: Path) -> None:
        in_tree(root, install).check()
        in_tree(root, ["rpmdb", "--initdb"]).check()
        # Debian's Python looks elsewhere than Fedora's and Arch's installs.
        (packages,) = root.glob("usr/local/lib/python3.*/dist-packages")
        version = packages.parent.name
        (packages / "site.pth").write_text(f"/usr/lib/{version}/site-packages\n", encoding="utf-8")

    return [cache.layer("foreign", [base], make, install), base]


@pytest.fixture(params=["rpm", "arch"])
def format(request: pytest.FixtureRequest) -> str:
    """Return a format whose package manager is here."""
    name: str = request.param
    return name


@pytest.fixture
def stranger(
    boot: Boot, foreign: list[Path], formats: Formats, format: str
) -> Iterator[tuple[Machine, str]]:
    """Boot a machine with the package of a format in its /srv."""
    package = formats.rpm if format == "rpm" else formats.arch
    with boot(*foreign) as machine:
        shutil.copy(package, machine.root / "srv")
        yield machine, f"/srv/{package.name}"


def after(machine: Machine, format: str) -> None:
    """Do what pacman's hooks do on Arch; rpm has done it."""
    if format == "arch":
        machine.run("systemd-sysusers").check()
        machine.run("journalctl", "--update-catalog").check()
    machine.run("systemctl", "daemon-reload").check()


def test_package_makes_a_service(stranger: tuple[Machine, str], format: str) -> None:
    """The files of the RPM and of the Arch package, installed into a booted root, serve."""
    machine, package = stranger
    # An RPM follows the presets of the distribution: these are Fedora's, not Debian's.
    for kind in ("system", "user"):
        presets = machine.root / f"etc/systemd/{kind}-preset"
        presets.mkdir(exist_ok=True)
        (presets / "00-fedora.preset").write_text("disable *\n", encoding="utf-8")
    machine.run(*INSTALL[format], package).check()
    after(machine, format)
    registry = Registry(machine)
    for unit in (SOCKET, SERVICE):
        assert machine.run("systemctl", "is-enabled", unit).stdout == "disabled\n"
        of_users = machine.run("systemctl", "--global", "is-enabled", unit)
        assert of_users.stdout == "disabled\n"
    registry.systemctl("enable", "--now", SOCKET, SERVICE).check()
    assert registry.is_active(SOCKET)
    assert registry.is_active(SERVICE)
    assert registry.show("User") == "plexus-registry"
    registry.register("kept")
    registry.declare(declared=4001)
    registry.systemctl("reload", SERVICE).check()
    assert registry.names() == ["declared", "kept", "plexus"]
    assert registry.messages("--priority=warning") == []
    assert machine.run("plexus-registryctl", "url", "kept").check().stdout.startswith("ws://")
    verified = machine.run(*VERIFY[format]).stdout.splitlines()
    assert verified
    assert [line for line in verified if not re.fullmatch(VERIFIED[format], line)] == []


def test_package_keeps_what_was_configured_and_stored(
    stranger: tuple[Machine, str], format: str
) -> None:
    """A new installation over it keeps both; a removal keeps the entries and sets edits aside."""
    machine, package = stranger
    machine.run(*INSTALL[format], package).check()
    after(machine, format)
    registry = Registry(machine)
    registry.systemctl("enable", "--now", SOCKET, SERVICE).check()
    registry.register("kept")
    edited = declaration(declared=4001)
    registry.put(BACKENDS, edited)
    registry.systemctl("reload", SERVICE).check()
    pid = registry.pid
    machine.run(*REINSTALL[format], package).check()
    after(machine, format)
    assert (machine.root / BACKENDS.lstrip("/")).read_text(encoding="utf-8") == edited
    if format == "rpm":
        assert registry.pid != pid
    assert registry.names() == ["declared", "kept", "plexus"]

    if format == "arch":  # where no package stops a service
        registry.systemctl("disable", "--now", SOCKET, SERVICE).check()
    machine.run(*REMOVE[format]).check()
    machine.run("systemctl", "daemon-reload").check()
    assert not registry.is_active(SOCKET)
    assert not registry.is_active(SERVICE)
    assert (machine.root / STATE.lstrip("/") / "registry.db").exists()
    assert not (machine.root / "usr/bin/plexus-registry").exists()
    aside = machine.root / f"{BACKENDS}.{SET_ASIDE[format]}".lstrip("/")
    assert aside.read_text(encoding="utf-8") == edited
