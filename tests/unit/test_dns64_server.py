"""Who is answered and how often, where it listens, and what TCP connections may do."""

from __future__ import annotations

import os
import socket
import struct
import time
from contextlib import suppress
from ipaddress import IPv6Address
from types import SimpleNamespace

import dns.message
import pytest
import trio
import trio.testing

from gateway.dns64 import server as server_module
from gateway.dns64.clients import RECHECK, SHARE, ClientTable
from gateway.dns64.engine import View
from gateway.dns64.places import BadListen, interface_addresses, parse_listen, wanted_places
from gateway.dns64.server import Server
from gateway.dns64.settings import Limits
from tests.unit.dns64_fakes import World, answer, query_wire

NAME = "www.example.test."
VIEW = View(1, ())
OPEN: list = []  # sockets to be closed behind the test


@pytest.fixture(autouse=True)
def close_sockets():
    yield
    while OPEN:
        # Not close(), which trio's sockets have only while trio runs.
        if (number := OPEN.pop().detach()) >= 0:
            os.close(number)


def table(admit=lambda address: True, limit=100, rate=10.0, burst=5):
    return ClientTable(admit, lambda address: VIEW, limit=limit, rate=rate, burst=burst)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("::1", True),
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("172.31.255.255", True),
        ("172.32.0.0", False),
        ("192.168.0.1", True),
        ("198.51.100.1", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("fe80::1%lan0", False),
    ],
)
def test_who_is_answered(host, allowed):
    mine = table(admit=lambda address: address[:4] == IPv6Address("2001:db8::").packed[:4])
    assert mine.get(host, 0.0).allowed == allowed


def test_admission_is_asked_again():
    answers = [True]
    mine = table(admit=lambda address: answers[0])
    state = mine.get("2001:db8::1", 0.0)
    answers[0] = False
    assert mine.get("2001:db8::1", RECHECK - 0.1).allowed
    assert not mine.get("2001:db8::1", RECHECK).allowed
    assert mine.get("2001:db8::1", RECHECK) is state


def test_at_the_rate_limit():
    mine = table(rate=10.0, burst=5)
    state = mine.get("2001:db8::1", 0.0)
    assert [mine.take(state, 0.0) for _ in range(6)] == [True] * 5 + [False]
    assert not mine.take(state, 0.099)
    assert mine.take(state, 0.2)
    assert [mine.take(state, 100.0) for _ in range(6)] == [True] * 5 + [False]
    assert mine.take(mine.get("2001:db8::2", 100.0), 100.0)


def test_without_a_rate_limit():
    mine = table(rate=0.0, burst=1)
    state = mine.get("2001:db8::1", 0.0)
    assert all(mine.take(state, 0.0) for _ in range(100))


def test_the_table_of_clients_is_bounded():
    mine = table(limit=3)
    for number in (1, 2, 3, 1, 4):
        mine.get(f"2001:db8:{number}::1", 0.0)
    assert set(mine.states) == {f"2001:db8:{number}::1" for number in (3, 1, 4)}
    assert len(mine._networks) == 3


def test_a_network_displaces_its_own_addresses_only():
    mine = table(limit=8)
    neighbour = mine.get("2001:db8:1::1", 0.0)
    for number in (1, 2, 1, *range(3, 100)):
        mine.get(f"2001:db8::{number}", 0.0)
        if number == 3:
            assert list(mine.states) == ["2001:db8:1::1", "2001:db8::1", "2001:db8::3"]
    assert list(mine.states) == ["2001:db8:1::1", "2001:db8::98", "2001:db8::99"]
    assert mine.get("2001:db8:1::1", 0.0) is neighbour
    assert {len(network.hosts) for network in mine._networks.values()} == {1, 2}


def test_all_addresses_of_a_network_have_a_limit_together():
    """A host has a /64 full of addresses; a LAN full of hosts has one, too."""
    mine = table(rate=10.0, burst=5)
    took = 0
    for number in range(100):
        state = mine.get(f"2001:db8::{number + 1:x}", 0.0)
        took += sum(mine.take(state, 0.0) for _ in range(6))
    assert took == SHARE * 5
    assert mine.take(mine.get("2001:db8:0:1::1", 0.0), 0.0)
    late = mine.get("2001:db8::fffe", 0.0)
    assert not mine.take(late, 0.02)
    assert [mine.take(late, 0.06) for _ in range(3)] == [True, True, False]


def test_forgetting_addresses_gives_their_network_nothing():
    mine = table(rate=10.0, burst=5, limit=4)
    took = 0
    for number in range(100):
        state = mine.get(f"2001:db8::{number + 1:x}", 0.0)
        took += sum(mine.take(state, 0.0) for _ in range(6))
    assert took == SHARE * 5


def test_a_network_is_the_same_while_one_of_its_addresses_is_known():
    mine = table(limit=8)
    first = mine.get("2001:db8::1", 0.0).network
    assert mine.get("2001:db8::2", 0.0).network is first
    for number in range(1, 8):
        mine.get(f"2001:db8:{number}::1", 0.0)
    assert "2001:db8::1" not in mine.states
    assert mine.get("2001:db8::3", 0.0).network is first


def test_silence_saves_a_network_no_more_than_its_burst():
    mine = table(rate=10.0, burst=5)
    states = [mine.get(f"2001:db8::{number + 1:x}", 0.0) for number in range(20)]
    assert sum(mine.take(state, 1000.0) for state in states for _ in range(6)) == SHARE * 5


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:0:0:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("10.0.0.1", "10.0.0.2", False),
        ("fe80::1%lan0", "fe80::2%lan0", True),
        ("fe80::1%lan0", "fe80::1%lan1", False),
    ],
)
def test_what_is_one_network(one, other, same):
    mine = table()
    assert (mine.get(one, 0.0).network is mine.get(other, 0.0).network) == same


@pytest.mark.parametrize(
    ("text", "place"),
    [("::1", ("::1", 53)), ("192.0.2.1@5353", ("192.0.2.1", 5353)), ("lan0", ("lan0", 53))],
)
def test_how_a_place_is_written(text, place):
    assert parse_listen(text) == place


@pytest.mark.parametrize(
    "text", ["", "::", "0.0.0.0", "ff02::1", "::1@0", "::1@x", "a/b", "x" * 16]
)
def test_what_is_no_place(text):
    with pytest.raises(BadListen):
        parse_listen(text)


IF_INET6 = """\
00000000000000000000000000000001 01 80 10 80       lo
fd000064000000000000000000000001 02 40 00 80     lan0
fe800000000000000000000000000001 02 40 20 80     lan0
fd000065000000000000000000000001 03 40 00 c0     lan1
"""


def test_addresses_of_interfaces_come_from_the_kernel():
    found = interface_addresses(IF_INET6)
    assert found["lan0"] == ["fd00:64::1", "fe80::1%lan0"]
    assert "lan1" not in found  # tentative
    wish = [("lan0", 53), ("::1", 53), ("lan9", 53), ("fd00:64::1", 53)]
    assert wanted_places(wish, found) == [("fd00:64::1", 53), ("fe80::1%lan0", 53), ("::1", 53)]


def test_where_the_lan_is_when_nobody_says():
    found = {
        "lo": ["::1"],
        "lan0": ["fe80::1%lan0", "fd00:64::1"],
        "tap0": ["fe80::2%tap0"],
        "wan0": ["fe80::3%wan0", "2001:db8::3"],
    }
    lan0 = [("fe80::1%lan0", 53), ("fd00:64::1", 53)]
    assert wanted_places([parse_listen("*")], found, "wan0") == lan0
    assert wanted_places([parse_listen("*@5353")], found, "wan0")[0] == ("fe80::1%lan0", 5353)
    without_a_way_out = wanted_places([("*", 53)], found, "")
    assert without_a_way_out == [*lan0, ("fe80::3%wan0", 53), ("2001:db8::3", 53)]
    assert wanted_places([("*", 53)], found, "lan0")[-1] == ("2001:db8::3", 53)


class Running:
    """A server on ::1 in a nursery."""

    def __init__(self, nursery, answers=None, admit=lambda address: True, idle=5.0, **limits):
        self.limits = Limits(**limits)
        self.world = World(answers or {}, limits=self.limits)
        self.world.now = time.monotonic()
        clients = ClientTable(
            admit,
            self.world.engine.view_of,
            limit=100,
            rate=self.limits.queries_per_second,
            burst=self.limits.burst,
        )
        self.server = Server(self.world.engine, clients, self.limits, udp_size=1232, idle=idle)
        self.nursery = nursery

    def udp(self):
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.bind(("::1", 0))
        self.nursery.start_soon(self.server.serve_udp, sock)
        client = trio.socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        OPEN.extend((sock, client))
        return client, sock.getsockname()

    async def tcp(self):
        listeners = await trio.open_tcp_listeners(0, host="::1")
        self.nursery.start_soon(self.server.serve_tcp, listeners[0], self.nursery)
        OPEN.append(listeners[0].socket)
        self.port = listeners[0].socket.getsockname()[1]
        return await self.connect()

    async def connect(self):
        stream = await trio.open_tcp_stream("::1", self.port)
        OPEN.append(stream.socket)
        return stream


A_RECORD = {(NAME, "A"): answer(NAME, "A", [f"{NAME} 60 IN A 192.0.2.1"])}


@pytest.mark.trio
async def test_udp_and_the_short_way(nursery):
    running = Running(nursery, A_RECORD)
    client, address = running.udp()
    await client.connect(address)
    for number in range(4):
        wire = number.to_bytes(2, "big") + query_wire(NAME, "A")[2:]
        await client.send(wire)
        with trio.fail_after(5):
            reply = dns.message.from_wire(await client.recv(4096))
        assert reply.id == number
        assert reply.answer[0].to_text() == f"{NAME} 60 IN A 192.0.2.1"
    assert running.server.counters.hot == 2
    assert len(running.world.upstream.asked) == 1


@pytest.mark.trio
async def test_the_short_way_ends_with_the_second(nursery, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(server_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    running = Running(nursery, A_RECORD)
    running.world.now = 1000.0
    client, address = running.udp()
    await client.connect(address)
    ttls = []
    for passed in (0.0, 0.5, 0.4, 0.2, 1.0):
        now[0] += passed
        running.world.now = now[0]
        await client.send(query_wire(NAME, "A"))
        with trio.fail_after(5):
            ttls.append(dns.message.from_wire(await client.recv(4096)).answer[0].ttl)
    assert ttls == [60, 60, 60, 59, 58]
    assert running.server.counters.hot == 1


async def all_replies(client, least):
    """At least so many, and what comes in a while behind them."""
    replies: list = []
    with trio.fail_after(5):
        while len(replies) < least:
            replies.append(await client.recv(4096))
    with trio.move_on_after(0.2):
        while True:
            replies.append(await client.recv(4096))
    return replies


@pytest.mark.trio
async def test_who_is_not_allowed_is_refused_only_so_often(nursery, monkeypatch):
    monkeypatch.setattr(server_module, "_REFUSALS_PER_SECOND", 2)
    running = Running(nursery, A_RECORD)
    monkeypatch.setattr(running.server.clients, "_is_allowed", lambda address: False)
    now = [1000.0]
    monkeypatch.setattr(server_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    client, address = running.udp()
    await client.connect(address)
    for now[0] in (1000.0, 1001.0):
        for _ in range(5):
            await client.send(query_wire(NAME, "A"))
        replies = await all_replies(client, 2)
        assert [dns.message.from_wire(data).rcode() for data in replies] == [5, 5]
    assert running.server.counters.not_allowed == 10
    assert running.world.upstream.asked == []


@pytest.mark.trio
async def test_over_the_rate_is_silence(nursery):
    running = Running(nursery, A_RECORD, queries_per_second=0.001, burst=2)
    client, address = running.udp()
    await client.connect(address)
    for _ in range(4):
        await client.send(query_wire(NAME, "A"))
    assert len(await all_replies(client, 2)) == 2
    assert running.server.counters.over_rate == 2


@pytest.mark.trio
async def test_over_the_questions_of_one_client_is_servfail(nursery):
    running = Running(nursery, queries_per_client=2)
    running.world.upstream.held = []
    client, address = running.udp()
    await client.connect(address)
    for name in ("a.test", "b.test", "c.test"):
        await client.send(query_wire(name, "A"))
    with trio.fail_after(5):
        reply = dns.message.from_wire(await client.recv(4096))
    assert (reply.question[0].name.to_text(), reply.rcode()) == ("c.test.", 2)
    running.world.upstream.release()
    with trio.fail_after(5):
        assert dns.message.from_wire(await client.recv(4096)).rcode() == 3
    await client.send(query_wire("d.test", "A"))
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert [asked[0] for asked in running.world.upstream.asked] == ["a.test.", "b.test.", "d.test."]


async def exchange(stream, *messages):
    for message in messages:
        await stream.send_all(len(message).to_bytes(2, "big") + message)
    return [await read(stream) for _ in messages]


async def read(stream):
    with trio.fail_after(5):
        data = bytearray()
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
            part = await stream.receive_some(1)
            if not part:
                return None
            data += part
    return dns.message.from_wire(bytes(data[2:]))


@pytest.mark.trio
async def test_rfc7766_6_2_1_1_many_questions_on_one_connection(nursery):
    running = Running(nursery, A_RECORD)
    stream = await running.tcp()
    replies = await exchange(stream, *[query_wire(NAME, "A")] * 100)
    assert all(reply.answer for reply in replies)


@pytest.mark.trio
async def test_at_the_limit_of_questions_on_one_connection(nursery, monkeypatch):
    monkeypatch.setattr(server_module, "_PIPELINE", 5)
    running = Running(nursery, A_RECORD)
    running.world.upstream.held = []
    stream = await running.tcp()
    for number in range(7):
        wire = query_wire(f"n{number}.test", "A")
        await stream.send_all(len(wire).to_bytes(2, "big") + wire)
    with trio.fail_after(5):
        while len(running.world.upstream.asked) < 5:
            await trio.sleep(0.01)
    await trio.sleep(0.05)
    assert len(running.world.upstream.asked) == 5
    while running.world.upstream.held:
        running.world.upstream.release()
    with trio.fail_after(5):
        while len(running.world.upstream.asked) < 7:
            await trio.sleep(0.01)


@pytest.mark.trio
async def test_who_waits_for_an_answer_is_not_silent(nursery):
    running = Running(nursery, A_RECORD, idle=0.2)
    running.world.upstream.held = []
    stream = await running.tcp()
    wire = query_wire("slow.test", "A")
    await stream.send_all(len(wire).to_bytes(2, "big") + wire)
    await trio.sleep(0.7)
    running.world.upstream.release()
    running.world.upstream.held = None
    for name in ("slow.test.", NAME):
        if name == NAME:
            wire = query_wire(NAME, "A")
            await stream.send_all(len(wire).to_bytes(2, "big") + wire)
        assert (await read(stream)).question[0].name.to_text() == name


@pytest.mark.trio
async def test_a_connection_that_is_reset_ends_no_other(nursery):
    running = Running(nursery, A_RECORD)
    other = await running.tcp()
    stream = await running.connect()
    with trio.fail_after(5):
        while len(running.server._open) < 2:
            await trio.sleep(0.01)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()
        while len(running.server._open) > 1:
            await trio.sleep(0.01)
    assert (await exchange(other, query_wire(NAME, "A")))[0].answer


@pytest.mark.trio
async def test_at_the_limit_of_what_is_remembered_all_is_forgotten(nursery, monkeypatch):
    monkeypatch.setattr(server_module, "HOT_LIMIT", 2)
    names = [f"n{n}.test." for n in range(3)]
    running = Running(
        nursery, {(name, "A"): answer(name, "A", [f"{name} 60 IN A 192.0.2.1"]) for name in names}
    )
    client, address = running.udp()
    await client.connect(address)
    known = []
    for name in names:
        for _ in range(2):  # the second answer is from the cache
            with trio.fail_after(5):
                await client.send(query_wire(name, "A"))
                await client.recv(4096)
        known.append(len(running.world.engine.views[0].hot))
    assert known == [1, 2, 1]


@pytest.mark.trio
async def test_answers_come_in_the_order_in_which_they_are_known(nursery):
    running = Running(nursery, A_RECORD)
    running.world.upstream.held = []
    stream = await running.tcp()
    for name in ("slow.test", NAME):
        wire = query_wire(name, "A")
        await stream.send_all(len(wire).to_bytes(2, "big") + wire)
    await trio.testing.wait_all_tasks_blocked(0.05)
    running.world.upstream.release(1)
    first = await read(stream)
    running.world.upstream.release(0)
    second = await read(stream)
    assert [m.question[0].name.to_text() for m in (first, second)] == [NAME, "slow.test."]


@pytest.mark.trio
@pytest.mark.parametrize("data", [b"", b"\0", b"\0\x20abc", b"\xff\xff", b"\0\x05abcde"])
async def test_a_connection_that_says_nothing_useful_is_closed(nursery, data):
    running = Running(nursery, idle=0.2)
    stream = await running.tcp()
    await stream.send_all(data)
    with trio.fail_after(5):
        assert await stream.receive_some(10) == b""


@pytest.mark.trio
async def test_one_byte_at_a_time_does_not_keep_it_open(nursery):
    running = Running(nursery, idle=0.4)
    stream = await running.tcp()

    async def drip():
        for byte in query_wire(NAME, "A"):
            await trio.sleep(0.1)
            try:
                await stream.send_all(bytes((byte,)))
            except trio.BrokenResourceError:
                return

    nursery.start_soon(drip)
    with trio.fail_after(3):
        with suppress(trio.BrokenResourceError):
            assert await stream.receive_some(10) == b""


@pytest.mark.trio
async def test_at_the_limit_of_connections(nursery):
    running = Running(nursery, A_RECORD, tcp_per_client=2)
    streams = [await running.tcp()]
    streams += [await running.connect() for _ in range(2)]
    for stream in streams[:2]:
        assert (await exchange(stream, query_wire(NAME, "A")))[0].answer
    with trio.fail_after(5):
        assert await streams[2].receive_some(10) == b""
    await streams[0].aclose()
    while len(running.server._open) > 1:
        await trio.sleep(0.01)
    assert (await exchange(await running.connect(), query_wire(NAME, "A")))[0].answer


@pytest.mark.trio
async def test_at_the_limit_of_the_connections_of_one_network(nursery):
    running = Running(nursery, A_RECORD, tcp_per_client=2)
    network = running.server.clients.get("::1", time.monotonic()).network
    network.connections = SHARE * 2 - 1  # of other addresses
    stream = await running.tcp()
    assert (await exchange(stream, query_wire(NAME, "A")))[0].answer
    with trio.fail_after(5):
        assert await (await running.connect()).receive_some(10) == b""
    await stream.aclose()
    while running.server._open:
        await trio.sleep(0.01)
    assert network.connections == SHARE * 2 - 1


@pytest.mark.trio
async def test_a_thousand_connections_that_say_nothing(nursery):
    """They cost no more than the limit, nobody else his answers, and end by themselves."""
    running = Running(nursery, A_RECORD, idle=1.0, tcp_per_client=8)
    await running.tcp()
    most = 0
    for _ in range(1_000):
        await running.connect()
        most = max(most, len(running.server._open))
        if len(OPEN) > 60:  # as a host with few descriptors does
            OPEN.pop(2).close()
    assert most == 8
    client, address = running.udp()
    await client.sendto(query_wire(NAME, "A"), address)
    with trio.fail_after(5):
        assert dns.message.from_wire(await client.recv(4096)).answer
        while running.server._open:
            await trio.sleep(0.02)
    assert (await exchange(await running.connect(), query_wire(NAME, "A")))[0].answer


@pytest.mark.trio
@pytest.mark.parametrize("size", [4_097, 65_000])
async def test_a_datagram_longer_than_any_question_is_a_formerr(nursery, size):
    running = Running(nursery, A_RECORD)
    client, address = running.udp()
    for filler in (b"\0", b"\xc0", b"\xff"):
        await client.sendto(query_wire(NAME, "A").ljust(size, filler), address)
        with trio.fail_after(5):
            reply = await client.recv(4096)
        assert (len(reply), dns.message.from_wire(reply).rcode()) == (12, dns.rcode.FORMERR)
