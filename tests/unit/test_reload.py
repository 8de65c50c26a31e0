"""SIGHUP: what a running gateway takes over, what it names, and that faults change nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Address
from operator import attrgetter
from pathlib import Path
from typing import Any, cast

import pytest

from gateway import config as configuration
from gateway import log
from gateway.options import Options
from gateway.route_query import RouteQuery
from gateway.service import Service
from gateway.tap import Device
from tests.unit.fakes import (
    CLIENT6,
    CLIENT_MAC,
    GATEWAY_MAC,
    HOST_MAC,
    NoRoutes,
    mac,
    udp6,
)
from translate.nat64 import Nat64
from translate.packets import Packet
from translate.settings import Filtering, Settings

# Its route is unknown, so `allow` alone can make it a client.
STRANGER6 = IPv6Address("2001:db8::1").packed

FIXED = {
    "prefix": '"64:ff9b:1::/48"',
    "layout": '"rfc6052"',
    "pool4": '["198.51.100.8/29"]',
    "masquerade": "false",
    "device": '"tun"',
    "tap": '"tap7"',
    "mtu": "9000",
    "offload": "false",
    "icmp6_source": '"fd00::1"',
    "icmp4_source": '"198.51.100.1"',
    "run_dir": '"/run/other"',
    "port_block_size": "256",
    "deterministic": '"2001:db8::/56 by 64"',
    "siit.pool": '["198.51.100.0/28"]',
    "siit.pool_state": '"/var/lib/other"',
    "mode": '"siit"',
    "clat.prefix_from": '"dns"',
    "clat.resolvers": '["2001:db8::53"]',
    "clat.uplink": '"wan0"',
    "clat.address": '"2001:db8::9"',
    "clat.metric": "50",
    "clat.lan": '["lan0"]',
    "clat.hosts": '["192.168.1.5"]\nclat.lan = ["lan0"]',
    "backhaul.addresses": '"169.254.9.2/30 169.254.9.1"',
    "backhaul.carries": '"ipv6"',
    "backhaul.clients6": '["2001:db8::/48"]',
    "backhaul.control_path": '"/run/ssh"',
    "backhaul.masquerade": "false",
    "backhaul.mtu": "9000",
    "backhaul.peer_setup": "false",
    "backhaul.remote_device": "7",
    "backhaul.user": '"nobody"',
    "dns64.enabled": "true",
    "dns64.listen": '["lan0"]',
    "dns64.upstreams": '["192.0.2.53"]',
    "dns64.prefixes": '"all"',
    "dns64.clients": '["2001:db8::/32"]',
    "dns64.mapped": '["192.0.2.0/24"]',
    "dns64.exclude": "[]",
    "dns64.exclude4": '["10.0.0.0/8"]',
    "dns64.synthall": "true",
    "dns64.ignore_aaaa": '["example.com"]',
    "dns64.break_dnssec": "false",
    "dns64.reverse": '"off"',
    "dns64.query_timeout": "3",
    "dns64.pause": "3",
    "dns64.max_ttl": "3",
    "dns64.max_negative_ttl": "3",
    "dns64.serve_stale": "3",
    "dns64.use_0x20": "true",
    "dns64.trust_ad": "true",
    "dns64.tls_ca_file": '"/etc/ca.pem"',
    "dns64.cache_entries": "3",
    "dns64.cache_bytes": "65536",
    "dns64.queries": "3",
    "dns64.queries_per_client": "3",
    "dns64.queries_per_second": "3",
    "dns64.tcp_connections": "3",
    "dns64.tcp_per_client": "3",
}


class Reloading:
    """A service as it is while packets flow, without device and host, and its file."""

    def __init__(self, path: Path, overrides: dict[str, Any] | None = None) -> None:
        self._path = path
        options = Options(config_path=path, overrides=overrides or {})
        self.service = Service(configuration.load(path, options.overrides), options)
        service = self.service
        service._device = Device(-1, "tap0", "tap", True, frozenset({"csum"}), True, False)
        source = service._config.own_icmp6_source
        assert source is not None
        service._icmp6_source = source
        self.routes = cast(RouteQuery, NoRoutes())
        service._clients = service._make_clients(self.routes, "tap0")
        service._make_data_plane(mac(HOST_MAC), mac(GATEWAY_MAC))

    def reload(self, text: str) -> None:
        self._path.write_text(text)
        self.service._reload(self.routes, "tap0")

    @property
    def settings(self) -> Settings:
        return self.service._translator.settings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "gateway.toml"
    file.write_text("")
    return file


class Lines(logging.Handler):
    """The log; calling it gives what came since the last call."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(f"{record.levelname.lower()}: {record.getMessage()}")

    def __call__(self) -> list[str]:
        lines, self._lines = self._lines, []
        return lines


@pytest.fixture
def lines() -> Iterator[Lines]:
    logger = logging.getLogger(log.LOGGER)
    level, propagate = logger.level, logger.propagate
    handler = Lines()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(level)
    logger.propagate = propagate
    for other in list(logger.handlers):
        if other is handler or isinstance(other.formatter, log.LineFormatter):
            logger.removeHandler(other)


@pytest.mark.parametrize(
    ("text", "key", "read", "value"),
    [
        ("filtering = 'address-dependent'", "filtering", "filtering", Filtering.ADDRESS_DEPENDENT),
        ("mss_clamp = 1200", "mss_clamp", "mss_clamp", 1200),
        ("mss_clamp = 'off'", "mss_clamp", "mss_clamp", 0),
        ("wkp_strict = false", "wkp_strict", "wkp_strict", False),
        ("lowest_ipv6_mtu = 1400", "lowest_ipv6_mtu", "lowest_ipv6_mtu", 1400),
        (
            "icmp4_error_pool = '192.0.2.0/28'",
            "icmp4_error_pool",
            "icmp4_error_pool",
            (IPv4Network("192.0.2.0/28"),),
        ),
    ],
)
def test_settings_are_taken_over(path, lines, text, key, read, value):
    rig = Reloading(path)
    assert getattr(rig.settings, read) != value
    rig.reload(text)
    assert getattr(rig.settings, read) == value
    assert lines() == [f"info: re-read: {key}"]


def test_tables_are_taken_over(path, lines):
    rig = Reloading(path)
    rig.reload("[timeouts]\nudp_default = 123.0\n[limits]\nsessions = 7\nstored_syns = 3")
    assert (rig.settings.timeouts.udp_default, rig.settings.timeouts.tcp_est) == (123.0, 7440.0)
    assert (rig.settings.limits.sessions, rig.settings.limits.stored_syns) == (7, 3)
    assert rig.settings.limits.bib == 500_000
    (line,) = lines()
    assert line.startswith("info: re-read: ")
    assert set(line.partition("re-read: ")[2].split(", ")) == {
        "timeouts.udp_default",
        "limits.sessions",
        "limits.stored_syns",
    }


def test_deny4_is_taken_over(path, lines):
    rig = Reloading(path)
    translate = rig.service._translator.translate
    assert _is_ipv4(translate(Packet(bytes(udp6())), 0.0))
    rig.reload("deny4 = ['192.0.2.0/24']")
    assert not _is_ipv4(translate(Packet(bytes(udp6(sport=2000))), 1.0))


def _is_ipv4(packets: list[Packet]) -> bool:
    return [packet.data[0] >> 4 for packet in packets] == [4]


def test_allow_is_taken_over(path, lines):
    rig = Reloading(path)
    assert not rig.service._admit(STRANGER6)
    assert rig.service._admit(IPv6Address(CLIENT6).packed)
    rig.reload("allow = ['2001:db8::/32']")
    assert rig.service._admit(STRANGER6)
    assert not rig.service._admit(IPv6Address(CLIENT6).packed)
    assert lines() == ["info: re-read: allow"]


def test_log_level_is_taken_over(path, lines):
    rig = Reloading(path)
    rig.reload("log_level = 'error'")
    assert logging.getLogger(log.LOGGER).level == logging.ERROR
    rig.reload("log_level = 'debug'")
    assert logging.getLogger(log.LOGGER).level == logging.DEBUG
    assert lines() == ["info: re-read: log_level"]  # the first one fell silent


def test_the_fast_path_is_told(path, lines):
    rig = Reloading(path)
    before = rig.service._plane._fast
    rig.reload("lowest_ipv6_mtu = 1400")
    assert rig.service._plane._fast is not before


def test_sessions_stay(path, lines):
    rig = Reloading(path)
    translator = rig.service._translator
    assert isinstance(translator, Nat64)
    translator.translate(Packet(bytes(udp6()), link=mac(CLIENT_MAC)), 0.0)
    (session,) = translator.state.sessions()
    rig.reload("deny4 = ['198.51.100.0/24']\nmss_clamp = 1300")
    assert rig.service._translator is translator
    assert list(translator.state.sessions()) == [session]


@pytest.mark.parametrize("key", FIXED)
def test_fixed_keys_are_named_and_kept(path, lines, key):
    rig = Reloading(path)
    settings = rig.settings
    text = f"{key} = {FIXED[key]}\n"
    if key == "masquerade":
        text += 'pool4 = ["198.51.100.8/29"]\n'
    rig.reload(text)
    value = attrgetter(key)
    assert value(rig.service._config) == value(configuration.Config())
    assert rig.settings == settings
    said = lines()
    warning = f"warning: {key} cannot change while the gateway runs: restart it for that"
    assert warning in said
    assert said[-1] == "info: re-read: nothing has changed"


BACKHAUL = 'backhaul = {{ to = ["root@a"], probe_interval = {} , mtu = {} }}'


def test_a_part_of_a_table_is_taken_over(path, lines):
    path.write_text(BACKHAUL.format(1.0, 1500))
    rig = Reloading(path)
    rig.reload(BACKHAUL.format(2.0, 9000))
    table = rig.service._config.backhaul
    assert (table.probe_interval, table.mtu, table.to) == (2.0, 1500, ("root@a",))
    assert lines() == [
        "warning: backhaul.mtu cannot change while the gateway runs: restart it for that",
        "info: re-read: backhaul.probe_interval",
    ]


@pytest.mark.parametrize(("before", "after"), [("", "root@a"), ("root@a", "")])
def test_a_backhaul_cannot_come_or_go(path, lines, before, after):
    texts = [f"backhaul = '{to}'" if to else "" for to in (before, after)]
    path.write_text(texts[0])
    rig = Reloading(path)
    rig.reload(texts[1])
    assert rig.service._config.backhaul.to == ((before,) if before else ())
    assert "warning: backhaul.to cannot change while the gateway runs: restart it for that" in (
        lines()
    )


def test_another_destination_is_taken_over(path, lines):
    path.write_text("backhaul = 'root@a'")
    rig = Reloading(path)
    rig.reload("backhaul = ['root@b', 'root@a']")
    assert rig.service._config.backhaul.to == ("root@b", "root@a")
    assert lines() == ["info: re-read: backhaul.to"]


def test_every_key_is_either_reloadable_or_fixed():
    assert {key for key in configuration.all_keys() if key not in configuration.RELOADABLE} == set(
        FIXED
    )


def test_fixed_and_other_keys_at_once(path, lines):
    rig = Reloading(path)
    rig.reload("mtu = 9000\nmss_clamp = 1300\ntap = 'tap7'")
    assert (rig.settings.mtu, rig.settings.mss_clamp) == (1500, 1300)
    assert lines() == [
        "warning: tap cannot change while the gateway runs: restart it for that",
        "warning: mtu cannot change while the gateway runs: restart it for that",
        "info: re-read: mss_clamp",
    ]


def test_fixed_keys_are_named_again_each_time(path, lines):
    rig = Reloading(path)
    rig.reload("mtu = 9000")
    lines()
    rig.reload("mtu = 9000")
    assert len(lines()) == 2


def test_a_mixture_that_contradicts_itself_is_not_taken_over(path, lines):
    # The file is right by itself, but the device keeps its MTU.
    rig = Reloading(path)
    settings = rig.settings
    rig.reload("mtu = 9000\nlowest_ipv6_mtu = 5000\nmss_clamp = 1300")
    assert rig.settings.lowest_ipv6_mtu <= rig.settings.mtu == 1500
    assert rig.settings is settings
    said = lines()
    assert any(line.startswith("error: lowest_ipv6_mtu: ") for line in said)
    assert said[-1].startswith("error: ")
    assert "nothing has changed" in said[-1]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("mss_clamp = 1300\nmtu = ", "gateway.toml"),
        ("mss_clamp = 1300\nmms_clamp = 1", "mms_clamp"),
        ("mss_clamp = 1300\ndeny4 = ['192.0.2.1/24']", "deny4"),
        ("mss_clamp = 1300\nlowest_ipv6_mtu = 2000", "lowest_ipv6_mtu"),
    ],
)
def test_a_broken_file_changes_nothing(path, lines, text, fault):
    rig = Reloading(path)
    config, settings, clients = rig.service._config, rig.settings, rig.service._clients
    rig.reload(text)
    assert rig.service._config is config
    assert rig.settings is settings
    assert rig.service._clients is clients
    *faults, last = lines()
    assert last == ("error: the configuration was not re-read: nothing has changed")
    assert len(faults) == 1
    assert faults[0].startswith("error: ")
    assert fault in faults[0]


def test_a_missing_file_changes_nothing(path, lines):
    rig = Reloading(path)
    settings = rig.settings
    path.unlink()
    rig.service._reload(rig.routes, "tap0")
    assert rig.settings is settings
    assert "nothing has changed" in lines()[-1]


def test_after_a_broken_file_a_whole_one_is_taken(path, lines):
    rig = Reloading(path)
    rig.reload("mss_clamp = ")
    rig.reload("mss_clamp = 1300")
    assert rig.settings.mss_clamp == 1300


def test_nothing_has_changed(path, lines):
    rig = Reloading(path)
    settings = rig.settings
    rig.reload("mtu = 1500  # the default\n")
    assert rig.settings == settings
    assert lines() == ["info: re-read: nothing has changed"]


def test_flags_stay_above_the_file(path, lines):
    rig = Reloading(path, {"mss_clamp": 1300})
    rig.reload("mss_clamp = 1200\nwkp_strict = false")
    assert (rig.settings.mss_clamp, rig.settings.wkp_strict) == (1300, False)
    assert lines() == ["info: re-read: wkp_strict"]


def test_keys_that_are_taken_out_of_the_file_fall_back(path, lines):
    path.write_text("mss_clamp = 1200")
    rig = Reloading(path)
    assert rig.settings.mss_clamp == 1200
    rig.reload("")
    assert rig.settings.mss_clamp is None
