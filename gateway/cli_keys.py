"""Flags that become configuration keys, for argparse.

A flag stores the text of its value under the key's name (`timeouts.udp_default`), nothing more:
what is right is judged with the file. Only what cannot be put into a key is told here.
"""

from __future__ import annotations

import argparse
import logging
import tomllib
from collections.abc import Sequence
from typing import Any, NoReturn

EXIT_CONFIG = 78

_log = logging.getLogger("gateway")


class Parser(argparse.ArgumentParser):
    """argparse with our way of telling mistakes: one line, exit status 78."""

    # Where its flags store keys. A sub-command needs its own place: argparse would let what
    # it stored replace what stood before the command.
    overrides_in = "overrides"

    def flags(self) -> list[str]:
        """Every flag, those of sub-commands included."""
        flags: list[str] = []
        for action in self._actions:
            flags.extend(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                for command in action.choices.values():
                    flags.extend(command.flags())
        return flags

    def error(self, message: str) -> NoReturn:
        _log.error("%s; %s --help shows what is right", message, self.prog)
        raise SystemExit(EXIT_CONFIG)


class SetKey(argparse.Action):
    """Stores the flag's value under configuration key `dest`, with the keys of other flags."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        assert isinstance(parser, Parser)
        overrides = getattr(namespace, parser.overrides_in, {})
        self.store(parser, overrides, str(values), option_string or "")
        setattr(namespace, parser.overrides_in, overrides)

    def store(
        self, parser: argparse.ArgumentParser, overrides: dict[str, Any], text: str, flag: str
    ) -> None:
        overrides[self.dest] = text


class AppendToKey(SetKey):
    """The same for a list: the flag can be repeated."""

    def store(
        self, parser: argparse.ArgumentParser, overrides: dict[str, Any], text: str, flag: str
    ) -> None:
        known = overrides.get(self.dest, [])
        overrides[self.dest] = [*(known if isinstance(known, list) else [known]), text]


class SetValue(SetKey):
    """The same for a number or a keyword: the text is read as TOML."""

    def store(
        self, parser: argparse.ArgumentParser, overrides: dict[str, Any], text: str, flag: str
    ) -> None:
        overrides[self.dest] = parse_value(text)


class SetTrue(SetKey):
    """The same for a switch: the flag stands alone."""

    def store(
        self, parser: argparse.ArgumentParser, overrides: dict[str, Any], text: str, flag: str
    ) -> None:
        overrides[self.dest] = True


class SetAny(SetKey):
    """`--set KEY=VALUE`; an inline table sets each of its keys."""

    def store(
        self, parser: argparse.ArgumentParser, overrides: dict[str, Any], text: str, flag: str
    ) -> None:
        key, equals, value = text.partition("=")
        key = key.strip()
        if not (equals and all(key.split("."))):
            parser.error(f"{flag} {text}: KEY=VALUE is right, e.g. timeouts.udp_default=60")
        overrides.update(_flatten(key, parse_value(value)))


def _flatten(key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {key: value}
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat.update(_flatten(f"{key}.{name}", item))
    return flat


def parse_value(text: str) -> Any:
    """The text as a TOML value; what is none is the string itself, as shells eat quotes."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text.strip()
    if parsed.keys() != {"value"}:
        return text
    return parsed["value"]
