# SPDX-License-Identifier: AGPL-3.0-only
"""What ``plexus-registryctl doctor`` has to say, one thing at a time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: ``ok``, ``note`` or ``problem``.
        text: What is so.
        remedy: What to do; empty where nothing is to be done.
    """

    level: str
    text: str
    remedy: str = ""


def ok(text: str) -> Finding:
    """Say that something is as it should be."""
    return Finding("ok", text)


def note(text: str, remedy: str = "") -> Finding:
    """Say something that may be meant so."""
    return Finding("note", text, remedy)


def problem(text: str, remedy: str) -> Finding:
    """Say that something is wrong."""
    return Finding("problem", text, remedy)
