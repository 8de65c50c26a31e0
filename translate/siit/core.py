"""What the steps of one stateless translator share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from translate.icmp import Icmp4, Icmp6
from translate.icmp_errors import Flow
from translate.own_errors import OwnErrors
from translate.packets import Fragment, IPv4View, IPv6View, Packet
from translate.policy import DestinationPolicy
from translate.reasons import Discard, Reason
from translate.sessions import Session
from translate.settings import Settings
from translate.siit.addresses import AddressMap, SiitSettings
from translate.siit.flow_cache import FlowCache

# What fits into one IPv4 packet, in bytes; a datagram in fragments is never larger.
_MOST_DATA = 65535 - 20


@dataclass(slots=True)
class SiitCore:
    """Settings, the address map, the flow cache, and what the outside world was asked for.

    `path_mtu(addr)`: how large a packet to an address of 16 or 4 bytes may be. `admit(addr6)`:
    whether a host may have an address of the dynamic pool.
    """

    siit: SiitSettings
    addresses: AddressMap
    flows: FlowCache
    errors: OwnErrors
    path_mtu: Callable[[bytes], int]
    admit: Callable[[bytes], bool]

    @property
    def settings(self) -> Settings:
        """The settings that both kinds of translator have."""
        return self.siit.common

    def configure(self, siit: SiitSettings) -> None:
        """Takes over new settings; what the cache knows is made anew."""
        self.flows.flush()
        self.siit = siit
        self.addresses = AddressMap(siit, DestinationPolicy(siit.common))
        self.errors.configure(siit.common)

    def take_ident(self, session: Session, count: int) -> int:
        """The first of `count` identifications in a row for packets of a flow."""
        return self.flows.idents.take(self.flows.flows[session.protocol].ident(session), count)

    def refuse6(
        self, reason: Reason, packet: Packet, view: IPv6View, code: int, now: float
    ) -> NoReturn:
        """Discards with a destination unreachable of this code (RFC 4443 §3.1)."""
        raise Discard(reason, self.errors.to_v6(packet, view, Icmp6.UNREACHABLE, code, now))

    def refuse4(
        self, reason: Reason, packet: Packet, view: IPv4View, code: int, now: float
    ) -> NoReturn:
        """Discards with a destination unreachable of this code (RFC 792)."""
        raise Discard(reason, self.errors.to_v4(packet, view, Icmp4.UNREACHABLE, code, now))


def check_place(piece: Fragment | None, size: int) -> None:
    """Raises Discard for a fragment with `size` bytes of data that is part of no datagram.

    It has none, or lies where no IPv4 packet reaches (RFC 791 §3.1); who puts it together is hurt.
    """
    if piece is None or not (piece.offset or piece.more):
        return
    if size == 0 or piece.offset + size > _MOST_DATA:
        raise Discard(Reason.FRAGMENT_OVERLAP)


def flow_between(
    host6: bytes, peer6: bytes, host4: bytes, peer4: bytes, ports: bytes = bytes(4)
) -> Flow:
    """A flow as ICMP errors need it; ports are the same in both families."""
    return Flow(
        client6=host6,
        server6=peer6,
        pool4=host4,
        server4=peer4,
        client_port=ports[0:2],
        pool_port=ports[0:2],
        server_port=ports[2:4],
    )
