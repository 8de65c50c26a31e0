"""Where questions go: the upstreams of the configuration or of resolv.conf. Pure.

An upstream is written as Unbound's users write it: `ADDRESS`, `ADDRESS@PORT`, and for DNS over
TLS (RFC 7858) `tls://ADDRESS[@PORT][#NAME]`. NAME is what the certificate must say; without it
the certificate must name the address. Addresses on which this server itself listens are left out,
or it would ask itself.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

DNS_PORT = 53
TLS_PORT = 853


class BadUpstream(ValueError):
    """What was written is no upstream; str() says what would be right."""


@dataclass(frozen=True, slots=True)
class UpstreamAddress:
    """One upstream. `name`: what its certificate must say, empty without TLS.

    `address` may have a zone (`fe80::1%lan0`).
    """

    address: str
    port: int = DNS_PORT
    tls: bool = False
    name: str = ""

    @property
    def ip(self) -> IPv4Address | IPv6Address:
        return ip_address(self.address.partition("%")[0])

    def __str__(self) -> str:
        text = f"{self.address}@{self.port}" + (f"#{self.name}" if self.name else "")
        return f"tls://{text}" if self.tls else text


def parse_upstream(text: str) -> UpstreamAddress:
    """One upstream as it is configured. Raises BadUpstream."""
    rest = text.removeprefix("tls://")
    tls = rest != text
    rest, _, name = rest.partition("#")
    if name and not tls:
        raise BadUpstream(f"{text!r} has a name but no tls://; tls://ADDRESS#NAME is right")
    address, at, port_text = rest.partition("@")
    try:
        ip = ip_address(address)
    except ValueError:
        raise BadUpstream(
            f"{text!r} is no upstream; ADDRESS, ADDRESS@PORT or tls://ADDRESS#NAME is right"
        ) from None
    if ip.is_multicast or ip.is_unspecified:
        raise BadUpstream(f"{text!r} is the address of no server")
    port = TLS_PORT if tls else DNS_PORT
    if at:
        if not (port_text.isascii() and port_text.isdecimal() and 0 < int(port_text) < 65_536):
            raise BadUpstream(f"{text!r} has no valid port; 1 to 65535 is right")
        port = int(port_text)
    return UpstreamAddress(address, port, tls, name if tls else "")


def parse_resolv_conf(text: str) -> list[UpstreamAddress]:
    """The `nameserver` lines of resolv.conf(5), each once, in their order; others are ignored."""
    found: dict[UpstreamAddress, None] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                found[parse_upstream(words[1])] = None
            except BadUpstream:
                continue
    return list(found)


def without_loops(
    upstreams: list[UpstreamAddress], own: Collection[tuple[str, int]]
) -> list[UpstreamAddress]:
    """The upstreams that are not addresses and ports on which this server listens."""
    listening = {(ip_address(address.partition("%")[0]), port) for address, port in own}
    return [u for u in upstreams if (u.ip, u.port) not in listening]
