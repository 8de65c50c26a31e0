"""One TCP connection between client and server that talks all the time, to see what it survives."""

from __future__ import annotations

import sys

from tests.e2e.backhaul_net import BackhaulNet
from tests.e2e.namespaces import wait_until
from tests.e2e.topology import SERVER, SERVER4

PORT = 7020

_SERVER = f"""
import socket
listener = socket.create_server(("{SERVER4}", {PORT}))
print("up", flush=True)
connection, _ = listener.accept()
while data := connection.recv(1000):
    connection.sendall(data)
"""
# A lost packet is sent again soon, however long the way was cut: what is waited for here is
# the gateway, not TCP's back-off (TCP_RTO_MAX_MS would do, but is newer than most kernels).
_CLIENT = f"""
import socket, time
s = socket.create_connection(("{SERVER}", {PORT}), 5)
s.settimeout(60)
n = 0
while True:
    n += 1
    s.sendall(b"%d\\n" % n)
    got = b""
    while not got.endswith(b"\\n"):
        got += s.recv(1000)
    assert got == b"%d\\n" % n, got
    print(n, flush=True)
    time.sleep(0.05)
"""


class Chat:
    """A connection over which a line goes there and back, again and again, until it breaks."""

    def __init__(self, net: BackhaulNet) -> None:
        self._server = net.server.start(sys.executable, "-c", _SERVER, name="chat-server")
        self._server.wait_for("up")
        self._client = net.client.start(sys.executable, "-c", _CLIENT, name="chat")
        self._client.wait_for("^3$")

    def count(self) -> int:
        """How many lines have come back."""
        assert self._client.status is None, self._client.log()
        return self._client.log().count("\n")

    def goes_on(self, timeout: float = 20) -> None:
        """Waits until three more lines have come back over the same connection."""
        before = self.count()
        wait_until(lambda: self.count() >= before + 3, timeout, "the connection goes on")

    def end(self) -> None:
        self._client.end()
        self._server.end()
