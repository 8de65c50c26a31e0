"""SshLink and what a real sshd, or the host itself, refuses it: each in words of its own.

The hosts are those of backhaul_net; the link runs alone in the gateway's namespace.
"""

from __future__ import annotations

import pytest

from tests.e2e.backhaul_net import BackhaulNet, backhaul_net
from tests.e2e.link_session import (
    REMOTE4,
    Drive,
    Driver,
    drives,
    give_keys_to_nobody,
    pings,
    refused,
)
from tests.e2e.namespaces import Lab


@pytest.fixture
def net(lab: Lab) -> BackhaulNet:
    return backhaul_net(lab)


@pytest.fixture
def drive(net: BackhaulNet) -> Drive:
    return drives(net)


def test_local_device_busy(net, drive) -> None:
    """Held by somebody who is no ssh, and therefore left alone."""
    net.peer.start_sshd()
    failure = refused(drive, hold=True)
    assert failure["cause"] == "the local tap is held by another process, perhaps a former ssh"
    assert failure["patience"] == "short"


@pytest.mark.parametrize("permit", ["no", "point-to-point"])
def test_tunnel_not_permitted(net, drive, permit) -> None:
    net.peer.start_sshd(permit_tunnel=permit)
    failure = refused(drive)
    assert failure["cause"] == "the peer's sshd does not permit this tunnel"
    assert "PermitTunnel ethernet" in failure["remedy"]
    assert failure["patience"] == "long"


def test_remote_device_busy(net, drive) -> None:
    net.peer.start_sshd()
    first = drive()
    number = int(first.ready()["remote"].removeprefix("tap"))
    second = Driver(
        net.gateway,
        {"remote_device": number, "wish": {"tag": "tap64-second"}},
        ["-F", str(net.keys.config)],
    )
    failure = second.said("FAILED")
    assert "does not permit the tunnel or cannot open its tap" in failure["cause"]
    assert pings(net)


def test_local_device_of_another_user(net, drive) -> None:
    net.peer.start_sshd()
    give_keys_to_nobody(net)
    failure = refused(drive, user="nobody", owner="daemon", target="root@peer-a")
    assert failure["cause"] == "the local tap does not belong to the user that ssh runs as"
    assert failure["patience"] == "long"


def test_wrong_key(net, drive) -> None:
    net.peer.start_sshd(authorized="")
    failure = refused(drive)
    assert failure["cause"] == "the peer accepts none of our keys"
    assert "authorized_keys" in failure["remedy"]
    assert failure["patience"] == "long"


def test_changed_host_key(net, drive) -> None:
    peer = net.peer
    other = net.lab.new_file("other-key")
    peer.namespace.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other))
    peer.start_sshd(host_key=other)
    failure = refused(drive)
    assert "has CHANGED" in failure["cause"]
    assert failure["patience"] == "long"


@pytest.mark.parametrize("strict", ["ask", "yes"])
def test_unknown_host_key(net, drive, strict) -> None:
    net.peer.start_sshd()
    net.keys.known_hosts.write_text("")
    failure = refused(drive, options=["-o", f"StrictHostKeyChecking={strict}"])
    assert failure["cause"] == "the peer's host key is not known here"
    assert failure["patience"] == "long"


def test_accept_new_is_the_users_to_choose(net, drive) -> None:
    net.peer.start_sshd()
    net.keys.known_hosts.write_text("")
    drive(options=["-o", "StrictHostKeyChecking=accept-new"]).ready()


def test_nothing_listens(drive) -> None:
    failure = refused(drive)
    assert failure["cause"] == "nothing listens on the peer's ssh port"
    assert failure["patience"] == "short"


def test_no_answer_and_no_route(net, drive) -> None:
    failure = refused(drive, target="2001:db8::1")
    assert failure["cause"] == "the peer cannot be reached: Network is unreachable"
    net.cut()
    failure = refused(drive, options=["-o", "ConnectTimeout=1"])
    assert failure["cause"] == "the peer does not answer"


def test_a_login_without_a_shell(net, drive) -> None:
    net.peer.start_sshd(extra="ForceCommand /bin/true\n")
    failure = refused(drive)
    assert failure["cause"] == "the peer runs no script for us"


def test_what_the_script_refuses(net, drive) -> None:
    net.peer.start_sshd()
    net.peer.namespace.ip("addr", "add", f"{REMOTE4}/32", "dev", "lo")
    failure = refused(drive)
    assert failure["kind"] == "LinkAddressTaken"
    assert REMOTE4 in failure["cause"]
