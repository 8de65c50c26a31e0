"""Which IPv4 destinations are refused (RFC 6052 §3.1, RFC 6890), and what the client is told."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

import pytest

from tests.oracle import (
    CLIENT,
    ICMP,
    IP,
    POOL,
    UDP,
    Bench,
    echo6,
    read,
    rfc6052,
    tcp6,
    trailing,
    udp6,
)
from translate.addresses import Layout, Prefix6
from translate.policy import WELL_KNOWN_PREFIX
from translate.pool4 import PoolRange
from translate.reasons import Reason

REFUSED = [
    "0.0.0.1",
    "0.255.255.255",
    "127.0.0.0",
    "127.0.0.1",
    "127.255.255.255",
    "169.254.0.0",
    "169.254.169.254",
    "169.254.255.255",
    "224.0.0.0",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.0",
    "255.255.255.254",
    "255.255.255.255",
]
ALLOWED = [
    "1.0.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "223.255.255.255",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
]
# The ends of what RFC 1918, RFC 5735 §3 and RFC 6598 list, without what is refused anyway.
NOT_GLOBAL = [
    "10.0.0.0",
    "10.255.255.255",
    "100.64.0.0",
    "100.127.255.255",
    "172.16.0.0",
    "172.31.255.255",
    "192.0.0.0",
    "192.0.0.9",
    "192.0.0.170",
    "192.0.0.255",
    "192.0.2.0",
    "192.0.2.255",
    "192.168.0.0",
    "192.168.255.255",
    "198.18.0.0",
    "198.19.255.255",
    "198.51.100.0",
    "198.51.100.255",
    "203.0.113.0",
    "203.0.113.7",
    "203.0.113.255",
]
GLOBAL = [
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.1.255",
    "192.0.3.0",
    "192.88.99.0",  # 6to4 relays: listed there, but as seen in the internet
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.255",
    "198.51.101.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
]


def refused(bench, packet, reason):
    """Asserts that the client is told that it is prohibited (ICMPv6 1/1)."""
    (answer,) = bench.refused(packet, reason)
    out = read(answer.data)
    assert (out.dst, out.payload.type, out.payload.code) == (CLIENT, 1, 1)
    assert bench.nat.state.bib_count == 0


def well_known(**changes):
    return Bench(prefixes=(Prefix6(WELL_KNOWN_PREFIX, Layout.RFC6052),), **changes)


@pytest.mark.parametrize("dst", REFUSED)
def test_rfc6890_destinations_that_are_nobody(dst):
    refused(Bench(), udp6(dst=trailing(dst)), Reason.DESTINATION_REFUSED)


# In RFC 6052's layout 0/8 reads as an address of the other one.
@pytest.mark.parametrize("dst", [dst for dst in REFUSED if not dst.startswith("0.")])
def test_rfc6890_destinations_that_are_nobody_in_the_other_layout(dst):
    refused(Bench(), udp6(dst=rfc6052(dst)), Reason.DESTINATION_REFUSED)


@pytest.mark.parametrize("dst", ALLOWED)
def test_their_neighbours_are_reached(dst):
    assert Bench().udp(dst=trailing(dst)).dst == dst


@pytest.mark.parametrize(
    "packet", [udp6, lambda dst: tcp6("S", dst=dst), lambda dst: echo6(dst=dst)]
)
def test_every_protocol(packet):
    refused(Bench(), packet(dst=trailing("127.0.0.1")), Reason.DESTINATION_REFUSED)


def test_the_prefix_itself_is_nobody():
    refused(Bench(), udp6(dst="fec0:0:0:ffff::"), Reason.DESTINATION_REFUSED)


def test_deny4_adds_to_them():
    bench = Bench(deny4=(IPv4Network("10.0.0.0/8"), IPv4Network("8.8.8.8/32")))
    for dst in ("10.0.0.0", "10.255.255.255", "8.8.8.8", "127.0.0.1"):
        refused(bench, udp6(dst=trailing(dst)), Reason.DESTINATION_REFUSED)
    for dst in ("9.255.255.255", "11.0.0.0", "8.8.8.7", "8.8.8.9"):
        assert bench.udp(dst=trailing(dst)).dst == dst


@pytest.mark.parametrize("last", [8, 12, 15])
def test_pool4_is_no_destination(last):
    bench = Bench(pool4=(PoolRange(IPv4Network("203.0.113.8/29"), protocols=frozenset({6, 17})),))
    for packet in (udp6, echo6):
        refused(bench, packet(dst=trailing(f"203.0.113.{last}")), Reason.DESTINATION_REFUSED)
    assert bench.udp(dst=trailing("203.0.113.16")).dst == "203.0.113.16"


@pytest.mark.parametrize("dst", NOT_GLOBAL)
def test_rfc6052_3_1_the_well_known_prefix_has_no_private_addresses(dst):
    refused(well_known(), udp6(dst=trailing(dst, "64:ff9b::/96")), Reason.PRIVATE_UNDER_WKP)


@pytest.mark.parametrize("dst", GLOBAL)
def test_rfc6052_3_1_the_well_known_prefix_has_global_ones(dst):
    assert well_known().udp(dst=trailing(dst, "64:ff9b::/96")).dst == dst


@pytest.mark.parametrize("dst", NOT_GLOBAL)
def test_wkp_strict_can_be_switched_off(dst):
    assert well_known(wkp_strict=False).udp(dst=trailing(dst, "64:ff9b::/96")).dst == dst


@pytest.mark.parametrize("dst", NOT_GLOBAL)
def test_rfc8215_the_local_use_prefix_has_private_addresses(dst):
    network = "64:ff9b:1:fffe::/96"
    bench = Bench(prefixes=(Prefix6(IPv6Network(network), Layout.RFC6052),))
    assert bench.udp(dst=trailing(dst, network)).dst == dst


def test_rfc6052_3_1_each_prefix_by_itself():
    bench = Bench(
        prefixes=(
            Prefix6(WELL_KNOWN_PREFIX, Layout.RFC6052),
            Prefix6(IPv6Network("2001:db8:64::/96"), Layout.RFC6052),
        )
    )
    refused(bench, udp6(dst="64:ff9b::10.0.0.1"), Reason.PRIVATE_UNDER_WKP)
    assert bench.udp(dst="2001:db8:64::10.0.0.1").dst == "10.0.0.1"


def test_rfc6052_3_1_a_private_server_does_not_appear_under_the_well_known_prefix():
    bench = well_known()
    port = bench.udp(dst="64:ff9b::8.8.8.8")[UDP].sport
    (answer,) = bench.refused(
        IP(src="10.0.0.1", dst=POOL) / UDP(sport=53, dport=port), Reason.PRIVATE_UNDER_WKP
    )
    out = read(answer.data)
    assert (out.dst, out[ICMP].type, out[ICMP].code) == ("10.0.0.1", 3, 13)
    out = bench.one(IP(src="9.9.9.9", dst=POOL) / UDP(sport=53, dport=port))
    assert out.src == "64:ff9b::909:909"


def test_a_refused_server_does_not_come_in_through_a_mapping():
    bench = Bench(deny4=(IPv4Network("10.0.0.0/8"),))
    port = bench.udp()[UDP].sport
    packet = IP(src="10.0.0.1", dst=POOL) / UDP(sport=53, dport=port)
    assert bench.refused(packet, Reason.DESTINATION_REFUSED) == []
    packet = IP(src="169.254.1.1", dst=POOL) / UDP(sport=53, dport=port)
    assert bench.refused(packet, Reason.DESTINATION_REFUSED) == []
