"""What the host set-up is told."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from gateway.tap import Kind


@dataclass(frozen=True)
class HostSpec:
    """The wish. `gateway_mac`: 6 bytes, of the gateway's own end; unused for a tun.

    `mtu` in bytes of IP packet; `pool4` are networks without host bits. `forwards`: pool ports
    that the same port of the host leads to, `tcp 192.0.0.6:80`; needs `masquerade`. `uplink`: pool4
    leaves through the backhaul alone (gateway/host/uplink.py). `device`: False where the backhaul's
    peer translates; then the prefixes have no way but the backhaul, and `tap` names the journal.
    `forwarding`: False where it is turned on only while it is needed (gateway/clat).
    """

    tap: str
    kind: Kind
    mtu: int
    gateway_mac: bytes
    prefixes: list[IPv6Network] = field(default_factory=list)
    pool4: list[IPv4Network] = field(default_factory=list)
    masquerade: bool = True
    run_dir: str = "/run/tap64"
    forwards: list[str] = field(default_factory=list)
    uplink: bool = False
    device: bool = True
    forwarding: bool = True
