"""Which interfaces live on router advertisements, and would lose them.

Theory of operation. Linux accepts router advertisements (RAs, RFC 4861 §4.2) on an interface
when its accept_ra is 2, or when it is 1 and the interface does not forward. Turning forwarding
on therefore costs every interface with accept_ra=1 the addresses and the default route that
it has from RAs, unless accept_ra is set to 2 first. accept_ra=0 says that nobody wants RAs or
that a program (systemd-networkd, NetworkManager) handles them itself; it stays.

An interface lives on RAs when the kernel notes that it received one (IF_RA_RCVD), when a route
of it has the protocol `ra`, or when an address of it has a lifetime (is not permanent). One
whose link-local address is still tentative came up a moment ago and has not asked for an RA
yet, so it is given the benefit of the doubt. An interface on which nothing was ever advertised
is left alone: it would start to believe any host on a network of clients.
"""

from __future__ import annotations

from socket import AF_INET6

from pyroute2 import IPRoute

from gateway.host import sysctl
from gateway.host.sysctl import Sysctl

IF_RA_RCVD = 0x20  # linux/net/if_inet6.h
IFA_F_TENTATIVE = 0x40
IFA_F_PERMANENT = 0x80
IFA_PROTO_KERNEL_RA = 2
RTPROT_RA = 9
_SCOPE_LINK = 253
_IFF_LOOPBACK = 0x8


def keep_accepting(device: str) -> Sysctl:
    """The change that lets the interface accept RAs while it forwards."""
    return Sysctl(key=sysctl.accept_ra(device), old="1", new="2")


def would_stop_accepting(device: str) -> bool:
    """Whether turning forwarding on would make the interface ignore RAs."""
    return (
        sysctl.read(sysctl.accept_ra(device)) == "1"
        and sysctl.read(f"ipv6/conf/{device}/forwarding") == "0"
    )


def stopped_accepting(device: str) -> bool:
    """Whether the interface ignores RAs because it forwards."""
    return (
        sysctl.read(sysctl.accept_ra(device)) == "1"
        and sysctl.read(f"ipv6/conf/{device}/forwarding") == "1"
    )


def interfaces_living_on_them(ipr: IPRoute) -> list[str]:
    """The names of the interfaces with something learnt from an RA, or just come up."""
    indexes = _with_learnt_address(ipr) | _with_learnt_route(ipr)
    names = []
    for message in ipr.get_links():
        if message["flags"] & _IFF_LOOPBACK:
            continue
        if message["index"] in indexes or _received_one(message):
            names.append(message.get("ifname"))
    return names


def _received_one(message: object) -> bool:
    spec = message.get_attr("IFLA_AF_SPEC")  # type: ignore[attr-defined]
    inet6 = spec.get_attr("AF_INET6") if spec is not None else None
    flags = inet6.get_attr("IFLA_INET6_FLAGS") if inet6 is not None else None
    return bool((flags or 0) & IF_RA_RCVD)


def _with_learnt_address(ipr: IPRoute) -> set[int]:
    found = set()
    for message in ipr.get_addr(family=AF_INET6):
        flags = message.get_attr("IFA_FLAGS") or message["flags"]
        learnt = message["scope"] != _SCOPE_LINK and not flags & IFA_F_PERMANENT
        learnt = learnt or message.get_attr("IFA_PROTO") == IFA_PROTO_KERNEL_RA
        just_up = message["scope"] == _SCOPE_LINK and flags & IFA_F_TENTATIVE
        if learnt or just_up:
            found.add(message["index"])
    return found


def _with_learnt_route(ipr: IPRoute) -> set[int]:
    found = set()
    for message in ipr.get_routes(family=AF_INET6, proto=RTPROT_RA):
        if message["proto"] != RTPROT_RA:
            continue
        oif = message.get_attr("RTA_OIF")
        if oif is not None:
            found.add(oif)
        for hop in message.get_attr("RTA_MULTIPATH") or ():
            found.add(hop["oif"])
    return found
