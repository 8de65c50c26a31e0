"""What would stand in the way on this host is named at start, with the remedy.

client ──────── gateway ──────── server
                a firewall, rp_filter, too small a connection table
"""

from __future__ import annotations

import re

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import Gateway
from tests.e2e.namespaces import Lab
from tests.e2e.topology import SERVER, Topology, line

PING = ("ping", "-n", "-c", "1", "-W", "1", SERVER)


def build(lab: Lab) -> Topology:
    topology = line(lab, mtus4=(1500,))
    topology.route_prefix()
    return topology


def warnings_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("gateway: warning:")]


def about(pattern: str, text: str) -> list[str]:
    return [line for line in warnings_of(text) if re.search(pattern, line, re.IGNORECASE)]


def test_nothing_is_named_when_nothing_is_in_the_way(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    gateway = start_gateway(topology.gateway)
    topology.client.run(*PING)
    # The one warning is about the default prefix.
    assert [line for line in warnings_of(gateway.log()) if "fec0::/10" not in line] == []


@pytest.mark.parametrize("family", ["ip", "ip6", "inet"])
def test_forward_policy_of_drop_as_docker_sets_it(
    lab: Lab, start_gateway: StartGateway, family: str
) -> None:
    topology = build(lab)
    topology.gateway.run(
        "nft",
        f"add table {family} filter {{ chain FORWARD {{"
        " type filter hook forward priority filter; policy drop; } ; }",
    )
    gateway = start_gateway(topology.gateway)
    named = about(r"FORWARD.*drop|drop.*FORWARD", gateway.log())
    assert named, gateway.log()
    assert re.search(r"\b(nft|iptables|ip6tables)\b", " ".join(named))
    # It is true: nothing gets through.
    assert topology.client.run(*PING, check=False).status != 0


def test_forward_policy_of_iptables(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    topology.gateway.run("iptables", "-P", "FORWARD", "DROP")
    gateway = start_gateway(topology.gateway)
    assert about("FORWARD", gateway.log()), gateway.log()


def test_forward_chain_that_lets_the_gateway_through_is_no_obstacle(
    lab: Lab, start_gateway: StartGateway
) -> None:
    topology = build(lab)
    topology.gateway.run(
        "nft",
        "add table inet filter { chain FORWARD { type filter hook forward priority filter;"
        ' policy drop; iifname "tap0" accept; oifname "tap0" accept; } ; }',
    )
    gateway = start_gateway(topology.gateway)
    topology.client.run(*PING)
    assert about("FORWARD", gateway.log()) == []


def test_strict_reverse_path_filter(lab: Lab, start_gateway: StartGateway) -> None:
    """Strict mode is no problem as long as the routes are symmetric; then nothing is said."""
    topology = build(lab)
    topology.gateway.sysctl(ipv4__conf__all__rp_filter=1)
    gateway = start_gateway(topology.gateway)
    works = topology.client.run(*PING, check=False).status == 0
    assert works != bool(about("rp_filter", gateway.log()))


def test_connection_table_smaller_than_the_session_table(
    lab: Lab, start_gateway: StartGateway
) -> None:
    """Only where somebody has asked for so many: the default is a bound, no promise."""
    topology = build(lab)
    gateway = start_gateway(topology.gateway)
    assert about("nf_conntrack_max", gateway.log()) == []
    # The kernel shows the value only once connection tracking is in use somewhere.
    most = int(topology.gateway.sysctl_value("net.netfilter.nf_conntrack_max"))
    gateway.stop_cleanly()
    gateway = start_gateway(topology.gateway, config=f"[limits]\nsessions = {most + 1}\n")
    (named,) = about("nf_conntrack_max", gateway.log())
    assert str(most) in named
    assert "sysctl -w" in named


def test_check_finds_nothing_on_a_good_host(lab: Lab) -> None:
    topology = build(lab)
    result = Gateway(topology.gateway).run("--check")
    assert result.status == 0, result.text


def test_check_looks_without_starting(lab: Lab) -> None:
    topology = build(lab)
    topology.gateway.run(
        "nft",
        "add table ip filter { chain FORWARD {"
        " type filter hook forward priority filter; policy drop; } ; }",
    )
    result = Gateway(topology.gateway).run("--check")
    assert result.status == 1
    assert re.search("FORWARD", result.text, re.IGNORECASE)
    assert "tap0" not in topology.gateway.ip("link", "show")
