"""From the configuration to an advertiser, or to a snippet for another program."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

from gateway.config import ConfigError
from gateway.config_model import Config
from gateway.dns64.places import LAN, parse_listen
from gateway.dns64.upstream_config import DNS_PORT
from gateway.ra import snippet
from gateway.ra.advertiser import Advertiser
from gateway.ra.content import AdvertiseWish, InterfaceState, advertisement
from gateway.ra.interface import interface_state


def wish_of(config: Config) -> AdvertiseWish:
    """What the configuration asks for."""
    table = config.advertise
    interfaces, addresses = _answering(config)
    return AdvertiseWish(
        prefixes6=config.prefixes6,
        interval=table.interval,
        default_router=None if table.default_router == "auto" else table.default_router,
        on_link=table.prefixes,
        dns=None if table.dns == "auto" else table.dns,
        dns_interfaces=frozenset(interfaces),
        dns_addresses=frozenset(addresses),
    )


def _answering(config: Config) -> tuple[list[str], list[IPv6Address]]:
    """Interfaces and addresses at which the gateway answers DNS where hosts ask, at port 53."""
    if not config.dns64.enabled:
        return [], []
    if not config.dns64.listen:
        return list(config.advertise.interfaces), []
    interfaces: list[str] = []
    addresses: list[IPv6Address] = []
    for name, port in map(parse_listen, config.dns64.listen):
        if port != DNS_PORT:
            continue
        try:
            address = ip_address(name.partition("%")[0])
        except ValueError:
            interfaces.extend(config.advertise.interfaces if name == LAN else [name])
        else:
            if isinstance(address, IPv6Address):
                addresses.append(address)
    return interfaces, addresses


def make_advertiser(config: Config) -> Advertiser:
    """The advertiser that the configuration asks for; without interfaces it says nothing."""
    return Advertiser(config.advertise.interfaces, wish_of(config))


def snippets(config: Config) -> str:
    """What radvd and systemd-networkd need to advertise the same. Raises ConfigError, HostError."""
    if not config.advertise.interfaces:
        raise ConfigError(["--advertise-merge: no interface is named; --advertise lan0 is right"])
    pieces = []
    for name in config.advertise.interfaces:
        # One that is not there yet: what does not depend on it.
        state = interface_state(name) or InterfaceState(name, 0, b"")
        said = advertisement(wish_of(config), state)
        pieces.append(f"# radvd.conf\n{snippet.radvd(name, said)}")
        pieces.append(f"# systemd.network(5)\n{snippet.networkd(name, said)}")
    return "\n".join(pieces)
