"""Packets from IPv4: which session they belong to, or why to none (RFC 6146 §3.4, §3.5)."""

from __future__ import annotations

from translate.addresses import is_unicast4
from translate.core import Core
from translate.from_v6 import FIRST_TIMER
from translate.headers import build_ipv6
from translate.icmp import ERRORS4, Icmp4
from translate.icmp_errors import Flow, error_4_to_6, flow_of
from translate.outgoing import check_offload, to_v6
from translate.packets import IPv4View, Packet, Protocol, parse_ipv4
from translate.reasons import Discard, Reason
from translate.sessions import Session
from translate.tcp_states import SYN, State, event
from translate.transport import check_header, fill_checksum

_TRANSLATED4 = frozenset({Protocol.TCP, Protocol.UDP, Protocol.ICMP})
_ECHOES4 = frozenset({Icmp4.ECHO, Icmp4.ECHO_REPLY})
_SOURCE_ROUTES = frozenset({131, 137})


class FromV4:
    """The steps for a packet from a server."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def translate(self, packet: Packet, now: float) -> list[Packet]:
        """What has to be sent for one IPv4 packet. Raises Discard."""
        core = self._core
        view = parse_ipv4(packet.data)
        if not core.state.in_pool4(view.dst):
            raise Discard(Reason.NOT_OURS)
        is_error = (
            view.protocol == Protocol.ICMP and bool(view.payload) and (view.payload[0] in ERRORS4)
        )
        if not is_unicast4(view.src) and not is_error:
            raise Discard(Reason.SOURCE_INVALID)
        self._check_headers(packet, view, now)
        if view.ttl <= 1:
            answer = core.errors.to_v4(packet, view, Icmp4.TIME_EXCEEDED, 0, now)
            raise Discard(Reason.HOP_LIMIT, answer)
        if is_error:
            return self._error(view)
        if view.protocol == Protocol.ICMP and view.payload[0] not in _ECHOES4:
            raise Discard(Reason.ICMP_TYPE)
        port_at, size = (4, 2) if view.protocol == Protocol.ICMP else (0, 4)
        key4 = view.src + view.dst + view.payload[port_at : port_at + size]
        session = core.state.flows[view.protocol].find4(key4)
        if session is None:
            session = self._new_session(packet, view, now)
        if view.protocol == Protocol.TCP:
            core.state.update_tcp(session, event(view.payload[13], from_v6=False), now)
        else:
            session.last = now
        return to_v6(core, session, packet, view)

    def _check_headers(self, packet: Packet, view: IPv4View, now: float) -> None:
        errors = self._core.errors
        if view.options and _has_unexpired_source_route(view.options):
            # RFC 7915 §4.1: source route failed.
            answer = errors.to_v4(packet, view, Icmp4.UNREACHABLE, 5, now)
            raise Discard(Reason.SOURCE_ROUTE, answer)
        if view.fragment is not None:
            raise Discard(Reason.FRAGMENT)
        if view.protocol not in _TRANSLATED4:
            answer = errors.to_v4(packet, view, Icmp4.UNREACHABLE, 2, now)
            raise Discard(Reason.UNKNOWN_PROTOCOL, answer)
        check_header(view.protocol, view.payload)
        check_offload(packet, view.protocol)

    def _new_session(self, packet: Packet, view: IPv4View, now: float) -> Session:
        """The session for a packet from a server that its client has not written to yet.

        Needs a mapping; who may use it is the filtering policy (RFC 6146 §3.5.1.2, §3.5.2.2,
        §3.5.3).
        """
        core, protocol = self._core, Protocol(view.protocol)
        port = view.payload[4:6] if protocol == Protocol.ICMP else view.payload[2:4]
        entry = core.state.bib4[protocol].get(view.dst + port)
        if entry is None:
            if protocol == Protocol.TCP and not view.payload[13] & SYN:
                raise Discard(Reason.NO_MAPPING)
            answer = core.errors.to_v4(packet, view, Icmp4.UNREACHABLE, 1, now)
            raise Discard(Reason.NO_MAPPING, answer)
        if entry.servers is not None and view.src not in entry.servers:
            raise Discard(Reason.FILTERED)
        prefix = core.settings.prefixes[0]
        refusal = core.policy.refusal(view.src, prefix)
        if refusal is not None:
            raise Discard(refusal)
        key6 = entry.key6[:16] + prefix.embed(view.src) + entry.key6[16:18]
        if protocol != Protocol.ICMP:
            key6 += view.payload[0:2]
        if protocol == Protocol.TCP and not view.payload[13] & SYN:
            # RFC 6146 §3.5.2.2, CLOSED: passes through the mapping, starts no session.
            return core.state.passing(entry, key6, view.src, now)
        session = core.state.add_session(entry, key6, view.src, FIRST_TIMER[protocol], now)
        session.state = State.V4_INIT if protocol == Protocol.TCP else State.ESTABLISHED
        if protocol != Protocol.TCP:
            core.state.flows[protocol].install(session)
        return session

    def _error(self, view: IPv4View) -> list[Packet]:
        """An ICMPv4 error towards a client (RFC 7915 §4.2, RFC 6146 §3.5)."""
        message, flow = error_4_to_6(view, self._flow_by_key4, mtu6=self._core.settings.mtu)
        src6 = self._router6(view.src, flow)
        payload = bytearray(message)
        fill_checksum(Protocol.ICMPV6, payload, src6, flow.client6)
        data = build_ipv6(
            traffic_class=view.tos,
            hop_limit=view.ttl - 1,
            protocol=Protocol.ICMPV6,
            src=src6,
            dst=flow.client6,
            payload=bytes(payload),
        )
        client = self._core.state.clients.get(flow.client6)
        return [Packet(data, link=client.link if client else b"")]

    def _router6(self, router4: bytes, flow: Flow) -> bytes:
        """The IPv6 source of an error from this IPv4 router.

        The server itself appears in the form the client knows. An address that no IPv6
        packet may come from is replaced by the translator's own (RFC 6791 §4).
        """
        if router4 == flow.server4:
            return flow.server6
        prefix = self._core.prefix_of(flow.server6)
        if prefix is None or self._core.policy.refusal(router4, prefix) is not None:
            return self._core.settings.icmp6_source
        return prefix.embed(router4)

    def _flow_by_key4(self, protocol: int, key4: bytes) -> Flow:
        session = self._core.state.flows[protocol].find4(key4)
        if session is None:
            raise Discard(Reason.NO_SESSION)
        return flow_of(session)


def _has_unexpired_source_route(options: bytes) -> bool:
    """Whether a loose or strict source route has hops left (RFC 791 §3.1)."""
    at = 0
    while at < len(options):
        kind = options[at]
        if kind == 0:
            return False
        if kind == 1:
            at += 1
            continue
        if at + 1 >= len(options) or options[at + 1] < 2:
            return False
        if kind in _SOURCE_ROUTES and at + 2 < len(options):
            return options[at + 2] <= options[at + 1]
        at += options[at + 1]
    return False
