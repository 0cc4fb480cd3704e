# SPDX-License-Identifier: AGPL-3.0-only
"""The least that a WebSocket server in Python can do: frames in, three constant frames out.

Over the same Sans-I/O layer as the registry, without looking at what is asked. Prints its port.
Arguments: the sizes of the three messages.
"""

from __future__ import annotations

import asyncio
import sys

from websockets.http11 import Request
from websockets.server import ServerProtocol

from bench.wire import DONE

READ_BYTES = 16384


class Bare(asyncio.BufferedProtocol):
    """One connection.

    Args:
        messages: The answer to everything.
        buffer: What all connections read into; each empties it before another reads.
    """

    transport: asyncio.Transport

    def __init__(self, messages: list[bytes], buffer: memoryview) -> None:
        self._websocket = ServerProtocol(max_size=2**20)
        self._messages = messages
        self._buffer = buffer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        """Lend the buffer."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Answer all that came with one write."""
        websocket = self._websocket
        websocket.receive_data(bytes(self._buffer[:nbytes]))
        for event in websocket.events_received():
            if isinstance(event, Request):
                websocket.send_response(websocket.accept(event))
            else:
                for message in self._messages:
                    websocket.send_text(message)
        self.transport.write(b"".join(websocket.data_to_send()))


async def main(sizes: list[int]) -> None:
    """Serve until killed."""
    messages = [b"x" * size for size in sizes]
    messages[-1] = (b"{" + DONE + b"}").rjust(sizes[-1])
    buffer = memoryview(bytearray(READ_BYTES))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Bare(messages, buffer), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main([int(text) for text in sys.argv[1:]]))
