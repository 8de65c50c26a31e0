"""What on this host would drop the gateway's traffic, each with its remedy. Reads, never writes.

Theory of operation. The gateway puts its packets into the kernel's hands, and four things there
break NAT64 hosts in the field without a word in any log: a firewall that forwards nothing by
default (Docker sets one), reverse path filtering, forwarding switched off on one interface, and
a connection tracking table smaller than the number of masqueraded sessions. Settings mislead as
often as they explain (rp_filter is the larger of two values, and harmless where routes are
symmetric), so the kernel is asked what it would do with a packet wherever it can be asked
(gateway/route_query.py), and rules are run rather than searched for words
(gateway/host/firewall.py).

Before the host is set up (`--dry-run`) device and routes do not exist yet; what depends on them
is then left out.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Final

from gateway.host import firewall, legacy_ruleset, nft_ruleset, ruleset
from gateway.route_query import RT_TABLE_LOCAL, RT_TABLE_MAIN, RTN_UNICAST, RouteInfo, RouteQuery

# Any address of the internet will do for a question about routes; no packet is sent to it.
# This is a.root-servers.net.
_SOMEWHERE: Final = IPv4Address("198.41.0.4").packed

_SHORTEST_CLIENT_ROUTE: Final = 16  # bits, as in gateway/clients.py
_NETWORKS_PER_DEVICE: Final = 4
_NEARLY_FULL: Final = 0.9
_LINK_LOCAL: Final = IPv6Network("fe80::/10")
_MULTICAST: Final = IPv6Network("ff00::/8")

# What the kernel answers for a packet that reverse path filtering drops: EXDEV up to Linux 6.12,
# EINVAL since.
_FILTERED: Final = frozenset({errno.EXDEV, errno.EINVAL})

_SIOCGIFFLAGS: Final = 0x8913
_IFF_UP: Final = 1

_CONNTRACK: Final = Path("/proc/sys/net/netfilter")
_CONNTRACK_STATISTICS: Final = Path("/proc/net/stat/nf_conntrack")
_BRIDGED_THROUGH_FIREWALL: Final = Path("/proc/sys/net/bridge/bridge-nf-call-ip6tables")


def obstacles(
    tap: str,
    l3: str,
    pool4: list[IPv4Network],
    masquerade: bool,
    sessions_limit: int,
    prefixes: Sequence[IPv6Network] = (),
    backhaul: bool = False,
) -> list[str]:
    """One line for each thing that would drop the gateway's traffic: what, why, remedy.

    `tap`: the gateway's device; `l3`: that, or the bridge it is a port of. `sessions_limit`:
    configuration key limits.sessions, 0 where it is the default. `prefixes`: pool6, makes the
    firewall check more exact.
    `backhaul`: IPv4 leaves through a tap that comes later, and not through the host's own uplinks.
    What cannot be read is a line too. Raises OSError only when the kernel answers no question
    about routes.
    """
    query = RouteQuery()
    try:
        routes4 = _unicast(query.routes(socket.AF_INET))
        routes6 = _unicast(query.routes(socket.AF_INET6))
        uplinks = [] if backhaul else _uplinks(routes4, l3)
        paths = _paths4(l3, pool4, uplinks) + _paths6(tap, l3, prefixes, routes6)
        return [
            *firewall_drops(paths),
            *_forwarding(l3, uplinks),
            *_reverse_path(query, l3, pool4, masquerade, uplinks, routes4),
            *(connection_tracking(sessions_limit) if masquerade else ()),
        ]
    finally:
        query.close()


def _unicast(routes: list[RouteInfo]) -> list[RouteInfo]:
    return [r for r in routes if r.type == RTN_UNICAST and r.table != RT_TABLE_LOCAL and r.oif_name]


def _uplinks(routes4: list[RouteInfo], l3: str) -> list[str]:
    """Devices on the way to IPv4 servers: of default routes, or where there is none, of any."""
    defaults = [r.oif_name for r in routes4 if r.prefixlen == 0 and r.oif_name != l3]
    others = [r.oif_name for r in routes4 if r.table == RT_TABLE_MAIN and r.oif_name != l3]
    return list(dict.fromkeys(defaults or others))


# Firewall


def firewall_drops(paths: Sequence[firewall.Path]) -> list[str]:
    """One line for each place where the host's firewall drops packets of these paths."""
    lines = []
    tables: list[ruleset.Table] = []
    try:
        tables += nft_ruleset.read_nft()
    except ruleset.RulesetError as error:
        lines.append(f"firewall: {error}")
    for family in ("ip", "ip6"):
        try:
            table = legacy_ruleset.read_legacy(family)
        except ruleset.RulesetError as error:
            lines.append(f"firewall: {error}")
        else:
            tables += [table] if table is not None else []
    try:
        found = firewall.drops(tables, paths)
    except ruleset.RulesetError as error:
        return [*lines, f"firewall: {error}"]
    return lines + [firewall.describe(drop, ends, tables) for drop, ends in found.items()]


def _paths4(l3: str, pool4: list[IPv4Network], uplinks: list[str]) -> list[firewall.Path]:
    indexes = _indexes()
    return [
        firewall.Path(
            version=4,
            device=l3,
            inbound=inbound,
            other=uplink,
            established=not inbound,
            src=network if inbound else None,
            dst=None if inbound else network,
            indexes=indexes,
        )
        for uplink in uplinks or [firewall.OTHER_DEVICE]
        for network in pool4
        for inbound in (True, False)
    ]


def _paths6(
    tap: str, l3: str, prefixes: Sequence[IPv6Network], routes6: list[RouteInfo]
) -> list[firewall.Path]:
    sides: list[tuple[str, IPv6Network | None]] = list(_client_sides(l3, routes6))
    if tap != l3 and _read(_BRIDGED_THROUGH_FIREWALL) == "1":
        # Neighbours on the bridge reach the tap through the firewall, like forwarded packets.
        sides.append((l3, _LINK_LOCAL))
    destinations: list[IPv6Network | None] = [*prefixes] or [None]
    indexes = _indexes()
    return [
        firewall.Path(
            version=6,
            device=l3,
            inbound=inbound,
            other=other,
            established=inbound,
            src=prefix if inbound else clients,
            dst=clients if inbound else prefix,
            indexes=indexes,
        )
        for other, clients in sides or [(firewall.OTHER_DEVICE, None)]
        for prefix in destinations
        for inbound in (True, False)
    ]


def _client_sides(l3: str, routes6: list[RouteInfo]) -> list[tuple[str, IPv6Network]]:
    """Devices with clients behind them, and their networks.

    A device that also has the default route counts only where there is no other: on a router
    it is the side that firewalls are meant to close.
    """
    sides: dict[str, list[IPv6Network]] = {}
    defaults = set()
    for route in routes6:
        if route.table != RT_TABLE_MAIN or route.oif_name in {l3, "lo"}:
            continue
        network = IPv6Network((IPv6Address(route.destination), route.prefixlen))
        if route.prefixlen < _SHORTEST_CLIENT_ROUTE:
            defaults.add(route.oif_name)
        elif not network.subnet_of(_LINK_LOCAL) and not network.subnet_of(_MULTICAST):
            sides.setdefault(route.oif_name, []).append(network)
    inner = {name: nets for name, nets in sides.items() if name not in defaults} or sides
    return [(name, net) for name, nets in inner.items() for net in nets[:_NETWORKS_PER_DEVICE]]


def _indexes() -> dict[str, int]:
    return {name: index for index, name in socket.if_nameindex()}


# Forwarding and reverse path filtering


def _forwarding(l3: str, uplinks: list[str]) -> list[str]:
    """Single interfaces that do not forward IPv4 although the host does.

    Switching the host's forwarding on switches it on everywhere; it is a host where it was on
    already whose interfaces keep their own value. IPv6 has no such switch: there the value of
    one interface decides about router advertisements only.
    """
    if _sysctl4("all", "forwarding") != "1":
        return []
    return [
        f"forwarding: net.ipv4.conf.{name}.forwarding is 0, so IPv4 packets that arrive on {name} "
        f"are not forwarded; remedy: sysctl -w net.ipv4.conf.{name}.forwarding=1"
        for name in (l3, *uplinks)
        if _sysctl4(name, "forwarding") == "0"
    ]


def _reverse_path(
    query: RouteQuery,
    l3: str,
    pool4: list[IPv4Network],
    masquerade: bool,
    uplinks: list[str],
    routes4: list[RouteInfo],
) -> list[str]:
    lines = []
    index = _index_if_up(l3)
    ours = {(r.destination, r.prefixlen) for r in routes4 if r.oif_name == l3}
    for network in pool4:
        if (network.network_address.packed, network.prefixlen) not in ours:
            continue  # not set up yet
        pool = _first_host(network)
        if index and _is_filtered(query, pool, _destination(routes4, l3), l3, index):
            lines.append(_tap_line(query, network, pool, l3))
        if not masquerade:
            lines += [
                f"rp_filter: IPv4 packets for {network} that arrive on {uplink} are dropped, "
                "because rp_filter is strict there and the route back to their senders leads "
                f"through another interface; remedy: sysctl -w net.ipv4.conf.{uplink}.rp_filter=2"
                for uplink in uplinks
                if _rp_filter(uplink) == 1
                and (uplink_index := _index_if_up(uplink))
                and _is_filtered(query, _SOMEWHERE, pool, uplink, uplink_index)
            ]
    return lines


def _tap_line(query: RouteQuery, network: IPv4Network, pool: bytes, l3: str) -> str:
    back = query.route4(pool)
    way = f"through {back.oif_name}" if back is not None else "nowhere"
    return (
        f"rp_filter: IPv4 packets from {network} that arrive on {l3} are dropped, because "
        f"rp_filter is on and the route back leads {way}, not through {l3}; remedy: remove the "
        f"rule or route that overrides ours (ip route get {IPv4Address(pool)}), or "
        f"sysctl -w net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.{l3}.rp_filter=0"
    )


def _is_filtered(query: RouteQuery, src4: bytes, dst4: bytes, device: str, index: int) -> bool:
    """Whether the kernel would drop such a packet for its source address."""
    return bool(_rp_filter(device)) and query.input_error4(src4, dst4, index) in _FILTERED


def _rp_filter(device: str) -> int:
    """The effective mode: the larger of two values (0 off, 1 strict, 2 loose)."""
    values = (_sysctl4("all", "rp_filter"), _sysctl4(device, "rp_filter"))
    return max(int(value) if value.isdigit() else 0 for value in values)


def _destination(routes4: list[RouteInfo], l3: str) -> bytes:
    """An address that pool4's packets can be routed to."""
    ways = [r for r in routes4 if r.table == RT_TABLE_MAIN and r.oif_name != l3]
    if not ways or any(r.prefixlen == 0 for r in ways):
        return _SOMEWHERE
    return _first_host(IPv4Network((ways[0].destination, ways[0].prefixlen)))


def _first_host(network: IPv4Network) -> bytes:
    return network[0 if network.prefixlen > 30 else 1].packed


def _index_if_up(device: str) -> int:
    """The interface's index, 0 when it is missing or down: the kernel then answers nothing."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            request = struct.pack("16s16x", device.encode())
            reply = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
        up = struct.unpack_from("@H", reply, 16)[0] & _IFF_UP
        return socket.if_nametoindex(device) if up else 0
    except OSError:
        return 0


# Connection tracking


def connection_tracking(sessions_limit: int) -> list[str]:
    """Whether the kernel's table is too small for so many (0: no promise), or nearly full."""
    maximum = _number(_CONNTRACK / "nf_conntrack_max")
    if maximum is None:
        return []  # not loaded: nothing is masqueraded yet
    lines = []
    if 0 < maximum < sessions_limit:  # 0 means no limit
        lines.append(
            f"conntrack: net.netfilter.nf_conntrack_max is {maximum}, less than limits.sessions = "
            f"{sessions_limit}: beyond it the kernel drops new masqueraded sessions; remedy: "
            f"sysctl -w net.netfilter.nf_conntrack_max={sessions_limit} (in the host's first "
            f"network namespace), or limits.sessions = {maximum}"
        )
    count = _number(_CONNTRACK / "nf_conntrack_count")
    if count is not None and 0 < maximum * _NEARLY_FULL <= count:
        lines.append(
            f"conntrack: {count} of {maximum} connections (net.netfilter.nf_conntrack_max) are in "
            "use, mostly by others: new masqueraded sessions will be dropped soon; remedy: "
            f"sysctl -w net.netfilter.nf_conntrack_max={2 * max(maximum, sessions_limit)}"
        )
    return lines


def conntrack_drops() -> int:
    """Packets dropped since boot because the connection tracking table was full or had no memory.

    For the status of a running gateway: a number that grows while sessions are masqueraded names
    the cause. 0 where the kernel keeps no such count.
    """
    header, *processors = [line.split() for line in _read(_CONNTRACK_STATISTICS).splitlines()] or [
        []
    ]
    if "drop" not in header:
        return 0
    column = header.index("drop")
    return sum(int(row[column], 16) for row in processors if len(row) > column)


def _number(path: Path) -> int | None:
    text = _read(path)
    return int(text) if text.isdigit() else None


def _sysctl4(device: str, key: str) -> str:
    return _read(Path(f"/proc/sys/net/ipv4/conf/{device}/{key}"))


def _read(path: Path) -> str:
    """The file's text without surrounding space; "" when there is none."""
    try:
        return path.read_text("ascii", errors="replace").strip()
    except OSError:
        return ""
