"""MasterLink against a real sshd: a session on somebody else's master connection.

The hosts are those of backhaul_net; the link runs alone in the gateway's namespace.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.e2e.backhaul_net import BackhaulNet, backhaul_net
from tests.e2e.link_session import Drive, drives, pings, refused
from tests.e2e.namespaces import Lab, Process, wait_until


@pytest.fixture
def net(lab: Lab) -> BackhaulNet:
    return backhaul_net(lab)


@pytest.fixture
def drive(net: BackhaulNet) -> Drive:
    return drives(net)


MASTER = ("-M", "-N", "-T", "-o", "ControlPersist=no", "-o", "BatchMode=yes")


def start_master(net: BackhaulNet, *tunnel: str) -> tuple[Process, str]:
    path = str(net.keys.folder / "master")
    process = net.gateway.start(
        *("ssh", "-F", str(net.keys.config), "-S", path, *MASTER, *tunnel, "peer-a"), name="master"
    )
    wait_until(
        lambda: Path(path).exists() or process.status is not None, 10, "the master has its socket"
    )
    # The socket is there before the tunnel is.
    if tunnel:
        wait_until(lambda: net.peer.taps() or "tun" in net.peer.namespace.ip("link"), 10, "tunnel")
    return process, path


def test_a_master_is_used_and_left_alone(net, drive) -> None:
    peer = net.peer
    peer.start_sshd()
    process, path = start_master(net, "-o", "Tunnel=ethernet", "-w", "4:any")
    before = peer.before()
    net.gateway.ip("link", "set", "tap4", "up")
    driver = drive(control_path=path)
    assert driver.ready()["device"] == "tap4"
    assert pings(net)
    driver.process.send(signal.SIGTERM)
    driver.process.wait_for("^CANCELLED", 15)
    assert process.status is None
    route = peer.namespace.ip("route")
    assert "192.0.0.6" not in route
    assert "169.254.7" not in route
    assert "masquerade" not in peer.ruleset()
    assert len(before.run) == len(peer.run_files())


def test_a_master_that_is_killed_is_noticed(net, drive) -> None:
    net.peer.start_sshd()
    process, path = start_master(net, "-o", "Tunnel=ethernet", "-w", "4:any")
    driver = drive(control_path=path)
    driver.ready()
    process.send(signal.SIGKILL)
    assert driver.failed()["cause"]
    failure = refused(drive, control_path=path)
    assert failure["cause"] == f"the master connection of {path} is dead"


@pytest.mark.parametrize(
    ("tunnel", "said"),
    [
        ((), "has no tunnel"),
        (("-w", "4:any"), "has only a point-to-point tunnel (tun4), no ethernet one"),
    ],
)
def test_a_master_without_tunnel_is_refused(net, drive, tunnel, said) -> None:
    net.peer.start_sshd(permit_tunnel="yes")
    process, path = start_master(net, *tunnel)
    driver = drive(control_path=path)
    failure = driver.said("FAILED")
    assert failure["cause"] == f"the master connection (process {process.pid}) {said}"
    assert failure["patience"] == "long"


def test_no_master(net, drive) -> None:
    net.peer.start_sshd()
    failure = refused(drive, control_path="/nonexistent/master")
    assert failure["cause"] == "there is no master connection at /nonexistent/master"


def test_a_stopped_master_is_given_up(net, drive) -> None:
    net.peer.start_sshd()
    process, path = start_master(net, "-o", "Tunnel=ethernet", "-w", "4:any")
    process.send(signal.SIGSTOP)
    failure = drive(control_path=path).said("FAILED")
    assert failure["cause"].startswith(f"the master connection of {path} does not answer")
