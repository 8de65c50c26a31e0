"""One run of the fuzzer on the stateless translator (translate/siit).

The same records as for the stateful one (tests/fuzz/scenario.py), between hosts of each kind that
a map has: explicit ones, one of them an IPv4 host, hosts of the dynamic pool, hosts in the prefix,
and nobodies. The header chooses hairpinning, a pool and a deny list besides; a reload puts another
map in force. What came out is judged by tests/fuzz/stateless_model.py.
"""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from tests.fuzz.choices import CLIENTS, HEADER_SIZE, choose_settings, reloaded
from tests.fuzz.conversation import Conversation
from tests.fuzz.reader import require
from tests.fuzz.stateless_model import Pair, StatelessModel
from translate.address_pool import AddressPool
from translate.eam import Eam, EamTable
from translate.packets import Packet
from translate.settings import Settings
from translate.siit.addresses import Hairpin, SiitSettings
from translate.siit.translator import Siit

_OWN4 = IPv4Address("192.0.0.8").packed
_POOL = IPv4Network("203.0.113.16/30")
_DENIED = IPv4Network("10.9.0.0/16")
_ROUTED = IPv4Network("192.0.2.0/24")
_MAP = (
    ("192.0.2.1/32", "2001:db8:1::10/128"),
    ("192.0.2.16/28", "2001:db8:1:c::/124"),
    ("192.0.2.20/32", "2001:db8:1:e::9/128"),
    ("192.0.2.128/26", "2001:db8:1:d::/64"),
    ("198.51.100.81/32", "2001:db8:8::81/128"),
)
_MAP_LATER = (
    ("192.0.2.1/32", "2001:db8:1::20/128"),
    ("192.0.2.16/28", "2001:db8:1:c::/124"),
    ("192.0.2.22/32", "2001:db8:1:c::4/128"),
    ("198.51.100.80/32", "2001:db8:8::80/128"),
)
_HOSTS6 = (
    "2001:db8:1:c::4",
    "2001:db8:1:c::6",
    "2001:db8:1:d:0:800::9",
    "2001:db8:1:e::9",
    "fd00::1",
)
_HOSTS4 = (
    "192.0.2.1",
    "192.0.2.20",
    "192.0.2.22",
    "192.0.2.130",
    "192.0.2.99",
    "203.0.113.17",
    "198.51.100.7",
    "192.0.0.8",
)


def pairs_of(text: tuple[tuple[str, str], ...]) -> list[Pair]:
    """A map as networks."""
    return [(IPv4Network(four), IPv6Network(six)) for four, six in text]


class StatelessScenario(Conversation[Siit]):
    """A run of the stateless translator."""

    others = True
    # The fast path learns none, so that a host that did not begin may be reached by way of the
    # kernel; whether it is would be the only difference.
    link = b""

    def __init__(self, data: bytes) -> None:
        head = data[:HEADER_SIZE].ljust(HEADER_SIZE, b"\0")
        common = choose_settings(head)
        first = common.prefixes[0]
        own6 = IPv6Address("2001:db8:ffff::8").packed
        common = replace(
            common,
            pool4=(),
            static=(),
            deterministic=None,
            port_block_size=0,
            deny4=(_DENIED,) if head[0] & 0x40 else (),
            icmp4_source=_OWN4,
            icmp6_source=own6 if head[3] & 4 else first.embed(_OWN4),
        )
        self.hairpin = list(Hairpin)[(head[3] >> 5) % 3]
        self.has_pool = bool(head[3] & 4)
        self.is_routed = bool(head[3] & 1)
        self.pairs = pairs_of(_MAP)
        self.clients = [
            *CLIENTS,
            *(IPv6Address(text).packed for text in _HOSTS6),
            first.embed(IPv4Address("198.51.100.7").packed),
        ]
        self.servers = [
            IPv4Address(text).packed for text in ("198.51.100.80", "198.51.100.81", "10.9.0.1")
        ]
        super().__init__(data, common, lambda: self._make(common))
        pool = _POOL if self.has_pool else None
        self.model = StatelessModel(common, self.pairs, self.hairpin, pool)

    def _make(self, common: Settings) -> Siit:
        """A translator of which two have the same history; each has a pool of its own."""
        pool = AddressPool([_POOL], keep=1e9) if self.has_pool else None
        return Siit(
            self._stateless(common, pool),
            randbelow=random.Random(7).randrange,
            path_mtu=lambda _: 1500,
            admit=lambda addr6: addr6[:4] == b"\x20\x01\x0d\xb8",
        )

    def _stateless(self, common: Settings, pool: AddressPool | None) -> SiitSettings:
        return SiitSettings(
            common=common,
            mappings=EamTable(Eam.of(four, six) for four, six in self.pairs),
            hairpin=self.hairpin,
            pool=pool,
            routed4=(_ROUTED,) if self.is_routed else (),
            flow_lifetime=60.1,
        )

    def reload(self) -> None:
        """Both translators take over another map, and other limits."""
        self.settings = reloaded(self.settings)
        self.pairs = pairs_of(_MAP_LATER)
        for side in (self.plain, self.fast):
            side.nat.configure(self._stateless(self.settings, side.nat.siit.pool))
            side.configure()
        self.model.configure(self.settings, self.pairs)

    def client6(self, which: int) -> bytes:
        """The client of a flow: one of each kind."""
        return self.clients[((which & 1) | which >> 2 & 6) % len(self.clients)]

    def mapping(self, protocol: int, which: int) -> tuple[bytes, int, int, bytes]:
        """(server, its port, host's port, host's IPv4 address); one in use for every second."""
        known = self.ports[protocol]
        if known and which & 1:
            return known[which % len(known)]
        host = IPv4Address(_HOSTS4[which >> 3 & 7]).packed
        return self.servers[(which >> 1) % 3], 53, 40000 + (which & 3), host

    def judge_more(self, packet: Packet, out: list[Packet], *, held: bool) -> None:
        """Judges the addresses. Raises Finding."""
        require(not held, "a stateless translator held a packet")
        self.model.judge(packet, out, own=self.own)

    def finish(self) -> None:
        """After the longest lifetime no flow is known, in either translator."""
        for _ in range(4):
            self.pass_time(700.0)
        for side in (self.plain, self.fast):
            state = side.nat.state
            require(state.session_count == 0, "flows that do not end")
            left = sum(1 for table in state.flows.values() for _ in table.sessions())
            require(left == 0, "flows that are not counted")
            require(len(state.clients) == 0, "clients left")
            require(side.nat.next_deadline() is None, "something is still due")
