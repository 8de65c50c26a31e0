"""The peer's script among what others do to the peer meanwhile; see test_backhaul_peer_script.py.

stand-in for sshd ── tap ── peer ── eth0 ──── router 198.51.100.1
                               198.51.100.2
"""

from __future__ import annotations

from ipaddress import IPv4Interface, IPv4Network

import pytest

from gateway.backhaul.peer_script import HEARTBEAT, STOP
from tests.e2e.namespaces import Lab, wait_until
from tests.e2e.script_session import SHELLS, Session, processes, wait_gone, wish
from tests.e2e.snapshot import difference, snapshot

pytestmark = pytest.mark.parametrize("shell", list(SHELLS))


@pytest.fixture
def peer(lab: Lab):
    peer, router = lab.namespace("peer"), lab.namespace("router")
    lab.link(peer, "eth0", router, "eth0", 1500)
    peer.ip("addr", "add", "198.51.100.2/24", "dev", "eth0")
    peer.ip("route", "add", "default", "via", "198.51.100.1")
    router.ip("addr", "add", "198.51.100.1/24", "dev", "eth0")
    return peer


@pytest.fixture
def start(peer):
    started: list[Session] = []

    def start_session(*arguments, **keywords) -> Session:
        started.append(Session(peer, *arguments, **keywords))
        return started[-1]

    yield start_session
    for session in started:
        session.close()
    wait_until(lambda: not processes(peer), 20, "the script's processes are gone")


def test_a_firewall_loaded_anew_gets_the_masquerade_back(peer, start, shell) -> None:
    before = snapshot(peer)
    session = start(wish(heartbeat=30, linger=0), shell=shell)
    session.ready()
    peer.run("nft", "flush", "ruleset")

    def masquerades() -> bool:
        session.say(HEARTBEAT)
        return "ip saddr 192.0.0.6 masquerade" in peer.run("nft", "list", "ruleset").out

    wait_until(masquerades, 10, "the masquerade is back")
    session.say(STOP)
    assert session.line() == "GONE"
    session.kill()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


def test_rules_of_iptables_come_back_once(peer, start, shell) -> None:
    session = start(wish(heartbeat=30, linger=0), shell=shell, hidden=["nft"])
    assert session.ready()[2] == "ipt"
    peer.run("iptables", "-w", "-t", "nat", "-F", "POSTROUTING")

    def rules() -> int:
        session.say(HEARTBEAT)
        return peer.run("iptables", "-w", "-t", "nat", "-S", "POSTROUTING").out.count("tap64-test")

    wait_until(lambda: rules() == 1, 10, "the rule is back")
    for _ in range(12):
        rules()
    session.say(STOP)
    assert session.line() == "GONE"
    session.kill()
    wait_gone(peer)
    assert rules() == 0


def test_a_refused_pool_comes_with_a_free_one(peer, start, shell) -> None:
    first = start(wish(linger=0), shell=shell)
    first.ready()
    peer.ip("addr", "add", "192.0.0.5/32", "dev", "lo")
    peer.ip("route", "add", "192.0.0.4/32", "via", "198.51.100.1")
    second = start(
        wish(
            pool4=(IPv4Network("192.0.0.6/32"),),
            tag="tap64-other",
            local4=IPv4Interface("169.254.9.2/30"),
            remote4=IPv4Interface("169.254.9.1/30"),
        ),
        shell=shell,
    )
    assert second.line() == "FAIL pool 192.0.0.6/32 is used here by tap64-test"
    assert second.line() == "FREE 192.0.0.3"
    first.say(STOP)
    assert first.line() == "GONE"
