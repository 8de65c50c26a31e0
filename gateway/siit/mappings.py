"""What stateless mode makes of the configuration: the table, the pool, and the settings.

Needs no host, only the map file.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, collapse_addresses
from pathlib import Path

from gateway.config import ConfigError, to_settings
from gateway.config_model import Config
from gateway.eam_file import EamFileError, read_eam_file
from translate.address_pool import AddressPool
from translate.eam import Eam, EamTable
from translate.pool4 import PoolRange
from translate.siit.addresses import Hairpin, SiitSettings

# Each is a route of the host, and a line of what is changed.
MOST_ROUTES = 256

_DAY = 86_400.0  # seconds


def read_mappings(config: Config) -> EamTable:
    """The mappings of configuration and map file. Raises ConfigError with every fault."""
    if not config.siit.map:
        return EamTable(config.siit.mappings)
    try:
        return read_eam_file(Path(config.siit.map), config.siit.mappings)
    except EamFileError as error:
        raise ConfigError([f"siit.map: {line}" for line in error.lines]) from None


def routed(config: Config, table: EamTable) -> Config:
    """The configuration with `pool4` made what the host has to route here. Raises ConfigError.

    That is the left sides of all mappings, unless `pool4` names other networks, and the pool.
    """
    given: Iterable[IPv4Network] = (item.network for item in config.pool4)
    if not config.pool4:
        given = (IPv4Network((item.prefix4, item.length4)) for item in table)
    networks = list(collapse_addresses([*given, *config.siit.pool]))
    if not networks:
        raise ConfigError(
            [
                "siit: there is nothing to translate; mappings, a map file, a pool, or pool4"
                " with the addresses of hosts in the prefix is right"
            ]
        )
    if len(networks) > MOST_ROUTES:
        raise ConfigError(
            [
                f"pool4: the mappings begin with {len(networks)} networks, more than the"
                f" {MOST_ROUTES} routes that are made for them; name the networks that are"
                " routed to this host"
            ]
        )
    return config.model_copy(update={"pool4": tuple(PoolRange(net) for net in networks)})


def routed_networks(config: Config) -> tuple[IPv4Network, ...]:
    """The networks of a configuration that went through `routed`."""
    return tuple(collapse_addresses(item.network for item in config.pool4))


def make_pool(
    config: Config, table: EamTable, before: AddressPool | None = None
) -> AddressPool | None:
    """The dynamic pool, None without one; `before`: the one whose assignments stay if they can."""
    if not config.siit.pool:
        return None
    reserved = {config.own_icmp4_source}
    for network in config.siit.pool:
        for mapping in table.overlapping4(network):
            reserved |= _addresses(mapping, network)
    for network in config.icmp4_error_pool:
        reserved |= _common(network, config.siit.pool)
    keep = config.siit.pool_keep * _DAY
    pool = AddressPool(config.siit.pool, reserved=reserved, keep=keep)
    for item in before or ():
        if table.to_v4(item.addr6) is None:
            pool.restore(item.addr4, item.addr6, item.last)
    return pool


def _addresses(mapping: Eam, network: IPv4Network) -> set[bytes]:
    return _common(IPv4Network((mapping.prefix4, mapping.length4)), [network])


def _common(network: IPv4Network, pool: Iterable[IPv4Network]) -> set[bytes]:
    """The addresses that a network and a pool have in common."""
    found: set[bytes] = set()
    for other in pool:
        if network.overlaps(other):
            smaller = network if network.prefixlen > other.prefixlen else other
            found.update(address.packed for address in smaller)
    return found


def make_settings(
    config: Config, table: EamTable, pool: AddressPool | None, *, icmp6_source: bytes
) -> SiitSettings:
    """What the translator needs. `config` went through `routed`."""
    return SiitSettings(
        common=to_settings(config, icmp6_source=icmp6_source),
        mappings=table,
        hairpin=Hairpin(config.siit.hairpin),
        pool=pool,
        routed4=routed_networks(config),
    )
