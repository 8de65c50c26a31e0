"""Prefixes of every length, several at once, and the well-known one.

client ──────── gateway ──────── r4a ──────── server 192.0.2.1, 192.0.2.33, 100.200.0.1
"""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import EXIT_CONFIGURATION, EXIT_HOST, Gateway
from tests.e2e.namespaces import Lab, Namespace
from tests.e2e.servers import start_http
from tests.e2e.snapshot import difference, snapshot
from tests.e2e.topology import GATEWAY4, SERVER, Topology, line

GLOBAL4 = "100.200.0.1"  # stands for an address of the real internet; exists only in here


def build(lab: Lab, *prefixes: str) -> Topology:
    topology = line(lab)
    for prefix in prefixes:
        topology.route_prefix(prefix)
    topology.server_address("192.0.2.33")
    topology.server_address(GLOBAL4)
    return topology


def ping(host: Namespace, address: str) -> bool:
    result = host.run("ping", "-n", "-c", "1", "-W", "2", address, check=False)
    return f"bytes from {ip_address(address)}" in result.out


@pytest.mark.parametrize(
    ("prefix", "embedded"),
    [  # the table of RFC 6052 §2.4, and the same prefixes in the layout that people type
        ("2001:db8::/32", ("2001:db8:c000:221::", "2001:db8::192.0.2.33")),
        ("2001:db8:100::/40", ("2001:db8:1c0:2:21::", "2001:db8:100::192.0.2.33")),
        ("2001:db8:122::/48", ("2001:db8:122:c000:2:2100::", "2001:db8:122::192.0.2.33")),
        ("2001:db8:122:300::/56", ("2001:db8:122:3c0:0:221::", "2001:db8:122:300::192.0.2.33")),
        ("2001:db8:122:344::/64", ("2001:db8:122:344:c0:2:2100::", "2001:db8:122:344::c000:221")),
        ("2001:db8:122:344::/96", ("2001:db8:122:344::192.0.2.33",)),
    ],
)
def test_every_length_in_both_layouts(
    lab: Lab, start_gateway: StartGateway, prefix: str, embedded: tuple[str, ...]
) -> None:
    topology = build(lab, prefix)
    http = start_http(topology.server)
    start_gateway(topology.gateway, "--prefix", prefix)
    for address in embedded:
        assert ping(topology.client, address), address
        seen = topology.client.run(
            "curl", "-sS", "-m", "5", f"http://[{address}]:{http.port}/whoami"
        )
        assert seen.out.split()[0] == GATEWAY4


def test_several_prefixes_at_once(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab, "fec0:0:0:ffff::/64", "fd00:6464::/96")
    start_gateway(topology.gateway, "--prefix", "fec0:0:0:ffff::/64", "--prefix", "fd00:6464::/96")
    assert ping(topology.client, SERVER)
    assert ping(topology.client, "fd00:6464::192.0.2.1")


def test_address_of_the_prefix_that_embeds_nothing(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab, "fec0:0:0:ffff::/64")
    gateway = start_gateway(topology.gateway)
    assert not ping(topology.client, "fec0:0:0:ffff:1:2:3:4")
    assert gateway.status().number("not-embedded") > 0
    assert ping(topology.client, SERVER)


def test_well_known_prefix_refuses_addresses_that_are_not_global(
    lab: Lab, start_gateway: StartGateway
) -> None:
    topology = build(lab, "64:ff9b::/96")
    topology.gateway.ip("addr", "add", "2001:db8:64::1/128", "dev", "lo")
    gateway = start_gateway(topology.gateway, "--prefix", "64:ff9b::/96")
    assert ping(topology.client, f"64:ff9b::{GLOBAL4}")
    refused = topology.client.run(
        "ping", "-n", "-c", "1", "-W", "2", "64:ff9b::192.0.2.1", check=False
    )
    assert "Administratively prohibited" in refused.out
    # The prefix must not carry 192.0.0.8 either: the error comes from an address of the host.
    assert "From 2001:db8:64::1" in refused.out
    assert gateway.status().number("private-under-wkp") > 0
    # Both remedies are named.
    gateway.wait_for(r"warning:.*64:ff9b:1::/48", 5)
    assert "wkp_strict" in gateway.log()


def test_well_known_prefix_on_a_host_without_a_global_address(lab: Lab) -> None:
    topology = build(lab, "64:ff9b::/96")
    topology.gateway.ip("addr", "flush", "dev", "v6", "scope", "global")
    before = snapshot(topology.gateway)
    result = Gateway(topology.gateway, "--prefix", "64:ff9b::/96").run()
    assert result.status == EXIT_HOST
    assert "icmp6_source" in result.err
    assert difference(before, snapshot(topology.gateway)) == ""


def test_well_known_prefix_without_that_rule(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab, "64:ff9b::/96")
    start_gateway(topology.gateway, "--prefix", "64:ff9b::/96", config="wkp_strict = false\n")
    assert ping(topology.client, "64:ff9b::192.0.2.1")
    assert ping(topology.client, f"64:ff9b::{GLOBAL4}")


def test_default_prefix_is_ptrtds_and_says_that_it_is_deprecated(
    lab: Lab, start_gateway: StartGateway
) -> None:
    topology = build(lab)
    gateway = start_gateway(topology.gateway)
    lines = [line for line in gateway.log().splitlines() if "3879" in line]
    assert len(lines) == 1
    assert "64:ff9b::/96" in lines[0]


@pytest.mark.parametrize(
    "prefixes",
    [("2001:db8::/32", "2001:db8:122::/48"), ("fd00:6464::/96", "fd00:6464::/96")],
    ids=["one-inside-the-other", "twice-the-same"],
)
def test_overlapping_prefixes(lab: Lab, prefixes: tuple[str, str]) -> None:
    topology = build(lab)
    arguments = [word for prefix in prefixes for word in ("--prefix", prefix)]
    result = Gateway(topology.gateway, *arguments).run()
    assert result.status == EXIT_CONFIGURATION
    assert prefixes[0] in result.err
    assert prefixes[1] in result.err
