"""A gateway's host part and supervisor over a far end that is in the same process."""

from __future__ import annotations

import os
import socket
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import trio
from scapy.layers.inet6 import ICMPv6ND_NA, IPv6
from scapy.layers.l2 import Ether

from gateway.backhaul import naming
from gateway.backhaul.link import LinkFailed, LinkWish, Ready
from gateway.backhaul.probe import PEER6
from gateway.backhaul.states import State
from gateway.backhaul.supervisor import Supervisor
from gateway.backhaul.taps import attach_tap
from gateway.backhaul.way import HostWay
from gateway.config_backhaul import BackhaulTable
from gateway.host.journal import Journal
from gateway.host.setup import HostSpec, plan_host
from gateway.tap import close_device, open_device
from translate.headers import build_ipv4
from translate.transport import fill_checksum

POOL = "192.0.0.6/32"
BEYOND = IPv4Address("198.51.100.1")
PEER_MAC = bytes.fromhex("02aabbccdd01")


class WireLink:
    """A link whose far end is here: it answers ARP, and pings of itself and of BEYOND."""

    destination = "root@peer"
    owns_device = False

    def __init__(self) -> None:
        self.deaf = False
        self.forwards = True
        self.runs = 0
        self.taps: list[str] = []
        self.abandoned = 0
        self.end: LinkFailed | None = None
        self.seen: list[bytes] = []

    def abandon(self) -> None:
        self.abandoned += 1

    async def run(self, tap, wish, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
        self.runs += 1
        self.taps.append(tap)
        fd = attach_tap(tap)
        try:
            task_status.started(Ready(tap, "tap0", BEYOND))
            while self.end is None:
                with trio.move_on_after(0.05):
                    await trio.lowlevel.wait_readable(fd)
                    try:
                        frame = os.read(fd, 2048)
                    except OSError as error:
                        raise LinkFailed(f"cannot read {tap}: {error.strerror}") from error
                    self.seen.append(frame)
                    answer = None if self.deaf else self.answer(frame, wish)
                    if answer is not None:
                        os.write(fd, answer)
            failure, self.end = self.end, None
            raise failure
        finally:
            os.close(fd)

    def answer(self, frame: bytes, wish: LinkWish) -> bytes | None:
        peer = wish.remote4.ip.packed
        if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\1" and frame[38:42] == peer:
            start = frame[6:12] + PEER_MAC + frame[12:20] + b"\0\2"
            return start + PEER_MAC + peer + frame[22:32]
        if frame[12:14] == b"\x86\xdd" and frame[54] == 135 and frame[62:78] == PEER6.packed:
            answer = Ether(src=PEER_MAC.hex(":"), dst=frame[6:12].hex(":")) / IPv6(
                src=str(PEER6), dst="fe80::1", hlim=255
            )
            return bytes(answer / ICMPv6ND_NA(tgt=str(PEER6), S=1))
        if frame[12:14] == b"\x08\0" and frame[23] == 1 and frame[34] == 8:
            src, dst = frame[26:30], frame[30:34]
            if dst == BEYOND.packed and not self.forwards:
                return None
            message = bytearray(frame[34:])
            message[0] = 0
            fill_checksum(1, message, b"", b"")
            packet = build_ipv4(
                tos=0, ident=1, df=False, fragment=None, ttl=60, protocol=1,
                src=dst, dst=src, payload=bytes(message),
            )  # fmt: skip
            return frame[6:12] + PEER_MAC + b"\x08\0" + packet
        return None


class Bench:
    """A gateway's host set-up and a supervisor over it."""

    def __init__(self, tmp_path, link, **table) -> None:
        self.link = link
        self.run_dir = str(tmp_path / "run")
        self.device = open_device("tap", "", offload=True)
        self.index = socket.if_nametoindex(self.device.name)
        self.said: list[str] = []
        spec = HostSpec(
            self.device.name, "tap", 1500, bytes.fromhex("020000000005"), [],
            [IPv4Network(POOL)], False, self.run_dir, uplink=True,
        )  # fmt: skip
        self.plan = plan_host(spec, log=self.said.append)
        self.plan.apply()
        keys = {"to": ["root@peer"], "probe_interval": 0.2} | table
        self.table = BackhaulTable.model_validate(keys)
        self.changes: list[bool] = []
        tag = naming.tag_of("host", "1", self.device.name)
        self.way = HostWay(
            Journal(self.run_dir, self.device.name), self.device.name, self.index, tag, 1400
        )
        self.supervisor = Supervisor(
            self.table,
            self.way,
            link_to=lambda _: link,
            wish=self.wish,
            changed=self.changes.append,
        )

    def wish(self, local4: IPv4Interface, remote4: IPv4Interface) -> LinkWish:
        return LinkWish((IPv4Network(POOL),), local4, remote4, 1400, True, self.way.tag, 10, 300)

    @asynccontextmanager
    async def running(self):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.supervisor.run)
            try:
                yield self
            finally:
                nursery.cancel_scope.cancel()

    async def until(self, state: State) -> None:
        with trio.fail_after(15):
            while self.supervisor.status.state is not state:
                await trio.sleep(0.01)

    def stop(self) -> None:
        self.plan.undo()
        close_device(self.device)


def way_of(run, source="192.0.0.6") -> str:
    """Where the kernel sends a packet from the pool that comes in through the gateway's tap."""
    try:
        return run(f"ip route get 203.0.113.9 from {source} iif tap0")
    except OSError as error:
        return str(error)


async def until(condition) -> None:
    with trio.fail_after(15):
        while not condition():
            await trio.sleep(0.01)
