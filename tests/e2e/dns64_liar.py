"""A resolver that lies about ipv4only.arpa, for the tests: python dns64_liar.py ADDRESS.

Each lie has a port of its own from 5301 on, in the order of LIES, by UDP and TCP; the last one is
the truth. `told NAME` is printed after each answer.
"""

from __future__ import annotations

import random
import socket
import struct
import sys
import threading
from collections.abc import Callable
from ipaddress import IPv6Address

FIRST_PORT = 5301
TRUE_PREFIX = "2001:db8:64::/96"
A, CNAME, AAAA = 1, 5, 28
IN, CHAOS = 1, 3
NAME = b"\x08ipv4only\x04arpa\0"
TC, SERVFAIL = 0x0200, 2


def aaaa(*addresses: str, rr_class: int = IN) -> list[bytes]:
    return [record(AAAA, IPv6Address(text).packed, rr_class=rr_class) for text in addresses]


def record(kind: int, data: bytes, *, owner: bytes = b"\xc0\x0c", rr_class: int = IN) -> bytes:
    return owner + struct.pack("!HHIH", kind, rr_class, 60, len(data)) + data


def reply(
    query: bytes,
    answers: list[bytes],
    *,
    authority: list[bytes] | None = None,
    additional: list[bytes] | None = None,
    flags: int = 0,
) -> bytes:
    sections = [answers, authority or [], additional or []]
    counts = [len(section) for section in sections]
    head = query[:2] + struct.pack("!HHHHH", 0x8180 | flags, 1, *counts)
    return head + query[12:] + b"".join(b"".join(section) for section in sections)


TRUTH = aaaa("2001:db8:64::192.0.0.170", "2001:db8:64::192.0.0.171")
_RANDOM = random.Random(7050)
MANY = aaaa(*(str(IPv6Address(0x20 << 120 | _RANDOM.getrandbits(120))) for _ in range(2000)))


def loop() -> list[bytes]:
    one, two = b"\x03one\x04arpa\0", b"\x03two\x04arpa\0"
    return [
        record(CNAME, one),
        record(CNAME, two, owner=one),
        record(CNAME, one, owner=two),
        record(CNAME, NAME, owner=two),
    ]


def other_id(query: bytes) -> bytes:
    made = reply(query, TRUTH)
    return bytes((made[0] ^ 0x5A,)) + made[1:]


def other_name(query: bytes) -> bytes:
    return reply(query, TRUTH).replace(b"\x08ipv4only", b"\x08ipv6only")


# Each: by UDP, and by TCP if not the same. None: the connection is reset.
Lie = Callable[[bytes], bytes]
LIES: dict[str, Lie | tuple[Lie, Lie | None]] = {
    # Answers that say that there is no DNS64.
    "random": lambda q: reply(q, aaaa("2001:db8::1", "2001:db8:7::8.8.8.8")),
    "misplaced": lambda q: reply(
        q,
        # Between the places of RFC 6052 §2.2, and in one with something behind it.
        aaaa("2001:db8::c000:aa:0", "2001:db8::c0:0:aa00", "2001:db8:c000:ab::7"),
    ),
    "of nobody": lambda q: reply(
        q,
        aaaa("fe80::192.0.0.170", "ff0e::192.0.0.170", "::192.0.0.170", "::ffff:192.0.0.170"),
    ),
    "in the u octet": lambda q: reply(q, aaaa("2001:db8:0:0:100::192.0.0.170")),
    "beside": lambda q: reply(q, [], authority=TRUTH, additional=TRUTH),
    "loop": lambda q: reply(q, loop()),
    "other class": lambda q: reply(q, aaaa("2001:db8:66::192.0.0.170", rr_class=CHAOS)),
    "IPv4": lambda q: reply(q, [record(A, bytes((192, 0, 0, 170)))]),
    "huge": (lambda q: reply(q, [], flags=TC), lambda q: reply(q, MANY)),
    # What is no answer: the next resolver is asked.
    "other id": other_id,
    "other name": other_name,
    "short": lambda q: reply(q, TRUTH)[:20],
    "noise": lambda q: q[:2] + b"\xff" * 40,
    "thin": lambda q: reply(q, [record(AAAA, bytes((192, 0, 0, 170)))]),
    "pointers": lambda q: reply(q, [record(AAAA, bytes(16), owner=b"\xc0\x1f")]),
    "failure": lambda q: reply(q, TRUTH, flags=SERVFAIL),
    "reset": (lambda q: reply(q, [], flags=TC), None),
    "half": (lambda q: reply(q, [], flags=TC), lambda q: reply(q, TRUTH)[:-9]),
    "truth": lambda q: reply(q, TRUTH),
}
NO_DNS64 = [*LIES][: [*LIES].index("huge") + 1]
NO_ANSWER = [*LIES][len(NO_DNS64) : -1]


def port_of(name: str) -> int:
    return FIRST_PORT + [*LIES].index(name)


def serve_udp(name: str, sock: socket.socket, tell: Lie) -> None:
    while True:
        query, source = sock.recvfrom(4096)
        sock.sendto(tell(query), source)
        print(f"told {name}", flush=True)


def serve_tcp(name: str, listener: socket.socket, tell: Lie | None) -> None:
    while True:
        connection, _ = listener.accept()
        with connection:
            query = connection.recv(4096)[2:]
            if tell is None:
                linger = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            else:
                answer = tell(query)
                size = len(reply(query, TRUTH)) if name == "half" else len(answer)
                connection.sendall(size.to_bytes(2, "big") + answer)
        print(f"told {name} whole", flush=True)


def main() -> None:
    address = sys.argv[1]
    for name, lie in LIES.items():
        by_udp, by_tcp = lie if isinstance(lie, tuple) else (lie, lie)
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        sock.bind((address, port_of(name)))
        threading.Thread(target=serve_udp, args=(name, sock, by_udp), daemon=True).start()
        listener = socket.create_server((address, port_of(name)), family=socket.AF_INET6)
        threading.Thread(target=serve_tcp, args=(name, listener, by_tcp), daemon=True).start()
    print("listening", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
