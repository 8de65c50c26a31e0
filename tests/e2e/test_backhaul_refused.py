"""Peers that cannot be used: what is said, once, and what to do about it. Nothing is left there.

client ──── gateway ═ x ═ peer

Each test starts an sshd that is wrong in one way, on a port of its own, and a gateway that tries.
The gateway does not end: it serves, tells its clients that there is no way, and tries again.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest

from tests.e2e.backhaul_net import BackhaulGateway, BackhaulNet, backhaul_net
from tests.e2e.backhaul_peer import USER, Before, make_key
from tests.e2e.namespaces import Lab, wait_until
from tests.e2e.snapshot import snapshot
from tests.e2e.topology import SERVER

_ports = count(2201)


@pytest.fixture(scope="module")
def net(module_lab: Lab) -> BackhaulNet:
    return backhaul_net(module_lab)


@pytest.fixture
def untouched(net: BackhaulNet) -> Before:
    """How the peer was before the test."""
    return net.peer.before()


def alias(net: BackhaulNet, *lines: str, known: bool = True) -> tuple[str, int]:
    """A new name for the peer, with a port of its own, and that port."""
    port = next(_ports)
    name = f"peer-{port}"
    net.keys.alias(name, net.peer.address, f"Port {port}", *lines)
    if known:
        public = net.peer.host_key.with_suffix(".pub").read_text()
        net.keys.knows(net.peer.address, port, public)
    return name, port


@contextmanager
def refused(
    net: BackhaulNet, untouched: Before, to: str, *patterns: str, **keys: Any
) -> Iterator[BackhaulGateway]:
    """A gateway that says, once, a line with all patterns in it, and then stops cleanly."""
    gateway = BackhaulGateway(net, to=to, **keys)
    gateway.start()
    try:
        await_said(gateway, *patterns)
        assert not gateway.is_up()
        assert gateway.backhaul(), "the status line has a word about it"
        # Clients are told at once.
        ping = net.client.run("ping", "-n", "-c", "1", "-W", "1", SERVER, check=False)
        assert "No route" in ping.out, ping.out
        yield gateway
        assert len(said(gateway, *patterns)) == 1, gateway.story()
    finally:
        if gateway.process.status is None:
            gateway.stop_cleanly()
    net.peer.wait_untouched(untouched, 3)


def said(gateway: BackhaulGateway, *patterns: str) -> list[str]:
    """Lines about the backhaul with all of these in them, in whatever order and case."""
    return [
        line
        for line in gateway.story().splitlines()
        if "backhaul: " in line
        and all(re.search(pattern, line, re.IGNORECASE) for pattern in patterns)
    ]


def await_said(gateway: BackhaulGateway, *patterns: str) -> None:
    try:
        wait_until(lambda: said(gateway, *patterns), 10, "said")
    except AssertionError:
        assert said(gateway, *patterns), f"{patterns}:\n{gateway.story()}"


@pytest.mark.parametrize("mode", ["no", "point-to-point"])
def test_permit_tunnel(net: BackhaulNet, untouched: Before, mode: str) -> None:
    name, port = alias(net)
    sshd = net.peer.start_sshd(port=port, permit_tunnel=mode)
    with refused(net, untouched, f"root@{name}", "PermitTunnel (ethernet|yes)", "sshd_config"):
        pass
    sshd.end()


def test_no_privilege_on_the_peer(net: BackhaulNet, untouched: Before) -> None:
    """A user who is not root cannot make a device there (and the text is the same, fact 3)."""
    name, port = alias(net)
    sshd = net.peer.start_sshd(port=port)
    with refused(net, untouched, f"{USER}@{name}", "refused|denied|not permit", r"root|privilege"):
        pass
    sshd.end()


def test_device_busy_on_the_peer(net: BackhaulNet) -> None:
    """Prepared by hand with a fixed device, which somebody else has."""
    name, port = alias(net)
    sshd = net.peer.start_sshd(port=port)
    net.peer.run("ip", "tuntap", "add", "tap9", "mode", "tap")
    holder = net.peer.start(sys.executable, "-c", HOLD_TAP9, name="holder")
    holder.wait_for("held")
    untouched = net.peer.before()
    patterns = ("cannot open its tap", "nobody else on that tap")
    with refused(net, untouched, f"root@{name}", *patterns, peer_setup=False, remote_device=9):
        pass
    holder.end()
    net.peer.run("ip", "link", "del", "tap9", check=False)
    sshd.end()


HOLD_TAP9 = """
import fcntl, os, struct, time
fd = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", b"tap9", 0x1002))
print("held", flush=True)
time.sleep(600)
"""


def test_wrong_key(net: BackhaulNet, untouched: Before) -> None:
    name, port = alias(net)
    other = net.keys.folder / f"other-{port}"
    make_key(net.client, other)
    authorized = other.with_suffix(".pub").read_text()
    sshd = net.peer.start_sshd(port=port, authorized=authorized)
    with refused(net, untouched, f"root@{name}", "key", "authorized_keys|ssh-copy-id"):
        pass
    sshd.end()


def test_changed_host_key(net: BackhaulNet, untouched: Before) -> None:
    name, port = alias(net)
    other = net.keys.folder / f"host-{port}"
    make_key(net.client, other)
    sshd = net.peer.start_sshd(port=port, host_key=other)
    with refused(
        net, untouched, f"root@{name}", "host key", "changed", "ssh-keygen -R|known_hosts"
    ):
        pass
    sshd.end()


def test_unknown_host(net: BackhaulNet, untouched: Before) -> None:
    name, port = alias(net, known=False)
    other = net.keys.folder / f"host-{port}"
    make_key(net.client, other)
    sshd = net.peer.start_sshd(port=port, host_key=other)
    with refused(net, untouched, f"root@{name}", "host key", "known", "ssh-keyscan|known_hosts"):
        pass
    # Nobody has been trusted on the way.
    assert f"]:{port}" not in net.keys.known_hosts.read_text()
    sshd.end()


def test_name_that_means_nothing(net: BackhaulNet, untouched: Before) -> None:
    with refused(net, untouched, "root@nowhere.invalid", "resolve|name"):
        pass


def test_nobody_listens_there_and_then_somebody_does(net: BackhaulNet, untouched: Before) -> None:
    name, port = alias(net)
    with refused(net, untouched, f"root@{name}", "nothing listens", "start sshd") as gateway:
        sshd = net.peer.start_sshd(port=port)
        gateway.hurry()
        gateway.wait_up(15)
        net.client.run("ping", "-n", "-c", "1", "-W", "2", SERVER)
    sshd.end()


def test_peer_that_is_not_there_at_start_and_then_is(net: BackhaulNet, untouched: Before) -> None:
    name, port = alias(net)
    sshd = net.peer.start_sshd(port=port)
    net.cut()
    try:
        options = ["-F", str(net.keys.config), "-o", "ConnectTimeout=2"]
        with refused(
            net, untouched, f"root@{name}", "time.?out|timed out|not answer", ssh_options=options
        ) as gateway:
            net.mend()
            gateway.hurry()
            gateway.wait_up(20)
            net.client.run("ping", "-n", "-c", "1", "-W", "2", SERVER)
    finally:
        net.mend()
    sshd.end()


def test_local_device_busy(net: BackhaulNet, untouched: Before) -> None:
    """Every number but one taken: the gateway finds the free one by itself."""
    name, port = alias(net)
    sshd = net.peer.start_sshd(port=port)
    taken = [f"tap{n}" for n in range(1, 8)]
    for tap in taken:
        net.gateway.run("ip", "tuntap", "add", tap, "mode", "tap")
    before = snapshot(net.gateway)
    gateway = BackhaulGateway(net, to=f"root@{name}").start_up()
    local = gateway.backhaul().split(",")[2].partition(":")[0]
    assert local not in taken
    gateway.stop_cleanly()
    assert snapshot(net.gateway) == before
    for tap in taken:
        net.gateway.ip("link", "del", tap)
    net.peer.wait_untouched(untouched, 3)
    sshd.end()


def test_local_device_cannot_be_opened_by_ssh(net: BackhaulNet, untouched: Before) -> None:
    """ssh runs as a user whom the peer does not know; the tap itself is that user's."""
    name, port = alias(net)
    sshd = net.peer.start_sshd(port=port)
    with refused(net, untouched, f"root@{name}", "user|key|denied", user="nobody"):
        pass
    sshd.end()


def test_peer_whose_shell_says_no(net: BackhaulNet, untouched: Before) -> None:
    """A forced command that is not the script: what it printed is told."""
    name, port = alias(net)
    authorized = f'command="echo this account is closed" {net.keys.public}'
    sshd = net.peer.start_sshd(port=port, authorized=authorized)
    with refused(net, untouched, f"root@{name}", "this account is closed|ended|script|command"):
        pass
    sshd.end()


def test_two_destinations_neither_of_which_works(net: BackhaulNet, untouched: Before) -> None:
    """Each is named with its own trouble."""
    closed, _ = alias(net)
    strict, port = alias(net)
    sshd = net.peer.start_sshd(port=port, permit_tunnel="no")
    gateway = BackhaulGateway(net, to=[f"root@{closed}", f"root@{strict}"])
    gateway.start()
    await_said(gateway, closed, "listens")
    await_said(gateway, strict, "PermitTunnel")
    gateway.stop_cleanly()
    net.peer.wait_untouched(untouched, 3)
    sshd.end()
