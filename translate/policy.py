"""Which IPv4 hosts are refused, whoever asks for them or they ask for."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network

from translate.addresses import Prefix6
from translate.reasons import Reason
from translate.settings import Settings

WELL_KNOWN_PREFIX = IPv6Network("64:ff9b::/96")

# Nobody beyond this host can be meant: this network, loopback, link-local, multicast, reserved
# (RFC 1812 §5.3.7).
BUILT_IN_DENY4 = tuple(
    IPv4Network(text)
    for text in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
)


class DestinationPolicy:
    """Answers for an IPv4 address reached through one of our prefixes."""

    def __init__(self, settings: Settings) -> None:
        self._denied = [
            (int(net.network_address), int(net.netmask))
            for net in (*BUILT_IN_DENY4, *settings.deny4)
        ]
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
        if self._strict and prefix.head in self._strict and not IPv4Address(addr4).is_global:
            return Reason.PRIVATE_UNDER_WKP
        return None
