# SPDX-License-Identifier: AGPL-3.0-only
"""``plexus-registry --install-user-units``: the user's systemd runs what pipx or pip installed."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from plexus_registry.config import files
from plexus_registry.errors import ConfigError, Fault

SERVICE: Final = "plexus-registry.service"
SOCKET: Final = "plexus-registry.socket"
ENABLE: Final = f"systemctl --user enable --now {SOCKET} {SERVICE}"
NEXT: Final = (
    "systemctl --user daemon-reload",
    ENABLE,
    f"systemctl --user try-restart {SERVICE}",
)
"""What makes the user's systemd run units that were written, after an upgrade too."""

_PROGRAM = "plexus-registry"
_MARK = (
    "# Written by plexus-registry --install-user-units ({}); "
    "to change it: systemctl --user edit {}\n"
)
_MARKED = re.compile(rb"# Written by plexus-registry --install-user-units \((\w+)\);[^\n]*\n")
_COMMAND = re.compile(r"^(Exec\w+=)/usr/bin/([\w-]+)", re.MULTILINE)
# In the path of a program, systemd takes none of these, escaped or not.
_NOT_IN_PROGRAMS = re.compile(r"""[\x00-\x1f\x7f"'\\\ud800-\udfff]""")


def install(directory: Path, program: str, *, force: bool) -> dict[Path, str]:
    """Write the units, all of them or, where one is in the way, none.

    Args:
        directory: Where the user's systemd looks for units.
        program: The running program, as in ``sys.argv[0]``.
        force: Replace units that somebody changed; those of another version are replaced anyway.

    Returns:
        What became of each file: "written" or "unchanged".

    Raises:
        ConfigError: If the programs are not where a unit can start them, or a file is in the way or
            cannot be written.
    """
    folder = _folder_of_programs(program)
    packaged = folder.parent / "lib/systemd/user" / SERVICE
    if packaged.exists():
        raise _fault(packaged, f"was installed with the package: {ENABLE}")
    texts = {directory / name: _for_programs_in(folder, name) for name in (SERVICE, SOCKET)}
    missing: dict[Path, str] = {}
    replaced: dict[Path, str] = {}
    faults: list[Fault] = []
    for path, text in texts.items():
        try:
            held = files.read(path)
            if held is None and not path.is_symlink():
                missing[path] = text
            elif held != text.encode():
                _check_replaceable(path, force=force or _is_untouched(held))
                replaced[path] = text
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError(faults)
    for path, text in missing.items():
        files.write_new(path, text)
    for path, text in replaced.items():
        try:
            files.replace(path, text, mode=files.FILE_MODE)
        except OSError as error:
            raise _fault(path, f"cannot be written: {error.strerror}") from error
    changed = {*missing, *replaced}
    return {path: "written" if path in changed else "unchanged" for path in texts}


def _folder_of_programs(program: str) -> Path:
    """Return the folder of the running program; that of Python for ``python -m``.

    Links are not followed: those of pipx stay where they are when what they lead to is replaced.
    """
    is_own = os.path.basename(program) == _PROGRAM
    return Path(os.path.abspath(program if is_own else sys.executable)).parent


def _is_untouched(held: bytes | None) -> bool:
    """Tell whether a unit is as another version wrote it, by the digest in its first line."""
    mark = _MARKED.match(held or b"")
    return held is not None and mark is not None and mark[1] == _digest(held[mark.end() :]).encode()


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:16]


def _check_replaceable(path: Path, *, force: bool) -> None:
    if not path.is_file():  # a link to /dev/null, or to nothing
        raise _fault(path, f"is no file; if it is masked: systemctl --user unmask {path.name}")
    if not force:
        raise _fault(path, "has another content and is left as it is, --force replaces it")


def _for_programs_in(folder: Path, name: str) -> str:
    """Return a unit of the project, made to start the programs in *folder*."""

    def command(match: re.Match[str]) -> str:
        program = folder / match[2]
        if _NOT_IN_PROGRAMS.search(str(program)):
            raise _fault(
                repr(str(program)),
                "systemd starts no program with a quote, a backslash, a control character"
                " or what is no UTF-8 in its path",
            )
        if not (program.is_file() and os.access(program, os.X_OK)):
            raise _fault(
                program, "is no program: run the plexus-registry that pipx or pip installed"
            )
        # Not "$$": in the path of a program, systemd replaces no variables (systemd.service(5)).
        path = str(program).replace("%", "%%")
        return f'{match[1]}"{path}"' if " " in path else match[1] + path

    body = _COMMAND.sub(command, (_units() / name).read_text(encoding="utf-8"))
    return _MARK.format(_digest(body.encode()), name) + body


def _units() -> Traversable:
    """Return the folder of the units: in the package, or in the checkout that it runs from."""
    inside = resources.files("plexus_registry") / "units"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "systemd" / "user"


def _fault(path: Path | str, message: str) -> ConfigError:
    return ConfigError([Fault(str(path), 0, message)])
