"""Mappings, filtering and sessions (RFC 6146 §3.5; RFC 4787 REQ-1, REQ-2, REQ-8)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network
from typing import Any

import pytest

from tests.oracle import (
    CLIENT,
    ICMP,
    IP,
    LINK,
    OTHER_CLIENT,
    OTHER_SERVER,
    OTHER_SERVER6,
    POOL,
    PREFIX,
    SERVER,
    SERVER6,
    TCP,
    UDP,
    Bench,
    IPv6,
    echo4,
    echo6,
    error4,
    read,
    rfc6052,
    tcp4,
    tcp6,
    trailing,
    udp4,
    udp6,
)
from translate.addresses import Layout, Prefix6
from translate.pool4 import PoolRange
from translate.reasons import Reason
from translate.settings import Filtering, Limits

SECOND = "2001:db8:64::/96"


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def strict():
    return Bench(filtering=Filtering.ADDRESS_DEPENDENT)


def sessions(bench):
    return len(list(bench.nat.state.sessions()))


# -- mappings -----------------------------------------------------------------------------


def test_rfc6146_3_5_1_one_mapping_for_all_servers(bench):
    first = bench.udp(dport=53)
    for dst, dport in ((SERVER6, 54), (OTHER_SERVER6, 53), (trailing("8.8.8.8"), 53)):
        out = bench.udp(dst=dst, dport=dport)
        assert (out.src, out[UDP].sport) == (first.src, first[UDP].sport)
    assert sessions(bench) == 4


def test_rfc6146_3_5_2_2_one_mapping_for_all_servers_tcp(bench):
    first = bench.one(tcp6("S"))
    out = bench.one(tcp6("S", dst=OTHER_SERVER6, dport=443))
    assert (out.src, out[TCP].sport) == (first.src, first[TCP].sport)


def test_rfc6146_3_5_3_one_mapping_for_all_servers_icmp(bench):
    first = bench.one(echo6(ident=9))
    out = bench.one(echo6(ident=9, dst=OTHER_SERVER6))
    assert out[ICMP].id == first[ICMP].id
    assert bench.one(echo6(ident=10))[ICMP].id != first[ICMP].id


def test_rfc6146_3_1_clients_and_ports_have_mappings_of_their_own(bench):
    ports = {
        bench.udp(src=src, sport=sport)[UDP].sport
        for src in (CLIENT, OTHER_CLIENT)
        for sport in range(40000, 40050)
    }
    assert len(ports) == 100


def test_rfc6146_3_1_protocols_have_tables_of_their_own():
    bench = Bench(pool4=(PoolRange(IPv4Network(POOL + "/32"), first_port=5000, last_port=5000),))
    assert bench.udp()[UDP].sport == 5000
    assert bench.one(tcp6("S"))[TCP].sport == 5000
    assert bench.one(echo6())[ICMP].id == 5000


def test_rfc4787_req2_one_pool_address_for_a_client():
    bench = Bench(pool4=(PoolRange(IPv4Network("203.0.113.0/28")),))
    for number in range(30):
        client = f"2001:db8:1::{number + 1:x}"
        sources = {bench.udp(src=client, sport=40000 + n).src for n in range(5)}
        sources.add(bench.one(tcp6("S", src=client)).src)
        sources.add(bench.one(echo6(src=client)).src)
        assert len(sources) == 1


@pytest.mark.parametrize("packet", [tcp6("S", sport=40001), udp6(sport=40001)])
def test_rfc7857_4_who_has_an_address_without_ports_gets_no_second_one(packet):
    everything = frozenset({6, 17})
    bench = Bench(pool4=(PoolRange(IPv4Network("203.0.113.0/28"), everything, 5000, 5000),))
    bench.one(tcp6("S", sport=40000))
    bench.udp(sport=40000)
    (answer,) = bench.refused(packet, Reason.POOL4_EXHAUSTED)
    out = read(answer.data)
    assert (out.dst, out.payload.type, out.payload.code) == (CLIENT, 1, 3)
    bench.udp(src=OTHER_CLIENT)


def test_clients_are_spread_over_the_pool():
    bench = Bench(pool4=(PoolRange(IPv4Network("203.0.113.0/28")),))
    assert len({bench.udp(src=f"2001:db8:1::{n:x}").src for n in range(1, 100)}) == 16


# -- filtering ----------------------------------------------------------------------------


def test_rfc4787_req8_endpoint_independent_any_server_comes_in(bench):
    port = bench.udp()[UDP].sport
    out = bench.one(udp4(port, src=OTHER_SERVER, sport=999))
    assert (out.src, out.dst) == (OTHER_SERVER6, CLIENT)
    assert (out[UDP].sport, out[UDP].dport) == (999, 40000)
    back = bench.udp(dst=OTHER_SERVER6, dport=999)
    assert (back.dst, back[UDP].dport, back[UDP].sport) == (OTHER_SERVER, 999, port)
    assert sessions(bench) == 2


def test_rfc7857_6_a_mapping_lets_in_no_other_protocol(bench):
    port = bench.connect()
    bench.refused(udp4(port, src=OTHER_SERVER), Reason.NO_MAPPING)
    bench.refused(echo4(port, kind=8, src=OTHER_SERVER), Reason.NO_MAPPING)
    port = bench.udp(sport=41000)[UDP].sport
    bench.refused(tcp4("S", port, src=OTHER_SERVER), Reason.SYN_STORED)
    assert sessions(bench) == 2


REFUSED: dict[str, dict[str, Any]] = {
    "deny4": {"deny4": (IPv4Network(OTHER_SERVER + "/32"),)},
    "address-dependent": {"filtering": Filtering.ADDRESS_DEPENDENT},
    "limit of sessions": {"limits": Limits(sessions_per_client=1)},
    "a last hop": {},
}


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.parametrize("kind", ["udp", "tcp", "icmp"])
def test_rfc7857_7_what_is_refused_from_outside_keeps_no_mapping(why, kind):
    bench = Bench(**REFUSED[why])
    ttl = 1 if why == "a last hop" else 64
    if kind == "udp":
        packet = udp4(bench.udp()[UDP].sport, src=OTHER_SERVER)
    elif kind == "tcp":
        packet = tcp4("S", bench.one(tcp6("S"))[TCP].sport, src=OTHER_SERVER)
    else:
        packet = echo4(bench.one(echo6())[ICMP].id, kind=8, src=OTHER_SERVER)
    packet.ttl = ttl
    for _ in range(10):
        bench.advance(31)
        assert not [out for out in bench.send(packet) if out.data[0] >> 4 == 6]
    assert bench.nat.state.bib_count == 0


def test_rfc6146_3_5_2_2_v4_syn_through_a_mapping(bench):
    port = bench.one(tcp6("S"))[TCP].sport
    out = bench.one(tcp4("S", port, src=OTHER_SERVER, sport=999))
    assert (out.src, out.dst, out[TCP].dport) == (OTHER_SERVER6, CLIENT, 40000)
    bench.one(tcp6("SA", dst=OTHER_SERVER6, dport=999))
    bench.one(tcp4("A", port, src=OTHER_SERVER, sport=999))
    assert sessions(bench) == 2


def test_rfc6146_3_5_3_echo_from_another_server(bench):
    ident = bench.one(echo6(ident=9))[ICMP].id
    out = bench.one(echo4(ident, kind=8, src=OTHER_SERVER))
    assert (out.src, out.payload.type, out.payload.id) == (OTHER_SERVER6, 128, 9)


def test_rfc6146_3_5_1_address_dependent_other_servers_stay_out(strict):
    port = strict.udp()[UDP].sport
    strict.refused(udp4(port, src=OTHER_SERVER), Reason.FILTERED)
    assert strict.one(udp4(port, sport=999))[UDP].sport == 999
    strict.udp(dst=OTHER_SERVER6, dport=1)
    assert strict.one(udp4(port, src=OTHER_SERVER)).src == OTHER_SERVER6


def test_rfc6146_3_5_3_address_dependent_icmp(strict):
    ident = strict.one(echo6())[ICMP].id
    strict.refused(echo4(ident, src=OTHER_SERVER), Reason.FILTERED)
    strict.one(echo4(ident))


def test_rfc6146_3_5_2_2_address_dependent_tcp(strict):
    port = strict.connect()
    for flags in ("S", "A", "F", "R"):
        assert strict.send(tcp4(flags, port, src=OTHER_SERVER)) == []
    assert strict.one(tcp4("S", port, sport=999))[TCP].sport == 999


def test_rfc6146_3_5_1_address_dependent_ends_with_the_session(strict):
    port = strict.udp()[UDP].sport
    strict.udp(dst=OTHER_SERVER6)
    strict.advance(200)
    strict.udp()
    strict.advance(200)
    strict.refused(udp4(port, src=OTHER_SERVER), Reason.FILTERED)
    strict.one(udp4(port))


@pytest.mark.parametrize("packet", [udp4(50000), tcp4("SA", 50000), echo4(5, kind=8)])
def test_rfc6146_3_5_no_mapping_nothing_comes_in(bench, packet):
    for answer in bench.refused(packet, Reason.NO_MAPPING):
        out = read(answer.data)
        assert (out.src, out.dst, out[ICMP].type, out[ICMP].code) == (POOL, SERVER, 3, 1)
    assert sessions(bench) == 0


@pytest.mark.parametrize("flags", ["A", "F", "R", "PA", "FA"])
def test_rfc6146_3_5_2_2_closed_without_mapping_only_a_syn_begins(bench, flags):
    assert bench.refused(tcp6(flags), Reason.NO_SESSION) == []
    assert bench.refused(tcp4(flags, 50000), Reason.NO_MAPPING) == []
    assert sessions(bench) == 0


@pytest.mark.parametrize("flags", ["A", "F", "R"])
def test_rfc6146_3_5_2_2_closed_with_mapping_others_pass_and_begin_nothing(bench, flags):
    port = bench.one(tcp6("S"))[TCP].sport
    out = bench.one(tcp6(flags, dst=OTHER_SERVER6))
    assert (out.dst, out[TCP].sport, out[TCP].flags) == (OTHER_SERVER, port, flags)
    back = bench.one(tcp4(flags, port, src=OTHER_SERVER))
    assert (back.src, back.dst, back[TCP].dport) == (OTHER_SERVER6, CLIENT, 40000)
    assert sessions(bench) == 1


# -- two forms of one server --------------------------------------------------------------


@pytest.fixture
def two():
    """Two prefixes, the second one a /96."""
    return Bench(
        prefixes=(
            Prefix6(IPv6Network(PREFIX), Layout.TRAILING),
            Prefix6(IPv6Network(SECOND), Layout.RFC6052),
        )
    )


OTHER_FORMS = [rfc6052(SERVER), trailing(SERVER, SECOND)]


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_udp_follows_the_form_used_last(two, form):
    port = two.udp()[UDP].sport
    for used in (form, SERVER6, form):
        assert two.udp(dst=used)[UDP].sport == port
        assert two.one(udp4(port)).src == used
        assert sessions(two) == 1
    two.advance(302)
    assert two.nat.state.bib_count == 0


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_icmp_follows_the_form_used_last(two, form):
    ident = two.one(echo6())[ICMP].id
    for used in (form, SERVER6):
        assert two.one(echo6(dst=used))[ICMP].id == ident
        assert two.one(echo4(ident)).src == used


@pytest.mark.parametrize("form", OTHER_FORMS)
@pytest.mark.parametrize("flags", ["S", "A", "PA", "F", "R"])
def test_tcp_of_the_other_form_is_refused(two, form, flags):
    port = two.connect()
    (answer,) = two.refused(tcp6(flags, dst=form), Reason.FORM_CONFLICT)
    out = read(answer.data)
    assert (out.dst, out.payload.type, out.payload.code) == (CLIENT, 1, 3)
    assert two.one(tcp4("A", port)).src == SERVER6
    assert sessions(two) == 1


@pytest.mark.parametrize("form", [SERVER6, *OTHER_FORMS])
def test_errors_of_the_server_come_from_the_form_that_its_client_uses(two, form):
    sent = two.udp(dst=form)
    assert two.one(error4(3, 3, 0, sent, src=SERVER)).src == form


def test_forms_of_different_servers_do_not_conflict(two):
    two.one(tcp6("S", dst=SERVER6))
    two.one(tcp6("S", dst=rfc6052(OTHER_SERVER)))
    two.one(tcp6("S", dst=rfc6052(SERVER), dport=81))
    assert sessions(two) == 3


def test_sessions_begun_from_ipv4_use_the_first_prefix(two):
    port = two.udp(dst=trailing(SERVER, SECOND))[UDP].sport
    assert two.one(udp4(port)).src == trailing(SERVER, SECOND)
    assert two.one(udp4(port, src=OTHER_SERVER)).src == OTHER_SERVER6


# -- who and where ------------------------------------------------------------------------


@pytest.mark.parametrize("packet", [udp6(), tcp6("S"), echo6()])
def test_a_refused_client_is_told_so(packet):
    asked = []

    def admit(addr6):
        asked.append(addr6)
        return False

    bench = Bench(admit=admit)
    (answer,) = bench.refused(packet, Reason.CLIENT_REFUSED)
    out = read(answer.data)
    assert (out.dst, out.payload.type, out.payload.code) == (CLIENT, 1, 1)
    assert asked == [bytes.fromhex("20010db8000100000000000000000010")]
    assert bench.nat.state.bib_count == 0


def test_rfc6146_3_5_source_inside_the_prefix_would_loop(bench):
    assert bench.refused(udp6(src=OTHER_SERVER6), Reason.SOURCE_INVALID) == []


@pytest.mark.parametrize("src", ["::", "::1", "ff02::1", "ff0e::9"])
def test_rfc4291_sources_that_are_nobody_v6(bench, src):
    assert bench.refused(udp6(src=src), Reason.SOURCE_INVALID) == []


@pytest.mark.parametrize("src", ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_rfc1122_3_2_1_3_sources_that_are_nobody_v4(bench, src):
    port = bench.udp()[UDP].sport
    assert bench.refused(udp4(port, src=src), Reason.SOURCE_INVALID) == []


def test_packets_for_others_are_left_alone(bench):
    port = bench.udp()[UDP].sport
    assert bench.refused(udp6(dst="2001:db8:9::1"), Reason.NOT_OURS) == []
    assert bench.refused(udp4(port, dst="203.0.113.9"), Reason.NOT_OURS) == []


def test_an_address_that_embeds_nothing(bench):
    (answer,) = bench.refused(udp6(dst="fec0:0:0:ffff:1:2:3:4"), Reason.NOT_EMBEDDED)
    out = read(answer.data)
    assert (out.payload.type, out.payload.code) == (1, 3)


def test_answers_go_to_the_link_the_client_was_last_seen_on(bench):
    moved = LINK[:5] + b"\x09"
    port = bench.one(tcp6("S"), link=LINK)[TCP].sport
    (out,) = bench.send(tcp4("SA", port))
    assert out.link == LINK
    bench.one(tcp6("A"), link=moved)
    assert [p.link for p in bench.send(tcp4("A", port))] == [moved]
    # A server that the client has not written to, with and without a session to come.
    for flags in ("A", "S"):
        assert [p.link for p in bench.send(tcp4(flags, port, src=OTHER_SERVER))] == [moved], flags


def test_own_errors_go_back_where_the_packet_came_from(bench):
    (answer,) = bench.send(udp6(dst=trailing(POOL)), link=LINK)
    assert answer.link == LINK


def test_ipv4_packets_go_to_the_default_link(bench):
    assert [p.link for p in bench.send(udp6(), link=LINK)] == [b""]


def test_the_ports_of_both_ends_are_told_apart(bench):
    """A server whose port equals the client's, and the pool's, does not confuse the tables."""
    port = bench.udp(sport=53, dport=53)[UDP].sport
    out = bench.one(IP(src=SERVER, dst=POOL) / UDP(sport=port, dport=port))
    assert (out[UDP].sport, out[UDP].dport) == (port, 53)
    assert isinstance(out, IPv6)
    assert IPv4Address(POOL) not in IPv4Network("198.51.100.0/24")
