"""The command line: `gateway` and `python -m gateway`.

Flags become configuration keys and are judged with the file, so that all mistakes are told at
once, each by its key. Nothing is done here; gateway/run.py does it.

Exit status: 0 clean stop, 78 (sysexits.h EX_CONFIG) configuration or command line, 1 the host,
or a capture file, 130 Ctrl-C of what is no running gateway.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import sys
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

from gateway import log
from gateway.backhaul import link_options
from gateway.cli_keys import (
    EXIT_CONFIG,
    AppendToKey,
    Parser,
    SetAny,
    SetKey,
    SetTrue,
    SetValue,
)
from gateway.config import ConfigError
from gateway.options import Options

EXIT_HOST = 1
EXIT_INTERRUPTED = 130  # 128 and the number of SIGINT, as shells say it

_DESCRIPTION = """\
A NAT64 on a tap device: IPv6-only clients reach the IPv4 internet through one IPv6 prefix, by
way of this host's IPv4 or of a dual-stack peer's (--backhaul). Also stateless (--mode siit), and
as a CLAT, which gives this host IPv4 through somebody else's NAT64 (--mode clat). Needs root, or
CAP_NET_ADMIN, on Linux. What it changes on the host is undone when it stops.
"""
_EPILOG = """\
Every key of the configuration can be given with --set; conf/gateway.toml explains them all.
Signals: SIGTERM and SIGINT stop and undo, SIGHUP re-reads the configuration, SIGUSR1 logs a
status line and the counters, SIGUSR2 returns to the backhaul's first destination.
Exit status: 0 clean stop; 78 mistake in configuration or command line; 1 the host refuses, or a
capture file cannot be used.
"""
_UNDO_DESCRIPTION = """\
Undo what a killed gateway (SIGKILL, a crash) has left on this host: routes, addresses,
sysctls, the nftables table. Nothing to undo is no error.
"""

_TRANSLATE_DESCRIPTION = """\
Translate the packets of a capture file (pcap or pcapng), as the gateway would have, and write
what it would have sent (pcap, raw IP). Needs no root, no device and no Linux. Time is that of the
packets. Ends with a report of discards by reason.
"""

_log = logging.getLogger("gateway")


def build_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="gateway",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gateway (tap64) {_version()}")
    _add_common(parser)
    keys = parser.add_argument_group("keys of the configuration; each overrides the file's")
    _add_keys(keys)
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be changed on the host, change nothing, exit",
    )
    what.add_argument(
        "--check",
        action="store_true",
        help="look for what would stand in the way (firewall, rp_filter, limits), print it, exit",
    )
    what.add_argument(
        "--advertise-merge",
        action="store_true",
        help="print what radvd or systemd-networkd need to advertise the same, exit",
    )
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", title="commands", parser_class=Parser
    )
    undo = commands.add_parser(
        "undo",
        help="undo what a killed gateway has left on this host",
        description=_UNDO_DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    undo.overrides_in = "undo_overrides"
    _add_common(undo)
    undo.add_argument(
        "--tap",
        action=SetKey,
        metavar="NAME",
        default=argparse.SUPPRESS,
        help="only for this device (default: for all)",
    )
    _add_translate(commands)
    _add_link(commands)
    return parser


def _add_link(commands: argparse._SubParsersAction[Parser]) -> None:
    link_options.add_flags(
        commands.add_parser(
            "link",
            help="the far end of a backhaul other than ssh: join a stream to a tap",
            description=link_options.DESCRIPTION,
            epilog=link_options.EPILOG,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )


def _add_translate(commands: argparse._SubParsersAction[Parser]) -> None:
    translate = commands.add_parser(
        "translate",
        help="translate a capture file; needs no root",
        description=_TRANSLATE_DESCRIPTION,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    translate.overrides_in = "translate_overrides"
    translate.add_argument(
        "capture_in", type=Path, metavar="IN", help="pcap or pcapng file; - is standard input"
    )
    translate.add_argument(
        "capture_out", type=Path, metavar="OUT", help="pcap file to write; - is standard output"
    )
    translate.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="choose other ports: the same capture and number give the same ports (default: 0)",
    )
    _add_common(translate)
    keys = translate.add_argument_group("keys of the configuration; each overrides the file's")
    _add_translation_keys(keys)


def _add_common(parser: argparse.ArgumentParser) -> None:
    # SUPPRESS: the sub-command's defaults must not replace what stood before the command.
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="TOML file with the configuration (default: none is read)",
    )
    parser.add_argument(
        "--set",
        action=SetAny,
        metavar="KEY=VALUE",
        default=argparse.SUPPRESS,
        help="any key of the configuration, e.g. timeouts.udp_default=60; repeatable",
    )
    parser.add_argument(
        "--log-level",
        action=SetKey,
        metavar="LEVEL",
        default=argparse.SUPPRESS,
        help="debug, info, warning or error (default: info)",
    )


def _add_key(
    group: argparse._ArgumentGroup,
    flag: str,
    action: type[SetKey],
    metavar: str,
    text: str,
    *,
    dest: str | None = None,
) -> None:
    group.add_argument(
        flag, action=action, metavar=metavar, default=argparse.SUPPRESS, help=text, dest=dest
    )


def _add_keys(group: argparse._ArgumentGroup) -> None:
    add = partial(_add_key, group)
    add("--tap", SetKey, "NAME", "name of the device (default: the first free tap0, tap1, ...)")
    add("--device", SetKey, "tap|tun", "kind of the device (default: tap)")
    _add_translation_keys(group)
    _add_backhaul_keys(group)
    add(
        "--advertise",
        AppendToKey,
        "IFACE",
        "send router advertisements on this interface of the LAN: NAT64 prefix, route, DNS "
        "server; repeatable",
        dest="advertise.interfaces",
    )
    group.add_argument(
        "--dns64",
        action=SetTrue,
        nargs=0,
        default=argparse.SUPPRESS,
        help="answer DNS queries of clients, with addresses in the prefix for IPv4-only servers",
        dest="dns64.enabled",
    )


def _add_backhaul_keys(group: argparse._ArgumentGroup) -> None:
    """The flags that concern the way to a dual-stack peer."""
    add = partial(_add_key, group)
    add(
        "--backhaul",
        AppendToKey,
        "DESTINATION",
        "carry IPv4 to a dual-stack peer: an ssh destination such as root@peer.example, or "
        "exec:COMMAND, tcp://HOST:PORT, listen:[ADDR:]PORT, unix:PATH, pty:[LINK], std:; "
        "repeatable, the next one is used while the first is down",
        dest="backhaul.to",
    )
    add(
        "--backhaul-carries",
        SetKey,
        "ipv4|ipv6",
        "what goes to the peer: translated packets (default: ipv4), or the clients' own, for a "
        "peer that translates",
        dest="backhaul.carries",
    )


def _add_translation_keys(group: argparse._ArgumentGroup) -> None:
    """The flags that concern the translator, whatever it is used for."""
    add = partial(_add_key, group)
    add(
        "--mode",
        SetKey,
        "nat64|siit|clat",
        "share IPv4 addresses (default), translate address by address, or give this host IPv4 "
        "through somebody else's NAT64",
    )
    add(
        "--map",
        SetKey,
        "FILE",
        "with --mode siit: explicit address mappings, an IPv4 and an IPv6 prefix a line",
        dest="siit.map",
    )
    add(
        "--prefix",
        AppendToKey,
        "PREFIX",
        "IPv6 prefix that the IPv4 internet appears in, of length 32, 40, 48, 56, 64 or 96; "
        "repeatable (default: fec0:0:0:ffff::/64)",
    )
    add(
        "--pool4",
        AppendToKey,
        "RANGE",
        'routed IPv4 addresses for clients, e.g. 198.51.100.8/29 or "198.51.100.8/29 tcp '
        "1024-65535\"; repeatable (default: the host's own address, by masquerade)",
    )
    add(
        "--allow",
        AppendToKey,
        "PREFIX",
        "IPv6 prefix of clients to serve, and nobody else; repeatable (default: everyone to "
        "whom the host has a route that is no default route)",
    )
    add(
        "--deny4",
        AppendToKey,
        "PREFIX",
        "IPv4 destinations to refuse besides loopback, multicast and the like; repeatable",
    )
    add(
        "--layout",
        SetKey,
        "auto|trailing|rfc6052",
        "where the IPv4 address stands in addresses that the gateway makes (default: auto)",
    )
    add("--mtu", SetValue, "N", "MTU of the device in bytes (default: 1500)")
    add(
        "--mss-clamp",
        SetValue,
        "auto|off|N",
        "limit of the MSS in TCP SYNs, in bytes (default: auto, what the routes carry)",
    )


def _version() -> str:
    try:
        return metadata.version("tap64")
    except metadata.PackageNotFoundError:
        return "not installed, run from its source"


def _refuse_unknown_flags(parser: Parser, arguments: Sequence[str]) -> None:
    """Before argparse takes the value of a misspelt flag for a misspelt command."""
    known = parser.flags()
    for argument in arguments:
        if argument == "--":
            return
        flag = argument.partition("=")[0]
        if flag.startswith("--") and flag not in known:
            close = difflib.get_close_matches(flag, known, n=1)
            parser.error(f"unknown flag {flag}" + (f", did you mean {close[0]}?" if close else ""))


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """The options of a command line (None: sys.argv). SystemExit at a mistake or --help."""
    parser = build_parser()
    _refuse_unknown_flags(parser, sys.argv[1:] if arguments is None else arguments)
    found = parser.parse_args(arguments)
    if found.command is not None and (found.dry_run or found.check or found.advertise_merge):
        only = "--dry-run, --check and --advertise-merge"
        parser.error(f"{only} do not go with {found.command}")
    of_command = getattr(found, f"{found.command}_overrides", {})
    return Options(
        command=found.command or "run",
        config_path=getattr(found, "config", None),
        overrides=getattr(found, "overrides", {}) | of_command,
        dry_run=found.dry_run,
        check=found.check,
        advertise_merge=found.advertise_merge,
        capture_in=getattr(found, "capture_in", None),
        capture_out=getattr(found, "capture_out", None),
        seed=getattr(found, "seed", 0),
        link=_read_link(parser, found),
    )


def _read_link(parser: Parser, found: argparse.Namespace) -> link_options.LinkOptions | None:
    if found.command != "link":
        return None
    try:
        return link_options.read_flags(found)
    except link_options.LinkMistake as error:
        parser.error(str(error))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns the exit status."""
    log.set_up("info")
    try:
        return _main(arguments)
    except BaseException as error:
        # Before a gateway hears signals, and of --check, undo and the like, which never do.
        if not _is_interrupt(error):
            raise
        _log.error("interrupted")
        return EXIT_INTERRUPTED


def _is_interrupt(error: BaseException) -> bool:
    """Whether it is Ctrl-C and nothing else, perhaps in the groups that trio makes."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_interrupt, error.exceptions))
    return isinstance(error, KeyboardInterrupt)


def _main(arguments: Sequence[str] | None) -> int:
    options = parse_options(arguments)
    if options.command == "translate":
        return _translate(options)
    if options.link is not None:
        return _link(options.link)
    # Imported here, so that --help and mistakes do not wait for trio and pyroute2.
    from gateway.host.plan import HostError
    from gateway.run import run
    from gateway.tap import DeviceError

    try:
        return run(options)
    except ConfigError as error:
        for line in error.lines:
            _log.error("%s", line)
        return EXIT_CONFIG
    except (HostError, DeviceError) as error:
        _log.error("%s", error)
        return EXIT_HOST


def _link(options: link_options.LinkOptions) -> int:
    from gateway.backhaul.link_command import run_link
    from gateway.tap import DeviceError

    log.set_up(options.log_level)
    try:
        return run_link(options)
    except DeviceError as error:
        _log.error("%s", error)
        return EXIT_HOST


def _translate(options: Options) -> int:
    # Not by way of gateway/run.py: a capture needs neither trio and pyroute2 nor Linux.
    from gateway.capture import translate_capture

    try:
        return translate_capture(options)
    except ConfigError as error:
        for line in error.lines:
            _log.error("%s", line)
        return EXIT_CONFIG


if __name__ == "__main__":
    sys.exit(main())
