"""Explicit address mappings (RFC 7757): pairs of an IPv4 and an IPv6 prefix, both ways.

Theory of operation. An address is looked up by the longest prefix that contains it, one dict for
each prefix length that occurs, so the cost does not depend on how many mappings there are. The
bits behind the IPv4 prefix are written behind the IPv6 prefix (§3.2); an IPv6 suffix may be
longer than the IPv4 one, and its further bits are zero in what is made and ignored in what
comes (§3.3.2). Mappings may overlap: the longer prefix decides, on each side for itself, so
that the way back need not be the way there.

    198.51.100.16/28    <->    2001:db8:c0de::/124
    198.51.100.20       ->     2001:db8:c0de::4
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

_ALL4 = (1 << 32) - 1
_ALL6 = (1 << 128) - 1


class EamConflict(Exception):
    """A mapping that cannot be entered; str() says why."""


@dataclass(frozen=True, slots=True)
class Eam:
    """One mapping as it was given. Prefixes are integers without bits behind their length."""

    prefix4: int
    length4: int
    prefix6: int
    length6: int

    @classmethod
    def of(cls, net4: IPv4Network, net6: IPv6Network) -> Eam:
        """The mapping between two networks."""
        return cls(
            int(net4.network_address), net4.prefixlen, int(net6.network_address), net6.prefixlen
        )

    def __str__(self) -> str:
        four = f"{IPv4Address(self.prefix4)}/{self.length4}"
        return f"{four} {IPv6Address(self.prefix6)}/{self.length6}"


class EamTable:
    """A set of mappings. It is filled once, then used; a changed set is a new table."""

    __slots__ = ("_by4", "_by6", "_count")

    def __init__(self, mappings: Iterable[Eam] = ()) -> None:
        """Raises EamConflict at the first mapping that cannot be entered."""
        # For each length, longest first: bits to shift away, and prefix to what is behind it.
        self._by4: list[tuple[int, dict[int, Eam]]] = []
        self._by6: list[tuple[int, dict[int, Eam]]] = []
        self._count = 0
        for mapping in mappings:
            self.add(mapping)

    def add(self, new: Eam) -> None:
        """Enters one more mapping, before the table is used. Raises EamConflict."""
        if 32 - new.length4 > 128 - new.length6:
            # RFC 7757 §3.1: every IPv4 address needs one of its own.
            raise EamConflict(
                f"/{new.length6} has fewer addresses than /{new.length4}: the IPv6 prefix must"
                f" have a length of at most {96 + new.length4}"
            )
        if new.prefix4 & (_ALL4 >> new.length4) or new.prefix6 & (_ALL6 >> new.length6):
            raise EamConflict("there are bits behind the prefix length")
        shift4, shift6 = 32 - new.length4, 128 - new.length6
        group4, group6 = _group(self._by4, shift4), _group(self._by6, shift6)
        key4, key6 = new.prefix4 >> shift4, new.prefix6 >> shift6
        for other in (group4.get(key4), group6.get(key6)):
            if other is not None:
                raise EamConflict(f"it contradicts {other}")
        group4[key4] = new
        group6[key6] = new
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Eam]:
        for _, group in self._by4:
            yield from group.values()

    def overlapping4(self, network: IPv4Network) -> Iterator[Eam]:
        """The mappings whose IPv4 prefix has addresses in common with a network."""
        first, bits = int(network.network_address), 32 - network.prefixlen
        for shift, group in self._by4:
            if shift >= bits:
                found = group.get(first >> shift)
                if found is not None:
                    yield found
            elif len(group) < 1 << (bits - shift):
                yield from (
                    item for item in group.values() if item.prefix4 >> bits == first >> bits
                )
            else:
                keys = range(first >> shift, (first >> shift) + (1 << (bits - shift)))
                yield from (group[key] for key in keys if key in group)

    def to_v6(self, addr4: bytes) -> bytes | None:
        """The 16 bytes that 4 bytes are mapped to, or None (RFC 7757 §3.3.1)."""
        value = int.from_bytes(addr4, "big")
        for shift, group in self._by4:
            found = group.get(value >> shift)
            if found is not None:
                suffix = value - found.prefix4
                made = found.prefix6 | suffix << (128 - found.length6 - shift)
                return made.to_bytes(16, "big")
        return None

    def to_v4(self, addr6: bytes) -> bytes | None:
        """The 4 bytes that 16 bytes are mapped to, or None (RFC 7757 §3.3.2)."""
        value = int.from_bytes(addr6, "big")
        for shift, group in self._by6:
            found = group.get(value >> shift)
            if found is not None:
                suffix = (value - found.prefix6) >> (shift - (32 - found.length4))
                return (found.prefix4 | suffix).to_bytes(4, "big")
        return None


def _group(groups: list[tuple[int, dict[int, Eam]]], shift: int) -> dict[int, Eam]:
    """The mappings of one prefix length; entered in the order of lengths, longest first."""
    for at, (other, group) in enumerate(groups):
        if other == shift:
            return group
        if other > shift:
            groups.insert(at, (shift, {}))
            return groups[at][1]
    groups.append((shift, {}))
    return groups[-1][1]
