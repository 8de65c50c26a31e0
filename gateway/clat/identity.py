"""The random bits of the CLAT's addresses: the same after a restart, unlike on other hosts.

As RFC 7217 §5 makes interface identifiers: a keyed hash of the /64, the interface and what the
address is for. The key is the machine's id (machine-id(5) asks that it be hashed and never shown);
without one the id of the boot, so that addresses are then stable until the next boot.
"""

from __future__ import annotations

import hashlib
import hmac
from ipaddress import IPv4Address, IPv6Network
from pathlib import Path

_IDS = (Path("/etc/machine-id"), Path("/proc/sys/kernel/random/boot_id"))
_PURPOSE = b"tap64 clat address 1"


def host_key() -> bytes:
    """What is hashed with; never empty."""
    for path in _IDS:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text and text != "uninitialized":
            return text.encode()
    return _PURPOSE


def bits_for(key: bytes, network: IPv6Network, interface: bytes, local4: IPv4Address) -> int:
    """48 bits for the address in the /64 that stands for `local4`. Pure.

    `interface`: the uplink's MAC, or its name where it has none.
    """
    message = b"\0".join((_PURPOSE, network.network_address.packed, interface, local4.packed))
    return int.from_bytes(hmac.digest(key, message, hashlib.sha256)[:6], "big")
