"""What the CLAT is to be, from a look at the host and a prefix; and the bits of its addresses."""

from functools import partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest

from gateway.clat.address import is_neutral
from gateway.clat.identity import bits_for, host_key
from gateway.clat.plat import Plat
from gateway.clat.states import LOCAL4, Idle, Situation, Uplink, Wanted, decide
from gateway.clat.translation import clat_settings
from gateway.config import to_settings
from gateway.config_model import Config
from translate.addresses import Layout
from translate.policy import DestinationPolicy
from translate.siit.addresses import AddressMap, Hairpin

NETWORK = IPv6Network("2001:db8:1:2::/64")
ADDRESS6 = IPv6Address("2001:db8:1:2::5")
UPLINK = Uplink("eth0", 2, b"\2\0\0\0\0\1", 1500, NETWORK, ADDRESS6)
PLAT = Plat(IPv6Network("64:ff9b::/96"), "ra", "fe80::1")
HOST = IPv4Address("192.168.1.5")
BITS = partial(bits_for, b"key")


def ask(uplink=UPLINK, plat=PLAT, native4="", **others):
    keywords = {"hosts": (), "address": None, "bits": BITS, "mtu": 1500, **others}
    return decide(Situation(uplink, native4), plat, **keywords)


def test_up():
    wanted = ask()
    assert isinstance(wanted, Wanted)
    ((local4, address6),) = wanted.hosts
    assert local4 == LOCAL4
    assert address6 in NETWORK
    assert is_neutral(address6, PLAT.prefix, LOCAL4)
    assert wanted.mtu4 == 1480


@pytest.mark.parametrize(
    ("changes", "word", "why"),
    [
        ({"uplink": None}, "down", "no IPv6 default route"),
        ({"uplink": None, "native4": "eth1"}, "down", "no IPv6 default route"),
        ({"native4": "eth1"}, "standby", "eth1"),
        ({"native4": "eth1", "plat": None}, "standby", "eth1"),
        ({"plat": None}, "down", "no NAT64 prefix"),
        ({"uplink": Uplink("eth0", 2, b"", 1500, None, None)}, "down", "no global"),
    ],
)
def test_reasons_for_being_idle(changes, word, why):
    state = ask(**changes)
    assert isinstance(state, Idle)
    assert state.word == word
    assert why in state.why


def test_an_address_that_is_given_needs_no_64():
    given = IPv6Address("2001:db8:9::1")
    bare = Uplink("ppp0", 3, b"", 1492, None, None)
    wanted = ask(uplink=bare, address=given)
    assert wanted.hosts == ((LOCAL4, given),)
    assert wanted.mtu4 == 1472
    assert isinstance(ask(uplink=bare, address=given, hosts=(HOST,)), Idle)


@pytest.mark.parametrize(
    ("uplink_mtu", "mtu", "expected"),
    [(1500, 1500, 1480), (1500, 1400, 1380), (9000, 1500, 1480), (1280, 1500, 1260)],
)
def test_rfc7915_section_4_the_mtu_is_20_less(uplink_mtu, mtu, expected):
    uplink = Uplink("eth0", 2, b"", uplink_mtu, NETWORK, ADDRESS6)
    assert ask(uplink=uplink, mtu=mtu).mtu4 == expected


def test_hosts_have_an_address_each_and_each_is_neutral():
    others = [IPv4Address(f"192.168.1.{n}") for n in range(5, 9)]
    wanted = ask(hosts=others)
    assert [local4 for local4, _ in wanted.hosts] == [LOCAL4, *others]
    assert len({address6 for _, address6 in wanted.hosts}) == 5
    assert all(is_neutral(six, PLAT.prefix, four) for four, six in wanted.hosts)
    assert wanted.hosts[0] == ask().hosts[0], "the CLAT's own does not depend on them"


def test_rfc7217_section_5_the_bits_are_stable_and_depend_on_everything():
    drawn = {
        BITS(NETWORK, b"a", LOCAL4),
        BITS(NETWORK, b"b", LOCAL4),
        BITS(NETWORK, b"a", HOST),
        BITS(IPv6Network("2001:db8:1:3::/64"), b"a", LOCAL4),
        bits_for(b"other", NETWORK, b"a", LOCAL4),
    }
    assert len(drawn) == 5
    assert BITS(NETWORK, b"a", LOCAL4) in drawn
    assert all(0 <= bits < 1 << 48 for bits in drawn)


def test_the_key_of_this_host_is_stable():
    assert host_key() == host_key() != b""


def test_another_interface_or_another_64_has_another_address():
    other = Uplink("eth0", 2, b"\2\0\0\0\0\2", 1500, NETWORK, ADDRESS6)
    moved = Uplink("eth0", 2, UPLINK.mac, 1500, IPv6Network("2001:db8:1:3::/64"), ADDRESS6)
    bare, renamed = (Uplink(name, 2, b"", 1500, NETWORK, ADDRESS6) for name in ("ppp0", "ppp1"))
    states = [ask(uplink=uplink) for uplink in (UPLINK, other, moved, bare, renamed)]
    assert len({state.address6 for state in states if isinstance(state, Wanted)}) == 5


# What the translator is told.


def mapped(wanted, layout=Layout.RFC6052):
    settings = clat_settings(to_settings(Config(), icmp6_source=bytes(16)), wanted, layout)
    return settings, AddressMap(settings, DestinationPolicy(settings.common))


def test_the_translator_maps_the_host_and_embeds_the_rest():
    wanted = ask(hosts=(HOST,))
    settings, addresses = mapped(wanted)
    own6, host6 = (address6.packed for _, address6 in wanted.hosts)
    assert addresses.to_v6(LOCAL4.packed) == own6
    assert addresses.to_v6(HOST.packed) == host6
    assert addresses.to_v4(own6) == LOCAL4.packed
    server = IPv6Address("64:ff9b::198.51.100.7").packed
    refused = IPv6Address("64:ff9b::192.168.1.1").packed
    assert addresses.to_v4(IPv6Address("64:ff9b::8.8.8.8").packed) == bytes((8, 8, 8, 8))
    assert addresses.to_v4(refused) is None, "RFC 6052 §3.1: not under the well-known prefix"
    assert addresses.to_v4(server) is None
    assert addresses.to_v4(ADDRESS6.packed) is None, "the host's own address is not the CLAT's"
    assert settings.common.icmp6_source == ADDRESS6.packed
    assert settings.common.icmp4_source == bytes((192, 0, 0, 8))
    assert settings.common.pool4 == ()
    assert settings.hairpin is Hairpin.NONE, "hosts here reach each other without us"


def test_without_a_way_nothing_is_mapped():
    _, addresses = mapped(None)
    assert addresses.to_v6(LOCAL4.packed) is None
    assert addresses.to_v6(bytes((8, 8, 8, 8))) is None


def test_a_prefix_of_64_is_rfc6052s_unless_told_otherwise():
    plat = Plat(IPv6Network("2001:db8:64::/64"), "config")
    wanted = ask(plat=plat)
    _, addresses = mapped(wanted)
    eight = bytes((8, 8, 8, 8))
    assert addresses.to_v6(eight) == IPv6Address("2001:db8:64:0:8:808:800:0").packed
    _, addresses = mapped(wanted, Layout.TRAILING)
    assert addresses.to_v6(eight) == IPv6Address("2001:db8:64::8.8.8.8").packed
