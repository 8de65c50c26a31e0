"""Hears the uplink's router advertisements, whatever the host itself makes of them.

A raw ICMPv6 socket beside the kernel's own processing: it works with accept_ra=0, where a program
such as systemd-networkd handles advertisements, and on kernels that do not know PREF64. Routers
are asked when it begins (RFC 4861 §6.3.7), so that nobody waits for the next advertisement. The
kernel verifies checksums (RFC 3542 §3.1); what else makes an advertisement valid is checked here.
"""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import cast

import trio

from gateway.host.netlink import explaining
from gateway.ra.messages import (
    ADVERTISEMENT,
    SOLICITATION,
    BadMessage,
    RouterAdvertisement,
    parse_advertisement,
)

_log = logging.getLogger("gateway")

SOLICITATIONS = 3  # RFC 4861 §10: MAX_RTR_SOLICITATIONS
SOLICIT_EVERY = 4.0  # seconds, RTR_SOLICITATION_INTERVAL
_ALL_ROUTERS = "ff02::2"
_ICMP6_FILTER = 1
_ANCILLARY = socket.CMSG_SPACE(4)
_LARGEST = 65_536

Hear = Callable[[IPv6Address, RouterAdvertisement], None]


def check_advertisement(data: bytes, hop_limit: int, source: IPv6Address) -> RouterAdvertisement:
    """The advertisement, if it is a valid one (RFC 4861 §6.1.2). Raises BadMessage."""
    if hop_limit != 255:
        raise BadMessage("not from this link")
    if not source.is_link_local:
        raise BadMessage("not from a link-local address")
    return parse_advertisement(data)


class RaListener:
    """Receives on one interface, by index; `heard` is told of each valid advertisement."""

    def __init__(self, index: int, name: str, heard: Hear) -> None:
        """Raises HostError."""
        self._index = index
        self._heard = heard
        self._answered = False
        with explaining(f"listen to router advertisements on {name}"):
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
        sock.setsockopt(six, socket.IPV6_RECVHOPLIMIT, 1)
        # A bit that is set blocks its type: everything but advertisements.
        blocked = bytearray(b"\xff" * 32)
        word, bit = divmod(ADVERTISEMENT, 32)
        struct.pack_into("=I", blocked, 4 * word, 0xFFFF_FFFF & ~(1 << bit))
        sock.setsockopt(socket.IPPROTO_ICMPV6, _ICMP6_FILTER, bytes(blocked))

    async def run(self) -> None:
        """Listens until cancelled. Raises OSError, in a group, when the interface goes."""
        with self._socket:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._solicit)
                while True:
                    await self._receive()

    async def _solicit(self) -> None:
        for _ in range(SOLICITATIONS):
            if self._answered:
                return
            # From the unspecified address or any other: so without our link-layer address.
            message = struct.pack(">BBHI", SOLICITATION, 0, 0, 0)
            try:
                await self._socket.sendto(message, (_ALL_ROUTERS, 0, 0, self._index))
            except OSError as error:
                _log.debug("clat: cannot ask for router advertisements: %s", error)
            await trio.sleep(SOLICIT_EVERY)

    async def _receive(self) -> None:
        data, ancillary, _, address = await self._socket.recvmsg(_LARGEST, _ANCILLARY)
        hop_limit = 0
        for level, kind, value in ancillary:
            if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_HOPLIMIT):
                (hop_limit,) = struct.unpack("=i", value[:4])
        host = cast("tuple[str, int, int, int]", address)[0]
        source = IPv6Address(host.partition("%")[0])
        try:
            message = check_advertisement(data, hop_limit, source)
        except BadMessage as error:
            _log.debug("clat: an advertisement of %s is ignored: %s", source, error)
            return
        self._answered = True
        self._heard(source, message)
