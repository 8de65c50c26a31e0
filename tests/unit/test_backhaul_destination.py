"""gateway/backhaul/destination.py: every form that is taken, every mistake with its remedy."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backhaul.destination import (
    EndpointError,
    ExecEndpoint,
    ListenEndpoint,
    PtyEndpoint,
    SshEndpoint,
    StdEndpoint,
    TcpEndpoint,
    UnixEndpoint,
    is_unprotected,
    parse_endpoint,
)

LONGEST = "/" + "x" * 106  # 107 bytes, unix(7)

GOOD = [
    ("peer", SshEndpoint("peer", "peer")),
    ("root@peer.example", SshEndpoint("root@peer.example", "root@peer.example")),
    ("root@192.0.2.1", SshEndpoint("root@192.0.2.1", "root@192.0.2.1")),
    ("root@2001:db8::1", SshEndpoint("root@2001:db8::1", "root@2001:db8::1")),
    ("root@fe80::1%eth0", SshEndpoint("root@fe80::1%eth0", "root@fe80::1%eth0")),
    ("root@[2001:db8::1]", SshEndpoint("root@[2001:db8::1]", "root@2001:db8::1")),
    ("[::1]", SshEndpoint("[::1]", "::1")),
    ("a@b@peer", SshEndpoint("a@b@peer", "a@b@peer")),
    ("my_alias", SshEndpoint("my_alias", "my_alias")),
    ("std", SshEndpoint("std", "std")),
    ("ssh://peer", SshEndpoint("ssh://peer", "ssh://peer")),
    ("ssh://root@peer:2222", SshEndpoint("ssh://root@peer:2222", "ssh://root@peer:2222")),
    ("ssh://[2001:db8::1]", SshEndpoint("ssh://[2001:db8::1]", "ssh://[2001:db8::1]")),
    ("ssh://r@[::1]:22", SshEndpoint("ssh://r@[::1]:22", "ssh://r@[::1]:22")),
    ("exec:nc peer 6464", ExecEndpoint("exec:nc peer 6464", "nc peer 6464")),
    ("exec: a |\n b", ExecEndpoint("exec: a |\n b", "a |\n b")),
    ("exec:--x", ExecEndpoint("exec:--x", "--x")),
    ("tcp://peer.example:6464", TcpEndpoint("tcp://peer.example:6464", "peer.example", 6464)),
    ("tcp://192.0.2.1:1", TcpEndpoint("tcp://192.0.2.1:1", "192.0.2.1", 1)),
    ("tcp://[2001:db8::1]:65535", TcpEndpoint("tcp://[2001:db8::1]:65535", "2001:db8::1", 65535)),
    ("tcp://[fe80::1%eth0]:7", TcpEndpoint("tcp://[fe80::1%eth0]:7", "fe80::1%eth0", 7)),
    ("listen:6464", ListenEndpoint("listen:6464", None, 6464)),
    ("listen:192.0.2.1:7", ListenEndpoint("listen:192.0.2.1:7", IPv4Address("192.0.2.1"), 7)),
    ("listen:0.0.0.0:7", ListenEndpoint("listen:0.0.0.0:7", IPv4Address("0.0.0.0"), 7)),
    ("listen:[::]:7", ListenEndpoint("listen:[::]:7", IPv6Address("::"), 7)),
    (
        "listen:[fe80::1%lo]:7",
        ListenEndpoint("listen:[fe80::1%lo]:7", IPv6Address("fe80::1%lo"), 7),
    ),
    ("unix:/run/x", UnixEndpoint("unix:/run/x", "/run/x", listen=False)),
    ("unix:x y", UnixEndpoint("unix:x y", "x y", listen=False)),
    (f"unix:{LONGEST}", UnixEndpoint(f"unix:{LONGEST}", LONGEST, listen=False)),
    ("listen:unix:/run/x", UnixEndpoint("listen:unix:/run/x", "/run/x", listen=True)),
    ("pty:", PtyEndpoint("pty:", "")),
    ("pty:/run/tty", PtyEndpoint("pty:/run/tty", "/run/tty")),
    ("std:", StdEndpoint("std:")),
]

BAD = [
    ("", "empty"),
    ("  ", "empty"),
    ("pe\0er", "zero byte"),
    ("exec:a\0b", "zero byte"),
    (" peer", "blanks"),
    ("peer\n", "blanks"),
    ("tcp://h:1\x1b", "control characters"),
    ("-oProxyCommand=x", "begin with -"),
    ("root@-oProxyCommand=x", "begin with -"),
    ("root peer", "ssh_options"),
    ("root@", "USER@HOST"),
    ("@peer", "USER@HOST"),
    ("peer:2222", r"ssh://peer:2222"),
    ("root@peer:2222", r"ssh://root@peer:2222"),
    ("root@[peer]", "no IPv6 address"),
    ("root@peer:x", "no host name"),
    ("http://peer", "there is no http://"),
    ("TCP://peer:1", "there is no TCP://"),
    ("tpc://peer:1", "there is no tpc://"),
    ("tcp:peer:1", "tcp://peer:1 is right"),
    ("ssh:peer", "ssh://peer is right"),
    ("Listen:7", "small letters"),
    ("PTY:", "small letters"),
    ("ssh://", "host is missing"),
    ("ssh://:22", "host is missing"),
    ("ssh://@peer", "is right"),
    ("ssh://-x", "is right"),
    ("ssh://-x@peer", "is right"),
    ("ssh://peer/path", "behind the port"),
    ("ssh://peer:0", "no port"),
    ("ssh://peer:", "no port"),
    ("ssh://2001:db8::1", "brackets"),
    ("exec:", "no command"),
    ("exec:  ", "no command"),
    ("tcp://", "port is missing"),
    ("tcp://peer", "port is missing"),
    ("tcp://[::1]", "port is missing"),
    ("tcp://:1", "host is missing"),
    ("tcp://peer:0", "no port"),
    ("tcp://peer:65536", "no port"),
    ("tcp://peer:-1", "no port"),
    ("tcp://peer:x", "no port"),
    ("tcp://peer:²", "no port"),
    ("tcp://peer:1/", "only host and port"),
    ("tcp://me@peer:1", "only host and port"),
    ("tcp://2001:db8::1:80", "brackets"),
    ("tcp://[192.0.2.1]:80", "no IPv6 address"),
    ("tcp://[x]:80", "no IPv6 address"),
    ("tcp://pe er:80", "cannot be the name"),
    ("tcp://-peer:80", "cannot be the name"),
    ("tcp://peer-:80", "cannot be the name"),
    ("listen:", "no port"),
    ("listen:0", "no port"),
    ("listen:peer:80", "no address"),
    ("listen:::1:80", "brackets"),
    ("listen:[::1]", "port is missing"),
    ("listen:/run/x", "listen:unix:/run/x is right"),
    ("listen:unix:", "no path"),
    ("unix:", "no path"),
    (f"unix:{LONGEST}x", "107 bytes, not 108"),
    ("unix:/" + "é" * 54, "107 bytes, not 109"),
    ("std:x", "nothing belongs"),
]


@pytest.mark.parametrize(("text", "endpoint"), GOOD, ids=[text for text, _ in GOOD])
def test_every_form(text, endpoint):
    assert parse_endpoint(text) == endpoint


@pytest.mark.parametrize(("text", "said"), BAD, ids=[repr(text) for text, _ in BAD])
def test_every_mistake_says_what_is_right(text, said):
    with pytest.raises(EndpointError, match=said) as caught:
        parse_endpoint(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40) | st.text("at:/[]@-.%1 ", max_size=20))
def test_anything_is_an_endpoint_or_an_endpoint_error(text):
    for prefix in ("", "tcp://", "listen:", "unix:", "ssh://", "r@"):
        try:
            endpoint = parse_endpoint(prefix + text)
        except EndpointError:
            continue
        assert endpoint.text == prefix + text
        if isinstance(endpoint, SshEndpoint):
            # It is handed to ssh as an argument of its own.
            assert endpoint.target
            assert not endpoint.target.startswith("-")


@pytest.mark.parametrize(
    ("text", "unprotected"),
    [
        ("listen:7", True),
        ("tcp://h:7", True),
        ("peer", False),
        ("exec:x", False),
        ("unix:/x", False),
        ("std:", False),
    ],
)
def test_what_goes_over_a_network_unprotected(text, unprotected):
    assert is_unprotected(parse_endpoint(text)) is unprotected
