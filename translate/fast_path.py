"""The fast path: established flows, rewritten in place, one frame at a time.

Theory of operation. A frame is read into a buffer so that its IP header always begins at
`IP_AT`, whatever is in front of it. An IPv4 header is 20 bytes shorter than an IPv6 one, so
the new headers are written 20 bytes further on (v6 to v4) or 20 bytes earlier (v4 to v6), and
the payload stays where it is:

    offset      base            IP_AT                IP_AT+20     IP_AT+40
    v6 in       vnet | Ethernet | IPv6 ........................... | payload
    v4 out             base+20: vnet | Ethernet | IPv4 ........... | payload
    v4 in       vnet | Ethernet | IPv4 .............. | payload
    v6 out      base-20: vnet | Ethernet | IPv6 ..... | payload

The functions are long because a call costs as much as ten of these lines; tests/bench defends
the cost per packet and an oracle test holds them equal to the slow path. Everything that is not
plainly the common case returns 0: no session, SYN, FIN, RST, fragments, options, extension
headers, a hop limit that runs out, lengths that disagree, a UDP checksum of zero.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from translate.flow_records import (
    EMPTY,
    HASH_SHIFT,
    NOT_FOUND,
    RECORD_SIZE,
    SHARD_SHIFT,
    SLOW,
    STAMP,
    STAMP_AT,
    stamp_of,
    time_of,
)
from translate.packets import Protocol
from translate.sessions import FlowTable
from translate.vnet import VNET_SIZE, translate_vnet

# Room for vnet and Ethernet headers and for growing by 20 bytes.
IP_AT = 64
BUFFER_SIZE = IP_AT + 65_535 + 64

_TCP, _UDP, _ICMP, _ICMPV6 = 6, 17, 1, 58
# Distinct vnet headers that are remembered; a handful occur.
_MEMO_LIMIT = 4096

FastPath = Callable[[bytearray, int, float], int]
_Vnet = tuple[bytes, bool, int]
_VnetMemo = dict[bytes, _Vnet]


def make_fast_path(
    flows: dict[int, FlowTable],
    *,
    vnet: bool,
    ethernet4: bytes,
    ethernet6_tail: bytes,
    lowest_ipv6_mtu: int,
    tos: int | None = None,
    traffic_class: int | None = None,
) -> FastPath:
    """The function that translates one frame in place, for one device.

    `ethernet4`: the 14 bytes in front of IPv4 packets towards the host, b"" for a tun device;
    `ethernet6_tail`: the last 8 bytes (source, type) in front of IPv6 packets, b"" for tun,
    behind the client's `link`. `vnet`: frames begin with a virtio-net header. `tos`,
    `traffic_class`: as in `Settings`.

    The function gets the buffer, the number of bytes from the frame's start to its end, and
    now (seconds); the frame begins so that IP is at `IP_AT`. It returns where the new frame
    begins (it ends where the old one did), or 0: nothing was changed, use the slow path.
    """
    link = len(ethernet4)
    vnet_size = VNET_SIZE if vnet else 0
    in_front = vnet_size + link
    base = IP_AT - in_front
    front6 = in_front + 40
    start4, start6 = base + 20, base - 20
    v, skip, mac = f"{vnet_size}s", f"{link}x", "6s" if link else "0s"

    tcp6 = struct.Struct(f">{v}{skip}H2xHxB36s8sH2sH").unpack_from
    udp6 = struct.Struct(f">{v}{skip}H2xHxB36sHH").unpack_from
    icmp6 = struct.Struct(f">{v}{skip}H2xHxB32sBBH2s").unpack_from
    tcp4 = struct.Struct(f">{v}{skip}BBH2xHBx2x12s8sH2sH").unpack_from
    udp4 = struct.Struct(f">{v}{skip}BBH2xHBx2x12sHH").unpack_from
    icmp4 = struct.Struct(f">{v}{skip}BBH2xHBx2x8sBBH2s").unpack_from
    # The last byte of what is in front of IPv4 is its version and header length.
    out4_tcp = struct.Struct(f">{v}{link + 1}sBHHHBBH12s8sH2sH").pack_into
    out4_udp = struct.Struct(f">{v}{link + 1}sBHHHBBH12sHH").pack_into
    out4_icmp = struct.Struct(f">{v}{link + 1}sBHHHBBH8sBBH2s").pack_into
    out6_tcp = struct.Struct(f">{v}{mac}{len(ethernet6_tail)}sH2xHBB36s8sH2sH").pack_into
    out6_udp = struct.Struct(f">{v}{mac}{len(ethernet6_tail)}sH2xHBB36sHH").pack_into
    out6_icmp = struct.Struct(f">{v}{mac}{len(ethernet6_tail)}sH2xHBB32sBBH2s").pack_into
    head4 = ethernet4 + b"\x45"
    # Who has sent nothing yet, as the server of a static mapping, is found by the host.
    host = ethernet4[:6]
    plain_vnet = bytes(vnet_size)

    tcp, udp, icmp = flows[Protocol.TCP], flows[Protocol.UDP], flows[Protocol.ICMP]
    flows_tcp6, flows_tcp4 = tcp.by_key6.shards, tcp.by_key4.shards
    flows_udp6, flows_udp4 = udp.by_key6.shards, udp.by_key4.shards
    flows_icmp6, flows_icmp4 = icmp.by_key6.shards, icmp.by_key4.shards
    record6, record4 = tcp.by_key6.unpack, tcp.by_key4.unpack
    record6_icmp, record4_icmp = icmp.by_key6.unpack, icmp.by_key4.unpack
    idents, links = tcp.identifications, tcp.links.by_number
    # What was found last, if it has the stamp of this time: nothing is written for it.
    last_tcp6, last_tcp4 = tcp.by_key6.last, tcp.by_key4.last
    last_udp6, last_udp4 = udp.by_key6.last, udp.by_key4.last
    last_icmp6, last_icmp4 = icmp.by_key6.last, icmp.by_key4.last
    memories = (last_tcp6, last_tcp4, last_udp6, last_udp4, last_icmp6, last_icmp4)
    write_stamp = STAMP.pack_into
    # The stamp of this time, and until when it is that.
    current, until = EMPTY, 0.0
    memo_tcp6: _VnetMemo = {}
    memo_udp6: _VnetMemo = {}
    memo_tcp4: _VnetMemo = {}
    memo_udp4: _VnetMemo = {}
    no_vnet = (b"", False, 0)
    if not vnet:
        for memo in (memo_tcp6, memo_udp6, memo_tcp4, memo_udp4):
            memo[b""] = no_vnet

    def learn(memo: _VnetMemo, header: bytes, protocol: int, to_v4: bool) -> _Vnet | None:
        known = translate_vnet(header, protocol, link, to_v4=to_v4)
        if known is not None:
            if len(memo) >= _MEMO_LIMIT:
                memo.clear()
            memo[header] = known
        return known

    next_header, protocol4 = IP_AT + 6, IP_AT + 9
    keep4, set4 = (0xFF, 0) if tos is None else (0, tos)
    keep6, set6 = (0xFF, 0) if traffic_class is None else (0, traffic_class)
    largest_clear = lowest_ipv6_mtu - 20

    def fast_path(buf: bytearray, n: int, now: float) -> int:
        nonlocal current, until
        if now >= until:
            current = stamp_of(now)
            until = time_of(current)
            for last in memories:
                last[0] = NOT_FOUND
        version = buf[IP_AT] >> 4
        if version == 6:
            protocol = buf[next_header]
            if protocol == _TCP:
                header, word, length, hops, key, numbers, flags, window, csum = tcp6(buf, base)
                found = last_tcp6[0]
                if found[0] != key:
                    where = hash(key) >> HASH_SHIFT
                    shard, mask = flows_tcp6[where >> SHARD_SHIFT]
                    place = where & mask
                    found = record6(shard, place)
                    while found[0] != key:
                        if found[6] == EMPTY:
                            return 0
                        place = place + RECORD_SIZE & mask
                        found = record6(shard, place)
                    if found[6] == current:
                        last_tcp6[0] = found
                _, tail, sum4, addresses, full, ident, stamp = found
                if (
                    stamp == SLOW
                    or flags & 7
                    or hops < 2
                    or length + front6 != n
                    or not 20 <= flags >> 10 & 60 <= length
                    or length > 65515
                ):
                    return 0
                known = memo_tcp6.get(header) or learn(memo_tcp6, header, _TCP, True)
            elif protocol == _UDP:
                header, word, length, hops, key, size, csum = udp6(buf, base)
                found = last_udp6[0]
                if found[0] != key:
                    where = hash(key) >> HASH_SHIFT
                    shard, mask = flows_udp6[where >> SHARD_SHIFT]
                    place = where & mask
                    found = record6(shard, place)
                    while found[0] != key:
                        if found[6] == EMPTY:
                            return 0
                        place = place + RECORD_SIZE & mask
                        found = record6(shard, place)
                    if found[6] == current:
                        last_udp6[0] = found
                _, tail, sum4, addresses, full, ident, stamp = found
                if (
                    stamp == SLOW
                    or hops < 2
                    or length + front6 != n
                    or length < 8
                    or length > 65515
                    or csum == 0
                ):
                    return 0
                known = memo_udp6.get(header) or learn(memo_udp6, header, _UDP, True)
            elif protocol == _ICMPV6:
                header, word, length, hops, key, kind, code, csum, ident = icmp6(buf, base)
                key += ident
                found = last_icmp6[0]
                if found[0] != key:
                    where = hash(key) >> HASH_SHIFT
                    shard, mask = flows_icmp6[where >> SHARD_SHIFT]
                    place = where & mask
                    found = record6_icmp(shard, place)
                    while found[0] != key:
                        if found[6] == EMPTY:
                            return 0
                        place = place + RECORD_SIZE & mask
                        found = record6_icmp(shard, place)
                    if found[6] == current:
                        last_icmp6[0] = found
                _, tail, out, sum4, full, counter, stamp = found
                if (
                    stamp == SLOW
                    or hops < 2
                    or length + front6 != n
                    or length < 8
                    or length > 65515
                    or code
                    or header != plain_vnet
                ):
                    return 0
                if kind == 128:
                    kind, gained = 8, 0x87FF
                elif kind == 129:
                    kind, gained = 0, 0x7EFF
                else:
                    return 0
                if stamp != current:
                    write_stamp(shard, place + STAMP_AT, current)
                total = length + 20
                if total > 1260:
                    frag, number = 0x4000, 0
                else:
                    frag, number = 0, idents[counter]
                    idents[counter] = number + 1 & 0xFFFF
                tos = word >> 4 & keep4 | set4
                hops -= 1
                total_sum = sum4 + tos + total + number + frag + (hops << 8)
                csum = (csum - full - gained + length) % 0xFFFF
                out4_icmp(
                    buf,
                    start4,
                    plain_vnet,
                    head4,
                    tos,
                    total,
                    number,
                    frag,
                    hops,
                    _ICMP,
                    -total_sum % 0xFFFF,
                    tail,
                    kind,
                    0,
                    csum,
                    out,
                )
                return start4
            else:
                return 0
            if known is None:
                return 0
            header, partial, gso_size = known
            total = length + 20
            if gso_size:
                if gso_size <= 1232 or total <= 1260:
                    # The segments may be small enough for DF clear; rare.
                    return 0
                frag, number = 0x4000, 0
            elif total > 1260:
                frag, number = 0x4000, 0
            else:
                frag, number = 0, idents[ident]
                idents[ident] = number + 1 & 0xFFFF
            if stamp != current:
                write_stamp(shard, place + STAMP_AT, current)
            tos = word >> 4 & keep4 | set4
            hops -= 1
            total_sum = sum4 + tos + total + number + frag + (hops << 8)
            if partial:
                sent = csum + addresses
                sent = (sent & 0xFFFF) + (sent >> 16)
            else:
                sent = (csum - full) % 0xFFFF
                if sent == 0 and (protocol == _UDP or (csum == 0xFFFF and not full)):
                    sent = 0xFFFF
            if protocol == _TCP:
                out4_tcp(
                    buf,
                    start4,
                    header,
                    head4,
                    tos,
                    total,
                    number,
                    frag,
                    hops,
                    _TCP,
                    -total_sum % 0xFFFF,
                    tail,
                    numbers,
                    flags,
                    window,
                    sent,
                )
            else:
                out4_udp(
                    buf,
                    start4,
                    header,
                    head4,
                    tos,
                    total,
                    number,
                    frag,
                    hops,
                    _UDP,
                    -total_sum % 0xFFFF,
                    tail,
                    size,
                    sent,
                )
            return start4

        if version == 4:
            protocol = buf[protocol4]
            if protocol == _TCP:
                header, ihl, tos, total, frag, hops, key, numbers, flags, window, csum = tcp4(
                    buf, base
                )
                found = last_tcp4[0]
                if found[0] != key:
                    where = hash(key) >> HASH_SHIFT
                    shard, mask = flows_tcp4[where >> SHARD_SHIFT]
                    place = where & mask
                    found = record4(shard, place)
                    while found[0] != key:
                        if found[5] == EMPTY:
                            return 0
                        place = place + RECORD_SIZE & mask
                        found = record4(shard, place)
                    if found[5] == current:
                        last_tcp4[0] = found
                _, tail, addresses, full, number, stamp = found
                if (
                    stamp == SLOW
                    or flags & 7
                    or ihl != 0x45
                    or hops < 2
                    or total + in_front != n
                    or not 20 <= flags >> 10 & 60 <= total - 20
                ):
                    return 0
                known = memo_tcp4.get(header) or learn(memo_tcp4, header, _TCP, False)
            elif protocol == _UDP:
                header, ihl, tos, total, frag, hops, key, size, csum = udp4(buf, base)
                found = last_udp4[0]
                if found[0] != key:
                    where = hash(key) >> HASH_SHIFT
                    shard, mask = flows_udp4[where >> SHARD_SHIFT]
                    place = where & mask
                    found = record4(shard, place)
                    while found[0] != key:
                        if found[5] == EMPTY:
                            return 0
                        place = place + RECORD_SIZE & mask
                        found = record4(shard, place)
                    if found[5] == current:
                        last_udp4[0] = found
                _, tail, addresses, full, number, stamp = found
                if (
                    stamp == SLOW
                    or ihl != 0x45
                    or hops < 2
                    or total + in_front != n
                    or total < 28
                    or csum == 0
                ):
                    return 0
                known = memo_udp4.get(header) or learn(memo_udp4, header, _UDP, False)
            elif protocol == _ICMP:
                header, ihl, tos, total, frag, hops, key, kind, code, csum, ident = icmp4(buf, base)
                key += ident
                found = last_icmp4[0]
                if found[0] != key:
                    where = hash(key) >> HASH_SHIFT
                    shard, mask = flows_icmp4[where >> SHARD_SHIFT]
                    place = where & mask
                    found = record4_icmp(shard, place)
                    while found[0] != key:
                        if found[5] == EMPTY:
                            return 0
                        place = place + RECORD_SIZE & mask
                        found = record4_icmp(shard, place)
                    if found[5] == current:
                        last_icmp4[0] = found
                _, tail, out, full, number, stamp = found
                if (
                    stamp == SLOW
                    or ihl != 0x45
                    or hops < 2
                    or total + in_front != n
                    or total < 28
                    or code
                    or header != plain_vnet
                    or (frag != 0x4000 and (frag or total > largest_clear))
                ):
                    return 0
                if kind == 0:
                    kind, gained = 129, 0x8100
                elif kind == 8:
                    kind, gained = 128, 0x7800
                else:
                    return 0
                if stamp != current:
                    write_stamp(shard, place + STAMP_AT, current)
                length = total - 20
                csum = (csum + full - gained - length) % 0xFFFF
                out6_icmp(
                    buf,
                    start6,
                    plain_vnet,
                    links[number] or host,
                    ethernet6_tail,
                    0x6000 | (tos & keep6 | set6) << 4,
                    length,
                    _ICMPV6,
                    hops - 1,
                    tail,
                    kind,
                    0,
                    csum,
                    out,
                )
                return start6
            else:
                return 0
            if known is None:
                return 0
            header, partial, gso_size = known
            if frag != 0x4000 and (frag or gso_size or total > largest_clear):
                return 0
            if stamp != current:
                write_stamp(shard, place + STAMP_AT, current)
            if partial:
                sent = csum + 0xFFFF - addresses
                sent = (sent & 0xFFFF) + (sent >> 16)
            else:
                sent = (csum + full) % 0xFFFF
                if sent == 0 and (protocol == _UDP or (csum == 0xFFFF and full == 0xFFFF)):
                    sent = 0xFFFF
            if protocol == _TCP:
                out6_tcp(
                    buf,
                    start6,
                    header,
                    links[number] or host,
                    ethernet6_tail,
                    0x6000 | (tos & keep6 | set6) << 4,
                    total - 20,
                    _TCP,
                    hops - 1,
                    tail,
                    numbers,
                    flags,
                    window,
                    sent,
                )
            else:
                out6_udp(
                    buf,
                    start6,
                    header,
                    links[number] or host,
                    ethernet6_tail,
                    0x6000 | (tos & keep6 | set6) << 4,
                    total - 20,
                    _UDP,
                    hops - 1,
                    tail,
                    size,
                    sent,
                )
            return start6
        return 0

    return fast_path
