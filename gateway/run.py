"""What one invocation does: serve, print the plan, look for obstacles, or undo leftovers."""

from __future__ import annotations

import logging
import sys

import trio

from gateway import config as configuration
from gateway import log
from gateway.config_model import Config
from gateway.host.setup import plan_host, preflight, undo_leftovers
from gateway.host_wish import find_obstacles, host_spec
from gateway.options import Options
from gateway.service import Service
from gateway.tap import first_free_name

_log = logging.getLogger("gateway")


def run(options: Options) -> int:
    """Does what the options ask for; the exit status.

    Raises ConfigError, HostError and DeviceError, each of which says in its text what is
    wrong and what to do; the host is then as it was.
    """
    config = configuration.load(options.config_path, options.overrides)
    log.set_up(config.log_level)
    if options.command == "undo":
        return _undo(config)
    for line in configuration.notices(config):
        _log.warning("%s", line)
    if options.dry_run:
        return _dry_run(config)
    if options.check:
        return _check(config)
    problems = preflight(host_spec(config, config.tap))
    if problems:
        for line in problems:
            _log.error("%s", line)
        return 1
    return trio.run(Service(config, options).serve)


def _undo(config: Config) -> int:
    count = undo_leftovers(config.run_dir, config.tap or None, _log.info)
    _log.info("%s", f"undone: {count} changes" if count else "nothing was left behind")
    return 0


def _dry_run(config: Config) -> int:
    """Prints what would be changed, one line each, and changes nothing."""
    problems = preflight(host_spec(config, config.tap))
    tap = config.tap or first_free_name(config.device)
    for line in plan_host(host_spec(config, tap), dry_run=True).describe():
        sys.stdout.write(f"{line}\n")
    for line in problems:
        _log.error("%s", line)
    return 1 if problems else 0


def _check(config: Config) -> int:
    """Names everything that would keep the gateway from starting or from carrying traffic."""
    tap = config.tap or first_free_name(config.device)
    problems = preflight(host_spec(config, config.tap))
    problems += find_obstacles(config, tap, tap)
    for line in problems:
        _log.warning("%s", line)
    if not problems:
        _log.info("nothing stands in the way")
    return 1 if problems else 0
