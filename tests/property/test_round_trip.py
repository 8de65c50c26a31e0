"""There and back: what crosses and is mirrored by the far end returns as it began.

The mirror swaps addresses and ports, which no checksum notices. So every bit that comes back
has been through RFC 7915 §4.1 and §5.1, and anything lost or repaired shows.
"""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from tests.oracle import (
    CLIENT,
    ICMP,
    IP,
    LINK,
    POOL,
    SERVER,
    SERVER6,
    TCP,
    UDP,
    Bench,
    ICMPv6EchoRequest,
    IPv6,
    Raw,
    checksum_right,
    echo6,
    read,
    rfc6052,
    tcp6,
    transport_sum,
    udp6,
)

byte, word = st.integers(0, 255), st.integers(0, 0xFFFF)
hops = st.integers(3, 255)
payload = st.one_of(st.binary(max_size=64), st.integers(0, 1500).map(lambda n: b"\xa5" * n))
plain_flags = st.sampled_from(["A", "PA", "UPA", "AE", "AC", "", "U"])


def mirrored(data):
    """The same packet from the other end."""
    out = bytearray(data)
    if out[0] >> 4 == 4:
        out[12:16], out[16:20], start, protocol = data[16:20], data[12:16], 20, data[9]
    else:
        out[8:24], out[24:40], start, protocol = data[24:40], data[8:24], 40, data[6]
    if protocol in (6, 17):
        out[start : start + 2], out[start + 2 : start + 4] = (
            data[start + 2 : start + 4],
            data[start : start + 2],
        )
    return bytes(out)


def checksum_at(data):
    start, protocol = (20, data[9]) if data[0] >> 4 == 4 else (40, data[6])
    return start + {6: 16, 17: 6, 1: 2, 58: 2}[protocol]


def spoiled(data, error):
    """The packet with its checksum off by `error`."""
    at = checksum_at(data)
    value = int.from_bytes(data[at : at + 2], "big")
    wrong = (value + error) % 0xFFFF or 0xFFFF
    return data[:at] + wrong.to_bytes(2, "big") + data[at + 2 :]


def same(one, other):
    """Equality, with both ways to write a checksum of zero taken as one."""
    at = checksum_at(one)
    sums = [int.from_bytes(data[at : at + 2], "big") % 0xFFFF for data in (one, other)]
    rest = [data[:at] + data[at + 2 :] for data in (one, other)]
    return sums[0] == sums[1] and rest[0] == rest[1]


@st.composite
def client_packets(draw):
    """An IPv6 packet of a client, its checksum right or off, and whether it is right."""
    ip = IPv6(
        src=CLIENT,
        dst=draw(st.sampled_from([SERVER6, rfc6052(SERVER)])),
        tc=draw(byte),
        hlim=draw(hops),
    )
    data = draw(payload)
    kind = draw(st.sampled_from(["udp", "tcp", "echo"]))
    if kind == "udp":
        ports = draw(st.integers(1, 0xFFFF)), draw(word)
        packet = ip / UDP(sport=ports[0], dport=ports[1]) / Raw(data)
    elif kind == "tcp":
        packet = ip / TCP(
            sport=draw(word),
            dport=draw(word),
            seq=draw(st.integers(0, 2**32 - 1)),
            ack=draw(st.integers(0, 2**32 - 1)),
            window=draw(word),
            urgptr=draw(word),
            flags="S" + draw(plain_flags).replace("A", ""),
            options=draw(st.sampled_from([[], [("MSS", 1440)], [("Timestamp", (1, 2))]])),
        )
        packet = packet / Raw(data)
    else:
        packet = ip / ICMPv6EchoRequest(id=draw(word), seq=draw(word), data=data)
    error = draw(st.one_of(st.just(0), st.integers(1, 0xFFFE)))
    return spoiled(bytes(packet), error), not error


@given(client_packets(), word)
def test_from_ipv6_and_back(case, label):
    packet, right = case
    labelled = bytearray(packet)
    labelled[2:4] = label.to_bytes(2, "big")
    bench = Bench()
    (there,) = bench.send(bytes(labelled), link=LINK)
    assert checksum_right(there.data) == right
    seen = read(there.data)
    assert (seen.src, seen.dst) == (POOL, SERVER)
    assert (seen.tos, seen.ttl, seen.frag) == (IPv6(packet).tc, packet[7] - 1, 0)
    assert seen.len == len(packet) - 20
    assert seen.flags == ("DF" if seen.len > 1260 else "")
    assert len(seen.payload) == len(packet) - 40
    (back,) = bench.send(mirrored(there.data))
    assert back.link == LINK
    expected = bytearray(mirrored(packet))
    expected[7] -= 2
    assert same(back.data, bytes(expected))
    assert checksum_right(back.data) == right


@st.composite
def server_packets(draw, ports):
    """An IPv4 packet of a server to one of three known flows, and whether it is right."""
    ip = IP(
        src=SERVER,
        dst=POOL,
        tos=draw(byte),
        id=draw(word),
        ttl=draw(hops),
        flags=draw(st.sampled_from(["", "DF"])),
    )
    data = draw(payload)
    kind = draw(st.sampled_from(["udp", "tcp", "echo"]))
    if kind == "udp":
        packet = ip / UDP(sport=53, dport=ports["udp"]) / Raw(data)
    elif kind == "tcp":
        packet = ip / TCP(
            sport=80,
            dport=ports["tcp"],
            seq=draw(st.integers(0, 2**32 - 1)),
            flags=draw(plain_flags),
            options=draw(st.sampled_from([[], [("Timestamp", (1, 2))]])),
        )
        packet = packet / Raw(data)
    else:
        kind4 = draw(st.sampled_from([0, 8]))
        packet = ip / ICMP(type=kind4, code=draw(byte), id=ports["echo"], seq=draw(word))
        packet = packet / Raw(data)
    error = draw(st.one_of(st.just(0), st.integers(1, 0xFFFE)))
    return spoiled(bytes(packet), error), not error


@given(st.data())
def test_from_ipv4_and_back(data):
    bench = Bench()
    ports = {
        "udp": bench.udp()[UDP].sport,
        "tcp": bench.connect(),
        "echo": bench.one(echo6())[ICMP].id,
    }
    packet, right = data.draw(server_packets(ports))
    sent = read(packet)
    out = bench.send(packet, link=LINK)
    if len(packet) > 1260 and sent.flags != "DF":
        assert all(len(part.data) <= 1280 for part in out)
        return
    (there,) = out
    seen = read(there.data)
    assert checksum_right(there.data) == right
    assert (seen.src, seen.dst) == (SERVER6, CLIENT)
    assert (seen.tc, seen.fl, seen.hlim, seen.plen) == (
        sent.tos,
        0,
        sent.ttl - 1,
        len(packet) - 20,
    )
    (back,) = bench.send(mirrored(there.data))
    expected = bytearray(mirrored(packet))
    expected[8] -= 2
    got = bytearray(back.data)
    # Identification and DF do not cross; what becomes of them is told in test_headers.
    for packet4 in (expected, got):
        packet4[4:8], packet4[10:12] = bytes(4), bytes(2)
    assert same(bytes(got), bytes(expected))
    assert checksum_right(back.data) == right


@given(st.lists(client_packets(), min_size=2, max_size=12))
def test_flows_do_not_mix(cases):
    """Many flows at once: each mirrored packet finds the way to its own client's port."""
    bench = Bench()
    sent = []
    for packet, _ in cases:
        for out in bench.send(packet):
            if out.data[0] >> 4 == 4:
                sent.append((packet, out.data))
    assume(sent)
    for packet, there in sent:
        (back,) = bench.send(mirrored(there))
        assert back.data[24:40] == packet[8:24]
        if there[9] != 1:
            assert back.data[40:44] == packet[42:44] + packet[40:42]
        else:
            assert back.data[44:46] == packet[44:46]


def test_the_mirror_itself():
    for packet in (udp6(), tcp6("S"), echo6()):
        assert mirrored(mirrored(bytes(packet))) == bytes(packet)
        assert checksum_right(mirrored(bytes(packet)))
        assert not checksum_right(spoiled(bytes(packet), 1))
        assert transport_sum(spoiled(bytes(packet), 0)) == 0xFFFF
