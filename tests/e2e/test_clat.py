"""464XLAT (RFC 6877) with our own CLAT and our own NAT64: IPv4 programs on an IPv6-only host.

    lanhost ──(lan0)── client ───v6──── (r6a ───) gateway ──── r4a ──── server
    192.168.7.5        --mode clat                NAT64                 192.0.2.1
                       192.0.0.1, fd00:64::…      PLAT                  IPv4 only

What runs on the client says `192.0.2.1`; the server sees 203.0.113.1, the NAT64's address.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Network

import pytest

from gateway.clat.address import is_neutral
from tests.e2e.clat_net import (
    CLAT,
    OTHER_PLAT,
    PLAT,
    UP,
    WHOAMI,
    add_default,
    default4,
    network,
    own_address,
    proxies,
    say_until,
)
from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import EXIT_HOST, Gateway
from tests.e2e.namespaces import Lab, wait_until
from tests.e2e.router_words import Router
from tests.e2e.servers import (
    HTTP_PORT,
    HttpServer,
    sha256_of,
    start_dns,
    start_http,
    write_random_file,
)
from tests.e2e.snapshot import difference, snapshot
from tests.e2e.topology import GATEWAY4, GATEWAY6, SERVER4, Topology, gateway_host

HUNDRED_MB = 100_000_000

Crossing = tuple[Topology, Gateway, HttpServer]


@pytest.fixture(scope="module")
def crossing(module_lab: Lab) -> Iterator[Crossing]:
    """Everything with a narrow link behind the first router; for tests that change nothing."""
    topology = network(module_lab, mtus6=(1500, 1400))
    plat = Gateway(topology.gateway, "--prefix", PLAT, name="plat").start()
    before = snapshot(topology.client)
    clat = Gateway(topology.client, *CLAT, "--prefix", PLAT, name="clat").start()
    clat.wait_for(UP)
    http = start_http(topology.server)
    yield topology, clat, http
    clat.stop_cleanly()
    assert difference(before, snapshot(topology.client)) == ""
    plat.stop_cleanly()


def test_the_state_is_told(crossing: Crossing) -> None:
    topology, clat, _ = crossing
    address = own_address(clat.log())
    assert is_neutral(address, IPv6Network(PLAT), IPv4Address("192.0.0.1"))
    assert clat.status().values["clat"] == f"up,{PLAT},config,{address},v6"
    assert re.search(
        r"default via 192\.0\.0\.8 dev tap0 .*src 192\.0\.0\.1 metric 2048 .*mtu 1480",
        default4(topology.client),
    )


def test_curl_of_an_ipv4_literal(crossing: Crossing) -> None:
    topology, _, _ = crossing
    seen = topology.client.run("curl", "-sS", "-m", "10", WHOAMI).out
    assert seen.split()[0] == GATEWAY4


def test_hundred_mb_each_way_with_a_checksum(crossing: Crossing) -> None:
    topology, clat, http = crossing
    digest = write_random_file(http.folder / "down", HUNDRED_MB)
    url = f"http://{SERVER4}:{HTTP_PORT}"
    got = topology.lab.new_file("got")
    topology.client.run("curl", "-sS", "-m", "25", "-o", str(got), f"{url}/down", timeout=30)
    assert sha256_of(got) == digest
    topology.client.run("curl", "-sS", "-m", "25", "-T", str(got), f"{url}/up", timeout=30)
    assert sha256_of(http.folder / "up") == digest
    assert clat.status().number("fast") > 500


def test_udp(crossing: Crossing) -> None:
    topology, _, _ = crossing
    dns = start_dns(topology.server, SERVER4)
    try:
        question = ("dig", f"@{SERVER4}", "+time=2", "+tries=2", "+short")
        assert topology.client.run(*question, "www.example.", "A").status == 0
    finally:
        dns.end()


def test_ping_and_traceroute(crossing: Crossing) -> None:
    topology, _, _ = crossing
    client = topology.client
    assert " 0% packet loss" in client.run("ping", "-n", "-c", "3", "-i", "0.2", SERVER4).out
    route = client.run("traceroute", "-n", "-q", "1", "-w", "2", SERVER4).out
    hops = re.findall(r"^ *\d+  ([\d.]+) ", route, re.MULTILINE)
    assert hops[0] == "192.0.0.8", route
    assert "203.0.113.2" in hops, route
    assert hops[-1] == SERVER4, route


def test_a_narrow_link_of_the_ipv6_network_is_found(crossing: Crossing) -> None:
    topology, _, _ = crossing
    client = topology.client
    too_large = ("ping", "-n", "-M", "do", "-s", "1452", "-c", "1", "-W", "2", SERVER4)
    assert "mtu" in client.run(*too_large, check=False).text  # what the route carries
    wait_until(
        lambda: (
            client.run(*too_large, check=False) and "mtu 1380" in client.ip("route", "get", SERVER4)
        ),
        5,
        "the kernel knows the path MTU, 20 less than 1400",
    )


def test_the_prefix_comes_from_a_router_and_goes_with_it(
    lab: Lab, start_gateway: StartGateway
) -> None:
    topology = network(lab, default=False)
    client = topology.client
    client.ip("addr", "del", "fd00:64::2/64", "dev", "v6")
    client.sysctl(ipv6__conf__v6__accept_ra=1)
    clat = start_gateway(client, *CLAT, name="clat")
    clat.wait_for("clat: down: there is no IPv6 default route")
    options = (
        *("--prefix", PLAT, "--advertise", "v6"),
        *("--set", "advertise.default_router=true"),
        *("--set", 'advertise.prefixes=["fd00:64::/64"]'),
    )
    # The host became no router before it had heard one, or it would not hear one now.
    assert client.sysctl_value("net.ipv6.conf.all.forwarding") == "0"
    plat = start_gateway(topology.gateway, *options, name="plat")
    clat.wait_for(rf"clat: up: {PLAT} \(from the router fe80::[0-9a-f:]+\) by way of v6")
    client.run("ping", "-n", "-c", "1", "-W", "3", SERVER4)
    assert client.sysctl_value("net.ipv6.conf.v6.accept_ra") == "2"
    said = len(clat.log())
    plat.stop_cleanly()
    clat.wait_for("clat: down: ", after=said)
    assert default4(client) == ""
    start_gateway(topology.gateway, *options, name="plat")
    clat.wait_for(UP, after=said)
    client.run("ping", "-n", "-c", "1", "-W", "3", SERVER4)


def test_a_router_is_preferred_to_the_dns_and_another_prefix_is_followed(
    lab: Lab, start_gateway: StartGateway
) -> None:
    topology = network(lab)
    listen = f'dns64.listen=["{GATEWAY6}"]'
    dns = start_gateway(
        *(topology.gateway, "--prefix", PLAT, "--dns64", "--set", listen), name="plat"
    )
    resolver = f'clat.resolvers=["{GATEWAY6}"]'
    clat = start_gateway(topology.client, *CLAT, "--set", resolver, name="clat")
    clat.wait_for(rf"clat: up: {PLAT} \(from the DNS\)")
    first = own_address(clat.log())
    topology.client.run("ping", "-n", "-c", "1", "-W", "3", SERVER4)
    said = len(clat.log())
    dns.stop_cleanly()
    options = ("--prefix", OTHER_PLAT, "--advertise", "v6")
    start_gateway(topology.gateway, *options, name="other")
    clat.wait_for(rf"clat: up: {OTHER_PLAT} \(from the router ", after=said)
    assert own_address(clat.log()) != first
    topology.client.run("ping", "-n", "-c", "1", "-W", "3", SERVER4)
    wait_until(lambda: proxies(topology.client) == [own_address(clat.log())], 3, "one is defended")


def test_the_uplink_goes_down_and_comes_up(lab: Lab, start_gateway: StartGateway) -> None:
    topology = network(lab)
    client = topology.client
    start_gateway(topology.gateway, "--prefix", PLAT, name="plat")
    clat = start_gateway(client, *CLAT, "--prefix", PLAT, name="clat")
    clat.wait_for(UP)
    address = own_address(clat.log())
    said = len(clat.log())
    client.ip("link", "set", "v6", "down")
    clat.wait_for("clat: down: there is no IPv6 default route", after=said)
    assert default4(client) == ""
    assert client.sysctl_value("net.ipv6.conf.all.forwarding") == "0"
    said = len(clat.log())
    client.ip("link", "set", "v6", "up")
    client.ip("addr", "add", "fd00:64::2/64", "dev", "v6", "nodad")
    add_default(client)
    clat.wait_for(UP, after=said)
    assert own_address(clat.log()) == address, "the same /64, the same address"
    client.run("ping", "-n", "-c", "1", "-W", "3", SERVER4)


def test_what_somebody_takes_away_is_put_back(lab: Lab, start_gateway: StartGateway) -> None:
    topology = network(lab)
    client = topology.client
    clat = start_gateway(client, *CLAT, "--prefix", PLAT, name="clat")
    clat.wait_for(UP)
    address = own_address(clat.log())
    client.ip("-6", "neigh", "del", "proxy", str(address), "dev", "v6")
    client.ip("route", "del", "default")
    wait_until(lambda: "metric 2048" in default4(client), 5, "the route is back")
    wait_until(lambda: proxies(client) == [address], 5, "the address is defended again")


def test_the_address_is_defended(lab: Lab, start_gateway: StartGateway) -> None:
    topology = network(lab)
    clat = start_gateway(topology.client, *CLAT, "--prefix", PLAT, name="clat")
    clat.wait_for(UP)
    router = topology.gateway
    router.sysctl(ipv6__conf__v6__accept_dad=1, ipv6__conf__all__accept_dad=1)
    router.ip("addr", "add", f"{own_address(clat.log())}/64", "dev", "v6")
    wait_until(
        lambda: "dadfailed" in router.ip("addr", "show", "dev", "v6"),
        5,
        "duplicate address detection of somebody else fails",
    )


def test_who_takes_the_address_later_is_named(lab: Lab, start_gateway: StartGateway) -> None:
    topology = network(lab)
    clat = start_gateway(topology.client, *CLAT, "--prefix", PLAT, name="clat")
    clat.wait_for(UP)
    address = own_address(clat.log())
    other = Router(topology.gateway, "v6")
    said = f"warning: clat: {other.address} on v6 says to have {address}, which is the CLAT's"
    # It may not listen yet when it says that it is up.
    say_until(lambda: other.send(other.claim(str(address))), clat, said)
    assert clat.log().count("says to have") == 1


def test_an_address_that_somebody_has_is_not_taken(lab: Lab, start_gateway: StartGateway) -> None:
    topology = network(lab)
    plat = start_gateway(topology.gateway, "--prefix", PLAT, name="plat")
    plat.wait_for("ready")
    clat = start_gateway(topology.client, *CLAT, "--prefix", PLAT, name="clat")
    clat.wait_for(UP)
    first = own_address(clat.log())
    clat.stop_cleanly()
    topology.gateway.ip("addr", "add", f"{first}/128", "dev", "v6", "nodad")
    clat.start()
    clat.wait_for(f"clat: somebody else on v6 has {first}: not taken")
    clat.wait_for(UP)
    second = own_address(clat.log())
    assert second != first
    assert is_neutral(second, IPv6Network(PLAT), IPv4Address("192.0.0.1"))
    assert proxies(topology.client) == [second]
    topology.client.run("ping", "-n", "-c", "1", "-W", "3", SERVER4)


def test_a_reload_keeps_it_up_and_a_deleted_device_ends_it(
    lab: Lab, start_gateway: StartGateway
) -> None:
    topology = network(lab)
    client = topology.client
    start_gateway(topology.gateway, "--prefix", PLAT, name="plat")
    before = snapshot(client)
    clat = start_gateway(client, *CLAT, "--prefix", PLAT, name="clat")
    clat.wait_for(UP)
    clat.configure('mss_clamp = "off"\nclat.metric = 7\n')
    said = clat.reload()
    clat.wait_for("clat.metric cannot change while the gateway runs", after=said)
    clat.wait_for("re-read: mss_clamp", after=said)
    client.run("ping", "-n", "-c", "1", "-W", "3", SERVER4)
    assert "clat: down" not in clat.log()
    client.ip("link", "del", "tap0")
    assert clat.process.wait(10) == EXIT_HOST
    assert difference(before, snapshot(client)) == ""


def test_it_steps_aside_for_native_ipv4_and_comes_back(
    lab: Lab, start_gateway: StartGateway
) -> None:
    topology = network(lab)
    client = topology.client
    lab.link(lab.namespace("isp"), "out", client, "native", 1500)
    client.ip("addr", "add", "198.51.100.2/24", "dev", "native")
    start_gateway(topology.gateway, "--prefix", PLAT, name="plat")
    before = snapshot(client)
    clat = start_gateway(client, *CLAT, "--prefix", PLAT, name="clat")
    clat.wait_for(UP)
    said = len(clat.log())
    # A worse metric than ours: whoever has native IPv4 shall use it all the same.
    client.ip("route", "add", "default", "via", "198.51.100.1", "dev", "native", "metric", "20000")
    clat.wait_for("clat: standby: there is native IPv4 by way of native", after=said)
    assert "tap0" not in default4(client)
    assert "192.0.0.1" not in client.ip("-4", "addr")
    assert clat.status().values["clat"] == "standby"
    said = len(clat.log())
    client.ip("route", "del", "default", "dev", "native")
    clat.wait_for(UP, after=said)
    client.run("ping", "-n", "-c", "1", "-W", "3", SERVER4)
    clat.stop_cleanly()
    assert difference(before, snapshot(client)) == ""


def test_an_ipv4_lan_behind_it(lab: Lab, start_gateway: StartGateway) -> None:
    topology = network(lab)
    client = topology.client
    shared, mapped = lab.namespace("shared"), lab.namespace("mapped")
    client.ip("link", "add", "lan0", "type", "bridge")
    client.ip("addr", "add", "192.168.7.1/24", "dev", "lan0")
    client.ip("link", "set", "lan0", "up")
    for number, host in ((4, shared), (5, mapped)):
        lab.link(host, "eth0", client, f"port{number}", 1500)
        client.ip("link", "set", f"port{number}", "master", "lan0")
        host.ip("addr", "add", f"192.168.7.{number}/24", "dev", "eth0")
        host.ip("route", "add", "default", "via", "192.168.7.1")
    http = start_http(topology.server)
    plat = start_gateway(topology.gateway, "--prefix", PLAT, name="plat")
    before = snapshot(client)
    clat = start_gateway(
        *(client, *CLAT, "--prefix", PLAT),
        config='[clat]\nlan = ["lan0"]\nhosts = ["192.168.7.5"]\n',
        name="clat",
    )
    clat.wait_for(UP)
    assert client.sysctl_value("net.ipv4.ip_forward") == "0", "other interfaces forward nothing"
    for number, host in enumerate((client, shared, mapped)):
        assert host.run("curl", "-sS", "-m", "10", WHOAMI).out.split()[0] == GATEWAY4
        # Only what is mapped one by one is another client of the NAT64.
        assert plat.status().number("clients") == (2 if number == 2 else 1)
    assert len(proxies(client)) == 2
    digest = write_random_file(http.folder / "file", 5_000_000)
    for host in (shared, mapped):
        got = lab.new_file("got")
        url = f"http://{SERVER4}:{HTTP_PORT}/file"
        host.run("curl", "-sS", "-m", "20", "-o", str(got), url)
        assert sha256_of(got) == digest
    clat.stop_cleanly()
    assert difference(before, snapshot(client)) == ""


@pytest.mark.parametrize("way", ["undo", "next start"])
def test_what_a_killed_one_leaves_is_undone(
    way: str, lab: Lab, start_gateway: StartGateway
) -> None:
    topology = network(lab)
    client = topology.client
    client.ip("link", "add", "lan0", "type", "bridge")
    before = snapshot(client)
    clat = start_gateway(
        *(client, *CLAT, "--prefix", PLAT), config='clat.lan = ["lan0"]\n', name="clat"
    )
    clat.wait_for(UP)
    address = own_address(clat.log())
    assert clat.stop(signal.SIGKILL) == -signal.SIGKILL
    assert proxies(client) == [address]
    if way == "undo":
        assert clat.undo().status == 0
    else:
        clat.start()
        clat.wait_for(UP)
        assert own_address(clat.log()) == address, "the same after a restart"
        clat.stop_cleanly()
    assert difference(before, snapshot(client)) == ""


def test_a_second_clat_is_refused(lab: Lab) -> None:
    client = gateway_host(lab)
    client.ip("addr", "add", "192.0.0.1/32", "dev", "lo")
    before = snapshot(client)
    result = Gateway(client, *CLAT).run()
    assert result.status == EXIT_HOST
    assert "192.0.0.1 is an address of lo already" in result.err
    assert difference(before, snapshot(client)) == ""
