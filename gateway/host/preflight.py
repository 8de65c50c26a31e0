"""What can be known to fail before anything is touched: one line each, with the remedy."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from socket import AF_INET, AF_INET6

from pyroute2 import IPRoute

from gateway.host import routes, sysctl
from gateway.host.links import GATEWAY4, all_links, find_link, layer3_link
from gateway.host.netlink import explaining
from gateway.host.spec import HostSpec
from gateway.tap import device_problem, driver_problem

_CAP_NET_ADMIN = 12


def preflight(spec: HostSpec) -> list[str]:
    """Every problem of this host with the wish, best first; empty when none is known.

    Raises HostError when the kernel cannot even be asked.
    """
    problems = []
    driver = driver_problem()
    if driver is not None:
        problems.append(driver)
    if not may_administer_network():
        problems.append(
            "no CAP_NET_ADMIN: run as root, or as a service with AmbientCapabilities=CAP_NET_ADMIN"
        )
    if spec.tap and spec.device:
        device = device_problem(spec.kind, spec.tap)
        problems += [device] if device is not None else []
    problems += ipv6_problems()
    problems += _read_only_sysctls()
    with explaining("look at addresses and routes"), IPRoute() as ipr:
        tap = find_link(ipr, name=spec.tap) if spec.tap else None
        own = layer3_link(ipr, tap).index if tap is not None else 0
        problems += _address_problems(ipr, spec, own)
        problems += _route_problems(ipr, spec, own)
    return problems


def may_administer_network() -> bool:
    """Whether this thread has CAP_NET_ADMIN in effect."""
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return False


def ipv6_problems() -> list[str]:
    """Why there is no IPv6 here, if so."""
    disabled = sysctl.read("ipv6/conf/all/disable_ipv6")
    if disabled is None:
        return ["this kernel runs without IPv6: boot it without ipv6.disable=1"]
    if disabled != "0":
        return [
            "IPv6 is disabled on this host: `sysctl -w net.ipv6.conf.all.disable_ipv6=0`"
            " (docker run --sysctl net.ipv6.conf.all.disable_ipv6=0)"
        ]
    return []


def _read_only_sysctls() -> Iterator[str]:
    for family in ("ipv6", "ipv4"):
        key = sysctl.switch(family)
        if sysctl.read(key) == "0" and not sysctl.writable(key):
            name = sysctl.switch_name(family)
            yield f"{name} is 0 and cannot be written here: set it to 1 from outside" + (
                f" (docker run --sysctl {name}=1)"
            )


def _address_problems(ipr: IPRoute, spec: HostSpec, own: int) -> Iterator[str]:
    names = {link.index: link.name for link in all_links(ipr)}
    for family in (AF_INET, AF_INET6):
        for message in ipr.get_addr(family=family):
            # On a point-to-point link IFA_ADDRESS is the other end's.
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            address = ip_address(text)
            device = names.get(message["index"], "?")
            if isinstance(address, IPv4Address):
                problem = _address4_problem(address, spec.pool4)
            else:
                at_home = message["index"] == own
                problem = None if at_home else _address6_problem(address, spec.prefixes)
            if problem is not None:
                yield f"{address} is an address of {device} and {problem}"


def _address4_problem(address: IPv4Address, pool4: list[IPv4Network]) -> str | None:
    if str(address) == GATEWAY4:
        return "is the gateway's own next hop: remove it from the interface"
    for network in pool4:
        if address in network:
            return f"lies in pool4 {network}: choose another pool4, or remove the address"
    return None


def _address6_problem(address: IPv6Address, prefixes: list[IPv6Network]) -> str | None:
    for network in prefixes:
        if address in network:
            return f"lies in the prefix {network}: choose another prefix, or remove the address"
    return None


def _route_problems(ipr: IPRoute, spec: HostSpec, own: int) -> Iterator[str]:
    names = {link.index: link.name for link in all_links(ipr)}
    networks: list[IPv4Network | IPv6Network] = [*spec.prefixes, *spec.pool4]
    for network in networks:
        found = routes.find_exact(ipr, network)
        if found is None or (own and found.oif == own):
            continue
        if found.type != routes.RTN_UNICAST and network.version == 4:
            continue  # an address of the host: said already
        device = names.get(found.oif, "?")
        via = f"via {found.gateway} " if found.gateway else ""
        ip = "ip -6" if network.version == 6 else "ip"
        if found.protocol == routes.PROTOCOL:
            other = "--prefix 64:ff9b:1::/96" if network.version == 6 else "--pool4 192.0.0.5"
            remedy = (
                f"another gateway serves it: choose another, {other} for instance, or"
                f" `gateway undo --tap {device}` if that was killed"
            )
        else:
            remedy = f"`{ip} route del {network} dev {device}`, or choose another"
        yield f"a route for {network} exists already ({via}dev {device}): {remedy}"
