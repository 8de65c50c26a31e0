"""Stateful NAT64, packet by packet: the slow path, where everything is handled (RFC 6146).

Theory of operation. `translate` takes one packet of either family and returns what has to be
sent instead: its translation, an ICMP error to its sender, or nothing. The steps are those of
RFC 6146 §3: determine the tuple (parse, find the IPv4 address), filter and update (policy,
mapping, session, TCP state), compute the outgoing tuple (it is in the session), translate
(RFC 7915). Whatever goes wrong raises `Discard` with a reason, which is counted here and goes
no further. The fast path (translate/fast_path.py) carries the common packets of sessions that
were made here and refers everything else back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from translate.addresses import Prefix6, is_unicast4, is_unicast6
from translate.bib import StateTables
from translate.checksum import pseudo_header_sum
from translate.headers import DF_CLEAR_UP_TO, build_ipv4, build_ipv6
from translate.icmp import ERRORS4, ERRORS6, Icmp4, Icmp6
from translate.icmp_errors import Flow, error_4_to_6, error_6_to_4, rewrite_echo
from translate.own_errors import OwnErrors
from translate.packets import (
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    IPv4View,
    IPv6View,
    Packet,
    Protocol,
    parse_ipv4,
    parse_ipv6,
)
from translate.policy import DestinationPolicy
from translate.reasons import Discard, Reason
from translate.segments import complete_checksum, fragment_ipv6, split
from translate.sessions import BibEntry, Session
from translate.settings import Settings
from translate.tcp_states import FAST_STATES, SYN, Event, State, Timer, event, step
from translate.transport import check_header, clamp_mss, fill_checksum, rewrite

_TRANSLATED6 = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.ICMPV6: 1}
_TRANSLATED4 = frozenset({Protocol.TCP, Protocol.UDP, Protocol.ICMP})
_MAX_IPV4 = 65535
_ECHOES6 = frozenset({Icmp6.ECHO, Icmp6.ECHO_REPLY})
_ECHOES4 = frozenset({Icmp4.ECHO, Icmp4.ECHO_REPLY})
_SOURCE_ROUTES = frozenset({131, 137})


class Nat64:
    """One stateful translator. Not thread-safe; every method takes time as `now` (seconds)."""

    def __init__(
        self,
        settings: Settings,
        *,
        randbelow: Callable[[int], int],
        admit: Callable[[bytes], bool],
        path_mtu: Callable[[bytes], int],
    ) -> None:
        """`randbelow(n)` gives 0..n-1, unguessable. `admit(addr6)` says whether a host may be a
        client, `path_mtu(addr)` how large a packet to it may be, for 16 or 4 bytes of address.
        """
        self._randbelow = randbelow
        self._admit = admit
        self._path_mtu = path_mtu
        self.counters: dict[Reason, int] = dict.fromkeys(Reason, 0)
        self.state = StateTables(settings, randbelow)
        self.errors = OwnErrors(settings)
        self._configure(settings)

    def _configure(self, settings: Settings) -> None:
        self.settings = settings
        self._policy = DestinationPolicy(settings)

    def configure(self, settings: Settings) -> None:
        """Takes over what can change while sessions run: policy, limits, lifetimes, MSS."""
        self._configure(settings)
        self.state.configure(settings)
        self.errors.configure(settings)

    # -- the way in ---------------------------------------------------------------------

    def translate(self, packet: Packet, now: float) -> list[Packet]:
        """What has to be sent for one packet that came in; [] when it is discarded.

        Never raises for what a packet contains. Each discard counts in `counters`.
        """
        try:
            if not packet.data:
                raise Discard(Reason.MALFORMED)
            version = packet.data[0] >> 4
            if version == 6:
                return self._from_v6(packet, now)
            if version == 4:
                return self._from_v4(packet, now)
            raise Discard(Reason.UNKNOWN_VERSION)
        except Discard as discard:
            self.counters[discard.reason] += 1
            return [discard.answer] if discard.answer is not None else []

    def expire(self, now: float, limit: int = 1000) -> list[Packet]:
        """Ends sessions whose time is over, after at most `limit` looks; packets to send."""
        self.state.expire(now, limit)
        return []

    def next_deadline(self) -> float | None:
        """When `expire` has something to look at next, or None."""
        return self.state.deadline()

    # -- from IPv6 ------------------------------------------------------------------------

    def _from_v6(self, packet: Packet, now: float) -> list[Packet]:
        view = parse_ipv6(packet.data)
        prefix, dst4 = self._embedded(packet, view, now)
        if not is_unicast6(view.src) or any(p.contains(view.src) for p in self.settings.prefixes):
            raise Discard(Reason.SOURCE_INVALID)
        self._check_headers6(packet, view, now)
        if self._is_own6(view, dst4):
            return self._own6(packet, view, now)
        if dst4 is None or prefix is None:
            self._refuse6(Reason.NOT_EMBEDDED, packet, view, 3, now)
        if view.protocol == Protocol.ICMPV6 and view.payload[0] in ERRORS6:
            return self._error_from_v6(view, now)
        if view.protocol == Protocol.ICMPV6 and view.payload[0] not in _ECHOES6:
            raise Discard(Reason.ICMP_TYPE)
        session = self._find6(view)
        if session is None or session.state == State.CLOSED:
            session = self._new_from_v6(packet, view, prefix, dst4, now)
        elif packet.link:
            session.link6 = session.bib.client.link = packet.link
        if view.hop_limit <= 1:
            self._expired6(packet, view, now)
        self._update(session, view.protocol, view.payload, now, from_v6=True)
        return self._to_v4(session, packet, view)

    def _embedded(
        self, packet: Packet, view: IPv6View, now: float
    ) -> tuple[Prefix6 | None, bytes | None]:
        ours = False
        for prefix in self.settings.prefixes:
            if prefix.contains(view.dst):
                ours = True
                dst4 = prefix.extract(view.dst)
                if dst4 is not None:
                    return prefix, dst4
        if not ours and view.dst != self.settings.icmp6_source:
            raise Discard(Reason.NOT_OURS)
        return None, None

    def _check_headers6(self, packet: Packet, view: IPv6View, now: float) -> None:
        if view.routing_pointer is not None:
            # RFC 7915 §5.1: the pointer names the segments-left octet.
            answer = self.errors.to_v6(
                packet, view, Icmp6.PARAMETER_PROBLEM, 0, now, view.routing_pointer
            )
            raise Discard(Reason.ROUTING_HEADER, answer)
        if view.fragment is not None:
            raise Discard(Reason.FRAGMENT)
        if view.protocol == Protocol.NO_NEXT_HEADER:
            raise Discard(Reason.NO_NEXT_HEADER)
        if view.protocol not in _TRANSLATED6:
            answer = self.errors.to_v6(
                packet, view, Icmp6.PARAMETER_PROBLEM, 1, now, view.protocol_pointer
            )
            raise Discard(Reason.UNKNOWN_PROTOCOL, answer)
        check_header(view.protocol, view.payload)

    def _is_own6(self, view: IPv6View, dst4: bytes | None) -> bool:
        own = self.settings.icmp6_source
        if view.dst == own:
            return True
        # Either layout of an own address that is itself an embedding.
        return dst4 is not None and any(p.extract(own) == dst4 for p in self.settings.prefixes)

    def _own6(self, packet: Packet, view: IPv6View, now: float) -> list[Packet]:
        """A packet for the translator itself: it answers pings and nothing else."""
        if view.protocol == Protocol.ICMPV6 and view.payload[0] == Icmp6.ECHO:
            if not self._admit(view.src):
                self._refuse6(Reason.CLIENT_REFUSED, packet, view, 1, now)
            answer = self.errors.echo_reply6(complete_checksum(packet), view, now)
            raise Discard(Reason.HANDLED, answer)
        if view.protocol == Protocol.ICMPV6:
            raise Discard(Reason.ICMP_TYPE)
        self._refuse6(Reason.DESTINATION_REFUSED, packet, view, 4, now)

    def _refuse6(
        self, reason: Reason, packet: Packet, view: IPv6View, code: int, now: float
    ) -> NoReturn:
        """Discards with a destination unreachable of this code (RFC 4443 §3.1)."""
        raise Discard(reason, self.errors.to_v6(packet, view, Icmp6.UNREACHABLE, code, now))

    def _expired6(self, packet: Packet, view: IPv6View, now: float) -> NoReturn:
        raise Discard(
            Reason.HOP_LIMIT, self.errors.to_v6(packet, view, Icmp6.TIME_EXCEEDED, 0, now)
        )

    def _find6(self, view: IPv6View) -> Session | None:
        if view.protocol == Protocol.ICMPV6:
            key6 = view.src + view.dst + view.payload[4:6]
            return self.state.flows[Protocol.ICMP].find6(key6)
        return self.state.flows[view.protocol].find6(view.src + view.dst + view.payload[0:4])

    def _new_from_v6(
        self, packet: Packet, view: IPv6View, prefix: Prefix6, dst4: bytes, now: float
    ) -> Session:
        """The session for a packet that has none yet, if it may have one (RFC 6146 §3.5)."""
        if not self._admit(view.src):
            self._refuse6(Reason.CLIENT_REFUSED, packet, view, 1, now)
        refusal = self._policy.refusal(dst4, prefix)
        if refusal is None and self.state.in_pool4(dst4):
            refusal = Reason.DESTINATION_REFUSED
        if refusal is not None:
            self._refuse6(refusal, packet, view, 1, now)
        if view.hop_limit <= 1:
            self._expired6(packet, view, now)
        protocol = _TRANSLATED6[Protocol(view.protocol)]
        port_at = 4 if protocol == Protocol.ICMP else 0
        bib_key = view.src + view.payload[port_at : port_at + 2]
        key6 = view.src + view.dst + view.payload[port_at : port_at + (2 if port_at else 4)]
        timer = {Protocol.UDP: Timer.UDP_DEFAULT, Protocol.ICMP: Timer.ICMP_DEFAULT}.get(
            Protocol(protocol), Timer.TCP_TRANS
        )
        entry = self.state.bib6[protocol].get(bib_key)
        if protocol == Protocol.TCP and not view.payload[13] & SYN:
            # RFC 6146 §3.5.2.2, CLOSED: without a mapping it is dropped, with one it may pass,
            # but starts no session.
            if entry is None:
                raise Discard(Reason.NO_SESSION)
            return Session(entry, key6, dst4, Timer.TCP_TRANS, now)
        try:
            if entry is None:
                entry = self.state.mapping_for(protocol, bib_key, packet.link)
            self._settle_form(entry, key6, dst4, packet, view, now)
            session = self.state.add_session(entry, key6, dst4, timer, now)
        except Discard as discard:
            if discard.answer is None:
                # RFC 6146 §3.5.1.1: no mapping can be made, address unreachable.
                self._refuse6(discard.reason, packet, view, 3, now)
            raise
        session.state = State.V6_INIT if protocol == Protocol.TCP else State.ESTABLISHED
        if protocol != Protocol.TCP:
            self.state.flows[protocol].install(session)
        if packet.link:
            session.link6 = entry.client.link = packet.link
        return session

    def _settle_form(
        self,
        entry: BibEntry,
        key6: bytes,
        dst4: bytes,
        packet: Packet,
        view: IPv6View,
        now: float,
    ) -> None:
        """One IPv4 flow has one IPv6 form: another one takes it over, or is refused (TCP)."""
        if entry.protocol == Protocol.ICMP:
            key4 = dst4 + entry.key4
        else:
            key4 = dst4 + entry.key4[:4] + key6[34:36] + entry.key4[4:]
        other = self.state.flows[entry.protocol].find4(key4)
        if other is None:
            return
        if entry.protocol == Protocol.TCP:
            self._refuse6(Reason.FORM_CONFLICT, packet, view, 3, now)
        entry.sessions += 1  # keeps the mapping, and with it the port, alive
        self.state.end_session(other)
        entry.sessions -= 1

    # -- state ------------------------------------------------------------------------------

    def _update(
        self, session: Session, protocol: int, payload: bytes, now: float, *, from_v6: bool
    ) -> None:
        """Filtering and updating (RFC 6146 §3.5) for a packet of an existing session."""
        if protocol == Protocol.TCP:
            if session.state == State.CLOSED:
                return
            self._update_tcp(session, event(payload[13], from_v6=from_v6), now)
        else:
            session.last = now

    def _update_tcp(self, session: Session, seen: Event, now: float) -> None:
        state, timer = step(State(session.state), seen)
        session.state = state
        if timer is not None:
            self.state.restart(session, timer, now)
        flows = self.state.flows[Protocol.TCP]
        if state in FAST_STATES:
            flows.install(session)
        else:
            flows.remove(session)

    # -- to IPv4 ------------------------------------------------------------------------------

    def _to_v4(self, session: Session, packet: Packet, view: IPv6View) -> list[Packet]:
        """The translated packet (RFC 7915 §5.1)."""
        if packet.partial and session.protocol == Protocol.ICMP:
            packet = complete_checksum(packet)
            view = parse_ipv6(packet.data)
        if len(view.payload) + 20 > _MAX_IPV4:
            out: list[Packet] = []
            for segment in split(packet):
                out += self._to_v4(session, segment, parse_ipv6(segment.data))
            return out
        payload = bytearray(view.payload)
        if session.protocol == Protocol.ICMP:
            kind = Icmp4.ECHO if payload[0] == Icmp6.ECHO else Icmp4.ECHO_REPLY
            pseudo = pseudo_header_sum(view.src, view.dst, len(payload), Protocol.ICMPV6)
            rewrite_echo(payload, kind, session.tail4[8:10], gained=0xFFFF - pseudo)
        else:
            rewrite(
                session.protocol,
                payload,
                session.tail4[8:12],
                delta_addresses=session.delta_addresses,
                delta_full=session.delta_full,
                partial=packet.partial,
            )
            if session.protocol == Protocol.TCP:
                self._clamp(session, payload, packet)
        size, count = _segment_size(packet, payload, 20)
        df = size > DF_CLEAR_UP_TO
        ident = 0
        if not df:
            ident = session.ident[0]
            session.ident[0] = ident + count & 0xFFFF
        data = build_ipv4(
            tos=view.traffic_class,
            ident=ident,
            df=df,
            fragment=None,
            ttl=view.hop_limit - 1,
            protocol=session.protocol,
            src=session.pool4,
            dst=session.server4,
            payload=bytes(payload),
        )
        return [Packet(data, packet.partial, _gso(packet.gso_type, GSO_TCPV4), packet.gso_size)]

    def _clamp(self, session: Session, payload: bytearray, packet: Packet) -> None:
        if not payload[13] & SYN or self.settings.mss_clamp == 0:
            return
        limit = self.settings.mss_clamp
        if limit is None:
            mtu6 = min(
                self.settings.mtu,
                self._path_mtu(session.client6),
                self._path_mtu(session.server4) + 20,
            )
            limit = max(mtu6 - 60, 1)
        clamp_mss(payload, limit, partial=packet.partial)

    def _error_from_v6(self, view: IPv6View, now: float) -> list[Packet]:
        """An ICMPv6 error towards a server (RFC 7915 §5.2, RFC 6146 §3.5)."""
        message, flow = error_6_to_4(view, self._flow_by_key6, mtu6=self.settings.mtu)
        if view.hop_limit <= 1:
            raise Discard(Reason.HOP_LIMIT)
        payload = bytearray(message)
        fill_checksum(Protocol.ICMP, payload, b"", b"")
        # The sender is a client or a router that has no IPv4 address; what the server knows
        # is the pool address (RFC 6791 §3 allows any address of the translator's).
        data = build_ipv4(
            tos=view.traffic_class,
            ident=self._randbelow(65536),
            df=False,
            fragment=None,
            ttl=view.hop_limit - 1,
            protocol=Protocol.ICMP,
            src=flow.pool4,
            dst=flow.server4,
            payload=bytes(payload),
        )
        return [Packet(data)]

    def _flow_by_key6(self, protocol: int, key6: bytes) -> Flow:
        session = self.state.flows[protocol].find6(key6)
        if session is None:
            raise Discard(Reason.NO_SESSION)
        return _flow(session)

    # -- from IPv4 ------------------------------------------------------------------------

    def _from_v4(self, packet: Packet, now: float) -> list[Packet]:
        view = parse_ipv4(packet.data)
        if not self.state.in_pool4(view.dst):
            raise Discard(Reason.NOT_OURS)
        is_error = view.protocol == Protocol.ICMP and view.payload[:1] in _ERROR_BYTES4
        if not is_unicast4(view.src) and not is_error:
            raise Discard(Reason.SOURCE_INVALID)
        self._check_headers4(packet, view, now)
        if view.ttl <= 1:
            answer = self.errors.to_v4(packet, view, Icmp4.TIME_EXCEEDED, 0, now)
            raise Discard(Reason.HOP_LIMIT, answer)
        if is_error:
            return self._error_from_v4(view)
        if view.protocol == Protocol.ICMP and view.payload[0] not in _ECHOES4:
            raise Discard(Reason.ICMP_TYPE)
        if view.protocol == Protocol.ICMP:
            key4 = view.src + view.dst + view.payload[4:6]
        else:
            key4 = view.src + view.dst + view.payload[0:4]
        session = self.state.flows[view.protocol].find4(key4)
        if session is None:
            session = self._new_from_v4(packet, view, now)
        self._update(session, view.protocol, view.payload, now, from_v6=False)
        return self._to_v6(session, packet, view)

    def _check_headers4(self, packet: Packet, view: IPv4View, now: float) -> None:
        if view.options and _has_unexpired_source_route(view.options):
            # RFC 7915 §4.1: source route failed.
            answer = self.errors.to_v4(packet, view, Icmp4.UNREACHABLE, 5, now)
            raise Discard(Reason.SOURCE_ROUTE, answer)
        if view.fragment is not None:
            raise Discard(Reason.FRAGMENT)
        if view.protocol not in _TRANSLATED4:
            answer = self.errors.to_v4(packet, view, Icmp4.UNREACHABLE, 2, now)
            raise Discard(Reason.UNKNOWN_PROTOCOL, answer)
        check_header(view.protocol, view.payload)

    def _new_from_v4(self, packet: Packet, view: IPv4View, now: float) -> Session:
        """The session for a packet from a server that its client has not written to yet.

        Needs a mapping; who may use it is the filtering policy (RFC 6146 §3.5.1.2, §3.5.2.2,
        §3.5.3).
        """
        protocol = view.protocol
        port = view.payload[4:6] if protocol == Protocol.ICMP else view.payload[2:4]
        entry = self.state.bib4[protocol].get(view.dst + port)
        if entry is None:
            if protocol == Protocol.TCP and not view.payload[13] & SYN:
                raise Discard(Reason.NO_MAPPING)
            answer = self.errors.to_v4(packet, view, Icmp4.UNREACHABLE, 1, now)
            raise Discard(Reason.NO_MAPPING, answer)
        if entry.servers is not None and view.src not in entry.servers:
            raise Discard(Reason.FILTERED)
        prefix = self.settings.prefixes[0]
        refusal = self._policy.refusal(view.src, prefix)
        if refusal is not None:
            raise Discard(refusal)
        server6 = prefix.embed(view.src)
        client6, client_port = entry.key6[:16], entry.key6[16:18]
        key6 = client6 + server6 + client_port
        if protocol != Protocol.ICMP:
            key6 += view.payload[0:2]
        if protocol == Protocol.TCP and not view.payload[13] & SYN:
            # RFC 6146 §3.5.2.2, CLOSED: passes through the mapping, starts no session.
            return Session(entry, key6, view.src, Timer.TCP_TRANS, now)
        timer = {Protocol.UDP: Timer.UDP_DEFAULT, Protocol.ICMP: Timer.ICMP_DEFAULT}.get(
            Protocol(protocol), Timer.TCP_TRANS
        )
        session = self.state.add_session(entry, key6, view.src, timer, now)
        session.state = State.V4_INIT if protocol == Protocol.TCP else State.ESTABLISHED
        if protocol != Protocol.TCP:
            self.state.flows[protocol].install(session)
        return session

    # -- to IPv6 ------------------------------------------------------------------------------

    def _to_v6(self, session: Session, packet: Packet, view: IPv4View) -> list[Packet]:
        """The translated packet, fragmented if it has to be (RFC 7915 §4.1)."""
        size, _ = _segment_size(packet, view.payload, 40)
        lowest = self.settings.lowest_ipv6_mtu
        if not view.df and size > lowest:
            return self._fragmented(session, packet, lowest)
        if packet.partial and session.protocol == Protocol.ICMP:
            packet = complete_checksum(packet)
            view = parse_ipv4(packet.data)
        payload = bytearray(view.payload)
        if session.protocol == Protocol.ICMP:
            kind = Icmp6.ECHO if payload[0] == Icmp4.ECHO else Icmp6.ECHO_REPLY
            pseudo = pseudo_header_sum(
                session.server6, session.client6, len(payload), Protocol.ICMPV6
            )
            rewrite_echo(payload, kind, session.key6[32:34], gained=pseudo)
            protocol: int = Protocol.ICMPV6
        else:
            protocol = session.protocol
            zero = protocol == Protocol.UDP and not packet.partial and not any(payload[6:8])
            rewrite(
                protocol,
                payload,
                session.tail6[32:36],
                delta_addresses=0xFFFF - session.delta_addresses,
                delta_full=0xFFFF - session.delta_full,
                partial=packet.partial,
            )
            if zero:
                # RFC 7915 §4.5: IPv6 needs one.
                fill_checksum(protocol, payload, session.server6, session.client6)
            if protocol == Protocol.TCP:
                self._clamp(session, payload, packet)
        data = build_ipv6(
            traffic_class=view.tos,
            hop_limit=view.ttl - 1,
            protocol=protocol,
            src=session.server6,
            dst=session.client6,
            payload=bytes(payload),
        )
        gso_type = _gso(packet.gso_type, GSO_TCPV6)
        return [Packet(data, packet.partial, gso_type, packet.gso_size, session.link6)]

    def _fragmented(self, session: Session, packet: Packet, lowest: int) -> list[Packet]:
        out: list[Packet] = []
        for segment in split(packet):
            view = parse_ipv4(segment.data)
            view.df = True  # one size decision is enough
            for whole in self._to_v6(session, segment, view):
                if len(whole.data) > lowest:
                    out += fragment_ipv6(whole, lowest, view.ident)
                else:
                    out.append(whole)
        return out

    def _error_from_v4(self, view: IPv4View) -> list[Packet]:
        """An ICMPv4 error towards a client (RFC 7915 §4.2, RFC 6146 §3.5)."""
        message, flow = error_4_to_6(view, self._flow_by_key4, mtu6=self.settings.mtu)
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
        client = self.state.clients.get(flow.client6)
        return [Packet(data, link=client.link if client else b"")]

    def _router6(self, router4: bytes, flow: Flow) -> bytes:
        """The IPv6 source of an error from this IPv4 router.

        The server itself appears in the form the client knows. An address that no IPv6
        packet may come from is replaced by the translator's own (RFC 6791 §4).
        """
        if router4 == flow.server4:
            return flow.server6
        for prefix in self.settings.prefixes:
            if prefix.contains(flow.server6):
                if self._policy.refusal(router4, prefix) is not None:
                    break
                return prefix.embed(router4)
        return self.settings.icmp6_source

    def _flow_by_key4(self, protocol: int, key4: bytes) -> Flow:
        session = self.state.flows[protocol].find4(key4)
        if session is None:
            raise Discard(Reason.NO_SESSION)
        return _flow(session)


_ERROR_BYTES4 = frozenset(bytes((kind,)) for kind in ERRORS4)


def _flow(session: Session) -> Flow:
    return Flow(
        client6=session.client6,
        server6=session.server6,
        pool4=session.pool4,
        server4=session.server4,
        client_port=session.key6[32:34],
        pool_port=session.tail4[8:10],
        server_port=session.key6[34:36],
    )


def _gso(gso_type: int, tcp_type: int) -> int:
    """The gso_type in the other family; UDP's is the same in both."""
    if gso_type & ~GSO_ECN in (GSO_TCPV4, GSO_TCPV6):
        return tcp_type | gso_type & GSO_ECN
    return gso_type


def _segment_size(packet: Packet, payload: bytes | bytearray, header: int) -> tuple[int, int]:
    """Size of the largest packet on the wire with an IP header of `header` bytes, and how many."""
    if packet.gso_type == GSO_NONE or packet.gso_size <= 0:
        return header + len(payload), 1
    tcp = packet.gso_type & ~GSO_ECN in (GSO_TCPV4, GSO_TCPV6)
    transport = (payload[12] >> 4) * 4 if tcp else 8
    body = len(payload) - transport
    count = max(1, -(-body // packet.gso_size))
    return header + transport + min(packet.gso_size, body), count


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
