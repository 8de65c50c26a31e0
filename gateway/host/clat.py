"""What a CLAT changes on its host while it is up (gateway/clat/host_side.py), each as a change.

192.0.0.1/32 on tap0                   the address of the host's own IPv4 programs (RFC 7335)
table ip tap64_tap0                    a LAN behind it: source NAT to 192.0.0.1
proxy neighbour CLAT6 on the uplink    the kernel answers who asks there for it (RFC 4861 §7.2.8)
CLAT6/128 via fe80::5 dev tap0         (gateway/host/routes.py)
0.0.0.0/0 via 192.0.0.8 dev tap0       with the MTU of what is left, and a bad metric

table ip tap64_tap0 {
    chain postrouting {
        type nat hook postrouting priority 100; policy accept;
        oif "tap0" ip saddr 192.0.0.1 return
        oif "tap0" ip saddr 192.168.1.5 return
        oif "tap0" masquerade
    }
}
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from ipaddress import IPv4Network
from socket import AF_INET, AF_INET6
from typing import Any, Final, Literal

from pyroute2 import IPRoute
from pyroute2.nftables.expressions import genex

from gateway.host import nft
from gateway.host.links import GATEWAY4
from gateway.host.netlink import Gone, explaining, removed, undoing
from gateway.host.routes import PROTOCOL, RTNH_F_ONLINK

NTF_PROXY: Final = 0x08

_SCOPE_LINK: Final = 253
_META_OIF: Final = 5
_NFT_RETURN: Final = -5
_VERDICT_REGISTER: Final = 0


@dataclass(frozen=True, slots=True)
class LocalAddress4:
    """An IPv4 address, /32, on the device: the source of the host's own packets through it."""

    device: str
    index: int
    address: str
    kind: Literal["clat-address"] = "clat-address"

    @property
    def identity(self) -> str:
        return f"clat-address {self.index} {self.address}"

    def describe(self) -> str:
        return f"add address {self.address}/32 to {self.device}"

    def apply(self) -> None:
        with explaining(self.describe()), IPRoute() as ipr:
            ipr.addr("replace", **self._address())

    def undo(self) -> str | None:
        return removed(f"remove {self.address} from {self.device}", "addr", self._address())

    def is_there(self, ipr: IPRoute) -> bool:
        return any(
            message["index"] == self.index and message.get_attr("IFA_LOCAL") == self.address
            for message in ipr.get_addr(family=AF_INET, index=self.index)
        )

    def _address(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "family": AF_INET,
            "address": self.address,
            "prefixlen": 32,
        }


@dataclass(frozen=True, slots=True)
class ProxyNeighbour:
    """The kernel answers neighbour solicitations for an address that is not its own.

    It does where proxy_ndp is 1 and the interface forwards (gateway/clat/host_side.py).
    """

    device: str
    index: int
    address: str
    kind: Literal["proxy-neighbour"] = "proxy-neighbour"

    @property
    def identity(self) -> str:
        return f"proxy-neighbour {self.index} {self.address}"

    def describe(self) -> str:
        return f"add proxy neighbour {self.address} dev {self.device}"

    def apply(self) -> None:
        with explaining(self.describe()), IPRoute() as ipr:
            ipr.neigh("replace", **self._neighbour())

    def undo(self) -> str | None:
        return removed(f"remove proxy neighbour {self.address}", "neigh", self._neighbour())

    def is_there(self, ipr: IPRoute) -> bool:
        try:
            with undoing(f"look for proxy neighbour {self.address}"):
                return bool(list(ipr.neigh("get", **self._neighbour())))
        except Gone:
            return False

    def _neighbour(self) -> dict[str, Any]:
        return {
            "family": AF_INET6,
            "ifindex": self.index,
            "dst": self.address,
            "flags": NTF_PROXY,
        }


@dataclass(frozen=True, slots=True)
class DefaultRoute4:
    """The IPv4 default route into the device. `mtu` in bytes of IPv4 packet.

    `source`: the address that the host's own packets get. `next_hop`: False on a tun.
    """

    device: str
    index: int
    source: str
    metric: int
    mtu: int
    next_hop: bool
    kind: Literal["clat-route"] = "clat-route"

    @property
    def identity(self) -> str:
        return f"clat-route {self.index} {self.metric}"

    def describe(self) -> str:
        return f"add route {self._words()}"

    def apply(self) -> None:
        remedies = {errno.EINVAL: "if this host has no IPv4 address at all, `ip link set lo up`"}
        with explaining(self.describe(), remedies), IPRoute() as ipr:
            # Replaced: another MTU is the same route. One of another device with the same
            # metric would be replaced too, but then there is native IPv4 and no CLAT.
            ipr.route("replace", metrics={"mtu": self.mtu}, prefsrc=self.source, **self._route())

    def undo(self) -> str | None:
        return removed(f"delete route {self._words()}", "route", self._route())

    def is_there(self, ipr: IPRoute) -> bool:
        for message in ipr.get_routes(family=AF_INET, proto=PROTOCOL, oif=self.index):
            if message["dst_len"] or message.get_attr("RTA_OIF") != self.index:
                continue
            metrics = message.get_attr("RTA_METRICS")
            mtu = metrics.get_attr("RTAX_MTU") if metrics is not None else 0
            if (message.get_attr("RTA_PRIORITY"), mtu) == (self.metric, self.mtu):
                return True
        return False

    def _words(self) -> str:
        via = f" via {GATEWAY4}" if self.next_hop else ""
        onlink = " onlink" if self.next_hop else ""
        return (
            f"0.0.0.0/0{via} dev {self.device}{onlink} src {self.source}"
            f" metric {self.metric} mtu {self.mtu} proto {PROTOCOL}"
        )

    def _route(self) -> dict[str, Any]:
        route: dict[str, Any] = {
            "family": AF_INET,
            "dst": "0.0.0.0/0",
            "oif": self.index,
            "proto": PROTOCOL,
            "priority": self.metric,
        }
        if self.next_hop:
            route["gateway"] = GATEWAY4
            route["flags"] = RTNH_F_ONLINK
        else:
            route["scope"] = _SCOPE_LINK
        return route


@dataclass(frozen=True, slots=True)
class LanNat:
    """What is routed into the device gets the device's address, but for `spared` addresses."""

    device: str
    index: int
    spared: list[str]
    kind: Literal["lan-nat"] = "lan-nat"

    @property
    def identity(self) -> str:
        return f"table {self.device}"

    def describe(self) -> str:
        return (
            f"add nftables table ip {nft.TABLE_PREFIX}{self.device}: masquerade what leaves by"
            f" {self.device}, but for {', '.join(self.spared)}"
        )

    def apply(self) -> None:
        table = nft.TABLE_PREFIX + self.device
        leaves = [
            genex("meta", {"key": _META_OIF, "dreg": 1}),
            nft.equal(struct.pack("=I", self.index)),
        ]
        rules = [
            [*leaves, *nft.source_expressions(IPv4Network(address)), _return()]
            for address in self.spared
        ]
        nft.replace_nat_table(table, [*rules, [*leaves, genex("masq", {})]])

    def undo(self) -> str | None:
        return nft.delete_table(nft.TABLE_PREFIX + self.device)


def _return() -> Any:
    verdict = {"attrs": [("NFTA_VERDICT_CODE", _NFT_RETURN)]}
    data = {"attrs": [("NFTA_DATA_VERDICT", verdict)]}
    return genex("immediate", {"dreg": _VERDICT_REGISTER, "data": data})
