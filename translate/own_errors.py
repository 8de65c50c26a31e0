"""ICMP errors that the translator itself sends, in both families.

What must not be answered is not: ICMP errors, fragments other than the first, multicast, and
sources that are nobody (RFC 4443 §2.4 (e), RFC 1122 §3.2.2). Of ICMPv6 only echo requests are,
so that a ping tells why; RFC 7915 §5.4 would have none answered. One token bucket limits all
(RFC 4443 §2.4 (f)). The source is never link-local, which a Linux host would not forward.
"""

from __future__ import annotations

from collections.abc import Callable

from translate.addresses import is_unicast4, is_unicast6
from translate.headers import build_ipv4, build_ipv6
from translate.icmp import Icmp4, Icmp6
from translate.limits import TokenBucket
from translate.packets import IPv4View, IPv6View, Packet, Protocol
from translate.settings import Settings
from translate.transport import fill_checksum

# RFC 4443 §2.4 (c) and RFC 1812 §4.3.2.3: the whole error message, IP header included.
MAX_ERROR6 = 1280
MAX_ERROR4 = 576

_HOP_LIMIT = 64
_INFORMATIONAL4 = frozenset({Icmp4.ECHO, Icmp4.ECHO_REPLY, 13, 14})


class OwnErrors:
    """Builds the translator's own errors; returns None where none may be sent."""

    def __init__(self, settings: Settings, randbelow: Callable[[int], int]) -> None:
        self.configure(settings)
        self.suppressed = 0
        # RFC 6864 §4: DF is clear, so identifications must not repeat soon.
        self._ident = randbelow(65536)

    def configure(self, settings: Settings) -> None:
        """Takes over sources and rate."""
        self._source6 = settings.icmp6_source
        self._source4 = settings.icmp4_source
        limits = settings.limits
        self._bucket = TokenBucket(limits.icmp_errors_per_second, limits.icmp_errors_burst)

    def _allowed(self, now: float) -> bool:
        if self._bucket.take(now):
            return True
        self.suppressed += 1
        return False

    def to_v6(
        self, packet: Packet, view: IPv6View, kind: Icmp6, code: int, now: float, value: int = 0
    ) -> Packet | None:
        """An ICMPv6 error about `packet`; `value` is the 32-bit field (MTU, pointer)."""
        if view.protocol == Protocol.ICMPV6 and not _may_be_answered6(view.payload):
            return None
        if view.fragment is not None and view.fragment.offset:
            return None
        if not is_unicast6(view.src) or view.dst[0] == 0xFF or not self._allowed(now):
            return None
        body = packet.data[: MAX_ERROR6 - 48]
        message = bytearray(bytes((kind, code, 0, 0)) + value.to_bytes(4, "big") + body)
        fill_checksum(Protocol.ICMPV6, message, self._source6, view.src)
        data = build_ipv6(
            traffic_class=0,
            hop_limit=_HOP_LIMIT,
            protocol=Protocol.ICMPV6,
            src=self._source6,
            dst=view.src,
            payload=bytes(message),
        )
        return Packet(data, link=packet.link)

    def to_v4(
        self, packet: Packet, view: IPv4View, kind: Icmp4, code: int, now: float, value: int = 0
    ) -> Packet | None:
        """An ICMPv4 error about `packet`; `value` is the 32-bit field (MTU, pointer << 24)."""
        if view.protocol == Protocol.ICMP and (
            not view.payload or view.payload[0] not in _INFORMATIONAL4
        ):
            return None
        if view.fragment is not None and view.fragment.offset:
            return None
        if not is_unicast4(view.src) or view.dst[0] >= 224 or not self._allowed(now):
            return None
        body = packet.data[: MAX_ERROR4 - 28]
        message = bytearray(bytes((kind, code, 0, 0)) + value.to_bytes(4, "big") + body)
        fill_checksum(Protocol.ICMP, message, b"", b"")
        self._ident = self._ident + 1 & 0xFFFF
        data = build_ipv4(
            tos=0xC0,  # RFC 1812 §4.3.2.5: precedence 6 (internetwork control)
            ident=self._ident,
            df=False,
            fragment=None,
            ttl=_HOP_LIMIT,
            protocol=Protocol.ICMP,
            src=self._source4,
            dst=view.src,
            payload=bytes(message),
        )
        return Packet(data, is_own=True)

    def echo_reply6(self, packet: Packet, view: IPv6View, now: float) -> Packet | None:
        """The answer to a ping of the translator's own IPv6 address, under the same limit."""
        if not self._allowed(now):
            return None
        message = bytearray(view.payload)
        message[0] = Icmp6.ECHO_REPLY
        fill_checksum(Protocol.ICMPV6, message, view.dst, view.src)
        data = build_ipv6(
            traffic_class=view.traffic_class,
            hop_limit=_HOP_LIMIT,
            protocol=Protocol.ICMPV6,
            src=view.dst,
            dst=view.src,
            payload=bytes(message),
        )
        return Packet(data, link=packet.link)

    def echo_reply4(self, view: IPv4View, now: float) -> Packet | None:
        """The answer to a ping of the translator's own IPv4 address, under the same limit."""
        if not self._allowed(now):
            return None
        message = bytearray(view.payload)
        message[0] = Icmp4.ECHO_REPLY
        fill_checksum(Protocol.ICMP, message, b"", b"")
        self._ident = self._ident + 1 & 0xFFFF
        data = build_ipv4(
            tos=view.tos,
            ident=self._ident,
            df=False,
            fragment=None,
            ttl=_HOP_LIMIT,
            protocol=Protocol.ICMP,
            src=view.dst,
            dst=view.src,
            payload=bytes(message),
        )
        return Packet(data, is_own=True)


def _may_be_answered6(message: bytes) -> bool:
    """Only an echo request: neither errors nor redirects (RFC 4443 §2.4 (e)) nor what answers."""
    return bool(message) and message[0] == Icmp6.ECHO
