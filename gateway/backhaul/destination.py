"""What `--backhaul` and `gateway link` take, read into endpoints. Pure: nothing is opened here.

    root@peer.example  ssh://root@peer.example:2222     an ssh destination, as ssh takes it
    exec:COMMAND                       standard input and output of /bin/sh -c COMMAND
    tcp://HOST:PORT  tcp://[ADDR6]:PORT                 connect
    listen:PORT  listen:ADDR4:PORT  listen:[ADDR6]:PORT  wait for a connection
    unix:PATH  listen:unix:PATH        connect to, or wait at, a local socket
    pty:  pty:LINK                     a new pseudo-terminal, LINK a symbolic link to it
    std:                               our own standard input and output

A string without one of these schemes is an ssh destination. What can only be a mistake (a
misspelt scheme, a port behind a plain ssh host name, an option in the place of a host) is refused
here, with what would be right: ssh itself would say something about name resolution.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

SCHEMES = ("exec:", "tcp://", "listen:", "unix:", "pty:", "std:", "ssh://")
UNIX_PATH_MAX = 107  # bytes; unix(7), sun_path without the terminating zero

_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_.])?")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)


class EndpointError(ValueError):
    """The text is no endpoint. str() is one line that says what is wrong and what is right."""


@dataclass(frozen=True, slots=True)
class SshEndpoint:
    """`target` is the argument for ssh: never empty, never an option."""

    text: str
    target: str


@dataclass(frozen=True, slots=True)
class ExecEndpoint:
    text: str
    command: str


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """`host`: a name or an address without brackets, perhaps with a zone (fe80::1%eth0)."""

    text: str
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class ListenEndpoint:
    """`address` None: the loopback of both families, and nobody outside gets in."""

    text: str
    address: IPv4Address | IPv6Address | None
    port: int


@dataclass(frozen=True, slots=True)
class UnixEndpoint:
    text: str
    path: str
    listen: bool


@dataclass(frozen=True, slots=True)
class PtyEndpoint:
    """`link`: where a symbolic link to the terminal is made; empty for none."""

    text: str
    link: str


@dataclass(frozen=True, slots=True)
class StdEndpoint:
    text: str


StreamEndpoint = (
    ExecEndpoint | TcpEndpoint | ListenEndpoint | UnixEndpoint | PtyEndpoint | StdEndpoint
)
Endpoint = SshEndpoint | StreamEndpoint


def parse_endpoint(text: str) -> Endpoint:
    """The endpoint that `text` names; raises EndpointError."""
    if not text.strip():
        raise EndpointError("an empty destination: give one such as root@peer.example")
    if "\0" in text:
        raise EndpointError("a destination cannot contain a zero byte")
    if text.startswith("exec:"):  # the one whose rest is not for us to judge
        return _exec(text)
    if text != text.strip() or not text.isprintable():
        raise EndpointError(f"{text!r}: remove the blanks and control characters around or in it")
    for scheme, parse in _PARSERS.items():
        if text.startswith(scheme):
            return parse(text, text[len(scheme) :])
    return _ssh(text)


def is_unprotected(endpoint: Endpoint) -> bool:
    """Whether frames go over a network with neither authentication nor encryption."""
    return isinstance(endpoint, TcpEndpoint | ListenEndpoint)


def _exec(text: str) -> ExecEndpoint:
    command = text.removeprefix("exec:").strip()
    if not command:
        raise EndpointError(f"{text}: there is no command: exec:'COMMAND' is right")
    return ExecEndpoint(text, command)


def _tcp(text: str, rest: str) -> TcpEndpoint:
    right = "tcp://HOST:PORT or tcp://[ADDRESS]:PORT is right"
    if "@" in rest or "/" in rest:
        raise EndpointError(f"{text}: only host and port belong there: {right}")
    host, port = _host_and_port(text, rest, right)
    return TcpEndpoint(text, host, port)


def _listen(text: str, rest: str) -> ListenEndpoint | UnixEndpoint:
    if rest.startswith("unix:"):
        return UnixEndpoint(text, _path(text, rest.removeprefix("unix:")), listen=True)
    right = "listen:PORT, listen:ADDRESS:PORT or listen:[ADDRESS]:PORT is right"
    if rest.startswith("/"):
        raise EndpointError(f"{text}: listen:unix:{rest} is right")
    if ":" not in rest:
        return ListenEndpoint(text, None, _port(text, rest, right))
    host, port = _host_and_port(text, rest, right)
    try:
        address = ip_address(host)
    except ValueError:
        raise EndpointError(
            f"{text}: {host} is no address: give the address to listen on, 0.0.0.0 or [::] for all"
        ) from None
    return ListenEndpoint(text, address, port)


def _unix(text: str, rest: str) -> UnixEndpoint:
    return UnixEndpoint(text, _path(text, rest), listen=False)


def _pty(text: str, rest: str) -> PtyEndpoint:
    return PtyEndpoint(text, rest)


def _std(text: str, rest: str) -> StdEndpoint:
    if rest:
        raise EndpointError(f"{text}: nothing belongs behind std:")
    return StdEndpoint(text)


def _ssh_uri(text: str, rest: str) -> SshEndpoint:
    right = "ssh://[USER@]HOST[:PORT] is right"
    user, at, where = rest.rpartition("@")
    if (at and not user) or where.startswith("-") or user.startswith("-"):
        raise EndpointError(f"{text}: {right}")
    if "/" in where:
        raise EndpointError(f"{text}: nothing belongs behind the port: {right}")
    if not where or where.startswith(":"):
        raise EndpointError(f"{text}: the host is missing: {right}")
    if where.endswith("]") or ":" not in where:
        _host(text, where, right)
    else:
        _host_and_port(text, where, right)
    return SshEndpoint(text, text)


def _ssh(text: str) -> SshEndpoint:
    """An ssh destination without a scheme; an alias of the user's ssh_config counts as a host."""
    user, at, host = text.rpartition("@")
    if text.startswith("-") or host.startswith("-"):
        raise EndpointError(f"{text}: a destination does not begin with -")
    if any(c.isspace() for c in text):
        raise EndpointError(f"{text!r}: one destination without blanks; ssh_options takes the rest")
    if (at and not user) or not host:
        raise EndpointError(f"{text}: USER@HOST is right")
    if host.startswith("[") and host.endswith("]"):
        bare = host[1:-1]
        _host(text, host, "USER@HOST is right")
        return SshEndpoint(text, f"{user}{at}{bare}")
    if ":" in host and not _is_address6(host):
        raise EndpointError(_colon_in_ssh(text, user + at, host))
    return SshEndpoint(text, text)


def _colon_in_ssh(text: str, user: str, host: str) -> str:
    scheme = _SCHEME.fullmatch(text)
    if scheme and scheme[2].startswith("//"):
        return f"{text}: there is no {scheme[1]}://: what can be used is {', '.join(SCHEMES)}"
    if scheme and f"{scheme[1]}://" in SCHEMES:
        return f"{text}: {scheme[1]}://{scheme[2]} is right, with two slashes"
    if scheme and f"{scheme[1].lower()}:" in SCHEMES:
        return f"{text}: {scheme[1].lower()}: is right, in small letters"
    name, _, port = host.rpartition(":")
    if port.isdecimal():
        return f"{text}: a port is given as ssh://{user}{name}:{port}"
    return f"{text}: no host name and no address; what can be used is {', '.join(SCHEMES)}"


def _host_and_port(text: str, rest: str, right: str) -> tuple[str, int]:
    host, colon, port = rest.rpartition(":")
    if not colon or rest.endswith("]"):
        raise EndpointError(f"{text}: the port is missing: {right}")
    if not host:
        raise EndpointError(f"{text}: the host is missing: {right}")
    return _host(text, host, right), _port(text, port, right)


def _host(text: str, host: str, right: str) -> str:
    """The host without brackets."""
    if host.startswith("[") and host.endswith("]"):
        if not _is_address6(host[1:-1]):
            raise EndpointError(f"{text}: {host[1:-1]} is no IPv6 address: {right}")
        return host[1:-1]
    if ":" in host or "[" in host or "]" in host:
        raise EndpointError(f"{text}: an IPv6 address stands in brackets: {right}")
    if not _HOST_NAME.fullmatch(host):
        raise EndpointError(f"{text}: {host} cannot be the name of a host: {right}")
    return host


def _port(text: str, port: str, right: str) -> int:
    if not (port.isascii() and port.isdecimal()) or not 1 <= int(port) <= 65535:
        raise EndpointError(f"{text}: {port or 'nothing'} is no port (1 to 65535): {right}")
    return int(port)


def _path(text: str, path: str) -> str:
    if not path:
        raise EndpointError(f"{text}: there is no path: unix:PATH is right")
    size = len(path.encode())
    if size > UNIX_PATH_MAX:
        raise EndpointError(
            f"{text}: the path of a local socket has at most {UNIX_PATH_MAX} bytes, not {size}"
        )
    return path


def _is_address6(text: str) -> bool:
    try:
        return ip_address(text).version == 6
    except ValueError:
        return False


_PARSERS = {
    "tcp://": _tcp,
    "listen:": _listen,
    "unix:": _unix,
    "pty:": _pty,
    "std:": _std,
    "ssh://": _ssh_uri,
}
