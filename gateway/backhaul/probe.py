"""Whether frames pass to the far end and back, and whether the far end forwards.

Theory of operation. Carrier proves nothing: a hung or half-dead ssh keeps it (a link that was set
down under a write, a far tap that was deleted). So the far end is asked through the link itself,
with ARP for its address (RFC 826), which neither needs a route nor passes a firewall's rules; with
a link that carries IPv6, with a neighbour solicitation (RFC 4861 §7.2). A packet socket bound to
the device sends and receives whole frames.

The far end answers for itself whether or not it forwards. To know that as well, a ping is sent
from an address of pool4 to a host behind it, in a frame to the far end's MAC. The answer comes
back as any server's would; the kernel hands its copy on to the gateway, which drops it.

A full queue loses probes like any other frame, so what else arrives counts as a sign of life:
`received` is the kernel's count of frames from the link.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Protocol

import trio

from translate.headers import build_ipv4, build_ipv6
from translate.transport import fill_checksum

_ETH_ARP: Final = b"\x08\x06"
_ETH_IP: Final = b"\x08\x00"
_ETH_IP6: Final = b"\x86\xdd"
_ARP_ETHERNET_IPV4: Final = b"\x00\x01\x08\x00\x06\x04"
_BROADCAST: Final = b"\xff" * 6
_PACKET_IGNORE_OUTGOING: Final = 23
_SOL_PACKET: Final = 263
_ICMP: Final = 1
_ICMPV6: Final = 58
_MOST_FORGOTTEN: Final = 1000  # more than a socket's buffer takes

US6: Final = IPv6Address("fe80::1")
PEER6: Final = IPv6Address("fe80::2")


class Probe(Protocol):
    """Questions through one link; tests bring their own."""

    async def ask(self, timeout: float) -> float | None:
        """Seconds until the far end answered; None when it did not within `timeout`."""

    async def ask_beyond(self, src4: IPv4Address, host4: IPv4Address, timeout: float) -> bool:
        """Whether a host behind the far end answered an echo request from `src4`."""

    def received(self) -> int:
        """Frames that have come in from the link."""

    def close(self) -> None:
        """Frees what it holds."""


def arp_request(mac: bytes, local4: bytes, remote4: bytes) -> bytes:
    """The frame that asks who has `remote4`."""
    ethernet = _BROADCAST + mac + _ETH_ARP
    return ethernet + _ARP_ETHERNET_IPV4 + b"\0\1" + mac + local4 + bytes(6) + remote4


def arp_answer(frame: bytes, remote4: bytes) -> bytes | None:
    """The MAC that a frame says `remote4` has, None when it says no such thing."""
    if len(frame) < 42 or frame[12:14] != _ETH_ARP or frame[14:20] != _ARP_ETHERNET_IPV4:
        return None
    return frame[22:28] if frame[20:22] == b"\0\2" and frame[28:32] == remote4 else None


def solicitation(mac: bytes) -> bytes:
    """The frame that asks who has PEER6 (RFC 4861 §4.3)."""
    group = b"\xff\x02" + bytes(9) + b"\x01\xff" + PEER6.packed[13:]
    body = bytearray(struct.pack("!BBHI", 135, 0, 0, 0) + PEER6.packed + b"\x01\x01" + mac)
    fill_checksum(_ICMPV6, body, US6.packed, group)
    packet = build_ipv6(
        traffic_class=0,
        hop_limit=255,
        protocol=_ICMPV6,
        src=US6.packed,
        dst=group,
        payload=bytes(body),
    )
    return b"\x33\x33" + group[12:] + mac + _ETH_IP6 + packet


def advertisement(frame: bytes) -> bytes | None:
    """The sender's MAC when a frame is PEER6's neighbour advertisement, else None."""
    if len(frame) < 78 or frame[12:14] != _ETH_IP6 or frame[20] != _ICMPV6 or frame[54] != 136:
        return None
    return frame[6:12] if frame[62:78] == PEER6.packed else None


def echo_request(mac: bytes, to: bytes, src4: bytes, host4: bytes, ident: int) -> bytes:
    """The frame that pings `host4` by way of `to`."""
    message = bytearray(struct.pack("!BBHHH", 8, 0, 0, ident, 1) + b"tap64 probe     ")
    fill_checksum(_ICMP, message, b"", b"")
    packet = build_ipv4(
        tos=0,
        ident=ident,
        df=False,
        fragment=None,
        ttl=64,
        protocol=_ICMP,
        src=src4,
        dst=host4,
        payload=bytes(message),
    )
    return to + mac + _ETH_IP + packet


def is_echo_reply(frame: bytes, src4: bytes, ident: int) -> bool:
    """Whether a frame brings the answer to our ping, from whoever it says it is."""
    if len(frame) < 42 or frame[12:14] != _ETH_IP or frame[23] != _ICMP or frame[30:34] != src4:
        return False
    at = 14 + (frame[14] & 15) * 4
    return frame[at : at + 2] == b"\0\0" and frame[at + 4 : at + 6] == ident.to_bytes(2, "big")


class DeviceProbe:
    """Questions through one device. Owns a packet socket."""

    def __init__(self, device: str, local4: IPv4Address, remote4: IPv4Address | None) -> None:
        """`remote4`: whom to ask by ARP; None asks PEER6. Raises OSError."""
        self._device = device
        self._local4 = local4.packed
        self._remote4 = remote4.packed if remote4 is not None else None
        self._peer_mac = _BROADCAST
        # Protocol 0: nothing is queued before it is bound to the device.
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            kind = _ETH_ARP if remote4 is not None else _ETH_IP6
            self._socket.bind((device, int.from_bytes(kind, "big")))
            self._mac = self._socket.getsockname()[4]
        except BaseException:
            self._socket.close()
            raise

    async def ask(self, timeout: float) -> float | None:
        """See Probe. An answer to an earlier question that comes only now is one to this."""
        if self._remote4 is not None:
            question = arp_request(self._mac, self._local4, self._remote4)
        else:
            question = solicitation(self._mac)
        started = trio.current_time()
        self._forget_answers()
        self._send(self._socket, question)
        with trio.move_on_after(timeout):
            while True:
                frame = await _receive(self._socket)
                mac = arp_answer(frame, self._remote4) if self._remote4 else advertisement(frame)
                if mac is not None:
                    self._peer_mac = mac
                    return trio.current_time() - started
        return None

    def _forget_answers(self) -> None:
        """Where two hosts answer each question, what is left over would outlive the link."""
        with suppress(OSError):  # BlockingIOError: that was all
            for _ in range(_MOST_FORGOTTEN):
                self._socket.recv(2048)

    async def ask_beyond(self, src4: IPv4Address, host4: IPv4Address, timeout: float) -> bool:
        """See Probe."""
        try:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        except OSError:
            return False
        with sock:
            try:
                sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
                sock.bind((self._device, int.from_bytes(_ETH_IP, "big")))
            except OSError:
                return False  # the device has gone, which the carrier tells, too
            ident = os.getpid() & 0xFFFF
            frame = echo_request(self._mac, self._peer_mac, src4.packed, host4.packed, ident)
            self._send(sock, frame)
            with trio.move_on_after(timeout):
                while not is_echo_reply(await _receive(sock), src4.packed, ident):
                    pass
                return True
        return False

    @staticmethod
    def _send(sock: socket.socket, frame: bytes) -> None:
        try:
            sock.send(frame)
        except OSError:
            # The device is down, gone, or its queue is full: a probe without an answer.
            return

    def received(self) -> int:
        """See Probe. 0 when the device has gone, or nobody can tell."""
        with (
            suppress(OSError),  # no descriptor left: as if nothing had come
            open("/proc/net/dev", encoding="ascii", errors="replace") as file,
        ):
            for line in file:
                name, colon, counts = line.partition(":")
                if colon and name.strip() == self._device:
                    return int(counts.split()[1])
        return 0

    def close(self) -> None:
        self._socket.close()


async def _receive(sock: socket.socket) -> bytes:
    while True:
        await trio.lowlevel.wait_readable(sock)
        try:
            return sock.recv(2048)
        except BlockingIOError:
            continue
        except OSError:
            # The device went down or away; whoever waits for an answer runs into its timeout.
            await trio.sleep(0.05)
