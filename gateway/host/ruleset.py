"""The host's packet filter as plain values: programs for nftables' register machine.

Theory of operation. nftables keeps rules as programs for a small register machine: load a field
of the packet into a register, mask it, compare it, decide. What is no concern of a forwarding
check (counters, logs) is left out, and what cannot be judged from outside (ports, marks, time)
becomes `Unknown` or leaves its register unknown. Rules of old iptables are put in the same words.

gateway/host/nft_ruleset.py and legacy_ruleset.py read them, gateway/host/firewall.py runs them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

# linux/netfilter.h, enum nf_inet_hooks.
HOOK_PREROUTING: Final = 0
HOOK_FORWARD: Final = 2
HOOK_POSTROUTING: Final = 4

# Bits of a connection's state, the same in nftables and in xt_conntrack and xt_state.
CT_INVALID: Final = 1
CT_ESTABLISHED: Final = 2
CT_RELATED: Final = 4
CT_NEW: Final = 8

DEVICE_NAME_SIZE: Final = 16  # bytes, IFNAMSIZ


class RulesetError(Exception):
    """The packet filter cannot be read. str() is one line that names thing and remedy."""


@dataclass(frozen=True, slots=True)
class Load:
    """A field of the packet's way into a register (byte offset 0..63)."""

    register: int
    what: str  # iifname, oifname, iif, oif, nfproto, protocol, ct state, ct direction
    size: int


@dataclass(frozen=True, slots=True)
class LoadHeader:
    """Bytes of the IP header into a register."""

    register: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class LoadConstant:
    register: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Forget:
    """Something that nobody can know beforehand into a register."""

    register: int


@dataclass(frozen=True, slots=True)
class Bitwise:
    """target = source & mask ^ xor."""

    source: int
    target: int
    mask: bytes
    xor: bytes


@dataclass(frozen=True, slots=True)
class Between:
    """Matches when low <= register <= high as big-endian numbers; not, when `inverted`."""

    register: int
    low: bytes
    high: bytes
    inverted: bool = False


@dataclass(frozen=True, slots=True)
class Lookup:
    """Matches when the register is in the set; a map also delivers a verdict or a value."""

    register: int
    set_name: str
    inverted: bool = False
    verdict: bool = False
    target: int | None = None


@dataclass(frozen=True, slots=True)
class WithinLimit:
    """A rate or quota: matches while it is kept (`over` False) or once it is exceeded."""

    over: bool


@dataclass(frozen=True, slots=True)
class Unknown:
    """A match on something that differs from packet to packet."""


@dataclass(frozen=True, slots=True)
class Decide:
    """The end of a rule that matched. `kind`: accept, drop, return, jump, goto."""

    kind: str
    chain: str = ""


Step = (
    Load
    | LoadHeader
    | LoadConstant
    | Forget
    | Bitwise
    | Between
    | Lookup
    | WithinLimit
    | Unknown
    | Decide
)


@dataclass(frozen=True, slots=True)
class Rule:
    """`name`: how a person finds it."""

    name: str
    steps: tuple[Step, ...]


@dataclass(slots=True)
class Chain:
    """`hook` is None for a chain that is only jumped to; `drops`: its policy."""

    name: str
    hook: int | None = None
    drops: bool = False
    rules: list[Rule] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Element:
    """low..high, both inclusive, and what a map holds for them."""

    low: bytes
    high: bytes
    verdict: Decide | None = None


@dataclass(slots=True)
class Table:
    """`elements` reads a set's content when it is needed; None when it cannot be judged."""

    family: str  # ip, ip6, inet
    name: str
    chains: dict[str, Chain] = field(default_factory=dict)
    elements: Callable[[str], list[Element] | None] = lambda _: None
    legacy: bool = False


def state_steps(states: int, inverted: bool) -> Iterator[Step]:
    """Matches a connection in one of the states, CT_NEW | ..."""
    zero = bytes(4)
    yield Load(0, "ct state", 4)
    yield Bitwise(0, 0, struct.pack("@I", states), zero)
    yield Between(0, zero, zero, not inverted)


_XT_ENDS: Final = frozenset(
    {"NFQUEUE", "QUEUE", "SYNPROXY", "DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP"}
)


def target_steps(name: str) -> Iterator[Step]:
    """What a target of iptables decides; one that changes or counts the packet decides nothing."""
    if name in {"REJECT", "DROP"}:
        yield Decide("drop")
    elif name == "ACCEPT" or name in _XT_ENDS:
        yield Decide("accept")
    elif name == "RETURN":
        yield Decide("return")
