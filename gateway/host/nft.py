"""The nftables table that masquerades pool4, installed over netlink.

    table ip tap64_tap0 {
        chain postrouting {
            type nat hook postrouting priority 100; policy accept;
            ip saddr 192.0.0.6 masquerade
        }
        chain prerouting {
            type nat hook prerouting priority -100; policy accept;
            fib daddr type local tcp dport 80 dnat to 192.0.0.6:80
        }
    }

The second chain is there when static mappings are: what others send to the port of any of the
host's own addresses goes to the pool's port. What the host sends to itself does not.

Family ip, so that plain IPv6 gets no connection tracking from us. The table is replaced in one
transaction (add, delete, add anew): one left by a killed run never shows through and packets
never find it half made; connections that are being translated keep their entry in conntrack.

pyroute2 encodes the messages. They are sent and acknowledged here, because a refusal of the
whole batch (no privilege, no nftables in the kernel) is addressed to its first message, for
which pyroute2 does not wait. The bitwise expression is built from the real mask: pyroute2's
ipv4addr() builds masks that are no multiple of 8 wrongly.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any, Literal

from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nfnetlink import NFNL_SUBSYS_NFTABLES, nfgen_msg
from pyroute2.netlink.nfnetlink.nftsocket import (
    NFT_MSG_DELTABLE,
    NFT_MSG_NEWCHAIN,
    NFT_MSG_NEWRULE,
    NFT_MSG_NEWTABLE,
    nft_chain_msg,
    nft_rule_msg,
    nft_table_msg,
)
from pyroute2.nftables.expressions import genex
from pyroute2.nftables.main import NFTables

from gateway.host.netlink import Gone, error_number, explaining, undoing
from gateway.host.plan import HostError

TABLE_PREFIX = "tap64_"
PRIORITY_SRCNAT = 100
PRIORITY_DSTNAT = -100
ANSWER_TIMEOUT = 10.0  # seconds; the kernel answers within the send

_NETLINK_NETFILTER = 12
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE, _NLM_F_APPEND = 0x1, 0x4, 0x400, 0x800
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NLMSG_ERROR = 2
_HEADER = struct.Struct("=IHHII")
_ERROR = struct.Struct("=i")
_HOOK_PREROUTING, _HOOK_POSTROUTING = 0, 4
_POLICY_ACCEPT = 1
_SADDR_OFFSET = 12  # bytes into the IPv4 header
_DPORT_OFFSET = 2  # bytes into the TCP or UDP header
_NETWORK_HEADER, _TRANSPORT_HEADER = 1, 2
_META_L4PROTO = 16
_RTN_LOCAL = struct.pack("=I", 2)
_FIB_F_DADDR = 2
# NFT_FIB_RESULT_ADDRTYPE is 3; pyroute2 takes the number for flags, whose first two make a 3.
_FIB_RESULT_ADDRTYPE = frozenset({"NFT_FIB_RESULT_UNSPEC", "NFT_FIB_RESULT_OIF"})
_NAT_DNAT = 1
_PROTOCOLS = {"tcp": socket.IPPROTO_TCP, "udp": socket.IPPROTO_UDP}

_NO_NFT = (
    "this kernel lacks nftables or its masquerade (modprobe nf_tables nft_chain_nat nft_masq);"
    " without it use a routed pool4 and masquerade = false"
)


_REMEDIES = dict.fromkeys(
    (errno.EOPNOTSUPP, errno.ENOENT, errno.ENOPROTOOPT, errno.EPROTONOSUPPORT), _NO_NFT
)


@dataclass(frozen=True, slots=True)
class Masquerade:
    """The table for one device; `pool4` are networks without host bits.

    `forwards`: pool ports that the same port of the host leads to, `tcp 192.0.0.6:80`.
    """

    device: str
    pool4: list[str]
    forwards: list[str] = field(default_factory=list)
    kind: Literal["masquerade"] = "masquerade"

    @property
    def identity(self) -> str:
        return f"table {self.device}"

    @property
    def table(self) -> str:
        return TABLE_PREFIX + self.device

    def describe(self) -> str:
        text = f"add nftables table ip {self.table}: masquerade {', '.join(self.pool4)}"
        if self.forwards:
            text += f", forward this host's ports to {', '.join(self.forwards)}"
        return text

    def apply(self) -> None:
        with explaining(f"add nftables table {self.table}", _REMEDIES):
            messages = [
                _table(NFT_MSG_NEWTABLE, self.table, _NLM_F_CREATE),
                _table(NFT_MSG_DELTABLE, self.table),
                _table(NFT_MSG_NEWTABLE, self.table, _NLM_F_CREATE),
                _chain(self.table, "postrouting", _HOOK_POSTROUTING, PRIORITY_SRCNAT),
            ]
            for network in self.pool4:
                masquerade = [*source_expressions(IPv4Network(network)), genex("masq", {})]
                messages.append(_rule(self.table, "postrouting", masquerade))
            if self.forwards:
                hook = (_HOOK_PREROUTING, PRIORITY_DSTNAT)
                messages.append(_chain(self.table, "prerouting", *hook))
            for forward in self.forwards:
                messages.append(_rule(self.table, "prerouting", _forward_expressions(forward)))
            _transact(messages)

    def undo(self) -> str | None:
        return delete_table(self.table)


def replace_nat_table(table: str, rules: Sequence[Sequence[Any]]) -> None:
    """Put a table with these rules in its postrouting chain in place of what is there.

    Raises HostError.
    """
    with explaining(f"add nftables table {table}", _REMEDIES):
        messages = [
            _table(NFT_MSG_NEWTABLE, table, _NLM_F_CREATE),
            _table(NFT_MSG_DELTABLE, table),
            _table(NFT_MSG_NEWTABLE, table, _NLM_F_CREATE),
            _chain(table, "postrouting", _HOOK_POSTROUTING, PRIORITY_SRCNAT),
        ]
        messages += [_rule(table, "postrouting", list(expressions)) for expressions in rules]
        _transact(messages)


def delete_table(table: str) -> str | None:
    """Delete the table; the reason when there is none. Raises HostError."""
    try:
        with undoing(f"delete nftables table {table}"):
            _transact([_table(NFT_MSG_DELTABLE, table)])
    except Gone:
        return "it is gone"
    return None


def our_tables() -> list[str]:
    """The devices after which tables of ours are named. Raises HostError without privilege."""
    try:
        with explaining("list the nftables tables"), NFTables() as nft:
            names = [table.get_attr("NFTA_TABLE_NAME") for table in nft.get_tables()]
    except HostError as error:
        cause = error.__cause__
        if isinstance(cause, NetlinkError | OSError) and error_number(cause) == errno.EPERM:
            raise
        return []  # a kernel without nftables
    return [name.removeprefix(TABLE_PREFIX) for name in names if name.startswith(TABLE_PREFIX)]


def source_expressions(network: IPv4Network) -> list[Any]:
    """The expressions of `ip saddr NETWORK`."""
    mask = network.netmask.packed
    match = [
        genex(
            "payload",
            {"dreg": 1, "base": _NETWORK_HEADER, "offset": _SADDR_OFFSET, "len": 4},
        ),
    ]
    if network.prefixlen < 32:
        match.append(
            genex(
                "bitwise",
                {"sreg": 1, "dreg": 1, "len": 4, "mask": _data(mask), "xor": _data(bytes(4))},
            )
        )
    match.append(equal(network.network_address.packed))
    return match


def _forward_expressions(forward: str) -> list[Any]:
    """`fib daddr type local PROTOCOL dport PORT dnat to ADDRESS:PORT`."""
    protocol, _, where = forward.partition(" ")
    address, _, port_text = where.partition(":")
    port = int(port_text).to_bytes(2, "big")
    fib = {"dreg": 1, "result": _FIB_RESULT_ADDRTYPE, "flags": _FIB_F_DADDR}
    dport = {"dreg": 1, "base": _TRANSPORT_HEADER, "offset": _DPORT_OFFSET, "len": 2}
    target = {"type": _NAT_DNAT, "family": socket.AF_INET, "reg_addr_min": 1, "reg_proto_min": 2}
    return [
        genex("fib", fib),
        equal(_RTN_LOCAL),
        genex("meta", {"key": _META_L4PROTO, "dreg": 1}),
        equal(bytes((_PROTOCOLS[protocol],))),
        genex("payload", dport),
        equal(port),
        genex("immediate", {"dreg": 1, "data": _data(IPv4Address(address).packed)}),
        genex("immediate", {"dreg": 2, "data": _data(port)}),
        genex("nat", target),
    ]


def equal(value: bytes) -> Any:
    """The expression that compares what was loaded into register 1."""
    return genex("cmp", {"sreg": 1, "op": 0, "data": _data(value)})


def _data(value: bytes) -> dict[str, Any]:
    return {"attrs": [("NFTA_DATA_VALUE", value)]}


def _table(message_type: int, name: str, flags: int = 0) -> Any:
    return _message(nft_table_msg, message_type, flags, name=name)


def _chain(table: str, name: str, hook_number: int, priority: int) -> Any:
    hook = [("NFTA_HOOK_HOOKNUM", hook_number), ("NFTA_HOOK_PRIORITY", priority)]
    return _message(
        nft_chain_msg,
        NFT_MSG_NEWCHAIN,
        _NLM_F_CREATE,
        table=table,
        name=name,
        hook={"attrs": hook},
        policy=_POLICY_ACCEPT,
        type="nat",
    )


def _rule(table: str, chain: str, expressions: list[Any]) -> Any:
    return _message(
        nft_rule_msg,
        NFT_MSG_NEWRULE,
        _NLM_F_CREATE | _NLM_F_APPEND,
        table=table,
        chain=chain,
        expressions=expressions,
    )


def _message(message_class: Any, message_type: int, flags: int, **attributes: Any) -> Any:
    message = message_class()
    message["attrs"] = [(message_class.name2nla(key), v) for key, v in attributes.items()]
    message["header"]["type"] = (NFNL_SUBSYS_NFTABLES << 8) | message_type
    message["header"]["flags"] = _NLM_F_REQUEST | _NLM_F_ACK | flags
    message["nfgen_family"] = socket.AF_INET
    return message


def _boundary(message_type: int) -> Any:
    message = nfgen_msg()
    message["res_id"] = NFNL_SUBSYS_NFTABLES
    message["header"]["type"] = message_type
    message["header"]["flags"] = _NLM_F_REQUEST
    return message


def _transact(messages: Sequence[Any]) -> None:
    """Send one batch, all or nothing. Raises OSError with what the kernel answers."""
    batch = b""
    for number, message in enumerate(
        [_boundary(_BATCH_BEGIN), *messages, _boundary(_BATCH_END)], 1
    ):
        message["header"]["sequence_number"] = number
        message.encode()
        batch += bytes(message.data)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER) as sock:
        sock.settimeout(ANSWER_TIMEOUT)
        sock.bind((0, 0))
        sock.send(batch)
        acknowledged = 0
        while acknowledged < len(messages):
            acknowledged += _acknowledged(sock.recv(65536))


def _acknowledged(data: bytes) -> int:
    """How many acknowledgements `data` holds; raises OSError at the first refusal."""
    count = offset = 0
    while offset + _HEADER.size <= len(data):
        length, message_type, _, _, _ = _HEADER.unpack_from(data, offset)
        if message_type == _NLMSG_ERROR:
            (error,) = _ERROR.unpack_from(data, offset + _HEADER.size)
            if error:
                raise OSError(-error, os.strerror(-error))
            count += 1
        offset += max(_HEADER.size, (length + 3) & ~3)
    return count
