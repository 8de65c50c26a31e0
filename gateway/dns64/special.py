"""Names that are answered here and nowhere else: ipv4only.arpa (RFC 7050, RFC 8880). Pure.

Hosts find the prefix by asking for the AAAA records of ipv4only.arpa (RFC 7050 §3): what answers
are its two IPv4 addresses in each of our prefixes. RFC 8880 §7.1 wants a DNS64 to be the authority
for the name: it answers without asking anybody, whatever DO and CD say, has no data of any other
type, and nothing below the name; but for DS, which belongs to the zone above: who validates finds
there that nothing here is signed.

The reverse names of the two addresses are asked about like others, as RFC 8880 §7.2 wants of
resolvers. Only the PTR question about one of them inside a prefix has its answer here (§7.2.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import dns.flags
import dns.ipv4
import dns.ipv6
import dns.message
import dns.rcode
import dns.rrset
from dns.name import from_wire
from dns.rdataclass import RdataClass
from dns.rdatatype import RdataType

from gateway.dns64.messages import AAAA, IN, NOERROR, NXDOMAIN, PTR, A, Answer, Query
from gateway.dns64.names import is_below, name_from_text
from gateway.dns64.synthesis import built
from translate.addresses import Prefix6

IPV4ONLY = name_from_text("ipv4only.arpa")
_REVERSE = (
    name_from_text("170.0.0.192.in-addr.arpa"),
    name_from_text("171.0.0.192.in-addr.arpa"),
)
ADDRESSES = (bytes((192, 0, 0, 170)), bytes((192, 0, 0, 171)))  # RFC 7050 §2.2
TTL = 86_400  # seconds; a day, the prefix being part of the configuration
_NEGATIVE_TTL = 3_600
_SOA = f"localhost. nobody.invalid. 1 3600 1200 604800 {_NEGATIVE_TTL}"
_DS = 43


def is_special(qname: bytes, qtype: int) -> bool:
    """Whether a question about a name, in wire form and lower case, is answered here."""
    return is_below(qname, IPV4ONLY) and not (qtype == _DS and qname == IPV4ONLY)


def answer_special(query: Query, prefixes: Sequence[Prefix6]) -> Answer:
    """The answer for a name that `is_special`. `prefixes`: none for who gets no synthesis."""
    return _answer(query.key, query.qtype, query.qclass, tuple(prefixes))


@lru_cache(maxsize=256)
def _answer(key: bytes, qtype: int, qclass: int, prefixes: tuple[Prefix6, ...]) -> Answer:
    qname = key[:-4]
    exists = qname == IPV4ONLY
    records: list[str] = []
    if exists and qclass == IN:
        if qtype == A:
            records = [_text4(address) for address in ADDRESSES]
        elif qtype == AAAA:
            records = [_text6(p.embed(address)) for p in prefixes for address in ADDRESSES]
    message = _message(qname, qtype, qclass, records)
    message.set_rcode(dns.rcode.Rcode(NOERROR if exists else NXDOMAIN))
    if not records:
        apex = from_wire(IPV4ONLY, 0)[0]
        message.authority.append(dns.rrset.from_text(apex, _NEGATIVE_TTL, "IN", "SOA", _SOA))
    return replace(built(message), authoritative=True)


def answer_reverse(question: bytes) -> Answer | None:
    """What is known of a PTR question under in-addr.arpa that one inside a prefix has come to."""
    qname = question[:-4]
    return built(_message(qname, PTR, IN, ["ipv4only.arpa."])) if qname in _REVERSE else None


def _message(qname: bytes, qtype: int, qclass: int, records: list[str]) -> dns.message.Message:
    name = from_wire(qname, 0)[0]
    message = dns.message.make_query(name, _type(qtype), _class(qclass))
    message.flags |= dns.flags.QR | dns.flags.RA
    if records:
        message.answer.append(
            dns.rrset.from_text_list(name, TTL, _class(qclass), _type(qtype), records)
        )
    return message


def _type(number: int) -> RdataType:
    return RdataType.make(number)


def _class(number: int) -> RdataClass:
    return RdataClass.make(number)


def _text4(address: bytes) -> str:
    return dns.ipv4.inet_ntoa(address)


def _text6(address: bytes) -> str:
    return dns.ipv6.inet_ntoa(address)
