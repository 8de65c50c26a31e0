"""Small UDP packets as fast as the kernel takes them: sender and receiver, run as a script.

    blast.py listen PORT send|receive SECONDS RATE        in the server's namespace
    blast.py open ADDRESS PORT send|receive SECONDS RATE  in the client's namespace

The opener says hello until the listener answers, which creates the session in a translator
and tells the listener where to send. Then one side sends for SECONDS, RATE packets a second
(0: as many as possible), and the other counts until nothing has come for a while. Each
prints one line of JSON.

sendmmsg and recvmmsg (man 2 sendmmsg) through ctypes move many packets in one call, so that
neither end takes much of the processor time that the translator in the middle needs. The
receiver's buffer holds what comes between two looks; packets that did not fit reached the
server all the same and are counted (SO_MEMINFO).
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import socket
import struct
import sys
import time

PAYLOAD = 64
SEND_BATCH = 64
RECEIVE_BATCH = 1024
RECEIVE_BUFFER = 64 << 20
RECEIVE_PAUSE = 0.01
QUIET = 0.4
PATIENCE = 5.0

SO_RCVBUFFORCE = 33
SO_MEMINFO = 55
SK_MEMINFO_DROPS = 8
MSG_DONTWAIT = 0x40


class IoVec(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class MsgHdr(ctypes.Structure):
    """struct msghdr."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("vectors", ctypes.POINTER(IoVec)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class MmsgHdr(ctypes.Structure):
    """struct mmsghdr."""

    _fields_ = (("header", MsgHdr), ("length", ctypes.c_uint))


LIBC = ctypes.CDLL(None, use_errno=True)


def listen(port: int) -> socket.socket:
    """Return a socket connected to the first peer that says hello on `port`."""
    sock = _socket(socket.AF_INET6)
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", port))
    print("listening", flush=True)
    sock.settimeout(PATIENCE)
    _, peer = sock.recvfrom(PAYLOAD)
    sock.connect(peer)
    sock.send(b"go")
    return sock


def open_to(address: str, port: int) -> socket.socket:
    """Return a socket connected to the listener, which has answered."""
    sock = _socket(socket.AF_INET6)
    sock.connect((address, port))
    sock.settimeout(0.2)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            sock.send(b"hello")
            sock.recv(PAYLOAD)
        except (TimeoutError, ConnectionRefusedError):
            continue
        return sock
    raise TimeoutError("no answer from the other end")


def send(sock: socket.socket, seconds: float, rate: float) -> dict[str, float]:
    """Send for `seconds`, `rate` packets a second or without a pause, and count."""
    payload = ctypes.create_string_buffer(os.urandom(PAYLOAD), PAYLOAD)
    vector = IoVec(ctypes.cast(payload, ctypes.c_void_p), PAYLOAD)
    messages = (MmsgHdr * SEND_BATCH)()
    for message in messages:
        message.header.vectors = ctypes.pointer(vector)
        message.header.vector_count = 1
    sock.setblocking(True)
    descriptor = sock.fileno()
    sendmmsg = LIBC.sendmmsg
    sent = failed = 0
    start = time.monotonic()
    while (elapsed := time.monotonic() - start) < seconds:
        due = SEND_BATCH
        if rate:
            due = min(SEND_BATCH, int(elapsed * rate) - sent - failed)
            if due < min(SEND_BATCH, rate / 2000):
                time.sleep(0.0002)
                continue
        done = sendmmsg(descriptor, messages, due, 0)
        if done < 0:  # an ICMP error of an earlier packet, or no buffer
            failed += 1
        else:
            sent += done
    return {"sent": sent, "failed": failed, "seconds": time.monotonic() - start}


def receive(sock: socket.socket) -> dict[str, float]:
    """Count packets until none has come for a while; TimeoutError when none comes at all."""
    messages = (MmsgHdr * RECEIVE_BATCH)()
    descriptor = sock.fileno()
    recvmmsg = LIBC.recvmmsg
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    received = 0
    wait = PATIENCE
    while poller.poll(wait * 1000):
        done = RECEIVE_BATCH
        while done == RECEIVE_BATCH:
            done = recvmmsg(descriptor, messages, RECEIVE_BATCH, MSG_DONTWAIT, None)
            if done > 0:
                received += done
                wait = QUIET
        time.sleep(RECEIVE_PAUSE)
    if not received:
        raise TimeoutError("nothing received")
    counters = sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 36)
    return {"received": received + struct.unpack("9I", counters)[SK_MEMINFO_DROPS]}


def _socket(family: socket.AddressFamily) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
    return sock


def main(arguments: list[str]) -> None:
    """Do what the module's docstring says; the arguments come from measure.py."""
    *role, job, seconds, rate = arguments
    sock = listen(int(role[1])) if role[0] == "listen" else open_to(role[1], int(role[2]))
    with sock:
        result = send(sock, float(seconds), float(rate)) if job == "send" else receive(sock)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except OSError as error:
        sys.exit(f"blast.py: {error}")
