"""The keep-alive probe of a TCP session that has been silent for TCP_EST (RFC 6146 §3.5.2.2)."""

from __future__ import annotations

from translate.headers import build_ipv6
from translate.packets import Packet, Protocol
from translate.sessions import Session
from translate.transport import fill_checksum

_ACK = 0x10
_HOP_LIMIT = 64


def probe(session: Session) -> Packet:
    """An empty segment that makes a living client answer: to it, as if from the server.

    Sequence and acknowledgment numbers are 0 and hence outside the window, which a client
    that still has the connection answers with an ACK, and one that has not with a RST
    (RFC 9293 §3.10.7.4, §3.10.7.1).
    """
    segment = bytearray(session.tail6[32:36] + bytes(8) + bytes((0x50, _ACK)) + bytes(6))
    fill_checksum(Protocol.TCP, segment, session.server6, session.client6)
    data = build_ipv6(
        traffic_class=0,
        hop_limit=_HOP_LIMIT,
        protocol=Protocol.TCP,
        src=session.server6,
        dst=session.client6,
        payload=bytes(segment),
    )
    return Packet(data, link=session.client.link)
