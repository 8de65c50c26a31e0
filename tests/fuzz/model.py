"""What the fuzzer expects of a whole conversation: a naive model of mappings and of datagrams.

Theory of operation. Every packet that leaves for IPv4 shows which pool4 transport address its
client has; every one that enters has to reach the client that was last seen with the address it
is for, or the one that a static mapping names. No lifetime is modelled: at one moment (no time
passed, no reload) a mapping is the same for all packets, one of an earlier moment may have ended.
The ports that a client may have follow from the settings, by arithmetic of its own.

Fragments of one datagram are collected on both sides. When those that came out are complete, so
must be those that went in, with the same data and a checksum as right as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.fuzz.invariant import is_right, is_without_checksum
from tests.fuzz.reader import ICMP, ICMPV6, UDP, Seen, read_in, reassemble, require
from translate.addresses import Layout
from translate.packets import Packet
from translate.settings import Filtering, Settings, ZeroChecksum

_ECHOES = (0, 8, 128, 129)
End = tuple[bytes, int]
Key = tuple[int, bytes, int]


class Model:
    """One conversation. Settings are read, nothing else of translate is used."""

    def __init__(self, settings: Settings) -> None:
        self._owners: dict[Key, End] = {}
        self._mapped: dict[tuple[int, bytes, int], tuple[float, End]] = {}
        self._used: dict[Key, tuple[float, End]] = {}
        self._blocks: dict[tuple[int, bytes, int], tuple[float, bytes]] = {}
        self._servers: set[tuple[Key, bytes]] = set()
        self._static: dict[Key, End] = {}
        # Clients with a packet that made a mapping but was too large to leave, or that another
        # client's filter refused.
        self._unseen: set[bytes] = set()
        self.datagrams = Datagrams(settings)
        # How often each judgement was made: a checker that never looks agrees with everything.
        self.looks = {"leaves": 0, "enters": 0, "errors": 0, "datagrams": 0}
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Takes over other settings; what is remembered of one moment is forgotten."""
        for gone in self._static:
            self._owners.pop(gone, None)
        self._settings = settings
        self._static = {
            (e.protocol, e.key4[:4], int.from_bytes(e.key4[4:], "big")): (
                e.key6[:16],
                int.from_bytes(e.key6[16:], "big"),
            )
            for e in settings.static
        }
        self._owners.update(self._static)
        self._mapped.clear()
        self._used.clear()
        self._blocks.clear()
        self.datagrams.configure(settings)

    def judge(self, packet: Packet, out: list[Packet], now: float, *, held: bool = False) -> None:
        """Judges what came out for one packet, or that it is held. Raises Finding."""
        came = read_in(packet.data)
        if came is None:
            return
        seen = [one for one in (read_in(p.data) for p in out) if one is not None]
        seen = [one for one in seen if came.is_error or not one.is_error]
        if came.version == 6 and not seen and (len(came.body) > 65515 or self._turns(came)):
            self._unseen.add(came.src)
        if seen or held:
            self.looks["datagrams"] += self.datagrams.judge(came, seen, now)
        for one in seen:
            if came.is_error:
                self._judge_error(came, one)
            elif one.first and came.version == 6 and one.version == 4:
                self._leaves(came, one, now)
            elif one.first and came.first and came.version == 4:
                self._enters_from_v4(came, one)
            elif one.first and came.first and came.protocol != ICMPV6:
                self._hairpin(came, one, now)

    def _leaves(self, came: Seen, one: Seen, now: float) -> None:
        require(one.dst in embedded(came.dst, self._settings), "the destination of a packet")
        port6 = _ports(came)[0] if came.first else None
        self._note(one.protocol, (came.src, port6), one.src, _ports(one)[0], one.dst, now)
        if came.first and one.protocol != ICMP:
            require(_ports(one)[1] == _ports(came)[1], "the port of a server")

    def _enters_from_v4(self, came: Seen, one: Seen) -> None:
        require(came.src in embedded(one.src, self._settings), "the source of a packet")
        port = _ports(came)[1]
        self._enters(came.protocol, came.dst, port, came.src, (one.dst, _ports(one)[1]))
        if came.protocol != ICMP:
            require(_ports(one)[0] == _ports(came)[0], "the port of a server")

    def _hairpin(self, came: Seen, one: Seen, now: float) -> None:
        sources = [a for a in embedded(one.src, self._settings) if self._in_pool(a)]
        targets = [a for a in embedded(came.dst, self._settings) if self._in_pool(a)]
        require(len(sources) == 1 and len(targets) == 1, "a hairpin beside the pool")
        sport, dport = _ports(one)[0], _ports(came)[1]
        client = (came.src, _ports(came)[0])
        self._note(came.protocol, client, sources[0], sport, targets[0], now)
        self._enters(came.protocol, targets[0], dport, sources[0], (one.dst, _ports(one)[1]))

    def _turns(self, came: Seen) -> bool:
        """Whether a packet from IPv6 is for another client, or would be."""
        return any(self._in_pool(addr4) for addr4 in embedded(came.dst, self._settings))

    def _in_pool(self, addr4: bytes) -> bool:
        value = int.from_bytes(addr4, "big")
        return any(int(r.network[0]) <= value <= int(r.network[-1]) for r in self._settings.pool4)

    def _note(
        self,
        protocol: int,
        client: tuple[bytes, int | None],
        addr4: bytes,
        port4: int,
        server4: bytes,
        now: float,
    ) -> None:
        """A client's packet left from this pool4 transport address for a server."""
        self.looks["leaves"] += 1
        client6, port6 = client
        key = (protocol, addr4, port4)
        if port6 is None:
            return
        owner = (client6, port6)
        static = self._static.get(key)
        if static is not None or owner in self._statics_of(protocol):
            require(static == owner, "a static mapping and somebody else")
        else:
            self._check_port(protocol, client6, addr4, port4, now)
        before = self._mapped.get((protocol, client6, port6))
        if before is not None and before[0] == now:
            require(before[1] == (addr4, port4), "two mappings of one client's port")
        holder = self._used.get(key)
        if holder is not None and holder[0] == now:
            require(holder[1] == owner, "two clients with one port of the pool")
        if self._owners.get(key) != owner:
            self._servers = {item for item in self._servers if item[0] != key}
        self._owners[key] = owner
        self._mapped[(protocol, client6, port6)] = (now, (addr4, port4))
        self._used[key] = (now, owner)
        self._servers.add((key, server4))

    def _statics_of(self, protocol: int) -> list[End]:
        return [end for key, end in self._static.items() if key[0] == protocol]

    def _enters(self, protocol: int, addr4: bytes, port4: int, server4: bytes, end: End) -> None:
        """A packet from a server reached this client."""
        self.looks["enters"] += 1
        key = (protocol, addr4, port4)
        if end[0] in self._unseen and key not in self._static:
            return
        require(self._owners.get(key) == end, "a packet for somebody else")
        if self._settings.filtering is Filtering.ADDRESS_DEPENDENT and key not in self._static:
            require((key, server4) in self._servers, "a packet that is to be filtered")

    def _check_port(
        self, protocol: int, client6: bytes, addr4: bytes, port4: int, now: float
    ) -> None:
        """Whether the settings let the client have this port."""
        settings = self._settings
        number = int.from_bytes(client6, "big")
        mine = [r for r in settings.pool4 if protocol in r.protocols and r.clients is not None]
        mine = [r for r in mine if r.clients is not None and number in _numbers(r.clients)]
        mine = mine or [r for r in settings.pool4 if protocol in r.protocols and r.clients is None]
        value = int.from_bytes(addr4, "big")
        fits = [r for r in mine if int(r.network[0]) <= value <= int(r.network[-1])]
        require(any(r.first_port <= port4 <= r.last_port for r in fits), "a port beyond the range")
        plan = settings.deterministic
        if plan is not None:
            # RFC 7422 §2; one network in the pool.
            inside = number - int(plan.prefix.network_address)
            index = inside >> (128 - plan.length)
            require(0 <= index < 1 << (plan.length - plan.prefix.prefixlen), "no subscriber")
            first = max(1024, fits[0].first_port)
            each = (fits[0].last_port - first + 1) // (16 // fits[0].network.num_addresses)
            address, place = divmod(index, 16 // fits[0].network.num_addresses)
            require(value == int(fits[0].network[0]) + address, "a subscriber's address")
            first += place * each
            require(first <= port4 < first + each, "a port of another subscriber")
        if settings.port_block_size:
            require(port4 >= 1024, "a port below the blocks")
            start = max(1024, fits[0].first_port)
            block = (protocol, addr4, (port4 - start) // settings.port_block_size)
            holder = self._blocks.get(block)
            if holder is not None and holder[0] == now:
                require(holder[1] == client6, "a block of two clients")
            self._blocks[block] = (now, client6)

    def _judge_error(self, came: Seen, one: Seen) -> None:
        """The packet inside names a flow; the error has to reach its sender."""
        if came.version == one.version:
            return
        inner4, inner6 = (came.body[8:], one.body[8:])
        if came.version == 6:
            inner4, inner6 = inner6, inner4
        at4, at6 = (inner4[0] & 15) * 4, 40
        protocol = inner6[6]
        if protocol not in (6, 17) or inner4[9] != protocol or len(inner4) < at4 + 4:
            return
        self.looks["errors"] += 1
        if came.version == 4:
            pool, port = inner4[12:16], int.from_bytes(inner4[at4 : at4 + 2], "big")
            client, cport = inner6[8:24], int.from_bytes(inner6[at6 : at6 + 2], "big")
            require(one.dst == client, "an error to somebody else")
        else:
            pool, port = inner4[16:20], int.from_bytes(inner4[at4 + 2 : at4 + 4], "big")
            client, cport = inner6[24:40], int.from_bytes(inner6[at6 + 2 : at6 + 4], "big")
            require(one.dst in embedded(inner6[8:24], self._settings), "an error to no server")
        owner = self._owners.get((protocol, pool, port))
        known = client not in self._unseen
        require(not known or owner == (client, cport), "the client of the packet inside")


def embedded(addr6: bytes, settings: Settings) -> list[bytes]:
    """The IPv4 addresses that an IPv6 one may stand for under the prefixes (RFC 6052 §2.2)."""
    found = []
    for prefix in settings.prefixes:
        length = prefix.network.prefixlen // 8
        if addr6[:length] != prefix.network.network_address.packed[:length]:
            continue
        if not any(addr6[length:12]):
            found.append(addr6[12:])
        # Four octets behind the prefix, the one at bits 64..71 left out. What is not used is
        # ignored, unless it has to tell one layout from the other.
        rest = addr6[length:8] + addr6[9:] if length <= 8 else addr6[length:]
        unused = addr6[8] or any(rest[4:])
        if length <= 8 and not (unused and prefix.layout is Layout.TRAILING):
            found.append(rest[:4])
    return found


def _numbers(network: object) -> range:
    return range(int(network[0]), int(network[-1]) + 1)  # type: ignore[index]


def _ports(seen: Seen) -> tuple[int, int]:
    """Source and destination port; an identifier is both."""
    if seen.protocol in (ICMP, ICMPV6):
        ident = int.from_bytes(seen.body[4:6], "big")
        return ident, ident
    return int.from_bytes(seen.body[:2], "big"), int.from_bytes(seen.body[2:4], "big")


@dataclass
class _Datagram:
    born: float
    came: list[Seen] = field(default_factory=list)
    went: list[Seen] = field(default_factory=list)


class Datagrams:
    """Datagrams in fragments: what went in, and what came out."""

    def __init__(self, settings: Settings) -> None:
        self._known: dict[tuple[bytes, bytes, int, int], _Datagram] = {}
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Takes over other settings."""
        self._lifetime = settings.timeouts.fragment_min
        self._forwards_zero = settings.udp_zero_checksum is ZeroChecksum.FORWARD

    def judge(self, came: Seen, seen: list[Seen], now: float) -> int:
        """Judges the datagram that a fragment completes, if it does; 1 then. Raises Finding."""
        if came.offset is None or came.whole:
            return 0
        protocol = came.protocol if came.version == 4 else 0
        key = (came.src, came.dst, came.ident, protocol)
        datagram = self._known.get(key)
        if datagram is None or datagram.born + self._lifetime <= now:
            datagram = self._known[key] = _Datagram(now)
        datagram.came.append(came)
        datagram.went += seen
        if not datagram.went:
            return 0
        alone = len(datagram.went) == 1 and datagram.went[0].whole
        whole = datagram.went[0] if alone else reassemble(datagram.went)
        if whole is None:
            return 0
        del self._known[key]
        before = _put_together(datagram.came)
        require(before is not None, "a whole datagram out of a part")
        assert before is not None
        self._compare(before, whole)
        return 1

    def _compare(self, before: Seen, after: Seen) -> None:
        if before.is_error:
            right = before.transport_sum() == 0
            require((after.transport_sum() == 0) == right, "the checksum of an error in fragments")
            return
        require(after.data == before.data, "the data of a datagram in fragments")
        if before.protocol == UDP and before.checksum == 0:
            if before.version == 4 and after.version == 6 and not self._forwards_zero:
                require(is_right(after), "the checksum computed for a datagram in fragments")
            else:
                require(is_without_checksum(after), "a checksum out of none")
            return
        require(after.transport_sum() == before.transport_sum(), "a checksum in fragments")


def _put_together(came: list[Seen]) -> Seen | None:
    """The datagram of fragments as they came, the first of each place; None with gaps."""
    places: dict[int, Seen] = {}
    for one in came:
        places.setdefault(one.offset or 0, one)
    body, more = b"", True
    while more:
        part = places.get(len(body))
        if part is None:
            return None
        body, more = body + part.body, part.more
    return Seen(**{**places[0].__dict__, "body": body, "offset": None, "more": False})
