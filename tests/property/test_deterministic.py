"""RFC 7422: ports of a subscriber and subscriber of a port are inverse to each other."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from translate.deterministic import Plan, Subscribers

NETWORKS = [IPv4Network("198.51.100.0/30"), IPv4Network("203.0.113.7/32")]


@st.composite
def plans(draw):
    length = draw(st.integers(40, 128))
    bits = draw(st.integers(0, 8))
    prefix = IPv6Network(("2001:db8::", length - bits), strict=False)
    networks = draw(st.sampled_from([NETWORKS[:1], NETWORKS[1:], NETWORKS, NETWORKS[::-1]]))
    first = draw(st.sampled_from([1024, 2000]))
    last = first + draw(st.integers(0, 700))
    return Subscribers(prefix, length), networks, first, last


@given(plans())
def test_ports_and_subscribers_are_inverse(given_plan):
    subscribers, networks, first, last = given_plan
    plan = Plan(*given_plan)
    addresses = [a.packed for network in networks for a in network]
    owner: dict = {}
    for home in subscribers.prefix.subnets(new_prefix=subscribers.length):
        ports = plan.ports_of(home.network_address.packed)
        assert ports == plan.ports_of(home.broadcast_address.packed), "all hosts alike"
        if ports is None:
            # RFC 7422 §2: only where there are more subscribers on an address than ports.
            assert -(-subscribers.count // len(addresses)) > last - first + 1
            continue
        assert first <= ports.first <= ports.last <= last
        assert ports.addr4 in addresses
        for port in range(ports.first, ports.last + 1):
            assert owner.setdefault((ports.addr4, port), home) == home, "nobody else's"
    for addr4 in addresses:
        for port in range(first - 1, last + 2):
            assert plan.client_of(addr4, port) == owner.get((addr4, port))


@given(plans(), st.ip_addresses(v=6), st.integers(0, 65535))
def test_strangers_have_nothing(given_plan, address, port):
    plan = Plan(*given_plan)
    if address not in given_plan[0].prefix:
        assert plan.ports_of(address.packed) is None
    assert plan.client_of(b"\x0a\0\0\1", port) is None


def test_worked_example():
    """Four homes, two addresses: two on each, half of the ports each."""
    homes = Subscribers(IPv6Network("2001:db8::/62"), 64)
    plan = Plan(homes, [IPv4Network("198.51.100.8/31")], 1024, 65535)
    ports = plan.ports_of(bytes.fromhex("20010db8000000030000000000000001"))
    assert ports is not None
    assert (ports.addr4, ports.first, ports.last) == (b"\xc6\x33\x64\x09", 33280, 65535)
    assert plan.client_of(b"\xc6\x33\x64\x09", 33279) == IPv6Network("2001:db8:0:2::/64")
