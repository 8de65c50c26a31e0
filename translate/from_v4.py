"""Packets from IPv4: which session they belong to, or why to none (RFC 6146 §3.4, §3.5)."""

from __future__ import annotations

from typing import NoReturn

from translate.addresses import is_unicast4
from translate.checksum import ones_sum
from translate.core import Core
from translate.fragments import Datagram, reassemble
from translate.from_v6 import FIRST_TIMER
from translate.headers import build_ipv4, build_ipv6
from translate.icmp import ERRORS4, Icmp4
from translate.icmp_errors import Flow, error_4_to_6, flow_of, seal
from translate.outgoing import check_offload, piece_to_v6, to_v6, traffic_class6
from translate.packets import IPv4View, Packet, Protocol, parse_ipv4
from translate.reasons import Discard, Reason
from translate.sessions import Session
from translate.settings import ZeroChecksum
from translate.tcp_states import ACK, State, event, is_syn
from translate.transport import check_first_fragment, check_header

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
        if core.settings.verify_header4:
            verify_header(packet, view)
        is_error = (
            view.protocol == Protocol.ICMP and bool(view.payload) and (view.payload[0] in ERRORS4)
        )
        if not is_unicast4(view.src) and not is_error:
            raise Discard(Reason.SOURCE_INVALID)
        self._check_headers(packet, view, now)
        if view.ttl <= 1:
            answer = core.errors.to_v4(packet, view, Icmp4.TIME_EXCEEDED, 0, now)
            raise Discard(Reason.HOP_LIMIT, answer)
        if view.fragment is not None:
            return self._fragment(packet, view, now)
        check_header(view.protocol, view.payload)
        if is_error:
            return self._error(packet, view)
        if has_no_checksum(packet, view):
            self._zero_checksum(packet, view, now)
        session = self._session(packet, view, now)
        return to_v6(core, session, packet, view)

    def _session(self, packet: Packet, view: IPv4View, now: float) -> Session:
        """The session of a packet with a transport header, updated by it. Raises Discard."""
        core = self._core
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
        return session

    def _zero_checksum(self, packet: Packet, view: IPv4View, now: float) -> None:
        """Raises Discard where UDP without a checksum is not wanted (RFC 7915 §4.5)."""
        mode = self._core.settings.udp_zero_checksum
        if mode is ZeroChecksum.DROP:
            raise Discard(Reason.UDP_ZERO_CHECKSUM)
        if mode is ZeroChecksum.REJECT:
            answer = self._core.errors.to_v4(packet, view, Icmp4.UNREACHABLE, 13, now)
            raise Discard(Reason.UDP_ZERO_CHECKSUM, answer)

    # -- fragments ------------------------------------------------------------------------

    def _fragment(self, packet: Packet, view: IPv4View, now: float) -> list[Packet]:
        """What can be sent once this piece is here too (RFC 6146 §3.4)."""
        if packet.partial:
            # Who cuts a datagram has completed its checksum before.
            raise Discard(Reason.MALFORMED)
        table = self._core.fragments4
        assert view.fragment is not None
        ident = view.fragment.ident.to_bytes(2, "big")
        key = view.src + view.dst + bytes((view.protocol,)) + ident
        datagram = table.add(key, view.src, view, now)
        out: list[Packet] = []
        if datagram.session is not None:
            out = self._piece(datagram.session, view, now)
        elif view.fragment.offset:
            table.hold(datagram, view)
        else:
            try:
                out = self._first_fragment(packet, view, datagram, now)
            except Discard as discard:
                table.give_up(datagram, discard.reason)
                raise
        if datagram.is_complete:
            held = table.release(datagram)
            table.forget(datagram)
            if datagram.is_whole:
                return self._whole(view, held, now)
        elif not out:
            raise Discard(Reason.FRAGMENT_HELD)
        return out

    def _first_fragment(
        self, packet: Packet, view: IPv4View, datagram: Datagram[IPv4View], now: float
    ) -> list[Packet]:
        table = self._core.fragments4
        check_first_fragment(view.protocol, view.payload)
        zero = has_no_checksum(packet, view)
        if zero:
            self._zero_checksum(packet, view, now)
        calculate = self._core.settings.udp_zero_checksum is ZeroChecksum.CALCULATE
        if view.protocol == Protocol.ICMP or (zero and calculate):
            datagram.is_whole = True
            table.hold(datagram, view)
            return []
        session = self._session(packet, view, now)
        out = to_v6(self._core, session, packet, view)
        table.settle(datagram, session)
        for held in table.release(datagram):
            out += self._piece(session, held, now)
        return out

    def _piece(self, session: Session, view: IPv4View, now: float) -> list[Packet]:
        session.last = now
        return piece_to_v6(self._core, session, view)

    def _whole(self, view: IPv4View, held: list[IPv4View], now: float) -> list[Packet]:
        """A datagram that had to be put together; translating it cuts it again."""
        assert view.fragment is not None
        data = build_ipv4(
            tos=view.tos,
            ident=view.fragment.ident,
            df=False,
            fragment=None,
            ttl=min(piece.ttl for piece in held),
            protocol=view.protocol,
            src=view.src,
            dst=view.dst,
            payload=reassemble(held),
        )
        return self.translate(Packet(data), now)

    # -- the steps ------------------------------------------------------------------------

    def _check_headers(self, packet: Packet, view: IPv4View, now: float) -> None:
        errors = self._core.errors
        if view.options and has_unexpired_source_route(view.options):
            # RFC 7915 §4.1: source route failed.
            answer = errors.to_v4(packet, view, Icmp4.UNREACHABLE, 5, now)
            raise Discard(Reason.SOURCE_ROUTE, answer)
        if view.protocol == Protocol.IGMP:
            # RFC 7915 §4.2: dropped in silence.
            raise Discard(Reason.ICMP_TYPE)
        if view.protocol not in _TRANSLATED4:
            answer = errors.to_v4(packet, view, Icmp4.UNREACHABLE, 2, now)
            raise Discard(Reason.UNKNOWN_PROTOCOL, answer)
        check_offload(packet, view.protocol)

    def _new_session(self, packet: Packet, view: IPv4View, now: float) -> Session:
        """The session for a packet from a server that its client has not written to yet.

        Needs a mapping; who may use it is the filtering policy (RFC 6146 §3.5.1, §3.5.2.2,
        §3.5.3).
        """
        core, protocol = self._core, Protocol(view.protocol)
        port = view.payload[4:6] if protocol == Protocol.ICMP else view.payload[2:4]
        entry = core.state.bib4[protocol].get(view.dst + port)
        if entry is None:
            if protocol == Protocol.TCP:
                self._store_syn(packet, view, Reason.NO_MAPPING, now)
            answer = core.errors.to_v4(packet, view, Icmp4.UNREACHABLE, 1, now)
            raise Discard(Reason.NO_MAPPING, answer)
        if entry.servers is not None and view.src not in entry.servers:
            if protocol == Protocol.TCP:
                self._store_syn(packet, view, Reason.FILTERED, now)
            self._refuse(Reason.FILTERED, packet, view, now)
        prefix = core.settings.prefixes[0]
        refusal = core.policy.refusal(view.src, prefix)
        if refusal is Reason.PRIVATE_UNDER_WKP:
            self._refuse(refusal, packet, view, now)
        if refusal is not None:
            raise Discard(refusal)
        key6 = entry.key6[:16] + prefix.embed(view.src) + entry.key6[16:18]
        if protocol != Protocol.ICMP:
            key6 += view.payload[0:2]
        if protocol == Protocol.TCP and not is_syn(view.payload[13]):
            # RFC 6146 §3.5.2.2, CLOSED: passes through the mapping, starts no session.
            return core.state.passing(entry, key6, view.src, now)
        session = core.state.add_session(entry, key6, view.src, FIRST_TIMER[protocol], now)
        session.state = State.V4_INIT if protocol == Protocol.TCP else State.ESTABLISHED
        return session

    def _refuse(self, reason: Reason, packet: Packet, view: IPv4View, now: float) -> NoReturn:
        """Discards with the code that RFC 7915 §4.4 has for what it names no other for."""
        answer = self._core.errors.to_v4(packet, view, Icmp4.UNREACHABLE, 13, now)
        raise Discard(reason, answer)

    def _store_syn(self, packet: Packet, view: IPv4View, reason: Reason, now: float) -> NoReturn:
        """Keeps a SYN that may meet one of a client's; discards anything else for `reason`."""
        core = self._core
        flags = view.payload[13]
        if not is_syn(flags) or flags & ACK:
            raise Discard(reason)
        key4 = view.src + view.dst + view.payload[0:4]
        if key4 not in core.syns:
            if len(core.syns) >= core.settings.limits.stored_syns:
                raise Discard(Reason.SYN_LIMIT)
            core.syns.add(key4, packet, view, now)
        raise Discard(Reason.SYN_STORED)

    def _error(self, packet: Packet, view: IPv4View) -> list[Packet]:
        """An ICMPv4 error towards a client (RFC 7915 §4.2, RFC 6146 §3.5)."""
        mtu = self._core.settings.mtu
        message, flow = error_4_to_6(view, self._flow_by_key4, self._embed, mtu6=mtu)
        src6 = None if packet.is_own else self._error_source(view.src, flow)
        if src6 is None:
            # Some addresses are refused; those become our own.
            src6 = self._core.settings.icmp6_source
        before = 0 if packet.partial else ones_sum(view.payload)
        data = build_ipv6(
            traffic_class=traffic_class6(self._core, view),
            hop_limit=view.ttl - 1,
            protocol=Protocol.ICMPV6,
            src=src6,
            dst=flow.client6,
            payload=seal(message, Protocol.ICMPV6, src6, flow.client6, before=before),
        )
        client = self._core.state.clients.get(flow.client6)
        return [Packet(data, link=client.link if client else b"")]

    def _error_source(self, addr4: bytes, flow: Flow) -> bytes | None:
        """The address in which the flow's client sees the sender of an error, or None."""
        prefix = self._core.prefix_of(flow.server6)
        if prefix is None or is_unicast4(addr4):
            # Link-local ones too: routers of a backhaul's link, whom no client can mean.
            return self._embed(addr4, flow)
        return self._core.policy.error_source(addr4, prefix)

    def _embed(self, addr4: bytes, flow: Flow) -> bytes | None:
        """The address in which the flow's client sees an IPv4 host, or None if it may not.

        The server itself appears in the form the client knows.
        """
        if addr4 == flow.server4:
            return flow.server6
        prefix = self._core.prefix_of(flow.server6)
        if prefix is None or self._core.policy.refusal(addr4, prefix) is not None:
            return None
        return prefix.embed(addr4)

    def _flow_by_key4(self, protocol: int, key4: bytes) -> Flow:
        session = self._core.state.flows[protocol].find4(key4)
        if session is None:
            raise Discard(Reason.NO_SESSION)
        return flow_of(session)


def has_no_checksum(packet: Packet, view: IPv4View) -> bool:
    """Whether it is UDP without a checksum (RFC 768)."""
    return view.protocol == Protocol.UDP and not packet.partial and not any(view.payload[6:8])


def verify_header(packet: Packet, view: IPv4View) -> None:
    """Raises Discard where the header checksum is wrong (RFC 1812 §5.2.2)."""
    if ones_sum(packet.data[: 20 + len(view.options)]) != 0xFFFF:
        raise Discard(Reason.HEADER_CHECKSUM)


def has_unexpired_source_route(options: bytes) -> bool:
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
        length = options[at + 1]
        if kind in _SOURCE_ROUTES and at + 2 < len(options) and options[at + 2] <= length:
            return True
        at += length
    return False
