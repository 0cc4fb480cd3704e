# SPDX-License-Identifier: AGPL-3.0-only
"""Certificate and key of TLS: what is wrong is told with the file and what would be right."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from plexus_registry.config.certificate import digest_of, load, public_mode
from plexus_registry.errors import ConfigError
from support.certificates import Authority, Issued


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority that issues into the folder of the test."""
    return Authority(tmp_path)


def fault_of(certificate: Path, key: Path | None) -> str:
    """Load in vain; return the only fault, with the folder left out."""
    with pytest.raises(ConfigError) as refused:
        load(certificate, key)
    (fault,) = refused.value.faults
    return str(fault).replace(f"{certificate.parent}/", "")


def test_certificate_and_key_make_a_context(authority: Authority) -> None:
    """In two files or in one; versions before 1.2 are off, and it is known when it expires."""
    issued = authority.issue(days=7)
    found = load(issued.certificate, issued.key)
    assert found.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert found.expires_at == pytest.approx(time.time() + 7 * 86400, abs=600)
    assert found.digest == digest_of(issued.certificate, issued.key) != ""

    issued.certificate.write_bytes(issued.key.read_bytes() + issued.certificate.read_bytes())
    assert load(issued.certificate, None).context.cert_store_stats()["x509"] == 0


BROKEN = "-----BEGIN {0}-----\nAAAA\n-----END {0}-----\n"


def swap_key(authority: Authority, issued: Issued) -> None:
    """Put the key of another certificate in place."""
    issued.key.write_bytes(authority.issue("other").key.read_bytes())


def make_directory(path: Path) -> None:
    """Put a directory in place."""
    path.unlink()
    path.mkdir()


SPOILED: dict[str, tuple[Callable[[Authority, Issued], object], str]] = {
    "another key": (swap_key, "tls.key: is not the key of the certificate in tls.crt"),
    "encrypted": (
        lambda _, it: it.encrypt_key(),
        "tls.key: is encrypted, expected a private key without a pass phrase",
    ),
    "no key": (lambda _, it: it.key.unlink(), "tls.key: does not exist"),
    "no certificate": (lambda _, it: it.certificate.unlink(), "tls.crt: does not exist"),
    "directory": (
        lambda _, it: make_directory(it.key),
        "tls.key: is a directory, expected a file",
    ),
    "certificate as key": (
        lambda _, it: it.key.write_bytes(it.certificate.read_bytes()),
        "tls.key: holds no private key, expected one in PEM",
    ),
    "key as certificate": (
        lambda _, it: it.certificate.write_bytes(it.key.read_bytes()),
        "tls.crt: holds no certificate, expected one in PEM",
    ),
    "broken key": (
        lambda _, it: it.key.write_text(BROKEN.format("PRIVATE KEY")),
        "tls.key: holds a private key that cannot be read, expected one in PEM",
    ),
    "broken certificate": (
        lambda _, it: it.certificate.write_text(BROKEN.format("CERTIFICATE")),
        "tls.crt: holds a certificate that cannot be read, expected one in PEM",
    ),
    "expired": (
        lambda authority, _: authority.issue(days=-0.01),
        "tls.crt: the certificate has expired, expected one that is valid today",
    ),
    "not yet valid": (
        lambda authority, _: authority.issue(from_days=0.01),
        "tls.crt: the certificate is not valid yet, expected one that is valid today",
    ),
}


@pytest.mark.parametrize(("spoil", "fault"), SPOILED.values(), ids=SPOILED)
def test_what_cannot_be_used_is_refused_with_the_reason(
    authority: Authority, spoil: Callable[[Authority, Issued], object], fault: str
) -> None:
    """One fault, of the file that has it."""
    issued = authority.issue()
    spoil(authority, issued)
    assert fault_of(issued.certificate, issued.key) == fault


def test_key_of_another_kind_is_refused(authority: Authority) -> None:
    """An RSA key beside a certificate for an elliptic curve, or the other way round."""
    issued = authority.issue()
    rsa = trustme.CA().issue_cert("localhost", key_type=trustme.KeyType.RSA)
    issued.key.write_bytes(rsa.private_key_pem.bytes())
    assert "is not the key of the certificate in" in fault_of(issued.certificate, issued.key)


@pytest.mark.parametrize(
    ("mode", "writer", "right"),
    [
        (0o666, "every user", 0o640),
        (0o664, "its group", 0o640),
        (0o660, "its group", 0o640),
        (0o602, "every user", 0o600),
        (0o777, "every user", 0o640),
    ],
)
def test_key_that_others_can_write_is_refused(
    authority: Authority, mode: int, writer: str, right: int
) -> None:
    """They could be this server. Looked at for changes, the file is another with each fault.

    With the mode that is advised nothing is wrong, and nobody but owner and group can read it.
    """
    issued = authority.issue()
    issued.key.chmod(mode)
    assert fault_of(issued.certificate, issued.key) == (
        f"tls.key: has the mode {mode:04o}, so {writer} can write it, expected {right:04o}:"
        f" chmod {right:04o} tls.key"
    )
    assert f"has the mode {mode:04o}" in digest_of(issued.certificate, issued.key)
    issued.key.chmod(right)
    load(issued.certificate, issued.key)
    assert public_mode(issued.key) == 0


@pytest.mark.parametrize(
    ("mode", "is_public"), [(0o600, False), (0o640, False), (0o400, False), (0o644, True)]
)
def test_key_that_others_can_read_is_told(
    authority: Authority, mode: int, *, is_public: bool
) -> None:
    """A group may: Debian's ssl-cert is there for that."""
    issued = authority.issue()
    issued.key.chmod(mode)
    assert bool(public_mode(issued.key)) is is_public
    load(issued.certificate, issued.key)


def test_files_that_cannot_be_read_have_their_fault_for_a_digest(tmp_path: Path) -> None:
    """So that they count as changed once they can, or once something else is wrong with them."""
    assert digest_of(tmp_path / "no.crt", None) == f"{tmp_path}/no.crt: does not exist"
