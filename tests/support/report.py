# SPDX-License-Identifier: AGPL-3.0-only
"""Figures of fault tests, for the table in docs/reliability.md."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path


def record_fault(name: str, **figures: object) -> None:
    """Write the figures of a fault into the folder ``PLEXUS_FAULT_REPORT``, if there is one."""
    if folder := os.environ.get("PLEXUS_FAULT_REPORT"):
        line = {"kind": "fault", "name": name, **figures}
        Path(folder, f"salvage-{secrets.token_hex(4)}.json").write_text(json.dumps(line), "utf-8")
