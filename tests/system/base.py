# SPDX-License-Identifier: AGPL-3.0-only
"""Roots for machines: bases and layers, kept in a cache; trees, thrown away.

A *base* is a Debian root that mmdebstrap makes from the apt sources of this host. A *tree* is a
writable overlay. A *layer* is what one script wrote in a tree. Bases and layers are kept under
names made from what they were made of.

Every mount lives in a mount namespace of this process, so that even ``kill -9`` leaves nothing
behind but a folder, which the next run removes.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from system import host
from system.command import DIES_WITH_PARENT, ended_on_error, environment

KEEP_DAYS = 14
"""What was not used for so long is removed from the cache."""
RECIPE_VERSION = 1
"""Part of every key: raised when everything must be made anew."""
HOSTNAME = "machine"

_CLONE_NEWNS = 0x00020000

# Packages that are to be installed later, without a network, are only downloaded here.
_POOL_HOOK = """set -e
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
apt-get --yes --quiet --no-install-recommends --allow-remove-essential \\
    --download-only install {packages}
"""


@dataclass(frozen=True)
class Recipe:
    """What a base holds.

    Attributes:
        suite: Of Debian.
        include: Packages that are installed.
        pool: Each is given to one ``apt-get install --download-only``: those packages and what
            they depend on lie in apt's cache, with apt's lists, so that a machine installs them
            without a network as it would with one.
    """

    suite: str
    include: tuple[str, ...]
    pool: tuple[str, ...]


class Cache:
    """Keeps bases and layers, and the trees of the moment.

    Args:
        folder: Made if it is not there.

    Raises:
        HostProblem: If this host cannot run machines.
    """

    def __init__(self, folder: Path) -> None:
        host.require()
        _keep_mounts_private()
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder.resolve()
        self._work = self._folder / "work"
        self._work.mkdir(exist_ok=True)
        self._sweep()

    def base(self, recipe: Recipe) -> Path:
        """Return the root that a recipe makes.

        Raises:
            HostProblem: If it cannot be made.
        """
        sources = host.apt_sources(recipe.suite)
        return self._kept(
            recipe.suite, (recipe, sources), lambda root: _bootstrap(recipe, sources, root)
        )

    def layer(
        self, name: str, below: Sequence[Path], make: Callable[[Path], object], *made_of: object
    ) -> Path:
        """Return what *make* writes into a tree.

        Args:
            name: A word that tells it from other layers.
            below: What the tree is made of, topmost first.
            make: Gets the tree; raises if it fails.
            made_of: All that its outcome depends on.
        """

        def make_in_tree(place: Path) -> None:
            with self.tree(*below, keep=place) as root:
                make(root)

        return self._kept(name, ([path.name for path in below], *made_of), make_in_tree)

    @contextlib.contextmanager
    def tree(self, *below: Path, keep: Path | None = None) -> Iterator[Path]:
        """Mount a writable root while the block runs.

        Args:
            below: What it is made of, topmost first.
            keep: Where to move what was written; None to throw it away.
        """
        place = self._work / f"tree-{os.getpid()}-{secrets.token_hex(4)}"
        merged, scratch, upper = (place / name for name in ("root", "work", "upper"))
        for folder in (place, merged, scratch, upper):
            folder.mkdir()
        upper.chmod(0o755)
        try:
            layers = ":".join(map(str, below))
            options = f"lowerdir={layers},upperdir={upper},workdir={scratch}"
            _mount("-t", "overlay", "overlay", "-o", options, str(merged))
            try:
                _identify(merged)
                yield merged
            finally:
                _umount(merged)
            if keep is not None:
                upper.rename(keep)
        finally:
            _remove(place)

    def _kept(self, name: str, made_of: object, make: Callable[[Path], object]) -> Path:
        digest = hashlib.sha256(repr((RECIPE_VERSION, made_of)).encode()).hexdigest()[:16]
        kept = self._folder / f"{name}-{digest}"
        with self._locked():
            if not kept.exists():
                fresh = kept.with_name(f"{kept.name}.part")
                _remove(fresh)
                try:
                    make(fresh)
                    fresh.rename(kept)
                finally:
                    _remove(fresh)
            os.utime(kept)
            for old in self._folder.glob("*-*"):
                if time.time() - old.stat().st_mtime > KEEP_DAYS * 86400:
                    _remove(old)
        return kept

    def _locked(self) -> AbstractContextManager[object]:
        lock = (self._folder / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        return lock

    def _sweep(self) -> None:
        """Remove trees whose process was killed."""
        for place in self._work.glob("tree-*-*"):
            if not Path("/proc", place.name.split("-")[1]).exists():
                _remove(place)


def _bootstrap(recipe: Recipe, sources: str, root: Path) -> None:
    scratch = root.with_name(f"{root.name}.d")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    try:
        (scratch / "debian.sources").write_text(sources, encoding="utf-8")
        (scratch / "apt.conf").write_text(host.apt_options(), encoding="utf-8")
        hooks = []
        for number, packages in enumerate(recipe.pool):
            script = scratch / f"pool{number}"
            script.write_text(_POOL_HOOK.format(packages=packages), encoding="utf-8")
            hooks.append(f"--customize-hook=sh {shlex.quote(str(script))}")
        argv = [
            *DIES_WITH_PARENT,
            "mmdebstrap",
            "--mode=root",
            "--variant=minbase",
            "--format=directory",
            f"--include={','.join(recipe.include)}",
            f"--aptopt={scratch / 'apt.conf'}",
            "--dpkgopt=force-unsafe-io",
            # What makes `apt-get install` work without a network is kept.
            "--skip=cleanup/apt/lists,cleanup/apt/cache",
            *hooks,
            # This host's proxy and names are no business of the machine.
            '--customize-hook=rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/resolv.conf"',
            recipe.suite,
            str(root),
            str(scratch / "debian.sources"),
        ]
        log = scratch / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=environment()
            )
            with ended_on_error(process):
                status = process.wait()
        if status != 0:
            tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:]
            raise host.HostProblem("\n".join(["mmdebstrap failed:", *tail]))
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@functools.cache
def _keep_mounts_private() -> None:
    """Give this process its own mount table, once: what it mounts ends with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise host.HostProblem(f"a mount namespace cannot be made: {reason}")
    _mount("--make-rprivate", "/")
    # nspawn leaves folders here where /run is no tmpfs.
    Path("/run/systemd/nspawn").mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run/systemd/nspawn")


def _identify(root: Path) -> None:
    """Give a tree a machine-id of its own, and names that resolve without a network."""
    (root / "etc/machine-id").unlink(missing_ok=True)
    (root / "etc/machine-id").write_text(f"{secrets.token_hex(16)}\n", encoding="ascii")
    (root / "etc/hostname").write_text(f"{HOSTNAME}\n", encoding="ascii")
    hosts = f"127.0.0.1 localhost {HOSTNAME}\n::1 localhost\n"
    (root / "etc/hosts").write_text(hosts, encoding="ascii")


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _umount(place: Path) -> None:
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def _remove(folder: Path) -> None:
    """Remove a folder with all that is in it, never through a mount that was left there."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount == str(folder) or mount.startswith(f"{folder}/"):
            _umount(Path(mount))
    shutil.rmtree(folder, ignore_errors=True)
