"""The script that sets up a peer, alone: what it does, and that it leaves nothing behind.

The host is that of scripted_peer.py. Snapshots of its whole network state are compared before and
after.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from ipaddress import IPv6Network

import pytest

from gateway.backhaul import peer_script
from gateway.backhaul.peer_script import HEARTBEAT, STOP
from tests.e2e.namespaces import Lab, Namespace, wait_until
from tests.e2e.script_session import wait_gone, wish
from tests.e2e.scripted_peer import (
    BLACKHOLE,
    POOL,
    VIA_LINK,
    Start,
    every_shell,
    forwarding,
    heard,
    routes,
    scripted_peer,
    scripted_sessions,
    state_of,
    wait_stage_1,
)
from tests.e2e.snapshot import difference, snapshot


@pytest.fixture
def peer(lab: Lab) -> Iterator[Namespace]:
    yield from scripted_peer(lab)


@pytest.fixture
def start(peer: Namespace) -> Iterator[Start]:
    yield from scripted_sessions(peer)


@every_shell
def test_sets_up_and_undoes_everything_at_the_word_stop(peer, start, shell) -> None:
    before = snapshot(peer)
    session = start(shell=shell)
    tap, mac, firewall, hop = session.ready()
    assert firewall == "nft"
    assert hop == "198.51.100.1"
    link = peer.ip("-o", "link", "show", "dev", tap)
    assert mac in link
    assert "mtu 1400" in link
    assert "169.254.7.1/30" in peer.ip("addr", "show", "dev", tap)
    assert "inet6" not in peer.ip("addr", "show", "dev", tap)
    assert f"{POOL} via 169.254.7.2 dev {tap}" in routes(peer)
    assert BLACKHOLE in routes(peer)
    assert f"ip saddr {POOL} masquerade" in peer.run("nft", "list", "ruleset").out
    assert [forwarding(peer, name) for name in (tap, "eth0", "lo", "all", "default")] == [
        *("1", "1", "0", "0", "0")
    ]
    session.say(STOP)
    assert session.line() == "GONE"
    session.kill()
    assert not difference(before, snapshot(peer))
    wait_gone(peer)


@every_shell
def test_both_stages_after_stdin_ends(peer, start, shell) -> None:
    before = snapshot(peer)
    session = start(wish(linger=4), shell=shell)
    session.ready()
    # Let one heartbeat be read: without any, nothing has flowed and nothing lingers.
    wait_until(lambda: (state_of(peer) / "beat").read_text() == "1\n", 5, "a heartbeat is heard")
    session.hang_up()
    wait_stage_1(peer)
    # What waits holds nothing of the connection open.
    assert session.line() == "<end>"
    assert BLACKHOLE in routes(peer)
    session.wait_killed()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


@every_shell
@pytest.mark.parametrize("how", ["kill sshd", "kill script", "hang script", "hang up", "silence"])
def test_every_end_of_the_connection_is_noticed(peer, start, shell, how) -> None:
    before = snapshot(peer)
    session = start(wish(linger=2), shell=shell)
    heard(peer, session)
    if how == "kill sshd":
        session.kill()
    elif how == "kill script":
        os.kill(session.script_pid(), signal.SIGKILL)
    elif how == "hang script":
        os.kill(session.script_pid(), signal.SIGSTOP)
    elif how == "hang up":  # as at the end of a terminal, to both of its processes
        os.killpg(session.script_pid(), signal.SIGHUP)
    if how != "kill sshd":
        session.wait_killed()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


def test_heartbeats_keep_it(peer, start) -> None:
    session = start(wish(heartbeat=2))
    heard(peer, session)
    seen = set()
    for _ in range(5):
        with pytest.raises(AssertionError, match="never"):
            wait_until(lambda: session.popen.poll() is not None, 0.8, "never")
        session.say(b"\n")
        seen.add((state_of(peer) / "beat").read_text())
    assert VIA_LINK in routes(peer)
    assert len(seen) > 2


def test_a_killed_keeper_is_replaced(peer, start) -> None:
    before = snapshot(peer)
    session = start(wish(linger=1))
    heard(peer, session)
    first = (state_of(peer) / "keeper").read_text()
    os.kill(int(first.split(":")[0]), signal.SIGKILL)

    def replaced() -> bool:
        # The first heartbeat may be read before the signal has done its work.
        session.say(HEARTBEAT)
        return (state_of(peer) / "keeper").read_text() not in {first, ""}

    wait_until(replaced, 15, "another")
    session.kill()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


def test_no_heartbeat_at_all_leaves_nothing_to_keep(peer, start) -> None:
    before = snapshot(peer)
    session = start()
    assert session.line().startswith("READY")
    session.hang_up()
    assert session.line() == "<end>"
    session.close()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


def test_a_script_that_arrives_half_does_nothing(peer, start, monkeypatch) -> None:
    before = snapshot(peer)
    whole = peer_script.script()
    monkeypatch.setattr(peer_script, "script", lambda: whole[: -len('main "$@"\n')])
    session = start()
    session.hang_up()
    assert session.line() == "<end>"
    session.close()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


def test_a_failure_half_way_is_undone(peer, start) -> None:
    before = snapshot(peer)
    session = start(wish(mtu=65535 * 2))
    assert session.line().startswith("FAIL ip link set dev tap0 mtu 131070: ")
    session.close()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


@every_shell
def test_carrying_ipv6(peer, start, shell) -> None:
    peer.sysctl(ipv6__conf__eth0__accept_ra=1)
    before = snapshot(peer)
    session = start(
        wish(pool4=(), carries="ipv6", clients6=(IPv6Network("2001:db8:7::/48"),)), shell=shell
    )
    tap, _, firewall, _, said = session.ready()
    assert firewall == "-"
    assert "accept_ra" in said
    assert "fe80::2/64" in peer.ip("-6", "addr", "show", "dev", tap)
    assert f"2001:db8:7::/48 via fe80::1 dev {tap}" in peer.ip("-6", "route")
    assert peer.sysctl_value("net.ipv6.conf.all.forwarding") == "1"
    assert peer.sysctl_value("net.ipv6.conf.eth0.accept_ra") == "2"
    assert forwarding(peer, "eth0") == "0"
    session.say(STOP)
    assert session.line() == "GONE"
    session.kill()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


def test_a_shared_connection_is_left_alone(peer, start) -> None:
    """With own=no sshd and its tap are somebody else's and stay, with nothing of ours on it."""
    session = start(own=False, tap="tap3")
    heard(peer, session)
    session.say(STOP)
    assert session.line() == "GONE"
    assert session.line() == "<end>"
    assert session.popen.poll() is None
    link = peer.ip("addr", "show", "dev", "tap3")
    assert "169.254" not in link
    assert forwarding(peer, "tap3") == "0"
    assert routes(peer).count("\n") == 2
