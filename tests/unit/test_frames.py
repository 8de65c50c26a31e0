"""Frames of all four kinds of device, taken apart and put together."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6

from gateway.frames import FrameFormat
from tests.unit.fakes import (
    CLIENT_MAC,
    FORMATS,
    GATEWAY_MAC,
    HOST_MAC,
    TAP,
    TAP_VNET,
    TUN,
    TUN_VNET,
    frame_format,
    mac,
    udp4,
    udp6,
)
from translate.packets import GSO_TCPV6, Packet

SIZES = {TAP_VNET: (14, 24), TAP: (14, 14), TUN_VNET: (0, 10), TUN: (0, 0)}
VERSIONS = [(udp4, b"\x08\x00"), (udp6, b"\x86\xdd")]


def in_front(kind: str, ethertype: bytes, vnet: bytes = bytes(10)) -> bytes:
    header = mac(GATEWAY_MAC) + mac(CLIENT_MAC) + ethertype if kind.startswith("tap") else b""
    return (vnet if kind.endswith("vnet") else b"") + header


@pytest.mark.parametrize("kind", FORMATS)
def test_sizes(kind):
    frames = frame_format(kind)
    assert (frames.link_size, frames.header_size) == SIZES[kind]
    assert frames.ethernet is kind.startswith("tap")


def test_headers_for_the_fast_path():
    frames = frame_format(TAP)
    assert frames.ethernet4 == mac(HOST_MAC) + mac(GATEWAY_MAC) + b"\x08\x00"
    assert frames.ethernet6_tail == mac(GATEWAY_MAC) + b"\x86\xdd"
    assert (frame_format(TUN).ethernet4, frame_format(TUN).ethernet6_tail) == (b"", b"")


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("make", "ethertype"), VERSIONS)
def test_split(kind, make, ethertype):
    data = bytes(make())
    parts = frame_format(kind).split(in_front(kind, ethertype) + data)
    assert parts is not None
    header, packet = parts
    tap = kind.startswith("tap")
    assert header == (mac(GATEWAY_MAC) + mac(CLIENT_MAC) + ethertype if tap else b"")
    assert packet == Packet(data, link=mac(CLIENT_MAC) if tap else b"")


@pytest.mark.parametrize("kind", [TAP_VNET, TUN_VNET])
def test_split_reads_the_vnet_header(kind):
    vnet = struct.pack("=BBHHHH", 1, GSO_TCPV6, 74, 1440, 54, 16)
    parts = frame_format(kind).split(in_front(kind, b"\x86\xdd", vnet) + bytes(udp6()))
    assert parts is not None
    packet = parts[1]
    assert (packet.partial, packet.gso_type, packet.gso_size) == (True, GSO_TCPV6, 1440)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("make", "ethertype"), VERSIONS)
@pytest.mark.parametrize("padding", [1, 18])
def test_split_cuts_padding_off(kind, make, ethertype, padding):
    data = bytes(make(b""))
    parts = frame_format(kind).split(in_front(kind, ethertype) + data + bytes(padding))
    assert parts is not None
    assert parts[1].data == data


@pytest.mark.parametrize("data", [bytes(udp4())[:-3], bytes(udp6())[:-3], b"\x00\x01\x08\x00", b""])
def test_split_leaves_truncated_and_other_payloads_as_they_are(data):
    parts = frame_format(TAP).split(in_front(TAP, b"\x08\x06") + data)
    assert parts is not None
    assert parts[1].data == data


def test_split_believes_no_length_that_is_shorter_than_a_header():
    data = bytes(udp4())
    data = data[:2] + b"\0\x13" + data[4:]
    parts = frame_format(TUN).split(data)
    assert parts is not None
    assert parts[1].data == data


@pytest.mark.parametrize("kind", [TAP_VNET, TAP, TUN_VNET])
def test_split_needs_all_of_the_header(kind):
    size = SIZES[kind][1]
    assert frame_format(kind).split(bytes(size - 1)) is None
    assert frame_format(kind).split(bytes(size)) is not None


@given(st.sampled_from(FORMATS), st.binary(max_size=120))
def test_split_takes_anything(kind, frame):
    frames = frame_format(kind)
    parts = frames.split(frame)
    if parts is not None:
        header, packet = parts
        assert len(header) == frames.link_size
        assert frame[frames.header_size :].startswith(packet.data)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("make", "ethertype"), VERSIONS)
def test_join(kind, make, ethertype):
    data = bytes(make())
    tap = mac(HOST_MAC) + mac(GATEWAY_MAC) + ethertype if kind.startswith("tap") else b""
    vnet = bytes(10) if kind.endswith("vnet") else b""
    assert frame_format(kind).join(Packet(data)) == vnet + tap + data


def test_join_sends_to_the_client_that_the_packet_names():
    frame = frame_format(TAP).join(Packet(bytes(udp6()), link=mac(CLIENT_MAC)))
    assert frame[:14] == mac(CLIENT_MAC) + mac(GATEWAY_MAC) + b"\x86\xdd"


@pytest.mark.parametrize(("kind", "link_size"), [(TAP_VNET, 14), (TUN_VNET, 0)])
def test_join_places_the_checksum_behind_the_link_layer(kind, link_size):
    data = bytes(IPv6(src="fd00::1", dst="fd00::2") / TCP(sport=1, dport=2) / bytes(3000))
    frame = frame_format(kind).join(Packet(data, True, GSO_TCPV6, 1440))
    expected = (1, GSO_TCPV6, link_size + 60, 1440, link_size + 40, 16)
    assert struct.unpack("=BBHHHH", frame[:10]) == expected
    assert frame[10 + link_size :] == data


@pytest.mark.parametrize(("kind", "vnet"), [(TAP_VNET, bytes(10)), (TAP, b"")])
def test_plain(kind, vnet):
    assert frame_format(kind).plain(b"answer") == vnet + b"answer"


@given(st.sampled_from(FORMATS), st.binary(max_size=40))
def test_what_is_joined_can_be_split(kind, data):
    frames: FrameFormat = frame_format(kind)
    packet = Packet(bytes(udp6(data)))
    parts = frames.split(frames.join(packet))
    assert parts is not None
    assert parts[1].data == packet.data
