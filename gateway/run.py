"""What one invocation does: serve, print the plan, look for obstacles, or undo leftovers."""

from __future__ import annotations

import logging
import os
import sys

import trio

from gateway import config as configuration
from gateway import log
from gateway.config_model import Config
from gateway.host.plan import HostError
from gateway.host.setup import plan_host, preflight, undo_leftovers
from gateway.host.spec import HostSpec
from gateway.host_wish import find_obstacles, host_spec
from gateway.options import Options
from gateway.ra.assembly import snippets
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
    service = _service(config, options)
    wished = service.wished if service is not None else config
    if options.dry_run:
        return _dry_run(wished)
    if options.check:
        return _check(wished)
    if options.advertise_merge:
        _print(snippets(config))
        return 0
    problems = preflight(_wish(wished, config.tap))
    if problems:
        for line in problems:
            _log.error("%s", line)
        return 1
    if service is not None:
        return trio.run(service.serve)
    if _is_untranslated(config):
        from gateway.backhaul.untranslated import Untranslated

        return trio.run(Untranslated(config, options).serve)
    if config.mode == "clat":
        from gateway.clat.service import ClatService

        return trio.run(ClatService(config, options).serve)
    raise AssertionError(f"there is no mode {config.mode}")


def _service(config: Config, options: Options) -> Service | None:
    """The service of a translator with a prefix of its own. Raises ConfigError."""
    if _is_untranslated(config) or config.mode == "clat":
        return None
    if config.mode == "siit":
        from gateway.siit.service import SiitService

        return SiitService(config, options)
    return Service(config, options)


def _is_untranslated(config: Config) -> bool:
    return bool(config.backhaul.to) and config.backhaul.carries == "ipv6"


def _wish(config: Config, tap: str) -> HostSpec:
    if _is_untranslated(config):
        from gateway.backhaul.untranslated import wish_of

        return wish_of(config)
    if config.mode == "clat":
        from gateway.clat.service import wish_of as clat_wish_of

        return clat_wish_of(config, tap)
    return host_spec(config, tap)


def _undo(config: Config) -> int:
    count = undo_leftovers(config.run_dir, config.tap or None, _log.info)
    _log.info("%s", f"undone: {count} changes" if count else "nothing was left behind")
    return 0


def _dry_run(config: Config) -> int:
    """Prints what would be changed, one line each, and changes nothing."""
    problems = preflight(_wish(config, config.tap))
    tap = config.tap or first_free_name(config.device)
    for line in plan_host(_wish(config, tap), dry_run=True).describe():
        _print(f"{line}\n")
    if config.backhaul.to:
        problems += _describe_backhaul(config, tap)
    if config.mode == "clat":
        _print(f"while there is IPv6 and a NAT64: make {tap} this host's way to IPv4\n")
    for line in problems:
        _log.error("%s", line)
    return 1 if problems else 0


def _print(text: str) -> None:
    """To standard output, at once. Raises HostError."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        # What is left in the buffer must not be told of again at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise HostError(f"cannot write to standard output: {error.strerror}") from error


def _describe_backhaul(config: Config, tap: str) -> list[str]:
    """Prints what would be done for the backhaul; what stands in the way of it."""
    from gateway.backhaul.link import LinkFailed
    from gateway.backhaul.trial import describe_backhaul

    try:
        for line in trio.run(describe_backhaul, config, tap):
            _print(f"{line}\n")
    except LinkFailed as failure:
        return [f"backhaul: {failure}"]
    return []


def _check(config: Config) -> int:
    """Names everything that would keep the gateway from starting or from carrying traffic."""
    tap = config.tap or first_free_name(config.device)
    problems_of_start = preflight(_wish(config, config.tap))
    problems = list(problems_of_start)
    if config.mode == "clat":
        problems += _check_clat(config, tap)
    elif not _is_untranslated(config):
        problems += find_obstacles(config, tap, tap)
    if config.backhaul.to and not problems_of_start:
        from gateway.backhaul.trial import try_backhaul

        problems += trio.run(try_backhaul, config, tap)
    for line in problems:
        _log.warning("%s", line)
    if not problems:
        _log.info("nothing stands in the way")
    return 1 if problems else 0


def _check_clat(config: Config, tap: str) -> list[str]:
    from gateway.clat.host_side import problems_of_host
    from gateway.clat.obstacles import obstacles_to_come
    from gateway.clat.service import given_prefix

    clat = config.clat
    return problems_of_host(tap) + obstacles_to_come(
        clat.uplink, tap, clat.lan, given_prefix(config)
    )
