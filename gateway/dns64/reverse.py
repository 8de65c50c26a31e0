"""Names for synthesised addresses: PTR inside the prefix (RFC 6147 §5.3.1). Pure.

The IPv4 address is taken out of the name under ip6.arpa, its PTR records are asked for under
in-addr.arpa, and the answer says either that the one name is an alias of the other (`cname`, the
RFC's second option) or that the records belong to the name that was asked for (`translate`, which
shows clients no detour). An alias is made only when there is a PTR record at its end, as the RFC
asks; else the client gets the RCODE of in-addr.arpa. Where the name under in-addr.arpa is an alias
itself (RFC 2317), ours leads to the end of its chain, and so makes it no longer. Addresses outside
every prefix, and outside 64:ff9b::/96, are asked about like any other name.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv6Network

import dns.message
import dns.rrset
from dns.name import from_wire

from gateway.dns64.messages import IN, NOERROR, PTR, Answer, Query
from gateway.dns64.names import name_from_text
from gateway.dns64.settings import Reverse
from gateway.dns64.synthesis import built, parsed, reading_malformed
from translate.addresses import Layout, Prefix6

# RFC 6052 §2.1; RFC 6147 §5.3.1 asks to know it beside one's own prefixes.
WELL_KNOWN = Prefix6(IPv6Network("64:ff9b::/96"), Layout.RFC6052)
_IP6_ARPA = name_from_text("ip6.arpa")
_NAME_SIZE = 32 * 2 + len(_IP6_ARPA)
_NIBBLES = {ord(c): value for value, c in enumerate("0123456789abcdef")}


def address_of(qname: bytes) -> bytes | None:
    """The 16 bytes of a whole name under ip6.arpa (RFC 3596 §2.5), in lower case; else None."""
    if len(qname) != _NAME_SIZE or not qname.endswith(_IP6_ARPA):
        return None
    if qname[0:64:2] != b"\x01" * 32:
        return None
    nibbles = [_NIBBLES.get(c) for c in qname[1:64:2]]
    address = bytearray(16)
    for index, value in enumerate(reversed(nibbles)):
        if value is None:
            return None
        address[index >> 1] |= value << (0 if index & 1 else 4)
    return bytes(address)


def reverse_question(query: Query, prefixes: Sequence[Prefix6]) -> bytes | None:
    """The question under in-addr.arpa that answers this one, or None if it is like any other."""
    if query.qtype != PTR or query.qclass != IN:
        return None
    address = address_of(query.qname)
    if address is None:
        return None
    for prefix in prefixes:
        addr4 = prefix.extract(address)
        if addr4 is not None:
            labels = ".".join(str(octet) for octet in reversed(addr4))
            return name_from_text(f"{labels}.in-addr.arpa") + query.key[-4:]
    return None


@reading_malformed()
def assemble_reverse(query: Query, answer: Answer, age: int, how: Reverse) -> Answer:
    """The answer under ip6.arpa from the one under in-addr.arpa, `age` seconds old.

    Raises Malformed.
    """
    source = parsed(answer)
    for rrset in (*source.answer, *source.authority, *source.additional):
        rrset.ttl = max(0, rrset.ttl - age)
    asked = from_wire(query.qname, 0)[0]
    message = dns.message.make_query(asked, "PTR")
    message.flags = source.flags
    message.set_rcode(source.rcode())
    if answer.rcode == NOERROR and answer.of_type(PTR):
        ttl = min(rrset.ttl for rrset in source.answer)
        if how is Reverse.CNAME:
            target = next(rrset.name for rrset in source.answer if rrset.rdtype == PTR)
            alias = dns.rrset.from_text(asked, ttl, "IN", "CNAME", target.to_text())
            message.answer = [alias, *(r for r in source.answer if r.name == target)]
        else:
            # Chains of in-addr.arpa (RFC 2317) end at the name that was asked for.
            names = [rdata for rrset in source.answer if rrset.rdtype == PTR for rdata in rrset]
            message.answer = [dns.rrset.from_rdata_list(asked, ttl, names)]
    else:
        message.authority = source.authority
    made = built(message)
    made.ad = False
    return made
