"""What upstreams that lie and clients that waste can cost: time, memory, descriptors."""

from __future__ import annotations

import errno
import socket
import struct
import time
from typing import Any

import dns.edns
import dns.message
import pytest
import trio
import trio.testing

from gateway.dns64 import server as server_module
from gateway.dns64.clients import SHARE
from gateway.dns64.messages import AAAA, A, parse_answer
from gateway.dns64.names import MAX_POINTERS, Malformed, read_name
from gateway.dns64.reverse import assemble_reverse
from gateway.dns64.settings import Reverse
from gateway.dns64.synthesis import Rules, assemble, without
from gateway.dns64.udp_sockets import MAX_USES, SOCKETS, UdpSockets
from gateway.dns64.upstream_config import UpstreamAddress
from tests.unit.dns64_fakes import SOA, WKP, World, answer, lines_of, query, query_wire
from tests.unit.test_dns64_server import (
    A_RECORD,
    NAME,
    OPEN,
    Running,
    close_sockets,
    exchange,
    read,
)

__all__ = ["OPEN", "close_sockets"]  # the fixture

A_QUESTION = b"\3www\7example\4test\0\0\1\0\1"
AAAA_QUESTION = A_QUESTION[:-4] + AAAA.to_bytes(2, "big") + b"\0\1"
LOOSE = 0.5  # seconds; what it guards against takes many times as long


def message(question: bytes, *records: bytes) -> bytes:
    head = struct.pack("!6H", 0, 0x8180, 1, len(records), 0, 0)
    return head + question + b"".join(records)


def record(name: bytes, rtype: int, rdata: bytes, ttl: int = 60) -> bytes:
    return name + struct.pack("!HHIH", rtype, 1, ttl, len(rdata)) + rdata


def chain(question: bytes, rtype: int, rdata: bytes, *, pointers: int, names: int) -> bytes:
    """Records whose names are the end of a long chain of compression pointers.

    In front of the chain is a record like them with a plain name. The chain itself is of a type
    that nobody knows, so that nobody finds fault with it.
    """
    plain = record(b"\xc0\x0c", rtype, rdata)
    start = 12 + len(question) + len(plain) + 12  # where the chain's RDATA begins
    links = b"".join(
        struct.pack("!H", 0xC000 | (start + 2 * n - 2 if n else 12)) for n in range(pointers)
    )
    last = struct.pack("!H", 0xC000 | start + 2 * (pointers - 1))
    chained = record(last, rtype, rdata)
    return message(question, plain, record(b"\xc0\x0c", 65_280, links), *[chained] * names)


def test_a_chain_of_pointers_at_the_limit():
    for count, good in ((MAX_POINTERS, True), (MAX_POINTERS + 1, False)):
        data = (
            bytes(2)
            + b"\1a\0"
            + b"".join(
                struct.pack("!H", 0xC000 | (5 + 2 * n - 2 if n else 2)) for n in range(count)
            )
        )
        if good:
            assert read_name(data, len(data) - 2) == b"\1a\0"
        else:
            with pytest.raises(Malformed):
                read_name(data, len(data) - 2)


@pytest.mark.parametrize("rtype", [A, 33])
def test_names_at_the_end_of_long_chains_cost_no_time(rtype):
    rdata = bytes((192, 0, 2, 1)) if rtype == A else bytes(6) + b"\xc0\x0c"
    empty = parse_answer(message(AAAA_QUESTION))
    many = parse_answer(chain(A_QUESTION, rtype, rdata, pointers=7_000, names=1_000))
    started = time.perf_counter()
    with pytest.raises(Malformed):
        if rtype == A:
            assemble(empty, many, AAAA_QUESTION, (WKP,), Rules())
        else:
            without_all(many)
    assert time.perf_counter() - started < LOOSE


def without_all(found):
    """By dnspython: the AAAA record in front makes `without` take that way."""
    wire = bytearray(found.wire)
    wire += record(b"\xc0\x0c", AAAA, bytes(16))
    struct.pack_into("!H", wire, 6, struct.unpack_from("!H", wire, 6)[0] + 1)
    return without(parse_answer(bytes(wire)), lambda address: True)


def test_reverse_answers_with_long_chains_cost_no_time():
    name = "1.0.2.192.in-addr.arpa."
    asked = query("1.0.0.0." + "0." * 28 + "ip6.arpa", "PTR")
    question = answer(name, "PTR", []).question
    many = parse_answer(chain(question, 12, b"\xc0\x0c", pointers=7_000, names=1_000))
    started = time.perf_counter()
    with pytest.raises(Malformed):
        assemble_reverse(asked, many, 0, Reverse.CNAME)
    assert time.perf_counter() - started < LOOSE


def test_thousands_of_addresses_are_made_in_time_and_too_many_are_a_failure():
    empty = answer("www.example.test.", "AAAA", [], [SOA])

    def made(count: int):
        records = [
            record(b"\xc0\x0c", A, (0x08000000 + n).to_bytes(4, "big")) for n in range(count)
        ]
        whole = parse_answer(message(A_QUESTION, *records))
        return assemble(empty, whole, AAAA_QUESTION, (WKP,), Rules())

    started = time.perf_counter()
    found = made(2_300)
    assert time.perf_counter() - started < LOOSE
    assert found is not None
    assert len(found.of_type(AAAA)) == 2_300
    with pytest.raises(Malformed):
        made(4_000)


@pytest.mark.parametrize("ttl", [0x8000_0000, 0xFFFF_FFFF])
def test_rfc2181_8_a_ttl_with_the_highest_bit_is_zero(ttl):
    line = f"www.example.test. {0x7FFF_FFFF} IN A 192.0.2.1"
    wire = bytearray(answer("www.example.test.", "A", [line]).wire)
    at = wire.index(b"\x7f\xff\xff\xff")
    struct.pack_into("!I", wire, at, ttl)
    world = World(
        {(NAME, "AAAA"): answer(NAME, "AAAA", [], [SOA]), (NAME, "A"): parse_answer(bytes(wire))}
    )
    reply = world.ask(NAME)
    assert reply.answer[0].ttl == 0
    assert world.ask(NAME, "A").answer[0].ttl == 0
    # And nobody keeps it.
    world.ask(NAME, "A")
    assert [asked[1] for asked in world.upstream.asked].count("A") == 3


def test_records_of_other_names_say_nothing_about_those_names():
    """A question is answered from what was asked for it, whatever else once came along."""
    other = "bank.test. 3600 IN A 198.51.100.66"
    world = World(
        {
            (NAME, "A"): answer(NAME, "A", [f"{NAME} 60 IN A 192.0.2.1"], [], [other]),
            ("bank.test.", "A"): answer("bank.test.", "A", ["bank.test. 60 IN A 203.0.113.1"]),
        }
    )
    world.ask(NAME, "A")
    assert lines_of(world.ask("bank.test", "A")) == ["bank.test. 60 IN A 203.0.113.1"]


def test_aliases_in_a_circle_end():
    loop = [f"{NAME} 60 IN CNAME b.test.", f"b.test. 60 IN CNAME {NAME}"]
    world = World(
        {(NAME, "AAAA"): answer(NAME, "AAAA", loop), (NAME, "A"): answer(NAME, "A", loop)}
    )
    reply = world.ask(NAME)
    assert [rrset.rdtype for rrset in reply.answer] == [5, 5]
    assert len(world.upstream.asked) == 2


SIGNED_A = [
    f"{NAME} 60 IN A 192.0.2.1",
    f"{NAME} 60 IN RRSIG A 13 3 60 20300101000000 20200101000000 1 example.test. aaaa",
]


@pytest.mark.parametrize(
    ("break_dnssec", "options", "records", "made"),
    [
        (True, {"want_dnssec": True}, SIGNED_A, True),
        (False, {"want_dnssec": True}, SIGNED_A, False),
        (False, {"want_dnssec": True}, SIGNED_A[:1], True),
        (False, {"want_dnssec": False}, SIGNED_A[:1], True),
        (False, {"want_dnssec": False, "ad": 1}, SIGNED_A, True),
    ],
)
def test_option_break_dnssec(break_dnssec, options, records, made):
    world = World(
        {(NAME, "AAAA"): answer(NAME, "AAAA", [], [SOA]), (NAME, "A"): answer(NAME, "A", records)},
        break_dnssec=break_dnssec,
    )
    for _ in range(2):
        reply = world.ask(NAME, **options)
        assert bool(reply.answer) is made
        assert reply.rcode() == 0


@pytest.mark.trio
async def test_long_queries_are_not_remembered_to_the_letter(nursery):
    running = Running(nursery, A_RECORD)
    client, address = running.udp()
    await client.connect(address)
    view = running.world.engine.views[0]
    pad = dns.edns.GenericOption(dns.edns.OptionType.PADDING, bytes(server_module.HOT_QUERY))
    for options, remembered in (((), 1), ((pad,), 1)):
        for _ in range(3):
            with trio.fail_after(5):
                await client.send(query_wire(NAME, "A", use_edns=0, options=list(options)))
                await client.recv(4096)
        assert len(view.hot) == remembered


@pytest.mark.trio
async def test_at_the_limit_of_queries_that_wait_all_clients_together(nursery):
    """The same name from many: one question upstream, but a place in memory for each."""
    running = Running(nursery, A_RECORD, queries=6)
    running.world.upstream.held = []
    client, address = running.udp()
    await client.connect(address)
    for number in range(1, 5):
        await client.send(query_wire(NAME, "A"))
        with trio.fail_after(5):
            while running.server._waiting < min(number, 3):
                await trio.sleep(0.01)
    with trio.fail_after(5):
        assert dns.message.from_wire(await client.recv(4096)).rcode() == 2
    assert len(running.world.upstream.asked) == 1
    running.world.upstream.release()
    for _ in range(3):
        with trio.fail_after(5):
            assert dns.message.from_wire(await client.recv(4096)).answer
    running.world.upstream.held = None
    await client.send(query_wire(NAME, "A"))
    with trio.fail_after(5):
        assert dns.message.from_wire(await client.recv(4096)).answer


def test_without_a_descriptor_more_the_open_sockets_serve_on(monkeypatch):
    sockets = UdpSockets()
    address = UpstreamAddress("127.0.0.1", 9)
    try:
        first, _ = sockets.draw(address, None, 0.0)

        def none_left(*arguments):
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(socket, "socket", none_left)
            for _ in range(2 * MAX_USES):
                place, ident = sockets.draw(address, None, 0.0)
                assert place is first
                assert ident not in place.pending
                place.pending[ident] = object()
                sockets.forget(place, ident)
            with pytest.raises(OSError, match="Too many"):
                sockets.draw(UpstreamAddress("127.0.0.2", 9), None, 0.0)
            place.pending.update(dict.fromkeys(range(1 << 15)))
            with pytest.raises(OSError, match="Too many"):
                sockets.draw(address, None, 0.0)
            place.pending.clear()
        assert len({sockets.draw(address, None, 0.0)[0] for _ in range(100)}) == SOCKETS
    finally:
        sockets.close()


class Datagrams:
    """A socket with what has come to it."""

    def __init__(self, *came: tuple[bytes, tuple[str, int]]) -> None:
        self.came = list(came)
        self.sent: list[tuple[bytes, tuple[str, int]]] = []

    def recvfrom(self, size: int) -> tuple[bytes, tuple[str, int]]:
        if not self.came:
            raise BlockingIOError
        return self.came.pop(0)

    def sendto(self, data: bytes, address: tuple[str, int]) -> None:
        self.sent.append((data, address))


def serve(running, datagrams) -> None:
    """What `serve_udp` does, until there is nothing left to do."""
    while datagrams.came or running.server._turns:
        running.server._burst(datagrams)
        running.server._take_turns()


@pytest.mark.trio
async def test_one_client_at_full_rate_does_not_make_others_wait(nursery):
    running = Running(nursery, queries_per_second=0)
    flood = [(query_wire(f"n{n}.test", "A"), ("2001:db8::1", 1000 + n)) for n in range(200)]
    others = [(query_wire(f"o{n}.test", "A"), (f"2001:db8::{n + 2}", 53)) for n in range(3)]
    serve(running, Datagrams(*flood, *others))
    asked = [name for name, *_ in running.world.upstream.asked]
    assert asked[:4] == ["n0.test.", "o0.test.", "o1.test.", "o2.test."]
    assert len(asked) == 203


@pytest.mark.trio
async def test_at_the_limit_of_a_clients_line(nursery, monkeypatch):
    monkeypatch.setattr(server_module, "_LINE", 5)
    running = Running(nursery, queries_per_second=0)
    flood = [(query_wire(f"n{n}.test", "A"), ("2001:db8::1", 1000)) for n in range(7)]
    other = (query_wire("other.test", "A"), ("2001:db8::2", 53))
    datagrams = Datagrams(*flood, other)
    serve(running, datagrams)
    assert len(datagrams.sent) == 6
    assert running.server.counters.over_limit == 2
    assert "other.test." in [name for name, *_ in running.world.upstream.asked]
    assert running.server._in_line == 0


@pytest.mark.trio
async def test_at_the_limit_of_the_lines_of_one_network(nursery, monkeypatch):
    """However many addresses a host takes, its neighbours' networks get their turn."""
    monkeypatch.setattr(server_module, "_LINE", 5)
    running = Running(nursery, queries_per_second=0)
    flood = [(query_wire(f"n{n}.test", "A"), (f"2001:db8::{n + 1:x}", 53)) for n in range(30)]
    other = (query_wire("other.test", "A"), ("2001:db8:0:1::2", 53))
    datagrams = Datagrams(*flood, other)
    serve(running, datagrams)
    assert len(datagrams.sent) == SHARE * 5 + 1
    assert running.server.counters.over_limit == 10
    states = running.server.clients.states.values()
    assert {state.network.in_line for state in states} == {0}


@pytest.mark.trio
async def test_at_the_limit_of_the_questions_of_one_network(nursery):
    running = Running(nursery, queries_per_second=0, queries_per_client=2)
    running.world.upstream.held = []
    came = [(query_wire(f"n{n}.test", "A"), (f"2001:db8::{n + 1:x}", 53)) for n in range(10)]
    other = (query_wire("other.test", "A"), ("2001:db8:0:1::2", 53))
    datagrams = Datagrams(*came, other)
    serve(running, datagrams)
    assert len(running.world.upstream.asked) == SHARE * 2 + 1
    failed = [dns.message.from_wire(data).rcode() for data, _ in datagrams.sent]
    assert failed == [dns.rcode.SERVFAIL] * 2
    while running.world.upstream.held:
        running.world.upstream.release()
    states = running.server.clients.states.values()
    assert {(state.waiting, state.network.waiting) for state in states} == {(0, 0)}


@pytest.mark.trio
async def test_at_the_limit_of_all_lines_together(nursery):
    running = Running(nursery, queries_per_second=0, queries=4)
    came = [(query_wire("a.test", "A"), (f"2001:db8:{n}::1", 53)) for n in range(6)]
    datagrams = Datagrams(*came)
    serve(running, datagrams)
    assert len(datagrams.sent) == 4
    assert running.server.counters.over_limit == 2


def flood(network: int, count: int) -> list[tuple[bytes, tuple[str, int]]]:
    """Questions from as many addresses of a network."""
    return [
        (query_wire(f"n{n}.flood{network}.test", "A"), (f"2001:db8:{network}::{n + 1:x}", 53))
        for n in range(count)
    ]


@pytest.mark.trio
@pytest.mark.parametrize("at_once", [True, False])
async def test_networks_that_take_what_they_can_leave_a_place_for_others(nursery, at_once):
    """`at_once`: the places in lines; else those among the questions that wait."""
    running = Running(nursery, queries_per_second=0, queries=20)
    running.world.upstream.held = []
    other = (query_wire("other.test", "A"), ("2001:db8::1", 53))
    if at_once:
        serve(running, Datagrams(*flood(1, 40), *flood(2, 40), other))
    else:
        for datagram in (*flood(1, 40), *flood(2, 40), other):
            serve(running, Datagrams(datagram))
    asked = [name for name, *_ in running.world.upstream.asked]
    assert "other.test." in asked
    # Half of what there is for the first, half of what it leaves for the second.
    assert [sum(f"flood{n}." in name for name in asked) for n in (1, 2)] == [10, 5]
    while running.world.upstream.held:
        running.world.upstream.release()
    assert running.server._waiting == running.server._in_line == 0


@pytest.mark.trio
async def test_the_data_plane_waits_for_a_few_questions_only(nursery):
    running = Running(nursery, queries_per_second=0)
    came = [(query_wire(f"n{n}.test", "A"), ("2001:db8::1", 53)) for n in range(100)]
    datagrams: Any = Datagrams(*came)
    running.server._burst(datagrams)
    assert running.world.upstream.asked == []
    running.server._take_turns()
    assert len(running.world.upstream.asked) == server_module._TURNS <= 32


@pytest.mark.trio
async def test_connections_are_counted_down_to_nothing(nursery):
    running = Running(nursery, A_RECORD, tcp_connections=2)
    for _ in range(3):
        held = [await running.tcp() for _ in range(2)]
        for stream in held:
            (reply,) = await exchange(stream, query_wire(NAME, "A"))
            assert reply.answer
        third = await running.tcp()
        with trio.fail_after(5):
            assert await third.receive_some(1) == b""
        for stream in (*held, third):
            await stream.aclose()
        with trio.fail_after(5):
            while running.server._open:
                await trio.sleep(0.01)
        assert not running.server._open


async def listen4(running: Running) -> None:
    """On 127.0.0.1, where every address of 127.0.0.0/8 is a client, and a network of its own."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    running.nursery.start_soon(running.server.serve_tcp, listener, running.nursery)
    OPEN.append(listener.socket)
    running.port = listener.socket.getsockname()[1]


async def connect4(running: Running, host: str) -> trio.SocketStream:
    """A connection from this address, which the server has taken, or refused."""
    counters = running.server.counters
    before = counters.connections + counters.connections_refused
    stream = await trio.open_tcp_stream("127.0.0.1", running.port, local_address=host)
    OPEN.append(stream.socket)
    with trio.fail_after(5):
        while counters.connections + counters.connections_refused == before:
            await trio.sleep(0.01)
    return stream


async def is_open(stream: trio.SocketStream) -> bool:
    """Whether a question on it has an answer."""
    try:
        (reply,) = await exchange(stream, query_wire(NAME, "A"))
    except trio.BrokenResourceError:
        return False
    return reply is not None


@pytest.mark.trio
async def test_two_that_have_all_connections_cannot_keep_out_a_third(nursery):
    running = Running(nursery, A_RECORD, tcp_connections=5, tcp_per_client=3)
    await listen4(running)
    hosts = ["127.0.0.2", "127.0.0.3", "127.0.0.2", "127.0.0.2", "127.0.0.3"]
    held = [await connect4(running, host) for host in hosts]
    assert await is_open(held[0])
    third = await connect4(running, "127.0.0.4")
    # Of the network that has most, the one that has been silent longest.
    assert await is_open(third)
    assert [await is_open(stream) for stream in held] == [True, True, False, True, True]
    counters = running.server.counters
    assert (counters.connections, counters.connections_displaced) == (6, 1)
    for stream in (*held, third):
        await stream.aclose()
    with trio.fail_after(5):
        while running.server._open:
            await trio.sleep(0.01)
    states = running.server.clients.states.values()
    assert {(state.connections, state.network.connections) for state in states} == {(0, 0)}


@pytest.mark.trio
async def test_who_has_as_many_connections_as_anybody_displaces_nobody(nursery):
    running = Running(nursery, A_RECORD, tcp_connections=4, tcp_per_client=3)
    await listen4(running)
    hosts = ["127.0.0.2", "127.0.0.3", "127.0.0.2", "127.0.0.3"]
    held = [await connect4(running, host) for host in hosts]
    assert not await is_open(await connect4(running, "127.0.0.2"))
    assert [await is_open(stream) for stream in held] == [True] * 4
    assert running.server.counters.connections_displaced == 0


@pytest.mark.trio
async def test_however_many_networks_a_newcomer_has_a_connection(nursery):
    running = Running(nursery, A_RECORD, tcp_connections=4)
    await listen4(running)
    most = 0
    for number in range(2, 22):
        assert await is_open(await connect4(running, f"127.0.0.{number}"))
        most = max(most, len(running.server._open))
    assert most == 4


@pytest.mark.trio
async def test_a_connection_that_is_displaced_owes_nothing(nursery):
    """Its question is on its way: the answer comes to nobody, and is counted back."""
    running = Running(nursery, A_RECORD, tcp_connections=1)
    running.world.upstream.held = []
    await listen4(running)
    first = await connect4(running, "127.0.0.2")
    wire = query_wire(NAME, "A")
    await first.send_all(len(wire).to_bytes(2, "big") + wire)
    with trio.fail_after(5):
        while not running.world.upstream.held:
            await trio.sleep(0.01)
    second = await connect4(running, "127.0.0.3")
    with trio.fail_after(5):
        assert await first.receive_some(1) == b""
    running.world.upstream.release()
    running.world.upstream.held = None
    assert running.server._waiting == 0
    assert await is_open(second)


@pytest.mark.trio
async def test_over_the_limit_a_connection_stays_open(nursery):
    running = Running(nursery, A_RECORD, queries_per_client=1)
    running.world.upstream.held = []
    stream = await running.tcp()
    for name in ("slow.test", "other.test"):
        wire = query_wire(name, "A")
        await stream.send_all(len(wire).to_bytes(2, "big") + wire)
    assert (await read(stream)).rcode() == 2
    assert [asked[0] for asked in running.world.upstream.asked] == ["slow.test."]
    running.world.upstream.release()
    assert (await read(stream)).question[0].name.to_text() == "slow.test."
    running.world.upstream.held = None
    (reply,) = await exchange(stream, query_wire(NAME, "A"))
    assert reply.answer
