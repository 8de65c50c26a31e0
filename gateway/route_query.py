"""What the kernel's routing tables say about one address (RFC 3549 §3.1.1, RTM_GETROUTE).

Theory of operation. The question "which route leads back to this client?" is asked on the
packet path, once for each new client, so a flood of made-up sources must be cheap to answer.
One raw netlink socket, one precompiled request, one `send` and one `recv_into`: the kernel
puts its reply into the socket's queue before `send` returns, so nothing ever waits and no task
has to be woken. Nothing is allocated but the answer.

Two kinds of question exist, because neither answer contains the other's:

- with RTM_F_FIB_MATCH the reply describes the *route* that matched: its prefix length, its
  table, who installed it;
- without it the reply describes the *destination*, always with a full-length prefix, and with
  the path MTU that the kernel learnt from ICMP for this one address (an "exception").

Replies carry the sequence number of their question. One that does not fit is what an
interrupted question left behind, and is skipped. The socket is connected to the kernel, so
other processes cannot send to it. An instance belongs to one thread.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# linux/rtnetlink.h: route types, and who installed a route.
RTN_UNICAST: Final = 1
RTN_LOCAL: Final = 2
RTPROT_ZEBRA: Final = 11
RTPROT_BIRD: Final = 12
RTPROT_BGP: Final = 186
# What the gateway's own routes carry; above 63 linux/rtnetlink.h reserves only 186 to 192.
RTPROT_GATEWAY: Final = 64
RT_TABLE_MAIN: Final = 254
RT_TABLE_LOCAL: Final = 255

_NETLINK_ROUTE: Final = 0
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_NLM_F_REQUEST: Final = 0x1
_NLM_F_DUMP: Final = 0x300
_NLM_F_DUMP_INTR: Final = 0x10
_RTM_NEWROUTE: Final = 24
_RTM_GETROUTE: Final = 26
_RTM_F_CLONED: Final = 0x200
_RTM_F_FIB_MATCH: Final = 0x2000

_RTA_DST: Final = 1
_RTA_SRC: Final = 2
_RTA_IIF: Final = 3
_RTA_OIF: Final = 4
_RTA_GATEWAY: Final = 5
_RTA_METRICS: Final = 8
_RTA_MULTIPATH: Final = 9
_RTA_TABLE: Final = 15
_RTA_VIA: Final = 18
_RTAX_MTU: Final = 2

_SIOCGIFMTU: Final = 0x8921
_SO_RCVTIMEO: Final = struct.pack("@ll", 1, 0)
_ATTEMPTS: Final = 3

# A route attribute's length has 16 bits, so no message with one multipath exceeds 64 KiB by much.
_BUFFER_SIZE: Final = 128 * 1024

_HEADER: Final = struct.Struct("=IHHII")
_RTMSG: Final = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_NEXT_HOP: Final = struct.Struct("=HBBi")
_U32: Final = struct.Struct("=I")
_S32: Final = struct.Struct("=i")
_REQUEST: Final = {
    4: struct.Struct("=IHHIIBBBBBBBBIHH4s"),
    16: struct.Struct("=IHHIIBBBBBBBBIHH16s"),
}
_FAMILY: Final = {4: int(socket.AF_INET), 16: int(socket.AF_INET6)}

# The kernel's ways to say that there is no way: none found, unreachable, prohibit, blackhole
# (EINVAL), throw (EAGAIN), and a device that has just gone.
_NO_ROUTE: Final = frozenset(
    {
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.EACCES,
        errno.EINVAL,
        errno.EAGAIN,
        errno.ENODEV,
        errno.ENETDOWN,
    }
)


@dataclass(frozen=True, slots=True)
class RouteInfo:
    """One route as the kernel told it.

    `mtu`: what fits through it, in bytes of IP packet: the route's own MTU metric, else the
    device's; 0 when the route names no device. `oif`, `oif_name`: the device, of the first next
    hop where there are several; 0 and "" when there is none. `gateway`: 4 or 16 bytes, None for
    an on-link route. `destination`: the prefix, 4 or 16 bytes. `type`: RTN_*; `protocol`: RTPROT_*.
    """

    prefixlen: int
    protocol: int
    oif: int
    oif_name: str
    mtu: int
    type: int
    gateway: bytes | None
    table: int = RT_TABLE_MAIN
    destination: bytes = b""


@dataclass(slots=True)
class _Message:
    """One RTM_NEWROUTE, taken apart but not yet joined with what the device says."""

    family: int
    prefixlen: int
    protocol: int
    type: int
    flags: int
    table: int
    oif: int = 0
    mtu: int = 0
    gateway: bytes | None = None
    destination: bytes = b""


class _Refused(Exception):
    """The kernel answered with an error instead of a route."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class RouteQuery:
    """Synchronous route look-ups over one netlink socket, each one system call out and one back.

    Names and MTUs of devices are kept between questions; `flush` forgets them, and is to be
    called whenever the kernel reports that a link changed.
    """

    def __init__(self) -> None:
        """Raises OSError when the kernel gives no netlink socket."""
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_ROUTE
        )
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _SO_RCVTIMEO)
            self._socket.connect((0, 0))
        except OSError:
            self._socket.close()
            raise
        self._sequence = 0
        self._buffer = bytearray(_BUFFER_SIZE)
        self._names: dict[int, str] = {}
        self._mtus: dict[tuple[str, int], int] = {}

    def close(self) -> None:
        self._socket.close()

    def flush(self) -> None:
        """Forgets names and MTUs of devices."""
        self._names.clear()
        self._mtus.clear()

    def route6(self, addr: bytes) -> RouteInfo | None:
        """The route that matches the 16-byte address; None when there is no way to it.

        Raises OSError when the kernel gave no answer at all.
        """
        return self._match(addr)

    def route4(self, addr: bytes) -> RouteInfo | None:
        """The route that matches the 4-byte address; None when there is no way to it.

        Raises OSError when the kernel gave no answer at all.
        """
        return self._match(addr)

    def path_mtu(self, addr: bytes) -> int | None:
        """The MTU towards a 4- or 16-byte address, in bytes of IP packet; None without a route.

        The least of what the kernel learnt from ICMP for this address (RFC 8201, RFC 1191) or
        the route's metric, and the device's MTU. Raises OSError when the kernel gave no answer.
        """
        message = self._ask(addr, 0)
        if message is None:
            return None
        link = self._link_mtu_of(message.oif, len(addr))
        if message.mtu and link:
            return min(message.mtu, link)
        return message.mtu or link or None

    def link_mtu(self, name: str, family: int) -> int:
        """The MTU of a device for socket.AF_INET or AF_INET6, in bytes; 0 when it is gone.

        For IPv6 a router advertisement may have set less than the device carries (RFC 4861
        §4.6.4); the kernel keeps that in a sysctl.
        """
        key = (name, family)
        known = self._mtus.get(key)
        if known is not None:
            return known
        mtu = self._read_mtu(name)
        if mtu and family == socket.AF_INET6:
            with contextlib.suppress(OSError, ValueError):
                mtu = min(mtu, int(Path(f"/proc/sys/net/ipv6/conf/{name}/mtu").read_text("ascii")))
        self._mtus[key] = mtu
        return mtu

    def input_error4(self, src4: bytes, dst4: bytes, iif: int) -> int:
        """The errno with which the kernel would refuse an IPv4 packet arriving at `iif`; 0: none.

        The kernel runs its whole input routing: reverse path filter, martians, forwarding of
        that device, the route to the destination. Raises OSError when it gave no answer.
        """
        attributes = (
            _ATTRIBUTE.pack(8, _RTA_DST)
            + dst4
            + _ATTRIBUTE.pack(8, _RTA_SRC)
            + src4
            + _ATTRIBUTE.pack(8, _RTA_IIF)
            + _S32.pack(iif)
        )
        body = _RTMSG.pack(socket.AF_INET, 32, 32, 0, 0, 0, 0, 0, 0) + attributes
        try:
            self._exchange(
                lambda sequence: (
                    _HEADER.pack(
                        _HEADER.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, sequence, 0
                    )
                    + body
                )
            )
        except _Refused as refused:
            return refused.code
        return 0

    def routes(self, family: int) -> list[RouteInfo]:
        """Every route of all tables for socket.AF_INET or AF_INET6, without cached clones.

        Raises OSError when the kernel gave no whole answer, also when the tables kept changing.
        """
        for _ in range(_ATTEMPTS):
            messages = self._dump(family)
            if messages is not None:
                return [self._info(m, _address_length(family)) for m in messages]
        raise OSError(errno.EBUSY, "the routing tables change faster than they can be read")

    def _match(self, addr: bytes) -> RouteInfo | None:
        message = self._ask(addr, _RTM_F_FIB_MATCH)
        if message is None:
            return None
        if not message.oif and message.type == RTN_UNICAST:
            # A nexthop object, and net.ipv4.nexthop_compat_mode is off: only the destination's
            # own route names the device.
            resolved = self._ask(addr, 0)
            if resolved is not None:
                message.oif = resolved.oif
                message.gateway = resolved.gateway
        return self._info(message, len(addr))

    def _ask(self, addr: bytes, flags: int) -> _Message | None:
        size = len(addr)
        request = _REQUEST[size]
        family = _FAMILY[size]
        try:
            return self._exchange(
                lambda sequence: request.pack(
                    request.size,
                    _RTM_GETROUTE,
                    _NLM_F_REQUEST,
                    sequence,
                    0,
                    family,
                    size * 8,
                    0,
                    0,
                    0,
                    0,
                    0,
                    0,
                    flags,
                    _ATTRIBUTE.size + size,
                    _RTA_DST,
                    addr,
                )
            )
        except _Refused as refused:
            if refused.code in _NO_ROUTE:
                return None
            raise OSError(refused.code, "the kernel refused a route query") from None

    def _exchange(self, request: Callable[[int], bytes]) -> _Message:
        """One question and its answer. Raises _Refused with the kernel's errno, or OSError."""
        for attempt in range(_ATTEMPTS):
            sequence = self._next_sequence()
            try:
                self._socket.send(request(sequence))
                return self._receive(sequence)
            except BlockingIOError:
                raise TimeoutError(errno.ETIMEDOUT, "no answer to a route query") from None
            except OSError as error:
                # ENOBUFS: replies were lost because the queue was full; it is empty now.
                if error.errno != errno.ENOBUFS or attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        return self._sequence

    def _receive(self, wanted: int) -> _Message:
        buffer = self._buffer
        while True:
            size = self._socket.recv_into(buffer)
            offset = 0
            while offset + _HEADER.size <= size:
                length, kind, _, sequence, _ = _HEADER.unpack_from(buffer, offset)
                if length < _HEADER.size or offset + length > size:
                    break
                if sequence == wanted:
                    if kind == _NLMSG_ERROR:
                        raise _Refused(-_S32.unpack_from(buffer, offset + _HEADER.size)[0])
                    if kind == _RTM_NEWROUTE:
                        return _parse(buffer, offset + _HEADER.size, offset + length)
                offset += length + 3 & ~3

    def _dump(self, family: int) -> list[_Message] | None:
        """All routes, or None when the tables changed meanwhile and the answer is not whole."""
        sequence = self._next_sequence()
        request = _HEADER.pack(
            _HEADER.size + _RTMSG.size, _RTM_GETROUTE, _NLM_F_REQUEST | _NLM_F_DUMP, sequence, 0
        ) + _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        self._socket.send(request)
        messages: list[_Message] = []
        consistent = True
        buffer = self._buffer
        while True:
            try:
                size = self._socket.recv_into(buffer)
            except BlockingIOError:
                raise TimeoutError(errno.ETIMEDOUT, "no answer to a route dump") from None
            offset = 0
            while offset + _HEADER.size <= size:
                length, kind, flags, answered, _ = _HEADER.unpack_from(buffer, offset)
                if length < _HEADER.size or offset + length > size:
                    break
                if answered == sequence:
                    consistent = consistent and not flags & _NLM_F_DUMP_INTR
                    if kind == _NLMSG_DONE:
                        return messages if consistent else None
                    if kind == _NLMSG_ERROR:
                        code = -_S32.unpack_from(buffer, offset + _HEADER.size)[0]
                        raise OSError(code, "the kernel refused a route dump")
                    if kind == _RTM_NEWROUTE:
                        message = _parse(buffer, offset + _HEADER.size, offset + length)
                        # Without a handler for this family the kernel dumps the routes of all.
                        if message.family == family and not message.flags & _RTM_F_CLONED:
                            messages.append(message)
                offset += length + 3 & ~3

    def _info(self, message: _Message, size: int) -> RouteInfo:
        return RouteInfo(
            prefixlen=message.prefixlen,
            protocol=message.protocol,
            oif=message.oif,
            oif_name=self._name(message.oif),
            mtu=message.mtu or self._link_mtu_of(message.oif, size),
            type=message.type,
            gateway=message.gateway,
            table=message.table,
            destination=message.destination or bytes(size),
        )

    def _name(self, index: int) -> str:
        name = self._names.get(index)
        if name is None:
            try:
                name = socket.if_indextoname(index) if index else ""
            except OSError:
                return ""
            self._names[index] = name
        return name

    def _link_mtu_of(self, index: int, size: int) -> int:
        name = self._name(index)
        return self.link_mtu(name, _FAMILY[size]) if name else 0

    def _read_mtu(self, name: str) -> int:
        request = struct.pack("16s16x", name.encode())
        try:
            reply = fcntl.ioctl(self._socket.fileno(), _SIOCGIFMTU, request)
        except OSError:
            return 0
        return int(_S32.unpack_from(reply, 16)[0])


def _address_length(family: int) -> int:
    return 16 if family == socket.AF_INET6 else 4


def _parse(buffer: bytearray, start: int, end: int) -> _Message:
    """Takes apart one RTM_NEWROUTE; `start` is the first byte behind its netlink header."""
    family, prefixlen, _, _, table, protocol, _, kind, flags = _RTMSG.unpack_from(buffer, start)
    message = _Message(family, prefixlen, protocol, kind, flags, table)
    for attribute, at, size in _attributes(buffer, start + _RTMSG.size, end):
        if attribute == _RTA_DST:
            message.destination = bytes(buffer[at : at + size])
        elif attribute == _RTA_OIF and size >= 4:
            message.oif = _U32.unpack_from(buffer, at)[0]
        elif attribute == _RTA_TABLE and size >= 4:
            message.table = _U32.unpack_from(buffer, at)[0]
        elif attribute in {_RTA_GATEWAY, _RTA_VIA}:
            message.gateway = _gateway(attribute, bytes(buffer[at : at + size]))
        elif attribute == _RTA_METRICS:
            for metric, value_at, value_size in _attributes(buffer, at, at + size):
                if metric == _RTAX_MTU and value_size >= 4:
                    message.mtu = _U32.unpack_from(buffer, value_at)[0]
        elif attribute == _RTA_MULTIPATH and size >= _NEXT_HOP.size:
            length, _, _, message.oif = _NEXT_HOP.unpack_from(buffer, at)
            hop_end = at + min(length, size)
            for inner, inner_at, inner_size in _attributes(buffer, at + _NEXT_HOP.size, hop_end):
                if inner in {_RTA_GATEWAY, _RTA_VIA}:
                    message.gateway = _gateway(
                        inner, bytes(buffer[inner_at : inner_at + inner_size])
                    )
    return message


def _gateway(attribute: int, value: bytes) -> bytes:
    """The address in RTA_GATEWAY, or in RTA_VIA behind its two bytes of address family."""
    return value[2:] if attribute == _RTA_VIA else value


def _attributes(buffer: bytearray, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Type, offset and size in bytes of the value, of every whole attribute in the range."""
    while start + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(buffer, start)
        if length < _ATTRIBUTE.size or start + length > end:
            return
        # The upper two bits of the type are flags (NLA_F_NESTED, NLA_F_NET_BYTEORDER).
        yield kind & 0x3FFF, start + _ATTRIBUTE.size, length - _ATTRIBUTE.size
        start += length + 3 & ~3
