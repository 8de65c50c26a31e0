"""The invariant of the translator, for one packet in and what came out for it.

Whatever goes in, what comes out is a well-formed packet with right lengths and IPv4 header
checksum, and a transport checksum that is right exactly if it was right on the way in (always
right where the translator computed it anew), or nothing plus a counted reason. `judge` raises
`Finding` with the words of what broke; it is used by the fuzzer, by the replay of its findings
and by property tests. Nothing of translate is used to read packets.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise

from tests.fuzz.reader import (
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    Finding,
    Seen,
    families_of,
    original_length,
    read_in,
    read_out,
    reassemble,
    require,
)
from translate.packets import Packet

__all__ = ["Finding", "is_right", "is_without_checksum", "judge", "judge_unasked"]


def judge(
    packet: Packet,
    out: list[Packet],
    discards: int,
    *,
    own: Collection[bytes] = (),
    forwards_zero: bool = False,
    marks: tuple[int | None, int | None] = (None, None),
    others: bool = False,
) -> None:
    """Judges what came out for one packet; `discards` is by how much the counters rose.

    `own`: addresses (4 or 16 bytes) that the translator's own errors come from; they tell an
    answer from a packet that is sent back into its own family (hairpinning). `forwards_zero`:
    UDP from IPv4 that has no checksum may go on without (RFC 7915 §4.5). `marks`: the type of
    service and the traffic class that packets leave with, None for a copy. `others`: protocols that
    nobody knows pass. Raises Finding.
    """
    seen = [read_out(one.data, others=others) for one in out]
    for one, what in zip(out, seen, strict=True):
        _check_offload(one, what)
    came = read_in(packet.data)
    # A sender's own fragments of odd lengths pass; the translator makes none.
    odd = came is not None and came.offset is not None
    require(odd or not any(s.more and len(s.body) % 8 for s in seen), "a fragment of odd length")
    if not out:
        require(discards >= 1, "nothing came out, and no reason was counted")
        return
    version = packet.data[0] >> 4
    answers = [s for s in seen if s.version == version and s.src in own and s.protocol in (1, 58)]
    if discards and len(answers) == len(seen):
        require(discards == 1 and len(seen) == 1, "more than one answer")
        require(came is not None, "an answer to a packet of wrong lengths")
        assert came is not None
        require(not came.is_error, "an answer to an ICMP error")
        require(came.first or _about_the_first(seen[0]), "an answer to a later fragment")
        require(seen[0].dst == came.src, "an answer to somebody else")
        require(seen[0].transport_sum() == 0, "the checksum of an answer")
        return
    require(came is not None, "a packet of wrong lengths was translated")
    assert came is not None
    if came.offset is not None and not came.whole:
        require(not any(one.partial or one.gso_type for one in out), "a fragment with offloads")
        for piece in seen:
            mark = marks[0] if piece.version == 4 else marks[1]
            require(mark is None or piece.tos == mark, "the mark of a fragment")
        _check_pieces(came, seen)
        return
    require(not discards, "a packet was both translated and counted as discarded")
    for what in seen:
        _check_header(came, what, marks)
    if packet.gso_type or len(out) == 1:
        wholes = _by_datagram(seen)
    else:
        whole = reassemble(seen)
        require(whole is not None, "fragments that are no datagram")
        assert whole is not None
        wholes = [whole]
    _check_whole(packet, came, out, wholes, forwards_zero)


def _about_the_first(answer: Seen) -> bool:
    """Whether an error quotes a whole packet or a first fragment (RFC 1122 §3.2.2)."""
    inner = answer.body[8:]
    if answer.version == 4:
        return not int.from_bytes(inner[6:8], "big") & 0x1FFF
    return inner[6] != 44 or not int.from_bytes(inner[42:44], "big") & 0xFFF8


def judge_unasked(out: list[Packet]) -> None:
    """Judges packets that the translator sends of its own accord. Raises Finding."""
    for one in out:
        seen = read_out(one.data)
        require(not one.partial and not one.gso_type, "an own packet with offloads")
        if seen.whole:
            require(seen.transport_sum() == 0, "the checksum of an own packet")


def _check_offload(one: Packet, seen: Seen) -> None:
    """What the device is told can be true (a wrong word there is a kernel's EINVAL)."""
    if not one.partial:
        require(not one.gso_type, "a super-packet with a complete checksum")
        return
    require(seen.offset is None, "a partial checksum in a fragment")
    require(seen.protocol in (TCP, UDP), "a partial checksum in neither TCP nor UDP")
    if one.gso_type:
        kinds = {(4, TCP): 1, (6, TCP): 4, (4, UDP): 5, (6, UDP): 5}
        require(one.gso_type & 0x7F == kinds[(seen.version, seen.protocol)], "gso_type")
        require(one.gso_size > 0, "a super-packet with segments of nothing")


def _by_datagram(seen: list[Seen]) -> list[Seen]:
    """Datagrams, those in fragments put together; the fragments of one are neighbours."""
    wholes: list[Seen] = []
    parts: list[Seen] = []
    for one in seen:
        if one.whole:
            wholes.append(one)
            continue
        parts.append(one)
        if not one.more:
            whole = reassemble(parts)
            require(whole is not None, "fragments that are no datagram")
            assert whole is not None
            wholes.append(whole)
            parts = []
    require(not parts, "fragments without an end")
    return wholes


def _check_header(came: Seen, seen: Seen, marks: tuple[int | None, int | None]) -> None:
    """Hops and marks of a packet; one that was hairpinned was IPv4 in between, on one router."""
    require(seen.hops == came.hops - 1, "the number of hops")
    ways = [4, 6] if came.version == seen.version == 6 else [seen.version]
    tos = came.tos
    for version in ways:
        mark = marks[0] if version == 4 else marks[1]
        tos = tos if mark is None else mark
    require(seen.tos == tos, "type of service or traffic class")


def _check_whole(
    packet: Packet, came: Seen, out: list[Packet], wholes: list[Seen], forwards_zero: bool
) -> None:
    for seen in wholes:
        require(seen.protocol == _other(came, seen), "the protocol changed")
        if came.is_error:
            require(len(wholes) == 1, "an ICMP error in several packets")
            # Computed anew, because the inside is cut, and then made as wrong as it was.
            right = packet.partial or came.transport_sum() == 0
            require((seen.transport_sum() == 0) == right, "the checksum of an ICMP error")
            _check_inner(came, seen)
            return
        require(not seen.is_error, "an ICMP error for what is none")
    if came.protocol not in (ICMP, TCP, UDP, ICMPV6):
        require(b"".join(seen.body for seen in wholes) == came.body, "an unknown protocol changed")
        return
    data = b"".join(seen.data for seen in wholes)
    require(data == came.data, "the data changed")
    if out[0].partial:
        _check_partial(packet, came, wholes[0])
        return
    no_checksum = came.protocol == UDP and came.checksum == 0 and not packet.partial
    for seen in wholes:
        if packet.partial:
            require(is_right(seen), "a checksum that was completed")
        elif no_checksum:
            require(_no_checksum(seen, forwards_zero), "a datagram that had no checksum")
        else:
            # As wrong as before; fragments and datagrams alike (RFC 1624).
            require(seen.transport_sum() == came.transport_sum(), "the checksum")
            require(seen.protocol != UDP or seen.checksum != 0, "a checksum that got lost")


def is_right(seen: Seen) -> bool:
    """Whether the checksum is right; a UDP length below the datagram's says what is covered."""
    if seen.protocol == UDP:
        length = int.from_bytes(seen.body[4:6], "big")
        if 8 <= length < len(seen.body):
            shorter = Seen(**{**seen.__dict__, "body": seen.body[:length]})
            return shorter.transport_sum() == 0 and seen.checksum != 0
        return seen.transport_sum() == 0 and seen.checksum != 0
    return seen.transport_sum() == 0


def _no_checksum(seen: Seen, forwards_zero: bool) -> bool:
    """IPv4 has none and IPv6 gets one, unless it is forwarded as it is (RFC 7915 §4.5)."""
    if seen.version == 4 or forwards_zero:
        return seen.checksum == 0
    return is_right(seen)


def is_without_checksum(seen: Seen) -> bool:
    """Whether a datagram has no checksum (RFC 768)."""
    return seen.protocol == UDP and seen.checksum == 0


def _check_partial(packet: Packet, came: Seen, seen: Seen) -> None:
    require(packet.partial, "a partial checksum out of a complete one")
    before = ((came.checksum or 0) - came.pseudo_sum()) % 0xFFFF
    after = ((seen.checksum or 0) - seen.pseudo_sum()) % 0xFFFF
    require(before == after, "the partial checksum")


def _other(came: Seen, seen: Seen) -> int:
    if came.protocol in (ICMP, ICMPV6):
        return ICMP if seen.version == 4 else ICMPV6
    return came.protocol


def _check_pieces(came: Seen, seen: list[Seen]) -> None:
    """Fragments out of a fragment: what can be said without those that came before."""
    seen = sorted(seen, key=lambda one: one.offset or 0)
    for one, following in pairwise(seen):
        require((one.offset or 0) + len(one.body) <= (following.offset or 0), "fragments overlap")
    if came.offset and seen[0].offset:
        # This one, cut further maybe. Extension headers that it stood behind are gone.
        require(b"".join(one.body for one in seen) == came.body, "the data of a fragment changed")
        require(seen[-1].more == came.more, "more fragments, or no more")
        exact = came.version == 4
        require(not exact or seen[0].offset == came.offset, "the offset of a fragment")
    first = seen[0]
    if came.offset or first.offset is None or len(first.body) != len(came.body):
        return
    if came.protocol in (TCP, UDP) and came.checksum and first.checksum:
        before = came.src + came.dst + came.body
        after = first.src + first.dst + first.body
        require(
            int.from_bytes(_even(before), "big") % 0xFFFF
            == int.from_bytes(_even(after), "big") % 0xFFFF,
            "the checksum of a first fragment",
        )


def _even(data: bytes) -> bytes:
    return data + b"\0" * (len(data) & 1)


def _check_inner(came: Seen, seen: Seen) -> None:
    """The packet inside an error: a header that is right, and hops that nobody took."""
    inner, before = seen.body[8:], came.body[8:]
    if seen.version == 4:
        require(inner[0] == 0x45, "options inside an error")
        require(_sum_right(inner[:20]), "the header checksum inside an error")
        require(int.from_bytes(inner[2:4], "big") >= 20, "the total length inside an error")
    _check_extension(came, seen)
    if len(before) >= 40 and came.version != seen.version:
        old = before[8] if came.version == 4 else before[7]
        new = inner[8] if seen.version == 4 else inner[7]
        require(old == new, "a hop was taken from the packet inside an error")


def _check_extension(came: Seen, seen: Seen) -> None:
    """What is behind the packet inside (RFC 4884) is as sound as it was, in our family."""
    length, old = original_length(seen), original_length(came)
    if not length or came.version == seen.version:
        return
    before, after = came.body[8 + old :], seen.body[8 + length :]
    require(bool(old), "an RFC 4884 length out of nothing")
    if families_of(before) is None:
        require(after == before, "what is no extension was changed")
        return
    families = families_of(after)
    require(families is not None, "an extension was broken")
    assert families is not None
    require((2 if seen.version == 4 else 1) not in families, "an address of the other family")


def _sum_right(header: bytes) -> bool:
    return int.from_bytes(header, "big") % 0xFFFF == 0
