"""The keys of [clat], and what does not go with mode = "clat"."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest

from gateway.clat.service import given_prefix, wish_of
from gateway.config import ConfigError, load, notices


def clat(**keys):
    return load(None, {"mode": "clat", **{key.replace("__", "."): v for key, v in keys.items()}})


def fault(**keys):
    with pytest.raises(ConfigError) as caught:
        clat(**keys)
    return str(caught.value)


def test_the_defaults_are_a_clat_of_the_host_alone():
    config = clat()
    assert config.clat.prefix_from == "auto"
    assert config.clat.metric == 2048
    assert config.clat.lan == config.clat.hosts == config.clat.resolvers == ()
    assert config.clat.address is None
    assert given_prefix(config) is None
    assert notices(config) == []


def test_a_prefix_of_ones_own_is_given():
    assert given_prefix(clat(prefix="64:ff9b::/96")) == IPv6Network("64:ff9b::/96")


def test_the_default_prefix_is_given_only_when_told_so():
    config = clat(clat__prefix_from="config")
    assert given_prefix(config) == IPv6Network("fec0:0:0:ffff::/64")


def test_all_keys():
    config = clat(
        clat__prefix_from="dns",
        clat__resolvers=["2001:db8::53", "::1@5353"],
        clat__uplink="wan0",
        clat__address="2001:db8::9",
        clat__metric=50,
        clat__lan=["lan0", "lan1", "lan0"],
        clat__hosts=["192.168.1.5"],
    )
    assert config.clat.lan == ("lan0", "lan1")
    assert config.clat.hosts == (IPv4Address("192.168.1.5"),)
    assert config.clat.address == IPv6Address("2001:db8::9")


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("clat.prefix_from", "dhcp", "auto"),
        ("clat.resolvers", ["tls://2001:db8::53"], "without TLS"),
        ("clat.resolvers", ["ns.example"], "no upstream"),
        ("clat.address", "fe80::1", "no global"),
        ("clat.address", "ff02::1", "no global"),
        ("clat.address", 5, "no global"),
        ("clat.metric", 0, "at least 1"),
        ("clat.lan", [""], "no interface"),
        ("clat.lan", ["a/b"], "no name"),
        ("clat.hosts", ["192.168.1.0/24"], "no IPv4 address"),
        ("clat.hosts", ["224.0.0.1"], "cannot be"),
        ("clat.hosts", ["192.0.0.1"], "cannot be"),
        ("clat.hosts", ["10.0.0.1", "10.0.0.1"], "twice"),
        ("clat.hosts", [f"10.0.0.{n}" for n in range(1, 66)], "at most 64"),
        ("prefix", ["64:ff9b::/96", "2001:db8::/96"], "one"),
        ("pool4", "198.51.100.1/32", "without it"),
        ("backhaul.to", ["root@peer.example"], "does not go"),
        ("dns64.enabled", True, "does not go"),
        ("advertise.interfaces", ["lan0"], "does not go"),
        ("masquerade", True, "clat.lan"),
    ],
)
def test_faults_are_told_by_key(key, value, text):
    told = fault(**{"clat__lan": ["lan9"], key: value} if key == "clat.hosts" else {key: value})
    assert any(line.startswith(key) and text in line for line in told.splitlines()), told


def test_hosts_need_their_interface():
    assert "clat.hosts" in fault(clat__hosts=["192.168.1.5"])


def test_as_many_hosts_as_allowed():
    hosts = [f"10.0.0.{n}" for n in range(1, 65)]
    assert len(clat(clat__lan=["lan0"], clat__hosts=hosts).clat.hosts) == 64


def test_the_uplink_is_no_lan():
    assert "clat.lan" in fault(clat__uplink="eth0", clat__lan=["eth0"])


def test_what_is_asked_of_the_host_all_the_time_is_the_device_alone():
    spec = wish_of(clat(prefix="64:ff9b::/96"), "tap0")
    assert (spec.prefixes, spec.pool4, spec.masquerade, spec.forwarding) == ([], [], False, False)
