"""Queries and answers as bytes: what is read, what is refused, what is patched."""

from __future__ import annotations

import struct

import dns.edns
import dns.flags
import dns.message
import dns.rrset
import pytest

from gateway.dns64 import messages
from gateway.dns64.messages import (
    BADVERS,
    FORMERR,
    NOTIMP,
    build_error,
    parse_answer,
    parse_query,
    render,
    udp_limit,
)
from gateway.dns64.names import Malformed, read_name
from tests.unit.dns64_fakes import SOA, answer, answer_message, query, query_wire


def with_flags(data, flags):
    return data[:2] + struct.pack("!H", flags) + data[4:]


def test_a_query_is_read():
    found = query("WWW.Example.TEST", "AAAA", use_edns=0, payload=1400, want_dnssec=True, cd=1)
    assert (found.id, found.qtype, found.qclass, found.error) == (0x1234, 28, 1, 0)
    assert (found.udp_size, found.do, found.cd, found.edns) == (1400, True, True, True)
    assert found.question == b"\3WWW\7Example\4TEST\0\0\x1c\0\1"
    assert found.qname == b"\3www\7example\4test\0"


def test_a_query_without_edns_takes_512_bytes():
    found = query("www.example.test", use_edns=False)
    assert (found.edns, udp_limit(found, 1232)) == (False, 512)


@pytest.mark.parametrize(
    ("offered", "ours", "fits"),
    [(511, 1232, 512), (512, 1232, 512), (1231, 1232, 1231), (4096, 1232, 1232)],
)
def test_rfc6891_6_2_3_and_5_udp_size(offered, ours, fits):
    assert udp_limit(query("a.test", use_edns=0, payload=offered), ours) == fits


def test_answers_are_never_answered():
    data = query_wire("www.example.test")
    assert parse_query(with_flags(data, 0x8100)) is None


@pytest.mark.parametrize("size", range(12))
def test_what_has_no_header_is_not_answered(size):
    assert parse_query(query_wire("www.example.test")[:size]) is None


@pytest.mark.parametrize("opcode", range(1, 16))
def test_other_opcodes_are_not_implemented(opcode):
    found = parse_query(with_flags(query_wire("a.test"), opcode << 11))
    assert found is not None
    assert found.error == NOTIMP


@pytest.mark.parametrize("field", [(4, 0), (4, 2), (6, 1), (8, 1), (10, 2)])
def test_wrong_counts_are_a_formerr(field):
    at, value = field
    data = bytearray(query_wire("a.test", use_edns=0))
    struct.pack_into("!H", data, at, value)
    found = parse_query(bytes(data))
    assert found is not None
    assert found.error == FORMERR


def test_every_cut_is_a_formerr():
    data = query_wire("www.example.test", use_edns=0)
    for size in range(12, len(data)):
        found = parse_query(data[:size])
        assert found is not None
        assert found.error == FORMERR, size


def test_bytes_behind_the_message_are_a_formerr():
    found = parse_query(query_wire("a.test") + b"\0")
    assert found is not None
    assert found.error == FORMERR


@pytest.mark.parametrize("label", [b"\xc0\x0c", b"\x40", b"\x80a"])
def test_rfc1035_4_1_4_no_compression_in_a_question(label):
    data = struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + label + b"\0\0\1\0\1"
    found = parse_query(data)
    assert found is not None
    assert found.error == FORMERR


@pytest.mark.parametrize(("labels", "error"), [((63, 63, 63, 61), 0), ((63, 63, 63, 62), FORMERR)])
def test_rfc1035_2_3_4_names_have_255_bytes(labels, error):
    name = b"".join(bytes((n,)) + b"a" * n for n in labels) + b"\0"
    found = parse_query(struct.pack("!6H", 1, 0x100, 1, 0, 0, 0) + name + b"\0\1\0\1")
    assert found is not None
    assert found.error == error
    assert len(name) == (255 if not error else 256)


def test_rfc6891_6_1_1_two_opt_records_are_a_formerr():
    data = bytearray(query_wire("a.test", use_edns=0))
    data += data[-11:]
    struct.pack_into("!H", data, 10, 2)
    found = parse_query(bytes(data))
    assert found is not None
    assert found.error == FORMERR


def test_rfc6891_6_1_3_other_versions_are_badvers():
    found = query("a.test", use_edns=1)
    assert found.error == BADVERS
    reply = dns.message.from_wire(build_error(found, found.error))
    assert (reply.rcode(), reply.edns) == (BADVERS, 0)


def test_an_option_beyond_its_record_is_a_formerr():
    good = query_wire(
        "a.test", use_edns=0, options=[dns.edns.GenericOption(dns.edns.OptionType(10), b"12345678")]
    )
    found = parse_query(good)
    assert found is not None
    assert found.error == 0
    # The option's length, one more than there is.
    bad = good[:-10] + b"\0\x09" + good[-8:]
    found = parse_query(bad)
    assert found is not None
    assert found.error == FORMERR


def test_a_formerr_is_no_longer_than_the_query():
    for data in (query_wire("a.test")[:-1], query_wire("a.test") + b"x"):
        found = parse_query(data)
        assert found is not None
        reply = build_error(found, found.error)
        assert len(reply) <= len(data)
        assert dns.message.from_wire(reply).rcode() == FORMERR


def test_an_answer_is_read():
    found = answer(
        "www.example.test",
        "AAAA",
        ["www.example.test. 60 IN CNAME a.example.test.", "a.example.test. 50 IN AAAA 2001:db8::1"],
        [SOA],
        ad=True,
    )
    assert (found.rcode, found.ad, found.counts) == (0, True, (2, 1, 0))
    assert [(r.section, r.rtype, r.ttl) for r in found.records] == [
        (1, 5, 60),
        (1, 28, 50),
        (2, 6, 60),
    ]
    assert found.soa_ttl() == 60
    assert found.rdata(found.of_type(28)[0]).hex() == "20010db8" + "0" * 23 + "1"


def test_opt_is_for_one_hop_and_is_taken_off():
    message = answer_message("a.test", "A", ["a.test. 60 IN A 192.0.2.1"])
    padding = dns.edns.GenericOption(dns.edns.OptionType.PADDING, bytes(5))
    message.use_edns(0, options=[padding, dns.edns.EDEOption(dns.edns.EDECode(6), "bad"), padding])
    found = parse_answer(message.to_wire())
    assert found.edns
    assert found.counts == (1, 0, 0)
    assert messages.extended_error_code(found) == 6
    assert found.extended_error == b"\0\x0f\0\x05\0\x06bad"
    assert dns.message.from_wire(found.wire).edns == -1


def test_extended_rcodes_have_twelve_bits():
    message = answer_message("a.test", "A", [], rcode="BADCOOKIE")
    found = parse_answer(message.to_wire())
    assert found.rcode == 23


def test_rfc2181_8_a_ttl_with_the_top_bit_is_zero():
    data = bytearray(answer_message("a.test", "A", ["a.test. 60 IN A 192.0.2.1"]).to_wire())
    found = parse_answer(bytes(data))
    at = found.ttl_offsets[0]
    data[at] = 0x80
    assert parse_answer(bytes(data)).records[0].ttl == 0


def test_every_cut_of_an_answer_is_malformed():
    data = answer_message(
        "a.test", "A", ["a.test. 60 IN CNAME b.test.", "b.test. 60 IN A 192.0.2.1"], [SOA]
    ).to_wire()
    for size in range(len(data)):
        with pytest.raises(Malformed):
            parse_answer(data[:size])
    with pytest.raises(Malformed):
        parse_answer(data + b"\0")


@pytest.mark.parametrize(("size", "error"), [(63, 0), (64, messages.FORMERR), (191, 1)])
def test_rfc1035_2_3_4_labels_have_63_bytes(size, error):
    name = bytes((size,)) + b"a" * size + b"\0"
    found = messages.parse_query(struct.pack("!6H", 1, 0x0100, 1, 0, 0, 0) + name + b"\0\1\0\1")
    assert found is not None
    assert found.error == error
    reply = struct.pack("!6H", 1, 0x8180, 1, 0, 0, 0) + name + b"\0\1\0\1"
    if error:
        with pytest.raises(Malformed):
            parse_answer(reply)
    else:
        assert parse_answer(reply).question[:-4] == name


@pytest.mark.parametrize("questions", [0, 2])
def test_an_answer_has_one_question(questions):
    wire = bytearray(answer_message("www.example.test.", "A", []).to_wire())
    wire[4:6] = questions.to_bytes(2, "big")
    wire += wire[12:] if questions == 2 else b""
    with pytest.raises(Malformed):
        parse_answer(bytes(wire))


def test_a_query_is_no_answer():
    with pytest.raises(Malformed):
        parse_answer(query_wire("a.test"))


def test_an_address_of_the_wrong_length_is_malformed():
    good = answer_message("a.test", "A", ["a.test. 60 IN A 192.0.2.1"]).to_wire()
    bad = good[:-6] + b"\0\5" + good[-4:] + b"x"
    with pytest.raises(Malformed):
        parse_answer(bad)


def test_what_looks_like_an_address_of_another_class_has_any_length():
    good = answer_message("a.test", "A", ["a.test. 60 CH TXT abcd"]).to_wire()
    at = good.index(b"\0\x10\0\3")
    assert parse_answer(good[:at] + b"\0\1" + good[at + 2 :]).records[0].rdata_size == 5


OPT = b"\0" + struct.pack("!HHIH", messages.OPT, 1232, 0, 0)
RECORD = b"\xc0\x0c" + struct.pack("!HHIH", messages.A, 1, 60, 4) + bytes(4)


@pytest.mark.parametrize(
    ("counts", "records", "good"),
    [
        ((0, 0, 2), RECORD + OPT, True),
        ((0, 0, 2), OPT + RECORD, False),
        ((0, 0, 2), OPT + OPT, False),
        ((1, 0, 0), OPT, False),
        ((0, 1, 0), OPT, False),
        ((0, 0, 1), b"\1a" + OPT, False),
        ((0, 0, 1), b"\xc0\x0c" + OPT[1:], False),
    ],
)
def test_rfc6891_6_1_1_one_opt_of_the_root_at_the_end_of_the_additional_section(
    counts, records, good
):
    wire = answer_message("a.test", "A", []).to_wire()
    wire = wire[:6] + struct.pack("!3H", *counts) + wire[12:] + records
    if good:
        assert parse_answer(wire).edns
    else:
        with pytest.raises(Malformed):
            parse_answer(wire)


@pytest.mark.parametrize(("ttl", "do"), [(0, False), (0x8000, True), (0x7FFF, False)])
def test_rfc3225_3_do_is_one_bit(ttl, do):
    wire = query_wire("a.test", use_edns=0)
    found = messages.parse_query(wire[:-6] + struct.pack("!IH", ttl, 0))
    assert found is not None
    assert (found.do, found.error) == (do, 0)


def test_a_pointer_forward_is_malformed():
    good = answer_message("a.test", "A", ["a.test. 60 IN A 192.0.2.1"]).to_wire()
    at = good.index(b"\xc0\x0c")
    with pytest.raises(Malformed):
        parse_answer(good[:at] + struct.pack("!H", 0xC000 | at) + good[at + 2 :])
    with pytest.raises(Malformed):
        read_name(good[:at] + struct.pack("!H", 0xC000 | at) + good[at + 2 :], at)


def rendered(asked, stored, **options):
    options = {"age": 0, "limit": None, "ad": False, **options}
    return dns.message.from_wire(render(asked, stored, **options))


def test_ttls_go_down_and_stop_at_zero():
    stored = answer("a.test", "A", ["a.test. 60 IN A 192.0.2.1", "a.test. 5 IN TXT x"])
    asked = query("a.test", "A")
    assert [r.ttl for r in rendered(asked, stored, age=7).answer] == [53, 0]
    assert [r.ttl for r in rendered(asked, stored, age=6).answer] == [54, 0]
    assert [r.ttl for r in rendered(asked, stored, age=7).answer] == [53, 0]
    assert [r.ttl for r in rendered(asked, stored).answer] == [60, 5]


def test_the_client_gets_its_own_id_case_and_bits():
    stored = answer("a.test", "A", ["a.test. 60 IN A 192.0.2.1"])
    reply = rendered(query("A.TeSt", "A", cd=1, use_edns=0, want_dnssec=True), stored)
    assert reply.id == 0x1234
    assert reply.question[0].to_text() == "A.TeSt. IN A"
    assert reply.answer[0].name.to_text() == "A.TeSt."
    flags = dns.flags.QR | dns.flags.RD | dns.flags.RA | dns.flags.CD
    assert reply.flags == flags
    assert (reply.edns, bool(reply.ednsflags & dns.flags.DO), reply.payload) == (0, True, 1232)


def test_no_edns_without_having_been_asked_with_it():
    stored = answer("a.test", "A", ["a.test. 60 IN A 192.0.2.1"])
    assert rendered(query("a.test", "A", use_edns=False), stored).edns == -1


def test_ad_is_what_the_caller_says():
    stored = answer("a.test", "A", [], [SOA], ad=True)
    assert not rendered(query("a.test", "A"), stored).flags & dns.flags.AD
    assert rendered(query("a.test", "A"), stored, ad=True).flags & dns.flags.AD


def test_rfc2181_9_what_does_not_fit_is_left_out_with_tc():
    stored = answer("a.test", "TXT", [f"a.test. 60 IN TXT {'x' * 200}"])
    asked = query("a.test", "TXT", use_edns=0)
    size = len(render(asked, stored, age=0, limit=None, ad=False))
    whole = rendered(asked, stored, limit=size)
    assert not whole.flags & dns.flags.TC
    assert len(whole.answer) == 1
    cut = rendered(asked, stored, limit=size - 1)
    assert cut.flags & dns.flags.TC
    assert not cut.answer
    assert cut.edns == 0


@pytest.mark.parametrize(("rcode", "without"), [(15, 15), (16, 2), (23, 2)])
def test_an_extended_rcode_needs_edns(rcode, without):
    stored = answer("a.test", "A", [])
    stored.rcode = rcode
    assert rendered(query("a.test", "A", use_edns=0), stored).rcode() == rcode
    assert rendered(query("a.test", "A", use_edns=False), stored).rcode() == without
