"""The host's own addresses, where the configuration leaves the choice to the host."""

from __future__ import annotations

from ipaddress import IPv6Address
from socket import AF_INET6

from pyroute2 import IPRoute

from gateway.host.netlink import explaining

_SCOPE_UNIVERSE = 0
# linux/if_addr.h: not usable yet, about to go, or failed duplicate address detection.
_UNFIT = 0x40 | 0x20 | 0x08


def global_address6() -> bytes | None:
    """A global IPv6 address of this host, 16 bytes; None when it has none. Raises HostError.

    A globally routed one before a unique local one; otherwise the lowest, so that the answer
    does not depend on the order in which interfaces came up.
    """
    with explaining("look at the host's addresses"), IPRoute() as ipr:
        found = [
            IPv6Address(message.get_attr("IFA_ADDRESS"))
            for message in ipr.get_addr(family=AF_INET6, scope=_SCOPE_UNIVERSE)
            if not (message.get_attr("IFA_FLAGS") or message["flags"]) & _UNFIT
        ]
    usable = [a for a in found if not a.is_loopback and not a.is_link_local and not a.is_multicast]
    best = min(usable, key=lambda address: (not address.is_global, address), default=None)
    return None if best is None else best.packed
