"""What the steps of one translator share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from translate.addresses import Prefix6
from translate.bib import StateTables
from translate.fragments import FragmentTable
from translate.icmp import Icmp6
from translate.own_errors import OwnErrors
from translate.packets import IPv4View, IPv6View, Packet
from translate.policy import DestinationPolicy
from translate.reasons import Discard, Reason
from translate.sessions import Session
from translate.settings import Settings
from translate.stored_syns import StoredSyns


@dataclass(slots=True)
class Core:
    """Settings, state, and what the outside world was asked to provide.

    `admit(addr6)` says whether a host may be a client, `path_mtu(addr)` how large a packet to
    an address of 16 or 4 bytes may be, `randbelow(n)` gives 0..n-1, unguessable. `uplink`:
    whether there is a way to the IPv4 internet at the moment.
    """

    settings: Settings
    policy: DestinationPolicy
    state: StateTables
    errors: OwnErrors
    admit: Callable[[bytes], bool]
    path_mtu: Callable[[bytes], int]
    fragments6: FragmentTable[IPv6View]
    fragments4: FragmentTable[IPv4View]
    syns: StoredSyns
    randbelow: Callable[[int], int]
    uplink: bool = True

    def has_way(self, dst4: bytes) -> bool:
        """Whether packets to this IPv4 address can leave now; those for pool4 turn back here."""
        return self.uplink or self.state.in_pool4(dst4)

    def take_ident(self, session: Session, count: int) -> int:
        """The first of `count` identifications in a row for packets of a session."""
        return self.state.take_ident(session, count)

    def prefix_of(self, addr6: bytes) -> Prefix6 | None:
        """The first of our prefixes that contains the address."""
        for prefix in self.settings.prefixes:
            if prefix.contains(addr6):
                return prefix
        return None

    def refuse6(
        self, reason: Reason, packet: Packet, view: IPv6View, code: int, now: float
    ) -> NoReturn:
        """Discards with a destination unreachable of this code (RFC 4443 §3.1)."""
        raise Discard(reason, self.errors.to_v6(packet, view, Icmp6.UNREACHABLE, code, now))
