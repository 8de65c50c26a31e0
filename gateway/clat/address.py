"""The CLAT's own IPv6 address (RFC 6877 §6.3), made so that checksums stay as they are. Pure.

Theory of operation. The CLAT translates between its IPv4 address L and its IPv6 address C, and
between any IPv4 address D and the same D embedded in the PLAT's prefix P. The sum of a
pseudo-header over 16-bit words changes by sum(C) + sum(P:D) - sum(L) - sum(D). Where D lies on
16-bit boundaries in P:D, the sums of D cancel, and C can be chosen so that the rest is zero: then
no checksum inside changes, not even one that a translator cannot reach (inside a fragment, or of
a transport that it does not know). 16 bits of the interface identifier are spent on that, the
others are random.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network

from translate.addresses import Layout, Prefix6
from translate.checksum import fold, ones_sum, subtract

# RFC 7136: what the u and g bits mean elsewhere means nothing here; 00:00:5e:ff:fe is avoided
# because of RFC 5453's reserved identifiers, which all begin with zeros or with ff.
_FIRST = 0x02
# The lengths of RFC 6052 §2.2 that keep the IPv4 address on 16-bit boundaries.
_NEUTRAL_LENGTHS = (32, 96)


def clat_address(
    network: IPv6Network, plat: IPv6Network, local4: IPv4Address, random48: int
) -> IPv6Address:
    """An address in the /64 that keeps checksums, with 48 bits of it from `random48`.

    `plat`: the PLAT's prefix, `local4`: the CLAT's IPv4 address. With prefix lengths that embed
    IPv4 addresses across the u octet or at odd bytes (RFC 6052: /40 to /64) nothing can be
    kept for all destinations, and the address is just random. Raises ValueError unless `network`
    is a /64.
    """
    if network.prefixlen != 64:
        raise ValueError(f"{network}: a /64 is needed")
    head = network.network_address.packed[:8]
    # The first octet of the identifier keeps clear of the reserved ones.
    drawn = bytes((_FIRST,)) + (random48 & (1 << 40) - 1).to_bytes(5, "big")
    wanted = subtract(ones_sum(local4.packed), ones_sum(head + drawn + _constant(plat)))
    return IPv6Address(head + drawn + wanted.to_bytes(2, "big"))


def is_neutral(address: IPv6Address, plat: IPv6Network, local4: IPv4Address) -> bool:
    """Whether checksums stay as they are with this address, for every destination."""
    if plat.prefixlen not in _NEUTRAL_LENGTHS:
        return False
    total = ones_sum(address.packed + _constant(plat))
    return fold(total) % 0xFFFF == ones_sum(local4.packed) % 0xFFFF


def _constant(plat: IPv6Network) -> bytes:
    """What the PLAT's prefix adds to every sum: the prefix with nothing embedded."""
    return Prefix6(plat, Layout.RFC6052).embed(bytes(4))
