"""Link state, MTU, address and neighbours of the device, and which device carries layer 3.

When the tap is a port of a bridge, the kernel routes through the bridge: address, routes and
neighbours belong there (the layer-3 device), while MTU and link state belong to both.

Devices are meant by index: a name may be given to another device meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from socket import AF_INET, AF_INET6
from typing import Any, Literal

from pyroute2 import IPRoute

from gateway.host.netlink import Gone, explaining, undoing

HOST_ADDRESS = "fe80::1"
HOST_PREFIX_LENGTH = 64
GATEWAY6 = "fe80::5"
GATEWAY4 = "192.0.0.8"

IFF_UP = 0x1
IFF_LOWER_UP = 0x10000
IFA_F_NODAD = 0x02
NUD_PERMANENT = 0x80

_NO_DEVICE = "it is gone"


@dataclass(frozen=True, slots=True)
class Link:
    """One network device as the kernel shows it; `mac` is empty for a tun."""

    name: str
    index: int
    mac: bytes
    mtu: int
    flags: int
    master: int | None
    kind: str
    alias: str = ""

    @property
    def up(self) -> bool:
        """Set up by somebody; whether there is a carrier is another matter."""
        return bool(self.flags & IFF_UP)

    @property
    def operational(self) -> bool:
        """Up and with a carrier."""
        return self.up and bool(self.flags & IFF_LOWER_UP)


def all_links(ipr: IPRoute) -> list[Link]:
    """Every device of the namespace."""
    return [_link(message) for message in ipr.get_links()]


def find_link(ipr: IPRoute, *, name: str = "", index: int = 0) -> Link | None:
    """One device by name or index, None when there is none."""
    try:
        with undoing(f"look at {name or index}"):
            query = {"ifname": name} if name else {"index": index}
            return next((_link(message) for message in ipr.link("get", **query)), None)
    except Gone:
        return None


def _link(message: Any) -> Link:
    address = message.get("address")
    info = message.get_attr("IFLA_LINKINFO")
    ethernet = message["ifi_type"] == 1  # ARPHRD_ETHER
    return Link(
        name=message.get("ifname"),
        index=message["index"],
        mac=bytes.fromhex(address.replace(":", "")) if ethernet and address else b"",
        mtu=message.get("mtu") or 0,
        flags=message["flags"],
        master=message.get("master"),
        kind=(info.get_attr("IFLA_INFO_KIND") if info is not None else None) or "",
        alias=message.get("ifalias") or "",
    )


def layer3_link(ipr: IPRoute, tap: Link) -> Link:
    """The device that the kernel routes through for `tap`: its bridge, or itself."""
    if tap.master:
        master = find_link(ipr, index=tap.master)
        if master is not None and master.kind == "bridge":
            return master
    return tap


@dataclass(frozen=True, slots=True)
class LinkMtu:
    device: str
    index: int
    old: int
    new: int
    kind: Literal["mtu"] = "mtu"

    @property
    def identity(self) -> str:
        return f"mtu {self.index}"

    def describe(self) -> str:
        return f"set the MTU of {self.device} to {self.new} (was {self.old})"

    def apply(self) -> None:
        _set_mtu(self.device, self.index, self.new)

    def undo(self) -> str | None:
        with IPRoute() as ipr:
            link = find_link(ipr, index=self.index)
        if link is None:
            return _NO_DEVICE
        if link.mtu != self.new:
            return f"it is {link.mtu} now, which is not ours"
        _set_mtu(self.device, self.index, self.old)
        return None


def _set_mtu(device: str, index: int, mtu: int) -> None:
    with explaining(f"set the MTU of {device} to {mtu}"), IPRoute() as ipr:
        ipr.link("set", index=index, mtu=mtu)


@dataclass(frozen=True, slots=True)
class LinkUp:
    device: str
    index: int
    kind: Literal["up"] = "up"

    @property
    def identity(self) -> str:
        return f"up {self.index}"

    def describe(self) -> str:
        return f"set {self.device} up"

    def apply(self) -> None:
        with explaining(f"set {self.device} up"), IPRoute() as ipr:
            ipr.link("set", index=self.index, state="up")

    def undo(self) -> str | None:
        try:
            with undoing(f"set {self.device} down"), IPRoute() as ipr:
                ipr.link("set", index=self.index, state="down")
        except Gone:
            return _NO_DEVICE
        return None


@dataclass(frozen=True, slots=True)
class HostAddress:
    """fe80::1/64 on the layer-3 device, without duplicate address detection: the other end of
    the wire is us, and a tentative address would delay the first packet by a second."""

    device: str
    index: int
    kind: Literal["address"] = "address"

    @property
    def identity(self) -> str:
        return f"address {self.index}"

    def describe(self) -> str:
        return f"add address {HOST_ADDRESS}/{HOST_PREFIX_LENGTH} to {self.device}"

    def apply(self) -> None:
        with explaining(self.describe()), IPRoute() as ipr:
            ipr.addr("add", flags=IFA_F_NODAD, **self._address())

    def undo(self) -> str | None:
        try:
            with undoing(f"remove {HOST_ADDRESS} from {self.device}"), IPRoute() as ipr:
                ipr.addr("del", **self._address())
        except Gone:
            return _NO_DEVICE
        return None

    def _address(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "family": AF_INET6,
            "address": HOST_ADDRESS,
            "prefixlen": HOST_PREFIX_LENGTH,
        }


def has_host_address(ipr: IPRoute, index: int) -> bool:
    """Whether the device has fe80::1, whoever gave it."""
    return any(
        message["index"] == index and message.get_attr("IFA_ADDRESS") == HOST_ADDRESS
        for message in ipr.get_addr(family=AF_INET6, index=index)
    )


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A permanent entry: a learnt one would be flushed with the carrier.

    `old` is the MAC of a permanent entry that was there before, None when there was none.
    """

    device: str
    index: int
    address: str
    old: str | None
    new: str
    kind: Literal["neighbour"] = "neighbour"

    @property
    def identity(self) -> str:
        return f"neighbour {self.index} {self.address}"

    def describe(self) -> str:
        # A dry run has no device yet, and so no address to derive the gateway's from.
        known = any(bytes.fromhex(self.new.replace(":", "")))
        mac = self.new if known else "(the gateway's)"
        return f"add permanent neighbour {self.address} lladdr {mac} dev {self.device}"

    def apply(self) -> None:
        with explaining(self.describe()), IPRoute() as ipr:
            self._set(ipr, self.new)

    def undo(self) -> str | None:
        try:
            with undoing(f"remove neighbour {self.address}"), IPRoute() as ipr:
                now = permanent_neighbour(ipr, self.index, self.address)
                if now != self.new:
                    return _NO_DEVICE if now is None else f"it is {now} now, which is not ours"
                if self.old is not None:
                    self._set(ipr, self.old)
                else:
                    ipr.neigh("del", ifindex=self.index, dst=self.address)
        except Gone:
            return _NO_DEVICE
        return None

    def _set(self, ipr: IPRoute, mac: str) -> None:
        ipr.neigh("replace", ifindex=self.index, dst=self.address, lladdr=mac, state="permanent")


def permanent_neighbour(ipr: IPRoute, index: int, address: str) -> str | None:
    """The MAC of the device's permanent entry for the address, None when there is none."""
    family = AF_INET if ip_address(address).version == 4 else AF_INET6
    for message in ipr.get_neighbours(family=family, ifindex=index):
        if message["ifindex"] != index or message.get_attr("NDA_DST") != address:
            continue
        if message["state"] & NUD_PERMANENT:
            mac: str | None = message.get_attr("NDA_LLADDR")
            return mac
    return None
