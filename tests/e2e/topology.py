"""The networks of the end-to-end tests.

`line` builds a row of hosts; routers (r6a, r6b, r4a, ...) appear when a side has more than
one link, and each link has its own MTU:

    client ──── (r6a ─ r6b) ──── gateway ──── r4a (─ r4b) ──── server
      │                         │       │                        │
      │ fd00:64:0:0::2          │ tap0  │ 203.0.113.1            │ 192.0.2.1
      │ IPv6 only               │ fe80::1                        │ IPv4 only
      │                         │                                │
      └ PREFIX via fd00:64:0:N::1                  default via 192.0.2.254 ┘

    IPv6 link i, counted from the client:  fd00:64:0:i::2 ── fd00:64:0:i::1
    IPv4 link j, counted from the gateway: 203.0.113.(4j+1) ── 203.0.113.(4j+2), all /30,
                                           but the last one:  192.0.2.254 ── 192.0.2.1/24

The device of every host that leads towards the client is `v6`, towards the server `v4`; in
a router the one nearer to the gateway is `in`, the other `out`.

`bridge` has clients with nothing but a link-local address on one link with the tap:

    client  fe80::…  ─── port1 ┐
    client2 fe80::…  ─── port2 ┼ br0 ┼ tap0      gateway ──── server
                               (all in the gateway's namespace)
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.e2e.namespaces import Lab, Namespace

PREFIX = "fec0:0:0:ffff::/64"
BASE = "fec0:0:0:ffff::"
SERVER4 = "192.0.2.1"
SERVER = BASE + SERVER4  # the address of the seeds' example, as a person types it
CLIENT6 = "fd00:64::2"
GATEWAY4 = "203.0.113.1"
GATEWAY6 = "fd00:64::1"
OWN_ADDRESS = BASE + "192.0.0.8"
DEFAULT_POOL = "192.0.0.6"


@dataclass
class Topology:
    """The hosts of one network; `routers6` from the client, `routers4` from the gateway on."""

    lab: Lab
    client: Namespace
    gateway: Namespace
    server: Namespace
    routers6: list[Namespace] = field(default_factory=list)
    routers4: list[Namespace] = field(default_factory=list)

    def route_prefix(self, prefix: str = PREFIX) -> None:
        """Sends `prefix` from the client and the IPv6 routers towards the gateway."""
        for index, host in enumerate([self.client, *self.routers6]):
            device = "v6" if index == 0 else "in"
            host.ip("-6", "route", "add", prefix, "via", f"fd00:64:0:{index:x}::1", "dev", device)

    def route_pool(self, pool: str) -> None:
        """Sends a routed pool4 from the IPv4 routers towards the gateway."""
        for index, router in enumerate(self.routers4):
            router.ip("route", "add", pool, "via", f"203.0.113.{4 * index + 1}")

    def server_address(self, address: str) -> None:
        """Gives the server one more IPv4 address; everything IPv4 leads there by default."""
        self.server.ip("addr", "add", f"{address}/32", "dev", "lo")


def line(
    lab: Lab, *, mtus6: tuple[int, ...] = (1500,), mtus4: tuple[int, ...] = (1500, 1500)
) -> Topology:
    """The row of hosts drawn above, with one link for each MTU on either side."""
    client = lab.namespace("client")
    routers6 = [lab.namespace(f"r6{'abcd'[n]}") for n in range(len(mtus6) - 1)]
    gateway = gateway_host(lab)
    routers4 = [lab.namespace(f"r4{'abcd'[n]}") for n in range(len(mtus4) - 1)]
    server = lab.namespace("server")
    for router in routers6:
        router.sysctl(ipv6__conf__all__forwarding=1)
    for router in routers4:
        router.sysctl(ipv4__ip_forward=1, ipv4__conf__all__rp_filter=0)
    server.sysctl(ipv6__conf__all__disable_ipv6=1)
    topology = Topology(lab, client, gateway, server, routers6, routers4)
    _build_ipv6_side(topology, mtus6)
    _build_ipv4_side(topology, mtus4)
    return topology


def bridge(lab: Lab, *, clients: int = 1) -> Topology:
    """Link-local clients on a bridge that contains the persistent, idle device tap0."""
    gateway = gateway_host(lab)
    server = lab.namespace("server")
    server.sysctl(ipv6__conf__all__disable_ipv6=1)
    hosts = [lab.namespace(f"client{n or ''}") for n in range(clients)]
    gateway.ip("link", "add", "br0", "type", "bridge")
    gateway.sysctl(ipv6__conf__br0__accept_dad=0)
    gateway.ip("tuntap", "add", "tap0", "mode", "tap")
    gateway.ip("link", "set", "tap0", "master", "br0")
    gateway.ip("link", "set", "tap0", "up")
    for number, client in enumerate(hosts):
        port = f"port{number}"
        lab.link(client, "v6", gateway, port, 1500)
        gateway.ip("link", "set", port, "master", "br0")
    gateway.ip("link", "set", "br0", "up")
    topology = Topology(lab, hosts[0], gateway, server)
    _build_ipv4_side(topology, (1500,))
    return topology


def gateway_host(lab: Lab) -> Namespace:
    """A namespace that is no router yet, whatever this machine's own settings are."""
    gateway = lab.namespace("gateway")
    gateway.sysctl(
        ipv4__ip_forward=0, ipv4__conf__all__rp_filter=0, ipv4__conf__default__rp_filter=0
    )
    return gateway


def _build_ipv6_side(topology: Topology, mtus: tuple[int, ...]) -> None:
    hosts = [topology.client, *topology.routers6, topology.gateway]
    last = len(mtus) - 1
    for index, mtu in enumerate(mtus):
        near, far = hosts[index], hosts[index + 1]
        near_name = "v6" if index == 0 else "in"
        far_name = "v6" if index == last else "out"
        topology.lab.link(near, near_name, far, far_name, mtu)
        near.ip("addr", "add", f"fd00:64:0:{index:x}::2/64", "dev", near_name, "nodad")
        far.ip("addr", "add", f"fd00:64:0:{index:x}::1/64", "dev", far_name, "nodad")
    for index, host in enumerate(hosts):
        # What lies behind the neighbour on either side.
        for other in range(len(mtus)):
            if other < index - 1:
                name = "v6" if index == last + 1 else "out"
                via = f"fd00:64:0:{index - 1:x}::2"
            elif other > index:
                name = "v6" if index == 0 else "in"
                via = f"fd00:64:0:{index:x}::1"
            else:
                continue
            host.ip("-6", "route", "add", f"fd00:64:0:{other:x}::/64", "via", via, "dev", name)


def _build_ipv4_side(topology: Topology, mtus: tuple[int, ...]) -> None:
    hosts = [topology.gateway, *topology.routers4, topology.server]
    last = len(mtus) - 1
    for index, mtu in enumerate(mtus):
        near, far = hosts[index], hosts[index + 1]
        near_name = "v4" if index == 0 else "out"
        far_name = "v4" if index == last else "in"
        topology.lab.link(near, near_name, far, far_name, mtu)
        if index == last:
            near4, far4, length = "192.0.2.254", SERVER4, 24
        else:
            near4, far4, length = f"203.0.113.{4 * index + 1}", f"203.0.113.{4 * index + 2}", 30
        near.ip("addr", "add", f"{near4}/{length}", "dev", near_name)
        far.ip("addr", "add", f"{far4}/{length}", "dev", far_name)
        near.ip("route", "add", "default", "via", far4)
        if index < last:
            # Nothing else behind the gateway is routed: what is not masqueraded gets no answer.
            far.ip("route", "add", "203.0.113.0/24", "via", near4)
    topology.server.ip("route", "add", "default", "via", "192.0.2.254")
