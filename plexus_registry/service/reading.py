# SPDX-License-Identifier: AGPL-3.0-only
"""What a reload reads: declared backends, access tokens and the certificate, all or nothing."""

from __future__ import annotations

import logging
from pathlib import Path

from plexus_registry.access import Access, Policy
from plexus_registry.config import tokens
from plexus_registry.rules import Declare
from plexus_registry.service.certificates import CertificateReader
from plexus_registry.service.declarations import DeclarationReader

logger = logging.getLogger(__name__)


class Reading:
    """Reads for the registry's reload, and hands tokens that are sound to *access*.

    Args:
        declarations: Reads what is declared.
        token_file: Where the tokens are; None for none. It is not read where nobody needs one.
        access: Who may write. Its tokens are replaced as soon as all files are sound, also if the
            declarations cannot be written then: what is taken back must not count any more.
        certificate: Reads certificate and key of TLS.

    Attributes:
        certificate: As given; what it read is to be used when the reload has succeeded.
        files: What has to be watched besides the declarations.
    """

    def __init__(
        self,
        declarations: DeclarationReader,
        token_file: Path | None,
        access: Access,
        certificate: CertificateReader,
    ) -> None:
        self.certificate = certificate
        self.files = [*([token_file] if token_file else []), *certificate.files]
        self._declarations = declarations
        self._token_file = None if access.policy is Policy.OPEN else token_file
        self._access = access
        self._are_tokens_sound = False

    @property
    def is_sound(self) -> bool:
        """Whether what was read last had no faults."""
        tokens_and_certificate = self._are_tokens_sound and self.certificate.is_sound
        return tokens_and_certificate and self._declarations.is_sound

    def __call__(self, explicit: bool) -> Declare | None:
        """Read everything anew. Blocks. See `DeclarationReader`.

        Raises:
            ConfigError: With every fault of the certificate, else of the tokens, or else of the
                declarations.
        """
        self._are_tokens_sound = False
        self.certificate.read(explicit=explicit)
        # Before the declarations, which count as read once they are: with a fault here they
        # must not, or nobody would apply them when it is mended.
        found = tokens.read(self._token_file) if self._token_file else {}
        self._are_tokens_sound = True
        declare = self._declarations(explicit)
        if found != self._access.tokens:
            logger.info("access tokens read tokens=%d path=%s", len(found), self._token_file)
            self._access.tokens = found
        return declare
