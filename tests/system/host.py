# SPDX-License-Identifier: AGPL-3.0-only
"""What this host has to have for machines, and from where it installs Debian.

Run as a program it prints the Debian packages that are missing, in one line.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

NEEDS = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "apt-get": "apt",
    "git": "git",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
    KEYRING: "debian-archive-keyring",
}
"""Program or file that machines need, and the Debian package that brings it."""


class HostProblem(Exception):
    """This host cannot run machines; the message says what to do about it."""


def missing_packages() -> list[str]:
    """List the Debian packages without which no machine can be made here."""

    def is_there(thing: str) -> bool:
        if thing.startswith("/"):
            return Path(thing).exists()
        return shutil.which(thing, path=PATH) is not None

    return sorted({package for thing, package in NEEDS.items() if not is_there(thing)})


def problems() -> list[str]:
    """List why this host cannot run machines, each reason with its remedy."""
    found = []
    if os.geteuid() != 0:
        found.append("it needs root: sudo make system-test")
    if missing := missing_packages():
        found.append(
            "packages are missing: apt-get install --no-install-recommends " + " ".join(missing)
        )
    if "cgroup2" not in Path("/proc/filesystems").read_text(encoding="ascii").split():
        found.append("the kernel has no cgroup2 file system")
    return found


def require() -> None:
    """Make sure that this host can run machines.

    Raises:
        HostProblem: If it cannot.
    """
    if found := problems():
        raise HostProblem("; ".join(found))


def is_managed() -> bool:
    """Tell whether systemd runs this host."""
    return Path("/run/systemd/system").is_dir()


def apt_sources(suite: str) -> str:
    """Return deb822 sources for *suite* on the mirrors from which this host installs Debian.

    ``apt-get update --print-uris`` reads every format of sources and needs no downloaded lists.
    Other repositories are left out by their suite's name and, where the lists are there, by their
    Origin.

    Raises:
        HostProblem: If this host has no mirror of Debian.
        subprocess.CalledProcessError: If apt fails.
    """
    lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    release = dict(line.split("=", 1) for line in lines if "=" in line)
    own = release.get("VERSION_CODENAME", "").strip('"')
    stanzas: dict[tuple[str, str], None] = {}
    uris = _output("apt-get", "update", "--print-uris")
    for uri, name in re.findall(r"^'(\S+)/InRelease' (\S+)", uris, re.MULTILINE):
        mirror, _, found = uri.rpartition("/dists/")
        listed = Path("/var/lib/apt/lists", name)
        is_foreign = listed.exists() and not re.search(
            r"^Origin: Debian$", listed.read_text(encoding="utf-8"), re.MULTILINE
        )
        pocket = re.fullmatch(rf"{re.escape(own)}((?:-updates|-security|/updates)?)", found)
        if own and pocket and not is_foreign:
            stanzas[mirror, suite + pocket[1].replace("/updates", "-security")] = None
    if not any(name == suite for _, name in stanzas):
        raise HostProblem(
            "no apt source of this host is an archive of Debian: see apt-get update --print-uris"
        )
    return "\n".join(
        f"Types: deb\nURIs: {mirror}\nSuites: {name}\nComponents: main\nSigned-By: {KEYRING}\n"
        for mirror, name in stanzas
    )


def apt_options() -> str:
    """Return how this host's apt fetches (proxy, certificates, retries), as text of apt.conf.

    Raises:
        subprocess.CalledProcessError: If apt fails.
    """
    kept = []
    for line in _output("apt-config", "dump", "--format", "%F %v%n", "Acquire").splitlines():
        name, _, value = line.partition(" ")
        is_about_contents = re.match(
            r"Acquire::(IndexTargets|Changelogs|CompressionTypes|GzipIndexes|cdrom)\b", name
        )
        if value and not is_about_contents:
            kept.append(f'{name} "{value}";')
    return "\n".join([*kept, 'Acquire::Languages "none";']) + "\n"


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, text=True, capture_output=True).stdout


if __name__ == "__main__":
    print(*missing_packages())
