"""Writes the vector files: `python -m tests.vectors.make`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tests.vectors import errors, extensions, siit, special, stateful, v4_to_v6, v6_to_v4
from tests.vectors.build import text_of

HERE = Path(__file__).parent
_FILES = {
    "rfc7915-v6-to-v4.toml": ("RFC 7915 §5.1, §5.5: from IPv6 to IPv4", v6_to_v4.vectors),
    "rfc7915-v4-to-v6.toml": ("RFC 7915 §4.1, §4.5: from IPv4 to IPv6", v4_to_v6.vectors),
    "rfc7915-icmp-errors.toml": ("RFC 7915 §4.2, §4.3, §5.2, §5.3: errors", errors.vectors),
    "rfc4884-rfc5837.toml": ("RFC 4884, RFC 5837: extensions of errors", extensions.vectors),
    "configured.toml": ("What the configuration asks for, and what time brings", special.vectors),
    "rfc7757-stateless.toml": ("RFC 7757, RFC 7915, RFC 6791: stateless mode", siit.vectors),
    "rfc6146-rfc6052.toml": ("RFC 6146 state and RFC 6052 addresses", stateful.vectors),
}


def files() -> Iterator[tuple[Path, str]]:
    """Every file and its text."""
    for name, (title, vectors) in _FILES.items():
        yield HERE / name, text_of(title, vectors())


if __name__ == "__main__":
    for path, text in files():
        path.write_text(text, "utf-8")
