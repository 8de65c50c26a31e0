"""The loop, between a device whose other end the test holds and a real translator."""

from __future__ import annotations

import errno
import logging
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Network
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet as Layers

from gateway import data_plane
from gateway.data_plane import DataPlane, DeviceGone
from tests.unit.fakes import (
    CLIENT6,
    CLIENT_MAC,
    FORMATS,
    GATEWAY_MAC,
    HOST_MAC,
    OTHER_MAC,
    POOL4,
    SERVER4,
    SERVER6,
    TAP,
    TAP_VNET,
    TUN,
    TUN_VNET,
    FakeOs,
    Wire,
    checksums_hold,
    mac,
    make_neighbours,
    make_translator,
    udp4,
    udp6,
    wire,
)
from translate.checksum import ones_sum
from translate.packets import Packet
from translate.reasons import Reason
from translate.segments import split
from translate.settings import Timeouts

pytestmark = pytest.mark.trio


class Rig:
    """A running data plane on a wire."""

    def __init__(self, link: Wire, *, trains: bool = False, **settings) -> None:
        self.wire = link
        self.translator = make_translator(**settings)
        neighbours = make_neighbours() if link.frames.ethernet else None
        self.plane = DataPlane(link.fd, link.frames, self.translator, neighbours, trains=trains)
        self.counters = self.plane.counters

    async def exchange(self, *frames: bytes) -> list[bytes]:
        """What the gateway writes for these frames, once it has nothing left to do."""
        for frame in frames:
            self.wire.send(frame)
        await trio.testing.wait_all_tasks_blocked()
        return list(self.wire.received())

    async def pass_on(self, packet: Layers, **how) -> tuple[bytes, Layers]:
        """The one frame that comes out for an IP packet: vnet header, layers."""
        frames = await self.exchange(self.wire.frame(packet, **how))
        assert len(frames) == 1
        return self.wire.parsed(frames[0])


@asynccontextmanager
async def running(kind: str = TAP_VNET, *, trains: bool = False, **settings) -> AsyncIterator[Rig]:
    with wire(kind) as link:
        rig = Rig(link, trains=trains, **settings)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.plane.run)
            yield rig
            nursery.cancel_scope.cancel()


@pytest.fixture
def fake_os(monkeypatch: pytest.MonkeyPatch) -> FakeOs:
    fake = FakeOs()
    monkeypatch.setattr(data_plane, "os", fake)
    return fake


@pytest.fixture
def dev_mode(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    def switch(on: bool) -> None:
        stand_in = SimpleNamespace(flags=SimpleNamespace(dev_mode=on))
        monkeypatch.setattr(data_plane, "sys", stand_in)

    return switch


def assert_link(rig: Rig, vnet: bytes, layers: Layers, dst: str) -> None:
    assert vnet == (bytes(10) if rig.wire.frames.vnet else b"")
    if rig.wire.frames.ethernet:
        assert (layers.dst, layers.src) == (dst, GATEWAY_MAC)
        assert layers.type == (0x0800 if IP in layers else 0x86DD)


# -- translation --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
async def test_ping_through_the_gateway(kind):
    async with running(kind) as rig:
        echo = IPv6(src=CLIENT6, dst=SERVER6, hlim=64) / ICMPv6EchoRequest(id=99, seq=1, data=b"x")
        vnet, request = await rig.pass_on(echo)
        assert_link(rig, vnet, request, HOST_MAC)
        assert (request[IP].src, request[IP].dst, request[IP].ttl) == (POOL4, SERVER4, 63)
        assert (request[ICMP].type, request[ICMP].seq) == (8, 1)
        assert checksums_hold(request)

        reply = IP(src=SERVER4, dst=POOL4, ttl=50) / ICMP(type=0, id=request[ICMP].id, seq=1) / b"x"
        vnet, answer = await rig.pass_on(reply, src=HOST_MAC)
        assert_link(rig, vnet, answer, CLIENT_MAC)
        assert (answer[IPv6].src, answer[IPv6].dst, answer[IPv6].hlim) == (
            IPv6(src=SERVER6).src,
            CLIENT6,
            49,
        )
        assert (answer[ICMPv6EchoReply].id, answer[ICMPv6EchoReply].data) == (99, b"x")
        assert checksums_hold(answer)


@pytest.mark.parametrize("kind", FORMATS)
async def test_first_packet_is_slow_and_the_next_ones_fast(kind):
    async with running(kind) as rig:
        vnet, first = await rig.pass_on(udp6(b"first"))
        assert_link(rig, vnet, first, HOST_MAC)
        assert rig.counters.fast_packets == 0
        vnet, second = await rig.pass_on(udp6(b"second"))
        assert_link(rig, vnet, second, HOST_MAC)
        assert rig.counters.fast_packets == 1
        for out in first, second:
            assert (out[IP].src, out[IP].dst, out[IP].ttl) == (POOL4, SERVER4, 63)
            assert (out[UDP].sport, out[UDP].dport) == (first[UDP].sport, 53)
            assert checksums_hold(out)
        assert (bytes(first[UDP].payload), bytes(second[UDP].payload)) == (b"first", b"second")

        vnet, answer = await rig.pass_on(udp4(dport=first[UDP].sport), src=HOST_MAC)
        assert_link(rig, vnet, answer, CLIENT_MAC)
        assert (answer[IPv6].dst, answer[UDP].sport, answer[UDP].dport) == (CLIENT6, 53, 40000)
        assert checksums_hold(answer)
        assert rig.counters.fast_packets == 2
        assert (rig.counters.in_packets, rig.counters.out_packets) == (3, 3)


async def test_padding_of_a_short_frame_is_not_carried():
    async with running() as rig:
        await rig.pass_on(udp6(b""))
        frames = await rig.exchange(rig.wire.frame(udp6(b"")) + bytes(6))
        assert [len(frame) for frame in frames] == [10 + 14 + 28]


@pytest.mark.parametrize(("kind", "link_size"), [(TAP_VNET, 14), (TUN_VNET, 0)])
async def test_partial_checksum_stays_partial(kind, link_size):
    async with running(kind) as rig:
        vnet = struct.pack("=BBHHHH", 1, 0, 0, 0, link_size + 40, 6)
        for _ in ("slow", "fast"):
            header, out = await rig.pass_on(udp6(), vnet=vnet)
            assert struct.unpack("=BBHHHH", header) == (1, 0, 0, 0, link_size + 20, 6)
            assert out[IP].src == POOL4
        assert rig.counters.fast_packets == 1


async def test_what_the_translator_discards_is_counted_there():
    async with running() as rig:
        stranger = IP(src=SERVER4, dst="198.51.100.1") / UDP(dport=9)
        assert await rig.exchange(rig.wire.frame(stranger)) == []
        assert rig.translator.counters[Reason.NOT_OURS] == 1
        assert (rig.counters.in_packets, rig.counters.in_errors) == (1, 0)


async def test_errors_go_back_to_the_client():
    async with running() as rig:
        expired = udp6()
        expired.hlim = 1
        _, answer = await rig.pass_on(expired)
        assert (answer.dst, answer[IPv6].dst) == (CLIENT_MAC, CLIENT6)
        assert (answer[IPv6].payload.type, answer[IPv6].payload.code) == (3, 0)


async def test_configure_takes_over_lowest_ipv6_mtu():
    async with running() as rig:
        _, first = await rig.pass_on(udp6())
        big = udp4(bytes(1300), dport=first[UDP].sport)
        assert len(await rig.exchange(rig.wire.frame(big))) == 2  # fragments of 1280
        rig.translator.configure(replace(rig.translator.settings, lowest_ipv6_mtu=1500))
        rig.plane.configure()
        _, whole = await rig.pass_on(big)
        assert len(whole[UDP].payload) == 1300
        assert rig.counters.fast_packets == 1


# -- neighbours ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [TAP_VNET, TAP])
@pytest.mark.parametrize(
    ("question", "layer"),
    [
        (
            Ether(src=HOST_MAC, dst="ff:ff:ff:ff:ff:ff")
            / ARP(hwsrc=HOST_MAC, psrc="203.0.113.1", pdst=POOL4),
            ARP,
        ),
        (
            Ether(src=HOST_MAC, dst="33:33:ff:00:00:05")
            / IPv6(src="fe80::1", dst="ff02::1:ff00:5", hlim=255)
            / ICMPv6ND_NS(tgt="fe80::5"),
            ICMPv6ND_NA,
        ),
        (
            Ether(src=HOST_MAC, dst=GATEWAY_MAC)
            / IPv6(src="fe80::1", dst=SERVER6, hlim=255)
            / ICMPv6ND_NS(tgt=SERVER6),
            ICMPv6ND_NA,
        ),
        (
            Ether(src=HOST_MAC, dst=GATEWAY_MAC)
            / IPv6(src="fe80::1", dst="fe80::5")
            / ICMPv6EchoRequest(id=1),
            ICMPv6EchoReply,
        ),
    ],
    ids=["ARP", "multicast NS", "unicast NS", "ping"],
)
async def test_neighbours_are_answered(kind, question, layer):
    async with running(kind) as rig:
        frames = await rig.exchange(rig.wire.vnet_of() + bytes(question))
        assert len(frames) == 1
        vnet, answer = rig.wire.parsed(frames[0])
        assert layer in answer
        assert (answer.dst, answer.src) == (HOST_MAC, GATEWAY_MAC)
        assert vnet == rig.wire.vnet_of()
        counters = rig.counters
        assert (counters.neighbour_packets, counters.ignored_packets) == (1, 0)
        assert (counters.out_packets, counters.fast_packets) == (1, 0)
        assert not any(rig.translator.counters.values())


async def test_arp_is_answered_for_the_pool_that_was_told_last():
    def asks(address: str) -> Layers:
        ether = Ether(src=HOST_MAC, dst="ff:ff:ff:ff:ff:ff")
        return ether / ARP(hwsrc=HOST_MAC, psrc="203.0.113.1", pdst=address)

    async with running(TAP) as rig:
        rig.plane.answer_for([IPv4Network("198.51.100.0/30")])
        assert await rig.exchange(bytes(asks(POOL4))) == []
        (frame,) = await rig.exchange(bytes(asks("198.51.100.2")))
        assert rig.wire.parsed(frame)[1][ARP].psrc == "198.51.100.2"


@pytest.mark.parametrize("kind", [TAP_VNET, TAP])
async def test_a_port_is_not_taken_for_a_solicitation(kind):
    """The type of one is where the port of a datagram begins."""
    async with running(kind) as rig:
        _, layers = await rig.pass_on(udp6(sport=0x8700))
        assert layers[IP].dst == SERVER4


@pytest.mark.parametrize("dst", [OTHER_MAC, HOST_MAC, "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"])
async def test_frames_for_others_are_ignored(dst):
    async with running() as rig:
        assert await rig.exchange(rig.wire.frame(udp6(), dst=dst)) == []
        assert rig.counters.ignored_packets == 1
        assert rig.translator.state.session_count == 0


async def test_frames_of_other_protocols_are_ignored():
    async with running() as rig:
        lldp = mac(GATEWAY_MAC) + mac(HOST_MAC) + b"\x88\xcc" + bytes(udp6())
        assert await rig.exchange(bytes(10) + lldp) == []
        assert rig.counters.ignored_packets == 1


async def test_a_tun_device_has_no_neighbours():
    async with running(TUN) as rig:
        question = IPv6(src="fe80::1", dst="fe80::5") / ICMPv6EchoRequest(id=1)
        assert await rig.exchange(bytes(question)) == []
        assert (rig.counters.neighbour_packets, rig.counters.ignored_packets) == (0, 0)
        assert rig.translator.counters[Reason.NOT_OURS] == 1


# -- broken frames ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "size"), [(TAP_VNET, 1), (TAP_VNET, 23), (TAP, 13), (TUN_VNET, 9)]
)
async def test_frames_too_short_are_counted(kind, size):
    async with running(kind) as rig:
        assert await rig.exchange(bytes(size)) == []
        assert (rig.counters.in_packets, rig.counters.in_errors) == (1, 1)


@pytest.mark.parametrize(("kind", "size"), [(TAP, 14), (TAP_VNET, 24), (TUN_VNET, 10)])
async def test_frames_without_a_packet_are_malformed(kind, size):
    async with running(kind) as rig:
        frame = rig.wire.frame(udp6())[:size]
        assert await rig.exchange(frame) == []
        assert rig.translator.counters[Reason.MALFORMED] == 1
        assert rig.counters.in_errors == 0


@pytest.mark.parametrize("kind", FORMATS)
async def test_a_short_frame_is_not_read_as_the_one_before(kind):
    async with running(kind) as rig:
        whole = rig.wire.frame(udp6(bytes(100)))
        await rig.exchange(whole, whole)
        assert rig.counters.fast_packets == 1
        header = rig.wire.frames.header_size
        for size in range(header + 1, len(whole), 7):
            assert await rig.exchange(whole[:size]) == []
        assert rig.counters.fast_packets == 1


# -- failures -----------------------------------------------------------------------------


def break_translator(rig: Rig, error: Exception) -> Callable[[], None]:
    """Lets the translator raise; what is returned repairs it."""
    whole = rig.translator.translate

    def broken(packet: Packet, now: float) -> list[Packet]:
        raise error

    rig.translator.translate = broken  # type: ignore[method-assign]

    def repair() -> None:
        rig.translator.translate = whole  # type: ignore[method-assign]

    return repair


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError(errno.EIO, "of ours")])
async def test_a_bug_costs_one_frame(dev_mode, caplog, error):
    dev_mode(False)
    async with running() as rig:
        repair = break_translator(rig, error)
        assert await rig.exchange(rig.wire.frame(udp6()), rig.wire.frame(udp6())) == []
        assert (rig.counters.bugs, rig.counters.in_errors) == (2, 0)
        repair()
        await rig.pass_on(udp6())
        assert rig.counters.in_packets == 3
    told = [record for record in caplog.records if "bug" in record.getMessage()]
    assert len(told) == 1  # at a limited rate
    assert told[0].levelno == logging.ERROR
    assert told[0].exc_info is not None


async def test_a_bug_is_told_again_after_a_while(dev_mode, caplog, monkeypatch):
    dev_mode(False)
    now = [1000.0]
    monkeypatch.setattr(data_plane, "time", SimpleNamespace(monotonic=lambda: now[0]))
    async with running() as rig:
        break_translator(rig, ZeroDivisionError())
        for moment, told in (1000.0, 1), (1009.9, 1), (1010.0, 2):
            now[0] = moment
            await rig.exchange(rig.wire.frame(udp6()))
            assert len(caplog.records) == told


@pytest.mark.parametrize("error", [ZeroDivisionError(), OSError(errno.EIO, "of ours")])
async def test_a_bug_is_raised_in_development_mode(dev_mode, error):
    dev_mode(True)
    with pytest.RaisesGroup(type(error), flatten_subgroups=True):
        async with running() as rig:
            break_translator(rig, error)
            await rig.exchange(rig.wire.frame(udp6()))
    assert rig.counters.bugs == 0
    assert rig.counters.in_packets == 1


async def test_device_that_is_gone_while_reading(fake_os):
    with pytest.RaisesGroup(DeviceGone, flatten_subgroups=True):
        async with running() as rig:
            fake_os.read_errors = [errno.EBADFD]
            await rig.exchange(rig.wire.frame(udp6()))


async def test_device_that_is_gone_while_writing(fake_os):
    with pytest.RaisesGroup(DeviceGone, flatten_subgroups=True):
        async with running() as rig:
            fake_os.write_errors = [errno.EBADFD]
            await rig.exchange(rig.wire.frame(udp6()))


async def test_device_that_is_gone_while_writing_fast(fake_os):
    with pytest.RaisesGroup(DeviceGone, flatten_subgroups=True):
        async with running() as rig:
            await rig.pass_on(udp6())
            fake_os.write_errors = [errno.EBADFD]
            await rig.exchange(rig.wire.frame(udp6()))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOBUFS, errno.EINVAL, errno.EAGAIN])
async def test_write_errors_are_counted(fake_os, number):
    async with running() as rig:
        fake_os.write_errors = [number]
        assert await rig.exchange(rig.wire.frame(udp6())) == []
        assert (rig.counters.out_errors, rig.counters.out_packets) == (1, 0)
        fake_os.write_errors = [number]
        assert await rig.exchange(rig.wire.frame(udp6())) == []  # fast by now
        assert (rig.counters.out_errors, rig.counters.out_packets) == (2, 0)
        assert (rig.counters.bugs, rig.counters.fast_packets) == (0, 0)
        await rig.pass_on(udp6())
        assert (rig.counters.out_packets, rig.counters.fast_packets) == (1, 1)


async def test_a_failed_write_does_not_end_the_burst(fake_os):
    async with running() as rig:
        await rig.pass_on(udp6())
        fake_os.write_errors = [errno.EAGAIN]
        frames = await rig.exchange(*[rig.wire.frame(udp6(bytes((n,)))) for n in range(3)])
        assert [frame[-1] for frame in frames] == [1, 2]


async def test_a_device_that_takes_no_more_is_counted():
    async with running() as rig:
        rig.wire.fill()
        await rig.exchange(rig.wire.frame(udp6()))
        assert (rig.counters.out_errors, rig.counters.out_packets) == (1, 0)


async def test_read_errors_are_counted_and_traffic_goes_on(fake_os):
    async with running() as rig:
        fake_os.read_errors = [errno.EIO]
        await rig.pass_on(udp6())
        assert (rig.counters.in_errors, rig.counters.in_packets) == (1, 1)


# -- turns --------------------------------------------------------------------------------


async def test_a_burst_ends_so_that_other_tasks_run(monkeypatch, fake_os):
    monkeypatch.setattr(data_plane, "_BURST", 4)
    seen: list[int] = []
    with wire() as link:
        rig = Rig(link)
        for number in range(10):
            link.send(link.frame(udp6(bytes((number,)))))

        async def other() -> None:
            while rig.counters.in_packets < 10:
                seen.append(rig.counters.in_packets)
                await trio.lowlevel.checkpoint()

        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(rig.plane.run)
                await other()
                nursery.cancel_scope.cancel()
        assert {4, 8} <= set(seen) <= {0, 4, 8}
        assert [frame[-1] for frame in link.received()] == list(range(10))


async def test_the_budget_of_a_turn_is_a_few_milliseconds_of_frames():
    assert 16 <= data_plane._BURST <= 1024


async def test_a_flood_cannot_keep_it_from_being_stopped(fake_os):
    with wire() as link:
        rig = Rig(link)
        frame = link.frame(udp6(dport=9), dst=OTHER_MAC)
        fake_os.read_hook = lambda: link.send(frame)  # one comes for each that is read
        link.send(frame)
        with trio.move_on_after(0.1) as scope:
            await rig.plane.run()
        assert scope.cancelled_caught
        assert rig.counters.in_packets > 0


async def test_frames_of_a_turn_share_one_moment(monkeypatch):
    readings: list[float] = []

    def monotonic() -> float:
        readings.append(float(len(readings)))
        return readings[-1]

    monkeypatch.setattr(data_plane, "time", SimpleNamespace(monotonic=monotonic))
    async with running() as rig:
        await rig.exchange(*[rig.wire.frame(udp6(sport=port)) for port in (1024, 1026, 1028)])
        assert len({session.last for session in rig.translator.state.sessions()}) == 1
        assert rig.translator.state.session_count == 3


# -- trains of datagrams -------------------------------------------------------------------


def partial_frame(link: Wire, packet: Layers, payload: bytes) -> bytes:
    """A frame whose UDP checksum the kernel has left to its device."""
    data = bytearray(bytes(packet / payload))
    at = 20 if data[0] >> 4 == 4 else 40
    addresses = bytes(data[12:20] if at == 20 else data[8:40])
    total = ones_sum(addresses + bytes((0, 17)) + data[at + 4 : at + 6])
    data[at + 6 : at + 8] = total.to_bytes(2, "big")
    layers = IP(bytes(data)) if at == 20 else IPv6(bytes(data))
    link_size = link.frames.link_size
    return link.frame(layers, vnet=struct.pack("=BBHHHH", 1, 0, 0, 0, link_size + at, 6))


def datagrams(rig: Rig, frames: list[bytes]) -> list[bytes]:
    """Every IP packet that the frames stand for, with whole checksums."""
    packets: list[bytes] = []
    for frame in frames:
        parts = rig.wire.frames.split(frame)
        assert parts is not None
        assert_super_packet(parts[1])
        packets += [_without_needless_ident(packet.data) for packet in split(parts[1])]
    return packets


def assert_super_packet(packet: Packet) -> None:
    """Lengths and partial checksum of a UDP super-packet are those of one large datagram."""
    if not packet.gso_type:
        return
    data = packet.data
    at, addresses = (20, data[12:20]) if data[0] >> 4 == 4 else (40, data[8:40])
    assert int.from_bytes(data[at + 4 : at + 6], "big") == len(data) - at
    pseudo = ones_sum(addresses + bytes((0, 17)) + data[at + 4 : at + 6])
    assert int.from_bytes(data[at + 6 : at + 8], "big") == pseudo
    assert at == 40 or ones_sum(data[:20]) == 0xFFFF


def _without_needless_ident(data: bytes) -> bytes:
    # RFC 6864 §4.1: with DF set the identification means nothing.
    if data[0] >> 4 == 4 and data[6] & 0x40:
        return data[:4] + bytes(2) + data[6:10] + bytes(2) + data[12:]
    return data


CLIENT_UDP = IPv6(src=CLIENT6, dst=SERVER6, hlim=64) / UDP(sport=40000, dport=53)
STREAM = [bytes((n,)) * 500 for n in range(6)]


def complete_frame(link: Wire, packet: Layers, payload: bytes, flags: int = 0) -> bytes:
    """A frame as it comes from a network: its checksum is whole."""
    return link.frame(packet / payload, vnet=struct.pack("=BBHHHH", flags, 0, 0, 0, 0, 0))


def verified_frame(link: Wire, packet: Layers, payload: bytes) -> bytes:
    """The same, of whose checksum the kernel says that it has been verified."""
    return complete_frame(link, packet, payload, flags=2)


async def crossing(
    kind: str, payloads: list[bytes], *, to_v4: bool, trains: bool, df: bool, frame=partial_frame
):
    """The rig after a stream of datagrams, the frames of the stream that came out."""
    async with running(kind, trains=trains) as rig:
        _, first = await rig.pass_on(CLIENT_UDP / b"first")
        packet = CLIENT_UDP
        if not to_v4:
            packet = IP(src=SERVER4, dst=POOL4, flags="DF" if df else 0) / UDP(
                sport=53, dport=first[UDP].sport
            )
        frames = [frame(rig.wire, packet, payload) for payload in payloads]
        return rig, await rig.exchange(*frames), await rig.exchange(rig.wire.frame(udp6()))


def many(size: int, count: int) -> list[bytes]:
    return [bytes((n + 1,)) * size for n in range(count)]


@pytest.mark.parametrize("kind", [TAP_VNET, TUN_VNET])
@pytest.mark.parametrize(("to_v4", "df"), [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize(
    ("frame", "payloads", "frames"),
    [
        (partial_frame, STREAM, 2),  # the first one alone, the others together
        (partial_frame, [*STREAM, b"short"], 3),
        (partial_frame, [*STREAM[:3], b"other size", *STREAM[3:]], 5),
        (partial_frame, many(1400, 5), 2),
        (partial_frame, many(10, 65), 2),
        (partial_frame, many(10, 66), 3),  # 1 + 64 + 1
        (partial_frame, [b""] * 3, 3),
        (complete_frame, many(26, 6), 2),
        (complete_frame, many(25, 6), 2),
        (complete_frame, many(256, 66), 3),
        (complete_frame, many(257, 6), 6),  # longer than it takes to send them
        (verified_frame, STREAM, 2),
        (verified_frame, many(7, 66), 3),
    ],
    ids=[
        *("one train", "a rest", "interrupted", "large", "64", "more than 64", "empty"),
        *("complete", "complete odd", "complete largest", "complete long"),
        *("verified", "verified more than 64"),
    ],
)
async def test_trains_are_the_datagrams_that_came(kind, to_v4, df, frame, payloads, frames):
    if not to_v4 and not df and len(payloads[0]) > 1252:
        payloads = [payload[:1200] for payload in payloads]  # larger ones would be fragmented
    # The oracle is the same stream without trains.
    wanted = {"to_v4": to_v4, "df": df, "frame": frame}
    _, plain, after_plain = await crossing(kind, payloads, trains=False, **wanted)
    rig, joined, after = await crossing(kind, payloads, trains=True, **wanted)
    assert len(joined) == frames
    assert datagrams(rig, joined) == datagrams(rig, plain)
    # The identifications go on where they would have.
    assert after == after_plain
    assert rig.counters.fast_packets == len(payloads) + 1
    assert (rig.counters.in_packets, rig.counters.bugs) == (len(payloads) + 2, 0)


@pytest.mark.parametrize("to_v4", [True, False])
@pytest.mark.parametrize("wrong", [0, 1, 3, 5])
@pytest.mark.parametrize("harm", [1, -1, 0], ids=["checksum", "payload", "no checksum"])
async def test_a_datagram_with_a_wrong_checksum_joins_no_train(to_v4, wrong, harm):
    """It leaves as wrong as it came: nothing of ours may make it right (RFC 7915 §4.1)."""
    payloads = many(26, 6)

    def frame(link: Wire, packet: Layers, payload: bytes) -> bytes:
        whole = bytearray(complete_frame(link, packet, payload))
        at = len(whole) - len(payload)
        if payload == payloads[wrong]:
            if harm:
                whole[at - harm] ^= 0x20
            else:
                # Such that the sum would be right without one.
                whole[-2:] = bytes(2)
                rest = bytes(whole[at:])
                checksum = complete_frame(link, packet, rest)[at - 2 : at]
                whole[at - 2 :] = bytes(2) + rest[:-2] + checksum
        return bytes(whole)

    wanted = {"to_v4": to_v4, "df": True, "frame": frame}
    _, plain, _ = await crossing(TAP_VNET, payloads, trains=False, **wanted)
    rig, joined, _ = await crossing(TAP_VNET, payloads, trains=True, **wanted)
    assert datagrams(rig, joined) == datagrams(rig, plain)
    # The first one, what is in front of the wrong one, this one, and what is behind it. Without
    # a checksum it may be discarded.
    assert len(joined) == {0: 2, 1: 3, 3: 4, 5: 3}[wrong] - (6 - len(plain))


@pytest.mark.parametrize("frame", [partial_frame, complete_frame])
async def test_a_datagram_shorter_than_its_packet_joins_no_train(frame):
    async with running(trains=True) as rig:
        await rig.pass_on(udp6())
        packet = IPv6(src=CLIENT6, dst=SERVER6, hlim=64) / UDP(sport=40000, dport=53, len=20)
        stream = [frame(rig.wire, packet, payload) for payload in many(26, 6)]
        assert len(await rig.exchange(*stream)) == 6


async def test_a_train_waits_for_nothing_and_keeps_the_order():
    async with running(trains=True) as rig:
        await rig.pass_on(udp6())
        stream = [partial_frame(rig.wire, CLIENT_UDP, payload) for payload in STREAM]
        other = rig.wire.frame(udp6(b"between"))
        out = datagrams(rig, await rig.exchange(*stream[:4], other, *stream[4:]))
        assert [packet[28:] for packet in out] == [*STREAM[:4], b"between", *STREAM[4:]]


@pytest.mark.parametrize("burst", range(2, 9))
async def test_nothing_is_lost_where_a_turn_ends(monkeypatch, burst):
    """A frame that ends a train may be the last of a turn."""
    monkeypatch.setattr(data_plane, "_BURST", burst)
    async with running(trains=True) as rig:
        await rig.pass_on(udp6())
        stream = [partial_frame(rig.wire, CLIENT_UDP, payload) for payload in STREAM]
        other = rig.wire.frame(udp6(b"between"))
        frames = await rig.exchange(*stream[:4], other, *stream[4:])
        out = datagrams(rig, frames)
        assert [packet[28:] for packet in out] == [*STREAM[:4], b"between", *STREAM[4:]]
        assert rig.counters.out_packets == 1 + len(frames)
        assert rig.counters.in_packets == 2 + len(stream)


async def test_flows_are_not_mixed():
    async with running(trains=True) as rig:
        ports = (40000, 40002)
        for port in ports:
            await rig.pass_on(udp6(sport=port))
        frames = []
        for payload in STREAM:
            for port in ports:
                packet = IPv6(src=CLIENT6, dst=SERVER6, hlim=64) / UDP(sport=port, dport=53)
                frames.append(partial_frame(rig.wire, packet, payload))
        out = [IP(packet) for packet in datagrams(rig, await rig.exchange(*frames))]
        assert [bytes(packet[UDP].payload) for packet in out] == [p for p in STREAM for _ in ports]
        assert len({packet[UDP].sport for packet in out[::2]}) == 1
        assert {packet[UDP].sport for packet in out[::2]} != {out[1][UDP].sport}


async def test_a_train_that_cannot_be_written_is_counted(fake_os):
    async with running(trains=True) as rig:
        await rig.pass_on(udp6())
        fake_os.write_errors = [errno.ENOBUFS, errno.ENOBUFS]  # the first frame, the train
        stream = [partial_frame(rig.wire, CLIENT_UDP, payload) for payload in STREAM]
        assert await rig.exchange(*stream) == []
        assert (rig.counters.out_errors, rig.counters.out_packets) == (2, 1)
        assert rig.counters.fast_packets == 0


async def test_a_read_error_ends_a_train_and_traffic_goes_on(fake_os):
    async with running(trains=True) as rig:
        await rig.pass_on(udp6())
        reads = 0

        def third_read() -> None:
            nonlocal reads
            reads += 1
            if reads == 3:
                fake_os.read_errors = [errno.EIO]

        fake_os.read_hook = third_read
        stream = [partial_frame(rig.wire, CLIENT_UDP, payload) for payload in STREAM]
        out = datagrams(rig, await rig.exchange(*stream))
        assert [packet[28:] for packet in out] == STREAM
        assert (rig.counters.in_errors, rig.counters.bugs) == (1, 0)


async def test_device_that_is_gone_while_writing_a_train(fake_os):
    with pytest.RaisesGroup(DeviceGone, flatten_subgroups=True):
        async with running(trains=True) as rig:
            await rig.pass_on(udp6())
            fake_os.write_errors = [errno.EAGAIN, errno.EBADFD]
            stream = [partial_frame(rig.wire, CLIENT_UDP, payload) for payload in STREAM]
            await rig.exchange(*stream)


# -- expiry -------------------------------------------------------------------------------


async def test_sessions_end_when_their_time_is_over(autojump_clock, monkeypatch):
    monkeypatch.setattr(data_plane, "time", SimpleNamespace(monotonic=trio.current_time))
    with wire() as link:
        rig = Rig(link, timeouts=Timeouts(udp_default=120.0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.plane.run)
            link.send(link.frame(udp6()))
            await trio.sleep(60)
            link.send(link.frame(udp6()))  # fast, and as good a sign of life
            await trio.sleep(119)
            assert rig.translator.state.session_count == 1
            await trio.sleep(3)  # looks for it every quarter, in whole seconds
            assert rig.translator.state.session_count == 0
            nursery.cancel_scope.cancel()
    assert rig.counters.fast_packets == 1


async def test_packets_of_expired_sessions_are_sent(autojump_clock):
    with wire() as link:
        rig = Rig(link)
        limits: list[int] = []
        due = [Packet(bytes(udp4())), Packet(bytes(udp6()), link=mac(CLIENT_MAC))]

        def expire(now: float, limit: int) -> list[Packet]:
            limits.append(limit)
            return [due.pop(0)] if due else []

        rig.translator.expire = expire  # type: ignore[assignment, method-assign]
        with trio.move_on_after(2):
            await rig.plane.run()
        first, second = (link.parsed(frame)[1] for frame in link.received())
        assert (first.dst, first[IP].dst) == (HOST_MAC, POOL4)
        assert (second.dst, second[IPv6].src) == (CLIENT_MAC, CLIENT6)
        assert rig.counters.out_packets == 2
        assert set(limits) == {data_plane.EXPIRE_LOOKS}
        assert 4 <= len(limits) <= 20


async def test_device_that_is_gone_is_noticed_without_traffic(autojump_clock, fake_os):
    with wire() as link, pytest.RaisesGroup(DeviceGone, flatten_subgroups=True):
        rig = Rig(link)
        rig.translator.expire = lambda *_: [Packet(bytes(udp4()))]  # type: ignore[method-assign]
        fake_os.write_errors = [errno.EBADFD]
        with trio.fail_after(5):
            await rig.plane.run()
