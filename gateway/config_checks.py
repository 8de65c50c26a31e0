"""What is wrong between keys, and what is allowed but worth a line at start.

Pure functions of a `Config`. Overlaps within one key are found where the key is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Network
from typing import NamedTuple

from gateway.config_model import Config

# RFC 3879: site-local addresses, deprecated.
_SITE_LOCAL = IPv6Network("fec0::/10")
_EVERYONE = (IPv6Network("::/0"), IPv6Network("2000::/3"))

# RFC 6146 §4 and what it cites: RFC 4787 REQ-5, RFC 5382 REQ-4 and REQ-5, RFC 5508 REQ-1.
_LEAST_TIMEOUTS = {
    "udp_default": (120.0, "RFC 4787 REQ-5"),
    "tcp_est": (7440.0, "RFC 5382 REQ-5"),
    "tcp_trans": (240.0, "RFC 5382 REQ-5"),
    "tcp_incoming_syn": (6.0, "RFC 5382 REQ-4"),
    "icmp_default": (60.0, "RFC 5508 REQ-1"),
}


class Fault(NamedTuple):
    """A contradiction between keys: told under the first of them."""

    keys: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.keys[0]}: {self.text}"


def find_faults(config: Config) -> Iterator[Fault]:
    """Contradictions between keys that are each right by themselves."""
    if config.lowest_ipv6_mtu > config.mtu:
        yield Fault(
            ("lowest_ipv6_mtu", "mtu"),
            f"{config.lowest_ipv6_mtu} is more than mtu, {config.mtu}; "
            f"from 1280 to {config.mtu} is right",
        )


def notices(config: Config) -> list[str]:
    """Lines that the log shows at start: what works, but better not like that."""
    return [
        *_site_local(config),
        *_open_to_everyone(config),
        *_pool_without_way_back(config),
        *_short_timeouts(config),
    ]


def _site_local(config: Config) -> Iterator[str]:
    for prefix in config.prefix:
        if prefix.overlaps(_SITE_LOCAL):
            yield (
                f"prefix {prefix} lies in fec0::/10, which is deprecated (RFC 3879); "
                f"64:ff9b::/96 or a prefix of your own is better"
            )


def _open_to_everyone(config: Config) -> Iterator[str]:
    for prefix in config.allow:
        if prefix in _EVERYONE:
            yield (
                f"allow = {prefix} serves everyone who can reach this host; "
                f"name the prefixes of your clients"
            )


def _pool_without_way_back(config: Config) -> Iterator[str]:
    if not config.pool4 and not config.masquerades:
        yield (
            f"masquerade is off and pool4 is empty: nobody routes {config.pool_networks[0]} "
            f"back to this host; set pool4, or masquerade = true, or translate it yourself"
        )


def _short_timeouts(config: Config) -> Iterator[str]:
    for key, (least, rfc) in _LEAST_TIMEOUTS.items():
        seconds = getattr(config.timeouts, key)
        if seconds < least:
            yield f"timeouts.{key} = {seconds:g} is less than the {least:g} s of {rfc}"
