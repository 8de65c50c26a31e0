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

    tcp6 = struct.Struct(f">{v}{skip}IHxB36s9xB2xH").unpack_from
    udp6 = struct.Struct(f">{v}{skip}IHxB36s2xH").unpack_from
    icmp6 = struct.Struct(f">{v}{skip}IHxB32sBBH2s").unpack_from
    tcp4 = struct.Struct(f">{v}{skip}BBH2xHBx2x12s9xB2xH").unpack_from
    udp4 = struct.Struct(f">{v}{skip}BBH2xHBx2x12s2xH").unpack_from
    icmp4 = struct.Struct(f">{v}{skip}BBH2xHBx2x8sBBH2s").unpack_from
    # The last byte of what is in front of IPv4 is its version and header length.
    out4 = struct.Struct(f">{v}{link + 1}sBHHHBBH12s").pack_into
    out4_icmp = struct.Struct(f">{v}{link + 1}sBHHHBBH8sBBH2s").pack_into
    out6 = struct.Struct(f">{v}{mac}{len(ethernet6_tail)}sIHBB36s").pack_into
    out6_icmp = struct.Struct(f">{v}{mac}{len(ethernet6_tail)}sIHBB32sBBH2s").pack_into
    head4 = ethernet4 + b"\x45"
    plain_vnet = bytes(vnet_size)

    flows_tcp6, flows_tcp4 = flows[Protocol.TCP].by_key6, flows[Protocol.TCP].by_key4
    flows_udp6, flows_udp4 = flows[Protocol.UDP].by_key6, flows[Protocol.UDP].by_key4
    flows_icmp6, flows_icmp4 = flows[Protocol.ICMP].by_key6, flows[Protocol.ICMP].by_key4
    idents = flows[Protocol.TCP].identifications
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

    low_port6, low_id6 = IP_AT + 41, IP_AT + 45
    low_port4, low_id4 = IP_AT + 23, IP_AT + 25
    next_header, protocol4 = IP_AT + 6, IP_AT + 9
    tcp_csum6, udp_csum6 = IP_AT + 56, IP_AT + 46
    tcp_csum4, udp_csum4 = IP_AT + 36, IP_AT + 26
    data_offset6, data_offset4 = IP_AT + 52, IP_AT + 32
    keep4, set4 = (0xFF, 0) if tos is None else (0, tos)
    keep6, set6 = (0xFF, 0) if traffic_class is None else (0, traffic_class)
    largest_clear = lowest_ipv6_mtu - 20

    def fast_path(buf: bytearray, n: int, now: float) -> int:
        version = buf[IP_AT] >> 4
        if version == 6:
            protocol = buf[next_header]
            if protocol == _TCP:
                header, word, length, hops, key, flags, csum = tcp6(buf, base)
                session = flows_tcp6[buf[low_port6]].get(key)
                if (
                    session is None
                    or not session.fast
                    or flags & 7
                    or hops < 2
                    or length + front6 != n
                    or not 20 <= buf[data_offset6] >> 2 & 60 <= length
                    or length > 65515
                ):
                    return 0
                known = memo_tcp6.get(header) or learn(memo_tcp6, header, _TCP, True)
                at = tcp_csum6
            elif protocol == _UDP:
                header, word, length, hops, key, csum = udp6(buf, base)
                session = flows_udp6[buf[low_port6]].get(key)
                if (
                    session is None
                    or not session.fast
                    or hops < 2
                    or length + front6 != n
                    or length < 8
                    or length > 65515
                    or csum == 0
                ):
                    return 0
                known = memo_udp6.get(header) or learn(memo_udp6, header, _UDP, True)
                at = udp_csum6
            elif protocol == _ICMPV6:
                header, word, length, hops, key, kind, code, csum, ident = icmp6(buf, base)
                session = flows_icmp6[buf[low_id6]].get(key + ident)
                if (
                    session is None
                    or not session.fast
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
                session.last = now
                total = length + 20
                if total > 1260:
                    frag, number = 0x4000, 0
                else:
                    counter = session.ident
                    frag, number = 0, idents[counter]
                    idents[counter] = number + 1 & 0xFFFF
                tos = word >> 20 & keep4 | set4
                hops -= 1
                total_sum = session.header4_sum + tos + total + number + frag + (hops << 8)
                total_sum = (total_sum & 0xFFFF) + (total_sum >> 16)
                total_sum = (total_sum & 0xFFFF) + (total_sum >> 16)
                csum = 0xFFFF - csum + session.delta_full + gained + (0xFFFF - length)
                csum = (csum & 0xFFFF) + (csum >> 16)
                csum = (csum & 0xFFFF) + (csum >> 16)
                tail = session.tail4
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
                    0xFFFF - total_sum,
                    tail[:8],
                    kind,
                    0,
                    0xFFFF - csum,
                    tail[8:],
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
                counter = session.ident
                frag, number = 0, idents[counter]
                idents[counter] = number + 1 & 0xFFFF
            session.last = now
            tos = word >> 20 & keep4 | set4
            hops -= 1
            total_sum = session.header4_sum + tos + total + number + frag + (hops << 8)
            total_sum = (total_sum & 0xFFFF) + (total_sum >> 16)
            total_sum = (total_sum & 0xFFFF) + (total_sum >> 16)
            out4(
                buf,
                start4,
                header,
                head4,
                tos,
                total,
                number,
                frag,
                hops,
                protocol,
                0xFFFF - total_sum,
                session.tail4,
            )
            if partial:
                csum += session.delta_addresses
                csum = (csum & 0xFFFF) + (csum >> 16)
            else:
                csum = 0xFFFF - csum + session.delta_full
                csum = 0xFFFF - ((csum & 0xFFFF) + (csum >> 16))
                if csum == 0 and protocol == _UDP:
                    csum = 0xFFFF
            buf[at] = csum >> 8
            buf[at + 1] = csum & 0xFF
            return start4

        if version == 4:
            protocol = buf[protocol4]
            if protocol == _TCP:
                header, ihl, tos, total, frag, hops, key, flags, csum = tcp4(buf, base)
                session = flows_tcp4[buf[low_port4]].get(key)
                if (
                    session is None
                    or not session.fast
                    or flags & 7
                    or ihl != 0x45
                    or hops < 2
                    or total + in_front != n
                    or not 20 <= buf[data_offset4] >> 2 & 60 <= total - 20
                ):
                    return 0
                known = memo_tcp4.get(header) or learn(memo_tcp4, header, _TCP, False)
                at = tcp_csum4
            elif protocol == _UDP:
                header, ihl, tos, total, frag, hops, key, csum = udp4(buf, base)
                session = flows_udp4[buf[low_port4]].get(key)
                if (
                    session is None
                    or not session.fast
                    or ihl != 0x45
                    or hops < 2
                    or total + in_front != n
                    or total < 28
                    or csum == 0
                ):
                    return 0
                known = memo_udp4.get(header) or learn(memo_udp4, header, _UDP, False)
                at = udp_csum4
            elif protocol == _ICMP:
                header, ihl, tos, total, frag, hops, key, kind, code, csum, ident = icmp4(buf, base)
                session = flows_icmp4[buf[low_id4]].get(key + ident)
                if (
                    session is None
                    or not session.fast
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
                session.last = now
                length = total - 20
                csum = 0xFFFF - csum + (0xFFFF - session.delta_full) + gained + length
                csum = (csum & 0xFFFF) + (csum >> 16)
                csum = (csum & 0xFFFF) + (csum >> 16)
                tail = session.tail6
                out6_icmp(
                    buf,
                    start6,
                    plain_vnet,
                    session.client.link,
                    ethernet6_tail,
                    0x60000000 | (tos & keep6 | set6) << 20,
                    length,
                    _ICMPV6,
                    hops - 1,
                    tail[:32],
                    kind,
                    0,
                    0xFFFF - csum,
                    tail[32:],
                )
                return start6
            else:
                return 0
            if known is None:
                return 0
            header, partial, gso_size = known
            if frag != 0x4000 and (frag or gso_size or total > largest_clear):
                return 0
            session.last = now
            out6(
                buf,
                start6,
                header,
                session.client.link,
                ethernet6_tail,
                0x60000000 | (tos & keep6 | set6) << 20,
                total - 20,
                protocol,
                hops - 1,
                session.tail6,
            )
            if partial:
                csum += 0xFFFF - session.delta_addresses
                csum = (csum & 0xFFFF) + (csum >> 16)
            else:
                csum = 0xFFFF - csum + 0xFFFF - session.delta_full
                csum = 0xFFFF - ((csum & 0xFFFF) + (csum >> 16))
                if csum == 0 and protocol == _UDP:
                    csum = 0xFFFF
            buf[at] = csum >> 8
            buf[at + 1] = csum & 0xFF
            return start6
        return 0

    return fast_path
