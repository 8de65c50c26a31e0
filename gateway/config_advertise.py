"""[advertise]: router advertisements on the LAN, as keys of gateway.toml.

`advertise = "lan0"` and `advertise = ["lan0", "lan1"]` are shorthands for a table with nothing
but `interfaces`. Nothing here looks at the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from gateway.config_values import (
    BadValue,
    parse_device_name,
    parse_items,
    parse_network6,
    shown,
)


def parse_interfaces(value: Any) -> tuple[str, ...]:
    """The key `interfaces`: names of devices."""
    found = parse_items(value, "interfaces", '"lan0"', _parse_interface)
    return tuple(dict.fromkeys(found))


def _parse_interface(text: str) -> str:
    if not text:
        raise BadValue('"" is no interface; a name such as "lan0" is right')
    return parse_device_name(text)


def parse_prefixes(value: Any) -> tuple[IPv6Network, ...]:
    """The key `prefixes`: prefixes in which hosts make addresses, all of them /64."""
    return tuple(parse_items(value, "prefixes", '"fd00:1::/64"', _parse_prefix))


def _parse_prefix(text: str) -> IPv6Network:
    network = parse_network6(text)
    if network.prefixlen != 64:
        # RFC 4862 §5.5.3 d: with interface identifiers of 64 bits others are ignored.
        raise BadValue(f"{shown(text)}: hosts make addresses only in a /64")
    return network


def parse_dns(value: Any) -> Literal["auto"] | tuple[IPv6Address, ...]:
    """The key `dns`: servers to name, "auto" for ours when there is one."""
    if value == "auto":
        return "auto"
    return tuple(parse_items(value, "addresses", '"fd00:1::53"', _parse_server))


def _parse_server(text: str) -> IPv6Address:
    try:
        address = IPv6Address(text)
    except ValueError:
        raise BadValue(f"{shown(text)} is no IPv6 address") from None
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise BadValue(f"{shown(text)} is no address of a server")
    return address


def parse_default_router(value: Any) -> Literal["auto"] | bool:
    """The key `default_router`."""
    if value == "auto" or isinstance(value, bool):
        return value  # type: ignore[no-any-return]
    raise BadValue(f'{shown(value)} is no choice; "auto", true or false is right')


class AdvertiseTable(BaseModel):
    """[advertise]. Without `interfaces` nothing is advertised."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    interfaces: Annotated[tuple[str, ...], PlainValidator(parse_interfaces)] = ()
    interval: Annotated[float, Field(ge=4, le=1800, allow_inf_nan=False)] = 600.0
    default_router: Annotated[Literal["auto"] | bool, PlainValidator(parse_default_router)] = "auto"
    prefixes: Annotated[tuple[IPv6Network, ...], PlainValidator(parse_prefixes)] = ()
    dns: Annotated[Literal["auto"] | tuple[IPv6Address, ...], PlainValidator(parse_dns)] = "auto"


def advertise_table_of(value: Any) -> Any:
    """The table for a shorthand; anything else as it is."""
    return {"interfaces": value} if isinstance(value, str | list) else value


def find_advertise_faults(
    table: AdvertiseTable, prefixes: tuple[IPv6Network, ...]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Contradictions with [advertise]: the keys, and what is wrong."""
    for prefix in table.prefixes:
        for translated in prefixes:
            if prefix.overlaps(translated):
                yield (
                    ("advertise.prefixes", "prefix"),
                    f"{prefix} overlaps {translated}, in which the IPv4 internet appears; hosts"
                    " need addresses outside it",
                )
