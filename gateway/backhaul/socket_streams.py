"""`tcp://`, `listen:` and `unix:`: sockets, connected or waited for.

Theory of operation. A link has one far end. Whoever listens takes the first that connects and
listens no more while it lasts: the next one is refused by the kernel and the first is never
disturbed. For that not to lock out a far end that comes back, a dead connection has to be found
soon: keepalive and TCP_USER_TIMEOUT (RFC 5482 §3, as a local limit) end one whose far end is
silent for `patience` seconds, also one whose far end takes nothing any more.

TCP_NOTSENT_LOWAT keeps what waits in the socket short: frames are better dropped at the tap,
where the sender's congestion control sees it, than old when they arrive.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

import trio

from gateway.backhaul.destination import ListenEndpoint, TcpEndpoint, UnixEndpoint
from gateway.backhaul.link import LinkFailed, Patience

_log = logging.getLogger("gateway")

_NOT_SENT = 256 * 1024  # bytes
_PROBES = 2  # keepalive probes unanswered until the connection ends

_ONLY_A_PERSON = frozenset(
    {errno.EACCES, errno.EPERM, errno.EADDRNOTAVAIL, errno.ENAMETOOLONG, errno.ENOTSOCK}
)
_NO_FAMILY = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


class SocketStream:
    """A connected socket. `read_fd` and `write_fd` are one descriptor, non-blocking."""

    def __init__(self, connected: trio.socket.SocketType, peer: str) -> None:
        self._socket = connected
        self.peer = peer
        self.read_fd = self.write_fd = connected.fileno()

    def ending(self) -> LinkFailed | None:
        """None: what the pump has seen is all that is known."""
        return None

    async def close(self) -> None:
        """Closes it; what is in the socket still goes out."""
        self._socket.close()


async def connect_tcp(endpoint: TcpEndpoint, patience: float) -> SocketStream:
    """Connects, to one address of the host after the other. Raises LinkFailed."""
    try:
        found = await trio.socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else "it is no host name"
        raise LinkFailed(f"cannot resolve {endpoint.host}: {reason}") from error
    failed = LinkFailed(f"{endpoint.host} has no address")
    for family, kind, protocol, _, address in found:
        try:
            connecting = trio.socket.socket(family, kind, protocol)
        except OSError as error:
            failed = _cannot_connect(error)
            continue
        try:
            _tune_tcp(connecting, patience)
            with trio.fail_after(patience):
                await connecting.connect(address)
        except trio.TooSlowError:
            failed = LinkFailed(f"no answer within {patience:g} s")
        except OSError as error:
            failed = _cannot_connect(error)
        except BaseException:
            connecting.close()
            raise
        else:
            return SocketStream(connecting, _shown(address))
        connecting.close()
    raise failed


async def connect_unix(endpoint: UnixEndpoint) -> SocketStream:
    """Connects to a local socket. Raises LinkFailed."""
    connecting = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        await connecting.connect(endpoint.path)
    except OSError as error:
        connecting.close()
        raise _cannot_connect(error) from error
    except BaseException:
        connecting.close()
        raise
    return SocketStream(connecting, endpoint.path)


async def accept_tcp(endpoint: ListenEndpoint, patience: float) -> SocketStream:
    """Waits for one connection and then listens no more. Raises LinkFailed."""
    listening = await _listen_tcp(endpoint)
    try:
        connected, address = await _first(listening)
    finally:
        for one in listening:
            one.close()
    _tune_tcp(connected, patience)
    return SocketStream(connected, _shown(address))


async def accept_unix(endpoint: UnixEndpoint) -> SocketStream:
    """Waits at a local socket that only this user can use; then removes it. Raises LinkFailed."""
    listening = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        await _bind_unix(listening, endpoint.path)
        made = os.stat(endpoint.path)
        try:
            _log.info("%s: waiting for a far end", endpoint.text)
            connected, _ = await listening.accept()
        finally:
            _unlink_if_same(endpoint.path, made)
    except OSError as error:
        raise _cannot_listen(error) from error
    finally:
        listening.close()
    return SocketStream(connected, endpoint.path)


async def _listen_tcp(endpoint: ListenEndpoint) -> list[trio.socket.SocketType]:
    """Sockets that listen: one, or one for each family that has a loopback address."""
    addresses: list[IPv4Address | IPv6Address] = [IPv6Address("::1"), IPv4Address("127.0.0.1")]
    if endpoint.address is not None:
        addresses = [endpoint.address]
    listening: list[trio.socket.SocketType] = []
    absent: OSError | None = None
    try:
        for address in addresses:
            try:
                listening.append(await _listen_at(address, endpoint.port))
            except OSError as error:
                # A host without one of the families has the other one's loopback only.
                if endpoint.address is not None or error.errno not in _NO_FAMILY:
                    raise
                absent = error
        if absent is not None and not listening:
            raise absent
    except BaseException as error:
        for one in listening:
            one.close()
        if isinstance(error, OSError):
            raise _cannot_listen(error) from error
        raise
    where = ", ".join(_shown(one.getsockname()) for one in listening)
    _log.info("%s: waiting for a far end at %s", endpoint.text, where)
    return listening


async def _listen_at(address: IPv4Address | IPv6Address, port: int) -> trio.socket.SocketType:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    listening = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if isinstance(address, IPv6Address):
            # [::] is every address, those of IPv4 included.
            only6 = 0 if address.is_unspecified else 1
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only6)
        await listening.bind((str(address), port))
        listening.listen(1)
    except BaseException:
        listening.close()
        raise
    return listening


async def _first(
    listening: list[trio.socket.SocketType],
) -> tuple[trio.socket.SocketType, object]:
    """The first connection to any of them; a second one at the same moment is closed."""
    accepted: list[tuple[trio.socket.SocketType, object]] = []
    failures: list[OSError] = []

    async def accept(one: trio.socket.SocketType, scope: trio.CancelScope) -> None:
        try:
            accepted.append(await one.accept())
        except OSError as error:
            failures.append(error)
        scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for one in listening:
                nursery.start_soon(accept, one, nursery.cancel_scope)
    except BaseException:
        for connected, _ in accepted:
            connected.close()
        raise
    for late, _ in accepted[1:]:
        late.close()
    if not accepted:
        raise _cannot_listen(failures[0]) from failures[0]
    return accepted[0]


async def _bind_unix(listening: trio.socket.SocketType, path: str) -> None:
    """Binds and listens; a socket that a killed process left at the path is replaced."""
    if _is_left_over(path):
        os.unlink(path)
    await listening.bind(path)
    os.chmod(path, 0o600)  # before listen(): until then nobody can connect
    listening.listen(1)


def _is_left_over(path: str) -> bool:
    """Whether a socket is there that nobody listens at. LinkFailed when it is anything else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise LinkFailed(
            f"{path} exists and is no socket", "give another path", patience=Patience.LONG
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except BlockingIOError:
            pass
    raise LinkFailed(f"another process listens at {path}", "stop it or give another path")


def _unlink_if_same(path: str, made: os.stat_result) -> None:
    with suppress(OSError):
        now = os.stat(path)
        if (now.st_dev, now.st_ino) == (made.st_dev, made.st_ino):
            os.unlink(path)


def _tune_tcp(connection: trio.socket.SocketType, patience: float) -> None:
    every = max(1, int(patience / (_PROBES + 1)))
    tcp = socket.IPPROTO_TCP
    connection.setsockopt(tcp, socket.TCP_NODELAY, 1)
    connection.setsockopt(tcp, socket.TCP_NOTSENT_LOWAT, _NOT_SENT)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(tcp, socket.TCP_KEEPIDLE, every)
    connection.setsockopt(tcp, socket.TCP_KEEPINTVL, every)
    connection.setsockopt(tcp, socket.TCP_KEEPCNT, _PROBES)
    connection.setsockopt(tcp, socket.TCP_USER_TIMEOUT, int(patience * 1000))


def _cannot_connect(error: OSError) -> LinkFailed:
    reason = os.strerror(error.errno or 0)
    patience = Patience.LONG if error.errno in _ONLY_A_PERSON else Patience.SHORT
    remedy = ""
    if error.errno in (errno.ECONNREFUSED, errno.ENOENT):
        remedy = "start `gateway link` there; it takes one far end at a time"
    elif error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        remedy = "no route leads there, or the host is off"
    return LinkFailed(f"cannot connect: {reason}", remedy, patience=patience)


def _cannot_listen(error: OSError) -> LinkFailed:
    reason = os.strerror(error.errno or 0)
    patience = Patience.LONG if error.errno in _ONLY_A_PERSON else Patience.SHORT
    remedy = ""
    if error.errno == errno.EADDRINUSE:
        remedy = "another process listens there: stop it or take another port"
    elif error.errno == errno.EADDRNOTAVAIL:
        remedy = "give an address of this host"
    elif error.errno in (errno.EACCES, errno.EPERM):
        remedy = "take a port above 1023, or a path that this user may write"
    return LinkFailed(f"cannot listen: {reason}", remedy, patience=patience)


def _shown(address: object) -> str:
    """`192.0.2.1:6464` or `[2001:db8::1]:6464`."""
    if not isinstance(address, tuple):
        return str(address)
    host, port = address[0], address[1]
    host = host.removeprefix("::ffff:") if "." in host else host  # an IPv4 client of [::]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
