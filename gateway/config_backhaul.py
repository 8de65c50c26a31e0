"""[backhaul]: where the translated packets go when this host has no IPv4 of its own.

`backhaul = "root@peer"` and `backhaul = ["root@a", "root@b"]` are shorthands for a table with
nothing but `to`. Destinations are read here as text; gateway/backhaul/destination.py knows their
kinds. Nothing here looks at the host.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv4Network, IPv6Network
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from gateway.backhaul.destination import EndpointError, parse_endpoint
from gateway.backhaul.ssh_command import refused_option
from gateway.config_values import BadValue, parse_items, parse_network6, shown, type_name

# One frame is one SSH packet, and OpenSSH reads 16 KiB of its tap at once: 14 bytes of Ethernet
# header and this much. A larger frame is cut and lost without a word.
MAX_MTU = 16_370

_LINK_LOCAL4 = IPv4Network("169.254.0.0/16")
_Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


def parse_to(value: Any) -> tuple[str, ...]:
    """Destinations in the order in which they are tried."""
    example = '"root@peer.example"'
    found = parse_items(value, "destinations", example, _parse_destination)
    twice = sorted({text for text in found if found.count(text) > 1})
    if twice:
        raise BadValue(*(f"{shown(text)} is there twice; once is right" for text in twice))
    return tuple(found)


def _parse_destination(text: str) -> str:
    try:
        parse_endpoint(text)
    except EndpointError as error:
        raise BadValue(str(error)) from None
    return text


def parse_strings(value: Any) -> tuple[str, ...]:
    """A list of strings, each of them one argument."""
    if not isinstance(value, list | tuple):
        raise BadValue(
            f"{shown(value)} is {type_name(value)}; a list of strings, one for each argument, is"
            ' right, e.g. ["-p", "2222"]'
        )
    wrong = [item for item in value if not isinstance(item, str) or "\0" in item or "\n" in item]
    if wrong:
        raise BadValue(*(f"{shown(item)}; a string on one line is right" for item in wrong))
    return tuple(value)


def parse_addresses(value: Any) -> tuple[IPv4Interface, IPv4Interface] | None:
    """`LOCAL/LENGTH REMOTE`, None for "" (chosen by ourselves)."""
    right = 'our address with its length and the peer\'s, e.g. "169.254.64.2/30 169.254.64.1"'
    if not isinstance(value, str):
        raise BadValue(f"{shown(value)} is {type_name(value)}; {right}, is right")
    words = value.split()
    if not words:
        return None
    try:
        one, other = words
        local = IPv4Interface(one)
        remote = IPv4Interface(f"{other.partition('/')[0]}/{local.network.prefixlen}")
    except ValueError:
        raise BadValue(f"{shown(value)} cannot be used; {right}, is right") from None
    if remote.network != local.network or remote.ip == local.ip or local.network.prefixlen > 31:
        raise BadValue(f"{shown(value)}: they must be two addresses of one network; {right}")
    return local, remote


def parse_clients6(value: Any) -> tuple[IPv6Network, ...]:
    """Prefixes of IPv6 clients, which the far end routes back to us."""
    return tuple(parse_items(value, "prefixes", '"2001:db8:1::/48"', parse_network6))


def parse_user(value: Any) -> str:
    """A login name; "" is the gateway's own."""
    if not isinstance(value, str) or any(c.isspace() or c in ":\0" for c in value):
        raise BadValue(f"{shown(value)} is no login name; one of this host's users is right")
    return value


def parse_masquerade(value: Any) -> Literal["auto"] | bool:
    """Whether the peer's own address replaces the pool's."""
    if value == "auto" or isinstance(value, bool):
        return value  # type: ignore[no-any-return]
    raise BadValue(f'{shown(value)} is no choice; "auto", true or false is right')


class BackhaulTable(BaseModel):
    """[backhaul]. Without `to` there is none, and the other keys mean nothing."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    to: Annotated[tuple[str, ...], PlainValidator(parse_to)] = ()
    user: Annotated[str, PlainValidator(parse_user)] = ""
    ssh_options: Annotated[tuple[str, ...], PlainValidator(parse_strings)] = ()
    control_path: str = ""
    mtu: Annotated[int, Field(ge=1280, le=MAX_MTU)] = 1500
    linger: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)] = 300.0
    heartbeat: Annotated[float, Field(ge=1, le=3_600, allow_inf_nan=False)] = 10.0
    probe_interval: Annotated[float, Field(ge=0.1, le=60, allow_inf_nan=False)] = 1.0
    probes_missed: Annotated[int, Field(ge=1, le=100)] = 3
    addresses: Annotated[
        tuple[IPv4Interface, IPv4Interface] | None, PlainValidator(parse_addresses)
    ] = None
    masquerade: Annotated[Literal["auto"] | bool, PlainValidator(parse_masquerade)] = "auto"
    carries: Literal["ipv4", "ipv6"] = "ipv4"
    clients6: Annotated[tuple[IPv6Network, ...], PlainValidator(parse_clients6)] = ()
    return_after: Annotated[float, Field(ge=0, le=31_536_000, allow_inf_nan=False)] = 0.0
    peer_setup: bool = True
    remote_device: Annotated[int, Field(ge=-1, le=2_147_483_646)] = -1


def table_of(value: Any) -> Any:
    """The table for a shorthand; anything else as it is."""
    return {"to": value} if isinstance(value, str | list) else value


def find_backhaul_faults(
    table: BackhaulTable, masquerade: object, device: str
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Contradictions with and within [backhaul]: the keys, and what is wrong."""
    if not table.to:
        return
    if masquerade is True:
        yield (
            ("masquerade", "backhaul.to"),
            "true does not go with a backhaul, whose peer masquerades; auto or false is right,"
            " and backhaul.masquerade for the peer",
        )
    if table.addresses is not None:
        for interface in table.addresses:
            if interface.is_loopback or interface.is_multicast or interface.is_unspecified:
                yield (
                    ("backhaul.addresses",),
                    f"{interface.ip} is no address of a link; one of {_LINK_LOCAL4} is right",
                )
    if not table.peer_setup and table.remote_device < 0 and not table.control_path:
        yield (
            ("backhaul.remote_device", "backhaul.peer_setup"),
            "a peer that was prepared by hand has one device; its number is right",
        )
    if refused := refused_option(table.ssh_options):
        yield (("backhaul.ssh_options",), refused)
    if table.control_path and len(table.to) > 1:
        yield (
            ("backhaul.control_path", "backhaul.to"),
            "one connection leads to one destination; a single one is right",
        )
    if table.clients6 and table.carries == "ipv4":
        yield (
            ("backhaul.clients6", "backhaul.carries"),
            'only a peer that translates needs them; empty is right, or carries = "ipv6"',
        )
    if table.carries == "ipv6" and device == "tun":
        yield (
            ("device", "backhaul.carries"),
            "the peer translates and this host has no device of its own; the default is right",
        )
