# SPDX-License-Identifier: AGPL-3.0-only
"""What a reload reads: access tokens, the certificate and declared backends.

Certificate and declarations apply together or not at all. Tokens apply as soon as their own file
is sound, whatever the others say: a fault elsewhere must not keep a token that was taken back.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

from plexus_registry.access import Access, Policy
from plexus_registry.config import tokens
from plexus_registry.errors import AccessFault, ConfigError
from plexus_registry.reloads import Standing
from plexus_registry.rules import Declare
from plexus_registry.service.certificates import CertificateReader
from plexus_registry.service.declarations import DeclarationReader

logger = logging.getLogger(__name__)


class Reading:
    """Reads for the registry's reload, and hands tokens that are sound to *access* at once.

    Args:
        declarations: Reads what is declared.
        token_file: Where the tokens are; None for none. It is not read where nobody needs one.
        access: Who may write.
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
        self._reading_tokens = threading.Lock()

    @property
    def is_sound(self) -> bool:
        """Whether what was read last had no faults."""
        tokens_and_certificate = self._are_tokens_sound and self.certificate.is_sound
        return tokens_and_certificate and self._declarations.is_sound

    def __call__(self, explicit: bool) -> Declare | Standing | None:
        """Read everything anew. Blocks. See `DeclarationReader`.

        Returns:
            If nothing new is declared, what is still wrong that was told before; None if nothing.

        Raises:
            AccessFault: With every fault of the tokens, or else of the certificate.
            ConfigError: Or else with every fault of the declarations.
        """
        # Declarations come last, for they count as read once they are: with a fault in the others
        # they must not, or nobody would apply them when it is mended.
        try:
            self.read_tokens()
            self.certificate.read(explicit=explicit)
            # A fault that was told already stands in the way of what is new, and of nothing else.
            if self.certificate.fault is not None and self._declarations.is_changed():
                raise self.certificate.fault
        except ConfigError as error:
            raise AccessFault(error.faults) from error
        declare = self._declarations(explicit)
        return self._standing() if declare is None and not self.is_sound else declare

    def _standing(self) -> Standing:
        """Return what is wrong in files that are as they were when it was told."""
        of_certificate, of_declarations = self.certificate.fault, self._declarations.fault
        if of_certificate is None:
            return Standing(of_declarations)
        more = of_declarations.faults if of_declarations else []
        return Standing(AccessFault([*of_certificate.faults, *more]))

    def read_tokens(self) -> None:
        """Read the tokens alone. Blocks; may be called beside everything else, in any thread.

        Raises:
            ConfigError: With every fault of their file.
        """
        with self._reading_tokens:  # who read the older file is not to have the last word
            self._are_tokens_sound = False
            found = tokens.read(self._token_file) if self._token_file else {}
            self._are_tokens_sound = True
            if found != self._access.tokens:
                self._access.tokens = found
                logger.info("access tokens read tokens=%d path=%s", len(found), self._token_file)
