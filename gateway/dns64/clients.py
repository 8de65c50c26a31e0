"""Who is answered, how often, and from which view: a state for each address and network. Pure.

An IPv6 client is whoever may be a client of the translator (gateway/clients.py). Beyond that the
host itself is answered, and IPv4 hosts with private addresses, which can only be neighbours;
never the IPv4 internet, or this would be an open resolver. A token bucket for each address bounds
how much one client gets, and what can be reflected to a forged source.

An IPv6 host has as many addresses as it likes, all of them in one /64; but all hosts of a LAN share
one, too. So every limit of an address is kept, and a /64 as a whole has SHARE times as much, which
with the default limits is half of what there is for all. The table is bounded; at its limit the
address that has been silent longest is forgotten, and at a quarter of it that of the same /64, so
that nobody displaces his neighbours by making up addresses.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address
from socket import socket
from typing import Any

from gateway.dns64.engine import View

SHARE = 4  # limits of a /64, in those of one address
_TABLE_SHARE = 4  # a /64 has at most one part in so many of the table
RECHECK = 5.0  # seconds until admission is asked again, as routes may have changed

_NEIGHBOURS4 = tuple(
    IPv4Network(text)
    for text in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16")
)


class NetworkState:
    """What all clients of one /64 have together; of IPv4, one address. `in_line`: datagrams."""

    __slots__ = ("connections", "hosts", "in_line", "key", "stamp", "tokens", "waiting")

    def __init__(self, key: str | bytes, tokens: float, now: float) -> None:
        self.key = key
        self.hosts: OrderedDict[str, None] = OrderedDict()
        self.tokens = tokens
        self.stamp = now
        self.waiting = 0
        self.in_line = 0
        self.connections = 0


class ClientState:
    """What is known of one client. `waiting`: its questions that are with the upstreams.

    `line`: its datagrams that wait for their turn (server.py).
    """

    __slots__ = (
        "allowed",
        "check_at",
        "connections",
        "line",
        "network",
        "stamp",
        "tokens",
        "view",
        "waiting",
    )

    def __init__(self, network: NetworkState, tokens: float, now: float) -> None:
        self.network = network
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
        self._network_limit = max(1, limit // _TABLE_SHARE)
        self.rate = rate
        self.burst = float(burst)
        self._shared_rate = SHARE * rate
        self._shared_burst = SHARE * self.burst
        self.states: OrderedDict[str, ClientState] = OrderedDict()
        self._networks: dict[str | bytes, NetworkState] = {}

    def get(self, host: str, now: float) -> ClientState:
        """The state of a client, its admission not older than RECHECK."""
        state = self.states.get(host)
        if state is None:
            state = self._add(host, now)
        else:
            self.states.move_to_end(host)
            state.network.hosts.move_to_end(host)
        if now >= state.check_at:
            state.check_at = now + RECHECK
            address = ip_address(host.partition("%")[0])
            state.allowed = self._is_allowed(address)
            state.view = self._view_of(address.packed)
        return state

    def _add(self, host: str, now: float) -> ClientState:
        key = _network_of(host)
        network = self._networks.get(key)
        if network is None:
            network = self._networks[key] = NetworkState(key, self._shared_burst, now)
        elif len(network.hosts) >= self._network_limit:
            self._forget(next(iter(network.hosts)), keep=network)
        if len(self.states) >= self._limit:
            self._forget(next(iter(self.states)), keep=network)
        network.hosts[host] = None
        state = self.states[host] = ClientState(network, self.burst, now)
        return state

    def _forget(self, host: str, *, keep: NetworkState) -> None:
        """Drops an address, and its network with the last one; not the network `keep`."""
        network = self.states.pop(host).network
        del network.hosts[host]
        if not network.hosts and network is not keep:
            del self._networks[network.key]

    def take(self, state: ClientState, now: float) -> bool:
        """Whether the client may have one more answer now, and its network, too."""
        rate = self.rate
        if not rate:
            return True
        # Without min(), as this is asked for every datagram.
        tokens = state.tokens + (now - state.stamp) * rate
        if tokens > self.burst:  # noqa: PLR1730
            tokens = self.burst
        network = state.network
        shared = network.tokens + (now - network.stamp) * self._shared_rate
        if shared > self._shared_burst:  # noqa: PLR1730
            shared = self._shared_burst
        state.stamp = network.stamp = now
        taken = tokens >= 1.0 and shared >= 1.0
        state.tokens = tokens - taken
        network.tokens = shared - taken
        return taken

    def _is_allowed(self, address: IPv4Address | IPv6Address) -> bool:
        if address.is_loopback:
            return True  # the kernel lets none in from outside
        if isinstance(address, IPv4Address):
            return any(address in network for network in _NEIGHBOURS4)
        return self._admit(address.packed)


def _network_of(host: str) -> str | bytes:
    """What a client's addresses have in common: a /64, on one link where it is link-local."""
    if ":" not in host:
        return host
    address, _, zone = host.partition("%")
    return ip_address(address).packed[:8] + zone.encode()
