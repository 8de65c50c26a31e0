"""Static BIB entries: IPv4 hosts reach IPv6 servers (RFC 6146 §3.1, §3.5.1, §3.5.2.2)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from tests.oracle import (
    CLIENT,
    ICMP,
    OTHER_CLIENT,
    OTHER_SERVER,
    POOL,
    SERVER,
    TCP,
    UDP,
    Bench,
    echo4,
    error4,
    read,
    tcp4,
    tcp6,
    trailing,
    udp4,
    udp6,
)
from translate.flow_records import RecordTable
from translate.packets import Protocol
from translate.reasons import Reason
from translate.sessions import FlowTable
from translate.settings import Filtering, Limits
from translate.static_bib import StaticEntry

SERVER6 = "2001:db8:5::5"


def static(protocol: int, port4: int, port6: int, *, to: str = SERVER6, pool: str = POOL):
    key4 = IPv4Address(pool).packed + port4.to_bytes(2, "big")
    return StaticEntry(protocol, key4, IPv6Address(to).packed + port6.to_bytes(2, "big"))


def sent(bench: Bench, **about):
    """A client's datagram as it leaves for a server; an answer in its place is a failure."""
    out = bench.udp(**about)
    assert out.version == 4
    return out


WEB = static(6, 80, 8080)
DNS = static(17, 53, 5353)
PING = static(1, 77, 78)


def reconfigure(bench: Bench, *entries: StaticEntry) -> None:
    bench.nat.configure(replace(bench.nat.settings, static=entries))


def counts(bench: Bench) -> tuple[int, ...]:
    state = bench.nat.state
    address = IPv4Address(POOL).packed
    assert {p: len(t) for p, t in state.bib4.items()} == {p: len(t) for p, t in state.bib6.items()}
    return (
        state.session_count,
        state.bib_count,
        len(state.clients),
        *(pool.free_ports(address) for pool in state.allocators.values()),
    )


@pytest.mark.parametrize("filtering", Filtering)
def test_rfc6146_3_5_2_2_connection_begun_from_ipv4(filtering):
    """The operator's mapping is open to everybody, whatever the filtering of the clients' own."""
    bench = Bench(static=(WEB,), filtering=filtering)
    syn = bench.one(tcp4("S", 80, sport=5000))
    assert (syn.dst, syn[TCP].dport, syn[TCP].sport) == (SERVER6, 8080, 5000)
    answer = bench.one(tcp6("SA", src=SERVER6, sport=8080, dst=syn.src, dport=5000))
    assert (answer.src, answer.dst) == (POOL, SERVER)
    assert (answer[TCP].sport, answer[TCP].dport) == (80, 5000)
    bench.one(tcp4("A", 80, sport=5000))
    assert counts(bench)[:3] == (1, 1, 1)


def test_rfc6146_3_5_1_datagram_from_ipv4():
    bench = Bench(static=(DNS,))
    query = bench.one(udp4(53, sport=4000))
    assert (query.dst, query[UDP].dport) == (SERVER6, 5353)
    answer = bench.one(udp6(src=SERVER6, sport=5353, dst=query.src, dport=4000))
    assert (answer.src, answer[UDP].sport, answer[UDP].dport) == (POOL, 53, 4000)


def test_rfc6146_3_5_3_echo_from_ipv4():
    bench = Bench(static=(PING,))
    request = bench.one(echo4(77, kind=8))
    assert (request.dst, request.payload.type, request.payload.id) == (SERVER6, 128, 78)


def test_server_that_begins_itself_uses_its_mapping():
    bench = Bench(static=(WEB, DNS))
    assert sent(bench, src=SERVER6, sport=5353)[UDP].sport == 53
    assert bench.one(tcp6("S", src=SERVER6, sport=8080))[TCP].sport == 80


def test_entry_of_one_protocol_is_none_of_another():
    bench = Bench(static=(WEB,))
    bench.refused(udp4(80), Reason.NO_MAPPING)


def test_mapping_outlives_its_sessions():
    bench = Bench(static=(DNS,))
    before = counts(bench)
    bench.one(udp4(53))
    bench.advance(400)
    assert counts(bench) == before
    bench.one(udp4(53))


def test_session_limit_leaves_the_mapping():
    bench = Bench(static=(DNS,), limits=Limits(sessions=1))
    bench.one(udp4(53, sport=1))
    bench.refused(udp4(53, sport=2), Reason.SESSION_LIMIT)
    bench.advance(400)
    bench.one(udp4(53, sport=2))


def test_no_client_is_given_the_port():
    bench = Bench(static=(static(17, 1024, 5353),))
    pools = bench.nat.state.allocators[Protocol.UDP]
    assert not pools.reserve(IPv4Address(POOL).packed, 1024)
    bench.refused(udp4(1025), Reason.NO_MAPPING)


def test_reload_ends_what_is_removed_with_its_sessions():
    bench = Bench(static=(WEB, DNS))
    bench.one(tcp4("S", 80))
    bench.one(udp4(53))
    reconfigure(bench, DNS)
    assert counts(bench)[:3] == (1, 1, 1)
    bench.one(udp4(53))
    bench.refused(tcp4("S", 80, sport=6000), Reason.SYN_STORED)
    reconfigure(bench)
    assert counts(bench) == counts(Bench())


def test_reload_keeps_sessions_of_what_is_unchanged():
    bench = Bench(static=(WEB, DNS))
    bench.one(udp4(53))
    (session,) = bench.nat.state.sessions()
    reconfigure(bench, DNS, PING)
    assert list(bench.nat.state.sessions()) == [session]
    bench.one(echo4(77, kind=8))


@pytest.mark.parametrize("kept", [(0, 4), (1, 3), (2,), (0, 1), (3, 4), (0, 1, 2, 3, 4)])
def test_reload_ends_all_sessions_whichever_have_ended_before(kept):
    """Whether the first, the last or those between have gone, and new ones have come."""
    bench = Bench(static=(DNS, WEB))
    bench.one(tcp4("S", 80))
    for number in range(5):
        bench.one(udp4(53, sport=4000 + number))
    bench.advance(200)
    for number in kept:
        bench.one(udp4(53, sport=4000 + number))
    bench.advance(150)
    bench.one(udp4(53, sport=5000))
    bench.one(tcp4("S", 80))
    assert counts(bench)[:3] == (len(kept) + 2, 2, 1)
    reconfigure(bench, WEB)
    assert counts(bench)[:3] == (1, 1, 1)
    reconfigure(bench)
    assert counts(bench) == counts(Bench())


def test_reload_looks_at_no_session_of_another_mapping(monkeypatch):
    """There may be a million of them, and nothing else goes on meanwhile."""
    bench = Bench(static=(DNS, static(17, 54, 54)))
    sent(bench, sport=40000)
    for number in range(3):
        bench.one(udp4(53, sport=4000 + number))
        bench.one(udp4(54, sport=4000 + number))
    monkeypatch.setattr(FlowTable, "sessions", None)
    monkeypatch.setattr(RecordTable, "values", None)
    reconfigure(bench, static(17, 54, 54), static(17, 60, 55))
    assert counts(bench)[:3] == (4, 3, 2)


def test_reload_that_displaces_mappings_looks_at_all_sessions_once(monkeypatch):
    bench = Bench(static=(DNS,))
    ports = [sent(bench, sport=sport)[UDP].sport for sport in (40000, 40002, 40004)]
    looks: list[FlowTable] = []
    plain = FlowTable.sessions

    def sessions(table: FlowTable):
        looks.append(table)
        return plain(table)

    monkeypatch.setattr(FlowTable, "sessions", sessions)
    reconfigure(bench, DNS, static(17, ports[0], 60), static(17, ports[2], 61))
    assert (bench.nat.state.displaced, len(looks)) == (2, 1)
    assert counts(bench)[:2] == (1, 4)


def test_reload_leads_a_port_to_another_server():
    bench = Bench(static=(DNS,))
    bench.one(udp4(53))
    reconfigure(bench, static(17, 53, 53, to=OTHER_CLIENT))
    assert counts(bench)[:3] == (0, 1, 1)
    assert bench.one(udp4(53)).dst == OTHER_CLIENT


def test_reload_takes_a_port_from_a_client():
    """A dynamic mapping makes way with its sessions, counted; the client gets another port."""
    bench = Bench()
    port = sent(bench)[UDP].sport
    sent(bench, dport=54)
    reconfigure(bench, static(17, port, 5353))
    assert bench.nat.state.displaced == 1
    assert counts(bench)[:3] == (0, 1, 1)
    assert bench.one(udp4(port)).dst == SERVER6
    again = sent(bench)
    assert again[UDP].sport != port


def test_reload_gives_a_client_that_has_a_port_another():
    """One IPv6 transport address has one mapping (RFC 6146 §3.1)."""
    bench = Bench()
    sent(bench, sport=40000)
    reconfigure(bench, static(17, 53, 40000, to=CLIENT))
    assert bench.nat.state.displaced == 1
    assert sent(bench, sport=40000)[UDP].sport == 53
    assert counts(bench)[:3] == (1, 1, 1)


def test_entry_that_takes_port_and_address_of_one_mapping():
    bench = Bench()
    port = sent(bench, sport=40000)[UDP].sport
    sent(bench, sport=40002)
    reconfigure(bench, static(17, port, 40000, to=CLIENT))
    assert bench.nat.state.displaced == 1
    assert counts(bench)[:3] == (1, 2, 1)


def test_icmp_error_about_a_forwarded_datagram():
    bench = Bench(static=(DNS,))
    query = bench.one(udp4(53, sport=4000))
    answer = bench.one(udp6(src=SERVER6, sport=5353, dst=query.src, dport=4000))
    (out,) = bench.send(error4(3, 3, 0, answer))
    got = read(out.data)
    assert (got.dst, got.payload.type, got.payload.code) == (SERVER6, 1, 4)


def test_rfc6146_3_8_client_reaches_the_server_through_pool4():
    bench = Bench(static=(DNS,))
    out = bench.one(udp6(src=CLIENT, dst=trailing(POOL), sport=40000, dport=53))
    assert (out.dst, out[UDP].dport) == (SERVER6, 5353)
    assert out.src == str(IPv6Address(trailing(POOL)))
    back = bench.one(udp6(src=SERVER6, sport=5353, dst=out.src, dport=out[UDP].sport))
    assert (back.dst, back[UDP].sport, back[UDP].dport) == (CLIENT, 53, 40000)


def test_other_hosts_share_the_mapping():
    bench = Bench(static=(DNS,))
    bench.one(udp4(53))
    bench.one(udp4(53, src=OTHER_SERVER))
    assert counts(bench)[:3] == (2, 1, 1)


def test_ports_of_static_entries_do_not_count_as_the_clients():
    bench = Bench(
        static=(static(17, 53, 53, to=CLIENT), static(17, 54, 54, to=CLIENT)),
        limits=Limits(bib_per_client=1),
    )
    sent(bench, sport=40000)
    bench.refused(udp6(sport=40001), Reason.CLIENT_BIB_LIMIT)


def test_removed_entries_count_no_more():
    bench = Bench(static=(static(17, 53, 53, to=CLIENT),), limits=Limits(bib_per_client=1))
    sent(bench, sport=40000)
    reconfigure(bench)
    bench.refused(udp6(sport=40001), Reason.CLIENT_BIB_LIMIT)


def test_icmp_layer_is_what_the_tests_think():
    assert read(bytes(echo4(77, kind=8)))[ICMP].id == 77
