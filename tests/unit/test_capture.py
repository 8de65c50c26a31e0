"""`gateway translate`: captures made by scapy, dpkt or byte by byte; results read by scapy.

client 2001:db8:1::10 ── [ fec0:0:0:ffff::/64 | pool4 203.0.113.8 ] ── server 198.51.100.80
"""

from __future__ import annotations

import gzip
import io
import logging
import os
import pty
import struct
import subprocess
import sys
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.l2 import Dot1Q, Ether
from scapy.utils import PcapNgWriter, PcapWriter, rdpcap

from gateway import capture
from gateway.capture_file import (
    LINK_TYPES,
    CaptureError,
    CutShort,
    PacketWriter,
    ip_packet,
    read_records,
)
from gateway.cli import main, parse_options
from gateway.options import Options
from tests.oracle import (
    CLIENT,
    ICMP,
    IP,
    OTHER_CLIENT,
    OWN6,
    POOL,
    SERVER,
    SERVER6,
    TCP,
    UDP,
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrFragment,
    Raw,
    check_form,
    checksum_right,
    echo6,
    read,
    tcp6,
    udp6,
)

POOL4 = ["--pool4", POOL]
T = 1_700_000_000


@pytest.fixture(autouse=True)
def logger_as_before():
    logger = logging.getLogger("gateway")
    before = (list(logger.handlers), logger.propagate, logger.level)
    yield
    logger.handlers[:], logger.propagate, logger.level = before


@pytest.fixture
def paths(tmp_path):
    return tmp_path / "in.pcap", tmp_path / "out.pcap"


def pcap_bytes(packets, *, link=101, order="<", nano=False, lengths=None):
    """A capture of (time, packet) made here, independent of any library; times are Decimals."""
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    out = struct.pack(order + "IHHIIII", magic, 2, 4, 0, 0, 262144, link)
    for number, (time, packet) in enumerate(packets):
        data = bytes(packet)
        rest = int((Decimal(time) % 1) * (10**9 if nano else 10**6))
        length = lengths[number] if lengths else len(data)
        out += struct.pack(order + "IIII", int(time), rest, len(data), length) + data
    return out


def run(paths, packets=None, *arguments, status=0, **about):
    """Translates (packets as of pcap_bytes); (time, packet of scapy) of the result."""
    source, target = paths
    if packets is not None:
        source.write_bytes(pcap_bytes(packets, **about))
    assert main(["translate", str(source), str(target), *POOL4, *arguments]) == status
    return result(target) if target.exists() else None


def result(target):
    """What the result has, by dpkt; the packets by scapy. It is raw IP, and well-formed."""
    with target.open("rb") as stream:
        reader = dpkt.pcap.Reader(stream)
        assert reader.datalink() == 101
        found = [(time, data) for time, data in reader]
    for _, data in found:
        check_form(data)
        assert checksum_right(data)
    return [(time, read(data)) for time, data in found]


def report(capsys):
    """The lines of the report as a dict: first word to the rest."""
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith("gateway: info: ") for line in lines), lines
    words = [line.removeprefix("gateway: info: ").partition(" ") for line in lines]
    return {first.rstrip(":"): rest for first, _, rest in words}


# -- translating -------------------------------------------------------------------------


def test_both_directions_and_their_times(paths, capsys):
    question = [(Decimal("1700000000.000001"), udp6())]
    ((_, out),) = run(paths, question)
    assert (out.src, out.dst, out[UDP].dport, bytes(out[Raw])) == (POOL, SERVER, 53, b"query")
    # The same seed gives the same port, so an answer to it can be put into the capture.
    answer = IP(src=SERVER, dst=POOL) / UDP(sport=53, dport=out[UDP].sport) / Raw(b"answer")
    capsys.readouterr()
    first, second = run(paths, [*question, (Decimal("1700000001.5"), answer)])
    assert bytes(first[1]) == bytes(out)
    assert first[0] == Decimal("1700000000.000001")
    assert second[0] == Decimal("1700000001.5")
    assert (second[1].src, second[1].dst) == (SERVER6, CLIENT)
    assert (second[1][UDP].sport, second[1][UDP].dport) == (53, 40000)
    assert bytes(second[1][Raw]) == b"answer"
    assert report(capsys) == {
        "read": "2: 1 IPv6, 1 IPv4",
        "passed": "over 0",
        "translated": "2: v6 to v4 1, v4 to v6 1",
        "own": "packets 0",
        "held": "fragments 0",
        "discarded": "0",
        "written": "2",
        "left": "sessions 1, bib 1, clients 1",
    }


def test_mode_clat_is_refused_with_the_way_to_do_it(paths, capsys):
    source, target = paths
    source.write_bytes(pcap_bytes([]))
    assert main(["translate", str(source), str(target), "--mode", "clat"]) == 78
    assert "for the packets of a CLAT use siit" in capsys.readouterr().err


def test_mode_siit(paths, capsys):
    """By a map file, with a hairpin, a pool, and another protocol."""
    table = paths[0].with_name("map")
    table.write_text("192.0.2.1 2001:db8:1::1\n192.0.2.2 2001:db8:1::2\n")
    prefix = "2001:db8:64::"
    sent = [
        (1, IPv6(src="2001:db8:1::1", dst=prefix + "203.0.113.80") / UDP(sport=1, dport=2)),
        (2, IP(src="203.0.113.80", dst="192.0.2.2", proto=253) / Raw(b"any")),
        (3, IPv6(src="2001:db8:1::1", dst=prefix + "192.0.2.2") / UDP(sport=1, dport=2)),
        (4, IPv6(src="2001:db8:7::7", dst=prefix + "203.0.113.80") / UDP(sport=1, dport=2)),
    ]
    paths[0].write_bytes(pcap_bytes(sent))
    mode = ["--mode", "siit", "--prefix", prefix + "/96", "--set", f'siit.map="{table}"']
    mode += ["--set", 'siit.pool=["198.51.100.9/32"]']
    assert main(["translate", *map(str, paths), *mode]) == 0
    with paths[1].open("rb") as stream:
        out = [read(data) for _, data in dpkt.pcap.Reader(stream)]
    addresses = [(packet.src, packet.dst) for packet in out]
    assert addresses == [
        ("192.0.2.1", "203.0.113.80"),
        (prefix + "cb00:7150", "2001:db8:1::2"),
        (prefix + "c000:201", "2001:db8:1::2"),
        ("198.51.100.9", "203.0.113.80"),
    ]
    assert report(capsys)["translated"] == ("4: v6 to v4 2, v4 to v6 1, v6 to v6 (hairpin) 1")
    table.write_text("nonsense\n")
    assert main(["translate", *map(str, paths), *mode]) == 78
    assert f"siit.map: {table}:1: nonsense" in capsys.readouterr().err


def test_another_seed_other_ports(paths):
    ports = {
        seed: run(paths, [(T, udp6())], "--seed", seed)[0][1][UDP].sport
        for seed in ("0", "1", "2", "3")
    }
    assert len(set(ports.values())) > 1
    assert run(paths, [(T, udp6())])[0][1][UDP].sport == ports["0"]
    assert run(paths, None, "--seed", "2")[0][1][UDP].sport == ports["2"]


def test_nanoseconds_are_kept(paths):
    time = Decimal("1700000000.123456789")
    assert run(paths, [(time, udp6())], nano=True)[0][0] == time


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nano", [False, True])
def test_either_byte_order(paths, order, nano):
    ((time, _),) = run(paths, [(Decimal("1700000000.25"), udp6())], order=order, nano=nano)
    assert time == Decimal("1700000000.25")


def test_own_errors_and_pings_are_counted_and_written(paths, capsys):
    packets = [
        (T, udp6(hlim=1)),
        (T, IPv6(src=CLIENT, dst=OWN6) / ICMPv6EchoRequest()),
        (T, udp6(dst=f"fec0:0:0:ffff::{POOL}")),
        (T, udp6(dst="2001:db8:9::1")),
    ]
    out = [packet for _, packet in run(paths, packets)]
    assert [packet.dst for packet in out] == [CLIENT] * 3
    assert ICMPv6TimeExceeded in out[0]
    assert out[2][ICMPv6DestUnreach].code == 1
    lines = report(capsys)
    assert lines["own"] == "packets 3: ICMP errors 2, pings answered 1"
    assert lines["translated"] == "0: v6 to v4 0, v4 to v6 0"
    found = dict(word.rsplit(" ", 1) for word in lines["discarded"].removeprefix("3: ").split(", "))
    assert found == {"hop-limit": "1", "destination-refused": "1", "not-ours": "1"}


def test_ipv4_headers_are_verified(paths, capsys):
    """No kernel has done so before (RFC 1812 §5.2.2)."""
    run(paths, [(T, IP(src=SERVER, dst=POOL, chksum=1) / UDP(sport=53, dport=2000))])
    assert report(capsys)["discarded"] == "1: header-checksum 1"


def test_the_largest_discards_come_first(paths, capsys):
    packets = [(T, udp6(hlim=1)), *[(T, udp6(dst="2001:db8:9::1"))] * 3]
    run(paths, packets)
    assert report(capsys)["discarded"] == "4: not-ours 3, hop-limit 1"


def test_fragments_that_wait_are_no_loss(paths, capsys):
    whole = bytes(udp6(data=bytes(64)))[40:]
    head = IPv6(src=CLIENT, dst=SERVER6)
    first = head / IPv6ExtHdrFragment(nh=17, offset=0, m=1, id=7) / Raw(whole[:40])
    last = head / IPv6ExtHdrFragment(nh=17, offset=5, m=0, id=7) / Raw(whole[40:])
    source, target = paths
    source.write_bytes(pcap_bytes([(T, last), (T + 1, first)]))
    assert main(["translate", str(source), str(target), *POOL4]) == 0
    found = list(dpkt.pcap.Reader(io.BytesIO(target.read_bytes())))
    assert [time for time, _ in found] == [T + 1, T + 1]
    lines = report(capsys)
    assert lines["held"] == "fragments 1"
    assert lines["discarded"] == "0"
    assert lines["written"] == "2"


def test_sessions_end_by_the_captures_clock(paths, capsys):
    (first,) = run(paths, [(T, udp6())])
    answer = IP(src=SERVER, dst=POOL) / UDP(sport=53, dport=first[1][UDP].sport) / Raw(b"late")
    assert len(run(paths, [(T, udp6()), (T + 299, answer)])) == 2
    capsys.readouterr()
    out = run(paths, [(T, udp6()), (T + 302, answer)])
    # RFC 6146 §3.5.1: no mapping any more, so host unreachable.
    assert out[1][1][ICMP].type == 3
    assert report(capsys)["discarded"] == "1: no-mapping 1"


def test_timeouts_of_the_configuration(paths):
    (first,) = run(paths, [(T, udp6())])
    answer = IP(src=SERVER, dst=POOL) / UDP(sport=53, dport=first[1][UDP].sport)
    out = run(paths, [(T, udp6()), (T + 7, answer)], "--set", "timeouts.udp_default=5")
    assert ICMP in out[1][1]


def test_time_that_runs_backwards_stands_still(paths):
    (first,) = run(paths, [(T, udp6())])
    answer = IP(src=SERVER, dst=POOL) / UDP(sport=53, dport=first[1][UDP].sport) / Raw(b"x")
    packets = [(T, udp6()), (T + 10, echo6()), (T - 5000, answer), (T + 305, answer)]
    out = run(paths, packets)
    # Written with the time that the capture has, translated at the clock's: the first answer,
    # at T + 10, keeps the session for the second.
    assert [time for time, _ in out] == [T, T + 10, T - 5000, T + 305]
    assert [packet.version for _, packet in out] == [4, 4, 6, 6]


def test_what_is_sent_at_expiry_has_the_time_of_expiry(paths, capsys):
    ((_, syn),) = run(paths, [(T, tcp6("S"))])
    port = syn[TCP].sport
    packets = [
        (T, tcp6("S")),
        (T, IP(src=SERVER, dst=POOL) / TCP(sport=80, dport=port, flags="SA")),
        (T, tcp6("A")),
        (T + 20_000, udp6()),
    ]
    capsys.readouterr()
    out = run(paths, packets)
    # RFC 6146 §3.5.2.2: an established session that ends is probed, then has TCP_TRANS.
    probes = [(time, packet) for time, packet in out if T < time < T + 20_000]
    assert [packet.dst for _, packet in probes] == [CLIENT]
    assert T + 7440 <= probes[0][0] <= T + 7442
    lines = report(capsys)
    assert lines["own"] == "packets 1: at expiry 1"
    assert lines["left"] == "sessions 1, bib 1, clients 1"


@pytest.mark.timeout(20)
def test_a_leap_of_a_century_is_no_wait(paths, capsys):
    packets = [(0, udp6()), (1, udp6(sport=41000)), (2**32 - 1, udp6()), (2**32 - 1, tcp6("S"))]
    assert len(run(paths, packets)) == 4
    assert report(capsys)["left"] == "sessions 2, bib 2, clients 1"


def test_everyone_is_a_client_unless_allow_names_some(paths, capsys):
    packets = [(T, udp6(src="2600::1")), (T, udp6(src=CLIENT)), (T, udp6(src=OTHER_CLIENT))]
    assert {p.version for _, p in run(paths, packets)} == {4}
    capsys.readouterr()
    run(paths, None, "--allow", f"{CLIENT}/128")
    assert report(capsys)["discarded"] == "2: client-refused 2"


def test_path_mtu_is_the_configured_mtu(paths):
    syn = tcp6("S", options=[("MSS", 1440)])
    options = run(paths, [(T, syn)], "--mtu", "1400")[0][1][TCP].options
    assert options == [("MSS", 1340)]


def test_a_wrong_checksum_stays_wrong(paths):
    source, target = paths
    packet = bytearray(bytes(udp6()))
    packet[46] ^= 0x40
    source.write_bytes(pcap_bytes([(T, packet)]))
    assert main(["translate", str(source), str(target), *POOL4]) == 0
    ((_, data),) = dpkt.pcap.Reader(io.BytesIO(target.read_bytes()))
    assert not checksum_right(data)


def test_one_packet_may_become_several(paths):
    (first,) = run(paths, [(T, udp6())])
    big = IP(src=SERVER, dst=POOL) / UDP(sport=53, dport=first[1][UDP].sport) / Raw(bytes(1400))
    source, target = paths
    source.write_bytes(pcap_bytes([(T, udp6()), (T + 1, big)]))
    assert main(["translate", str(source), str(target), *POOL4]) == 0
    found = list(dpkt.pcap.Reader(io.BytesIO(target.read_bytes())))
    assert [time for time, _ in found] == [T, T + 1, T + 1]
    assert [data[6] for _, data in found[1:]] == [44, 44]


def test_own_source_under_the_well_known_prefix(paths, capsys):
    expired = udp6(dst="64:ff9b::5db8:d822", hlim=1)
    ((_, out),) = run(paths, [(T, expired)], "--prefix", "64:ff9b::/96")
    assert (out.src, out.dst) == ("2001:db8::64", CLIENT)
    assert "2001:db8::64" in capsys.readouterr().err
    arguments = ["--prefix", "64:ff9b::/96", "--set", "icmp6_source=2001:db8:7::1"]
    ((_, out),) = run(paths, None, *arguments)
    assert out.src == "2001:db8:7::1"
    assert "2001:db8::64" not in capsys.readouterr().err


def test_report_comes_at_any_log_level(paths, capsys):
    run(paths, [(T, udp6())], "--log-level", "error")
    assert report(capsys)["read"] == "1: 1 IPv6, 0 IPv4"


# -- frames ------------------------------------------------------------------------------


def sll(packet, protocol):
    return struct.pack("!HHH8sH", 0, 1, 6, bytes(8), protocol) + bytes(packet)


def sll2(packet, protocol):
    return struct.pack("!HHIHBB8s", protocol, 0, 3, 1, 0, 6, bytes(8)) + bytes(packet)


ETHER = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")


@pytest.mark.parametrize(
    ("link", "frame"),
    [
        (1, ETHER / udp6()),
        (1, ETHER / Dot1Q(vlan=7) / udp6()),
        (1, ETHER / Dot1Q(vlan=7) / Dot1Q(vlan=8) / udp6()),
        (1, bytes(ETHER / udp6()) + b"trailer"),
        (12, udp6()),
        (14, udp6()),
        (101, udp6()),
        (229, udp6()),
        (113, sll(udp6(), 0x86DD)),
        (276, sll2(udp6(), 0x86DD)),
        (0, struct.pack("<I", 30) + bytes(udp6())),
        (108, struct.pack(">I", 24) + bytes(udp6())),
        # The upper bits tell that frames end with a check sequence of 4 bytes.
        (0x4400_0001, bytes(ETHER / udp6()) + b"\1\2\3\4"),
    ],
)
def test_link_types(paths, link, frame):
    ((_, out),) = run(paths, [(T, frame)], link=link)
    assert (out.src, out.dst, bytes(out[Raw])) == (POOL, SERVER, b"query")


@pytest.mark.parametrize(
    ("link", "frame"),
    [
        (1, bytes(Ether(type=0x0806) / Raw(bytes(46)))),
        (1, b"\0" * 13),
        (1, bytes(ETHER)[:12] + b"\x81\x00"),
        (1, bytes(ETHER)[:12] + b"\x81\x00" * 40),
        (113, sll(b"", 0x0806)),
        (113, b""),
        (276, sll2(bytes(40), 0x0806)),
        (0, b"\x02\0\0\0"),
        (0, b"\x02\0\0\0\x30"),
    ],
)
def test_what_is_not_ip_is_passed_over(paths, capsys, link, frame):
    assert run(paths, [(T, frame)], link=link) == []
    lines = report(capsys)
    assert lines["read"] == "1: 0 IPv6, 0 IPv4"
    assert lines["passed"] == "over 1: not IP 1"


def test_ethernet_padding_is_no_part_of_an_ipv4_packet():
    packet = bytes(IP(src=SERVER, dst=POOL) / UDP(sport=53, dport=40000))
    frame = bytes(ETHER / IP(packet)) + bytes(18)
    assert ip_packet(1, frame) == packet


def test_truncated_packets_are_counted_and_left_out(paths, capsys):
    whole = bytes(udp6())
    packets = [(T, whole[:50]), (T + 1, whole)]
    ((time, _),) = run(paths, packets, lengths=[len(whole), len(whole)])
    assert time == T + 1
    lines = report(capsys)
    assert lines["passed"] == "over 1: truncated 1"
    assert lines["read"] == "2: 1 IPv6, 0 IPv4"


# -- pcapng ------------------------------------------------------------------------------


def block(kind, body, order="<"):
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def section(order="<"):
    return block(0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1), order)


def interface(link, *, order="<", options=b"", snaplen=0):
    return block(1, struct.pack(order + "HHI", link, 0, snaplen) + options, order)


def option(code, value, order="<"):
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def enhanced(number, ticks, packet, order="<", length=None):
    data = bytes(packet)
    head = struct.pack(
        order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), length or len(data)
    )
    return block(6, head + data + bytes(-len(data) % 4) + option(0, b"", order), order)


def records(data):
    return list(read_records(io.BytesIO(data)))


def test_pcapng_of_scapy(paths):
    source, target = paths
    packet = ETHER / udp6()
    packet.time = Decimal("1700000000.5")
    with PcapNgWriter(str(source)) as writer:
        writer.write(packet)
    assert main(["translate", str(source), str(target), *POOL4]) == 0
    ((time, out),) = result(target)
    assert (time, out.src) == (Decimal("1700000000.5"), POOL)


def test_pcapng_of_dpkt(paths):
    source, target = paths
    with source.open("wb") as stream:
        dpkt.pcapng.Writer(stream, linktype=1).writepkt(bytes(ETHER / udp6()), ts=T + 0.25)
    assert main(["translate", str(source), str(target), *POOL4]) == 0
    assert [(time, out.src) for time, out in result(target)] == [
        (Decimal(T) + Decimal(".25"), POOL)
    ]


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_interfaces_and_resolutions(order):
    file = section(order)
    file += interface(1, order=order)
    file += interface(101, order=order, options=option(9, b"\x09", order))
    file += interface(113, order=order, options=option(9, b"\x8a", order) + option(0, b"", order))
    shifted = option(2, b"ethernet5", order) + option(14, struct.pack(order + "q", 1000), order)
    file += interface(276, order=order, options=shifted)
    file += block(0xBAD, b"unknown block", order)
    file += enhanced(0, 5_000_001, b"one", order)
    file += enhanced(1, 5_000_000_002, b"four", order)
    file += enhanced(2, 5 << 10 | 512, b"fives", order, length=99)
    file += enhanced(3, 7, b"", order)
    found = [(r.time_ns, r.link_type, r.data, r.length) for r in records(file)]
    assert found == [
        (5_000_001_000, 1, b"one", 3),
        (5_000_000_002, 101, b"four", 4),
        (5_500_000_000, 113, b"fives", 99),
        (1_000_000_007_000, 276, b"", 0),
    ]
    assert [r.truncated for r in records(file)] == [False, False, True, False]


def test_pcapng_each_section_has_its_byte_order_and_interfaces():
    file = section("<") + interface(1) + enhanced(0, 1, b"a")
    file += section(">") + interface(101, order=">") + enhanced(0, 2, b"b", ">")
    assert [(r.time_ns, r.link_type, r.data) for r in records(file)] == [
        (1000, 1, b"a"),
        (2000, 101, b"b"),
    ]


def test_pcapng_simple_packets_have_the_time_of_the_packet_before():
    file = section() + interface(101, snaplen=4) + enhanced(0, 9, b"abc")
    file += block(3, struct.pack("<I", 6) + b"wxyz")
    file += section() + interface(101) + block(3, struct.pack("<I", 2) + b"wx")
    assert [(r.time_ns, r.data, r.length) for r in records(file)[1:]] == [
        (9000, b"wxyz", 6),
        (9000, b"wx", 2),
    ]


def test_pcapng_obsolete_packet_block():
    body = struct.pack("<HHIIII", 0, 5, 0, 77, 3, 3) + b"abc"
    (record,) = records(section() + interface(12) + block(2, body))
    assert (record.time_ns, record.link_type, record.data) == (77_000, 12, b"abc")


def test_pcapng_other_link_types_are_passed_over_and_named(paths, capsys):
    source, target = paths
    file = section() + interface(220) + interface(101)
    source.write_bytes(file + enhanced(0, T * 10**6, b"usb") + enhanced(1, T * 10**6, udp6()))
    assert main(["translate", str(source), str(target), *POOL4]) == 0
    assert len(result(target)) == 1
    err = capsys.readouterr().err
    assert "warning: passed over link type 220; Ethernet" in err
    assert "passed over 1: not IP 1" in err


def test_kuznetzov_pcap():
    head = struct.pack("<IHHIIII", 0xA1B2CD34, 2, 4, 0, 0, 65535, 101)
    record = struct.pack("<IIIIIHBB", 3, 5, 2, 4, 1, 0, 0, 0) + b"ab"
    (found,) = records(head + record)
    assert (found.time_ns, found.data, found.length) == (3_000_005_000, b"ab", 4)


# -- files that cannot be used -----------------------------------------------------------

DAMAGED = {
    "garbage": (b"\x42" * 1000, "is neither pcap nor pcapng"),
    "empty": (b"", "is empty"),
    "compressed": (gzip.compress(b"x"), "is compressed: zcat"),
    "802.11": (pcap_bytes([], link=105), "has link type 105"),
    "giant": (pcap_bytes([]) + struct.pack("<IIII", 0, 0, 0xFFFFFFFF, 60), "4294967295 bytes"),
    "byte order": (section()[:8] + b"abcd" + section()[12:], "section without byte order"),
    "tiny block": (section() + struct.pack("<II", 6, 8), "a pcapng block of 8 bytes"),
    "no interface": (section() + enhanced(0, 0, b"x"), "contradicts itself"),
    "other interface": (section() + interface(1) + enhanced(1, 0, b"x"), "contradicts itself"),
    "no interface at all": (section() + block(3, bytes(8)), "contradicts itself"),
    "longer than its block": (
        section() + interface(1) + block(6, struct.pack("<IIIII", 0, 0, 0, 9, 9) + b"abcd"),
        "contradicts itself",
    ),
    "short block": (section() + interface(1) + block(6, bytes(8)), "contradicts itself"),
    "bad option": (section() + interface(1, options=option(14, b"abcd")), "contradicts itself"),
    "empty option": (section() + interface(1, options=option(9, b"")), "contradicts itself"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_file_that_cannot_be_read_is_one_line_and_1(paths, capsys, kind):
    source, _ = paths
    data, text = DAMAGED[kind]
    source.write_bytes(data)
    assert run(paths, None, status=1) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"gateway: error: {source}: ")
    assert text in line
    assert list(source.parent.iterdir()) == [source]


def test_damage_behind_good_packets_leaves_no_result(paths, capsys):
    source, target = paths
    target.write_bytes(b"what was there")
    data = pcap_bytes([(T, udp6())] * 3) + struct.pack("<IIII", 0, 0, 0xFFFFFFFF, 60)
    source.write_bytes(data)
    assert main(["translate", str(source), str(target), *POOL4]) == 1
    assert target.read_bytes() == b"what was there"
    assert sorted(source.parent.iterdir()) == [source, target]


def test_a_file_that_ends_early_gives_what_it_has(paths, capsys):
    source, target = paths
    whole = pcap_bytes([(T, udp6()), (T, udp6(sport=41000))])
    for cut in (whole[:-1], whole[: len(whole) - len(udp6()) - 3]):
        source.write_bytes(cut)
        assert main(["translate", str(source), str(target), *POOL4]) == 0
        assert len(result(target)) == 1
        assert f"warning: {source}: ends inside a packet" in capsys.readouterr().err


def test_every_prefix_of_a_file_is_read_or_refused():
    packets = [(Decimal("1.5"), b"abc"), (2, b"defgh")]
    ng = section() + interface(1, options=option(9, b"\x06")) + enhanced(0, 1, b"abc")
    for whole in (pcap_bytes(packets), ng + section(">") + interface(1, order=">")):
        complete = records(whole)
        for size in range(1, len(whole)):
            found = []
            try:
                for record in read_records(io.BytesIO(whole[:size])):
                    found.append(record)
            except CutShort:
                pass
            except CaptureError:
                assert size < 4
            assert found == complete[: len(found)]


WHOLE = (
    pcap_bytes([(Decimal("1.5"), bytes(ETHER / udp6()))] * 2, link=1),
    section()
    + interface(1, options=option(9, b"\x09") + option(14, bytes(8)))
    + enhanced(0, 1, b"a"),
)


@given(
    whole=st.sampled_from(WHOLE),
    damage=st.lists(st.tuples(st.integers(0, 150), st.binary(min_size=1, max_size=4)), max_size=4),
)
def test_whatever_is_in_a_file_it_is_read_or_refused(whole, damage):
    data = bytearray(whole)
    for at, new in damage:
        data[at : at + len(new)] = new
    with suppress(CaptureError):
        for record in read_records(io.BytesIO(bytes(data))):
            assert record.time_ns >= 0
            if record.link_type in LINK_TYPES:
                ip_packet(record.link_type, record.data)
            PacketWriter(io.BytesIO()).write(record.data, record.time_ns)


def test_paths_that_cannot_be_used(paths, capsys, tmp_path):
    source, target = paths
    no_file, no_place = tmp_path / "none.pcap", tmp_path / "none" / "out.pcap"
    source.write_bytes(pcap_bytes([(T, udp6())]))
    for arguments, text in (
        ([no_file, target], f"cannot read {no_file}: No such file or directory; look at the path"),
        ([tmp_path, target], f"cannot read {tmp_path}: Is a directory; name a file in it"),
        ([source, no_place], f"cannot write {no_place}: No such file or directory; look at"),
        ([source, tmp_path], f"cannot write {tmp_path}: Is a directory; name a file in it"),
        ([source, source], f"{source} is the input too; name another file"),
        ([source, tmp_path / "." / "in.pcap"], "is the input too"),
    ):
        assert main(["translate", *map(str, arguments)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert text in line
    assert list(tmp_path.iterdir()) == [source]
    assert source.read_bytes() == pcap_bytes([(T, udp6())])


def test_links_to_the_input_are_the_input(paths, capsys):
    source, target = paths
    source.write_bytes(pcap_bytes([(T, udp6())]))
    target.symlink_to(source)
    assert main(["translate", str(source), str(target)]) == 1
    target.unlink()
    os.link(source, target)
    assert main(["translate", str(source), str(target)]) == 1
    assert source.read_bytes() == pcap_bytes([(T, udp6())])


def test_a_link_is_followed_not_replaced(paths, tmp_path):
    _, target = paths
    behind = tmp_path / "behind.pcap"
    behind.write_bytes(b"old")
    target.symlink_to(behind)
    assert len(run(paths, [(T, udp6())])) == 1
    assert target.is_symlink()
    assert len(result(behind)) == 1


def test_a_full_disk_is_one_line_and_1(paths, capsys):
    source, _ = paths
    source.write_bytes(pcap_bytes([(T, udp6())]))
    assert main(["translate", str(source), "/dev/full", *POOL4]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("cannot write /dev/full: No space left on device; make room")


def test_a_device_is_written_to_in_place(paths):
    source, _ = paths
    source.write_bytes(pcap_bytes([(T, udp6())]))
    assert main(["translate", str(source), "/dev/null", *POOL4]) == 0
    assert Path("/dev/null").is_char_device()


def test_configuration_mistakes_are_told_before_a_file_is_touched(paths, capsys):
    source, target = paths
    arguments = ["translate", str(source), str(target), "--prefix", "::/63", "--mtu", "big"]
    assert main(arguments) == 78
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[2] for line in lines] == [" prefix", " mtu"]


# -- pipes, terminals, the command line --------------------------------------------------

PROGRAM = [sys.executable, "-m", "gateway", "translate"]


def test_from_a_pipe_to_a_pipe(tmp_path):
    data = pcap_bytes([(T, udp6()), (T, tcp6("S")), (T, echo6())])
    ended = subprocess.run(
        [*PROGRAM, "-", "-", *POOL4], input=data, capture_output=True, timeout=60, check=True
    )
    (tmp_path / "out").write_bytes(ended.stdout)
    assert len(result(tmp_path / "out")) == 3
    assert len(rdpcap(str(tmp_path / "out"))) == 3
    assert b"\x1b" not in ended.stderr
    assert b"translated 3" in ended.stderr


def test_a_reader_that_goes_away_is_one_line(tmp_path):
    (tmp_path / "in").write_bytes(pcap_bytes([(T, bytes(udp6()))] * 2000))
    program = subprocess.Popen(
        [*PROGRAM, str(tmp_path / "in"), "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stdout is not None
    assert program.stderr is not None
    program.stdout.close()
    (line,) = program.stderr.read().splitlines()
    assert line.startswith(b"gateway: error: cannot write -: Broken pipe; ")
    program.stderr.close()
    assert program.wait(60) == 1


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal(paths, monkeypatch):
    monkeypatch.setattr(capture, "_SHOW_EVERY", 0)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run(paths, [(T, bytes(udp6()))] * 600)
    shown = terminal.getvalue()
    assert shown.startswith("\rgateway: 512 packets, ")
    assert 100 * 512 // 600 <= int(shown[len("\rgateway: 512 packets, ") :].split()[0]) <= 100
    # The line is wiped before the report.
    assert "%\x1b[K\r\x1b[Kgateway: info: read 600" in shown


def test_no_packets_into_a_terminal(paths):
    source, _ = paths
    source.write_bytes(pcap_bytes([(T, udp6())]))
    ours, theirs = pty.openpty()
    program = subprocess.Popen(
        [*PROGRAM, str(source), "-"], stdout=theirs, stderr=subprocess.PIPE, text=True
    )
    os.close(theirs)
    _, err = program.communicate(timeout=60)
    os.close(ours)
    assert program.returncode == 1
    assert err.startswith("gateway: error: standard output is a terminal; > FILE")


def test_options():
    assert parse_options(["translate", "a", "b"]) == Options(
        "translate", capture_in=Path("a"), capture_out=Path("b")
    )
    line = "--config /x.toml translate - - --prefix 64:ff9b::/96 --set tap=x --seed 7 --mtu 1400"
    assert parse_options(line.split()) == Options(
        "translate",
        Path("/x.toml"),
        {"prefix": ["64:ff9b::/96"], "tap": "x", "mtu": 1400},
        capture_in=Path("-"),
        capture_out=Path("-"),
        seed=7,
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["translate", "a"], "arguments are required: OUT"),
        (["translate", "a", "b", "--tap", "x"], "unrecognized arguments: --tap"),
        (["translate", "a", "b", "--seed", "x"], "invalid int value: 'x'"),
        (["--check", "translate", "a", "b"], "--advertise-merge do not go with translate"),
    ],
)
def test_usage_mistakes(capsys, arguments, text):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 78
    (line,) = capsys.readouterr().err.splitlines()
    assert text in line


def test_neither_the_event_loop_nor_netlink_is_loaded(tmp_path):
    (tmp_path / "in").write_bytes(pcap_bytes([(T, udp6())]))
    code = (
        "import sys; from gateway.cli import main; status = main(sys.argv[1:]);"
        "sys.exit(status or int(bool({'trio', 'pyroute2'} & set(sys.modules))))"
    )
    arguments = ["translate", str(tmp_path / "in"), str(tmp_path / "out")]
    subprocess.run([sys.executable, "-c", code, *arguments], timeout=60, check=True)


def test_times_that_pcap_cannot_hold_become_its_last():
    stream = io.BytesIO()
    PacketWriter(stream).write(b"x", 2**40 * 10**9 + 5)
    ((time, _),) = dpkt.pcap.Reader(io.BytesIO(stream.getvalue()))
    assert time == Decimal(2**32 - 1) + Decimal("5e-9")


def test_scapy_pcap(paths):
    source, target = paths
    with PcapWriter(str(source), linktype=1) as writer:
        writer.write(ETHER / udp6())
    assert main(["translate", str(source), str(target), *POOL4]) == 0
    assert len(result(target)) == 1
