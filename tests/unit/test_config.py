"""The configuration: defaults, the shipped file, and what is said about each mistake."""

from __future__ import annotations

import re
import tomllib
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest

from gateway.config import (
    RELOADABLE,
    Config,
    ConfigError,
    all_keys,
    changed_keys,
    load,
    notices,
    to_settings,
)
from translate.addresses import Layout
from translate.pool4 import PoolRange
from translate.settings import Filtering, Limits, Timeouts, ZeroChecksum

SHIPPED = Path(__file__).parents[2] / "conf" / "gateway.toml"
SOURCE6 = bytes(range(16))


def lines_of(overrides, path=None):
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    assert str(caught.value) == "\n".join(caught.value.lines)
    return caught.value.lines


def line_of(overrides, path=None):
    (line,) = lines_of(overrides, path)
    return line


def flat(table, above=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key}.")
        else:
            yield above + key, value


# -- defaults and the shipped file ---------------------------------------------------------


def test_shipped_file_has_every_key_in_the_order_of_the_code():
    shipped = dict(flat(tomllib.loads(SHIPPED.read_text("utf-8"))))
    assert list(shipped) == all_keys()


def test_shipped_file_has_the_defaults_of_the_code():
    assert load(SHIPPED) == Config()


@pytest.mark.parametrize("key", all_keys())
def test_shipped_file_explains_each_key(key):
    """By a comment above it or, in a table, beside it."""
    text = SHIPPED.read_text("utf-8")
    table, _, name = key.rpartition(".")
    start = text.index(f"\n[{table}]\n") + 1 if table else 0
    lines = re.split(r"\n\[", text[start + 1 :])[0].splitlines()
    (at,) = (i for i, line in enumerate(lines) if re.match(rf"{name} =", line))
    assert lines[at - 1].startswith("# ") or " # " in lines[at]


def test_shipped_file_marks_what_can_be_reloaded():
    text = SHIPPED.read_text("utf-8")
    table = ""
    for block in text.partition("\n\n")[2].split("\n\n"):
        # A table whose keys differ marks each of them; else the comment is above its head.
        comment = " ".join(x.strip("# ") for x in block.splitlines() if x.startswith("#"))
        body = "\n".join(x for x in block.splitlines() if not x.startswith("#"))
        marked = "(reload)" in comment
        head = re.match(r"\[(.+)\]$", body, re.MULTILINE)
        table = f"{head[1]}." if head else table
        for key, _ in flat(tomllib.loads(body.partition("]\n")[2] if head else body)):
            assert (table + key in RELOADABLE) == marked, table + key


def test_defaults_are_those_of_the_translator():
    settings = to_settings(Config(), icmp6_source=SOURCE6)
    assert settings.timeouts == Timeouts()
    assert settings.limits == Limits()
    assert settings.mtu == 1500
    assert settings.lowest_ipv6_mtu == 1280
    assert settings.mss_clamp is None
    assert settings.filtering is Filtering.ENDPOINT_INDEPENDENT
    assert settings.wkp_strict is True
    assert settings.deny4 == ()


def test_no_file_and_no_overrides_is_the_default():
    assert load(None) == Config()
    assert load(None, {}).prefix == (IPv6Network("fec0:0:0:ffff::/64"),)


# -- what follows from the keys ------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "layout", "expected"),
    [
        ("2001:db8::/64", "auto", Layout.TRAILING),
        ("64:ff9b::/96", "auto", Layout.RFC6052),
        ("2001:db8::/32", "auto", Layout.RFC6052),
        ("2001:db8::/64", "rfc6052", Layout.RFC6052),
        ("2001:db8::/32", "trailing", Layout.TRAILING),
    ],
)
def test_layout(prefix, layout, expected):
    (prefix6,) = load(None, {"prefix": prefix, "layout": layout}).prefixes6
    assert (prefix6.network, prefix6.layout) == (IPv6Network(prefix), expected)


def test_empty_pool4_is_one_private_address_masqueraded():
    config = Config()
    assert config.pool_ranges == (PoolRange(IPv4Network("192.0.0.6/32")),)
    assert config.pool_networks == [IPv4Network("192.0.0.6/32")]
    assert config.masquerades is True
    assert config.own_icmp4_source == IPv4Address("192.0.0.6").packed


@pytest.mark.parametrize(
    ("pool4", "masquerade", "expected"),
    [
        ([], "auto", True),
        ([], False, False),
        (["198.51.100.8/29"], "auto", False),
        (["198.51.100.8/29"], True, True),
        # Nobody routes RFC 7335's addresses, whoever names one, a second gateway for instance.
        (["192.0.0.5"], "auto", True),
        (["192.0.0.0/30", "192.0.0.6 tcp"], "auto", True),
        (["192.0.0.4/30", "198.51.100.8/29"], "auto", False),
        (["192.0.0.5"], False, False),
        (["192.0.0.16/29"], "auto", False),
    ],
)
def test_masquerade(pool4, masquerade, expected):
    assert load(None, {"pool4": pool4, "masquerade": masquerade}).masquerades is expected


def test_pool4_items():
    config = load(
        None,
        {
            "pool4": [
                "198.51.100.8/29",
                "198.51.100.16/29 1024-65535",
                "198.51.100.24 tcp 443",
                "198.51.100.24 UDP",
                "198.51.100.24 icmp 1-9",
            ]
        },
    )
    everything = frozenset({1, 6, 17})
    assert config.pool_ranges == (
        PoolRange(IPv4Network("198.51.100.8/29"), everything, 1, 65535),
        PoolRange(IPv4Network("198.51.100.16/29"), everything, 1024, 65535),
        PoolRange(IPv4Network("198.51.100.24/32"), frozenset({6}), 443, 443),
        PoolRange(IPv4Network("198.51.100.24/32"), frozenset({17}), 1, 65535),
        PoolRange(IPv4Network("198.51.100.24/32"), frozenset({1}), 1, 9),
    )
    assert config.pool_networks == [
        IPv4Network("198.51.100.8/29"),
        IPv4Network("198.51.100.16/29"),
        IPv4Network("198.51.100.24/32"),
    ]
    assert config.own_icmp4_source == IPv4Address("198.51.100.8").packed


def test_pool_networks_are_merged():
    config = load(None, {"pool4": ["192.0.2.0/25", "192.0.2.128/25", "198.51.100.1 tcp"]})
    assert config.pool_networks == [IPv4Network("192.0.2.0/24"), IPv4Network("198.51.100.1/32")]


@pytest.mark.parametrize(
    "second",
    ["198.51.100.8/29 udp 1-99", "198.51.100.8/29 tcp 100-200", "198.51.100.16/29 tcp 1-99"],
)
def test_pool4_items_that_only_touch_do_not_overlap(second):
    assert len(load(None, {"pool4": ["198.51.100.8/29 tcp 1-99", second]}).pool4) == 2


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, IPv6Address("fec0:0:0:ffff::c000:8").packed),
        ({"layout": "rfc6052"}, IPv6Address("fec0:0:0:ffff:c0:0:800:0").packed),
        ({"prefix": "2001:db8::/96"}, IPv6Address("2001:db8::c000:8").packed),
        ({"prefix": ["64:ff9b::/96", "2001:db8::/96"]}, None),
        (
            {"prefix": "64:ff9b::/96", "icmp6_source": "2001:db8::1"},
            b"\x20\x01\x0d\xb8" + b"\0" * 11 + b"\1",
        ),
    ],
)
def test_own_icmp6_source(overrides, expected):
    assert load(None, overrides).own_icmp6_source == expected


def test_settings_carry_every_key():
    config = load(
        None,
        {
            "prefix": "2001:db8::/32",
            "pool4": "198.51.100.8/29 tcp 1024-2047",
            "icmp4_source": "198.51.100.1",
            "icmp4_error_pool": ["198.51.100.16/28", "203.0.113.7"],
            "deny4": ["10.0.0.0/8"],
            "wkp_strict": False,
            "filtering": "address-dependent",
            "mtu": 1400,
            "lowest_ipv6_mtu": 1300,
            "mss_clamp": 1200,
            "timeouts.udp_default": 1,
            "timeouts.tcp_est": 2,
            "timeouts.tcp_trans": 3,
            "timeouts.tcp_incoming_syn": 4,
            "timeouts.icmp_default": 5.5,
            "limits.sessions": 6,
            "limits.sessions_per_client": 7,
            "limits.bib": 8,
            "limits.clients": 9,
            "limits.stored_syns": 0,
            "timeouts.fragment_min": 2.5,
            "limits.fragments": 13,
            "limits.fragments_per_client": 14,
            "limits.fragment_bytes": 65536,
            "udp_zero_checksum": "reject",
            "tos": 0,
            "traffic_class": 184,
            "limits.icmp_errors_per_second": 0.5,
            "limits.icmp_errors_burst": 12,
            "limits.bib_per_client": 13,
            "static": "tcp 198.51.100.8:1024 -> [2001:db9::5]:80",
            "port_block_size": 128,
            "port_blocks_per_client": 3,
        },
    )
    settings = to_settings(config, icmp6_source=SOURCE6)
    assert settings.prefixes == config.prefixes6
    assert settings.pool4 == (
        PoolRange(IPv4Network("198.51.100.8/29"), frozenset({6}), 1024, 2047),
    )
    assert settings.icmp6_source == SOURCE6
    assert settings.icmp4_source == IPv4Address("198.51.100.1").packed
    assert settings.icmp4_error_pool == (
        IPv4Network("198.51.100.16/28"),
        IPv4Network("203.0.113.7/32"),
    )
    assert settings.deny4 == (IPv4Network("10.0.0.0/8"),)
    assert settings.wkp_strict is False
    assert settings.filtering is Filtering.ADDRESS_DEPENDENT
    assert (settings.mtu, settings.lowest_ipv6_mtu, settings.mss_clamp) == (1400, 1300, 1200)
    assert settings.timeouts == Timeouts(1, 2, 3, 4, 5.5, 2.5)
    assert settings.limits == Limits(
        sessions=6,
        sessions_per_client=7,
        bib=8,
        bib_per_client=13,
        clients=9,
        stored_syns=0,
        icmp_errors_per_second=0.5,
        icmp_errors_burst=12,
        fragments=13,
        fragments_per_client=14,
        fragment_bytes=65536,
    )
    assert settings.udp_zero_checksum is ZeroChecksum.REJECT
    assert (settings.tos, settings.traffic_class) == (0, 184)
    assert settings.static == config.static != ()
    assert (settings.port_block_size, settings.port_blocks_per_client) == (128, 3)


@pytest.mark.parametrize(("value", "expected"), [("auto", None), ("off", 0), (1220, 1220)])
def test_mss_clamp_in_settings(value, expected):
    settings = to_settings(load(None, {"mss_clamp": value}), icmp6_source=SOURCE6)
    assert settings.mss_clamp == expected


# -- file and overrides --------------------------------------------------------------------


def write(tmp_path, text):
    path = tmp_path / "gateway.toml"
    path.write_text(text, "utf-8")
    return path


def test_overrides_replace_single_keys(tmp_path):
    path = write(tmp_path, "mtu = 1400\nallow = ['2001:db8::/32']\n[timeouts]\nudp_default = 9\n")
    overrides = {"mtu": 1300, "timeouts.tcp_est": 10, "limits.bib": 3}
    config = load(path, overrides)
    assert config.mtu == 1300
    assert config.allow == (IPv6Network("2001:db8::/32"),)
    assert (config.timeouts.udp_default, config.timeouts.tcp_est) == (9, 10)
    assert config.limits.bib == 3
    assert overrides == {"mtu": 1300, "timeouts.tcp_est": 10, "limits.bib": 3}


def test_override_mends_a_mistake_of_the_file(tmp_path):
    assert load(write(tmp_path, "mtu = 'big'"), {"mtu": 1400}).mtu == 1400


def test_override_below_a_plain_value_of_the_file(tmp_path):
    path = write(tmp_path, "timeouts = 5")
    assert line_of({"timeouts.udp_default": 9}, path) == (
        "timeouts: 5 is an integer; a table is right"
    )


def test_missing_file(tmp_path):
    path = tmp_path / "none.toml"
    assert line_of({}, path) == (
        f"{path}: there is no such file; --config takes the path of a TOML file"
    )


def test_directory_instead_of_file(tmp_path):
    assert line_of({}, tmp_path) == (
        f"{tmp_path}: cannot be read: Is a directory; a readable TOML file is right"
    )


def test_file_that_is_not_utf8(tmp_path):
    path = tmp_path / "gateway.toml"
    path.write_bytes(b"tap = '\xff'")
    assert line_of({}, path).startswith(f"{path}: byte 7 is not UTF-8; ")


def test_toml_syntax_error_names_the_line(tmp_path):
    path = write(tmp_path, "mtu = 1500\ntap = tap0\n")
    assert re.fullmatch(
        re.escape(f"{path}: line 2, column 7: ") + r"[^;]+; KEY = VALUE is right, .*",
        line_of({}, path),
    )


def test_toml_syntax_error_does_not_hide_mistakes_of_flags_nor_invents_any(tmp_path):
    path = write(tmp_path, "mtu = \n")
    # lowest_ipv6_mtu may be right with the mtu that could not be read.
    lines = lines_of({"lowest_ipv6_mtu": 1600, "layout": "x"}, path)
    assert len(lines) == 2
    assert lines[0].startswith(f"{path}: line 1")
    assert lines[1].startswith('layout: "x" is no choice; ')


# -- mistakes ------------------------------------------------------------------------------

LENGTHS = "/32, /40, /48, /56, /64, /96"
MISTAKES = [
    # prefix
    ("prefix", "2001:db8::1/64", "2001:db8::/64 has none"),
    ("prefix", "2001:db8::/63", f"lengths of RFC 6052 are right: {LENGTHS}"),
    ("prefix", "2001:db8::", f"has no length; allowed are {LENGTHS}"),
    ("prefix", "2001:db8::/", "has no valid length; a number from 0 to 128 is"),
    ("prefix", "2001:db8::/129", "has no valid length; a number from 0 to 128 is"),
    ("prefix", "2001:db8::/+64", "has no valid length; a number from 0 to 128 is"),
    ("prefix", "fe80::%eth0/64", "is no IPv6 prefix; write ADDRESS/LENGTH"),
    ("prefix", "192.0.2.0/24", "is not IPv6; write ADDRESS/LENGTH"),
    ("prefix", "", "is no IPv6 prefix; write ADDRESS/LENGTH"),
    ("prefix", [], "the list is empty; give at least one"),
    ("prefix", 64, "64 is an integer; give an IPv6 prefix as a string, or a list"),
    ("prefix", {"a": 1}, "is a table; give an IPv6 prefix as a string, or a list"),
    ("prefix", [64], "64 is an integer; give a string"),
    ("prefix", "::/96", "overlaps ::/96, the unspecified"),
    ("prefix", "::/32", "overlaps ::/96, the unspecified"),
    ("prefix", "::ffff:0:0/96", "overlaps ::ffff:0:0/96, the IPv4-mapped"),
    ("prefix", "fe80::/64", "overlaps fe80::/10, the link-local"),
    ("prefix", "ff0e::/32", "overlaps ff00::/8, the multicast"),
    ("prefix", "2001:db8:0:0:100::/96", "bits 64 to 71; RFC 6052 §2.2 wants them to be zero"),
    ("prefix", ["2001:db8::/32", "2001:db8:1::/48"], "overlap; each address"),
    ("prefix", ["64:ff9b::/96", "64:ff9b::/96"], "overlap; each address"),
    # pool4
    ("pool4", "198.51.100.9/29", "198.51.100.8/29 has none"),
    ("pool4", "198.51.100.8/33", "a number from 0 to 32 is"),
    ("pool4", "198.51.100.8/255.255.255.248", "a number from 0 to 32 is"),
    ("pool4", "2001:db8::/96", "is not IPv4"),
    ("pool4", " ", "is no range; e.g. "),
    ("pool4", "tcp 1-2", '"tcp" is no IPv4 prefix'),
    ("pool4", "198.51.100.8/29 sctp", "tcp, udp or icmp, then FIRST-LAST is right"),
    ("pool4", "198.51.100.8/29 tcp 9-8", "from 1 to 65535 and not descending"),
    ("pool4", "198.51.100.8/29 0-8", "from 1 to 65535 and not descending"),
    ("pool4", "198.51.100.8/29 1-65536", "from 1 to 65535 and not descending"),
    ("pool4", "198.51.100.8/29 1-", "tcp, udp or icmp, then FIRST-LAST is right"),
    ("pool4", "198.51.100.8/29 1-2 tcp", 'has "tcp" at its end'),
    ("pool4", "127.0.0.0/8", "overlaps 127.0.0.0/8 (loopback)"),
    ("pool4", "0.0.0.0/0", "overlaps 0.0.0.0/8 (this network)"),
    ("pool4", "224.0.0.1", "(multicast)"),
    ("pool4", "255.255.255.255", "(reserved)"),
    ("pool4", "169.254.0.0/24", "(link-local)"),
    ("pool4", "192.0.0.8/30", "contains 192.0.0.8, the gateway's own address"),
    ("pool4", ["198.51.100.8/29", "198.51.100.8"], "overlap; each address and port"),
    ("pool4", ["198.51.100.8 1-9", "198.51.100.8 icmp 9-12"], "overlap; each address and port"),
    ("pool4", ["198.51.100.8 9-12", "198.51.100.8 1-9"], "overlap; each address and port"),
    ("pool4", [["198.51.100.8"]], 'is a list; give a string, e.g. "198.51.100.8/29"'),
    # lists of prefixes
    ("allow", "2001:db8::1/32", "2001:db8::/32 has none"),
    ("allow", ["10.0.0.0/8"], "is not IPv6"),
    ("allow", True, "true is a boolean; give an IPv6 prefix as a string"),
    ("deny4", ["10.1.0.0/8"], "10.0.0.0/8 has none"),
    ("deny4", ["fc00::/7"], "is not IPv4"),
    # choices
    ("layout", "suffix", '"suffix" is no choice; "auto", "trailing" or "rfc6052" is right'),
    ("layout", 1, '1 is no choice; "auto", "trailing" or "rfc6052" is right'),
    ("device", "eth", '"tap" or "tun" is right'),
    ("filtering", "none", '"endpoint-independent" or "address-dependent" is right'),
    ("log_level", "INFO", '"debug", "info", "warning" or "error" is right'),
    ("masquerade", "yes", '"yes" is no choice; true, false or "auto" is'),
    ("masquerade", 1, '1 is no choice; true, false or "auto" is'),
    ("offload", "true", '"true" is a string; true or false is right'),
    ("offload", 1, "1 is an integer; true or false is right"),
    ("wkp_strict", 0, "0 is an integer; true or false is right"),
    # numbers
    ("mtu", "1500", '"1500" is a string; an integer is right, e.g. 1500'),
    ("mtu", 1500.0, "1500.0 is a float; an integer is right"),
    ("mtu", True, "true is a boolean; an integer is right"),
    ("mtu", 1279, "1279 is out of range; at least 1280 is right"),
    ("mtu", 65522, "65522 is out of range; at most 65521 is right"),
    ("lowest_ipv6_mtu", 1279, "at least 1280 is right"),
    ("lowest_ipv6_mtu", 1501, "1501 is more than mtu, 1500; from 1280 to 1500 is right"),
    ("mss_clamp", 535, '535 is no MSS; "auto", "off" or an integer from 536 to 65495 is'),
    ("mss_clamp", 65496, "is no MSS"),
    ("mss_clamp", True, "true is no MSS"),
    ("mss_clamp", "on", '"on" is no MSS'),
    ("timeouts.udp_default", 0, "0 is out of range; more than 0 is right"),
    ("timeouts.tcp_est", -1, "more than 0 is right"),
    ("timeouts.tcp_est", 31536001, "at most 31536000 is right"),
    ("timeouts.tcp_trans", float("inf"), "inf is a float; a finite number is right"),
    ("timeouts.tcp_trans", float("nan"), "nan is a float; a finite number is right"),
    ("timeouts.icmp_default", "60", '"60" is a string; a number is right, e.g. 60.0'),
    ("timeouts.icmp_default", True, "true is a boolean; a number is right"),
    ("timeouts", 5, "5 is an integer; a table is right"),
    ("limits", "x", '"x" is a string; a table is right'),
    ("limits.sessions", 0, "at least 1 is right"),
    ("limits.bib", 100_000_001, "at most 100000000 is right"),
    ("limits.stored_syns", -1, "at least 0 is right"),
    ("limits.icmp_errors_per_second", 0, "more than 0 is right"),
    ("limits.icmp_errors_burst", 0, "at least 1 is right"),
    # names, addresses, paths
    ("tap", "a" * 16, "is no name of a device; up to 15"),
    ("tap", "a/b", "is no name of a device"),
    ("tap", "a:b", "is no name of a device"),
    ("tap", "tap%d", "is no name of a device"),
    ("tap", "tap 0", "is no name of a device"),
    ("tap", "tap0\n", "is no name of a device"),
    ("tap", "..", "is no name of a device"),
    ("tap", 0, "0 is an integer; give a string"),
    ("icmp6_source", "fe80::1", "is no source that routers forward"),
    ("icmp6_source", "::1", "is no source that routers forward"),
    ("icmp6_source", "::", "is no source that routers forward"),
    ("icmp6_source", "ff02::1", "is no source that routers forward"),
    ("icmp6_source", "::ffff:192.0.2.1", "is no source that routers forward"),
    ("icmp6_source", "2001:db8::1%eth0", "is no IPv6 address"),
    ("icmp6_source", "192.0.2.1", "is no IPv6 address"),
    ("icmp6_source", 5, "5 is no IPv6 address"),
    ("icmp4_source", "127.0.0.1", "is loopback (127.0.0.0/8), no source"),
    ("icmp4_source", "2001:db8::1", "is no IPv4 address"),
    ("icmp4_source", 5, "5 is no IPv4 address"),
    ("icmp4_error_pool", "127.0.0.0/24", "overlaps 127.0.0.0/8 (loopback), no source"),
    ("icmp4_error_pool", ["192.0.2.0/24", "0.0.0.0/0"], "0.0.0.0/0 overlaps 0.0.0.0/8"),
    ("icmp4_error_pool", "2001:db8::/32", "is not IPv4"),
    ("icmp4_error_pool", 5, "5 is an integer; give an IPv4 prefix"),
    ("run_dir", "run", "is no absolute path"),
    ("run_dir", "/", "is no absolute path"),
    ("run_dir", "", "is no absolute path"),
    ("run_dir", 1, "is no absolute path"),
    # unknown keys
    ("mtuu", 1, 'unknown key; did you mean "mtu"?'),
    ("mss-clamp", "off", 'unknown key; did you mean "mss_clamp"?'),
    ("udp_default", 1, 'unknown key; did you mean "timeouts.udp_default"?'),
    ("limits.sesions", 1, 'unknown key; did you mean "limits.sessions"?'),
    ("timeout.tcp_est", 1, 'unknown key; did you mean "timeouts"?'),
    ("limits.zzz", 1, "unknown key; known keys are limits.sessions, limits.sessions_per_client"),
    ("qqq", 1, "unknown key; known keys are mode, prefix, layout, pool4"),
    ("timeouts.udp_default.x", 1, "is a table; a number is right"),
]


@pytest.mark.parametrize(("key", "value", "expected"), MISTAKES)
def test_mistake(key, value, expected):
    line = line_of({key: value})
    named, _, text = line.partition(": ")
    assert key == named or key.startswith(named + ".")
    assert expected in text
    assert ";" in text
    assert "\n" not in line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mtu", 1280),
        ("mtu", 65521),
        ("lowest_ipv6_mtu", 1500),
        ("mss_clamp", 536),
        ("mss_clamp", 65495),
        ("limits.sessions", 1),
        ("limits.stored_syns", 0),
        ("timeouts.udp_default", 31536000),
        ("timeouts.udp_default", 0.1),
        ("pool4", "198.51.100.8 1-65535"),
        ("tap", "a" * 15),
        ("tap", "tap-0.e"),
        ("allow", ["::/0", "2001:db8::1"]),
        ("deny4", ["0.0.0.0/0", "192.0.2.1"]),
    ],
)
def test_right_at_the_limit(key, value):
    load(None, {key: value})


def test_all_mistakes_at_once(tmp_path):
    path = write(
        tmp_path,
        """
prefix = ["2001:db8::1/64", "2001:db8::/63"]
pool4 = ["198.51.100.8/29", "198.51.100.8/30"]
mtu = "1500"
mtuu = 3
lowest_ipv6_mtu = 1600
[limits]
bib = 0
""",
    )
    lines = lines_of({"layout": "x", "timeouts.tcp_est": "y"}, path)
    assert sorted(line.partition(":")[0] for line in lines) == [
        "layout",
        "limits.bib",
        "mtu",
        "mtuu",
        "pool4",
        "prefix",
        "prefix",
        "timeouts.tcp_est",
    ]


def test_contradictions_are_told_with_the_other_mistakes():
    lines = lines_of({"lowest_ipv6_mtu": 1600, "layout": "x"})
    assert [line.partition(":")[0] for line in lines] == ["layout", "lowest_ipv6_mtu"]


def test_value_is_shown_on_one_line_and_cut():
    line = line_of({"tap": "\n" * 500})
    assert "\n" not in line
    assert len(line) < 250


# -- notices -------------------------------------------------------------------------------


def test_default_prefix_is_noticed_as_deprecated():
    assert notices(Config()) == [
        "prefix fec0:0:0:ffff::/64 lies in fec0::/10, which is deprecated (RFC 3879); "
        "64:ff9b::/96 or a prefix of your own is better"
    ]


def test_given_site_local_prefix_is_noticed_too():
    (line,) = notices(load(None, {"prefix": ["2001:db8::/96", "fee0::/64"]}))
    assert line.startswith("prefix fee0::/64 lies in fec0::/10")


def quiet(**overrides):
    return load(None, {"prefix": "2001:db8::/96", **overrides})


def test_nothing_to_notice():
    assert notices(quiet()) == []
    assert notices(quiet(allow=["2001:db8::/32", "fc00::/7"], pool4="198.51.100.8/29")) == []


@pytest.mark.parametrize(
    ("overrides", "table", "mode"),
    [
        ({"siit.map": "/etc/tap64/siit.map"}, "siit", "nat64"),
        ({"clat.lan": "lan0"}, "clat", "nat64"),
        ({"siit.pool": "198.51.100.0/24", "mode": "clat"}, "siit", "clat"),
    ],
)
def test_table_of_another_mode_is_noticed(overrides, table, mode):
    (line,) = notices(load(None, {"prefix": "2001:db8::/96"} | overrides))
    assert line == f"[{table}] is not used in mode {mode}; --mode {table} would use it"


def test_backhaul_without_destination_is_noticed():
    (line,) = notices(load(None, {"prefix": "2001:db8::/96", "backhaul.carries": "ipv6"}))
    assert line.startswith("[backhaul] is not used")


@pytest.mark.parametrize("prefix", ["::/0", "2000::/3"])
def test_open_relay_is_noticed(prefix):
    (line,) = notices(quiet(allow=[prefix]))
    assert line.startswith(f"allow = {prefix} serves everyone")


def test_default_pool_without_masquerade_is_noticed():
    (line,) = notices(quiet(masquerade=False))
    assert line.startswith("masquerade is off and pool4 is empty")


@pytest.mark.parametrize(
    ("key", "least", "rfc"),
    [
        ("udp_default", 120, "RFC 4787 REQ-5"),
        ("tcp_est", 7440, "RFC 5382 REQ-5"),
        ("tcp_trans", 240, "RFC 5382 REQ-5"),
        ("tcp_incoming_syn", 6, "RFC 5382 REQ-4"),
        ("icmp_default", 60, "RFC 5508 REQ-2"),
    ],
)
def test_timeout_below_the_rfc_is_noticed(key, least, rfc):
    assert notices(load(None, {"prefix": "2001:db8::/96", f"timeouts.{key}": least})) == []
    (line,) = notices(load(None, {"prefix": "2001:db8::/96", f"timeouts.{key}": least - 1}))
    assert line == f"timeouts.{key} = {least - 1} is less than the {least} s of {rfc}"


# -- reload --------------------------------------------------------------------------------


def test_changed_keys():
    new = load(None, {"mtu": 1400, "timeouts.tcp_est": 7441, "allow": ["2001:db8::/32"]})
    assert changed_keys(Config(), new) == ["mtu", "allow", "timeouts.tcp_est"]
    assert changed_keys(new, new) == []


def test_reloadable_keys():
    fixed = {
        "deterministic",
        "device",
        "icmp4_source",
        "icmp6_source",
        "layout",
        "masquerade",
        "mode",
        "mtu",
        "offload",
        "pool4",
        "port_block_size",
        "prefix",
        "run_dir",
        "tap",
        "siit.pool",
        "siit.pool_state",
        "backhaul.addresses",
        "backhaul.carries",
        "backhaul.clients6",
        "backhaul.control_path",
        "backhaul.masquerade",
        "backhaul.mtu",
        "backhaul.peer_setup",
        "backhaul.remote_device",
        "backhaul.user",
        *(key for key in all_keys() if key.startswith(("dns64.", "clat."))),
    }
    assert set(all_keys()) - RELOADABLE == fixed
    assert set(all_keys()) >= RELOADABLE
