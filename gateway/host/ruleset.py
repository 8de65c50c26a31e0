"""The host's packet filter as plain values: nftables over netlink, old iptables by its own tool.

Theory of operation. nftables keeps rules as programs for a small register machine: load a field
of the packet into a register, mask it, compare it, decide. `read_nft` turns what the kernel
tells (no nft binary is needed) into the `Step`s below; what is no concern of a forwarding check
(counters, logs) is left out, and what cannot be judged from outside (ports, marks, time) becomes
`Unknown` or leaves its register unknown. iptables-nft, as Debian ships it, uses the same tables;
its matches and targets that have no nft counterpart come as `match` and `target` and are read
here as well. Old ("legacy") iptables has no netlink interface: `read_legacy` asks
iptables-legacy-save, and only where the kernel says that the table exists, because asking would
load it. Nothing here changes anything.

gateway/host/firewall.py runs the programs.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import shlex
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pyroute2.netlink.exceptions import NetlinkDecodeError, NetlinkError
from pyroute2.netlink.nfnetlink.nftsocket import NFT_MSG_GETSETELEM, nft_set_elem_list_msg
from pyroute2.nftables.main import NFTables

# linux/netfilter.h, enum nf_inet_hooks.
HOOK_PREROUTING: Final = 0
HOOK_FORWARD: Final = 2
HOOK_POSTROUTING: Final = 4

# linux/netfilter.h, enum nfproto.
_FAMILIES: Final = {1: "inet", 2: "ip", 10: "ip6"}

# Bits of a connection's state, the same in nftables and in xt_conntrack and xt_state.
CT_INVALID: Final = 1
CT_ESTABLISHED: Final = 2
CT_RELATED: Final = 4
CT_NEW: Final = 8
_CT_STATES: Final = {
    "INVALID": CT_INVALID,
    "ESTABLISHED": CT_ESTABLISHED,
    "RELATED": CT_RELATED,
    "NEW": CT_NEW,
    "UNTRACKED": 64,
}

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


def read_nft() -> list[Table]:
    """The tables of families ip, ip6 and inet. Empty where the kernel has no nftables.

    Raises RulesetError.
    """
    tables: dict[tuple[int, str], Table] = {}
    for message in _dump(lambda nft: nft.get_chains()):
        family = message["nfgen_family"]
        if family not in _FAMILIES:
            continue
        name = message.get_attr("NFTA_CHAIN_TABLE")
        table = tables.setdefault(
            (family, name), Table(_FAMILIES[family], name, elements=_element_reader(family, name))
        )
        chain = _chain(message)
        table.chains[chain.name] = chain
    for message in _dump(lambda nft: nft.get_rules()) if tables else ():
        found = tables.get((message["nfgen_family"], message.get_attr("NFTA_RULE_TABLE")))
        target = found and found.chains.get(message.get_attr("NFTA_RULE_CHAIN"))
        if target:
            target.rules.append(_rule(message))
    return list(tables.values())


def _dump(ask: Callable[[Any], Iterable[Any]], family: int = 0) -> list[Any]:
    """All messages that answer, of all families unless one is named. Raises RulesetError."""
    try:
        nft = NFTables(nfgen_family=family)
    except OSError as error:
        if error.errno in {errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT}:
            return []  # a kernel without netfilter
        raise RulesetError(_unreadable(error)) from error
    try:
        return list(ask(nft))
    except NetlinkError as error:
        if error.code in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOENT}:
            return []  # a kernel without nf_tables, or a set that has just gone
        raise RulesetError(_unreadable(error)) from error
    except (OSError, NetlinkDecodeError, *_MALFORMED) as error:
        raise RulesetError(_unreadable(error)) from error
    finally:
        nft.close()


# What pyroute2 lets out when a message has a form that it does not know.
_MALFORMED: Final = (AttributeError, KeyError, IndexError, TypeError, ValueError, struct.error)


def _unreadable(error: Exception) -> str:
    reason = os.strerror(error.code) if isinstance(error, NetlinkError) else error
    return (
        f"the nftables rules cannot be read ({reason}), so it is not known whether they let the "
        "gateway's packets through; look at them with: nft list ruleset"
    )


def _chain(message: Any) -> Chain:
    hook = message.get_attr("NFTA_CHAIN_HOOK")
    return Chain(
        message.get_attr("NFTA_CHAIN_NAME"),
        None if hook is None else hook.get_attr("NFTA_HOOK_HOOKNUM"),
        message.get_attr("NFTA_CHAIN_POLICY") == 0,
    )


def _rule(message: Any) -> Rule:
    name = f"rule handle {message.get_attr('NFTA_RULE_HANDLE')}"
    steps: list[Step] = []
    for expression in message.get_attr("NFTA_RULE_EXPRESSIONS") or ():
        try:
            steps += _steps(
                expression.get_attr("NFTA_EXPR_NAME"), expression.get_attr("NFTA_EXPR_DATA")
            )
        except (NetlinkDecodeError, *_MALFORMED):
            steps.append(Unknown())
    return Rule(name, tuple(steps))


_IGNORED: Final = frozenset(
    {"counter", "log", "notrack", "dup", "objref", "last", "flow_offload", "tproxy"}
)
_META: Final = {
    "NFT_META_IIFNAME": ("iifname", DEVICE_NAME_SIZE),
    "NFT_META_OIFNAME": ("oifname", DEVICE_NAME_SIZE),
    "NFT_META_IIF": ("iif", 4),
    "NFT_META_OIF": ("oif", 4),
    "NFT_META_NFPROTO": ("nfproto", 1),
    "NFT_META_PROTOCOL": ("protocol", 2),
}
_CT: Final = {"NFT_CT_STATE": ("ct state", 4), "NFT_CT_DIRECTION": ("ct direction", 1)}


def _steps(name: str, data: Any) -> Iterator[Step]:
    """What one expression does, in this module's words."""
    if name in _IGNORED:
        return
    if name in {"reject", "queue", "synproxy", "masq", "nat", "redir"}:
        # All but the first hand the packet on, and end the rules of this base chain.
        yield Decide("drop" if name == "reject" else "accept")
    elif name in {"meta", "ct"}:
        yield from _load(data, name.upper(), _META if name == "meta" else _CT)
    elif name == "payload":
        if (target := data.get_attr("NFTA_PAYLOAD_DREG")) is not None:
            network = data.get_attr("NFTA_PAYLOAD_BASE") == "NFT_PAYLOAD_NETWORK_HEADER"
            register = _register(target)
            offset, size = (data.get_attr(f"NFTA_PAYLOAD_{a}") for a in ("OFFSET", "LEN"))
            yield LoadHeader(register, offset, size) if network else Forget(register)
    elif name == "immediate":
        value = data.get_attr("NFTA_IMMEDIATE_DATA")
        if data.get_attr("NFTA_IMMEDIATE_DREG") == "NFT_REG_VERDICT":
            yield from _verdict(value.get_attr("NFTA_DATA_VERDICT"))
        else:
            register = _register(data.get_attr("NFTA_IMMEDIATE_DREG"))
            yield LoadConstant(register, value.get_attr("NFTA_DATA_VALUE"))
    elif name == "bitwise":
        yield _bitwise(data)
    elif name == "cmp":
        yield _compare(data)
    elif name == "range":
        yield Between(
            _register(data.get_attr("NFTA_RANGE_SREG")),
            data.get_attr("NFTA_RANGE_FROM_DATA").get_attr("NFTA_DATA_VALUE"),
            data.get_attr("NFTA_RANGE_TO_DATA").get_attr("NFTA_DATA_VALUE"),
            data.get_attr("NFTA_RANGE_OP") == "NFT_RANGE_NEQ",
        )
    elif name == "lookup":
        target = data.get_attr("NFTA_LOOKUP_DREG")
        verdict = target == "NFT_REG_VERDICT"
        yield Lookup(
            _register(data.get_attr("NFTA_LOOKUP_SREG")),
            data.get_attr("NFTA_LOOKUP_SET"),
            "NFT_LOOKUP_F_INV" in (data.get_attr("NFTA_LOOKUP_FLAGS") or ()),
            verdict,
            None if verdict or target is None else _register(target),
        )
    elif name == "limit":
        yield WithinLimit(over=bool((data.get_attr("NFTA_LIMIT_FLAGS") or 0) & 1))
    elif name in {"quota", "connlimit"}:
        flags = data.get_attr(f"NFTA_{name.upper()}_FLAGS") or ()
        yield WithinLimit(over=any(flag.endswith("_F_INV") for flag in flags))
    elif name == "match":
        yield from _xt_match(
            data.get_attr("NFTA_MATCH_NAME"), _from_hex(data.get_attr("NFTA_MATCH_INFO"))
        )
    elif name == "target":
        yield from _xt_target(data.get_attr("NFTA_TARGET_NAME"))
    else:
        yield _foreign(data)


def _load(data: Any, prefix: str, known: dict[str, tuple[str, int]]) -> Iterator[Step]:
    target = data.get_attr(f"NFTA_{prefix}_DREG")
    if target is None:
        return  # sets a mark or the like
    found = known.get(data.get_attr(f"NFTA_{prefix}_KEY"))
    yield Load(_register(target), *found) if found else Forget(_register(target))


def _bitwise(data: Any) -> Step:
    target = _register(data.get_attr("NFTA_BITWISE_DREG"))
    mask, xor = (data.get_attr(f"NFTA_BITWISE_{part}") for part in ("MASK", "XOR"))
    if mask is None or xor is None:
        return Forget(target)  # a shift, or one register with another
    return Bitwise(
        _register(data.get_attr("NFTA_BITWISE_SREG")),
        target,
        mask.get_attr("NFTA_DATA_VALUE"),
        xor.get_attr("NFTA_DATA_VALUE"),
    )


def _compare(data: Any) -> Step:
    operator = (data.get_attr("NFTA_CMP_OP") or "").removeprefix("NFT_CMP_")
    register = _register(data.get_attr("NFTA_CMP_SREG"))
    value = data.get_attr("NFTA_CMP_DATA").get_attr("NFTA_DATA_VALUE")
    lowest, highest = bytes(len(value)), b"\xff" * len(value)
    if operator in {"EQ", "NEQ"}:
        return Between(register, value, value, operator == "NEQ")
    if operator in {"LTE", "GT"}:
        return Between(register, lowest, value, operator == "GT")
    if operator in {"GTE", "LT"}:
        return Between(register, value, highest, operator == "LT")
    return Unknown()


def _foreign(data: Any) -> Step:
    """An expression that is not judged: it fills a register, or it is a match."""
    for key, value in data["attrs"] if isinstance(data, dict) else ():
        if key.endswith("_DREG") and value != "NFT_REG_VERDICT":
            return Forget(_register(value))
    return Unknown()


def _verdict(data: Any) -> Iterator[Step]:
    code = data.get_attr("NFTA_VERDICT_CODE")
    if code == "NF_DROP":
        yield Decide("drop")
    elif code in {"NFT_JUMP", "NFT_GOTO"}:
        yield Decide(code.removeprefix("NFT_").lower(), data.get_attr("NFTA_VERDICT_CHAIN"))
    elif code == "NFT_RETURN":
        yield Decide("return")
    elif code not in {"NFT_CONTINUE", "NFT_BREAK"}:
        yield Decide("accept")


_XT_CONNTRACK_STATE: Final = 1
_XT_CONNTRACK_FLAGS: Final = struct.Struct("@HHH")
_XT_CONNTRACK_FLAGS_AT: Final = 146  # struct xt_conntrack_mtinfo3: eight addresses, five ports ...


def _xt_match(name: str, info: bytes) -> Iterator[Step]:
    """A match of iptables that has no nft counterpart; its size is that of its C structure."""
    if name == "comment":
        return
    if name == "limit":
        yield WithinLimit(over=False)
    elif name == "state" and len(info) >= 4:
        yield from _state_steps(struct.unpack_from("@I", info)[0], False)
    elif name == "conntrack" and len(info) >= _XT_CONNTRACK_FLAGS_AT + _XT_CONNTRACK_FLAGS.size:
        flags, inverted, states = _XT_CONNTRACK_FLAGS.unpack_from(info, _XT_CONNTRACK_FLAGS_AT)
        if flags == _XT_CONNTRACK_STATE:
            yield from _state_steps(states, bool(inverted & _XT_CONNTRACK_STATE))
        else:
            yield Unknown()
    else:
        yield Unknown()


def _state_steps(states: int, inverted: bool) -> Iterator[Step]:
    zero = bytes(4)
    yield Load(0, "ct state", 4)
    yield Bitwise(0, 0, struct.pack("@I", states), zero)
    yield Between(0, zero, zero, not inverted)


_XT_ENDS: Final = frozenset(
    {"NFQUEUE", "QUEUE", "SYNPROXY", "DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP"}
)


def _xt_target(name: str) -> Iterator[Step]:
    if name in {"REJECT", "DROP"}:
        yield Decide("drop")
    elif name == "ACCEPT" or name in _XT_ENDS:
        yield Decide("accept")
    elif name == "RETURN":
        yield Decide("return")


def _register(name: str) -> int:
    """The byte offset of a register: four of 16 bytes lie over sixteen of 4 bytes."""
    if name.startswith("NFT_REG32_"):
        return int(name.removeprefix("NFT_REG32_")) * 4
    return (int(name.removeprefix("NFT_REG_")) - 1) * 16


def _from_hex(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _element_reader(family: int, table: str) -> Callable[[str], list[Element] | None]:
    known: dict[str, list[Element] | None] = {}

    def read(name: str) -> list[Element] | None:
        if name not in known:
            known[name] = _read_elements(family, table, name)
        return known[name]

    return read


def _read_elements(family: int, table: str, name: str) -> list[Element] | None:
    request = nft_set_elem_list_msg()
    request["attrs"] = [
        ("NFTA_SET_ELEM_LIST_TABLE", table),
        ("NFTA_SET_ELEM_LIST_SET", name),
    ]
    messages = _dump(lambda nft: nft.request_get(request, NFT_MSG_GETSETELEM), family)
    points: list[tuple[bytes, bool, Decide | None]] = []
    try:
        for message in messages:
            for element in message.get_attr("NFTA_SET_ELEM_LIST_ELEMENTS") or ():
                if element.get_attr("NFTA_SET_ELEM_KEY_END") is not None:
                    return None  # ranges in each part of a concatenation
                key = element.get_attr("NFTA_SET_ELEM_KEY")
                if key is None:
                    return None  # the catch-all element
                data = element.get_attr("NFTA_SET_ELEM_DATA")
                verdict = data.get_attr("NFTA_DATA_VERDICT") if data is not None else None
                points.append(
                    (
                        key.get_attr("NFTA_DATA_VALUE"),
                        bool(element.get_attr("NFTA_SET_ELEM_FLAGS")),
                        next(_decisions(verdict), None),
                    )
                )
    except (NetlinkDecodeError, *_MALFORMED):
        return None
    return join_interval_points(points)


def _decisions(verdict: Any) -> Iterator[Decide]:
    for step in _verdict(verdict) if verdict is not None else ():
        if isinstance(step, Decide):
            yield step


def join_interval_points(
    points: Sequence[tuple[bytes, bool, Decide | None]],
) -> list[Element]:
    """Elements from (key, is the end of an interval, verdict) in any order.

    The kernel keeps an interval as its first key and, flagged, the first key behind it. A set
    without any flagged key holds single values.
    """
    if not any(end for _, end, _ in points):
        return [Element(key, key, verdict) for key, _, verdict in points]
    ordered = sorted(points, key=lambda point: (point[0], not point[1]))
    elements = []
    for index, (key, end, verdict) in enumerate(ordered):
        if not end:
            following = ordered[index + 1][0] if index + 1 < len(ordered) else None
            high = b"\xff" * len(key) if following is None else _before(following)
            elements.append(Element(key, high, verdict))
    return elements


def _before(key: bytes) -> bytes:
    return (int.from_bytes(key) - 1).to_bytes(len(key))


_LEGACY: Final = {
    "ip": ("/proc/net/ip_tables_names", "iptables-legacy-save"),
    "ip6": ("/proc/net/ip6_tables_names", "ip6tables-legacy-save"),
}
_SAVE_SECONDS: Final = 20


def read_legacy(family: str) -> Table | None:
    """The filter table of old iptables for "ip" or "ip6"; None when the kernel has none.

    Raises RulesetError.
    """
    names, program = _LEGACY[family]
    try:
        if "filter" not in Path(names).read_text("ascii").split():
            return None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RulesetError(
            f"{names} cannot be read ({error.strerror}), so it is not known whether old iptables "
            f"rules let the gateway's packets through; look as root with: {program} -t filter"
        ) from error
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")
    if path is None:
        raise RulesetError(
            f"the kernel has old iptables rules (filter table of {family}) and {program} is not "
            "installed, so it is not known whether they let the gateway's packets through; "
            "install iptables, or move the rules to nftables"
        )
    try:
        done = subprocess.run(
            [path, "-t", "filter"],
            check=True,
            capture_output=True,
            text=True,
            timeout=_SAVE_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise RulesetError(
            f"{program} failed ({error}), so it is not known whether old iptables rules let the "
            f"gateway's packets through; look with: {program} -t filter"
        ) from error
    return parse_legacy(family, done.stdout)


_LEGACY_HOOKS: Final = {"FORWARD": HOOK_FORWARD}


def parse_legacy(family: str, text: str) -> Table:
    """The table that iptables-legacy-save printed."""
    table = Table(family, "filter", legacy=True)
    for line in text.splitlines():
        if line.startswith(":"):
            name, policy = line[1:].split()[:2]
            table.chains[name] = Chain(name, _LEGACY_HOOKS.get(name), policy == "DROP")
        elif line.startswith("-A "):
            words = shlex.split(line)
            chain = table.chains.get(words[1])
            if chain is not None:
                chain.rules.append(
                    Rule(f"rule `{line}`", tuple(_legacy_steps(table, family, words[2:])))
                )
    return table


def _legacy_steps(table: Table, family: str, words: list[str]) -> Iterator[Step]:
    inverted = False
    position = 0
    while position < len(words):
        word = words[position]
        value = words[position + 1] if position + 1 < len(words) else ""
        position += 1
        if word == "!":
            inverted = True
            continue
        if word in {"-i", "-o"}:
            yield from _legacy_device(value, "iifname" if word == "-i" else "oifname", inverted)
        elif word in {"-s", "-d"}:
            yield from _legacy_address(family, value, word == "-s", inverted)
        elif word in {"--ctstate", "--state"}:
            names = value.split(",")
            if set(names) <= _CT_STATES.keys():
                yield from _state_steps(sum(_CT_STATES[n] for n in set(names)), inverted)
            else:
                yield Unknown()  # SNAT and DNAT are no states
        elif word in {"-j", "-g"}:
            if value in table.chains:
                yield Decide("jump" if word == "-j" else "goto", value)
            else:
                yield from _xt_target(value)
            return
        elif word not in {"-m", "--comment"}:
            if word.startswith("-"):
                yield Unknown()
                inverted = False
            continue  # its arguments, if any, come next and mean nothing here
        inverted = False
        position += 1


def _legacy_device(name: str, what: str, inverted: bool) -> Iterator[Step]:
    if name == "+":
        return
    wanted = name.removesuffix("+").encode()
    if not name.endswith("+"):
        wanted = wanted.ljust(DEVICE_NAME_SIZE, b"\0")
    yield Load(0, what, DEVICE_NAME_SIZE)
    yield Between(0, wanted, wanted, inverted)


def _legacy_address(family: str, text: str, source: bool, inverted: bool) -> Iterator[Step]:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        yield Unknown()  # a mask with holes
        return
    size = 4 if family == "ip" else 16
    offset = (12 if source else 16) if family == "ip" else (8 if source else 24)
    value = network.network_address.packed
    yield LoadHeader(0, offset, size)
    yield Bitwise(0, 0, network.netmask.packed, bytes(size))
    yield Between(0, value, value, inverted)
