"""What is advertised, what is taken back, when, and as other programs' configuration."""

from ipaddress import IPv6Address, IPv6Network

import pytest

from gateway import config as configuration
from gateway.ra import messages as m
from gateway.ra import snippet
from gateway.ra.assembly import wish_of
from gateway.ra.content import AdvertiseWish, InterfaceState, advertisement, changed, withdrawn
from gateway.ra.timing import Schedule
from translate.addresses import Layout, Prefix6

PREFIX = IPv6Network("fec0:0:0:ffff::/64")
TRAILING = Prefix6(PREFIX, Layout.TRAILING)
MAC = bytes.fromhex("02000000000a")
LINK_LOCAL, UNIQUE_LOCAL, GLOBAL = map(IPv6Address, ("fe80::1", "fd00:1::1", "2a00:1::1"))


def state(*addresses, leads_out=False):
    return InterfaceState("lan0", 5, MAC, tuple(addresses), leads_out)


def test_without_a_way_out_the_prefix_is_a_route_and_the_router_is_no_default_router():
    said = advertisement(AdvertiseWish((TRAILING,)), state(LINK_LOCAL))
    assert said.router_lifetime == 0
    assert said.routes == (m.RouteInformation(PREFIX, 1800),)
    assert said.link == MAC


def test_rfc4861_6_2_1_prefixes_are_valid_for_a_day_and_preferred_for_four_hours():
    on_link = IPv6Network("fd00:1::/64")
    (item,) = advertisement(AdvertiseWish((TRAILING,), on_link=(on_link,)), state()).prefixes
    assert (item.prefix, item.valid, item.preferred) == (on_link, 86_400, 14_400)


def test_with_a_way_out_the_default_route_covers_the_prefix():
    said = advertisement(AdvertiseWish((TRAILING,)), state(LINK_LOCAL, leads_out=True))
    assert said.router_lifetime == 1800
    assert said.routes == ()


@pytest.mark.parametrize("leads_out", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_the_configuration_overrules_what_the_host_looks_like(leads_out, wanted):
    wish = AdvertiseWish((TRAILING,), default_router=wanted)
    said = advertisement(wish, state(LINK_LOCAL, leads_out=leads_out))
    assert bool(said.router_lifetime) is wanted
    assert bool(said.routes) is not wanted


def test_the_router_lifetime_never_exceeds_what_rfc4861_allows():
    wish = AdvertiseWish((TRAILING,), default_router=True, interval=1800 * 3)
    assert advertisement(wish, state(LINK_LOCAL)).router_lifetime == 9000


@pytest.mark.parametrize(("interval", "lasts"), [(4.0, 12), (4.3, 13), (600.0, 1800)])
def test_rfc8106_5_1_and_rfc8781_4_1_lifetimes_are_at_least_three_intervals(interval, lasts):
    wish = AdvertiseWish((TRAILING,), interval=interval, dns=(UNIQUE_LOCAL,))
    said = advertisement(wish, state(LINK_LOCAL))
    assert [item.lifetime for item in said.rdnss] == [lasts]
    assert [item.lifetime for item in said.pref64] == [lasts]
    assert [item.lifetime for item in said.routes] == [lasts]


def test_a_trailing_64_is_advertised_as_the_96_that_means_the_same():
    said = advertisement(AdvertiseWish((TRAILING,)), state(LINK_LOCAL))
    (item,) = said.pref64
    assert item == m.Pref64(IPv6Network("fec0:0:0:ffff::/96"), 1800)
    embedded = Prefix6(item.prefix, Layout.RFC6052).embed(b"\xc0\0\2\1")
    assert embedded == TRAILING.embed(b"\xc0\0\2\1")


@pytest.mark.parametrize("length", [32, 40, 48, 56, 64, 96])
def test_a_prefix_in_rfc6052_layout_is_advertised_as_it_is(length):
    prefix = Prefix6(IPv6Network(("2001:db8::", length)), Layout.RFC6052)
    (item,) = advertisement(AdvertiseWish((prefix,)), state(LINK_LOCAL)).pref64
    assert item.prefix == prefix.network


@pytest.mark.parametrize(
    ("addresses", "best"),
    [
        ((LINK_LOCAL, UNIQUE_LOCAL, GLOBAL), GLOBAL),
        ((UNIQUE_LOCAL, LINK_LOCAL), UNIQUE_LOCAL),
        ((LINK_LOCAL,), LINK_LOCAL),
    ],
)
def test_the_dns_server_is_the_best_address_of_the_interface(addresses, best):
    said = advertisement(
        AdvertiseWish((TRAILING,), dns_interfaces=frozenset({"lan0"})), state(*addresses)
    )
    assert said.rdnss == (m.Rdnss((best,), 1800),)


def test_only_addresses_where_the_gateway_answers_are_named():
    elsewhere = AdvertiseWish((TRAILING,), dns_interfaces=frozenset({"lan1"}))
    assert advertisement(elsewhere, state(GLOBAL)).rdnss == ()
    one = AdvertiseWish((TRAILING,), dns_addresses=frozenset({UNIQUE_LOCAL}))
    assert advertisement(one, state(GLOBAL, UNIQUE_LOCAL)).rdnss == (
        m.Rdnss((UNIQUE_LOCAL,), 1800),
    )
    assert advertisement(one, state(GLOBAL)).rdnss == ()


@pytest.mark.parametrize(
    ("keys", "interfaces", "addresses"),
    [
        ({"dns64.enabled": True}, {"lan0"}, set()),
        ({}, set(), set()),
        (
            {
                "dns64.enabled": True,
                "dns64.listen": ["lan1", "lan0@5353", "fd00:1::1", "192.0.2.1"],
            },
            {"lan1"},
            {UNIQUE_LOCAL},
        ),
        ({"dns64.enabled": True, "dns64.listen": ["*", "lan1"]}, {"lan0", "lan1"}, set()),
        ({"dns64.enabled": True, "dns64.listen": ["*@5353"]}, set(), set()),
    ],
)
def test_the_configuration_says_where_the_gateway_answers(keys, interfaces, addresses):
    wish = wish_of(configuration.load(None, {"advertise.interfaces": ["lan0"], **keys}))
    assert wish.dns_interfaces == interfaces
    assert wish.dns_addresses == addresses


def test_without_dns64_no_dns_server_is_named_unless_configured():
    assert advertisement(AdvertiseWish((TRAILING,)), state(GLOBAL)).rdnss == ()
    wish = AdvertiseWish((TRAILING,), dns=(UNIQUE_LOCAL,), dns_interfaces=frozenset({"lan0"}))
    assert advertisement(wish, state(GLOBAL)).rdnss == (m.Rdnss((UNIQUE_LOCAL,), 1800),)


def test_the_last_word_has_lifetimes_of_zero_for_everything():
    wish = AdvertiseWish(
        (TRAILING,),
        on_link=(IPv6Network("fd00:1::/64"),),
        dns_interfaces=frozenset({"lan0"}),
        default_router=True,
    )
    said = withdrawn(advertisement(wish, state(GLOBAL)))
    assert said.router_lifetime == 0
    assert [item.lifetime for item in said.pref64] == [0]
    assert [item.lifetime for item in said.rdnss] == [0]
    (prefix,) = said.prefixes
    assert (prefix.preferred, prefix.valid) == (0, 86_400)


def test_what_has_changed_is_taken_back_and_what_stays_is_not():
    wish = AdvertiseWish((TRAILING,), dns_interfaces=frozenset({"lan0"}))
    before = advertisement(wish, state(LINK_LOCAL, UNIQUE_LOCAL))
    now = advertisement(wish, state(LINK_LOCAL, leads_out=True))
    said = changed(before, now)
    assert said.router_lifetime == 1800
    assert said.routes == (m.RouteInformation(PREFIX, 0),)
    assert said.rdnss == (m.Rdnss((LINK_LOCAL,), 1800), m.Rdnss((UNIQUE_LOCAL,), 0))
    assert said.pref64 == now.pref64
    assert changed(now, now) == now


def test_a_prefix_for_addresses_is_taken_back_and_one_that_stays_is_not():
    stays, gone = IPv6Network("fd00:1::/64"), IPv6Network("fd00:2::/64")
    before = advertisement(AdvertiseWish((TRAILING,), on_link=(stays, gone)), state())
    now = advertisement(AdvertiseWish((TRAILING,), on_link=(stays,)), state())
    found = [(item.prefix, item.preferred) for item in changed(before, now).prefixes]
    assert found == [(stays, 14_400), (gone, 0)]


def test_snippets_name_everything_that_is_needed():
    wish = AdvertiseWish(
        (TRAILING,), dns_interfaces=frozenset({"lan0"}), on_link=(IPv6Network("fd00:1::/64"),)
    )
    said = advertisement(wish, state(UNIQUE_LOCAL))
    for text in (snippet.radvd("lan0", said), snippet.networkd("lan0", said)):
        for word in (
            "lan0",
            "fec0:0:0:ffff::/96",
            "fec0:0:0:ffff::/64",
            "fd00:1::1",
            "fd00:1::/64",
        ):
            assert word in text
    assert "AdvDefaultLifetime 0" in snippet.radvd("lan0", said)
    assert "RouterLifetimeSec=0" in snippet.networkd("lan0", said)


# Times. `late` and `early` stand for the two ends of the random range.


def late(_, high):
    return high


def early(low, _):
    return low


def test_rfc4861_6_2_4_the_first_three_come_within_sixteen_seconds_each():
    schedule = Schedule(600, late)
    schedule.start(100.0)
    due = []
    for _ in range(5):
        due.append(schedule.due)
        schedule.sent(schedule.due)
    assert due == [100, 116, 132, 732, 1332]


def test_rfc4861_6_2_1_no_more_often_than_a_third_of_the_interval_and_three_seconds():
    schedule = Schedule(600, early)
    schedule.start(0.0)
    for _ in range(3):
        schedule.sent(schedule.due)
    before = schedule.due
    schedule.sent(before)
    assert schedule.due - before == 200
    hasty = Schedule(4, early)
    hasty.start(0.0)
    hasty.sent(0.0)
    assert hasty.due == 3


def test_rfc4861_6_2_6_a_solicitation_is_answered_within_half_a_second():
    schedule = Schedule(600, late)
    schedule.start(0.0)
    for _ in range(4):
        schedule.sent(0.0)
    schedule.solicited(100.0)
    assert schedule.due == 100.5
    schedule.solicited(100.2)
    assert schedule.due == 100.5


def test_rfc4861_6_2_6_the_delay_is_drawn_from_nothing_to_half_a_second():
    drawn = []

    def uniform(low, high):
        drawn.append((low, high))
        return low

    schedule = Schedule(600, uniform)
    schedule.start(0.0)
    schedule.sent(0.0)
    schedule.solicited(100.0)
    assert drawn[-1] == (0.0, 0.5)
    assert schedule.due <= 100.0


def test_rfc4861_6_2_6_a_flood_of_solicitations_gets_one_answer_in_three_seconds():
    schedule = Schedule(600, early)
    schedule.start(0.0)
    schedule.sent(0.0)
    schedule.solicited(0.1)
    assert schedule.due == 3.0


def test_a_change_is_said_at_once_but_not_within_three_seconds_of_the_last():
    schedule = Schedule(600, late)
    schedule.start(0.0)
    schedule.sent(0.0)
    schedule.start(1.0)
    assert schedule.due == 3.0
    schedule.start(50.0)
    assert schedule.due == 50.0


def test_what_is_taken_back_is_bounded_and_the_newest_is_among_it():
    said = m.RouterAdvertisement()
    for number in range(100):
        server = IPv6Address(f"fd00::{number:x}")
        said = changed(said, m.RouterAdvertisement(rdnss=(m.Rdnss((server,), 1800),)))
    now, gone = said.rdnss
    assert now.servers == (IPv6Address("fd00::63"),)
    assert gone.lifetime == 0
    assert gone.servers[0] == IPv6Address("fd00::62")
    assert len(gone.servers) == 8


@pytest.mark.parametrize(
    ("seconds", "good"), [(3.9, False), (4, True), (1800, True), (1801, False)]
)
def test_rfc4861_6_2_1_the_interval_is_from_4_to_1800_seconds(seconds, good):
    keys = {"advertise.interfaces": ["lan0"], "advertise.interval": seconds}
    if good:
        said = advertisement(wish_of(configuration.load(None, keys)), state(LINK_LOCAL))
        lasts = int(3 * seconds)
        # No default lifetime is less than the interval, nor more than its field holds.
        assert {item.lifetime for item in said.routes} == {lasts}
        assert {item.lifetime for item in said.pref64} == {lasts}
    else:
        with pytest.raises(configuration.ConfigError):
            configuration.load(None, keys)
