"""When an AAAA answer is synthesised, and from what (RFC 6147 §5). Pure.

Theory of operation. A and AAAA are asked at the same time (§5.1.8). `judge` says whether the
AAAA answer counts: NXDOMAIN does (§5.1.2), so do addresses outside the excluded ranges (§5.1.4);
every other error, silence (§5.1.3) and an answer without an address do not, and then
`assemble` makes the answer from the A records (§5.1.6, §5.1.7, §5.4). A client that sets DO and
CD validates for itself and gets what the upstream said (§5.5). An AAAA answer that an upstream
calls bogus (RFC 8914) is no empty answer: whoever can forge a failure could otherwise turn off
DNSSEC, which is what §5.5 warns of.

The answer section is rewritten where it lies: everything before the first A record stays, each A
record becomes AAAA records with the same owner, the rest follows. A compression pointer to
something before that first record is still right; names with other pointers are written out. What
has names inside records that RFC 3597 §4 does not let be compressed, but old servers compress,
goes through dnspython, and so does everything rare.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum, auto
from ipaddress import IPv4Network, IPv6Network

import dns.exception
import dns.flags
import dns.message
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from gateway.dns64.messages import (
    AAAA,
    CNAME,
    DNAME,
    HEADER_SIZE,
    IN,
    MX,
    NOERROR,
    NS,
    NXDOMAIN,
    PTR,
    SERVFAIL,
    SOA,
    A,
    Answer,
    Query,
    Record,
    extended_error_code,
    parse_answer,
)
from gateway.dns64.names import (
    Malformed,
    is_below,
    name_end_within,
    read_name,
    rebased_name,
)
from translate.addresses import Prefix6

TTL_WITHOUT_SOA = 600  # seconds, RFC 6147 §5.1.7
_RRSIG = 46
_NSEC = 47
_TXT = 16
# RFC 8914 §4.6 to §4.13: the upstream has found the data forged, or cannot tell.
_BOGUS = range(5, 13)
_VERBATIM = frozenset({A, AAAA, DNAME, _TXT, 43, _RRSIG, _NSEC, 48, 50, 51, 99, 257})
_ONE_NAME = frozenset({NS, CNAME, PTR})
# Bytes of RDATA in front of its first name, where dnspython expects one.
_NAME_AFTER = {NS: 0, CNAME: 0, PTR: 0, SOA: 0, DNAME: 0, _NSEC: 0, MX: 2, _RRSIG: 18}
_LARGEST_RARE = 4_096  # bytes of an answer that has names where only dnspython finds them

_fixed = struct.Struct("!HHIH")


class Verdict(Enum):
    """What an AAAA answer is good for."""

    COUNTS = auto()  # goes to the client as it is
    PARTLY = auto()  # without the excluded addresses
    EMPTY = auto()  # A records decide


@dataclass(frozen=True, slots=True)
class Rules:
    """What may be synthesised. `refused4`: whether the translator would refuse the address."""

    exclude: tuple[IPv6Network, ...] = ()
    exclude4: tuple[IPv4Network, ...] = ()
    mapped: tuple[IPv4Network, ...] = ()
    ignore_aaaa: tuple[bytes, ...] = ()  # zones, in wire form and lower case
    refused4: Callable[[bytes, Prefix6], bool] = lambda addr4, prefix: False

    def excludes6(self, addr6: bytes) -> bool:
        return _within(addr6, self.exclude)

    def ignores(self, qname: bytes) -> bool:
        """Whether the AAAA records of the name are none (`ignore_aaaa`)."""
        return any(is_below(qname, zone) for zone in self.ignore_aaaa)

    def addresses(self, addr4: bytes, prefixes: Sequence[Prefix6]) -> list[bytes]:
        """The IPv6 addresses for one of IPv4; none when it is not to be reached."""
        if (self.mapped and not _within(addr4, self.mapped)) or _within(addr4, self.exclude4):
            return []
        return [p.embed(addr4) for p in prefixes if not self.refused4(addr4, p)]


def _within(address: bytes, networks: Sequence[IPv4Network] | Sequence[IPv6Network]) -> bool:
    if not networks:
        return False
    value = int.from_bytes(address, "big")
    return any(value & int(net.netmask) == int(net.network_address) for net in networks)


def wants_synthesis(query: Query) -> bool:
    """Whether the DNS64 has anything to do with the question.

    Class IN only (RFC 6147 §5.1), and not for those who validate themselves (§5.5).
    """
    return query.qtype == AAAA and query.qclass == IN and not (query.do and query.cd)


def judge(answer: Answer | None, rules: Rules, qname: bytes) -> Verdict:
    """What the answer to the AAAA question is good for; None is no answer in time."""
    if answer is None:
        return Verdict.EMPTY
    if answer.rcode == NXDOMAIN or is_bogus(answer):
        return Verdict.COUNTS
    if answer.rcode != NOERROR or rules.ignores(qname):
        return Verdict.EMPTY
    found = [rules.excludes6(answer.rdata(record)) for record in answer.of_type(AAAA)]
    if not found or all(found):
        return Verdict.EMPTY
    return Verdict.PARTLY if any(found) else Verdict.COUNTS


def is_bogus(answer: Answer) -> bool:
    """Whether a failure is one of DNSSEC validation, which must stay a failure."""
    return answer.rcode == SERVFAIL and extended_error_code(answer) in _BOGUS


def is_signed(answer: Answer) -> bool:
    return any(record.rtype == _RRSIG for record in answer.records)


def has_addresses4(answer: Answer | None) -> bool:
    return answer is not None and answer.rcode == NOERROR and bool(answer.of_type(A))


def assemble(
    aaaa: Answer | None,
    a: Answer | None,
    question: bytes,
    prefixes: Sequence[Prefix6],
    rules: Rules,
    *,
    aaaa_age: int = 0,
    a_age: int = 0,
) -> Answer | None:
    """The answer to an AAAA question whose AAAA answer does not count (RFC 6147 §5.4).

    None when there is nothing to say but SERVFAIL. `aaaa_age` and `a_age`: seconds since each
    came, by which its TTLs are lowered. Raises Malformed for what cannot be rewritten.
    """
    if a is None:
        # §5.1.6: A was to decide, and nobody knows.
        return None
    if a.rcode != NOERROR:
        return relabelled(a, question, a_age)
    ttl = TTL_WITHOUT_SOA
    ad = False
    if aaaa is not None and aaaa.rcode == NOERROR:
        soa_ttl = aaaa.soa_ttl()
        ad = aaaa.ad and a.ad
        if soa_ttl is not None:
            ttl = max(0, soa_ttl - aaaa_age)
    replacements = {
        record: rules.addresses(a.rdata(record), prefixes)
        for record in a.of_type(A)
        if record.rclass == IN
    }
    if any(replacements.values()):
        return replace(rewrite(a, question, replacements, ttl, a_age), ad=ad)
    if aaaa is not None and aaaa.rcode == NOERROR:
        # §5.4: the answer to the original question, still without excluded addresses (§5.1.4).
        return without(aaaa, lambda address: True, aaaa_age)
    if replacements:
        return replace(rewrite(a, question, replacements, ttl, a_age), ad=False)
    return relabelled(a, question, a_age)


def relabelled(answer: Answer, question: bytes, age: int) -> Answer:
    """The same answer under another question of the same length."""
    records = tuple(r._replace(ttl=max(0, r.ttl - age)) for r in answer.records)
    return replace(
        answer, question=question, body=answer.aged(age), records=records, ad=False, _aged=(0, b"")
    )


def rewrite(
    answer: Answer,
    question: bytes,
    replacements: dict[Record, list[bytes]],
    ttl: int,
    age: int = 0,
) -> Answer:
    """The answer with A records replaced, RRSIGs over A dropped, under the AAAA question.

    `ttl` limits the TTL of the new records. Raises Malformed.
    """
    if any(not _is_rewritable(record) for record in answer.records):
        return _rewrite_slowly(answer, question, replacements, ttl, age)
    base = HEADER_SIZE + len(answer.question)
    data = bytes(HEADER_SIZE) + answer.question + answer.body
    changed = [r.name_at for r in answer.records if r in replacements or _signs_a(answer, r)]
    bound = min(changed, default=len(data))
    out = bytearray(question)
    counts = [0, 0, 0]
    records: list[Record] = []
    offsets: list[int] = []

    def put(old: Record, rtype: int, ttl: int, rdata: bytes) -> None:
        name_at = HEADER_SIZE + len(out)
        out.extend(rebased_name(data, old.name_at, bound))
        out.extend(_fixed.pack(rtype, old.rclass, ttl, len(rdata)))
        rdata_at = HEADER_SIZE + len(out)
        out.extend(rdata)
        counts[old.section - 1] += 1
        offsets.append(rdata_at - 6)
        records.append(Record(old.section, name_at, rtype, old.rclass, ttl, rdata_at, len(rdata)))

    for record in answer.records:
        left = max(0, record.ttl - age)
        if record in replacements:
            for address in replacements[record]:
                put(record, AAAA, min(left, ttl), address)
        elif not _signs_a(answer, record):
            put(record, record.rtype, left, _rebased_rdata(data, record, bound))
    if len(out) + HEADER_SIZE > 65_535:
        raise Malformed("the answer has become too long")
    return Answer(
        question=question,
        rcode=answer.rcode,
        ad=answer.ad,
        counts=(counts[0], counts[1], counts[2]),
        body=bytes(out[base - HEADER_SIZE :]),
        records=tuple(records),
        ttl_offsets=tuple(offsets),
        extended_error=answer.extended_error,
    )


def _is_rewritable(record: Record) -> bool:
    rtype = record.rtype
    return rtype in _VERBATIM or rtype in _ONE_NAME or rtype in (SOA, MX)


def _signs_a(answer: Answer, record: Record) -> bool:
    return (
        record.rtype == _RRSIG
        and record.section == 1
        and answer.rdata(record)[:2] == A.to_bytes(2, "big")
    )


def _rebased_rdata(data: bytes, record: Record, bound: int) -> bytes:
    at, end = record.rdata_at, record.rdata_at + record.rdata_size
    if record.rtype in _ONE_NAME:
        return rebased_name(data, at, bound)
    if record.rtype == MX:
        return data[at : at + 2] + rebased_name(data, at + 2, bound)
    if record.rtype == SOA:
        second = name_end_within(data, at, end)
        numbers = name_end_within(data, second, end)
        if end - numbers != 20:
            raise Malformed("SOA of the wrong length")
        return rebased_name(data, at, bound) + rebased_name(data, second, bound) + data[numbers:end]
    return data[at:end]


@contextmanager
def reading_malformed() -> Iterator[None]:
    """Whatever dnspython says against a message or a record is Malformed."""
    try:
        yield
    except (dns.exception.DNSException, ValueError, struct.error) as error:
        raise Malformed(str(error) or type(error).__name__) from error


@reading_malformed()
def _rewrite_slowly(
    answer: Answer,
    question: bytes,
    replacements: dict[Record, list[bytes]],
    ttl: int,
    age: int,
) -> Answer:
    """`rewrite` by dnspython, for every type it knows."""
    addresses = {answer.rdata(record): new for record, new in replacements.items()}
    message = parsed(answer)
    message.question[0].rdtype = dns.rdatatype.AAAA
    kept: list[dns.rrset.RRset] = []
    for rrset in message.answer:
        if rrset.rdtype == A and rrset.rdclass == IN:
            new = dns.rrset.RRset(rrset.name, dns.rdataclass.IN, dns.rdatatype.AAAA)
            for rdata in rrset:
                for address in addresses.get(rdata.to_wire() or b"", []):
                    new.add(dns.rdata.from_wire("IN", "AAAA", address, 0, 16))
            new.ttl = min(max(0, rrset.ttl - age), ttl)
            if len(new):
                kept.append(new)
        elif not (rrset.rdtype == _RRSIG and rrset.covers == A):
            kept.append(rrset)
    for rrset in (*(r for r in kept if r.rdtype != AAAA), *message.authority, *message.additional):
        rrset.ttl = max(0, rrset.ttl - age)
    message.answer = kept
    return replace(built(message), question=question, extended_error=answer.extended_error)


@reading_malformed()
def without(answer: Answer, excluded: Callable[[bytes], bool], age: int = 0) -> Answer:
    """The answer without the AAAA records whose address is excluded, nor their signatures."""
    if not any(excluded(answer.rdata(record)) for record in answer.of_type(AAAA)):
        return (
            answer if not age else replace(relabelled(answer, answer.question, age), ad=answer.ad)
        )
    message = parsed(answer)
    kept = []
    for rrset in message.answer:
        if rrset.rdtype == AAAA:
            left = [rdata for rdata in rrset if not excluded(rdata.to_wire() or b"")]
            if left:
                kept.append(dns.rrset.from_rdata_list(rrset.name, rrset.ttl, left))
        elif not (rrset.rdtype == _RRSIG and rrset.covers == AAAA):
            kept.append(rrset)
    for rrset in kept:
        rrset.ttl = max(0, rrset.ttl - age)
    message.answer = kept
    for rrset in (*message.authority, *message.additional):
        rrset.ttl = max(0, rrset.ttl - age)
    return replace(
        built(message), question=answer.question, extended_error=answer.extended_error, ad=False
    )


def parsed(answer: Answer) -> dns.message.Message:
    """dnspython's view of the answer. Raises Malformed."""
    _check_effort(answer)
    with reading_malformed():
        return dns.message.from_wire(answer.wire)


def _check_effort(answer: Answer) -> None:
    """Raises Malformed for what would take dnspython, and so the data plane, seconds to read.

    It follows chains of compression pointers to their end, for every name anew.
    """
    data = bytes(HEADER_SIZE) + answer.question + answer.body
    for record in answer.records:
        read_name(data, record.name_at)
        before = _NAME_AFTER.get(record.rtype)
        if before is not None:
            read_name(data, record.rdata_at + before)
        elif record.rtype not in _VERBATIM and len(data) > _LARGEST_RARE:
            raise Malformed("a large answer with records of a rare type")
        if record.rtype == SOA:
            end = record.rdata_at + record.rdata_size
            read_name(data, name_end_within(data, record.rdata_at, end))


def built(message: dns.message.Message) -> Answer:
    """A message of dnspython as an answer. Raises Malformed when it is too long."""
    message.flags |= dns.flags.QR
    with reading_malformed():
        return parse_answer(message.to_wire(max_size=65_535))
