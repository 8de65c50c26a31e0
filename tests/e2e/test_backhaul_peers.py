"""Peers of all kinds: two of them, two gateways to one, without nft, with a firewall of their own.

client ──── gateway ═══╦═══ peer a ───┐
                       ║              ├── server
                       ╚═══ peer b ───┘
"""

from __future__ import annotations

import re
import signal
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest

from tests.e2e.backhaul_net import PEER4, BackhaulGateway, BackhaulNet, backhaul_net
from tests.e2e.namespaces import Lab, Namespace, wait_until
from tests.e2e.servers import start_http, write_random_file
from tests.e2e.topology import BASE, PREFIX, SERVER

PING = ("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", SERVER)


def seen_by_server(client: Namespace, port: int) -> str:
    url = f"http://[{SERVER}]:{port}/whoami"
    return client.run("curl", "-sS", "-m", "5", url).out.split()[0]


def test_fail_over_and_return_when_told(lab: Lab) -> None:
    net = backhaul_net(lab, peers="ab")
    http = start_http(net.server)
    for peer in net.peers.values():
        peer.start_sshd()
    before = {letter: peer.before() for letter, peer in net.peers.items()}
    gateway = BackhaulGateway(net, to=["root@peer-a", "root@peer-b"], linger=1).start_up()
    assert gateway.backhaul().startswith("up,root@peer-a,")
    assert seen_by_server(net.client, http.port) == PEER4["a"]

    net.cut("a")
    gateway.wait_up(15, to="root@peer-b")
    assert seen_by_server(net.client, http.port) == PEER4["b"]
    # The first peer has undone everything by itself meanwhile.
    net.peers["a"].wait_untouched(before["a"], 15)

    # It does not return by itself.
    net.mend("a")
    position = len(gateway.log())
    net.client.run(*PING)
    assert gateway.backhaul().startswith("up,root@peer-b,")

    gateway.process.send(signal.SIGUSR2)
    gateway.wait_up(15, to="root@peer-a")
    assert seen_by_server(net.client, http.port) == PEER4["a"]
    assert "peer-a" in gateway.log()[position:]
    # Left for the first one, which might not have been there, the second undoes it after `linger`.
    net.peers["b"].wait_untouched(before["b"], 15)
    gateway.stop_cleanly()
    for letter, peer in net.peers.items():
        peer.wait_untouched(before[letter], 2)


def test_return_after_a_time(lab: Lab) -> None:
    net = backhaul_net(lab, peers="ab")
    net.peers["b"].start_sshd()
    gateway = BackhaulGateway(net, to=["root@peer-a", "root@peer-b"], return_after=2)
    gateway.start()
    gateway.wait_up(15, to="root@peer-b")
    net.peers["a"].start_sshd()
    gateway.wait_up(20, to="root@peer-a")
    net.client.run(*PING)
    gateway.stop_cleanly()


def _holds(file: Path, size: int) -> bool:
    return file.stat().st_size > size


def test_returning_to_a_peer_that_is_not_there_costs_no_connection(lab: Lab) -> None:
    """The second peer is left for half a second, again and again, with data on the way."""
    net = backhaul_net(lab, peers="ab")
    net.peers["b"].start_sshd()
    to = ["root@peer-a", "root@peer-b"]
    gateway = BackhaulGateway(net, to=to, return_after=2, linger=60)
    gateway.start()
    gateway.wait_up(15, to="root@peer-b")
    http = start_http(net.server)
    write_random_file(http.folder / "big", 60_000_000)
    copy = net.lab.new_file("copy")
    download = net.client.start(
        *("curl", "-sS", "--limit-rate", "2M", "-o", str(copy)),
        f"http://[{SERVER}]:{http.port}/big",
    )
    wait_until(lambda: copy.exists() and copy.stat().st_size > 1_000_000, 10, "it begins")
    for _ in range(2):
        position = len(gateway.log())
        gateway.process.wait_for("returning to the first destination", 15, after=position)
        gateway.wait_up(15, to="root@peer-b")
        wanted = copy.stat().st_size + 500_000
        wait_until(partial(_holds, copy, wanted), 20, "it goes on")
    assert download.status is None, "it was to outlast all of this"
    gateway.stop_cleanly()


def second_gateway(net: BackhaulNet, lab: Lab) -> tuple[Namespace, Namespace]:
    """A client and a gateway like the first ones, on the same router."""
    client, gateway = lab.namespace("client2"), lab.namespace("gateway2")
    gateway.sysctl(
        ipv4__ip_forward=0, ipv4__conf__all__rp_filter=0, ipv4__conf__default__rp_filter=0
    )
    lab.link(client, "v6", gateway, "v6", 1500)
    client.ip("addr", "add", "fd00:65::2/64", "dev", "v6", "nodad")
    gateway.ip("addr", "add", "fd00:65::1/64", "dev", "v6", "nodad")
    client.ip("-6", "route", "add", PREFIX, "via", "fd00:65::1", "dev", "v6")
    lab.link(gateway, "wan", net.router, "gw2", 1500)
    gateway.ip("addr", "add", "fd00:65:1::1/64", "dev", "wan", "nodad")
    net.router.ip("addr", "add", "fd00:65:1::2/64", "dev", "gw2", "nodad")
    gateway.ip("-6", "route", "add", "default", "via", "fd00:65:1::2", "dev", "wan")
    return client, gateway


def test_two_gateways_with_the_default_pool(lab: Lab) -> None:
    """Both would be 192.0.0.6: the second is refused by name or takes another address."""
    net = backhaul_net(lab)
    net.peer.start_sshd()
    before = net.peer.before()
    client2, host2 = second_gateway(net, lab)
    first = BackhaulGateway(net, name="first").start_up()
    second = BackhaulGateway(net, name="second", namespace=host2)
    second.start()
    flood = net.client.start("ping", "-n", "-i", "0.05", "-c", "60", "-W", "2", SERVER)

    def decided() -> bool:
        return second.is_up() or bool(
            re.search(
                r"backhaul: .*192\.0\.0\.6.*pool4|backhaul: .*pool4.*192\.0\.0\.6", second.log()
            )
        )

    wait_until(decided, 15, f"it is up or says why not: {second.log()}")
    if second.is_up():
        client2.run(*PING)
    assert flood.wait(10) == 0
    assert " 0% packet loss" in flood.log(), "the first was disturbed"
    second.stop_cleanly()
    net.client.run(*PING)
    first.stop_cleanly()
    net.peer.wait_untouched(before, 2)


def test_a_gateway_made_anew_under_another_name_gets_its_pool_back(lab: Lab) -> None:
    """As a container is: killed, and started with another machine-id and namespace."""
    net = backhaul_net(lab)
    net.peer.start_sshd()
    before = net.peer.before()
    client2, host2 = second_gateway(net, lab)
    first = BackhaulGateway(net, name="first", linger=5).start_up()
    first.kill()
    wait_until(lambda: "192.0.0.6 via" not in net.peer.namespace.ip("route"), 6, "it lingers")
    second = BackhaulGateway(net, name="second", namespace=host2)
    second.start()
    said = second.wait_for(r"backhaul: down: .*is kept here for .*")
    assert re.search(
        r"at most 5 s \(kill \d+ ends that\): wait, or set pool4 to 192\.0\.0\.5", said
    )
    # Tried all the time, not once a minute as what only a person can mend.
    second.wait_up(20)
    client2.run(*PING)
    assert len(re.findall("is kept here", second.story())) == 1
    second.stop_cleanly()
    net.peer.wait_untouched(before, 2)


def test_two_gateways_with_pools_of_their_own(lab: Lab) -> None:
    net = backhaul_net(lab)
    net.peer.start_sshd()
    before = net.peer.before()
    client2, host2 = second_gateway(net, lab)
    first = BackhaulGateway(
        net, "--pool4", "192.168.61.1", name="first", masquerade=True
    ).start_up()
    second = BackhaulGateway(
        net,
        *("--pool4", "192.168.62.1"),
        name="second",
        namespace=host2,
        masquerade=True,
        linger=1,
    ).start_up()
    for client in (net.client, client2):
        client.run(*PING)
    # One goes, by itself and alone.
    first.stop_cleanly()
    client2.run(*PING)
    first.start_up()
    second.kill()
    wait_until(
        lambda: "192.168.62.1 via" not in net.peer.namespace.ip("route"), 6, "the other lingers"
    )
    net.client.run(*PING)
    first.stop_cleanly()
    net.peer.wait_untouched(before, 8)


def test_pool_that_is_routed_to_the_peer(lab: Lab) -> None:
    """Public addresses: nothing is masqueraded, the server sees the pool itself."""
    net = backhaul_net(lab)
    http = start_http(net.server)
    net.peer.start_sshd()
    net.server.ip("route", "add", "198.51.100.8/29", "via", PEER4["a"])
    before = net.peer.before()
    gateway = BackhaulGateway(net, "--pool4", "198.51.100.8/29").start_up()
    assert ip_address(seen_by_server(net.client, http.port)) in {
        ip_address(f"198.51.100.{n}") for n in range(8, 16)
    }
    assert "masquerade" not in net.peer.ruleset()
    gateway.stop_cleanly()
    net.peer.wait_untouched(before, 2)


def test_peer_without_nft(lab: Lab) -> None:
    net = backhaul_net(lab, hide=["nft"])
    net.peer.start_sshd()
    # iptables keeps its own tables once it was used; a rule of somebody else is in one.
    net.peer.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.9.9.9", "-j", "ACCEPT")
    for table in ("filter", "mangle"):
        net.peer.run("iptables", "-t", table, "-N", "mine")
    before = net.peer.before()
    gateway = BackhaulGateway(net, linger=1).start_up()
    net.client.run(*PING)
    shown = net.peer.run("iptables", "-t", "nat", "-S").out
    assert re.search(r"-A \S+ .*--comment \"?tap64-\S+ .*-j MASQUERADE", shown), shown
    gateway.stop_cleanly()
    net.peer.wait_untouched(before, 2)
    gateway.start_up()
    gateway.kill()
    net.peer.wait_untouched(before, 10)


def test_peer_with_neither_nft_nor_iptables(lab: Lab) -> None:
    net = backhaul_net(lab, hide=["nft", "iptables", "iptables-nft", "iptables-legacy"])
    net.peer.start_sshd()
    before = net.peer.before()
    gateway = BackhaulGateway(net)
    gateway.start()
    gateway.wait_for(
        r"(?i)backhaul: .*\bnft\b.*install|backhaul: .*install.*\bnft|backhaul: .*neither.*nft"
    )
    assert not gateway.is_up()
    gateway.stop_cleanly()
    net.peer.wait_untouched(before, 2)


@pytest.mark.parametrize("hidden", [(), ("nft",)], ids=["nft", "iptables"])
def test_peer_that_forwards_nothing(lab: Lab, hidden: tuple[str, ...]) -> None:
    """A policy of drop, as Docker and ufw set it: the link answers, nothing passes."""
    net = backhaul_net(lab, hide=hidden)
    net.peer.start_sshd()
    net.peer.run("iptables", "-P", "FORWARD", "DROP")
    net.peer.run("iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.9.9.9", "-j", "ACCEPT")
    before = net.peer.before()
    gateway = BackhaulGateway(net)
    gateway.start()
    gateway.wait_for(
        r"(?i)backhaul: .*forward.*(drop|policy)|backhaul: .*(drop|policy).*forward", 15
    )
    named = re.findall(r"(?i)^.*backhaul: .*forward.*$", gateway.log(), re.M)
    assert any(re.search(r"\b(iptables|nft|ufw)\b", line) for line in named), named
    # It is true.
    assert net.client.run(*PING, check=False).status != 0
    # And it is over when the peer's administrator has done what was said.
    net.peer.run("iptables", "-P", "FORWARD", "ACCEPT")
    wait_until(
        lambda: net.client.run(*PING[:-1], SERVER, check=False).status == 0, 20, "it forwards"
    )
    net.peer.run("iptables", "-P", "FORWARD", "DROP")
    gateway.stop_cleanly()
    net.peer.wait_untouched(before, 2)


def test_servers_address_in_the_other_layout(lab: Lab) -> None:
    """Addresses as a DNS64 makes them, and a prefix of /96, take the same way."""
    net = backhaul_net(lab)
    net.peer.start_sshd()
    net.client.ip("-6", "route", "add", "fd00:6464::/96", "via", "fd00:64::1")
    gateway = BackhaulGateway(net, "--prefix", PREFIX, "--prefix", "fd00:6464::/96").start_up()
    for address in (SERVER, "fec0:0:0:ffff:c0:2:100:0", "fd00:6464::192.0.2.1"):
        assert "2 received" in net.client.run(*PING[:-1], address).out, (
            f"{BASE} is not the only form"
        )
    gateway.stop_cleanly()
