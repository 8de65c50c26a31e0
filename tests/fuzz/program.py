"""Records of an input, made packets.

Valid packets are built and then damaged, because random bytes rarely get past the first check.
Pool ports and packets to complain about are learnt from what came out.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.fuzz.building import (
    ROUTER4,
    ROUTER6,
    WORDS,
    damaged,
    echo,
    extension,
    icmp,
    ip4,
    ip6,
    piece_of,
    summed,
    tcp,
    udp,
    with_checksum,
    with_offload,
)
from tests.fuzz.choices import CLIENTS, HEADER_SIZE, OWN4, SERVERS, STATIC
from tests.fuzz.reader import read_in
from tests.fuzz.sides import LINK
from translate.packets import Packet
from translate.settings import Settings

RECORD_SIZE = 12
MAX_RECORDS = 24

_ODD_SOURCES4 = [
    bytes((127, 0, 0, 1)),
    bytes((0, 0, 0, 0)),
    bytes((224, 0, 0, 1)),
    bytes((10, 0, 0, 1)),
]
_SIZES = [0, 1, 8, 40, 532, 1192, 1212, 1213, 1220, 1232, 1233, 1240, 1252, 1452, 1472, 3000]
_HOPS = [64, 64, 64, 255, 2, 1, 0, 3]


class Program:
    """The records of one input, and what was learnt from the answers to those before."""

    clients: Sequence[bytes] = CLIENTS
    servers: Sequence[bytes] = SERVERS
    link = LINK

    def __init__(self, data: bytes, settings: Settings) -> None:
        self.settings = settings
        self.ports: dict[int, list[tuple[bytes, int, int, bytes]]] = {1: [], 6: [], 17: []}
        self.sent4: list[bytes] = []
        self.sent6: list[bytes] = []
        self.deltas: dict[bytes, int] = {}
        program = data[HEADER_SIZE:]
        self.records = [
            program[at : at + RECORD_SIZE].ljust(RECORD_SIZE, b"\0")
            for at in range(0, min(len(program), MAX_RECORDS * RECORD_SIZE), RECORD_SIZE)
        ]

    def learn(self, data: bytes) -> None:
        """Remembers pool ports that are in use, and packets to complain about."""
        seen = read_in(data)
        if seen is None:
            return
        (self.sent4 if seen.version == 4 else self.sent6).append(data)
        if seen.version != 4 or not seen.first or len(seen.body) < 8 or seen.is_error:
            return
        known = self.ports.get(seen.protocol)
        if known is None:
            return
        at = 4 if seen.protocol == 1 else 0
        port = int.from_bytes(seen.body[at : at + 2], "big")
        server = int.from_bytes(seen.body[2:4], "big") if seen.protocol != 1 else 0
        item = (seen.dst, server, port, seen.src)
        if item not in known:
            known.append(item)

    def learn_delta(self, before: bytes, after: bytes) -> None:
        """Remembers by how much the checksums of a flow change."""
        came, went = read_in(before), read_in(after)
        if came is None or went is None or came.protocol != went.protocol or came.protocol != 17:
            return
        if came.checksum and went.checksum:
            delta = (went.checksum - came.checksum) % 0xFFFF
            self.deltas[came.src + came.dst + came.body[:4]] = delta

    # -- packets ----------------------------------------------------------------------

    def packet_of(self, record: bytes) -> Packet:
        """The packet of a record, damage included."""
        kind, which, flags = record[0] % 16, record[1], record[6]
        size = int.from_bytes(record[4:6], "big")
        length = _SIZES[size % 16] if size < 0xF000 else size & 0xFFF
        if kind == 15:
            # Only large sums and lengths come by here.
            length = 60_000 + (size & 0x3FFF)
            kind = (0, 1, 4, 5)[which >> 6]
        hops = _HOPS[record[3] & 7]
        tos = record[3] >> 3 << 3
        data = self.valid(kind, which, flags, length, hops, tos, record)
        packet = with_checksum(data, record[7])
        if record[7] & 7 == 5:
            packet = self.with_special_checksum(packet)
        packet = with_offload(packet, record[8])
        packet.link = self.link
        return damaged(packet, record)

    def valid(
        self, kind: int, which: int, flags: int, length: int, hops: int, tos: int, record: bytes
    ) -> bytes:
        """A packet with right lengths; transport checksum zero, for `with_checksum`."""
        payload = bytes((at * 7 + which) & 0xFF for at in range(min(length, 64)))
        payload = (payload + b"\xa5" * length)[:length]
        client, server = self.client6(which), self.servers[(which >> 1) % 3]
        sport, dport = 40000 + (which >> 3 & 3), (53, 80)[which >> 5 & 1]
        src6, dst6 = client, self.server6(server, which)
        if kind == 0:
            return ip6(src6, dst6, 17, udp(sport, dport, payload), hops, tos)
        if kind == 1:
            return ip6(src6, dst6, 6, tcp(sport, dport, flags, payload), hops, tos)
        if kind == 2:
            kind6 = (128, 128, 129, 133, 1, 137)[flags % 6]
            return ip6(src6, dst6, 58, echo(kind6, sport, payload), hops, tos)
        if kind == 3:
            return self.fragment6(src6, dst6, sport, dport, flags, payload, record)
        if kind in (4, 5, 6, 7):
            protocol = {4: 17, 5: 6, 6: 1, 7: 17}[kind]
            server, dport, port, pool = self.mapping(protocol, which)
            frag = 0x4000 if flags & 0x40 else 0
            if kind == 4:
                return ip4(server, pool, 17, udp(dport, port, payload), hops, tos, frag=frag)
            if kind == 5:
                return ip4(server, pool, 6, tcp(dport, port, flags, payload), hops, tos, frag=frag)
            if kind == 6:
                kind4 = (0, 8, 0, 13, 5)[flags % 5]
                return ip4(server, pool, 1, echo(kind4, port, payload), hops, tos, frag=frag)
            return self.fragment4(server, pool, dport, port, flags, payload, record)
        if kind in (8, 9):
            return self.error(kind, which, flags, hops, record)
        if kind == 10:
            chain = [b"\x00\x00\x01\x04\0\0\0\0", b"\x3c\x00\x01\x04\0\0\0\0"]
            routing = bytes((17, 0, 0, flags & 1, 0, 0, 0, 0))
            body = chain[0].replace(b"\0", b"\x2b", 1) + routing + udp(sport, dport, payload)
            return ip6(src6, dst6, 0, body, hops, tos)
        if kind == 11:
            server, dport, port, pool = self.mapping(17, which)
            option = (b"\x83\x07\x08", b"\x83\x07\x04", b"\x07\x07\x04", b"\x01\x83\x00")[flags & 3]
            return ip4(
                server, pool, 17, udp(dport, port, payload), hops, tos, options=option + bytes(5)
            )
        if kind == 12:
            if flags & 1:
                return ip6(src6, dst6, (59, 132, 50, 51, 4)[which % 5], payload, hops, tos)
            return ip4(
                server, self.mapping(17, which)[3], (132, 50, 4)[which % 3], payload, hops, tos
            )
        if kind == 13:
            # Hairpinning: to a mapping of another client.
            _, _, port, pool = self.mapping(17, which)
            body = udp(sport + 1, port, payload)
            return ip6(self.clients[2], self.server6(pool, which), 17, body, hops, tos)
        server, _, port, pool = self.mapping(17, which)
        odd = _ODD_SOURCES4[flags & 3]
        return ip4(odd, pool, 17, udp(53, port, payload), hops, tos)

    def with_special_checksum(self, packet: Packet) -> Packet:
        """With the checksum that becomes 0 or 0xffff, where that of a datagram before tells it."""
        seen = read_in(packet.data)
        if seen is None or seen.offset is not None or seen.protocol != 17:
            return packet
        delta = self.deltas.get(seen.src + seen.dst + seen.body[:4])
        if delta is None:
            return packet
        at = len(packet.data) - len(seen.body) + 6
        checksum = (-delta % 0xFFFF or 0xFFFF).to_bytes(2, "big")
        return Packet(packet.data[:at] + checksum + packet.data[at + 2 :])

    def client6(self, which: int) -> bytes:
        """The client of a flow."""
        return self.clients[which & 1]

    def server6(self, server: bytes, which: int) -> bytes:
        """An IPv6 address of the server, in one of the forms that we accept."""
        prefix = self.settings.prefixes[(which >> 6) % len(self.settings.prefixes)]
        return prefix.embed(server)

    def mapping(self, protocol: int, which: int) -> tuple[bytes, int, int, bytes]:
        """(server, its port, pool port, pool address): one in use if there is one."""
        known = self.ports[protocol]
        if not known or which & 0xC0 == 0xC0:
            pool = STATIC[2].key4[:4] if protocol == 1 else OWN4
            return self.servers[which % 3], 53, 1024 + (which & 15), pool
        server, dport, port, pool = known[which % len(known)]
        if which & 0x20:
            server = self.servers[(which >> 1) % 3]
        return server, dport, port, pool

    def fragment6(
        self,
        src6: bytes,
        dst6: bytes,
        sport: int,
        dport: int,
        flags: int,
        payload: bytes,
        record: bytes,
    ) -> bytes:
        """A fragment of one datagram: flags say which third, or something that does not fit."""
        whole = udp(sport, dport, bytes(1224))
        whole = summed(17, whole, src6 + dst6, record[7])
        protocol = 17
        if record[7] & 0x20:
            # Destination options, in the part that is cut.
            protocol, whole = 60, b"\x11\x00\x01\x04\0\0\0\0" + whole
        offset, more, body = piece_of(whole, flags, payload)
        head = bytes((protocol, 0)) + (offset | more).to_bytes(2, "big")
        head += (0x10000 + (flags >> 5)).to_bytes(4, "big")
        return ip6(src6, dst6, 44, head + body, 64, 0)

    def fragment4(
        self,
        server: bytes,
        pool: bytes,
        dport: int,
        port: int,
        flags: int,
        payload: bytes,
        record: bytes,
    ) -> bytes:
        """The same from IPv4, also without a checksum."""
        whole = summed(17, udp(dport, port, bytes(1224)), server + pool, record[7])
        offset, more, body = piece_of(whole, flags, payload)
        return ip4(
            server, pool, 17, body, 64, 0, frag=(offset >> 3) | more << 13, ident=77 + (flags >> 5)
        )

    def error(self, kind: int, which: int, flags: int, hops: int, record: bytes) -> bytes:
        """An ICMP error about a packet that the translator has sent."""
        known = self.sent4 if kind == 8 else self.sent6
        inner = known[which % len(known)] if known else b"\x45" + bytes(60)
        inner = inner[: (28, 48, 68, 128, 548, 1232)[record[5] % 6]]
        rest = bytearray(WORDS[record[4] & 15].to_bytes(4, "big"))
        if kind == 8:
            kind4, code = (3, 3, 3, 11, 12, 4, 5)[flags % 7], flags >> 3 & 15
            if kind4 == 12:
                rest[0] = record[4] & 31
            if flags & 0x80:
                # RFC 4884: the original padded to 128 bytes, then an extension.
                inner = inner[:128].ljust(128, b"\0")
                rest[1] = 32
                inner += extension(which)
            source = ROUTER4 if which & 4 else inner[16:20] or ROUTER4
            if which & 0x30 == 0x30:
                source = _ODD_SOURCES4[which & 3]
            body = icmp(kind4, code, bytes(rest), inner)
            return ip4(source, inner[12:16].ljust(4, b"\0"), 1, body, hops, 0)
        kind6, code = (1, 2, 3, 4)[flags & 3], flags >> 2 & 7
        if flags & 0x80 and kind6 in (1, 3):
            inner = inner[:128].ljust(128, b"\0")
            rest[0] = 16
            inner += extension(which)
        body = icmp(kind6, code, bytes(rest), inner)
        source = ROUTER6 if which & 4 else self.clients[0]
        return ip6(source, inner[8:24].ljust(16, b"\0"), 58, body, hops, 0)
