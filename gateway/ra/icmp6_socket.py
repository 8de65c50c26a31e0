"""A raw ICMPv6 socket for neighbour discovery on one interface.

The kernel computes and verifies checksums (RFC 3542 §3.1) and lets one type of message through. It
gives the hop limit of what comes, which has to be 255 (RFC 4861 §6.1): nothing from another link
has that.
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv6Address
from typing import cast

import trio

_ICMP6_FILTER = 1
_ANCILLARY = socket.CMSG_SPACE(4)


class Icmp6Socket:
    """Sends to a link and receives messages of one type from it. Close it after use."""

    def __init__(self, index: int, name: str, kind: int) -> None:
        """`index`, `name`: of the interface; `kind`: the ICMPv6 type. Raises OSError."""
        self._index = index
        self._socket = trio.socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        try:
            self._set_up(name, kind)
        except BaseException:
            self._socket.close()
            raise

    def _set_up(self, name: str, kind: int) -> None:
        sock, six = self._socket, socket.IPPROTO_IPV6
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode() + b"\0")
        sock.setsockopt(six, socket.IPV6_MULTICAST_IF, self._index)
        sock.setsockopt(six, socket.IPV6_MULTICAST_HOPS, 255)
        sock.setsockopt(six, socket.IPV6_MULTICAST_LOOP, 0)
        sock.setsockopt(six, socket.IPV6_RECVHOPLIMIT, 1)
        # A bit that is set blocks its type.
        blocked = bytearray(b"\xff" * 32)
        word, bit = divmod(kind, 32)
        struct.pack_into("=I", blocked, 4 * word, 0xFFFF_FFFF & ~(1 << bit))
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(blocked))

    def join(self, group: str) -> None:
        """Receives what is sent to this multicast address, too. Raises OSError."""
        member = IPv6Address(group).packed + struct.pack("=I", self._index)
        self._socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, member)

    def close(self) -> None:
        self._socket.close()

    async def send(self, message: bytes, group: str) -> None:
        """Sends to a multicast address of the link. Raises OSError."""
        await self._socket.sendto(message, (group, 0, 0, self._index))

    async def receive(self, most: int) -> tuple[bytes, int, IPv6Address]:
        """A message of at most so many bytes, its hop limit and its source. Raises OSError."""
        data, ancillary, _, address = await self._socket.recvmsg(most, _ANCILLARY)
        hop_limit = 0
        for level, kind, value in ancillary:
            if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT):
                (hop_limit,) = struct.unpack("=i", value[:4])
        host = cast("tuple[str, int, int, int]", address)[0]
        return data, hop_limit, IPv6Address(host.partition("%")[0])
