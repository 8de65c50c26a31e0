"""[backhaul]: shorthands, values, contradictions."""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv6Network

import pytest

from gateway.cli import parse_options
from gateway.config import Config, ConfigError, load, notices


def lines_of(overrides, text=None, tmp_path=None):
    path = None
    if text is not None:
        path = tmp_path / "gateway.toml"
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return caught.value.lines


def read(tmp_path, text, overrides=None):
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    return load(path, overrides)


@pytest.mark.parametrize(
    ("text", "to"),
    [
        ("", ()),
        ('backhaul = "root@a"', ("root@a",)),
        ('backhaul = ["root@a", "root@b"]', ("root@a", "root@b")),
        ('[backhaul]\nto = "root@a"', ("root@a",)),
        ('[backhaul]\nto = ["root@a"]', ("root@a",)),
    ],
)
def test_shorthands(tmp_path, text, to):
    assert read(tmp_path, text).backhaul.to == to


def test_flags(tmp_path):
    options = parse_options(
        ["--backhaul", "root@a", "--backhaul", "exec:nc a 1", "--set", "backhaul.mtu=9000"]
    )
    table = load(None, options.overrides).backhaul
    assert (table.to, table.mtu) == (("root@a", "exec:nc a 1"), 9000)
    # Over a shorthand in the file, too.
    table = read(tmp_path, 'backhaul = "root@z"', options.overrides).backhaul
    assert (table.to, table.mtu) == (("root@a", "exec:nc a 1"), 9000)
    (key,) = parse_options(["--backhaul-carries", "ipv6"]).overrides.items()
    assert key == ("backhaul.carries", "ipv6")


def test_the_peer_masquerades_in_the_place_of_the_host():
    config = load(None, {"backhaul": "root@a"})
    assert (config.masquerades, config.peer_masquerades) == (False, True)
    config = load(None, {"backhaul": "root@a", "pool4": "198.51.100.8/29"})
    assert (config.masquerades, config.peer_masquerades) == (False, False)
    # What a peer offers when another gateway has the default pool.
    config = load(None, {"backhaul": "root@a", "pool4": "192.0.0.5"})
    assert (config.masquerades, config.peer_masquerades) == (False, True)
    config = load(None, {"backhaul": {"to": "root@a", "masquerade": False}})
    assert (config.masquerades, config.peer_masquerades) == (False, False)
    assert Config().masquerades is True
    assert not any("nobody routes" in line for line in notices(config))


def test_addresses():
    table = load(None, {"backhaul.addresses": "169.254.9.2/30 169.254.9.1"}).backhaul
    assert table.addresses == (IPv4Interface("169.254.9.2/30"), IPv4Interface("169.254.9.1/30"))


def test_clients6():
    overrides = {"backhaul": {"to": "root@a", "carries": "ipv6", "clients6": ["2001:db8::/48"]}}
    assert load(None, overrides).backhaul.clients6 == (IPv6Network("2001:db8::/48"),)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"to": ""}, "backhaul.to: "),
        ({"to": "-oProxyCommand=x"}, "backhaul.to: "),
        ({"to": ["root@a", "root@a"]}, 'backhaul.to: "root@a" is there twice'),
        ({"to": 7}, "backhaul.to: 7 is an integer"),
        ({"mtu": 1279}, "backhaul.mtu: 1279 is out of range; at least 1280"),
        ({"mtu": 16371}, "backhaul.mtu: 16371 is out of range; at most 16370"),
        ({"ssh_options": "-p 2222"}, 'backhaul.ssh_options: "-p 2222" is a string; a list'),
        ({"ssh_options": [1]}, "backhaul.ssh_options: 1; a string"),
        ({"addresses": "169.254.9.2"}, "backhaul.addresses: "),
        ({"addresses": "169.254.9.2/30 169.254.8.1"}, "backhaul.addresses: "),
        ({"addresses": "169.254.9.2/30 169.254.9.2"}, "backhaul.addresses: "),
        ({"addresses": "169.254.9.2/32 169.254.9.2"}, "backhaul.addresses: "),
        ({"masquerade": 1}, "backhaul.masquerade: 1 is no choice"),
        ({"carries": "ip"}, "backhaul.carries: "),
        ({"user": "a b"}, 'backhaul.user: "a b" is no login name'),
        ({"probes": 1}, "backhaul.probes: unknown key; did you mean"),
        ({"heartbeat": 0.5}, "backhaul.heartbeat: "),
        ({"probe_interval": 0}, "backhaul.probe_interval: "),
    ],
)
def test_values_that_cannot_be_used(table, said):
    (line,) = lines_of({"backhaul": table})
    assert line.startswith(said), line


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"backhaul": "root@a", "masquerade": True}, "masquerade"),
        ({"backhaul": {"to": "root@a", "peer_setup": False}}, "backhaul.remote_device"),
        ({"backhaul": {"to": ["a@b", "c@d"], "control_path": "/s"}}, "backhaul.control_path"),
        ({"backhaul": {"to": "a@b", "clients6": ["2001:db8::/48"]}}, "backhaul.clients6"),
        ({"backhaul": {"to": "a@b", "carries": "ipv6"}, "device": "tun"}, "device"),
        ({"backhaul": {"to": "a@b", "addresses": "127.0.0.2/8 127.0.0.1"}}, "backhaul.addresses"),
        (
            {"backhaul": {"to": "a@b", "carries": "ipv6"}, "dns64": {"enabled": True}},
            "dns64.enabled",
        ),
        (
            {"backhaul": {"to": "a@b", "carries": "ipv6"}, "advertise": "lan0"},
            "advertise.interfaces",
        ),
    ],
)
def test_contradictions(overrides, key):
    for line in lines_of(overrides):
        assert line.startswith(f"{key}: ")
    without = {k: v for k, v in overrides.items() if k != "backhaul"}
    if without.get("masquerade") is not True:
        load(None, without)


def test_without_a_destination_nothing_else_matters():
    load(None, {"backhaul": {"peer_setup": False}, "masquerade": True})
