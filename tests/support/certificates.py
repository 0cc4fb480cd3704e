# SPDX-License-Identifier: AGPL-3.0-only
"""A certificate authority of its own, and what it issues, as files."""

from __future__ import annotations

import dataclasses
import datetime
import ssl
from collections.abc import Sequence
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from plexus_registry.config.settings import Settings


class Authority:
    """Issues certificates for this host into a folder.

    Attributes:
        file: Its own certificate, for clients to trust.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(
        self,
        name: str = "tls",
        *,
        hosts: Sequence[str] = ("localhost", "127.0.0.1"),
        days: float = 30,
        from_days: float = -1,
    ) -> Issued:
        """Issue a certificate for *hosts*; *days* and *from_days* count from now."""
        now = datetime.datetime.now(datetime.UTC)
        issued = self._ca.issue_cert(
            *hosts,
            not_before=now + datetime.timedelta(days=from_days),
            not_after=now + datetime.timedelta(days=days),
        )
        found = Issued(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        found.write(issued)
        return found

    def client(self) -> ssl.SSLContext:
        """Return the context of a client that trusts this authority alone."""
        return ssl.create_default_context(cafile=self.file)


class Issued:
    """The files of a certificate and its key."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self.certificate = certificate
        self.key = key

    def write(self, issued: trustme.LeafCert) -> None:
        """Write both files."""
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())
        self.key.chmod(0o600)

    @property
    def options(self) -> tuple[str, ...]:
        """The options of the daemon that name them."""
        return ("--tls-certificate", str(self.certificate), "--tls-key", str(self.key))

    def secure(self, settings: Settings) -> Settings:
        """Return settings with TLS."""
        return dataclasses.replace(settings, tls_certificate=self.certificate, tls_key=self.key)

    def encrypt_key(self) -> None:
        """Give the key a pass phrase."""
        key = serialization.load_pem_private_key(self.key.read_bytes(), None)
        self.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            )
        )

    def serial(self) -> int:
        """Return the serial number of the certificate in the file."""
        return x509.load_pem_x509_certificate(self.certificate.read_bytes()).serial_number


def serial_of(der: bytes) -> int:
    """Return the serial number of a certificate."""
    return x509.load_der_x509_certificate(der).serial_number
