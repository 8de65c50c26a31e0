"""What ssh's messages and exit status mean, in plain words with what to do. Pure.

ssh ends with 255 for almost everything, so its messages decide. They come at LogLevel DEBUG1,
because the normal ones call by one name what has different remedies: for a tunnel that is
refused only `Remote: ...` tells a setting from a device in use, for a device that cannot be
opened only `sys_tun_open: ...` tells the reason. Rules are tried in order, the particular
before the general; what no rule knows is passed on as ssh said it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from gateway.backhaul.link import LinkFailed, Patience

_LONG, _SHORT = Patience.LONG, Patience.SHORT
_THEN = r"[\s\S]*"  # whatever is in between
_CAN_BE_MENDED = "see `ssh -v` with the same arguments as the gateway's user"


@dataclass(frozen=True, slots=True)
class Rule:
    """`pattern` is searched in all of the messages.

    Groups of its part before the first _THEN may stand in the texts.
    """

    pattern: str
    cause: str
    remedy: str = ""
    patience: Patience = _SHORT


# The local tap. What sys_tun_open says stands before `Tunnel device open failed.`
_OPEN = r'failed to open tunnel control device "?[^"\n]*"?'
_LOCAL = (
    Rule(
        rf"{_OPEN}: (No such file or directory|No such device)[\s\S]*Tunnel device open failed",
        "ssh finds no /dev/net/tun here",
        "load the module: modprobe tun",
        _LONG,
    ),
    Rule(
        rf"{_OPEN}: Permission denied[\s\S]*Tunnel device open failed",
        "ssh may not open /dev/net/tun here",
        "give its user access: chmod 666 /dev/net/tun, the default of udev",
        _LONG,
    ),
    Rule(
        r"sys_tun_open: [^\n]*Device or resource busy[\s\S]*Tunnel device open failed",
        "the local tap is held by another process, perhaps a former ssh",
        "end it, or wait until it has ended",
    ),
    Rule(
        r"sys_tun_open: [^\n]*Operation not permitted[\s\S]*Tunnel device open failed",
        "the local tap does not belong to the user that ssh runs as",
        "set backhaul.user to the owner, or start again so that the tap is made anew",
        _LONG,
    ),
    Rule(
        r"sys_tun_open: [^\n]*: ([^:\n]+)\n[\s\S]*Tunnel device open failed",
        r"ssh cannot open the local tap: \1",
    ),
    Rule(
        r"Tunnel device open failed|Could not request tunnel forwarding",
        "ssh cannot open the local tap",
        "it is in use, or belongs to another user",
    ),
)

_TUNNEL = (
    Rule(
        r"Remote: Server has rejected tunnel device forwarding[\s\S]*Tunnel forwarding failed",
        "the peer's sshd does not permit this tunnel",
        "there, PermitTunnel ethernet (or yes) in sshd_config, and no other tunnel= before the"
        " key in authorized_keys; then reload sshd",
        _LONG,
    ),
    Rule(
        r"Tunnel forwarding failed",
        "the peer's sshd does not permit the tunnel or cannot open its tap",
        "there: PermitTunnel ethernet (or yes) in sshd_config, no other tunnel= before the key in"
        " authorized_keys, a login that may make a tap (root) or owns the one asked for,"
        " /dev/net/tun, and nobody else on that tap",
        _LONG,
    ),
)

_HOST_KEYS = (
    Rule(
        r"REMOTE HOST IDENTIFICATION HAS CHANGED[\s\S]*Host key verification failed",
        "the peer's host key has CHANGED since it was noted: another machine answers, or sshd was"
        " installed anew",
        "find out which; if the new key is right, ssh-keygen -R HOST and note it again, as the"
        " gateway's user",
        _LONG,
    ),
    Rule(
        r"(REVOKED|has been revoked|is revoked)[\s\S]*Host key verification failed",
        "the peer's host key is revoked",
        "give the peer a new host key",
        _LONG,
    ),
    Rule(
        r"Host key verification failed",
        "the peer's host key is not known here",
        "connect once by hand as the gateway's user, compare the fingerprint and say yes; or"
        " put the key into its known_hosts",
        _LONG,
    ),
)

_LOGIN = (
    Rule(
        r"(?:UNPROTECTED PRIVATE KEY FILE|bad permissions)[\s\S]*Permission denied",
        "ssh ignores a private key that others can read",
        "chmod 600 the key file",
        _LONG,
    ),
    Rule(
        r"Too many authentication failures",
        "the peer refused to try more keys",
        "name the right one: IdentityFile and IdentitiesOnly yes in ssh_config",
        _LONG,
    ),
    Rule(
        r"Permission denied \(([^)]*)\)|No more authentication methods",
        "the peer accepts none of our keys",
        "put the public key into its authorized_keys; a key with a passphrase needs an agent"
        " (SSH_AUTH_SOCK), as nobody is there to type it",
        _LONG,
    ),
)

_SETTINGS = (
    Rule(
        r"(?m)^(.*(?:unsupported option|[Bb]ad configuration option|no argument after keyword"
        r"|[Mm]issing argument|extra arguments at end of line|Bad owner or permissions"
        r"|[Bb]ad number|invalid quotes|unknown option|illegal option).*)$",
        r"ssh refuses its settings: \1",
        "mend backhaul.ssh_options or the user's ssh_config",
        _LONG,
    ),
    Rule(
        r"Unable to negotiate with .*?(no matching .*)",
        r"the two sides have no algorithm in common: \1",
        "allow one of those in ssh_config, or bring the older side up to date",
        _LONG,
    ),
    Rule(
        r"path \S+ too long for Unix domain socket",
        "the path of the control socket is too long",
        "keep backhaul.control_path below 90 bytes",
        _LONG,
    ),
    Rule(
        r"(?:bind|cannot listen to port|Could not request local forwarding|remote port forwarding"
        r" failed)[\s\S]*(?:forwarding|Address already in use)",
        "a port that ssh_config forwards for this host is in use",
        "take LocalForward, RemoteForward and DynamicForward out for it, or use a Host entry of"
        " its own for the backhaul",
        _LONG,
    ),
)

_NETWORK = (
    Rule(
        r"Could not resolve hostname [^:\n]*: (.*)",
        r"the peer's name has no address: \1",
        "check the name and this host's DNS",
    ),
    Rule(
        r"connect to host .*: Connection refused",
        "nothing listens on the peer's ssh port",
        "start sshd there, or give the right port: ssh_options -p",
    ),
    Rule(
        r"connect to host .*: (No route to host|Network is unreachable)",
        r"the peer cannot be reached: \1",
        "check this host's routes and the peer's address",
    ),
    Rule(
        r"connect to host .*: (?:Connection|Operation) timed out|banner exchange.*timed? ?out"
        r"|Connection timed out during banner",
        "the peer does not answer",
        "check its address and the firewalls on the way",
    ),
    Rule(
        r"connect to (?:host|address) .*: (.*)",
        r"no connection to the peer: \1",
    ),
    Rule(
        r"Timeout, server .* not responding",
        "the network to the peer was cut: it answers no more",
    ),
    Rule(
        r"kex_exchange_identification|ssh_exchange_identification",
        "the peer closed the connection before the login",
        "it may have too many (MaxStartups), or have blocked this host",
    ),
    Rule(
        r"overflows remote window",
        "ssh's own count of what is in flight overflowed, as it does after a thousand million"
        " frames",
    ),
    Rule(
        r"closed by remote host|Connection closed by|Received disconnect",
        "the peer ended the connection",
    ),
    Rule(
        r"Broken pipe|Connection reset",
        "the connection was reset",
    ),
)

_MASTER = (
    Rule(
        r"Control socket connect\(([^)]*)\): (No such file or directory)",
        r"there is no master connection at \1",
        "start it: ssh -M -S PATH -o ControlPersist=no -o Tunnel=ethernet -w any DESTINATION",
    ),
    Rule(
        r"Control socket connect\(([^)]*)\): Connection refused",
        r"the master connection of \1 is dead",
        "remove that file and start the master again",
    ),
    Rule(
        r"Control socket connect\(([^)]*)\): Permission denied",
        r"the master connection at \1 belongs to another user",
        "set backhaul.user to that user",
        _LONG,
    ),
    Rule(
        r"UNKNOWN port 65535|Session open refused by peer|mux_client\S*: .*(?:failed|refused)",
        "the master connection serves no further session: it is gone, or has as many as the peer"
        " permits (MaxSessions)",
        "look at it with ssh -O check",
    ),
)

_RULES = (*_MASTER, *_LOCAL, *_TUNNEL, *_HOST_KEYS, *_LOGIN, *_SETTINGS, *_NETWORK)
_NOISE = re.compile(r"debug\d: |Warning: Permanently added |Pseudo-terminal |OpenSSH_\d")


def _search(pattern: str, text: str) -> re.Match[str] | None:
    """The match of what stands before the first _THEN, if all the parts are there in order.

    Part by part, so that the time grows with the text alone, whatever the peer makes us read.
    """
    first, *others = pattern.split(_THEN)
    match = re.search(first, text)
    at = match.end() if match else 0
    for part in others:
        found = match and re.compile(part).search(text, at)
        if not found:
            return None
        at = found.end()
    return match


def explain(messages: Iterable[str], status: int | None) -> LinkFailed:
    """Why ssh has ended. `status`: as Popen has it, negative for a signal, None if it runs."""
    lines = [line.rstrip("\r\n") for line in messages]
    text = "\n".join(lines)
    for rule in _RULES:
        match = _search(rule.pattern, text)
        if match:
            cause = match.expand(rule.cause) if match.re.groups else rule.cause
            return LinkFailed(cause.strip(), rule.remedy, patience=rule.patience)
    said = [line for line in lines if line.strip() and not _NOISE.match(line)]
    if said:
        return LinkFailed(f"ssh: {said[-1]}", _CAN_BE_MENDED)
    if status is None:
        return LinkFailed("ssh has closed its output, but has not ended")
    if status < 0:
        return LinkFailed(f"ssh was killed by signal {-status}")
    return LinkFailed(f"ssh ended with status {status} and said nothing", _CAN_BE_MENDED)
