"""Damaged packets: nothing raises, and what comes out is a packet that a wire may carry.

Random bytes rarely get past the first check, so valid packets of every kind are damaged: bits
flipped, words overwritten, cut, extended; then, half of the time, the lengths are put right
again, so that the damage gets in deeper.
"""

from __future__ import annotations

from functools import cache

from hypothesis import given
from hypothesis import strategies as st

from tests.oracle import (
    CLIENT,
    ICMP,
    IP,
    LINK,
    OWN6,
    POOL,
    SERVER,
    SERVER6,
    UDP,
    Bench,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Raw,
    check_form,
    checksum_right,
    echo4,
    echo6,
    error4,
    error6,
    is_fragment,
    tcp4,
    tcp6,
    transport_sum,
    udp4,
    udp6,
    upper,
)
from translate.packets import Packet
from translate.settings import Filtering

EXTENSION4 = bytes.fromhex("2000 0ec8 0010020c 00000007 00010000 c6120901")
EXTENSION6 = bytes.fromhex("2000 0000 001c020c 00000007 00020000 fec000000000ffff00000000c6120901")
SYN_OPTIONS = [("MSS", 8960), ("NOP", None), ("WScale", 7), ("Timestamp", (1, 0))]


class Recorder(Bench):
    """A bench that notes what went in, so that it can be replayed without scapy."""

    def __init__(self):
        super().__init__()
        self.log = []

    def send(self, packet, **about):
        self.log.append(Packet(bytes(packet), **about))
        return super().send(packet, **about)


@cache
def kinds():
    """What makes a session of each protocol, and then one valid packet of every kind."""
    bench = Recorder()
    sent_udp = bench.send(udp6(data=b"x" * 40), link=LINK)[0].data
    port = IP(sent_udp)[UDP].sport
    tcp = bench.connect()
    ident = bench.one(echo6())[ICMP].id
    got_udp = bench.send(udp4(port, data=b"y" * 40))[0].data
    got_tcp = bench.send(tcp4("PA", tcp, data=b"z" * 40))[0].data
    sent_echo = bench.send(echo6())[0].data
    base6 = IPv6(src=CLIENT, dst=SERVER6)
    datagram = UDP(sport=40000, dport=53) / Raw(b"behind headers")
    packets = [
        udp6(data=b"x" * 40),
        udp6(sport=41000, data=b""),
        tcp6("S", sport=41000, options=SYN_OPTIONS),
        tcp6("PA", data=b"z" * 40),
        tcp6("FA"),
        tcp6("R"),
        echo6(),
        echo6(dst=OWN6),
        base6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / datagram,
        base6 / IPv6ExtHdrRouting(addresses=["2001:db8::9"], segleft=0) / datagram,
        base6 / IPv6ExtHdrFragment(m=1, id=9) / datagram,
        udp4(port, data=b"y" * 40),
        udp4(port, data=b"y" * 1400),
        tcp4("PA", tcp, data=b"z" * 40),
        tcp4("SA", tcp, options=SYN_OPTIONS),
        echo4(ident),
        IP(src=SERVER, dst=POOL, flags="MF") / UDP(sport=53, dport=port) / Raw(b"f" * 8),
        with_source_route(udp4(port)),
        error4(3, 4, 1400, sent_udp),
        error4(11, 0, 0, sent_echo),
        error4(12, 0, 8 << 24, sent_udp[:28]),
        error6(2, 0, 1400, got_tcp),
        error6(1, 4, 0, got_udp),
        error6(4, 0, 7, got_udp[:48]),
        # Extensions (RFC 4884) with an address to translate (RFC 5837).
        error4(11, 0, 32 << 16, sent_udp.ljust(128, b"\0") + EXTENSION4),
        error6(3, 0, 16 << 24, got_udp.ljust(128, b"\0") + EXTENSION6),
    ]
    return bench.log, [bytes(packet) for packet in packets], bytes(udp6(sport=42000))


KINDS = 26


def prepared(filtering=Filtering.ENDPOINT_INDEPENDENT):
    """A translator with those sessions, and the valid packets."""
    log, packets, _ = kinds()
    assert len(packets) == KINDS
    bench = Bench(filtering=filtering)
    for packet in log:
        bench.nat.translate(packet, bench.now)
    return bench, packets


def with_source_route(packet):
    data = bytearray(bytes(packet))
    data[20:20] = bytes((0x83, 7, 8, 10, 0, 0, 1, 0))
    data[0] = 0x47
    data[2:4] = len(data).to_bytes(2, "big")
    return bytes(data)


flip = st.tuples(st.just("flip"), st.integers(0, 127), st.integers(0, 7))
overwrite = st.tuples(
    st.just("word"),
    st.integers(0, 63),
    st.sampled_from([0, 1, 7, 20, 39, 40, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF]),
)
cut = st.tuples(st.just("cut"), st.integers(0, 160), st.just(0))
extend = st.tuples(st.just("extend"), st.integers(1, 64), st.integers(0, 255))
damages = st.lists(st.one_of(flip, flip, overwrite, cut, extend), min_size=1, max_size=4)


gso_types = st.sampled_from([0, 1, 3, 4, 5, 0x80, 0x81, 0x84, 0x85, 0xFF])


def damaged(data, damage, *, repair):
    out = bytearray(data)
    for kind, where, what in damage:
        if not out:
            break
        if kind == "flip":
            out[where % len(out)] ^= 1 << what
        elif kind == "word":
            at = where * 2 % len(out)
            out[at : at + 2] = what.to_bytes(2, "big")[: len(out) - at]
        elif kind == "cut":
            del out[where:]
        else:
            out += bytes((what,)) * where
    if repair and len(out) >= 40:
        if out[0] >> 4 == 4:
            out[2:4] = len(out).to_bytes(2, "big")
        elif out[0] >> 4 == 6:
            out[4:6] = (len(out) - 40).to_bytes(2, "big")
    return bytes(out)


def assert_consistent(state):
    """What the tables say of each other holds."""
    sessions = list(state.sessions())
    assert state.session_count == len(sessions) == sum(t.count for t in state.flows.values())
    assert state.bib_count == sum(len(table) for table in state.bib6.values())
    assert state.bib_count == sum(len(table) for table in state.bib4.values())
    for client in state.clients.values():
        assert client.bibs > 0
    assert sum(c.sessions for c in state.clients.values()) == len(sessions)
    assert sum(c.bibs for c in state.clients.values()) == state.bib_count
    for table in state.flows.values():
        by4 = {id(s) for s in table.by_key4.values()}
        assert by4 == {id(s) for s in table.by_key6.values()}
        assert all(table.find4(s.key4) is s is table.find6(s.key6) for s in table.sessions())


def push(bench, packet):
    """Sends it and judges what comes out; never raises but for a finding."""
    before = sum(bench.nat.counters.values())
    out = bench.nat.translate(packet, bench.now)
    discards = sum(bench.nat.counters.values()) - before
    assert discards == (0 if out and out[0].data[0] >> 4 != packet.data[0] >> 4 else 1)
    for one in out:
        check_form(one.data)
    assert_consistent(bench.nat.state)
    return out


@given(st.sampled_from(Filtering), st.integers(0, KINDS - 1), damages, st.booleans(), st.booleans())
def test_nothing_raises_and_what_comes_out_is_whole(filtering, index, damage, repair, aged):
    bench, packets = prepared(filtering)
    if aged:
        bench.advance(61)
    data = damaged(packets[index], damage, repair=repair)
    out = push(bench, Packet(data, link=LINK))
    if len(out) == 1 and not is_fragment(out[0].data):
        judge_checksum(data, out[0].data)
    # The same translator goes on working.
    bench.send(kinds()[2])
    bench.advance(8000)
    bench.advance(300)
    assert bench.nat.state.session_count == 0
    assert_consistent(bench.nat.state)


def judge_checksum(data, out):
    """Right exactly if it was right on the way in; always where it was computed anew."""
    protocol, _, _ = upper(out)
    if data[0] >> 4 == out[0] >> 4:
        assert checksum_right(out), "an answer"
    elif protocol == 17 and upper(data)[1][6:8] == b"\0\0":
        # None in IPv4 is computed; none in IPv6, which RFC 8200 §8.1 forbids, stays none.
        assert out[0] >> 4 == 4 or checksum_right(datagram_alone(out))
    else:
        assert checksum_right(out) == checksum_right(data)
        assert transport_sum(out) % 0xFFFF == transport_sum(data) % 0xFFFF


def datagram_alone(data):
    """The packet without what is behind the end of its UDP datagram (RFC 768)."""
    start = 20 if data[0] >> 4 == 4 else 40
    length = int.from_bytes(data[start + 4 : start + 6], "big")
    assert 8 <= length <= len(data) - start
    return data[: start + length]


@given(st.integers(0, KINDS - 1), damages, st.booleans(), gso_types, st.integers(0, 0xFFFF))
def test_nothing_raises_whatever_the_device_says(index, damage, is_partial, gso_type, gso_size):
    bench, packets = prepared()
    about = {"partial": is_partial, "gso_type": gso_type, "gso_size": gso_size}
    push(bench, Packet(packets[index], **about))
    push(bench, Packet(damaged(packets[index], damage, repair=True), **about))


@given(st.binary(max_size=200))
def test_nothing_raises_for_any_bytes(data):
    bench = Bench()
    push(bench, Packet(data))


@given(st.sampled_from([4, 6]), st.binary(min_size=20, max_size=200))
def test_nothing_raises_for_any_bytes_behind_our_addresses(version, data):
    bench = Bench()
    bench.udp()
    if version == 4:
        head = bytearray(bytes(IP(src=SERVER, dst=POOL, len=20 + len(data), proto=data[0] % 20)))
    else:
        head = bytearray(bytes(IPv6(src=CLIENT, dst=SERVER6, plen=len(data), nh=data[0] % 64)))
    push(bench, Packet(bytes(head) + data))


def test_every_valid_packet_is_what_it_claims_to_be():
    """The packets that get damaged are translated or answered as long as they are whole."""
    for index in range(KINDS):
        bench, packets = prepared()
        assert push(bench, Packet(packets[index])), index
