"""Path MTU discovery through the translator, with MSS clamping off so that it has to work.

Small link on the IPv4 side (`narrow4`):

    client ══1500══ gateway ══1500══ r4a ──1400── r4b ══1500══ server

Small link on the IPv6 side (`narrow6`):

    client ══1500══ r6a ──1400── r6b ══1500══ gateway ══1500══ server

The ends never see the small link themselves. In the first picture what the client sends is
answered by r4a with ICMPv4 3/4, which the client must get as Packet Too Big with 20 more
bytes; in the second what the server sends is answered by r6b with Packet Too Big, which the
server must get as ICMPv4 3/4 with 20 bytes less.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.gateway_process import Gateway
from tests.e2e.namespaces import Lab, Namespace
from tests.e2e.servers import (
    HttpServer,
    sha256_of,
    start_capture,
    start_http,
    write_random_file,
)
from tests.e2e.topology import SERVER, SERVER4, Topology, line

SIZE = 5_000_000
Network = tuple[Topology, HttpServer]


def _network(module_lab: Lab, mtus6: tuple[int, ...], mtus4: tuple[int, ...]) -> Iterator[Network]:
    topology = line(module_lab, mtus6=mtus6, mtus4=mtus4)
    topology.route_prefix()
    gateway = Gateway(topology.gateway, "--mss-clamp", "off").start()
    yield topology, start_http(topology.server)
    gateway.stop_cleanly()


@pytest.fixture(scope="module")
def narrow4_network(module_lab: Lab) -> Iterator[Network]:
    yield from _network(module_lab, (1500,), (1500, 1400, 1500))


@pytest.fixture(scope="module")
def narrow6_network(module_lab: Lab) -> Iterator[Network]:
    yield from _network(module_lab, (1500, 1400, 1500), (1500,))


@pytest.fixture
def narrow4(narrow4_network: Network) -> Network:
    return _forgetful(narrow4_network)


@pytest.fixture
def narrow6(narrow6_network: Network) -> Network:
    return _forgetful(narrow6_network)


def _forgetful(network: Network) -> Network:
    """The network after every host has forgotten the path MTUs that it learnt."""
    topology, _ = network
    for host in (topology.client, topology.gateway, topology.server):
        host.ip("-6", "route", "flush", "cache")
        host.ip("-4", "route", "flush", "cache")
    return network


def learnt_mtu(host: Namespace, destination: str) -> int | None:
    """The path MTU that `host` has learnt towards an address, None when it has not."""
    match = re.search(r"\bmtu (\d+)", host.ip("route", "get", destination))
    return int(match.group(1)) if match else None


def download(network: Network) -> None:
    topology, http = network
    digest = write_random_file(http.folder / "down", SIZE)
    copy = topology.lab.new_file("copy")
    topology.client.run(
        *("curl", "-sS", "-m", "20", "-o", str(copy), f"http://[{SERVER}]:{http.port}/down")
    )
    assert sha256_of(copy) == digest


def upload(network: Network) -> None:
    topology, http = network
    source = topology.lab.new_file("source")
    digest = write_random_file(source, SIZE)
    topology.client.run(
        *("curl", "-sS", "-m", "20", "-T", str(source), f"http://[{SERVER}]:{http.port}/up")
    )
    assert sha256_of(http.folder / "up") == digest


def test_mss_is_left_alone(narrow4: Network) -> None:
    topology, http = narrow4
    at_client = start_capture(topology.client, "v6", "ip6 and tcp and ip6[53] & 18 == 18", count=1)
    topology.client.run("curl", "-sS", "-m", "5", f"http://[{SERVER}]:{http.port}/whoami")
    assert at_client.wait_for(r"mss (\d+)").group(1) == "1460"


def test_client_learns_the_small_ipv4_link(narrow4: Network) -> None:
    topology, _ = narrow4
    assert learnt_mtu(topology.client, SERVER) is None
    refused = topology.client.run(
        *("ping", "-n", "-M", "do", "-s", "1452", "-c", "1", "-W", "3", SERVER), check=False
    )
    assert "Packet too big: mtu=1420" in refused.out
    assert learnt_mtu(topology.client, SERVER) == 1420
    largest = topology.client.run("ping", "-n", "-M", "do", "-s", "1372", "-c", "1", SERVER)
    assert "1 received" in largest.out


def test_tracepath_finds_the_small_ipv4_link(narrow4: Network) -> None:
    topology, _ = narrow4
    assert "pmtu 1420" in topology.client.run("tracepath", "-6", "-n", SERVER).out


def test_upload_over_the_small_ipv4_link(narrow4: Network) -> None:
    upload(narrow4)
    assert learnt_mtu(narrow4[0].client, SERVER) == 1420


def test_download_over_the_small_ipv4_link(narrow4: Network) -> None:
    download(narrow4)


def test_server_learns_the_small_ipv6_link(narrow6: Network) -> None:
    topology, _ = narrow6
    assert learnt_mtu(topology.server, "192.0.2.254") is None
    download(narrow6)
    assert learnt_mtu(topology.server, "192.0.2.254") == 1380


def test_upload_over_the_small_ipv6_link(narrow6: Network) -> None:
    upload(narrow6)
    assert learnt_mtu(narrow6[0].client, SERVER) == 1400


def test_tracepath_finds_the_small_ipv6_link(narrow6: Network) -> None:
    topology, _ = narrow6
    assert "pmtu 1400" in topology.client.run("tracepath", "-6", "-n", SERVER).out


def test_server_learns_that_ipv6_headers_are_longer(narrow4: Network) -> None:
    """A reply of 1500 bytes with DF becomes 1520: the server is told 1480, and then it fits."""
    topology, _ = narrow4
    # Past the small link, so that the only obstacle is the longer header.
    code = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO\n"
        "s.bind(('203.0.113.2', 7001)); print('up', flush=True)\n"
        "while True:\n"
        "    data, peer = s.recvfrom(100)\n"
        "    try: s.sendto(bytes(int(data)), peer)\n"
        "    except OSError as error: print(error, flush=True)\n"
    )
    router = topology.routers4[0]
    responder = router.start(sys.executable, "-c", code, name="responder")
    responder.wait_for("up")
    ask = (
        "import socket, sys; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM);"
        " s.settimeout(2); s.sendto(sys.argv[1].encode(),"
        " ('fec0:0:0:ffff::203.0.113.2', 7001)); print(len(s.recv(2000)))"
    )
    first = topology.client.run(sys.executable, "-c", ask, "1472", check=False)
    assert "timed out" in first.err
    assert learnt_mtu(router, "203.0.113.1") == 1480
    assert topology.client.run(sys.executable, "-c", ask, "1452").out == "1452\n"
    responder.end()


def test_server4_is_where_it_should_be(narrow4: Network) -> None:
    """The picture is true: three IPv4 hops, and the gateway's own link is a wide one."""
    topology, _ = narrow4
    path = topology.gateway.run("tracepath", "-4", "-n", SERVER4).out
    assert re.search(r"pmtu 1400 hops 3", path)
