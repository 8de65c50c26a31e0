"""Datagrams that do not fit one packet, both ways, across a gateway without any option.

client ──────── gateway ──────── r4a ──────── server
fd00:64::2      tap0                          192.0.2.1
IPv6 only                                     IPv4 only
"""

from __future__ import annotations

import sys

import pytest

from tests.e2e.gateway_process import Gateway
from tests.e2e.topology import SERVER, Topology

Crossing = tuple[Topology, Gateway]

PORT = 7007
ECHO = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
if {without_checksum}:
    sock.setsockopt(socket.SOL_SOCKET, 11, 1)  # SO_NO_CHECK
sock.setsockopt(socket.SOL_IP, 10, 0)  # IP_MTU_DISCOVER: IP_PMTUDISC_DONT, fragments allowed
sock.bind(("0.0.0.0", {port}))
print("listening", flush=True)
while True:
    data, peer = sock.recvfrom(65536)
    sock.sendto(data[::-1], peer)
"""
ASK = """
import os, socket
sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
sock.settimeout(3)
sock.connect(("{server}", {port}))
for size in (100, 1452, 1453, 4000, 20000):
    data = os.urandom(size)
    sock.send(data)
    assert sock.recv(65536) == data[::-1], size
    print("crossed", size)
"""


@pytest.mark.parametrize("size", [1500, 3000, 60000])
def test_a_ping_in_fragments(crossing: Crossing, size: int) -> None:
    topology, _ = crossing
    command = ["ping", "-n", "-c", "2", "-i", "0.2", "-W", "3", "-s", str(size), SERVER]
    assert " 0% packet loss" in topology.client.run(*command).text


@pytest.mark.parametrize("without_checksum", [False, True])
def test_datagrams_in_fragments(crossing: Crossing, without_checksum: bool) -> None:
    topology, _ = crossing
    port = PORT + without_checksum
    echo = topology.server.start(
        sys.executable, "-c", ECHO.format(port=port, without_checksum=without_checksum)
    )
    try:
        echo.wait_for("listening")
        asked = topology.client.run(sys.executable, "-c", ASK.format(server=SERVER, port=port))
        assert asked.text.count("crossed") == 5
    finally:
        echo.end()
