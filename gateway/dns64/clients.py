"""Who is answered, how often, and from which view: one state for each client address. Pure.

An IPv6 client is whoever may be a client of the translator (gateway/clients.py). Beyond that the
host itself is answered, and IPv4 hosts with private addresses, which can only be neighbours;
never the IPv4 internet, or this would be an open resolver. A token bucket for each address bounds
how much one client gets, and what can be reflected to a forged source. The table is bounded; at
its limit the address that has been silent longest is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from socket import socket
from typing import Any

from gateway.dns64.engine import View

RECHECK = 5.0  # seconds until admission is asked again, as routes may have changed

_NEIGHBOURS4 = tuple(
    IPv4Network(text)
    for text in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16")
)


class ClientState:
    """What is known of one client. `waiting`: its questions that are with the upstreams.

    `line`: its datagrams that wait for their turn (server.py).
    """

    __slots__ = ("allowed", "check_at", "connections", "line", "stamp", "tokens", "view", "waiting")

    def __init__(self, tokens: float, now: float) -> None:
        self.allowed = False
        self.check_at = 0.0
        self.view: View | None = None
        self.tokens = tokens
        self.stamp = now
        self.waiting = 0
        self.connections = 0
        self.line: deque[tuple[socket, Any, bytes, View]] = deque()


class ClientTable:
    """Client states by address, as the socket writes it. At most `limit` of them."""

    def __init__(
        self,
        admit: Callable[[bytes], bool],
        view_of: Callable[[bytes], View | None],
        *,
        limit: int,
        rate: float,
        burst: int,
    ) -> None:
        """`rate`: queries a second, 0 for any number; `burst`: at once after silence."""
        self._admit = admit
        self._view_of = view_of
        self._limit = limit
        self.rate = rate
        self.burst = float(burst)
        self.states: OrderedDict[str, ClientState] = OrderedDict()

    def get(self, host: str, now: float) -> ClientState:
        """The state of a client, its admission not older than RECHECK."""
        state = self.states.get(host)
        if state is None:
            state = self.states[host] = ClientState(self.burst, now)
            if len(self.states) > self._limit:
                self.states.popitem(last=False)
        else:
            self.states.move_to_end(host)
        if now >= state.check_at:
            state.check_at = now + RECHECK
            address = ip_address(host.partition("%")[0])
            state.allowed = self._is_allowed(address)
            state.view = self._view_of(address.packed)
        return state

    def take(self, state: ClientState, now: float) -> bool:
        """Whether the client may have one more answer now."""
        if not self.rate:
            return True
        tokens = min(self.burst, state.tokens + (now - state.stamp) * self.rate)
        state.stamp = now
        if tokens < 1.0:
            state.tokens = tokens
            return False
        state.tokens = tokens - 1.0
        return True

    def _is_allowed(self, address: IPv4Address | IPv6Address) -> bool:
        if address.is_loopback:
            return True  # the kernel lets none in from outside
        if isinstance(address, IPv4Address):
            return any(address in network for network in _NEIGHBOURS4)
        return self._admit(address.packed)
