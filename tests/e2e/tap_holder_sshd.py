"""Stands in for the sshd of one session with a tunnel: holds a tap, runs a shell, passes stdin on.

    python tap_holder_sshd.py TAP SHELL...

Like sshd it is the shell's parent and called so, tells it the tap in SSH_TUNNEL and the client in
SSH_CONNECTION, and takes tap and stdin with it when it is killed. Like sshd it stays when the shell
has ended, because the tunnel's channel is still open; it ends when a tap was asked for with `-` and
stdin ends.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

TUNSETIFF = 0x400454CA
IFF_TAP_NO_PI = 0x0002 | 0x1000


def main() -> None:
    name, *command = sys.argv[1:]
    Path("/proc/self/comm").write_text("sshd")
    tunnel = name
    if name.startswith("tap"):
        tap = os.open("/dev/net/tun", os.O_RDWR)
        request = fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TAP_NO_PI))
        tunnel = request[:16].rstrip(b"\0").decode()
    environment = {
        "PATH": os.environ.get("PEER_PATH", "/usr/bin:/bin"),
        "HOME": "/",
        "SSH_CONNECTION": "2001:db8::7 50000 2001:db8::1 22",
    }
    if tunnel != "-":
        environment["SSH_TUNNEL"] = tunnel
    shell = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        env=environment,
        start_new_session=True,
        user=int(os.environ.get("PEER_UID", "0")),
    )
    # The pipe's end towards us is the shell's only way to get something.
    os.close(1)
    assert shell.stdin is not None
    while block := os.read(0, 65536):
        try:
            os.write(shell.stdin.fileno(), block)
        except BrokenPipeError:
            break
    shell.stdin.close()
    if name.startswith("tap"):
        signal.pause()


if __name__ == "__main__":
    main()
