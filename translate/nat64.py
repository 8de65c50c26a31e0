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

from translate.bib import StateTables
from translate.core import Core
from translate.from_v4 import FromV4
from translate.from_v6 import FromV6
from translate.own_errors import OwnErrors
from translate.packets import Packet
from translate.policy import DestinationPolicy
from translate.reasons import Discard, Reason
from translate.settings import Settings


class Nat64:
    """One stateful translator. Not thread-safe; every method takes time as `now` (seconds)."""

    def __init__(
        self,
        settings: Settings,
        *,
        randbelow: Callable[[int], int],
        admit: Callable[[bytes], bool],
        path_mtu: Callable[[bytes], int],
    ) -> None:
        """`randbelow(n)` gives 0..n-1, unguessable. `admit(addr6)` says whether a host may be a
        client, `path_mtu(addr)` how large a packet to it may be, for 16 or 4 bytes of address.
        """
        self.counters: dict[Reason, int] = dict.fromkeys(Reason, 0)
        self.state = StateTables(settings, randbelow)
        self.errors = OwnErrors(settings, randbelow)
        self._core = Core(
            settings=settings,
            policy=DestinationPolicy(settings),
            state=self.state,
            errors=self.errors,
            admit=admit,
            path_mtu=path_mtu,
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

    def translate(self, packet: Packet, now: float) -> list[Packet]:
        """What has to be sent for one packet that came in; [] when it is discarded.

        Never raises for what a packet contains. Each discard counts in `counters`.
        """
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

    def expire(self, now: float, limit: int = 1000) -> list[Packet]:
        """Ends sessions whose time is over, after at most `limit` looks; packets to send."""
        self.state.expire(now, limit)
        return []

    def is_behind(self, now: float) -> bool:
        """Whether the last `expire` was ended by its limit and should be called again soon."""
        return self.state.wheel.is_behind(now)

    def next_deadline(self) -> float | None:
        """When `expire` has something to look at next, or None."""
        return self.state.deadline()
