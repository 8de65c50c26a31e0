"""[dns64]: the name server for clients, as keys of gateway.toml.

Upstreams, places to listen and names are read here as text and kept as text;
gateway/dns64/settings.py has what they mean. Nothing here looks at the host, and nothing imports
the name server itself, which a gateway without it does not need.
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from gateway.config_values import (
    BadValue,
    parse_items,
    parse_network4,
    parse_network6,
    shown,
    type_name,
)
from gateway.dns64.names import Malformed, name_from_text
from gateway.dns64.places import LAN, BadListen, parse_listen
from gateway.dns64.upstream_config import BadUpstream, parse_upstream

if TYPE_CHECKING:
    from gateway.dns64.settings import Dns64Settings
    from translate.addresses import Prefix6

DEFAULT_EXCLUDE = (IPv6Network("::ffff:0:0/96"),)

_Count = Annotated[int, Field(ge=1, le=10_000_000)]


def parse_listens(value: Any) -> tuple[str, ...]:
    """The key `listen`: addresses and interfaces."""
    return tuple(parse_items(value, "addresses or interfaces", '"lan0"', _parse_listen))


def _parse_listen(text: str) -> str:
    try:
        parse_listen(text)
    except BadListen as error:
        raise BadValue(str(error)) from None
    return text


def parse_upstreams(value: Any) -> tuple[str, ...]:
    """The key `upstreams`: servers to ask, best first."""
    return tuple(parse_items(value, "name servers", '"192.0.2.53"', _parse_upstream))


def _parse_upstream(text: str) -> str:
    try:
        parse_upstream(text)
    except BadUpstream as error:
        raise BadValue(str(error)) from None
    return text


def parse_names(value: Any) -> tuple[str, ...]:
    """The key `ignore_aaaa`: names of zones."""
    return tuple(parse_items(value, "names", '"example.com"', _parse_name))


def _parse_name(text: str) -> str:
    try:
        name_from_text(text)
    except Malformed as error:
        raise BadValue(f"{error}; a name such as example.com is right") from None
    return text


def parse_clients(value: Any) -> tuple[IPv4Network | IPv6Network, ...]:
    """The key `clients`: prefixes of either family."""
    return tuple(parse_items(value, "prefixes", '"2001:db8::/32"', _parse_network))


def _parse_network(text: str) -> IPv4Network | IPv6Network:
    return parse_network6(text) if ":" in text else parse_network4(text)


def parse_networks4(value: Any) -> tuple[IPv4Network, ...]:
    """The keys `mapped` and `exclude4`."""
    return tuple(parse_items(value, "IPv4 prefixes", '"10.0.0.0/8"', parse_network4))


def parse_networks6(value: Any) -> tuple[IPv6Network, ...]:
    """The key `exclude`."""
    return tuple(parse_items(value, "IPv6 prefixes", '"::ffff:0:0/96"', parse_network6))


def parse_file(value: Any) -> str:
    """The key `tls_ca_file`: an absolute path, or empty."""
    if not isinstance(value, str):
        raise BadValue(f"{shown(value)} is {type_name(value)}; an absolute path is right")
    if value and not value.startswith("/"):
        raise BadValue(f"{shown(value)} is no absolute path; /etc/ssl/ca.pem, say, is right")
    return value


class Dns64Table(BaseModel):
    """[dns64]: names of IPv4-only servers resolve to addresses in the prefix (RFC 6147)."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    enabled: bool = False
    listen: Annotated[tuple[str, ...], PlainValidator(parse_listens)] = ()
    upstreams: Annotated[tuple[str, ...], PlainValidator(parse_upstreams)] = ()
    prefixes: Literal["first", "all", "round-robin", "by-client"] = "first"
    clients: Annotated[tuple[IPv4Network | IPv6Network, ...], PlainValidator(parse_clients)] = ()
    mapped: Annotated[tuple[IPv4Network, ...], PlainValidator(parse_networks4)] = ()
    exclude: Annotated[tuple[IPv6Network, ...], PlainValidator(parse_networks6)] = DEFAULT_EXCLUDE
    exclude4: Annotated[tuple[IPv4Network, ...], PlainValidator(parse_networks4)] = ()
    synthall: bool = False
    ignore_aaaa: Annotated[tuple[str, ...], PlainValidator(parse_names)] = ()
    break_dnssec: bool = True
    reverse: Literal["cname", "translate", "off"] = "cname"
    query_timeout: Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)] = 4.5
    pause: Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)] = 15.0
    max_ttl: Annotated[int, Field(ge=1, le=604_800)] = 86_400
    max_negative_ttl: Annotated[int, Field(ge=1, le=86_400)] = 900
    serve_stale: Annotated[int, Field(ge=0, le=604_800)] = 0
    use_0x20: bool = False
    trust_ad: bool = False
    tls_ca_file: Annotated[str, PlainValidator(parse_file)] = ""
    cache_entries: _Count = 50_000
    cache_bytes: Annotated[int, Field(ge=65_536, le=1 << 40)] = 67_108_864
    queries: _Count = 4_096
    queries_per_client: _Count = 512
    queries_per_second: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] = 2000.0
    tcp_connections: _Count = 256
    tcp_per_client: _Count = 32


def places_of(table: Dns64Table, interfaces: tuple[str, ...]) -> tuple[str, ...]:
    """Where the name server listens; `interfaces` are those of [advertise]."""
    if not table.listen:
        return ("::1", *(interfaces or (LAN,)))
    # Where hosts are told to ask is a LAN, even if the way out is there, too.
    return (*table.listen, *interfaces) if LAN in table.listen else table.listen


def to_dns64_settings(
    table: Dns64Table, prefixes: tuple[Prefix6, ...], interfaces: tuple[str, ...]
) -> Dns64Settings:
    """What the name server needs of the configuration.

    `interfaces`: where it listens, beside ::1, when `listen` names no place; without them it is
    on the interfaces that look like a LAN.
    """
    from gateway.dns64.settings import Choice, Dns64Settings, Limits, Reverse

    return Dns64Settings(
        prefixes=prefixes,
        listen=places_of(table, interfaces),
        upstreams=table.upstreams,
        choice=Choice(table.prefixes),
        clients=table.clients,
        mapped=table.mapped,
        exclude=table.exclude,
        exclude4=table.exclude4,
        synthall=table.synthall,
        ignore_aaaa=table.ignore_aaaa,
        break_dnssec=table.break_dnssec,
        reverse=Reverse(table.reverse),
        timeout=table.query_timeout,
        pause=table.pause,
        max_ttl=table.max_ttl,
        max_negative_ttl=table.max_negative_ttl,
        serve_stale=table.serve_stale,
        use_0x20=table.use_0x20,
        trust_ad=table.trust_ad,
        tls_ca_file=table.tls_ca_file,
        limits=Limits(
            cache_entries=table.cache_entries,
            cache_bytes=table.cache_bytes,
            queries=table.queries,
            queries_per_client=table.queries_per_client,
            queries_per_second=table.queries_per_second,
            burst=max(1, int(2 * table.queries_per_second)),
            tcp_connections=table.tcp_connections,
            tcp_per_client=table.tcp_per_client,
        ),
    )
