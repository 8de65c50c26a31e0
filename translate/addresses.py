"""IPv4 addresses inside IPv6 prefixes (RFC 6052 §2.2, and ptrtd's layout).

Theory of operation. Two layouts exist. RFC 6052 puts the four octets behind the prefix and
steps over bits 64..71 (the u octet), which are zero. The trailing layout puts them into the
last 32 bits, whatever the prefix length, which is how ptrtd and totd did it and what people
can type (`fec0:0:0:ffff::192.0.2.1`). For a prefix shorter than /96 an address is told apart
by what must be zero: in the trailing layout everything between the prefix and the last four
octets, in RFC 6052's the u octet and the suffix. An address that satisfies both is one whose
first IPv4 octet is 0, which is no unicast destination, or is the prefix itself. Under a prefix
whose own layout is RFC 6052's, what is not trailing is RFC 6052's, and the u octet and the suffix
are ignored, as RFC 6052 §2.2 asks of readers.
"""

from __future__ import annotations

from enum import Enum
from ipaddress import IPv6Network

PREFIX_LENGTHS = (32, 40, 48, 56, 64, 96)


class Layout(Enum):
    """Where a prefix puts the IPv4 address when the translator has to make an address."""

    TRAILING = "trailing"
    RFC6052 = "rfc6052"


class Prefix6:
    """One pool6 prefix. Immutable; equal prefixes compare equal."""

    __slots__ = ("_head", "_head_len", "_split", "_suffix_at", "layout", "network")

    def __init__(self, network: IPv6Network, layout: Layout) -> None:
        """Raises ValueError when the length is not one of RFC 6052 §2.2."""
        if network.prefixlen not in PREFIX_LENGTHS:
            allowed = ", ".join(f"/{length}" for length in PREFIX_LENGTHS)
            raise ValueError(f"{network}: the prefix length must be one of {allowed}")
        self.network = network
        self.layout = layout
        self._head_len = network.prefixlen // 8
        self._head = network.network_address.packed[: self._head_len]
        # RFC 6052 §2.2: the octets before and after the u octet (bits 64 to 71).
        self._split = min(4, max(0, 8 - self._head_len)) if self._head_len <= 8 else 4
        self._suffix_at = self._head_len + 4 + (1 if self._head_len <= 8 else 0)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prefix6):
            return NotImplemented
        return (self.network, self.layout) == (other.network, other.layout)

    def __hash__(self) -> int:
        return hash((self.network, self.layout))

    def __repr__(self) -> str:
        return f"Prefix6({self.network}, {self.layout.value})"

    @property
    def head(self) -> bytes:
        """The octets of the prefix itself; those of two prefixes of a translator differ."""
        return self._head

    def contains(self, addr6: bytes) -> bool:
        """Whether the 16 bytes lie in the prefix, embedding or not."""
        return addr6[: self._head_len] == self._head

    def embed(self, addr4: bytes) -> bytes:
        """The 16-byte address for four bytes of IPv4, in this prefix's own layout."""
        if self.layout is Layout.TRAILING:
            return self._head + bytes(12 - self._head_len) + addr4
        return self._embed_rfc6052(addr4)

    def _embed_rfc6052(self, addr4: bytes) -> bytes:
        head = self._head
        if self._head_len > 8:
            return head + addr4
        split = self._split
        return (head + addr4[:split] + b"\0" + addr4[split:]).ljust(16, b"\0")

    def extract(self, addr6: bytes) -> bytes | None:
        """The four bytes of IPv4 in a 16-byte address of either layout, or None.

        None when the address is outside the prefix, or inside one of trailing layout but embeds
        nothing: the bits that both layouts want zero are not.
        """
        head_len = self._head_len
        if addr6[:head_len] != self._head:
            return None
        if head_len == 12:
            return addr6[12:]
        if not any(addr6[head_len:12]):
            return addr6[12:]
        if self.layout is Layout.TRAILING and (addr6[8] or any(addr6[self._suffix_at :])):
            return None
        split = self._split
        return addr6[head_len : head_len + split] + addr6[9 : 9 + 4 - split]


def is_unicast6(addr6: bytes) -> bool:
    """Whether 16 bytes can be the source of a packet: not multicast, unspecified, loopback."""
    if addr6[0] == 0xFF:
        return False
    return bool(any(addr6[:15])) or addr6[15] > 1


def is_unicast4(addr4: bytes) -> bool:
    """Whether 4 bytes can be a host beyond this one.

    Not 0/8, 127/8, multicast, 240/4 or broadcast (RFC 1122 §3.2.1.3).
    """
    return 0 < addr4[0] < 224 and addr4[0] != 127
