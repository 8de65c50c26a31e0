"""Reading the configuration: a TOML file, single keys over it, every fault at once.

Theory of operation. The file is parsed to a dict, the overrides (from flags, dotted keys) are
laid over it, and the whole is validated by the model. Faults become lines of the form
`key: what is wrong; what would be right`. Keys with a fault are then left out and what
remains is checked for contradictions between keys, so that one run shows all that is wrong.
The host is never looked at: a configuration is right or wrong by itself.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from gateway.config_advertise import advertise_table_of
from gateway.config_backhaul import table_of
from gateway.config_checks import find_faults, notices
from gateway.config_model import Config
from gateway.config_values import BadValue, shown, type_name
from translate.settings import Filtering, Limits, Settings, Timeouts, ZeroChecksum

__all__ = [
    "RELOADABLE",
    "Config",
    "ConfigError",
    "all_keys",
    "changed_keys",
    "is_reloadable",
    "load",
    "notices",
    "take_over",
    "to_settings",
]


class ConfigError(Exception):
    """The configuration cannot be used. `lines`: one for each fault, with its key."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def load(path: str | Path | None, overrides: Mapping[str, Any] | None = None) -> Config:
    """The configuration of the file (None: defaults only) with single keys laid over it.

    `overrides`: dotted keys to values as TOML would give them, `{"timeouts.tcp_est": 7440}`.
    Raises ConfigError with every fault that was found.
    """
    lines: list[str] = []
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = _read(Path(path))
        except BadValue as bad:
            lines.extend(f"{path}: {line}" for line in bad.lines)
    file_is_known = not lines
    _lay_over(data, overrides or {})
    faulty: set[str] = set()
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        faulty = _faulty_keys(error)
        lines.extend(_lines(error))
        config = Config.model_validate(_without(data, faulty))
    if file_is_known:
        lines.extend(str(fault) for fault in find_faults(config) if faulty.isdisjoint(fault.keys))
    if lines:
        raise ConfigError(lines)
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise BadValue("there is no such file; --config takes the path of a TOML file") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise BadValue(f"cannot be read: {reason}; a readable TOML file is right") from None
    except UnicodeDecodeError as error:
        raise BadValue(
            f"byte {error.start} is not UTF-8; save the file in UTF-8, as TOML wants it"
        ) from None
    except tomllib.TOMLDecodeError as error:
        what, where = _toml_position(str(error))
        raise BadValue(
            f"{where}{what}; KEY = VALUE is right, strings in double quotes, lists in brackets"
        ) from None


def _toml_position(message: str) -> tuple[str, str]:
    """tomllib's message, split into what is wrong and `line N, column M: `."""
    match = re.fullmatch(r"(.*) \(at (.+)\)", message, re.DOTALL)
    if match is None:
        return message, ""
    return match[1], f"{match[2]}: "


def _lay_over(data: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    if "backhaul" in data:
        # Written as a shorthand it would be in the way of flags for single keys of the table.
        data["backhaul"] = table_of(data["backhaul"])
    if "advertise" in data:
        data["advertise"] = advertise_table_of(data["advertise"])
    for key, value in overrides.items():
        *tables, last = key.split(".")
        table: Any = data
        for name in tables:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                break  # The file has a plain value where a table belongs: told by the model.
        else:
            table[last] = deepcopy(value)


def _faulty_keys(error: ValidationError) -> set[str]:
    return {_dotted(detail["loc"]) for detail in error.errors()}


def _dotted(loc: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in loc)


def _without(data: dict[str, Any], keys: set[str], above: str = "") -> dict[str, Any]:
    """The data without the named dotted keys."""
    kept: dict[str, Any] = {}
    for name, value in data.items():
        if above + name in keys:
            continue
        is_table = isinstance(value, dict)
        kept[name] = _without(value, keys, f"{above}{name}.") if is_table else value
    return kept


def _lines(error: ValidationError) -> Iterator[str]:
    for detail in error.errors():
        key = _dotted(detail["loc"])
        for text in _explain(key, detail):
            yield f"{key}: {text}"


# Ways of pydantic to say that the type is wrong, and what TOML type is right.
_TYPES = {
    "bool_type": "true or false",
    "float_type": "a number",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "finite_number": "a finite number",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "string_type": "a string",
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def _explain(key: str, detail: ErrorDetails) -> list[str]:
    """What is wrong and what would be right, one line for each fault of the value."""
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if isinstance(context.get("error"), BadValue):
        return list(context["error"].lines)
    if kind == "extra_forbidden":
        return [f"unknown key; {_suggest(key)}"]
    if kind in _TYPES:
        return [f"{shown(value)} is {type_name(value)}; {_TYPES[kind]} is right{_example(key)}"]
    if kind in _BOUNDS:
        bound, words = _BOUNDS[kind]
        return [f"{shown(value)} is out of range; {words} {context[bound]:.12g} is right"]
    if kind == "literal_error":
        right = context["expected"].replace("'", '"')
        return [f"{shown(value)} is no choice; {right} is right"]
    return [f"{shown(value)} cannot be used; {detail['msg']}{_example(key)}"]


def _example(key: str) -> str:
    """`, e.g. DEFAULT` for a single key, nothing for a table."""
    default: Any = Config()
    for name in key.split("."):
        default = getattr(default, name, None)
    if default is None or isinstance(default, BaseModel):
        return ""
    return f", e.g. {shown(default)}"


def _suggest(key: str) -> str:
    known = all_keys()
    last = key.rpartition(".")[2]
    for candidate in known:
        if candidate.rpartition(".")[2] == last.replace("-", "_"):
            return f'did you mean "{candidate}"?'
    table = key.rpartition(".")[0]
    in_table = [name for name in known if table and name.startswith(f"{table}.")]
    if in_table:
        # Compared without the table's name, which would make every key of it look alike.
        names = [name.removeprefix(f"{table}.") for name in in_table]
        close = [f"{table}.{name}" for name in difflib.get_close_matches(last, names, n=1)]
    else:
        tables = {name.partition(".")[0] for name in known if "." in name}
        close = difflib.get_close_matches(key, [*known, *sorted(tables)], n=1)
    if close:
        return f'did you mean "{close[0]}"?'
    return f"known keys are {', '.join(in_table or known)}"


def all_keys() -> list[str]:
    """Every dotted key that can be configured, in the order of the model."""
    return list(_flat(Config()))


def _flat(table: BaseModel, above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name in type(table).model_fields:
        value = getattr(table, name)
        if isinstance(value, BaseModel):
            flat.update(_flat(value, f"{above}{name}."))
        else:
            flat[above + name] = value
    return flat


# What a running gateway takes over at SIGHUP. Everything else has a part of the host, or
# addresses that live sessions use, behind it and needs a restart.
RELOADABLE = frozenset(
    {
        "allow",
        "deny4",
        "filtering",
        "icmp4_error_pool",
        "log_level",
        "lowest_ipv6_mtu",
        "mss_clamp",
        "tos",
        "traffic_class",
        "udp_zero_checksum",
        "port_blocks_per_client",
        "static",
        "wkp_strict",
        # The map file is read again in any case.
        "siit.map",
        "siit.mappings",
        "siit.hairpin",
        "siit.pool_keep",
        # What the next connection uses; the rest of [backhaul] is in routes, or at the peer.
        "backhaul.to",
        "backhaul.ssh_options",
        "backhaul.linger",
        "backhaul.heartbeat",
        "backhaul.probe_interval",
        "backhaul.probes_missed",
        "backhaul.return_after",
        *(key for key in all_keys() if key.startswith(("advertise.", "limits.", "timeouts."))),
    }
)


def changed_keys(old: Config, new: Config) -> list[str]:
    """The dotted keys in which two configurations differ, in the order of the model."""
    before, after = _flat(old), _flat(new)
    return [key for key in before if before[key] != after[key]]


def take_over(old: Config, new: Config, keys: Iterable[str]) -> Config:
    """The old configuration with these dotted keys of the new one."""
    plain: dict[str, Any] = {}
    tables: dict[str, dict[str, Any]] = {}
    for key in keys:
        table, dot, name = key.partition(".")
        if dot:
            tables.setdefault(table, {})[name] = getattr(getattr(new, table), name)
        else:
            plain[key] = getattr(new, key)
    for table, update in tables.items():
        plain[table] = getattr(old, table).model_copy(update=update)
    return old.model_copy(update=plain)


def is_reloadable(key: str, old: Config, new: Config) -> bool:
    """Whether a running gateway can take over the change of a key that is different."""
    if key == "backhaul.to":
        # With the first destination, or without the last, the host's routes are others.
        return bool(old.backhaul.to) and bool(new.backhaul.to)
    return key in RELOADABLE


def to_settings(config: Config, *, icmp6_source: bytes) -> Settings:
    """What the translator needs of the configuration.

    `icmp6_source`: 16 bytes, `config.own_icmp6_source` or, where that is None, a global IPv6
    address of the host.
    """
    mss_clamp: int | None
    if config.mss_clamp == "auto":
        mss_clamp = None
    elif config.mss_clamp == "off":
        mss_clamp = 0
    else:
        mss_clamp = config.mss_clamp
    return Settings(
        prefixes=config.prefixes6,
        pool4=config.pool_ranges,
        icmp6_source=icmp6_source,
        icmp4_source=config.own_icmp4_source,
        icmp4_error_pool=config.icmp4_error_pool,
        deny4=config.deny4,
        wkp_strict=config.wkp_strict,
        filtering=Filtering(config.filtering),
        mtu=config.mtu,
        lowest_ipv6_mtu=config.lowest_ipv6_mtu,
        mss_clamp=mss_clamp,
        udp_zero_checksum=ZeroChecksum(config.udp_zero_checksum),
        tos=None if config.tos == "copy" else config.tos,
        traffic_class=None if config.traffic_class == "copy" else config.traffic_class,
        static=config.static,
        port_block_size=config.port_block_size,
        port_blocks_per_client=config.port_blocks_per_client,
        deterministic=config.deterministic,
        timeouts=Timeouts(**config.timeouts.model_dump()),
        limits=Limits(**config.limits.model_dump()),
    )
