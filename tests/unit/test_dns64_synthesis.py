"""RFC 6147 §5, sentence by sentence: when an AAAA answer is synthesised, and from what."""

from __future__ import annotations

import struct
from ipaddress import IPv4Network, IPv6Address, IPv6Network

import dns.edns
import dns.flags
import dns.message
import pytest

from gateway.dns64.messages import parse_answer
from gateway.dns64.names import Malformed, rebased_name
from gateway.dns64.settings import Choice
from tests.unit.dns64_fakes import PTRTD, SOA, WKP, World, answer, answer_message, lines_of, query

NAME = "www.example.test."
A4 = f"{NAME} 300 IN A 192.0.2.1"
SYNTHETIC = "64:ff9b::c000:201"


def world(aaaa, a, **settings):
    return World({(NAME, "AAAA"): aaaa, (NAME, "A"): a}, **settings)


def nodata(rtype="AAAA", soa=SOA, **options):
    return answer(NAME, rtype, [], [soa] if soa else [], **options)


def v4(*lines, **options):
    return answer(NAME, "A", list(lines or [A4]), **options)


def v6(*addresses, **options):
    return answer(NAME, "AAAA", [f"{NAME} 300 IN AAAA {text}" for text in addresses], **options)


def test_rfc6147_5_1_1_real_addresses_are_given_as_they_are():
    reply = world(v6("2001:db8::1", "2001:db8::2"), v4()).ask(NAME)
    assert lines_of(reply) == [f"{NAME} 300 IN AAAA 2001:db8::1", f"{NAME} 300 IN AAAA 2001:db8::2"]


def test_rfc6147_5_1_2_nxdomain_is_passed_on():
    w = world(nodata(rcode="NXDOMAIN"), v4())
    reply = w.ask(NAME)
    assert reply.rcode() == dns.rcode.NXDOMAIN
    assert not reply.answer
    assert reply.authority


@pytest.mark.parametrize(
    "rcode", ["FORMERR", "SERVFAIL", "NOTIMP", "REFUSED", "YXDOMAIN", "BADVERS"]
)
def test_rfc6147_5_1_2_other_errors_are_an_empty_answer(rcode):
    reply = world(answer(NAME, "AAAA", [], rcode=rcode), v4()).ask(NAME)
    assert reply.rcode() == 0
    assert lines_of(reply) == [f"{NAME} 300 IN AAAA {SYNTHETIC}"]


def test_rfc6147_5_1_2_the_answer_section_of_an_error_is_empty_whatever_it_holds():
    lines = [f"{NAME} 300 IN AAAA 2001:db8::1"]
    failed = answer(NAME, "AAAA", lines, [SOA], rcode="SERVFAIL")
    reply = world(failed, v4(f"{NAME} 900 IN A 192.0.2.1")).ask(NAME)
    # Nor is its SOA that of a negative answer (§5.1.7).
    assert lines_of(reply) == [f"{NAME} 600 IN AAAA {SYNTHETIC}"]
    # And A records in an error are none, either.
    errors = {"AAAA": nodata(), "A": v4(rcode="REFUSED")}
    for settings in ({}, {"synthall": True}):
        reply = world(errors["AAAA"], errors["A"], **settings).ask(NAME)
        assert reply.rcode() == dns.rcode.REFUSED
        w = world(v6("2001:db8::1"), errors["A"], **settings)
        assert lines_of(w.ask(NAME)) == [f"{NAME} 300 IN AAAA 2001:db8::1"]
        assert w.engine.counters.synthesised == 0


def test_rfc6147_5_1_1_real_addresses_that_are_known_are_given_without_asking():
    w = world(v6("2001:db8::1"), None)
    for _ in range(3):
        assert lines_of(w.ask(NAME)) == [f"{NAME} 300 IN AAAA 2001:db8::1"]
    assert len(w.replies) == 3
    assert [asked[1] for asked in w.upstream.asked] == ["AAAA"]


def test_rfc6147_5_1_3_no_answer_in_time_is_an_empty_answer():
    reply = world(None, v4()).ask(NAME)
    assert lines_of(reply) == [f"{NAME} 300 IN AAAA {SYNTHETIC}"]


def test_rfc6147_5_1_4_only_excluded_addresses_are_an_empty_answer():
    reply = world(v6("::ffff:192.0.2.9", "::ffff:192.0.2.8"), v4()).ask(NAME)
    assert lines_of(reply) == [f"{NAME} 300 IN AAAA {SYNTHETIC}"]


def test_rfc6147_5_1_4_excluded_addresses_are_left_out():
    reply = world(v6("::ffff:192.0.2.9", "2001:db8::1"), v4()).ask(NAME)
    assert lines_of(reply) == [f"{NAME} 300 IN AAAA 2001:db8::1"]


def test_rfc6147_5_1_4_excluded_addresses_are_left_out_where_nothing_can_be_synthesised():
    reply = world(v6("::ffff:192.0.2.9"), nodata("A")).ask(NAME)
    assert (reply.rcode(), lines_of(reply)) == (0, [])


@pytest.mark.parametrize(
    ("address", "gone"),
    [
        ("::fffe:ffff:ffff", False),
        ("::ffff:0:0", True),
        ("::ffff:ffff:ffff", True),
        ("::1:0:0:0", False),
    ],
)
def test_rfc6147_5_1_4_default_range_at_its_ends(address, gone):
    reply = world(v6(address), v4()).ask(NAME)
    shown = IPv6Address(SYNTHETIC if gone else address)
    assert [IPv6Address(line.split()[-1]) for line in lines_of(reply)] == [shown]


def test_rfc6147_5_1_4_the_ranges_can_be_configured():
    mine = (IPv6Network("2001:db8:1::/48"),)
    assert lines_of(world(v6("2001:db8:1::1"), v4(), exclude=mine).ask(NAME))[0].endswith(SYNTHETIC)
    reply = world(v6("::ffff:192.0.2.9"), v4(), exclude=mine).ask(NAME)
    assert IPv6Address(lines_of(reply)[0].split()[-1]) == IPv6Address("::ffff:192.0.2.9")


def test_rfc6147_5_1_5_a_chain_is_kept_in_front_of_what_is_synthesised():
    chain = [f"{NAME} 50 IN CNAME a.other.test.", "a.other.test. 40 IN CNAME b.other.test."]
    aaaa = answer(
        NAME, "AAAA", chain, ["other.test. 30 IN SOA ns.other.test. h.other.test. 1 2 3 4 20"]
    )
    a = answer(
        NAME, "A", [*chain, "b.other.test. 300 IN A 192.0.2.1", "b.other.test. 300 IN A 192.0.2.2"]
    )
    reply = world(aaaa, a).ask(NAME)
    assert lines_of(reply) == [
        *chain,
        "b.other.test. 30 IN AAAA 64:ff9b::c000:201",
        "b.other.test. 30 IN AAAA 64:ff9b::c000:202",
    ]


def test_rfc6147_5_1_5_dname_is_kept():
    chain = ["example.test. 50 IN DNAME other.test.", f"{NAME} 50 IN CNAME www.other.test."]
    aaaa = answer(NAME, "AAAA", chain, [SOA])
    a = answer(NAME, "A", [*chain, "www.other.test. 300 IN A 192.0.2.1"])
    assert lines_of(world(aaaa, a).ask(NAME)) == [
        *chain,
        "www.other.test. 60 IN AAAA 64:ff9b::c000:201",
    ]


def test_rfc6147_5_1_5_a_chain_to_real_addresses():
    chain = [f"{NAME} 50 IN CNAME b.test.", "b.test. 40 IN AAAA 2001:db8::1"]
    assert lines_of(world(answer(NAME, "AAAA", chain), v4()).ask(NAME)) == chain


def test_rfc6147_5_1_6_the_a_records_are_removed():
    reply = world(nodata(), v4()).ask(NAME)
    assert lines_of(reply) == [f"{NAME} 60 IN AAAA {SYNTHETIC}"]


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "NXDOMAIN"])
def test_rfc6147_5_1_6_an_error_of_a_is_the_answer(rcode):
    reply = world(nodata(), answer(NAME, "A", [], rcode=rcode)).ask(NAME)
    assert reply.rcode() == dns.rcode.from_text(rcode)
    assert reply.question[0].to_text() == f"{NAME} IN AAAA"


def test_rfc6147_5_1_6_no_answer_to_a_is_servfail():
    assert world(nodata(), None).ask(NAME).rcode() == dns.rcode.SERVFAIL
    assert world(None, None).ask(NAME).rcode() == dns.rcode.SERVFAIL


def test_rfc6147_5_4_both_empty_is_the_answer_to_aaaa():
    mine = "example.test. 44 IN SOA ns.example.test. mine.example.test. 1 3600 600 86400 30"
    reply = world(nodata(soa=mine), nodata("A")).ask(NAME)
    assert reply.rcode() == 0
    assert not reply.answer
    assert "mine.example.test." in reply.authority[0].to_text()


@pytest.mark.parametrize("failed", [None, answer(NAME, "AAAA", [], rcode="SERVFAIL")])
def test_rfc6147_5_1_6_an_empty_a_after_a_failed_aaaa(failed):
    reply = world(failed, nodata("A")).ask(NAME)
    assert (reply.rcode(), lines_of(reply)) == (0, [])
    assert reply.question[0].to_text() == f"{NAME} IN AAAA"


@pytest.mark.parametrize(
    ("a", "soa", "ttl"), [(300, 60, 60), (59, 60, 59), (61, 60, 60), (300, 0, 0)]
)
def test_rfc6147_5_1_7_ttl_is_the_lesser_of_a_and_soa(a, soa, ttl):
    record = f"example.test. {soa} IN SOA ns.example.test. h.example.test. 1 3600 600 86400 999"
    reply = world(nodata(soa=record), v4(f"{NAME} {a} IN A 192.0.2.1")).ask(NAME)
    assert reply.answer[0].ttl == ttl


@pytest.mark.parametrize(("a", "ttl"), [(599, 599), (600, 600), (601, 600)])
def test_rfc6147_5_1_7_without_soa_600_seconds_at_most(a, ttl):
    reply = world(nodata(soa=None), v4(f"{NAME} {a} IN A 192.0.2.1")).ask(NAME)
    assert reply.answer[0].ttl == ttl


def test_rfc6147_5_1_7_ttls_count_from_when_each_answer_came():
    w = world(nodata(), v4(f"{NAME} 40 IN A 192.0.2.1"))
    w.ask(NAME, "A")
    w.now += 15
    assert w.ask(NAME).answer[0].ttl == 25
    w.now += 5
    assert w.ask(NAME).answer[0].ttl == 20


def test_rfc6147_5_1_7_the_soa_counts_from_when_it_came():
    w = world(nodata(), None)
    assert w.ask(NAME).rcode() == dns.rcode.SERVFAIL
    w.upstream.answers[NAME, "A"] = v4()
    w.now += 20
    assert w.ask(NAME).answer[0].ttl == 40
    assert [asked[1] for asked in w.upstream.asked] == ["AAAA", "A", "A"]


def test_rfc6147_5_1_class_other_than_in_is_left_alone():
    chaos = answer(NAME, "AAAA", [], rdclass="CH")
    w = World({(NAME, "AAAA"): chaos, (NAME, "A"): v4()})
    assert not w.ask(NAME, rdclass="CH").answer
    assert [asked[1] for asked in w.upstream.asked] == ["AAAA"]


def test_rfc6147_5_1_8_both_are_asked_at_the_same_time():
    w = world(nodata(), v4())
    w.upstream.held = []
    w.send(query(NAME))
    assert [asked[1] for asked in w.upstream.asked] == ["AAAA", "A"]
    assert not w.replies


def test_rfc6147_5_1_8_whatever_comes_first():
    for order in ([0, 0], [1, 0]):
        w = world(nodata(), v4())
        w.upstream.held = []
        w.send(query(NAME))
        w.upstream.release(order[0])
        assert not w.replies
        w.upstream.release(order[1])
        assert lines_of(w.replies[0][0]) == [f"{NAME} 60 IN AAAA {SYNTHETIC}"]


def test_rfc6147_5_1_8_a_is_not_waited_for_when_aaaa_counts():
    w = world(v6("2001:db8::1"), None)
    w.upstream.held = []
    w.send(query(NAME))
    w.upstream.release(0)
    assert lines_of(w.replies[0][0]) == [f"{NAME} 300 IN AAAA 2001:db8::1"]
    w.upstream.release(0)
    assert len(w.replies) == 1


def test_rfc6147_5_2_without_a_usable_prefix_nothing_is_made():
    w = World({(NAME, "AAAA"): nodata(), (NAME, "A"): v4()}, refused4=lambda addr4, prefix: True)
    assert not w.ask(NAME).answer


def test_rfc6147_5_2_the_layout_is_the_translators():
    reply = world(nodata(), v4(), prefixes=(PTRTD,)).ask(NAME)
    assert lines_of(reply) == [f"{NAME} 60 IN AAAA fec0::ffff:0:0:c000:201"]


def test_rfc6147_5_3_2_the_additional_section_is_left_alone():
    extra = "mail.example.test. 99 IN A 192.0.2.77"
    a = answer(NAME, "A", [A4], ["example.test. 88 IN NS ns.example.test."], [extra])
    reply = world(nodata(), a).ask(NAME)
    assert [rrset.to_text() for rrset in reply.additional] == [extra]
    assert [rrset.to_text() for rrset in reply.authority] == [
        "example.test. 88 IN NS ns.example.test."
    ]


@pytest.mark.parametrize(
    "record",
    [
        f"{NAME} 60 IN A 192.0.2.1",
        f"{NAME} 60 IN MX 10 mail.example.test.",
        f"{NAME} 60 IN SRV 1 2 3 host.example.test.",
        f'{NAME} 60 IN HTTPS 1 . ipv4hint="192.0.2.1"',
        f"{NAME} 60 IN TYPE65280 \\# 3 010203",
    ],
)
def test_rfc6147_5_3_3_other_records_are_left_alone(record):
    rtype = record.split()[3]
    w = World({(NAME, rtype): answer(NAME, rtype, [record])})
    assert lines_of(w.ask(NAME, rtype)) == [record]


def test_rfc6147_5_4_the_question_is_the_clients():
    w = world(nodata(), v4())
    assert w.ask("WwW.eXaMpLe.TeSt").question[0].to_text() == "WwW.eXaMpLe.TeSt. IN AAAA"


def test_rfc6147_5_4_what_is_synthesised_is_subject_to_truncation():
    w = world(nodata(), v4(*(f"{NAME} 300 IN A 192.0.2.{n}" for n in range(60))))
    cut = w.ask(NAME, limit=512)
    assert cut.flags & dns.flags.TC
    assert not cut.answer
    assert len(lines_of(w.ask(NAME))) == 60


def test_rfc6147_5_5_do_and_cd_get_the_truth():
    w = world(nodata(), v4())
    reply = w.ask(NAME, use_edns=0, want_dnssec=True, cd=1)
    assert not reply.answer
    assert reply.authority
    assert w.upstream.asked == [(NAME, "AAAA", True, True)]


def test_rfc6147_5_5_do_and_cd_get_excluded_addresses_too():
    reply = world(v6("::ffff:192.0.2.9"), v4()).ask(NAME, use_edns=0, want_dnssec=True, cd=1)
    assert len(lines_of(reply)) == 1


@pytest.mark.parametrize("options", [{}, {"cd": 1}, {"use_edns": 0, "want_dnssec": True}])
def test_rfc6147_5_5_all_others_get_synthesised_answers(options):
    w = world(nodata(), v4())
    assert lines_of(w.ask(NAME, **options)) == [f"{NAME} 60 IN AAAA {SYNTHETIC}"]
    do = bool(options.get("want_dnssec"))
    assert {asked[2:] for asked in w.upstream.asked} == {(do, bool(options.get("cd")))}


@pytest.mark.parametrize(
    ("aaaa", "a", "do", "ad"),
    [(1, 1, 1, 1), (0, 1, 1, 0), (1, 0, 1, 0), (1, 1, 0, 0)],
)
def test_rfc6147_5_5_ad_where_both_answers_are_authentic(aaaa, a, do, ad):
    w = world(nodata(ad=bool(aaaa)), v4(ad=bool(a)))
    for _ in range(2):  # as it comes, and from the cache
        reply = w.ask(NAME, use_edns=0, want_dnssec=bool(do), ad=1)
        assert lines_of(reply)
        assert bool(reply.flags & dns.flags.AD) == bool(ad)


def test_rfc6147_5_5_ad_of_what_the_upstream_says_itself():
    """Nothing was made, so it is as authentic as it came, old or new."""
    w = world(nodata(ad=True), nodata("A", ad=True))
    for _ in range(2):
        assert w.ask(NAME, use_edns=0, want_dnssec=True).flags & dns.flags.AD
        w.now += 1


def test_rfc8914_a_note_on_a_good_answer_is_no_failure():
    noted = answer_message(NAME, "AAAA", [], [SOA])
    noted.use_edns(0, options=[dns.edns.EDEOption(dns.edns.EDECode.DNSSEC_BOGUS)])
    reply = world(parse_answer(noted.to_wire()), v4()).ask(NAME)
    assert lines_of(reply) == [f"{NAME} 60 IN AAAA {SYNTHETIC}"]


def test_rfc6147_5_5_a_bogus_negative_answer_is_servfail():
    message = answer_message(NAME, "AAAA", [], rcode="SERVFAIL")
    message.use_edns(0, options=[dns.edns.EDEOption(dns.edns.EDECode(6), "forged")])
    w = world(parse_answer(message.to_wire()), v4())
    reply = w.ask(NAME, use_edns=0)
    assert (reply.rcode(), lines_of(reply)) == (2, [])
    assert reply.options[0].otype == dns.edns.EDE


@pytest.mark.parametrize(("code", "servfail"), [(4, False), (5, True), (12, True), (13, False)])
def test_rfc8914_which_codes_are_of_validation(code, servfail):
    message = answer_message(NAME, "AAAA", [], rcode="SERVFAIL")
    message.use_edns(0, options=[dns.edns.EDEOption(dns.edns.EDECode(code))])
    reply = world(parse_answer(message.to_wire()), v4()).ask(NAME)
    assert (reply.rcode() == 2) == servfail


def test_signatures_over_a_do_not_stay():
    rrsig = f"{NAME} 300 IN RRSIG {{}} 13 3 300 20300101000000 20200101000000 1 example.test. AAAA"
    a = answer(NAME, "A", [A4, rrsig.format("A")])
    reply = world(nodata(), a).ask(NAME, use_edns=0, want_dnssec=True)
    assert lines_of(reply) == [f"{NAME} 60 IN AAAA {SYNTHETIC}"]
    six = answer(
        NAME,
        "AAAA",
        [
            f"{NAME} 300 IN AAAA ::ffff:1.2.3.4",
            f"{NAME} 300 IN AAAA 2001:db8::1",
            rrsig.format("AAAA"),
        ],
        ad=True,
    )
    reply = world(six, a).ask(NAME, use_edns=0, want_dnssec=True)
    assert lines_of(reply) == [f"{NAME} 300 IN AAAA 2001:db8::1"]
    assert not reply.flags & dns.flags.AD


def test_signatures_over_other_records_stay():
    """Over the aliases on the way, and whatever the additional section has (RFC 6147 §5.3.2)."""
    over = "8 3 300 20300101000000 20200101000000 1 example.test. AAAA"
    found = answer(
        NAME,
        "A",
        [
            f"{NAME} 300 IN CNAME a.example.test.",
            f"{NAME} 300 IN RRSIG CNAME {over}",
            "a.example.test. 300 IN A 192.0.2.1",
            f"a.example.test. 300 IN RRSIG A {over}",
        ],
        [],
        [
            "ns.example.test. 300 IN A 192.0.2.53",
            f"ns.example.test. 300 IN RRSIG A {over}",
        ],
    )
    reply = world(nodata(), found).ask(NAME, use_edns=0, want_dnssec=True)
    assert [line.split()[3:5] for line in lines_of(reply)] == [
        ["CNAME", "a.example.test."],
        ["RRSIG", "CNAME"],
        ["AAAA", SYNTHETIC],
    ]
    assert [rrset.rdtype for rrset in reply.additional] == [1, 46]


def test_option_mapped():
    mapped = (IPv4Network("198.51.100.0/24"),)
    a = v4(A4, f"{NAME} 300 IN A 198.51.100.1")
    assert lines_of(world(nodata(), a, mapped=mapped).ask(NAME)) == [
        f"{NAME} 60 IN AAAA 64:ff9b::c633:6401"
    ]
    assert lines_of(world(nodata(), v4(), mapped=mapped).ask(NAME)) == []


def test_option_mapped_with_nothing_left_of_a_failed_aaaa():
    w = world(None, v4(), mapped=(IPv4Network("198.51.100.0/24"),))
    reply = w.ask(NAME)
    assert (reply.rcode(), lines_of(reply)) == (0, [])


def test_option_exclude4():
    a = v4("www.example.test. 300 IN A 10.0.0.1", A4)
    reply = world(nodata(), a, exclude4=(IPv4Network("10.0.0.0/8"),)).ask(NAME)
    assert lines_of(reply) == [f"{NAME} 60 IN AAAA {SYNTHETIC}"]


def test_option_clients():
    w = world(nodata(), v4(), clients=(IPv6Network("2001:db8::/32"), IPv4Network("10.0.0.0/8")))
    for text, served in (("2001:db8::5", True), ("2001:db9::5", False)):
        assert bool(lines_of(w.ask(NAME, client=IPv6Address(text).packed))) == served
    assert lines_of(w.ask(NAME, client=bytes((10, 0, 0, 1))))
    assert not lines_of(w.ask(NAME, client=bytes((11, 0, 0, 1))))


def test_option_synthall():
    both = world(v6("2001:db8::1"), v4(), synthall=True)
    assert lines_of(both.ask(NAME)) == [f"{NAME} 300 IN AAAA {SYNTHETIC}"]
    only6 = world(v6("2001:db8::1"), nodata("A"), synthall=True)
    assert lines_of(only6.ask(NAME)) == [f"{NAME} 300 IN AAAA 2001:db8::1"]
    gone = world(nodata(rcode="NXDOMAIN"), None, synthall=True)
    assert gone.ask(NAME).rcode() == dns.rcode.NXDOMAIN


def test_option_synthall_does_not_wait_for_a_where_the_name_does_not_exist():
    w = world(nodata(rcode="NXDOMAIN"), v4(), synthall=True)
    w.upstream.held = []
    w.send(query(NAME))
    w.upstream.release(0)
    assert dns.message.from_wire(w.replies[0][0]).rcode() == dns.rcode.NXDOMAIN
    w.upstream.release(0)
    assert len(w.replies) == 1


def test_option_synthall_also_where_the_cache_has_real_addresses():
    w = world(v6("2001:db8::1"), v4(f"{NAME} 10 IN A 192.0.2.1"), synthall=True)
    w.ask(NAME)
    w.now += 11
    assert lines_of(w.ask(NAME)) == [f"{NAME} 10 IN AAAA {SYNTHETIC}"]
    assert [asked[1] for asked in w.upstream.asked] == ["AAAA", "A", "A"]


def test_answers_with_signatures_are_not_those_of_who_wants_none():
    w = world(nodata(), v4())
    for options in ({}, {"use_edns": 0, "want_dnssec": True}, {"cd": 1}):
        for _ in range(2):
            assert lines_of(w.ask(NAME, **options)) == [f"{NAME} 60 IN AAAA {SYNTHETIC}"]
    asked = [(do, cd) for _, rtype, do, cd in w.upstream.asked if rtype == "A"]
    assert asked == [(False, False), (True, False), (False, True)]


@pytest.mark.parametrize(
    ("zone", "ignored"),
    [
        ("example.test", True),
        (NAME, True),
        ("Test.", True),
        ("ample.test", False),
        ("a.www.example.test", False),
    ],
)
def test_option_ignore_aaaa(zone, ignored):
    w = world(v6("2001:db8::1"), v4(), ignore_aaaa=(zone,))
    assert lines_of(w.ask(NAME))[0].endswith(SYNTHETIC) == ignored


def test_prefixes_first_all_in_turn_by_client():
    prefixes = (WKP, PTRTD)
    made = [f"{NAME} 60 IN AAAA {SYNTHETIC}", f"{NAME} 60 IN AAAA fec0::ffff:0:0:c000:201"]
    w = world(nodata(), v4(), prefixes=prefixes)
    assert [lines_of(w.ask(NAME)) for _ in range(3)] == [made[:1]] * 3
    w = world(nodata(), v4(), prefixes=prefixes, choice=Choice.ALL)
    assert lines_of(w.ask(NAME)) == made
    w = world(nodata(), v4(), prefixes=prefixes, choice=Choice.ROUND_ROBIN)
    assert [lines_of(w.ask(NAME)) for _ in range(4)] == [made[:1], made[1:]] * 2
    w = world(nodata(), v4(), prefixes=prefixes, choice=Choice.BY_CLIENT)
    clients = [IPv6Address(f"2001:db8:0:{n}::1").packed for n in range(8)]
    first = [lines_of(w.ask(NAME, client=client)) for client in clients]
    assert {tuple(lines) for lines in first} == {tuple(made[:1]), tuple(made[1:])}
    assert [lines_of(w.ask(NAME, client=client)) for client in clients] == first


def test_pointers_behind_what_grew_are_right():
    """nsd and others point into the middle of the answer, which moves."""
    a = answer(
        NAME,
        "A",
        [f"{NAME} 50 IN CNAME first.other.test.", "first.other.test. 40 IN A 192.0.2.1"],
        [
            "zone.first.other.test. 30 IN NS ns.zone.first.other.test.",
            "deep.zone.first.other.test. 30 IN SOA ns.zone.first.other.test."
            " h.ns.zone.first.other.test. 1 2 3 4 5",
        ],
        ["ns.zone.first.other.test. 30 IN MX 10 deep.zone.first.other.test."],
    )
    reply = world(answer(NAME, "AAAA", [], [SOA]), a).ask(NAME)
    assert (
        reply.authority[0].to_text() == "zone.first.other.test. 30 IN NS ns.zone.first.other.test."
    )
    assert reply.authority[1].name.to_text() == "deep.zone.first.other.test."
    assert (
        "ns.zone.first.other.test. h.ns.zone.first.other.test. 1 2 3 4 5"
        in reply.authority[1].to_text()
    )
    assert reply.additional[0].to_text().endswith("10 deep.zone.first.other.test.")


def test_a_plain_name_far_into_a_message_is_no_pointer():
    """Its first two bytes, read as an offset, would be 887."""
    question = b"\3www\7example\4test\0\0\1\0\1"
    wire = bytearray(struct.pack("!6H", 0, 0x8180, 1, 2, 0, 0) + question)
    text = (b"\xff" + b"x" * 255) * 4
    wire += b"\xc0\x0c" + struct.pack("!HHIH", 16, 1, 60, len(text)) + text
    wire += question[:-4] + struct.pack("!HHIH", 1, 1, 60, 4) + bytes((192, 0, 2, 1))
    reply = world(nodata(), parse_answer(bytes(wire))).ask(NAME)
    assert lines_of(reply)[-1] == f"{NAME} 60 IN AAAA {SYNTHETIC}"


@pytest.mark.parametrize("change", [-1, 1])
def test_an_soa_of_the_wrong_length_is_a_failure(change):
    wire = bytearray(answer_message(NAME, "A", [A4], [SOA]).to_wire())
    length = struct.unpack_from("!H", wire, wire.index(b"\0\6\0\1") + 8)[0]
    struct.pack_into("!H", wire, wire.index(b"\0\6\0\1") + 8, length + change)
    wire = wire[:-1] if change < 0 else wire + b"\0"
    assert world(nodata(), parse_answer(bytes(wire))).ask(NAME).rcode() == dns.rcode.SERVFAIL


def test_a_name_in_a_rare_record_behind_what_grew_is_right():
    """Type 18, AFSDB: its name is compressed by old servers, and points behind the A record."""
    question = b"\3www\7example\4test\0\0\1\0\1"
    wire = bytearray(struct.pack("!6H", 0, 0x8180, 1, 2, 0, 0) + question)
    wire += b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + bytes((192, 0, 2, 1))
    owner = len(wire)
    wire += b"\1x\4rare\0" + struct.pack("!HHIH", 18, 1, 60, 4) + b"\0\1"
    wire += struct.pack("!H", 0xC000 | owner)
    reply = world(nodata(), parse_answer(bytes(wire))).ask(NAME)
    assert lines_of(reply) == [
        f"{NAME} 60 IN AAAA {SYNTHETIC}",
        "x.rare. 60 IN AFSDB 1 x.rare.",
    ]


def test_types_that_dnspython_has_to_rewrite():
    srv = "_x._tcp.other.test. 30 IN SRV 1 2 3 host.other.test."
    a = answer(
        NAME, "A", [f"{NAME} 50 IN CNAME c.other.test.", "c.other.test. 40 IN A 192.0.2.1"], [srv]
    )
    w = world(nodata(), a)
    reply = w.ask(NAME)
    assert lines_of(reply) == [
        f"{NAME} 50 IN CNAME c.other.test.",
        "c.other.test. 40 IN AAAA 64:ff9b::c000:201",
    ]
    assert reply.authority[0].to_text() == srv


def test_a_name_that_points_in_a_circle_is_malformed():
    good = answer(NAME, "A", [f"{NAME} 50 IN CNAME c.test.", "c.test. 40 IN A 192.0.2.1"])
    cname = good.records[0]
    at = cname.rdata_at - 12 - len(good.question)
    good.body = (
        good.body[:at]
        + bytes((0xC0 | cname.rdata_at >> 8, cname.rdata_at & 255))
        + good.body[at + 2 :]
    )
    with pytest.raises(Malformed):
        rebased_name(bytes(12) + good.question + good.body, cname.rdata_at, 12)
