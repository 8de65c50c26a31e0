"""The network of the CLAT's end-to-end tests, and what is to be seen of a CLAT from outside.

client ───v6──── (r6a ───) gateway ──── r4a ──── server
--mode clat                NAT64                 192.0.2.1
192.0.0.1, fd00:64::…      PLAT                  IPv4 only
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from ipaddress import IPv6Address

from tests.e2e.gateway_process import Gateway
from tests.e2e.namespaces import Lab, Namespace, wait_until
from tests.e2e.servers import HTTP_PORT
from tests.e2e.topology import GATEWAY6, SERVER4, Topology, line

PLAT = "2001:db8:64::/96"
OTHER_PLAT = "2001:db8:65::/96"
CLAT = ("--mode", "clat")
WHOAMI = f"http://{SERVER4}:{HTTP_PORT}/whoami"
UP = r"clat: up: .*"
PING = ("ping", "-n", "-c", "1", "-W", "3", SERVER4)

# Hosts of the CLAT are no routers and check sources strictly, as most distributions have it.
_HOST = {
    "ipv4__ip_forward": 0,
    "ipv4__conf__all__rp_filter": 1,
    "ipv4__conf__default__rp_filter": 1,
}


def network(lab: Lab, *, mtus6: tuple[int, ...] = (1500,), default: bool = True) -> Topology:
    """A row of hosts whose first has nothing but IPv6 and, with `default`, a default route."""
    topology = line(lab, mtus6=mtus6)
    topology.client.sysctl(**_HOST)
    for index, router in enumerate(topology.routers6, 1):
        via = f"fd00:64:0:{index:x}::1"
        router.ip("-6", "route", "add", PLAT, "via", via, "dev", "in")
    if default:
        add_default(topology.client)
    return topology


def add_default(client: Namespace) -> None:
    client.ip("-6", "route", "add", "default", "via", GATEWAY6, "dev", "v6")


def default4(namespace: Namespace) -> str:
    return namespace.ip("-4", "route", "show", "default")


def own_address(log: str) -> IPv6Address:
    """The CLAT's IPv6 address, as the last line about it says."""
    return IPv6Address(re.findall(r"clat: up: .*192\.0\.0\.1 is ([0-9a-f:]+),", log)[-1])


def states(log: str) -> list[str]:
    """What the CLAT was, in order: `up PREFIX`, or a word."""
    found = re.findall(r"clat: (?:(up): (\S+)|(down|standby|failed): )", log)
    return [f"{up} {prefix}" if up else word for up, prefix, word in found]


def proxies(namespace: Namespace) -> list[IPv6Address]:
    """The addresses that the kernel answers for on behalf of others."""
    found = json.loads(namespace.ip("-j", "-6", "neigh", "show", "proxy") or "[]")
    return [IPv6Address(entry["dst"]) for entry in found]


def say_until(say: Callable[[], None], clat: Gateway, pattern: str, after: int = 0) -> None:
    """Repeats an advertisement until the CLAT, which may not listen yet, says so."""

    def said() -> bool:
        say()
        return re.search(pattern, clat.log()[after:]) is not None

    wait_until(said, 15, f"the CLAT says {pattern!r}", interval=0.3)
