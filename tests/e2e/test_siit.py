"""Stateless mode: explicit mappings, hairpin, the dynamic pool, and the map file.

    v6host fd00:64::2 = 198.51.100.2 ──┐
                                       gateway ──── r4a ──── v4host 192.0.2.1
    other  fd00:65::2 = 198.51.100.18 ─┘ tap0        │
                                        198.51.100.0/24 via 203.0.113.1

The IPv6 hosts have no IPv4, and v4host no IPv6. v6host sees v4host as fec0:0:0:ffff::192.0.2.1.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import EXIT_CONFIGURATION, EXIT_HOST, Gateway
from tests.e2e.namespaces import Lab, Namespace, wait_until
from tests.e2e.servers import sha256_of, start_http, write_random_file
from tests.e2e.snapshot import difference, snapshot
from tests.e2e.topology import BASE, CLIENT6, SERVER, SERVER4, Topology, line

OWN4 = "198.51.100.1"
V6HOST4, OTHER6, OTHER4 = "198.51.100.2", "fd00:65::2", "198.51.100.18"
MAP = f"{V6HOST4} {CLIENT6}\n198.51.100.16/28 fd00:65::/124  # a whole network\n"
SIZE = 20_000_000


def build(lab: Lab, *, mtus6: tuple[int, ...] = (1500,)) -> Topology:
    topology = line(lab, mtus6=mtus6)
    topology.route_prefix()
    topology.route_pool("198.51.100.0/24")
    return topology


def add_other(topology: Topology) -> Namespace:
    """One more IPv6 host, on a network of its own."""
    other = topology.lab.namespace("other")
    topology.lab.link(other, "v6", topology.gateway, "v6b", 1500)
    other.ip("addr", "add", f"{OTHER6}/64", "dev", "v6", "nodad")
    topology.gateway.ip("addr", "add", "fd00:65::1/64", "dev", "v6b", "nodad")
    other.ip("-6", "route", "add", "default", "via", "fd00:65::1")
    topology.client.ip("-6", "route", "add", "fd00:65::/64", "via", "fd00:64::1")
    return other


def config(lab: Lab, text: str = MAP, more: str = "") -> str:
    path = lab.new_file("siit.map")
    path.write_text(text)
    return f'mode = "siit"\n{more}\n[siit]\nmap = "{path}"\npool_state = "{lab.folder}/pool"\n'


Network = tuple[Topology, Gateway, Namespace]


@pytest.fixture(scope="module")
def network(module_lab: Lab) -> Iterator[Network]:
    topology = build(module_lab)
    other = add_other(topology)
    more = 'pool4 = ["198.51.100.0/24"]\nicmp4_source = "198.51.100.1"'
    gateway = Gateway(topology.gateway, config=config(module_lab, more=more)).start()
    yield topology, gateway, other
    gateway.stop_cleanly()


def seen_by(host: Namespace, url: str) -> str:
    """The address under which the server at the URL sees the host."""
    return (
        host.run("curl", "-sS", "-m", "5", f"{url}/whoami").out.split()[0].removeprefix("::ffff:")
    )


def test_an_ipv4_client_reaches_an_ipv6_only_server(network: Network) -> None:
    topology, _, _ = network
    http = start_http(topology.client, CLIENT6, 8081)
    digest = write_random_file(http.folder / "down", SIZE)
    url = f"http://{V6HOST4}:{http.port}"
    assert ip_address(seen_by(topology.server, url)) == ip_address(SERVER)
    copy = topology.lab.new_file("copy")
    topology.server.run("curl", "-sS", "-m", "30", "-o", str(copy), f"{url}/down")
    assert sha256_of(copy) == digest
    topology.server.run("curl", "-sS", "-m", "30", "-T", str(copy), f"{url}/up")
    assert sha256_of(http.folder / "up") == digest


def test_an_ipv6_client_is_seen_with_its_mapped_address(network: Network) -> None:
    topology, gateway, other = network
    http = start_http(topology.server)
    digest = write_random_file(http.folder / "down", SIZE)
    url = f"http://[{SERVER}]:{http.port}"
    assert seen_by(topology.client, url) == V6HOST4
    assert seen_by(other, url) == OTHER4
    before = gateway.status()
    copy = topology.lab.new_file("copy")
    topology.client.run("curl", "-sS", "-m", "30", "-o", str(copy), f"{url}/down")
    assert sha256_of(copy) == digest
    after = gateway.status()
    assert after.number("fast") - before.number("fast") > SIZE / 65536
    assert after.values["mappings"] == "2"
    assert "pool" not in after.line


def test_ping_both_ways(network: Network) -> None:
    topology, _, _ = network
    ping = ("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2")
    assert "2 received" in topology.server.run(*ping, V6HOST4).out
    assert "2 received" in topology.client.run(*ping, SERVER).out
    assert "2 received" in topology.server.run(*ping, OWN4).out


def test_traceroute_both_ways(network: Network) -> None:
    topology, _, _ = network
    trace = ("traceroute", "-n", "-q", "1", "-w", "2", "-m", "8")
    there = topology.client.run(*trace[:1], "-6", *trace[1:], SERVER).out
    assert str(ip_address(SERVER)) in there
    assert str(ip_address(BASE + "203.0.113.2")) in there, "the IPv4 router, in the prefix"
    back = topology.server.run(*trace, V6HOST4).out
    assert V6HOST4 in back.splitlines()[-1]
    assert OWN4 in back, "the gateway itself"


def test_udp_both_ways(network: Network) -> None:
    topology, _, _ = network
    echo(topology.client, CLIENT6, topology.server, V6HOST4)
    echo(topology.server, SERVER4, topology.client, SERVER)


def echo(server: Namespace, own: str, client: Namespace, destination: str) -> None:
    """A datagram that needs fragments, and its answer."""
    listener = server.start(sys.executable, "-c", _ECHO, own, "7007", name="echo")
    listener.wait_for("up")
    client.run(sys.executable, "-c", _ASK, destination, "7007")
    listener.end()


_ECHO = """
import socket, sys
six = ":" in sys.argv[1]
s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
s.bind((sys.argv[1], int(sys.argv[2])))
print("up", flush=True)
while True:
    data, peer = s.recvfrom(70000)
    s.sendto(data[::-1], peer)
"""
_ASK = """
import socket, sys
six = ":" in sys.argv[1]
s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], int(sys.argv[2])))
for size in (1, 1200, 4000):
    data = bytes(n & 255 for n in range(size))
    for attempt in range(5):
        s.settimeout(2)
        s.send(data)
        try:
            assert s.recv(70000) == data[::-1]
            break
        except TimeoutError:
            continue
    else:
        sys.exit(f"no answer to {size} bytes")
"""


@pytest.mark.parametrize("protocol", [132, 253])
def test_other_protocols_pass(network: Network, protocol: int) -> None:
    """RFC 7915 §4.1, §5.1."""
    topology, _, _ = network
    for server, client, destination, source in (
        (topology.client, topology.server, V6HOST4, SERVER),
        (topology.server, topology.client, SERVER, V6HOST4),
    ):
        listener = server.start(
            sys.executable, "-c", _RAW_LISTEN, str(protocol), source, name="raw"
        )
        listener.wait_for("up")
        client.run(sys.executable, "-c", _RAW_SEND, str(protocol), destination)
        assert listener.wait_for(r"from (\S+) (\S+)").groups() == (
            str(ip_address(source)),
            b"hello, other protocols".hex(),
        )


_RAW_LISTEN = """
import socket, sys
six = ":" in sys.argv[2]
s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW, int(sys.argv[1]))
print("up", flush=True)
data, peer = s.recvfrom(70000)
print("from", peer[0], (data if six else data[20:]).hex(), flush=True)
"""
_RAW_SEND = """
import socket, sys
six = ":" in sys.argv[2]
s = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_RAW, int(sys.argv[1]))
s.sendto(b"hello, other protocols", (sys.argv[2], 0))
"""


def test_hairpin_between_two_mapped_hosts(network: Network) -> None:
    """RFC 7757 §4: each sees the other in the prefix."""
    topology, _, other = network
    http = start_http(topology.client, CLIENT6, 8082)
    url = f"http://[{BASE}{V6HOST4}]:{http.port}"
    assert ip_address(seen_by(other, url)) == ip_address(BASE + OTHER4)
    digest = write_random_file(http.folder / "down", 3_000_000)
    copy = topology.lab.new_file("copy")
    other.run("curl", "-sS", "-m", "20", "-o", str(copy), f"{url}/down")
    assert sha256_of(copy) == digest
    refused = other.run("curl", "-sS", "-m", "5", f"http://[{BASE}{V6HOST4}]:8099/", check=False)
    assert "refused" in refused.err or "Couldn't connect" in refused.err
    out = other.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", BASE + V6HOST4).out
    assert "2 received" in out


def test_an_address_that_is_nobodys(network: Network) -> None:
    topology, _, _ = network
    result = topology.server.run("ping", "-n", "-c", "1", "-W", "3", "198.51.100.40", check=False)
    assert "1 received" not in result.out
    assert "nreachable" in result.out
    result = topology.client.run(
        "ping", "-n", "-c", "1", "-W", "3", BASE + "198.51.100.40", check=False
    )
    assert "nreachable" in result.out


def test_path_mtu_of_the_ipv6_side(lab: Lab, start_gateway: StartGateway) -> None:
    """What v4host sends is told of as ICMPv4 3/4 with 20 bytes less."""
    topology = build(lab, mtus6=(1500, 1400, 1500))
    start_gateway(topology.gateway, "--mss-clamp", "off", config=config(lab))
    http = start_http(topology.client, CLIENT6)
    source = lab.new_file("source")
    digest = write_random_file(source, 3_000_000)
    topology.server.run(
        *("curl", "-sS", "-m", "20", "-T", str(source), f"http://{V6HOST4}:{http.port}/up")
    )
    assert sha256_of(http.folder / "up") == digest
    assert "mtu 1380" in topology.server.ip("route", "get", V6HOST4)


# -- the pool -------------------------------------------------------------------------------

POOL = 'pool = ["198.51.100.32/29"]\n'


def test_the_pool_is_kept_over_restarts(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    http = start_http(topology.server)
    url = f"http://[{SERVER}]:{http.port}"
    for number in (2, 3, 4):
        topology.client.ip("addr", "add", f"fd00:64::{number:x}0/64", "dev", "v6", "nodad")
    text = config(lab, "", "") + POOL
    gateway = start_gateway(topology.gateway, config=text)
    # Not in the order of addresses: what a hash would give anyway proves nothing.
    hosts = [f"fd00:64::{number:x}0" for number in (4, 2, 3)] + [CLIENT6]
    curl = ("curl", "-sS", "-m", "5", "--interface")

    def ask() -> dict[str, str]:
        return {
            host: topology.client.run(*curl, host, f"{url}/whoami").out.split()[0] for host in hosts
        }

    first = ask()
    assert len(set(first.values())) == 4
    assert all(address.startswith("198.51.100.3") for address in first.values())
    assert gateway.status().values["pool"] == "4/8"
    assert (
        "1 received"
        in topology.server.run(*("ping", "-n", "-c", "1", "-W", "2", first[CLIENT6])).out
    )
    gateway.stop_cleanly()
    hosts.reverse()
    start_gateway(topology.gateway, config=text)
    assert ask() == first


def test_pool_is_for_those_who_are_admitted(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    http = start_http(topology.server)
    start_gateway(topology.gateway, "--allow", "2001:db8::/32", config=config(lab) + POOL)
    url = f"http://[{SERVER}]:{http.port}"
    assert seen_by(topology.client, url) == V6HOST4, "mapped hosts are not asked"
    topology.client.ip("addr", "add", "fd00:64::20/64", "dev", "v6", "nodad")
    curl = ("curl", "-sS", "-m", "3", "--interface", "fd00:64::20", f"{url}/whoami")
    assert topology.client.run(*curl, check=False).status != 0


def test_a_pool_that_cannot_be_kept(lab: Lab) -> None:
    topology = build(lab)
    before = snapshot(topology.gateway)
    text = config(lab).replace(f"{lab.folder}/pool", "/proc/tap64/pool") + POOL
    result = Gateway(topology.gateway, config=text).run()
    assert result.status == EXIT_HOST
    assert "siit.pool_state: cannot write /proc/tap64/pool" in result.err
    assert "Traceback" not in result.err
    assert difference(before, snapshot(topology.gateway)) == ""


# -- the map file ---------------------------------------------------------------------------


def test_a_map_that_changes(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    topology.route_pool("203.0.113.128/25")
    http = start_http(topology.server)
    before = snapshot(topology.gateway)
    gateway = start_gateway(topology.gateway, config=config(lab))
    path = next(lab.folder.glob("*-siit.map"))
    url = f"http://[{SERVER}]:{http.port}"
    assert seen_by(topology.client, url) == V6HOST4
    path.write_text(f"203.0.113.129 {CLIENT6}\n{V6HOST4} fd00:64::99\n")
    gateway.wait_for("re-read: 2 mappings", after=gateway.reload())
    assert seen_by(topology.client, url) == "203.0.113.129"
    routes = [route["dst"] for route in json.loads(topology.gateway.ip("-j", "route"))]
    assert "203.0.113.129" in routes
    assert "198.51.100.16/28" not in routes
    # Each fault by its line; what is in force stays.
    path.write_text(f"{V6HOST4} {CLIENT6}\nnonsense\n{V6HOST4} fd00:64::5\n1.2.3.4/99 ::5\n")
    after = gateway.reload()
    gateway.wait_for("those in force stay", after=after)
    said = gateway.log()[after:]
    for number in (2, 3, 4):
        assert f"{path}:{number}: " in said
    assert seen_by(topology.client, url) == "203.0.113.129"
    gateway.stop_cleanly()
    assert difference(before, snapshot(topology.gateway)) == ""


def test_arp_follows_the_map(lab: Lab, start_gateway: StartGateway) -> None:
    """Who has the device on its link, such as a bridge, asks for the addresses themselves."""
    topology = build(lab)
    gateway = start_gateway(topology.gateway, config=config(lab))
    path = next(lab.folder.glob("*-siit.map"))

    def answered(*addresses: str) -> list[str]:
        out = topology.gateway.run(sys.executable, "-c", _WHO_HAS, "tap0", *addresses).out
        return out.split()

    old, new = V6HOST4, "203.0.113.129"
    assert answered(old, new) == [old]
    path.write_text(f"{new} {CLIENT6}\n")
    gateway.wait_for("re-read: 1 mappings", after=gateway.reload())
    assert answered(old, new) == [new]


# Asks for each address, then for the next hop, which is always answered, and in the same order.
_WHO_HAS = """
import socket, sys
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
raw.bind((sys.argv[1], 0x0806))
raw.settimeout(10)
mac, last = raw.getsockname()[4], socket.inet_aton("192.0.0.8")
for target in [*map(socket.inet_aton, sys.argv[2:]), last]:
    body = bytes.fromhex("0001080006040001") + mac + bytes([203, 0, 113, 1]) + bytes(6) + target
    raw.send(b"\\xff" * 6 + mac + b"\\x08\\x06" + body)
while True:
    frame = raw.recv(2000)
    if frame[20:22] != b"\\0\\2":
        continue
    if frame[28:32] == last:
        break
    print(socket.inet_ntoa(frame[28:32]))
"""


def test_the_well_known_prefix_is_explained(lab: Lab, start_gateway: StartGateway) -> None:
    """RFC 6052 §3.1: v4host has no global address, and is refused under 64:ff9b::/96."""
    topology = build(lab)
    more = 'prefix = ["64:ff9b::/96"]\nicmp6_source = "fd00:64::8"'
    gateway = start_gateway(topology.gateway, config=config(lab, more=more))
    topology.client.ip("-6", "route", "replace", "64:ff9b::/96", "via", "fd00:64::1")
    ping = ("ping", "-n", "-c", "1", "-W", "2", f"64:ff9b::{SERVER4}")
    told = topology.client.run(*ping, check=False).out
    assert "prohibited" in told
    gateway.wait_for("wkp_strict = false")


def test_a_route_that_is_there_already(lab: Lab, start_gateway: StartGateway) -> None:
    """It is told; everything else goes on."""
    topology = build(lab)
    http = start_http(topology.server)
    gateway = start_gateway(topology.gateway, config=config(lab))
    path = next(lab.folder.glob("*-siit.map"))
    topology.gateway.ip("route", "add", "203.0.113.200/32", "via", "203.0.113.2", "dev", "v4")
    before = snapshot(topology.gateway)
    path.write_text(MAP + "203.0.113.200 fd00:64::99\n203.0.113.202 fd00:64::98\n")
    after = gateway.reload()
    gateway.wait_for("re-read: 4 mappings", after=after)
    assert "203.0.113.200/32 via 192.0.0.8" in gateway.log()[after:]
    assert "there is one already" in gateway.log()[after:]
    assert seen_by(topology.client, f"http://[{SERVER}]:{http.port}") == V6HOST4
    path.write_text(MAP)
    gateway.wait_for("re-read: 2 mappings", after=gateway.reload())
    assert difference(before, snapshot(topology.gateway)) == "", "the route of others stays"


def test_simple_hairpin(lab: Lab, start_gateway: StartGateway) -> None:
    """RFC 7757 §4.2.1: by way of the kernel's IPv4 routes."""
    topology = build(lab)
    other = add_other(topology)
    text = config(lab) + 'hairpin = "simple"\n'
    start_gateway(topology.gateway, config=text)
    http = start_http(topology.client, CLIENT6)
    url = f"http://[{BASE}{V6HOST4}]:{http.port}"
    assert ip_address(seen_by(other, url)) == ip_address(BASE + OTHER4)


def test_what_would_be_done_is_printed(lab: Lab) -> None:
    topology = build(lab)
    before = snapshot(topology.gateway)
    result = Gateway(topology.gateway, config=config(lab)).run("--dry-run")
    assert result.status == 0, result.text
    assert "add route 198.51.100.16/28 via 192.0.0.8" in result.out
    assert "masquerade" not in result.out
    result = Gateway(topology.gateway, config=config(lab)).run("--check")
    assert "192.0.0.6" not in result.text
    assert difference(before, snapshot(topology.gateway)) == ""


def test_a_broken_map_at_start(lab: Lab) -> None:
    topology = build(lab)
    before = snapshot(topology.gateway)
    result = Gateway(topology.gateway, config=config(lab, "nonsense\n1.2.3.4 fd00::1/64\n")).run()
    assert result.status == EXIT_CONFIGURATION
    assert "siit.map:1: nonsense" in result.err
    assert "siit.map:2: " in result.err
    assert "Traceback" not in result.err
    assert difference(before, snapshot(topology.gateway)) == ""


def test_a_killed_run_is_undone(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    before = snapshot(topology.gateway)
    gateway = start_gateway(topology.gateway, config=config(lab))
    path = next(lab.folder.glob("*-siit.map"))
    path.write_text(f"{V6HOST4} {CLIENT6}\n203.0.113.200 fd00:64::99\n")
    gateway.wait_for("re-read: 2 mappings", after=gateway.reload())
    gateway.kill()
    wait_until(lambda: gateway.process.status is not None, 5, "it has ended")
    result = gateway.undo()
    assert result.status == 0, result.text
    assert difference(before, snapshot(topology.gateway)) == ""
