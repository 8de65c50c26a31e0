"""The peer of the tests of its script: a host with a router, and where to look in it.

stand-in for sshd ── tap ── peer ── eth0 ──── router 198.51.100.1
                               198.51.100.2
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.e2e.namespaces import Lab, Namespace, wait_until
from tests.e2e.script_session import SHELLS, Session, processes, state_folder

POOL = "192.0.0.6"
VIA_LINK = f"{POOL} via 169.254.7.2 dev tap"
BLACKHOLE = f"blackhole {POOL} metric 30000"

every_shell = pytest.mark.parametrize("shell", list(SHELLS))
Start = Callable[..., Session]


def scripted_peer(lab: Lab) -> Iterator[Namespace]:
    """For a fixture: the host; its end takes all that the script left with it."""
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


def scripted_sessions(peer: Namespace) -> Iterator[Start]:
    """For a fixture: a function that starts the script there, as Session does."""
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


def state_of(peer: Namespace, tag: str = "tap64-test") -> Path:
    return state_folder(peer) / tag


def heard(peer: Namespace, session: Session, tag: str = "tap64-test") -> None:
    session.ready()
    wait_until(
        lambda: (state_of(peer, tag) / "beat").read_text() != "0\n", 5, "a heartbeat is heard"
    )
