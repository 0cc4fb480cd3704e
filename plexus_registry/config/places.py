# SPDX-License-Identifier: AGPL-3.0-only
"""Where files are when nobody says where: systemd's directories, else the XDG base directories."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

SYSTEM: Final = {
    "CONFIGURATION_DIRECTORY": "/etc/plexus",
    "STATE_DIRECTORY": "/var/lib/plexus-registry",
}
"""What systemd tells the system's service (systemd.exec(5))."""


def of_system(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the system's service, as far as the unit alone makes it.

    Whoever looks at the service has settings of his own in his shell, which say nothing about it.
    """
    own = {
        name: value
        for name, value in environ.items()
        if not name.startswith(("REGISTRY_", "XDG_"))
        and name not in ("RUST_LOG", "CREDENTIALS_DIRECTORY")
    }
    return own | SYSTEM


def settings_file(environ: Mapping[str, str], home: Path) -> Path:
    """Return the default path of ``registry.toml``."""
    return _configuration_directory(environ, home) / "registry.toml"


def declared_backends(environ: Mapping[str, str], home: Path) -> Path:
    """Return the default path of ``backends.toml``."""
    return _configuration_directory(environ, home) / "backends.toml"


def tokens(environ: Mapping[str, str], home: Path) -> Path:
    """Return the default path of the access tokens: systemd's credential if it passes one."""
    credential = _credential(environ, "tokens")
    return credential or _configuration_directory(environ, home) / "tokens"


def tls_certificate(environ: Mapping[str, str], home: Path) -> Path | None:
    """Return the certificate that systemd passes as a credential, if it passes one."""
    return _credential(environ, "tls.crt")


def tls_key(environ: Mapping[str, str], home: Path) -> Path | None:
    """Return the private key that systemd passes as a credential, if it passes one."""
    return _credential(environ, "tls.key")


def database(environ: Mapping[str, str], home: Path) -> Path:
    """Return the default path of the database.

    A person's database stays where the Rust program of the same name keeps it, if it is there, so
    that nothing is lost by changing over.
    """
    state = _first(environ.get("STATE_DIRECTORY"))
    if state is not None:
        return state / "registry.db"
    former = _xdg(environ, "XDG_CONFIG_HOME", home / ".config") / "plexus" / "registry.db"
    if _may_exist(former):
        return former
    state = _xdg(environ, "XDG_STATE_HOME", home / ".local" / "state")
    return state / "plexus-registry" / "registry.db"


def user_units(environ: Mapping[str, str], home: Path) -> Path:
    """Return the directory of the units that a user made (systemd.unit(5))."""
    return _xdg(environ, "XDG_CONFIG_HOME", home / ".config") / "systemd" / "user"


def _configuration_directory(environ: Mapping[str, str], home: Path) -> Path:
    directory = _first(environ.get("CONFIGURATION_DIRECTORY"))
    return directory or _xdg(environ, "XDG_CONFIG_HOME", home / ".config") / "plexus"


def _credential(environ: Mapping[str, str], name: str) -> Path | None:
    """Return the path of a credential (systemd.exec(5), ``LoadCredential=``), if there is one."""
    directory = environ.get("CREDENTIALS_DIRECTORY")
    path = Path(directory) / name if directory else None
    return path if path is not None and _may_exist(path) else None


def _may_exist(path: Path) -> bool:
    """Tell whether there may be something, which is so too if nobody lets us look.

    Whoever opens it will be told why that cannot be; a new database elsewhere would look as if
    everything was lost.
    """
    try:
        return path.exists()
    except OSError:
        return True


def _first(directories: str | None) -> Path | None:
    """Return the first of several directories as systemd.exec(5) gives them; they are absolute."""
    directory = Path((directories or "").partition(":")[0])
    return directory if directory.is_absolute() else None


def _xdg(environ: Mapping[str, str], variable: str, default: Path) -> Path:
    """Return a base directory; a relative one "should be considered invalid and ignored"."""
    directory = Path(environ.get(variable, ""))
    return directory if directory.is_absolute() else default
