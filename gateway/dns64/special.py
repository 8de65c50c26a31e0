"""Names that are answered here and nowhere else: ipv4only.arpa (RFC 7050, RFC 8880). Pure.

Hosts find the prefix by asking for the AAAA records of ipv4only.arpa (RFC 7050 §3): what answers
are its two IPv4 addresses in each of our prefixes. RFC 8880 §7.1 wants a DNS64 to know the name
and to answer without asking anybody, also those who set DO and CD, and also about other types,
for which there is no data; but for DS, which belongs to the zone above: who validates finds there
that nothing here is signed. Nothing exists below the name. The reverse names of the two addresses
(RFC 8880 §7.2) point back to it.
"""

from __future__ import annotations

from collections.abc import Sequence
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

from gateway.dns64.messages import (
    AAAA,
    IN,
    NOERROR,
    NXDOMAIN,
    PTR,
    SOA,
    A,
    Answer,
    Query,
    name_from_text,
)
from gateway.dns64.synthesis import built, is_below
from translate.addresses import Prefix6

IPV4ONLY = name_from_text("ipv4only.arpa")
REVERSE = (
    name_from_text("170.0.0.192.in-addr.arpa"),
    name_from_text("171.0.0.192.in-addr.arpa"),
)
ADDRESSES = (bytes((192, 0, 0, 170)), bytes((192, 0, 0, 171)))  # RFC 7050 §2.2
TTL = 86_400  # seconds; a day, the prefix being part of the configuration
_NEGATIVE_TTL = 3_600
_DS = 43


def is_special(qname: bytes, qtype: int) -> bool:
    """Whether a question about a name, in wire form and lower case, is answered here."""
    if qtype == _DS and qname in (IPV4ONLY, *REVERSE):
        return False
    return any(is_below(qname, zone) for zone in (IPV4ONLY, *REVERSE))


def answer_special(query: Query, prefixes: Sequence[Prefix6]) -> Answer:
    """The answer for a name that `is_special`. `prefixes`: none for who gets no synthesis."""
    return _answer(query.key, query.qtype, query.qclass, tuple(prefixes))


@lru_cache(maxsize=256)
def _answer(key: bytes, qtype: int, qclass: int, prefixes: tuple[Prefix6, ...]) -> Answer:
    qname = key[:-4]
    zone = next(zone for zone in (IPV4ONLY, *REVERSE) if is_below(qname, zone))
    name = from_wire(qname, 0)[0]
    message = dns.message.make_query(name, _type(qtype), _class(qclass))
    message.flags |= dns.flags.QR | dns.flags.RA
    message.set_rcode(dns.rcode.Rcode(NOERROR if qname == zone else NXDOMAIN))
    records: list[str] = []
    if qname == zone and qclass == IN:
        if zone != IPV4ONLY:
            records = ["ipv4only.arpa."] if qtype == PTR else []
        elif qtype == A:
            records = [_text4(address) for address in ADDRESSES]
        elif qtype == AAAA:
            records = [_text6(p.embed(address)) for p in prefixes for address in ADDRESSES]
        elif qtype == SOA:
            records = [_soa()]
    if records:
        message.answer.append(
            dns.rrset.from_text_list(name, TTL, _class(qclass), _type(qtype), records)
        )
    else:
        apex = from_wire(zone, 0)[0]
        message.authority.append(dns.rrset.from_text(apex, _NEGATIVE_TTL, "IN", "SOA", _soa()))
    return built(message)


def _type(number: int) -> RdataType:
    return RdataType.make(number)


def _class(number: int) -> RdataClass:
    return RdataClass.make(number)


def _soa() -> str:
    return f"localhost. nobody.invalid. 1 3600 1200 604800 {_NEGATIVE_TTL}"


def _text4(address: bytes) -> str:
    return dns.ipv4.inet_ntoa(address)


def _text6(address: bytes) -> str:
    return dns.ipv6.inet_ntoa(address)
