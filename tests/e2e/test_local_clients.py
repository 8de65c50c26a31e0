"""Clients that no router stands before: the gateway host itself, and link-local ones.

Host alone, its only IPv6 address being the link-local one of tap0:

    gateway (fe80::1 on tap0) ──────── server

A bridge that contains the tap; the clients have link-local addresses only and send straight
to fe80::5, since Linux would not route them:

    client  ─── port0 ┐
    client1 ─── port1 ┼ br0 ┼ tap0     gateway ──────── server
"""

from __future__ import annotations

import re

from tests.e2e.conftest import StartGateway
from tests.e2e.namespaces import Lab, Namespace
from tests.e2e.servers import start_capture, start_http
from tests.e2e.topology import (
    BASE,
    GATEWAY4,
    PREFIX,
    SERVER,
    bridge,
    gateway_host,
    line,
)


def whoami(host: Namespace, port: int) -> str:
    """The address under which the server sees `host`."""
    return host.run("curl", "-sS", "-m", "5", f"http://[{SERVER}]:{port}/whoami").out.split()[0]


def test_host_whose_only_address_is_link_local_on_the_tap(
    lab: Lab, start_gateway: StartGateway
) -> None:
    topology = line(lab)
    topology.gateway.ip("link", "set", "v6", "down")
    http = start_http(topology.server)
    start_gateway(topology.gateway)
    addresses = topology.gateway.ip("-6", "addr", "show", "scope", "global")
    assert "inet6" not in addresses
    topology.gateway.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", SERVER)
    assert whoami(topology.gateway, http.port) == GATEWAY4


def test_link_local_clients_on_a_bridge_with_the_tap(lab: Lab, start_gateway: StartGateway) -> None:
    topology = bridge(lab, clients=2)
    http = start_http(topology.server)
    gateway = start_gateway(topology.gateway, "--tap", "tap0")
    clients = [namespace for namespace in lab.namespaces if namespace.role.startswith("client")]
    for client in clients:
        client.ip("-6", "route", "add", PREFIX, "via", "fe80::5", "dev", "v6")
        assert "inet6" not in client.ip("-6", "addr", "show", "scope", "global")
        # 64 less one hop of the host and one of the translator: answers come straight from
        # fe80::5 and not by way of the host's own forwarding.
        ping = client.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", SERVER)
        assert "ttl=62" in ping.out
        answers = start_capture(client, "v6", f"src {SERVER} and tcp", count=3)
        assert whoami(client, http.port) == "192.0.2.254"
        answers.wait_for("3 packets captured", 5)
        assert answers.log().count("hlim 62,") == 3
    # Each answer goes to the client it is for, as a bridge would deliver it, not to all.
    at_other = start_capture(clients[1], "v6", "icmp6 and ip6[40] == 129", count=1)
    clients[0].run("ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", SERVER)
    assert "echo reply" not in at_other.log()
    # The layer-3 side is the bridge.
    route = topology.gateway.ip("-6", "route", "show", PREFIX)
    assert re.match(r"fec0:0:0:ffff::/64 via fe80::5 dev br0\b", route)
    topology.gateway.run("ping", "-n", "-c", "1", "-W", "2", SERVER)
    gateway.stop_cleanly()
    assert PREFIX not in topology.gateway.ip("-6", "route", "show")
    assert "tap0" in topology.gateway.ip("link", "show", "master", "br0")


def test_routed_client_behind_the_bridge(lab: Lab, start_gateway: StartGateway) -> None:
    topology = bridge(lab)
    topology.gateway.ip("addr", "add", "fd00:64::1/64", "dev", "br0", "nodad")
    topology.client.ip("addr", "add", "fd00:64::2/64", "dev", "v6", "nodad")
    start_gateway(topology.gateway, "--tap", "tap0")
    topology.client.ip("-6", "route", "add", PREFIX, "via", "fd00:64::1")
    topology.client.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", SERVER)


def test_link_local_client_of_another_link_is_not_forwarded_by_linux(
    lab: Lab, start_gateway: StartGateway
) -> None:
    """What the documentation says about it is true: the kernel answers beyond scope."""
    topology = line(lab)
    topology.client.ip("addr", "flush", "dev", "v6", "scope", "global")
    near = topology.gateway.ip("-6", "addr", "show", "dev", "v6", "scope", "link")
    router = near.split("inet6 ")[1].split("/")[0]
    topology.client.ip("-6", "route", "add", PREFIX, "via", router, "dev", "v6")
    start_gateway(topology.gateway)
    result = topology.client.run("ping", "-n", "-c", "1", "-W", "2", SERVER, check=False)
    assert "Beyond scope of source" in result.out


def test_dual_stack_host_without_any_ipv6_link(lab: Lab, start_gateway: StartGateway) -> None:
    gateway = gateway_host(lab)
    server = lab.namespace("server")
    lab.link(gateway, "v4", server, "v4", 1500)
    gateway.ip("addr", "add", "192.0.2.254/24", "dev", "v4")
    server.ip("addr", "add", "192.0.2.1/24", "dev", "v4")
    start_gateway(gateway)
    gateway.run("ping", "-n", "-c", "1", "-W", "2", f"{BASE}192.0.2.1")
