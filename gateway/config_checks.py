"""What is wrong between keys, and what is allowed but worth a line at start.

Pure functions of a `Config`. Overlaps within one key are found where the key is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import NamedTuple

from gateway.config_advertise import find_advertise_faults
from gateway.config_backhaul import BackhaulTable, find_backhaul_faults
from gateway.config_clat import find_clat_faults
from gateway.config_model import Config
from gateway.config_ports import show_static
from gateway.config_siit import find_siit_faults
from gateway.config_values import PROTOCOLS, show_pool_range, shown
from translate.client_ports import plan_of
from translate.pool4 import block_starts
from translate.static_bib import StaticEntry

# RFC 3879: site-local addresses, deprecated.
_SITE_LOCAL = IPv6Network("fec0::/10")
_EVERYONE = (IPv6Network("::/0"), IPv6Network("2000::/3"))

# RFC 6146 §4 and what it cites: RFC 4787 REQ-5, RFC 5382 REQ-4 and REQ-5, RFC 5508 REQ-2.
_LEAST_TIMEOUTS = {
    "udp_default": (120.0, "RFC 4787 REQ-5"),
    "tcp_est": (7440.0, "RFC 5382 REQ-5"),
    "tcp_trans": (240.0, "RFC 5382 REQ-5"),
    "tcp_incoming_syn": (6.0, "RFC 5382 REQ-4"),
    "icmp_default": (60.0, "RFC 5508 REQ-2"),
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
    for keys, text in find_backhaul_faults(config.backhaul, config.masquerade, config.device):
        yield Fault(keys, text)
    for keys, text in find_advertise_faults(config.advertise, config.prefix):
        yield Fault(keys, text)
    yield from _untranslated_faults(config)
    for keys, text in find_siit_faults(config):
        yield Fault(keys, text)
    for keys, text in find_clat_faults(config):
        yield Fault(keys, text)
    yield from _static_faults(config)
    yield from _block_faults(config)
    yield from _deterministic_faults(config)


def _untranslated_faults(config: Config) -> Iterator[Fault]:
    if not config.backhaul.to or config.backhaul.carries == "ipv4":
        return
    for key, given in (
        ("dns64.enabled", config.dns64.enabled),
        ("advertise.interfaces", config.advertise.interfaces),
    ):
        if given:
            yield Fault(
                (key, "backhaul.carries"),
                'with carries = "ipv6" there is only the way to the peer here; without it is right',
            )


def _static_faults(config: Config) -> Iterator[Fault]:
    forwarded: dict[tuple[int, bytes], StaticEntry] = {}
    for entry in config.static:
        text = shown(show_static(entry))
        address4, port4 = IPv4Address(entry.key4[:4]), int.from_bytes(entry.key4[4:], "big")
        if not any(
            address4 in item.network
            and entry.protocol in item.protocols
            and item.first_port <= port4 <= item.last_port
            for item in config.pool_ranges
        ):
            pool = ", ".join(show_pool_range(item) for item in config.pool_ranges)
            yield Fault(
                ("static", "pool4"),
                f"{text}: pool4 has no {address4}:{port4} for this protocol;"
                f" an address and port of {pool} is right",
            )
        address6 = IPv6Address(entry.key6[:16])
        for prefix in config.prefix:
            if address6 in prefix:
                yield Fault(
                    ("static", "prefix"),
                    f"{text}: {address6} lies in {prefix}, where the IPv4 internet is;"
                    f" the address of an IPv6 host is right",
                )
        other = forwarded.setdefault((entry.protocol, entry.key4[4:]), entry)
        if config.masquerades and other is not entry:
            yield Fault(
                ("static", "masquerade", "pool4"),
                f"{shown(show_static(other))} and {text} want the same port of this host, whose"
                f" address stands for all of pool4; another port is right",
            )


def _block_faults(config: Config) -> Iterator[Fault]:
    size = config.port_block_size
    if not size:
        return
    if config.deterministic is not None:
        yield Fault(
            ("port_block_size", "deterministic"),
            "deterministic makes blocks of its own; 0 is right with it, or deterministic empty",
        )
    for item in config.pool_ranges:
        if not block_starts(item, size):
            yield Fault(
                ("port_block_size", "pool4"),
                f"{shown(show_pool_range(item))} has no {size} ports from 1024 on;"
                f" a larger range or smaller blocks are right",
            )


def _deterministic_faults(config: Config) -> Iterator[Fault]:
    if config.deterministic is None:
        return
    keys = ("deterministic", "pool4")
    items = [item for item in config.pool_ranges if item.clients is None]
    if not items:
        yield Fault(keys, "every range of pool4 is for named clients; one without for is right")
        return
    if len({(item.protocols, item.first_port, item.last_port) for item in items}) > 1:
        yield Fault(
            keys,
            "the ranges of pool4 without for differ in protocol or ports;"
            " the same for all of them are right, best none",
        )
    elif (plan := plan_of(config.deterministic, items)).ports_each < 1:
        yield Fault(
            keys,
            f"{config.deterministic.count} subscribers, {plan.per_address} on an address, are more"
            f" than it has ports from 1024 on; a larger pool or fewer subscribers are right",
        )


def notices(config: Config) -> list[str]:
    """Lines that the log shows at start: what works, but better not like that."""
    if config.mode == "clat":
        # It has no clients, no pool and no masquerade of its own, and the prefix is another's.
        return [*_not_used(config)]
    return [
        *_not_used(config),
        *_site_local(config),
        *_open_to_everyone(config),
        *_pool_without_way_back(config),
        *_short_timeouts(config),
        *_behind_masquerade(config),
    ]


def _not_used(config: Config) -> Iterator[str]:
    for mode, table in (("siit", config.siit), ("clat", config.clat)):
        if mode != config.mode and table != type(table)():
            yield f"[{mode}] is not used in mode {config.mode}; --mode {mode} would use it"
    if not config.backhaul.to and config.backhaul != BackhaulTable():
        yield "[backhaul] is not used: it names no destination; --backhaul does"


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
    if config.mode != "nat64" or config.pool4 or config.masquerades or config.backhaul.to:
        return
    yield (
        f"masquerade is off and pool4 is empty: nobody routes {config.pool_networks[0]} "
        f"back to this host; set pool4, or masquerade = true, or translate it yourself"
    )


def _short_timeouts(config: Config) -> Iterator[str]:
    for key, (least, rfc) in _LEAST_TIMEOUTS.items():
        seconds = getattr(config.timeouts, key)
        if seconds < least:
            yield f"timeouts.{key} = {seconds:g} is less than the {least:g} s of {rfc}"


def _behind_masquerade(config: Config) -> Iterator[str]:
    if not config.masquerades:
        return
    if any(entry.protocol == PROTOCOLS["icmp"] for entry in config.static):
        yield (
            "static has an icmp mapping, but behind the masquerade this host answers pings itself;"
            " it needs a routed pool4"
        )
    if config.port_block_size or config.deterministic is not None:
        yield (
            "behind the masquerade servers see other ports than those of blocks; to answer who had"
            " a port, route pool4"
        )
