"""SshLink against a real sshd: up, every end, whose ssh and settings, nothing left.

The hosts are those of backhaul_net; the link runs alone in the gateway's namespace, without a
gateway.
"""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from gateway.backhaul.ssh_command import MUST, MUST_FROM_8_7, link_command, version_of
from tests.e2e.backhaul_net import BackhaulNet, backhaul_net
from tests.e2e.link_session import (
    LOCAL4,
    REMOTE4,
    Drive,
    Driver,
    drives,
    give_keys_to_nobody,
    pings,
    ssh_processes,
)
from tests.e2e.namespaces import Lab, wait_until


@pytest.fixture
def net(lab: Lab) -> BackhaulNet:
    return backhaul_net(lab)


@pytest.fixture
def drive(net: BackhaulNet) -> Drive:
    return drives(net)


def test_up_and_a_clean_stop(net, drive) -> None:
    peer = net.peer
    peer.start_sshd()
    before = peer.before()
    driver = drive()
    ready = driver.ready()
    assert re.fullmatch(r"tap\d+", ready["device"])
    assert {ready["remote"]} == peer.taps()
    assert ready["next_hop4"] == "203.0.113.1"
    assert ready["notes"] == []
    assert pings(net)
    net.gateway.run("ping", "-c1", "-W2", "-s", "1372", "-M", "do", REMOTE4)
    pool = peer.namespace.ip("route", "show", "192.0.0.6")
    assert f"192.0.0.6 via {LOCAL4} dev {ready['remote']}" in pool
    driver.cancel()
    # At once: the linger of 300 s plays no part in a clean stop.
    peer.wait_untouched(before, 5)


def test_abandoned_it_lingers_and_is_adopted(net, drive) -> None:
    peer = net.peer
    peer.start_sshd()
    before = peer.before()
    driver = drive()
    driver.ready()
    driver.cancel(signal.SIGUSR1)
    wait_until(lambda: not peer.taps(), 10, "the peer's tap is gone")
    assert "blackhole 192.0.0.6" in peer.namespace.ip("route")
    assert "masquerade" in peer.ruleset()
    again = drive()
    again.ready()
    assert pings(net)
    again.cancel()
    peer.wait_untouched(before, 5)


@pytest.mark.parametrize("victim", ["sshd", "ssh", "script", "remote tap"])
def test_an_end_is_noticed_and_undone(net, drive, victim) -> None:
    peer = net.peer
    peer.start_sshd()
    before = peer.before()
    driver = drive(wish={"linger": 1})
    ready = driver.ready()
    # A heartbeat has to have been heard for anything to linger.
    expected = "the peer ended the connection"
    if victim == "sshd":
        peer.kill_sessions()
    elif victim == "ssh":
        os.kill(driver.ssh(), signal.SIGKILL)
        expected = "ssh was killed by signal 9"
    elif victim == "script":
        assert peer.kill(r"^/bin/sh -s") == 2
        expected = "the script on the peer has ended"
    else:
        # ssh lives on, silently: this is the supervisor's to find out.
        peer.namespace.ip("link", "del", ready["remote"])
        assert not pings(net)
        driver.cancel(signal.SIGUSR1)
        peer.wait_untouched(before, 15)
        return
    failure = driver.failed()
    assert failure["cause"].startswith(expected)
    assert failure["patience"] == "short"
    if victim == "script":  # both its processes: only the next start can repair that
        drive(wish={"linger": 1}).ready()
        return
    peer.wait_untouched(before, 15)


def test_a_cut_is_noticed_at_both_ends(net, drive) -> None:
    peer = net.peer
    peer.start_sshd()
    before = peer.before()
    driver = drive(wish={"linger": 1, "heartbeat": 3})
    driver.ready()
    net.cut()
    failure = driver.failed()
    assert "cut" in failure["cause"]
    peer.wait_untouched(before, 15)


def test_a_hung_peer_session_is_taken_over(net, drive) -> None:
    peer = net.peer
    peer.start_sshd()
    first = drive(wish={"heartbeat": 60})
    first.ready()
    peer.kill(r"^sshd: \S+@notty", signal.SIGSTOP)
    first.cancel(signal.SIGUSR1)
    second = drive()
    second.ready()
    assert pings(net)
    assert len(peer.processes(r"^sshd: \S+@notty")) == 1
    second.cancel()


def test_a_living_session_of_another_run_is_named(net, drive) -> None:
    """As of a clone of this host: both would end each other's for ever without a word."""
    net.peer.start_sshd()
    first = drive(wish={"run": "1"})
    assert first.ready()["notes"] == []
    second = drive(wish={"run": "2"})
    (note,) = second.ready()["notes"]
    assert note.startswith("a living session of tap64-test, from fd00:64:1::1, had to end")
    assert first.said("FAILED")["patience"] == "short"
    second.cancel()


def test_a_former_ssh_on_our_tap_is_ended_first(net, drive) -> None:
    net.peer.start_sshd()
    first = drive(tap="tap5", wish={"heartbeat": 60})
    first.ready()
    left = first.ssh()
    # It notices nothing by itself for as long as the test takes.
    net.cut()
    os.kill(driver_pid(first), signal.SIGKILL)
    wait_until(lambda: first.process.status is not None, 5, "the driver is gone")
    assert left in ssh_processes(net.gateway)
    net.mend()
    second = drive(tap="tap5", existing=True)
    second.ready()
    assert second.ssh() != left
    assert pings(net)
    second.cancel()


def test_heartbeats_keep_it_up(net, drive) -> None:
    net.peer.start_sshd()
    driver = drive(wish={"heartbeat": 2})
    driver.ready()
    # Many more than the first, in more time than the far end has patience.
    heard = "cat /run/tap64-peer.*/tap64-test/beat"
    wait_until(lambda: int(net.peer.run("sh", "-c", heard).out or 0) >= 9, 20, "heartbeats")
    assert pings(net)
    driver.cancel()


def driver_pid(driver: Driver) -> int:
    """`ip netns exec`, setpriv and env all become the driver."""
    return driver.process.pid


def test_stopped_while_it_still_connects(net, drive) -> None:
    net.peer.start_sshd()
    net.cut()
    driver = drive()
    driver.process.wait_for("^tap tap")
    wait_until(lambda: ssh_processes(net.gateway), 10, "ssh runs")
    driver.process.send(signal.SIGTERM)
    driver.process.wait_for("^CANCELLED", 10)
    driver.over()


def test_an_unprivileged_user_runs_ssh(net, drive) -> None:
    """backhaul.user: uid, groups and home are the user's; the tap belongs to it."""
    peer = net.peer
    peer.start_sshd()
    give_keys_to_nobody(net)
    driver = drive(user="nobody", target="root@peer-a")
    driver.ready()
    status = Path(f"/proc/{driver.ssh()}/status").read_text()
    assert re.search(r"^Uid:\t65534\t65534\t65534\t65534$", status, re.M)
    assert re.search(r"^Gid:\t65534\t", status, re.M)
    assert re.search(r"^Groups:\t65534 ?$", status, re.M)
    environment = Path(f"/proc/{driver.ssh()}/environ").read_bytes().split(b"\0")
    assert b"HOME=/nonexistent" in environment
    assert b"USER=nobody" in environment
    assert pings(net)
    driver.cancel()


def test_the_users_ssh_config_cannot_break_it(net, drive) -> None:
    """Everything that would take away session, stdin, foreground, messages or the tunnel."""
    net.peer.start_sshd()
    net.keys.alias(
        "hostile",
        net.peer.address,
        "ControlMaster auto",
        f"ControlPath {net.keys.folder}/%C",
        "ControlPersist yes",
        "RemoteCommand uptime",
        "RequestTTY force",
        "SessionType none",
        "StdinNull yes",
        "ForkAfterAuthentication yes",
        "PermitLocalCommand yes",
        f"LocalCommand touch {net.keys.folder}/local-command",
        "LogLevel QUIET",
        "Tunnel point-to-point",
        "TunnelDevice 77:77",
        "BatchMode no",
    )
    net.keys.knows(net.peer.address, 22, net.peer.host_key.with_suffix(".pub").read_text())
    driver = drive(target="hostile")
    ready = driver.ready()
    assert ready["device"] != "tap77"
    assert pings(net)
    assert not (net.keys.folder / "local-command").exists()
    assert not [path for path in net.keys.folder.iterdir() if path.is_socket()]
    driver.cancel()


def test_the_ssh_of_this_machine_takes_every_option(net) -> None:
    """What `ssh -G` understands of the command line."""
    version = version_of(net.gateway.run("ssh", "-V").err)
    argv = link_command("peer", 7, "true", version=version)
    said = net.gateway.run("ssh", "-G", "-F", "none", *argv[1:]).out.lower().splitlines()
    for name, value in (*MUST, *MUST_FROM_8_7):
        # It leaves out what is none, and says some words in another way.
        words = {"no": "(no|false)", "yes": "(yes|true)", "DEBUG1": "debug1?"}.get(value, value)
        pattern = re.compile(f"{name.lower()} {words}")
        assert value == "none" or any(map(pattern.fullmatch, said)), name
    assert "tunnel ethernet" in said
    assert "tunneldevice 7:any" in said
    assert not [line for line in said if line.startswith(("controlpath", "remotecommand"))]
