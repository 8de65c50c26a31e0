"""The gateway as a neighbour: what scapy asks, and what scapy reads in the answers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6NDOptUnknown,
    IPv6,
    IPv6ExtHdrFragment,
    in6_chksum,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet as Layers
from scapy.packet import Raw

from tests.unit.fakes import (
    CLIENT_MAC,
    GATEWAY_MAC,
    HOST_MAC,
    POOL4,
    SERVER6,
    checksums_hold,
    make_neighbours,
)

BROADCAST = "ff:ff:ff:ff:ff:ff"
OWN = "fe80::5"
HOST6 = "fe80::1"
NEXT_HOP4 = "192.0.0.8"
SOLICITED_NODE = "ff02::1:ff00:5"


def ask(frame: Layers | bytes) -> Layers | None:
    data = bytes(frame)
    answer = make_neighbours().answer(data[:14], data[14:])
    return None if answer is None else Ether(answer)


def arp(target: str = NEXT_HOP4, **fields: Any) -> Layers:
    values = {"op": 1, "hwsrc": HOST_MAC, "psrc": "203.0.113.1", "pdst": target, **fields}
    return Ether(src=HOST_MAC, dst=BROADCAST) / ARP(**values)


def solicitation(
    target: str = OWN,
    *,
    src: str = HOST6,
    dst: str = SOLICITED_NODE,
    hlim: int = 255,
    code: int = 0,
    options: Layers | None = None,
) -> Layers:
    frame = Ether(src=HOST_MAC, dst="33:33:ff:00:00:05") / IPv6(src=src, dst=dst, hlim=hlim)
    frame /= ICMPv6ND_NS(tgt=target, code=code)
    return frame / options if options is not None else frame


def ping(dst: str = OWN, *, src: str = HOST6, data: bytes = b"payload") -> Layers:
    echo = ICMPv6EchoRequest(id=7, seq=9, data=data)
    return Ether(src=HOST_MAC, dst=GATEWAY_MAC) / IPv6(src=src, dst=dst, hlim=64, tc=4) / echo


# -- ARP (RFC 826) ------------------------------------------------------------------------


@pytest.mark.parametrize("target", [NEXT_HOP4, POOL4])
def test_arp_request_is_answered(target):
    answer = ask(arp(target))
    assert answer is not None
    assert (answer.dst, answer.src, answer.type) == (HOST_MAC, GATEWAY_MAC, 0x0806)
    reply = answer[ARP]
    assert (reply.op, reply.hwtype, reply.ptype, reply.hwlen, reply.plen) == (2, 1, 0x800, 6, 4)
    assert (reply.hwsrc, reply.psrc) == (GATEWAY_MAC, target)
    assert (reply.hwdst, reply.pdst) == (HOST_MAC, "203.0.113.1")


def test_arp_probe_is_answered_RFC5227_2_1_1():
    answer = ask(arp(psrc="0.0.0.0"))
    assert answer is not None
    assert (answer[ARP].op, answer[ARP].psrc, answer[ARP].pdst) == (2, NEXT_HOP4, "0.0.0.0")


@pytest.mark.parametrize("target", ["192.0.0.5", "192.0.0.7", "192.0.0.9", "203.0.113.2"])
def test_arp_for_others_is_ignored(target):
    assert ask(arp(target)) is None


@pytest.mark.parametrize(
    "announcement",
    [
        arp("203.0.113.1", hwdst="00:00:00:00:00:00"),
        arp("203.0.113.1", op=2, hwdst=BROADCAST),
        arp(NEXT_HOP4, op=2),
    ],
    ids=["RFC 5227 announcement", "gratuitous reply", "reply"],
)
def test_arp_announcements_and_replies_are_ignored(announcement):
    assert ask(announcement) is None


@pytest.mark.parametrize("fields", [{"hwtype": 6}, {"ptype": 0x86DD}, {"op": 3}, {"op": 0}])
def test_arp_of_another_kind_is_ignored(fields):
    assert ask(arp(**fields)) is None


@pytest.mark.parametrize(("at", "length"), [(4, 8), (5, 16)])
def test_arp_with_addresses_of_another_length_is_ignored(at, length):
    data = bytearray(bytes(arp()))
    data[14 + at] = length
    assert ask(bytes(data)) is None


@pytest.mark.parametrize("size", [0, 7, 8, 27])
def test_arp_truncated_is_ignored(size):
    assert ask(bytes(arp())[: 14 + size]) is None


def test_arp_with_padding_is_answered():
    assert ask(bytes(arp()) + bytes(18)) is not None


# -- NDP (RFC 4861) -----------------------------------------------------------------------


@pytest.mark.parametrize("target", [OWN, SERVER6, "fec0:0:0:ffff::", "fec0:0:0:ffff:c0:2:100:0"])
def test_solicitation_is_answered(target):
    answer = ask(solicitation(target, options=ICMPv6NDOptSrcLLAddr(lladdr=HOST_MAC)))
    assert answer is not None
    assert (answer.dst, answer.src, answer.type) == (HOST_MAC, GATEWAY_MAC, 0x86DD)
    ip = answer[IPv6]
    assert (ip.dst, ip.hlim, ip.nh) == (HOST6, 255, 58)
    assert ip.src == answer[ICMPv6ND_NA].tgt == IPv6(dst=target).dst
    message = answer[ICMPv6ND_NA]
    assert (message.type, message.code, message.S, message.O, message.R) == (136, 0, 1, 1, 1)
    assert answer[ICMPv6NDOptDstLLAddr].lladdr == GATEWAY_MAC
    assert checksums_hold(answer)


def test_solicitation_without_options_is_answered():
    # RFC 4861 §7.2.2: a unicast solicitation, as reachability is confirmed, needs none.
    answer = ask(solicitation(dst=OWN))
    assert answer is not None
    assert answer.dst == HOST_MAC


def test_solicitation_with_unknown_options_is_answered_RFC4861_7_1_1():
    unknown = ICMPv6NDOptUnknown(type=200, len=1, data=bytes(6))
    assert ask(solicitation(options=unknown / ICMPv6NDOptSrcLLAddr(lladdr=HOST_MAC))) is not None


@pytest.mark.parametrize("target", ["fe80::6", "fec0:0:0:fffe::1", "fd00:64::2", SOLICITED_NODE])
def test_solicitation_for_others_is_ignored(target):
    assert ask(solicitation(target)) is None


def test_duplicate_address_detection_is_answered_to_all_nodes_RFC4861_7_2_4():
    answer = ask(solicitation(src="::"))
    assert answer is not None
    assert (answer.dst, answer[IPv6].dst) == ("33:33:00:00:00:01", "ff02::1")
    assert (answer[ICMPv6ND_NA].S, answer[ICMPv6ND_NA].tgt) == (0, OWN)
    assert answer[ICMPv6NDOptDstLLAddr].lladdr == GATEWAY_MAC
    assert checksums_hold(answer)


def test_duplicate_address_detection_must_be_multicast_RFC4861_7_1_1():
    assert ask(solicitation(src="::", dst=OWN)) is None


def test_duplicate_address_detection_must_not_name_its_link_address_RFC4861_7_1_1():
    options = ICMPv6NDOptSrcLLAddr(lladdr=HOST_MAC)
    assert ask(solicitation(src="::", options=options)) is None


@pytest.mark.parametrize("hlim", [254, 64, 1, 0])
def test_solicitation_from_beyond_the_link_is_ignored_RFC4861_7_1_1(hlim):
    assert ask(solicitation(hlim=hlim)) is None


def test_solicitation_with_a_code_is_ignored_RFC4861_7_1_1():
    assert ask(solicitation(code=1)) is None


def test_solicitation_with_an_option_of_length_0_is_ignored_RFC4861_7_1_1():
    assert ask(solicitation(options=Raw(b"\x01\x00" + bytes(6)))) is None


def test_solicitation_with_a_wrong_checksum_is_ignored_RFC4861_7_1_1():
    data = bytearray(bytes(solicitation()))
    data[14 + 40 + 2] ^= 1
    assert ask(bytes(data)) is None


def test_solicitation_too_short_is_ignored_RFC4861_7_1_1():
    # 23 of 24 bytes, all lengths and the checksum in order.
    whole = bytes(solicitation()[ICMPv6ND_NS])
    ip = IPv6(src=HOST6, dst=SOLICITED_NODE, hlim=255, nh=58)
    cleared = whole[:2] + b"\0\0" + whole[4:23]
    checksum = in6_chksum(58, ip, cleared).to_bytes(2, "big")
    short = Raw(cleared[:2] + checksum + cleared[4:])
    assert ask(Ether(src=HOST_MAC, dst=GATEWAY_MAC) / ip / short) is None


def test_solicitation_cut_short_is_ignored():
    assert ask(bytes(solicitation())[:-1]) is None


@pytest.mark.parametrize("kind", [133, 134, 136, 137])
def test_other_neighbour_messages_are_ignored(kind):
    frame = solicitation()
    frame[ICMPv6ND_NS].type = kind
    assert ask(frame) is None


# -- ping ---------------------------------------------------------------------------------


@pytest.mark.parametrize("src", [HOST6, "fd00:64::2"])
def test_ping_of_the_own_address_is_answered(src):
    answer = ask(ping(src=src))
    assert answer is not None
    assert (answer.dst, answer.src) == (HOST_MAC, GATEWAY_MAC)
    ip = answer[IPv6]
    assert (ip.src, ip.dst, ip.hlim, ip.tc) == (OWN, src, 64, 4)
    reply = answer[ICMPv6EchoReply]
    assert (reply.type, reply.code, reply.id, reply.seq, reply.data) == (129, 0, 7, 9, b"payload")
    assert checksums_hold(answer)


@pytest.mark.parametrize(
    "frame",
    [
        ping("fe80::6"),
        ping("ff02::1"),
        ping(SERVER6),
        ping(src="::"),
        ping(src="ff02::1"),
        Ether(src=HOST_MAC, dst=GATEWAY_MAC)
        / IPv6(src=HOST6, dst=OWN)
        / ICMPv6EchoReply(id=7, seq=9),
        Ether(src=HOST_MAC, dst=GATEWAY_MAC)
        / IPv6(src=HOST6, dst=OWN)
        / IPv6ExtHdrFragment(m=1)
        / ICMPv6EchoRequest(id=7, seq=9),
        Ether(src=HOST_MAC, dst=GATEWAY_MAC) / IP(src="203.0.113.1", dst=NEXT_HOP4) / ICMP(),
        Ether(src=CLIENT_MAC, dst=GATEWAY_MAC, type=0x88CC) / Raw(bytes(50)),
    ],
    ids=[
        "another address",
        "all nodes",
        "an address of the prefix",
        "from nobody",
        "from a group",
        "a reply",
        "a fragment",
        "IPv4",
        "LLDP",
    ],
)
def test_what_is_no_ping_of_the_own_address_is_ignored(frame):
    assert ask(frame) is None


def test_ping_with_a_wrong_checksum_is_ignored():
    data = bytearray(bytes(ping()))
    data[-1] ^= 1
    assert ask(bytes(data)) is None


# -- anything -----------------------------------------------------------------------------

_VALID = [bytes(frame) for frame in (arp(), solicitation(), solicitation(src="::"), ping())]


@given(
    st.sampled_from([b"\x08\x06", b"\x86\xdd", b"\x08\x00", b"", b"\xff"]), st.binary(max_size=100)
)
def test_garbage_never_raises(ethertype, payload):
    make_neighbours().answer(bytes(12) + ethertype, payload)


@given(
    st.sampled_from(_VALID),
    st.lists(st.tuples(st.integers(0, 85), st.integers(0, 255)), max_size=4),
    st.integers(0, 90),
)
def test_damage_never_raises_and_answers_have_whole_headers(frame, damage, length):
    damaged = bytearray(frame)
    for at, value in damage:
        if at < len(damaged):
            damaged[at] = value
    data = bytes(damaged[:length])
    answer = make_neighbours().answer(data[:14], data[14:])
    assert answer is None or len(answer) >= 42
