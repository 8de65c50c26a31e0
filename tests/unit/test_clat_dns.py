"""Answers for ipv4only.arpa, the resolvers that are asked, and when they are asked again."""

from ipaddress import IPv6Network

import dns.message
import dns.rcode
import dns.rrset
import pytest
import trio

from gateway.clat import dns_discovery
from gateway.clat.dns_discovery import (
    BEFORE_END,
    LATEST,
    NOTHING_AGAIN,
    SOONEST,
    Discovered,
    NoAnswer,
    ask_resolvers,
    read_answer,
    resolvers,
    seconds_until_next,
)

P = IPv6Network("64:ff9b::/96")


def answer(*rrsets, rcode=dns.rcode.NOERROR):
    message = dns.message.make_response(dns.message.make_query("ipv4only.arpa.", "AAAA"))
    message.set_rcode(rcode)
    for owner, ttl, kind, *items in rrsets:
        message.answer.append(dns.rrset.from_text(owner, ttl, "IN", kind, *items))
    return message


def test_rfc7050_section_3_an_answer_has_the_prefix_and_a_ttl():
    made = answer(("ipv4only.arpa.", 600, "AAAA", "64:ff9b::192.0.0.170", "64:ff9b::192.0.0.171"))
    assert read_answer(made) == Discovered((P,), 600)


def test_behind_a_cname_the_shortest_ttl_counts():
    made = answer(
        ("ipv4only.arpa.", 60, "CNAME", "x.example."),
        ("x.example.", 600, "AAAA", "64:ff9b::192.0.0.170"),
        ("y.example.", 300, "AAAA", "64:ff9b::192.0.0.171"),
    )
    assert read_answer(made) == Discovered((P,), 300)


def test_an_address_in_another_class_is_none():
    made = answer(("ipv4only.arpa.", 600, "AAAA", "64:ff9b::192.0.0.170"))
    data = made.to_wire().replace(b"\0\x1c\0\1\0\0\2\x58", b"\0\x1c\0\3\0\0\2\x58")
    assert read_answer(dns.message.from_wire(data)) == Discovered(())


@pytest.mark.parametrize("rcode", [dns.rcode.NOERROR, dns.rcode.NXDOMAIN])
def test_rfc7050_section_3_no_address_means_no_dns64(rcode):
    assert read_answer(answer(rcode=rcode)) == Discovered(())


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED])
def test_a_failure_says_nothing(rcode):
    with pytest.raises(NoAnswer):
        read_answer(answer(rcode=rcode))


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [(600, 600 - BEFORE_END), (0, SOONEST), (39, SOONEST), (10**6, LATEST)],
)
def test_asked_again_before_the_ttl_ends_within_bounds(ttl, seconds):
    assert seconds_until_next(Discovered((P,), ttl)) == seconds


def test_asked_again_where_there_is_nothing():
    assert seconds_until_next(Discovered((), 5)) == NOTHING_AGAIN


def test_the_configured_resolvers_or_those_of_the_host(tmp_path, monkeypatch):
    path = tmp_path / "resolv.conf"
    monkeypatch.setattr(dns_discovery, "RESOLV_CONF", path)
    assert resolvers([]) == []
    path.write_text("# comment\nnameserver fe80::1%eth0\nnameserver 2001:db8::53\n")
    assert [item.address for item in resolvers([])] == ["fe80::1%eth0", "2001:db8::53"]
    assert [(item.address, item.port) for item in resolvers(["::1@5353"])] == [("::1", 5353)]


@pytest.mark.trio
async def test_without_resolvers_there_is_no_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(dns_discovery, "RESOLV_CONF", tmp_path / "none")
    with pytest.raises(NoAnswer, match="no resolvers"):
        await ask_resolvers([])


@pytest.mark.trio
async def test_rfc7050_section_3_the_question_and_the_next_resolver():
    """The first resolver fails, the second answers; CD is 0, or a DNS64 makes nothing."""
    bad, good = (trio.socket.socket(trio.socket.AF_INET6, trio.socket.SOCK_DGRAM) for _ in "12")
    with bad, good:
        await bad.bind(("::1", 0))
        await good.bind(("::1", 0))
        questions = []

        async def serve(sock, *rrsets, rcode=dns.rcode.NOERROR):
            while True:
                data, peer = await sock.recvfrom(4096)
                question = dns.message.from_wire(data)
                questions.append(question)
                reply = answer(*rrsets, rcode=rcode)
                reply.id, reply.question = question.id, question.question
                await sock.sendto(reply.to_wire(), peer)

        async with trio.open_nursery() as nursery:
            record = ("ipv4only.arpa.", 600, "AAAA", "64:ff9b::192.0.0.170")
            nursery.start_soon(lambda: serve(bad, rcode=dns.rcode.SERVFAIL))
            nursery.start_soon(lambda: serve(good, record))
            with trio.fail_after(10):
                found = await ask_resolvers(
                    [f"::1@{sock.getsockname()[1]}" for sock in (bad, good)]
                )
            nursery.cancel_scope.cancel()
    assert found == Discovered((P,), 600)
    assert len(questions) == 2
    for question in questions:
        assert str(question.question[0].name) == "ipv4only.arpa."
        assert not question.flags & dns.flags.CD
        assert question.flags & dns.flags.RD
