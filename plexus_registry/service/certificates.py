# SPDX-License-Identifier: AGPL-3.0-only
"""The server's certificate through reloads: read anew, and used if the whole reload is sound.

A certificate that is in use is not tried again while its files stay as they are: that it expires
is told by `expiry`, and keeps nobody from changing what is declared. A new one has to be valid.
"""

from __future__ import annotations

import logging
import ssl
from pathlib import Path

from plexus_registry.config import certificate
from plexus_registry.config.certificate import Certificate
from plexus_registry.errors import ConfigError, Fault
from plexus_registry.service.expiry import Expiry, date_of

logger = logging.getLogger(__name__)


class CertificateReader:
    """Reads certificate and key together with what is declared.

    Args:
        path: Of the certificate; None for no TLS.
        key: Of the private key; None if it is in the same file.
        expiry: Told which certificate is in use.

    Attributes:
        is_sound: Whether what was read last can be used.
        fault: Why not, if it was read and cannot be.
    """

    def __init__(
        self, path: Path | None, key: Path | None, *, expiry: Expiry | None = None
    ) -> None:
        self._path = path
        self._key = key
        self._expiry = expiry
        self.is_sound = False
        self.fault: ConfigError | None = None
        self._key_mode = self._told_key_mode = 0
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
            explicit: Somebody asked: files that were refused are tried again unchanged, for what
                was wrong may be the date, or somewhere else.

        Raises:
            ConfigError: If they cannot be used.
        """
        if self._path is None and self._key is not None:
            fault = f"there is no certificate for the key {self._key}, set tls_certificate"
            raise ConfigError([Fault("tls_key", 0, fault)])
        if self._path is not None:
            self._key_mode = certificate.public_mode(self._key or self._path)
            digest = certificate.digest_of(self._path, self._key)
            if digest == self._digest and not explicit:
                return
            self._digest = digest
            self.is_sound = False
            self._next = None
            try:
                if not self._used or digest != self._used:
                    self._next = certificate.load(self._path, self._key)
            except ConfigError as fault:
                self.fault = fault
                raise
        self.is_sound = True
        self.fault = None

    def take(self, former: ssl.SSLContext | None) -> ssl.SSLContext | None:
        """Return what to use from now on, *former* if nothing newer was read."""
        found, self._next = self._next, None
        self._warn_of_public_key()
        if found is None:
            if self._expiry is not None:
                self._expiry.remind()
            return former
        self._used = found.digest
        expires = date_of(found.expires_at)
        logger.info("TLS certificate loaded path=%s expires=%s", self._path, expires)
        if self._expiry is not None:
            self._expiry.follow(found.expires_at)
        return found.context

    def _warn_of_public_key(self) -> None:
        """Say that others can read the key, once for each time that they could not before."""
        if self._key_mode and self._key_mode != self._told_key_mode:
            key = self._key or self._path
            logger.warning(
                "TLS private key can be read by every user of this machine path=%s mode=%04o,"
                " chmod 0640 %s",
                key,
                self._key_mode,
                key,
            )
        self._told_key_mode = self._key_mode

    def forget(self) -> None:
        """Take back what was read, for the reload that it belongs to has failed."""
        self._next = None
        if self.is_sound:
            self._digest = None
