"""Mode siit as configured: keys, map file, what is routed, and the pool that is made of it."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Any

import pytest

from gateway import config as configuration
from gateway.config import ConfigError
from gateway.siit.mappings import make_pool, make_settings, read_mappings, routed, routed_networks
from tests.siit_bench import table
from translate.siit.addresses import Hairpin

MAPPING = "198.51.100.0/28 2001:db8:1::/124"


def load(**siit: Any) -> configuration.Config:
    keys = {key: siit.pop(key) for key in list(siit) if key in ("pool4", "icmp4_error_pool")}
    return configuration.load(None, {"mode": "siit", **keys, "siit": siit})


def faults(overrides: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        configuration.load(None, overrides)
    return caught.value.lines


# -- keys -----------------------------------------------------------------------------------


def test_defaults():
    siit = configuration.Config().siit
    assert (siit.map, siit.mappings, siit.pool) == ("", (), ())
    assert siit.hairpin == "intrinsic"
    assert siit.pool_state == "/var/lib/tap64/pool"
    assert siit.pool_keep == 14


def test_every_fault_at_once():
    lines = faults(
        {
            "mode": "siit",
            "masquerade": True,
            "static": ["tcp 192.0.0.6:80 -> [2001:db8::5]:80"],
            "port_block_size": 256,
            "pool4": ["198.51.100.0/28 tcp 1-100"],
            "backhaul": {"to": ["root@peer.example"]},
            "siit.hairpin": "sideways",
            "siit.pool_keep": 0,
        }
    )
    for key in (
        "masquerade",
        "static",
        "port_block_size",
        "pool4",
        "backhaul.to",
        "siit.hairpin",
        "siit.pool_keep",
    ):
        assert any(line.startswith(f"{key}: ") for line in lines), key


@pytest.mark.parametrize(
    ("key", "value"),
    [("masquerade", True), ("pool4", ["198.51.100.0/28 for 2001:db8::/48"])],
)
def test_what_does_not_go_with_the_mode(key, value):
    (line,) = faults({"mode": "siit", key: value})
    assert line.startswith(f"{key}: ")


def test_other_modes_do_not_mind():
    assert configuration.load(None, {"siit.mappings": [MAPPING], "masquerade": True})


@pytest.mark.parametrize(
    ("mappings", "words"),
    [
        (["198.51.100.0/28"], "an IPv4 and an IPv6 prefix"),
        (["198.51.100.0/28 2001:db8::/125"], "at most 124"),
        (["198.51.100.1/28 2001:db8::/124"], "bits behind"),
        (["300.1.1.1 2001:db8::1"], "no IPv4 prefix"),
        ([MAPPING, "198.51.100.0/28 2001:db8:2::/124"], "contradicts"),
        ([MAPPING, "203.0.113.0/28 2001:db8:1::/124"], "contradicts"),
    ],
)
def test_mappings_that_cannot_be(mappings, words):
    (line,) = faults({"mode": "siit", "siit.mappings": mappings})
    assert line.startswith("siit.mappings: ")
    assert words in line


@pytest.mark.parametrize("pool", [["10.0.0.0/15"], ["127.0.0.0/28"], ["nonsense"], 5])
def test_pools_that_cannot_be(pool):
    (line,) = faults({"mode": "siit", "siit.pool": pool})
    assert line.startswith("siit.pool: ")


def test_the_largest_pool():
    assert load(pool=["10.0.0.0/16"]).siit.pool == (IPv4Network("10.0.0.0/16"),)
    assert load(pool=["10.0.0.0/17", "10.0.128.0/17"]).siit.pool == (IPv4Network("10.0.0.0/16"),)


def test_a_pool_needs_a_place():
    (line,) = faults({"mode": "siit", "siit.pool": ["10.0.0.0/24"], "siit.pool_state": ""})
    assert line.startswith("siit.pool_state: ")


def test_nothing_is_masqueraded_and_errors_have_a_source():
    config = load(mappings=[MAPPING])
    assert not config.masquerades
    assert config.own_icmp4_source == IPv4Address("192.0.0.8").packed
    config = load(mappings=[MAPPING], icmp4_error_pool=["203.0.113.8/29"])
    assert config.own_icmp4_source == IPv4Address("203.0.113.8").packed
    assert configuration.notices(load(mappings=[MAPPING]))[1:] == []


# -- the map file ---------------------------------------------------------------------------


def test_file_and_configuration_together(tmp_path):
    path = tmp_path / "map"
    path.write_text("# comment\n2001:db8:2::1 203.0.113.1 # the other way round\n\n")
    found = read_mappings(load(map=str(path), mappings=[MAPPING]))
    assert len(found) == 2
    assert found.to_v6(IPv4Address("203.0.113.1").packed) == IPv6Address("2001:db8:2::1").packed
    path.write_text(f"{MAPPING}\n")
    with pytest.raises(ConfigError) as caught:
        read_mappings(load(map=str(path), mappings=[MAPPING]))
    (line,) = caught.value.lines
    assert line.startswith(f"siit.map: {path}:1: it contradicts ")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_mappings(load(map=str(tmp_path / "none")))
    (line,) = caught.value.lines
    assert line == f"siit.map: {tmp_path / 'none'}: No such file or directory"


# -- what is routed -------------------------------------------------------------------------


def test_the_left_sides_and_the_pool_are_routed():
    config = load(
        mappings=[MAPPING, "198.51.100.16/28 2001:db8:2::/124", "203.0.113.7 2001:db8:3::1"],
        pool=["192.0.2.0/28"],
    )
    wished = routed(config, read_mappings(config))
    assert [str(net) for net in routed_networks(wished)] == [
        "192.0.2.0/28",
        "198.51.100.0/27",
        "203.0.113.7/32",
    ]
    assert wished.pool_networks == list(routed_networks(wished))


def test_pool4_says_what_is_routed_instead():
    config = load(mappings=[MAPPING], pool=["192.0.2.0/28"], pool4=["198.51.100.0/24"])
    wished = routed(config, read_mappings(config))
    assert [str(n) for n in routed_networks(wished)] == ["192.0.2.0/28", "198.51.100.0/24"]


def test_too_many_routes():
    some = [f"10.0.{n}.0 2001:db8::{n:x}" for n in range(256)]
    config = load(mappings=some)
    assert len(routed_networks(routed(config, read_mappings(config)))) == 256
    config = load(mappings=[*some, "10.1.0.0 2001:db8::1:0"])
    with pytest.raises(ConfigError) as caught:
        routed(config, read_mappings(config))
    (line,) = caught.value.lines
    assert line.startswith("pool4: the mappings begin with 257 networks")


def test_nothing_to_translate():
    config = load()
    with pytest.raises(ConfigError):
        routed(config, read_mappings(config))
    assert routed(load(pool4=["192.0.2.0/24"]), table())


def test_settings():
    config = load(mappings=[MAPPING], hairpin="simple", pool=["192.0.2.0/28"])
    found = read_mappings(config)
    wished = routed(config, found)
    pool = make_pool(wished, found)
    settings = make_settings(wished, found, pool, icmp6_source=bytes(16))
    assert settings.hairpin is Hairpin.SIMPLE
    assert settings.pool is pool
    assert settings.routed4 == routed_networks(wished)


# -- the pool -------------------------------------------------------------------------------


def test_mapped_and_own_addresses_are_not_given_away():
    config = load(
        mappings=["192.0.2.0/30 2001:db8:1::/126", "192.0.2.6 2001:db8:2::1"],
        icmp4_error_pool=["192.0.2.4/31"],
        pool=["192.0.2.0/29"],
    )
    pool = make_pool(config, read_mappings(config))
    assert pool is not None
    assert pool.assign(b"a" * 16, 0.0) is not None
    assert pool.assign(b"b" * 16, 0.0) is None
    (only,) = pool
    assert only.addr4 == IPv4Address("192.0.2.7").packed


def test_the_gateways_own_address_is_not_given_away():
    config = configuration.load(
        None, {"mode": "siit", "siit.pool": ["192.0.2.0/31"], "icmp4_source": "192.0.2.1"}
    )
    pool = make_pool(config, table())
    assert pool is not None
    first = pool.assign(b"a" * 16, 0.0)
    assert first is not None
    assert first.addr4 == IPv4Address("192.0.2.0").packed
    assert pool.assign(b"b" * 16, 0.0) is None


def test_an_unused_address_is_kept_for_days():
    pool = make_pool(load(pool=["192.0.2.0/32"], pool_keep=2), table())
    assert pool is not None
    assert pool.assign(b"a" * 16, 0.0) is not None
    assert pool.assign(b"b" * 16, 2 * 86_400.0 - 1) is None
    assert pool.assign(b"b" * 16, 2 * 86_400.0) is not None


@pytest.mark.parametrize(
    "mapping",
    [
        ("0.0.0.0/0", "2001:db8::/96"),
        ("192.0.2.0/28", "2001:db8::/124"),
        ("192.0.0.0/8", "2001:db8::/64"),
    ],
)
def test_a_mapping_that_covers_the_whole_pool(mapping):
    config = load(pool=["192.0.2.0/29"])
    pool = make_pool(config, table(mapping))
    assert pool is not None
    assert pool.assign(b"a" * 16, 0.0) is None


def test_assignments_survive_a_change_unless_mappings_forbid():
    config = load(pool=["192.0.2.0/29"])
    hosts = [IPv6Address(f"2001:db8:7::{n}").packed for n in range(1, 5)]
    before = make_pool(config, table())
    assert before is not None
    given = [assigned.addr4 for host in hosts if (assigned := before.assign(host, 5.0))]
    lost4 = str(IPv4Address(given[0]))
    new = table((f"{lost4}/32", "2001:db8:1::1"), ("203.0.113.1/32", "2001:db8:7::2"))
    after = make_pool(config, new, before)
    assert after is not None
    assert after.find6(hosts[0]) is None
    assert after.find6(hosts[1]) is None
    for host, addr4 in list(zip(hosts, given, strict=True))[2:]:
        found = after.find6(host)
        assert found is not None
        assert (found.addr4, found.last) == (addr4, 5.0)


def test_overlapping_mappings_are_found_by_every_way():
    found = table(
        ("0.0.0.0/0", "2001:db8:9::/96"),
        ("192.0.2.0/24", "2001:db8:1::/120"),
        ("192.0.2.128/25", "2001:db8:2::/121"),
        ("192.0.2.1/32", "2001:db8:3::1"),
        ("192.0.3.1/32", "2001:db8:3::2"),
        ("198.51.100.1/32", "2001:db8:3::3"),
    )
    for network in ("192.0.2.0/24", "192.0.2.1/32", "192.0.2.128/30", "192.0.0.0/16", "1.2.3.4/32"):
        net = IPv4Network(network)
        want = {
            str(item) for item in found if IPv4Network((item.prefix4, item.length4)).overlaps(net)
        }
        assert {str(item) for item in found.overlapping4(net)} == want, network
