"""Stand-ins for the kernel: a device whose other end the test holds, and who lives where.

    client ─────────────── host ─────────────── server
    fd00:64::2             tap0 │ gateway        192.0.2.1
    CLIENT_MAC             HOST_MAC │ GATEWAY_MAC

The client says `fec0:0:0:ffff::192.0.2.1`; the server sees 192.0.0.6.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet as Layers
from scapy.packet import Raw

from gateway.frames import FrameFormat
from gateway.neighbours import Neighbours
from gateway.route_query import RouteInfo
from translate.addresses import Layout, Prefix6
from translate.nat64 import Nat64
from translate.pool4 import PoolRange
from translate.settings import Settings

PREFIX = IPv6Network("fec0:0:0:ffff::/64")
POOL = IPv4Network("192.0.0.6/32")
CLIENT6 = "fd00:64::2"
SERVER4 = "192.0.2.1"
SERVER6 = "fec0:0:0:ffff::c000:201"
POOL4 = "192.0.0.6"
CLIENT_MAC = "02:00:00:00:00:c1"
HOST_MAC = "02:00:00:00:00:05"
GATEWAY_MAC = "02:64:00:00:00:05"
OTHER_MAC = "02:00:00:00:00:99"

TAP_VNET, TAP, TUN_VNET, TUN = "tap vnet", "tap", "tun vnet", "tun"
FORMATS = (TAP_VNET, TAP, TUN_VNET, TUN)


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def frame_format(kind: str) -> FrameFormat:
    vnet = kind.endswith("vnet")
    if kind.startswith("tun"):
        return FrameFormat(vnet)
    return FrameFormat(vnet, mac(HOST_MAC), mac(GATEWAY_MAC))


def make_settings(**changes: Any) -> Settings:
    prefix = Prefix6(PREFIX, Layout.TRAILING)
    values: dict[str, Any] = {
        "prefixes": (prefix,),
        "pool4": (PoolRange(POOL),),
        "icmp6_source": IPv6Address("fec0:0:0:ffff::c000:8").packed,
        "icmp4_source": POOL.network_address.packed,
        **changes,
    }
    return Settings(**values)


def make_translator(**changes: Any) -> Nat64:
    return Nat64(
        make_settings(**changes),
        randbelow=lambda n: n // 2,
        admit=lambda addr6: True,
        path_mtu=lambda addr: 1500,
    )


def make_neighbours() -> Neighbours:
    return Neighbours(mac(GATEWAY_MAC), (PREFIX,), (POOL,))


def udp6(data: bytes = b"question", *, sport: int = 40000, dport: int = 53) -> Layers:
    """What a client sends to the server."""
    return IPv6(src=CLIENT6, dst=SERVER6, hlim=64) / UDP(sport=sport, dport=dport) / Raw(data)


def udp4(data: bytes = b"answer", *, sport: int = 53, dport: int = 40000) -> Layers:
    """What the server sends to the pool address."""
    return IP(src=SERVER4, dst=POOL4, ttl=64) / UDP(sport=sport, dport=dport) / Raw(data)


class Wire:
    """A device: the gateway holds `device`, the test is the kernel. A message is a frame."""

    def __init__(self, kind: str = TAP_VNET) -> None:
        self._kernel, self._device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._kernel.setblocking(False)
        self._device.setblocking(False)
        self.frames = frame_format(kind)

    @property
    def fd(self) -> int:
        return self._device.fileno()

    def frame(
        self, packet: Layers, *, src: str = CLIENT_MAC, dst: str = GATEWAY_MAC, vnet: bytes = b""
    ) -> bytes:
        """The frame with which the kernel hands over an IP packet."""
        ether = bytes(Ether(src=src, dst=dst) / packet) if self.frames.ethernet else bytes(packet)
        return self.vnet_of(vnet) + ether

    def vnet_of(self, vnet: bytes = b"") -> bytes:
        return (vnet or bytes(10)) if self.frames.vnet else b""

    def send(self, frame: bytes) -> None:
        self._kernel.send(frame)

    def received(self) -> Iterator[bytes]:
        """The frames that the gateway has written until now."""
        while True:
            try:
                yield self._kernel.recv(70000)
            except BlockingIOError:
                return

    def fill(self) -> None:
        """Writes to the device until it takes no more."""
        try:
            while True:
                self._device.send(bytes(1000))
        except BlockingIOError:
            pass

    def parsed(self, frame: bytes) -> tuple[bytes, Layers]:
        """The vnet header of a frame and its layers, Ethernet first on a tap."""
        at = 10 if self.frames.vnet else 0
        return frame[:at], self._layers(frame[at:])

    def _layers(self, data: bytes) -> Layers:
        if self.frames.ethernet:
            return Ether(data)
        return IP(data) if data[0] >> 4 == 4 else IPv6(data)

    def close(self) -> None:
        self._kernel.close()
        self._device.close()


@contextmanager
def wire(kind: str = TAP_VNET) -> Iterator[Wire]:
    link = Wire(kind)
    try:
        yield link
    finally:
        link.close()


class FakeOs:
    """`readv` and `write` of the data plane, with failures to order, each for one call."""

    def __init__(self) -> None:
        self.read_errors: list[int] = []
        self.write_errors: list[int] = []
        self.read_hook: Callable[[], None] = lambda: None

    def readv(self, fd: int, buffers: list[memoryview]) -> int:
        self.read_hook()
        if self.read_errors:
            raise _error(self.read_errors.pop(0))
        return os.readv(fd, buffers)

    def write(self, fd: int, data: bytes) -> int:
        if self.write_errors:
            raise _error(self.write_errors.pop(0))
        return os.write(fd, data)


def _error(number: int) -> OSError:
    return OSError(number, f"{os.strerror(number)} ({errno.errorcode[number]})")


class NoRoutes:
    """A routing table without routes, as gateway.clients.Clients asks for it."""

    def route6(self, addr: bytes) -> RouteInfo | None:
        return None

    def path_mtu(self, addr: bytes) -> int | None:
        return None

    def link_mtu(self, name: str, family: int) -> int:
        return 1500

    def routes(self, family: int) -> list[RouteInfo]:
        return []

    def flush(self) -> None:
        pass


def checksums_hold(layers: Layers) -> bool:
    """Whether every checksum is the one that scapy computes. Looks at one IP packet."""
    packet = layers.getlayer(IP) or layers.getlayer(IPv6)
    again = packet.copy()
    layer = again
    while layer:
        for name in ("chksum", "cksum"):
            if name in layer.fields:
                del layer.fields[name]
        layer = layer.payload
    return bool(bytes(again) == bytes(packet))
