"""MSS clamping: a SYN never promises more than its path carries (RFC 9293 §3.7.1, RFC 2923)."""

from __future__ import annotations

import pytest

from tests.oracle import (
    SERVER,
    TCP,
    Bench,
    checksum_right,
    pseudo_sum,
    read,
    tcp4,
    tcp6,
    words,
)


def mss_of(segment):
    """The MSS option's value, found by hand."""
    header = bytes(segment[TCP])[: segment[TCP].dataofs * 4]
    at = 20
    while at < len(header) and header[at]:
        if header[at] == 1:
            at += 1
        elif header[at] == 2:
            return int.from_bytes(header[at + 2 : at + 4], "big")
        else:
            at += header[at + 1]
    return None


def syn(mss, **kw):
    return tcp6("S", options=[("MSS", mss)], **kw)


def with_options(options):
    """A SYN from a client with these very bytes as options."""
    data = bytearray(bytes(tcp6("S")))
    assert len(options) % 4 == 0
    data[40 + 12] = (5 + len(options) // 4) << 4
    data += options
    data[4:6] = (len(data) - 40).to_bytes(2, "big")
    data[56:58] = b"\0\0"
    pseudo = data[8:40] + (len(data) - 40).to_bytes(4, "big") + b"\0\0\0\6"
    data[56:58] = (0xFFFF - words(bytes(pseudo + data[40:]))).to_bytes(2, "big")
    assert checksum_right(bytes(data))
    return bytes(data)


@pytest.mark.parametrize(
    ("mtu", "client", "server", "expected"),
    [
        (1500, 1500, 1500, 1440),
        (1400, 1500, 1500, 1340),
        (1500, 1400, 1500, 1340),
        (1500, 1280, 1500, 1220),
        (1500, 1500, 1500 - 20, 1440),
        (1500, 1500, 1400, 1360),
        (9000, 1500, 9000, 1440),
        (9000, 9000, 9000, 8940),
        (9000, 9000, 1500, 1460),
    ],
)
def test_the_least_of_device_client_and_server_plus_20(mtu, client, server, expected):
    bench = Bench(mtu=mtu, path_mtu=lambda addr: client if len(addr) == 16 else server)
    out = bench.one(syn(8960))
    assert mss_of(out) == expected
    back = bench.one(tcp4("SA", out[TCP].sport, options=[("MSS", 8960)]))
    assert mss_of(back) == expected


def test_the_path_is_asked_for_client_and_server():
    asked = []

    def path_mtu(addr):
        asked.append(addr)
        return 1500

    bench = Bench(path_mtu=path_mtu)
    bench.one(syn(1460))
    assert bytes.fromhex("20010db8000100000000000000000010") in asked
    assert bytes(map(int, SERVER.split("."))) in asked


@pytest.mark.parametrize("mss", [1, 536, 1220, 1439, 1440])
def test_a_smaller_one_stays(mss):
    assert mss_of(Bench().one(syn(mss))) == mss


@pytest.mark.parametrize("mss", [1441, 1460, 8960, 65535])
def test_a_larger_one_is_lowered(mss):
    assert mss_of(Bench().one(syn(mss))) == 1440


@pytest.mark.parametrize("mss", [1, 1440, 65535])
def test_off(mss):
    assert mss_of(Bench(mss_clamp=0).one(syn(mss))) == mss


@pytest.mark.parametrize(("mss", "expected"), [(1199, 1199), (1200, 1200), (1201, 1200)])
def test_a_value_of_its_own(mss, expected):
    bench = Bench(mss_clamp=1200)
    out = bench.one(syn(mss))
    assert mss_of(out) == expected
    back = bench.one(tcp4("SA", out[TCP].sport, options=[("MSS", mss)]))
    assert mss_of(back) == expected


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"\x01",
        b"\x01\x01",
        b"\x01\x01\x01",
        b"\x04\x02",
        b"\x03\x03\x07",
        b"\x01\x03\x03\x07",
        b"\x08\x0a" + bytes(8),
        b"\x01\x08\x0a" + bytes(8),
        b"\xfe\x05\x01\x02\x03",
    ],
)
@pytest.mark.parametrize("mss", [0x05B4, 0xFFFF, 0xFF05])
def test_at_any_offset_with_a_right_checksum(before, mss):
    options = before + b"\x02\x04" + mss.to_bytes(2, "big")
    options += b"\x01" * (-len(options) % 4)
    packet = with_options(options)
    out = Bench().one(packet)
    expected = before + b"\x02\x04" + (1440).to_bytes(2, "big")
    assert bytes(out[TCP])[20:].startswith(expected)
    assert bytes(out[TCP])[20 + len(expected) :] == options[len(expected) :]


def test_an_absent_one_is_not_added():
    out = Bench().one(tcp6("S", options=[("NOP", None), ("WScale", 7)]))
    assert mss_of(out) is None
    assert (out[TCP].dataofs, out.len) == (6, 44)


@pytest.mark.parametrize(
    "options",
    [
        b"\x00\x00\x02\x04\xff\xff\x00\x00",  # behind the end of the list
        b"\x02\x03\xff\xff",  # no length of an MSS
        b"\x02\x05\xff\xff\xff\x00\x00\x00",
        b"\x08\x0a\x02\x04",  # an option that runs over the header
        b"\x03\x00\x02\x04\xff\xff\x00\x00",  # length 0
        b"\x03\x01\x02\x04\xff\xff\x00\x00",  # length 1
        b"\x01\x01\x02\x04",  # cut off
        b"\x01\x01\x01\x02",
    ],
)
def test_a_malformed_list_is_left_as_it_is(options):
    out = Bench().one(with_options(options))
    assert bytes(out[TCP])[20:] == options


@pytest.mark.parametrize("flags", ["A", "F", "R", "PA"])
def test_only_a_syn_is_looked_at(flags):
    bench = Bench()
    port = bench.connect()
    assert mss_of(bench.one(tcp6(flags, options=[("MSS", 9000)]))) == 9000
    assert mss_of(bench.one(tcp4(flags, port, options=[("MSS", 9000)]))) == 9000


def test_the_payload_of_a_syn_is_no_option():
    out = Bench().one(tcp6("S", data=b"\x02\x04\xff\xff" * 4))
    assert bytes(out[TCP].payload) == b"\x02\x04\xff\xff" * 4


def test_only_the_first_one_counts():
    out = Bench().one(with_options(b"\x02\x04\xff\xff\x02\x04\xff\xfe"))
    assert bytes(out[TCP])[20:24] == b"\x02\x04\x05\xa0"


@pytest.mark.parametrize("odd", [False, True])
def test_a_partial_checksum_does_not_cover_the_option(odd):
    packet = read(with_options((b"\x01" if odd else b"") + b"\x02\x04\xff\xff" + b"\x01" * 3 * odd))
    packet[TCP].chksum = pseudo_sum(packet)
    (out,) = Bench().send(bytes(packet), partial=True)
    got = read(out.data)
    assert out.partial
    assert mss_of(got) == 1440
    assert got[TCP].chksum == pseudo_sum(got)
