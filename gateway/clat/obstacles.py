"""What on this host would drop the CLAT's traffic, each with its remedy. Reads, never writes.

    this host's programs ───────────► tap0 ══ CLAT ══ tap0 ──forwarded, IPv6──► uplink
    lan0 ──forwarded, IPv4──────────►

Theory of operation. As gateway/host/checks.py, which it uses, for other paths: everything crosses
the host's forward chains once as IPv6, sessions begin towards the uplink, and what a LAN sends
crosses them as IPv4 before. Forwarding of interfaces is set by the CLAT itself (host_side.py), and
the answers to strict reverse path filtering are its own routes.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from ipaddress import IPv6Address, IPv6Network

from gateway.clat.uplink import look
from gateway.host import checks
from gateway.host.firewall import OTHER_DEVICE, Path


def obstacles(
    device: str,
    uplink: str,
    lan: Sequence[str],
    prefix: IPv6Network | None = None,
    addresses: Sequence[IPv6Address] = (),
) -> list[str]:
    """One line for each thing: what, why, remedy. What cannot be read is a line, too.

    `device`: where IPv4 goes; `uplink`: "" where it is not known; `prefix`, `addresses`: the
    PLAT's and the CLAT's, where they are known, make the firewall check more exact.
    """
    indexes = {name: index for index, name in socket.if_nameindex()}
    own: list[IPv6Network | None] = [IPv6Network(address) for address in addresses]
    paths = [
        Path(
            version=6,
            device=device,
            inbound=leaving,
            other=uplink or OTHER_DEVICE,
            established=not leaving,
            src=address if leaving else prefix,
            dst=prefix if leaving else address,
            indexes=indexes,
        )
        for address in own or [None]
        for leaving in (True, False)
    ]
    paths += [
        Path(
            version=4,
            device=device,
            inbound=not leaving,
            other=name,
            established=not leaving,
            indexes=indexes,
        )
        for name in lan
        for leaving in (True, False)
    ]
    return checks.firewall_drops(paths) + (checks.connection_tracking(0) if lan else [])


def obstacles_to_come(
    configured: str, device: str, lan: Sequence[str], prefix: IPv6Network | None
) -> list[str]:
    """The same before the CLAT has begun, `configured` being clat.uplink. Raises HostError."""
    uplink = look(configured, device, None).uplink
    return obstacles(device, configured if uplink is None else uplink.name, lan, prefix)
