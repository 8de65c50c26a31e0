"""The file with explicit address mappings, one a line (RFC 7757).

    # comment
    198.51.100.16/28   2001:db8:c0de::/124    # the order of the two does not matter
    198.51.100.1       2001:db8::1

Every fault is told at once, by line. A hundred thousand lines take well below a second: that is
why the addresses are read by the C library and not as objects of `ipaddress`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from pathlib import Path

from translate.eam import Eam, EamConflict, EamTable

_MOST_FAULTS = 20


class EamFileError(Exception):
    """The file cannot be used; `lines`: one for each fault, with file name and line number."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def read_eam_file(path: Path, before: Iterable[Eam] = ()) -> EamTable:
    """The table of the mappings `before` and those in a file.

    Raises EamFileError, which says everything that is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else f"it is not UTF-8: {error}"
        raise EamFileError([f"{path}: {why}"]) from error
    return parse_eam(text, str(path), before)


def parse_eam(text: str, name: str, before: Iterable[Eam] = ()) -> EamTable:
    """The same for the text of a file called `name`. Raises EamFileError."""
    table = EamTable(before)
    faults: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            table.add(parse_words(words))
        except (ValueError, EamConflict) as error:
            faults.append(f"{name}:{number}: {error}")
            if len(faults) == _MOST_FAULTS:
                faults.append(f"{name}: and perhaps more")
                break
    if faults:
        raise EamFileError(faults)
    return table


def parse_words(words: list[str]) -> Eam:
    """The mapping of a line that was split into words. Raises ValueError."""
    if len(words) != 2:
        raise ValueError(f"{' '.join(words)}: an IPv4 and an IPv6 prefix are right")
    one, two = words if ":" in words[1] else reversed(words)
    prefix4, length4 = _parse_prefix(one, socket.AF_INET, 32, "IPv4")
    prefix6, length6 = _parse_prefix(two, socket.AF_INET6, 128, "IPv6")
    return Eam(prefix4, length4, prefix6, length6)


def _parse_prefix(text: str, family: int, bits: int, what: str) -> tuple[int, int]:
    address, slash, digits = text.partition("/")
    try:
        value = int.from_bytes(socket.inet_pton(family, address), "big")
    except OSError:
        raise ValueError(f"{text} is no {what} prefix") from None
    if not slash:
        return value, bits
    if not (digits.isascii() and digits.isdigit() and int(digits) <= bits):
        raise ValueError(f"{text}: the prefix length must be 0 to {bits}")
    return value, int(digits)
