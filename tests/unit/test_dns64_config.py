"""[dns64]: defaults, what is said about each mistake, and what the name server is told."""

from __future__ import annotations

import pytest

from gateway.cli import parse_options
from gateway.config import Config, ConfigError, load
from gateway.config_dns64 import Dns64Table, to_dns64_settings
from gateway.dns64.settings import Choice, Dns64Settings, Limits
from tests.unit.dns64_fakes import WKP


def test_it_is_off_by_default_and_the_flag_sets_it():
    assert not Config().dns64.enabled
    assert load(None, parse_options(["--dns64"]).overrides).dns64.enabled


def test_the_defaults_are_those_of_the_name_server():
    assert to_dns64_settings(Dns64Table(), (WKP,), ()) == Dns64Settings(prefixes=(WKP,))


def test_where_it_listens_without_being_told():
    assert to_dns64_settings(Dns64Table(), (WKP,), ("lan0", "lan1")).listen == (
        "::1",
        "lan0",
        "lan1",
    )
    assert to_dns64_settings(Dns64Table(), (WKP,), ()).listen == ("::1", "*")
    found = load(None, {"dns64.listen": ["*"]}).dns64
    assert to_dns64_settings(found, (WKP,), ("lan0",)).listen == ("*", "lan0")
    named = load(None, {"dns64.listen": ["2001:db8::1"]}).dns64
    assert to_dns64_settings(named, (WKP,), ("lan0",)).listen == ("2001:db8::1",)


def test_every_key_arrives():
    keys = {
        "listen": ["lan0@5353"],
        "upstreams": ["tls://192.0.2.1#a.test", "::1"],
        "prefixes": "by-client",
        "clients": ["2001:db8::/32", "10.0.0.0/8"],
        "mapped": ["192.0.2.0/24"],
        "exclude": ["2001:db8::/32"],
        "exclude4": ["10.0.0.0/8"],
        "synthall": True,
        "ignore_aaaa": ["example.com"],
        "serve_stale": 60,
        "use_0x20": True,
        "queries_per_second": 7,
    }
    table = load(None, {f"dns64.{key}": value for key, value in keys.items()}).dns64
    settings = to_dns64_settings(table, (WKP,), ())
    assert settings.listen == ("lan0@5353",)
    assert settings.upstreams == ("tls://192.0.2.1#a.test", "::1")
    assert settings.choice is Choice.BY_CLIENT
    assert [str(net) for net in settings.clients] == ["2001:db8::/32", "10.0.0.0/8"]
    assert [str(net) for net in settings.mapped + settings.exclude4] == [
        "192.0.2.0/24",
        "10.0.0.0/8",
    ]
    assert [str(net) for net in settings.exclude] == ["2001:db8::/32"]
    assert (settings.synthall, settings.ignore_aaaa) == (True, ("example.com",))
    assert (settings.serve_stale, settings.use_0x20) == (60, True)
    assert settings.limits == Limits(queries_per_second=7.0, burst=14)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("listen", ["::"], "answers leave from the address"),
        ("listen", [5], "is an integer"),
        ("upstreams", ["dns.example"], "is no upstream"),
        ("upstreams", ["192.0.2.1#x"], "tls://ADDRESS#NAME is right"),
        ("clients", ["2001:db8::/129"], "no valid length"),
        ("mapped", ["2001:db8::/32"], "is not IPv4"),
        ("exclude", ["10.0.0.0/8"], "is not IPv6"),
        ("ignore_aaaa", ["a..b"], "a name such as"),
        ("prefixes", "any", "is no choice"),
        ("tls_ca_file", "ca.pem", "no absolute path"),
        ("cache_bytes", 65_535, "at least 65536"),
        ("query_timeout", 0, "more than 0"),
        ("enable", True, 'did you mean "dns64.enabled"'),
    ],
)
def test_mistakes(key, value, words):
    with pytest.raises(ConfigError) as caught:
        load(None, {f"dns64.{key}": value})
    (line,) = caught.value.lines
    assert line.startswith(f"dns64.{key}: ")
    assert words in line
