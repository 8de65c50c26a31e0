"""A firewall of the CLAT's host that drops what it forwards is named, with the remedy.

lan0 ── client ───v6──── gateway ──── r4a ──── server
        forward policy: drop
"""

from __future__ import annotations

import pytest

from tests.e2e.clat_net import CLAT, PING, PLAT, UP, network
from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import Gateway
from tests.e2e.namespaces import Lab


def named(text: str) -> list[str]:
    return [line for line in text.splitlines() if ": warning: firewall: " in line]


def test_nothing_is_named_where_nothing_is_in_the_way(
    lab: Lab, start_gateway: StartGateway
) -> None:
    topology = network(lab)
    # What this host's own programs send in IPv4 is not forwarded.
    topology.client.run("iptables", "-P", "FORWARD", "DROP")
    checked = Gateway(topology.client, *CLAT, "--prefix", PLAT, name="check").run("--check")
    assert checked.status == 0, checked.text
    start_gateway(topology.gateway, "--prefix", PLAT, name="plat")
    clat = start_gateway(topology.client, *CLAT, "--prefix", PLAT, name="clat")
    clat.wait_for(UP)
    topology.client.run(*PING)
    assert named(clat.log()) == []


@pytest.mark.parametrize(
    ("accepted", "directions"),
    [
        ((), ("IPv6 tap0 to v6", "IPv6 v6 to tap0")),
        (("-m", "conntrack", "--ctstate", "ESTABLISHED"), ("IPv6 tap0 to v6",)),
        (("-i", "tap0"), ("IPv6 v6 to tap0",)),
    ],
)
def test_a_forward_policy_of_drop_and_its_remedy(
    accepted: tuple[str, ...],
    directions: tuple[str, ...],
    lab: Lab,
    start_gateway: StartGateway,
) -> None:
    topology = network(lab)
    client = topology.client
    client.run("ip6tables", "-P", "FORWARD", "DROP")
    if accepted:
        client.run("ip6tables", "-A", "FORWARD", *accepted, "-j", "ACCEPT")
    start_gateway(topology.gateway, "--prefix", PLAT, name="plat")
    clat = start_gateway(client, *CLAT, "--prefix", PLAT, name="clat")
    clat.wait_for(UP)
    assert client.run(*PING, check=False).status != 0, "it is true"
    (line,) = named(clat.log())
    for direction in ("IPv6 tap0 to v6", "IPv6 v6 to tap0"):
        assert (direction in line) == (direction in directions), line
    remedy = line.rpartition("remedy: ")[2]
    client.run("sh", "-ec", remedy)
    client.run(*PING)


def test_that_of_a_lan_and_once(lab: Lab, start_gateway: StartGateway) -> None:
    topology = network(lab)
    client = topology.client
    client.ip("link", "add", "lan0", "type", "bridge")
    client.run("iptables", "-P", "FORWARD", "DROP")
    clat = start_gateway(
        *(client, *CLAT, "--prefix", PLAT), config='clat.lan = ["lan0"]\n', name="clat"
    )
    clat.wait_for(UP)
    (line,) = named(clat.log())
    assert "IPv4 lan0 to tap0, IPv4 tap0 to lan0" in line
    # Up again with another MTU: what was said is not said again.
    said = len(clat.log())
    client.ip("link", "set", "v6", "mtu", "1400")
    clat.wait_for("clat: up: .* MTU 1380", after=said)
    assert len(named(clat.log())) == 1


@pytest.mark.parametrize("uplink", ["v6", "any device"])
def test_check_looks_without_starting(uplink: str, lab: Lab) -> None:
    topology = network(lab, default=uplink == "v6")
    client = topology.client
    client.ip("link", "add", "lan0", "type", "bridge")
    for program in ("iptables", "ip6tables"):
        client.run(program, "-P", "FORWARD", "DROP")
    gateway = Gateway(client, *CLAT, config='clat.lan = ["lan0"]\n')
    result = gateway.run("--check")
    assert result.status == 1
    six, four = sorted(named(result.text), key=lambda line: "IPv4" in line)
    routes = sorted((f"IPv6 tap0 to {uplink}", f"IPv6 {uplink} to tap0"))
    assert f"drops {', '.join(routes)}; remedy: ip6tables -I FORWARD -i tap0 -j ACCEPT" in six
    assert "drops IPv4 lan0 to tap0, IPv4 tap0 to lan0; remedy: iptables" in four
    assert "tap0" not in client.ip("link", "show")
