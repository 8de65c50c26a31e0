"""Opens an endpoint as a byte stream: two descriptors and how they end.

The one place that knows which module makes which kind. A stream is a pair of non-blocking
descriptors rather than trio's streams, because the pump reads into its own buffer and writes
from it without asking trio for each piece.
"""

from __future__ import annotations

from typing import Protocol

import trio

from gateway.backhaul.command_stream import open_command
from gateway.backhaul.destination import (
    ExecEndpoint,
    ListenEndpoint,
    PtyEndpoint,
    StdEndpoint,
    StreamEndpoint,
    TcpEndpoint,
    UnixEndpoint,
)
from gateway.backhaul.link import LinkFailed
from gateway.backhaul.socket_streams import accept_tcp, accept_unix, connect_tcp, connect_unix
from gateway.backhaul.terminal_streams import open_pty, open_std


class Stream(Protocol):
    """An open stream. `read_fd` and `write_fd` may be one descriptor; both do not block."""

    @property
    def peer(self) -> str:
        """Who is at the other side, for the log."""

    @property
    def read_fd(self) -> int: ...

    @property
    def write_fd(self) -> int: ...

    async def close(self) -> None:
        """Ends the stream and everything that was started for it, also when cancelled."""

    def ending(self) -> LinkFailed | None:
        """Once closed: why it ended, if more is known than that it did."""


async def open_stream(
    endpoint: StreamEndpoint, nursery: trio.Nursery, *, patience: float
) -> Stream:
    """Opens the stream, waiting for the far end where it is one that waits.

    `nursery` runs what the stream needs besides. `patience`: seconds that a far end gets to
    accept a connection, and after which a silent one counts as gone. Raises LinkFailed.
    """
    match endpoint:
        case ExecEndpoint():
            return await open_command(endpoint.command, nursery)
        case TcpEndpoint():
            return await connect_tcp(endpoint, patience)
        case ListenEndpoint():
            return await accept_tcp(endpoint, patience)
        case UnixEndpoint(listen=True):
            return await accept_unix(endpoint)
        case UnixEndpoint():
            return await connect_unix(endpoint)
        case PtyEndpoint():
            return await open_pty(endpoint)
        case StdEndpoint():
            return open_std()


def waits(endpoint: StreamEndpoint) -> bool:
    """Whether the endpoint waits for far ends, one after the other."""
    match endpoint:
        case ListenEndpoint() | PtyEndpoint() | UnixEndpoint(listen=True):
            return True
    return False
