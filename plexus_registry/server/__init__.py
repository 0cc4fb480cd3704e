# SPDX-License-Identifier: AGPL-3.0-only
"""Sockets: `listener` accepts, `connection` speaks WebSocket, `handshake` judges HTTP requests.

Over the Sans-I/O layer of the websockets library, under `asyncio.BufferedProtocol`: no task and
no queue per connection, and one write for all that one read brought.
"""
