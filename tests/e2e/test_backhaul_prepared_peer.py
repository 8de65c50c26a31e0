"""conf/backhaul as it is shipped: a peer prepared by hand, an unprivileged login, a fixed device.

The files are used as they are; only the user's name and the key are this test's.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

from gateway import config as configuration
from tests.e2e.backhaul_net import BackhaulNet, backhaul_net
from tests.e2e.backhaul_peer import USER, USER_ID
from tests.e2e.link_session import Driver
from tests.e2e.namespaces import Lab, wait_until

FILES = Path(__file__).parents[2] / "conf" / "backhaul"
TARGET = f"{USER}@peer-a"


@pytest.fixture
def net(lab: Lab) -> BackhaulNet:
    """The network with its peer prepared and sshd running."""
    net = backhaul_net(lab)
    peer = net.peer
    node = net.lab.new_file("tun")
    os.mknod(node, 0o600 | stat.S_IFCHR, os.stat("/dev/net/tun").st_rdev)
    node.chmod(0o666)
    peer.run(
        *("sh", "-ec"),
        f"mount --bind {node} /dev/net/tun; mount -t tmpfs -o mode=755 tmpfs /usr/local/sbin;"
        f"install -m 755 {FILES}/tap64-hold {FILES}/prepare-peer /usr/local/sbin",
    )
    peer.run("env", f"TAP64_USER={USER}", "/usr/local/sbin/prepare-peer", "up")
    words = net.keys.public.split()[:2]
    lines = (FILES / "authorized_keys").read_text().splitlines()
    authorized = [re.sub(r"ssh-ed25519 AAAA\S*$", " ".join(words), line) for line in lines]
    assert authorized != lines
    snippet = (FILES / "sshd_config").read_text().replace("Match User tap64", f"Match User {USER}")
    peer.start_sshd(permit_tunnel="no", authorized="\n".join(authorized) + "\n", extra=snippet)
    return net


def link(net: BackhaulNet, **about) -> Driver:
    return Driver(
        net.gateway,
        {"target": TARGET, "peer_setup": False, "remote_device": 7, **about},
        ["-F", str(net.keys.config)],
    )


def ssh(net: BackhaulNet, *arguments: str) -> str:
    """What ssh says and answers, with the gateway's key."""
    done = net.gateway.run(
        *("timeout", "10", "ssh", "-F", str(net.keys.config), "-o", "BatchMode=yes"),
        *arguments,
        check=False,
        stdin="",
    )
    return done.text


def test_it_carries_frames_and_can_be_had_again(net) -> None:
    for _ in range(2):
        driver = link(net)
        ready = driver.ready()
        assert ready["remote"] == "tap7"
        net.gateway.ip("addr", "add", "169.254.64.2/30", "dev", ready["device"])
        net.gateway.run("ping", "-c1", "-W2", "169.254.64.1")
        # From the pool to a host behind the peer, which knows no way back to the pool.
        net.gateway.ip("addr", "add", "192.0.0.6/32", "dev", "lo")
        net.gateway.ip("route", "add", "192.0.2.1/32", "via", "169.254.64.1")
        net.gateway.run("ping", "-c1", "-W2", "-I", "192.0.0.6", "192.0.2.1")
        driver.cancel()
        net.gateway.ip("addr", "del", "192.0.0.6/32", "dev", "lo")
    sessions = net.peer.processes("tap64-hold|notty")
    wait_until(lambda: not net.peer.processes("tap64-hold|notty"), 10, f"{sessions} are gone")


def test_when_the_network_is_cut_the_device_becomes_free(net) -> None:
    driver = link(net, wish={"heartbeat": 10})
    driver.ready()
    net.cut()
    wait_until(lambda: not net.peer.processes("tap64-hold|notty"), 20, "sshd has ended")
    net.mend()
    driver.failed()
    link(net).ready()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-o", "Tunnel=ethernet", "-w", "any:3", TARGET), "Tunnel forwarding failed"),
        (("-w", "any:7", TARGET), "Tunnel forwarding failed"),
        (("-W", "[::1]:22", TARGET), "administratively prohibited"),
        (("-R", "9999:localhost:22", TARGET), "remote port forwarding failed"),
    ],
)
def test_the_key_allows_no_other_forwarding(net, arguments, said) -> None:
    # It is the key that forbids tap3, not a lack of privilege.
    net.peer.namespace.ip("tuntap", "add", "tap3", "mode", "tap", "user", str(USER_ID))
    said_really = ssh(net, "-o", "ExitOnForwardFailure=yes", *arguments)
    assert said in said_really
    assert "READY" not in said_really


@pytest.mark.parametrize("command", ["id", "sh -c 'echo uid='", "cat /etc/passwd"])
def test_the_key_allows_no_other_command(net, command) -> None:
    assert ssh(net, TARGET, command).startswith("READY - - - -")


def test_the_key_allows_no_terminal(net) -> None:
    assert "PTY allocation request failed" in ssh(net, "-tt", TARGET)


def test_the_gateways_side_is_a_valid_configuration() -> None:
    config = configuration.load(FILES / "gateway.toml", {})
    table = config.backhaul
    assert table.peer_setup is False
    assert f"tap{table.remote_device}" == "tap7"
    assert table.addresses is not None
    prepared = (FILES / "prepare-peer").read_text()
    local, remote = table.addresses
    assert f"remote={remote}" in prepared
    assert f"local={local.ip} " in prepared
    assert f"mtu={table.mtu}\n" in prepared
    assert [f"pool={network}" in prepared for network in config.pool_networks] == [True]


def test_down_takes_it_all_away(net) -> None:
    net.peer.run("/usr/local/sbin/prepare-peer", "down")
    assert net.peer.taps() == set()
    assert "tap64" not in net.peer.ruleset()
    assert "192.0.0.6" not in net.peer.namespace.ip("route")
