"""Static mappings: IPv4 hosts reach a server on the IPv6-only side.

client ──────── gateway ──────── r4a ──────── server
fd00:64::2      tap0             203.0.113.2  192.0.2.1
serves IPv6                                   asks for it over IPv4
"""

from __future__ import annotations

import re
import sys
from ipaddress import IPv6Address

from tests.e2e.conftest import StartGateway
from tests.e2e.namespaces import Lab, Namespace, Process
from tests.e2e.topology import BASE, CLIENT6, GATEWAY4, SERVER4, Topology, line

POOL = "198.51.100.8/29"
OWN4 = "198.51.100.9"
ASKING6 = str(IPv6Address(BASE + SERVER4))
# Answers each connection, and each datagram, with who asked.
SERVE = """
import selectors, socket, sys
port = int(sys.argv[1])
selector = selectors.DefaultSelector()
tcp = socket.create_server(("::", port), family=socket.AF_INET6)
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.bind(("::", port))
for one in (tcp, udp):
    selector.register(one, selectors.EVENT_READ)
print("up", flush=True)
while True:
    for key, _ in selector.select():
        if key.fileobj is tcp:
            connection, who = tcp.accept()
            with connection:
                connection.sendall(who[0].encode())
        else:
            _, who = udp.recvfrom(100)
            udp.sendto(who[0].encode(), who)
"""
ASK = """
import socket, sys
kind, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
if kind == "tcp":
    s = socket.create_connection((host, port), 2)
    print(s.getpeername()[0], s.makefile().read())
else:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.settimeout(2)
    s.sendto(b"who", (host, port))
    answer, who = s.recvfrom(100)
    print(who[0], answer.decode())
"""


def build(lab: Lab) -> Topology:
    topology = line(lab)
    topology.route_prefix()
    return topology


def serve(host: Namespace, port: int = 8080) -> Process:
    process = host.start(sys.executable, "-c", SERVE, str(port))
    process.wait_for("up")
    return process


def ask(host: Namespace, kind: str, address: str, port: int) -> list[str]:
    """Who answered, and whom the IPv6 server saw asking; nothing when nobody answers."""
    result = host.run(sys.executable, "-c", ASK, kind, address, str(port), check=False)
    return result.out.split()


def test_routed_pool4(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    topology.route_pool(POOL)
    serve(topology.client)
    static = f'static = ["tcp {OWN4}:80 -> [{CLIENT6}]:8080", "udp {OWN4}:80 -> [{CLIENT6}]:8080"]'
    gateway = start_gateway(topology.gateway, "--pool4", POOL, config=static + "\n")
    for kind in ("tcp", "udp"):
        assert ask(topology.server, kind, OWN4, 80) == [OWN4, ASKING6]
        assert ask(topology.server, kind, OWN4, 81) == []
        assert ask(topology.server, kind, GATEWAY4, 80) == []
    assert "tap64" not in topology.gateway.run("nft", "list", "ruleset").out
    gateway.configure("")
    position = gateway.reload()
    gateway.wait_for("re-read: static", after=position)
    assert ask(topology.server, "tcp", OWN4, 80) == []
    gateway.configure(static + "\n")
    position = gateway.reload()
    gateway.wait_for("re-read: static", after=position)
    assert ask(topology.server, "tcp", OWN4, 80) != []


def test_masqueraded_default_pool(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    serve(topology.client)
    target = f"-> [{CLIENT6}]:8080"
    static = f'static = ["tcp 192.0.0.6:80 {target}", "udp 192.0.0.6:80 {target}"]'
    gateway = start_gateway(topology.gateway, config=static + "\n")
    for kind in ("tcp", "udp"):
        # The connection's source is not touched: the server sees who asks.
        assert ask(topology.server, kind, GATEWAY4, 80) == [GATEWAY4, ASKING6]
    assert ask(topology.server, "tcp", GATEWAY4, 81) == []
    # What the clients begin goes on behind the same masquerade.
    topology.client.run("ping", "-n", "-c", "1", "-W", "2", BASE + SERVER4)

    gateway.configure(f'static = ["tcp 192.0.0.6:8888 {target}"]\n')
    position = gateway.reload()
    gateway.wait_for("re-read: static", after=position)
    assert ask(topology.server, "tcp", GATEWAY4, 80) == []
    assert ask(topology.server, "tcp", GATEWAY4, 8888)[0] == GATEWAY4
    gateway.stop_cleanly()
    assert "tap64" not in topology.gateway.run("nft", "list", "ruleset").out


def test_blocks_are_logged(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    topology.route_pool(POOL)
    config = "port_block_size = 256\n[timeouts]\nicmp_default = 1\n"
    gateway = start_gateway(topology.gateway, "--pool4", POOL, config=config)
    topology.client.run("ping", "-n", "-c", "1", "-W", "2", BASE + SERVER4)
    where = rf"block: {CLIENT6} -> 198\.51\.100\.\d+ icmp \d+-\d+"
    line_ = gateway.wait_for(rf"{where} assigned")
    gateway.wait_for(re.escape(line_.replace("assigned", "released")), 5)
