"""The peer's script on hosts of all kinds: addresses in use, firewalls, no root, no tunnel.

The host is that of scripted_peer.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network

import pytest

from gateway.backhaul.peer_script import STOP
from tests.e2e.namespaces import Lab, Namespace, wait_until
from tests.e2e.script_session import Session, wait_gone, wish
from tests.e2e.scripted_peer import (
    VIA_LINK,
    Start,
    every_shell,
    heard,
    routes,
    scripted_peer,
    scripted_sessions,
)
from tests.e2e.snapshot import difference, snapshot


@pytest.fixture
def peer(lab: Lab) -> Iterator[Namespace]:
    yield from scripted_peer(lab)


@pytest.fixture
def start(peer: Namespace) -> Iterator[Start]:
    yield from scripted_sessions(peer)


@pytest.mark.parametrize(
    "in_the_way",
    [
        ("addr", "add", "169.254.7.2/24", "dev", "eth0"),
        ("addr", "add", "169.254.7.1/32", "dev", "lo"),
        ("route", "add", "169.254.7.1/32", "via", "198.51.100.1"),
    ],
)
def test_a_taken_link_address_is_named(peer, start, in_the_way) -> None:
    peer.ip(*in_the_way)
    before = snapshot(peer)
    session = start()
    assert session.line().startswith("FAIL link address 169.254.7.1 is taken here: ")
    session.close()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


@pytest.mark.parametrize(
    ("in_the_way", "said"),
    [
        (("addr", "add", "192.0.0.6/32", "dev", "lo"), "is an address of this host: "),
        (("route", "add", "192.0.0.6/32", "via", "198.51.100.1"), "is routed here already: "),
    ],
)
def test_a_pool_that_the_peer_uses_itself_is_refused(peer, start, in_the_way, said) -> None:
    peer.ip(*in_the_way)
    before = snapshot(peer)
    session = start()
    assert session.line().startswith(f"FAIL pool 192.0.0.6/32 {said}")
    session.close()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


def masquerade_rules(peer: Namespace) -> list[str]:
    rules = peer.run("iptables", "-t", "nat", "-S", "POSTROUTING").out
    return [line for line in rules.splitlines() if line.startswith("-A")]


@every_shell
def test_iptables_only(peer, start, shell) -> None:
    hidden = ["nft"]
    pool4 = (IPv4Network("192.0.0.6/32"), IPv4Network("198.18.0.0/24"))
    first = start(wish(pool4=pool4), shell=shell, hidden=hidden)
    heard(peer, first)
    rules = masquerade_rules(peer)
    assert len(rules) == 2
    for line in rules:
        assert "tap64-test" in line
        assert "MASQUERADE" in line
    first.kill()
    wait_until(lambda: "169.254.7" not in peer.ip("addr"), 15, "the link's address is gone")
    second = start(wish(pool4=pool4), shell=shell, hidden=hidden)
    assert second.ready()[2] == "ipt"
    assert masquerade_rules(peer) == rules
    second.say(STOP)
    assert second.line() == "GONE"
    second.kill()
    wait_gone(peer)
    assert masquerade_rules(peer) == []
    assert routes(peer).count("\n") == 2


@every_shell
def test_nft_only(peer, start, shell) -> None:
    session = start(shell=shell, hidden=["iptables"])
    assert session.ready()[2] == "nft"


@every_shell
def test_neither_is_named_where_it_is_wanted(peer, start, shell) -> None:
    before = snapshot(peer)
    session = start(shell=shell, hidden=["nft", "iptables"])
    assert session.line() == ("FAIL cannot masquerade, neither nft nor iptables is installed here")
    session.close()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))
    routed = start(wish(masquerade=False), shell=shell, hidden=["nft", "iptables"])
    assert routed.ready()[2] == "-"
    assert VIA_LINK in routes(peer)


@every_shell
def test_not_root(peer, start, shell) -> None:
    session = start(shell=shell, uid=65534)
    assert session.line().startswith("FAIL not root here (uid 65534)")


def test_no_tunnel(start) -> None:
    assert start(tap="-").line().startswith("FAIL no tunnel")


def test_point_to_point(start) -> None:
    assert start(tap="tun0").line().startswith("FAIL the tunnel is point-to-point (tun0)")


def test_a_tap_that_is_not_there(start) -> None:
    assert start(tap="no7").line() == "FAIL sshd says no7, but there is no such device here"


def test_forwarding_that_was_on_stays_on(peer, start) -> None:
    peer.sysctl(ipv4__ip_forward=1)
    before = snapshot(peer)
    session = start()
    session.ready()
    session.say(STOP)
    assert session.line() == "GONE"
    session.kill()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


def notes(session: Session) -> str:
    fields = session.ready()
    return fields[4] if len(fields) > 4 else ""


def test_nothing_to_note(start) -> None:
    assert notes(start()) == ""


def test_a_forward_policy_of_nftables_is_noted(peer, start) -> None:
    peer.run(
        "nft",
        "add table inet fw; add chain inet fw forwards"
        " { type filter hook forward priority 0; policy drop; }",
    )
    assert "policy drop here (nft inet fw forwards)" in notes(start())


def test_a_forward_policy_of_ipv6_is_none_of_ours(peer, start) -> None:
    peer.run(
        "nft",
        "add table ip6 fw; add chain ip6 fw forwards"
        " { type filter hook forward priority 0; policy drop; }"
        "; add table inet other; add chain inet other inputs"
        " { type filter hook input priority 0; policy drop; }",
    )
    assert notes(start()) == ""


def test_a_forward_policy_of_iptables_is_noted(peer, start) -> None:
    peer.run("iptables", "-P", "FORWARD", "DROP")
    assert "policy drop here (iptables FORWARD)" in notes(start(hidden=["nft"]))


def test_no_default_route_is_noted(peer, start) -> None:
    peer.ip("route", "del", "default")
    session = start()
    fields = session.ready()
    assert fields[3] == "-"
    assert fields[4] == "no IPv4 default route here"
