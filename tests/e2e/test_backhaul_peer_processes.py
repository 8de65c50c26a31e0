"""Processes of the peer that hang, stand still or are killed while the backhaul is up.

    gateway ═══ ssh ═══ sshd: root@notty ─ script ─ keeper
                        stopped, continued, killed: one of them, or all

One TCP connection survives all of it.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator

import pytest

from tests.e2e.backhaul_net import BackhaulNet
from tests.e2e.backhaul_running import Running, comes_back, one_gateway, up_again, warned
from tests.e2e.namespaces import Lab, wait_until

SESSION = r"^sshd: root"
SCRIPT = r"^/bin/sh -s"


@pytest.fixture(scope="module")
def gateway_for_all(module_lab: Lab) -> Iterator[Running]:
    yield from one_gateway(module_lab)


@pytest.fixture
def running(gateway_for_all: Running) -> Running:
    return up_again(gateway_for_all)


def beats(net: BackhaulNet) -> int:
    """How many heartbeats the script has heard."""
    return int(net.peer.run("sh", "-c", "head -n 1 /run/tap64-peer.*/*/beat").out)


def set_up_once(net: BackhaulNet) -> None:
    """Returns when there is one of everything that the gateway has there."""

    def counts() -> dict[str, int]:
        routes = net.peer.namespace.ip("route")
        return {
            "routes": len(re.findall(r"^192\.0\.0\.6 via 169\.254\.", routes, re.M)),
            "blackhole routes": len(re.findall(r"^blackhole 192\.0\.0\.6", routes, re.M)),
            "rules": net.peer.ruleset().count("masquerade"),
            "taps": len(net.peer.taps()),
            "sessions": len(net.peer.processes(SESSION)),
            # The script and its keeper; a child that is about to be another program looks alike.
            "pairs": len(net.peer.processes(SCRIPT)) // 2,
        }

    try:
        wait_until(lambda: set(counts().values()) == {1}, 10, "one of everything")
    except AssertionError:
        assert set(counts().values()) == {1}, counts()


def test_stopped_session_of_sshd_is_found_out_and_replaced(running: Running) -> None:
    """The tunnel is silent, and every process and connection is there."""
    net, gateway, _ = running
    position = len(gateway.log())
    stopped = set(net.peer.processes(SESSION))
    assert net.peer.kill(SESSION, signal.SIGSTOP)
    gateway.wait_for("backhaul: down: ", after=position)
    warned(gateway, position, r"answer|probe")
    comes_back(running)
    # The next session's script has ended them, so that none can be continued.
    assert not stopped & set(net.peer.processes())
    set_up_once(net)


def test_stopped_script_misses_its_heartbeat_and_is_replaced(running: Running) -> None:
    """Frames pass all the time; it is the keeper that ends the session."""
    net, gateway, _ = running
    position = len(gateway.log())
    script = net.peer.script_pid()
    os.kill(script, signal.SIGSTOP)
    gateway.wait_for("backhaul: down: ", after=position)
    warned(gateway, position, r"closed|ended|reset")
    comes_back(running)
    assert script not in net.peer.processes()
    set_up_once(net)


def test_script_and_keeper_stopped_and_continued_change_nothing(running: Running) -> None:
    """Nobody counts the time in which nobody looks, and frames pass without either."""
    net, gateway, chat = running
    ssh, position = gateway.ssh_pid(), len(gateway.log())
    assert net.peer.kill(SCRIPT, signal.SIGSTOP) >= 2
    stopped_at = time.monotonic()
    try:
        # Twice the heartbeat.
        wait_until(lambda: time.monotonic() - stopped_at > 4, 6, "time passes")
        chat.goes_on()
    finally:
        net.peer.kill(SCRIPT, signal.SIGCONT)
    heard = beats(net)
    # More than have gathered: several looks of the keeper.
    wait_until(lambda: beats(net) >= heard + 12, 20, "heartbeats are heard")
    assert gateway.ssh_pid() == ssh
    assert "backhaul: down" not in gateway.story(position)
    chat.goes_on()
    set_up_once(net)


def test_killed_script_and_keeper_are_replaced_at_once(running: Running) -> None:
    """Nobody is left there to undo. The gateway sees the session end, and the next one adopts."""
    net, gateway, chat = running
    position = len(gateway.log())
    killed = set(net.peer.processes(SCRIPT))
    sessions = set(net.peer.processes(SESSION))
    assert net.peer.kill(SCRIPT) >= 2
    gateway.wait_for("backhaul: down: ", 5, after=position)
    warned(gateway, position, "has ended, was killed or taken over")
    gateway.wait_up()
    chat.goes_on()
    assert not (killed | sessions) & set(net.peer.processes())
    set_up_once(net)


def test_peer_that_stands_still_for_a_while(running: Running) -> None:
    """A virtual machine that is moved or paused: all processes stop, and all go on."""
    net, gateway, _ = running
    position = len(gateway.log())
    sessions = set(net.peer.processes(SESSION))
    net.peer.kill("", signal.SIGSTOP)
    stopped_at = time.monotonic()
    try:
        gateway.wait_for("backhaul: down: ", after=position)
        wait_until(lambda: time.monotonic() - stopped_at > 4, 6, "time passes")
        assert not gateway.is_up()
    finally:
        net.peer.kill("", signal.SIGCONT)
    comes_back(running)
    set_up_once(net)
    assert not sessions & set(net.peer.processes())
