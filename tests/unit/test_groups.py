"""Errors out of the groups that trio makes."""

from __future__ import annotations

from typing import Any

from gateway.groups import errors_of, first_of

ONE, OTHER = ValueError("one"), KeyError("other")
INNER = ExceptionGroup("", [ExceptionGroup("", [ONE])])
NESTED: ExceptionGroup[Any] = ExceptionGroup("", [INNER, OTHER])


def test_every_error_however_deep() -> None:
    assert list(errors_of(NESTED)) == [ONE, OTHER]


def test_the_first_one() -> None:
    assert first_of(NESTED) is ONE
    assert first_of(ExceptionGroup("", [OTHER, INNER])) is OTHER
