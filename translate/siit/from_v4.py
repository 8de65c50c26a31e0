"""Packets from IPv4 in stateless mode (RFC 7915 §4)."""

from __future__ import annotations

from functools import partial
from typing import NoReturn

from translate.addresses import is_unicast4
from translate.checksum import ones_sum
from translate.from_v4 import has_no_checksum, has_unexpired_source_route, verify_header
from translate.headers import build_ipv6
from translate.icmp import ERRORS4, Icmp4
from translate.icmp_errors import Flow, error_4_to_6, seal
from translate.outgoing import check_offload, piece_to_v6, to_v6, traffic_class6
from translate.packets import IPv4View, Packet, Protocol, parse_ipv4
from translate.policy import is_illegal4
from translate.reasons import Discard, Reason
from translate.segments import complete_checksum, fragment_ipv6
from translate.sessions import Session
from translate.settings import ZeroChecksum
from translate.siit.core import SiitCore, check_place, flow_between
from translate.tcp_states import is_syn
from translate.transport import check_first_fragment, check_header

_PORTED4 = frozenset({Protocol.TCP, Protocol.UDP, Protocol.ICMP})
_ECHOES4 = frozenset({Icmp4.ECHO, Icmp4.ECHO_REPLY})
# What a next header of IPv6 means, which an IPv4 sender must not be able to make.
_OF_IPV6 = frozenset(
    {
        Protocol.HOP_BY_HOP,
        Protocol.ROUTING,
        Protocol.FRAGMENT,
        Protocol.ICMPV6,
        Protocol.DESTINATION_OPTIONS,
    }
)


class FromV4:
    """The steps for a packet from IPv4."""

    def __init__(self, core: SiitCore) -> None:
        self._core = core

    def translate(self, packet: Packet, now: float, *, turned: bool = False) -> list[Packet]:
        """What has to be sent for one IPv4 packet. Raises Discard.

        `turned`: it has just come from IPv6 in here (RFC 7757 §4.2.2).
        """
        core = self._core
        view = parse_ipv4(packet.data)
        if core.settings.verify_header4:
            verify_header(packet, view)
        later = view.fragment is not None and view.fragment.offset > 0
        is_error = view.protocol == Protocol.ICMP and not later and view.payload[:1] in _ERROR_BYTES
        if not is_unicast4(view.src) and not is_error:
            raise Discard(Reason.SOURCE_INVALID)
        if view.options and has_unexpired_source_route(view.options):
            # RFC 7915 §4.1: source route failed.
            core.refuse4(Reason.SOURCE_ROUTE, packet, view, 5, now)
        if view.protocol == Protocol.IGMP:
            # RFC 7915 §4.2: dropped in silence.
            raise Discard(Reason.ICMP_TYPE)
        if view.protocol in _OF_IPV6:
            core.refuse4(Reason.UNKNOWN_PROTOCOL, packet, view, 2, now)
        check_place(view.fragment, len(view.payload))
        check_offload(packet, view.protocol)
        if packet.partial and view.protocol not in _PORTED4:
            raise Discard(Reason.MALFORMED)
        if view.dst == core.settings.icmp4_source and core.addresses.explicit6(view.dst) is None:
            self._own(packet, view, now)
        dst6 = core.addresses.to_v6(view.dst)
        if dst6 is None:
            is_private = core.addresses.is_private4(view.dst)
            reason = Reason.PRIVATE_UNDER_WKP if is_private else Reason.NO_MAPPING
            core.refuse4(reason, packet, view, 13 if is_private else 1, now)
        if view.ttl <= 1:
            answer = core.errors.to_v4(packet, view, Icmp4.TIME_EXCEEDED, 0, now)
            raise Discard(Reason.HOP_LIMIT, answer)
        if is_error:
            return self._error(packet, view, dst6, turned)
        src6 = core.addresses.peer6(view.src, view.dst, turned=turned)
        if src6 is None:
            if is_illegal4(view.src):
                # RFC 7915 §4.1: dropped in silence; link-local ones come this far.
                raise Discard(Reason.SOURCE_INVALID)
            is_private = core.addresses.is_private4(view.src)
            reason = Reason.PRIVATE_UNDER_WKP if is_private else Reason.SOURCE_UNMAPPED
            core.refuse4(reason, packet, view, 13, now)
        if view.protocol not in _PORTED4:
            return self._plain(packet, view, src6, dst6)
        return self._transport(packet, view, src6, dst6, now, turned)

    def _own(self, packet: Packet, view: IPv4View, now: float) -> NoReturn:
        """A packet for the translator itself: it answers pings and nothing else."""
        core = self._core
        if view.protocol != Protocol.ICMP:
            core.refuse4(Reason.DESTINATION_REFUSED, packet, view, 2, now)
        if view.payload[:1] != bytes((Icmp4.ECHO,)) or view.fragment is not None:
            raise Discard(Reason.DESTINATION_REFUSED)
        whole = parse_ipv4(complete_checksum(packet).data)
        check_header(whole.protocol, whole.payload)
        if ones_sum(whole.payload) != 0xFFFF:
            raise Discard(Reason.MALFORMED)
        raise Discard(Reason.HANDLED, core.errors.echo_reply4(whole, now))

    def _transport(
        self, packet: Packet, view: IPv4View, src6: bytes, dst6: bytes, now: float, turned: bool
    ) -> list[Packet]:
        core = self._core
        protocol = view.protocol
        if view.fragment is not None:
            if packet.partial:
                # Who cuts a datagram has completed its checksum before.
                raise Discard(Reason.MALFORMED)
            if protocol == Protocol.ICMP:
                # The new checksum covers a length that no fragment knows.
                raise Discard(Reason.FRAGMENT)
            if view.fragment.offset:
                flow = self._make(protocol, src6, dst6, bytes(4), view, now)
                return piece_to_v6(core, flow, view)
            check_first_fragment(protocol, view.payload)
        check_header(protocol, view.payload)
        if protocol == Protocol.ICMP and view.payload[0] not in _ECHOES4:
            raise Discard(Reason.ICMP_TYPE)
        if has_no_checksum(packet, view):
            self._zero_checksum(packet, view, now)
        if protocol == Protocol.ICMP:
            ports, key_ports = view.payload[4:6], view.payload[4:6]
        else:
            ports, key_ports = view.payload[2:4] + view.payload[0:2], view.payload[0:4]
        session = None
        if not turned:
            session = core.flows.flows[protocol].find4(view.src + view.dst + key_ports)
        if session is None:
            session = self._make(protocol, src6, dst6, ports, view, now)
            is_start = protocol == Protocol.TCP and is_syn(view.payload[13])
            if not turned and not is_start and self._is_symmetric(view, src6, dst6):
                core.flows.enter(session)
        session.last = now
        return to_v6(core, session, packet, view)

    def _make(
        self, protocol: int, src6: bytes, dst6: bytes, ports: bytes, view: IPv4View, now: float
    ) -> Session:
        flows = self._core.flows
        key6 = dst6 + src6 + ports
        return flows.make(protocol, flows.client(dst6, b""), key6, view.dst, view.src, now)

    def _is_symmetric(self, view: IPv4View, src6: bytes, dst6: bytes) -> bool:
        """Whether the fast path would do the same, and the answer come back to these addresses."""
        addresses = self._core.addresses
        return addresses.to_v4(dst6) == view.dst and addresses.to_v4(src6) == view.src

    def _zero_checksum(self, packet: Packet, view: IPv4View, now: float) -> None:
        """Raises Discard where UDP without a checksum cannot, or shall not, pass."""
        mode = self._core.settings.udp_zero_checksum
        if mode is ZeroChecksum.REJECT:
            self._core.refuse4(Reason.UDP_ZERO_CHECKSUM, packet, view, 13, now)
        # RFC 7915 §4.5: nobody can compute one from the first fragment alone.
        if mode is ZeroChecksum.DROP or (
            mode is ZeroChecksum.CALCULATE and view.fragment is not None
        ):
            raise Discard(Reason.UDP_ZERO_CHECKSUM)

    def _plain(self, packet: Packet, view: IPv4View, src6: bytes, dst6: bytes) -> list[Packet]:
        """Any other protocol: the header is translated, what follows is not touched."""
        core = self._core
        client = core.flows.clients.get(dst6)
        data = build_ipv6(
            traffic_class=traffic_class6(core, view),
            hop_limit=view.ttl - 1,
            protocol=view.protocol,
            src=src6,
            dst=dst6,
            payload=view.payload,
            fragment=view.fragment,
        )
        whole = Packet(data, link=client.link if client else b"")
        lowest = core.settings.lowest_ipv6_mtu
        if view.df or len(data) <= lowest:
            return [whole]
        return fragment_ipv6(whole, lowest, view.ident)

    def _error(self, packet: Packet, view: IPv4View, dst6: bytes, turned: bool) -> list[Packet]:
        """An ICMPv4 error (RFC 7915 §4.2, §4.3)."""
        core = self._core
        if view.fragment is not None:
            raise Discard(Reason.FRAGMENT)
        check_header(view.protocol, view.payload)
        message, flow = error_4_to_6(
            view,
            partial(self._flow_by_key4, turned),
            lambda addr4, _: core.addresses.to_v6(addr4),
            mtu6=core.settings.mtu,
            bare=partial(self._flow_between, turned),
        )
        src6 = None
        if not packet.is_own:
            # RFC 7757 §4.2.1: who was written to appears as such, which is embedded for a hairpin.
            was_meant = view.src == flow.server4
            src6 = flow.server6 if was_meant else core.addresses.error_source6(view.src)
        if src6 is None:
            # Some addresses are refused, or have no prefix; those become our own.
            src6 = core.settings.icmp6_source
        before = 0 if packet.partial else ones_sum(view.payload)
        data = build_ipv6(
            traffic_class=traffic_class6(core, view),
            hop_limit=view.ttl - 1,
            protocol=Protocol.ICMPV6,
            src=src6,
            dst=dst6,
            payload=seal(message, Protocol.ICMPV6, src6, dst6, before=before),
        )
        client = core.flows.clients.get(dst6)
        return [Packet(data, link=client.link if client else b"")]

    def _flow_by_key4(self, turned: bool, protocol: int, key4: bytes) -> Flow:
        ports = key4[8:]
        swapped = ports if protocol == Protocol.ICMP else ports[2:4] + ports[0:2]
        return self._flow_between(turned, key4[4:8], key4[0:4], swapped.ljust(4, b"\0"))

    def _flow_between(
        self, turned: bool, host4: bytes, peer4: bytes, ports: bytes = bytes(4)
    ) -> Flow:
        """The flow of a packet inside an error: `host4` sent it to `peer4`."""
        addresses = self._core.addresses
        # RFC 7757 §4.2.1: inside, the destination is the peer as the host has written to it.
        host6 = addresses.to_v6(host4)
        peer6 = addresses.peer6(peer4, host4, turned=turned)
        if host6 is None or peer6 is None:
            raise Discard(Reason.ICMP_INNER)
        return flow_between(host6, peer6, host4, peer4, ports)


_ERROR_BYTES = frozenset(bytes((kind,)) for kind in ERRORS4)
