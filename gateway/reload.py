"""SIGHUP: what of a configuration that was read anew a running gateway takes over.

Pure but for the log and the file. Keys that cannot change while it runs keep their values; what is
wrong, by itself or with those that stay, is told, and then nothing changes at all.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from gateway import config as configuration
from gateway.config_checks import find_faults
from gateway.config_model import Config
from gateway.options import Options

_log = logging.getLogger("gateway")


@dataclass(frozen=True, slots=True)
class Reloaded:
    """`config` is to be used from now on; `taken` and `fixed` are the dotted keys that differ."""

    config: Config
    taken: list[str]
    fixed: list[str]


def read_again(current: Config, options: Options) -> Reloaded | None:
    """What to take over; None, and every fault in the log, when nothing shall change."""
    try:
        read = configuration.load(options.config_path, options.overrides)
    except configuration.ConfigError as error:
        for line in error.lines:
            _log.error("%s", line)
        _log.error("the configuration was not re-read: nothing has changed")
        return None
    changed = configuration.changed_keys(current, read)
    taken = [key for key in changed if configuration.is_reloadable(key, current, read)]
    fixed = [key for key in changed if key not in taken]
    mixed = configuration.take_over(current, read, taken)
    faults = list(find_faults(mixed))
    if faults:
        for fault in faults:
            _log.error("%s", fault)
        _log.error(
            "these keys do not go with those that cannot change while the gateway runs:"
            " nothing has changed"
        )
        return None
    return Reloaded(mixed, taken, fixed)
