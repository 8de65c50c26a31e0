"""An interface as the kernel shows it, for router advertisements, and the socket to send them.

The kernel's raw ICMPv6 socket computes and verifies checksums (RFC 3542 §3.1), and gives the
hop limit of what comes, which has to be 255 (RFC 4861 §6.1.1).
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv6Address
from socket import AF_INET6
from typing import cast

import trio
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from gateway.host import links
from gateway.host.netlink import explaining
from gateway.host.routes import RTM_F_FIB_MATCH
from gateway.ra.content import InterfaceState
from gateway.ra.messages import SOLICITATION

_UNFIT = 0x40 | 0x20 | 0x08  # tentative, deprecated, failed duplicate address detection
_ICMP6_FILTER = 1
_ALL_NODES = "ff02::1"
_ALL_ROUTERS = "ff02::2"
# In 2000::/3 and assigned to nobody (RFC 4291 §2.4): a default route leads there, or 2000::/3.
_SOMEWHERE = "2000::"
_ANCILLARY = socket.CMSG_SPACE(4)


def interface_state(name: str) -> InterfaceState | None:
    """The interface as it is now; None when it is not there or not up. Raises HostError."""
    with explaining(f"look at {name}"), IPRoute() as ipr:
        link = links.find_link(ipr, name=name)
        if link is None or not link.operational:
            return None
        addresses = tuple(
            IPv6Address(message.get_attr("IFA_ADDRESS"))
            for message in ipr.get_addr(family=AF_INET6, index=link.index)
            if message["index"] == link.index
            and not (message.get_attr("IFA_FLAGS") or message["flags"]) & _UNFIT
        )
        return InterfaceState(name, link.index, link.mac, addresses, _leads_out(ipr, link.index))


def _leads_out(ipr: IPRoute, index: int) -> bool:
    """Whether packets for the IPv6 internet leave through another interface.

    The kernel is asked for one route and never for all: a router may have a million.
    """
    try:
        messages = list(ipr.route("get", family=AF_INET6, dst=_SOMEWHERE, flags=RTM_F_FIB_MATCH))
    except NetlinkError:
        return False  # none, or one that says unreachable
    oifs = {message.get_attr("RTA_OIF") for message in messages}
    return bool(oifs - {index, None})


class RouterSocket:
    """Sends advertisements and receives solicitations on one interface. Close it after use."""

    def __init__(self, index: int, name: str) -> None:
        """Raises HostError."""
        self._index = index
        with explaining(f"send router advertisements on {name}"):
            self._socket = trio.socket.socket(
                socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6
            )
            try:
                self._set_up(name)
            except BaseException:
                self._socket.close()
                raise

    def _set_up(self, name: str) -> None:
        sock, six = self._socket, socket.IPPROTO_IPV6
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode() + b"\0")
        sock.setsockopt(six, socket.IPV6_MULTICAST_IF, self._index)
        sock.setsockopt(six, socket.IPV6_MULTICAST_HOPS, 255)
        sock.setsockopt(six, socket.IPV6_UNICAST_HOPS, 255)
        sock.setsockopt(six, socket.IPV6_MULTICAST_LOOP, 0)
        sock.setsockopt(six, socket.IPV6_RECVHOPLIMIT, 1)
        # A bit that is set blocks its type: everything but solicitations.
        blocked = bytearray(b"\xff" * 32)
        word, bit = divmod(SOLICITATION, 32)
        struct.pack_into("=I", blocked, 4 * word, 0xFFFF_FFFF & ~(1 << bit))
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(blocked))
        member = IPv6Address(_ALL_ROUTERS).packed + struct.pack("=I", self._index)
        sock.setsockopt(six, socket.IPV6_JOIN_GROUP, member)

    def close(self) -> None:
        self._socket.close()

    async def send(self, message: bytes) -> None:
        """Sends to all nodes of the link. Raises OSError."""
        await self._socket.sendto(message, (_ALL_NODES, 0, 0, self._index))

    async def receive(self) -> tuple[bytes, int, IPv6Address]:
        """A solicitation: message, hop limit, source. Raises OSError."""
        data, ancillary, _, address = await self._socket.recvmsg(2048, _ANCILLARY)
        hop_limit = 0
        for level, kind, value in ancillary:
            if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT):
                (hop_limit,) = struct.unpack("=i", value[:4])
        host = cast("tuple[str, int, int, int]", address)[0]
        return data, hop_limit, IPv6Address(host.partition("%")[0])
