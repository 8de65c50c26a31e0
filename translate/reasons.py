"""Why a packet was not translated. Every discard carries one of these, and is counted."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from translate.packets import Packet


class Reason(Enum):
    """Discard reasons. The value is the name shown in logs, status and metrics."""

    # What arrived cannot be read.
    MALFORMED = "malformed"
    BAD_LENGTH = "bad-length"
    HEADER_CHECKSUM = "header-checksum"
    UNKNOWN_VERSION = "unknown-version"

    # Who sent it, or where it wants to go, is refused.
    CLIENT_REFUSED = "client-refused"
    SOURCE_INVALID = "source-invalid"
    DESTINATION_REFUSED = "destination-refused"
    NOT_EMBEDDED = "not-embedded"
    SOURCE_UNMAPPED = "source-unmapped"
    NOT_OURS = "not-ours"
    PRIVATE_UNDER_WKP = "private-under-wkp"
    FORM_CONFLICT = "form-conflict"

    # State does not allow it, or a limit is reached.
    NO_MAPPING = "no-mapping"
    NO_SESSION = "no-session"
    FILTERED = "filtered"
    SESSION_LIMIT = "session-limit"
    CLIENT_SESSION_LIMIT = "client-session-limit"
    BIB_LIMIT = "bib-limit"
    CLIENT_BIB_LIMIT = "client-bib-limit"
    CLIENT_BLOCK_LIMIT = "client-block-limit"
    CLIENT_LIMIT = "client-limit"
    POOL4_EXHAUSTED = "pool4-exhausted"
    SYN_STORED = "syn-stored"
    SYN_LIMIT = "syn-limit"
    SYN_TIMEOUT = "syn-timeout"
    UPLINK_DOWN = "uplink-down"

    # RFC 7915 says not to translate it.
    HOP_LIMIT = "hop-limit"
    SOURCE_ROUTE = "source-route"
    ROUTING_HEADER = "routing-header"
    UNKNOWN_PROTOCOL = "unknown-protocol"
    NO_NEXT_HEADER = "no-next-header"
    FRAGMENT = "fragment"
    FRAGMENT_EXTENSION = "fragment-extension"
    FRAGMENT_HELD = "fragment-held"
    FRAGMENT_LIMIT = "fragment-limit"
    FRAGMENT_OVERLAP = "fragment-overlap"
    FRAGMENT_REPEATED = "fragment-repeated"
    FRAGMENT_TINY = "fragment-tiny"
    FRAGMENT_LOST = "fragment-lost"
    ICMP_TYPE = "icmp-type"
    ICMP_INNER = "icmp-inner"
    UDP_ZERO_CHECKSUM = "udp-zero-checksum"
    TOO_BIG = "too-big"

    # Answered by the translator itself, or meant for nobody.
    HANDLED = "handled"


class Discard(Exception):
    """Ends the translation of one packet. Never leaves `translate.nat64`.

    `answer`: what the sender gets for it, if anything.
    """

    def __init__(self, reason: Reason, answer: Packet | None = None) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.answer = answer
