"""gateway/host/leftovers.py: `gateway undo`."""

from __future__ import annotations

import json

import pytest

from gateway.host.plan import HostError
from gateway.host.setup import undo_leftovers


@pytest.fixture
def undo(tmp_path):
    """undo(tap) is the count and the lines of undo_leftovers."""

    def call(tap: str | None = None) -> tuple[int, list[str]]:
        said: list[str] = []
        return undo_leftovers(str(tmp_path / "run"), tap, said.append), said

    return call


def test_nothing_to_undo(undo) -> None:
    assert undo() == (0, [])
    assert undo("tap0") == (0, [])


@pytest.mark.parametrize("tap", [None, "tap0"])
@pytest.mark.parametrize("persistent", [True, False])
def test_a_killed_run_is_undone_to_the_last_bit(
    undo, instance, run, snapshot, tmp_path, tap, persistent
) -> None:
    run("ip link add up0 type veth peer name up1")
    if persistent:
        run("ip tuntap add tap0 mode tap")
        run("ip link set tap0 mtu 1400")
    before = snapshot()
    instance("tap0").kill()
    assert snapshot() != before
    count, said = undo(tap)
    assert count == len([line for line in said if line.startswith("undone: ")]) > 2
    assert snapshot() == before
    assert not (tmp_path / "run").exists()
    assert undo(tap) == (0, [])


def test_another_device_is_not_touched(undo, instance, run, sysctl) -> None:
    instance("tap0").kill()
    assert undo("tap1") == (0, [])
    assert sysctl("ipv6/conf/all/forwarding") == "1"


def test_live_instance_is_left_alone(undo, instance, run, snapshot) -> None:
    live = instance("tap0")
    before = snapshot()
    with pytest.raises(HostError, match=f"process {live.process.pid} serves tap0"):
        undo("tap0")
    count, said = undo()
    assert (count, said) == (
        0,
        [f"tap0 is served by process {live.process.pid}: left alone"],
    )
    assert snapshot() == before
    live.stop()


def test_forwarding_of_a_killed_run_goes_to_the_live_one(undo, instance, sysctl, snapshot) -> None:
    before = snapshot()
    killed = instance("tap0")
    live = instance("tap1", prefix="fec0:0:0:eeee::/64", pool="192.0.0.7/32")
    killed.kill()
    undo("tap0")
    assert sysctl("ipv6/conf/all/forwarding") == sysctl("ipv4/ip_forward") == "1"
    live.stop()
    assert snapshot() == before


def test_marks_are_found_without_a_journal(undo, instance, run, tmp_path) -> None:
    run("ip tuntap add tap0 mode tap")
    instance("tap0").kill()
    for path in (tmp_path / "run").iterdir():
        path.unlink()
    run("nft add table ip tap64_gone0")
    run("nft add table ip other")
    run("ip route add 203.0.113.0/24 dev lo")
    count, _ = undo()
    assert count == 4
    assert run("nft list ruleset").split() == ["table", "ip", "other", "{", "}"]
    assert "proto 64" not in run("ip route") + run("ip -6 route")
    assert "203.0.113.0/24" in run("ip route")


def test_corrupt_journal_is_one_line_and_moved_aside(undo, instance, tmp_path) -> None:
    instance("tap0").kill()
    (path,) = (tmp_path / "run").iterdir()
    path.write_text('{"version": 1}')
    _, said = undo()
    assert sum("cannot be" in line for line in said) == 1
    assert [p.suffix for p in (tmp_path / "run").iterdir()] == [".corrupt"]


def test_journal_of_another_namespace_with_the_same_inode_is_void(
    undo, instance, sysctl, tmp_path
) -> None:
    instance("tap0").kill()
    (path,) = (tmp_path / "run").iterdir()
    content = json.loads(path.read_text())
    content["netns_cookie"] += 1
    path.write_text(json.dumps(content))
    undo("tap0")
    assert sysctl("ipv6/conf/all/forwarding") == "1"
