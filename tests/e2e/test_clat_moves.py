"""The network changes under a running CLAT: its prefix, its uplink, the NAT64's prefix.

client ───v6──── gateway ──── r4a ──── server
--mode clat      NAT64; says router advertisements that the test makes (router_words.py)
"""

from __future__ import annotations

from ipaddress import IPv6Network

import pytest

from tests.e2e.clat_net import (
    CLAT,
    OTHER_PLAT,
    PING,
    PLAT,
    UP,
    WHOAMI,
    add_default,
    default4,
    network,
    own_address,
    proxies,
    say_until,
    states,
)
from tests.e2e.conftest import StartGateway
from tests.e2e.namespaces import Lab, Namespace, wait_until
from tests.e2e.router_words import Router, on_link, pref64
from tests.e2e.servers import HTTP_PORT, start_capture, start_http, write_random_file
from tests.e2e.topology import CLIENT6, GATEWAY4, GATEWAY6, SERVER4

OLD, NEW = "fd00:64::/64", "fd00:66::/64"


def test_the_uplink_is_renumbered(lab: Lab, start_gateway: StartGateway) -> None:
    topology = network(lab, default=False)
    client, gateway = topology.client, topology.gateway
    client.ip("addr", "del", f"{CLIENT6}/64", "dev", "v6")
    client.sysctl(ipv6__conf__v6__accept_ra=1)
    gateway.ip("addr", "add", "fd00:66::1/64", "dev", "v6", "nodad")
    start_gateway(gateway, "--prefix", PLAT, name="plat")
    clat = start_gateway(client, *CLAT, config='clat.prefix_from = "ra"\n', name="clat")
    router, plat = Router(gateway, "v6"), pref64(PLAT, 600)
    say_until(lambda: router.say(on_link(OLD, 600, 300), plat, lifetime=600), clat, UP)
    first = own_address(clat.log())
    assert first in IPv6Network(OLD)
    client.run(*PING)

    # The old prefix is deprecated before there is another one: it goes on being used.
    said = len(clat.log())
    router.say(on_link(OLD, 600, 0), plat, lifetime=600)
    wait_until(
        lambda: "inet6 fd00:64:" in client.ip("addr", "show", "dev", "v6", "deprecated"),
        5,
        "the address is deprecated",
    )
    client.run(*PING)
    assert clat.status().values["clat"].startswith(f"up,{PLAT},ra,{first},")
    assert states(clat.log()[said:]) == []

    say_until(
        lambda: router.say(on_link(OLD, 600, 0), on_link(NEW, 600, 300), plat, lifetime=600),
        *(clat, UP, said),
    )
    second = own_address(clat.log())
    assert second in IPv6Network(NEW)
    gateway.ip("addr", "del", f"{GATEWAY6}/64", "dev", "v6")
    client.run(*PING)
    assert proxies(client) == [second]
    routes = client.ip("-6", "route", "show", "dev", "tap0")
    assert str(second) in routes
    assert str(first) not in routes

    said = len(clat.log())
    client.ip("addr", "flush", "dev", "v6", "deprecated")
    client.run(*PING)
    assert states(clat.log()[said:]) == [], "nothing of the old prefix is needed"
    clat.stop_cleanly()
    assert proxies(client) == []
    assert default4(client) == ""


def remake(lab: Lab, client: Namespace, gateway: Namespace) -> None:
    """Another device of the same name, as if a USB adapter was plugged in again."""
    lab.link(client, "v6", gateway, "v6", 1500)
    client.ip("addr", "add", f"{CLIENT6}/64", "dev", "v6", "nodad")
    gateway.ip("addr", "add", f"{GATEWAY6}/64", "dev", "v6", "nodad")
    add_default(client)


@pytest.mark.parametrize("when", ["later", "at once"])
def test_the_uplink_is_deleted_and_made_anew(
    when: str, lab: Lab, start_gateway: StartGateway
) -> None:
    topology = network(lab)
    client, gateway = topology.client, topology.gateway
    start_gateway(gateway, "--prefix", PLAT, name="plat")
    clat = start_gateway(client, *CLAT, "--prefix", PLAT, name="clat")
    clat.wait_for(UP)
    client.run(*PING)
    said = len(clat.log())
    client.ip("link", "del", "v6")
    if when == "later":
        clat.wait_for("clat: down: there is no IPv6 default route", after=said)
        assert default4(client) == ""
        assert proxies(client) == []
        assert client.sysctl_value("net.ipv6.conf.all.forwarding") == "0"
        said = len(clat.log())
    remake(lab, client, gateway)
    # It may have met the host half changed, and tries again after a while.
    clat.wait_for(UP, 20, after=said)
    client.run(*PING)
    assert proxies(client) == [own_address(clat.log())]
    clat.stop_cleanly()
    assert "cannot undo" not in clat.log()
    assert default4(client) == ""
    assert proxies(client) == []
    for key, value in (
        ("conf.all.forwarding", "0"),
        ("conf.v6.forwarding", "0"),
        ("conf.v6.accept_ra", "1"),
        ("conf.v6.proxy_ndp", "0"),
        ("neigh.v6.proxy_delay", "80"),
    ):
        assert client.sysctl_value(f"net.ipv6.{key}") == value, key


def test_the_nat64s_prefix_changes_during_a_download(lab: Lab, start_gateway: StartGateway) -> None:
    topology = network(lab)
    client, gateway = topology.client, topology.gateway
    http = start_http(topology.server)
    write_random_file(http.folder / "long", 20_000_000)
    start_gateway(gateway, "--prefix", PLAT, "--prefix", OTHER_PLAT, name="plat")
    clat = start_gateway(client, *CLAT, config='clat.prefix_from = "ra"\n', name="clat")
    router = Router(gateway, "v6")
    say_until(lambda: router.say(pref64(PLAT, 600)), clat, UP)
    got = lab.new_file("got")
    url = f"http://{SERVER4}:{HTTP_PORT}/long"
    download = client.start("curl", "-sS", "--limit-rate", "1M", "-o", str(got), url)
    wait_until(lambda: got.exists() and got.stat().st_size > 500_000, 10, "it downloads")
    first = own_address(clat.log())

    said = len(clat.log())
    router.say(pref64(OTHER_PLAT, 600), pref64(PLAT, 0))
    clat.wait_for(rf"clat: up: {OTHER_PLAT} \(from the router ", after=said)
    assert states(clat.log()[said:]) == [f"up {OTHER_PLAT}"], "never down in between"
    second = own_address(clat.log())
    begins = f"tcp and src {second} and dst net {OTHER_PLAT} and ip6[53] == 2"  # SYN
    seen = start_capture(gateway, "v6", begins, count=1)
    assert download.status is None, "it was going on"
    assert client.run("curl", "-sS", "-m", "10", WHOAMI).out.split()[0] == GATEWAY4
    assert seen.wait(5) == 0
    assert clat.status().values["clat"].startswith(f"up,{OTHER_PLAT},ra,{second},")
    assert clat.status().number("bugs") == 0
    assert proxies(client) == [second]
    assert first != second
    download.end()
