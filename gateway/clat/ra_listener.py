"""Hears the uplink's router advertisements, whatever the host itself makes of them.

A raw ICMPv6 socket beside the kernel's own processing: it works with accept_ra=0, where a program
such as systemd-networkd handles advertisements, and on kernels that do not know PREF64. Routers
are asked when it begins (RFC 4861 §6.3.7), so that nobody waits for the next advertisement. The
kernel verifies checksums (RFC 3542 §3.1); what else makes an advertisement valid is checked here.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable
from contextlib import closing
from ipaddress import IPv6Address

import trio

from gateway.host.netlink import explaining
from gateway.ra.icmp6_socket import Icmp6Socket
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
        self._heard = heard
        self._answered = False
        with explaining(f"listen to router advertisements on {name}"):
            self._socket = Icmp6Socket(index, name, ADVERTISEMENT)

    async def run(self) -> None:
        """Listens until cancelled. Raises OSError, in a group, when the interface goes."""
        with closing(self._socket):
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
                await self._socket.send(message, _ALL_ROUTERS)
            except OSError as error:
                _log.debug("clat: cannot ask for router advertisements: %s", error)
            await trio.sleep(SOLICIT_EVERY)

    async def _receive(self) -> None:
        data, hop_limit, source = await self._socket.receive(_LARGEST)
        try:
            message = check_advertisement(data, hop_limit, source)
        except BadMessage as error:
            _log.debug("clat: an advertisement of %s is ignored: %s", source, error)
            return
        self._answered = True
        self._heard(source, message)
