"""Where to listen: addresses, and interfaces as the kernel lists their addresses. Pure.

`*` stands for the interfaces of the LAN, which nobody has named. Taken for one is every interface
that has an address of more than its link, but for the one that leads to the IPv6 internet: there
are the clients, and nobody outside finds an open port. Where that is wrong it has to be named.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address

from gateway.dns64.upstream_config import DNS_PORT

_TENTATIVE, _FAILED = 0x40, 0x08  # duplicate address detection, of linux/if_addr.h

LAN = "*"  # no interface: the kernel takes no such name from ip(8), and nobody gives it one

Place = tuple[str, int]  # address, with its zone where it is link-local, and port


class BadListen(ValueError):
    """What was written is no place to listen; str() says what would be right."""


def parse_listen(text: str) -> tuple[str, int]:
    """`ADDRESS[@PORT]`, `INTERFACE[@PORT]` or `*[@PORT]` as name and port. Raises BadListen."""
    name, at, port_text = text.partition("@")
    port = DNS_PORT
    if at:
        if not (port_text.isascii() and port_text.isdecimal() and 0 < int(port_text) < 65_536):
            raise BadListen(f"{text!r} has no valid port; 1 to 65535 is right")
        port = int(port_text)
    try:
        address = ip_address(name)
    except ValueError:
        if not name or "/" in name or ":" in name or len(name) > 15 or not name.isascii():
            raise BadListen(
                f"{text!r} is neither an address nor the name of an interface"
            ) from None
        return name, port
    if address.is_unspecified or address.is_multicast:
        raise BadListen(
            f"{text!r} is not the address of a host; name addresses or interfaces, so that"
            f" answers leave from the address that was asked"
        )
    return name, port


def interface_addresses(text: str) -> dict[str, list[str]]:
    """The usable addresses of each interface, from the text of /proc/net/if_inet6."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) != 6 or int(words[4], 16) & (_TENTATIVE | _FAILED):
            continue
        address, name = IPv6Address(bytes.fromhex(words[0])), words[5]
        zone = f"%{name}" if address.is_link_local else ""
        found.setdefault(name, []).append(f"{address}{zone}")
    return found


def wanted_places(
    listen: Iterable[tuple[str, int]],
    addresses: dict[str, list[str]],
    uplink: str = "",
) -> list[Place]:
    """Every address and port to listen on, each once; `uplink`: the way to the IPv6 internet."""
    places: dict[Place, None] = {}
    for name, port in listen:
        if name == LAN:
            for lan in lan_interfaces(addresses, uplink):
                places.update(((address, port), None) for address in addresses[lan])
            continue
        try:
            ip_address(name)
        except ValueError:
            places.update(((address, port), None) for address in addresses.get(name, []))
        else:
            places[name, port] = None
    return list(places)


def lan_interfaces(addresses: dict[str, list[str]], uplink: str) -> list[str]:
    """The interfaces that `*` stands for."""
    return [
        name
        for name, found in addresses.items()
        if name != uplink and any(_is_of_a_network(IPv6Address(text)) for text in found)
    ]


def _is_of_a_network(address: IPv6Address) -> bool:
    return not (address.is_link_local or address.is_loopback)


def show_place(place: Place) -> str:
    """A place for the log."""
    address, port = place
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
