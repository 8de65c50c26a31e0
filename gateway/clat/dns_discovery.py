"""Asks the host's resolvers for AAAA of ipv4only.arpa (RFC 7050 §3), again and again.

Theory of operation. The name has no AAAA of its own, so one that comes was made by a DNS64 in the
network's prefix (prefix_in_answers.py). The question leaves CD at 0, without which a DNS64 makes
nothing (RFC 7050 §3, RFC 6147 §3). It is asked again when the TTL of the answer is about to end.
A resolver that fails says nothing: it is asked again soon and more and more seldom, and what was
known stays. An answer without AAAA says that there is no DNS64, now.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import dns.asyncbackend
import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import trio

from gateway.clat.prefix_in_answers import NAME, prefixes_in
from gateway.dns64.upstream_config import UpstreamAddress, parse_resolv_conf

_log = logging.getLogger("gateway")

RESOLV_CONF = Path("/etc/resolv.conf")
ANSWER_WITHIN = 4.0  # seconds for one resolver
# Bounds of the time until the next question, in seconds: a TTL of 0 must not make a flood, and
# one of a week not keep a prefix that has long been given up.
SOONEST, LATEST = 30.0, 3600.0
RETRY_FIRST, RETRY_LATEST = 1.0, 60.0
NOTHING_AGAIN = 60.0  # seconds after an answer that there is none
BEFORE_END = 10.0  # seconds before the TTL ends


@dataclass(frozen=True, slots=True)
class Discovered:
    """One answer. `ttl` in seconds; without prefixes there is no DNS64."""

    prefixes: tuple[IPv6Network, ...]
    ttl: int = 0


class NoAnswer(Exception):
    """No resolver gave an answer that says anything; str() says what happened."""


Ask = Callable[[], Awaitable[Discovered]]

# What asking raises: the library, the kernel, TCP that ends early or is reset, and read_answer.
_FAILURES = (
    dns.exception.DNSException,
    OSError,
    EOFError,
    trio.BrokenResourceError,
    NoAnswer,
)


def resolvers(configured: Sequence[str]) -> list[UpstreamAddress]:
    """The configured ones, or those of resolv.conf(5) as it is now. Not those over TLS."""
    if configured:
        text = "".join(f"nameserver {item}\n" for item in configured)
    else:
        try:
            text = RESOLV_CONF.read_text(errors="replace")
        except OSError:
            return []
    return [item for item in parse_resolv_conf(text) if not item.tls]


async def ask_resolvers(configured: Sequence[str]) -> Discovered:
    """The first answer of the resolvers, in their order. Raises NoAnswer."""
    failures = []
    for resolver in resolvers(configured):
        try:
            return await _ask(resolver)
        except _FAILURES as error:
            failures.append(f"{resolver}: {error or type(error).__name__}")
    raise NoAnswer("; ".join(failures) or "no resolvers are known")


async def _ask(resolver: UpstreamAddress) -> Discovered:
    query = dns.message.make_query(NAME, dns.rdatatype.AAAA, use_edns=False)
    answer, _ = await dns.asyncquery.udp_with_fallback(
        query,
        resolver.address,
        timeout=ANSWER_WITHIN,
        port=resolver.port,
        backend=dns.asyncbackend.get_backend("trio"),
    )
    return read_answer(answer)


def read_answer(answer: dns.message.Message) -> Discovered:
    """What an answer says. Raises NoAnswer for one that says nothing."""
    code = answer.rcode()
    if code not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        raise NoAnswer(dns.rcode.to_text(code))
    addresses: list[IPv6Address] = []
    ttls: list[int] = []
    for rrset in answer.answer:
        # CNAME or not, and of whatever name: the address alone shows that it was made. Only in
        # the class IN does the type mean an address.
        if (rrset.rdclass, rrset.rdtype) == (dns.rdataclass.IN, dns.rdatatype.AAAA):
            addresses += [IPv6Address(item.address) for item in rrset]
            ttls.append(rrset.ttl)
    return Discovered(tuple(prefixes_in(addresses)), min(ttls, default=0))


async def follow(
    ask: Ask,
    wanted: Callable[[], bool],
    found: Callable[[tuple[IPv6Network, ...]], None],
    changed: Callable[[], trio.Event],
) -> None:
    """Tells `found` what the DNS says, until cancelled.

    `wanted()`: whether anybody needs it; asked about again when the event of `changed()` is set.
    """
    retry, complained = RETRY_FIRST, ""
    while True:
        event = changed()
        if not wanted():
            await event.wait()
            continue
        try:
            answer = await ask()
        except NoAnswer as error:
            if str(error) != complained:
                complained = str(error)
                _log.info("clat: nothing is known from the DNS: %s", error)
            await trio.sleep(retry)
            retry = min(2 * retry, RETRY_LATEST)
            continue
        retry, complained = RETRY_FIRST, ""
        found(answer.prefixes)
        await trio.sleep(seconds_until_next(answer))


def seconds_until_next(answer: Discovered) -> float:
    """When to ask again after an answer."""
    if not answer.prefixes:
        return NOTHING_AGAIN
    return min(max(answer.ttl - BEFORE_END, SOONEST), LATEST)
