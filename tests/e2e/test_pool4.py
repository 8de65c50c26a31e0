"""A routed pool4: no masquerade, the server sees the pool's own addresses.

client ──────── gateway ──────── r4a ──────── server
                tap0             198.51.100.8/29 via 203.0.113.1
"""

from __future__ import annotations

import sys
from ipaddress import ip_address, ip_network

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import EXIT_HOST, Gateway
from tests.e2e.namespaces import Lab, Namespace
from tests.e2e.servers import start_http
from tests.e2e.snapshot import difference, snapshot
from tests.e2e.topology import GATEWAY4, SERVER, Topology, line

POOL = "198.51.100.8/29"


def build(lab: Lab, pool: str = POOL) -> Topology:
    topology = line(lab)
    topology.route_prefix()
    topology.route_pool(pool)
    return topology


def seen(host: Namespace, port: int, *options: str) -> tuple[str, int]:
    """Address and port under which the server sees `host`."""
    url = f"http://[{SERVER}]:{port}/whoami"
    address, source_port = host.run("curl", "-sS", "-m", "5", *options, url).out.split()
    return address, int(source_port)


def test_server_sees_an_address_of_the_pool(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    http = start_http(topology.server)
    before = snapshot(topology.gateway)
    gateway = start_gateway(topology.gateway, "--pool4", POOL)
    topology.client.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", SERVER)
    addresses = {seen(topology.client, http.port)[0] for _ in range(5)}
    # One client keeps one address (RFC 4787 REQ-2).
    assert len(addresses) == 1
    assert ip_address(addresses.pop()) in ip_network(POOL)
    assert "tap64" not in topology.gateway.run("nft", "list", "ruleset").out
    gateway.stop_cleanly()
    assert difference(before, snapshot(topology.gateway)) == ""


def test_port_is_kept_even_or_odd(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    http = start_http(topology.server)
    start_gateway(topology.gateway, "--pool4", POOL)
    for port in (40000, 40001):
        _, source_port = seen(topology.client, http.port, "--local-port", str(port))
        assert source_port % 2 == port % 2
    _, source_port = seen(topology.client, http.port, "--local-port", "1001")
    assert source_port < 1024


def test_range_of_ports(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    http = start_http(topology.server)
    start_gateway(topology.gateway, "--pool4", "198.51.100.8/32 50000-50009")
    for _ in range(5):
        address, port = seen(topology.client, http.port)
        assert address == "198.51.100.8"
        assert 50000 <= port <= 50009


def test_stranger_gets_nothing_from_the_pool(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    gateway = start_gateway(topology.gateway, "--pool4", POOL)
    result = topology.server.run("ping", "-n", "-c", "1", "-W", "1", "198.51.100.9", check=False)
    assert "1 received" not in result.out
    assert gateway.status().number("no-mapping") > 0


@pytest.mark.parametrize(
    ("filtering", "answered"), [("endpoint-independent", True), ("address-dependent", False)]
)
def test_third_party_enters_through_a_mapping(
    lab: Lab, start_gateway: StartGateway, filtering: str, answered: bool
) -> None:
    """RFC 6146 §3.5.1: who may use a UDP mapping that another host's traffic made."""
    topology = build(lab)
    start_gateway(
        topology.gateway, "--pool4", "198.51.100.8/32", config=f'filtering = "{filtering}"\n'
    )
    code = (
        "import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM);"
        f" s.sendto(b'open', ('{SERVER}', 7002)); print('open', flush=True);"
        " s.settimeout(20); print(s.recvfrom(100)[1][0], flush=True)"
    )
    listener = topology.server.start(
        sys.executable,
        "-c",
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        " s.bind(('192.0.2.1', 7002)); print('up', flush=True);"
        " print('from', *s.recvfrom(100)[1], flush=True)",
    )
    listener.wait_for("up")
    client = topology.client.start(sys.executable, "-c", code)
    address, port = listener.wait_for(r"from (\S+) (\d+)").groups()
    topology.routers4[0].run(
        sys.executable,
        "-c",
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM);"
        f" s.sendto(b'third', ('{address}', {port}))",
    )
    if answered:
        client.wait_for(f"^{ip_address('fec0:0:0:ffff::203.0.113.2')}$", 5)
    else:
        with pytest.raises(AssertionError):
            client.wait_for("203|cb00", 1)


def test_pool_that_is_in_use_on_an_interface_is_refused(lab: Lab) -> None:
    topology = build(lab)
    before = snapshot(topology.gateway)
    result = Gateway(topology.gateway, "--pool4", "203.0.113.0/30").run()
    assert result.status == EXIT_HOST
    assert "203.0.113.0/30" in result.err
    assert "v4" in result.err or GATEWAY4 in result.err
    assert "Traceback" not in result.err
    assert difference(before, snapshot(topology.gateway)) == ""


def test_routed_pool_can_be_masqueraded_on_request(lab: Lab, start_gateway: StartGateway) -> None:
    topology = line(lab)
    topology.route_prefix()
    http = start_http(topology.server)
    start_gateway(topology.gateway, "--pool4", "10.64.0.0/29", "--set", "masquerade=true")
    assert seen(topology.client, http.port)[0] == GATEWAY4
