# SPDX-License-Identifier: AGPL-3.0-only
"""The certificate and private key of TLS: read from PEM files, tried out, refused with the reason.

They are tried by a handshake with ourselves in memory, in which the client trusts just this
certificate: what OpenSSL finds wrong there, every client that looks would find wrong.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from plexus_registry.config import files
from plexus_registry.errors import ConfigError, Fault

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")
# The last one is what OpenSSL says of a key of another kind, RSA or elliptic curve.
_OTHER_KEY = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
_KEY_FORBIDDEN_MODE = 0o022
"""Whoever can write the key can be this server; a group that reads it, as ssl-cert, is usual."""
_KEY_UNWANTED_MODE = 0o137
"""A key that every user can read is a warning, and nothing to advise."""
# X509_STORE_CTX_get_error(3)
_NOT_YET_VALID, _EXPIRED = 9, 10


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key, ready for use.

    Attributes:
        context: For the server's end of connections.
        expires_at: Unix seconds.
        digest: SHA-256 over the files, hexadecimal.
    """

    context: ssl.SSLContext
    expires_at: float
    digest: str


def digest_of(certificate: Path, key: Path | None) -> str:
    """Return the digest of the files as they are now, or the fault if they cannot be read."""
    try:
        return _digest(_read(certificate), _read_key(key or certificate))
    except ConfigError as fault:
        return str(fault)


def load(certificate: Path, key: Path | None) -> Certificate:
    """Read certificate and key. Blocks.

    Args:
        certificate: PEM file: the server's certificate, then those between it and a root.
        key: PEM file of the private key, without a pass phrase; None if it is in *certificate*.

    Raises:
        ConfigError: If a file cannot be read or holds something else, if others can write the
            key, if it is not the certificate's, or if clients would not accept the certificate
            today.
    """
    key = key or certificate
    chain, secret = _read(certificate), _read_key(key)
    first = _CERTIFICATE.search(chain)
    if first is None:
        _refuse(certificate, "holds no certificate, expected one in PEM")
    if not _KEY.search(secret):
        _refuse(key, "holds no private key, expected one in PEM")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        client.load_verify_locations(cadata=first[0].decode("ascii"))
    except (ssl.SSLError, UnicodeDecodeError):
        _refuse(certificate, "holds a certificate that cannot be read, expected one in PEM")
    context = _server_context(certificate, key)
    return Certificate(context, _try(certificate, context, client), _digest(chain, secret))


def _server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    def ask_for_pass_phrase() -> str:
        # OpenSSL would ask on the terminal.
        _refuse(key, "is encrypted, expected a private key without a pass phrase")

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A client could have us compute as often as it likes on one connection.
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(certificate, key, ask_for_pass_phrase)
    except ssl.SSLError as error:
        if error.reason in _OTHER_KEY:
            _refuse(key, f"is not the key of the certificate in {certificate}")
        if error.reason and error.reason.endswith(("TOO_SMALL", "TOO_WEAK")):
            reason = error.reason.lower().replace("_", " ")
            _refuse(certificate, f"is not secure enough for OpenSSL: {reason}")
        _refuse(key, "holds a private key that cannot be read, expected one in PEM")
    except OSError as error:  # gone since it was read
        _refuse(key, f"cannot be read: {error.strerror}")
    return context


def _try(certificate: Path, context: ssl.SSLContext, client: ssl.SSLContext) -> float:
    """Shake hands in memory and return when the certificate expires."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server),
        context.wrap_bio(to_server, to_client, server_side=True),
    ]
    found = None
    try:
        while ends:
            for end in list(ends):
                try:
                    end.do_handshake()
                    ends.remove(end)
                except ssl.SSLWantReadError:
                    pass
                else:
                    if not end.server_side:
                        found = end.getpeercert()
    except ssl.SSLCertVerificationError as error:
        dates = {_EXPIRED: "has expired", _NOT_YET_VALID: "is not valid yet"}
        problem = dates.get(error.verify_code, f"would be refused: {error.verify_message}")
        _refuse(certificate, f"the certificate {problem}, expected one that is valid today")
    except ssl.SSLError as error:
        _refuse(certificate, f"the certificate cannot be used: {error.reason or error}")
    assert found is not None
    return ssl.cert_time_to_seconds(str(found["notAfter"]))


def public_mode(path: Path) -> int:
    """Return the permissions of a key's file if every user of this machine can read it, else 0."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0
    return mode if mode & stat.S_IROTH else 0


def _read_key(path: Path) -> bytes:
    return _found(
        path,
        files.read(path, forbidden_mode=_KEY_FORBIDDEN_MODE, unwanted_mode=_KEY_UNWANTED_MODE),
    )


def _read(path: Path) -> bytes:
    return _found(path, files.read(path))


def _found(path: Path, content: bytes | None) -> bytes:
    if content is None:
        _refuse(path, "does not exist")
    return content


def _digest(*contents: bytes) -> str:
    return hashlib.sha256(b"\0".join(contents)).hexdigest()


def _refuse(path: Path, message: str) -> NoReturn:
    raise ConfigError([Fault(str(path), 0, message)]) from None
