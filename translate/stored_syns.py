"""SYNs from IPv4 that no mapping or filter lets in yet (RFC 6146 §3.5.2.2, CLOSED state).

Both ends may open a connection at once. The IPv4 side's SYN then comes before the client's has
made a session for it, and answering at once with an error would end the attempt. So it is kept
for TCP_INCOMING_SYN; if the client's SYN of the same 4-tuple comes in that time the connection
is established, else its sender is told that the port is unreachable. Where the client has no
mapping yet, and its own port is the one that the SYN is for, it gets just that: else the two would
never meet. Nobody learns a port by this that he did not guess.
"""

from __future__ import annotations

from collections import OrderedDict

from translate.packets import IPv4View, Packet


class StoredSyns:
    """Stored SYNs by their key4, the oldest first. All have the same lifetime (seconds)."""

    def __init__(self) -> None:
        self._stored: OrderedDict[bytes, tuple[float, Packet, IPv4View]] = OrderedDict()
        # (server address, both ports) to the pool address of the first one.
        self._aims: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._stored)

    def __contains__(self, key4: bytes) -> bool:
        return key4 in self._stored

    def add(self, key4: bytes, packet: Packet, view: IPv4View, now: float) -> None:
        """Keeps the first SYN of a 4-tuple; a retransmission changes nothing."""
        self._stored.setdefault(key4, (now, packet, view))
        self._aims.setdefault(key4[:4] + key4[8:], key4[4:8])

    def pool_address(self, server4: bytes, server_port: bytes, port: bytes) -> bytes | None:
        """The pool4 address that this server has sent a SYN to, for this port, or None."""
        return self._aims.get(server4 + server_port + port)

    def take(self, key4: bytes) -> bool:
        """Whether there was one, which is forgotten."""
        if self._stored.pop(key4, None) is None:
            return False
        self._forget_aim(key4)
        return True

    def _forget_aim(self, key4: bytes) -> None:
        aim = key4[:4] + key4[8:]
        if self._aims.get(aim) == key4[4:8]:
            del self._aims[aim]

    def pop_due(self, now: float, lifetime: float, limit: int) -> list[tuple[Packet, IPv4View]]:
        """At most `limit` that nobody has met within `lifetime`."""
        due: list[tuple[Packet, IPv4View]] = []
        while self._stored and len(due) < limit:
            key4, (since, packet, view) = next(iter(self._stored.items()))
            if since + lifetime > now:
                break
            del self._stored[key4]
            self._forget_aim(key4)
            due.append((packet, view))
        return due

    def deadline(self, lifetime: float) -> float | None:
        """When the oldest is due, or None when there is none."""
        for since, _, _ in self._stored.values():
            return since + lifetime
        return None
