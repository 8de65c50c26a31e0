"""Probes as frames, compared with what scapy makes and reads."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether

from gateway.backhaul.probe import (
    advertisement,
    arp_answer,
    arp_request,
    echo_request,
    is_echo_reply,
    solicitation,
)

MAC, PEER = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
MAC_TEXT, PEER_TEXT = "02:00:00:00:00:01", "02:00:00:00:00:02"
LOCAL, REMOTE, POOL, HOST = (bytes(a) for a in (
    (169, 254, 7, 2), (169, 254, 7, 1), (192, 0, 0, 6), (198, 51, 100, 1)
))  # fmt: skip


def test_arp_request():
    expected = Ether(src=MAC_TEXT, dst="ff:ff:ff:ff:ff:ff") / ARP(
        op=1, hwsrc=MAC_TEXT, psrc="169.254.7.2", pdst="169.254.7.1"
    )
    assert arp_request(MAC, LOCAL, REMOTE) == bytes(expected)


def arp(**fields) -> bytes:
    right = {"op": 2, "hwsrc": PEER_TEXT, "psrc": "169.254.7.1", "hwdst": MAC_TEXT}
    return bytes(Ether(src=PEER_TEXT, dst=MAC_TEXT) / ARP(**(right | fields), pdst="169.254.7.2"))


def test_arp_answer():
    assert arp_answer(arp(), REMOTE) == PEER
    assert arp_answer(arp() + bytes(18), REMOTE) == PEER  # padded


@pytest.mark.parametrize(
    "frame", [arp(op=1), arp(psrc="169.254.7.3"), arp()[:41], b"", arp(hwtype=6), arp(ptype=0x86DD)]
)
def test_what_is_no_arp_answer(frame):
    assert arp_answer(frame, REMOTE) is None


def test_solicitation():
    expected = (
        Ether(src=MAC_TEXT, dst="33:33:ff:00:00:02")
        / IPv6(src="fe80::1", dst="ff02::1:ff00:2", hlim=255)
        / ICMPv6ND_NS(tgt="fe80::2")
        / ICMPv6NDOptSrcLLAddr(lladdr=MAC_TEXT)
    )
    assert solicitation(MAC) == bytes(expected)


def na(target="fe80::2", layer=None) -> bytes:
    message = layer or ICMPv6ND_NA(tgt=target, S=1) / ICMPv6NDOptDstLLAddr(lladdr=PEER_TEXT)
    ethernet = Ether(src=PEER_TEXT, dst=MAC_TEXT)
    return bytes(ethernet / IPv6(src="fe80::2", dst="fe80::1", hlim=255) / message)


def test_advertisement():
    assert advertisement(na()) == PEER
    for frame in (na("fe80::3"), na()[:77], b"", na(layer=ICMPv6ND_NS(tgt="fe80::2"))):
        assert advertisement(frame) is None


def test_echo_request_reads_as_one():
    frame = Ether(echo_request(MAC, PEER, POOL, HOST, 0x1234))
    assert (frame.src, frame.dst) == (MAC_TEXT, PEER_TEXT)
    assert (frame[IP].src, frame[IP].dst) == ("192.0.0.6", "198.51.100.1")
    assert (frame[ICMP].type, frame[ICMP].id) == (8, 0x1234)
    again = Ether(bytes(frame))
    del again[IP].chksum, again[ICMP].chksum
    assert bytes(again) == bytes(frame)


def reply(**fields) -> bytes:
    ip = IP(src="203.0.113.9", dst=fields.pop("dst", "192.0.0.6"), options=fields.pop("ip", []))
    return bytes(Ether() / ip / ICMP(type=fields.pop("type", 0), id=fields.pop("id", 7)))


def test_echo_reply():
    assert is_echo_reply(reply(), POOL, 7)
    assert is_echo_reply(reply(ip=[b"\x01\x01\x01\x01"]), POOL, 7)
    for frame in (reply(type=8), reply(id=8), reply(dst="192.0.0.5"), reply()[:40], b""):
        assert not is_echo_reply(frame, POOL, 7)
