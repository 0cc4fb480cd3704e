# SPDX-License-Identifier: AGPL-3.0-only
"""The life cycle: what composes store, registry, protocol and server, and runs them.

`service` starts and stops one registry inside any asyncio program; `daemon` wraps it in a process
of its own, with signals and logs.
"""
