"""gateway/backhaul/link_options.py: the command line of `gateway link`."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface

import pytest

from gateway.backhaul.link_options import LinkOptions
from gateway.cli import parse_options
from gateway.cli_keys import EXIT_CONFIG


def parsed(*arguments: str) -> LinkOptions:
    options = parse_options(["link", *arguments])
    assert options.command == "link"
    assert options.link is not None
    return options.link


def test_the_defaults():
    options = parsed("listen:6464")
    assert [one.text for one in options.endpoints] == ["listen:6464"]
    assert options == LinkOptions(endpoints=options.endpoints)
    assert (options.tap, options.mtu, options.once, options.masquerade) == ("", 1500, False, True)
    assert not options.changes_host


def test_everything_for_a_tap():
    options = parsed(
        *("tcp://[::1]:7", "--tap", "nat64", "--mtu", "1280", "--once", "--log-level", "debug"),
        *("--address", "169.254.7.1/30", "--address", "fe80::2/64"),
    )
    assert (options.tap, options.mtu, options.once) == ("nat64", 1280, True)
    assert options.addresses == (IPv4Interface("169.254.7.1/30"), IPv6Interface("fe80::2/64"))
    assert options.log_level == "debug"
    assert options.changes_host


@pytest.mark.parametrize(
    ("address", "gateway"),
    [
        ("169.254.7.1/30", "169.254.7.2"),
        ("169.254.7.2/30", "169.254.7.1"),
        ("10.0.0.1/31", "10.0.0.0"),
    ],
)
def test_the_gateway_is_the_other_host(address, gateway):
    options = parsed("listen:7", "--address", address, "--pool4", "192.0.0.6", "--no-masquerade")
    assert options.pool4 == (IPv4Network("192.0.0.6/32"),)
    assert options.gateway4 == IPv4Address(gateway)
    assert options.masquerade is False


def test_a_gateway_in_a_larger_network():
    more = ("--pool4", "192.0.0.6/32", "--pool4", "198.51.100.0/24", "--gateway", "10.0.0.7")
    options = parsed("listen:7", "--address", "10.0.0.1/24", *more)
    assert options.gateway4 == IPv4Address("10.0.0.7")
    assert len(options.pool4) == 2


def test_two_streams():
    options = parsed("listen:7", "exec:x --y", "--once")
    assert [one.text for one in options.endpoints] == ["listen:7", "exec:x --y"]


MISTAKES = [
    ("", "ENDPOINT"),
    ("peer", "no kind of stream"),
    ("listen:7 listen:8 listen:9", "3 endpoints"),
    ("std: std:", "one end only"),
    ("listen:7 std: --tap x", "nothing of a tap"),
    ("listen:7 std: --mtu 1500", "nothing of a tap"),
    ("listen:7 std: --address 10.0.0.1/30", "nothing of a tap"),
    ("listen:7 --mtu 1279", "1280 to 65521"),
    ("listen:7 --mtu 65522", "1280 to 65521"),
    ("listen:7 --mtu -1", "--mtu"),
    ("listen:7 --mtu 1.5", "1280 to 65521"),
    ("listen:7 --address 10.0.0.1", "ADDRESS/LENGTH"),
    ("listen:7 --address x/24", "ADDRESS/LENGTH"),
    ("listen:7 --pool4 192.0.0.6/29 --address 10.0.0.1/30", "host bits"),
    ("listen:7 --pool4 ::/96 --address 10.0.0.1/30", "--pool4 ::/96"),
    ("listen:7 --pool4 192.0.0.6", "one IPv4 --address"),
    ("listen:7 --pool4 192.0.0.6 --address fe80::1/64", "one IPv4 --address"),
    ("listen:7 --pool4 192.0.0.6 --address 10.0.0.1/30 --address 10.1.0.1/30", "one IPv4"),
    ("listen:7 --pool4 192.0.0.6 --address 10.0.0.1/29", "--gateway ADDR is needed"),
    ("listen:7 --pool4 192.0.0.6 --address 10.0.0.1/30 --gateway 10.0.0.1", "no other host"),
    ("listen:7 --pool4 192.0.0.6 --address 10.0.0.1/30 --gateway 10.0.0.9", "no other host"),
    ("listen:7 --pool4 192.0.0.6 --address 10.0.0.1/30 --gateway x", "no IPv4 address"),
    ("listen:7 --gateway 10.0.0.2", "go with --pool4"),
    ("listen:7 --no-masquerade", "go with --pool4"),
    ("listen:7 --log-level loud", "invalid choice"),
    ("listen:7 --onec", "did you mean --once"),
]


@pytest.mark.parametrize(("line", "said"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_mistakes(line, said, caplog):
    with pytest.raises(SystemExit) as caught:
        parse_options(["link", *line.split()])
    assert caught.value.code == EXIT_CONFIG
    assert said in caplog.text


@pytest.mark.parametrize("flag", ["--dry-run", "--check"])
def test_flags_of_the_gateway_do_not_go_with_it(flag, caplog):
    with pytest.raises(SystemExit):
        parse_options([flag, "link", "listen:7"])
    assert "do not go with link" in caplog.text
