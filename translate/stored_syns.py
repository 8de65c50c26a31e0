"""SYNs from IPv4 that no mapping or filter lets in yet (RFC 6146 §3.5.2.2, CLOSED state).

Both ends may open a connection at once. The IPv4 side's SYN then comes before the client's has
made a session for it, and answering at once with an error would end the attempt. So it is kept
for TCP_INCOMING_SYN; if the client's SYN of the same 4-tuple comes in that time the connection
is established, else its sender is told that the port is unreachable.
"""

from __future__ import annotations

from collections import OrderedDict

from translate.packets import IPv4View, Packet


class StoredSyns:
    """Stored SYNs by their key4, the oldest first. All have the same lifetime (seconds)."""

    def __init__(self) -> None:
        self._stored: OrderedDict[bytes, tuple[float, Packet, IPv4View]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._stored)

    def __contains__(self, key4: bytes) -> bool:
        return key4 in self._stored

    def add(self, key4: bytes, packet: Packet, view: IPv4View, now: float) -> None:
        """Keeps the first SYN of a 4-tuple; a retransmission changes nothing."""
        self._stored.setdefault(key4, (now, packet, view))

    def take(self, key4: bytes) -> bool:
        """Whether there was one, which is forgotten."""
        return self._stored.pop(key4, None) is not None

    def pop_due(self, now: float, lifetime: float, limit: int) -> list[tuple[Packet, IPv4View]]:
        """At most `limit` that nobody has met within `lifetime`."""
        due: list[tuple[Packet, IPv4View]] = []
        while self._stored and len(due) < limit:
            key4, (since, packet, view) = next(iter(self._stored.items()))
            if since + lifetime > now:
                break
            del self._stored[key4]
            due.append((packet, view))
        return due

    def deadline(self, lifetime: float) -> float | None:
        """When the oldest is due, or None when there is none."""
        for since, _, _ in self._stored.values():
            return since + lifetime
        return None
