"""Router advertisements made by hand, right and wrong ones (RFC 4861 §4.2, RFC 8781 §4).

A `Router` is a device of a namespace that says them, with whatever source, hop limit and options.
"""

from __future__ import annotations

import json
import struct
import sys
from ipaddress import IPv6Network
from pathlib import Path

from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_RA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.e2e.namespaces import Namespace

# RFC 8781 §4: the prefix length code of a /96.
PLC_96 = 0


def pref64(prefix: str, lifetime: int, *, code: int = PLC_96) -> bytes:
    """The PREF64 option; `lifetime` in seconds, a multiple of 8."""
    head = IPv6Network(prefix).network_address.packed[:12]
    return struct.pack(">BBH12s", 38, 2, lifetime // 8 << 3 | code, head)


def on_link(prefix: str, valid: int, preferred: int) -> bytes:
    """Prefix information for a /64 in which hosts make addresses (RFC 4861 §4.6.2)."""
    network = IPv6Network(prefix).network_address.packed
    return struct.pack(">BBBBIII16s", 3, 4, 64, 0xC0, valid, preferred, 0, network)


class Router:
    """Says router advertisements out of a device."""

    def __init__(self, namespace: Namespace, device: str) -> None:
        self._namespace = namespace
        self._device = device
        (shown,) = json.loads(namespace.ip("-j", "addr", "show", "dev", device))
        self._mac = shown["address"]
        self.address = next(
            address["local"]
            for address in shown["addr_info"]
            if address["family"] == "inet6" and address["scope"] == "link"
        )

    def frame(
        self, *options: bytes, lifetime: int = 0, source: str = "", hop_limit: int = 255, **fields
    ) -> bytes:
        """One frame. `lifetime`: as a default router, in seconds; `fields`: of the message."""
        message = ICMPv6ND_RA(chlim=64, routerlifetime=lifetime, **fields)
        header = IPv6(src=source or self.address, dst="ff02::1", hlim=hop_limit)
        link = Ether(src=self._mac, dst="33:33:00:00:00:01")
        return bytes(link / header / message / Raw(b"".join(options)))

    def claim(self, address: str) -> bytes:
        """A frame that says to all nodes who has an address (RFC 4861 §7.2.6)."""
        message = ICMPv6ND_NA(tgt=address, R=0, S=0, O=1) / ICMPv6NDOptDstLLAddr(lladdr=self._mac)
        header = IPv6(src=self.address, dst="ff02::1", hlim=255)
        return bytes(Ether(src=self._mac, dst="33:33:00:00:00:01") / header / message)

    def send(self, *frames: bytes) -> None:
        """Sends them as they are, in their order."""
        script = str(Path(__file__).with_name("raw_frames.py"))
        lines = "".join(f"{frame.hex()}\n" for frame in frames)
        sent = self._namespace.run(sys.executable, script, self._device, stdin=lines).out
        assert int(sent) == len(frames)

    def say(self, *options: bytes, lifetime: int = 0) -> None:
        """One valid advertisement."""
        self.send(self.frame(*options, lifetime=lifetime))
