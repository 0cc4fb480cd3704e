# SPDX-License-Identifier: AGPL-3.0-only
"""Every input of the corpus, without the fuzzer."""

from __future__ import annotations

import pytest

from fuzz import CORPUS, TARGETS, load

CORPUS_MAX_BYTES = 200_000
"""It is read by people, and copied with every clone."""


@pytest.mark.parametrize("target", TARGETS)
def test_corpus_holds(target: str) -> None:
    """What must always hold does for all seeds, and for all that a fuzzer ever found."""
    inputs = sorted((CORPUS / target).iterdir())
    assert inputs
    one_input = load(target)
    for path in inputs:
        try:
            one_input(path.read_bytes())
        except BaseException as fault:
            fault.add_note(f"input: {path}")
            raise


def test_corpus_stays_small() -> None:
    """The corpus has no input without a target, and a size that a repository can carry."""
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.glob("*/*")) <= CORPUS_MAX_BYTES
