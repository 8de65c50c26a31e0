"""gateway/host/preflight.py: each mistake is one line with its remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network

import pytest

from gateway.host import preflight as module
from gateway.host import sysctl as sysctls
from gateway.host.setup import HostSpec, plan_host, preflight
from gateway.tap import open_device

SPEC = HostSpec(
    "tap0",
    "tap",
    1500,
    bytes(6),
    [IPv6Network("fec0:0:0:ffff::/64")],
    [IPv4Network("198.51.100.8/29")],
    True,
    "/nonexistent/run",
)


@pytest.fixture
def veth(run):
    def make() -> None:
        run("ip link add up0 type veth peer name up1")
        run("ip link set up1 up")
        run("ip link set up0 up")

    return make


def the_one(problems: list[str]) -> str:
    assert len(problems) == 1, problems
    assert "\n" not in problems[0]
    return problems[0]


def test_a_fresh_host_has_no_problem(veth) -> None:
    veth()
    assert preflight(SPEC) == []
    assert preflight(replace(SPEC, tap="")) == []


def test_device_that_cannot_be_used(veth, run) -> None:
    veth()
    line = the_one(preflight(replace(SPEC, tap="up0")))
    assert line.startswith("up0 exists and is no tap or tun device: choose another name")
    run("ip tuntap add tun0 mode tun")
    line = the_one(preflight(replace(SPEC, tap="tun0")))
    assert line.startswith("tun0 is a tun device and a tap is wanted: use --device tun")
    assert preflight(replace(SPEC, tap="tun0", kind="tun")) == []
    assert preflight(replace(SPEC, tap="up0", device=False)) == []


@pytest.mark.parametrize("address", ["198.51.100.8/32", "198.51.100.15/24"])
def test_pool_in_use_on_an_interface(veth, run, address) -> None:
    veth()
    run(f"ip addr add {address} dev up0")
    line = the_one(preflight(SPEC))
    assert line.startswith(f"{address.split('/')[0]} is an address of up0 and lies in pool4")
    assert "choose another pool4" in line


def test_pool_inside_an_interfaces_network_is_no_problem(veth, run) -> None:
    veth()
    run("ip addr add 198.51.100.1/24 dev up0")
    assert preflight(SPEC) == []


def test_next_hop_in_use_on_an_interface(veth, run) -> None:
    veth()
    run("ip addr add 192.0.0.8/32 dev up0")
    assert "192.0.0.8 is an address of up0 and is the gateway's own" in the_one(preflight(SPEC))


def test_prefix_in_use_on_an_interface(veth, run) -> None:
    veth()
    run("ip addr add fec0:0:0:ffff::7/128 dev up0")
    assert "fec0:0:0:ffff::7 is an address of up0 and lies in the prefix" in the_one(
        preflight(SPEC)
    )


def test_route_for_the_prefix_exists(veth, run) -> None:
    veth()
    run("ip -6 route add fec0:0:0:ffff::/64 via fe80::77 dev up0")
    line = the_one(preflight(SPEC))
    assert "a route for fec0:0:0:ffff::/64 exists already (via fe80::77 dev up0)" in line
    assert "ip -6 route del fec0:0:0:ffff::/64 dev up0" in line


def test_route_for_the_pool_exists(veth, run) -> None:
    veth()
    run("ip route add 198.51.100.8/29 dev up0")
    assert "ip route del 198.51.100.8/29 dev up0" in the_one(preflight(SPEC))


def test_shorter_routes_are_no_problem(veth, run) -> None:
    veth()
    run("ip route add 198.51.100.0/24 dev up0")
    run("ip -6 route add fec0::/10 dev up0")
    run("ip -6 route add default via fe80::77 dev up0")
    assert preflight(SPEC) == []


def test_route_of_another_gateway_is_named(veth, run) -> None:
    veth()
    run("ip -6 route add fec0:0:0:ffff::/64 dev up0 proto 64")
    line = the_one(preflight(SPEC))
    assert "gateway undo --tap up0" in line
    assert "choose another, --prefix " in line


def test_own_leftover_route_is_no_problem(run) -> None:
    run("ip tuntap add tap0 mode tap")
    run("ip link set tap0 up")
    run("ip -6 route add fec0:0:0:ffff::/64 dev tap0 proto 64")
    assert preflight(SPEC) == []


def test_ipv6_disabled(sysctl) -> None:
    sysctl("ipv6/conf/all/disable_ipv6", "1")
    assert "sysctl -w net.ipv6.conf.all.disable_ipv6=0" in the_one(preflight(SPEC))


def test_kernel_without_ipv6(monkeypatch) -> None:
    real = sysctls.read
    monkeypatch.setattr(sysctls, "read", lambda key: None if key.startswith("ipv6") else real(key))
    assert "boot it without ipv6.disable=1" in the_one(preflight(SPEC))


def test_read_only_sysctls(monkeypatch, sysctl) -> None:
    monkeypatch.setattr(sysctls, "writable", lambda key: False)
    lines = preflight(SPEC)
    assert [line.split()[0] for line in lines] == [
        "net.ipv6.conf.all.forwarding",
        "net.ipv4.ip_forward",
    ]
    assert "docker run --sysctl net.ipv4.ip_forward=1" in lines[1]
    sysctl("ipv6/conf/all/forwarding", "1")
    sysctl("ipv4/ip_forward", "1")
    assert preflight(SPEC) == []


def test_no_driver(monkeypatch) -> None:
    monkeypatch.setattr(module, "driver_problem", lambda: "there is no /dev/net/tun: ...")
    assert the_one(preflight(SPEC)) == "there is no /dev/net/tun: ..."


def unprivileged(code: str) -> str:
    return subprocess.run(
        ["setpriv", "--bounding-set", "-net_admin", sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": os.pathsep.join([".", *sys.path])},
    ).stdout


def test_no_privilege() -> None:
    said = unprivileged(
        "from gateway.host.setup import *\n"
        "for line in preflight(HostSpec('tap0', 'tap', 1500, bytes(6))): print(line)"
    )
    assert "no CAP_NET_ADMIN: run as root" in the_one(said.splitlines())


def test_apply_without_privilege_is_one_line_and_quick(run, tmp_path) -> None:
    """The nftables batch too: pyroute2 alone would wait for ever for the kernel's refusal."""
    said = unprivileged(
        "from gateway.host.nft import Masquerade\n"
        "from gateway.host.plan import HostError\n"
        "try: Masquerade('tap0', ['192.0.0.6/32']).apply()\n"
        "except HostError as error: print(error)"
    )
    assert "cannot add nftables table tap64_tap0" in said
    assert "run as root or with CAP_NET_ADMIN" in said


def test_preflight_then_plan_agree_on_a_good_host(tmp_path) -> None:
    spec = replace(SPEC, run_dir=str(tmp_path / "run"))
    assert preflight(spec) == []
    open_device("tap", "tap0", offload=True)
    plan = plan_host(spec, log=lambda line: None)
    plan.apply()
    assert preflight(spec) == []
    plan.undo()
