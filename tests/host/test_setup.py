"""gateway/host/setup.py: what is planned, applied and undone, on the kernel's own word."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from gateway.host.plan import HostError
from gateway.host.setup import HostSpec, device_mac, layer3_device, plan_host
from gateway.tap import close_device, open_device

MAC = bytes.fromhex("020000000005")
PREFIX = IPv6Network("fec0:0:0:ffff::/64")
POOL = IPv4Network("192.0.0.6/32")


@pytest.fixture
def spec(tmp_path) -> HostSpec:
    return HostSpec("tap0", "tap", 1500, MAC, [PREFIX], [POOL], True, str(tmp_path / "run"))


def planned(spec: HostSpec):
    said: list[str] = []
    return plan_host(spec, log=said.append), said


def test_the_plan_of_a_fresh_host_and_its_exact_undoing(spec, run, sysctl, snapshot) -> None:
    run("ip link add up0 type veth peer name up1")
    before = snapshot()
    device = open_device("tap", "tap0", offload=True)
    plan, said = planned(spec)
    plan.apply()
    assert plan.describe() == said
    assert said == [
        f"keep the old values in {next((spec_dir(spec)).iterdir())}",
        "set net.ipv6.conf.all.forwarding = 1 (was 0)",
        "set net.ipv4.ip_forward = 1 (was 0)",
        "set tap0 up",
        "add address fe80::1/64 to tap0",
        "add permanent neighbour fe80::5 lladdr 02:00:00:00:00:05 dev tap0",
        "add permanent neighbour 192.0.0.8 lladdr 02:00:00:00:00:05 dev tap0",
        "add nftables table ip tap64_tap0: masquerade 192.0.0.6/32",
        "add route 192.0.0.6/32 via 192.0.0.8 dev tap0 onlink proto 64",
        "add route fec0:0:0:ffff::/64 via fe80::5 dev tap0 proto 64",
    ]
    assert sysctl("ipv6/conf/all/forwarding") == sysctl("ipv4/ip_forward") == "1"
    assert "fec0:0:0:ffff::/64 via fe80::5 dev tap0 proto 64" in run("ip -6 route")
    assert "192.0.0.6 via 192.0.0.8 dev tap0 proto 64 onlink" in run("ip route")
    assert "inet6 fe80::1/64 scope link nodad" in run("ip addr show tap0")
    for address in ("fe80::5", "192.0.0.8"):
        neighbours = run("ip neigh show dev tap0 nud permanent")
        assert f"{address} lladdr 02:00:00:00:00:05 PERMANENT" in neighbours
    rules = run("nft list table ip tap64_tap0")
    assert "type nat hook postrouting priority srcnat; policy accept;" in rules
    assert "ip saddr 192.0.0.6 masquerade" in rules
    plan.undo()
    close_device(device)
    assert snapshot() == before
    assert not spec_dir(spec).exists()


def spec_dir(spec: HostSpec) -> Path:
    return Path(spec.run_dir)


def test_second_plan_has_nothing_to_change_but_the_table(spec, instance, run) -> None:
    """What is right already is no part of a plan, and so is never undone."""
    run("ip tuntap add tap0 mode tap")
    sysctls = ("net.ipv6.conf.all.forwarding=1", "net.ipv4.ip_forward=1")
    for setting in sysctls:
        run(f"sysctl -qw {setting}")
    run("ip link set tap0 up")
    run("ip -6 addr add fe80::1/64 dev tap0 nodad")
    run("ip neigh add fe80::5 lladdr 02:00:00:00:00:05 dev tap0 nud permanent")
    run("ip neigh add 192.0.0.8 lladdr 02:00:00:00:00:05 dev tap0 nud permanent")
    run("ip route add 192.0.0.6/32 via 192.0.0.8 dev tap0 onlink")
    run("ip -6 route add fec0:0:0:ffff::/64 dev tap0")
    plan, _ = planned(replace(spec, masquerade=False))
    assert len(plan.describe()) == 1
    assert plan.describe()[0].startswith("keep the old values in")


def test_persistent_device_that_was_up_stays_up_with_what_it_had(spec, run, snapshot) -> None:
    run("ip tuntap add tap0 mode tap")
    run("ip link set tap0 up mtu 1400")
    run("ip -6 addr add fe80::1/64 dev tap0 nodad")
    run("ip neigh add fe80::5 lladdr 02:00:00:00:00:99 dev tap0 nud permanent")
    before = snapshot()
    plan, said = planned(spec)
    plan.apply()
    assert "set the MTU of tap0 to 1500 (was 1400)" in said
    assert not any("address" in line or "tap0 up" in line for line in said)
    assert "mtu 1500" in run("ip link show tap0")
    assert "02:00:00:00:00:05" in run("ip neigh show fe80::5 dev tap0")
    plan.undo()
    assert snapshot() == before


def test_persistent_device_that_was_down_goes_down_again(spec, run, snapshot) -> None:
    run("ip tuntap add tap0 mode tap")
    before = snapshot()
    plan, _ = planned(spec)
    plan.apply()
    plan.undo()
    assert snapshot() == before


def test_tun_gets_plain_routes_and_no_neighbours(spec, run, snapshot) -> None:
    before = snapshot()
    device = open_device("tun", "tun0", offload=True)
    plan, said = planned(replace(spec, tap="tun0", kind="tun"))
    plan.apply()
    assert "fec0:0:0:ffff::/64 dev tun0 proto 64" in run("ip -6 route")
    assert "192.0.0.6 dev tun0 proto 64 scope link" in run("ip route")
    assert not any("neighbour" in line for line in said)
    assert (device_mac("tun0"), layer3_device("tun0")[2]) == (b"", b"")
    plan.undo()
    close_device(device)
    assert snapshot() == before


def test_tap_in_a_bridge_uses_the_bridge(spec, run, snapshot) -> None:
    run("ip link add br0 type bridge")
    run("ip tuntap add tap0 mode tap")
    run("ip link set tap0 master br0")
    before = snapshot()
    name, index, mac = layer3_device("tap0")
    assert (name, mac) == ("br0", device_mac("br0"))
    assert run("ip -o link show br0").startswith(f"{index}: ")
    plan, said = planned(spec)
    plan.apply()
    assert "set br0 up" in said
    assert "set tap0 up" in said
    assert "via fe80::5 dev br0 proto 64" in run("ip -6 route")
    assert "192.0.0.8 lladdr 02:00:00:00:00:05" in run("ip neigh show dev br0 nud permanent")
    assert "fe80::1" not in run("ip addr show tap0")
    plan.undo()
    assert snapshot() == before


def test_pool_networks_are_masqueraded_with_their_real_masks(spec, run) -> None:
    device = open_device("tap", "tap0", offload=True)
    pools = ["198.51.100.8/29", "203.0.113.6/31", "10.128.0.0/9", "192.0.0.6/32"]
    plan, _ = planned(replace(spec, pool4=[IPv4Network(p) for p in pools]))
    plan.apply()
    rules = run("nft list table ip tap64_tap0")
    for pool in pools:
        assert f"ip saddr {pool.removesuffix('/32')} masquerade" in rules
    plan.undo()
    assert run("nft list ruleset") == ""
    close_device(device)


def test_routed_pool_gets_no_table(spec, run) -> None:
    device = open_device("tap", "tap0", offload=True)
    plan, _ = planned(replace(spec, masquerade=False))
    plan.apply()
    assert run("nft list ruleset") == ""
    plan.undo()
    close_device(device)


def test_failure_half_way_undoes_what_was_done(spec, run, snapshot) -> None:
    """The route is refused because of one that the lookup cannot see: a blackhole."""
    run("ip route add blackhole 192.0.0.6/32")
    run("ip link add up0 type veth peer name up1")
    before = snapshot()
    device = open_device("tap", "tap0", offload=True)
    plan, said = planned(spec)
    with pytest.raises(HostError, match=r"192\.0\.0\.6/32.*there is one already.*ip route del"):
        plan.apply()
    assert "undone: set tap0 up" in said
    close_device(device)
    assert snapshot() == before


def test_undo_after_the_device_vanished_is_quiet(spec, run, snapshot) -> None:
    before = snapshot()
    device = open_device("tap", "tap0", offload=True)
    plan, said = planned(spec)
    plan.apply()
    close_device(device)
    plan.undo()
    assert snapshot() == before
    assert not any(line.startswith("cannot") for line in said)


def test_disabled_ipv6_on_the_device_alone_is_switched_on(spec, run, sysctl, snapshot) -> None:
    sysctl("ipv6/conf/default/disable_ipv6", "1")
    before = snapshot()
    device = open_device("tap", "tap0", offload=True)
    plan, said = planned(spec)
    plan.apply()
    assert "set net.ipv6.conf.tap0.disable_ipv6 = 0 (was 1)" in said
    plan.undo()
    close_device(device)
    assert snapshot() == before


def test_router_whose_new_interfaces_do_not_forward(spec, run, sysctl, snapshot) -> None:
    sysctl("ipv4/ip_forward", "1")
    sysctl("ipv4/conf/default/forwarding", "0")
    before = snapshot()
    device = open_device("tap", "tap0", offload=True)
    plan, said = planned(spec)
    plan.apply()
    assert sysctl("ipv4/conf/tap0/forwarding") == "1"
    assert "set net.ipv4.conf.tap0.forwarding = 1 (was 0)" in said
    plan.undo()
    close_device(device)
    assert snapshot() == before


def test_dry_run_changes_nothing_and_says_what_would_be_done(spec, run, snapshot) -> None:
    before = snapshot()
    lines = plan_host(spec, dry_run=True).describe()
    assert lines[0] == "create tap device tap0"
    assert lines[-1] == "add route fec0:0:0:ffff::/64 via fe80::5 dev tap0 proto 64"
    assert snapshot() == before
    assert not spec_dir(spec).exists()
    with pytest.raises(HostError):
        plan_host(spec, dry_run=True).apply()


def test_device_that_is_not_there_is_named(spec) -> None:
    with pytest.raises(HostError, match="there is no device tap0"):
        plan_host(spec)
    with pytest.raises(HostError, match="there is no device tap0"):
        layer3_device("tap0")


def test_run_dir_that_cannot_be_written_is_named_before_any_change(
    spec, run, snapshot, tmp_path
) -> None:
    (tmp_path / "file").write_text("")
    run("ip tuntap add tap0 mode tap")
    before = snapshot()
    with pytest.raises(HostError, match=r"cannot read .*file/run.*set run_dir"):
        planned(replace(spec, run_dir=str(tmp_path / "file" / "run")))
    plan, _ = planned(replace(spec, run_dir="/proc/self/run"))
    with pytest.raises(HostError, match="cannot use /proc/self/run"):
        plan.apply()
    assert snapshot() == before


def test_killed_run_is_taken_over_with_the_original_values(
    spec, instance, run, sysctl, snapshot
) -> None:
    run("ip tuntap add tap0 mode tap")
    run("ip link set tap0 mtu 1400")
    before = snapshot()
    instance("tap0").kill()
    assert sysctl("ipv6/conf/all/forwarding") == "1"
    second = instance("tap0")
    assert any("taking over what a killed run" in line for line in second.said)
    second.stop()
    assert snapshot() == before
    assert not spec_dir(spec).exists()


def test_killed_runs_other_prefix_is_removed_at_the_next_start(
    spec, instance, run, snapshot
) -> None:
    run("ip tuntap add tap0 mode tap")
    before = snapshot()
    instance("tap0", prefix="fec0:0:0:eeee::/64").kill()
    second = instance("tap0")
    assert "fec0:0:0:eeee::/64" not in run("ip -6 route")
    assert any("undo what a killed run left: add route fec0:0:0:eeee" in s for s in second.said)
    second.stop()
    assert snapshot() == before


def test_what_was_undone_at_a_start_is_forgotten(spec, instance, run) -> None:
    run("ip tuntap add tap0 mode tap")
    instance("tap0", prefix="fec0:0:0:eeee::/64").kill()
    second = instance("tap0")
    (path,) = spec_dir(spec).glob("journal-*.json")
    assert "fec0:0:0:eeee::" not in path.read_text()
    assert "fec0:0:0:ffff::" in path.read_text()
    second.kill()
    third = instance("tap0")
    assert not any("undo what a killed run left" in line for line in third.said)
    third.stop()


def test_killed_run_with_another_mtu_is_taken_over(instance, run, snapshot) -> None:
    run("ip tuntap add tap0 mode tap")
    before = snapshot()
    instance("tap0", mtu=1400).kill()
    second = instance("tap0", mtu=1300)
    assert "mtu 1300" in run("ip link show tap0")
    second.stop()
    assert snapshot() == before


def test_neighbour_that_somebody_else_replaced_stays(spec, run) -> None:
    run("ip tuntap add tap0 mode tap")
    run("ip link set tap0 up")
    plan, said = planned(spec)
    plan.apply()
    run("ip neigh replace fe80::5 lladdr 02:00:00:00:00:77 dev tap0 nud permanent")
    plan.undo()
    assert "02:00:00:00:00:77" in run("ip neigh show fe80::5 dev tap0 nud permanent")
    assert any("02:00:00:00:00:77 now, which is not ours" in line for line in said)


def test_two_kills_in_a_row_still_know_the_originals(spec, instance, run, snapshot) -> None:
    before = snapshot()
    instance("tap0").kill()
    instance("tap0").kill()
    instance("tap0").stop()
    assert snapshot() == before


def test_corrupt_journal_is_one_line_and_moved_aside(spec, instance, run, sysctl) -> None:
    instance("tap0").kill()
    (path,) = spec_dir(spec).iterdir()
    path.write_text(path.read_text()[:-40])
    second = instance("tap0")
    assert sum("cannot be used" in line for line in second.said) == 1
    second.stop()
    assert [p.suffix for p in spec_dir(spec).iterdir()] == [".corrupt"]


def test_live_instance_of_the_same_device_is_named(spec, instance, run) -> None:
    first = instance("tap0")
    with pytest.raises(HostError, match=f"process {first.process.pid} serves tap0 already"):
        plan_host(spec)
    first.stop()


def test_journal_holds_every_old_value_and_is_root_only(spec, instance, run, sysctl) -> None:
    sysctl("ipv4/conf/all/accept_redirects", "1")
    sysctl("ipv6/conf/default/forwarding", "1")
    first = instance("tap0")
    (path,) = spec_dir(spec).iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    changes = json.loads(path.read_text())["changes"]
    old = {key: v for c in changes if c["kind"] == "forwarding" for key, v in c["old"].items()}
    assert old["ipv6/conf/all/forwarding"] == "0"
    assert old["ipv6/conf/default/forwarding"] == "1"
    assert old["ipv4/conf/all/accept_redirects"] == "1"
    assert old["ipv4/conf/lo/forwarding"] == "0"
    first.stop()
    assert sysctl("ipv6/conf/default/forwarding") == "1"


@pytest.mark.parametrize("first_to_stop", [0, 1])
def test_the_last_of_two_instances_switches_forwarding_off(
    instance, run, sysctl, snapshot, first_to_stop
) -> None:
    before = snapshot()
    both = [
        instance("tap0"),
        instance("tap1", prefix="fec0:0:0:eeee::/64", pool="192.0.0.7/32"),
    ]
    said = both.pop(first_to_stop).stop()
    assert any("still needs it" in line for line in said) is (first_to_stop == 0)
    assert sysctl("ipv6/conf/all/forwarding") == sysctl("ipv4/ip_forward") == "1"
    both.pop().stop()
    assert snapshot() == before
