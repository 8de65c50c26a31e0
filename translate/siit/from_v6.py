"""Packets from IPv6 in stateless mode (RFC 7915 §5)."""

from __future__ import annotations

from translate.addresses import is_unicast6
from translate.checksum import ones_sum, pseudo_header_sum
from translate.headers import DF_CLEAR_UP_TO, build_ipv4
from translate.icmp import ERRORS6, Icmp6
from translate.icmp_errors import Flow, error_6_to_4, router4, seal
from translate.outgoing import check_offload, piece_to_v4, to_v4, tos4
from translate.packets import IPv6View, Packet, Protocol, parse_ipv6
from translate.reasons import Discard, Reason
from translate.segments import complete_checksum
from translate.sessions import Session
from translate.siit.core import SiitCore, check_place, flow_between
from translate.tcp_states import is_syn
from translate.transport import check_first_fragment, check_header, check_icmpv6_checksum

_PROTOCOL4: dict[int, Protocol] = {
    Protocol.TCP: Protocol.TCP,
    Protocol.UDP: Protocol.UDP,
    Protocol.ICMPV6: Protocol.ICMP,
}
_ECHOES6 = frozenset({Icmp6.ECHO, Icmp6.ECHO_REPLY})
# What only exists beside IPv4: it cannot be forwarded from here without being taken for real.
_OF_IPV4 = frozenset({Protocol.ICMP, Protocol.IGMP})


class FromV6:
    """The steps for a packet from IPv6."""

    def __init__(self, core: SiitCore) -> None:
        self._core = core

    def translate(self, packet: Packet, now: float) -> list[Packet]:
        """What has to be sent for one IPv6 packet. Raises Discard."""
        core = self._core
        view = parse_ipv6(packet.data)
        if not is_unicast6(view.src):
            raise Discard(Reason.SOURCE_INVALID)
        self._check_headers(packet, view, now)
        if view.dst == core.settings.icmp6_source:
            return self._own(packet, view, now)
        dst4 = core.addresses.to_v4(view.dst)
        if dst4 is None:
            refusal = core.addresses.refusal6(view.dst)
            if refusal is not None:
                # RFC 7915 §5.4: administratively prohibited.
                core.refuse6(refusal, packet, view, 1, now)
            core.refuse6(Reason.NOT_EMBEDDED, packet, view, 3, now)
        if core.addresses.is_nowhere(dst4):
            core.refuse6(Reason.NO_MAPPING, packet, view, 3, now)
        later = view.fragment is not None and view.fragment.offset > 0
        if view.protocol == Protocol.ICMPV6 and not later:
            check_header(view.protocol, view.payload)
            if view.payload[0] in ERRORS6:
                return self._error(packet, view, dst4)
            if view.payload[0] not in _ECHOES6:
                raise Discard(Reason.ICMP_TYPE)
        if view.hop_limit <= 1:
            answer = core.errors.to_v6(packet, view, Icmp6.TIME_EXCEEDED, 0, now)
            raise Discard(Reason.HOP_LIMIT, answer)
        src4 = self._source4(packet, view, now)
        if view.protocol not in _PROTOCOL4:
            return [self._plain(packet, view, src4, dst4)]
        return self._transport(packet, view, src4, dst4, now)

    def _own(self, packet: Packet, view: IPv6View, now: float) -> list[Packet]:
        """A packet for the translator itself: it answers pings and nothing else."""
        core = self._core
        if view.protocol in (Protocol.TCP, Protocol.UDP):
            core.refuse6(Reason.DESTINATION_REFUSED, packet, view, 4, now)
        if view.protocol != Protocol.ICMPV6:
            # RFC 8200 §4: what a node does with a header that it does not know.
            kind, at = Icmp6.PARAMETER_PROBLEM, view.protocol_pointer
            answer = core.errors.to_v6(packet, view, kind, 1, now, at)
            raise Discard(Reason.UNKNOWN_PROTOCOL, answer)
        if view.payload[:1] != bytes((Icmp6.ECHO,)) or view.fragment is not None:
            raise Discard(Reason.DESTINATION_REFUSED)
        check_header(view.protocol, view.payload)
        whole = complete_checksum(packet)
        ping = parse_ipv6(whole.data)
        check_icmpv6_checksum(ping.payload, ping.src, ping.dst)
        answer = core.errors.echo_reply6(whole, ping, now)
        raise Discard(Reason.HANDLED, answer)

    def _check_headers(self, packet: Packet, view: IPv6View, now: float) -> None:
        core = self._core
        if view.has_cut_headers:
            # RFC 7915 §5.1.1: dropped, and §5.4 has no other code for it.
            core.refuse6(Reason.FRAGMENT_EXTENSION, packet, view, 1, now)
        if view.routing_pointer is not None:
            # RFC 7915 §5.1: the pointer names the segments-left octet.
            kind, at = Icmp6.PARAMETER_PROBLEM, view.routing_pointer
            raise Discard(Reason.ROUTING_HEADER, core.errors.to_v6(packet, view, kind, 0, now, at))
        check_place(view.fragment, len(view.payload))
        check_offload(packet, view.protocol)
        if view.protocol in _OF_IPV4:
            raise Discard(Reason.ICMP_TYPE)
        if packet.partial and view.protocol not in _PROTOCOL4:
            raise Discard(Reason.MALFORMED)

    def _source4(self, packet: Packet, view: IPv6View, now: float) -> bytes:
        core = self._core
        pool = core.siit.pool
        pooled = None if pool is None else pool.find6(view.src)
        src4 = core.addresses.to_v4(view.src)
        # A mapping goes first, also one that came after the pool's.
        is_pooled = pooled is not None and pooled.addr4 == src4
        if src4 is not None and not is_pooled:
            return src4
        if core.addresses.is_illegal6(view.src):
            # RFC 7915 §5.1: dropped in silence.
            raise Discard(Reason.SOURCE_INVALID)
        if pool is None or core.addresses.embeds(view.src):
            # RFC 4443 §3.1: the source address is what fails.
            core.refuse6(Reason.SOURCE_UNMAPPED, packet, view, 5, now)
        if not core.admit(view.src):
            core.refuse6(Reason.CLIENT_REFUSED, packet, view, 1, now)
        assigned = pool.assign(view.src, now)
        if assigned is None:
            core.refuse6(Reason.POOL4_EXHAUSTED, packet, view, 3, now)
        return assigned.addr4

    def _transport(
        self, packet: Packet, view: IPv6View, src4: bytes, dst4: bytes, now: float
    ) -> list[Packet]:
        core = self._core
        protocol = _PROTOCOL4[view.protocol]
        if view.fragment is not None and (view.fragment.offset or view.fragment.more):
            if packet.partial:
                # Who cuts a datagram has completed its checksum before.
                raise Discard(Reason.MALFORMED)
            if protocol == Protocol.ICMP:
                # The checksum covers a pseudo-header with a length that no fragment knows.
                raise Discard(Reason.FRAGMENT)
            if view.fragment.offset:
                key6 = view.src + view.dst + bytes(4)
                flow = self._make(protocol, packet.link, key6, src4, dst4, now)
                return [piece_to_v4(core, flow, view)]
            check_first_fragment(view.protocol, view.payload)
        check_header(view.protocol, view.payload)
        port_at, size = (4, 2) if protocol == Protocol.ICMP else (0, 4)
        key6 = view.src + view.dst + view.payload[port_at : port_at + size]
        session = core.flows.flows[protocol].find6(key6)
        if session is None:
            session = self._make(protocol, packet.link, key6, src4, dst4, now)
            if self._is_symmetric(view, src4, dst4) and not (
                protocol == Protocol.TCP and is_syn(view.payload[13])
            ):
                core.flows.enter(session)
        elif packet.link:
            session.client.link = packet.link
        session.last = now
        return to_v4(core, session, packet, view, now)

    def _make(
        self, protocol: int, link: bytes, key6: bytes, src4: bytes, dst4: bytes, now: float
    ) -> Session:
        flows = self._core.flows
        return flows.make(protocol, flows.client(key6[:16], link), key6, src4, dst4, now)

    def _is_symmetric(self, view: IPv6View, src4: bytes, dst4: bytes) -> bool:
        """Whether the fast path would do the same, and the answer come back to these addresses."""
        addresses = self._core.addresses
        return (
            addresses.to_v6(src4) == view.src
            and addresses.peer6(dst4, src4, turned=False) == view.dst
        )

    def _plain(self, packet: Packet, view: IPv6View, src4: bytes, dst4: bytes) -> Packet:
        """Any other protocol: the header is translated, what follows is not touched."""
        core, piece = self._core, view.fragment
        total = 20 + len(view.payload)
        if total > 0xFFFF:
            raise Discard(Reason.TOO_BIG)
        if piece is not None:
            df, ident = False, piece.ident & 0xFFFF
        else:
            df, ident = total > DF_CLEAR_UP_TO, 0
            if not df:
                idents = core.flows.idents
                ident = idents.take(idents.index(src4 + dst4, view.protocol))
        data = build_ipv4(
            tos=tos4(core, view),
            ident=ident,
            df=df,
            fragment=piece,
            ttl=view.hop_limit - 1,
            protocol=view.protocol,
            src=src4,
            dst=dst4,
            payload=view.payload,
        )
        return Packet(data)

    def _error(self, packet: Packet, view: IPv6View, dst4: bytes) -> list[Packet]:
        """An ICMPv6 error (RFC 7915 §5.2, RFC 6791)."""
        core = self._core
        if view.fragment is not None:
            raise Discard(Reason.FRAGMENT)
        message, flow = error_6_to_4(
            view,
            self._flow_by_key6,
            core.addresses.to_v4,
            mtu6=core.settings.mtu,
            bare=self._flow_between,
        )
        if view.hop_limit <= 1:
            raise Discard(Reason.HOP_LIMIT)
        src4 = core.addresses.to_v4(view.src)
        if src4 is None:
            # RFC 6791 §3: a router without an IPv4 address gets one of the pool, or ours.
            pool = core.settings.icmp4_error_pool
            src4 = router4(view.src, flow, pool) if pool else core.settings.icmp4_source
        before = 0
        if not packet.partial:
            pseudo = pseudo_header_sum(view.src, view.dst, len(view.payload), Protocol.ICMPV6)
            before = ones_sum(view.payload) + pseudo
        idents = core.flows.idents
        data = build_ipv4(
            tos=tos4(core, view),
            ident=idents.take(idents.index(src4 + dst4, Protocol.ICMP)),
            df=False,
            fragment=None,
            ttl=view.hop_limit - 1,
            protocol=Protocol.ICMP,
            src=src4,
            dst=dst4,
            payload=seal(message, Protocol.ICMP, b"", b"", before=before),
        )
        return [Packet(data)]

    def _flow_by_key6(self, protocol: int, key6: bytes) -> Flow:
        ports = key6[32:].ljust(4, b"\0")
        return self._flow_between(key6[:16], key6[16:32], ports)

    def _flow_between(self, host6: bytes, peer6: bytes, ports: bytes = bytes(4)) -> Flow:
        """The flow of a packet inside an error: `peer6` sent it to `host6`."""
        addresses = self._core.addresses
        host4, peer4 = addresses.to_v4(host6), addresses.to_v4(peer6)
        if host4 is None or peer4 is None:
            raise Discard(Reason.ICMP_INNER)
        return flow_between(host6, peer6, host4, peer4, ports)
