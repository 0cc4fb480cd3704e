# SPDX-License-Identifier: AGPL-3.0-only
"""Command lines: `daemon` is ``plexus-registry``."""
