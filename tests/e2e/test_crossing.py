"""What people do across a gateway that was started without any option.

    client ──────── gateway ──────── r4a ──────── server
    fd00:64::2      tap0             203.0.113.2  192.0.2.1
    IPv6 only       203.0.113.1                   IPv4 only

The client says `fec0:0:0:ffff::192.0.2.1`; the server sees 203.0.113.1.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from tests.e2e.gateway_process import Gateway
from tests.e2e.namespaces import Process
from tests.e2e.servers import (
    HTTP_PORT,
    HttpServer,
    sha256_of,
    start_capture,
    start_dns,
    start_http,
    start_iperf,
    start_sshd,
    write_random_file,
)
from tests.e2e.topology import (
    BASE,
    CLIENT6,
    DEFAULT_POOL,
    GATEWAY4,
    GATEWAY6,
    OWN_ADDRESS,
    SERVER,
    SERVER4,
    Topology,
)

SERVER_RFC6052 = "fec0:0:0:ffff:c0:2:100:0"
HUNDRED_MB = 100_000_000

Crossing = tuple[Topology, Gateway]


@pytest.fixture(scope="module")
def http(crossing: Crossing) -> Iterator[HttpServer]:
    server = start_http(crossing[0].server)
    yield server
    server.process.end()


def test_ping(crossing: Crossing) -> None:
    topology, _ = crossing
    result = topology.client.run("ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", SERVER)
    assert "3 received" in result.out
    assert f"bytes from {ip_address(SERVER)}" in result.out


def test_ping_of_every_length_of_an_echo(crossing: Crossing) -> None:
    topology, _ = crossing
    for size in (0, 1, 7, 56, 1231, 1232, 1233, 1451, 1452):
        topology.client.run("ping", "-n", "-c", "1", "-W", "2", "-s", str(size), SERVER)


def test_ping_of_the_gateways_own_address(crossing: Crossing) -> None:
    topology, _ = crossing
    result = topology.client.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", OWN_ADDRESS)
    assert "2 received" in result.out


def test_download_of_100_mb_arrives_unchanged(crossing: Crossing, http: HttpServer) -> None:
    topology, _ = crossing
    digest = write_random_file(http.folder / "down", HUNDRED_MB)
    copy = topology.lab.new_file("copy")
    topology.client.run(
        *("curl", "-sS", "-m", "40", "-o", str(copy)),
        f"http://[{SERVER}]:{HTTP_PORT}/down",
        timeout=45,
    )
    assert sha256_of(copy) == digest
    copy.unlink()


def test_upload_of_100_mb_arrives_unchanged(crossing: Crossing, http: HttpServer) -> None:
    topology, _ = crossing
    source = topology.lab.new_file("up")
    digest = write_random_file(source, HUNDRED_MB)
    topology.client.run(
        *("curl", "-sS", "-m", "40", "-T", str(source)),
        f"http://[{SERVER}]:{HTTP_PORT}/up",
        timeout=45,
    )
    assert sha256_of(http.folder / "up") == digest
    source.unlink()


def test_ssh_login_to_the_address_as_it_is_typed(crossing: Crossing) -> None:
    topology, _ = crossing
    sshd = start_sshd(topology.server, SERVER4)
    result = sshd.login(topology.client, "fec0:0:0:ffff::192.0.2.1", "echo $SSH_CONNECTION")
    client, _, server, port = result.out.split()
    assert (client, server, port) == (GATEWAY4, SERVER4, "22")
    sshd.process.end()


def test_server_sees_only_the_gateways_address(crossing: Crossing, http: HttpServer) -> None:
    topology, _ = crossing
    seen = topology.client.run("curl", "-sS", "-m", "5", f"http://[{SERVER}]:{http.port}/whoami")
    assert seen.out.split()[0] == GATEWAY4


def test_dns_over_udp_and_tcp(crossing: Crossing) -> None:
    topology, _ = crossing
    nsd = start_dns(topology.server, SERVER4)
    ask = ("dig", "+tries=1", "+time=3", "+short", f"@{SERVER}")
    for transport in ("+notcp", "+tcp"):
        answer = topology.client.run(*ask, transport, "www.example.test", "A")
        assert answer.out.strip() == "198.51.100.80"
        big = topology.client.run(
            *ask, transport, "+bufsize=1400", "+ignore", "big.example.test", "TXT"
        )
        assert len(big.out) > 1000
    nsd.end()


def test_traceroute_shows_the_gateway_and_ipv4_routers(crossing: Crossing) -> None:
    topology, _ = crossing
    result = topology.client.run(
        "traceroute", "-6", "-n", "-q", "1", "-w", "2", "-z", "20", "-m", "8", SERVER
    )
    hops = [str(ip_address(hop)) for hop in re.findall(r"^ *\d+ +(\S+)  ", result.out, re.M)]
    assert hops[0] == GATEWAY6, result.out
    assert hops[1] == str(ip_address(OWN_ADDRESS)), result.out
    assert str(ip_address(f"{BASE}203.0.113.2")) in hops, result.out
    assert hops[-1] == str(ip_address(SERVER)), result.out


@pytest.mark.parametrize("direction", [(), ("-R",)], ids=["up", "down"])
def test_iperf3_tcp(crossing: Crossing, direction: tuple[str, ...]) -> None:
    topology, _ = crossing
    iperf = start_iperf(topology.server)
    result = topology.client.run(
        "iperf3", "-c", SERVER, "-t", "2", "-P", "2", "-J", *direction, timeout=20
    )
    moved = json.loads(result.out)["end"]["sum_received"]["bytes"]
    assert moved > 20_000_000, result.out[-2000:]
    iperf.end()


@pytest.mark.parametrize("direction", [(), ("-R",)], ids=["up", "down"])
def test_iperf3_udp(crossing: Crossing, direction: tuple[str, ...]) -> None:
    topology, _ = crossing
    iperf = start_iperf(topology.server)
    result = topology.client.run(
        *("iperf3", "-u", "-b", "20M", "-l", "1200", "-c", SERVER, "-t", "2", "-J", *direction),
        timeout=20,
    )
    total = json.loads(result.out)["end"]["sum"]
    assert total["packets"] > 3000, result.out[-2000:]
    assert total["lost_packets"] < 0.05 * total["packets"], total
    iperf.end()


def test_both_layouts_of_a_64_at_once(crossing: Crossing, http: HttpServer) -> None:
    topology, _ = crossing
    for address in (SERVER, SERVER_RFC6052):
        ping = topology.client.run("ping", "-n", "-c", "1", "-W", "2", address)
        # The answer bears the form that was asked.
        assert f"bytes from {ip_address(address)}" in ping.out
    seen = topology.client.run(
        *("curl", "-sS", "-m", "5", "--parallel", "--parallel-immediate"),
        *(f"http://[{address}]:{http.port}/whoami" for address in (SERVER, SERVER_RFC6052)),
    )
    assert [line.split()[0] for line in seen.out.splitlines()] == [GATEWAY4, GATEWAY4]


UDP_RESPONDER = """
import socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("192.0.2.1", 7003))
print("up", flush=True)
while True:
    data, peer = s.recvfrom(2000)
    if data == b"burst":  # one super-packet, cut into datagrams by UDP_SEGMENT
        burst = b"".join(bytes([n]) * 1200 for n in range(40))
        s.sendmsg([burst], [(socket.IPPROTO_UDP, 103, struct.pack("H", 1200))], 0, peer)
    elif data == b"zero":  # SO_NO_CHECK
        s.setsockopt(socket.SOL_SOCKET, 11, 1)
        s.sendto(b"no checksum", peer)
        s.setsockopt(socket.SOL_SOCKET, 11, 0)
    else:
        print("got", len(data), len(set(data)), data[0], flush=True)
"""
UDP_CLIENT = f"""
import socket, struct
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.settimeout(3)
s.connect(("{SERVER}", 7003))
"""


@pytest.fixture(scope="module")
def udp_responder(crossing: Crossing) -> Process:
    responder = crossing[0].server.start(sys.executable, "-c", UDP_RESPONDER, name="udp")
    responder.wait_for("up")
    return responder


def test_udp_super_packets_arrive_as_their_datagrams(
    crossing: Crossing, udp_responder: Process
) -> None:
    """What one system call sent leaves the kernel as one packet of 48 kB (USO)."""
    topology, _ = crossing
    code = UDP_CLIENT + (
        "burst = b''.join(bytes([n]) * 1200 for n in range(40))\n"
        "s.sendmsg([burst], [(socket.IPPROTO_UDP, 103, struct.pack('H', 1200))])\n"
        "s.send(b'burst')\n"
        "print([s.recv(2000) for _ in range(40)] == [bytes([n]) * 1200 for n in range(40)])"
    )
    assert topology.client.run(sys.executable, "-c", code).out == "True\n"
    udp_responder.wait_for("got 1200 1 39", 3)
    got = [line for line in udp_responder.log().splitlines() if line.startswith("got")]
    assert got == [f"got 1200 1 {number}" for number in range(40)]


def test_udp_without_a_checksum_gets_one(crossing: Crossing, udp_responder: Process) -> None:
    """IPv6 receivers drop datagrams with a zero checksum (RFC 8200 §8.1)."""
    topology, _ = crossing
    code = UDP_CLIENT + "s.send(b'zero'); print(s.recv(100))"
    assert topology.client.run(sys.executable, "-c", code).out == "b'no checksum'\n"


def test_closed_udp_port_is_refused_at_once(crossing: Crossing) -> None:
    topology, _ = crossing
    code = (
        "import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM);"
        f" s.settimeout(5); s.connect(('{SERVER}', 9)); s.send(b'x');\n"
        "try: s.recv(1)\nexcept ConnectionRefusedError: print('refused')"
    )
    assert topology.client.run(sys.executable, "-c", code).out == "refused\n"


def test_closed_tcp_port_is_refused_at_once(crossing: Crossing) -> None:
    topology, _ = crossing
    code = (
        "import socket\n"
        f"try: socket.create_connection(('{SERVER}', 9), 5)\n"
        "except ConnectionRefusedError: print('refused')"
    )
    assert topology.client.run(sys.executable, "-c", code).out == "refused\n"


def test_host_that_is_not_there_is_unreachable(crossing: Crossing) -> None:
    topology, _ = crossing
    result = topology.client.run(
        "ping", "-n", "-c", "2", "-W", "5", f"{BASE}192.0.2.77", check=False
    )
    # The router's ICMPv4 3/1 comes as ICMPv6 1/0 (RFC 7915 §4.2), with its own address.
    assert f"From {ip_address(f'{BASE}203.0.113.2')}" in result.out
    assert "Destination unreachable: No route" in result.out


def test_connection_closed_by_one_side_still_carries_the_other(crossing: Crossing) -> None:
    topology, _ = crossing
    server_code = (
        f"import socket; l = socket.create_server(('{SERVER4}', 7000)); print('up', flush=True);"
        " c, _ = l.accept(); n = 0\n"
        "while d := c.recv(65536): n += len(d)\n"
        "c.sendall(b'z' * n); c.close()"
    )
    server = topology.server.start(sys.executable, "-c", server_code, name="half-close")
    server.wait_for("up")
    client_code = (
        f"import socket; s = socket.create_connection(('{SERVER}', 7000), 5);"
        " s.sendall(b'a' * 300000); s.shutdown(socket.SHUT_WR); n = 0\n"
        "while d := s.recv(65536): n += len(d)\n"
        "print(n)"
    )
    assert topology.client.run(sys.executable, "-c", client_code).out == "300000\n"
    assert server.wait(5) == 0


def test_two_hundred_connections_at_once(crossing: Crossing, http: HttpServer) -> None:
    topology, _ = crossing
    code = (
        "import socket\n"
        f"s = [socket.create_connection(('{SERVER}', {http.port}), 30) for _ in range(200)]\n"
        "for c in s: c.sendall(b'GET /whoami HTTP/1.0\\r\\n\\r\\n')\n"
        "ports = {c.makefile('rb').read().split()[-1] for c in s}\n"
        "print(len(ports))"
    )
    assert topology.client.run(sys.executable, "-c", code).out == "200\n"


def test_clients_on_the_gateway_host_itself(crossing: Crossing, http: HttpServer) -> None:
    topology, _ = crossing
    topology.gateway.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", SERVER)
    seen = topology.gateway.run("curl", "-sS", "-m", "5", f"http://[{SERVER}]:{http.port}/whoami")
    assert seen.out.split()[0] == GATEWAY4


def test_no_segment_of_either_side_is_too_big_for_the_other(
    crossing: Crossing, http: HttpServer
) -> None:
    topology, _ = crossing
    at_server = start_capture(
        topology.server, "v4", "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn", count=1
    )
    at_client = start_capture(topology.client, "v6", "ip6 and tcp and ip6[53] & 18 == 18", count=1)
    topology.client.run("curl", "-sS", "-m", "5", f"http://[{SERVER}]:{http.port}/whoami")
    # 1500 less an IPv6 and a TCP header, although the server's own link would take 1460.
    assert at_server.wait_for(r"mss (\d+)").group(1) == "1440"
    assert at_client.wait_for(r"mss (\d+)").group(1) == "1440"


@pytest.mark.parametrize(
    "address4",
    ["0.1.2.3", "127.0.0.1", "169.254.1.1", "224.0.0.1", "239.255.255.250", "240.0.0.1",
     "255.255.255.255"],
)  # fmt: skip
def test_destination_that_makes_no_sense_is_refused(crossing: Crossing, address4: str) -> None:
    topology, gateway = crossing
    before = gateway.status().number("destination-refused")
    result = topology.client.run("ping", "-n", "-c", "1", "-W", "3", BASE + address4, check=False)
    assert result.status != 0
    assert f"From {ip_address(OWN_ADDRESS)}" in result.out
    assert "Administratively prohibited" in result.out
    assert gateway.status().number("destination-refused") > before


def test_gateways_pool_is_no_way_into_the_host(crossing: Crossing) -> None:
    topology, _ = crossing
    result = topology.client.run(
        "curl", "-sS", "-m", "3", f"http://[{BASE}{DEFAULT_POOL}]:22/", check=False
    )
    assert result.status != 0
    ping = topology.client.run("ping", "-n", "-c", "1", "-W", "2", BASE + DEFAULT_POOL, check=False)
    assert "bytes from" not in ping.out


def test_route_and_addresses_are_those_that_ptrtd_made(crossing: Crossing) -> None:
    topology, _ = crossing
    route = topology.gateway.ip("-6", "route", "show", "fec0:0:0:ffff::/64")
    assert route.startswith("fec0:0:0:ffff::/64 via fe80::5 dev tap0 ")
    assert "inet6 fe80::1/64" in topology.gateway.ip("-6", "addr", "show", "dev", "tap0")
    assert re.search(r"<[^>]*\bUP\b[^>]*>", topology.gateway.ip("link", "show", "dev", "tap0"))


def test_own_link_local_answers_the_host(crossing: Crossing) -> None:
    topology, _ = crossing
    result = topology.gateway.run("ping", "-n", "-c", "1", "-W", "2", "fe80::5%tap0")
    assert "1 received" in result.out


def test_any_address_of_the_prefix_is_a_neighbour_when_the_route_is_on_link(
    crossing: Crossing,
) -> None:
    topology, _ = crossing
    host = f"{BASE}192.0.2.1/128"
    topology.gateway.ip("-6", "route", "add", host, "dev", "tap0")
    try:
        topology.client.run("ping", "-n", "-c", "1", "-W", "2", SERVER)
    finally:
        topology.gateway.ip("-6", "route", "del", host, "dev", "tap0")


def test_status_line(crossing: Crossing) -> None:
    topology, gateway = crossing
    topology.client.run("ping", "-n", "-c", "1", "-W", "2", SERVER)
    status = gateway.status()
    assert re.search(r"unit=0 flags=\(\S+\) type=tap mtu=1500 ", status.line)
    assert status.flags >= {"open", "running", "offload", "masquerade"}
    packets_in, errors_in = status.values["ipkts"].split("/")
    assert int(packets_in) > 0
    assert int(errors_in) == 0
    assert int(status.values["opkts"].split("/")[0]) > 0
    assert status.number("sessions") >= 1


def test_client_of_the_module_has_no_ipv4(crossing: Crossing) -> None:
    topology, _ = crossing
    assert "inet " not in topology.client.ip("-4", "addr", "show", "dev", "v6")
    assert CLIENT6 in topology.client.ip("-6", "addr", "show", "dev", "v6")
    assert "inet6" not in topology.server.ip("-6", "addr", "show")
