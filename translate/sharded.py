"""A dict in parts, for tables that grow to hundreds of thousands of entries.

A Python dict that grows is copied whole, with everything waiting. In 256 parts, chosen by the
key's hash, each copy is a 256th (docs/decisions/0008-sharded-flow-tables.md).
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Generic, TypeVar

_MASK = 255

_V = TypeVar("_V")


class ShardedDict(MutableMapping[bytes, _V], Generic[_V]):
    """A mapping from bytes in no particular order; it must not change while iterated over."""

    __slots__ = ("_count", "_shards")

    def __init__(self) -> None:
        self._shards: list[dict[bytes, _V]] = [{} for _ in range(_MASK + 1)]
        self._count = 0

    def __getitem__(self, key: bytes) -> _V:
        return self._shards[hash(key) & _MASK][key]

    def get(self, key: bytes, default: _V | None = None) -> _V | None:  # type: ignore[override]
        """The value of the key, or the default."""
        return self._shards[hash(key) & _MASK].get(key, default)

    def __setitem__(self, key: bytes, value: _V) -> None:
        shard = self._shards[hash(key) & _MASK]
        before = len(shard)
        shard[key] = value
        self._count += len(shard) - before

    def __delitem__(self, key: bytes) -> None:
        del self._shards[hash(key) & _MASK][key]
        self._count -= 1

    def __contains__(self, key: object) -> bool:
        return key in self._shards[hash(key) & _MASK]

    def __iter__(self) -> Iterator[bytes]:
        for shard in self._shards:
            yield from shard

    def __len__(self) -> int:
        return self._count
