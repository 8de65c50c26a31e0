"""The command line of `gateway link`: its flags, and what they say once judged. Opens nothing."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, ip_interface

from gateway.backhaul.destination import (
    EndpointError,
    SshEndpoint,
    StdEndpoint,
    StreamEndpoint,
    parse_endpoint,
)

DESCRIPTION = """\
The far end of a link: joins a byte stream of Ethernet frames to a tap here, or two streams to each
other. The gateway's side is `gateway --backhaul ENDPOINT`. Everything is undone when it ends.

  exec:COMMAND                      standard input and output of /bin/sh -c COMMAND
  tcp://HOST:PORT tcp://[ADDR]:PORT connect
  listen:PORT listen:[ADDR]:PORT    wait for a connection; on loopback unless an address is given
  unix:PATH listen:unix:PATH        connect to, or wait at, a local socket
  pty: pty:LINK                     a new pseudo-terminal, LINK a symbolic link to it
  std:                              standard input and output

tcp: and listen: are neither authenticated nor encrypted.
"""
EPILOG = """\
Examples:
  gateway link listen:6464 --address 169.254.7.1/30 --pool4 192.0.0.6/32
      the far end of `gateway --backhaul tcp://...` that also routes pool4 back and masquerades
  gateway link exec:'ssh host gateway link std: --tap t0' --tap t1
  gateway link listen:6464 unix:/run/other
      passes the bytes on; needs no root
Signals: SIGTERM, SIGINT and SIGHUP end it, SIGUSR1 logs counters.
Exit status: 0 ended by a signal; 1 the link failed or ended and cannot or shall not be tried again;
78 mistake in the command line.
"""

_MTU = range(1280, 65522)  # bytes; RFC 8200 §5, and what a tap can have
_DEFAULT_MTU = 1500


class LinkMistake(ValueError):
    """The command line makes no sense. str() is one line."""


@dataclass(frozen=True, slots=True)
class LinkOptions:
    """One `gateway link`: an endpoint and a tap, or two endpoints.

    `pool4` is routed to `gateway4` and masqueraded; both are empty or None otherwise.
    """

    endpoints: tuple[StreamEndpoint, ...]
    tap: str = ""
    mtu: int = _DEFAULT_MTU
    addresses: tuple[IPv4Interface | IPv6Interface, ...] = ()
    pool4: tuple[IPv4Network, ...] = ()
    gateway4: IPv4Address | None = None
    masquerade: bool = True
    once: bool = False
    log_level: str = "info"

    @property
    def changes_host(self) -> bool:
        """Whether more than the tap itself is asked for."""
        return bool(self.addresses or self.pool4)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds what `gateway link` takes; the values stay text until `read_flags`."""
    parser.add_argument("link_endpoints", nargs="+", metavar="ENDPOINT", help="one, or two to join")
    add = parser.add_argument
    add("--tap", dest="link_tap", metavar="NAME", help="the tap (default: the first free tapN)")
    add("--mtu", dest="link_mtu", metavar="N", help="MTU of the tap in bytes (default: 1500)")
    add(
        "--address",
        dest="link_addresses",
        action="append",
        metavar="ADDR/LEN",
        help="address of the tap; repeatable",
    )
    add(
        "--pool4",
        dest="link_pool4",
        action="append",
        metavar="PREFIX",
        help="route the gateway's IPv4 addresses to it and masquerade them; repeatable",
    )
    add(
        "--gateway",
        dest="link_gateway",
        metavar="ADDR",
        help="with --pool4: the gateway's address on the link (default: the other one of a /30)",
    )
    add(
        "--no-masquerade",
        dest="link_masquerade",
        action="store_false",
        help="with --pool4: the addresses are routed to here, so nothing is masqueraded",
    )
    add(
        "--once",
        dest="link_once",
        action="store_true",
        help="end with the link (default: wait for the next far end, or connect again)",
    )
    add(
        "--log-level",
        dest="link_log_level",
        choices=("debug", "info", "warning", "error"),
        metavar="LEVEL",
        default="info",
        help="debug, info, warning or error (default: info)",
    )


def read_flags(found: argparse.Namespace) -> LinkOptions:
    """The options; raises LinkMistake."""
    endpoints = tuple(_endpoint(text) for text in found.link_endpoints)
    if len(endpoints) > 2:
        raise LinkMistake(f"{len(endpoints)} endpoints: give one, or two to join")
    if sum(isinstance(one, StdEndpoint) for one in endpoints) > 1:
        raise LinkMistake("std: can be one end only")
    options = LinkOptions(
        endpoints=endpoints,
        tap=found.link_tap or "",
        mtu=_mtu(found.link_mtu),
        addresses=tuple(_address(text) for text in found.link_addresses or ()),
        pool4=tuple(_network(text) for text in found.link_pool4 or ()),
        gateway4=_gateway(found.link_gateway),
        masquerade=found.link_masquerade,
        once=found.link_once,
        log_level=found.link_log_level,
    )
    if len(endpoints) == 2 and (options.tap or options.changes_host or found.link_mtu):
        raise LinkMistake("two endpoints are joined to each other: nothing of a tap goes with them")
    return _with_gateway(options, found.link_gateway, found.link_masquerade)


def _with_gateway(options: LinkOptions, gateway: str | None, masquerade: bool) -> LinkOptions:
    if not options.pool4:
        if gateway or not masquerade:
            raise LinkMistake("--gateway and --no-masquerade go with --pool4")
        return options
    ours = [one for one in options.addresses if isinstance(one, IPv4Interface)]
    if len(options.addresses) != 1 or len(ours) != 1:
        raise LinkMistake("--pool4 goes with one IPv4 --address, e.g. --address 169.254.7.1/30")
    network, own = ours[0].network, ours[0].ip
    found = options.gateway4
    if found is None:
        others = [host for host in network.hosts() if host != own] if network.prefixlen > 29 else []
        if len(others) != 1:
            raise LinkMistake(f"--gateway ADDR is needed: {network} leaves its address open")
        found = others[0]
    if found not in network or found == own:
        raise LinkMistake(f"--gateway {found} is no other host of {network}")
    return replace(options, gateway4=found)


def _endpoint(text: str) -> StreamEndpoint:
    try:
        endpoint = parse_endpoint(text)
    except EndpointError as error:
        raise LinkMistake(str(error)) from None
    if isinstance(endpoint, SshEndpoint):
        raise LinkMistake(
            f"{text}: no kind of stream; ssh can carry one by exec:'ssh {endpoint.target} gateway"
            " link std:'"
        )
    return endpoint


def _mtu(text: str | None) -> int:
    if text is None:
        return _DEFAULT_MTU
    if not (text.isascii() and text.isdecimal()) or int(text) not in _MTU:
        raise LinkMistake(f"--mtu {text}: {_MTU.start} to {_MTU.stop - 1} bytes is right")
    return int(text)


def _address(text: str) -> IPv4Interface | IPv6Interface:
    try:
        if "/" not in text:
            raise ValueError
        return ip_interface(text)
    except ValueError:
        raise LinkMistake(f"--address {text}: ADDRESS/LENGTH is right") from None


def _network(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except ValueError as error:
        raise LinkMistake(f"--pool4 {text}: {error}") from None


def _gateway(text: str | None) -> IPv4Address | None:
    try:
        return IPv4Address(text) if text else None
    except ValueError:
        raise LinkMistake(f"--gateway {text}: no IPv4 address") from None
