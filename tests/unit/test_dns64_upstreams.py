"""Upstreams: how they are written, whom is asked when, and which answers are believed."""

from __future__ import annotations

import os
import socket
import struct

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
import trio
import trio.testing

from gateway.dns64.messages import Answer
from gateway.dns64.streams import StreamBroken
from gateway.dns64.udp_sockets import MAX_AGE, MAX_USES, SOCKETS, UdpSockets
from gateway.dns64.upstream_config import (
    BadUpstream,
    UpstreamAddress,
    parse_resolv_conf,
    parse_upstream,
    without_loops,
)
from gateway.dns64.upstreams import Upstreams
from tests.unit.dns64_fakes import lines_of

QUESTION = b"\3www\7example\4test\0\0\1\0\1"
LINE = "www.example.test. 60 IN A 192.0.2.1"
OPEN: list = []  # sockets to be closed behind the test


@pytest.fixture(autouse=True)
def close_sockets():
    yield
    while OPEN:
        # Not close(), which trio's sockets have only while trio runs.
        if (number := OPEN.pop().detach()) >= 0:
            os.close(number)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", UpstreamAddress("192.0.2.1")),
        ("2001:db8::1@5353", UpstreamAddress("2001:db8::1", 5353)),
        ("fe80::1%lan0", UpstreamAddress("fe80::1%lan0")),
        ("tls://192.0.2.1", UpstreamAddress("192.0.2.1", 853, True)),
        ("tls://::1@8853#dns.test", UpstreamAddress("::1", 8853, True, "dns.test")),
    ],
)
def test_how_an_upstream_is_written(text, address):
    assert parse_upstream(text) == address
    assert parse_upstream(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dns.test",
        "192.0.2.1@0",
        "192.0.2.1@65536",
        "192.0.2.1@x",
        "192.0.2.1@",
        "::",
        "ff02::1",
        "192.0.2.1#name",
        "https://192.0.2.1",
        "192.0.2.1:53",
    ],
)
def test_what_is_no_upstream(text):
    with pytest.raises(BadUpstream):
        parse_upstream(text)


def test_resolv_conf():
    text = (
        "# x\nsearch a.test\nnameserver 192.0.2.1\nnameserver\nnameserver x\n"
        " nameserver ::1 # y\nnameserver 192.0.2.1\noptions edns0\n"
    )
    assert parse_resolv_conf(text) == [UpstreamAddress("192.0.2.1"), UpstreamAddress("::1")]


def test_it_does_not_ask_itself():
    found = [
        UpstreamAddress("::1"),
        UpstreamAddress("0:0::1", 5353),
        UpstreamAddress("fe80::1%lan0"),
    ]
    own = [("::1", 53), ("fe80::1%lan0", 53)]
    assert without_loops(found, own) == [UpstreamAddress("0:0::1", 5353)]


def test_ports_and_ids_are_drawn():
    sockets = UdpSockets()
    address = UpstreamAddress("127.0.0.1", 9)
    try:
        drawn = [sockets.draw(address, None, 0.0) for _ in range(400)]
        for place, ident in drawn:
            place.pending[ident] = object()
        assert len({place for place, _ in drawn}) == SOCKETS == sockets.count
        ports = {place.sock.getsockname()[1] for place, _ in drawn}
        assert len(ports) == SOCKETS
        assert max(ports) - min(ports) > SOCKETS
        assert len({ident for _, ident in drawn}) > 380
    finally:
        sockets.close()


def test_an_id_is_not_used_twice_at_a_time():
    # The first eight draws open the sockets; then two equal seeds for the first socket.
    seeds = iter(
        [*(bytes((n, 0, n, 0)) for n in range(16)), b"\0\0\0\7", b"\0\0\0\7", b"\0\7", b"\0\x08"]
    )
    sockets = UdpSockets(lambda size: next(seeds))
    address = UpstreamAddress("127.0.0.1", 9)
    sockets._bind = lambda sock, text: next(seeds)  # type: ignore[method-assign,assignment]
    try:
        for _ in range(SOCKETS):
            sockets.draw(address, None, 0.0)
        place, ident = sockets.draw(address, None, 0.0)
        assert ident == 7
        place.pending[ident] = object()
        again, other = sockets.draw(address, None, 0.0)
        assert (again, other) == (place, 8)
    finally:
        sockets.close()


@pytest.mark.parametrize("reason", ["uses", "age"])
def test_a_socket_is_replaced_and_closed_when_nobody_waits(reason):
    sockets = UdpSockets()
    address = UpstreamAddress("127.0.0.1", 9)
    try:
        first = [sockets.draw(address, None, 0.0) for _ in range(SOCKETS)]
        for place, ident in first:
            place.pending[ident] = object()
            if reason == "uses":
                place.uses = MAX_USES
        now = MAX_AGE + 0.1 if reason == "age" else 0.0
        drawn = {sockets.draw(address, None, now)[0] for _ in range(200)}
        assert drawn.isdisjoint({place for place, _ in first})
        assert sockets.count == 2 * SOCKETS
        for place, ident in first:
            sockets.forget(place, ident)
        assert sockets.count == SOCKETS
    finally:
        sockets.close()


class Peer:
    """An upstream that answers as the test says."""

    def __init__(self):
        self.sock = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        OPEN.append(self.sock)
        self.asked: list[dns.message.Message] = []

    async def bind(self, port=0):
        await self.sock.bind(("127.0.0.1", port))
        return UpstreamAddress("127.0.0.1", self.sock.getsockname()[1])

    async def run(self, respond):
        """`respond(message, wire)` gives the datagrams to send back."""
        while True:
            data, source = await self.sock.recvfrom(4096)
            self.asked.append(dns.message.from_wire(data))
            for reply in respond(self.asked[-1], data):
                await self.sock.sendto(reply, source)

    async def run_tcp(self, respond):
        port = self.sock.getsockname()[1]

        async def serve(stream):
            buffer = b""
            async for data in stream:
                buffer += data
                while len(buffer) >= 2 and len(buffer) >= 2 + int.from_bytes(buffer[:2], "big"):
                    size = int.from_bytes(buffer[:2], "big")
                    message, buffer = buffer[2 : 2 + size], buffer[2 + size :]
                    for reply in respond(dns.message.from_wire(message), message):
                        await stream.send_all(len(reply).to_bytes(2, "big") + reply)

        await trio.serve_tcp(serve, port, host="127.0.0.1")


def good(message, wire, line=LINE):
    reply = dns.message.make_response(message)
    _, ttl, rclass, kind, rdata = line.split(maxsplit=4)
    reply.answer.append(
        dns.rrset.from_text(message.question[0].name, int(ttl), rclass, kind, rdata)
    )
    return reply.to_wire()


def with_rcode(message, rcode):
    reply = dns.message.make_response(message)
    reply.set_rcode(rcode)
    return reply.to_wire()


class Asking:
    """Upstreams in a nursery, and what they answered."""

    def __init__(self, nursery, **options):
        options = {"timeout": 5.0, "try_timeout": 0.25, "pause": 30.0, **options}
        self.upstreams = Upstreams(clock=trio.current_time, randbytes=os.urandom, **options)
        self.nursery = nursery

    async def use(self, *addresses):
        await self.nursery.start(self.upstreams.run)
        self.upstreams.use(list(addresses))

    async def ask(self, question=QUESTION):
        send, receive = trio.open_memory_channel(1)
        self.upstreams.ask(question, False, False, send.send_nowait)
        with trio.fail_after(10):
            return await receive.receive()


@pytest.mark.trio
async def test_a_question_and_its_answer(nursery):
    peer, asking = Peer(), Asking(nursery)
    await asking.use(await peer.bind())
    nursery.start_soon(peer.run, lambda m, w: [good(m, w)])
    assert lines_of(await asking.ask()) == [LINE]
    sent = peer.asked[0]
    assert sent.edns == 0
    assert sent.payload == 1232
    assert sent.flags & dns.flags.RD


def other_question(message, wire):
    return good(message, wire).replace(b"\3www", b"\3wwx")


def other_id(message, wire):
    data = good(message, wire, LINE.replace("192.0.2.1", "192.0.2.66"))
    return struct.pack("!H", struct.unpack("!H", data[:2])[0] ^ 1) + data[2:]


def a_query(message, wire):
    return wire


@pytest.mark.trio
@pytest.mark.parametrize(
    "lie", [other_question, other_id, a_query, lambda m, w: w[:5], lambda m, w: good(m, w)[:-1]]
)
async def test_rfc5452_4_lies_are_ignored_and_the_truth_is_waited_for(nursery, lie):
    peer, asking = Peer(), Asking(nursery)
    await asking.use(await peer.bind())
    nursery.start_soon(peer.run, lambda m, w: [lie(m, w), good(m, w)])
    assert lines_of(await asking.ask()) == [LINE]
    counters = asking.upstreams.counters
    assert counters.unexpected + counters.mismatched == 1


@pytest.mark.trio
async def test_rfc5452_4_another_address_is_not_heard(nursery):
    peer, liar, asking = Peer(), Peer(), Asking(nursery)
    await asking.use(await peer.bind())
    await liar.bind()

    async def run():
        data, source = await peer.sock.recvfrom(4096)
        message = dns.message.from_wire(data)
        await liar.sock.sendto(good(message, data, LINE.replace("2.1", "2.66")), source)
        await peer.sock.sendto(good(message, data), source)

    nursery.start_soon(run)
    assert lines_of(await asking.ask()) == [LINE]


@pytest.mark.trio
async def test_0x20_case_has_to_come_back(nursery):
    peer, asking = Peer(), Asking(nursery, use_0x20=True)
    await asking.use(await peer.bind())
    nursery.start_soon(peer.run, lambda m, w: [good(m, w)])
    long_question = b"\x3f" + b"a" * 63 + b"\0\0\1\0\1"
    for _ in range(3):
        found = await asking.ask(long_question)
        assert found.question == long_question
    names = {message.question[0].name.to_text() for message in peer.asked}
    assert len(names) == 3


@pytest.mark.trio
async def test_0x20_with_an_upstream_that_forgets_case_goes_by_tcp(nursery):
    peer, asking = Peer(), Asking(nursery, use_0x20=True)
    await asking.use(await peer.bind())
    question = b"\x3f" + b"a" * 63 + b"\0\0\1\0\1"
    nursery.start_soon(peer.run, lambda m, w: [good(m, w).lower()])
    nursery.start_soon(peer.run_tcp, lambda m, w: [good(m, w)])
    assert len(lines_of(await asking.ask(question))) == 1


@pytest.mark.trio
async def test_truncation_leads_to_tcp_and_the_connection_is_kept(nursery):
    peer, asking = Peer(), Asking(nursery)
    await asking.use(await peer.bind())

    def cut(message, wire):
        reply = dns.message.make_response(message)
        reply.flags |= dns.flags.TC
        return [reply.to_wire()]

    nursery.start_soon(peer.run, cut)
    nursery.start_soon(peer.run_tcp, lambda m, w: [good(m, w)])
    for _ in range(3):
        assert lines_of(await asking.ask()) == [LINE]
    assert asking.upstreams.counters.truncated == 3


def truncated(message, wire):
    reply = dns.message.make_response(message)
    reply.flags |= dns.flags.TC
    return [reply.to_wire()]


@pytest.mark.trio
@pytest.mark.parametrize("midway", [b"", b"\x00", b"\x00\x40half"])
async def test_a_connection_that_hangs_is_given_up_however_much_is_asked(nursery, midway):
    """The far end of the first one has gone without a word, or in the middle of one."""
    peer, asking = Peer(), Asking(nursery, timeout=0.4)
    address = await peer.bind()
    connections = []

    async def serve(stream):
        connections.append(stream)
        if len(connections) == 1:
            await stream.receive_some(1)
            if midway:
                await stream.send_all(midway)
            await trio.sleep_forever()
        while head := await stream.receive_some(2):
            wire = await stream.receive_some(int.from_bytes(head, "big"))
            reply = good(dns.message.from_wire(wire), wire)
            await stream.send_all(len(reply).to_bytes(2, "big") + reply)

    await nursery.start(trio.serve_tcp, serve, address.port)
    await asking.use(address)
    nursery.start_soon(peer.run, truncated)
    answers: list[Answer | None] = []
    with trio.fail_after(8):
        while not any(answers):
            async with trio.open_nursery() as questions:
                for _ in range(8):
                    # There is never a moment without a question on the connection.
                    questions.start_soon(ask_and_note, asking, answers)
                    await trio.sleep(0.1)
    assert len(connections) == 2
    assert lines_of(next(filter(None, answers))) == [LINE]


async def ask_and_note(asking, answers):
    answers.append(await asking.ask())


@pytest.mark.trio
@pytest.mark.parametrize("rest", [bytes(65_000), b"\xc0\x0c" * 32_500, b"\xff" * 65_000])
async def test_a_datagram_as_long_as_there_are_is_a_lie_like_others(nursery, rest):
    peer, asking = Peer(), Asking(nursery)
    await asking.use(await peer.bind())

    def huge(message, wire):
        head = good(message, wire)[:12]
        end = 12 + len(QUESTION)
        return head + wire[12:end] + rest

    nursery.start_soon(peer.run, lambda m, w: [huge(m, w), good(m, w)])
    assert lines_of(await asking.ask()) == [LINE]
    assert asking.upstreams.counters.mismatched == 1


@pytest.mark.trio
async def test_a_lost_question_is_repeated(nursery):
    peer, asking = Peer(), Asking(nursery)
    await asking.use(await peer.bind())
    nursery.start_soon(peer.run, lambda m, w: [good(m, w)] if len(peer.asked) > 1 else [])
    assert lines_of(await asking.ask()) == [LINE]
    assert len(peer.asked) == 2


@pytest.mark.trio
async def test_a_late_answer_to_the_first_try_is_taken(nursery):
    peer, asking = Peer(), Asking(nursery)
    await asking.use(await peer.bind())

    async def run():
        first, source = await peer.sock.recvfrom(4096)
        await peer.sock.recvfrom(4096)
        await peer.sock.sendto(good(dns.message.from_wire(first), first), source)

    nursery.start_soon(run)
    assert lines_of(await asking.ask()) == [LINE]


@pytest.mark.trio
async def test_a_silent_upstream_is_passed_over_and_then_not_asked(nursery):
    silent, peer, asking = Peer(), Peer(), Asking(nursery, pause=1.5)
    await asking.use(await silent.bind(), await peer.bind())
    nursery.start_soon(silent.run, lambda m, w: [])
    nursery.start_soon(peer.run, lambda m, w: [good(m, w)])
    for _ in range(5):
        assert lines_of(await asking.ask()) == [LINE]
    assert len(silent.asked) == 5
    assert lines_of(await asking.ask()) == [LINE]
    assert len(silent.asked) == 5
    await trio.sleep(1.6)
    assert lines_of(await asking.ask()) == [LINE]
    assert len(silent.asked) == 6


@pytest.mark.trio
async def test_one_that_answers_again_is_preferred_again(nursery):
    first, second, asking = Peer(), Peer(), Asking(nursery, pause=0.3)
    alive = [False]
    await asking.use(await first.bind(), await second.bind())
    nursery.start_soon(first.run, lambda m, w: [good(m, w)] if alive[0] else [])
    nursery.start_soon(second.run, lambda m, w: [good(m, w)])
    for _ in range(5):
        await asking.ask()
    alive[0] = True
    await trio.sleep(0.4)
    before = len(second.asked)
    for _ in range(5):
        assert lines_of(await asking.ask()) == [LINE]
    assert len(second.asked) == before


@pytest.mark.trio
async def test_a_closed_port_is_noticed_at_once(nursery):
    gone, peer, asking = Peer(), Peer(), Asking(nursery, try_timeout=5.0, timeout=9.0)
    address = await gone.bind()
    gone.sock.close()
    await asking.use(address, await peer.bind())
    nursery.start_soon(peer.run, lambda m, w: [good(m, w)])
    with trio.fail_after(2):
        assert lines_of(await asking.ask()) == [LINE]


@pytest.mark.trio
async def test_one_whose_port_is_closed_is_not_asked_for_a_while(nursery, caplog):
    gone, asking = Peer(), Asking(nursery)
    address = await gone.bind()
    gone.sock.close()
    await asking.use(address)
    for _ in range(4):
        assert await asking.ask() is None
    assert "does not answer" not in caplog.text
    assert await asking.ask() is None
    assert "does not answer" in caplog.text


class OverTls:
    """In place of a connection that has been opened and verified."""

    def __init__(self, respond):
        self.respond = respond
        self.asked = 0

    async def ask(self, build):
        self.asked += 1
        await trio.lowlevel.checkpoint()
        wire = build(7)
        return self.respond(dns.message.from_wire(wire), wire)


def broken(message, wire):
    raise StreamBroken("closed by the upstream")


def cut_off(message, wire):
    return truncated(message, wire)[0]


@pytest.mark.trio
@pytest.mark.parametrize("respond", [good, broken, cut_off])
async def test_an_upstream_over_tls_and_one_behind_it(nursery, respond):
    peer, asking = Peer(), Asking(nursery)
    await asking.use(parse_upstream("tls://192.0.2.1"), await peer.bind())
    nursery.start_soon(peer.run, lambda m, w: [good(m, w)])
    stream = OverTls(respond)
    asking.upstreams._upstreams[0].stream = stream  # type: ignore[assignment]
    with trio.fail_after(2):
        assert lines_of(await asking.ask()) == [LINE]
    assert stream.asked == 1
    assert len(peer.asked) == (0 if respond is good else 1)


@pytest.mark.trio
async def test_a_failure_has_the_question_that_was_asked(nursery):
    peer, asking = Peer(), Asking(nursery, use_0x20=True)
    await asking.use(await peer.bind())
    nursery.start_soon(peer.run, lambda m, w: [with_rcode(m, 2)])
    question = b"\x3f" + b"a" * 63 + b"\0\0\1\0\1"
    assert (await asking.ask(question)).question == question


@pytest.mark.trio
async def test_what_the_kernel_does_not_let_be_sent_is_asked_of_the_next(nursery):
    peer, asking = Peer(), Asking(nursery, try_timeout=5.0, timeout=9.0)
    nowhere = UpstreamAddress("fe80::1%nowhere0")
    await asking.use(nowhere, await peer.bind())
    nursery.start_soon(peer.run, lambda m, w: [good(m, w)])
    with trio.fail_after(2):
        assert lines_of(await asking.ask()) == [LINE]
        asking.upstreams.use([nowhere])
        assert await asking.ask() is None


@pytest.mark.trio
@pytest.mark.parametrize("rcode", [2, 5])
async def test_a_failure_of_one_is_asked_of_the_next(nursery, rcode):
    bad, peer, asking = Peer(), Peer(), Asking(nursery)
    await asking.use(await bad.bind(), await peer.bind())
    nursery.start_soon(bad.run, lambda m, w: [with_rcode(m, rcode)])
    nursery.start_soon(peer.run, lambda m, w: [good(m, w)])
    assert lines_of(await asking.ask()) == [LINE]
    assert (len(bad.asked), len(peer.asked)) == (1, 1)


@pytest.mark.trio
async def test_rfc8914_a_failure_of_validation_is_final_at_once(nursery):
    bad, peer, asking = Peer(), Peer(), Asking(nursery)
    await asking.use(await bad.bind(), await peer.bind())

    def bogus(message, wire):
        reply = dns.message.make_response(message)
        reply.set_rcode(dns.rcode.SERVFAIL)
        reply.use_edns(0, options=[dns.edns.EDEOption(dns.edns.EDECode.DNSSEC_BOGUS)])
        return [reply.to_wire()]

    nursery.start_soon(bad.run, bogus)
    nursery.start_soon(peer.run, lambda m, w: [good(m, w)])
    with trio.fail_after(2):
        assert (await asking.ask()).rcode == dns.rcode.SERVFAIL
    assert not peer.asked


@pytest.mark.trio
async def test_a_failure_of_all_is_the_answer(nursery):
    bad, worse, asking = Peer(), Peer(), Asking(nursery)
    await asking.use(await bad.bind(), await worse.bind())
    nursery.start_soon(bad.run, lambda m, w: [with_rcode(m, 2)])
    nursery.start_soon(worse.run, lambda m, w: [with_rcode(m, 2)])
    assert (await asking.ask()).rcode == 2
    assert (len(bad.asked), len(worse.asked)) == (1, 1)


@pytest.mark.trio
async def test_nxdomain_is_no_failure(nursery):
    first, second, asking = Peer(), Peer(), Asking(nursery)
    await asking.use(await first.bind(), await second.bind())
    nursery.start_soon(first.run, lambda m, w: [with_rcode(m, 3)])
    assert (await asking.ask()).rcode == 3
    assert not second.asked


@pytest.mark.trio
@pytest.mark.parametrize("bare", [False, True])
async def test_rfc6891_6_2_2_an_upstream_without_edns(nursery, bare):
    peer, asking = Peer(), Asking(nursery)
    await asking.use(await peer.bind())

    def old(message, wire):
        if message.edns < 0:
            return [good(message, wire)]
        reply = dns.message.make_response(message)
        reply.use_edns(False)
        reply.set_rcode(dns.rcode.FORMERR)
        data = reply.to_wire()
        return [data[:4] + bytes(8) if bare else data]

    nursery.start_soon(peer.run, old)
    for _ in range(2):
        assert lines_of(await asking.ask()) == [LINE]
    assert [message.edns for message in peer.asked] == [0, -1, -1]


@pytest.mark.trio
async def test_silence_ends_in_time(nursery):
    peer, asking = Peer(), Asking(nursery, timeout=0.5)
    await asking.use(await peer.bind())
    nursery.start_soon(peer.run, lambda m, w: [])
    start = trio.current_time()
    assert await asking.ask() is None
    assert 0.5 <= trio.current_time() - start < 2
    assert not any(place.pending for place in asking.upstreams._sockets._by_fd.values())


@pytest.mark.trio
async def test_without_upstreams_there_is_no_answer(nursery):
    asking = Asking(nursery)
    await asking.use()
    assert await asking.ask() is None


@pytest.mark.trio
@pytest.mark.parametrize(("trust", "trusted"), [(False, False), (True, True)])
async def test_ad_is_believed_of_those_who_are_trusted(nursery, trust, trusted):
    peer, asking = Peer(), Asking(nursery, trust_ad=trust)
    address = await peer.bind()
    await asking.use(address)
    asking.upstreams._upstreams[0].trusted = trust  # 127.0.0.1 is trusted by itself

    def authentic(message, wire):
        data = bytearray(good(message, wire))
        data[3] |= 0x20
        return [bytes(data)]

    nursery.start_soon(peer.run, authentic)
    assert (await asking.ask()).ad == trusted


@pytest.mark.trio
@pytest.mark.parametrize(
    ("address", "trusted"),
    [("127.0.0.1", True), ("::1", True), ("192.0.2.1", False), ("tls://192.0.2.1", True)],
)
async def test_who_is_trusted_without_being_named_so(nursery, address, trusted):
    for trust in (False, True):
        asking = Asking(nursery, trust_ad=trust)
        await asking.use(parse_upstream(address))
        assert asking.upstreams._upstreams[0].trusted is (trust or trusted)


@pytest.mark.trio
async def test_rfc5452_4_lies_by_tcp_are_not_believed_either(nursery):
    peer, asking = Peer(), Asking(nursery, timeout=0.5)
    await asking.use(await peer.bind())
    nursery.start_soon(peer.run, truncated)
    nursery.start_soon(peer.run_tcp, lambda m, w: [other_question(m, w)])
    assert await asking.ask() is None
    assert asking.upstreams.counters.mismatched == 1


@pytest.mark.trio
async def test_a_truncated_answer_that_comes_often_is_one_connection(nursery):
    peer, asking = Peer(), Asking(nursery)
    await asking.use(await peer.bind())

    def cut(message, wire):
        reply = dns.message.make_response(message)
        reply.flags |= dns.flags.TC
        return [reply.to_wire()] * 20

    asked = []

    def by_tcp(message, wire):
        asked.append(message)
        return [good(message, wire)]

    nursery.start_soon(peer.run, cut)
    nursery.start_soon(peer.run_tcp, by_tcp)
    assert lines_of(await asking.ask()) == [LINE]
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert len(asked) == 1


@pytest.mark.trio
async def test_each_try_has_its_own_patience(nursery):
    """The timer of a try that has failed in the meantime is not that of the next one."""
    bad, slow, asking = Peer(), Peer(), Asking(nursery, try_timeout=1.0)
    await asking.use(await bad.bind(), await slow.bind())
    nursery.start_soon(bad.run, lambda m, w: [with_rcode(m, 2)])

    async def run():
        while True:
            data, source = await slow.sock.recvfrom(4096)
            slow.asked.append(dns.message.from_wire(data))
            await trio.sleep(1.2)
            await slow.sock.sendto(good(slow.asked[-1], data), source)

    nursery.start_soon(run)
    assert lines_of(await asking.ask()) == [LINE]
    assert asking.upstreams.counters.sent == 2


@pytest.mark.trio
async def test_single_losses_do_not_make_an_upstream_dead(nursery, caplog):
    peer, asking = Peer(), Asking(nursery, try_timeout=0.05)
    await asking.use(await peer.bind())
    nursery.start_soon(peer.run, lambda m, w: [] if len(peer.asked) % 2 else [good(m, w)])
    for _ in range(7):
        assert lines_of(await asking.ask()) == [LINE]
    assert "does not answer" not in caplog.text
    assert asking.upstreams.counters.timeouts >= 7
