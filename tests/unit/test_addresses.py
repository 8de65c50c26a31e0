"""IPv4 addresses in IPv6 ones: RFC 6052 §2.2 and §2.4, and the trailing layout beside it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from translate.addresses import PREFIX_LENGTHS, Layout, Prefix6, is_unicast4, is_unicast6

# RFC 6052 §2.4: the tables of the examples, as they stand there.
EXAMPLES = [
    ("2001:db8::/32", "192.0.2.33", "2001:db8:c000:221::"),
    ("2001:db8:100::/40", "192.0.2.33", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "192.0.2.33", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:300::/56", "192.0.2.33", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "192.0.2.33", "2001:db8:122:344:c0:2:2100::"),
    ("2001:db8:122:344::/96", "192.0.2.33", "2001:db8:122:344::192.0.2.33"),
    ("64:ff9b::/96", "192.0.2.33", "64:ff9b::192.0.2.33"),
]
SHORT = [example for example in EXAMPLES if not example[0].endswith("/96")]


def four(text):
    return IPv4Address(text).packed


def six(text):
    return IPv6Address(text).packed


def prefix(text, layout):
    return Prefix6(IPv6Network(text), layout)


@pytest.mark.parametrize(("network", "addr4", "addr6"), EXAMPLES)
def test_rfc6052_2_4_examples_embed(network, addr4, addr6):
    assert prefix(network, Layout.RFC6052).embed(four(addr4)) == six(addr6)


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize(("network", "addr4", "addr6"), EXAMPLES)
def test_rfc6052_2_4_examples_extract_whatever_the_own_layout(network, addr4, addr6, layout):
    assert prefix(network, layout).extract(six(addr6)) == four(addr4)


@pytest.mark.parametrize(("network", "addr4", "_"), EXAMPLES)
def test_trailing_layout_puts_the_address_last(network, addr4, _):
    expected = IPv6Address(int(IPv6Network(network).network_address) + int(IPv4Address(addr4)))
    assert prefix(network, Layout.TRAILING).embed(four(addr4)) == expected.packed


@pytest.mark.parametrize("layout", Layout)
@pytest.mark.parametrize(("network", "addr4", "_"), EXAMPLES)
def test_trailing_layout_extracts_whatever_the_own_layout(network, addr4, _, layout):
    addr6 = IPv6Address(int(IPv6Network(network).network_address) + int(IPv4Address(addr4)))
    assert prefix(network, layout).extract(addr6.packed) == four(addr4)


def test_ptrtd_form():
    owner = prefix("fec0:0:0:ffff::/64", Layout.TRAILING)
    assert owner.embed(four("192.0.2.1")) == six("fec0:0:0:ffff::192.0.2.1")


@pytest.mark.parametrize(("network", "addr4", "addr6"), SHORT)
def test_rfc6052_2_2_octet_u_is_written_zero_and_ignored(network, addr4, addr6):
    """Under a prefix of the trailing layout it says that nothing is embedded."""
    for value in (1, 0x80, 0xFF):
        changed = bytearray(six(addr6))
        changed[8] = value
        assert prefix(network, Layout.RFC6052).extract(bytes(changed)) == four(addr4)
        assert prefix(network, Layout.TRAILING).extract(bytes(changed)) is None


@pytest.mark.parametrize(("network", "addr4", "addr6"), SHORT)
def test_rfc6052_2_2_the_suffix_is_written_zero_and_ignored(network, addr4, addr6):
    """Under a prefix of the trailing layout every bit of it is looked at."""
    first = IPv6Network(network).prefixlen // 8 + 5
    for at in range(first, 16):
        for bit in (0x01, 0x80):
            changed = bytearray(six(addr6))
            changed[at] |= bit
            assert prefix(network, Layout.RFC6052).extract(bytes(changed)) == four(addr4), at
            assert prefix(network, Layout.TRAILING).extract(bytes(changed)) is None, at


@pytest.mark.parametrize(("network", "_", "addr6"), EXAMPLES)
def test_outside_the_prefix_is_no_embedding(network, _, addr6):
    owner = prefix(network, Layout.RFC6052)
    last = IPv6Network(network).prefixlen // 8 - 1
    changed = bytearray(six(addr6))
    changed[last] ^= 1
    assert owner.extract(bytes(changed)) is None
    assert not owner.contains(bytes(changed))
    assert owner.contains(six(addr6))


@pytest.mark.parametrize(("network", "_", "addr6"), SHORT)
def test_inside_the_prefix_without_an_embedding(network, _, addr6):
    owner = prefix(network, Layout.TRAILING)
    address = bytearray(six(addr6))
    address[8] = address[12] = 0x55
    assert owner.contains(bytes(address))
    assert owner.extract(bytes(address)) is None


@pytest.mark.parametrize("length", [0, 8, 31, 33, 63, 65, 72, 80, 95, 97, 104, 127, 128])
def test_rfc6052_2_2_other_lengths_are_refused(length):
    with pytest.raises(ValueError, match="prefix length"):
        Prefix6(IPv6Network(("::", length)), Layout.RFC6052)


def test_rfc6052_2_2_lengths():
    assert set(PREFIX_LENGTHS) == {32, 40, 48, 56, 64, 96}


@st.composite
def prefixes(draw):
    length = draw(st.sampled_from(PREFIX_LENGTHS))
    head = bytearray(draw(st.binary(min_size=length // 8, max_size=length // 8)).ljust(16, b"\0"))
    head[8] = 0  # RFC 6052 §2.2: bits 64 to 71, in the prefix itself for a /96
    return Prefix6(IPv6Network((bytes(head), length)), draw(st.sampled_from(Layout)))


@settings(deadline=None)
@given(prefixes(), st.binary(min_size=4, max_size=4).filter(lambda a: a[0]))
def test_both_layouts_are_read_back_and_never_confused(owner, addr4):
    for layout in Layout:
        addr6 = Prefix6(owner.network, layout).embed(addr4)
        assert len(addr6) == 16
        assert IPv6Address(addr6) in owner.network
        assert owner.extract(addr6) == addr4


@settings(deadline=None)
@given(prefixes(), st.binary(min_size=16, max_size=16), st.booleans())
def test_what_is_extracted_embeds_to_the_same_address(owner, addr6, inside):
    if inside:
        addr6 = owner.network.network_address.packed[: owner.network.prefixlen // 8] + addr6
        addr6 = addr6[:16]
    addr4 = owner.extract(addr6)
    if addr4 is not None:
        made = {Prefix6(owner.network, layout).embed(addr4) for layout in Layout}
        if owner.layout is Layout.RFC6052 and owner.network.prefixlen < 96:
            # RFC 6052 §2.2: octet u and suffix are ignored.
            end = owner.network.prefixlen // 8 + 5
            made = {one[:8] + addr6[8:9] + one[9:end] + addr6[end:] for one in made} | made
        assert addr6 in made


@settings(deadline=None)
@given(prefixes())
def test_equal_prefixes_are_one_key(owner):
    again = Prefix6(owner.network, owner.layout)
    assert again == owner
    assert hash(again) == hash(owner)
    other = Layout.RFC6052 if owner.layout is Layout.TRAILING else Layout.TRAILING
    assert Prefix6(owner.network, other) != owner


@pytest.mark.parametrize(
    ("addr4", "expected"),
    [
        ("0.0.0.0", False),
        ("0.255.255.255", False),
        ("1.0.0.0", True),
        ("126.255.255.255", True),
        ("127.0.0.1", False),
        ("127.255.255.255", False),
        ("128.0.0.0", True),
        ("223.255.255.255", True),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
    ],
)
def test_rfc1122_3_2_1_3_sources_that_are_nobody(addr4, expected):
    assert is_unicast4(four(addr4)) is expected


@pytest.mark.parametrize(
    ("addr6", "expected"),
    [
        ("::", False),
        ("::1", False),
        ("::2", True),
        ("fe80::1", True),
        ("2001:db8::", True),
        ("ff02::1", False),
        ("feff:ffff::", True),
    ],
)
def test_rfc4291_2_5_and_2_7_sources_that_are_nobody(addr6, expected):
    assert is_unicast6(six(addr6)) is expected
