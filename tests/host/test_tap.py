"""gateway/tap.py against the kernel."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys

import pytest

from gateway import tap
from gateway.tap import DeviceError, close_device, first_free_name, open_device


def exists(run, name: str) -> bool:
    return f" {name}:" in run("ip -o link")


def test_new_device_has_header_offloads_and_goes_with_the_descriptor(run) -> None:
    device = open_device("tap", "tap7", offload=True)
    assert (device.name, device.kind, device.created, device.vnet) == ("tap7", "tap", True, True)
    assert {"csum", "tso4", "tso6", "tso_ecn"} <= device.offloads
    details = run("ip -d link show tap7")
    assert "tun type tap pi off vnet_hdr on persist off" in details
    assert not os.get_blocking(device.fd)
    assert not os.get_inheritable(device.fd)
    size = struct.unpack("i", fcntl.ioctl(device.fd, tap.TUNGETVNETHDRSZ, struct.pack("i", 0)))[0]
    assert size == 10
    close_device(device)
    assert not exists(run, "tap7")


@pytest.mark.parametrize("kind", ["tap", "tun"])
def test_empty_name_is_the_first_free_one(run, kind) -> None:
    run(f"ip tuntap add {kind}0 mode {kind}")
    assert first_free_name(kind) == f"{kind}1"
    device = open_device(kind, "", offload=True)
    assert (device.name, device.kind) == (f"{kind}1", kind)
    close_device(device)


def test_without_offload_there_is_no_header(run) -> None:
    device = open_device("tap", "tap0", offload=False)
    assert (device.vnet, device.offloads) == (False, frozenset())
    assert "vnet_hdr off" in run("ip -d link show tap0")
    close_device(device)


def test_frames_carry_the_header_of_ten_bytes(run) -> None:
    device = open_device("tap", "tap0", offload=True)
    run("ip link set tap0 up")
    os.set_blocking(device.fd, True)
    frame = os.read(device.fd, 70_000)  # multicast of the kernel's own start
    assert frame[10 + 12 : 10 + 14] == b"\x86\xdd"
    close_device(device)


def test_offloads_fall_back_to_what_the_kernel_has(monkeypatch) -> None:
    real = fcntl.ioctl

    def old_kernel(fd, request, arg=0):
        if request == tap.TUNSETOFFLOAD and arg & 0x60:
            raise OSError(22, "Invalid argument")
        return real(fd, request, arg)

    monkeypatch.setattr(fcntl, "ioctl", old_kernel)
    device = open_device("tap", "tap0", offload=True)
    assert device.offloads == {"csum", "tso4", "tso6", "tso_ecn"}
    close_device(device)


def test_persistent_device_stays_and_gets_its_offloads_and_header_size_back(run) -> None:
    run("ip tuntap add tap3 mode tap")
    with open("/dev/net/tun", "r+b", buffering=0) as before:
        fcntl.ioctl(before, tap.TUNSETIFF, struct.pack("16sH22x", b"tap3", 0x5002))
        fcntl.ioctl(before, tap.TUNSETVNETHDRSZ, struct.pack("i", 12))
        fcntl.ioctl(before, tap.TUNSETOFFLOAD, 0)
    device = open_device("tap", "tap3", offload=True)
    assert (device.created, device.vnet) == (False, True)
    close_device(device)
    assert exists(run, "tap3")
    with open("/dev/net/tun", "r+b", buffering=0) as after:
        fcntl.ioctl(after, tap.TUNSETIFF, struct.pack("16sH22x", b"tap3", 0x5002))
        size = fcntl.ioctl(after, tap.TUNGETVNETHDRSZ, struct.pack("i", 0))
    assert struct.unpack("i", size)[0] == 12


@pytest.mark.parametrize("offload", [True, False])
def test_persistent_device_has_no_offloads_after_its_use(run, offload) -> None:
    """Also what another program left on it is not carried into a run without offloads."""
    if shutil.which("ethtool") is None:
        pytest.skip("needs ethtool")
    run("ip tuntap add tap3 mode tap")
    with open("/dev/net/tun", "r+b", buffering=0) as before:
        fcntl.ioctl(before, tap.TUNSETIFF, struct.pack("16sH22x", b"tap3", 0x5002))
        fcntl.ioctl(before, tap.TUNSETOFFLOAD, 0x07)
    device = open_device("tap", "tap3", offload=offload)
    assert ("tcp-segmentation-offload: on" in run("ethtool -k tap3")) is offload
    close_device(device)
    assert "tcp-segmentation-offload: off" in run("ethtool -k tap3")


def test_multi_queue_device_is_opened_with_its_flag(run) -> None:
    run("ip tuntap add tap4 mode tap multi_queue")
    device = open_device("tap", "tap4", offload=True)
    assert (device.multi_queue, device.created) == (True, False)
    with pytest.raises(DeviceError, match="tap4 is in use by another process"):
        open_device("tap", "tap4", offload=True)
    close_device(device)
    close_device(open_device("tap", "tap4", offload=True))


def test_wrong_kind_is_named(run) -> None:
    run("ip tuntap add net0 mode tun")
    with pytest.raises(
        DeviceError, match=r"net0 is a tun device and a tap is wanted.*--device tun"
    ):
        open_device("tap", "net0", offload=True)


def test_device_that_is_no_tap_is_named(run) -> None:
    run("ip link add veth0 type veth peer name veth1")
    with pytest.raises(DeviceError, match="veth0 exists and is no tap or tun device"):
        open_device("tap", "veth0", offload=True)


def test_busy_device_is_named(run) -> None:
    device = open_device("tap", "tap0", offload=True)
    with pytest.raises(DeviceError, match="tap0 is in use by another process"):
        open_device("tap", "tap0", offload=True)
    close_device(device)


@pytest.mark.parametrize("name", ["a" * 16, "a/b", "a b", "tap%d", ".", "é" * 8])
def test_impossible_names(name) -> None:
    with pytest.raises(DeviceError, match="cannot be the name of a network device"):
        open_device("tap", name, offload=True)


@pytest.mark.parametrize(
    ("number", "words"),
    [(2, "modprobe tun"), (6, "has no driver behind it"), (13, "run as root"), (1, "--device")],
)
def test_driver_that_cannot_be_opened(monkeypatch, number, words) -> None:
    def refuse(path, flags):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DeviceError, match=words):
        open_device("tap", "", offload=True)
    assert words in (tap.driver_problem() or "")


def without_privilege(code: str) -> str:
    """What `code` prints, run as user 0 without CAP_NET_ADMIN: any user's rights on devices,
    while /dev/net/tun can be opened whatever its mode is on this machine."""
    imports = "from gateway.tap import open_device, close_device, DeviceError\n"
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-net_admin", sys.executable, "-c", imports + code],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": os.pathsep.join([".", *sys.path])},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


TRY = """
try:
    device = open_device("tap", {name!r}, offload=True)
    print(device.name, device.created, sorted(device.offloads))
    close_device(device)
except DeviceError as error:
    print("error:", error)
"""


def test_device_owned_by_the_user_needs_no_privilege(run) -> None:
    run("ip tuntap add tap5 mode tap user 0")
    assert without_privilege(TRY.format(name="tap5")).startswith("tap5 False ['csum'")


def test_device_owned_by_somebody_else_is_named(run) -> None:
    run("ip tuntap add tap5 mode tap user 1")
    assert "error: tap5 belongs to user 1" in without_privilege(TRY.format(name="tap5"))


def test_new_device_without_privilege_tells_the_remedy() -> None:
    said = without_privilege(TRY.format(name=""))
    assert "error: may not use a new tap: run as root or with CAP_NET_ADMIN" in said


def test_a_device_deleted_meanwhile_closes_quietly(run) -> None:
    run("ip tuntap add tap6 mode tap")
    device = open_device("tap", "tap6", offload=True)
    run("ip link del tap6")
    close_device(device)
