"""What joins no train of datagrams (translate/datagram_trains.py).

The oracle is the same stream without trains: what comes out must be the same packets, whatever a
peer has written into the headers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.packet import Packet as Layers

from tests.unit.fakes import CLIENT6, POOL4, SERVER4, SERVER6, TAP, TUN, Wire
from tests.unit.test_data_plane import (
    Rig,
    complete_frame,
    datagrams,
    partial_frame,
    running,
    verified_frame,
)
from translate.checksum import ones_sum
from translate.datagram_trains import can_form
from translate.packets import GSO_UDP_L4
from translate.settings import Limits

pytestmark = pytest.mark.trio

# Frames of one stream come with these, each as long as the others.
PAYLOADS = [bytes((n,)) * 26 for n in range(1, 6)]
# Answers are the same in both runs, then.
NO_RATE = Limits(icmp_errors_per_second=1e9, icmp_errors_burst=1_000_000)


async def flow(rig: Rig, *, to_v4: bool) -> Layers:
    """Opens a UDP flow; the headers of its datagrams from one side."""
    client = IPv6(src=CLIENT6, dst=SERVER6, hlim=64) / UDP(sport=40000, dport=53)
    _, first = await rig.pass_on(client / b"first")
    if to_v4:
        return client
    return IP(src=SERVER4, dst=POOL4, flags="DF") / UDP(sport=53, dport=first[UDP].sport)


async def both_ways(streams: Callable[[Wire, Layers], list[list[bytes]]], *, to_v4: bool) -> int:
    """Asserts that each stream becomes the same packets with trains and without.

    Returns how many frames came out with trains.
    """
    outs: list[list[list[bytes]]] = []
    frames = 0
    for trains in (False, True):
        async with running(trains=trains, limits=NO_RATE) as rig:
            packet = await flow(rig, to_v4=to_v4)
            outs.append([])
            for stream in streams(rig.wire, packet):
                out = await rig.exchange(*stream)
                frames += len(out) * trains
                outs[-1].append(datagrams(rig, out))
            assert rig.counters.bugs == 0
    for plain, joined in zip(*outs, strict=True):
        assert joined == plain
    return frames


@pytest.mark.parametrize("to_v4", [True, False])
@pytest.mark.parametrize("frame", [partial_frame, verified_frame, complete_frame])
async def test_one_bit_of_the_headers_is_another(to_v4, frame):
    """In the first datagram that could join, and in one behind it, each bit in turn.

    But the kernel is believed where it says that it has verified a checksum.
    """
    believed = 2 if frame is verified_frame else 0

    def streams(link: Wire, packet: Layers) -> list[list[bytes]]:
        whole = [frame(link, packet, payload) for payload in PAYLOADS]
        changed = []
        for at in range(len(whole[0]) - 26 - believed):
            for bit in (0x01, 0x02, 0x10, 0x40, 0x80):
                for which in (1, 2):
                    stream = [bytearray(one) for one in whole]
                    stream[which][at] ^= bit
                    changed.append([bytes(one) for one in stream])
        return changed

    await both_ways(streams, to_v4=to_v4)


@pytest.mark.parametrize("frame", [partial_frame, verified_frame, complete_frame])
async def test_rfc6864_4_1_identifications_keep_no_datagram_out(frame):
    """An IPv4 sender counts; what the header says beside that is the same."""

    def streams(link: Wire, packet: Layers) -> list[list[bytes]]:
        return [
            [
                frame(link, IP(src=SERVER4, dst=POOL4, id=number) / packet[UDP], payload)
                for number, payload in zip((1, 0x1FE, 0xFF00, 7, 0xFFFF), PAYLOADS, strict=True)
            ]
        ]

    assert await both_ways(streams, to_v4=False) == 2


@pytest.mark.parametrize("to_v4", [True, False])
async def test_super_packets_ride_alone(to_v4):
    """Their sizes are not the size of a datagram."""

    def streams(link: Wire, packet: Layers) -> list[list[bytes]]:
        frames = []
        for payload in PAYLOADS:
            whole = bytearray(partial_frame(link, packet, payload * 100))
            ip = 20 if not to_v4 else 40
            size = link.frames.link_size
            vnet = struct.pack("=BBHHHH", 1, GSO_UDP_L4, size + ip + 8, 1300, size + ip, 6)
            whole[:10] = vnet
            frames.append(bytes(whole))
        return [frames]

    assert await both_ways(streams, to_v4=to_v4) == len(PAYLOADS)


def tcp(flags: str, dport: int = 0, *, to_v4: bool = True, seq: int = 0) -> Layers:
    """A segment from the client, or from the server."""
    if to_v4:
        segment = TCP(flags=flags, sport=40001, dport=80, seq=seq)
        return IPv6(src=CLIENT6, dst=SERVER6) / segment
    return IP(src=SERVER4, dst=POOL4) / TCP(flags=flags, sport=80, dport=dport, seq=seq)


def tcp_stream(link: Wire, dport: int, *, to_v4: bool, partial: bool) -> list[bytes]:
    """Segments whose sequence numbers look like the length and checksum of UDP."""
    frames = []
    for payload in PAYLOADS:
        data = bytearray(bytes(tcp("A", dport, to_v4=to_v4, seq=46 << 16) / payload))
        at = 40 if to_v4 else 20
        vnet = b"\2" + bytes(9)
        if partial:
            addresses = bytes(data[8:40] if to_v4 else data[12:20])
            total = ones_sum(addresses + bytes((0, 6)) + (46).to_bytes(2, "big"))
            data[at + 16 : at + 18] = total.to_bytes(2, "big")
            size = link.frames.link_size
            vnet = struct.pack("=BBHHHH", 1, 0, 0, 0, size + at, 16)
        frames.append(link.frame(IPv6(bytes(data)) if to_v4 else IP(bytes(data)), vnet=vnet))
    return frames


@pytest.mark.parametrize("to_v4", [True, False])
@pytest.mark.parametrize("partial", [True, False])
async def test_tcp_that_looks_like_udp(to_v4, partial):
    outs = []
    for trains in (False, True):
        async with running(trains=trains) as rig:
            _, syn = await rig.pass_on(tcp("S"))
            dport = syn[TCP].sport
            await rig.pass_on(tcp("SA", dport, to_v4=False))
            stream = tcp_stream(rig.wire, dport, to_v4=to_v4, partial=partial)
            outs.append(await rig.exchange(*stream))
            assert len(outs[-1]) == rig.counters.fast_packets == len(PAYLOADS)
    assert outs[0] == outs[1]


@pytest.mark.parametrize("to_v4", [True, False])
async def test_icmp_that_looks_like_udp(to_v4):
    """The identifier is where UDP has its length."""
    outs = []
    for trains in (False, True):
        async with running(trains=trains) as rig:
            echo = IPv6(src=CLIENT6, dst=SERVER6) / ICMPv6EchoRequest(id=34, data=b"x")
            _, request = await rig.pass_on(echo)
            frames = []
            for payload in PAYLOADS:
                if to_v4:
                    layers = IPv6(src=CLIENT6, dst=SERVER6) / ICMPv6EchoRequest(
                        id=34, seq=9, data=payload
                    )
                else:
                    layers = (
                        IP(src=SERVER4, dst=POOL4)
                        / ICMP(type=0, id=request[ICMP].id, seq=9)
                        / payload
                    )
                frames.append(rig.wire.frame(layers, vnet=b"\2" + bytes(9)))
            outs.append(await rig.exchange(*frames))
            assert len(outs[-1]) == len(PAYLOADS)
    assert outs[0] == outs[1]


@pytest.mark.parametrize("kind", [TAP, TUN])
async def test_a_device_without_offloads_has_no_trains(kind):
    """There is no header in front of its frames that could say what a train is."""
    async with running(kind, trains=True) as rig:
        packet = await flow(rig, to_v4=True)
        frames = [rig.wire.frame(packet / payload) for payload in PAYLOADS]
        out = [rig.wire.parsed(frame)[1] for frame in await rig.exchange(*frames)]
        assert [bytes(layers[UDP].payload) for layers in out] == PAYLOADS


async def test_which_devices_take_trains():
    """Without either family's segmentation, or checksums, the kernel refuses a super-packet."""
    enough = frozenset({"csum", "uso4", "uso6"})
    assert can_form(enough)
    assert can_form(enough | {"tso4"})
    assert not any(can_form(enough - {one} | {"tso4"}) for one in enough)
