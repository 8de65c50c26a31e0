"""Which NAT64 prefix is used: sources by preference, lifetimes, several routers, removal."""

import math
from ipaddress import IPv6Address, IPv6Network

import pytest

from gateway.clat.plat import MAX_ADVERTISED, Plat, PlatSources, is_usable
from gateway.clat.ra_listener import check_advertisement
from gateway.ra.messages import BadMessage, Pref64, RouterAdvertisement, build_advertisement

ONE, TWO = IPv6Address("fe80::a"), IPv6Address("fe80::b")
P, Q, R = (IPv6Network(f"2001:db8:{n}::/96") for n in (1, 2, 3))


def prefix_of(sources, now):
    plat = sources.current(now)
    return None if plat is None else plat.prefix


def source_of(sources, now):
    plat = sources.current(now)
    return None if plat is None else plat.source


def says(*prefixes, lifetime=600):
    return RouterAdvertisement(pref64=tuple(Pref64(prefix, lifetime) for prefix in prefixes))


def test_nothing_is_known_at_first():
    sources = PlatSources(None)
    assert sources.current(0.0) is None
    assert sources.wants_ra
    assert sources.wants_dns(0.0)
    assert sources.deadline(0.0) == math.inf


def test_what_is_given_comes_first_and_nobody_is_asked():
    sources = PlatSources(P)
    sources.hear(ONE, says(Q), 0.0)
    sources.answer([R])
    assert sources.current(0.0) == Plat(P, "config")
    assert not sources.wants_ra
    assert not sources.wants_dns(0.0)


def test_rfc8781_section_5_1_a_router_comes_before_the_dns():
    sources = PlatSources(None)
    sources.answer([P])
    assert sources.current(0.0) == Plat(P, "dns")
    sources.hear(ONE, says(Q), 0.0)
    assert sources.current(0.0) == Plat(Q, "ra", "fe80::a")
    assert not sources.wants_dns(0.0)


def test_rfc8781_section_4_a_prefix_lives_as_long_as_was_said():
    sources = PlatSources(None)
    sources.hear(ONE, says(P, lifetime=600), 100.0)
    assert sources.deadline(100.0) == 700.0
    assert sources.current(699.9) is not None
    assert sources.current(700.0) is None
    assert sources.wants_dns(700.0)


def test_each_advertisement_renews_it():
    sources = PlatSources(None)
    sources.hear(ONE, says(P, lifetime=600), 0.0)
    sources.hear(ONE, says(P, lifetime=16), 500.0)
    assert sources.current(515.9) is not None
    assert sources.current(516.0) is None


def test_rfc8781_section_4_a_lifetime_of_zero_takes_it_back_from_this_router_alone():
    sources = PlatSources(None)
    sources.hear(ONE, says(P), 0.0)
    sources.hear(TWO, says(P), 0.0)
    sources.hear(ONE, says(P, lifetime=0), 1.0)
    assert sources.current(1.0) == Plat(P, "ra", "fe80::b")
    sources.hear(TWO, says(P, lifetime=0), 2.0)
    assert sources.current(2.0) is None


def test_the_one_in_use_stays_while_it_is_there():
    sources = PlatSources(None)
    sources.hear(ONE, says(P, lifetime=600), 0.0)
    sources.hear(TWO, says(Q, lifetime=9000), 0.0)
    assert prefix_of(sources, 0.0) == P
    assert prefix_of(sources, 600.0) == Q
    sources.hear(ONE, says(P), 601.0)
    assert prefix_of(sources, 601.0) == Q, "the first heard is in use no more"


def test_without_advertisements_the_dns_stands_in_and_nothing_is_lost():
    sources = PlatSources(None)
    sources.answer([P, Q])
    assert prefix_of(sources, 0.0) == P
    sources.answer([Q, P])
    assert prefix_of(sources, 0.0) == P, "the one in use stays"
    sources.answer([Q])
    assert prefix_of(sources, 0.0) == Q
    sources.answer([])
    assert sources.current(0.0) is None


@pytest.mark.parametrize(("only", "expected"), [("ra", "ra"), ("dns", "dns"), ("config", "config")])
def test_a_single_source_is_the_only_one(only, expected):
    sources = PlatSources(P, only)
    sources.hear(ONE, says(Q), 0.0)
    sources.answer([R])
    assert source_of(sources, 0.0) == expected
    assert sources.wants_ra == (only == "ra")
    assert sources.wants_dns(0.0) == (only == "dns")


def test_what_is_not_asked_is_not_wanted():
    assert not PlatSources(P).wants_dns(0.0)
    for only in ("ra", "dns", "config"):
        sources = PlatSources(None, only)
        assert (sources.wants_ra, sources.wants_dns(0.0)) == (only == "ra", only == "dns")
        if only != "dns":
            sources.answer([R])
            assert sources.current(0.0) is None


def test_another_uplink_has_no_prefix_in_use():
    sources = PlatSources(None)
    sources.answer([Q])
    assert prefix_of(sources, 0.0) == Q
    sources.forget()
    sources.hear(ONE, says(P), 0.0)
    sources.hear(ONE, says(Q), 0.0)
    assert prefix_of(sources, 0.0) == P


def test_another_uplink_forgets_everything_but_what_is_given():
    sources = PlatSources(None)
    sources.hear(ONE, says(P), 0.0)
    sources.answer([Q])
    sources.forget()
    assert sources.current(0.0) is None


def test_a_neighbour_cannot_fill_the_memory():
    sources = PlatSources(None)
    for number in range(MAX_ADVERTISED + 5):
        sources.hear(ONE, says(IPv6Network(f"2001:db8:{number:x}::/96")), 0.0)
    assert len(sources.advertised) == MAX_ADVERTISED
    sources.hear(ONE, says(IPv6Network("2001:db8:0::/96"), lifetime=900), 1.0)
    assert max(sources.advertised.values()) == 901.0, "what is known is renewed"
    sources.hear(TWO, says(P), 9000.0)
    assert list(sources.advertised) == [(TWO, P)], "those that have ended make room"


@pytest.mark.parametrize(
    "text", ["fe80::/96", "ff02::/96", "::/96", "::ffff:0:0/96", "2001:db8::/80"]
)
def test_prefixes_that_no_nat64_has(text):
    assert not is_usable(IPv6Network(text))
    sources = PlatSources(None)
    sources.hear(ONE, says() if "/80" in text else says(IPv6Network(text)), 0.0)
    sources.answer([IPv6Network(text)])
    assert sources.current(0.0) is None


def test_rfc6052_section_2_2_the_u_octet_is_zero():
    assert not is_usable(IPv6Network("2001:db8:0:0:100::/96"))
    assert is_usable(IPv6Network("2001:db8::/40"))
    assert is_usable(IPv6Network("64:ff9b::/96"))


# RFC 4861 §6.1.2: what makes an advertisement valid.

MESSAGE = build_advertisement(says(P))


def test_rfc4861_section_6_1_2_a_valid_advertisement():
    assert check_advertisement(MESSAGE, 255, ONE).pref64 == (Pref64(P, 600),)


@pytest.mark.parametrize("hop_limit", [0, 254])
def test_rfc4861_section_6_1_2_not_from_another_link(hop_limit):
    with pytest.raises(BadMessage, match="link"):
        check_advertisement(MESSAGE, hop_limit, ONE)


def test_rfc4861_section_6_1_2_not_from_a_global_address():
    with pytest.raises(BadMessage, match="link-local"):
        check_advertisement(MESSAGE, 255, IPv6Address("2001:db8::1"))


@pytest.mark.parametrize("cut", [0, 8, 15, 17, len(MESSAGE) - 1])
def test_rfc4861_section_6_1_2_a_cut_one(cut):
    with pytest.raises(BadMessage):
        check_advertisement(MESSAGE[:cut], 255, ONE)
