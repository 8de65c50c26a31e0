"""DNS messages for the tests of the DNS64, built by dnspython, and upstreams that are a dict."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv6Network
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from gateway.dns64.cache import Cache
from gateway.dns64.engine import Engine, rules_of
from gateway.dns64.messages import Answer, Query, parse_answer, parse_query
from gateway.dns64.resolve import Resolver
from gateway.dns64.settings import Dns64Settings
from translate.addresses import Layout, Prefix6

WKP = Prefix6(IPv6Network("64:ff9b::/96"), Layout.RFC6052)
PTRTD = Prefix6(IPv6Network("fec0:0:0:ffff::/64"), Layout.TRAILING)
SOA = "example.test. 60 IN SOA ns.example.test. hostmaster.example.test. 1 3600 600 86400 30"


def query_wire(name: str, rtype: str = "AAAA", **options: Any) -> bytes:
    """A client's query; `cd`, `rd`, and what dns.message.make_query takes."""
    cd, rd, ad = (options.pop(key, default) for key, default in (("cd", 0), ("rd", 1), ("ad", 0)))
    message = dns.message.make_query(name, rtype, **options)
    message.id = 0x1234
    message.flags = (dns.flags.RD if rd else 0) | (dns.flags.CD if cd else 0)
    message.flags |= dns.flags.AD if ad else 0
    return message.to_wire()


def query(name: str, rtype: str = "AAAA", **options: Any) -> Query:
    found = parse_query(query_wire(name, rtype, **options))
    assert found is not None
    return found


def answer_message(
    name: str,
    rtype: str,
    answer: list[str],
    authority: list[str] | None = None,
    additional: list[str] | None = None,
    *,
    rcode: str = "NOERROR",
    ad: bool = False,
    rdclass: str = "IN",
) -> dns.message.Message:
    """An answer; records as `NAME TTL IN TYPE RDATA`."""
    message = dns.message.make_response(dns.message.make_query(name, rtype, rdclass))
    message.flags |= dns.flags.RA | (dns.flags.AD if ad else 0)
    message.set_rcode(dns.rcode.from_text(rcode))
    for section, lines in (
        (message.answer, answer),
        (message.authority, authority or []),
        (message.additional, additional or []),
    ):
        for line in lines:
            owner, ttl, rclass, kind, rdata = line.split(maxsplit=4)
            section.append(dns.rrset.from_text(owner, int(ttl), rclass, kind, rdata))
    return message


def answer(*arguments: Any, **options: Any) -> Answer:
    return parse_answer(answer_message(*arguments, **options).to_wire())


def lines_of(message: dns.message.Message | Answer | bytes) -> list[str]:
    """The answer section as text, one line for each record, sorted within each set.

    dnspython writes the records of a set in random order.
    """
    if isinstance(message, Answer):
        message = message.wire
    if isinstance(message, bytes):
        message = dns.message.from_wire(message)
    return [line for rrset in message.answer for line in sorted(rrset.to_text().splitlines())]


class FakeUpstream:
    """Answers by (name, type); what is None is never answered, what is missing is NXDOMAIN."""

    def __init__(self, answers: dict[tuple[str, str], Answer | None]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, str, bool, bool]] = []
        self.held: list[Callable[[], None]] | None = None

    def ask(
        self, question: bytes, do: bool, cd: bool, done: Callable[[Answer | None], None]
    ) -> None:
        message = dns.message.from_wire(b"\0\0\1\0\0\1" + bytes(6) + question)
        name = message.question[0].name.to_text()
        rtype = dns.rdatatype.to_text(message.question[0].rdtype)
        self.asked.append((name, rtype, do, cd))
        found = self.answers.get((name, rtype), answer(name, rtype, [], [SOA], rcode="NXDOMAIN"))
        if self.held is not None:
            self.held.append(lambda: done(found))
        else:
            done(found)

    def release(self, index: int = 0) -> None:
        assert self.held is not None
        self.held.pop(index)()


class World:
    """An engine with a fake upstream and a clock that the test moves."""

    def __init__(
        self, answers: dict[tuple[str, str], Answer | None], refused4=None, **settings: Any
    ) -> None:
        self.now = 1000.0
        settings = {"prefixes": (WKP,), **settings}
        self.settings = Dns64Settings(**settings)
        limits = self.settings.limits
        self.upstream = FakeUpstream(answers)
        self.cache = Cache(
            limits.cache_entries,
            limits.cache_bytes,
            max_ttl=self.settings.max_ttl,
            max_negative_ttl=self.settings.max_negative_ttl,
            stale=self.settings.serve_stale,
        )
        self.resolver = Resolver(
            self.cache,
            self.upstream.ask,
            self.clock,
            limit=limits.queries,
            stale=self.settings.serve_stale > 0,
        )
        self.engine = Engine(
            self.settings, rules_of(self.settings, refused4), self.cache, self.resolver, self.clock
        )
        self.replies: list[tuple[bytes, float]] = []

    def clock(self) -> float:
        return self.now

    def send(self, asked: Query, *, limit: int | None = None, client: bytes = bytes(16)) -> None:
        view = self.engine.view_of(client) or self.engine.next_view()
        self.engine.respond(
            asked, view, limit, lambda data, until: self.replies.append((data, until))
        )

    def ask(self, name: str, rtype: str = "AAAA", **options: Any) -> dns.message.Message:
        """What a client gets for a question that is answered at once."""
        client = options.pop("client", bytes(16))
        limit = options.pop("limit", None)
        before = len(self.replies)
        self.send(query(name, rtype, **options), client=client, limit=limit)
        assert len(self.replies) == before + 1, "one query, one reply"
        return dns.message.from_wire(self.replies[-1][0])
