"""The keys static, port_block_size, deterministic, and pool4's `for`: what is read and refused."""

from __future__ import annotations

import logging
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest

from gateway import service as service_module
from gateway.config import ConfigError, load, notices, to_settings
from gateway.config_ports import show_static
from gateway.config_values import show_pool_range
from gateway.host.plan import HostError
from gateway.host_wish import host_spec
from tests.unit.fakes import CLIENT6
from tests.unit.test_reload import Lines, Reloading
from translate.client_ports import BlockEvent
from translate.deterministic import Subscribers
from translate.nat64 import Nat64
from translate.static_bib import StaticEntry
from translate.tcp_states import Timer

POOL = {"pool4": "198.51.100.8/29"}
WEB = "tcp 198.51.100.8:80 -> [2001:db8::5]:8080"


def faults(**overrides) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load(None, overrides)
    return error.value.lines


@pytest.mark.parametrize(
    ("text", "protocol"),
    [
        (WEB, 6),
        ("udp 198.51.100.8:80 -> [2001:db8::5]:8080", 17),
        ("icmp 198.51.100.8:80 -> [2001:db8::5]:8080", 1),
        ("  TCP  198.51.100.8:80->[2001:db8:0::5]:8080 ", 6),
    ],
)
def test_static(text, protocol):
    (entry,) = load(None, {**POOL, "static": [text]}).static
    key4 = IPv4Address("198.51.100.8").packed + b"\0\x50"
    assert entry == StaticEntry(protocol, key4, IPv6Address("2001:db8::5").packed + b"\x1f\x90")


def test_static_is_shown_as_it_is_written():
    (entry,) = load(None, {**POOL, "static": WEB}).static
    assert show_static(entry) == WEB


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "is no mapping"),
        ("tcp 198.51.100.8:80 [2001:db8::5]:8080", "is no mapping"),
        ("tcp 198.51.100.8 -> [2001:db8::5]:8080", "is no mapping"),
        ("tcp 198.51.100.8:80 -> 2001:db8::5:8080", "is no mapping"),
        ("tcp 198.51.100.8:80 -> [2001:db8::5]:8080 x", "is no mapping"),
        ("sctp 198.51.100.8:80 -> [2001:db8::5]:8080", "no protocol that is translated"),
        ("tcp 198.51.100.256:80 -> [2001:db8::5]:8080", '"198.51.100.256" is no IPv4 address'),
        ("tcp 198.51.100.8:80 -> [2001:db8::g]:8080", '"2001:db8::g" is no IPv6 address'),
        ("tcp 198.51.100.8:80 -> [fe80::1]:8080", '"fe80::1" is no IPv6 address'),
        ("tcp 198.51.100.8:80 -> [fe80::1%eth0]:8080", "is no IPv6 address"),
        ("tcp 198.51.100.8:80 -> [ff02::1]:8080", '"ff02::1" is no IPv6 address'),
        ("tcp 198.51.100.8:80 -> [::1]:8080", '"::1" is no IPv6 address'),
        ("tcp 198.51.100.8:0 -> [2001:db8::5]:8080", "0 is no port; 1 to 65535 is right"),
        ("tcp 198.51.100.8:80 -> [2001:db8::5]:0", "0 is no port; 1 to 65535 is right"),
        ("tcp 198.51.100.8:65536 -> [2001:db8::5]:1", "65536 is no port"),
        ("icmp 198.51.100.8:0 -> [2001:db8::5]:0", "0 is no port; 1 to 65535 is right"),
    ],
)
def test_static_mistakes(text, part):
    (line,) = faults(**POOL, static=[text])
    assert line.startswith("static: ")
    assert part in line


def test_identifier_may_be_zero_behind():
    load(None, {**POOL, "static": "icmp 198.51.100.8:1 -> [2001:db8::5]:0"})


def test_every_mistake_of_static_at_once():
    lines = faults(
        **POOL,
        static=[WEB, "tcp 1.2.3:0 -> [fe80::1]:70000", "nonsense", 5],
    )
    assert len(lines) == 6
    assert all(line.startswith("static: ") for line in lines)


@pytest.mark.parametrize(
    ("other", "part"),
    [
        ("tcp 198.51.100.8:80 -> [2001:db8::6]:1", "the same pool4 address and port"),
        ("tcp 198.51.100.9:81 -> [2001:db8::5]:8080", "the same IPv6 address and port"),
    ],
)
def test_static_twice(other, part):
    (line,) = faults(**POOL, static=[WEB, other])
    assert part in line
    assert WEB in line


def test_static_of_two_protocols_may_share():
    assert len(load(None, {**POOL, "static": [WEB, WEB.replace("tcp", "udp")]}).static) == 2


@pytest.mark.parametrize(
    "pool",
    [
        "198.51.100.16/29",
        "198.51.100.8/29 1024-65535",
        "198.51.100.8/29 1-79",
        "198.51.100.8/29 udp",
        "198.51.100.8 81",
    ],
)
def test_static_outside_pool4(pool):
    (line,) = faults(pool4=pool, static=WEB)
    assert line.startswith("static: ")
    assert f"pool4 has no 198.51.100.8:80 for this protocol; an address and port of {pool}" in (
        line.replace("/32", "").replace("81-81", "81")
    )


def test_static_behind_the_masquerade_is_in_the_default_pool():
    text = "tcp 192.0.0.6:80 -> [2001:db8::5]:80"
    config = load(None, {"static": [text, text.replace("tcp", "icmp")]})
    assert host_spec(config, "tap0").forwards == ["tcp 192.0.0.6:80"]
    assert any("icmp mapping" in line for line in notices(config))
    routed = load(None, {**POOL, "static": WEB})
    assert host_spec(routed, "tap0").forwards == []
    assert not any("icmp mapping" in line for line in notices(routed))


def test_one_port_of_the_host_for_two_servers():
    both = [WEB, "tcp 198.51.100.9:80 -> [2001:db8::6]:80"]
    (line,) = faults(**POOL, masquerade=True, static=both)
    assert "want the same port of this host" in line
    load(None, {**POOL, "static": both})


def test_static_to_the_ipv4_internet():
    (line,) = faults(static="tcp 192.0.0.6:80 -> [fec0:0:0:ffff::1]:80")
    assert "fec0:0:0:ffff::1 lies in fec0:0:0:ffff::/64" in line


def test_pool_for_clients():
    ranges = [
        "198.51.100.8/32 for 2001:db8:1::/48",
        "198.51.100.9/32 tcp 1024-2047 for 2001:db8:2::/48",
        "198.51.100.10/32",
    ]
    config = load(None, {"pool4": ranges})
    assert [item.clients for item in config.pool4] == [
        IPv6Network("2001:db8:1::/48"),
        IPv6Network("2001:db8:2::/48"),
        None,
    ]
    assert [show_pool_range(item) for item in config.pool4] == ranges


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("198.51.100.8 for", '"for" is no protocol'),
        ("198.51.100.8 for 2001:db8::1/48", "bits set behind"),
        ("198.51.100.8 for 10.0.0.0/8", "is not IPv6"),
        ("198.51.100.8 for 2001:db8::/48 tcp", "no protocol and no range"),
    ],
)
def test_pool_for_mistakes(text, part):
    (line,) = faults(pool4=text)
    assert part in line


def test_pool_overlaps_whoever_it_is_for():
    (line,) = faults(pool4=["198.51.100.8", "198.51.100.8/29 for 2001:db8::/32"])
    assert "overlap" in line


def test_block_size():
    assert load(None, {"port_block_size": 64512}).port_block_size == 64512
    (line,) = faults(port_block_size=64513)
    assert line.startswith("port_block_size: ")
    load(None, {"pool4": "198.51.100.8 1-1123", "port_block_size": 100})
    (line,) = faults(pool4="198.51.100.8 1-1122", port_block_size=100)
    assert "has no 100 ports from 1024 on" in line


def test_deterministic():
    config = load(None, {**POOL, "deterministic": "2001:db8::/48 by 56"})
    settings = to_settings(config, icmp6_source=bytes(16))
    assert settings.deterministic == Subscribers(IPv6Network("2001:db8::/48"), 56)
    assert load(None, {"deterministic": ""}).deterministic is None


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (True, "a boolean"),
        ("2001:db8::/48", "does not say whose ports"),
        ("2001:db8::/48 by home", "does not say whose ports"),
        ("2001:db8::1/48 by 56", "bits set behind"),
        ("2001:db8::/48 by 47", "from 48 to 80 is right"),
        ("2001:db8::/48 by 81", "from 48 to 80 is right"),
        ("2001:db8::/120 by 129", "from 120 to 128 is right"),
        ("2001:db8::/32 by 56", "are more than it has ports"),
    ],
)
def test_deterministic_mistakes(text, part):
    (line,) = faults(**POOL, deterministic=text)
    assert line.startswith("deterministic: ")
    assert part in line


@pytest.mark.parametrize(
    ("pool", "part"),
    [
        (["198.51.100.8 tcp", "198.51.100.9"], "differ in protocol or ports"),
        (["198.51.100.8 for 2001:db9::/32"], "is for named clients"),
        (["198.51.100.8 1-1000"], "are more than it has ports"),
    ],
)
def test_deterministic_needs_a_plain_pool(pool, part):
    (line,) = faults(pool4=pool, deterministic="2001:db8::/48 by 48")
    assert part in line


def test_deterministic_and_blocks():
    (line,) = faults(port_block_size=256, deterministic="2001:db8::/48 by 56")
    assert line.startswith("port_block_size: deterministic makes blocks of its own")


def test_blocks_behind_the_masquerade_are_a_notice():
    def told(config):
        return any("other ports than those of blocks" in line for line in notices(config))

    assert told(load(None, {"port_block_size": 256}))
    assert told(load(None, {"deterministic": "2001:db8::/48 by 56"}))
    assert not told(load(None, {**POOL, "port_block_size": 256}))
    assert not told(load(None))


# -- the running gateway -------------------------------------------------------------------


@pytest.fixture
def lines():
    logger = logging.getLogger("gateway")
    handler = Lines()
    before = (list(logger.handlers), logger.propagate, logger.level)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.handlers[:], logger.propagate, logger.level = before


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "gateway.toml"
    file.write_text("")
    return file


class Table:
    """Stands in for the nftables table; remembers what it was to forward."""

    applied: list[list[str]]

    def __init__(self, error: str = "") -> None:
        self.applied = []
        self._error = error

    def __call__(self, spec):
        self._forwards = spec.forwards
        return self

    def apply(self) -> None:
        if self._error:
            raise HostError(self._error)
        self.applied.append(self._forwards)


def test_reload_changes_static_and_table(path, lines, monkeypatch):
    table = Table()
    monkeypatch.setattr(service_module, "masquerade_of", table)
    rig = Reloading(path)
    rig.reload('static = ["tcp 192.0.0.6:80 -> [2001:db8::5]:8080"]')
    assert table.applied == [["tcp 192.0.0.6:80"]]
    assert rig.service._translator.state.bib_count == 1
    assert lines() == ["info: re-read: static"]
    rig.reload("mss_clamp = 1300\nstatic = ['tcp 192.0.0.6:80 -> [2001:db8::5]:8080']")
    assert len(table.applied) == 1, "not touched without need"
    rig.reload("")
    assert table.applied[1:] == [[]]
    assert rig.service._translator.state.bib_count == 0


def test_reload_says_that_the_table_stays_as_it_was(path, lines, monkeypatch):
    monkeypatch.setattr(service_module, "masquerade_of", Table("no nftables"))
    rig = Reloading(path)
    rig.reload('static = ["tcp 192.0.0.6:80 -> [2001:db8::5]:8080"]')
    assert "error: static: this host's ports are forwarded as before: no nftables" in lines()


def test_reload_refuses_a_mapping_outside_the_pool_in_use(path, lines):
    rig = Reloading(path)
    rig.reload(f'pool4 = "198.51.100.8"\nstatic = ["{WEB}"]')
    assert rig.service._translator.state.bib_count == 0
    assert any("pool4 has no 198.51.100.8:80" in line for line in lines())


def test_reload_tells_what_made_way(path, lines, monkeypatch):
    monkeypatch.setattr(service_module, "masquerade_of", Table())
    rig = Reloading(path)
    translator = rig.service._translator
    assert isinstance(translator, Nat64)
    state = translator.state
    entry = state.mapping_for(17, IPv6Address(CLIENT6).packed + b"\x9c\x40", b"")
    key6 = entry.key6[:16] + IPv6Address("fec0:0:0:ffff::c000:201").packed + b"\x9c\x40\0\x35"
    state.add_session(entry, key6, bytes((192, 0, 2, 1)), Timer.UDP_DEFAULT, 0.0)
    port = int.from_bytes(entry.key4[4:], "big")
    rig.reload(f'static = ["udp 192.0.0.6:{port} -> [2001:db8::5]:53"]')
    assert "warning: static: mappings of clients that were ended to make way: 1" in lines()


def test_block_is_one_line_in_the_log(lines):
    event = BlockEvent(
        IPv6Address("2001:db8::5").packed, bytes((198, 51, 100, 8)), 6, 1024, 1279, True
    )
    service_module._log_block(event)
    service_module._log_block(replace(event, assigned=False))
    assert lines() == [
        "info: block: 2001:db8::5 -> 198.51.100.8 tcp 1024-1279 assigned",
        "info: block: 2001:db8::5 -> 198.51.100.8 tcp 1024-1279 released",
    ]
