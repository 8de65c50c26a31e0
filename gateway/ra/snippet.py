"""The same advertisement as a piece of other programs' configuration. Pure.

Two programs on one host must not send router advertisements on one link: they have one source
address, and hosts take the later one for the whole truth. Where radvd or systemd-networkd sends
them already, it is told what to add.
"""

from __future__ import annotations

from gateway.ra.messages import RouterAdvertisement


def radvd(interface: str, what: RouterAdvertisement) -> str:
    """What belongs inside `interface NAME { ... };` of radvd.conf. PREF64 needs radvd 2.20."""
    lines = [f"interface {interface}", "{", "    AdvSendAdvert on;"]
    if not what.router_lifetime:
        lines.append("    AdvDefaultLifetime 0;  # unless this host is the default router")
    for prefix in what.prefixes:
        lines.append(f"    prefix {prefix.prefix} {{ }};")
    for route in what.routes:
        lines.append(f"    route {route.prefix} {{ AdvRouteLifetime {route.lifetime}; }};")
    for dns in what.rdnss:
        servers = " ".join(map(str, dns.servers))
        lines.append(f"    RDNSS {servers} {{ AdvRDNSSLifetime {dns.lifetime}; }};")
    for item in what.pref64:
        lines.append(f"    nat64prefix {item.prefix} {{ AdvValidLifetime {item.lifetime}; }};")
    return "\n".join([*lines, "};"]) + "\n"


def networkd(interface: str, what: RouterAdvertisement) -> str:
    """The sections of a systemd.network(5) file. PREF64 needs systemd 255."""
    lines = ["[Match]", f"Name={interface}", "", "[Network]", "IPv6SendRA=yes", ""]
    lines.append("[IPv6SendRA]")
    if not what.router_lifetime:
        lines.append("RouterLifetimeSec=0")
    servers = [str(server) for dns in what.rdnss for server in dns.servers]
    if servers:
        lines += ["EmitDNS=yes", f"DNS={' '.join(servers)}"]
    for prefix in what.prefixes:
        lines += ["", "[IPv6Prefix]", f"Prefix={prefix.prefix}"]
    for route in what.routes:
        lines += ["", "[IPv6RoutePrefix]", f"Route={route.prefix}"]
        lines.append(f"LifetimeSec={route.lifetime}")
    for item in what.pref64:
        lines += ["", "[IPv6PREF64Prefix]", f"Prefix={item.prefix}"]
        lines.append(f"LifetimeSec={item.lifetime}")
    return "\n".join(lines) + "\n"
