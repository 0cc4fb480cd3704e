# SPDX-License-Identifier: AGPL-3.0-only
"""The server's certificate through reloads: read anew, and used if the whole reload is sound."""

from __future__ import annotations

import logging
import ssl
import time
from pathlib import Path
from typing import Final

from plexus_registry.config import certificate
from plexus_registry.config.certificate import Certificate
from plexus_registry.errors import ConfigError, Fault

logger = logging.getLogger(__name__)

EXPIRES_SOON_S: Final = 14 * 86400


class CertificateReader:
    """Reads certificate and key together with what is declared.

    Args:
        path: Of the certificate; None for no TLS.
        key: Of the private key; None if it is in the same file.

    Attributes:
        is_sound: Whether what was read last can be used.
    """

    def __init__(self, path: Path | None, key: Path | None) -> None:
        self._path = path
        self._key = key
        self.is_sound = False
        self._digest: str | None = None
        self._used = ""
        self._next: Certificate | None = None

    @property
    def files(self) -> list[Path]:
        """What has to be watched."""
        return [path for path in (self._path, self._key) if path is not None]

    def read(self, *, explicit: bool) -> None:
        """Read the files if they have changed; blocks.

        Args:
            explicit: Somebody asked: unchanged files are tried too, for they may have expired.

        Raises:
            ConfigError: If they cannot be used.
        """
        if self._path is None and self._key is not None:
            fault = f"there is no certificate for the key {self._key}, set tls_certificate"
            raise ConfigError([Fault("tls_key", 0, fault)])
        if self._path is not None:
            digest = certificate.digest_of(self._path, self._key)
            if digest == self._digest and not explicit:
                return
            self._digest = digest
            self.is_sound = False
            self._next = certificate.load(self._path, self._key)
        self.is_sound = True

    def take(self, former: ssl.SSLContext | None) -> ssl.SSLContext | None:
        """Return what to use from now on, *former* if nothing newer was read."""
        found, self._next = self._next, None
        if found is None:
            return former
        if found.digest != self._used:
            self._used = found.digest
            is_soon = found.expires_at - time.time() < EXPIRES_SOON_S
            logger.log(
                logging.WARNING if is_soon else logging.INFO,
                "TLS certificate loaded path=%s expires=%s",
                self._path,
                time.strftime("%Y-%m-%d", time.gmtime(found.expires_at)),
            )
        return found.context

    def forget(self) -> None:
        """Take back what was read, for the reload that it belongs to has failed."""
        self._next = None
        if self.is_sound:
            self._digest = None
