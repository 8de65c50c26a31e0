"""Cases of Jool's RFC 7915 suite (graybox siit/7915: b, d, h, i, ja) and TAYGA's (§4.2 to §4.4,
§5.2 to §5.4 of test/translate.py) about ICMP, told for a stateful translator (peer_network.py).

The packet inside an error is one of the session's, built here in both families, so that every
byte of what comes out is known.
"""

from __future__ import annotations

import pytest

from tests.oracle import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    ICMPv6Unknown,
    Layer,
    checksum_right,
    words,
)
from tests.unit.peer_network import (
    ICMP,
    IP,
    N4,
    N4_AS6,
    N6,
    OWN6,
    POOL,
    TCP,
    UDP,
    IPv6,
    Raw,
    graybox,
    icmp4,
    same,
    to_n4,
    to_n6,
)
from translate.reasons import Reason

BYTES = bytes(range(256)) * 8
ROUTER6 = "2001:db8:f00f::1"


@pytest.fixture
def bench():
    bench = graybox()
    for kind in (UDP, TCP):
        flags = {"flags": "S"} if kind is TCP else {}
        bench.send(to_n4(kind(sport=2000, dport=4000, **flags)))
        # The other way, for errors from n6.
        bench.send(to_n6(kind(sport=4000, dport=2000, **flags)))
    bench.send(to_n4(ICMPv6EchoRequest(id=1)))
    return bench


def one(bench, packet):
    (out,) = bench.send(packet)
    return out.data


# -- what is inside, in both families -----------------------------------------------------


def n6_sent_4(size: int, upper: type[Layer] = UDP) -> bytes:
    """n6's packet as n4's side has it, with `size` bytes of data."""
    return bytes(IP(src=POOL, dst=N4, ttl=60) / upper(sport=2000, dport=4000) / Raw(BYTES[:size]))


def n6_sent_6(size: int, upper: type[Layer] = UDP) -> bytes:
    """The same as n6 knows it."""
    head = IPv6(src=N6, dst=N4_AS6, hlim=60)
    return bytes(head / upper(sport=2000, dport=4000) / Raw(BYTES[:size]))


def n4_sent_6(size: int, upper: type[Layer] = UDP) -> bytes:
    """n4's packet as n6's side has it."""
    head = IPv6(src=N4_AS6, dst=N6, hlim=60)
    return bytes(head / upper(sport=4000, dport=2000) / Raw(BYTES[:size]))


def n4_sent_4(size: int, upper: type[Layer] = UDP, **ip: object) -> bytes:
    """The same as n4 knows it; the identification is not known any more, nor DF (RFC 7915 §5.1)."""
    total = 20 + (8 if upper is UDP else 20) + size
    head = IP(src=N4, dst=POOL, ttl=60, id=0, flags="DF" if total > 1260 else 0)
    return bytes(head / upper(sport=4000, dport=2000) / Raw(BYTES[:size]))


def error4(kind: int, code: int, second: int, body: bytes, src: str = N4, **ip: object) -> bytes:
    """An ICMPv4 error to the pool; `second` is the second word of its header."""
    message = bytes((kind, code, 0, 0)) + second.to_bytes(4, "big") + body
    checksum = 0xFFFF - words(message)
    message = message[:2] + checksum.to_bytes(2, "big") + message[4:]
    return bytes(IP(src=src, dst=POOL, proto=1, **ip) / Raw(message))


def error6(
    kind: int, code: int, second: int, body: bytes, src: str = N6, dst: str = N4_AS6, **ip: object
) -> bytes:
    """An ICMPv6 error."""
    message = bytes((kind, code, 0, 0)) + second.to_bytes(4, "big") + body
    head = bytes(IPv6(src=src, dst=dst, nh=58, **ip) / Raw(message))
    pseudo = head[8:40] + len(message).to_bytes(4, "big") + b"\0\0\0\x3a"
    checksum = 0xFFFF - words(pseudo + message)
    return head[:42] + checksum.to_bytes(2, "big") + head[44:]


def to_n6_as_6(kind: int, code: int, second: int, body: bytes, src: str = N4_AS6) -> bytes:
    """What n6 gets for an error from n4 with TTL 64."""
    return error6(kind, code, second, body, src=src, dst=N6, hlim=63)


def to_n4_as_4(got: bytes, kind: int, code: int, second: int, body: bytes) -> bytes:
    """What n4 gets for an error from n6, with the identification of what it got."""
    message = bytes((kind, code, 0, 0)) + second.to_bytes(4, "big") + body
    message = message[:2] + (0xFFFF - words(message)).to_bytes(2, "big") + message[4:]
    ident = int.from_bytes(got[4:6], "big")
    return bytes(IP(src=POOL, dst=N4, ttl=63, proto=1, id=ident) / Raw(message))


# -- TAYGA §4.2: every type and code ------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reply"), [(8, ICMPv6EchoRequest), (0, ICMPv6EchoReply)], ids=["request", "reply"]
)
def test_echo_inwards(bench, kind, reply):
    """ "Echo Request", "Echo Reply": here of a static mapping, with its identifier."""
    got = one(bench, to_n6(ICMP(type=kind, id=1, seq=9) / Raw(BYTES[:40])))
    same(got, IPv6(src=N4_AS6, dst=N6, hlim=63) / reply(id=1, seq=9, data=BYTES[:40]))


@pytest.mark.parametrize("kind", [4, 5, 6, 7, 9, 10, 13, 14, 15, 16, 17, 18, 42, 43])
def test_unusual_types_inwards(bench, kind):
    """Source quench to extended echo: nothing comes out, not even an error."""
    packet = to_n6(ICMP(type=kind) / Raw(n6_sent_4(8)))
    assert bench.refused(packet, Reason.ICMP_TYPE) == []


UNREACHABLE = {
    0: (1, 0),
    1: (1, 0),
    3: (1, 4),
    5: (1, 0),
    6: (1, 0),
    7: (1, 0),
    8: (1, 0),
    9: (1, 1),
    10: (1, 1),
    11: (1, 0),
    12: (1, 0),
    13: (1, 1),
    14: None,
    15: (1, 1),
    16: None,
}


@pytest.mark.parametrize("code", UNREACHABLE)
def test_destination_unreachable_inwards(bench, code):
    packet = error4(3, code, 0, n6_sent_4(8))
    expected = UNREACHABLE[code]
    if expected is None:
        assert bench.refused(packet, Reason.ICMP_TYPE) == []
    else:
        same(one(bench, packet), to_n6_as_6(*expected, 0, n6_sent_6(8)))


def test_protocol_unreachable_inwards(bench):
    """Points to the next header."""
    same(one(bench, error4(3, 2, 0, n6_sent_4(8))), to_n6_as_6(4, 1, 6, n6_sent_6(8)))


@pytest.mark.parametrize(
    ("mtu", "expected"),
    [
        (1440, 1460),
        (1496, 1500),
        (1600, 1500),
        (1200, 1280),
        (1261, 1281),
        (1260, 1280),
        (1259, 1280),
        (1400, 1420),
        (68, 1280),
        (1, 1280),
        (65535, 1500),
    ],
)
def test_fragmentation_needed_inwards(bench, mtu, expected):
    """TAYGA's four MTUs, and db 1 to 3 with a packet of 1262 bytes inside."""
    same(one(bench, error4(3, 4, mtu, n6_sent_4(8))), to_n6_as_6(2, 0, expected, n6_sent_6(8)))
    got = one(bench, error4(3, 4, mtu, n6_sent_4(1234)))
    same(got, to_n6_as_6(2, 0, expected, n6_sent_6(1234)[:1232]))


POINTERS4 = {
    0: 0,
    1: 1,
    2: 4,
    3: 4,
    8: 7,
    9: 6,
    **dict.fromkeys(range(12, 16), 8),
    **dict.fromkeys(range(16, 20), 24),
}


@pytest.mark.parametrize("code", [0, 1, 2, 3, 6])
@pytest.mark.parametrize("pointer", range(22))
def test_parameter_problem_inwards(bench, code, pointer):
    """Figure 3 of RFC 7915, "Pointer indicates" and "Bad Length"; others are dropped.

    An older version of TAYGA's suite wanted "Missing Required Option" (code 1) translated.
    """
    packet = error4(12, code, pointer << 24, n6_sent_4(8))
    if code in (0, 2) and pointer in POINTERS4:
        same(one(bench, packet), to_n6_as_6(4, 0, POINTERS4[pointer], n6_sent_6(8)))
    else:
        assert bench.refused(packet, Reason.ICMP_TYPE) == []


@pytest.mark.parametrize("code", [0, 1, 2])
def test_time_exceeded_inwards(bench, code):
    packet = error4(11, code, 0, n6_sent_4(8))
    if code < 2:
        same(one(bench, packet), to_n6_as_6(3, code, 0, n6_sent_6(8)))
    else:
        assert bench.refused(packet, Reason.ICMP_TYPE) == []


# -- TAYGA §5.2 ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "kind"), [(ICMPv6EchoRequest, 8), (ICMPv6EchoReply, 0)], ids=["request", "reply"]
)
def test_echo_outwards(bench, message, kind):
    got = one(bench, to_n4(message(id=1, seq=21, data=BYTES[:40])))
    expected = IP(src=POOL, dst=N4, ttl=63) / ICMP(type=kind, id=1, seq=21) / Raw(BYTES[:40])
    same(got, expected, free=True)


@pytest.mark.parametrize("kind", [130, 131, 132, 133, 134, 135, 136, 137, 143, 200])
@pytest.mark.parametrize("size", [0, 20])
def test_other_messages_outwards(bench, kind, size):
    """MLD, neighbour discovery, unknown informational messages: nothing comes out."""
    before = dict(bench.nat.counters)
    assert bench.send(to_n4(ICMPv6Unknown(type=kind, code=0) / Raw(bytes(size)))) == []
    assert bench.nat.counters != before


@pytest.mark.parametrize("kind", [5, 100, 101, 127])
def test_unknown_errors_outwards(bench, kind):
    assert bench.refused(error6(kind, 0, 0, n4_sent_6(8)), Reason.ICMP_TYPE) == []


@pytest.mark.parametrize("src", [N6, ROUTER6])
@pytest.mark.parametrize(
    ("code", "expected"), [(0, 1), (1, 10), (2, 1), (3, 1), (4, 3), (5, None), (8, None)]
)
def test_destination_unreachable_outwards(bench, src, code, expected):
    """Also from a router that has no IPv4 address: it appears as ours (RFC 6791)."""
    packet = error6(1, code, 0, n4_sent_6(8), src=src)
    if expected is None:
        assert bench.refused(packet, Reason.ICMP_TYPE) == []
    else:
        got = one(bench, packet)
        same(got, to_n4_as_4(got, 3, expected, 0, n4_sent_4(8)))


@pytest.mark.parametrize("src", [N6, ROUTER6])
@pytest.mark.parametrize(
    ("mtu", "expected"), [(1360, 1340), (1600, 1480), (1280, 1260), (1400, 1380), (1500, 1480)]
)
def test_packet_too_big_outwards(bench, src, mtu, expected):
    got = one(bench, error6(2, 0, mtu, n4_sent_6(8), src=src))
    same(got, to_n4_as_4(got, 3, 4, expected, n4_sent_4(8)))


def test_packet_too_big_about_tcp(bench):
    """da: a packet with DF, cut to 548 bytes."""
    got = one(bench, error6(2, 0, 1280, n4_sent_6(1221, TCP)[:1232]))
    assert len(got) == 576
    same(got, to_n4_as_4(got, 3, 4, 1260, n4_sent_4(1221, TCP)[:548]))


@pytest.mark.parametrize("src", [N6, ROUTER6])
@pytest.mark.parametrize("code", [0, 1])
def test_time_exceeded_outwards(bench, src, code):
    got = one(bench, error6(3, code, 0, n4_sent_6(8), src=src))
    same(got, to_n4_as_4(got, 11, code, 0, n4_sent_4(8)))


def figure6(pointer):
    if pointer < 2:
        return pointer
    if pointer < 8:
        return {4: 2, 5: 2, 6: 9, 7: 8}.get(pointer)
    return None if pointer > 39 else 12 if pointer < 24 else 16


@pytest.mark.parametrize("pointer", range(42))
def test_parameter_problem_outwards(bench, pointer):
    packet = error6(4, 0, pointer, n4_sent_6(8))
    expected = figure6(pointer)
    if expected is None:
        assert bench.refused(packet, Reason.ICMP_TYPE) == []
    else:
        got = one(bench, packet)
        same(got, to_n4_as_4(got, 12, 0, expected << 24, n4_sent_4(8)))


def test_unknown_next_header_outwards(bench):
    got = one(bench, error6(4, 1, 40, n4_sent_6(8)))
    same(got, to_n4_as_4(got, 3, 2, 0, n4_sent_4(8)))
    assert bench.refused(error6(4, 2, 40, n4_sent_6(8)), Reason.ICMP_TYPE) == []


# -- TAYGA §4.4, §5.4: what the translator answers itself -----------------------------------


@pytest.mark.parametrize(
    "upper",
    [UDP(sport=4000, dport=2000) / Raw(BYTES[:64]), ICMP(type=8, id=1, seq=71)],
    ids=["udp", "echo"],
)
def test_ttl_runs_out(bench, upper):
    packet = to_n6(upper, ttl=1)
    (answer,) = bench.refused(packet, Reason.HOP_LIMIT)
    same(answer.data, IP(src=POOL, dst=N4, tos=0xC0) / icmp4(11, 0, packet), free=True)


def test_ttl_of_an_error_runs_out(bench):
    assert bench.refused(error4(3, 0, 0, n6_sent_4(8), ttl=1), Reason.HOP_LIMIT) == []


@pytest.mark.parametrize(
    "upper",
    [UDP(sport=2000, dport=4000) / Raw(BYTES[:64]), ICMPv6EchoRequest(id=1, seq=89)],
    ids=["udp", "echo"],
)
def test_hop_limit_runs_out(bench, upper):
    packet = to_n4(upper, hlim=1)
    (answer,) = bench.refused(packet, Reason.HOP_LIMIT)
    same(answer.data, IPv6(src=OWN6, dst=N6, hlim=64) / ICMPv6TimeExceeded(code=0) / packet)


def test_an_echo_reply_is_not_answered(bench):
    """ "Hop Limit Exceeded (ICMP Error)": the suite sends an echo reply. RFC 7915 §5.4 answers no
    ICMPv6 message at all; that a ping is answered all the same is in the test above.
    """
    assert bench.refused(to_n4(ICMPv6EchoReply(id=1), hlim=1), Reason.HOP_LIMIT) == []


@pytest.mark.parametrize("protocol", [16, 33, 47, 50])
def test_another_protocol_for_the_translator_itself(bench, protocol):
    """ "Proto Unreach" (RFC 8200 §4, RFC 4443 §3.4): unrecognised next header, with its place."""
    packet = IPv6(src=N6, dst=OWN6, nh=protocol) / Raw(BYTES[:128])
    (answer,) = bench.refused(packet, Reason.UNKNOWN_PROTOCOL)
    same(answer.data, IPv6(src=OWN6, dst=N6, hlim=64) / ICMPv6ParamProblem(code=1, ptr=6) / packet)


def test_another_protocol_for_the_translator_behind_options(bench):
    options = bytes((16, 0, 1, 4, 0, 0, 0, 0))
    packet = IPv6(src=N6, dst=OWN6, nh=60) / Raw(options + BYTES[:32])
    (answer,) = bench.refused(packet, Reason.UNKNOWN_PROTOCOL)
    expected = IPv6(src=OWN6, dst=N6, hlim=64) / ICMPv6ParamProblem(code=1, ptr=40) / packet
    same(answer.data, expected)


# -- b: sizes -----------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "total"), [(344, 440), (1444, 1280), (1224, 1280), (1205, 1280)])
@pytest.mark.parametrize("lowest", [1280, 1500])
def test_sizes_inwards(size, total, lowest):
    """ba, bb, bc; ja: `lowest_ipv6_mtu` does not change how long an error may be."""
    bench = graybox(lowest_ipv6_mtu=lowest)
    bench.send(to_n4(UDP(sport=2000, dport=4000)))
    got = one(bench, error4(3, 3, 0, n6_sent_4(size)))
    assert len(got) == total
    same(got, to_n6_as_6(1, 4, 0, n6_sent_6(size)[:1232]))


@pytest.mark.parametrize(("size", "total"), [(304, 360), (604, 576), (520, 576), (521, 576)])
def test_sizes_outwards(bench, size, total):
    """bd, be: 576 bytes."""
    got = one(bench, error6(1, 4, 0, n4_sent_6(size)))
    assert len(got) == total
    same(got, to_n4_as_4(got, 3, 3, 0, n4_sent_4(size)[:548]))


@pytest.mark.parametrize("src", ["127.0.0.1", "0.0.0.0"])
def test_an_illegal_source(bench, src):
    """ha 1, 2: it crosses, and is seen under the prefix (RFC 7915 §4.1)."""
    got = one(bench, error4(11, 0, 0, n6_sent_4(8), src=src))
    same(got, to_n6_as_6(3, 0, 0, n6_sent_6(8), src=f"64:ff9b::{src}"))


# -- i: extensions (RFC 4884), opaque and valid ---------------------------------------------


def extension(size: int) -> bytes:
    """graybox's: bytes that are no valid structure. They are none of a translator's business."""
    return BYTES[:size]


MPLS = bytes.fromhex("2000cf7e0008010100101140")


def attribute4(units: int) -> int:
    return units << 16


def attribute6(units: int) -> int:
    return units << 24


def crosses_4_to_6(bench, size, before, behind, after, cut, *, upper=UDP, padding=0):
    """An ICMPv4 error with length `before` becomes one with `after`, its original cut to `cut`."""
    inner = n6_sent_4(size, upper) + bytes(padding)
    assert len(inner) == before * 4
    got = one(bench, error4(3, 3, attribute4(before), inner + behind))
    body = n6_sent_6(size, upper)[:cut].ljust(after * 8, b"\0") + behind
    assert checksum_right(got)
    same(got, to_n6_as_6(1, 4, attribute6(after), body))
    return got


def crosses_6_to_4(bench, size, before, behind, after, cut, *, upper=UDP, padding=0):
    inner = n4_sent_6(size, upper) + bytes(padding)
    assert len(inner) == before * 8
    got = one(bench, error6(1, 4, attribute6(before), inner + behind))
    body = n4_sent_4(size, upper)[:cut].ljust(after * 4, b"\0") + behind
    same(got, to_n4_as_4(got, 3, 3, attribute4(after), body))
    return got


@pytest.mark.parametrize("behind", [extension(20), MPLS], ids=["opaque", "mpls"])
def test_small_extensions(bench, behind):
    """ia 1, 2."""
    crosses_6_to_4(bench, 68, 16, behind, 32, 108, upper=TCP)
    crosses_4_to_6(bench, 88, 32, behind, 19, 148, upper=TCP)


def test_padding(bench):
    """ib 1 to 3: units of 4 and of 8 bytes; an original without padding that is too short.

    The suite's lengths for 2 and 3 are those of before the original grew by 20 bytes.
    """
    crosses_6_to_4(bench, 61, 16, extension(20), 32, 101, upper=TCP, padding=7)
    crosses_4_to_6(bench, 86, 32, extension(20), 19, 146, upper=TCP, padding=2)
    crosses_4_to_6(bench, 84, 31, extension(20), 18, 144, upper=TCP)


@pytest.mark.parametrize(
    ("size", "before"), [(480, 66), (488, 67), (1144, 149)], ids=["ic1", "ic2", "ic3"]
)
def test_the_original_gives_way_outwards(bench, size, before):
    """ic 1, 2, 3: the extension stays whole, the original has what is left of 576 bytes."""
    got = crosses_6_to_4(bench, size, before, extension(40), 127, 508)
    assert len(got) == 576


def test_extension_that_just_fits_outwards(bench):
    """ic 4: 128 bytes of original and 420 of extension."""
    assert len(crosses_6_to_4(bench, 80, 16, extension(420), 32, 108)) == 576


def test_extension_too_large_outwards(bench):
    """ic 5: left out whole, with the padding and the length."""
    got = one(bench, error6(1, 4, attribute6(16), n4_sent_6(80) + extension(421)))
    same(got, to_n4_as_4(got, 3, 3, 0, n4_sent_4(80)))


def test_both_too_large_outwards(bench):
    """ic 6."""
    got = one(bench, error6(1, 4, attribute6(72), n4_sent_6(528) + extension(521)))
    assert len(got) == 576
    same(got, to_n4_as_4(got, 3, 3, 0, n4_sent_4(528)[:548]))


INWARDS = {
    "ida": (104, 33, 40, 19, 152),
    "idb": (544, 143, 640, 74, 592),
    "idc": (992, 255, 192, 130, 1040),
    "idd": (104, 33, 1080, 19, 152),
    "ide": (552, 145, 640, 74, 592),
    "idf": (992, 255, 200, 129, 1032),
    "idg": (992, 255, 1104, 16, 128),
    "idz": (548, 144, 640, 74, 592),
    "idy": (992, 255, 640, 74, 592),
}


@pytest.mark.parametrize("name", INWARDS)
def test_extensions_inwards(bench, name):
    """id: within 1280 bytes both are whole; beyond, the original gives way down to 128 bytes."""
    size, before, behind, after, cut = INWARDS[name]
    got = crosses_4_to_6(bench, size, before, extension(behind), after, cut)
    assert len(got) == 1280 or name == "ida"


@pytest.mark.parametrize(("size", "before"), [(100, 32), (992, 255)], ids=["idh", "idi"])
def test_extension_too_large_inwards(bench, size, before):
    got = one(bench, error4(3, 3, attribute4(before), n6_sent_4(size) + extension(1105)))
    same(got, to_n6_as_6(1, 4, 0, n6_sent_6(size)))


def interface_index(index):
    """RFC 5837: role 0, with an index."""
    body = bytes.fromhex("2000000000080208") + index.to_bytes(4, "big")
    return body[:2] + (0xFFFF - words(body)).to_bytes(2, "big") + body[4:]


def test_extension_behind_a_cut_original(bench):
    """TAYGA, "Extension Misaligned v4": 128 bytes of 512 become 148, padded to 152."""
    inner = n6_sent_4(484)[:128]
    got = one(bench, error4(11, 0, attribute4(32), inner + interface_index(6)))
    body = n6_sent_6(484)[:148].ljust(152, b"\0") + interface_index(6)
    same(got, to_n6_as_6(3, 0, attribute6(19), body))


def test_extension_behind_a_whole_original(bench):
    """TAYGA, "Extension Aligned v6 short": 108 bytes are padded to 128."""
    crosses = one(bench, error6(3, 0, attribute6(16), n4_sent_6(80) + interface_index(6)))
    body = n4_sent_4(80).ljust(128, b"\0") + interface_index(6)
    same(crosses, to_n4_as_4(crosses, 11, 0, attribute4(32), body))


# -- an error inside an error ---------------------------------------------------------------


def test_two_packets_inside_each_other(bench):
    """TAYGA §4.3, §5.3 "Two Nested Headers": dropped (RFC 7915)."""
    inner = error4(3, 3, 0, n6_sent_4(8))
    assert bench.refused(error4(11, 0, 0, inner), Reason.ICMP_INNER) == []
    inner = error6(1, 4, 0, n4_sent_6(8))
    assert bench.refused(error6(3, 0, 0, inner), Reason.ICMP_INNER) == []


def test_classes_of_scapy_agree():
    """The errors built here by hand are those that scapy reads."""
    assert IPv6(error6(2, 0, 1400, n4_sent_6(8)))[ICMPv6PacketTooBig].mtu == 1400
    assert IPv6(error6(1, 4, 0, n4_sent_6(8)))[ICMPv6DestUnreach].code == 4
    assert IP(error4(3, 4, 1400, n6_sent_4(8)))[ICMP].nexthopmtu == 1400
