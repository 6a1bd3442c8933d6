"""Messages between a process and a child that it started: a length, then that many bytes, over a socket pair.

Both ends are of one installation, and no other process has one.
"""

import asyncio
import socket
import struct

_LENGTH = struct.Struct("<I")
MAX_BYTES = (1 << 32) - 1


def frame(data: bytes) -> bytes:
    """Return a message's bytes on the wire."""
    return _LENGTH.pack(len(data)) + data


async def read_frame(reader: asyncio.StreamReader, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the next message. Raises EOFError when the other side has ended, or sends a larger one."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > max_bytes:
            raise EOFError
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise EOFError from error


def receive_frame(connection: socket.socket) -> bytes:
    """Wait for the next message without an event loop. Raises EOFError when the other side has ended."""
    (length,) = _LENGTH.unpack(_receive(connection, _LENGTH.size))
    return _receive(connection, length)


def _receive(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(min(size - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
