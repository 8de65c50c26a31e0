"""gateway/backhaul/taps.py against the kernel."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import stat
import struct
import tempfile
import threading
from pathlib import Path

import pytest

from gateway import tap
from gateway.backhaul.taps import attach_tap, configure_tap, make_tap, remove_tap, set_carrier
from gateway.tap import DeviceError

OWNER = 4321  # nobody's number


def exists(run, name: str) -> bool:
    return f" {name}:" in run("ip -o link")


def test_a_tap_is_persistent_owned_up_and_silent(run) -> None:
    name = make_tap(OWNER, 1400, alias="for the backhaul")
    details = run(f"ip -d link show {name}")
    assert name == "tap0"
    assert f"persist on user {OWNER}" in details
    assert "pi off vnet_hdr off" in details
    assert "addrgenmode none" in details
    assert "mtu 1400" in details
    assert "alias for the backhaul" in details
    assert "NO-CARRIER" in details
    assert "UP" in details.split("<")[1].split(">")[0].split(",")
    assert "inet6" not in run(f"ip addr show {name}")
    remove_tap(name)
    assert not exists(run, name)


def test_the_kernel_sends_nothing_of_its_own(run) -> None:
    fd = attach_tap(make_tap(0, 1500))
    with pytest.raises(BlockingIOError):
        os.read(fd, 2000)
    run("ip link set tap0 down")
    run("ip link set tap0 up")
    with pytest.raises(BlockingIOError):
        os.read(fd, 2000)
    os.close(fd)


def test_numbers_are_never_given_twice(run) -> None:
    names: list[str] = []

    def make() -> None:
        names.extend(make_tap(0, 1500) for _ in range(8))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names) == sorted({f"tap{number}" for number in range(32)})


def test_offloads_of_a_former_reader_are_cleared(run) -> None:
    name = make_tap(0, 1500)
    device = tap.open_device("tap", name, offload=True)
    assert "tcp-segmentation-offload: on" in run(f"ethtool -k {name}")
    os.close(device.fd)  # as a killed one does: nothing is set back
    os.close(attach_tap(name))
    features = run(f"ethtool -k {name}")
    assert "tx-checksumming: off" in features
    assert "tcp-segmentation-offload: off" in features


def test_frames_are_plain_and_reading_does_not_wait(run) -> None:
    fd = attach_tap(make_tap(0, 1500))
    assert not os.get_blocking(fd)
    assert not os.get_inheritable(fd)
    run("ip addr add 169.254.9.1/30 dev tap0")
    run("ip neigh add 169.254.9.2 lladdr 02:00:00:00:00:09 dev tap0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("169.254.9.2", 9))
    frame = os.read(fd, 2000)
    assert frame[:6] == bytes.fromhex("020000000009")
    assert frame[12:14] == b"\x08\x00"
    os.close(fd)


def test_only_one_reader(run) -> None:
    fd = attach_tap(make_tap(0, 1500))
    with pytest.raises(DeviceError, match="in use"):
        attach_tap("tap0")
    os.close(fd)
    os.close(attach_tap("tap0"))


def attach_as(uid: int, name: str) -> str:
    """What a process of this user is told when it attaches; "" when it may.

    Its driver node is one that everybody may open, as udev makes them.
    """
    folder = Path(tempfile.mkdtemp())
    node = folder / "tun"
    read_end, write_end = os.pipe()
    try:
        folder.chmod(0o755)
        os.mknod(node, stat.S_IFCHR | 0o666, os.makedev(10, 200))
        node.chmod(0o666)
        child = os.fork()
        if child == 0:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            tap.TUN_PATH = str(node)
            try:
                attach_tap(name)
            except DeviceError as error:
                os.write(write_end, str(error).encode())
            os._exit(0)
        os.waitpid(child, 0)
    finally:
        os.close(write_end)
        shutil.rmtree(folder)
    with open(read_end, "rb") as said:
        return said.read().decode()


def test_its_owner_may_attach_and_nobody_else(run) -> None:
    name = make_tap(OWNER, 1500)
    assert attach_as(OWNER, name) == ""
    assert f"belongs to user {OWNER}" in attach_as(OWNER + 1, name)


def test_what_is_not_there_is_not_made(run) -> None:
    with pytest.raises(DeviceError, match="there is no tap tap5"):
        attach_tap("tap5")
    assert not exists(run, "tap5")
    with pytest.raises(DeviceError, match="no tap"):
        attach_tap("")


def test_a_name_that_is_taken(run) -> None:
    assert make_tap(0, 1500, name="bh0") == "bh0"
    for name in ("bh0", "lo"):
        with pytest.raises(DeviceError, match=f"{name} exists already"):
            make_tap(0, 1500, name=name)
    with pytest.raises(DeviceError, match="cannot be the name"):
        make_tap(0, 1500, name="a b")


@pytest.mark.parametrize("mtu", [0, 67, 65522])
def test_mtu_that_no_tap_has_leaves_nothing(run, mtu) -> None:
    with pytest.raises(DeviceError, match="MTU is 68 to 65521"):
        make_tap(0, mtu)
    assert not exists(run, "tap0")


@pytest.mark.parametrize("mtu", [68, 65521])
def test_mtu_at_the_limits(run, mtu) -> None:
    assert f"mtu {mtu} " in run(f"ip link show {make_tap(0, mtu)}")


def test_removal_happens_once_and_of_taps_only(run) -> None:
    name = make_tap(0, 1500)
    remove_tap(name)
    remove_tap(name)
    with pytest.raises(DeviceError, match="is no tap"):
        remove_tap("lo")
    assert exists(run, "lo")


def test_configuring_a_tap_that_went(run) -> None:
    with pytest.raises(DeviceError, match="was removed"):
        configure_tap("tap3", 1500)


def test_carrier_can_be_taken_away(run) -> None:
    fd = attach_tap(make_tap(0, 1500))
    assert "LOWER_UP" in run("ip link show tap0")
    set_carrier(fd, False)
    assert "NO-CARRIER" in run("ip link show tap0")
    set_carrier(fd, True)
    assert "LOWER_UP" in run("ip link show tap0")
    remove_tap("tap0")
    set_carrier(fd, True)  # gone: no error
    with pytest.raises(OSError) as caught:
        fcntl.ioctl(fd, tap.TUNSETOFFLOAD, struct.pack("i", 0))
    assert caught.value.errno == errno.EBADFD
