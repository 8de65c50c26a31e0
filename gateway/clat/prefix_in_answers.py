"""Which NAT64 prefix a DNS64 uses, from its answer for ipv4only.arpa (RFC 7050 §3). Pure.

The name has only the IPv4 addresses 192.0.0.170 and 192.0.0.171 (RFC 7050 §8.2), so every AAAA of
it was made by a DNS64: one of the two stands in it behind the prefix, in one of the places of
RFC 6052 §2.2. What follows it there is zero, so that an address has one place only; but it can have
such bytes by accident. A prefix is certain when both addresses were found behind it.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address, IPv6Network

from translate.addresses import PREFIX_LENGTHS, Layout, Prefix6

NAME = "ipv4only.arpa."
WELL_KNOWN = frozenset({bytes((192, 0, 0, 170)), bytes((192, 0, 0, 171))})


def prefixes_in(answers: Iterable[IPv6Address]) -> list[IPv6Network]:
    """The prefixes of the answers: those found with both addresses, or all when none was.

    In the order of the answers, for each the longest first. Empty: nothing was synthesised.
    """
    found: dict[IPv6Network, set[bytes]] = {}
    for answer in answers:
        for length in sorted(PREFIX_LENGTHS, reverse=True):
            network = IPv6Network((int(answer), length), strict=False)
            inside = _embedded(network, answer.packed)
            if inside in WELL_KNOWN:
                found.setdefault(network, set()).add(inside)
    certain = [network for network, addresses in found.items() if len(addresses) == 2]
    return certain or list(found)


def _embedded(network: IPv6Network, answer: bytes) -> bytes:
    """The four bytes in the place that RFC 6052 has for this length; others than it are zero."""
    prefix = Prefix6(network, Layout.RFC6052)
    addr4 = prefix.extract(answer)
    if addr4 is None or prefix.embed(addr4) != answer:
        return b""
    return addr4
