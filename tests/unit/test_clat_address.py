"""The CLAT's address keeps checksums, and prefixes are found in answers for ipv4only.arpa."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clat.address import clat_address, is_neutral
from gateway.clat.prefix_in_answers import prefixes_in
from translate.addresses import PREFIX_LENGTHS, Layout, Prefix6

LOCAL4 = IPv4Address("192.0.0.1")


def words(data):
    """The sum of 16-bit words, modulo 65535: what a checksum is made of."""
    return sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)) % 65535


def networks(length):
    return st.integers(0, (1 << length) - 1).map(
        lambda bits: IPv6Network((bits << (128 - length), length))
    )


@given(
    network=networks(64),
    plat=st.sampled_from([32, 96]).flatmap(networks),
    random48=st.integers(0, (1 << 48) - 1),
    server=st.integers(0, (1 << 32) - 1),
)
def test_no_checksum_changes_whatever_the_destination(network, plat, random48, server):
    prefix = Prefix6(plat, Layout.RFC6052)
    if any(plat.network_address.packed[8:9]):
        return  # RFC 6052 has no such prefix: the u octet is zero
    address = clat_address(network, plat, LOCAL4, random48)
    assert address in network
    server4 = server.to_bytes(4, "big")
    assert words(address.packed + prefix.embed(server4)) == words(LOCAL4.packed + server4)
    assert is_neutral(address, plat, LOCAL4)


@pytest.mark.parametrize("length", [40, 48, 56, 64])
def test_lengths_that_embed_at_odd_bytes_or_in_two_parts_are_said_not_to_be_neutral(length):
    plat = IPv6Network(("2001:db8::", length))
    address = clat_address(IPv6Network("2001:db8:1::/64"), plat, LOCAL4, 5)
    assert not is_neutral(address, plat, LOCAL4)


def test_another_address_is_not_neutral():
    plat = IPv6Network("64:ff9b::/96")
    address = clat_address(IPv6Network("2001:db8:1::/64"), plat, LOCAL4, 5)
    assert is_neutral(address, plat, LOCAL4)
    assert not is_neutral(address + 1, plat, LOCAL4)


def test_random_bits_make_different_addresses():
    plat = IPv6Network("64:ff9b::/96")
    made = {clat_address(IPv6Network("fd00::/64"), plat, LOCAL4, n) for n in range(50)}
    assert len(made) == 50


def test_only_a_64_can_be_used():
    with pytest.raises(ValueError, match="/64"):
        clat_address(IPv6Network("fd00::/56"), IPv6Network("64:ff9b::/96"), LOCAL4, 1)


# RFC 7050.


def answers(network, *last):
    prefix = Prefix6(IPv6Network(network), Layout.RFC6052)
    return [IPv6Address(prefix.embed(bytes((192, 0, 0, n)))) for n in last]


@pytest.mark.parametrize("length", PREFIX_LENGTHS)
@pytest.mark.parametrize("last", [(170,), (171,), (170, 171), (171, 170)])
def test_rfc7050_section_3_the_prefix_is_found_at_each_length(length, last):
    network = IPv6Network(("2001:db8::", length))
    assert prefixes_in(answers(network, *last)) == [network]


def test_rfc7050_section_3_several_prefixes_are_found_in_the_order_of_the_answers():
    got = prefixes_in(
        [*answers("2001:db8:2::/96", 170, 171), *answers("2001:db8:1:1::/64", 170, 171)]
    )
    assert got == [IPv6Network("2001:db8:2::/96"), IPv6Network("2001:db8:1:1::/64")]


def test_rfc7050_section_3_where_a_prefix_contains_the_bytes_the_other_address_decides():
    # 192.0.0.170 at the place of a /32, by accident, in a prefix of /96.
    network = IPv6Network("2001:db8:c000:aa::/96")
    one, two = answers(network, 170, 171)
    assert IPv6Network("2001:db8:c000:aa::/96") in prefixes_in([one])
    assert prefixes_in([one, two]) == [network]
    (accident,) = answers("2001:db8:7::/48", 170)
    assert prefixes_in([accident, one, two]) == [network]
    assert prefixes_in([accident, one]) == [IPv6Network("2001:db8:7::/48"), network]


@pytest.mark.parametrize("text", ["2001:db8::1", "::", "64:ff9b::c000:221", "::ffff:192.0.0.172"])
def test_rfc7050_section_3_answers_without_the_well_known_addresses_say_nothing(text):
    assert prefixes_in([IPv6Address(text)]) == []


def test_rfc7050_section_3_something_behind_the_embedded_address_is_no_embedding():
    (made,) = answers("2001:db8::/64", 170)
    assert prefixes_in([made + 1]) == []
