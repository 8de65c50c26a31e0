"""Which NAT64 prefix the network has: what is given, what routers and what the DNS say. Pure.

Theory of operation. Three sources, best first (RFC 8781 §5.1): the configuration, router
advertisements (PREF64, RFC 8781), and the DNS64's answer for ipv4only.arpa (RFC 7050). What
routers advertise is kept for each router and prefix until its lifetime ends or it is taken back
with a lifetime of 0 (RFC 8781 §4). Among several the one in use stays as long as it is there,
since a change ends every connection; else the one heard first is taken.

The DNS's answer is not forgotten when its TTL ends and asking again fails, because a resolver
that does not answer says nothing about the NAT64. It is forgotten when the answer is another one,
and with the uplink, as is everything that was learnt there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from typing import Literal

from gateway.ra.messages import RouterAdvertisement
from translate.addresses import PREFIX_LENGTHS

From = Literal["auto", "ra", "dns", "config"]

# Of routers and prefixes that are remembered: a neighbour must not be able to fill the memory.
MAX_ADVERTISED = 32


@dataclass(frozen=True, slots=True)
class Plat:
    """The prefix in use and where it is from: `config`, `ra` or `dns`; `who` for people."""

    prefix: IPv6Network
    source: Literal["config", "ra", "dns"]
    who: str = ""

    def __str__(self) -> str:
        words = {"config": "given", "ra": "from the router", "dns": "from the DNS"}
        return f"{self.prefix} ({words[self.source]}{' ' if self.who else ''}{self.who})"


def is_usable(prefix: IPv6Network) -> bool:
    """Whether a prefix that somebody claims can be a NAT64's.

    The length is one of RFC 6052 §2.2 with the u octet zero, and the addresses are those of hosts
    elsewhere.
    """
    head = prefix.network_address
    if prefix.prefixlen not in PREFIX_LENGTHS or head.packed[8]:
        return False
    nobody = head.is_multicast or head.is_link_local or head.is_unspecified
    return not nobody and head.ipv4_mapped is None


@dataclass(slots=True)
class PlatSources:
    """What is known of prefixes on the present uplink. Times are seconds of one clock.

    `given`: the configured prefix, None without one. `sources`: which are asked.
    """

    given: IPv6Network | None
    sources: From = "auto"
    advertised: dict[tuple[IPv6Address, IPv6Network], float] = field(default_factory=dict)
    answered: list[IPv6Network] = field(default_factory=list)
    _last: IPv6Network | None = None

    @property
    def wants_ra(self) -> bool:
        """Whether router advertisements are listened to."""
        return self.sources == "ra" or (self.sources == "auto" and self.given is None)

    def wants_dns(self, now: float) -> bool:
        """Whether the DNS is asked: only where nothing better is known."""
        if self.sources == "dns":
            return True
        return self.sources == "auto" and self.given is None and not self._valid(now)

    def hear(self, router: IPv6Address, message: RouterAdvertisement, now: float) -> None:
        """Takes note of an advertisement that has been checked (RFC 4861 §6.1.2)."""
        self._valid(now)
        for item in message.pref64:
            key = (router, item.prefix)
            if item.lifetime == 0:
                self.advertised.pop(key, None)
            elif is_usable(item.prefix) and (
                key in self.advertised or len(self.advertised) < MAX_ADVERTISED
            ):
                self.advertised[key] = now + item.lifetime

    def answer(self, prefixes: Iterable[IPv6Network]) -> None:
        """Takes note of what the DNS says now; none: there is no DNS64."""
        self.answered = [prefix for prefix in prefixes if is_usable(prefix)]

    def forget(self) -> None:
        """The uplink is another one, or has gone: nothing that was learnt is true any more."""
        self.advertised.clear()
        self.answered.clear()
        self._last = None

    def current(self, now: float) -> Plat | None:
        """The prefix to use."""
        plat = self._choose(now)
        self._last = None if plat is None else plat.prefix
        return plat

    def deadline(self, now: float) -> float:
        """When the next advertised prefix ends; infinite without one."""
        return min(self._valid(now).values(), default=math.inf)

    def _choose(self, now: float) -> Plat | None:
        if self.sources == "config" or (self.sources == "auto" and self.given is not None):
            return None if self.given is None else Plat(self.given, "config")
        if self.wants_ra and (valid := self._valid(now)):
            router, prefix = min(valid, key=lambda key: key[1] != self._last)
            return Plat(prefix, "ra", str(router))
        if self.sources in ("auto", "dns") and self.answered:
            return Plat(min(self.answered, key=lambda prefix: prefix != self._last), "dns")
        return None

    def _valid(self, now: float) -> dict[tuple[IPv6Address, IPv6Network], float]:
        for key in [key for key, end in self.advertised.items() if end <= now]:
            del self.advertised[key]
        return self.advertised
