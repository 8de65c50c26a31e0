"""Conversations of the fuzzer (tests/fuzz) without its guidance: the invariant holds for each."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.scenario import HEADER_SIZE, RECORD_SIZE, run
from tests.fuzz.seeds import record


@given(st.binary(max_size=HEADER_SIZE + 12 * RECORD_SIZE))
def test_any_input(data):
    run(data)


records = st.lists(
    st.builds(
        record,
        st.integers(0, 15),
        which=st.integers(0, 255),
        pause=st.integers(0, 15),
        hops=st.integers(0, 255),
        size=st.integers(0, 0xFFFF),
        flags=st.integers(0, 255),
        checksum=st.integers(0, 255),
        offload=st.integers(0, 255),
        damage=st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255)),
    ),
    max_size=12,
)


@given(st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE), records)
def test_any_conversation(head, program):
    run(head + b"".join(program))
