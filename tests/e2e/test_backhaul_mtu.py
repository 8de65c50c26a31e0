"""The tunnel's MTU: 1400, smaller than every other link; 9000, with other links to match.

client ───── gateway ══ ssh, MTU of the test ══ peer ───── server

No packet is too big for a client in silence: whoever sends too much learns of it, and TCP's
segments fit without learning.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest

from tests.e2e.backhaul_net import BackhaulGateway, BackhaulNet, backhaul_net
from tests.e2e.namespaces import Lab
from tests.e2e.servers import sha256_of, start_capture, start_http, write_random_file
from tests.e2e.topology import SERVER, SERVER4

TEN_MB = 10_000_000

# Sends back a datagram of the asked size, without fragments, until told of a smaller path.
UDP_ECHO = f"""
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("{SERVER4}", 7010))
s.setsockopt(socket.IPPROTO_IP, 10, 2)  # IP_MTU_DISCOVER, IP_PMTUDISC_DO
print("up", flush=True)
while True:
    try:
        data, peer = s.recvfrom(100)
        s.sendto(bytes(int(data)), peer)
        print("sent", int(data), flush=True)
    except OSError as error:
        print("refused", error.errno, flush=True)
"""


@pytest.fixture(scope="module", params=[1400, 9000])
def tunnel(
    request: pytest.FixtureRequest, module_lab: Lab
) -> Iterator[tuple[BackhaulNet, BackhaulGateway, int]]:
    mtu = request.param
    net = backhaul_net(module_lab, mtu=max(1500, mtu))
    net.peer.start_sshd()
    before = net.peer.before()
    gateway = BackhaulGateway(net, "--mtu", str(max(1500, mtu)), mtu=mtu)
    gateway.start_up()
    yield net, gateway, mtu
    gateway.stop_cleanly()
    net.peer.wait_untouched(before, 2)


Tunnel = tuple[BackhaulNet, BackhaulGateway, int]


def test_both_ends_have_it(tunnel: Tunnel) -> None:
    net, gateway, mtu = tunnel
    local, _, remote = gateway.backhaul().split(",")[2].partition(":")
    assert f"mtu {mtu} " in net.gateway.ip("link", "show", "dev", local)
    assert f"mtu {mtu} " in net.peer.namespace.ip("link", "show", "dev", remote)


def test_largest_packet_passes_and_a_larger_one_is_told(tunnel: Tunnel) -> None:
    net, _, mtu = tunnel
    # An IPv6 header is 20 bytes longer than an IPv4 one, so the client may send 20 more, if
    # its own link lets it.
    largest = min(mtu + 20, max(1500, mtu))
    ping = ("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", "-M", "do", "-s")
    assert "2 received" in net.client.run(*ping, str(largest - 48), SERVER).out
    result = net.client.run(*ping, str(largest - 47), SERVER, check=False)
    assert re.search(rf"[mM]essage too long|Packet too big.*mtu.?=? ?{largest}", result.text)
    assert re.search(rf"mtu[:=]? ?{largest}\b", result.text), result.text


def test_tracepath_finds_it(tunnel: Tunnel) -> None:
    net, _, mtu = tunnel
    result = net.client.run("tracepath", "-6", "-n", "-m", "8", SERVER, check=False)
    assert re.search(rf"Resume: pmtu {min(mtu + 20, max(1500, mtu))}\b", result.out), result.out


def test_segments_fit(tunnel: Tunnel) -> None:
    net, _, mtu = tunnel
    http = start_http(net.server)
    down = write_random_file(http.folder / "down", TEN_MB)
    copy = net.lab.new_file("copy")
    # What IPv4 and TCP headers leave of the tunnel, IPv6 and TCP headers of the client's link.
    wanted = min(mtu - 40, max(1500, mtu) - 60)
    at_server = start_capture(
        net.server, "pa", "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn", count=1
    )
    at_client = start_capture(net.client, "v6", "ip6 and tcp and ip6[53] & 18 == 18", count=1)
    url = f"http://[{SERVER}]:{http.port}"
    net.client.run("curl", "-sS", "-m", "20", "-o", str(copy), f"{url}/down")
    assert sha256_of(copy) == down
    assert at_server.wait_for(r"mss (\d+)").group(1) == str(wanted)
    assert at_client.wait_for(r"mss (\d+)").group(1) == str(wanted)
    net.client.run("curl", "-sS", "-m", "20", "-T", str(copy), f"{url}/up")
    assert sha256_of(http.folder / "up") == down
    http.process.end()


def test_server_that_sends_too_much_is_told(tunnel: Tunnel) -> None:
    net, _, mtu = tunnel
    # With 9000 the client's own link is as narrow, and IPv6's header is the longer one.
    limit = mtu - 48 if mtu > 1500 else mtu - 28
    echo = net.server.start(sys.executable, "-c", UDP_ECHO, name="echo")
    echo.wait_for("up")
    code = (
        "import socket, sys, time\n"
        "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.settimeout(0.5)\n"
        f"s.connect(('{SERVER}', 7010))\n"
        "for size in map(int, sys.argv[1:]):\n"
        "    got = 0\n"
        "    for _ in range(6):\n"
        "        s.send(str(size).encode())\n"
        "        try: got = len(s.recv(20000)); break\n"
        "        except TimeoutError: pass\n"
        "    print(size, got, flush=True)\n"
    )
    fits, too_big = net.client.run(
        sys.executable, "-c", code, str(limit), str(limit + 1)
    ).out.splitlines()
    assert fits == f"{limit} {limit}"
    assert too_big == f"{limit + 1} 0"
    echo.wait_for("refused 90")  # EMSGSIZE: the router's answer has arrived
    echo.end()
