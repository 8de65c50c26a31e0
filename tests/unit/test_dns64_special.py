"""ipv4only.arpa (RFC 7050, RFC 8880) and names of synthesised addresses (RFC 6147 §5.3.1)."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network

import dns.flags
import dns.message
import dns.reversename
import pytest

from gateway.dns64.messages import Answer
from gateway.dns64.reverse import address_of
from gateway.dns64.settings import Choice, Reverse
from tests.unit.dns64_fakes import PTRTD, SOA, WKP, World, answer, lines_of

ARPA_SOA = "2.0.192.in-addr.arpa. 60 IN SOA ns.test. h.test. 1 3600 600 86400 30"
V4_NAME = "1.2.0.192.in-addr.arpa."
V6_NAME = dns.reversename.from_address("64:ff9b::192.0.2.1").to_text()
SECURE = {"use_edns": 0, "want_dnssec": True, "cd": 1}


def test_rfc8880_7_1_addresses_of_ipv4only_arpa():
    w = World({})
    reply = w.ask("ipv4only.arpa", "A")
    assert lines_of(reply) == [f"ipv4only.arpa. 86400 IN A 192.0.0.{n}" for n in (170, 171)]
    assert w.upstream.asked == []


@pytest.mark.parametrize("options", [{}, {"cd": 1}, SECURE])
def test_rfc8880_7_1_synthesised_whatever_do_and_cd_say(options):
    w = World({})
    made = [f"ipv4only.arpa. 86400 IN AAAA 64:ff9b::c000:{n}" for n in ("aa", "ab")]
    assert lines_of(w.ask("IPv4Only.ARPA", **options)) == [
        line.replace("ipv4only.arpa", "IPv4Only.ARPA") for line in made
    ]
    assert w.upstream.asked == []


def test_rfc7050_3_every_prefix_is_told():
    prefixes = (WKP, PTRTD)
    for choice, count in ((Choice.FIRST, 4), (Choice.ROUND_ROBIN, 4), (Choice.BY_CLIENT, 2)):
        w = World({}, prefixes=prefixes, choice=choice)
        addresses = [IPv6Address(line.split()[-1]) for line in lines_of(w.ask("ipv4only.arpa"))]
        assert len(addresses) == count
        extracted = {p.extract(a.packed) for a in addresses for p in prefixes} - {None}
        assert extracted == {bytes((192, 0, 0, 170)), bytes((192, 0, 0, 171))}


def test_who_gets_no_synthesis_gets_no_prefix():
    w = World({}, clients=(IPv6Network("2001:db8::/32"),))
    reply = w.ask("ipv4only.arpa")
    assert (reply.rcode(), lines_of(reply)) == (0, [])


@pytest.mark.parametrize("rtype", ["MX", "TXT", "NS", "SOA", "ANY", "DNSKEY", "TYPE65280"])
def test_rfc8880_7_1_no_data_of_other_types(rtype):
    w = World({})
    reply = w.ask("ipv4only.arpa", rtype)
    assert (reply.rcode(), reply.answer, len(reply.authority)) == (0, [], 1)
    assert w.upstream.asked == []


@pytest.mark.parametrize(
    ("name", "rtype"), [("ipv4only.arpa", "A"), ("ipv4only.arpa", "TXT"), ("a.ipv4only.arpa", "A")]
)
def test_rfc8880_7_1_who_answers_is_the_authority(name, rtype):
    w = World({})
    for options in ({}, {"limit": 40}):
        assert w.ask(name, rtype, **options).flags & dns.flags.AA
    assert not w.ask("www.example.test", rtype).flags & dns.flags.AA


def test_rfc8880_7_1_ds_is_asked_of_the_zone_above():
    """Who validates has to find out there that the zone is not signed."""
    name = "ipv4only.arpa."
    denial = answer(name, "DS", [], ["arpa. 60 IN SOA a.test. b.test. 1 2 3 4 5"])
    w = World({(name, "DS"): denial})
    reply = w.ask(name, "DS", use_edns=0, want_dnssec=True)
    assert reply.authority[0].name.to_text() == "arpa."
    assert w.upstream.asked == [(name, "DS", True, False)]
    assert w.ask(f"www.{name}", "DS").rcode() == dns.rcode.NXDOMAIN
    assert len(w.upstream.asked) == 1


def test_rfc8880_7_1_nothing_below():
    w = World({})
    assert w.ask("www.ipv4only.arpa").rcode() == dns.rcode.NXDOMAIN
    assert w.ask("notipv4only.arpa").rcode() == dns.rcode.NXDOMAIN
    assert {asked[0] for asked in w.upstream.asked} == {"notipv4only.arpa."}


@pytest.mark.parametrize("number", [170, 171])
def test_rfc8880_7_2_reverse_names_are_nothing_special_to_a_resolver(number):
    name = f"{number}.0.0.192.in-addr.arpa."
    w = World({(name, "PTR"): answer(name, "PTR", [f"{name} 50 IN PTR ipv4only.arpa."])})
    assert lines_of(w.ask(name, "PTR")) == [f"{name} 50 IN PTR ipv4only.arpa."]
    w.ask(f"a.{name}", "PTR")
    assert [asked[0] for asked in w.upstream.asked] == [name, f"a.{name}"]


@pytest.mark.parametrize("number", [170, 171])
@pytest.mark.parametrize("how", [Reverse.CNAME, Reverse.TRANSLATE])
def test_rfc8880_7_2_1_but_inside_a_prefix_their_answer_is_known(number, how):
    w = World({}, reverse=how)
    inside = dns.reversename.from_address(f"64:ff9b::192.0.0.{number}").to_text()
    assert lines_of(w.ask(inside, "PTR"))[-1].endswith("IN PTR ipv4only.arpa.")
    assert w.upstream.asked == []
    w.ask(dns.reversename.from_address(f"64:ff9b::192.0.0.{number + 2}").to_text(), "PTR")
    assert [asked[0] for asked in w.upstream.asked] == [f"{number + 2}.0.0.192.in-addr.arpa."]


def reverse(found, **settings):
    return World({(V4_NAME, "PTR"): found}, **settings)


def test_rfc6147_5_3_1_cname_to_in_addr_arpa():
    w = reverse(answer(V4_NAME, "PTR", [f"{V4_NAME} 50 IN PTR www.example.test."]))
    assert lines_of(w.ask(V6_NAME, "PTR")) == [
        f"{V6_NAME} 50 IN CNAME {V4_NAME}",
        f"{V4_NAME} 50 IN PTR www.example.test.",
    ]
    assert w.upstream.asked == [(V4_NAME, "PTR", False, False)]


def test_rfc6147_5_3_1_no_answer_is_a_failure():
    assert reverse(None).ask(V6_NAME, "PTR").rcode() == dns.rcode.SERVFAIL


def test_rfc6147_5_3_1_or_the_records_themselves():
    found = answer(
        V4_NAME,
        "PTR",
        [f"{V4_NAME} 40 IN CNAME 1.sub.test.", "1.sub.test. 50 IN PTR www.example.test."],
    )
    w = reverse(found, reverse=Reverse.TRANSLATE)
    assert lines_of(w.ask(V6_NAME, "PTR")) == [f"{V6_NAME} 40 IN PTR www.example.test."]


def test_rfc6147_5_3_1_no_alias_to_nothing():
    w = reverse(answer(V4_NAME, "PTR", [], [ARPA_SOA], rcode="NXDOMAIN"))
    reply = w.ask(V6_NAME, "PTR")
    assert (reply.rcode(), reply.answer) == (dns.rcode.NXDOMAIN, [])
    w = reverse(answer(V4_NAME, "PTR", [f"{V4_NAME} 40 IN CNAME x.test."], [ARPA_SOA]))
    reply = w.ask(V6_NAME, "PTR")
    assert (reply.rcode(), reply.answer) == (0, [])


def test_rfc6147_5_3_1_an_alias_makes_no_chain_longer():
    """RFC 2317: the name under in-addr.arpa is an alias itself."""
    found = answer(
        V4_NAME,
        "PTR",
        [f"{V4_NAME} 40 IN CNAME 1.sub.test.", "1.sub.test. 50 IN PTR www.example.test."],
    )
    assert lines_of(reverse(found).ask(V6_NAME, "PTR")) == [
        f"{V6_NAME} 40 IN CNAME 1.sub.test.",
        "1.sub.test. 50 IN PTR www.example.test.",
    ]


def test_rfc6147_5_3_1_the_well_known_prefix_whatever_is_configured():
    found = answer(V4_NAME, "PTR", [f"{V4_NAME} 50 IN PTR www.example.test."])
    assert len(lines_of(reverse(found, prefixes=(PTRTD,)).ask(V6_NAME, "PTR"))) == 2


def test_rfc6147_5_3_1_other_addresses_are_asked_about():
    other = dns.reversename.from_address("2001:db8::1").to_text()
    w = World({(other, "PTR"): answer(other, "PTR", [f"{other} 50 IN PTR host.test."])})
    assert lines_of(w.ask(other, "PTR")) == [f"{other} 50 IN PTR host.test."]


def test_rfc6147_5_3_1_every_prefix_and_either_layout():
    for text in ("fec0:0:0:ffff::192.0.2.1", "64:ff9b::192.0.2.1"):
        w = reverse(answer(V4_NAME, "PTR", [f"{V4_NAME} 50 IN PTR a.test."]), prefixes=(WKP, PTRTD))
        name = dns.reversename.from_address(text).to_text()
        assert len(lines_of(w.ask(name, "PTR"))) == 2


def test_reverse_ages_and_is_cached():
    w = reverse(answer(V4_NAME, "PTR", [f"{V4_NAME} 50 IN PTR a.test."]))
    w.ask(V4_NAME, "PTR")
    w.now += 20
    assert {rrset.ttl for rrset in w.ask(V6_NAME, "PTR").answer} == {30}
    w.now += 10
    assert {rrset.ttl for rrset in w.ask(V6_NAME, "PTR").answer} == {20}
    assert len(w.upstream.asked) == 1
    assert w.engine.counters.reverse == 1


def test_reverse_off_and_for_those_who_validate():
    nothing = answer(V6_NAME, "PTR", [], [SOA], rcode="NXDOMAIN")
    truth: dict[tuple[str, str], Answer | None] = {(V6_NAME, "PTR"): nothing}
    for world, options in ((World(truth, reverse=Reverse.OFF), {}), (World(truth), SECURE)):
        assert world.ask(V6_NAME, "PTR", **options).rcode() == dns.rcode.NXDOMAIN
        assert world.upstream.asked[0][0] == V6_NAME


def test_rfc3596_2_5_names_of_addresses():
    name = dns.reversename.from_address("2001:db8::567:89ab")
    assert address_of(name.to_digestable()) == IPv6Address("2001:db8::567:89ab").packed
    wire = bytearray(name.to_digestable())
    wire[1] = ord("g")
    assert address_of(bytes(wire)) is None
    assert address_of(name.parent().to_digestable()) is None
    # As long, but not of one character for each label.
    assert address_of(b"\x3f" + b"0" * 63 + b"\3ip6\4arpa\0") is None


def test_records_that_dnspython_does_not_put_together_are_servfail():
    """PTR records of two classes in one answer."""
    good = answer(V4_NAME, "PTR", [f"{V4_NAME} 50 IN PTR a.test.", f"{V4_NAME} 50 CH PTR b.test."])
    assert reverse(good, reverse=Reverse.TRANSLATE).ask(V6_NAME, "PTR").rcode() == 2
