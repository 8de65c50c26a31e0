"""The script that sets up a peer, where /run is full or becomes so."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from gateway.backhaul.peer_script import HEARTBEAT
from tests.e2e.namespaces import Lab, Namespace, wait_until
from tests.e2e.script_session import SHELLS, Session, processes, wish
from tests.e2e.snapshot import difference, snapshot

# A file system of its own over /run, seen by the script alone.
ROOM = "mount -t tmpfs -o size=256k tmpfs /run"
FULL = "cat /dev/zero >/run/full 2>/dev/null"


@pytest.fixture
def peer(lab: Lab) -> Iterator[Namespace]:
    peer, router = lab.namespace("peer"), lab.namespace("router")
    lab.link(peer, "eth0", router, "eth0", 1500)
    peer.ip("addr", "add", "198.51.100.2/24", "dev", "eth0")
    peer.ip("route", "add", "default", "via", "198.51.100.1")
    yield peer
    for pid in processes(peer):
        os.kill(pid, signal.SIGKILL)


def folder_of(session: Session) -> str:
    """The namespace's /run as the script sees it."""
    return f"/proc/{session.script_pid()}/root/run"


@pytest.mark.parametrize("shell", list(SHELLS))
def test_nothing_is_begun_that_could_not_be_undone(peer, shell) -> None:
    before = snapshot(peer)
    session = Session(peer, wish(), shell=shell, before=f"{ROOM}; {FULL}; ls /run >&2")
    try:
        line = session.line()
        assert line.startswith("FAIL cannot write /run/tap64-peer."), line
        assert line.endswith("is /run full?")
        assert session.line() == "<end>"
    finally:
        session.close()
    wait_until(lambda: not processes(peer), 5, "nothing runs")
    assert not difference(before, snapshot(peer))


@pytest.mark.parametrize("shell", list(SHELLS))
def test_heartbeats_are_heard_and_the_end_is_undone(peer, shell) -> None:
    before = snapshot(peer)
    session = Session(peer, wish(heartbeat=2, linger=1), shell=shell, before=ROOM)
    try:
        session.ready()
        # Whatever room there is, even for a moment, somebody takes it.
        greedy = peer.start(
            "sh", "-c", f"while :; do cat /dev/zero >>{folder_of(session)}/full; done"
        )
        for _ in range(8):
            session.say(HEARTBEAT)
            with pytest.raises(AssertionError, match="never"):
                wait_until(lambda: session.popen.poll() is not None, 0.7, "never")
        session.kill()
        greedy.end()
        wait_until(lambda: not processes(peer), 20, "the keeper has ended")
        assert not difference(before, snapshot(peer))
    finally:
        session.close()
