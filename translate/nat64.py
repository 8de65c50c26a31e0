"""Stateful NAT64, packet by packet: the slow path, where everything is handled (RFC 6146).

Theory of operation. `translate` takes one packet of either family and returns what has to be
sent instead: its translation, an ICMP error to its sender, or nothing. The steps are those of
RFC 6146 §3: determine the tuple, filter and update (translate/from_v6.py, translate/from_v4.py,
on the state in translate/bib.py), compute the outgoing tuple (it is in the session), translate
(translate/outgoing.py; errors in translate/icmp_errors.py). Whatever goes wrong raises `Discard`
with a reason, which is counted here and goes no further. The fast path
(translate/fast_path.py) carries the common packets of sessions that were made here and refers
everything else back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from translate.bib import StateTables
from translate.client_ports import BlockEvent
from translate.core import Core
from translate.fragments import FragmentTable
from translate.from_v4 import FromV4
from translate.from_v6 import FromV6
from translate.headers import one_hop_more
from translate.icmp import Icmp4
from translate.own_errors import OwnErrors
from translate.packets import Packet
from translate.policy import DestinationPolicy
from translate.probes import probe
from translate.reasons import Discard, Reason
from translate.settings import Settings
from translate.stored_syns import StoredSyns


class Nat64:
    """One stateful translator. Not thread-safe; every method takes time as `now` (seconds)."""

    def __init__(
        self,
        settings: Settings,
        *,
        randbelow: Callable[[int], int],
        admit: Callable[[bytes], bool],
        path_mtu: Callable[[bytes], int],
        on_block: Callable[[BlockEvent], None] = lambda _: None,
    ) -> None:
        """`randbelow(n)` gives 0..n-1, unguessable. `admit(addr6)` says whether a host may be a
        client, `path_mtu(addr)` how large a packet to it may be, for 16 or 4 bytes of address.
        `on_block` is told of each block of ports that a client is assigned or gives back.
        """
        self.counters: dict[Reason, int] = dict.fromkeys(Reason, 0)
        self.state = StateTables(settings, randbelow, on_block)
        self.errors = OwnErrors(settings, randbelow)
        self._core = Core(
            settings=settings,
            policy=DestinationPolicy(settings),
            state=self.state,
            errors=self.errors,
            admit=admit,
            path_mtu=path_mtu,
            fragments6=FragmentTable(settings.limits, settings.timeouts.fragment_min),
            fragments4=FragmentTable(settings.limits, settings.timeouts.fragment_min),
            syns=StoredSyns(),
            randbelow=randbelow,
        )
        self._from_v6 = FromV6(self._core)
        self._from_v4 = FromV4(self._core)

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._core.settings

    def configure(self, settings: Settings) -> None:
        """Takes over what can change while sessions run: policy, limits, lifetimes, MSS."""
        self._core.settings = settings
        self._core.policy = DestinationPolicy(settings)
        self.state.configure(settings)
        self.errors.configure(settings)
        for table in (self._core.fragments6, self._core.fragments4):
            table.configure(settings.limits, settings.timeouts.fragment_min)

    def uplink(self, up: bool) -> None:
        """Whether there is a way to the IPv4 internet. Without one, clients are told (RFC 4443
        §3.1, no route), sessions are kept, and packets between clients still turn back.

        The fast path does not ask: it must not be used while there is none.
        """
        self._core.uplink = up

    @property
    def has_uplink(self) -> bool:
        """What `uplink` was told last; True at first."""
        return self._core.uplink

    def translate(self, packet: Packet, now: float) -> list[Packet]:
        """What has to be sent for one packet that came in; [] when it is discarded.

        Never raises for what a packet contains. Each discard counts in `counters`.
        """
        return self._hairpin(self._translate(packet, now), now)

    def _translate(self, packet: Packet, now: float) -> list[Packet]:
        try:
            if not packet.data:
                raise Discard(Reason.MALFORMED)
            version = packet.data[0] >> 4
            if version == 6:
                return self._from_v6.translate(packet, now)
            if version == 4:
                return self._from_v4.translate(packet, now)
            raise Discard(Reason.UNKNOWN_VERSION)
        except Discard as discard:
            self.counters[discard.reason] += 1
            return [discard.answer] if discard.answer is not None else []

    def _hairpin(self, packets: list[Packet], now: float) -> list[Packet]:
        """What goes to pool4 comes back in as if from IPv4 (RFC 6146 §3.8), errors too.

        Both halves together are one router, which takes one hop: the first gives back what it
        took. Only IPv4 turns back, and from IPv4 nothing but errors becomes IPv4; errors are not
        answered, so this ends.
        """
        out: list[Packet] = []
        for packet in packets:
            data = packet.data
            if data[0] >> 4 != 4 or not self.state.in_pool4(data[16:20]):
                out.append(packet)
                continue
            back = packet if packet.is_own else replace(packet, data=one_hop_more(data))
            out += self._hairpin(self._translate(back, now), now)
        return out

    def expire(self, now: float, limit: int = 1000) -> list[Packet]:
        """Ends what has been there for too long, after at most `limit` looks; packets to send.

        Those are probes of silent TCP sessions (RFC 6146 §3.5.2.2) and answers to SYNs that
        nobody met (§3.5.2.2).
        """
        core = self._core
        out = [probe(session) for session in self.state.expire(now, limit)]
        for table in (core.fragments6, core.fragments4):
            self.counters[Reason.FRAGMENT_LOST] += table.expire(now)
        lifetime = core.settings.timeouts.tcp_incoming_syn
        for packet, view in core.syns.pop_due(now, lifetime, limit):
            self.counters[Reason.SYN_TIMEOUT] += 1
            answer = self.errors.to_v4(packet, view, Icmp4.UNREACHABLE, 3, now)
            if answer is not None:
                out.append(answer)
        return self._hairpin(out, now)

    def is_behind(self, now: float) -> bool:
        """Whether the last `expire` was ended by its limit and should be called again soon."""
        return self.state.wheel.is_behind(now)

    def next_deadline(self) -> float | None:
        """When `expire` has something to look at next, or None."""
        core = self._core
        timeouts = core.settings.timeouts
        deadlines = (
            self.state.deadline(),
            core.syns.deadline(timeouts.tcp_incoming_syn),
            core.fragments6.deadline(),
            core.fragments4.deadline(),
        )
        return min((at for at in deadlines if at is not None), default=None)
