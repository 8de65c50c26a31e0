"""DNS messages, as far as the common path needs them (RFC 1035 §4, RFC 6891 §6).

Theory of operation. Most queries are answered from the cache and most answers need no synthesis,
so a query is only read (header, question, EDNS), and a stored answer is only patched (id, flags,
question, TTLs); neither becomes objects for each record. `parse_query` reads what clients send,
`parse_answer` what upstreams send: it walks the records once, checks every length and every name,
notes where the TTLs stand, and cuts off the OPT record, which belongs to one hop only. Since the
question stands at a fixed place and its name is never compressed, compression pointers of an
answer stay right when the question is replaced by the same name in the client's upper and lower
case. Anything that would have to be built anew is left to dnspython (`synthesis.py`).

`names.Malformed` is the only exception that bytes from the network can raise here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gateway.dns64.names import Malformed, lower_case, name_end, plain_name_end

A: Final = 1
NS: Final = 2
CNAME: Final = 5
SOA: Final = 6
PTR: Final = 12
MX: Final = 15
AAAA: Final = 28
DNAME: Final = 39
OPT: Final = 41
ANY: Final = 255
IN: Final = 1

NOERROR: Final = 0
FORMERR: Final = 1
SERVFAIL: Final = 2
NXDOMAIN: Final = 3
NOTIMP: Final = 4
REFUSED: Final = 5
BADVERS: Final = 16

QR: Final = 0x8000
AA: Final = 0x0400
TC: Final = 0x0200
RD: Final = 0x0100
RA: Final = 0x0080
AD: Final = 0x0020
CD: Final = 0x0010
_OPCODE: Final = 0x7800

HEADER_SIZE: Final = 12
PLAIN_UDP_SIZE: Final = 512  # RFC 1035 §4.2.1
# What fits IPv6's least MTU unfragmented (RFC 9715 §3): 1280 less 48 bytes of headers.
OUR_UDP_SIZE: Final = 1232
MAX_TTL: Final = 0x7FFF_FFFF  # RFC 2181 §8
_EXTENDED_ERROR: Final = 15  # RFC 8914 §2

_header = struct.Struct("!6H")
_two = struct.Struct("!2H")
_record = struct.Struct("!HHIH")


class Query(NamedTuple):
    """A client's question. `question` is as it came, `key` with its name in lower case.

    `udp_size` is 0 without EDNS. `error`: the RCODE that answers it at once, 0 if none does.
    """

    id: int
    flags: int
    question: bytes
    key: bytes
    qtype: int
    qclass: int
    udp_size: int
    do: bool
    error: int

    @property
    def edns(self) -> bool:
        return self.udp_size > 0

    @property
    def cd(self) -> bool:
        return bool(self.flags & CD)

    @property
    def qname(self) -> bytes:
        """The name in lower case, as it stands in a message."""
        return self.key[:-4]


def parse_query(data: bytes) -> Query | None:
    """The question in what a client sent; None for what no server may answer.

    Not answered are messages without a whole header, and answers (QR set): two servers would
    go on answering each other for ever. Anything else that is wrong has a FORMERR (or NOTIMP,
    BADVERS) as its `error`, and whatever of the question could be read.
    """
    if len(data) < HEADER_SIZE:
        return None
    ident, flags, questions, answers, authorities, additionals = _header.unpack_from(data)
    if flags & QR:
        return None
    if flags & _OPCODE:
        return _wrong(ident, flags, NOTIMP)
    if questions != 1 or answers or authorities:
        return _wrong(ident, flags, FORMERR)
    try:
        end = plain_name_end(data, HEADER_SIZE)
        qtype, qclass = _two.unpack_from(data, end)
        end += 4
        question = data[HEADER_SIZE:end]
        if not additionals:
            size, do, error = 0, False, NOERROR
        else:
            size, do, error, end = _parse_additionals(data, end, additionals)
        if end != len(data):
            return _wrong(ident, flags, FORMERR)
    except (Malformed, struct.error, IndexError):
        return _wrong(ident, flags, FORMERR)
    key = lower_case(question[:-4]) + question[-4:]
    return Query(ident, flags, question, key, qtype, qclass, size, do, error)


def _wrong(ident: int, flags: int, error: int) -> Query:
    return Query(ident, flags, b"", b"", 0, 0, 0, False, error)


def _parse_additionals(data: bytes, at: int, count: int) -> tuple[int, bool, int, int]:
    """UDP size, DO, error and offset behind the records; at most one OPT (RFC 6891 §6.1.1)."""
    size, do, error = 0, False, NOERROR
    for _ in range(count):
        is_root = data[at] == 0
        at = name_end(data, at)
        rtype, rclass, ttl, length = _record.unpack_from(data, at)
        at += 10 + length
        if at > len(data):
            raise Malformed("record beyond the end")
        if rtype == OPT:
            if size or not is_root:
                raise Malformed("second OPT record, or one that has a name")
            _check_options(data[at - length : at])
            # RFC 6891 §6.2.3: less than 512 means 512.
            size = max(rclass, PLAIN_UDP_SIZE)
            do = bool(ttl & 0x8000)
            if ttl >> 16 & 0xFF:
                error = BADVERS
    return size, do, error, at


def _check_options(options: bytes) -> None:
    at = 0
    while at < len(options):
        _, length = _two.unpack_from(options, at)
        at += 4 + length
    if at != len(options):
        raise Malformed("EDNS option beyond the end")


class Record(NamedTuple):
    """Where a record of an answer stands. `section`: 1 answer, 2 authority, 3 additional."""

    section: int
    name_at: int
    rtype: int
    rclass: int
    ttl: int
    rdata_at: int
    rdata_size: int


@dataclass(slots=True)
class Answer:
    """A checked message from an upstream, or one built here.

    `body` is what follows the question, without OPT; `counts` are the records of its three
    sections. Offsets of `records` and `ttl_offsets` count from the start of a message whose
    question is `question`. `rcode` has twelve bits. `ad`: the upstream calls it authentic.
    `extended_error` is the EDNS option with RFC 8914's code, or empty. `authoritative`: it is about
    a zone of ours (AA).
    """

    question: bytes
    rcode: int
    ad: bool
    counts: tuple[int, int, int]
    body: bytes
    records: tuple[Record, ...]
    ttl_offsets: tuple[int, ...]
    extended_error: bytes = b""
    truncated: bool = False
    edns: bool = False
    authoritative: bool = False
    _aged: tuple[int, bytes] = field(default=(0, b""))

    @property
    def wire(self) -> bytes:
        """The whole message with id 0, for whoever wants to parse it."""
        flags = QR | RD | RA | (AD if self.ad else 0) | self.rcode & 15
        return _header.pack(0, flags, 1, *self.counts) + self.question + self.body

    def rdata(self, record: Record) -> bytes:
        at = record.rdata_at - HEADER_SIZE - len(self.question)
        return self.body[at : at + record.rdata_size]

    def of_type(self, rtype: int, section: int = 1) -> list[Record]:
        """The records of one type and class IN in a section."""
        return [r for r in self.records if r.rtype == rtype and r.section == section]

    def soa_ttl(self) -> int | None:
        """The TTL of the SOA record in the authority section, if there is one."""
        return min((r.ttl for r in self.of_type(SOA, 2)), default=None)

    def aged(self, seconds: int, *, cap: int | None = None) -> bytes:
        """The body with TTLs `seconds` lower, none below zero; `cap` limits what is left."""
        if not seconds and cap is None:
            return self.body
        if self._aged[0] == seconds and cap is None:
            return self._aged[1]
        base = HEADER_SIZE + len(self.question)
        body = bytearray(self.body)
        for offset in self.ttl_offsets:
            at = offset - base
            left = max(0, _ttl(body, at) - seconds)
            if cap is not None:
                left = cap
            body[at : at + 4] = left.to_bytes(4, "big")
        changed = bytes(body)
        if cap is None:
            self._aged = (seconds, changed)
        return changed


def _ttl(data: bytes | bytearray, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "big")


def parse_answer(data: bytes) -> Answer:
    """What an upstream sent. Raises Malformed; every record lies within the message."""
    if len(data) < HEADER_SIZE:
        raise Malformed("no whole header")
    _, flags, questions, *counts = _header.unpack_from(data)
    if not flags & QR or flags & _OPCODE:
        raise Malformed("no answer to a query")
    if questions != 1:
        raise Malformed("no question, or several")
    try:
        start = plain_name_end(data, HEADER_SIZE) + 4
        question = data[HEADER_SIZE:start]
        if len(question) < 5 or len(data) < start:
            raise Malformed("no whole question")
        return _parse_records(data, start, question, flags, counts)
    except (struct.error, IndexError) as error:
        raise Malformed("a record beyond the end") from error


def _parse_records(
    data: bytes, start: int, question: bytes, flags: int, counts: list[int]
) -> Answer:
    records: list[Record] = []
    ttl_offsets: list[int] = []
    opt: tuple[int, int, int] | None = None  # start, end, extended rcode
    extended_error = b""
    at, size = start, len(data)
    for section, count in enumerate(counts, 1):
        for _ in range(count):
            name_at = at
            at = name_end(data, at)
            rtype, rclass, ttl, length = _record.unpack_from(data, at)
            rdata_at = at + 10
            at = rdata_at + length
            if at > size:
                raise Malformed("a record beyond the end")
            if rtype == OPT:
                if opt is not None or section != 3 or data[name_at]:
                    raise Malformed("OPT where none may be")
                opt = (name_at, at, ttl >> 24)
                extended_error = _find_extended_error(data[rdata_at:at])
                continue
            if (rtype in (A, AAAA)) and rclass == IN and length != (4 if rtype == A else 16):
                raise Malformed("an address of the wrong length")
            if opt is None:
                ttl_offsets.append(rdata_at - 6)
                if ttl > MAX_TTL:
                    ttl = 0  # RFC 2181 §8
                records.append(Record(section, name_at, rtype, rclass, ttl, rdata_at, length))
            else:
                raise Malformed("a record behind OPT")
    if at != size:
        raise Malformed("bytes behind the last record")
    end = size
    rcode = flags & 15
    if opt is not None:
        end = opt[0]
        rcode |= opt[2] << 4
        counts[2] -= 1
    return Answer(
        question=question,
        rcode=rcode,
        ad=bool(flags & AD),
        counts=(counts[0], counts[1], counts[2]),
        body=data[start:end],
        records=tuple(records),
        ttl_offsets=tuple(ttl_offsets),
        extended_error=extended_error,
        truncated=bool(flags & TC),
        edns=opt is not None,
    )


def _find_extended_error(options: bytes) -> bytes:
    at = 0
    while at + 4 <= len(options):
        code, length = _two.unpack_from(options, at)
        if code == _EXTENDED_ERROR and length >= 2 and at + 4 + length <= len(options):
            return options[at : at + 4 + length]
        at += 4 + length
    return b""


def extended_error_code(answer: Answer) -> int | None:
    """The INFO-CODE of RFC 8914, or None."""
    option = answer.extended_error
    return int.from_bytes(option[4:6], "big") if option else None


def build_query(ident: int, question: bytes, *, edns: bool, do: bool, cd: bool) -> bytes:
    """A question for an upstream; AD asks to be told what is authentic (RFC 6840 §5.7)."""
    flags = RD | AD | (CD if cd else 0)
    if not edns:
        return _header.pack(ident, flags, 1, 0, 0, 0) + question
    return _header.pack(ident, flags, 1, 0, 0, 1) + question + _opt(NOERROR, do, b"")


def _opt(rcode: int, do: bool, options: bytes) -> bytes:
    ttl = (rcode >> 4) << 24 | (0x8000 if do else 0)
    return b"\0" + _record.pack(OPT, OUR_UDP_SIZE, ttl, len(options)) + options


def build_error(query: Query, rcode: int) -> bytes:
    """An answer without records. Never longer than the query but for 11 bytes of OPT."""
    shown = SERVFAIL if rcode > 15 and not query.edns else rcode
    flags = QR | RA | query.flags & (RD | CD) | shown & 15
    opt = _opt(shown, query.do, b"") if query.edns and query.question else b""
    counts = (1 if query.question else 0, 0, 0, 1 if opt else 0)
    return _header.pack(query.id, flags, *counts) + query.question + opt


def render(
    query: Query,
    answer: Answer,
    *,
    age: int,
    limit: int | None,
    ad: bool,
    stale_ttl: int | None = None,
) -> bytes:
    """The message that answers this query. `limit`: bytes that fit; None over TCP.

    What does not fit is left out altogether, with TC set (RFC 2181 §9). `age`: whole seconds
    since the answer came. `ad`: what to say about its being authentic.
    """
    rcode = answer.rcode
    if rcode > 15 and not query.edns:
        rcode = SERVFAIL
    flags = QR | RA | query.flags & (RD | CD) | (AD if ad else 0) | rcode & 15
    if answer.authoritative:
        flags |= AA
    opt = _opt(rcode, query.do, answer.extended_error) if query.edns else b""
    one, two, three = answer.counts
    size = HEADER_SIZE + len(query.question) + len(answer.body) + len(opt)
    if limit is not None and size > limit:
        head = _header.pack(query.id, flags | TC, 1, 0, 0, 1 if opt else 0)
        return head + query.question + (_opt(rcode, query.do, b"") if opt else b"")
    body = answer.aged(age, cap=stale_ttl)
    head = _header.pack(query.id, flags, 1, one, two, three + (1 if opt else 0))
    return head + query.question + body + opt


def udp_limit(query: Query, ours: int) -> int:
    """How long an answer by UDP may be: what both sides take (RFC 6891 §6.2.5)."""
    return min(query.udp_size, ours) if query.udp_size else PLAIN_UDP_SIZE
