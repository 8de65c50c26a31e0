"""Extensions of ICMP errors, towards either family (RFC 4884, RFC 5837, RFC 7915 §4.2, §5.2).

The tests build messages by hand and read what comes out by the second opinion below, which
follows the figures of the RFCs and shares nothing with the code under test.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any

import pytest

from tests.oracle import (
    CLIENT,
    OWN6,
    POOL,
    ROUTER4,
    SERVER,
    SERVER6,
    UDP,
    Bench,
    rfc6052,
    trailing,
    udp4,
    udp6,
    words,
)
from translate import icmp_extensions
from translate.addresses import Layout, Prefix6
from translate.icmp_extensions import ICMP4, ICMP6
from translate.policy import WELL_KNOWN_PREFIX

# An MPLS label stack entry (RFC 4950): opaque to a translator.
MPLS = bytes.fromhex("0008010100101140")
HOP4 = "198.18.9.1"
HOP6 = "2001:db8:ffff::9"

# RFC 5837 §4.1: what an interface information object contains.
INDEX, ADDRESS, NAME, MTU = 8, 4, 2, 1


@pytest.fixture
def bench():
    return Bench()


# -- building -----------------------------------------------------------------------------


def structure(*objects, checksum=True, version=2, reserved=0):
    """An extension structure (RFC 4884 §7)."""
    head = (version << 12 | reserved).to_bytes(2, "big")
    body = b"".join(objects)
    value = 0xFFFF - words(head + body) if checksum else 0
    return head + value.to_bytes(2, "big") + body


def interface(address="", *, role=0, index=None, name=b"", mtu=None):
    """An interface information object (RFC 5837 §4.1)."""
    kind, body = role << 6, b""
    if index is not None:
        kind, body = kind | INDEX, body + index.to_bytes(4, "big")
    if address:
        afi, packed = (2, IPv6Address(address)) if ":" in address else (1, IPv4Address(address))
        kind, body = kind | ADDRESS, body + bytes((0, afi, 0, 0)) + packed.packed
    if name:
        kind, body = kind | NAME, body + bytes((len(name) + 1,)) + name
    if mtu is not None:
        kind, body = kind | MTU, body + mtu.to_bytes(4, "big")
    return (4 + len(body)).to_bytes(2, "big") + bytes((2, kind)) + body


def outer4(kind, code, body, *, length, rest=0):
    """The bytes of an ICMPv4 error to the pool, its length attribute in 32-bit units."""
    message = bytes((kind, code, 0, 0, rest >> 24, length)) + (rest & 0xFFFF).to_bytes(2, "big")
    message += body
    message = message[:2] + (0xFFFF - words(message)).to_bytes(2, "big") + message[4:]
    head = bytes.fromhex("4500") + (20 + len(message)).to_bytes(2, "big") + bytes(4)
    head += bytes((64, 1, 0, 0)) + IPv4Address(ROUTER4).packed + IPv4Address(POOL).packed
    return head[:10] + (0xFFFF - words(head)).to_bytes(2, "big") + head[12:] + message


def outer6(kind, code, body, *, length):
    """The bytes of an ICMPv6 error to the server, its length attribute in 64-bit units."""
    message = bytes((kind, code, 0, 0, length, 0, 0, 0)) + body
    addresses = IPv6Address(HOP6).packed + IPv6Address(SERVER6).packed
    pseudo = addresses + len(message).to_bytes(4, "big") + bytes((0, 0, 0, 58))
    checksum = 0xFFFF - words(pseudo + message)
    message = message[:2] + checksum.to_bytes(2, "big") + message[4:]
    return (
        bytes.fromhex("60000000")
        + len(message).to_bytes(2, "big")
        + b"\x3a\x40"
        + (addresses + message)
    )


def sent4(bench, size=100):
    """(the IPv4 packet that the translator let out, the IPv6 packet that the client sent)."""
    sent = udp6(data=(bytes(range(1, 101)) * 20)[:size], hlim=64)
    out = bench.send(sent)[0].data
    sent.hlim = 63
    return out, bytes(sent)


def sent6(bench, size=100):
    """(the IPv6 packet that the translator let out, the IPv4 packet that the server sent)."""
    port = bench.udp()[UDP].sport
    data = (bytes(range(1, 101)) * 20)[:size]
    sent = udp4(port, data=data, ttl=64, flags="DF")
    out = bench.send(sent)[0].data
    expected = bytearray(bytes(sent))
    expected[8] = 63
    return out, bytes(expected)


# -- the second opinion -------------------------------------------------------------------


def read4(data):
    """(type, code, length attribute in bytes, original, extension) of an ICMPv4 error."""
    assert data[0] == 0x45
    assert data[9] == 1
    assert words(data[20:]) == 0xFFFF
    message = data[20:]
    length = message[5] * 4
    at = 8 + length if length else len(message)
    return message[0], message[1], length, message[8:at], message[at:]


def read6(data):
    """(type, code, length attribute in bytes, original, extension) of an ICMPv6 error."""
    assert data[6] == 58
    message = data[40:]
    assert words(data[8:40] + len(message).to_bytes(4, "big") + bytes((0, 0, 0, 58)) + message) == (
        0xFFFF
    )
    length = message[4] * 8
    at = 8 + length if length else len(message)
    return message[0], message[1], length, message[8:at], message[at:]


def objects_of(extension):
    """The objects; asserts that the structure is what RFC 4884 §7 says."""
    assert extension[0] >> 4 == 2
    assert extension[2:4] == b"\0\0" or words(extension) == 0xFFFF
    found, at = [], 4
    while at < len(extension):
        size = int.from_bytes(extension[at : at + 2], "big")
        assert size >= 4
        assert size % 4 == 0
        found.append(extension[at : at + size])
        at += size
    assert at == len(extension)
    assert found
    return found


def same_but_for_ident(got, expected):
    """Compares IPv4 packets without identification, flags and header checksum."""
    assert got[:4] == expected[:4]
    assert got[8:10] == expected[8:10]
    assert got[12:] == expected[12 : len(got)]
    assert words(got[:20]) == 0xFFFF


# -- from IPv4 ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "code", "expected"), [(3, 0, (1, 0)), (3, 3, (1, 4)), (3, 13, (1, 1)), (11, 0, (3, 0))]
)
@pytest.mark.parametrize("size", [0, 1, 100, 101, 107, 108, 200])
def test_rfc7915_4_2_the_extension_crosses_with_its_length(bench, kind, code, expected, size):
    """The original grows by 20 bytes and is padded to 64 bits; the extension stays."""
    out, sent = sent4(bench, size)
    padded = out.ljust(max(128, -(-len(out) // 4) * 4), b"\0")
    extension = structure(MPLS)
    (answer,) = bench.send(outer4(kind, code, padded + extension, length=len(padded) // 4))
    got = read6(answer.data)
    assert got[:2] == expected
    assert got[2] == max(128, -(-len(sent) // 8) * 8)
    assert got[3] == sent.ljust(got[2], b"\0")
    assert got[4] == extension
    assert answer.data[45:48] == bytes(3)


def test_rfc4884_4_an_original_cut_to_128_bytes(bench):
    out, sent = sent4(bench, 400)
    (answer,) = bench.send(outer4(11, 0, out[:128] + structure(MPLS), length=32))
    _, _, length, original, extension = read6(answer.data)
    assert length == 152
    assert original == sent[:148] + bytes(4)
    assert extension == structure(MPLS)


@pytest.mark.parametrize(
    ("kind", "code", "rest", "expected"),
    [(3, 4, 1400, (2, 0, 1420)), (3, 2, 0, (4, 1, 6)), (12, 0, 8 << 24, (4, 0, 7))],
)
def test_rfc4884_4_6_not_to_types_without_length(bench, kind, code, rest, expected):
    """Packet Too Big and the ICMPv6 parameter problem: their second word is something else."""
    out, sent = sent4(bench, 150)
    padded = out.ljust(180, b"\0")
    (answer,) = bench.send(outer4(kind, code, padded + structure(MPLS), length=45, rest=rest))
    message = answer.data[40:]
    assert (message[0], message[1], int.from_bytes(message[4:8], "big")) == expected
    assert message[8:] == sent


def test_rfc4884_4_the_length_attribute_ends_the_original(bench):
    """Even where the original says that it is longer, what follows is no part of it."""
    out, sent = sent4(bench, 400)
    for kind, code, rest in ((11, 0, 0), (3, 1, 0), (3, 4, 1400), (12, 0, 8 << 24)):
        (answer,) = bench.send(outer4(kind, code, out[:132] + b"\xee" * 40, length=33, rest=rest))
        carried = answer.data[40] in (1, 3)
        assert answer.data[48:] == sent[:152] + (b"\xee" * 40 if carried else b"")
        if carried:
            assert answer.data[44] == 19


@pytest.mark.parametrize("kind", [3, 11])
@pytest.mark.parametrize("length", [64, 255])
def test_a_length_beyond_the_message_is_none(bench, kind, length):
    """The octet had no meaning before RFC 4884; some routers left something there."""
    out, sent = sent4(bench, 200)
    (answer,) = bench.send(outer4(kind, 1, out, length=length))
    assert len(out) < length * 4
    assert read6(answer.data)[2:4] == (0, sent)


@pytest.mark.parametrize("length", [1, 7, 31])
def test_a_length_below_128_bytes_is_none_where_no_extension_follows(bench, length):
    out, sent = sent4(bench, 200)
    (answer,) = bench.send(outer4(11, 0, out, length=length))
    assert read6(answer.data)[2:4] == (0, sent)


def test_a_length_below_128_bytes_is_one_where_an_extension_follows(bench):
    out, sent = sent4(bench, 36)
    assert len(out) == 64
    (answer,) = bench.send(outer4(11, 0, out + structure(MPLS), length=16))
    _, _, length, original, extension = read6(answer.data)
    assert (length, original) == (128, sent.ljust(128, b"\0"))
    assert extension == structure(MPLS)


@pytest.mark.parametrize("kind", [3, 11])
def test_rfc4884_5_4_without_length_nothing_is_an_extension(bench, kind):
    out, sent = sent4(bench, 400)
    (answer,) = bench.send(outer4(kind, 1, out[:128] + structure(MPLS), length=0))
    _, _, length, original, _ = read6(answer.data)
    assert length == 0
    assert original == sent[:148] + structure(MPLS)


# -- size towards IPv6 --------------------------------------------------------------------


@pytest.mark.parametrize("size", [1000, 1100, 1150, 1200, 1400])
@pytest.mark.parametrize("count", [1, 2, 13])
def test_rfc4884_3_towards_ipv6_the_original_gives_way(bench, size, count):
    out, sent = sent4(bench, size)
    length = len(out) // 4 * 4 if len(out) // 4 <= 255 else 1020
    extension = structure(*[MPLS] * count)
    (answer,) = bench.send(outer4(11, 0, out[:length] + extension, length=length // 4))
    got = read6(answer.data)
    assert len(answer.data) <= 1280
    assert got[4] == extension
    room = (1232 - len(extension)) // 8 * 8
    assert got[2] == min(room, -(-(length + 20) // 8) * 8)
    assert got[3] == sent[: min(length + 20, got[2])].ljust(got[2], b"\0")


@pytest.mark.parametrize(("count", "fits"), [(100, True), (137, True), (138, False), (150, False)])
def test_rfc7915_4_2_a_large_extension_whole_or_not_at_all(bench, count, fits):
    """48 bytes of headers, 128 of the original and 1104 of extension make 1280."""
    out, sent = sent4(bench, 400)
    extension = structure(*[MPLS] * count)
    (answer,) = bench.send(outer4(11, 0, out + extension, length=len(out) // 4))
    _, _, length, original, got = read6(answer.data)
    if fits:
        assert got == extension
        assert length == min((1232 - len(extension)) // 8 * 8, 448)
        assert original == sent[:length]
        assert len(answer.data) <= 1280
    else:
        assert (length, got, original) == (0, b"", sent)


# -- from IPv6 ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "code", "expected"), [(1, 0, (3, 1)), (1, 4, (3, 3)), (1, 1, (3, 10)), (3, 0, (11, 0))]
)
@pytest.mark.parametrize("size", [0, 1, 80, 99, 100, 101, 200])
def test_rfc7915_5_2_the_extension_crosses_with_its_length(bench, kind, code, expected, size):
    """The original shrinks by 20 bytes and is padded to 32 bits and to 128 bytes."""
    out, sent = sent6(bench, size)
    padded = out.ljust(max(128, -(-len(out) // 8) * 8), b"\0")
    extension = structure(MPLS)
    (answer,) = bench.send(outer6(kind, code, padded + extension, length=len(padded) // 8))
    got = read4(answer.data)
    assert got[:2] == expected
    assert got[2] == max(128, -(-len(sent) // 4) * 4)
    same_but_for_ident(got[3][: len(sent)], sent)
    assert got[3][len(sent) :] == bytes(got[2] - len(sent))
    assert got[4] == extension
    assert answer.data[24] == 0
    assert answer.data[26:28] == bytes(2)


def test_rfc4884_4_an_original_cut_to_128_bytes_v6(bench):
    out, sent = sent6(bench, 400)
    (answer,) = bench.send(outer6(3, 0, out[:128] + structure(MPLS), length=16))
    _, _, length, original, extension = read4(answer.data)
    assert length == 128
    same_but_for_ident(original[:108], sent)
    assert original[108:] == bytes(20)
    assert extension == structure(MPLS)


@pytest.mark.parametrize(("kind", "value"), [(2, 0x10000500), (4, 0x06)])
def test_rfc4884_4_6_no_length_in_packet_too_big_and_parameter_problem(bench, kind, value):
    """What looks like one there is part of the MTU or of the pointer."""
    out, sent = sent6(bench, 400)
    packet = bytearray(outer6(kind, 0, out[:128] + structure(MPLS), length=0))
    old = words(packet[44:48])
    packet[44:48] = value.to_bytes(4, "big")
    checksum = 0xFFFF - int.from_bytes(packet[42:44], "big")
    checksum += words(packet[44:48]) + 0xFFFF - old
    checksum = 0xFFFF - words((checksum % 0xFFFF).to_bytes(2, "big"))
    packet[42:44] = checksum.to_bytes(2, "big")
    (answer,) = bench.send(packet)
    assert answer.data[25] == 0
    same_but_for_ident(answer.data[28:136], sent)
    assert answer.data[136:] == structure(MPLS)


@pytest.mark.parametrize("length", [1, 7, 15])
def test_a_length_below_128_bytes_is_none_where_no_extension_follows_v6(bench, length):
    out, sent = sent6(bench, 180)
    (answer,) = bench.send(outer6(3, 0, out, length=length))
    _, _, found, original, _ = read4(answer.data)
    assert found == 0
    same_but_for_ident(original, sent)


@pytest.mark.parametrize("length", [31, 255])
def test_a_length_beyond_the_message_is_none_v6(bench, length):
    out, sent = sent6(bench, 180)
    (answer,) = bench.send(outer6(3, 0, out, length=length))
    assert len(out) < length * 8
    _, _, length, original, _ = read4(answer.data)
    assert length == 0
    same_but_for_ident(original, sent)


@pytest.mark.parametrize("size", [300, 500, 520, 600, 1000])
@pytest.mark.parametrize("count", [1, 2, 13])
def test_rfc4884_3_towards_ipv4_the_original_gives_way(bench, size, count):
    out, sent = sent6(bench, size)
    length = len(out) // 8 * 8
    extension = structure(*[MPLS] * count)
    (answer,) = bench.send(outer6(3, 0, out[:length] + extension, length=length // 8))
    got = read4(answer.data)
    assert len(answer.data) <= 576
    assert got[4] == extension
    assert got[2] == min((548 - len(extension)) // 4 * 4, length - 20)
    same_but_for_ident(got[3], sent)


@pytest.mark.parametrize(("count", "fits"), [(52, True), (53, False)])
def test_rfc4884_7_a_large_extension_to_ipv4_whole_or_not_at_all(bench, count, fits):
    """28 bytes of headers, 128 of the original and 420 of extension make 576."""
    out, sent = sent6(bench, 500)
    extension = structure(*[MPLS] * count)
    (answer,) = bench.send(outer6(3, 0, out[:544] + extension, length=68))
    _, _, length, original, got = read4(answer.data)
    if fits:
        assert got == extension
        assert (len(answer.data), length) == (576, 128)
    else:
        assert (length, got, len(original)) == (0, b"", 524)
    same_but_for_ident(original, sent)


# -- malformed extensions -----------------------------------------------------------------

MALFORMED = {
    "version 1": structure(MPLS, version=1),
    "version 3": structure(MPLS, version=3),
    "checksum": structure(MPLS)[:-1] + b"\x41",
    "no object": structure(),
    "no header": structure(MPLS)[:3],
    "object of 0 bytes": structure(bytes.fromhex("00000101")),
    "object of 3 bytes": structure(bytes.fromhex("00030101")),
    "object of 6 bytes": structure(bytes.fromhex("000601010000")),
    "object beyond the end": structure(bytes.fromhex("000c010100101140")),
    "rest behind the objects": structure(MPLS, bytes(2)),
    "zeros behind the objects": structure(MPLS, bytes(4)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_rfc7915_4_2_a_malformed_extension_is_opaque_too(bench, name):
    """It stays as malformed as it was: the receiver is told what was sent."""
    out, sent = sent4(bench, 108)
    (answer,) = bench.send(outer4(11, 0, out + MALFORMED[name], length=len(out) // 4))
    assert read6(answer.data)[2:] == (160, sent.ljust(160, b"\0"), MALFORMED[name])
    out, sent = sent6(bench, 104)
    (answer,) = bench.send(outer6(3, 0, out + MALFORMED[name], length=len(out) // 8))
    _, _, length, original, extension = read4(answer.data)
    assert (length, len(original), extension) == (132, len(sent), MALFORMED[name])


HERE = interface("198.51.100.7")
DAMAGED = {
    "version": structure(HERE, version=1),
    "checksum": structure(HERE)[:-1] + b"\x41",
    "object of 2 bytes": structure(HERE, bytes.fromhex("00020101")),
    "objects of 6 bytes": structure(HERE, 2 * bytes.fromhex("000601010000")),
    "object beyond the end": structure(HERE, bytes.fromhex("000c010100101140")),
    "rest behind the objects": structure(HERE, bytes(2)),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_no_address_is_translated_in_a_malformed_extension(bench, name):
    out, _ = sent4(bench, 108)
    (answer,) = bench.send(outer4(11, 0, out + DAMAGED[name], length=len(out) // 4))
    assert read6(answer.data)[4] == DAMAGED[name]


def test_an_object_without_a_payload_is_one(bench):
    out, _ = sent4(bench, 108)
    bare = bytes.fromhex("0004f7ff")
    (answer,) = bench.send(outer4(11, 0, out + structure(bare, HERE), length=len(out) // 4))
    assert read6(answer.data)[4] == structure(bare, interface(trailing("198.51.100.7")))


def test_rfc4884_7_a_checksum_of_0_was_not_computed(bench):
    out, sent = sent4(bench, 108)
    extension = structure(MPLS, checksum=False, reserved=0x123)
    (answer,) = bench.send(outer4(11, 0, out + extension, length=len(out) // 4))
    assert read6(answer.data)[3:] == (sent.ljust(160, b"\0"), extension)
    here = structure(HERE, checksum=False, reserved=0x123)
    (answer,) = bench.send(outer4(11, 0, out + here, length=len(out) // 4))
    assert objects_of(read6(answer.data)[4]) == [interface(trailing("198.51.100.7"))]


# -- addresses inside (RFC 5837) ----------------------------------------------------------

SHAPES: dict[str, dict[str, Any]] = {
    "address": {},
    "index, address": {"index": 7},
    "address, name": {"name": b"eth0/1\0"},
    "address, MTU": {"mtu": 1500},
    "everything": {"index": 7, "name": b"ge-0/0/1.0\0", "mtu": 9000},
    "role 1": {"role": 1},
    "role 2": {"role": 2, "index": 1},
    "role 3": {"role": 3, "mtu": 1400},
}


def cross_4_to_6(bench, *objects, **about):
    """The extension towards the client, b"" when there is none."""
    out, sent = sent4(bench, 108)
    extension = structure(*objects, **about)
    (answer,) = bench.send(outer4(11, 0, out + extension, length=len(out) // 4))
    _, _, length, original, got = read6(answer.data)
    assert original.startswith(sent)
    assert bool(length) == bool(got)
    return got


def cross_6_to_4(bench, *objects, **about):
    """The extension towards the server, b"" when there is none."""
    out, sent = sent6(bench, 104)
    extension = structure(*objects, **about)
    (answer,) = bench.send(outer6(3, 0, out + extension, length=len(out) // 8))
    _, _, length, original, got = read4(answer.data)
    same_but_for_ident(original[: len(sent)], sent)
    assert bool(length) == bool(got)
    return got


@pytest.mark.parametrize("shape", SHAPES)
def test_rfc5837_4_2_ipv4_addresses_become_ipv6(bench, shape):
    got = cross_4_to_6(bench, MPLS, interface(HOP4, **SHAPES[shape]), reserved=0x321)
    assert objects_of(got) == [MPLS, interface(trailing(HOP4), **SHAPES[shape])]
    assert words(got) == 0xFFFF
    assert got[:2] == b"\x23\x21"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("form", [trailing, rfc6052])
def test_rfc5837_4_2_embedded_ipv6_addresses_become_ipv4(bench, shape, form):
    got = cross_6_to_4(bench, interface(form(HOP4), **SHAPES[shape]), MPLS)
    assert objects_of(got) == [interface(HOP4, **SHAPES[shape]), MPLS]
    assert words(got) == 0xFFFF


def test_a_checksum_is_computed_for_what_has_changed(bench):
    assert words(cross_4_to_6(bench, interface(HOP4), checksum=False)) == 0xFFFF
    assert words(cross_6_to_4(bench, interface(trailing(HOP4)), checksum=False)) == 0xFFFF


@pytest.mark.parametrize("address", [HOP6, CLIENT, "fec0:0:0:ffff:1:2:3:4"])
def test_an_ipv6_address_that_embeds_nothing_is_left_out(bench, address):
    assert objects_of(cross_6_to_4(bench, MPLS, interface(address))) == [MPLS]
    assert cross_6_to_4(bench, interface(address, index=3), interface(address)) == b""


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "224.0.0.5", "255.255.255.255"])
def test_an_ipv4_address_that_is_not_embedded_is_left_out(bench, address):
    assert objects_of(cross_4_to_6(bench, interface(address, mtu=1500), MPLS)) == [MPLS]
    assert cross_4_to_6(bench, interface(address)) == b""


def test_rfc6052_3_1_nor_a_private_one_under_the_well_known_prefix():
    bench = Bench(prefixes=(Prefix6(WELL_KNOWN_PREFIX, Layout.RFC6052),))
    out = bench.send(udp6(dst="64:ff9b::8.8.8.8", data=bytes(108)))[0].data
    extension = structure(interface("10.1.2.3"), interface("9.9.9.9"))
    (answer,) = bench.send(outer4(11, 0, out + extension, length=len(out) // 4))
    assert objects_of(read6(answer.data)[4]) == [interface("64:ff9b::9.9.9.9")]


def test_addresses_take_the_prefix_of_the_flow():
    first = Prefix6(IPv6Network("2001:db8:64::/96"), Layout.RFC6052)
    second = Prefix6(IPv6Network("2001:db8:65::/96"), Layout.RFC6052)
    bench = Bench(prefixes=(first, second))
    out = bench.send(udp6(dst="2001:db8:65::" + SERVER, data=bytes(108)))[0].data
    body = out + structure(interface(HOP4))
    (answer,) = bench.send(outer4(11, 0, body, length=len(out) // 4))
    assert objects_of(read6(answer.data)[4]) == [interface("2001:db8:65::" + HOP4)]


def test_the_server_is_named_as_the_client_knows_it(bench):
    out = bench.send(udp6(dst=rfc6052(SERVER), data=bytes(108)))[0].data
    body = out + structure(interface(SERVER))
    (answer,) = bench.send(outer4(11, 0, body, length=len(out) // 4))
    assert objects_of(read6(answer.data)[4]) == [interface(rfc6052(SERVER))]


def test_addresses_of_the_other_family_are_there_already(bench):
    objects = [interface(HOP6, index=9), interface(trailing(HOP4))]
    assert cross_4_to_6(bench, *objects, checksum=False) == structure(*objects, checksum=False)
    assert cross_6_to_4(bench, interface(HOP4)) == structure(interface(HOP4))


@pytest.mark.parametrize(
    "data",
    [
        interface(index=3, name=b"eth0\0\0\0", mtu=1500),
        # Another family, another class, the same bytes in a type without an address.
        bytes.fromhex("000c0204 00190000 c6120901"),
        bytes.fromhex("000c0304 00010000 c6120901"),
        bytes.fromhex("000c02c0 00010000 c6120901"),
        bytes.fromhex("0004f7ff"),
    ],
)
def test_rfc7915_4_2_other_objects_are_opaque(bench, data):
    assert cross_4_to_6(bench, data) == structure(data)
    assert cross_6_to_4(bench, data) == structure(data)


@pytest.mark.parametrize(
    "data",
    [
        "00080204 00010000",  # no address
        "000c020c 00000001 00010000",  # no address behind the index
        "0008020c 00010000",  # no address behind the index that is not there
        "00040204",
        "0004020c",
    ],
)
def test_rfc5837_an_address_that_is_cut_off_does_not_cross(bench, data):
    got = cross_4_to_6(bench, bytes.fromhex(data), MPLS)
    assert MPLS in objects_of(got)
    assert not any(item[3] & ADDRESS and item[4:6] == b"\0\2" for item in objects_of(got))


def test_a_cut_off_ipv6_address_is_left_out(bench):
    cut = bytes.fromhex("00140204 00020000") + IPv6Address(trailing(HOP4)).packed[:12]
    assert objects_of(cross_6_to_4(bench, cut, MPLS)) == [MPLS]


def test_what_grows_beyond_the_room_is_left_out_whole(bench):
    """IPv4 addresses take 12 bytes more in IPv6: 39 objects fit, 40 do not."""
    for count, fits in ((39, True), (40, False)):
        extension = structure(*[interface(HOP4, index=1)] * count)
        assert len(extension) == 4 + 16 * count
        out, _ = sent4(bench, 108)
        (answer,) = bench.send(outer4(11, 0, out + extension, length=len(out) // 4))
        got = read6(answer.data)[4]
        expected = [interface(trailing(HOP4), index=1)] * count
        assert (objects_of(got) == expected) if fits else (got == b"")


# -- the pieces ---------------------------------------------------------------------------


def test_split_and_join_are_inverse():
    extension = structure(MPLS)
    for family, header in (
        (ICMP4, bytes((11, 0, 0, 0, 0, 0, 0, 0))),
        (ICMP6, bytes((3,) + (0,) * 7)),
    ):
        for size in (128, 136, 400):
            message = icmp_extensions.join(
                header, bytes(range(1, 5)) * (size // 4), extension, family
            )
            assert icmp_extensions.split(message, family) == (
                bytes(range(1, 5)) * (size // 4),
                extension,
            )


def test_split_of_a_bare_header():
    assert icmp_extensions.split(bytes((11, 0, 0, 0, 0, 9, 0, 0)), ICMP4) == (b"", b"")


def test_an_extension_longer_than_any_error_is_not_looked_at():
    huge = structure(*[interface(HOP4)] * 6000)
    message = bytes((11, 0, 0, 0, 0, 32, 0, 0)) + bytes(128) + huge
    assert icmp_extensions.split(message, ICMP4) == (bytes(128), huge)
    assert icmp_extensions.translate(huge, ICMP6, lambda _: None) == huge
    assert icmp_extensions.join(message[:8], bytes(200), huge, ICMP6) == message[:8] + bytes(200)


def test_rfc5837_4_2_what_is_reserved_is_kept(bench):
    """Whatever it may mean one day."""
    before = bytes.fromhex("000c0204 00011234 c6120901")
    after = bytes.fromhex("00180204 00021234") + IPv6Address(trailing("198.18.9.1")).packed
    assert objects_of(cross_4_to_6(bench, before)) == [after]


def test_own_address_in_an_extension(bench):
    """Our own hop, as another translator's error would name it."""
    assert objects_of(cross_6_to_4(bench, interface(OWN6))) == [interface("192.0.0.8")]
