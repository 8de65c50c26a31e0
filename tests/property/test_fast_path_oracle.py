"""The fast path does what the slow path does, byte for byte, or nothing at all.

Two translators with the same history get the same frame: one in place, one by way of
gateway.frames. Where the fast path takes the frame, the result, the identification counter and
the session's clock must be equal; where it does not, the buffer must be as it was.
"""

from __future__ import annotations

import struct
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.frames import FrameFormat
from tests.oracle import (
    CLIENT,
    ICMP,
    IP,
    LINK,
    POOL,
    SERVER,
    SERVER6,
    START,
    TCP,
    UDP,
    Bench,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
    Raw,
    echo4,
    echo6,
    pseudo_sum,
    read,
    rfc6052,
    tcp4,
    tcp6,
    udp4,
    udp6,
    upper,
)
from translate.fast_path import BUFFER_SIZE, IP_AT, make_fast_path
from translate.flow_records import STEP
from translate.packets import Packet

HOST, OWN = bytes.fromhex("02c11e470101"), bytes.fromhex("02c11e470102")
FORMATS = {
    "tap vnet": FrameFormat(True, HOST, OWN),
    "tap": FrameFormat(False, HOST, OWN),
    "tun vnet": FrameFormat(True),
    "tun": FrameFormat(False),
}
NEEDS_CSUM, DATA_VALID = 1, 2
TCPV4, TCPV6, UDP_L4, ECN = 1, 4, 5, 0x80


@cache
def history():
    """The packets that make one session of each protocol, the pool's side of each, and some
    packets more of the same sessions.
    """
    bench = Bench()
    log = [udp6(), echo6(ident=7), udp6(dst=rfc6052(SERVER), sport=40002), tcp6("S")]
    outs = [bench.one(packet) for packet in log]
    port = outs[3][TCP].sport
    log += [tcp4("SA", port), tcp6("A")]
    pools = {
        "udp": outs[0][UDP].sport,
        "echo": outs[1][ICMP].id,
        "other form": outs[2][UDP].sport,
        "tcp": port,
    }
    probes = [*log[:3], tcp6("A"), tcp4("A", port), udp4(pools["udp"]), echo4(pools["echo"])]
    return [bytes(p) for p in log], pools, [bytes(p) for p in probes]


class Side:
    """One translator with its sessions, and the fast path over them."""

    def __init__(self, form):
        self.nat = Bench().nat
        for data in history()[0]:
            self.nat.translate(Packet(data, link=LINK), START)
        self.form = form
        self.fast = make_fast_path(
            self.nat.state.flows,
            vnet=form.vnet,
            ethernet4=form.ethernet4,
            ethernet6_tail=form.ethernet6_tail,
            lowest_ipv6_mtu=self.nat.settings.lowest_ipv6_mtu,
        )

    def through_fast(self, frame, now):
        """The frame that the fast path makes, or None; checks that it then touched nothing."""
        buffer = bytearray(b"\xa5" * BUFFER_SIZE)
        base = IP_AT - self.form.header_size
        buffer[base : base + len(frame)] = frame
        before = bytes(buffer)
        start = self.fast(buffer, len(frame), now)
        if start:
            return bytes(buffer[start : base + len(frame)])
        assert bytes(buffer) == before
        return None

    def through_slow(self, frame, now):
        """The frames that the slow path makes."""
        parts = self.form.split(frame)
        if parts is None:
            return []
        return [self.form.join(out) for out in self.nat.translate(parts[1], now)]

    def clock(self):
        """All that a packet may change in a session, but for the identification counter."""
        flows = self.nat.state.flows
        return sorted(
            (s.key6, s.state, s.timer, flows[s.protocol].last_seen(s))
            for s in self.nat.state.sessions()
        )

    def probes(self, now):
        """What the next packets look like: shows the identification counter and the link."""
        return [self.nat.translate(Packet(data), now) for data in history()[2]]


def check(form, frame, *, carried=None):
    """Judges one frame; `carried` says whether the fast path has to take it."""
    one, other = Side(form), Side(form)
    now = START + 5
    fast = one.through_fast(frame, now)
    if carried is not None:
        assert (fast is not None) == carried
    if fast is None:
        return
    assert other.through_slow(frame, now) == [fast]
    for (*quick, seen), (*slow, at) in zip(one.clock(), other.clock(), strict=True):
        assert quick == slow
        # The fast path's clock goes in steps; a session never seems older than it is.
        assert at - STEP <= seen <= at + STEP
        assert seen >= now or seen == at
    assert one.probes(now) == other.probes(now)


def framed(form, data, vnet=(0, 0, 0, 0, 0, 0)):
    """The packet as the device hands it over; hdr_len and csum_start count the link header."""
    link = form.link_size
    head = b""
    if form.vnet:
        flags, gso_type, hdr_len, gso_size, start, offset = vnet
        head = struct.pack(
            "=BBHHHH",
            flags,
            gso_type,
            hdr_len + link if gso_type else 0,
            gso_size,
            start + link if flags & NEEDS_CSUM else 0,
            offset,
        )
    if link:
        head += OWN + LINK + (b"\x08\x00" if data[0] >> 4 == 4 else b"\x86\xdd")
    return head + data


def offload(packet, gso_type, gso_size):
    """The virtio-net fields of a packet with partial checksum."""
    start = 20 if packet.version == 4 else 40
    if TCP in packet:
        return (
            NEEDS_CSUM,
            gso_type,
            start + packet[TCP].dataofs * 4 if gso_type else 0,
            gso_size,
            start,
            16,
        )
    return NEEDS_CSUM, gso_type, start + 8 if gso_type else 0, gso_size, start, 6


sizes = st.one_of(
    st.integers(0, 40),
    st.sampled_from([1219, 1220, 1221, 1232, 1233, 1240, 1241, 1252, 1253, 1440, 1452, 1460]),
    st.integers(0, 3000),
)
# Around the limits of RFC 7915 for a segment, and what endpoints really use.
gso_sizes = st.one_of(
    st.sampled_from([1, 536, 1219, 1220, 1221, 1228, 1231, 1232, 1233]),
    st.sampled_from([1300, 1400, 1428, 1448]),
)


@st.composite
def frames(draw, form):
    """A frame of one of the known sessions, more or less plain."""
    kind = draw(st.sampled_from(["udp", "udp", "tcp", "tcp", "echo", "other form"]))
    data = b"\xa5" * draw(sizes)
    hops = draw(st.one_of(st.integers(0, 3), st.just(64), st.just(255), st.integers(4, 255)))
    tos = draw(st.integers(0, 255))
    pool = history()[1][kind]
    if draw(st.booleans()):
        dst = rfc6052(SERVER) if kind == "other form" else SERVER6
        ip = IPv6(src=CLIENT, dst=dst, hlim=hops, tc=tos, fl=draw(st.sampled_from([0, 1, 0xFFFFF])))
        sport = 40002 if kind == "other form" else 40000
        udp, tcp = UDP(sport=sport, dport=53), TCP(sport=sport, dport=80)
        echoes = [ICMPv6EchoRequest(id=7, seq=1), ICMPv6EchoReply(id=7, seq=1)]
    else:
        flags = draw(st.sampled_from([0, 2, 2, 2, 4, 6, 1, 3]))
        frag = draw(st.sampled_from([0, 0, 0, 0, 1, 185]))
        ident = draw(st.integers(0, 0xFFFF))
        ip = IP(src=SERVER, dst=POOL, ttl=hops, tos=tos, flags=flags, frag=frag, id=ident)
        udp, tcp = UDP(sport=53, dport=pool), TCP(sport=80, dport=pool)
        echoes = [ICMP(type=0, id=pool, seq=1), ICMP(type=8, id=pool, seq=1)]
    if kind == "tcp":
        tcp.flags = draw(
            st.sampled_from(["A", "A", "A", "PA", "PA", "AE", "AC", "", "S", "FA", "R", "SA"])
        )
        tcp.options = draw(st.sampled_from([[], [("Timestamp", (1, 2)), ("NOP", None)] * 1]))
        packet = ip / tcp / Raw(data)
    elif kind == "echo":
        packet = ip / draw(st.sampled_from(echoes)) / Raw(data)
    else:
        packet = ip / udp / Raw(data)
    packet = read(bytes(packet))
    vnet = (0, 0, 0, 0, 0, 0)
    offloads = ["none", "valid", "partial", "gso"] if form.vnet and kind != "echo" else ["none"]
    choice = draw(st.sampled_from(offloads))
    if choice == "valid":
        vnet = (DATA_VALID, 0, 0, 0, 0, 0)
    if choice in ("partial", "gso") and not frag_of(packet):
        gso_type, gso_size = 0, 0
        if choice == "gso":
            native = TCPV4 if packet.version == 4 else TCPV6
            gso_type = (native | draw(st.sampled_from([0, ECN]))) if kind == "tcp" else UDP_L4
            gso_size = draw(gso_sizes)
        vnet = offload(packet, gso_type, gso_size)
        packet.payload.chksum = pseudo_sum(packet)
    elif draw(st.booleans()):
        field = {"udp": "chksum", "tcp": "chksum", "other form": "chksum"}.get(kind)
        if field:
            setattr(packet.payload, field, draw(st.sampled_from([0, 1, 0x1234, 0xFFFE, 0xFFFF])))
    return framed(form, bytes(packet), vnet)


def frag_of(packet):
    return packet.version == 4 and (packet.frag or "MF" in packet.flags)


@given(st.data(), st.sampled_from(list(FORMATS)))
@settings(max_examples=800)
def test_equal_to_the_slow_path(data, name):
    form = FORMATS[name]
    check(form, data.draw(frames(form)))


# Anywhere, but often where something is decided: version, lengths, flags, hops, offsets.
places = st.one_of(st.integers(0, 63), st.sampled_from([0, 2, 3, 4, 5, 6, 7, 8, 9, 32, 33, 52, 53]))


@given(
    st.data(),
    st.sampled_from(list(FORMATS)),
    st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=3),
    st.integers(-3, 3),
)
@settings(max_examples=800)
def test_equal_to_the_slow_path_with_damage_in_the_headers(data, name, damage, off):
    """Octets of IP and transport headers replaced; the frame a little longer or shorter."""
    form = FORMATS[name]
    frame = bytearray(data.draw(frames(form)))
    for at, value in damage:
        frame[form.header_size + at % (len(frame) - form.header_size)] = value
    if off < 0:
        del frame[off:]
    else:
        frame += bytes(off)
    check(form, with_header_length(form, bytes(frame)))


def with_header_length(form, frame):
    """The frame with the hdr_len of its own TCP header: the kernel never says another one."""
    at = form.header_size
    start = 20 if frame[at] >> 4 == 4 else 40
    if not form.vnet or frame[1] not in (TCPV4, TCPV6, TCPV4 | ECN, TCPV6 | ECN):
        return frame
    if len(frame) <= at + start + 12:
        return frame
    size = form.link_size + start + (frame[at + start + 12] >> 4) * 4
    return frame[:2] + struct.pack("=H", size) + frame[4:]


PLAIN = [
    udp6(data=b"plain"),
    tcp6("A", data=b"plain"),
    echo6(ident=7),
    IPv6(src=CLIENT, dst=SERVER6) / ICMPv6EchoReply(id=7),
]


def plain4():
    pools = history()[1]
    ip = IP(src=SERVER, dst=POOL)
    return [
        ip / UDP(sport=53, dport=pools["udp"]) / Raw(b"plain"),
        ip / TCP(sport=80, dport=pools["tcp"], flags="A") / Raw(b"plain"),
        ip / ICMP(type=0, id=pools["echo"]) / Raw(b"plain"),
        ip / ICMP(type=8, id=pools["echo"]) / Raw(b"plain"),
    ]


@pytest.mark.parametrize("name", FORMATS)
def test_plain_packets_are_carried(name):
    """Otherwise equality would be easy."""
    for packet in PLAIN + plain4():
        check(FORMATS[name], framed(FORMATS[name], bytes(packet)), carried=True)


@pytest.mark.parametrize("name", ["tap vnet", "tun vnet"])
@pytest.mark.parametrize("ecn", [0, ECN])
@pytest.mark.parametrize(("gso_type", "size"), [(0, 0), ("tcp", 1448), (UDP_L4, 1400)])
def test_partial_and_super_packets_are_carried(name, gso_type, size, ecn):
    for packet in PLAIN + plain4():
        if (TCP in packet) != (gso_type == "tcp") or not (TCP in packet or UDP in packet):
            continue
        whole = read(bytes(packet.copy() / Raw(b"\xa5" * 5000 if gso_type else b"")))
        if whole.version == 4:
            whole.flags = "DF"
            del whole.chksum
            whole = read(bytes(whole))
        whole.payload.chksum = pseudo_sum(whole)
        kind = gso_type
        if gso_type == "tcp":
            kind = (TCPV4 if whole.version == 4 else TCPV6) | ecn
        frame = framed(FORMATS[name], bytes(whole), offload(whole, kind, size))
        check(FORMATS[name], frame, carried=True)


@pytest.mark.parametrize("gso_size", range(1215, 1240))
@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_rfc7915_5_1_df_of_super_packets_is_decided_alike(kind, gso_size):
    form = FORMATS["tap vnet"]
    data = b"\xa5" * 4000
    packet = read(bytes(udp6(data=data) if kind == "udp" else tcp6("A", data=data)))
    packet.payload.chksum = pseudo_sum(packet)
    gso_type = UDP_L4 if kind == "udp" else TCPV6
    check(form, framed(form, bytes(packet), offload(packet, gso_type, gso_size)))


@pytest.mark.parametrize("offset", range(16))
def test_rfc9293_3_1_a_wrong_data_offset_is_judged_alike(offset):
    form = FORMATS["tap"]
    check(form, framed(form, bytes(tcp6("A", data=b"\xa5" * 8, dataofs=offset))))


REFUSED = [
    tcp6("S"),
    tcp6("FA"),
    tcp6("R"),
    udp6(hlim=1),
    udp6(hlim=0),
    udp6(sport=40001),
    udp6(dst=rfc6052(SERVER)),
    echo6(ident=8),
]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("packet", REFUSED)
def test_what_is_not_plain_is_left_to_the_slow_path(name, packet):
    check(FORMATS[name], framed(FORMATS[name], bytes(packet)), carried=False)


def test_leftovers_in_the_buffer_are_no_part_of_a_short_frame():
    """A frame too short for its headers is refused, whatever an earlier frame left behind."""
    side = Side(FORMATS["tun"])
    whole = bytes(udp6(data=b""))
    buffer = bytearray(BUFFER_SIZE)
    buffer[IP_AT : IP_AT + len(whole)] = whole
    for size in range(len(whole)):
        assert side.fast(buffer, size, START) == 0
    assert upper(whole)[0] == 17
