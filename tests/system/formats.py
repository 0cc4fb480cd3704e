# SPDX-License-Identifier: AGPL-3.0-only
"""The package in every format, each built twice: wheel and sdist, .deb, RPM, Arch.

The first build runs the tests, as a distribution's does. The second must be the same in other
circumstances. ``python -m system.formats FOLDER`` keeps the first.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from system import packages as debian
from system.base import Cache
from system.command import CommandFailed, in_tree
from system.host import HostProblem
from system.packages import BUILDER, ROOT, Packages

CACHE = Path(os.environ.get("PLEXUS_SYSTEM_TEST_CACHE") or ROOT / ".cache/system-test")
FORMATS = ("deb", "rpm", "arch")

NO_NAMCAP = "namcap is not to be had here"

_OUT = Path("/srv/formats")
_HOME = Path("/home", BUILDER)
_COMMON = f"""
exec 2>&1
umask $UMASK
here={_HOME}/$BUILD
sources=$here/sources
export SOURCE_DATE_EPOCH=$(dpkg-parsechangelog -l$sources/debian/changelog -S Timestamp)
export PLEXUS_TEST_AIDS={_HOME}/aids
out={_OUT}/$BUILD
"""
_PYTHON = """
cp -R $sources/packaging/test-aids $PLEXUS_TEST_AIDS
cd $sources
python3 -m build --no-isolation --outdir $out
"""
# A source package holds the spec with all folders put in, and the modes of its sources.
_RPM = f"""
cd {_HOME}
cp $PLEXUS_TEST_AIDS/macros.fedora ~/.rpmmacros
mkdir -p rpm/SOURCES
install -m 0644 $out/*.tar.gz rpm/SOURCES
rpmbuild -ba --nodeps $CHECK --define "_topdir $PWD/rpm" \\
    $sources/packaging/rpm/plexus-registry.spec
mv rpm/RPMS/noarch/*.rpm rpm/SRPMS/*.rpm $out
"""
# .BUILDINFO tells the folder, so that it is the same each time.
_ARCH = f"""
mkdir {_HOME}/arch
cd {_HOME}/arch
cp $out/*.tar.gz $sources/packaging/arch/PKGBUILD .
PATH=$PLEXUS_TEST_AIDS:$PATH PKGDEST=$out PKGEXT=.pkg.tar.zst makepkg --nodeps $CHECK
"""
_LINT = """
rpmlint --config $PLEXUS_TEST_AIDS/rpmlint.toml $out/*.rpm \\
    $sources/packaging/rpm/plexus-registry.spec
"""
_NAMCAP = f"""
if command -v namcap >/dev/null; then
    namcap $sources/packaging/arch/PKGBUILD $out/*.pkg.tar.zst
else
    echo {NO_NAMCAP}
fi
"""
_CONFFILES = f"""
dpkg-deb --ctrl-tarfile {_OUT}/first/*.deb | tar --extract --to-stdout ./conffiles
"""
_FLAGS = f"""
rpm --query --queryformat '[%{{FILENAMES}} %{{FILEFLAGS:fflags}}\\n]' --package \\
    {_OUT}/first/*.noarch.rpm
"""
# Unpacked, all is of who unpacks it.
_OWNERS = f"""
rpm --query --queryformat '[%{{FILEUSERNAME}} %{{FILEGROUPNAME}} %{{FILENAMES}}\\n]' --package \\
    {_OUT}/first/*.noarch.rpm
"""
_CANDIDATE = """
spec=$here/candidate.spec
sed 's/^Version:.*/Version: 0.2.0~rc1/' $sources/packaging/rpm/plexus-registry.spec >$spec
rpmspec --query --srpm --queryformat '%{SOURCE}\\n' $spec
rpmspec --parse $spec | grep -E -o "plexus_registry-0[^/' ]*" | sort --unique
"""
_UNPACK = f"""
cd {_OUT}
for format in {" ".join(FORMATS)}; do
    mkdir -p unpacked/$format
done
dpkg-deb --extract first/*.deb unpacked/deb
(cd unpacked/rpm && rpm2cpio {_OUT}/first/*.noarch.rpm | cpio --quiet -idm)
bsdtar -xpf first/*.pkg.tar.zst -C unpacked/arch
"""


@dataclass(frozen=True)
class Formats:
    """The package in every format.

    Attributes:
        first: The folder of what was built first.
        second: The folder of what was built then, under the same names.
        unpacked: The folder of what is in the packages, unpacked by root, a folder for each format.
        logs: What building each printed, the tests included; what linters said; ``conffiles`` of
            the .deb, ``rpmflags`` and ``rpmowners``, a line for each file; ``candidate``, the names
            of its source that the spec has for 0.2.0~rc1.
    """

    first: Path
    second: Path
    unpacked: Path
    logs: dict[str, str]

    def file(self, pattern: str) -> Path:
        """Return the only file of the first build that matches."""
        (found,) = self.first.glob(pattern)
        return found

    @property
    def rpm(self) -> Path:
        """The binary package."""
        return self.file("*.noarch.rpm")

    @property
    def arch(self) -> Path:
        """The package."""
        return self.file("*.pkg.tar.zst")

    @property
    def wheel(self) -> Path:
        """The wheel, built by Debian's tools."""
        return self.file("*.whl")

    @property
    def sdist(self) -> Path:
        """The source distribution, built by Debian's tools."""
        return self.file("*.tar.gz")


def build(cache: Cache, base: Path, packages: Packages) -> Formats:
    """Build all formats from this checkout as it is.

    Args:
        packages: The Debian package, built.

    Raises:
        CommandFailed: With the output of what failed.
    """
    below = [_tools_layer(cache, base), debian.build_layer(cache, base), base]
    sources = list(debian.source_files())
    kept = cache.layer(
        "formats",
        below,
        partial(_build_all, sources, packages),
        (
            *(_COMMON, _PYTHON, _RPM, _ARCH, _LINT, _NAMCAP, _CANDIDATE),
            *(_CONFFILES, _FLAGS, _OWNERS, _UNPACK),
        ),
        # All of it is in the sdist.
        debian.digest_of(sources),
    )
    folder = kept / _OUT.relative_to("/")
    logs = {path.stem: path.read_text("utf-8") for path in (folder / "logs").iterdir()}
    return Formats(folder / "first", folder / "second", folder / "unpacked", logs)


def _tools_layer(cache: Cache, base: Path) -> Path:
    """Return what turns the machine that builds the Debian package into one for all formats."""
    install = [
        "apt-get",
        "-qq",
        "--yes",
        "--no-install-recommends",
        "install",
        *debian.FORMAT_TOOLS,
    ]

    def make(root: Path) -> None:
        in_tree(root, install).check()
        in_tree(root, ["rpmdb", "--initdb"]).check()
        in_tree(root, ["pacman", "--database", "--check"]).check()

    return cache.layer("tools", [debian.build_layer(cache, base), base], make, install)


def _build_all(sources: list[Path], packages: Packages, root: Path) -> None:
    out = root / _OUT.relative_to("/")
    home = root / _HOME.relative_to("/")
    logs: dict[str, str] = {}
    for name, package in (("first", packages.old), ("second", packages.again)):
        is_first = name == "first"
        debian.copy_sources(sources, home / name / "sources")
        (out / name).mkdir(parents=True)
        in_tree(root, ["chown", "-R", f"{BUILDER}:", str(_HOME), str(_OUT / name)]).check()
        circumstances = {} if is_first else debian.OTHER_CIRCUMSTANCES
        environ = {"UMASK": "022", **circumstances, "BUILD": name}
        environ["CHECK"] = "" if is_first else "--nocheck"
        for what, script in (("python", _PYTHON), ("rpm", _RPM), ("arch", _ARCH)):
            log = debian.as_builder(root, f"{_COMMON}{script}", **environ)
            logs.setdefault(what, log)
        if is_first:
            for what, script in (
                ("rpmlint", _LINT),
                ("namcap", _NAMCAP),
                ("candidate", _CANDIDATE),
            ):
                logs[what] = debian.as_builder(root, f"{_COMMON}{script}", **environ)
        in_tree(root, ["sh", "-c", f"cd {_HOME} && rm -rf {name} aids arch rpm"]).check()
        shutil.copy(package, out / name)
    for what, script in (
        ("conffiles", _CONFFILES),
        ("rpmflags", _FLAGS),
        ("rpmowners", _OWNERS),
    ):
        logs[what] = in_tree(root, ["sh", "-ec", script]).check().stdout
    in_tree(root, ["sh", "-ec", _UNPACK]).check()
    (out / "logs").mkdir()
    for what, log in logs.items():
        (out / "logs" / f"{what}.log").write_text(log, encoding="utf-8")


def main() -> int:
    """Build all formats and copy them into a folder."""
    parser = argparse.ArgumentParser(description="Build the package in every format.")
    parser.add_argument("folder", type=Path, help="where they go")
    folder: Path = parser.parse_args().folder
    try:
        cache = Cache(CACHE)
        base = cache.base(debian.recipe())
        formats = build(cache, base, debian.build(cache, base))
    except (HostProblem, CommandFailed) as problem:
        print(problem, file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(formats.first.iterdir()):
        shutil.copy(path, folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
