"""The device: tap or tun, made by the gateway or found, alone or several on one host.

client ──────── gateway ──────── r4a ──────── server
                tap0 | tun0
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import EXIT_HOST, Gateway
from tests.e2e.namespaces import Lab, Namespace
from tests.e2e.servers import sha256_of, start_capture, start_http, write_random_file
from tests.e2e.snapshot import difference, snapshot
from tests.e2e.topology import SERVER, Topology, line


def build(lab: Lab) -> Topology:
    topology = line(lab)
    topology.route_prefix()
    return topology


def ping(topology: Topology, address: str = SERVER) -> None:
    topology.client.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", address)


def transfer(topology: Topology, megabytes: int = 10) -> None:
    """Down and up over TCP, checksummed; AssertionError when a byte differs."""
    http = start_http(topology.server)
    digest = write_random_file(http.folder / "down", megabytes * 1_000_000)
    copy = topology.lab.new_file("copy")
    address = f"http://[{SERVER}]:{http.port}"
    topology.client.run("curl", "-sS", "-m", "30", "-o", str(copy), f"{address}/down", timeout=40)
    assert sha256_of(copy) == digest
    topology.client.run("curl", "-sS", "-m", "30", "-T", str(copy), f"{address}/up", timeout=40)
    assert sha256_of(http.folder / "up") == digest


def offloads(host: Namespace, device: str) -> dict[str, bool]:
    features = host.run("ethtool", "-k", device).out
    return {
        name: state == "on"
        for name, state in re.findall(r"^\s*(\S+): (on|off)", features, re.MULTILINE)
    }


def tuntap(host: Namespace) -> str:
    """Kind, queues and owner. `vnet_hdr` is left out: each TUNSETIFF sets that flag anew."""
    return host.ip("tuntap", "show").replace(" vnet_hdr", "")


def unfinished_checksums(host: Namespace, device: str, *flags: str) -> bool:
    """Whether a plain reader of `device` gets a UDP packet whose checksum nobody finished."""
    reader = host.start(
        sys.executable, str(Path(__file__).with_name("plain_tap.py")), device, "9999", *flags
    )
    reader.wait_for("open")
    host.ip("link", "set", device, "up")
    host.ip("addr", "add", "fd99::1/64", "dev", device, "nodad")
    host.ip("neigh", "add", "fd99::2", "lladdr", "02:00:00:00:00:99", "dev", device)
    code = (
        "import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM);"
        " s.sendto(b'plain reader', ('fd99::2', 9999))"
    )
    host.run(sys.executable, "-c", code)
    frame = bytes.fromhex(reader.wait_for(r"^[0-9a-f]{100,}$").group(0))
    reader.end()
    packet = frame[14:]
    words = packet[8:40] + len(packet[40:]).to_bytes(4) + bytes([0, 0, 0, 17]) + packet[40:]
    total = sum(
        int.from_bytes(words[at : at + 2].ljust(2, b"\0")) for at in range(0, len(words), 2)
    )
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total != 0xFFFF


def test_tun_does_the_same_job(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    gateway = start_gateway(topology.gateway, "--device", "tun")
    ping(topology)
    topology.gateway.run("ping", "-n", "-c", "1", "-W", "2", SERVER)
    transfer(topology)
    assert "dev tun0" in topology.gateway.ip("-6", "route", "show", "fec0:0:0:ffff::/64")
    assert re.search(r"unit=0 flags=\(.*\) type=tun mtu=1500", gateway.status().line)


def test_without_offloads_it_does_the_same_job(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    gateway = start_gateway(topology.gateway, "--set", "offload=false")
    ping(topology)
    transfer(topology)
    assert not offloads(topology.gateway, "tap0")["tcp-segmentation-offload"]
    assert "offload" not in gateway.status().flags


def test_offloads_are_on_from_the_start(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    start_gateway(topology.gateway)
    on = offloads(topology.gateway, "tap0")
    assert on["tx-checksumming"]
    assert on["tx-tcp-segmentation"]
    assert on["tx-tcp6-segmentation"]
    assert on["tx-tcp-ecn-segmentation"]


def test_ecn_is_carried_both_ways(lab: Lab, start_gateway: StartGateway) -> None:
    """ECN-capable super-packets keep their bits; TUN_F_TSO_ECN."""
    topology = build(lab)
    for host in (topology.client, topology.server):
        host.sysctl(ipv4__tcp_ecn=1)
    start_gateway(topology.gateway)
    capable = start_capture(
        topology.server, "v4", "src 203.0.113.1 and tcp and ip[1] & 3 == 2", count=3
    )
    answered = start_capture(
        topology.client, "v6", f"src {SERVER} and tcp and ip6[1] & 48 == 32", count=3
    )
    transfer(topology)
    for capture in (capable, answered):
        capture.wait_for("3 packets captured", 5)


def test_first_free_name_is_taken(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    topology.gateway.ip("tuntap", "add", "tap0", "mode", "tap")
    gateway = start_gateway(topology.gateway)
    ping(topology)
    assert "dev tap1" in topology.gateway.ip("-6", "route", "show", "fec0:0:0:ffff::/64")
    assert gateway.status().line.count("unit=1 ") == 1


def test_name_can_be_given(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    gateway = start_gateway(topology.gateway, "--tap", "nat64")
    ping(topology)
    gateway.stop_cleanly()
    assert "nat64" not in topology.gateway.ip("link", "show")


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        ((), ()),
        (("multi_queue",), ("multi_queue",)),
        (("user", "nobody"), ()),
        (("vnet_hdr",), ()),
    ],
    ids=["plain", "multi-queue", "owned-by-a-user", "vnet-header"],
)
def test_device_that_exists_is_used_and_given_back_as_it_was(
    lab: Lab, start_gateway: StartGateway, words: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    topology = build(lab)
    host = topology.gateway
    host.ip("tuntap", "add", "tap0", "mode", "tap", *words)
    before = snapshot(host)
    details = tuntap(host)
    features = offloads(host, "tap0")
    gateway = start_gateway(host, "--tap", "tap0")
    ping(topology)
    transfer(topology)
    gateway.stop_cleanly()
    assert difference(before, snapshot(host)) == ""
    assert tuntap(host) == details
    assert offloads(host, "tap0") == features
    assert not unfinished_checksums(host, "tap0", *flags)


def test_device_in_use_before_it_starts_again(lab: Lab, start_gateway: StartGateway) -> None:
    """A persistent tap serves run after run."""
    topology = build(lab)
    topology.gateway.ip("tuntap", "add", "tap0", "mode", "tap")
    for _ in range(2):
        gateway = start_gateway(topology.gateway, "--tap", "tap0")
        ping(topology)
        gateway.stop_cleanly()


@pytest.mark.parametrize(("existing", "wanted"), [("tun", "tap"), ("tap", "tun")])
def test_device_of_the_wrong_kind_is_named(lab: Lab, existing: str, wanted: str) -> None:
    topology = build(lab)
    topology.gateway.ip("tuntap", "add", "dev0", "mode", existing)
    before = snapshot(topology.gateway)
    result = Gateway(topology.gateway, "--device", wanted, "--tap", "dev0").run()
    assert result.status == EXIT_HOST
    assert re.search(rf"dev0.*\b{existing}\b", result.err)
    assert "Traceback" not in result.err
    assert difference(before, snapshot(topology.gateway)) == ""


def test_two_gateways_on_one_host(lab: Lab, start_gateway: StartGateway) -> None:
    """Each has its device, prefix and pool; the end of one is not the end of the other."""
    topology = build(lab)
    topology.route_prefix("fd00:6464::/96")
    before = snapshot(topology.gateway)
    first = start_gateway(topology.gateway, name="first")
    second = start_gateway(
        topology.gateway,
        *("--prefix", "fd00:6464::/96", "--pool4", "192.0.0.5/32", "--set", "masquerade=true"),
        name="second",
        run_dir=first.run_dir,
    )
    ping(topology)
    ping(topology, "fd00:6464::192.0.2.1")
    assert "dev tap1" in topology.gateway.ip("-6", "route", "show", "fd00:6464::/96")
    first.stop_cleanly()
    ping(topology, "fd00:6464::192.0.2.1")
    second.stop_cleanly()
    assert difference(before, snapshot(topology.gateway)) == ""


def test_second_gateway_without_a_pool_of_its_own_is_refused(
    lab: Lab, start_gateway: StartGateway
) -> None:
    topology = build(lab)
    start_gateway(topology.gateway, name="first")
    before = snapshot(topology.gateway)
    second = Gateway(topology.gateway, "--prefix", "fd00:6464::/96", name="second")
    result = second.run()
    assert result.status == EXIT_HOST
    assert "192.0.0.6" in result.err
    assert difference(before, snapshot(topology.gateway)) == ""
    ping(topology)
