"""The end of a listening socket, without a reset of connections that the kernel has already made.

A connection is complete before its server accepts it, and its client may have sent a request. Closing the
listening socket resets such connections, and their clients cannot know whether the requests had begun. So
the kernel first drops new connection attempts, then the server accepts what is queued, then it closes.
"""

import contextlib
import ctypes
import socket
import struct

_SO_ATTACH_FILTER = 26  # asm-generic/socket.h; the socket module lacks it
_TCP_FLAGS_OFFSET, _SYN = 13, 0x02
_DROP, _PASS = 0, 0xFFFFFFFF
# Classic BPF (linux/filter.h) over a TCP segment: opcode, jump if true, jump if false, operand.
_PROGRAM = (
    (0x30, 0, 0, _TCP_FLAGS_OFFSET),  # load the byte of flags
    (0x45, 0, 1, _SYN),  # is SYN set?
    (0x06, 0, 0, _DROP),
    (0x06, 0, 0, _PASS),
)


def drop_new_connections(listener: socket.socket) -> None:
    """Let the kernel drop connection attempts at a listening TCP socket; handshakes under way complete.

    A client repeats its attempt after 1 s, and is refused if the listener is closed by then. Where the
    kernel has no such filter, nothing happens.
    """
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in _PROGRAM))
    program = struct.pack("HP", len(_PROGRAM), ctypes.addressof(code))
    with contextlib.suppress(OSError):
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
