"""Frames that no sane host sends: none stops the gateway, and they are counted.

client ──────── gateway ──────── server
                tap0 ◄── a raw socket on the gateway host
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.all import (
    ICMP,
    IP,
    TCP,
    UDP,
    Ether,
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Raw,
)

from tests.e2e.gateway_process import Gateway
from tests.e2e.namespaces import Lab
from tests.e2e.topology import CLIENT6, DEFAULT_POOL, SERVER, SERVER4, Topology, line

PREFIX_BYTES = bytes.fromhex("fec000000000ffff")


@pytest.fixture(scope="module", params=["tap", "tun"])
def network(module_lab: Lab, request: pytest.FixtureRequest) -> Iterator[tuple[Topology, Gateway]]:
    topology = line(module_lab, mtus4=(1500,))
    topology.route_prefix()
    gateway = Gateway(topology.gateway, "--device", request.param).start()
    yield topology, gateway
    gateway.stop_cleanly()


def send(network: tuple[Topology, Gateway], frames: list[bytes]) -> None:
    """Sends them into the gateway; afterwards it must still translate."""
    topology, gateway = network
    device = "tap0" if "type=tap" in gateway.status().line else "tun0"
    if device == "tun0":
        frames = [frame[14:] for frame in frames if len(frame) > 14]
    script = str(Path(__file__).with_name("raw_frames.py"))
    lines = "\n".join(frame.hex() for frame in frames)
    sent = topology.gateway.run(sys.executable, script, device, stdin=lines)
    assert int(sent.out) > len(frames) // 2
    topology.client.run("ping", "-n", "-c", "1", "-W", "3", SERVER)
    assert gateway.process.status is None
    # Nothing raised out of the translator, not even into the one handler around a frame.
    assert gateway.status().number("bugs") == 0
    assert "Traceback" not in gateway.log()


def discarded(gateway: Gateway) -> int:
    """How many frames were read and not translated."""
    return int(gateway.status().values["opkts"].split("/")[1])


def valid_frames(gateway_mac: str) -> list[bytes]:
    """One of each kind that the translator knows, both families."""
    ether = Ether(dst=gateway_mac, src="02:00:00:00:00:01")
    six = IPv6(src=CLIENT6, dst=SERVER)
    four = IP(src=SERVER4, dst=DEFAULT_POOL)
    load = Raw(bytes(40))
    return [
        bytes(ether / packet)
        for packet in (
            six / TCP(sport=1234, dport=80, flags="S", options=[("MSS", 1440)]),
            six / UDP(sport=1234, dport=53) / load,
            six / ICMPv6EchoRequest(id=7, seq=1) / load,
            six / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2) / load,
            six / IPv6ExtHdrRouting(addresses=["2001:db8::1"]) / UDP(sport=1, dport=2),
            six / IPv6ExtHdrFragment(id=99, offset=0, m=1) / UDP(sport=1, dport=2) / load,
            six / ICMPv6DestUnreach() / IPv6(src=SERVER, dst=CLIENT6) / UDP() / load,
            four / TCP(sport=80, dport=1234, flags="SA"),
            four / UDP(sport=53, dport=1234) / load,
            four / ICMP(type=0, id=7, seq=1) / load,
            four / ICMP(type=3, code=3) / IP(src=DEFAULT_POOL, dst=SERVER4) / UDP() / load,
            IP(src=SERVER4, dst=DEFAULT_POOL, flags="MF") / UDP() / load,
        )
    ]


def gateway_mac(topology: Topology) -> str:
    entry = topology.gateway.ip("neigh", "show", "fe80::5")
    return entry.split("lladdr ")[1].split()[0] if "lladdr" in entry else "02:00:00:00:00:05"


def test_random_bytes(network: tuple[Topology, Gateway]) -> None:
    topology, gateway = network
    rng = random.Random(1)
    mac = bytes.fromhex(gateway_mac(topology).replace(":", ""))
    before = discarded(gateway)
    frames = []
    for _ in range(2000):
        ether_type = rng.choice([b"\x86\xdd", b"\x08\x00", b"\x08\x06", rng.randbytes(2)])
        head = mac + rng.randbytes(6) + ether_type
        body = bytearray(rng.randbytes(rng.randrange(0, 200)))
        if body and rng.random() < 0.7:
            body[0] = rng.choice([0x60, 0x45, 0x46, 0x4F])
        if len(body) > 40 and ether_type == b"\x86\xdd" and rng.random() < 0.7:
            body[4:6] = (len(body) - 40).to_bytes(2)
            body[24:32] = PREFIX_BYTES
        frames.append(head + bytes(body))
    send(network, frames)
    assert discarded(gateway) > before


def test_truncated_frames(network: tuple[Topology, Gateway]) -> None:
    topology, gateway = network
    before = discarded(gateway)
    frames = [
        frame[:length]
        for frame in valid_frames(gateway_mac(topology))
        for length in range(14, len(frame))
    ]
    send(network, frames)
    assert discarded(gateway) > before


def test_damaged_frames(network: tuple[Topology, Gateway]) -> None:
    """Valid frames with a few bytes changed behind the Ethernet header."""
    topology, gateway = network
    rng = random.Random(2)
    before = discarded(gateway)
    frames = []
    for frame in valid_frames(gateway_mac(topology)) * 100:
        damaged = bytearray(frame)
        for _ in range(rng.randrange(1, 4)):
            damaged[rng.randrange(14, len(damaged))] = rng.randrange(256)
        frames.append(bytes(damaged))
    send(network, frames)
    assert discarded(gateway) > before
