"""Explicit address mappings against a slow reading of RFC 7757, and the file they come from."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.eam_file import EamFileError, parse_eam, read_eam_file
from translate.eam import Eam, EamConflict, EamTable


def table(*lines):
    return EamTable(Eam.of(IPv4Network(a), IPv6Network(b)) for a, b in map(str.split, lines))


def there(mappings, text):
    made = mappings.to_v6(IPv4Address(text).packed)
    return None if made is None else str(IPv6Address(made))


def back(mappings, text):
    made = mappings.to_v4(IPv6Address(text).packed)
    return None if made is None else str(IPv4Address(made))


# The example of RFC 7757 §3.2 (figure 1) in kind: one address, equal and unequal suffixes.
EXAMPLE = (
    "192.0.2.1/32 2001:db8:aaaa::/128",
    "192.0.2.2/32 2001:db8:bbbb::b/128",
    "192.0.2.16/28 2001:db8:cccc::/124",
    "192.0.2.128/26 2001:db8:dddd::/64",
    "192.0.2.192/29 2001:db8:eeee:8::/62",
    "192.0.2.224/31 64:ff9b::/127",
)


@pytest.mark.parametrize(
    ("four", "six"),
    [
        ("192.0.2.1", "2001:db8:aaaa::"),
        ("192.0.2.2", "2001:db8:bbbb::b"),
        ("192.0.2.16", "2001:db8:cccc::"),
        ("192.0.2.24", "2001:db8:cccc::8"),
        ("192.0.2.31", "2001:db8:cccc::f"),
        ("192.0.2.128", "2001:db8:dddd::"),
        ("192.0.2.152", "2001:db8:dddd:0:6000::"),
        ("192.0.2.183", "2001:db8:dddd:0:dc00::"),
        ("192.0.2.192", "2001:db8:eeee:8::"),
        ("192.0.2.197", "2001:db8:eeee:a:8000::"),
        ("192.0.2.199", "2001:db8:eeee:b:8000::"),
        ("192.0.2.224", "64:ff9b::"),
        ("192.0.2.225", "64:ff9b::1"),
    ],
)
def test_rfc7757_section_3_2_the_suffix_follows_the_prefix(four, six):
    mappings = table(*EXAMPLE)
    assert there(mappings, four) == six
    assert back(mappings, six) == four


def test_rfc7757_section_3_3_2_further_bits_of_a_longer_ipv6_suffix_are_ignored():
    mappings = table(*EXAMPLE)
    assert back(mappings, "2001:db8:dddd:0:63ff:1:2:3") == "192.0.2.152"
    assert back(mappings, "2001:db8:eeee:a:ffff::1") == "192.0.2.197"


def test_what_is_not_mapped_is_none():
    mappings = table(*EXAMPLE)
    assert there(mappings, "192.0.2.3") is None
    assert there(mappings, "192.0.2.32") is None
    assert back(mappings, "2001:db8:aaaa::1") is None
    assert back(mappings, "2001:db8:cccc::10") is None
    assert there(table(), "192.0.2.3") is None


def test_rfc7757_section_3_3_the_longest_prefix_decides_on_each_side_for_itself():
    mappings = table(
        "198.51.100.0/24 2001:db8:1::/120",
        "198.51.100.8/32 2001:db8:2::8/128",
        "203.0.113.1/32 2001:db8:1::9/128",
    )
    assert there(mappings, "198.51.100.8") == "2001:db8:2::8"
    assert there(mappings, "198.51.100.9") == "2001:db8:1::9"
    assert back(mappings, "2001:db8:1::9") == "203.0.113.1"
    assert back(mappings, "2001:db8:1::8") == "198.51.100.8"


def test_a_whole_internet_can_be_mapped():
    mappings = table("0.0.0.0/0 64:ff9b::/96")
    assert there(mappings, "192.0.2.33") == "64:ff9b::c000:221"
    assert back(mappings, "64:ff9b::c000:221") == "192.0.2.33"


def test_rfc7757_section_3_1_an_ipv6_prefix_with_too_few_addresses_is_refused():
    table("192.0.2.0/28 2001:db8::/124")
    with pytest.raises(EamConflict, match="at most 124"):
        table("192.0.2.0/28 2001:db8::/125")


@pytest.mark.parametrize(
    "second",
    [
        "192.0.2.0/28 2001:db8:1::/124",
        "192.0.2.16/28 2001:db8::/124",
        "192.0.2.0/28 2001:db8::/124",
    ],
)
def test_the_same_prefix_twice_on_either_side_is_a_conflict(second):
    with pytest.raises(EamConflict, match=r"contradicts 192\.0\.2\.0/28 2001:db8::/124"):
        table("192.0.2.0/28 2001:db8::/124", second)


@pytest.mark.parametrize(
    "bad",
    [
        Eam(0x0100_0001, 24, 0, 120),
        Eam(0x0100_0080, 24, 0, 120),
        Eam(0x0100_0000, 24, 1, 120),
        Eam(0x0100_0000, 24, 0x80, 120),
        Eam(1 << 31, 0, 0, 96),
        Eam(1, 0, 0, 96),
        Eam(0, 0, 1, 0),
    ],
)
def test_bits_behind_a_prefix_are_refused(bad):
    with pytest.raises(EamConflict, match="bits"):
        EamTable([bad])


@st.composite
def mapping(draw):
    length4 = draw(st.integers(20, 32))
    suffix4 = 32 - length4
    length6 = draw(st.integers(100, 128 - suffix4))
    prefix4 = draw(st.integers(0, (1 << (length4 - 16)) - 1)) << suffix4
    prefix6 = draw(st.integers(0, (1 << (length6 - 96)) - 1)) << (128 - length6)
    return Eam(prefix4, length4, prefix6, length6)


def slow_there(mappings, value):
    """What RFC 7757 says, by looking at every mapping, bit by bit as text."""
    bits = f"{value:032b}"
    fitting = [m for m in mappings if bits.startswith(f"{m.prefix4:032b}"[: m.length4])]
    if not fitting:
        return None
    best = max(fitting, key=lambda m: m.length4)
    made = f"{best.prefix6:0128b}"[: best.length6] + bits[best.length4 :]
    return int(made.ljust(128, "0"), 2)


def slow_back(mappings, value):
    bits = f"{value:0128b}"
    fitting = [m for m in mappings if bits.startswith(f"{m.prefix6:0128b}"[: m.length6])]
    if not fitting:
        return None
    best = max(fitting, key=lambda m: m.length6)
    suffix = bits[best.length6 :][: 32 - best.length4]
    return int(f"{best.prefix4:032b}"[: best.length4] + suffix, 2)


@given(st.lists(mapping(), max_size=12), st.lists(st.integers(0, (1 << 16) - 1), max_size=8))
def test_any_set_of_mappings_translates_as_the_slow_reading_does(wanted, values):
    entered = []
    mappings = EamTable()
    for item in wanted:
        try:
            mappings.add(item)
        except EamConflict:
            continue
        entered.append(item)
    assert len(mappings) == len(entered)
    assert sorted(map(str, mappings)) == sorted(map(str, entered))
    for value in [*values, *(m.prefix4 for m in entered)]:
        made = mappings.to_v6(value.to_bytes(4, "big"))
        expected = slow_there(entered, value)
        assert made == (None if expected is None else expected.to_bytes(16, "big"))
    for value in [*values, *(m.prefix6 for m in entered), *(m.prefix6 | 1 for m in entered)]:
        made = mappings.to_v4(value.to_bytes(16, "big"))
        expected = slow_back(entered, value)
        assert made == (None if expected is None else expected.to_bytes(4, "big"))


# The file.


def test_a_file_has_a_mapping_a_line_in_either_order_with_comments():
    mappings = parse_eam(
        "# ours\n\n192.0.2.1 2001:db8::1 # one\n\t2001:db8:1::/120\t198.51.100.0/24\n", "map"
    )
    assert sorted(map(str, mappings)) == [
        "192.0.2.1/32 2001:db8::1/128",
        "198.51.100.0/24 2001:db8:1::/120",
    ]


def test_every_fault_of_a_file_is_told_by_its_line():
    text = "\n".join(
        [
            "192.0.2.1 2001:db8::1",
            "192.0.2.1",
            "192.0.2.300 2001:db8::2",
            "192.0.2.2 2001:db8::/129",
            "192.0.2.3/33 2001:db8::3",
            "192.0.2.4/+8 2001:db8::4",
            "192.0.2.5/24 2001:db8:5::/120",
            "192.0.2.1 2001:db8::6",
            "192.0.2.7 198.51.100.7",
            "2001:db8::8 2001:db8::9",
            "192.0.2.9 2001:db8::9 more",
        ]
    )
    with pytest.raises(EamFileError) as caught:
        parse_eam(text, "map.txt")
    lines = caught.value.lines
    assert [line.split(":")[1] for line in lines] == [str(n) for n in range(2, 12)]
    assert all(line.startswith("map.txt:") for line in lines)
    assert "contradicts 192.0.2.1/32 2001:db8::1/128" in lines[6]


def test_a_file_of_rubbish_does_not_fill_the_log():
    with pytest.raises(EamFileError) as caught:
        parse_eam("rubbish\n" * 1000, "map.txt")
    assert len(caught.value.lines) == 21


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(EamFileError, match="nothing-here"):
        read_eam_file(tmp_path / "nothing-here")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\0")
    with pytest.raises(EamFileError, match="binary"):
        read_eam_file(binary)


def test_a_hundred_thousand_mappings_load_within_a_second_and_cost_no_more_to_look_up(tmp_path):
    path = tmp_path / "map"
    first4, first6 = int(IPv4Address("10.0.0.0")), int(IPv6Address("2001:db8::"))
    path.write_text(
        "".join(f"{IPv4Address(first4 + n)} {IPv6Address(first6 + n)}\n" for n in range(100_000))
    )
    started = process_time()
    many = read_eam_file(path)
    assert process_time() - started < 1.0
    assert len(many) == 100_000
    few = table("10.0.0.0/32 2001:db8::/128")

    def cost(mappings):
        address = IPv4Address("10.0.0.0").packed
        started = process_time()
        for _ in range(20_000):
            mappings.to_v6(address)
        return process_time() - started

    assert min(cost(many) for _ in range(5)) < 3 * min(cost(few) for _ in range(5))


@given(
    st.lists(st.tuples(st.integers(0, 255), st.integers(24, 32)), max_size=40),
    st.tuples(st.integers(0, 255), st.integers(20, 32)),
)
def test_overlapping4_is_what_has_an_address_in_common(prefixes, wanted):
    def net(last, length):
        return IPv4Network((0xC0000200 | last, length), strict=False)

    networks = sorted({net(*one) for one in prefixes})
    six = int(IPv6Address("2001:db8::"))
    mappings = EamTable(
        Eam.of(four, IPv6Network((six | at << 32, 96))) for at, four in enumerate(networks)
    )
    network = net(*wanted)
    found = [str(item).split()[0] for item in mappings.overlapping4(network)]
    assert sorted(found) == sorted(str(four) for four in networks if four.overlaps(network))
