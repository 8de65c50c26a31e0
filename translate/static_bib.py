"""Static BIB entries: mappings that the operator makes (RFC 6146 §3.1), e.g. port forwarding."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StaticEntry:
    """One mapping that is always there.

    `protocol`: 6, 17 or 1. `key4`: pool4 address and port (ICMP: identifier), 6 bytes.
    `key6`: IPv6 address and port of the server behind it, 18 bytes.
    """

    protocol: int
    key4: bytes
    key6: bytes
