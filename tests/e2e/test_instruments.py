"""The instruments of these tests see what they are there to see.

host (a namespace with one link)
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.e2e.namespaces import CommandFailed, Lab, Namespace, open_lab
from tests.e2e.snapshot import difference, snapshot
from tests.e2e.test_devices import unfinished_checksums
from tests.e2e.topology import SERVER4, gateway_host, line


@pytest.fixture
def host(lab: Lab) -> Namespace:
    host = gateway_host(lab)
    lab.link(host, "v4", lab.namespace("other"), "v4", 1500)
    return host


@pytest.mark.parametrize(
    "change",
    [
        "sysctl -qw net.ipv4.ip_forward=1",
        "sysctl -qw net.ipv6.conf.v4.accept_ra=2",
        "ip link add other type bridge",
        "ip link set v4 mtu 1400",
        "ip link set v4 down",
        "ip addr add 192.0.2.7/32 dev v4",
        "ip -6 route add fec0:0:0:ffff::/64 dev v4",
        "ip route add 192.0.0.6 dev v4 table 7",
        "ip rule add from 192.0.0.6 lookup 7",
        "ip -6 rule add from fd00::/8 lookup 7",
        "ip neigh add fe80::5 lladdr 02:00:00:00:00:05 dev v4",
        "ip neigh add proxy fe80::5 dev v4",
        "nft add table ip tap64_tap0",
    ],
)
def test_snapshot_sees(host: Namespace, change: str) -> None:
    before = snapshot(host)
    assert difference(before, snapshot(host)) == ""
    host.run(*change.split())
    assert difference(before, snapshot(host)) != ""


def test_plain_reader_sees_offloads_that_were_left_on(host: Namespace) -> None:
    host.ip("tuntap", "add", "tap0", "mode", "tap")
    leave_on = (
        "import fcntl, os, struct; fd = os.open('/dev/net/tun', os.O_RDWR);"
        " fcntl.ioctl(fd, 0x400454CA, struct.pack('16sH22x', b'tap0', 0x5002));"
        " fcntl.ioctl(fd, 0x400454D0, 0x01)"
    )
    host.run(sys.executable, "-c", leave_on)
    assert unfinished_checksums(host, "tap0")


def test_plain_reader_of_a_fresh_device_sees_none(host: Namespace) -> None:
    host.ip("tuntap", "add", "tap0", "mode", "tap")
    assert not unfinished_checksums(host, "tap0")


def test_line_carries_ipv4_between_gateway_and_server_and_no_further(lab: Lab) -> None:
    topology = line(lab, mtus6=(1500, 1400, 1500), mtus4=(1500, 1400, 1500))
    topology.gateway.run("ping", "-n", "-c", "1", "-W", "2", SERVER4)
    topology.client.run("ping", "-n", "-c", "1", "-W", "2", "fd00:64:0:2::1")
    for host, address in ((topology.gateway, SERVER4), (topology.client, "fd00:64:0:2::1")):
        assert "pmtu 1400 hops 3" in host.run("tracepath", "-n", address).out
    with pytest.raises(CommandFailed):
        topology.client.run("ping", "-n", "-c", "1", "-W", "1", f"fec0:0:0:ffff::{SERVER4}")
    with pytest.raises(CommandFailed):
        # An address of the inside that nobody masquerades gets no answer.
        topology.gateway.ip("addr", "add", "192.0.0.6/32", "dev", "lo")
        topology.gateway.run("ping", "-n", "-c", "1", "-W", "1", "-I", "192.0.0.6", SERVER4)


def test_closed_lab_leaves_no_namespace_process_or_file() -> None:
    with pytest.raises(RuntimeError), open_lab("closing") as lab:
        host = lab.namespace("host")
        # A child of its own, as servers have them.
        process = host.start("sh", "-c", "sleep 300 & echo $!; wait")
        child = int(process.wait_for(r"^\d+$").group(0))
        raise RuntimeError
    assert process.status is not None
    assert not Path(f"/proc/{process.pid}").exists()
    assert not _runs(child)
    assert not Path("/run/netns", host.name).exists()
    assert not lab.folder.exists()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
