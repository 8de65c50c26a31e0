"""Which address of the other family an address has (RFC 7757 §3, RFC 6052).

In this order: an explicit mapping; the dynamic pool; embedding in a prefix. The first two are
called explicit here: what has such an address is a host of ours, and hairpinning is about two of
them (RFC 7757 §4).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, collapse_addresses

from translate.address_pool import AddressPool
from translate.addresses import Prefix6
from translate.eam import EamTable
from translate.policy import DestinationPolicy, is_illegal4
from translate.reasons import Reason
from translate.settings import Settings


class Hairpin(Enum):
    """What is done where both ends of an IPv4 packet have explicit addresses (RFC 7757 §4)."""

    NONE = "none"
    SIMPLE = "simple"  # §4.2.1: the network sends the IPv4 packet back to us
    INTRINSIC = "intrinsic"  # §4.2.2: it turns round inside the translator


@dataclass(frozen=True, slots=True)
class SiitSettings:
    """What stateless translation needs besides `Settings`, whose pool4 and BIB keys it ignores.

    `routed4`: the IPv4 networks that are routed to this translator. `flow_lifetime`: seconds that
    an idle flow is known to the fast path.
    """

    common: Settings
    mappings: EamTable
    hairpin: Hairpin = Hairpin.INTRINSIC
    pool: AddressPool | None = None
    routed4: tuple[IPv4Network, ...] = ()
    flow_lifetime: float = 60.0


class AddressMap:
    """The two functions between addresses, for one set of settings."""

    __slots__ = ("_eam", "_hairpin", "_policy", "_pool", "_prefixes", "_routed")

    def __init__(self, settings: SiitSettings, policy: DestinationPolicy) -> None:
        self._prefixes: tuple[Prefix6, ...] = settings.common.prefixes
        self._eam = settings.mappings
        self._pool = settings.pool
        self._policy = policy
        self._hairpin = settings.hairpin
        self._routed = _Ranges(settings.routed4)

    def embeds(self, addr6: bytes) -> bool:
        """Whether an address lies in one of our prefixes, where no host of its own can be."""
        return any(prefix.contains(addr6) for prefix in self._prefixes)

    def is_nowhere(self, addr4: bytes) -> bool:
        """Whether an IPv4 address is routed to us and belongs to no explicit host.

        A packet from IPv6 to one would come back from IPv4, and from there again, in a circle.
        """
        return addr4 in self._routed and self.explicit6(addr4) is None

    def explicit4(self, addr6: bytes) -> bytes | None:
        """The explicit IPv4 address of an IPv6 one, or None."""
        found = self._eam.to_v4(addr6)
        if found is None and self._pool is not None:
            assigned = self._pool.find6(addr6)
            return None if assigned is None else assigned.addr4
        return found

    def explicit6(self, addr4: bytes) -> bytes | None:
        """The explicit IPv6 address of an IPv4 one, or None."""
        found = self._eam.to_v6(addr4)
        if found is None and self._pool is not None:
            assigned = self._pool.find4(addr4)
            return None if assigned is None else assigned.addr6
        return found

    def to_v4(self, addr6: bytes) -> bytes | None:
        """The IPv4 address of an IPv6 one, None when it has none or a refused one."""
        found = self.explicit4(addr6)
        if found is not None:
            return found
        for prefix in self._prefixes:
            if prefix.contains(addr6):
                addr4 = prefix.extract(addr6)
                if addr4 is not None and self._policy.refusal(addr4, prefix) is None:
                    return addr4
        return None

    def refusal6(self, addr6: bytes) -> Reason | None:
        """Why an address has no IPv4 one although it embeds one, None when it embeds none."""
        for prefix in self._prefixes:
            addr4 = prefix.extract(addr6) if prefix.contains(addr6) else None
            if addr4 is not None:
                return self._policy.refusal(addr4, prefix)
        return None

    def is_illegal6(self, addr6: bytes) -> bool:
        """Whether an address embeds an IPv4 one that no host can have."""
        embedded = (prefix.extract(addr6) for prefix in self._prefixes if prefix.contains(addr6))
        return any(addr4 is not None and is_illegal4(addr4) for addr4 in embedded)

    def is_private4(self, addr4: bytes) -> bool:
        """Whether an address could be embedded, but for RFC 6052 §3.1."""
        refusal = self._policy.refusal(addr4, self._prefixes[0]) if self._prefixes else None
        return refusal is Reason.PRIVATE_UNDER_WKP

    def embedded(self, addr4: bytes) -> bytes | None:
        """The address in the first prefix, None without one and for a refused address."""
        if not self._prefixes:
            return None
        prefix = self._prefixes[0]
        return None if self._policy.refusal(addr4, prefix) is not None else prefix.embed(addr4)

    def to_v6(self, addr4: bytes) -> bytes | None:
        """The IPv6 address of an IPv4 one, None when it has none or is refused."""
        if self._pool is not None and self._pool.contains(addr4):
            # Nobody else may answer for an address that has not been assigned.
            return self.explicit6(addr4)
        return self.explicit6(addr4) or self.embedded(addr4)

    def error_source6(self, addr4: bytes) -> bytes | None:
        """The source of an ICMPv4 error as IPv6 sees it, None when it has none."""
        found = self.to_v6(addr4)
        if found is None and self._prefixes and is_illegal4(addr4):
            return self._policy.error_source(addr4, self._prefixes[0])
        return found

    def turns(self, addr4: bytes, addr6: bytes) -> bool:
        """Whether a packet from IPv6 to this address, in both forms, turns round in here.

        RFC 7757 §4.2.2: it was written to the embedded address of an explicit host.
        """
        return (
            self._hairpin is Hairpin.INTRINSIC
            and self.explicit6(addr4) is not None
            and self.explicit4(addr6) is None
        )

    def peer6(self, peer4: bytes, host4: bytes, *, turned: bool) -> bytes | None:
        """The address in which the host sees a peer; both are given as IPv4 addresses.

        Where both are explicit and the packet is a hairpin, the peer appears embedded, as the host
        has written to it and expects the answer from (RFC 7757 §4.2.1). `turned`: it has turned
        round in here. With intrinsic hairpinning no other is one: an explicit address that comes
        from IPv4 is then that of an IPv4 host.
        """
        is_hairpin = turned or self._hairpin is Hairpin.SIMPLE
        if is_hairpin and self.explicit6(host4) and self.explicit6(peer4):
            return self.embedded(peer4)
        return self.to_v6(peer4)


class _Ranges:
    """IPv4 networks, for one search whatever their number."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, networks: Iterable[IPv4Network]) -> None:
        merged = sorted(collapse_addresses(networks))
        self._starts = [net.network_address.packed for net in merged]
        self._ends = [net.broadcast_address.packed for net in merged]

    def __contains__(self, addr4: bytes) -> bool:
        at = bisect_right(self._starts, addr4) - 1
        return at >= 0 and addr4 <= self._ends[at]
