"""What is in the exception groups that trio's nurseries make, each a group around the last.

Raise what is found behind the `except*`, not in it: before Python 3.11.4 what is raised there is
wrapped in one more group.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

_E = TypeVar("_E", bound=BaseException)


def errors_of(group: BaseExceptionGroup[_E]) -> Iterator[_E]:
    """Every exception of a group, however deep."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from errors_of(error)
        else:
            yield error


def first_of(group: BaseExceptionGroup[_E]) -> _E:
    """The first of them."""
    return next(errors_of(group))
