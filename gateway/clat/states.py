"""What the CLAT is to be, from what is known of the host's network. Pure.

    no IPv6 default route  ─►  no /64 on it  ─►  native IPv4  ─►  no prefix  ─►  up
         down                     down            standby          down

Theory of operation. There are no transitions: every look at the host (uplink.py) and everything
that is learnt of prefixes (plat.py) ends in a call of `decide`, which says what shall be. The
service compares that with what is, and makes the one from the other.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from gateway.clat.address import clat_address
from gateway.clat.plat import Plat

# RFC 7335: the CLAT's own address on the host.
LOCAL4 = IPv4Address("192.0.0.1")
# RFC 7915 §4: an IPv6 header is 20 bytes longer than an IPv4 header without options.
HEADER_GROWTH = 20
LEAST_MTU6 = 1280
# RFC 7217 §5: another address is made so many times when somebody has the one before.
IDGEN_RETRIES = 3


@dataclass(frozen=True, slots=True)
class Uplink:
    """The device with the IPv6 default route. `network`: the /64 of the host's address on it.

    `mac` is empty on a device without a link layer; then nobody asks for neighbours there.
    `address6`: the host's own, as which the CLAT's own ICMPv6 errors are sent.
    """

    name: str
    index: int
    mac: bytes
    mtu: int
    network: IPv6Network | None
    address6: IPv6Address | None


@dataclass(frozen=True, slots=True)
class Situation:
    """One look at the host. `native4`: the device of an IPv4 default route, "" without one."""

    uplink: Uplink | None
    native4: str = ""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the CLAT is while it is up: `hosts` are pairs of an IPv4 and its IPv6 address.

    The first pair is the CLAT's own. `mtu4`: of the IPv4 default route, in bytes.
    """

    uplink: Uplink
    plat: Plat
    hosts: tuple[tuple[IPv4Address, IPv6Address], ...]
    mtu4: int

    @property
    def address6(self) -> IPv6Address:
        return self.hosts[0][1]


@dataclass(frozen=True, slots=True)
class Idle:
    """Why there is no CLAT now. `word`: `down`, or `standby` beside native IPv4."""

    word: str
    why: str


Decision = Wanted | Idle


def decide(
    situation: Situation,
    plat: Plat | None,
    *,
    hosts: Sequence[IPv4Address],
    address: IPv6Address | None,
    bits: Callable[[IPv6Network, bytes, IPv4Address], int],
    mtu: int,
    taken: Container[IPv6Address] = (),
) -> Decision:
    """What shall be.

    `hosts`: IPv4 addresses of the LAN that get an IPv6 address each. `address`: the CLAT's own,
    None to make one. `bits(network, interface, local4)`: 48 bits for an address. `mtu`: of the
    tap, in bytes of packet. `taken`: addresses that somebody else on the uplink has.
    """
    uplink = situation.uplink
    if uplink is None:
        return Idle("down", "there is no IPv6 default route")
    if situation.native4:
        return Idle("standby", f"there is native IPv4 by way of {situation.native4}")
    if uplink.network is None and (address is None or hosts):
        return Idle("down", f"{uplink.name} has no global IPv6 address")
    if plat is None:
        return Idle("down", f"no NAT64 prefix is known on {uplink.name}")
    if address in taken:
        return Idle("down", f"somebody else on {uplink.name} has {address}: set clat.address")
    wanted = [] if address is not None else [LOCAL4]
    pairs = [] if address is None else [(LOCAL4, address)]
    for local4 in [*wanted, *hosts]:
        assert uplink.network is not None
        for attempt in range(IDGEN_RETRIES + 1):
            interface = uplink.mac or uplink.name.encode()
            interface += b" %d" % attempt if attempt else b""
            drawn = bits(uplink.network, interface, local4)
            made = clat_address(uplink.network, plat.prefix, local4, drawn)
            if made not in taken:
                pairs.append((local4, made))
                break
        else:
            return Idle("down", f"others on {uplink.name} have every address made for {local4}")
    mtu4 = max(min(uplink.mtu, mtu), LEAST_MTU6) - HEADER_GROWTH
    return Wanted(uplink, plat, tuple(pairs), mtu4)
