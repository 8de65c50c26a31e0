"""What the fuzzer expects of the addresses of a stateless translator: a naive map.

Theory of operation. Mappings are a list of networks that is searched from the longest prefix on,
with arithmetic of its own (RFC 7757 §3.3), and embedded addresses are taken apart as RFC 6052 §2.2
draws them. Who has which address of the dynamic pool is learnt from what comes out, and never
changes, because no run is as long as an address is kept. Ports and identifiers stay what they are.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from tests.fuzz.model import embedded
from tests.fuzz.reader import ICMP, ICMPV6, TCP, UDP, Seen, read_in, require
from translate.packets import Packet
from translate.settings import Settings
from translate.siit.addresses import Hairpin

Pair = tuple[IPv4Network, IPv6Network]
_NEVER = [
    IPv4Network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
]
_WELL_KNOWN = IPv6Network("64:ff9b::/96")


class StatelessModel:
    """One conversation. Settings are read, nothing else of translate is used."""

    def __init__(
        self, settings: Settings, pairs: list[Pair], hairpin: Hairpin, pool: IPv4Network | None
    ) -> None:
        self._hairpin = hairpin
        self._pool = pool
        self._pooled6: dict[bytes, bytes] = {}
        self._pooled4: dict[bytes, bytes] = {}
        # How often each judgement was made: a checker that never looks agrees with everything.
        self.looks = {"leaves": 0, "enters": 0, "turns": 0, "errors": 0, "pooled": 0}
        self.configure(settings, pairs)

    def configure(self, settings: Settings, pairs: list[Pair]) -> None:
        """Takes over other settings."""
        self._settings = settings
        self._first = replace(settings, prefixes=settings.prefixes[:1])
        self._by4 = sorted(pairs, key=lambda pair: -pair[0].prefixlen)
        self._by6 = sorted(pairs, key=lambda pair: -pair[1].prefixlen)

    # -- the map ------------------------------------------------------------------------------

    def explicit4(self, addr6: bytes) -> bytes | None:
        """What a mapping or the pool says."""
        address = IPv6Address(addr6)
        for four, six in self._by6:
            if address in six:
                suffix = int(address) - int(six[0])
                unused = (128 - six.prefixlen) - (32 - four.prefixlen)
                return IPv4Address(int(four[0]) + (suffix >> unused)).packed
        return self._pooled6.get(addr6)

    def explicit6(self, addr4: bytes) -> bytes | None:
        """What a mapping or the pool says."""
        address = IPv4Address(addr4)
        for four, six in self._by4:
            if address in four:
                unused = (128 - six.prefixlen) - (32 - four.prefixlen)
                suffix = int(address) - int(four[0]) << unused
                return IPv6Address(int(six[0]) + suffix).packed
        return self._pooled4.get(addr4)

    def _is_in_pool(self, addr4: bytes) -> bool:
        return self._pool is not None and IPv4Address(addr4) in self._pool

    def _is_denied(self, addr4: bytes) -> bool:
        address = IPv4Address(addr4)
        return any(address in net for net in (*_NEVER, *self._settings.deny4))

    def _is_private(self, addr6: bytes, addr4: bytes) -> bool:
        """RFC 6052 §3.1."""
        strict = self._settings.wkp_strict and IPv6Address(addr6) in _WELL_KNOWN
        return strict and not IPv4Address(addr4).is_global

    def _is_embedded(self, addr6: bytes, addr4: bytes, *, first: bool) -> bool:
        """Whether an address may stand for an IPv4 one in a prefix; `first`: in the first."""
        if self._is_denied(addr4) or self._is_private(addr6, addr4):
            return False
        return addr4 in embedded(addr6, self._first if first else self._settings)

    # -- judgements ---------------------------------------------------------------------------

    def judge(self, packet: Packet, out: list[Packet], *, own: Collection[bytes]) -> None:
        """Judges the addresses of what came out for one packet. Raises Finding."""
        came = read_in(packet.data)
        if came is None:
            return
        for one in out:
            seen = read_in(one.data)
            require(seen is not None, "a packet that nobody can read")
            assert seen is not None
            if seen.version == 4:
                nobody = any(IPv4Address(seen.dst) in net for net in _NEVER)
                require(not nobody or seen.dst == came.src, "a packet to nobody")
            if seen.version == came.version and seen.src in own and seen.dst == came.src:
                continue
            if came.version == seen.version == 6:
                self._turns(came, seen, own)
            elif seen.version == 4:
                self._leaves(came, seen, own)
            else:
                require(came.version == 4, "a packet without a cause")
                self._enters(came, seen, own)
            self._check_ports(came, seen)

    def _check_source(self, addr6: bytes, addr4: bytes) -> None:
        """An IPv6 host sends from this IPv4 address."""
        known = self.explicit4(addr6)
        if known is None and self._is_in_pool(addr4):
            self.looks["pooled"] += 1
            require(addr4 not in self._pooled4, "two hosts with one address of the pool")
            self._pooled4[addr4], self._pooled6[addr6] = addr6, addr4
            known = addr4
        if known is not None:
            require(known == addr4, "the source of a host with a mapping")
        else:
            require(self._is_embedded(addr6, addr4, first=False), "the source of a host")

    def _leaves(self, came: Seen, one: Seen, own: Collection[bytes]) -> None:
        require(came.version == 6, "from IPv4 to IPv4")
        known = self.explicit4(came.dst)
        if known is not None:
            require(one.dst == known, "the destination, which has a mapping")
        else:
            right = self._is_embedded(came.dst, one.dst, first=False)
            require(right, "the destination in the prefix")
            turns = self._hairpin is Hairpin.INTRINSIC and self.explicit6(one.dst) is not None
            require(not turns, "a hairpin went out")
        if came.is_error and self.explicit4(came.src) is None:
            self.looks["errors"] += 1
            error_pool = self._settings.icmp4_error_pool
            ours = one.src in own or any(IPv4Address(one.src) in net for net in error_pool)
            right = ours or self._is_embedded(came.src, one.src, first=False)
            require(right, "the source of an error")
            return
        self.looks["leaves"] += 1
        self._check_source(came.src, one.src)

    def _enters(self, came: Seen, one: Seen, own: Collection[bytes]) -> None:
        self._check_target(came.dst, one.dst)
        if came.is_error and one.src in own:
            self.looks["errors"] += 1
            return
        nobody = any(IPv4Address(came.src) in net for net in _NEVER)
        if came.is_error and nobody and self.explicit6(came.src) is None:
            # RFC 7915 §4.1: translated all the same.
            self.looks["errors"] += 1
            require(came.src in embedded(one.src, self._first), "the source of an error")
            return
        self.looks["enters"] += 1
        peer, host = self.explicit6(came.src), self.explicit6(came.dst)
        if came.is_error:
            # RFC 7757 §4.2.1: who the packet inside was for is seen as it was written to.
            inner = came.body[8:]
            host = self.explicit6(inner[12:16]) if inner[16:20] == came.src else None
        is_hairpin = self._hairpin is Hairpin.SIMPLE and host is not None
        if peer is not None and not is_hairpin:
            require(one.src == peer, "the source, which has a mapping")
        else:
            require(self._is_embedded(one.src, came.src, first=True), "the source in the prefix")

    def _check_target(self, addr4: bytes, addr6: bytes) -> None:
        """Packets to this IPv4 address go to that host."""
        known = self.explicit6(addr4)
        if known is None and self._is_in_pool(addr4):
            # Assigned to a packet that could not be sent after all.
            require(addr6 not in self._pooled6, "two addresses of the pool for one host")
            self._pooled4[addr4], self._pooled6[addr6] = addr6, addr4
        elif known is not None:
            require(addr6 == known, "the host of a mapping")
        else:
            require(self._is_embedded(addr6, addr4, first=True), "a host in the prefix")

    def _turns(self, came: Seen, one: Seen, own: Collection[bytes]) -> None:
        """RFC 7757 §4.2.2: back to IPv6."""
        require(self._hairpin is Hairpin.INTRINSIC, "a hairpin without hairpinning")
        require(self.explicit4(came.dst) is None, "a hairpin to an IPv6 address")
        targets = embedded(came.dst, self._settings)
        fits = [addr4 for addr4 in targets if self.explicit6(addr4) == one.dst]
        require(bool(fits), "a hairpin to somebody else")
        self.looks["turns"] += 1
        if came.is_error and one.src in own:
            return
        sources = embedded(one.src, self._first)
        known = self.explicit4(came.src)
        if came.is_error:
            # RFC 7757 §4.2.1: the source of an error is translated by its mapping, unless the
            # packet inside was for it.
            was_meant = came.body[32:48] == came.src
            right = known in sources if was_meant else one.src == came.src or known in sources
            pool = self._settings.icmp4_error_pool
            right = right or any(IPv4Address(a) in net for a in sources for net in pool)
            require(right, "the source of an error that turned")
            return
        if known is None:
            sources = [addr4 for addr4 in sources if self._is_in_pool(addr4)] or sources
            require(bool(sources), "the source of a hairpin")
            self._check_source(came.src, sources[0])
        else:
            require(known in sources, "the source of a hairpin, which has a mapping")

    def _check_ports(self, came: Seen, one: Seen) -> None:
        if not (came.first and one.first) or came.is_error:
            return
        if came.protocol in (TCP, UDP):
            require(came.body[:4] == one.body[:4], "ports of a stateless translator")
        elif came.protocol in (ICMP, ICMPV6):
            require(came.body[4:8] == one.body[4:8], "the identifier of a ping")
