"""[clat]: IPv4 on an IPv6-only host through somebody's NAT64 (RFC 6877), as keys.

conf/gateway.toml has them all. Nothing here looks at the host.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from gateway.config_values import BadValue, parse_device_name, parse_items, shown
from gateway.dns64.upstream_config import BadUpstream, parse_upstream
from translate.addresses import is_unicast4, is_unicast6

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config_model import Config

# Each has a route, a proxy neighbour and a rule of its own.
MAX_HOSTS = 64


def parse_interfaces(value: Any) -> tuple[str, ...]:
    """The key `lan`: names of interfaces."""
    found = parse_items(value, "names of interfaces", '"lan0"', _parse_interface)
    return tuple(dict.fromkeys(found))


def _parse_interface(text: str) -> str:
    if not text:
        raise BadValue('"" is no interface; a name such as "lan0" is right')
    return parse_device_name(text)


def parse_address(value: Any) -> IPv6Address | None:
    """The key `address`: an IPv6 address, or empty to have one made."""
    if value == "":
        return None
    try:
        address = IPv6Address(value if isinstance(value, str) else "")
    except ValueError:
        address = IPv6Address(0)
    if not is_unicast6(address.packed) or address.is_link_local:
        raise BadValue(
            f"{shown(value)} is no global IPv6 address; one, or an empty string, is right"
        )
    return address


def parse_hosts(value: Any) -> tuple[IPv4Address, ...]:
    """The key `hosts`: IPv4 addresses."""
    hosts = tuple(parse_items(value, "IPv4 addresses", '"192.168.1.5"', _parse_host))
    if len(set(hosts)) != len(hosts):
        raise BadValue("an address is named twice; each once is right")
    if len(hosts) > MAX_HOSTS:
        raise BadValue(f"{len(hosts)} addresses are too many; at most {MAX_HOSTS} are right")
    return hosts


def _parse_host(text: str) -> IPv4Address:
    try:
        address = IPv4Address(text)
    except ValueError:
        raise BadValue(f"{shown(text)} is no IPv4 address; e.g. 192.168.1.5 is right") from None
    if not is_unicast4(address.packed) or address.packed[:3] == bytes((192, 0, 0)):
        raise BadValue(f"{address} cannot be the address of a host in a LAN")
    return address


def parse_resolvers(value: Any) -> tuple[str, ...]:
    """The key `resolvers`: name servers without TLS."""
    return tuple(parse_items(value, "name servers", '"2001:db8::53"', _parse_resolver))


def _parse_resolver(text: str) -> str:
    try:
        resolver = parse_upstream(text)
    except BadUpstream as error:
        raise BadValue(str(error)) from None
    if resolver.tls:
        raise BadValue(f"{shown(text)}: the resolver is asked without TLS; ADDRESS is right")
    return text


class ClatTable(BaseModel):
    """[clat]: see conf/gateway.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    prefix_from: Literal["auto", "ra", "dns", "config"] = "auto"
    resolvers: Annotated[tuple[str, ...], PlainValidator(parse_resolvers)] = ()
    uplink: Annotated[str, PlainValidator(parse_device_name)] = ""
    address: Annotated[IPv6Address | None, PlainValidator(parse_address)] = None
    metric: Annotated[int, Field(ge=1, le=2**31 - 1)] = 2048
    lan: Annotated[tuple[str, ...], PlainValidator(parse_interfaces)] = ()
    hosts: Annotated[tuple[IPv4Address, ...], PlainValidator(parse_hosts)] = ()


def find_clat_faults(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """What does not go with mode = "clat": the keys, and what is wrong."""
    if config.mode != "clat":
        return
    if len(config.prefix) > 1:
        yield ("prefix", "mode"), "the NAT64's prefix is one; a single one is right in mode clat"
    for key in ("pool4", "static", "port_block_size", "deterministic"):
        if getattr(config, key):
            yield (key, "mode"), "the NAT64 has the pool, not mode clat; without it is right"
    for table, given in (
        ("backhaul.to", config.backhaul.to),
        ("dns64.enabled", config.dns64.enabled),
        ("advertise.interfaces", config.advertise.interfaces),
    ):
        if given:
            yield (table, "mode"), "this does not go with mode clat; without it is right"
    if config.masquerade != "auto":
        yield ("masquerade", "mode"), "clat.lan decides in mode clat; auto is right"
    if config.clat.hosts and not config.clat.lan:
        yield ("clat.hosts", "clat.lan"), "hosts need the interfaces that they are on in clat.lan"
    if config.clat.uplink and config.clat.uplink in config.clat.lan:
        yield (
            ("clat.lan", "clat.uplink"),
            f"{config.clat.uplink} is the uplink; other interfaces are right",
        )
