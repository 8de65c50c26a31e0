"""Router advertisements as bytes: scapy reads what we build, and builds what we read."""

from contextlib import suppress
from ipaddress import IPv6Address, IPv6Network

import pytest
import scapy.layers.inet6 as s
from hypothesis import given
from hypothesis import strategies as st

from gateway.ra import messages as m

MAC = bytes.fromhex("02000000000a")
FULL = m.RouterAdvertisement(
    router_lifetime=1800,
    link=MAC,
    prefixes=(m.PrefixInformation(IPv6Network("fd00:1::/64"), 86400, 14400),),
    routes=(
        m.RouteInformation(IPv6Network("fec0:0:0:ffff::/64"), 1800),
        m.RouteInformation(IPv6Network("64:ff9b::/96"), 0),
        m.RouteInformation(IPv6Network("::/0"), 5),
    ),
    pref64=(m.Pref64(IPv6Network("64:ff9b::/96"), 1800),),
    rdnss=(m.Rdnss((IPv6Address("fd00:1::1"), IPv6Address("fe80::1")), 1800),),
)


def read(data):
    """The header of a message, and its options, as scapy sees them."""
    packet = s.ICMPv6ND_RA(data)
    options, layer = [], packet.payload
    while layer.name != "NoPayload":
        options.append(layer)
        layer = layer.payload
    return packet, options


def test_every_field_of_a_full_advertisement_is_where_scapy_looks_for_it():
    packet, options = read(m.build_advertisement(FULL))
    assert (packet.type, packet.code, packet.chlim, packet.M, packet.O) == (134, 0, 64, 0, 0)
    assert (packet.routerlifetime, packet.reachabletime, packet.retranstimer) == (1800, 0, 0)
    link, prefix, route1, route2, route3, rdnss, pref64 = options
    assert (link.type, link.len, link.lladdr) == (1, 1, "02:00:00:00:00:0a")
    assert (prefix.type, prefix.len, prefix.prefixlen, prefix.L, prefix.A) == (3, 4, 64, 1, 1)
    assert (prefix.validlifetime, prefix.preferredlifetime) == (86400, 14400)
    assert prefix.prefix == "fd00:1::"
    assert (route1.type, route1.len, route1.plen, route1.prf) == (24, 2, 64, 0)
    assert (route1.rtlifetime, route1.prefix) == (1800, "fec0:0:0:ffff::")
    assert (route2.len, route2.plen, route2.rtlifetime, route2.prefix) == (3, 96, 0, "64:ff9b::")
    assert (route3.len, route3.plen, route3.rtlifetime) == (1, 0, 5)
    assert (rdnss.type, rdnss.len, rdnss.lifetime) == (25, 5, 1800)
    assert rdnss.dns == ["fd00:1::1", "fe80::1"]
    assert (pref64.type, pref64.len, pref64.scaledlifetime, pref64.plc) == (38, 2, 225, 0)
    assert pref64.prefix == "64:ff9b::"


@pytest.mark.parametrize(("length", "code"), [(96, 0), (64, 1), (56, 2), (48, 3), (40, 4), (32, 5)])
def test_rfc8781_section_4_prefix_length_codes(length, code):
    network = IPv6Network(("2001:db8::", length))
    data = m.build_advertisement(m.RouterAdvertisement(pref64=(m.Pref64(network, 80),)))
    _, (option,) = read(data)
    assert (option.plc, option.scaledlifetime) == (code, 10)
    assert m.parse_advertisement(data).pref64 == (m.Pref64(network, 80),)


@pytest.mark.parametrize("length", [0, 31, 63, 65, 95, 97, 128])
def test_a_prefix_that_pref64_cannot_express_is_an_error_of_ours(length):
    network = IPv6Network(("::", length))
    with pytest.raises(ValueError, match="PREF64"):
        m.build_advertisement(m.RouterAdvertisement(pref64=(m.Pref64(network, 80),)))


@pytest.mark.parametrize(
    ("seconds", "scaled"), [(0, 0), (1, 1), (8, 1), (9, 2), (65_528, 8191), (10**6, 8191)]
)
def test_rfc8781_section_4_1_lifetimes_are_rounded_up_to_units_of_eight(seconds, scaled):
    item = m.Pref64(IPv6Network("64:ff9b::/96"), seconds)
    _, (option,) = read(m.build_advertisement(m.RouterAdvertisement(pref64=(item,))))
    assert option.scaledlifetime == scaled


@pytest.mark.parametrize("code", [6, 7])
def test_rfc8781_section_4_an_undefined_length_code_makes_the_option_one_to_ignore(code):
    data = bytearray(m.build_advertisement(m.RouterAdvertisement(pref64=FULL.pref64)))
    data[16 + 3] |= code
    assert m.parse_advertisement(bytes(data)).pref64 == ()


def test_an_advertisement_of_another_program_is_read():
    packet = (
        s.ICMPv6ND_RA(routerlifetime=9000, M=1, O=1, chlim=255)
        / s.ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:0b")
        / s.ICMPv6NDOptMTU(mtu=1400)
        / s.ICMPv6NDOptPrefixInfo(
            prefixlen=64, L=1, A=0, validlifetime=7, preferredlifetime=6, prefix="2001:db8:1::"
        )
        / s.ICMPv6NDOptRDNSS(dns=["2001:db8::53"], lifetime=99)
        / s.ICMPv6NDOptPREF64(scaledlifetime=3, plc=1, prefix="2001:db8:64::")
        / s.ICMPv6NDOptRouteInfo(plen=64, rtlifetime=77, prefix="2001:db8:64::")
    )
    got = m.parse_advertisement(bytes(packet))
    assert got == m.RouterAdvertisement(
        router_lifetime=9000,
        link=bytes.fromhex("02000000000b"),
        prefixes=(
            m.PrefixInformation(
                IPv6Network("2001:db8:1::/64"), 7, 6, on_link=True, autonomous=False
            ),
        ),
        routes=(m.RouteInformation(IPv6Network("2001:db8:64::/64"), 77),),
        pref64=(m.Pref64(IPv6Network("2001:db8:64::/64"), 24),),
        rdnss=(m.Rdnss((IPv6Address("2001:db8::53"),), 99),),
        hop_limit=255,
        managed=True,
        other=True,
    )


def test_what_is_built_is_read_again():
    assert m.parse_advertisement(m.build_advertisement(FULL)) == FULL
    nothing = m.RouterAdvertisement()
    assert m.parse_advertisement(m.build_advertisement(nothing)) == nothing


def test_a_router_lifetime_has_sixteen_bits():
    for seconds, said in ((65_535, 65_535), (65_536, 65_535)):
        data = m.build_advertisement(m.RouterAdvertisement(router_lifetime=seconds))
        assert read(data)[0].routerlifetime == said


@pytest.mark.parametrize(
    "data",
    [
        m.build_advertisement(FULL)[:15],
        b"\x85" + m.build_advertisement(FULL)[1:],
        b"\x86\1" + m.build_advertisement(FULL)[2:],
        m.build_advertisement(FULL) + b"\1",
        m.build_advertisement(FULL) + b"\1\0aaaaaa",
        m.build_advertisement(FULL) + b"\1\2aaaaaa",
    ],
)
def test_rfc4861_6_1_2_what_is_no_advertisement(data):
    with pytest.raises(m.BadMessage):
        m.parse_advertisement(data)


@pytest.mark.parametrize(
    ("option", "found"),
    [
        # RFC 4191 §2.3: as much of the prefix as its length needs.
        (bytes((24, 3, 128, 0, 0, 0, 0, 9)) + bytes(16), ["::/128"]),
        (bytes((24, 3, 129, 0, 0, 0, 0, 9)) + bytes(16), []),
        (bytes((24, 2, 65, 0, 0, 0, 0, 9)) + bytes(8), []),
        (bytes((24, 2, 64, 0, 0, 0, 0, 9)) + bytes(8), ["::/64"]),
        (bytes((24, 1, 1, 0, 0, 0, 0, 9)), []),
        (bytes((24, 1, 0, 0, 0, 0, 0, 9)), ["::/0"]),
        (bytes((24, 4, 64, 0, 0, 0, 0, 9)) + bytes(24), []),
        # RFC 4191 §2.3: high, low, and a preference that nobody may have; the bits around it.
        (bytes((24, 2, 64, 0x08, 0, 0, 0, 9)) + bytes(8), ["::/64"]),
        (bytes((24, 2, 64, 0x18, 0, 0, 0, 9)) + bytes(8), ["::/64"]),
        (bytes((24, 2, 64, 0x10, 0, 0, 0, 9)) + bytes(8), []),
        (bytes((24, 2, 64, 0xE7, 0, 0, 0, 9)) + bytes(8), ["::/64"]),
        # RFC 8781 §4: two units of eight bytes.
        (bytes((38, 2, 0, 8)) + bytes(12), ["::/96"]),
        (bytes((38, 1, 0, 8)) + bytes(4), []),
        (bytes((38, 3, 0, 8)) + bytes(20), []),
        # RFC 8106 §5.1: an address at least, and no half one.
        (bytes((25, 3, 0, 0, 0, 0, 0, 9)) + bytes(16), ["::"]),
        (bytes((25, 1, 0, 0, 0, 0, 0, 9)), []),
        (bytes((25, 2, 0, 0, 0, 0, 0, 9)) + bytes(8), []),
        (bytes((25, 4, 0, 0, 0, 0, 0, 9)) + bytes(24), []),
        # RFC 4861 §4.6.2.
        (bytes((3, 4, 64, 192)) + bytes(28), ["::/64"]),
        (bytes((3, 4, 200, 192)) + bytes(28), ["::/128"]),
        (bytes((3, 3, 64, 192)) + bytes(20), []),
        # Of other kinds, as long as a prefix or a route.
        (bytes((250, 4, 64, 192)) + bytes(28), []),
        (bytes((250, 2, 64, 0, 0, 0, 0, 9)) + bytes(8), []),
    ],
)
def test_options_of_the_wrong_length_are_ignored_and_the_rest_is_read(option, found):
    data = m.build_advertisement(m.RouterAdvertisement()) + option + bytes((1, 1)) + MAC
    said = m.parse_advertisement(data)
    prefixes = [item.prefix for item in said.routes]
    prefixes += [item.prefix for item in said.pref64]
    prefixes += [item.prefix for item in said.prefixes]
    servers = [server for item in said.rdnss for server in item.servers]
    assert [str(item) for item in (*prefixes, *servers)] == found
    assert said.link == MAC


@given(st.data())
def test_damaged_advertisements_are_read_or_refused_but_never_raise_anything_else(data):
    message = bytearray(m.build_advertisement(FULL))
    for at in data.draw(st.lists(st.integers(0, len(message) - 1), max_size=6)):
        message[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(message)))
    with suppress(m.BadMessage):
        m.parse_advertisement(bytes(message[:cut]))


@given(st.binary(max_size=64))
def test_anything_may_come_as_a_solicitation(data):
    try:
        m.check_solicitation(data, 255, IPv6Address("fe80::2"))
    except m.BadMessage:
        return
    assert data[0] == 133
    assert data[1] == 0
    assert len(data) >= 8


SOLICITATION = bytes(s.ICMPv6ND_RS())
WITH_LINK = bytes(s.ICMPv6ND_RS() / s.ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:0b"))
HOST = IPv6Address("fe80::2")
NOBODY = IPv6Address("::")


def test_rfc4861_6_1_1_valid_solicitations():
    m.check_solicitation(SOLICITATION, 255, HOST)
    m.check_solicitation(SOLICITATION, 255, NOBODY)
    m.check_solicitation(WITH_LINK, 255, HOST)


@pytest.mark.parametrize(
    ("data", "hop_limit", "source"),
    [
        (SOLICITATION, 254, HOST),
        (WITH_LINK, 255, NOBODY),
        (SOLICITATION[:7], 255, HOST),
        (SOLICITATION[:1] + b"\1" + SOLICITATION[2:], 255, HOST),
        (b"\x86" + SOLICITATION[1:], 255, HOST),
        (SOLICITATION + b"\1\0aaaaaa", 255, HOST),
        (SOLICITATION + b"\1\2aaaaaa", 255, HOST),
        (SOLICITATION + b"\1", 255, HOST),
    ],
)
def test_rfc4861_6_1_1_invalid_solicitations(data, hop_limit, source):
    with pytest.raises(m.BadMessage):
        m.check_solicitation(data, hop_limit, source)
