"""An interface as the kernel shows it, for router advertisements, and the socket to send them."""

from __future__ import annotations

from ipaddress import IPv6Address
from socket import AF_INET6

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from gateway.host import links
from gateway.host.netlink import explaining
from gateway.host.routes import RTM_F_FIB_MATCH
from gateway.ra.content import InterfaceState
from gateway.ra.icmp6_socket import Icmp6Socket
from gateway.ra.messages import SOLICITATION

_UNFIT = 0x40 | 0x20 | 0x08  # tentative, deprecated, failed duplicate address detection
_ALL_NODES = "ff02::1"
_ALL_ROUTERS = "ff02::2"
# In 2000::/3 and assigned to nobody (RFC 4291 §2.4): a default route leads there, or 2000::/3.
_SOMEWHERE = "2000::"
_LARGEST_SOLICITATION = 2048  # bytes


def interface_state(name: str) -> InterfaceState | None:
    """The interface as it is now; None when it is not there or not up. Raises HostError."""
    with explaining(f"look at {name}"), IPRoute() as ipr:
        link = links.find_link(ipr, name=name)
        if link is None or not link.operational:
            return None
        addresses = tuple(
            IPv6Address(message.get_attr("IFA_ADDRESS"))
            for message in ipr.get_addr(family=AF_INET6, index=link.index)
            if message["index"] == link.index
            and not (message.get_attr("IFA_FLAGS") or message["flags"]) & _UNFIT
        )
        return InterfaceState(name, link.index, link.mac, addresses, _leads_out(ipr, link.index))


def _leads_out(ipr: IPRoute, index: int) -> bool:
    """Whether packets for the IPv6 internet leave through another interface.

    The kernel is asked for one route and never for all: a router may have a million.
    """
    try:
        messages = list(ipr.route("get", family=AF_INET6, dst=_SOMEWHERE, flags=RTM_F_FIB_MATCH))
    except NetlinkError:
        return False  # none, or one that says unreachable
    oifs = {message.get_attr("RTA_OIF") for message in messages}
    return bool(oifs - {index, None})


class RouterSocket:
    """Sends advertisements and receives solicitations on one interface. Close it after use."""

    def __init__(self, index: int, name: str) -> None:
        """Raises HostError."""
        with explaining(f"send router advertisements on {name}"):
            self._socket = Icmp6Socket(index, name, SOLICITATION)
            try:
                self._socket.join(_ALL_ROUTERS)
            except BaseException:
                self._socket.close()
                raise

    def close(self) -> None:
        self._socket.close()

    async def send(self, message: bytes) -> None:
        """Sends to all nodes of the link. Raises OSError."""
        await self._socket.send(message, _ALL_NODES)

    async def receive(self) -> tuple[bytes, int, IPv6Address]:
        """A solicitation: message, hop limit, source. Raises OSError."""
        return await self._socket.receive(_LARGEST_SOLICITATION)
