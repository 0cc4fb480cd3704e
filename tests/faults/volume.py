# SPDX-License-Identifier: AGPL-3.0-only
"""Disks to be broken: an ext4 of its own, in an image on a loop device."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
from pathlib import Path

from support.timing import wait_until

EXT4_IOC_SHUTDOWN = 0x8004587D
"""``_IOR('X', 125, __u32)``"""

SHUTDOWN_NO_LOG_FLUSH = 2
MIB = 1024 * 1024


class Volume:
    """A small disk.

    Args:
        folder: Where the image and the mount point are made.
        size_mib: Of the disk.
        options: More options of mkfs.ext4.
    """

    def __init__(self, folder: Path, *, size_mib: int, options: tuple[str, ...] = ()) -> None:
        self.at = folder / "disk"
        self.at.mkdir(parents=True)
        self.image = folder / "disk.ext4"
        with self.image.open("wb") as image:
            image.truncate(size_mib * MIB)
        run("mkfs.ext4", "-q", "-m", "0", *options, str(self.image))
        self.mount()

    @property
    def device(self) -> str:
        """The name of its device, as ``loop0``."""
        return Path(_output("findmnt", "--noheadings", "--output", "SOURCE", str(self.at))).name

    def mount(self, *options: str) -> None:
        """Mount it; what a power cut left behind is mended by the journal."""
        run("mount", "-o", ",".join(("loop", *options)), str(self.image), str(self.at))

    def unmount(self) -> None:
        """Unmount it, as soon as the last process that was killed lets go of it."""
        if os.path.ismount(self.at):
            wait_until(lambda: _succeeds("umount", str(self.at)), f"unmounting {self.at}")

    def cut_power(self) -> None:
        """Let nothing more reach the disk, what waits in memory included; all writes fail now."""
        fd = os.open(self.at, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", SHUTDOWN_NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def restore_power(self) -> None:
        """Mount it again; nobody uses it any more."""
        self.unmount()
        self.mount()

    def write_block_by_block(self) -> None:
        """Let no request to the device be larger than a block.

        Of one that the image has space for in part only, a loop device says that it was written.
        """
        Path("/sys/block", self.device, "queue/max_sectors_kb").write_text("4")

    def flush(self) -> None:
        """Write everything that waits; what was freed can be used then."""
        run("sync", "--file-system", str(self.at))

    def break_down(self) -> None:
        """Have the kernel find an error, so that it makes the file system read-only."""
        Path("/sys/fs/ext4", self.device, "trigger_fs_error").write_text("fault test")

    def check(self) -> None:
        """Check the file system, which is unmounted, and mend it as a boot would."""
        mended = 1
        check = ["e2fsck", "-p", "-f", str(self.image)]
        result = subprocess.run(check, check=False, capture_output=True)
        assert result.returncode <= mended, result.stdout.decode()

    def fill(self) -> Path:
        """Fill it to the last block; removing the file that is returned makes space."""
        filler = self.at / "filler"
        with filler.open("ab", buffering=0) as file:
            for size in (MIB, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue
        return filler


def run(*argv: str) -> None:
    """Run a program that has to succeed."""
    result = subprocess.run(argv, check=False, text=True, capture_output=True)
    assert result.returncode == 0, f"{' '.join(argv)}: {result.stderr}"


def _succeeds(*argv: str) -> bool:
    return subprocess.run(argv, check=False, capture_output=True).returncode == 0


def _output(*argv: str) -> str:
    result = subprocess.run(argv, check=True, text=True, stdout=subprocess.PIPE)
    return result.stdout.strip()
