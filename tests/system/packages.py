# SPDX-License-Identifier: AGPL-3.0-only
"""What the machines are made of: a Debian 13, and two versions of the package built in it."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from system.base import Cache, Recipe
from system.command import in_tree
from system.host import HostProblem

ROOT = Path(__file__).parents[2]
SUITE = "trixie"
NAME = "plexus-registry"

_OPERATORS = (
    *("systemd", "systemd-sysv", "dbus", "libpam-systemd"),
    # vim-tiny: an editor saves files in a way of its own. The guide asks by curl.
    *("vim-tiny", "curl"),
    # Completion is tried in each.
    *("bash-completion", "fish", "zsh"),
)
SYSV = "sysvinit-core sysv-rc systemd-sysv- inetutils-syslogd"
OPENRC = "sysvinit-core openrc initscripts systemd-sysv- inetutils-syslogd"
"""What is to be installed for an init that is not systemd."""

BUILD_TIMEOUT_S = 1800.0
"""Generous: what hangs in a build are its tests, which have limits of their own."""

FORMAT_TOOLS = (
    *("cpio", "rpm", "rpmlint"),
    *("libarchive-tools", "makepkg", "pacman-package-manager", "zstd"),
    *("python3-build", "python3-installer"),
)
"""What builds the package in other formats."""
_BUILD_TOOLS = ("build-essential", "fakeroot", "lintian")
BUILDER = "builder"
_SRC = Path("/home", BUILDER, "build/src")
_OUT = Path("/srv/packages")
_BUILD = f"""
cd {_SRC}
upstream=$(dpkg-parsechangelog --show-field Version | sed 's/-[^-]*$//')
tar --exclude=./debian --transform "s,^\\.,plexus-registry-$upstream," \\
    --create --gzip --file "../plexus-registry_$upstream.orig.tar.gz" .
dpkg-buildpackage --unsigned-source --unsigned-changes 2>&1
"""
BUILD_AS_DOCUMENTED = "dpkg-buildpackage -us -uc -b"
"""How the README builds the package in a clone; without the tests, which have run by then."""
_LINT = f"lintian --fail-on warning --display-info --pedantic {_SRC.parent}/*.changes 2>&1"


OTHER_CIRCUMSTANCES = {"TZ": "Asia/Tokyo", "LC_ALL": "C", "UMASK": "077"}
"""What must make no difference to a build."""

_BUILDS = ("old", "again", "new")


@dataclass(frozen=True)
class Packages:
    """The package in two versions.

    Attributes:
        old: This checkout's package.
        again: The same, built as the README says.
        new: The same but for its version, which is higher.
        old_version: What the program in it calls itself.
        new_version: What the program in it calls itself.
        log: What building and lintian printed.
    """

    old: Path
    again: Path
    new: Path
    old_version: str
    new_version: str
    log: str


def recipe() -> Recipe:
    """Return what the machines hold, and what can be installed in them without a network."""
    control = (ROOT / "debian/control").read_text(encoding="utf-8")
    for_tests = (ROOT / "debian/tests/control").read_text(encoding="utf-8")
    to_build = _packages_of(control, "Build-Depends")
    return Recipe(
        SUITE,
        _OPERATORS,
        (
            " ".join([*_BUILD_TOOLS, *to_build, *_packages_of(for_tests, "Depends")]),
            # What `apt install` of the package brings, recommended packages included.
            " ".join(["--install-recommends", *to_run(), *_packages_of(control, "Recommends")]),
            SYSV,
            OPENRC,
            " ".join(FORMAT_TOOLS),
            "pipx",
        ),
    )


def to_run() -> list[str]:
    """List the packages of Debian that the program needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [
        f"python3-{re.split('[^a-z-]', dependency)[0].removeprefix('python-')}"
        for dependency in project["dependencies"]
    ]


def _packages_of(control: str, field: str) -> list[str]:
    """List the packages that a field of relations names in any of its paragraphs."""
    found = []
    for match in re.finditer(rf"^{field}:((?:.*\n)(?:[ \t].*\n)*)", control, re.MULTILINE):
        for relation in match[1].split(","):
            name = re.match(r"\s*([a-z0-9][a-z0-9.+-]+)", relation)
            if name:
                found.append(name[1])
    return found


def build_layer(cache: Cache, base: Path) -> Path:
    """Return what turns the base into a machine that builds the package."""
    control = ROOT / "debian/control"
    tools = " ".join(_BUILD_TOOLS)

    def make(root: Path) -> None:
        place = root / "srv/clone/debian"
        place.mkdir(parents=True)
        shutil.copy(control, place)
        apt = "apt-get -qq --yes --no-install-recommends"
        # As the README says.
        install = f"{apt} install {tools}; cd /srv/clone; {apt} build-dep .; rm -r /srv/clone"
        account = f"useradd --create-home {BUILDER}; install -d -o {BUILDER} {_SRC.parent}"
        in_tree(root, ["sh", "-ec", f"{install}; {account}"]).check()

    return cache.layer("build", [base], make, tools, control.read_text(encoding="utf-8"))


def build(cache: Cache, base: Path) -> Packages:
    """Build both versions from this checkout as it is, tests and lintian included.

    Raises:
        CommandFailed: With the output of what failed.
    """
    sources = list(source_files())
    init = ROOT / "plexus_registry/__init__.py"
    (version,) = re.findall(r'^__version__ = "(.*)"$', init.read_text("utf-8"), re.MULTILINE)
    newer = f"{version}.post1"
    kept = cache.layer(
        "packages",
        [build_layer(cache, base), base],
        lambda root: _build_both(root, sources, version, newer),
        # These tests are no part of it.
        digest_of(path for path in sources if not path.is_relative_to(ROOT / "tests/system")),
        (_BUILDS, _BUILD, BUILD_AS_DOCUMENTED, _LINT, sorted(OTHER_CIRCUMSTANCES.items())),
    )
    folder = kept / _OUT.relative_to("/")
    (old,), (again,), (new,) = ((folder / name).glob("*.deb") for name in _BUILDS)
    return Packages(old, again, new, version, newer, (folder / "log").read_text(encoding="utf-8"))


def _build_both(root: Path, sources: Sequence[Path], version: str, newer: str) -> None:
    out, src = root / _OUT.relative_to("/"), root / _SRC.relative_to("/")
    copy = root / "srv/source"
    copy_sources(sources, copy)
    log = ""
    for name in _BUILDS:
        shutil.copytree(copy, src, symlinks=True)
        if name == "new":
            _raise_version(src, version, newer)
        in_tree(root, ["chown", "-R", f"{BUILDER}:", str(_SRC)]).check()
        if name == "old":
            log += as_builder(root, _BUILD) + as_builder(root, _LINT)
        elif name == "again":
            script = f"umask $UMASK; cd {_SRC}; {BUILD_AS_DOCUMENTED} 2>&1"
            as_builder(root, script, DEB_BUILD_OPTIONS="nocheck", **OTHER_CIRCUMSTANCES)
        else:
            as_builder(root, _BUILD, DEB_BUILD_OPTIONS="nocheck")
        (out / name).mkdir(parents=True)
        for deb in src.parent.glob("*.deb"):
            shutil.copy(deb, out / name)
        in_tree(root, ["sh", "-c", f"rm -rf {_SRC.parent}/*"]).check()
    shutil.rmtree(copy)
    (out / "log").write_text(log, encoding="utf-8")


def _raise_version(src: Path, version: str, newer: str) -> None:
    init = src / "plexus_registry/__init__.py"
    text = init.read_text(encoding="utf-8")
    init.write_text(text.replace(f'"{version}"', f'"{newer}"'), encoding="utf-8")
    changelog = src / "debian/changelog"
    text = changelog.read_text(encoding="utf-8")
    entry = text.partition("\n -- ")
    signed = entry[2].partition("\n")[0]
    added = f"{NAME} ({newer}-1) unstable; urgency=medium\n\n  * Next.\n\n -- {signed}\n\n"
    changelog.write_text(added + text, encoding="utf-8")


def as_builder(root: Path, script: str, **environ: str) -> str:
    """Run a script as the user who builds, and return what it printed on standard output.

    Raises:
        CommandFailed: If it fails.
    """
    result = in_tree(
        root, ["sh", "-ec", script], user=BUILDER, environ=environ, timeout_s=BUILD_TIMEOUT_S
    )
    return result.check().stdout


def digest_of(sources: Iterable[Path]) -> str:
    """Return a key for what is built from files of the checkout."""
    digest = hashlib.sha256()
    for path in sources:
        name = path.relative_to(ROOT)
        digest.update(f"{name}\0{path.stat().st_mode & 0o111}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def source_files() -> Iterator[Path]:
    """Go over the files of the checkout, committed or not, but for those that git ignores.

    Raises:
        HostProblem: If this is no checkout.
    """
    if not (ROOT / ".git").exists():
        raise HostProblem(f"{ROOT} is no clone of the repository, and git knows what belongs to it")
    listed = subprocess.run(
        [
            *("git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT)),
            *("ls-files", "-z", "--cached", "--others", "--exclude-standard"),
        ],
        check=True,
        text=True,
        capture_output=True,
    ).stdout
    for name in sorted(set(listed.split("\0")) - {""}):
        if (ROOT / name).is_file():
            yield ROOT / name


def copy_sources(sources: Iterable[Path], folder: Path) -> None:
    """Copy files of the checkout into a folder."""
    for path in sources:
        place = folder / path.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, place, follow_symlinks=False)
