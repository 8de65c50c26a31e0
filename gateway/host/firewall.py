"""Which rule of the host's firewall drops what the gateway sends or receives.

Theory of operation. Everything the gateway translates is forwarded by the kernel twice: as IPv6
between a client's device and ours, as IPv4 between ours and an uplink. A `Path` is one such
direction with all that is known beforehand: devices, families, connection state (the first
packet of a session is new, answers are established), the addresses as prefixes. The rules
(gateway/host/ruleset.py) are run for each path on values of which every bit is 0, 1 or unknown,
so each match is yes, no or maybe:

- a rule that matches for certain decides;
- a "maybe" (a port, a mark, somebody's address) lets packets pass on to the next rule, because
  the rest of them gets there; it never counts as a drop, for that is a choice somebody made about
  some traffic;
- a "maybe" that accepts and names our device is taken as "yes": whoever wrote it had the gateway
  in mind.

Accepting ends one base chain only, as in the kernel: every base chain at the hook has its say.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from typing import Final

from gateway.host.ruleset import (
    CT_ESTABLISHED,
    CT_NEW,
    DEVICE_NAME_SIZE,
    HOOK_FORWARD,
    HOOK_POSTROUTING,
    HOOK_PREROUTING,
    Between,
    Bitwise,
    Chain,
    Decide,
    Element,
    Forget,
    Load,
    LoadConstant,
    LoadHeader,
    Lookup,
    Rule,
    Table,
    Unknown,
    WithinLimit,
)

# A device that no rule names: stands for "any other" where the real one is not known.
OTHER_DEVICE: Final = "(other)"

_NFPROTO: Final = {4: 2, 6: 10}
_ETHERTYPE: Final = {4: b"\x08\x00", 6: b"\x86\xdd"}
_TABLE_FAMILIES: Final = {4: ("ip", "inet"), 6: ("ip6", "inet")}
_JUMPS_AT_MOST: Final = 16  # NFT_JUMP_STACK_SIZE
_REGISTERS_SIZE: Final = 80  # bytes


class Answer(Enum):
    """Whether a rule matches the packets of a path."""

    NO = 0
    MAYBE = 1
    YES = 2


@dataclass(frozen=True, slots=True)
class Path:
    """Packets of one direction through the host.

    `version`: 4 or 6. `device`: the gateway's layer-3 device; `inbound`: the packets come from
    it, else they go to it. `other`: the device on the other side. `src`, `dst`: None if unknown.
    """

    version: int
    device: str
    inbound: bool
    other: str
    established: bool
    src: IPv4Network | IPv6Network | None = None
    dst: IPv4Network | IPv6Network | None = None
    indexes: dict[str, int] = field(default_factory=dict, hash=False, compare=False)

    @property
    def iif(self) -> str:
        return self.device if self.inbound else self.other

    @property
    def oif(self) -> str:
        return self.other if self.inbound else self.device


@dataclass(frozen=True, slots=True)
class Drop:
    """Where packets end: the base chain they entered, and the rule or policy that decided."""

    table: str
    family: str
    legacy: bool
    base_chain: str
    chain: str
    rule: str  # "" is the policy
    hook: int


@dataclass(frozen=True, slots=True)
class Bits:
    """A value of which only the bits in `known` are known; the others are 0 in `value`."""

    value: int
    known: int
    size: int  # bytes

    @property
    def least(self) -> int:
        return self.value

    @property
    def most(self) -> int:
        return self.value | (~self.known & _ones(self.size))


def drops(tables: Iterable[Table], paths: Iterable[Path]) -> dict[Drop, list[Path]]:
    """For each place where packets are certainly dropped, the paths that end there."""
    found: dict[Drop, list[Path]] = {}
    paths = list(paths)
    for table in tables:
        for chain in table.chains.values():
            for path in paths:
                if table.family in _TABLE_FAMILIES[path.version] and _passes(chain.hook, path):
                    drop = _Run(table, chain, path).result()
                    if drop is not None:
                        found.setdefault(drop, []).append(path)
    return found


def _passes(hook: int | None, path: Path) -> bool:
    """Whether the chain's hook sees these packets together with our device's name."""
    if hook == HOOK_FORWARD:
        return True
    if hook == HOOK_PREROUTING:
        return path.inbound
    return hook == HOOK_POSTROUTING and not path.inbound


class _Run:
    """One base chain, one path."""

    def __init__(self, table: Table, base: Chain, path: Path) -> None:
        self._table = table
        self._base = base
        self._path = path

    def result(self) -> Drop | None:
        outcome = self._chain(self._base, 0)
        if outcome is None and self._base.drops:
            return self._drop(self._base, "")
        return outcome if isinstance(outcome, Drop) else None

    def _drop(self, chain: Chain, rule: str) -> Drop:
        table = self._table
        hook = -1 if self._base.hook is None else self._base.hook
        return Drop(table.name, table.family, table.legacy, self._base.name, chain.name, rule, hook)

    def _chain(self, chain: Chain, depth: int) -> Drop | bool | None:
        """A Drop; True for accepted; None when the chain ends without a decision."""
        if depth > _JUMPS_AT_MOST:
            return None
        for rule in chain.rules:
            match = _Match(self._table, self._path)
            answer, decision = match.rule(rule)
            if decision is None or answer is Answer.NO:
                continue
            settled = answer is Answer.YES or match.names_device
            if decision.kind == "accept" and settled:
                return True
            if decision.kind == "drop" and answer is Answer.YES and not match.limited:
                return self._drop(chain, rule.name)
            if decision.kind == "return" and answer is Answer.YES:
                return None
            if decision.kind in {"jump", "goto"}:
                target = self._table.chains.get(decision.chain)
                outcome = None if target is None else self._chain(target, depth + 1)
                if outcome is True and settled:
                    return True
                if isinstance(outcome, Drop) and answer is Answer.YES and not match.limited:
                    return outcome
                if decision.kind == "goto" and answer is Answer.YES:
                    return None
        return None


class _Match:
    """The register machine for one rule and one path."""

    def __init__(self, table: Table, path: Path) -> None:
        self._table = table
        self._path = path
        self._value = bytearray(_REGISTERS_SIZE)
        self._known = bytearray(_REGISTERS_SIZE)
        self._device_at: set[int] = set()
        self.names_device = False
        self.limited = False

    def rule(self, rule: Rule) -> tuple[Answer, Decide | None]:
        """Whether the rule matches, and what it then decides (None: nothing)."""
        answer = Answer.YES
        for step in rule.steps:
            if isinstance(step, Decide):
                return answer, step
            if isinstance(step, Lookup) and step.verdict:
                found, decision = self._verdict_map(step)
                answer = min(answer, found, key=_rank)
                if decision is not None:
                    return answer, decision
            else:
                answer = min(answer, self._step(step), key=_rank)
            if answer is Answer.NO:
                return answer, None
        return answer, None

    def _step(self, step: object) -> Answer:
        """Runs a step that decides nothing; the answer of a match, YES of everything else."""
        if isinstance(step, Load):
            self._load(step)
        elif isinstance(step, LoadHeader):
            self._write(step.register, _header(self._path, step.offset, step.size))
        elif isinstance(step, LoadConstant):
            self._write(step.register, _certain(step.value))
        elif isinstance(step, Forget):
            self._write(step.register, Bits(0, 0, DEVICE_NAME_SIZE))
        elif isinstance(step, Bitwise):
            self._bitwise(step)
        elif isinstance(step, Between):
            return self._between(step)
        elif isinstance(step, Lookup):
            return self._lookup(step)
        elif isinstance(step, WithinLimit):
            self.limited = True
            return Answer.NO if step.over else Answer.YES
        elif isinstance(step, Unknown):
            return Answer.MAYBE
        return Answer.YES

    def _read(self, register: int, size: int) -> Bits:
        end = register + size
        return Bits(
            int.from_bytes(self._value[register:end]),
            int.from_bytes(self._known[register:end]),
            size,
        )

    def _write(self, register: int, bits: Bits) -> None:
        end = register + bits.size
        self._value[register:end] = bits.value.to_bytes(bits.size)
        self._known[register:end] = bits.known.to_bytes(bits.size)
        self._device_at.discard(register)

    def _load(self, step: Load) -> None:
        path = self._path
        name = path.iif if step.what.startswith("iif") else path.oif
        if step.what in {"iifname", "oifname"}:
            value = _certain(name.encode().ljust(DEVICE_NAME_SIZE, b"\0"))
        elif step.what in {"iif", "oif"}:
            index = path.indexes.get(name)
            value = Bits(0, 0, 4) if index is None else _certain(struct.pack("=I", index))
        elif step.what == "nfproto":
            value = _certain(bytes((_NFPROTO[path.version],)))
        elif step.what == "protocol":
            value = _certain(_ETHERTYPE[path.version])
        elif step.what == "ct state":
            state = CT_ESTABLISHED if path.established else CT_NEW
            value = _certain(struct.pack("=I", state))
        else:  # ct direction
            value = _certain(bytes((path.established,)))
        self._write(step.register, value)
        if step.what.startswith(("iif", "oif")) and name == path.device:
            self._device_at.add(step.register)

    def _bitwise(self, step: Bitwise) -> None:
        bits = self._read(step.source, len(step.mask))
        mask, xor = int.from_bytes(step.mask), int.from_bytes(step.xor)
        known = bits.known | (~mask & _ones(bits.size))
        self._write(step.target, Bits((bits.value & mask ^ xor) & known, known, bits.size))

    def _between(self, step: Between) -> Answer:
        bits = self._read(step.register, len(step.low))
        answer = _within(bits, int.from_bytes(step.low), int.from_bytes(step.high))
        if answer is Answer.YES and not step.inverted and step.register in self._device_at:
            self.names_device = True
        return _inverted(answer) if step.inverted else answer

    def _lookup(self, step: Lookup) -> Answer:
        answer, _ = self._find(step)
        if answer is Answer.YES and not step.inverted and step.register in self._device_at:
            self.names_device = True
        if step.target is not None:
            self._write(step.target, Bits(0, 0, DEVICE_NAME_SIZE))
        return _inverted(answer) if step.inverted else answer

    def _verdict_map(self, step: Lookup) -> tuple[Answer, Decide | None]:
        answer, element = self._find(step)
        if answer is Answer.YES and step.register in self._device_at:
            self.names_device = True
        return answer, element.verdict if element is not None else None

    def _find(self, step: Lookup) -> tuple[Answer, Element | None]:
        """Whether the register is in the set, and where, if that is certain."""
        if not any(self._known[step.register : step.register + 4]):
            return Answer.MAYBE, None  # not worth reading the set, which may be large
        elements = self._table.elements(step.set_name)
        if elements is None:
            return Answer.MAYBE, None
        best = Answer.NO
        for element in elements:
            bits = self._read(step.register, len(element.low))
            answer = _within(bits, int.from_bytes(element.low), int.from_bytes(element.high))
            if answer is Answer.YES:
                return answer, element
            best = max(best, answer, key=_rank)
        return best, None


def _rank(answer: Answer) -> int:
    return answer.value


def _inverted(answer: Answer) -> Answer:
    return {Answer.YES: Answer.NO, Answer.NO: Answer.YES}.get(answer, answer)


def _ones(size: int) -> int:
    return (1 << size * 8) - 1


def _certain(value: bytes) -> Bits:
    return Bits(int.from_bytes(value), _ones(len(value)), len(value))


def _within(bits: Bits, low: int, high: int) -> Answer:
    if low == high:  # exact even where unknown bits lie above known ones
        if (bits.value ^ low) & bits.known:
            return Answer.NO
        return Answer.YES if bits.known == _ones(bits.size) else Answer.MAYBE
    if bits.most < low or bits.least > high:
        return Answer.NO
    return Answer.YES if low <= bits.least and bits.most <= high else Answer.MAYBE


def _header(path: Path, offset: int, size: int) -> Bits:
    """A piece of the IP header, of which only version and addresses are known."""
    length, source_at, width = (20, 12, 4) if path.version == 4 else (40, 8, 16)
    value = bytearray(length + size)
    known = bytearray(length + size)
    value[0], known[0] = path.version << 4, 0xF0
    for network, at in ((path.src, source_at), (path.dst, source_at + width)):
        if network is not None:
            value[at : at + width] = network.network_address.packed
            known[at : at + width] = network.netmask.packed
    end = offset + size
    if end > len(value):
        return Bits(0, 0, size)
    return Bits(int.from_bytes(value[offset:end]), int.from_bytes(known[offset:end]), size)


def describe(drop: Drop, paths: list[Path], tables: Iterable[Table]) -> str:
    """One line: what drops, whose packets, and what helps."""
    device = paths[0].device
    kind = "iptables (legacy)" if drop.legacy else "nftables"
    what = f"rule {drop.rule.removeprefix('rule ')}" if drop.rule else "policy drop"
    where = f"{kind} {drop.family} {drop.table} {drop.chain}"
    routes = sorted({f"IPv{p.version} {_name(p.iif)} to {_name(p.oif)}" for p in paths})
    directions = sorted({path.inbound for path in paths}, reverse=True)
    table = next(
        (
            t
            for t in tables
            if (t.name, t.family, t.legacy) == (drop.table, drop.family, drop.legacy)
        ),
        None,
    )
    remedy = _remedy(drop, table, device, directions)
    return f"firewall: {where} ({what}) drops {', '.join(routes)}; remedy: {remedy}"


def _name(device: str) -> str:
    return "any device" if device == OTHER_DEVICE else device


def _remedy(drop: Drop, table: Table | None, device: str, directions: list[bool]) -> str:
    chains = table.chains.keys() if table is not None else set()
    if drop.hook == HOOK_FORWARD:
        if drop.table == "firewalld":
            return (
                f"firewall-cmd --permanent --zone=trusted --add-interface={device}; "
                f"firewall-cmd --permanent --new-policy=to-{device}; "
                f"firewall-cmd --permanent --policy=to-{device} --add-ingress-zone=ANY; "
                f"firewall-cmd --permanent --policy=to-{device} --add-egress-zone=trusted; "
                f"firewall-cmd --permanent --policy=to-{device} --set-target=ACCEPT; "
                "firewall-cmd --reload"
            )
        if {"ufw-user-forward", "ufw6-user-forward"} & chains:
            return "; ".join(
                f"ufw route allow {'in' if inbound else 'out'} on {device}"
                for inbound in directions
            )
        if drop.base_chain == "FORWARD" and drop.table == "filter":
            # Docker leaves DOCKER-USER alone when it rewrites its rules.
            chain = "DOCKER-USER" if "DOCKER-USER" in chains else "FORWARD"
            program = "iptables" if drop.family == "ip" else "ip6tables"
            return "; ".join(
                f"{program}{'-legacy' * drop.legacy} -I {chain} "
                f"{'-i' if inbound else '-o'} {device} -j ACCEPT"
                for inbound in directions
            )
    return "; ".join(
        f"nft insert rule {drop.family} {drop.table} {drop.base_chain} "
        f'{"iifname" if inbound else "oifname"} "{device}" accept'
        for inbound in directions
    )
