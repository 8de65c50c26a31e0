"""Packets from IPv6: which session they belong to, or why to none (RFC 6146 §3.4, §3.5)."""

from __future__ import annotations

from typing import NoReturn

from translate.addresses import Prefix6, is_unicast6
from translate.checksum import ones_sum, pseudo_header_sum
from translate.core import Core
from translate.fragments import Datagram, reassemble
from translate.headers import build_ipv4, build_ipv6
from translate.icmp import ERRORS6, Icmp6
from translate.icmp_errors import Flow, error_6_to_4, flow_of, router4, seal
from translate.outgoing import check_offload, piece_to_v4, to_v4, tos4
from translate.packets import IPv6View, Packet, Protocol, parse_ipv6
from translate.reasons import Discard, Reason
from translate.segments import complete_checksum, fragment_ipv4
from translate.sessions import BibEntry, Session
from translate.tcp_states import State, Timer, event, is_syn
from translate.transport import check_first_fragment, check_header, check_icmpv6_checksum

_PROTOCOL4: dict[int, Protocol] = {
    Protocol.TCP: Protocol.TCP,
    Protocol.UDP: Protocol.UDP,
    Protocol.ICMPV6: Protocol.ICMP,
}
_ECHOES6 = frozenset({Icmp6.ECHO, Icmp6.ECHO_REPLY})
FIRST_TIMER: dict[int, Timer] = {
    Protocol.TCP: Timer.TCP_TRANS,
    Protocol.UDP: Timer.UDP_DEFAULT,
    Protocol.ICMP: Timer.ICMP_DEFAULT,
}


class FromV6:
    """The steps for a packet from a client."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def translate(self, packet: Packet, now: float) -> list[Packet]:
        """What has to be sent for one IPv6 packet. Raises Discard."""
        core = self._core
        view = parse_ipv6(packet.data)
        prefix, dst4 = self._embedded(view)
        if not is_unicast6(view.src) or core.prefix_of(view.src) is not None:
            raise Discard(Reason.SOURCE_INVALID)
        self._check_headers(packet, view, dst4, now)
        if view.fragment is not None and (view.fragment.offset or view.fragment.more):
            if dst4 is None or prefix is None or self._is_own(view, dst4):
                raise Discard(Reason.FRAGMENT)
            return self._fragment(packet, view, prefix, dst4, now)
        check_header(view.protocol, view.payload)
        if self._is_own(view, dst4):
            return self._own(packet, view, now)
        if dst4 is None or prefix is None:
            core.refuse6(Reason.NOT_EMBEDDED, packet, view, 3, now)
        if view.protocol == Protocol.ICMPV6 and view.payload[0] in ERRORS6:
            return self._error(packet, view)
        session = self._session(packet, view, prefix, dst4, now)
        return to_v4(core, session, packet, view, now)

    def _session(
        self, packet: Packet, view: IPv6View, prefix: Prefix6, dst4: bytes, now: float
    ) -> Session:
        """The session of a packet with a transport header, updated by it. Raises Discard."""
        core = self._core
        if view.protocol == Protocol.ICMPV6 and view.payload[0] not in _ECHOES6:
            raise Discard(Reason.ICMP_TYPE)
        protocol = _PROTOCOL4[view.protocol]
        port_at, size = (4, 2) if protocol == Protocol.ICMP else (0, 4)
        key6 = view.src + view.dst + view.payload[port_at : port_at + size]
        session = core.state.flows[protocol].find6(key6)
        if session is None:
            session = self._new_session(packet, view, prefix, key6, dst4, now)
        elif not core.has_way(dst4):
            # What the client still uses is kept until there is a way again.
            session.last = now
            core.refuse6(Reason.UPLINK_DOWN, packet, view, 0, now)
        if packet.link:
            session.client.link = packet.link
        if view.hop_limit <= 1:
            self._expired(packet, view, now)
        if protocol == Protocol.TCP:
            core.state.update_tcp(session, event(view.payload[13], from_v6=True), now)
        else:
            session.last = now
        return session

    # -- fragments ------------------------------------------------------------------------

    def _fragment(
        self, packet: Packet, view: IPv6View, prefix: Prefix6, dst4: bytes, now: float
    ) -> list[Packet]:
        """What can be sent once this piece is here too (RFC 6146 §3.4)."""
        if packet.partial:
            # Who cuts a datagram has completed its checksum before.
            raise Discard(Reason.MALFORMED)
        table = self._core.fragments6
        assert view.fragment is not None
        key = view.src + view.dst + view.fragment.ident.to_bytes(4, "big")
        if view.hop_limit <= 1 and view.fragment.offset:
            raise Discard(Reason.HOP_LIMIT)
        datagram = table.add(key, view.src, view, now)
        out: list[Packet] = []
        if datagram.session is not None:
            if not self._core.has_way(dst4):
                # What has left of it is no use any more.
                raise Discard(table.give_up(datagram, Reason.UPLINK_DOWN))
            out.append(self._piece(datagram.session, view, now))
        elif view.fragment.offset:
            table.hold(datagram, view)
        else:
            try:
                out = self._first_fragment(packet, view, prefix, dst4, datagram, now)
            except Discard as discard:
                table.give_up(datagram, discard.reason)
                raise
        if datagram.is_complete:
            held = table.release(datagram)
            table.forget(datagram)
            if datagram.is_whole:
                return self._whole(packet, view, held, now)
        elif not out:
            raise Discard(Reason.FRAGMENT_HELD)
        return out

    def _first_fragment(
        self,
        packet: Packet,
        view: IPv6View,
        prefix: Prefix6,
        dst4: bytes,
        datagram: Datagram[IPv6View],
        now: float,
    ) -> list[Packet]:
        table = self._core.fragments6
        check_first_fragment(view.protocol, view.payload)
        if view.protocol == Protocol.ICMPV6:
            datagram.is_whole = True
            table.hold(datagram, view)
            return []
        session = self._session(packet, view, prefix, dst4, now)
        out = to_v4(self._core, session, packet, view, now)
        table.settle(datagram, session)
        out += [self._piece(session, held, now) for held in table.release(datagram)]
        return out

    def _piece(self, session: Session, view: IPv6View, now: float) -> Packet:
        session.last = now
        return piece_to_v4(self._core, session, view)

    def _whole(
        self, packet: Packet, view: IPv6View, held: list[IPv6View], now: float
    ) -> list[Packet]:
        """A datagram that had to be put together, cut again after translation."""
        assert view.fragment is not None
        data = build_ipv6(
            traffic_class=view.traffic_class,
            hop_limit=min(piece.hop_limit for piece in held),
            protocol=Protocol.ICMPV6,  # nothing else has to be whole in this direction
            src=view.src,
            dst=view.dst,
            payload=reassemble(held),
        )
        room = max(8, max(len(piece.payload) for piece in held) & ~7)
        out: list[Packet] = []
        for sent in self.translate(Packet(data, link=packet.link), now):
            if sent.data[0] >> 4 == 4:
                out += fragment_ipv4(sent, room, view.fragment.ident & 0xFFFF)
            else:
                out.append(sent)
        return out

    # -- the steps ------------------------------------------------------------------------

    def _embedded(self, view: IPv6View) -> tuple[Prefix6 | None, bytes | None]:
        ours = view.dst == self._core.settings.icmp6_source
        for prefix in self._core.settings.prefixes:
            if prefix.contains(view.dst):
                ours = True
                dst4 = prefix.extract(view.dst)
                if dst4 is not None:
                    return prefix, dst4
        if not ours:
            raise Discard(Reason.NOT_OURS)
        return None, None

    def _check_headers(
        self, packet: Packet, view: IPv6View, dst4: bytes | None, now: float
    ) -> None:
        errors = self._core.errors
        if view.has_cut_headers:
            # RFC 7915 §5.1.1: dropped, and §5.4 has no other code for it.
            self._core.refuse6(Reason.FRAGMENT_EXTENSION, packet, view, 1, now)
        if view.routing_pointer is not None:
            # RFC 7915 §5.1: the pointer names the segments-left octet.
            pointer = view.routing_pointer
            answer = errors.to_v6(packet, view, Icmp6.PARAMETER_PROBLEM, 0, now, pointer)
            raise Discard(Reason.ROUTING_HEADER, answer)
        check_offload(packet, view.protocol)
        if view.fragment is not None and view.fragment.offset:
            return
        if view.protocol == Protocol.NO_NEXT_HEADER:
            raise Discard(Reason.NO_NEXT_HEADER)
        if view.protocol not in _PROTOCOL4:
            if self._is_own(view, dst4):
                # RFC 8200 §4: what a node does with a header that it does not know.
                kind, at = Icmp6.PARAMETER_PROBLEM, view.protocol_pointer
                answer = errors.to_v6(packet, view, kind, 1, now, at)
                raise Discard(Reason.UNKNOWN_PROTOCOL, answer)
            # RFC 6146 §3.4 names this code.
            self._core.refuse6(Reason.UNKNOWN_PROTOCOL, packet, view, 4, now)

    def _is_own(self, view: IPv6View, dst4: bytes | None) -> bool:
        own = self._core.settings.icmp6_source
        if view.dst == own:
            return True
        # Either layout of an own address that is itself an embedding.
        prefix = self._core.prefix_of(own)
        return dst4 is not None and prefix is not None and prefix.extract(own) == dst4

    def _own(self, packet: Packet, view: IPv6View, now: float) -> list[Packet]:
        """A packet for the translator itself: it answers pings and nothing else."""
        core = self._core
        if view.protocol == Protocol.ICMPV6 and view.payload[0] == Icmp6.ECHO:
            if not core.admit(view.src):
                core.refuse6(Reason.CLIENT_REFUSED, packet, view, 1, now)
            whole = complete_checksum(packet)
            ping = parse_ipv6(whole.data)
            check_icmpv6_checksum(ping.payload, ping.src, ping.dst)
            answer = core.errors.echo_reply6(whole, ping, now)
            raise Discard(Reason.HANDLED, answer)
        if view.protocol == Protocol.ICMPV6:
            raise Discard(Reason.ICMP_TYPE)
        core.refuse6(Reason.DESTINATION_REFUSED, packet, view, 4, now)

    def _expired(self, packet: Packet, view: IPv6View, now: float) -> NoReturn:
        answer = self._core.errors.to_v6(packet, view, Icmp6.TIME_EXCEEDED, 0, now)
        raise Discard(Reason.HOP_LIMIT, answer)

    def _new_session(
        self,
        packet: Packet,
        view: IPv6View,
        prefix: Prefix6,
        key6: bytes,
        dst4: bytes,
        now: float,
    ) -> Session:
        """The session for a packet that has none yet, if it may have one (RFC 6146 §3.5)."""
        core = self._core
        if not core.admit(view.src):
            core.refuse6(Reason.CLIENT_REFUSED, packet, view, 1, now)
        refusal = core.policy.refusal(dst4, prefix)
        if refusal is None and core.state.in_pool4(dst4) and not self._hairpins(view, dst4):
            refusal = Reason.DESTINATION_REFUSED
        if refusal is not None:
            core.refuse6(refusal, packet, view, 1, now)
        if not core.has_way(dst4):
            core.refuse6(Reason.UPLINK_DOWN, packet, view, 0, now)
        if view.hop_limit <= 1:
            self._expired(packet, view, now)
        protocol = _PROTOCOL4[view.protocol]
        bib_key = key6[:16] + key6[32:34]
        entry = core.state.bib6[protocol].get(bib_key)
        if entry is not None:
            self._settle_form(entry, key6, dst4, packet, view, now)
        if protocol == Protocol.TCP and not is_syn(view.payload[13]):
            # RFC 6146 §3.5.2.2, CLOSED: without a mapping it is dropped, with one it may pass,
            # but starts no session.
            if entry is None:
                raise Discard(Reason.NO_SESSION)
            return core.state.passing(entry, key6, dst4, now)
        try:
            if entry is None:
                met = None
                if protocol == Protocol.TCP:
                    met = core.syns.pool_address(dst4, key6[34:36], key6[32:34])
                entry = core.state.mapping_for(protocol, bib_key, packet.link, met)
            timer = FIRST_TIMER[protocol]
            session = core.state.add_session(entry, key6, dst4, timer, now)
        except Discard as discard:
            # RFC 6146 §3.5.1: no mapping can be made, address unreachable.
            core.refuse6(discard.reason, packet, view, 3, now)
        if protocol == Protocol.TCP:
            # A SYN of the server's that came first: both have opened (RFC 6146 §3.5.2.2).
            session.state = State.V4_INIT if core.syns.take(session.key4) else State.V6_INIT
        else:
            session.state = State.ESTABLISHED
        return session

    def _hairpins(self, view: IPv6View, dst4: bytes) -> bool:
        """Whether a pool4 destination is somebody's mapping, or may yet be (RFC 6146 §3.8)."""
        protocol = _PROTOCOL4[view.protocol]
        if protocol == Protocol.TCP and is_syn(view.payload[13]):
            # Both ends may open at once here, too: the IPv4 side stores it for a while.
            return True
        port = view.payload[4:6] if protocol == Protocol.ICMP else view.payload[2:4]
        return dst4 + port in self._core.state.bib4[protocol]

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
        state = self._core.state
        if entry.protocol == Protocol.ICMP:
            key4 = dst4 + entry.key4
        else:
            key4 = dst4 + entry.key4[:4] + key6[34:36] + entry.key4[4:]
        other = state.flows[entry.protocol].find4(key4)
        if other is None:
            return
        if entry.protocol == Protocol.TCP:
            self._core.refuse6(Reason.FORM_CONFLICT, packet, view, 3, now)
        entry.sessions += 1  # keeps the mapping, and with it the port, alive
        state.end_session(other)
        entry.sessions -= 1

    def _error(self, packet: Packet, view: IPv6View) -> list[Packet]:
        """An ICMPv6 error towards a server (RFC 7915 §5.2, RFC 6146 §3.5)."""
        core = self._core
        mtu = core.settings.mtu
        message, flow = error_6_to_4(view, self._flow_by_key6, self._extract, mtu6=mtu)
        if not core.has_way(flow.server4):
            raise Discard(Reason.UPLINK_DOWN)
        if view.hop_limit <= 1:
            raise Discard(Reason.HOP_LIMIT)
        before = 0
        if not packet.partial:
            pseudo = pseudo_header_sum(view.src, view.dst, len(view.payload), Protocol.ICMPV6)
            before = ones_sum(view.payload) + pseudo
        src4 = router4(view.src, flow, core.settings.icmp4_error_pool)
        data = build_ipv4(
            tos=tos4(core, view),
            ident=core.state.next_ident(src4, flow.server4, Protocol.ICMP),
            df=False,
            fragment=None,
            ttl=view.hop_limit - 1,
            protocol=Protocol.ICMP,
            src=src4,
            dst=flow.server4,
            payload=seal(message, Protocol.ICMP, b"", b"", before=before),
        )
        return [Packet(data)]

    def _extract(self, addr6: bytes) -> bytes | None:
        """The IPv4 address that an address of ours embeds, if there is one."""
        prefix = self._core.prefix_of(addr6)
        return None if prefix is None else prefix.extract(addr6)

    def _flow_by_key6(self, protocol: int, key6: bytes) -> Flow:
        session = self._core.state.flows[protocol].find6(key6)
        if session is None:
            raise Discard(Reason.NO_SESSION)
        return flow_of(session)
