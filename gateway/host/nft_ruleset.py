"""Reads nftables over netlink, without the nft binary.

Theory of operation. The kernel tells rules as lists of expressions; each becomes the steps of
gateway/host/ruleset.py. iptables-nft, as Debian ships it, uses the same tables; its matches and
targets that have no nft counterpart come as `match` and `target` and are read here as well.
Nothing here changes anything.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from pyroute2.netlink.exceptions import NetlinkDecodeError, NetlinkError
from pyroute2.netlink.nfnetlink.nftsocket import NFT_MSG_GETSETELEM, nft_set_elem_list_msg
from pyroute2.nftables.main import NFTables

from gateway.host.ruleset import (
    DEVICE_NAME_SIZE,
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
    RulesetError,
    Step,
    Table,
    Unknown,
    WithinLimit,
    state_steps,
    target_steps,
)

# linux/netfilter.h, enum nfproto.
_FAMILIES: Final = {1: "inet", 2: "ip", 10: "ip6"}


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
        yield from target_steps(data.get_attr("NFTA_TARGET_NAME"))
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
        yield from state_steps(struct.unpack_from("@I", info)[0], False)
    elif name == "conntrack" and len(info) >= _XT_CONNTRACK_FLAGS_AT + _XT_CONNTRACK_FLAGS.size:
        flags, inverted, states = _XT_CONNTRACK_FLAGS.unpack_from(info, _XT_CONNTRACK_FLAGS_AT)
        if flags == _XT_CONNTRACK_STATE:
            yield from state_steps(states, bool(inverted & _XT_CONNTRACK_STATE))
        else:
            yield Unknown()
    else:
        yield Unknown()


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
