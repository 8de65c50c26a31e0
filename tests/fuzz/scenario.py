"""One run of the fuzzer: a program of packets, on two translators with the same history.

Theory of operation. The input is a header of 4 bytes, which chooses settings, and records of 12
bytes, each a packet or a pause:

     0 kind of packet         4 size (2)                8 offload
     1 which flow             6 flags, code, offset     9 how many damages; lengths repaired?
     2 time that passes       7 checksum right?        10 where    11 what
     3 hops, class

Fixed places keep the meaning of the rest when one byte changes, and every input means
something. Valid packets are built and then damaged, because random bytes rarely get past the
first check. Pool ports and packets to complain about are learnt from what came out.

One translator has the fast path in front, as the data plane does, the other has not: after
every packet both must have sent the same frames (gateway/frames.py), and what was sent has to
fit the packet (tests/fuzz/invariant.py) and the conversation (tests/fuzz/model.py). In the
middle the settings may change, as at a reload. Same input, same run: a file is a test
(tests/unit/test_fuzz_regressions.py).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import fields, replace
from enum import Enum
from ipaddress import IPv4Network, IPv6Network

from gateway.frames import FrameFormat
from tests.fuzz.invariant import judge, judge_unasked
from tests.fuzz.model import Model
from tests.fuzz.reader import Seen, read_in, require, word_sum
from translate.addresses import Layout, Prefix6
from translate.deterministic import Subscribers
from translate.fast_path import IP_AT, make_fast_path
from translate.nat64 import Nat64
from translate.packets import Packet
from translate.pool4 import PoolRange
from translate.reasons import Reason
from translate.settings import Limits, Settings, Timeouts, ZeroChecksum
from translate.static_bib import StaticEntry

HEADER_SIZE, RECORD_SIZE = 4, 12
MAX_RECORDS = 24

_CLIENTS = [bytes.fromhex("20010db80001000000000000000000" + end) for end in ("10", "20", "30")]
_SERVERS = [bytes((198, 51, 100, 80)), bytes((198, 51, 100, 81)), bytes((8, 8, 8, 8))]
_ROUTER4, _ROUTER6 = bytes((198, 18, 7, 1)), bytes.fromhex("20010db8ffff00000000000000000001")
_ODD_SOURCES4 = [
    bytes((127, 0, 0, 1)),
    bytes((0, 0, 0, 0)),
    bytes((224, 0, 0, 1)),
    bytes((10, 0, 0, 1)),
]
_POOL = IPv4Network("203.0.113.8/31")
_ERROR_POOL = IPv4Network("203.0.113.64/30")
_OWN4 = bytes((203, 0, 113, 8))
# Ranges by protocol and by client, in place of one for all.
_RANGES = (
    ("203.0.113.8/32", frozenset({6, 17}), None),
    ("203.0.113.9/32", frozenset({1, 6, 17}), None),
    ("203.0.113.10/31", frozenset({1, 6, 17}), IPv6Network("2001:db8:1::20/128")),
)
# A server of its own, and a port that a client also uses by itself.
_STATIC = (
    StaticEntry(17, _OWN4 + (1030).to_bytes(2, "big"), _CLIENTS[2] + (53).to_bytes(2, "big")),
    StaticEntry(6, _OWN4 + (1031).to_bytes(2, "big"), _CLIENTS[0] + (40000).to_bytes(2, "big")),
    StaticEntry(1, _OWN4[:3] + b"\x09\x04\x08", _CLIENTS[2] + (7).to_bytes(2, "big")),
)
_STATIC_LATER = (
    _STATIC[0],
    StaticEntry(6, _OWN4 + (1031).to_bytes(2, "big"), _CLIENTS[2] + (80).to_bytes(2, "big")),
    StaticEntry(17, _OWN4 + (1025).to_bytes(2, "big"), _CLIENTS[1] + (40001).to_bytes(2, "big")),
)
# 16 subscribers, of which the clients are numbers 1, 2 and 3.
SUBSCRIBERS = Subscribers(IPv6Network("2001:db8:1::/120"), 124)
_PREFIXES = [
    (IPv6Network("fec0:0:0:ffff::/64"), Layout.TRAILING),
    (IPv6Network("64:ff9b::/96"), Layout.RFC6052),
    (IPv6Network("2001:db8:6464::/48"), Layout.RFC6052),
]
_LINK = bytes.fromhex("02c11e470001")
_FORM = FrameFormat(True, bytes.fromhex("02c11e470101"), bytes.fromhex("02c11e470102"))
# Time lies on a grid, and lifetimes between its points: the fast path notes times in steps of a
# quarter of a second, and that a flow ends a little later is no difference.
_START = 1000.2
_PAUSES = [0.0, 0.0, 0.0, 0.25, 0.5, 1.0, 2.0, 5.75, 6.25, 60.0, 60.25, 240.0, 240.25]
_PAUSES += [300.25, 600.0, 600.25]
_LIFETIMES = Timeouts(udp_default=300.1, tcp_est=600.1, tcp_trans=240.1, icmp_default=60.1)
_SIZES = [0, 1, 8, 40, 532, 1192, 1212, 1213, 1220, 1232, 1233, 1240, 1252, 1452, 1472, 3000]
_HOPS = [64, 64, 64, 255, 2, 1, 0, 3]
_WORDS = [0, 1, 7, 8, 20, 39, 40, 127, 128, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF, 0x2000, 0x4000, 5]
_GSO_SIZES = [0, 1, 536, 1220, 1232, 1233, 1400, 1448]
_TCP_FLAGS = [0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14, 0x00, 0x01, 0x06, 0xC2, 0x13]
_MSS = bytes.fromhex("020422d8 01 0303 07")
_MSS_AT_ODD = bytes.fromhex("01 020422d8 0303 07")


class Side:
    """A translator, and optionally the fast path in front of it."""

    def __init__(self, settings: Settings, *, fast: bool) -> None:
        chance = random.Random(7)
        self.nat = Nat64(
            settings,
            randbelow=chance.randrange,
            admit=lambda addr6: addr6[:4] == b"\x20\x01\x0d\xb8",
            path_mtu=lambda _: 1500,
        )
        self._fast: Callable[[bytearray, int, float], int] | None = None
        if fast:
            self._fast = make_fast_path(
                self.nat.state.flows,
                vnet=_FORM.vnet,
                ethernet4=_FORM.ethernet4,
                ethernet6_tail=_FORM.ethernet6_tail,
                lowest_ipv6_mtu=settings.lowest_ipv6_mtu,
                tos=settings.tos,
                traffic_class=settings.traffic_class,
            )

    def counted(self) -> int:
        """All discards so far."""
        return sum(self.nat.counters.values())

    def send(self, packet: Packet, now: float) -> list[bytes]:
        """The frames that come out, by way of the fast path where it takes the packet."""
        frame = _frame(packet)
        if self._fast is not None and frame is not None:
            base = IP_AT - _FORM.header_size
            buffer = bytearray(b"\xa5" * (base + len(frame) + 64))
            buffer += bytes(max(0, 256 - len(buffer)))
            buffer[base : base + len(frame)] = frame
            before = bytes(buffer)
            start = self._fast(buffer, len(frame), now)
            if start:
                return [bytes(buffer[start : base + len(frame)])]
            require(bytes(buffer) == before, "the fast path refused, but changed the buffer")
        return [_FORM.join(out) for out in self.nat.translate(packet, now)]


def _frame(packet: Packet) -> bytes | None:
    """The frame in which a kernel would hand the packet over; None where none would."""
    data = packet.data
    if not 40 <= len(data) <= 40 + 65535 or data[0] >> 4 not in (4, 6):
        return None
    v4 = data[0] >> 4 == 4
    if v4 and word_sum(data[: (data[0] & 15) * 4]) != 0xFFFF:
        # It verifies this before it forwards anything.
        return None
    start, protocol = (20, data[9]) if v4 else (40, data[6])
    vnet = bytes(10)
    if packet.partial:
        if protocol not in (6, 17) or len(data) < start + 20:
            return None
        size = (data[start + 12] >> 4) * 4 if protocol == 6 else 8
        head = 14 + start + size if packet.gso_type else 0
        numbers = (head, packet.gso_size, 14 + start, 16 if protocol == 6 else 6)
        vnet = bytes((1, packet.gso_type)) + b"".join(n.to_bytes(2, "little") for n in numbers)
    elif packet.gso_type:
        return None
    kind = b"\x08\x00" if v4 else b"\x86\xdd"
    return vnet + _FORM.own_mac + packet.link + kind + data


def choose_settings(head: bytes) -> Settings:
    """The settings that the first bytes of an input ask for."""
    head = head.ljust(HEADER_SIZE, b"\0")
    first = head[0] % len(_PREFIXES)
    network, layout = _PREFIXES[first]
    prefixes = [Prefix6(network, layout)]
    if head[0] & 0x80:
        prefixes.append(Prefix6(*_PREFIXES[(first + 1) % len(_PREFIXES)]))
    first_port, last_port = (1, 65535) if head[1] & 1 else (1024, 1039)
    limits = Limits()
    if head[1] & 2:
        limits = replace(limits, sessions=6, sessions_per_client=4, bib=5, clients=2)
    if head[3] & 1:
        limits = replace(limits, fragments=3, fragments_per_client=2, fragment_bytes=1500)
    pool4 = [PoolRange(_POOL, first_port=first_port, last_port=last_port)]
    if head[3] & 0x80 and not head[3] & 0x40:
        pool4 = [
            PoolRange(IPv4Network(network4), protocols, first_port, last_port, clients)
            for network4, protocols, clients in _RANGES
        ]
    settings = Settings(
        prefixes=tuple(prefixes),
        pool4=tuple(pool4),
        static=_STATIC if head[3] & 0x20 else (),
        deterministic=SUBSCRIBERS if head[3] & 0x40 else None,
        icmp6_source=prefixes[0].embed(bytes((192, 0, 0, 8))),
        icmp4_source=_OWN4,
        wkp_strict=not head[1] & 4,
        icmp4_error_pool=(_ERROR_POOL,) if head[3] & 2 else (),
        port_block_size=8 if head[3] & 4 and not head[3] & 0x40 else 0,
        tos=0 if head[3] & 8 else None,
        traffic_class=0xE0 if head[3] & 16 else None,
        mtu=(1500, 1500, 9000, 1280)[head[1] >> 3 & 3],
        mss_clamp=(None, None, 0, 1000)[head[1] >> 5 & 3],
        lowest_ipv6_mtu=1280 if head[1] & 0x80 else 1400,
        limits=limits,
        # Not the two hours of TCP_EST: the wheel turns through each second.
        timeouts=_LIFETIMES,
    )
    # Choices that are enumerations: two bits of the header for each, by default the first value.
    # So the fuzzer learns new ones without being told.
    changes: dict[str, object] = {}
    defaults = [(f.name, f.default) for f in fields(settings)]
    choices = [(name, type(default)) for name, default in defaults if isinstance(default, Enum)]
    for index, (name, choice) in enumerate(choices):
        values = list(choice)
        changes[name] = values[(head[2] >> index * 2 & 3) % len(values)]
    return replace(settings, **changes)  # type: ignore[arg-type]


def reloaded(settings: Settings) -> Settings:
    """What these settings become when an input has a reload in its middle (SIGHUP)."""
    limits = replace(settings.limits, fragments=2, fragment_bytes=2500, sessions=5)
    timeouts = replace(settings.timeouts, udp_default=120.1, fragment_min=1.0)
    static = _STATIC_LATER if settings.static else ()
    return replace(settings, static=static, limits=limits, timeouts=timeouts)


class Scenario:
    """Reads an input, and runs it."""

    def __init__(self, data: bytes) -> None:
        self.settings = choose_settings(data[:HEADER_SIZE])
        self.plain = Side(self.settings, fast=False)
        self.fast = Side(self.settings, fast=True)
        self.now = _START
        self.ports: dict[int, list[tuple[bytes, int, int, bytes]]] = {1: [], 6: [], 17: []}
        self.sent4: list[bytes] = []
        self.sent6: list[bytes] = []
        own4 = self.settings.icmp4_source
        # What the second half of a hairpin answers comes from the own address, embedded.
        embedded = [prefix.embed(own4) for prefix in self.settings.prefixes]
        self.own = (self.settings.icmp6_source, own4, *embedded)
        self.deltas: dict[bytes, int] = {}
        self.model = Model(self.settings)
        self.reloads = len(data) > 2 and bool(data[2] & 0x80)
        program = data[HEADER_SIZE:]
        self.records = [
            program[at : at + RECORD_SIZE].ljust(RECORD_SIZE, b"\0")
            for at in range(0, min(len(program), MAX_RECORDS * RECORD_SIZE), RECORD_SIZE)
        ]

    def run(self) -> None:
        """All records, and then the end of everything. Raises Finding, or what translate raises."""
        for number, record in enumerate(self.records):
            if self.reloads and number == len(self.records) // 2:
                self.reload()
            self.step(record)
        self.finish()

    def reload(self) -> None:
        """Both translators take over other limits, lifetimes and static mappings."""
        self.settings = reloaded(self.settings)
        self.plain.nat.configure(self.settings)
        self.fast.nat.configure(self.settings)
        self.model.configure(self.settings)

    def step(self, record: bytes) -> None:
        """One record."""
        self.pass_time(_PAUSES[record[2] % len(_PAUSES)])
        packet = self.packet_of(record)
        before = self.plain.counted()
        held_before = self.plain.nat.counters[Reason.FRAGMENT_HELD]
        out = self.plain.nat.translate(packet, self.now)
        judge(
            packet,
            out,
            self.plain.counted() - before,
            own=self.own,
            forwards_zero=self.settings.udp_zero_checksum is ZeroChecksum.FORWARD,
            marks=(self.settings.tos, self.settings.traffic_class),
        )
        held = self.plain.nat.counters[Reason.FRAGMENT_HELD] != held_before
        self.model.judge(packet, out, self.now, held=held)
        frames = self.fast.send(packet, self.now)
        require(frames == [_FORM.join(one) for one in out], "the fast path differs")
        require(self.plain.nat.counters == self.fast.nat.counters, "the counters differ")
        for one in out:
            self.learn(one.data)
        if len(out) == 1 and not packet.partial:
            self.learn_delta(packet.data, out[0].data)

    def pass_time(self, seconds: float) -> None:
        """Lets time pass, and both translators notice."""
        self.now += seconds
        if not seconds:
            return
        unasked = self.plain.nat.expire(self.now, 100_000)
        judge_unasked(unasked)
        same = self.fast.nat.expire(self.now, 100_000)
        require([p.data for p in unasked] == [p.data for p in same], "what expiry sends differs")
        deadline = self.plain.nat.next_deadline()
        require(deadline is None or deadline > self.now - 2, "a deadline that has passed")

    def finish(self) -> None:
        """After the longest lifetime nothing is left, in either translator."""
        for _ in range(4):
            self.pass_time(700.0)
        for side in (self.plain, self.fast):
            state = side.nat.state
            require(state.session_count == 0, "sessions that do not end")
            require(not any(1 for _ in state.sessions()), "sessions that are not counted")
            static = self.settings.static
            for table in (state.bib6, state.bib4):
                left = sum(len(one) for one in table.values())
                require(state.bib_count == left == len(static), "mappings left")
            require(len(state.clients) == len({e.key6[:16] for e in static}), "clients left")
            require(side.nat.next_deadline() is None, "something is still due")

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
        packet = _with_checksum(data, record[7])
        if record[7] & 7 == 5:
            packet = self.with_special_checksum(packet)
        packet = _with_offload(packet, record[8])
        packet.link = _LINK
        return _damaged(packet, record)

    def valid(
        self, kind: int, which: int, flags: int, length: int, hops: int, tos: int, record: bytes
    ) -> bytes:
        """A packet with right lengths; transport checksum zero, for `_with_checksum`."""
        payload = bytes((at * 7 + which) & 0xFF for at in range(min(length, 64)))
        payload = (payload + b"\xa5" * length)[:length]
        client, server = _CLIENTS[which & 1], _SERVERS[(which >> 1) % 3]
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
            return ip6(_CLIENTS[2], self.server6(pool, which), 17, body, hops, tos)
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

    def server6(self, server: bytes, which: int) -> bytes:
        """An IPv6 address of the server, in one of the forms that we accept."""
        prefix = self.settings.prefixes[(which >> 6) % len(self.settings.prefixes)]
        return prefix.embed(server)

    def mapping(self, protocol: int, which: int) -> tuple[bytes, int, int, bytes]:
        """(server, its port, pool port, pool address): one in use if there is one."""
        known = self.ports[protocol]
        if not known or which & 0xC0 == 0xC0:
            pool = _STATIC[2].key4[:4] if protocol == 1 else _OWN4
            return _SERVERS[which % 3], 53, 1024 + (which & 15), pool
        server, dport, port, pool = known[which % len(known)]
        if which & 0x20:
            server = _SERVERS[(which >> 1) % 3]
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
        whole = _summed(17, whole, src6 + dst6, record[7])
        protocol = 17
        if record[7] & 0x20:
            # Destination options, in the part that is cut.
            protocol, whole = 60, b"\x11\x00\x01\x04\0\0\0\0" + whole
        offset, more, body = _piece(whole, flags, payload)
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
        whole = _summed(17, udp(dport, port, bytes(1224)), server + pool, record[7])
        offset, more, body = _piece(whole, flags, payload)
        return ip4(
            server, pool, 17, body, 64, 0, frag=(offset >> 3) | more << 13, ident=77 + (flags >> 5)
        )

    def error(self, kind: int, which: int, flags: int, hops: int, record: bytes) -> bytes:
        """An ICMP error about a packet that the translator has sent."""
        known = self.sent4 if kind == 8 else self.sent6
        inner = known[which % len(known)] if known else b"\x45" + bytes(60)
        inner = inner[: (28, 48, 68, 128, 548, 1232)[record[5] % 6]]
        rest = bytearray(_WORDS[record[4] & 15].to_bytes(4, "big"))
        if kind == 8:
            kind4, code = (3, 3, 3, 11, 12, 4, 5)[flags % 7], flags >> 3 & 15
            if kind4 == 12:
                rest[0] = record[4] & 31
            if flags & 0x80:
                # RFC 4884: the original padded to 128 bytes, then an extension.
                inner = inner[:128].ljust(128, b"\0")
                rest[1] = 32
                inner += _extension(which)
            source = _ROUTER4 if which & 4 else inner[16:20] or _ROUTER4
            if which & 0x30 == 0x30:
                source = _ODD_SOURCES4[which & 3]
            body = icmp(kind4, code, bytes(rest), inner)
            return ip4(source, inner[12:16].ljust(4, b"\0"), 1, body, hops, 0)
        kind6, code = (1, 2, 3, 4)[flags & 3], flags >> 2 & 7
        if flags & 0x80 and kind6 in (1, 3):
            inner = inner[:128].ljust(128, b"\0")
            rest[0] = 16
            inner += _extension(which)
        body = icmp(kind6, code, bytes(rest), inner)
        source = _ROUTER6 if which & 4 else _CLIENTS[0]
        return ip6(source, inner[8:24].ljust(16, b"\0"), 58, body, hops, 0)


def _piece(whole: bytes, flags: int, payload: bytes) -> tuple[int, int, bytes]:
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


def _extension(which: int) -> bytes:
    """An RFC 4884 extension: interface information (RFC 5837) with an address, labels, or both."""
    labels = bytes((0, 8, 1, 1)) + bytes((1, 2, 3, 4))
    item = bytes((0, 12, 2, 4)) + bytes((0, 1, 0, 0)) + _ROUTER4
    if which & 1:
        # With an index in front; the address that a client would be told, or one of no prefix.
        addr6 = _PREFIXES[0][0].network_address.packed[:12] + _ROUTER4
        item = bytes((0, 28, 2, 12)) + bytes((0, 0, 0, 9, 0, 2, 0, 0))
        item += addr6 if which & 8 else _ROUTER6
    if which & 0x40:
        item = bytes((0, 16, 2, 12)) + bytes((0, 0, 0, 9, 0, 1, 0, 0)) + _ROUTER4 + labels
    elif which & 2:
        item = labels
    body = b"\x20\0\0\0" + item
    return b"\x20\0" + (0xFFFF - word_sum(body)).to_bytes(2, "big") + item


# -- building -----------------------------------------------------------------------------


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


def _summed(protocol: int, body: bytes, addresses: bytes, how: int) -> bytes:
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


def _with_checksum(data: bytes, how: int) -> Packet:
    seen = read_in(data)
    if seen is None or seen.offset is not None:
        return Packet(data)
    body = _summed(seen.protocol, seen.body, seen.src + seen.dst, how)
    return Packet(data[: len(data) - len(body)] + body)


def _with_offload(packet: Packet, how: int) -> Packet:
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


def _damaged(packet: Packet, record: bytes) -> Packet:
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
            out[where : where + 2] = _WORDS[what & 15].to_bytes(2, "big")[: len(out) - where]
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


def run(data: bytes) -> None:
    """Runs one input. Raises Finding (an AssertionError), or whatever translate raises."""
    Scenario(data).run()
