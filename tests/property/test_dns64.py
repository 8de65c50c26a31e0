"""DNS64 against mangled messages, dnspython, a naive cache, and the translator's own addresses."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import dns.exception
import dns.message
from hypothesis import given
from hypothesis import strategies as st

from gateway.dns64 import synthesis
from gateway.dns64.cache import Cache, lifetime, size_of
from gateway.dns64.messages import (
    BADVERS,
    FORMERR,
    NOTIMP,
    Answer,
    build_error,
    parse_answer,
    parse_query,
    render,
)
from gateway.dns64.names import Malformed
from gateway.dns64.settings import Choice
from tests.unit.dns64_fakes import (
    SOA,
    World,
    answer,
    answer_message,
    lines_of,
    query,
    query_wire,
)
from translate.addresses import PREFIX_LENGTHS, Layout, Prefix6

QUERIES = [
    query_wire("www.example.test"),
    query_wire("www.example.test", use_edns=0, want_dnssec=True, payload=4096),
    query_wire("1.0.0.127.in-addr.arpa", "PTR", use_edns=0),
]
ANSWERS = [
    answer_message(
        "www.example.test",
        "A",
        ["www.example.test. 60 IN CNAME a.example.test.", "a.example.test. 50 IN A 192.0.2.1"],
        [SOA],
        ["ns.example.test. 60 IN MX 10 a.example.test."],
    ).to_wire(),
    answer_message("www.example.test", "AAAA", [], [SOA]).to_wire(),
    answer_message(
        "www.example.test",
        "A",
        ["www.example.test. 60 IN A 192.0.2.1"],
        ["_a.example.test. 60 IN SRV 1 2 3 www.example.test."],
    ).to_wire(),
]


@st.composite
def damaged(draw, messages):
    """A good message with some bytes changed, cut out or put in."""
    data = bytearray(draw(st.sampled_from(messages)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        kind = draw(st.integers(0, 3))
        if kind == 0 and data:
            data[at] = draw(st.integers(0, 255))
        elif kind == 1:
            del data[at : at + draw(st.integers(1, 8))]
        elif kind == 2:
            data[at:at] = draw(st.binary(min_size=1, max_size=8))
        else:
            del data[at:]
    return bytes(data)


@given(damaged(QUERIES) | st.binary(max_size=80))
def test_mangled_queries_get_a_formerr_at_most(data):
    found = parse_query(data)
    if len(data) < 12 or data[2] & 0x80:
        assert found is None
        return
    assert found is not None
    try:
        reference = dns.message.from_wire(data, ignore_trailing=False)
    except (dns.exception.DNSException, ValueError):
        reference = None
    if found.error:
        assert found.error in (FORMERR, NOTIMP, BADVERS)
        assert len(build_error(found, found.error)) <= len(data)
    elif reference is not None:
        assert (
            found.key
            == reference.question[0].name.to_digestable()
            + data[12 + len(found.key) - 4 : 12 + len(found.key)]
        )
        assert found.edns == (reference.edns >= 0)


@given(damaged(QUERIES) | st.binary(max_size=80))
def test_mangled_queries_are_answered_with_what_dnspython_reads(data):
    world = World({})
    found = parse_query(data)
    if found is None:
        return
    world.send(found, limit=512)
    assert len(world.replies) == 1
    reply = world.replies[0][0]
    assert len(reply) <= 512
    assert reply[:2] == data[:2]
    assert reply[2] & 0x80
    dns.message.from_wire(reply)


@given(damaged(ANSWERS))
def test_mangled_answers_are_refused_or_read_as_dnspython_does(data):
    try:
        found = parse_answer(data)
    except Malformed:
        return
    assert sum(found.counts) == len(found.records) == len(found.ttl_offsets)
    asked = query("www.example.test", "A", use_edns=0)._replace(question=found.question)
    for age in (0, 1, 1 << 31):
        render(asked, found, age=age, limit=None, ad=False)
    try:
        reference = dns.message.from_wire(data, one_rr_per_rrset=True)
    except (dns.exception.DNSException, ValueError):
        return
    opts = int(reference.edns >= 0)
    sections = (reference.answer, reference.authority, reference.additional)
    assert found.counts == tuple(len(section) for section in sections)
    assert found.edns == bool(opts)


@given(damaged(ANSWERS), damaged(ANSWERS))
def test_mangled_answers_never_crash_synthesis(one, two):
    answers: list[Answer | None] = []
    for data in (one, two):
        try:
            answers.append(parse_answer(data))
        except Malformed:
            answers.append(None)
    world = World(
        {("www.example.test.", "AAAA"): answers[0], ("www.example.test.", "A"): answers[1]}
    )
    for found in answers:
        if found is not None and len(found.question) != len(query("www.example.test").question):
            return  # the question is compared before anything else
    world.send(query("www.example.test", use_edns=0), limit=1232)
    assert len(world.replies) == 1
    assert len(world.replies[0][0]) <= 1232


labels = st.text("abcdefgh", min_size=1, max_size=6)
names = st.lists(labels, min_size=1, max_size=3).map(lambda parts: ".".join(parts) + ".test.")
addresses = st.integers(0, (1 << 32) - 1).map(lambda n: str(IPv4Address(n)))
ttls = st.integers(0, 100_000)


@st.composite
def a_answers(draw):
    """A question, and an answer with a chain, A records and other records around them."""
    chain = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    lines = [f"{a} {draw(ttls)} IN CNAME {b}" for a, b in itertools.pairwise(chain)]
    ttl = draw(ttls)
    lines += [
        f"{chain[-1]} {ttl} IN A {address}"
        for address in draw(st.lists(addresses, min_size=1, max_size=5, unique=True))
    ]
    extra = st.sampled_from(
        ["NS {}", "MX 5 {}", "SOA {} {} 1 2 3 4 5", "TXT x", "SRV 1 2 3 {}", "PTR {}"]
    )
    others = draw(st.lists(st.tuples(names, extra, names), max_size=3))
    authority = [f"{a} 60 IN {kind.format(b, b)}" for a, kind, b in others]
    return chain[0], lines, authority


def texts(section):
    return sorted(line for rrset in section for line in rrset.to_text().splitlines())


@given(a_answers(), st.integers(0, 1000), st.integers(0, 700))
def test_the_rewriting_is_what_dnspython_would_have_built(made, age, soa_ttl):
    name, lines, authority = made
    source = answer(name, "A", lines, authority, authority)
    replacements = {record: [bytes(12) + source.rdata(record)] for record in source.of_type(1)}
    question = source.question[:-4] + b"\0\x1c\0\1"
    fast = synthesis.rewrite(source, question, replacements, soa_ttl, age)
    slow = synthesis._rewrite_slowly(source, question, replacements, soa_ttl, age)
    one, two = dns.message.from_wire(fast.wire), dns.message.from_wire(slow.wire)
    for section in ("answer", "authority", "additional"):
        assert texts(getattr(one, section)) == texts(getattr(two, section))
    assert one.question == two.question


@given(
    st.sampled_from(PREFIX_LENGTHS),
    st.sampled_from(list(Layout)),
    st.lists(st.integers(1 << 24, (1 << 32) - 1), min_size=1, max_size=4, unique=True),
    st.sampled_from(list(Choice)),
)
def test_what_is_synthesised_the_translator_extracts(length, layout, values, choice):
    network = IPv6Network(
        (int(IPv6Address("2001:db8:1:2::")) >> (128 - length) << (128 - length), length)
    )
    prefixes = (Prefix6(network, layout), Prefix6(IPv6Network("64:ff9b::/96"), Layout.RFC6052))
    texts = [str(IPv4Address(value)) for value in values]
    name = "a.example.test."
    world = World(
        {
            (name, "AAAA"): answer(name, "AAAA", [], [SOA]),
            (name, "A"): answer(name, "A", [f"{name} 60 IN A {text}" for text in texts]),
        },
        prefixes=prefixes,
        choice=choice,
    )
    got = [IPv6Address(line.split()[-1]).packed for line in lines_of(world.ask(name))]
    found = {p.extract(address) for address in got for p in prefixes} - {None}
    assert found == {IPv4Address(text).packed for text in texts}
    assert all(any(p.contains(address) for p in prefixes) for address in got)
    assert len(got) == len(texts) * (2 if choice is Choice.ALL else 1)


ENTRIES, BYTES = 4, 5_000
steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "get"]),
        st.sampled_from([b"a", b"b", b"c", b"d", b"e", b"f"]),
        st.integers(0, 30),
        st.integers(1, 6),
        st.integers(0, 12),
    ),
    max_size=60,
)


@given(steps)
def test_the_cache_beside_a_naive_model(moves):
    cache = Cache(ENTRIES, BYTES, max_ttl=20, max_negative_ttl=10, stale=0)
    model: list[tuple[bytes, Answer, float]] = []  # least recently used first
    now = 0.0
    for move, key, ttl, records, passed in moves:
        now += passed
        if move == "put":
            lines = [f"x.test. {ttl} IN A 192.0.2.{n}" for n in range(records)]
            found = answer("x.test.", "A", lines)
            cache.put(key, found, now)
            seconds = lifetime(found, 20, 10)
            if seconds:
                model = [item for item in model if item[0] != key] + [(key, found, now + seconds)]
            while len(model) > ENTRIES or sum(size_of(k, a) for k, a, _ in model) > BYTES:
                model.pop(0)
        else:
            entry = cache.get(key, now)
            kept = [item for item in model if item[0] == key and now < item[2]]
            assert (entry.answer if entry else None) is (kept[0][1] if kept else None)
            model = [item for item in model if item[0] != key] + kept
        assert cache.bytes <= BYTES
        assert len(cache) <= ENTRIES
        assert cache.bytes == sum(size_of(k, a) for k, a, _ in model)
