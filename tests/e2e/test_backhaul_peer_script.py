"""The script that sets up a peer, alone: what it does, and that it leaves nothing behind.

    stand-in for sshd ── tap ── peer ── eth0 ──── router 198.51.100.1
                                   198.51.100.2

Snapshots of the peer's whole network state are compared before and after.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from ipaddress import IPv4Interface, IPv4Network, IPv6Network
from pathlib import Path

import pytest

from gateway.backhaul import peer_script
from gateway.backhaul.peer_script import HEARTBEAT, STOP
from tests.e2e.namespaces import Lab, Namespace, wait_until
from tests.e2e.script_session import (
    SHELLS,
    Session,
    processes,
    state_folder,
    wait_gone,
    wish,
)
from tests.e2e.snapshot import difference, snapshot

POOL = "192.0.0.6"
VIA_LINK = f"{POOL} via 169.254.7.2 dev tap"
BLACKHOLE = f"blackhole {POOL} metric 30000"

every_shell = pytest.mark.parametrize("shell", list(SHELLS))
Start = Callable[..., Session]


@pytest.fixture
def peer(lab: Lab) -> Iterator[Namespace]:
    peer, router = lab.namespace("peer"), lab.namespace("router")
    lab.link(peer, "eth0", router, "eth0", 1500)
    peer.ip("addr", "add", "198.51.100.2/24", "dev", "eth0")
    peer.ip("route", "add", "default", "via", "198.51.100.1")
    router.ip("addr", "add", "198.51.100.1/24", "dev", "eth0")
    folder = state_folder(peer)
    yield peer
    for pid in processes(peer):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def start(peer: Namespace) -> Iterator[Start]:
    started: list[Session] = []

    def start_session(*arguments, **keywords) -> Session:
        started.append(Session(peer, *arguments, **keywords))
        return started[-1]

    yield start_session
    for session in started:
        session.close()


def routes(peer: Namespace) -> str:
    return peer.ip("-4", "route")


def masquerades(peer: Namespace, tag: str = "tap64-test") -> bool:
    return f"table ip {tag}" in peer.run("nft", "list", "tables").out


def forwarding(peer: Namespace, device: str) -> str:
    return peer.sysctl_value(f"net.ipv4.conf.{device}.forwarding")


def wait_stage_1(peer: Namespace) -> None:
    """Address and route are gone; blackhole, masquerade and forwarding are still there."""
    wait_until(lambda: VIA_LINK not in routes(peer), 15, "the route through the tunnel is gone")
    wait_until(lambda: "169.254.7" not in peer.ip("addr"), 15, "the link's address is gone")
    assert BLACKHOLE in routes(peer)
    assert masquerades(peer)
    assert forwarding(peer, "eth0") == "1"


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
    wait_until(lambda: (_state(peer) / "beat").read_text() == "1\n", 5, "a heartbeat is heard")
    session.hang_up()
    wait_stage_1(peer)
    # What waits holds nothing of the connection open.
    assert session.line() == "<end>"
    assert BLACKHOLE in routes(peer)
    session.wait_killed()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


def _state(peer: Namespace, tag: str = "tap64-test") -> Path:
    return state_folder(peer) / tag


def _heard(peer: Namespace, session: Session, tag: str = "tap64-test") -> None:
    session.ready()
    wait_until(lambda: (_state(peer, tag) / "beat").read_text() != "0\n", 5, "a heartbeat is heard")


@every_shell
@pytest.mark.parametrize("how", ["kill sshd", "kill script", "hang script", "hang up", "silence"])
def test_every_end_of_the_connection_is_noticed(peer, start, shell, how) -> None:
    before = snapshot(peer)
    session = start(wish(linger=2), shell=shell)
    _heard(peer, session)
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
    _heard(peer, session)
    seen = set()
    for _ in range(5):
        with pytest.raises(AssertionError, match="never"):
            wait_until(lambda: session.popen.poll() is not None, 0.8, "never")
        session.say(b"\n")
        seen.add((_state(peer) / "beat").read_text())
    assert VIA_LINK in routes(peer)
    assert len(seen) > 2


def test_a_killed_keeper_is_replaced(peer, start) -> None:
    before = snapshot(peer)
    session = start(wish(linger=1))
    _heard(peer, session)
    first = (_state(peer) / "keeper").read_text()
    os.kill(int(first.split(":")[0]), signal.SIGKILL)

    def replaced() -> bool:
        # The first heartbeat may be read before the signal has done its work.
        session.say(HEARTBEAT)
        return (_state(peer) / "keeper").read_text() not in {first, ""}

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


@every_shell
def test_a_reconnect_adopts_what_lingers(peer, start, shell) -> None:
    before = snapshot(peer)
    first = start(shell=shell)
    _heard(peer, first)
    first.kill()
    wait_stage_1(peer)
    second = start(shell=shell)
    _heard(peer, second)
    assert VIA_LINK in routes(peer)
    # eth0 is off again at the end, though the second found it on.
    second.say(STOP)
    assert second.line() == "GONE"
    second.kill()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


def test_a_keeper_that_nobody_has_written_down_leaves_the_next_session_alone(peer, start) -> None:
    """Its first process was killed in the moment between starting it and noting its number."""
    before = snapshot(peer)
    first = start(wish(linger=1))
    _heard(peer, first)
    stale = int((_state(peer) / "keeper").read_text().split(":")[0])
    (_state(peer) / "keeper").write_text("-\n")
    second = start(wish(linger=1))
    _heard(peer, second)
    assert stale in processes(peer)

    def gone() -> bool:
        second.say(HEARTBEAT)
        return stale not in processes(peer)

    wait_until(gone, 10, "the former keeper has ended")
    assert VIA_LINK in routes(peer)
    assert "masquerade" in peer.run("nft", "list", "ruleset").out
    assert (_state(peer) / "facts").exists()
    second.say(STOP)
    assert second.line() == "GONE"
    second.kill()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


@every_shell
@pytest.mark.parametrize("state", ["alive", "hung sshd", "hung script", "dead script and keeper"])
def test_the_same_tag_takes_over(peer, start, shell, state) -> None:
    before = snapshot(peer)
    first = start(shell=shell)
    _heard(peer, first)
    script = first.script_pid()
    if state == "hung sshd":
        first.popen.send_signal(signal.SIGSTOP)
    elif state == "hung script":
        os.kill(script, signal.SIGSTOP)
    elif state == "dead script and keeper":
        os.kill(int((_state(peer) / "keeper").read_text().split(":")[0]), signal.SIGKILL)
        os.kill(script, signal.SIGKILL)
    second = start(shell=shell)
    tap = second.ready()[0]
    first.wait_killed()
    assert script not in processes(peer)
    assert [line for line in routes(peer).splitlines() if line.startswith(POOL)] == [
        f"{POOL} via 169.254.7.2 dev {tap} "
    ]
    second.say(STOP)
    assert second.line() == "GONE"
    second.kill()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


def test_the_same_tag_with_another_pool_leaves_nothing_of_the_first(peer, start) -> None:
    before = snapshot(peer)
    first = start()
    _heard(peer, first)
    second = start(wish(pool4=(IPv4Network("192.0.0.5/32"),)))
    second.ready()
    assert POOL not in routes(peer)
    assert POOL not in peer.run("nft", "list", "ruleset").out
    second.say(STOP)
    assert second.line() == "GONE"
    second.kill()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


OTHER = {
    "tag": "tap64-other",
    "local4": IPv4Interface("169.254.9.2/30"),
    "remote4": IPv4Interface("169.254.9.1/30"),
}


@every_shell
@pytest.mark.parametrize(
    ("had", "pool"),
    [
        ("192.0.0.6/32", "192.0.0.6/32"),
        ("192.0.0.6/32", "192.0.0.0/29"),
        ("192.0.0.0/29", "192.0.0.7/32"),
        ("192.0.0.6/32", "0.0.0.0/0"),
    ],
)
def test_an_overlapping_pool_of_another_tag_is_refused(peer, start, shell, had, pool) -> None:
    first = start(wish(pool4=(IPv4Network(had),)), shell=shell)
    _heard(peer, first)
    running = snapshot(peer)
    second = start(wish(pool4=(IPv4Network(pool),), **OTHER), shell=shell)
    assert second.line() == f"FAIL pool {pool} is used here by tap64-test"
    second.close()
    assert not difference(running, snapshot(peer))
    assert not _state(peer, "tap64-other").exists()


def test_pools_side_by_side_do_not_disturb_each_other(peer, start) -> None:
    before = snapshot(peer)
    first = start()
    _heard(peer, first)
    second = start(wish(pool4=(IPv4Network("192.0.0.7/32"),), **OTHER))
    _heard(peer, second, "tap64-other")
    first.say(STOP)
    assert first.line() == "GONE"
    first.kill()
    # The first had turned forwarding on; the second still needs it and inherits the undoing.
    assert forwarding(peer, "eth0") == "1"
    assert masquerades(peer, "tap64-other")
    assert not masquerades(peer)
    second.say(STOP)
    assert second.line() == "GONE"
    second.kill()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


def test_what_a_killed_instance_of_another_tag_left_is_undone(peer, start) -> None:
    before = snapshot(peer)
    first = start()
    _heard(peer, first)
    for pid in ((_state(peer) / "keeper").read_text().split(":")[0], str(first.script_pid())):
        os.kill(int(pid), signal.SIGKILL)
    first.kill()
    assert masquerades(peer)
    second = start(wish(**OTHER))
    second.ready()
    assert not masquerades(peer)
    second.say(STOP)
    assert second.line() == "GONE"
    second.kill()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


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


def test_a_failure_half_way_is_undone(peer, start) -> None:
    before = snapshot(peer)
    session = start(wish(mtu=65535 * 2))
    assert session.line().startswith("FAIL ip link set dev tap0 mtu 131070: ")
    session.close()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


def test_a_failure_on_adopting_keeps_what_lingers(peer, start) -> None:
    before = snapshot(peer)
    first = start(wish(linger=300))
    _heard(peer, first)
    first.kill()
    wait_stage_1(peer)
    peer.ip("addr", "add", "169.254.7.1/32", "dev", "lo")
    second = start(wish(linger=3))
    assert second.line().startswith("FAIL link address")
    second.close()
    assert BLACKHOLE in routes(peer)
    assert masquerades(peer)
    # Somebody still waits to take it away.
    wait_gone(peer)
    peer.ip("addr", "del", "169.254.7.1/32", "dev", "lo")
    assert not difference(before, snapshot(peer))


def masquerade_rules(peer: Namespace) -> list[str]:
    rules = peer.run("iptables", "-t", "nat", "-S", "POSTROUTING").out
    return [line for line in rules.splitlines() if line.startswith("-A")]


@every_shell
def test_iptables_only(peer, start, shell) -> None:
    hidden = ["nft"]
    pool4 = (IPv4Network("192.0.0.6/32"), IPv4Network("198.18.0.0/24"))
    first = start(wish(pool4=pool4), shell=shell, hidden=hidden)
    _heard(peer, first)
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
    _heard(peer, session)
    session.say(STOP)
    assert session.line() == "GONE"
    assert session.line() == "<end>"
    assert session.popen.poll() is None
    link = peer.ip("addr", "show", "dev", "tap3")
    assert "169.254" not in link
    assert forwarding(peer, "tap3") == "0"
    assert routes(peer).count("\n") == 2
