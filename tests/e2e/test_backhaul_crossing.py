"""What people do through a gateway that has no IPv4 at all, across an ssh tunnel to a peer.

    client ──────── gateway ══════ ssh, Ethernet ══════ peer ──────── server
    IPv6 only       IPv6 only                           203.0.113.2   192.0.2.1, IPv4 only

Other taps are there before it on both sides, so that the numbers differ and none can be guessed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.e2e.backhaul_net import PEER4, BackhaulGateway, BackhaulNet, backhaul_net
from tests.e2e.namespaces import Lab
from tests.e2e.servers import (
    HttpServer,
    sha256_of,
    start_capture,
    start_dns,
    start_http,
    start_sshd,
    write_random_file,
)
from tests.e2e.topology import CLIENT6, GATEWAY6, OWN_ADDRESS, SERVER, SERVER4

HUNDRED_MB = 100_000_000

Crossing = tuple[BackhaulNet, BackhaulGateway]


@pytest.fixture(scope="module")
def crossing(module_lab: Lab) -> Iterator[Crossing]:
    net = backhaul_net(module_lab)
    net.peer.start_sshd()
    for name in ("tap1", "tap3"):
        net.gateway.run("ip", "tuntap", "add", name, "mode", "tap")
    for name in ("tap0", "tap1", "tap2"):
        net.peer.run("ip", "tuntap", "add", name, "mode", "tap")
    before = net.peer.before()
    gateway = BackhaulGateway(net)
    gateway.start_up()
    yield net, gateway
    gateway.stop_cleanly()
    net.peer.wait_untouched(before, 2)


@pytest.fixture(scope="module")
def http(crossing: Crossing) -> HttpServer:
    return start_http(crossing[0].server)


def test_gateway_has_no_ipv4_of_its_own(crossing: Crossing) -> None:
    net, _ = crossing
    held = re.findall(r"inet (\S+) .*scope global", net.gateway.ip("-4", "addr"))
    assert held == []
    assert "inet " not in net.client.ip("-4", "addr", "show", "dev", "v6")
    # Only the table of ours has a way out, and only for the pool.
    assert "default" not in net.gateway.ip("-4", "route", "show", "table", "main")


def test_ping(crossing: Crossing) -> None:
    net, _ = crossing
    result = net.client.run("ping", "-n", "-c", "5", "-i", "0.1", "-W", "2", SERVER)
    assert "5 received" in result.out
    assert f"bytes from {ip_address(SERVER)}" in result.out


def test_ping_in_fragments(crossing: Crossing) -> None:
    net, _ = crossing
    net.client.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", "-s", "4000", SERVER)


def test_ping_from_the_gateway_itself(crossing: Crossing) -> None:
    net, _ = crossing
    net.gateway.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", SERVER)


def test_download_of_100_mb_arrives_unchanged(crossing: Crossing, http: HttpServer) -> None:
    net, _ = crossing
    digest = write_random_file(http.folder / "down", HUNDRED_MB)
    copy = net.lab.new_file("copy")
    net.client.run(
        *("curl", "-sS", "-m", "50", "-o", str(copy)),
        f"http://[{SERVER}]:{http.port}/down",
        timeout=55,
    )
    assert sha256_of(copy) == digest
    copy.unlink()


def test_upload_of_100_mb_arrives_unchanged(crossing: Crossing, http: HttpServer) -> None:
    net, _ = crossing
    source = net.lab.new_file("up")
    digest = write_random_file(source, HUNDRED_MB)
    net.client.run(
        *("curl", "-sS", "-m", "50", "-T", str(source)),
        f"http://[{SERVER}]:{http.port}/up",
        timeout=55,
    )
    assert sha256_of(http.folder / "up") == digest
    source.unlink()


def test_server_sees_the_peers_own_address(crossing: Crossing, http: HttpServer) -> None:
    net, _ = crossing
    seen = net.client.run("curl", "-sS", "-m", "5", f"http://[{SERVER}]:{http.port}/whoami")
    assert seen.out.split()[0] == PEER4["a"]


def test_dns_over_udp_and_tcp(crossing: Crossing) -> None:
    net, _ = crossing
    start_dns(net.server, SERVER4)
    ask = ("dig", "+tries=1", "+time=3", "+short", f"@{SERVER}")
    for transport in ("+notcp", "+tcp"):
        answer = net.client.run(*ask, transport, "www.example.test", "A")
        assert answer.out.strip() == "198.51.100.80"
        big = net.client.run(*ask, transport, "+bufsize=1400", "+ignore", "big.example.test", "TXT")
        assert len(big.out) > 1000


def test_ssh_login_through_the_ssh_tunnel(crossing: Crossing) -> None:
    net, _ = crossing
    result = start_sshd(net.server, SERVER4).login(net.client, SERVER, "echo $SSH_CONNECTION")
    client, _, server, _ = result.out.split()
    assert (client, server) == (PEER4["a"], SERVER4)


def test_traceroute_shows_the_way(crossing: Crossing) -> None:
    """The gateway as IPv6 router, as translator, as IPv4 router; the peer; the server.

    The link's addresses are link-local (RFC 3927), which no IPv6 client could ask back: in
    their place stands the translator's own.
    """
    net, _ = crossing
    result = net.client.run(
        "traceroute", "-6", "-n", "-q", "1", "-w", "2", "-z", "20", "-m", "8", SERVER
    )
    hops = [str(ip_address(hop)) for hop in re.findall(r"^ *\d+ +(\S+)  ", result.out, re.M)]
    own = str(ip_address(OWN_ADDRESS))
    assert hops == [GATEWAY6, own, own, own, str(ip_address(SERVER))], result.out


def test_names_of_both_devices_are_told_and_true(crossing: Crossing) -> None:
    net, gateway = crossing
    word = gateway.backhaul()
    found = re.fullmatch(r"up,root@peer-a,(tap\d+):(tap\d+)", word)
    assert found, word
    local, remote = found.groups()
    assert re.search(rf"\b{local}\b.*\b{remote}\b|\b{remote}\b.*\b{local}\b", gateway.log())
    # The numbers were taken on both sides.
    assert local not in ("tap0", "tap1", "tap3")
    assert remote not in ("tap0", "tap1", "tap2")
    # The local name is what ssh holds, the remote one what the pool's route leads to.
    held = [
        name
        for file in Path(f"/proc/{gateway.ssh_pid()}/fdinfo").iterdir()
        for name in re.findall(r"^iff:\s*(\S+)", file.read_text(), re.M)
    ]
    assert held == [local]
    assert f"dev {remote} " in net.peer.namespace.ip("route", "get", "192.0.0.6")
    # What was there before is still there, as it was.
    for name in ("tap1", "tap3"):
        assert "state DOWN" in net.gateway.ip("link", "show", "dev", name)


def test_one_ssh_process_and_one_session(crossing: Crossing) -> None:
    net, gateway = crossing
    gateway.ssh_pid()
    assert len(net.peer.processes(r"^sshd: root@notty")) == 1


def test_nobody_else_may_use_the_local_device(crossing: Crossing) -> None:
    """A persistent tap without an owner could be opened by every local user."""
    net, gateway = crossing
    local = gateway.backhaul().split(",")[2].partition(":")[0]
    shown = net.gateway.run("ip", "tuntap", "show").out
    assert re.search(rf"^{local}: tap\b.*\buser 0\b", shown, re.M), shown


def test_tap_says_nothing_of_its_own(crossing: Crossing) -> None:
    """No IPv6 address on either end, so neither router solicitations nor DAD in the tunnel."""
    net, gateway = crossing
    local, _, _ = gateway.backhaul().split(",")[2].partition(":")
    assert "inet6" not in net.gateway.ip("addr", "show", "dev", local)


def test_forwarding_is_on_only_where_it_is_needed(crossing: Crossing) -> None:
    net, gateway = crossing
    remote = gateway.backhaul().rpartition(":")[2]
    peer = net.peer.namespace
    assert peer.sysctl_value("net.ipv4.ip_forward") == "0"
    assert peer.sysctl_value(f"net.ipv4.conf.{remote}.forwarding") == "1"
    assert peer.sysctl_value("net.ipv4.conf.v4.forwarding") == "1"
    assert peer.sysctl_value("net.ipv4.conf.lo.forwarding") == "0"


def test_no_segment_is_too_big_for_the_tunnel(crossing: Crossing, http: HttpServer) -> None:
    net, _ = crossing
    at_server = start_capture(
        net.server, "pa", "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn", count=1
    )
    at_client = start_capture(net.client, "v6", "ip6 and tcp and ip6[53] & 18 == 18", count=1)
    net.client.run("curl", "-sS", "-m", "5", f"http://[{SERVER}]:{http.port}/whoami")
    assert at_server.wait_for(r"mss (\d+)").group(1) == "1440"
    assert at_client.wait_for(r"mss (\d+)").group(1) == "1440"


def test_closed_port_is_refused_at_once(crossing: Crossing) -> None:
    net, _ = crossing
    code = (
        "import socket\n"
        f"try: socket.create_connection(('{SERVER}', 9), 5)\n"
        "except ConnectionRefusedError: print('refused')"
    )
    assert net.client.run(sys.executable, "-c", code).out == "refused\n"


def test_fifty_connections_at_once(crossing: Crossing, http: HttpServer) -> None:
    net, _ = crossing
    code = (
        "import socket\n"
        f"s = [socket.create_connection(('{SERVER}', {http.port}), 10) for _ in range(50)]\n"
        "for c in s: c.sendall(b'GET /whoami HTTP/1.0\\r\\n\\r\\n')\n"
        "ports = {c.makefile('rb').read().split()[-1] for c in s}\n"
        "print(len(ports))"
    )
    assert net.client.run(sys.executable, "-c", code).out == "50\n"


def test_client_without_ipv4_really_has_none(crossing: Crossing) -> None:
    net, _ = crossing
    assert CLIENT6 in net.client.ip("-6", "addr", "show", "dev", "v6")
    assert net.client.ip("-4", "route", "show", "table", "all").count("\n") <= 3  # of lo
