"""ICMP errors that pass through, with the packet inside (RFC 7915 §4.2, §4.3, §5.2, §5.3).

Theory of operation. The packet inside an error is one that the translator has let out: it is
looked up with source and destination swapped, as a packet that would come back, and becomes
what its sender sent (RFC 6146 §3.4, §3.5: errors find a session, but change none). The caller
has done the lookup; this module rewrites. Inside, nothing is decremented and no error is
translated again. Sessions are looked up with the keys described in translate/sessions.py.
Where the packet inside ends and what may follow it is told in translate/icmp_extensions.py.
The checksum is computed anew, because errors are cut, and then made as wrong as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network
from zlib import crc32

from translate import icmp_extensions
from translate.checksum import fold, ones_sum, subtract
from translate.headers import DF_CLEAR_UP_TO, build_ipv4, build_ipv6
from translate.icmp import (
    ERRORS4,
    ERRORS6,
    POINTER_4_TO_6,
    POINTER_6_TO_4,
    UNREACHABLE_4_TO_6,
    UNREACHABLE_6_TO_4,
    Icmp4,
    Icmp6,
    mtu_4_to_6,
    mtu_6_to_4,
)
from translate.packets import Fragment, IPv4View, IPv6View, Protocol, parse_ipv4, parse_ipv6
from translate.reasons import Discard, Reason
from translate.sessions import Session
from translate.transport import fill_checksum, rewrite


@dataclass(slots=True)
class Flow:
    """Both ends of the packet inside an error, in both families.

    `client6`, `server6` as the client knows them, `pool4`, `server4` as the server does;
    the ports (2 bytes each) likewise. For ICMP, `client_port` and `pool_port` are identifiers.
    """

    client6: bytes
    server6: bytes
    pool4: bytes
    server4: bytes
    client_port: bytes
    pool_port: bytes
    server_port: bytes


# `bare(host, peer)`: the flow between two addresses of one family, the host's first.
Bare = Callable[[bytes, bytes], Flow]


def error_4_to_6(
    view: IPv4View,
    find: Callable[[int, bytes], Flow],
    embed: Callable[[bytes, Flow], bytes | None],
    *,
    mtu6: int,
    bare: Bare | None = None,
) -> tuple[bytes, Flow]:
    """The ICMPv6 message (checksum zero) for an ICMPv4 error, and the flow it is about.

    `find(protocol, key4)` gets the key of a packet from the server. `embed(addr4, flow)` gives
    the address in which the client sees another IPv4 host, if it may see it. `bare(client,
    server)` gives the flow between two addresses where no ports can be read, without state; None
    where only what has a session is translated. Raises Discard.
    """
    message = view.payload
    kind, code = message[0], message[1]
    original, extension = icmp_extensions.split(message, icmp_extensions.ICMP4)
    inner = parse_ipv4(original, truncated=True)
    if inner.protocol == Protocol.ICMP and inner.payload and inner.payload[0] in ERRORS4:
        raise Discard(Reason.ICMP_INNER)
    rest = 0
    if kind == Icmp4.UNREACHABLE:
        if code not in UNREACHABLE_4_TO_6:
            raise Discard(Reason.ICMP_TYPE)
        kind6, code6 = UNREACHABLE_4_TO_6[code]
        if kind6 == Icmp6.PACKET_TOO_BIG:
            mtu = int.from_bytes(message[6:8], "big")
            rest = mtu_4_to_6(mtu, inner.total_length, mtu6=mtu6)
        elif kind6 == Icmp6.PARAMETER_PROBLEM:
            rest = 6  # the next header field (RFC 7915 §4.2, protocol unreachable)
    elif kind == Icmp4.TIME_EXCEEDED and code <= 1:
        kind6, code6 = Icmp6.TIME_EXCEEDED, code
    elif kind == Icmp4.PARAMETER_PROBLEM and code in (0, 2) and message[4] in POINTER_4_TO_6:
        kind6, code6, rest = Icmp6.PARAMETER_PROBLEM, 0, POINTER_4_TO_6[message[4]]
    else:
        raise Discard(Reason.ICMP_TYPE)
    inner6, flow = _inner_4_to_6(inner, find, bare)
    header = bytes((kind6, code6, 0, 0)) + rest.to_bytes(4, "big")
    family = icmp_extensions.ICMP6
    extension = icmp_extensions.translate(extension, family, lambda addr4: embed(addr4, flow))
    return icmp_extensions.join(header, inner6, extension, family), flow


def error_6_to_4(
    view: IPv6View,
    find: Callable[[int, bytes], Flow],
    extract: Callable[[bytes], bytes | None],
    *,
    mtu6: int,
    bare: Bare | None = None,
) -> tuple[bytes, Flow]:
    """The ICMPv4 message (checksum zero) for an ICMPv6 error, and the flow it is about.

    `find(protocol, key6)` gets the key of a packet from the client. `extract(addr6)` gives the
    IPv4 address that an address of our prefixes embeds; `bare` as above. Raises Discard.
    """
    message = view.payload
    kind, code = message[0], message[1]
    original, extension = icmp_extensions.split(message, icmp_extensions.ICMP6)
    inner = parse_ipv6(original, truncated=True)
    if inner.protocol == Protocol.ICMPV6 and inner.payload and inner.payload[0] in ERRORS6:
        raise Discard(Reason.ICMP_INNER)
    value = int.from_bytes(message[4:8], "big")
    rest = 0
    if kind == Icmp6.UNREACHABLE and code in UNREACHABLE_6_TO_4:
        kind4, code4 = UNREACHABLE_6_TO_4[code]
    elif kind == Icmp6.PACKET_TOO_BIG:
        fragmented = inner.fragment is not None
        mtu = mtu_6_to_4(value, mtu6=mtu6, fragmented=fragmented)
        kind4, code4, rest = Icmp4.UNREACHABLE, 4, mtu
    elif kind == Icmp6.TIME_EXCEEDED and code <= 1:
        kind4, code4 = Icmp4.TIME_EXCEEDED, code
    elif kind == Icmp6.PARAMETER_PROBLEM and code == 0 and value in POINTER_6_TO_4:
        kind4, code4, rest = Icmp4.PARAMETER_PROBLEM, 0, POINTER_6_TO_4[value] << 24
    elif kind == Icmp6.PARAMETER_PROBLEM and code == 1:
        kind4, code4 = Icmp4.UNREACHABLE, 2
    else:
        raise Discard(Reason.ICMP_TYPE)
    inner4, flow = _inner_6_to_4(inner, find, bare)
    header = bytes((kind4, code4, 0, 0)) + rest.to_bytes(4, "big")
    family = icmp_extensions.ICMP4
    extension = icmp_extensions.translate(extension, family, extract)
    return icmp_extensions.join(header, inner4, extension, family), flow


def seal(message: bytes, protocol: int, src: bytes, dst: bytes, *, before: int) -> bytes:
    """The message with a checksum that is right exactly if the sum `before` was.

    `before`: of the message that came in, with the pseudo-header if it had one; 0xffff and 0
    are right. `protocol`, `src`, `dst` are those of the packet that goes out.
    """
    out = bytearray(message)
    fill_checksum(protocol, out, src, dst)
    checksum = int.from_bytes(out[2:4], "big")
    if before % 0xFFFF:
        out[2:4] = fold(checksum + before).to_bytes(2, "big")
    return bytes(out)


def router4(router6: bytes, flow: Flow, pool: tuple[IPv4Network, ...]) -> bytes:
    """The IPv4 source of an error from this IPv6 router (RFC 6791 §3.2).

    The client itself appears as the server knows it. A router, which has no IPv4 address, gets
    one of the pool, always the same, so that a traceroute shows hops apart; without a pool the
    client's.
    """
    count = sum(network.num_addresses for network in pool)
    if router6 == flow.client6 or not count:
        return flow.pool4
    index = crc32(router6) % count
    for network in pool:
        if index < network.num_addresses:
            return network[index].packed
        index -= network.num_addresses
    raise AssertionError("the index is within the pool")


def _inner_4_to_6(
    inner: IPv4View, find: Callable[[int, bytes], Flow], bare: Bare | None
) -> tuple[bytes, Flow]:
    """The packet that the client sent, from the one the server's side complains about."""
    protocol = inner.protocol
    payload = bytearray(inner.payload)
    refusal = _unreadable(inner.fragment, payload)
    if refusal is Reason.ICMP_INNER and protocol == Protocol.ICMP:
        # Less than its header: nobody can tell an error from a query, nor make it one of ours.
        raise Discard(refusal)
    is_plain = refusal is not None or protocol not in (Protocol.TCP, Protocol.UDP, Protocol.ICMP)
    if is_plain and bare is not None:
        flow = bare(inner.src, inner.dst)
        protocol6: int = Protocol.ICMPV6 if protocol == Protocol.ICMP else protocol
    elif refusal is not None:
        raise Discard(refusal)
    elif protocol in (Protocol.TCP, Protocol.UDP):
        flow = find(protocol, inner.dst + inner.src + payload[2:4] + payload[0:2])
        ports = flow.client_port + flow.server_port
        sum4 = ones_sum(inner.src + inner.dst + bytes(payload[0:4]))
        sum6 = ones_sum(flow.client6 + flow.server6 + ports)
        delta = subtract(sum6, sum4)
        rewrite(protocol, payload, ports, delta_addresses=delta, delta_full=delta, partial=False)
        protocol6 = protocol
    elif protocol == Protocol.ICMP and payload[0] in (Icmp4.ECHO, Icmp4.ECHO_REPLY):
        flow = find(protocol, inner.dst + inner.src + payload[4:6])
        kind6 = Icmp6.ECHO if payload[0] == Icmp4.ECHO else Icmp6.ECHO_REPLY
        length = inner.total_length - 20 - len(inner.options)
        pseudo = fold(ones_sum(flow.client6 + flow.server6) + length + Protocol.ICMPV6)
        rewrite_echo(payload, kind6, flow.client_port, gained=pseudo)
        protocol6 = Protocol.ICMPV6
    else:
        raise Discard(Reason.ICMP_INNER)
    data = build_ipv6(
        traffic_class=inner.tos,
        hop_limit=inner.ttl,
        protocol=protocol6,
        src=flow.client6,
        dst=flow.server6,
        payload=bytes(payload),
        fragment=inner.fragment,
        payload_length=inner.total_length - 20 - len(inner.options),
    )
    return data, flow


def _inner_6_to_4(
    inner: IPv6View, find: Callable[[int, bytes], Flow], bare: Bare | None
) -> tuple[bytes, Flow]:
    """The packet that the server sent, from the one the client's side complains about."""
    protocol = inner.protocol
    payload = bytearray(inner.payload)
    refusal = _unreadable(inner.fragment, payload)
    if refusal is Reason.ICMP_INNER and protocol == Protocol.ICMPV6:
        raise Discard(refusal)
    is_plain = refusal is not None or protocol not in (Protocol.TCP, Protocol.UDP, Protocol.ICMPV6)
    if is_plain and bare is not None:
        flow = bare(inner.dst, inner.src)
        protocol4: int = Protocol.ICMP if protocol == Protocol.ICMPV6 else protocol
    elif refusal is not None:
        raise Discard(refusal)
    elif protocol in (Protocol.TCP, Protocol.UDP):
        flow = find(protocol, inner.dst + inner.src + payload[2:4] + payload[0:2])
        ports = flow.server_port + flow.pool_port
        sum6 = ones_sum(inner.src + inner.dst + bytes(payload[0:4]))
        sum4 = ones_sum(flow.server4 + flow.pool4 + ports)
        delta = subtract(sum4, sum6)
        rewrite(protocol, payload, ports, delta_addresses=delta, delta_full=delta, partial=False)
        protocol4 = protocol
    elif protocol == Protocol.ICMPV6 and payload[0] in (Icmp6.ECHO, Icmp6.ECHO_REPLY):
        flow = find(Protocol.ICMP, inner.dst + inner.src + payload[4:6])
        kind4 = Icmp4.ECHO if payload[0] == Icmp6.ECHO else Icmp4.ECHO_REPLY
        pseudo = ones_sum(inner.src + inner.dst) + inner.upper_length + Protocol.ICMPV6
        rewrite_echo(payload, kind4, flow.pool_port, gained=0xFFFF - fold(pseudo))
        protocol4 = Protocol.ICMP
    else:
        raise Discard(Reason.ICMP_INNER)
    total = min(20 + inner.upper_length, 65535)
    data = build_ipv4(
        tos=inner.traffic_class,
        ident=inner.fragment.ident & 0xFFFF if inner.fragment else 0,
        df=inner.fragment is None and total > DF_CLEAR_UP_TO,
        fragment=inner.fragment,
        ttl=inner.hop_limit,
        protocol=protocol4,
        src=flow.server4,
        dst=flow.pool4,
        payload=bytes(payload),
        total_length=total,
    )
    return data, flow


def _unreadable(fragment: Fragment | None, payload: bytearray) -> Reason | None:
    """Why the ports of a packet inside an error cannot be read, or None when they can."""
    if fragment is not None and fragment.offset:
        return Reason.FRAGMENT
    return Reason.ICMP_INNER if len(payload) < 8 else None


def rewrite_echo(payload: bytearray, kind: int, ident: bytes, *, gained: int) -> None:
    """Makes an echo message one of `kind` with this identifier, checksum carried over.

    `gained`: what the sum covers in addition from now on (the pseudo-header, or its
    complement when it is lost).
    """
    before = ones_sum(bytes(payload[0:2]) + bytes(payload[4:6]))
    payload[0] = kind
    payload[4:6] = ident
    after = ones_sum(bytes(payload[0:2]) + bytes(payload[4:6]))
    checksum = payload[2] << 8 | payload[3]
    checksum = 0xFFFF - fold(0xFFFF - checksum + after + (0xFFFF - before) + gained)
    payload[2:4] = checksum.to_bytes(2, "big")


def flow_of(session: Session) -> Flow:
    """Both ends of a session."""
    return Flow(
        client6=session.client6,
        server6=session.server6,
        pool4=session.pool4,
        server4=session.server4,
        client_port=session.key6[32:34],
        pool_port=session.tail4[8:10],
        server_port=session.key6[34:36],
    )
