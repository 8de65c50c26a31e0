"""[siit]: stateless translation by explicit address mappings (RFC 7757), as keys of gateway.toml.

The file that `map` names is no part of the configuration: it is read by gateway/siit/mappings.py.
"""

from __future__ import annotations

from ipaddress import IPv4Network, collapse_addresses
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from gateway.config_values import BadValue, parse_icmp4_error_pool, parse_items, shown
from gateway.eam_file import parse_words
from translate.eam import Eam, EamConflict, EamTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gateway.config_model import Config

# The tables of the pool, and the search for a free address in it, are as large as the pool.
MOST_POOL_ADDRESSES = 65_536


def parse_mappings(value: Any) -> tuple[Eam, ...]:
    """The key `mappings`: pairs of prefixes, as in a line of the map file."""
    example = '"198.51.100.0/28 2001:db8:1::/124"'
    mappings = tuple(parse_items(value, "pairs of prefixes", example, _parse_mapping))
    table = EamTable()
    faults = []
    for mapping in mappings:
        try:
            table.add(mapping)
        except EamConflict as error:
            faults.append(f"{shown(str(mapping))}: {error}")
    if faults:
        raise BadValue(*faults)
    return mappings


def _parse_mapping(text: str) -> Eam:
    try:
        return parse_words(text.split())
    except ValueError as error:
        raise BadValue(f"{error}; IPV4 IPV6 is right") from None


def parse_pool(value: Any) -> tuple[IPv4Network, ...]:
    """The key `pool`: IPv4 prefixes for hosts without a mapping."""
    networks = list(collapse_addresses(parse_icmp4_error_pool(value)))
    size = sum(network.num_addresses for network in networks)
    if size > MOST_POOL_ADDRESSES:
        raise BadValue(f"{size} addresses are too many; at most {MOST_POOL_ADDRESSES} are right")
    return tuple(networks)


def parse_path(value: Any) -> str:
    """The keys `map` and `pool_state`: a path."""
    if not isinstance(value, str) or "\0" in value:
        raise BadValue(f'{shown(value)} is no path; one is right, e.g. "/etc/tap64/siit.map"')
    return value


class SiitTable(BaseModel):
    """The keys of [siit]."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    map: Annotated[str, PlainValidator(parse_path)] = ""
    mappings: Annotated[tuple[Eam, ...], PlainValidator(parse_mappings)] = ()
    hairpin: Literal["none", "simple", "intrinsic"] = "intrinsic"
    pool: Annotated[tuple[IPv4Network, ...], PlainValidator(parse_pool)] = ()
    pool_state: Annotated[str, PlainValidator(parse_path)] = "/var/lib/tap64/pool"
    pool_keep: Annotated[float, Field(ge=0.01, le=3650, allow_inf_nan=False)] = 14.0


def find_siit_faults(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """What does not go with mode = "siit": the keys, and what is wrong."""
    if config.mode != "siit":
        return
    if config.masquerade is True:
        yield (
            ("masquerade", "mode"),
            "hosts have addresses of their own in mode siit; auto is right",
        )
    if config.backhaul.to:
        yield ("backhaul.to", "mode"), "a backhaul goes with mode nat64 only; empty is right"
    for key in ("static", "port_block_size", "deterministic"):
        if getattr(config, key):
            yield (key, "mode"), "ports are not translated in mode siit; without it is right"
    for item in config.pool4:
        if (item.first_port, item.last_port, len(item.protocols)) != (1, 65535, 3) or item.clients:
            yield (
                ("pool4", "mode"),
                f"{item.network}: in mode siit pool4 names networks that are routed here; without"
                f" protocol, ports and clients is right",
            )
    if config.siit.pool and not config.siit.pool_state:
        yield ("siit.pool_state", "siit.pool"), "the pool needs a place on disk; a path is right"
