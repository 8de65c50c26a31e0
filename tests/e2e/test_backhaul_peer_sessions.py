"""Sessions of the peer's script that meet: of one gateway, one after another, and of several.

The host is that of scripted_peer.py.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv4Network

import pytest

from gateway.backhaul.peer_script import HEARTBEAT, STOP
from tests.e2e.namespaces import Lab, Namespace, wait_until
from tests.e2e.script_session import Session, processes, wait_gone, wish
from tests.e2e.scripted_peer import (
    BLACKHOLE,
    POOL,
    VIA_LINK,
    Start,
    every_shell,
    forwarding,
    heard,
    masquerades,
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
def test_a_reconnect_adopts_what_lingers(peer, start, shell) -> None:
    before = snapshot(peer)
    first = start(shell=shell)
    heard(peer, first)
    first.kill()
    wait_stage_1(peer)
    second = start(shell=shell)
    heard(peer, second)
    assert VIA_LINK in routes(peer)
    # eth0 is off again at the end, though the second found it on.
    second.say(STOP)
    assert second.line() == "GONE"
    second.kill()
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


def test_a_failure_on_adopting_keeps_what_lingers(peer, start) -> None:
    before = snapshot(peer)
    first = start(wish(linger=300))
    heard(peer, first)
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


def test_a_keeper_that_nobody_has_written_down_leaves_the_next_session_alone(peer, start) -> None:
    """Its first process was killed in the moment between starting it and noting its number."""
    before = snapshot(peer)
    first = start(wish(linger=1))
    heard(peer, first)
    stale = int((state_of(peer) / "keeper").read_text().split(":")[0])
    (state_of(peer) / "keeper").write_text("-\n")
    second = start(wish(linger=1))
    heard(peer, second)
    assert stale in processes(peer)

    def gone() -> bool:
        second.say(HEARTBEAT)
        return stale not in processes(peer)

    wait_until(gone, 10, "the former keeper has ended")
    assert VIA_LINK in routes(peer)
    assert "masquerade" in peer.run("nft", "list", "ruleset").out
    assert (state_of(peer) / "facts").exists()
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
    heard(peer, first)
    script = first.script_pid()
    if state == "hung sshd":
        first.popen.send_signal(signal.SIGSTOP)
    elif state == "hung script":
        os.kill(script, signal.SIGSTOP)
    elif state == "dead script and keeper":
        os.kill(int((state_of(peer) / "keeper").read_text().split(":")[0]), signal.SIGKILL)
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
    heard(peer, first)
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
    heard(peer, first)
    running = snapshot(peer)
    second = start(wish(pool4=(IPv4Network(pool),), **OTHER), shell=shell)
    assert second.line() == f"FAIL pool {pool} is used here by tap64-test"
    second.close()
    assert not difference(running, snapshot(peer))
    assert not state_of(peer, "tap64-other").exists()


@every_shell
def test_a_pool_that_is_only_kept_says_how_long_and_what_ends_it(peer, start, shell) -> None:
    """A container made anew has another tag, and its former self left without a word."""
    before = snapshot(peer)
    first = start(wish(linger=300), shell=shell)
    heard(peer, first)
    script = first.script_pid()
    first.kill()
    wait_stage_1(peer)
    wait_until(lambda: script not in processes(peer), 5, "the script has ended")
    second = start(wish(**OTHER), shell=shell)
    said = second.line()
    found = re.fullmatch(
        r"FAIL pool 192\.0\.0\.6/32 is kept here for tap64-test, whose connection has ended, for"
        r" at most 300 s \(kill (\d+) ends that\)",
        said,
    )
    assert found, said
    assert second.line() == "FREE 192.0.0.5"
    second.close()
    assert BLACKHOLE in routes(peer)
    os.kill(int(found[1]), signal.SIGTERM)
    wait_gone(peer)
    assert not difference(before, snapshot(peer))


def note(session: Session) -> str:
    """What the script wants a person to know."""
    fields = session.ready()
    return fields[4] if len(fields) > 4 else ""


@every_shell
def test_a_living_session_of_another_run_is_named(peer, start, shell) -> None:
    """Two hosts with one name and one /etc/machine-id: each is told, each time."""
    first = start(wish(run="1"), shell=shell)
    assert note(first) == ""
    for run in ("2", "1"):
        second = start(wish(run=run), shell=shell)
        said = note(second)
        assert said.startswith("a living session of tap64-test, from 2001:db8::7, had to end")
        assert "/etc/machine-id" in said
        assert said.endswith("give one of them another host name")
        first.wait_killed()
        first = second


@pytest.mark.parametrize("how", ["the same run", "it has ended"])
def test_a_former_session_of_ours_is_no_rival(peer, start, how) -> None:
    first = start(wish(run="1"))
    heard(peer, first)
    if how == "it has ended":
        script = first.script_pid()
        first.kill()
        wait_until(lambda: script not in processes(peer), 5, "the script has ended")
    assert note(start(wish(run="1" if how == "the same run" else "2"))) == ""


def test_pools_side_by_side_do_not_disturb_each_other(peer, start) -> None:
    before = snapshot(peer)
    first = start()
    heard(peer, first)
    second = start(wish(pool4=(IPv4Network("192.0.0.7/32"),), **OTHER))
    heard(peer, second, "tap64-other")
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
    heard(peer, first)
    for pid in ((state_of(peer) / "keeper").read_text().split(":")[0], str(first.script_pid())):
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
