"""Packets of the fuzzer, byte by byte: valid ones, then with offloads, then damaged.

Nothing of translate is used to build them.
"""

from __future__ import annotations

from tests.fuzz.reader import Seen, read_in, word_sum
from translate.packets import Packet

ROUTER4, ROUTER6 = bytes((198, 18, 7, 1)), bytes.fromhex("20010db8ffff00000000000000000001")
WORDS = [0, 1, 7, 8, 20, 39, 40, 127, 128, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x2000, 0x4000, 5]
_NOWHERE6 = bytes.fromhex("fec000000000ffff00000000")
_GSO_SIZES = [0, 1, 536, 1220, 1232, 1233, 1400, 1448]
_TCP_FLAGS = [0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14, 0x00, 0x01, 0x06, 0xC2, 0x13]
_MSS = bytes.fromhex("020422d8 01 0303 07")
_MSS_AT_ODD = bytes.fromhex("01 020422d8 0303 07")


def piece_of(whole: bytes, flags: int, payload: bytes) -> tuple[int, int, bytes]:
    place = flags & 7
    if place < 3:
        cuts = (0, 400, 800, len(whole))
        return cuts[place], int(place < 2), whole[cuts[place] : cuts[place + 1]]
    if place == 3:
        return 0, 0, whole
    if place == 4:
        return 392, 1, payload[: len(payload) & ~7]
    if place == 5:
        return 0, 1, whole[: (8, 16, 4, 24)[flags >> 3 & 3]]
    return (65520, 0, payload[:64]) if place == 6 else (800, 1, payload[: len(payload) & ~7])


def extension(which: int) -> bytes:
    """An RFC 4884 extension: interface information (RFC 5837) with an address, labels, or both."""
    labels = bytes((0, 8, 1, 1)) + bytes((1, 2, 3, 4))
    item = bytes((0, 12, 2, 4)) + bytes((0, 1, 0, 0)) + ROUTER4
    if which & 1:
        # With an index in front; the address that a client would be told, or one of no prefix.
        addr6 = _NOWHERE6 + ROUTER4
        item = bytes((0, 28, 2, 12)) + bytes((0, 0, 0, 9, 0, 2, 0, 0))
        item += addr6 if which & 8 else ROUTER6
    if which & 0x40:
        item = bytes((0, 16, 2, 12)) + bytes((0, 0, 0, 9, 0, 1, 0, 0)) + ROUTER4 + labels
    elif which & 2:
        item = labels
    body = b"\x20\0\0\0" + item
    return b"\x20\0" + (0xFFFF - word_sum(body)).to_bytes(2, "big") + item


def udp(sport: int, dport: int, payload: bytes) -> bytes:
    """A datagram without checksum."""
    length = (8 + len(payload)) & 0xFFFF
    return b"".join(n.to_bytes(2, "big") for n in (sport, dport, length, 0)) + payload


def tcp(sport: int, dport: int, flags: int, payload: bytes) -> bytes:
    """A segment without checksum; a SYN has options."""
    bits = _TCP_FLAGS[flags % len(_TCP_FLAGS)]
    options = (_MSS_AT_ODD if flags & 0x80 else _MSS) if bits & 2 else b""
    head = sport.to_bytes(2, "big") + dport.to_bytes(2, "big") + bytes.fromhex("0000100000002000")
    offset = (20 + len(options)) // 4 << 4
    return head + bytes((offset, bits)) + bytes.fromhex("ffff00000000") + options + payload


def echo(kind: int, ident: int, payload: bytes) -> bytes:
    """An ICMP message with an identifier, without checksum."""
    return bytes((kind, 0, 0, 0)) + ident.to_bytes(2, "big") + b"\0\1" + payload


def icmp(kind: int, code: int, rest: bytes, inner: bytes) -> bytes:
    """An ICMP error without checksum."""
    return bytes((kind, code, 0, 0)) + rest + inner


def ip6(src: bytes, dst: bytes, protocol: int, body: bytes, hops: int, tos: int) -> bytes:
    """An IPv6 packet."""
    word = (6 << 28 | tos << 20 | 0x12345).to_bytes(4, "big")
    length = min(len(body), 65535)
    return word + length.to_bytes(2, "big") + bytes((protocol, hops)) + src + dst + body[:length]


def ip4(
    src: bytes,
    dst: bytes,
    protocol: int,
    body: bytes,
    hops: int,
    tos: int,
    *,
    frag: int = 0,
    ident: int = 77,
    options: bytes = b"",
) -> bytes:
    """An IPv4 packet."""
    body = body[: 65535 - 20 - len(options)]
    head = bytes((0x45 + len(options) // 4, tos)) + (20 + len(options) + len(body)).to_bytes(
        2, "big"
    )
    head += ident.to_bytes(2, "big") + frag.to_bytes(2, "big") + bytes((hops, protocol))
    tail = src + dst + options
    checksum = 0xFFFF - word_sum(head + tail)
    return head + checksum.to_bytes(2, "big") + tail + body


_PLACES = {6: 16, 17: 6, 1: 2, 58: 2}


def summed(protocol: int, body: bytes, addresses: bytes, how: int) -> bytes:
    """The transport bytes with a checksum: right, none, or wrong, as `how` says."""
    at = _PLACES.get(protocol)
    if at is None or len(body) < at + 2 or how & 7 == 6:
        return body
    pseudo = 0 if protocol == 1 else word_sum(addresses + len(body).to_bytes(4, "big")) + protocol
    checksum = 0xFFFF - word_sum(word_sum(body).to_bytes(2, "big") + pseudo.to_bytes(4, "big"))
    if checksum == 0 and protocol == 17:
        checksum = 0xFFFF
    if how & 7 == 7:
        checksum ^= 1 + (how >> 3)
    return body[:at] + checksum.to_bytes(2, "big") + body[at + 2 :]


def with_checksum(data: bytes, how: int) -> Packet:
    seen = read_in(data)
    if seen is None or seen.offset is not None:
        return Packet(data)
    body = summed(seen.protocol, seen.body, seen.src + seen.dst, how)
    return Packet(data[: len(data) - len(body)] + body)


def with_offload(packet: Packet, how: int) -> Packet:
    """Makes it partial, or a super-packet, as a kernel would; rarely as none would."""
    if how < 0x40:
        return packet
    seen = read_in(packet.data)
    if seen is None or (seen.offset is not None and how < 0xF0):
        return packet
    at = _PLACES.get(seen.protocol)
    if at is None or len(seen.body) < at + 2:
        return packet
    if how >= 0xF0:
        kind = (0, 1, 4, 5, 0x81, 3, 0xFF, 0x85)[how >> 1 & 7]
        return Packet(packet.data, bool(how & 1), kind, how if kind else 0)
    if seen.protocol not in (6, 17):
        return packet
    partial = seen.pseudo_sum()
    body = seen.body[:at] + partial.to_bytes(2, "big") + seen.body[at + 2 :]
    data = packet.data[: len(packet.data) - len(body)] + body
    kind = 0
    gso_size = 0
    if how >= 0x80 and _gso_is_true(seen):
        kind = {(4, 6): 1, (6, 6): 4}.get((seen.version, seen.protocol), 5)
        kind |= 0x80 if how & 0x40 and kind != 5 else 0
        # No kernel cuts one packet into a thousand.
        gso_size = max(_GSO_SIZES[how & 7] or 1000, len(seen.data) // 64)
    return Packet(data, True, kind, gso_size)


def _gso_is_true(seen: Seen) -> bool:
    return len(seen.data) > 1 and seen.whole


def damaged(packet: Packet, record: bytes) -> Packet:
    count = record[9] & 3
    if not count or record[9] < 0x10:
        return packet
    out = bytearray(packet.data)
    for turn in range(count):
        if not out:
            break
        where, what = (record[10] + turn * 13) % len(out), record[11]
        how = (record[9] >> 2 & 3) if turn == 0 else 0
        if how == 0:
            out[where] ^= 1 << (what & 7)
        elif how == 1:
            out[where : where + 2] = WORDS[what & 15].to_bytes(2, "big")[: len(out) - where]
        elif how == 2:
            del out[where:]
        else:
            out += bytes((what,)) * (where & 31)
    if record[9] & 0x80 and len(out) >= 40:
        if out[0] >> 4 == 4 and len(out) <= 0xFFFF:
            out[2:4] = len(out).to_bytes(2, "big")
        elif out[0] >> 4 == 6 and len(out) - 40 <= 0xFFFF:
            out[4:6] = (len(out) - 40).to_bytes(2, "big")
    return Packet(bytes(out), packet.partial, packet.gso_type, packet.gso_size, packet.link)
