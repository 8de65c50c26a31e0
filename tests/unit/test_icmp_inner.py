"""The packet inside an ICMP error: what its sender sent, and nothing else (RFC 7915 §4.3, §5.3)."""

from __future__ import annotations

import pytest

from tests.oracle import (
    CLIENT,
    ICMP,
    IP,
    POOL,
    SERVER,
    SERVER6,
    TCP,
    UDP,
    Bench,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Raw,
    checksum_right,
    echo4,
    echo6,
    error4,
    error6,
    rfc6052,
    tcp4,
    tcp6,
    udp4,
    udp6,
    words,
)
from translate.reasons import Reason


@pytest.fixture
def bench():
    return Bench()


CLIENT_PACKETS = {
    "udp": udp6(data=b"some odd payload!", tc=0x2E, hlim=40),
    "udp-even": udp6(data=b"some odd payload", tc=0x2E, hlim=40),
    "udp-other-form": udp6(dst=rfc6052(SERVER)),
    "tcp": tcp6("S", data=b"data", seq=77),
    "tcp-options": tcp6("S", options=[("MSS", 1000), ("WScale", 7), ("SAckOK", b"")]),
    "echo": echo6(data=b"0123456789abcde"),
}


def server_packets(bench):
    """Packets of a server to a known client, by name."""
    port = bench.udp()[UDP].sport
    tcp = bench.one(tcp6("S"))[TCP].sport
    ident = bench.one(echo6())[ICMP].id
    return {
        "udp": udp4(port, data=b"an odd answer", tos=0x2E, ttl=40),
        "tcp": tcp4("SA", tcp, data=b"data", seq=99),
        "tcp-options": tcp4("SA", tcp, options=[("MSS", 1000), ("NOP", None), ("WScale", 7)]),
        "echo": echo4(ident),
    }


SERVER_NAMES = ["udp", "tcp", "tcp-options", "echo"]


def inner(out):
    """What is inside an error, behind its 8 bytes."""
    return bytes(out.payload)[8:]


# -- towards the client -------------------------------------------------------------------


@pytest.mark.parametrize("name", CLIENT_PACKETS)
@pytest.mark.parametrize("ttl", [0, 1, 17])
def test_rfc7915_4_3_the_client_finds_what_it_sent(bench, name, ttl):
    """All but the hop limit, which is what the router saw, and is not decremented again."""
    sent = CLIENT_PACKETS[name].copy()
    out = bytearray(bench.send(sent)[0].data)
    out[8] = ttl
    got = inner(bench.one(error4(11, 0, 0, out)))
    sent.hlim = ttl
    assert got == bytes(sent)
    assert checksum_right(got)


@pytest.mark.parametrize("name", CLIENT_PACKETS)
def test_rfc7915_4_3_as_much_of_it_as_there_is(bench, name):
    """From the 8 bytes of RFC 792 to everything: the same bytes, the same payload length."""
    sent = CLIENT_PACKETS[name].copy()
    out = bench.send(sent)[0].data
    sent.hlim = out[8]
    whole = bytes(sent)
    for length in range(28, len(out) + 1):
        size = length
        got = inner(bench.one(error4(3, 1, 0, out[:size])))
        if name.startswith("tcp") and size == 37:
            # Half a checksum cannot be translated.
            got, size = got[:-1], size - 1
        assert got == whole[: size + 20], size


@pytest.mark.parametrize("size", range(28))
def test_rfc792_less_than_8_bytes_of_payload_name_no_flow(bench, size):
    out = bench.send(udp6())[0].data
    assert bench.send(error4(3, 1, 0, out[:size])) == []


@pytest.mark.parametrize("size", [1199, 1200, 1232, 1300, 1472])
def test_rfc7915_4_2_an_error_is_cut_to_1280_bytes(bench, size):
    sent = udp6(data=bytes(range(256)) * 6, hlim=64)
    out = bench.send(sent)[0].data
    sent.hlim = 63
    (answer,) = bench.send(error4(3, 4, 1400, out[:size]))
    assert len(answer.data) == min(1280, 48 + size + 20)
    assert answer.data[48:] == bytes(sent)[: len(answer.data) - 48]


@pytest.mark.parametrize("name", CLIENT_PACKETS)
@pytest.mark.parametrize(
    "extension",
    [b"", bytes.fromhex("2000cda60008010100101140")],
    ids=["padding", "padding and extension"],
)
def test_rfc4884_4_a_padded_original_is_still_recognised(bench, name, extension):
    """Routers that append an extension pad a short original with zeros to 128 bytes."""
    sent = CLIENT_PACKETS[name].copy()
    out = bench.send(sent)[0].data
    assert len(out) < 128
    sent.hlim = out[8]
    padded = out.ljust(128, b"\0") + extension
    (answer,) = bench.send(error4(11, 0, 32 << 16, padded))
    size = max(128, -(-len(bytes(sent)) // 8) * 8)
    if extension:
        assert answer.data[44] == size // 8
        assert answer.data[48:] == bytes(sent).ljust(size, b"\0") + extension
    else:
        assert answer.data[44:] == bytes(4) + bytes(sent)


def test_rfc7915_4_3_the_first_fragment_of_what_was_sent(bench):
    """DF is clear on small packets, so a router may have fragmented one."""
    sent = udp6(data=bytes(200))
    whole = IP(bench.send(sent)[0].data)
    first = IP(src=whole.src, dst=whole.dst, ttl=5, id=0xABCD, flags="MF", proto=17)
    first = first / Raw(bytes(whole.payload)[:104])
    got = IPv6(inner(bench.one(error4(11, 1, 0, first))))
    header = got[IPv6ExtHdrFragment]
    assert (got.src, got.dst, got.plen) == (CLIENT, SERVER6, 112)
    assert (header.id, header.m, header.offset, header.nh) == (0xABCD, 1, 0, 17)
    assert bytes(header.payload) == bytes(sent[UDP])[:104]


@pytest.mark.parametrize("name", CLIENT_PACKETS)
def test_rfc7915_4_3_first_fragments_of_every_protocol(bench, name):
    sent = CLIENT_PACKETS[name].copy()
    out = bytearray(bench.send(sent)[0].data)
    for more in (True, False):
        # Identification and more fragments; without the latter it is no fragment.
        out[4:8] = bytes.fromhex("abcd2000" if more else "abcd0000")
        got = inner(bench.one(error4(11, 1, 0, out)))
        sent.hlim = out[8]
        whole = bytes(sent)
        if not more:
            assert got == whole
            continue
        assert got[:4] == whole[:4]
        assert int.from_bytes(got[4:6], "big") == len(whole) - 40 + 8
        assert got[6:8] == bytes((44, out[8]))
        assert got[8:40] == whole[8:40]
        assert got[40:48] == bytes((whole[6], 0, 0, 1, 0, 0, 0xAB, 0xCD))
        assert got[48:] == whole[40:]


OPTIONS = {
    "no operation": b"\1" * 4,
    "record route": bytes((7, 7, 4, 0, 0, 0, 0, 0)),
    "router alert": bytes((148, 4, 0, 0)),
    "source route": bytes((131, 7, 4, 10, 0, 0, 1, 0)),
    "as many as fit": b"\1" * 40,
}


@pytest.mark.parametrize("name", OPTIONS)
def test_rfc7915_4_1_options_inside_are_ignored(bench, name):
    """A router on the way may have added some: the client did not send them."""
    sent = udp6(data=b"some data")
    out = bytearray(bench.send(sent)[0].data)
    out[20:20] = OPTIONS[name]
    out[0] = 0x45 + len(OPTIONS[name]) // 4
    out[2:4] = len(out).to_bytes(2, "big")
    sent.hlim = out[8]
    assert inner(bench.one(error4(11, 0, 0, out))) == bytes(sent)
    for size in range(20 + len(OPTIONS[name]) + 8):
        assert bench.send(error4(11, 0, 0, out[:size])) == []


@pytest.mark.parametrize("checksum", [0, 0xFFFF, 0x1234])
def test_rfc5508_req3_the_inner_header_checksum_decides_nothing(bench, checksum):
    """Routers quote a header that they have changed; the session says whose packet it was."""
    sent = udp6(data=b"some data")
    out = bytearray(bench.send(sent)[0].data)
    out[10:12] = checksum.to_bytes(2, "big")
    sent.hlim = out[8]
    assert inner(bench.one(error4(11, 0, 0, out))) == bytes(sent)


@pytest.mark.parametrize("total", [0, 8, 19, 20, 27])
def test_rfc791_3_1_an_inner_total_length_too_short_is_dropped(bench, total):
    out = bytearray(bench.send(udp6())[0].data)
    out[2:4] = total.to_bytes(2, "big")
    assert bench.send(error4(11, 0, 0, out)) == []


@pytest.mark.parametrize("kind", [5, 9, 13, 17, 200])
def test_rfc7915_4_3_messages_that_do_not_cross_do_not_inside(bench, kind):
    bench.one(echo6())
    inside = IP(src=POOL, dst=SERVER) / ICMP(type=kind) / Raw(bytes(8))
    assert bench.refused(error4(3, 1, 0, inside), Reason.ICMP_INNER) == []


def test_rfc6146_3_4_a_later_fragment_names_no_flow(bench):
    whole = IP(bench.send(udp6(data=bytes(200)))[0].data)
    later = IP(src=whole.src, dst=whole.dst, id=1, frag=13, proto=17) / Raw(bytes(100))
    assert bench.refused(error4(11, 1, 0, later), Reason.FRAGMENT) == []


# -- towards the server -------------------------------------------------------------------


def same_but_for_ident(got, sent, ttl):
    """Whether the IPv4 packet is the one sent; DF and identification did not cross."""
    assert words(got[:20]) == 0xFFFF, "inner header checksum"
    expected = bytearray(bytes(sent))
    found = bytearray(got)
    expected[8] = ttl
    for data in (expected, found):
        data[4:8] = bytes(4)
        data[10:12] = bytes(2)
    assert found == expected[: len(found)]


@pytest.mark.parametrize("name", SERVER_NAMES)
@pytest.mark.parametrize("hops", [0, 1, 17])
def test_rfc7915_5_3_the_server_finds_what_it_sent(bench, name, hops):
    sent = server_packets(bench)[name]
    (out,) = bench.send(sent)
    seen = bytearray(out.data)
    seen[7] = hops
    got = inner(bench.one(error6(3, 0, 0, seen)))
    same_but_for_ident(got, sent, hops)
    assert len(got) == len(bytes(sent))
    assert checksum_right(got)


@pytest.mark.parametrize("name", SERVER_NAMES)
def test_rfc7915_5_3_as_much_of_it_as_there_is(bench, name):
    sent = server_packets(bench)[name]
    (out,) = bench.send(sent)
    for size in range(48, len(out.data) + 1):
        got = inner(bench.one(error6(1, 4, 0, out.data[:size])))
        assert len(got) == size - 20
        if name.startswith("tcp") and size == 57:
            got = got[:-1]  # half a checksum cannot be translated
        same_but_for_ident(got, sent, out.data[7])


@pytest.mark.parametrize("size", range(0, 48, 3))
def test_less_than_8_bytes_of_payload_name_no_flow_v6(bench, size):
    port = bench.udp()[UDP].sport
    (out,) = bench.send(udp4(port))
    assert bench.send(error6(1, 4, 0, out.data[:size])) == []


@pytest.mark.parametrize("size", [567, 568, 569, 900, 1232])
def test_rfc7915_5_2_an_error_is_cut_to_576_bytes(bench, size):
    port = bench.udp()[UDP].sport
    sent = udp4(port, data=bytes(range(256)) * 5, flags="DF")
    (out,) = bench.send(sent)
    (answer,) = bench.send(error6(2, 0, 1280, out.data[:size]))
    assert len(answer.data) == min(576, 28 + size - 20)
    same_but_for_ident(answer.data[28:], sent, out.data[7])


def test_rfc7915_5_3_the_inside_of_a_packet_too_big_has_df(bench):
    port = bench.udp()[UDP].sport
    (out,) = bench.send(udp4(port, data=bytes(1400), flags="DF"))
    got = IP(inner(bench.one(error6(2, 0, 1400, out.data[:1232]))))
    assert (got.flags, got.len) == ("DF", 1428)


def test_rfc7915_5_3_extension_headers_inside_are_skipped(bench):
    """A Fragment header: the client side complains about what the translator fragmented."""
    port = bench.udp()[UDP].sport
    sent = udp4(port, data=bytes(1400), id=0x1234)
    first, later = bench.send(sent)
    got = IP(inner(bench.one(error6(3, 1, 0, first.data[:1232]))))
    assert (got.src, got.dst, got.id, got.flags, got.frag) == (SERVER, POOL, 0x1234, "MF", 0)
    assert got.len == len(first.data) - 28
    assert bytes(got.payload)[:100] == bytes(sent[UDP])[:100]
    assert bench.refused(error6(3, 1, 0, later.data), Reason.FRAGMENT) == []


@pytest.mark.parametrize(
    "headers",
    [
        IPv6ExtHdrHopByHop(),
        IPv6ExtHdrDestOpt(),
        IPv6ExtHdrRouting(addresses=[CLIENT], segleft=0),
        IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(addresses=[CLIENT, CLIENT], segleft=0),
        IPv6ExtHdrFragment(m=1, id=0x12345678) / IPv6ExtHdrDestOpt(),
        IPv6ExtHdrHopByHop() / IPv6ExtHdrFragment(id=0x12345678),
    ],
)
def test_rfc7915_5_1_headers_added_on_the_way_are_skipped(bench, headers):
    port = bench.udp()[UDP].sport
    sent = udp4(port, data=b"some data", ttl=9)
    seen = IPv6(src=SERVER6, dst=CLIENT, hlim=8) / headers
    seen = seen / IPv6(bench.send(sent)[0].data)[UDP]
    got = inner(bench.one(error6(3, 0, 0, seen)))
    same_but_for_ident(got, sent, 8)
    is_fragment = IPv6ExtHdrFragment in seen
    assert got[4:6] == (b"\x56\x78" if is_fragment else bytes(2))
    assert got[6:8] == (b"\x20\0" if is_fragment and seen[IPv6ExtHdrFragment].m else bytes(2))
    for size in range(len(bytes(seen)) - len(bytes(seen[UDP])) + 8):
        assert bench.send(error6(3, 0, 0, bytes(seen)[:size])) == []


@pytest.mark.parametrize("kind", [130, 133, 135, 137, 143, 200])
def test_rfc7915_5_3_messages_that_do_not_cross_do_not_inside(bench, kind):
    bench.one(echo6())
    inside = IPv6(src=SERVER6, dst=CLIENT) / ICMPv6EchoRequest(type=kind, id=7)
    assert bench.refused(error6(1, 0, 0, inside), Reason.ICMP_INNER) == []


@pytest.mark.parametrize("length", [65515, 65516, 65535])
def test_an_inner_length_that_ipv4_cannot_say(bench, length):
    port = bench.udp()[UDP].sport
    seen = bytearray(bench.send(udp4(port))[0].data)
    seen[4:6] = length.to_bytes(2, "big")
    assert IP(inner(bench.one(error6(2, 0, 1400, seen)))).len == 65535


@pytest.mark.parametrize(("size", "df"), [(1232, 0), (1233, "DF")])
def test_rfc7915_5_1_df_inside_goes_by_the_size(bench, size, df):
    """As outside: clear up to 1260 bytes of IPv4 packet, though the error is cut."""
    port = bench.udp()[UDP].sport
    (out,) = bench.send(udp4(port, data=bytes(size), flags="DF"))
    got = IP(inner(bench.one(error6(3, 0, 0, out.data[:200]))))
    assert (got.len, got.flags) == (size + 28, df)


@pytest.mark.parametrize("name", SERVER_NAMES)
def test_a_padded_original_is_still_recognised_v6(bench, name):
    """RFC 4884 §4: zeros behind a short original."""
    sent = server_packets(bench)[name]
    (out,) = bench.send(sent)
    assert len(out.data) < 128
    got = inner(bench.one(error6(3, 0, 16 << 24, out.data.ljust(128, b"\0"))))
    same_but_for_ident(got[: len(bytes(sent))], sent, out.data[7])


def test_a_wrong_checksum_inside_stays_wrong(bench):
    sent = bytearray(bench.send(udp6())[0].data)
    sent[-1] ^= 0x55
    assert not checksum_right(inner(bench.one(error4(3, 3, 0, sent))))
