# SPDX-License-Identifier: AGPL-3.0-only
"""Place what a package installs beside the wheel: ``contents.toml`` tells what, and where.

Used by the recipes of all formats, in an unpacked source distribution or a checkout::

    python3 packaging/contents.py install --format deb debian/plexus-registry
    python3 packaging/contents.py list --format rpm >plexus-registry.files
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE_SUFFIX = ".scd"
CONFIGURATION = "/etc/plexus"


@dataclass(frozen=True, slots=True)
class File:
    """A file of a package.

    Attributes:
        to: Its absolute path.
        source: Relative to the sources; None if the program writes it.
        mode: Of the file.
    """

    to: str
    source: str | None = None
    mode: int = 0o644

    @property
    def is_page(self) -> bool:
        """Whether it is of the manual: made by scdoc, compressed by most."""
        return self.source is not None and self.source.endswith(PAGE_SUFFIX)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a package of one format holds.

    Attributes:
        files: Beside those of the wheel.
        folders: That belong to it, 0755.
        links: Symbolic links and what they hold.
        site_packages: Where the wheel's package is; a pattern.
        without: What tools of the format leave out of the wheel; patterns of its own paths.
        also: What they add; patterns.
    """

    files: tuple[File, ...]
    folders: tuple[str, ...]
    links: dict[str, str]
    site_packages: str
    without: tuple[str, ...]
    also: tuple[str, ...]


def formats() -> tuple[str, ...]:
    """Return the names of the formats."""
    return tuple(_table()["formats"])


def of_format(name: str) -> Contents:
    """Read what a package of a format holds.

    Raises:
        KeyError: If there is no such format.
    """
    table = _table()
    places = table["formats"][name]

    def chosen(kind: str) -> Iterator[dict[str, Any]]:
        return (entry for entry in table[kind] if name in entry.get("only", (name,)))

    return Contents(
        files=tuple(
            File(
                entry["to"].format_map(places),
                entry.get("from"),
                int(entry.get("mode", "0644"), base=8),
            )
            for entry in chosen("files")
        ),
        folders=tuple(entry["path"] for entry in chosen("folders")),
        links={entry["path"]: entry["to"] for entry in chosen("links")},
        site_packages=places["site_packages"],
        without=tuple(places["without"]),
        also=tuple(pattern.format_map(places) for pattern in places["also"]),
    )


def install(contents: Contents, destination: Path) -> None:
    """Place all of it below *destination*.

    Raises:
        OSError: If that fails, also if there is no scdoc.
        subprocess.CalledProcessError: If scdoc refuses a page, or the program fails.
    """

    def at(path: str) -> Path:
        place = destination / path.lstrip("/")
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        return place

    os.umask(0o022)
    for folder in contents.folders:
        at(folder).mkdir(mode=0o755, exist_ok=True)
    _write_configuration(at(CONFIGURATION))
    for file in contents.files:
        place = at(file.to)
        if file.is_page:
            page = (ROOT / str(file.source)).read_bytes()
            place.write_bytes(subprocess.run(["scdoc"], input=page, stdout=-1, check=True).stdout)
        elif file.source is not None:
            shutil.copyfile(ROOT / file.source, place)
        place.chmod(file.mode)
    for path, to in contents.links.items():
        place = at(path)
        place.unlink(missing_ok=True)
        place.symlink_to(to)


def rpm_files(contents: Contents) -> Iterator[str]:
    """Give the lines of an RPM's ``%files`` (rpm-spec(5)), its wheel's excepted."""
    for folder in contents.folders:
        yield f"%dir {folder}"
    for file in contents.files:
        compressed = "*" if file.is_page else ""
        mark = ""
        if file.source is None:
            mark = "%config(noreplace) "
        elif file.to.startswith("/usr/share/doc/"):
            mark = "%doc "
        yield f"{mark}{file.to}{compressed}"
    for link in contents.links:
        yield f"{link}*"


def _table() -> dict[str, Any]:
    return tomllib.loads((ROOT / "packaging/contents.toml").read_text(encoding="utf-8"))


def _write_configuration(folder: Path) -> None:
    """Have the program of these sources write the files to start from."""
    for path in folder.glob("*.toml"):
        path.unlink()
    environ = os.environ | {
        "CONFIGURATION_DIRECTORY": str(folder.resolve()),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "plexus_registry", "--write-default-config"]
    subprocess.run(command, env=environ, check=True)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, explanation in (
        ("install", "place the files below DESTINATION"),
        ("list", "print the lines of an RPM's %%files"),
    ):
        command = verbs.add_parser(verb, help=explanation)
        command.add_argument("--format", choices=formats(), required=True)
        if verb == "install":
            command.add_argument("destination", type=Path, metavar="DESTINATION")
    arguments = parser.parse_args()
    contents = of_format(arguments.format)
    if arguments.verb == "install":
        install(contents, arguments.destination)
    else:
        print("\n".join(rpm_files(contents)))


if __name__ == "__main__":
    main()
