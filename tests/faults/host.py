# SPDX-License-Identifier: AGPL-3.0-only
"""What this host has to have for the fault tests.

Run as a program it prints the Debian packages that are missing, in one line.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import subprocess
from pathlib import Path

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CLOCK_LIBRARY = "*/faketime/libfaketimeMT.so.1"

NEEDS = {
    "mkfs.ext4": "e2fsprogs",
    "mount": "mount",
    "umount": "mount",
    "findmnt": "util-linux",
    "setpriv": "util-linux",
    "strace": "strace",
    CLOCK_LIBRARY: "libfaketime",
}
"""Program or library that the tests need, and the Debian package that brings it."""

LOOP_MAJOR, LOOP_CONTROL_MINOR, LOOP_NODES = 7, 237, 8
MISC_MAJOR = 10


class HostProblem(Exception):
    """This host cannot run the fault tests; the message says what to do about it."""


def clock_library() -> Path | None:
    """Find the library that replaces the clock of a program."""
    return next(Path("/usr/lib").glob(CLOCK_LIBRARY), None)


def missing_packages() -> list[str]:
    """List the Debian packages without which faults cannot be made here."""

    def is_there(thing: str) -> bool:
        if thing == CLOCK_LIBRARY:
            return clock_library() is not None
        return shutil.which(thing, path=PATH) is not None

    return sorted({package for thing, package in NEEDS.items() if not is_there(thing)})


def problems(folder: Path) -> list[str]:
    """List why the tests cannot run with disks in *folder*, each reason with its remedy."""
    if os.geteuid() != 0:
        return ["it needs root: sudo make fault-test"]
    if missing := missing_packages():
        names = " ".join(missing)
        return [f"packages are missing: apt-get install --no-install-recommends {names}"]
    found = []
    if "ext4" not in Path("/proc/filesystems").read_text(encoding="ascii").split():
        found.append("the kernel has no ext4 file system")
    if "loop-control" not in Path("/proc/misc").read_text(encoding="ascii").split():
        found.append("the kernel has no loop devices: modprobe loop")
    else:
        found += _make_loop_nodes()
    kind = _output("findmnt", "--noheadings", "--output", "FSTYPE", "--target", str(folder))
    if kind in ("tmpfs", "ramfs"):
        found.append(f"{folder} is in memory ({kind}): PLEXUS_FAULT_FOLDER names one on a disk")
    if subprocess.run(["strace", "-o", "/dev/null", "true"], check=False).returncode != 0:
        found.append("strace may not trace here: the container needs the capability SYS_PTRACE")
    return found


def require(folder: Path) -> None:
    """Make sure that the tests can run with disks in *folder*.

    Raises:
        HostProblem: If they cannot.
    """
    if found := problems(folder):
        raise HostProblem("; ".join(found))


def keep_mounts_private() -> None:
    """Move this process into a mount namespace of its own.

    What it mounts ends with it and its children, however they end, and the loop devices with that.

    Raises:
        HostProblem: If it may not.
    """
    clone_newns, ms_rec, ms_private = 0x20000, 0x4000, 1 << 18
    libc = ctypes.CDLL(None, use_errno=True)
    if (
        libc.unshare(clone_newns) != 0
        or libc.mount(None, b"/", None, ms_rec | ms_private, None) != 0
    ):
        reason = os.strerror(ctypes.get_errno())
        raise HostProblem(f"mounting is not permitted here ({reason}): it needs CAP_SYS_ADMIN")


def _make_loop_nodes() -> list[str]:
    """Make the device nodes that a container may lack."""
    wanted = {Path("/dev/loop-control"): (MISC_MAJOR, LOOP_CONTROL_MINOR, stat.S_IFCHR)}
    for number in range(LOOP_NODES):
        wanted[Path(f"/dev/loop{number}")] = (LOOP_MAJOR, number, stat.S_IFBLK)
    for path, (major, minor, kind) in wanted.items():
        try:
            if not path.exists():
                os.mknod(path, kind | 0o600, os.makedev(major, minor))
        except OSError as error:
            return [f"{path} is missing and cannot be made: {error.strerror}"]
    return []


def _output(*argv: str) -> str:
    result = subprocess.run(argv, check=False, text=True, stdout=subprocess.PIPE)
    return result.stdout.strip()


if __name__ == "__main__":
    print(*missing_packages())
