"""Stateless translation, packet by packet: the slow path (RFC 7915, RFC 7757).

Theory of operation. What a packet becomes follows from its addresses and the settings alone
(addresses.py): there are no mappings of ports and no states, IPv4 hosts can begin as well as
IPv6 hosts, and transport protocols that nobody knows pass. The one thing that is remembered is
which IPv6 host has which address of the dynamic pool. The steps for a packet are in from_v6.py
and from_v4.py and share the arithmetic with the stateful mode (translate/outgoing.py,
translate/icmp_errors.py). Flows are entered in a cache (flow_cache.py), so that the same fast
path carries them (translate/fast_path.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from translate.headers import one_hop_more
from translate.own_errors import OwnErrors
from translate.packets import Packet
from translate.policy import DestinationPolicy
from translate.reasons import Discard, Reason
from translate.sessions import Session
from translate.settings import Settings
from translate.siit.addresses import AddressMap, Hairpin, SiitSettings
from translate.siit.core import SiitCore
from translate.siit.flow_cache import FlowCache
from translate.siit.from_v4 import FromV4
from translate.siit.from_v6 import FromV6


class Siit:
    """One stateless translator. Not thread-safe; every method takes time as `now` (seconds)."""

    def __init__(
        self,
        settings: SiitSettings,
        *,
        randbelow: Callable[[int], int],
        path_mtu: Callable[[bytes], int],
        admit: Callable[[bytes], bool] = lambda _: True,
    ) -> None:
        """`randbelow(n)` gives 0..n-1, unguessable; `path_mtu(addr)`: how large a packet to an
        address of 16 or 4 bytes may be. `admit(addr6)`: whether a host that has no mapping may
        have an address of the dynamic pool.
        """
        self.counters: dict[Reason, int] = dict.fromkeys(Reason, 0)
        self.errors = OwnErrors(settings.common, randbelow)
        self.state = FlowCache(
            settings.common.limits.sessions, settings.flow_lifetime, randbelow, self._used
        )
        self._core = SiitCore(
            siit=settings,
            addresses=AddressMap(settings, DestinationPolicy(settings.common)),
            flows=self.state,
            errors=self.errors,
            path_mtu=path_mtu,
            admit=admit,
        )
        self._from_v6 = FromV6(self._core)
        self._from_v4 = FromV4(self._core)

    @property
    def settings(self) -> Settings:
        """The settings in force that both kinds of translator have."""
        return self._core.settings

    @property
    def siit(self) -> SiitSettings:
        """All settings in force."""
        return self._core.siit

    def configure(self, settings: SiitSettings) -> None:
        """Takes over new settings; the fast path has to be made again after this."""
        self.note_use()
        self.state.limit = settings.common.limits.sessions
        self.state.lifetime = settings.flow_lifetime
        self._core.configure(settings)

    def translate(self, packet: Packet, now: float) -> list[Packet]:
        """What has to be sent for one packet that came in; [] when it is discarded.

        Never raises for what a packet contains. Each discard counts in `counters`.
        """
        out = self._translate(packet, now)
        if self._core.siit.hairpin is Hairpin.INTRINSIC and packet.data[:1] >= b"\x60":
            return self._turn_round(packet.data[24:40], out, now)
        return out

    def _translate(self, packet: Packet, now: float, *, turned: bool = False) -> list[Packet]:
        try:
            if not packet.data:
                raise Discard(Reason.MALFORMED)
            version = packet.data[0] >> 4
            if version == 6:
                return self._from_v6.translate(packet, now)
            if version == 4:
                return self._from_v4.translate(packet, now, turned=turned)
            raise Discard(Reason.UNKNOWN_VERSION)
        except Discard as discard:
            self.counters[discard.reason] += 1
            return [discard.answer] if discard.answer is not None else []

    def _turn_round(self, dst6: bytes, out: list[Packet], now: float) -> list[Packet]:
        """IPv4 packets for a host of ours go straight back to IPv6 (RFC 7757 §4.2.2).

        Only what was written to an embedded address, `dst6`. Both halves together are one router,
        which takes one hop: the first gives back what it took. An error about such a packet goes
        back to its sender the same way.
        """
        turned: list[Packet] = []
        for made in out:
            data = made.data
            if data[0] >> 4 != 4 or not self._core.addresses.turns(data[16:20], dst6):
                turned.append(made)
                continue
            back = replace(made, data=one_hop_more(data))
            for packet in self._translate(back, now, turned=True):
                is_answer = packet.is_own and packet.data[0] >> 4 == 4
                turned += self._translate(packet, now, turned=True) if is_answer else [packet]
        return turned

    def note_use(self) -> None:
        """Brings up to date when the addresses of the pool were used, before they are looked at."""
        if self._core.siit.pool is not None:
            self.state.look()

    def expire(self, now: float, limit: int = 1000) -> list[Packet]:
        """Forgets flows that have been silent, after at most `limit` looks; nothing to send."""
        self.state.expire(now, limit)
        return []

    def is_behind(self, now: float) -> bool:
        """Whether the last `expire` was ended by its limit and should be called again soon."""
        return self.state.wheel.is_behind(now)

    def next_deadline(self) -> float | None:
        """When `expire` has something to look at next, or None."""
        return self.state.wheel.deadline()

    def _used(self, session: Session) -> None:
        """A host uses its address of the pool as long as a flow of it is seen."""
        pool = self._core.siit.pool
        if pool is not None:
            assigned = pool.find6(session.client6)
            if assigned is not None:
                assigned.last = max(assigned.last, session.last)
