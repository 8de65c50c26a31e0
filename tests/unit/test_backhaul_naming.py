"""Tags and link addresses."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv4Network

import pytest

from gateway.backhaul.naming import LONGEST_TAG, link_addresses, tag_of


@pytest.mark.parametrize(
    ("host", "device"),
    [
        ("router", "tap0"),
        ("router.example.org", "tap0"),
        ("a" * 64, "nat64-long-name"),
        ("höst_1", "tap.7"),
        ("", "tap0"),
        ("...", "---"),
    ],
)
def test_a_tag_can_be_used_anywhere(host, device):
    tag = tag_of(host, "id", device)
    assert re.fullmatch(r"tap64-[A-Za-z0-9-]+", tag)
    assert len(tag) <= LONGEST_TAG
    assert tag == tag_of(host, "id", device)


def test_hosts_and_devices_have_tags_of_their_own():
    tags = {
        tag_of(host, identity, device)
        for host in ("a", "b")
        for identity in ("1", "2")
        for device in ("tap0", "tap1")
    }
    assert len(tags) == 8
    assert tag_of("router.example", "1", "tap0").startswith("tap64-router-")
    assert tag_of("router.example", "1", "tap0").endswith("-tap0")


def test_names_that_are_cut_alike_stay_apart():
    assert tag_of("a" * 40 + "1", "", "tap0") != tag_of("a" * 40 + "2", "", "tap0")


def test_both_ends_are_in_one_network():
    for number in range(300):
        local, remote = link_addresses(f"tap64-{number}", [])
        assert local.network == remote.network
        assert local.network.prefixlen == 30
        first, last = IPv4Address("169.254.1.0"), IPv4Address("169.254.254.255")
        assert first <= local.network[0] <= local.network[-1] <= last
        assert remote.ip == local.network[1]
        assert local.ip == local.network[2]


def test_it_is_the_same_each_time_and_another_for_another():
    assert link_addresses("tap64-a", []) == link_addresses("tap64-a", [])
    assert link_addresses("tap64-a", []) != link_addresses("tap64-b", [])


def test_networks_in_use_are_passed_over():
    first = link_addresses("tap64-a", [])[0].network
    second = link_addresses("tap64-a", [first])[0].network
    assert not second.overlaps(first)
    assert link_addresses("tap64-a", [IPv4Network((first[3], 32))])[0].network == second
    assert link_addresses("tap64-a", [], attempt=1)[0].network == second
    third = link_addresses("tap64-a", [first], attempt=1)[0].network
    assert third not in (first, second)


def test_none_is_left():
    with pytest.raises(ValueError, match=re.escape("backhaul.addresses")):
        link_addresses("tap64-a", [IPv4Network("169.254.0.0/16")])
