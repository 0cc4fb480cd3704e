# SPDX-License-Identifier: AGPL-3.0-only
"""Talking to a registry: `connection` is one asyncio conversation, `address` finds the registry."""
