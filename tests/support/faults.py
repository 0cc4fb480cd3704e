# SPDX-License-Identifier: AGPL-3.0-only
"""What must hold of every fault that an operator is shown."""

from __future__ import annotations

from collections.abc import Mapping

from plexus_registry.errors import ConfigError

MESSAGE_MAX_CHARACTERS = 2048


def check_faults(error: ConfigError, places: Mapping[str, bytes]) -> None:
    """Check that every fault names a place, a line that it has, and one bounded line of reason.

    Args:
        error: What was raised.
        places: By the name of each place that a fault may name, what stands there.
    """
    assert error.faults
    for fault in error.faults:
        assert fault.place in places, fault
        assert 0 <= fault.line <= places[fault.place].count(b"\n") + 1, fault
        assert 1 <= len(fault.message) <= MESSAGE_MAX_CHARACTERS, fault
        assert fault.message.isprintable(), fault
