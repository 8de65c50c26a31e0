"""How long answers are kept (RFC 2308, 2181, 8767, 9520), how many, and who waits for which."""

from __future__ import annotations

import gc
import tracemalloc

import dns.edns
import dns.message
import pytest

from gateway.dns64.cache import Cache, lifetime, size_of
from gateway.dns64.messages import parse_answer
from gateway.dns64.settings import Limits
from tests.unit.dns64_fakes import SOA, World, answer, answer_message, lines_of, query

NAME = "www.example.test."
DAY = 86_400


def ttl_of(found, *, max_ttl=DAY, max_negative_ttl=900):
    return lifetime(found, max_ttl, max_negative_ttl)


def test_an_answer_lives_as_long_as_its_shortest_record():
    found = answer(NAME, "A", [f"{NAME} 60 IN CNAME a.test.", "a.test. 50 IN A 192.0.2.1"], [SOA])
    assert ttl_of(found) == 50


@pytest.mark.parametrize(("ttl", "kept"), [(DAY - 1, DAY - 1), (DAY, DAY), (DAY + 1, DAY), (0, 0)])
def test_but_not_longer_than_is_allowed(ttl, kept):
    assert ttl_of(answer(NAME, "A", [f"{NAME} {ttl} IN A 192.0.2.1"])) == kept


@pytest.mark.parametrize("rcode", ["NOERROR", "NXDOMAIN"])
@pytest.mark.parametrize(
    ("ttl", "minimum", "kept"),
    [(60, 30, 30), (30, 60, 30), (901, 902, 900), (0, 60, 0), (60, 0, 0)],
)
def test_rfc2308_5_negative_answers_live_as_their_soa_says(rcode, ttl, minimum, kept):
    soa = f"example.test. {ttl} IN SOA ns.test. h.test. 1 3600 600 86400 {minimum}"
    assert ttl_of(answer(NAME, "A", [], [soa], rcode=rcode)) == kept


@pytest.mark.parametrize("rcode", ["NOERROR", "NXDOMAIN"])
def test_rfc2308_5_without_soa_they_are_not_kept(rcode):
    assert ttl_of(answer(NAME, "A", [], rcode=rcode)) == 0


def test_a_name_that_does_not_exist_has_no_records_whatever_came_along():
    assert ttl_of(answer(NAME, "A", [f"{NAME} 60 IN A 192.0.2.1"], rcode="NXDOMAIN")) == 0


def test_what_may_not_stand_in_any_more_does_not():
    cache = Cache(10, 1 << 20, max_ttl=DAY, max_negative_ttl=900, stale=100)
    cache.put(b"key", answer(NAME, "A", [f"{NAME} 60 IN A 192.0.2.1"]), 0.0)
    assert cache.get_stale(b"key", 159.9) is not None
    assert cache.get_stale(b"key", 160.0) is None


def test_what_stands_in_does_so_for_its_time_and_no_longer():
    cache = Cache(10, 1 << 20, max_ttl=DAY, max_negative_ttl=900, stale=100)
    old = cache.put(b"key", answer(NAME, "A", [f"{NAME} 60 IN A 192.0.2.1"]), 0.0)
    assert old is not None
    for now, good_until, stale_until in ((70.0, 100, 160), (150.0, 180, 180)):
        cache.put_stale(b"key", old.answer, now, old, 30)
        assert cache.get(b"key", good_until - 0.1) is not None
        assert cache.get_stale(b"key", stale_until - 0.1) is not None
        assert cache.get_stale(b"key", stale_until) is None
        assert cache.get(b"key", good_until) is None


def test_a_new_answer_takes_the_place_of_one_that_could_stand_in():
    cache = Cache(10, 1 << 20, max_ttl=DAY, max_negative_ttl=900, stale=100)
    cache.put(b"key", answer(NAME, "A", [f"{NAME} 60 IN A 192.0.2.1"]), 0.0)
    new = answer(NAME, "A", [f"{NAME} 60 IN A 192.0.2.2"])
    cache.put(b"key", answer(NAME, "A", [], rcode="SERVFAIL"), 70.0)
    assert cache.get(b"key", 70.0) is None
    cache.put(b"key", new, 71.0)
    found = cache.get(b"key", 72.0)
    assert found is not None
    assert found.answer is new


def test_an_address_of_somebody_else_is_no_answer():
    assert ttl_of(answer(NAME, "A", [], [], ["ns.test. 60 IN A 192.0.2.53"])) == 0


def test_rfc2308_2_2_a_chain_that_ends_in_nothing():
    chain = [f"{NAME} 20 IN CNAME a.test."]
    assert ttl_of(answer(NAME, "A", chain, [SOA])) == 20
    assert ttl_of(answer(NAME, "A", [f"{NAME} 200 IN CNAME a.test."], [SOA])) == 30
    assert ttl_of(answer(NAME, "A", chain)) == 0
    assert ttl_of(answer(NAME, "CNAME", chain)) == 20


def test_rfc9520_3_2_a_failure_lives_for_a_second():
    assert ttl_of(answer(NAME, "A", [], [SOA], rcode="SERVFAIL")) == 1


def test_a_truncated_answer_is_not_kept():
    message = answer_message(NAME, "A", [f"{NAME} 60 IN A 192.0.2.1"])
    message.flags |= 0x0200
    assert ttl_of(parse_answer(message.to_wire())) == 0


def make_cache(entries=100, limit=1 << 20, stale=0):
    return Cache(entries, limit, max_ttl=DAY, max_negative_ttl=900, stale=stale)


def an_answer(ttl=60, text="192.0.2.1"):
    return answer(NAME, "A", [f"{NAME} {ttl} IN A {text}"])


def test_what_may_not_be_kept_does_not_stand_in_later_either():
    cache = make_cache(stale=3600)
    assert cache.put(b"k", an_answer(ttl=0), 0.0) is None
    assert cache.get_stale(b"k", 1.0) is None
    assert len(cache) == 0


def test_a_failure_is_kept_for_its_second_where_nothing_can_stand_in():
    cache = make_cache(stale=3600)
    failure = answer(NAME, "A", [], [SOA], rcode="SERVFAIL")
    assert cache.put(b"k", failure, 0.0) is not None
    assert cache.get(b"k", 0.9) is not None
    assert cache.get(b"k", 1.0) is None
    cache.put(b"known", an_answer(), 0.0)
    assert cache.put(b"known", failure, 61.0) is None
    assert cache.get_stale(b"known", 61.0) is not None


def test_rfc2308_5_of_several_soa_records_the_least_counts():
    other = SOA.replace(" 30", " 20")
    found = answer_message(NAME, "A", [], [SOA])
    assert ttl_of(parse_answer(found.to_wire())) == 30
    both = answer_message(NAME, "A", [], [SOA, other.replace("example.test. 60", "test. 60", 1)])
    assert ttl_of(parse_answer(both.to_wire())) == 20


def test_an_entry_ends_with_its_ttl():
    cache = make_cache()
    cache.put(b"k", an_answer(60), 1000.0)
    assert cache.get(b"k", 1059.9) is not None
    assert cache.get(b"k", 1060.0) is None
    assert (len(cache), cache.bytes) == (0, 0)


def test_at_the_limit_of_entries_the_least_recently_used_goes():
    cache = make_cache(entries=3)
    for name in (b"a", b"b", b"c"):
        cache.put(name, an_answer(), 0.0)
    assert cache.get(b"a", 1.0)
    assert cache.evicted == 0
    cache.put(b"d", an_answer(), 1.0)
    assert [bool(cache.get(name, 1.0)) for name in (b"a", b"b", b"c", b"d")] == [1, 0, 1, 1]
    assert (len(cache), cache.evicted) == (3, 1)


def test_at_the_limit_of_bytes_too():
    size = size_of(b"a", an_answer())
    cache = make_cache(limit=2 * size)
    for name in (b"a", b"b"):
        cache.put(name, an_answer(), 0.0)
    assert (len(cache), cache.bytes) == (2, 2 * size)
    cache.put(b"c", an_answer(), 0.0)
    assert (len(cache), cache.bytes) == (2, 2 * size)
    assert make_cache(limit=size - 1).put(b"a", an_answer(), 0.0) is None
    assert make_cache(limit=size).put(b"a", an_answer(), 0.0) is not None


def test_a_second_answer_replaces_the_first():
    cache = make_cache()
    for text in ("192.0.2.1", "192.0.2.2"):
        cache.put(b"k", an_answer(text=text), 0.0)
    found = cache.get(b"k", 0.0)
    assert found is not None
    assert lines_of(found.answer) == [f"{NAME} 60 IN A 192.0.2.2"]
    assert cache.bytes == found.size


def test_the_limit_in_bytes_is_what_it_takes():
    cache = make_cache(entries=100_000, limit=1 << 30)
    message = answer_message(
        NAME, "AAAA", [f"{NAME} 60 IN AAAA 2001:db8::{n:x}" for n in range(4)], [SOA]
    )
    wire = message.to_wire()
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(2000):
            found = parse_answer(wire[:-4] + number.to_bytes(4, "big"))
            found.aged(number % 7 + 1)
            cache.put(number.to_bytes(20, "big"), found, 0.0)
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.6 * cache.bytes < used < 1.1 * cache.bytes


def test_memory_is_bounded_under_unique_names():
    names = [f"n{number}.example.test." for number in range(3000)]
    w = World({}, limits=Limits(cache_entries=500, cache_bytes=300_000))
    for name in names:
        assert w.ask(name, "A").rcode() == dns.rcode.NXDOMAIN
    assert len(w.cache) <= 500
    assert w.cache.bytes <= 300_000
    assert w.resolver.waiting == 0


def test_the_same_question_is_asked_once():
    w = World({(NAME, "A"): an_answer()})
    w.upstream.held = []
    for _ in range(3):
        w.send(query(NAME, "A"))
    w.send(query(NAME.upper(), "A"))
    w.send(query(NAME, "A", cd=1))
    assert len(w.upstream.asked) == 2
    w.upstream.release()
    assert len(w.replies) == 4
    w.upstream.release()
    assert len(w.replies) == 5


@pytest.mark.parametrize(("limit", "answered"), [(2, 0), (1, 1)])
def test_at_the_limit_of_questions_new_ones_are_refused(limit, answered):
    w = World({}, limits=Limits(queries=limit))
    w.upstream.held = []
    for name in ("a.test", "b.test"):
        w.send(query(name, "A"))
    assert len(w.replies) == answered
    for reply, _ in w.replies:
        assert dns.message.from_wire(reply).rcode() == dns.rcode.SERVFAIL
    assert w.resolver.waiting == limit


def stale_world(**settings):
    w = World({(NAME, "A"): an_answer(60)}, serve_stale=3600, **settings)
    w.ask(NAME, "A")
    w.now += 61
    return w


@pytest.mark.parametrize("failure", [None, answer(NAME, "A", [], rcode="SERVFAIL")])
def test_rfc8767_4_an_old_answer_stands_in_with_30_seconds(failure):
    w = stale_world()
    w.upstream.answers[NAME, "A"] = failure
    assert lines_of(w.ask(NAME, "A")) == [f"{NAME} 30 IN A 192.0.2.1"]
    asked = len(w.upstream.asked)
    w.now += 10
    assert lines_of(w.ask(NAME, "A")) == [f"{NAME} 20 IN A 192.0.2.1"]
    assert len(w.upstream.asked) == asked
    w.now += 3600 + 60
    assert w.ask(NAME, "A").rcode() == dns.rcode.SERVFAIL


def test_rfc8767_4_a_fresh_answer_is_better():
    w = stale_world()
    w.upstream.answers[NAME, "A"] = an_answer(70, "192.0.2.9")
    assert lines_of(w.ask(NAME, "A")) == [f"{NAME} 70 IN A 192.0.2.9"]


def test_stale_is_off_by_default_and_never_for_what_is_forged():
    w = World({(NAME, "A"): an_answer(60)})
    w.ask(NAME, "A")
    w.now += 61
    w.upstream.answers[NAME, "A"] = None
    assert w.ask(NAME, "A").rcode() == dns.rcode.SERVFAIL
    forged = answer_message(NAME, "A", [], rcode="SERVFAIL")
    forged.use_edns(0, options=[dns.edns.EDEOption(dns.edns.EDECode(6))])
    w = stale_world()
    w.upstream.answers[NAME, "A"] = parse_answer(forged.to_wire())
    assert w.ask(NAME, "A").rcode() == dns.rcode.SERVFAIL


def test_what_may_be_sent_again_until_when():
    w = World({(NAME, "A"): an_answer(2)})
    w.ask(NAME, "A")
    assert w.replies[-1][1] == 0.0
    w.now += 0.25
    w.ask(NAME, "A")
    assert w.replies[-1][1] == 1001.0
    w.now += 1.5
    w.ask(NAME, "A")
    assert w.replies[-1][1] == 1002.0


@pytest.mark.parametrize("rtype", ["AXFR", "IXFR", "TKEY", "TSIG", "MAILA", "MAILB"])
def test_what_is_no_question_to_a_resolver(rtype):
    w = World({})
    assert w.ask(NAME, rtype).rcode() == dns.rcode.NOTIMP
    assert w.upstream.asked == []


def test_without_recursion_nothing_is_told():
    w = World({(NAME, "A"): an_answer()})
    w.ask(NAME, "A")
    assert w.ask(NAME, "A", rd=0).rcode() == dns.rcode.REFUSED


def test_any_is_answered_over_tcp_only():
    w = World({(NAME, "ANY"): answer(NAME, "ANY", [f"{NAME} 60 IN A 192.0.2.1"])})
    cut = w.ask(NAME, "ANY", limit=1232)
    assert cut.flags & 0x0200
    assert not cut.answer
    assert w.upstream.asked == []
    assert lines_of(w.ask(NAME, "ANY"))
