"""Which IPv4 hosts are refused, whoever asks for them or they ask for."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network

from translate.addresses import Prefix6
from translate.reasons import Reason
from translate.settings import Settings

WELL_KNOWN_PREFIX = IPv6Network("64:ff9b::/96")


def _masks(networks: Iterable[IPv4Network]) -> list[tuple[int, int]]:
    """Networks as address and mask, which compare faster."""
    return [(int(net.network_address), int(net.netmask)) for net in networks]


# Nobody beyond this host can be meant: this network, loopback, link-local, multicast, reserved
# (RFC 1812 §5.3.7).
BUILT_IN_DENY4 = tuple(
    IPv4Network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
)

# What the well-known prefix must not stand for besides those: RFC 1918, what else RFC 5735 §3
# lists (but 192.88.99.0/24, which it says is seen in the internet), and RFC 6598.
# IPv4Address.is_global knows other blocks in other versions of Python.
_NOT_GLOBAL4 = _masks(
    IPv4Network(text)
    for text in (
        "10.0.0.0/8",
        "100.64.0.0/10",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
    )
)


_ILLEGAL4 = _masks(BUILT_IN_DENY4)


def is_illegal4(addr4: bytes) -> bool:
    """Whether no host can have this address."""
    value = int.from_bytes(addr4, "big")
    return any(value & mask == network for network, mask in _ILLEGAL4)


class DestinationPolicy:
    """Answers for an IPv4 address that is reached, or seen, through one of our prefixes."""

    def __init__(self, settings: Settings) -> None:
        self._denied = _masks((*BUILT_IN_DENY4, *settings.deny4))
        # Asked for every new session, and networks compare slowly: which prefixes are strict.
        self._strict = frozenset(
            prefix.head
            for prefix in settings.prefixes
            if settings.wkp_strict and prefix.network == WELL_KNOWN_PREFIX
        )

    def refusal(self, addr4: bytes, prefix: Prefix6) -> Reason | None:
        """Why the address may not be reached, or None when it may.

        RFC 6052 §3.1: the well-known prefix must not carry IPv4 addresses that are not
        globally routed (`wkp_strict`).
        """
        value = int.from_bytes(addr4, "big")
        for network, mask in self._denied:
            if value & mask == network:
                return Reason.DESTINATION_REFUSED
        if self._strict and prefix.head in self._strict:
            for network, mask in _NOT_GLOBAL4:
                if value & mask == network:
                    return Reason.PRIVATE_UNDER_WKP
        return None

    def error_source(self, addr4: bytes, prefix: Prefix6) -> bytes | None:
        """The address in which the IPv4 source of an ICMP error appears, None where it may not.

        RFC 7915 §4.1: one that no other packet may come from (127.0.0.1) is translated all the
        same, so that whoever looks for a fault can see it; but not under the well-known prefix,
        which has none of those (RFC 6052 §3.1).
        """
        is_seen = self.refusal(addr4, prefix) is None
        if not is_seen and is_illegal4(addr4):
            is_seen = prefix.head not in self._strict
        return prefix.embed(addr4) if is_seen else None
