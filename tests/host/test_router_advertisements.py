"""The host keeps the default route that it has from router advertisements.

fake router (a frame written to the descriptor) ── tap up0 ── the host's kernel
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest
import trio

from gateway.host.journal import Journal, undo_order
from gateway.host.ra_guard import LinkEvent, RaGuard, parse_events
from gateway.host.router_advertisements import keep_accepting
from gateway.host.setup import HostSpec, plan_host
from gateway.host.sysctl import Forwarding
from gateway.tap import Device, close_device, open_device
from translate.checksum import internet_checksum

ROUTER = IPv6Address("fe80::99")
ALL_NODES = IPv6Address("ff02::1")


def advertisement(*, lifetime: int = 1800, with_prefix: bool = True) -> bytes:
    """An Ethernet frame with an RA (RFC 4861 §4.2), of a router for `lifetime` seconds."""
    prefix = struct.pack(
        "!BBBBIII16s", 3, 4, 64, 0xC0, 86400, 14400, 0, IPv6Address("2001:db8:1::").packed
    )
    body = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, lifetime, 0, 0)
    if with_prefix:
        body += prefix
    pseudo = ROUTER.packed + ALL_NODES.packed + struct.pack("!II", len(body), 58)
    checksum = internet_checksum(pseudo + body)
    body = body[:2] + struct.pack("!H", checksum) + body[4:]
    ip = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + ROUTER.packed + ALL_NODES.packed
    return bytes.fromhex("333300000001 020000000099 86dd") + ip + body


def advertise(device: Device, *, lifetime: int = 1800, with_prefix: bool = True) -> None:
    os.write(device.fd, advertisement(lifetime=lifetime, with_prefix=with_prefix))


def eventually(condition) -> bool:
    deadline = time.monotonic() + 5
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def uplink(run):
    """uplink(name) makes an interface that is up and past duplicate address detection."""

    def make(name: str) -> Device:
        device = open_device("tap", name, offload=False)
        run(f"sysctl -qw net.ipv6.conf.{name}.dad_transmits=0")
        run(f"ip link set {name} up")
        assert eventually(lambda: "tentative" not in run(f"ip -6 addr show dev {name}"))
        assert "fe80::" in run(f"ip -6 addr show dev {name}")
        return device

    return make


@pytest.fixture
def learnt(run):
    """learnt(name): whether the host has its default route from an RA on the interface."""
    return lambda name: f"default via fe80::99 dev {name} proto ra" in run("ip -6 route")


@pytest.fixture
def gateway(tmp_path):
    """gateway() is the device, the plan and what they say, not yet applied."""

    def make():
        device = open_device("tap", "tap0", offload=True)
        spec = HostSpec(
            "tap0",
            "tap",
            1500,
            bytes(6),
            [IPv6Network("fec0:0:0:ffff::/64")],
            [IPv4Network("192.0.0.6/32")],
            False,
            str(tmp_path / "run"),
        )
        said: list[str] = []
        return device, plan_host(spec, log=said.append), said

    return make


def test_the_default_route_survives_start_and_stop(
    uplink, learnt, gateway, sysctl, snapshot
) -> None:
    wire = uplink("up0")
    advertise(wire)
    assert eventually(lambda: learnt("up0"))
    device, plan, said = gateway()
    plan.apply()
    assert "set net.ipv6.conf.up0.accept_ra = 2 (was 1)" in said
    assert said.index("set net.ipv6.conf.up0.accept_ra = 2 (was 1)") < said.index(
        "set net.ipv6.conf.all.forwarding = 1 (was 0)"
    )
    assert learnt("up0")
    plan.undo()
    close_device(device)
    assert learnt("up0")
    assert sysctl("ipv6/conf/up0/accept_ra") == "1"
    close_device(wire)


def test_advertisement_that_gave_nothing_counts_too(uplink, gateway, sysctl) -> None:
    """A router that offers neither route nor prefix now may do so later."""
    wire = uplink("up0")
    time.sleep(0.1)  # the kernel's own solicitation comes first
    advertise(wire, lifetime=0, with_prefix=False)
    _, plan, _ = gateway()
    plan.apply()
    assert sysctl("ipv6/conf/up0/accept_ra") == "2"


def test_interface_that_forwarded_before_is_left_alone(uplink, learnt, gateway, sysctl) -> None:
    """It did not accept RAs any more; the address is from an earlier time."""
    wire = uplink("up0")
    advertise(wire)
    assert eventually(lambda: learnt("up0"))
    sysctl("ipv6/conf/up0/forwarding", "1")
    _, plan, _ = gateway()
    plan.apply()
    assert sysctl("ipv6/conf/up0/accept_ra") == "1"


def test_accept_ra_of_a_killed_run_is_taken_over(uplink, learnt, instance, sysctl) -> None:
    wire = uplink("up0")
    advertise(wire)
    assert eventually(lambda: learnt("up0"))
    instance("tap0").kill()
    second = instance("tap0")
    assert sysctl("ipv6/conf/up0/accept_ra") == "2"
    second.stop()
    assert sysctl("ipv6/conf/up0/accept_ra") == "1"
    assert learnt("up0")


def test_accept_ra_goes_to_the_instance_that_stays(uplink, learnt, instance, sysctl) -> None:
    wire = uplink("up0")
    advertise(wire)
    assert eventually(lambda: learnt("up0"))
    first = instance("tap0")
    second = instance("tap1", prefix="fec0:0:0:eeee::/64", pool="192.0.0.7/32")
    first.stop()
    assert sysctl("ipv6/conf/up0/accept_ra") == "2"
    assert learnt("up0")
    said = [line for line in second.stop() if line.startswith("undone: set")]
    accept_ra = said.index("undone: set net.ipv6.conf.up0.accept_ra = 2 (was 1)")
    assert said.index("undone: set net.ipv6.conf.all.forwarding = 1 (was 0)") < accept_ra
    assert learnt("up0")


def test_forwarding_handed_over_goes_before_what_came_even_later() -> None:
    handed = Forwarding("ipv6", {})
    before, later = keep_accepting("up0"), keep_accepting("late0")
    assert undo_order([before, handed, later]) == [handed, later, before]
    assert undo_order([handed, before, later]) == [handed, later, before]


def test_interface_without_advertisements_is_left_alone(uplink, gateway, sysctl) -> None:
    wire = uplink("lan0")
    _, plan, said = gateway()
    plan.apply()
    assert sysctl("ipv6/conf/lan0/accept_ra") == "1"
    assert not any("accept_ra" in line for line in said)
    close_device(wire)


@pytest.mark.parametrize("value", ["0", "2"])
def test_other_values_of_accept_ra_stay(uplink, learnt, gateway, sysctl, value) -> None:
    wire = uplink("up0")
    advertise(wire)
    assert eventually(lambda: learnt("up0"))
    sysctl("ipv6/conf/up0/accept_ra", value)
    _, plan, _ = gateway()
    plan.apply()
    assert sysctl("ipv6/conf/up0/accept_ra") == value
    close_device(wire)


def test_interface_that_has_just_come_up_is_given_the_benefit_of_the_doubt(
    run, gateway, sysctl
) -> None:
    wire = open_device("tap", "up0", offload=False)
    run("ip link set up0 up")
    assert "tentative" in run("ip -6 addr show dev up0")
    _, plan, _ = gateway()
    plan.apply()
    assert sysctl("ipv6/conf/up0/accept_ra") == "2"
    plan.undo()
    assert sysctl("ipv6/conf/up0/accept_ra") == "1"
    close_device(wire)


def test_host_that_forwards_already_keeps_its_accept_ra(uplink, gateway, sysctl) -> None:
    sysctl("ipv6/conf/all/forwarding", "1")
    wire = uplink("up0")
    _, plan, said = gateway()
    plan.apply()
    assert not any("accept_ra" in line for line in said)
    close_device(wire)


def guarded(tmp_path, steps, own=("tap0",)) -> list[str]:
    """Run the guard while `steps(calls)` runs; `calls` counts the calls of `changed`."""
    said: list[str] = []
    calls: list[None] = []

    async def main() -> None:
        guard = RaGuard(
            Journal(str(tmp_path / "run"), "tap0"),
            own=own,
            changed=lambda: calls.append(None),
            log=said.append,
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(guard.run)
            with trio.fail_after(10):
                await trio.to_thread.run_sync(steps, calls)
            nursery.cancel_scope.cancel()

    trio.run(main)
    return said


def test_interface_that_comes_up_later_gets_its_default_route(
    uplink, learnt, gateway, sysctl, tmp_path, run
) -> None:
    _, plan, _ = gateway()
    plan.apply()

    def steps(calls) -> None:
        wire = open_device("tap", "up0", offload=False)
        run("ip link set up0 up")
        assert eventually(lambda: sysctl("ipv6/conf/up0/accept_ra") == "2")
        assert sysctl("ipv6/conf/up0/forwarding") == "1"
        advertise(wire)
        assert eventually(lambda: learnt("up0"))
        plan.undo()
        assert learnt("up0")
        assert sysctl("ipv6/conf/up0/accept_ra") == "1"
        close_device(wire)

    said = guarded(tmp_path, steps)
    assert any("up0 came up" in line for line in said)
    assert not (tmp_path / "run").exists()


def test_carrier_that_comes_back_counts_as_coming_up(gateway, sysctl, tmp_path, run) -> None:
    run("ip tuntap add up0 mode tap")
    run("ip link set up0 up")
    _, plan, _ = gateway()
    plan.apply()

    def steps(calls) -> None:
        assert sysctl("ipv6/conf/up0/accept_ra") == "1"
        open_device("tap", "up0", offload=False)
        assert eventually(lambda: sysctl("ipv6/conf/up0/accept_ra") == "2")

    guarded(tmp_path, steps)


def test_own_device_and_bridge_ports_are_exempt(gateway, sysctl, tmp_path, run) -> None:
    _, plan, _ = gateway()
    run("ip link add br0 type bridge")
    plan.apply()

    def steps(calls) -> None:
        run("ip link set tap0 down")
        run("ip link set tap0 up")
        run("ip link add port0 type veth peer name port1")
        run("ip link set port0 master br0")
        run("ip link set port1 up")
        run("ip link set port0 up")
        assert eventually(lambda: sysctl("ipv6/conf/port1/accept_ra") == "2")
        time.sleep(0.3)
        assert sysctl("ipv6/conf/port0/accept_ra") == "1"
        assert sysctl("ipv6/conf/tap0/accept_ra") == "1"

    guarded(tmp_path, steps)


def test_forwarding_that_is_not_ours_changes_nothing(gateway, sysctl, tmp_path, run) -> None:
    sysctl("ipv6/conf/all/forwarding", "1")
    _, plan, _ = gateway()
    plan.apply()

    def steps(calls) -> None:
        wire = open_device("tap", "up0", offload=False)
        run("ip link set up0 up")
        assert eventually(lambda: calls)
        time.sleep(0.3)
        assert sysctl("ipv6/conf/up0/accept_ra") == "1"
        close_device(wire)

    guarded(tmp_path, steps)


def test_vanished_interface_is_forgotten(gateway, sysctl, tmp_path, run) -> None:
    _, plan, _ = gateway()
    plan.apply()
    (path,) = (tmp_path / "run").iterdir()

    def later() -> list[str]:
        return [change["key"] for change in json.loads(Path(path).read_text())["later"]]

    def steps(calls) -> None:
        wire = open_device("tap", "up0", offload=False)
        run("ip link set up0 up")
        assert eventually(lambda: later() == ["ipv6/conf/up0/accept_ra"])
        close_device(wire)
        assert eventually(lambda: later() == [])

    guarded(tmp_path, steps)


@pytest.mark.parametrize(
    "event",
    [
        "ip -6 route add 2001:db8::/64 dev lo",
        "ip route add 198.51.100.0/24 dev lo",
        "ip -6 addr add 2001:db8::1/128 dev lo",
        "ip -6 rule add from 2001:db8::/64 table 100",
        "ip rule add from 198.51.100.0/24 table 100",
    ],
)
def test_events_that_change_lookups_are_told(tmp_path, run, event) -> None:
    def steps(calls) -> None:
        time.sleep(0.1)
        calls.clear()
        run(event)
        assert eventually(lambda: calls)

    guarded(tmp_path, steps)


def test_lost_events_are_made_up_for(gateway, sysctl, tmp_path, run, monkeypatch) -> None:
    """After ENOBUFS the links are looked at anew."""
    _, plan, _ = gateway()
    plan.apply()
    real = socket.socket.recv
    lost: list[int] = []

    def recv(self, size, *flags):
        data = real(self, size, *flags)
        if self.family == socket.AF_NETLINK and size == 1 << 16 and len(lost) < 1_000:
            lost.append(len(data))
            raise OSError(105, "No buffer space available")
        return data

    monkeypatch.setattr(socket.socket, "recv", recv)

    def steps(calls) -> None:
        open_device("tap", "up0", offload=False)
        run("ip link set up0 up")
        assert eventually(lambda: sysctl("ipv6/conf/up0/accept_ra") == "2")
        assert calls

    guarded(tmp_path, steps)
    assert lost


def message(message_type: int, body: bytes) -> bytes:
    data = struct.pack("=IHHII", 16 + len(body), message_type, 0, 0, 0) + body
    return data + bytes(-len(data) % 4)


def test_parse_events() -> None:
    def link(flags: int, family: int = 0) -> bytes:
        return struct.pack("=BxHiII", family, 1, 7, flags, 0) + b"attribute"

    assert list(parse_events(b"")) == []
    assert list(parse_events(message(24, bytes(12)))) == [None]
    both = message(16, link(0x10001)) + message(17, link(1))
    assert list(parse_events(both)) == [LinkEvent(7, True, False), LinkEvent(7, False, True)]
    assert list(parse_events(message(16, link(1)))) == [LinkEvent(7, False, False)]
    assert list(parse_events(message(16, link(0x10000)))) == [LinkEvent(7, False, False)]
    # A port that leaves its bridge is not removed (family AF_BRIDGE).
    assert list(parse_events(message(17, link(0x10001, family=7)))) == []
    for cut in range(len(both)):
        assert len(list(parse_events(both[:cut]))) <= 2
    assert list(parse_events(bytes(64)))[:1] == [None]
