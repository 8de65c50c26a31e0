"""Stateless translation: there and back again, the fast path against the slow one, damage."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address

from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.frames import FrameFormat
from tests.oracle import (
    ICMP,
    IP,
    LINK,
    START,
    TCP,
    UDP,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrFragment,
    Raw,
    check_form,
    checksum_right,
    is_fragment,
    pseudo_sum,
)
from tests.siit_bench import (
    HOST,
    HOST4,
    IN_NET,
    IN_NET4,
    NEAR4,
    OWN4,
    OWN6,
    ROUTED,
    SERVER4,
    STRANGER,
    SiitBench,
    embedded,
    error4,
    error6,
)
from tests.vectors.judge import read_all
from translate.address_pool import AddressPool
from translate.fast_path import BUFFER_SIZE, IP_AT, make_fast_path
from translate.flow_records import STEP
from translate.packets import Packet
from translate.settings import ZeroChecksum
from translate.siit.addresses import Hairpin

PAIRS = {HOST: HOST4, IN_NET: IN_NET4, embedded("198.51.100.7"): "198.51.100.7"}
hosts = st.sampled_from(list(PAIRS))
servers = st.sampled_from([SERVER4, "203.0.113.81", "8.8.8.8", "198.18.0.1"])
ports = st.integers(0, 65535)
sizes = st.one_of(
    st.integers(0, 40),
    st.sampled_from([1212, 1219, 1220, 1221, 1232, 1233, 1240, 1241, 1252, 1253, 1440, 1460]),
)


@st.composite
def packets(draw):
    """(packet from IPv6, the same from IPv4), for a host and an IPv4 server, TTL 64."""
    host, server = draw(hosts), draw(servers)
    tos = draw(st.integers(0, 255))
    data = draw(st.sampled_from([b"\0", b"\xff", b"\xa5"])) * draw(sizes)
    head6 = IPv6(src=host, dst=embedded(server), hlim=64, tc=tos)
    head4 = IP(src=PAIRS[host], dst=server, ttl=64, tos=tos, flags="DF")
    kind = draw(st.sampled_from(["tcp", "udp", "echo", "reply", "other"]))
    if kind == "tcp":
        upper = TCP(
            sport=draw(ports),
            dport=draw(ports),
            seq=draw(st.integers(0, 2**32 - 1)),
            flags=draw(st.sampled_from(["A", "PA", "S", "FA", "R", "AEC"])),
        )
    elif kind == "udp":
        upper = UDP(sport=draw(ports), dport=draw(ports))
    elif kind == "other":
        number = draw(st.sampled_from([4, 41, 47, 50, 51, 89, 132, 253]))
        head6.nh = head4.proto = number
        return head6 / Raw(data), head4 / Raw(data)
    else:
        ident = draw(ports)
        made = ICMPv6EchoRequest if kind == "echo" else ICMPv6EchoReply
        return (
            head6 / made(id=ident, seq=3, data=data),
            head4 / ICMP(type=8 if kind == "echo" else 0, id=ident, seq=3) / Raw(data),
        )
    return head6 / upper / Raw(data), head4 / upper / Raw(data)


def without(data):
    """The packet without what an IPv4 header may choose, and its hops."""
    if data[0] >> 4 == 6:
        return data[:7] + data[8:]
    return data[:4] + data[9:10] + data[12:]


@given(packets())
def test_what_comes_out_is_what_scapy_builds(pair):
    six, four = pair
    (out,) = SiitBench().send(six)
    assert without(out.data) == without(bytes(four))


@given(packets())
def test_there_and_back_again_is_the_same_packet(pair):
    """From IPv6 to IPv4, the same back through a translator that is turned round."""
    six, _ = pair
    (there,) = SiitBench().send(six)
    data = there.data
    # As if it had been sent with DF, so that nothing is cut on the way back.
    data = data[:6] + b"\x40\0" + data[8:]
    # Source and destination change places: the packet of the server to the host.
    swapped = data[:12] + data[16:20] + data[12:16] + data[20:]
    (back,) = SiitBench().send(swapped)
    original = bytes(six)
    want = original[:8] + original[24:40] + original[8:24] + original[40:]
    assert without(back.data) == without(want)


# -- the fast path --------------------------------------------------------------------------

HOST_MAC, OWN_MAC = bytes.fromhex("02c11e470101"), bytes.fromhex("02c11e470102")
FORM = FrameFormat(True, HOST_MAC, OWN_MAC)
NEEDS_CSUM = 1


class Side:
    """One translator that knows the flow of a packet, and the fast path over it."""

    def __init__(self, six, four_back):
        self.bench = SiitBench()
        self.nat = self.bench.nat
        for data in (six, four_back):
            self.nat.translate(Packet(bytes(data), link=LINK), START)
        self.fast = make_fast_path(
            self.nat.state.flows,
            vnet=True,
            ethernet4=FORM.ethernet4,
            ethernet6_tail=FORM.ethernet6_tail,
            lowest_ipv6_mtu=self.nat.settings.lowest_ipv6_mtu,
        )

    def through_fast(self, frame, now):
        buffer = bytearray(b"\xa5" * BUFFER_SIZE)
        base = IP_AT - FORM.header_size
        buffer[base : base + len(frame)] = frame
        before = bytes(buffer)
        start = self.fast(buffer, len(frame), now)
        if not start:
            assert bytes(buffer) == before
            return None
        return bytes(buffer[start : base + len(frame)])

    def through_slow(self, frame, now):
        parts = FORM.split(frame)
        assert parts is not None
        _, packet = parts
        return [FORM.join(out) for out in self.nat.translate(packet, now)]

    def clock(self):
        state = self.nat.state
        return sorted(
            (s.key6, table.last_seen(s)) for table in state.flows.values() for s in table.sessions()
        )


def reversed4(four):
    """The answer to what an IPv4 server has got, without flags that end a flow."""
    back = four.copy()
    back.src, back.dst = four.dst, four.src
    if TCP in back:
        back[TCP].sport, back[TCP].dport = four[TCP].dport, four[TCP].sport
    elif UDP in back:
        back[UDP].sport, back[UDP].dport = four[UDP].dport, four[UDP].sport
    return back


@st.composite
def frames(draw):
    six, four = draw(packets())
    assume(not (TCP in six and six[TCP].flags & 7))
    four = reversed4(four)
    packet = draw(st.sampled_from([six, four]))
    hops = draw(st.sampled_from([1, 2, 64, 255]))
    if packet.version == 6:
        packet.hlim = hops
    else:
        packet.ttl = hops
        packet.flags = draw(st.sampled_from(["DF", 0, "MF"]))
        packet.id = draw(ports)
    packet = packet.__class__(bytes(packet))
    data, vnet = bytes(packet), bytes(10)
    start = 20 if packet.version == 4 else 40
    at = {6: 16, 17: 6}.get(packet.proto if packet.version == 4 else packet.nh)
    if at is not None and draw(st.booleans()):
        partial = pseudo_sum(packet).to_bytes(2, "big")
        data = data[: start + at] + partial + data[start + at + 2 :]
        gso, size, header = 0, 0, 0
        if draw(st.booleans()):
            size = draw(st.sampled_from([1, 536, 1220, 1228, 1232, 1233, 1400, 1448]))
            gso = 5 if at == 6 else (1 if packet.version == 4 else 4)
            header = 14 + start + (8 if at == 6 else 20)
        vnet = struct.pack("=BBHHHH", NEEDS_CSUM, gso, header, size, 14 + start, at)
    kind = b"\x08\0" if packet.version == 4 else b"\x86\xdd"
    return six, four, vnet + OWN_MAC + LINK + kind + data


@given(frames())
def test_the_fast_path_does_what_the_slow_path_does(case):
    six, four, frame = case
    one, other = Side(six, four), Side(six, four)
    now = START + 5
    fast = one.through_fast(frame, now)
    if fast is None:
        return
    assert other.through_slow(frame, now) == [fast]
    for (key, seen), (slow_key, at) in zip(one.clock(), other.clock(), strict=True):
        assert key == slow_key
        assert at - STEP <= seen <= at + STEP


def test_the_fast_path_takes_what_is_plain_both_ways():
    head6 = IPv6(src=HOST, dst=embedded(SERVER4))
    head4 = IP(src=SERVER4, dst=HOST4, flags="DF")
    pairs = [
        (head6 / TCP(sport=5, dport=6, flags="A"), head4 / TCP(sport=6, dport=5, flags="A")),
        (head6 / UDP(sport=5, dport=6), head4 / UDP(sport=6, dport=5)),
        (head6 / ICMPv6EchoRequest(id=7), head4 / ICMP(type=0, id=7)),
    ]
    for six, four in pairs:
        for first in (six, four):
            bench = SiitBench()
            bench.nat.translate(Packet(bytes(first), link=LINK), START)
            side = Side(six, four)
            for packet in (six, four):
                kind = b"\x08\0" if packet.version == 4 else b"\x86\xdd"
                frame = bytes(10) + OWN_MAC + LINK + kind + bytes(packet)
                assert side.through_fast(frame, START) is not None
            assert bench.flows == 1, "entered from either side"


def test_super_packets_of_tcp_take_the_fast_path():
    six = (
        IPv6(src=HOST, dst=embedded(SERVER4)) / TCP(sport=5, dport=6, flags="A") / Raw(bytes(9000))
    )
    four = (
        IP(src=SERVER4, dst=HOST4, flags="DF") / TCP(sport=6, dport=5, flags="A") / Raw(bytes(9000))
    )
    for packet, gso, start in ((six, 4, 40), (four, 1, 20)):
        one, other = Side(six, four), Side(six, four)
        data = bytearray(bytes(packet))
        data[start + 16 : start + 18] = pseudo_sum(packet).to_bytes(2, "big")
        vnet = struct.pack("=BBHHHH", NEEDS_CSUM, gso, 34 + start, 1400, 14 + start, 16)
        kind = b"\x08\0" if gso == 1 else b"\x86\xdd"
        frame = vnet + OWN_MAC + LINK + kind + bytes(data)
        fast = one.through_fast(frame, START)
        assert fast is not None
        assert other.through_slow(frame, START) == [fast]


# -- damage ---------------------------------------------------------------------------------


@st.composite
def damaged(draw):
    six, four = draw(packets())
    inner4 = IP(src=HOST4, dst=SERVER4) / UDP(sport=1, dport=2) / Raw(bytes(20))
    inner6 = IPv6(src=embedded(SERVER4), dst=HOST) / UDP(sport=1, dport=2) / Raw(bytes(20))
    packet = draw(
        st.sampled_from(
            [
                six,
                reversed4(four),
                error4(3, 4, 1400, inner4, src="198.18.7.1", dst=HOST4),
                error6(2, 0, 1400, inner6, src=IN_NET, dst=embedded(SERVER4)),
                IPv6(src=HOST, dst=embedded(NEAR4)) / UDP(sport=1, dport=2),
                IPv6(src=HOST, dst=embedded(SERVER4))
                / IPv6ExtHdrFragment(nh=17, offset=2, m=1)
                / Raw(bytes(16)),
            ]
        )
    )
    data = bytearray(bytes(packet))
    for _ in range(draw(st.integers(1, 3))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(data)))
    return bytes(data[:cut]) if draw(st.booleans()) else bytes(data)


@given(damaged(), st.sampled_from(list(Hairpin)))
def test_damage_makes_nothing_that_is_malformed(data, hairpin):
    bench = SiitBench(hairpin=hairpin)
    before = sum(bench.nat.counters.values())
    out = bench.nat.translate(Packet(data), START)
    for one in out:
        check_form(one.data)
        assert not is_martian(one.data)
    if not out:
        assert sum(bench.nat.counters.values()) == before + 1


def is_martian(data):
    """Whether a packet is for, or from, an address that no router may forward."""
    if data[0] >> 4 == 4:
        addresses = [IPv4Address(data[12:16]), IPv4Address(data[16:20])]
        return any(a.is_multicast or a.is_loopback for a in addresses)
    return any(IPv6Address(a).is_multicast for a in (data[8:24], data[24:40]))


@given(damaged())
def test_a_damaged_transport_stays_damaged(data):
    """Checksums are carried over, never repaired."""
    assume(len(data) > 48 and not is_fragment_or_short(data))
    bench = SiitBench()
    out = bench.nat.translate(Packet(data), START)
    if len(out) != 1 or out[0].data[0] >> 4 == data[0] >> 4 or sum(bench.nat.counters.values()):
        return
    made = out[0].data
    protocol = made[9] if made[0] >> 4 == 4 else made[6]
    if protocol in (6, 58, 1) and not is_fragment(made) and data[0] in (0x45, 0x60):
        assert checksum_right(made) == checksum_right(data)


def is_fragment_or_short(data):
    return data[0] >> 4 in (4, 6) and is_fragment(data)


# The input of every golden vector, whatever mode it is for.
SEEDS = [bytes.fromhex(step["in"]) for _, v in read_all() for step in v["step"] if "in" in step]
SOURCES6 = [HOST, IN_NET, STRANGER, embedded(HOST4), embedded("8.8.8.8")]
TARGETS6 = [embedded(SERVER4), embedded(NEAR4), embedded("192.0.2.33"), OWN6, HOST]
SOURCES4 = [SERVER4, NEAR4, "192.0.2.33", "127.0.0.1"]
TARGETS4 = [HOST4, NEAR4, "192.0.2.33", "192.0.2.99", OWN4]


@given(st.randoms(use_true_random=False))
def test_anything_at_all(chance):
    """Many packets through one translator with everything configured, time going on."""
    pool = AddressPool((IPv4Network("192.0.2.32/30"),), keep=chance.choice([1.0, 1000.0]))
    bench = SiitBench(
        {"udp_zero_checksum": chance.choice(list(ZeroChecksum))},
        hairpin=chance.choice(list(Hairpin)),
        pool=chance.choice([None, pool]),
        routed4=(ROUTED,),
    )
    for _ in range(20):
        data = bytearray(chance.choice(SEEDS))
        if len(data) >= 40 and data[0] >> 4 == 6 and chance.random() < 0.8:
            data[8:24] = IPv6Address(chance.choice(SOURCES6)).packed
            data[24:40] = IPv6Address(chance.choice(TARGETS6)).packed
        elif len(data) >= 20 and data[0] >> 4 == 4 and chance.random() < 0.8:
            data[12:16] = IPv4Address(chance.choice(SOURCES4)).packed
            data[16:20] = IPv4Address(chance.choice(TARGETS4)).packed
        for _ in range(chance.choice([0, 1, 3])):
            data[chance.randrange(len(data))] = chance.randrange(256)
        packet = Packet(
            bytes(data),
            partial=chance.random() < 0.1,
            gso_type=chance.choice([0, 0, 0, 0, 0, 1, 4, 5]),
            gso_size=chance.choice([0, 100, 1400]),
        )
        before = sum(bench.nat.counters.values())
        out = bench.nat.translate(packet, bench.now)
        for one in out:
            check_form(one.data)
        assert out or sum(bench.nat.counters.values()) > before, "nothing vanishes uncounted"
        bench.advance(chance.random() * 5)
    assert bench.flows == sum(table.count for table in bench.nat.state.flows.values())
