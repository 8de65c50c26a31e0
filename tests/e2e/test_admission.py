"""Who may use the gateway: it is no open relay.

    client ──────────── r6a ──────────── gateway ──────────── server
    2001:db8:1::2        2001:db8:1::1    default route via r6a
    fd00:64::2           (client's link)  (towards "the internet")

What the gateway knows about 2001:db8:1::/64 differs from test to test.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import Gateway
from tests.e2e.namespaces import Lab, wait_until
from tests.e2e.topology import SERVER, Topology, line

CLIENT_NETWORK = "2001:db8:1::/64"
CLIENT = "2001:db8:1::2"
BEHIND_R6A = ("via", "fd00:64:0:1::2", "dev", "v6")


def build(lab: Lab) -> Topology:
    topology = line(lab, mtus6=(1500, 1500), mtus4=(1500,))
    topology.route_prefix()
    topology.client.ip("addr", "add", f"{CLIENT}/64", "dev", "v6", "nodad")
    topology.routers6[0].ip("addr", "add", "2001:db8:1::1/64", "dev", "out", "nodad")
    return topology


def route(topology: Topology, action: str, *words: str) -> None:
    topology.gateway.ip("-6", "route", action, *words)


def outcome(topology: Topology, source: str = CLIENT) -> str:
    """What a ping from an address of the client meets."""
    result = topology.client.run(
        "ping", "-n", "-c", "1", "-W", "2", "-I", source, SERVER, check=False
    )
    if "1 received" in result.out:
        return "served"
    return "refused" if "Administratively prohibited" in result.out else "lost"


@pytest.fixture(scope="module")
def network(module_lab: Lab) -> Iterator[tuple[Topology, Gateway]]:
    topology = build(module_lab)
    gateway = Gateway(topology.gateway).start()
    yield topology, gateway
    gateway.stop_cleanly()


@pytest.fixture
def served(network: tuple[Topology, Gateway]) -> Iterator[tuple[Topology, Gateway]]:
    """The network, rid afterwards of the routes that the test added."""
    topology, gateway = network
    before = topology.gateway.ip("-6", "route", "show").splitlines()
    yield topology, gateway
    for entry in topology.gateway.ip("-6", "route", "show").splitlines():
        if entry not in before:
            route(topology, "del", *entry.split(" metric")[0].split())
    wait_until(lambda: outcome(topology) == "lost", 5, "nothing of the test is remembered")


@pytest.mark.parametrize(
    "words",
    [
        ("default", *BEHIND_R6A),
        ("2000::/3", *BEHIND_R6A),
        ("::/1", *BEHIND_R6A),
        (CLIENT_NETWORK, *BEHIND_R6A, "proto", "bgp"),
    ],
    ids=["default-route", "internet-in-disguise", "half-the-internet", "learnt-by-bgp"],
)
def test_client_on_the_internet_is_refused(
    served: tuple[Topology, Gateway], words: tuple[str, ...]
) -> None:
    topology, gateway = served
    before = gateway.status().number("client-refused")
    route(topology, "add", *words)
    wait_until(lambda: outcome(topology) == "refused", 5, "the client is refused")
    assert gateway.status().number("client-refused") > before


def test_refusal_comes_from_the_gateways_own_address(
    served: tuple[Topology, Gateway],
) -> None:
    topology, _ = served
    route(topology, "add", "default", *BEHIND_R6A)
    wait_until(lambda: outcome(topology) == "refused", 5, "the client is refused")
    result = topology.client.run(
        "ping", "-n", "-c", "1", "-W", "2", "-I", CLIENT, SERVER, check=False
    )
    assert "From fec0::ffff:0:0:c000:8" in result.out


@pytest.mark.parametrize("own", [CLIENT_NETWORK, "2001:db8::/32"])
def test_client_with_a_route_of_its_own_is_served(
    served: tuple[Topology, Gateway], own: str
) -> None:
    topology, _ = served
    route(topology, "add", own, *BEHIND_R6A)
    wait_until(lambda: outcome(topology) == "served", 5, "the client is served")


def test_unique_local_client_is_served_behind_a_default_route(
    served: tuple[Topology, Gateway],
) -> None:
    topology, _ = served
    route(topology, "add", "default", *BEHIND_R6A)
    assert outcome(topology, "fd00:64::2") == "served"


def test_change_of_the_routes_is_heard(served: tuple[Topology, Gateway]) -> None:
    topology, _ = served
    route(topology, "add", "default", *BEHIND_R6A)
    wait_until(lambda: outcome(topology) == "refused", 5, "it is behind the default route")
    route(topology, "add", CLIENT_NETWORK, *BEHIND_R6A)
    wait_until(lambda: outcome(topology) == "served", 5, "the new route makes it a client")
    route(topology, "del", CLIENT_NETWORK, *BEHIND_R6A)
    wait_until(lambda: outcome(topology) == "refused", 5, "without the route it is none")


def test_allow_admits_a_client_behind_the_default_route_and_nobody_else(
    lab: Lab, start_gateway: StartGateway
) -> None:
    topology = build(lab)
    route(topology, "add", "default", *BEHIND_R6A)
    gateway = start_gateway(topology.gateway, "--allow", CLIENT_NETWORK)
    assert outcome(topology) == "served"
    assert outcome(topology, "fd00:64::2") == "refused"
    assert CLIENT_NETWORK in gateway.log()


def test_who_is_served_is_printed_at_start(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    route(topology, "add", CLIENT_NETWORK, *BEHIND_R6A)
    gateway = start_gateway(topology.gateway)
    assert CLIENT_NETWORK in gateway.log()


def test_deny4_refuses_a_destination(lab: Lab, start_gateway: StartGateway) -> None:
    topology = line(lab, mtus4=(1500,))
    topology.route_prefix()
    topology.server_address("192.0.2.33")
    gateway = start_gateway(topology.gateway, "--deny4", "192.0.2.32/28")
    ask = ("ping", "-n", "-c", "1", "-W", "2")
    topology.client.run(*ask, SERVER)
    refused = topology.client.run(*ask, "fec0:0:0:ffff::192.0.2.33", check=False)
    assert "Administratively prohibited" in refused.out
    assert gateway.status().number("destination-refused") == 1
