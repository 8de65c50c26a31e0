"""A dict in parts is a dict: the same operations on both, and the same contents after each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from translate.sharded import ShardedDict

# Few keys, so that they meet again; enough for several parts.
KEYS = st.integers(0, 40).map(lambda n: bytes((n, 7)))


@given(st.lists(st.tuples(st.sampled_from(["set", "del", "get", "pop"]), KEYS, st.integers())))
def test_against_a_dict(steps):
    sharded: ShardedDict[int] = ShardedDict()
    plain: dict[bytes, int] = {}
    for what, key, value in steps:
        if what == "set":
            sharded[key] = plain[key] = value
        elif what == "get":
            assert sharded.get(key) == plain.get(key)
            assert (key in sharded) == (key in plain)
        elif what == "pop":
            assert sharded.pop(key, None) == plain.pop(key, None)
        elif key in plain:
            del sharded[key], plain[key]
        else:
            try:
                del sharded[key]
            except KeyError:
                pass
            else:
                raise AssertionError("deleted what is not there")
        assert len(sharded) == len(plain)
        assert bool(sharded) == bool(plain)
        assert sorted(sharded.items()) == sorted(plain.items())
        assert sorted(sharded.values()) == sorted(plain.values())


def test_no_part_grows_large():
    sharded: ShardedDict[int] = ShardedDict()
    for number in range(100_000):
        sharded[number.to_bytes(6, "big")] = number
    assert max(len(part) for part in sharded._shards) < 1000
