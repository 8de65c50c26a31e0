"""Duplicate address detection for addresses that the kernel does not probe (RFC 4862 §5.4)."""

import struct
from ipaddress import IPv6Address

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, IPv6
from scapy.utils import checksum

from gateway.clat.claim import claim_in, solicitation, taken_by

ADDRESS = IPv6Address("2001:db8:1::c1a7:1234")
OWNER = "fe80::1"


def advertisement(**ip):
    header = {"src": OWNER, "dst": "ff02::1", "hlim": 255, **ip}
    return bytes(IPv6(**header) / ICMPv6ND_NA(tgt=str(ADDRESS)))


def test_rfc4862_section_5_4_2_the_probe():
    packet = IPv6(solicitation(ADDRESS))
    assert (packet.src, packet.dst, packet.hlim) == ("::", "ff02::1:ffa7:1234", 255)
    assert packet[ICMPv6ND_NS].tgt == str(ADDRESS)
    del packet[ICMPv6ND_NS].cksum
    assert bytes(packet) == solicitation(ADDRESS), "scapy's checksum is ours"


def test_rfc4862_section_5_4_4_an_advertisement_says_that_it_is_somebodys():
    assert taken_by(advertisement()) == ADDRESS


def test_rfc4862_section_5_4_3_so_does_another_probe_but_no_question_of_a_neighbour():
    assert taken_by(solicitation(ADDRESS)) == ADDRESS
    asks = IPv6(src=OWNER, dst="ff02::1:ffa7:1234", hlim=255) / ICMPv6ND_NS(tgt=str(ADDRESS))
    assert taken_by(bytes(asks)) is None


@pytest.mark.parametrize("hop_limit", [0, 64, 254])
def test_rfc4861_section_7_1_2_not_from_another_link(hop_limit):
    assert taken_by(advertisement(hlim=hop_limit)) is None


def test_rfc4861_section_7_1_2_not_damaged_and_not_cut():
    good = advertisement()
    for at in (8, 41, 42, 50, 63):
        assert taken_by(good[:at] + bytes((good[at] ^ 1,)) + good[at + 1 :]) is None
    for length in range(len(good)):
        assert taken_by(good[:length]) is None


def test_rfc4861_section_7_1_2_the_code_is_zero():
    header = IPv6(src=OWNER, dst="ff02::1", hlim=255)
    assert taken_by(bytes(header / ICMPv6ND_NA(tgt=str(ADDRESS), code=1))) is None


def test_what_is_something_else_says_nothing():
    good = advertisement()
    assert taken_by(b"\x40" + good[1:]) is None
    asks = solicitation(ADDRESS)
    for kind in (133, 134, 137):
        body = bytes((kind,)) + asks[41:42] + bytes(2) + asks[44:]
        total = checksum(asks[8:40] + struct.pack(">II", len(body), 58) + body)
        assert taken_by(asks[:40] + body[:2] + struct.pack(">H", total) + body[4:]) is None, kind
    assert taken_by(good[:6] + b"\x3b" + good[7:]) is None


def test_rfc4861_section_7_1_2_the_target_is_within_the_message():
    header = IPv6(src=OWNER, dst="ff02::1", hlim=255)
    whole = bytes(header / ICMPv6ND_NA(tgt=str(ADDRESS)))
    body = whole[40:60]
    pseudo = whole[8:40] + struct.pack(">II", len(body), 58)
    body = (
        body[:2] + struct.pack(">H", checksum(pseudo + body[:2] + bytes(2) + body[4:])) + body[4:]
    )
    packet = whole[:4] + struct.pack(">H", len(body)) + whole[6:40] + body + whole[60:]
    assert taken_by(packet) is None


MAC = bytes.fromhex("020000000001")


def test_a_claim_is_an_advertisement_of_somebody_else():
    message = advertisement()[40:]
    assert claim_in(message, 255, MAC) == ADDRESS
    own = message + b"\2\1" + MAC
    assert claim_in(own, 255, MAC) is None
    assert claim_in(own, 255, MAC[:-1] + b"\2") == ADDRESS


@pytest.mark.parametrize(
    ("message", "hop_limit"),
    [
        (advertisement()[40:], 254),
        (advertisement()[40:63], 255),
        (b"\x87" + advertisement()[41:], 255),
        (b"\x88\1" + advertisement()[42:], 255),
    ],
)
def test_rfc4861_section_7_1_2_what_is_no_advertisement_claims_nothing(message, hop_limit):
    assert claim_in(message, hop_limit, MAC) is None
