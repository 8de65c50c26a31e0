"""A name server with a fault, for the tests: python dns_liar.py ADDRESS MODE.

Every A question is answered with 198.51.100.80, every other with an empty answer, after

    lying     the same with another id, then with another name, then bytes without sense,
              each with 198.51.100.66 as the address;
    slow      a pause of 0.8 seconds;
    truncated an answer with TC by UDP, the whole one by TCP;
    once      nothing at the first time a question comes.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time

TRUE, FALSE = bytes((198, 51, 100, 80)), bytes((198, 51, 100, 66))
TC = 0x0200


def answer(query: bytes, address: bytes, *, flags: int = 0) -> bytes:
    end = 12
    while query[end]:
        end += 1 + query[end]
    end += 5
    is_a = query[end - 4 : end - 2] == b"\0\1" and not flags
    head = query[:2] + struct.pack("!HHHHH", 0x8580 | flags, 1, int(is_a), 0, 0)
    record = b"\xc0\x0c\0\1\0\1" + struct.pack("!IH", 60, 4) + address
    return head + query[12:end] + (record if is_a else b"")


def lies(query: bytes) -> list[bytes]:
    false = answer(query, FALSE)
    other_id = bytes((false[0] ^ 0x5A, false[1])) + false[2:]
    other_name = false[:13] + bytes((false[13] ^ 1,)) + false[14:]
    return [other_id, other_name, false[:20], b"\xff" * 40]


def serve_tcp(address: str) -> None:
    listener = socket.create_server((address, 53))
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=one_connection, args=(connection,), daemon=True).start()


def one_connection(connection: socket.socket) -> None:
    with connection, connection.makefile("rwb") as stream:
        while size := stream.read(2):
            reply = answer(stream.read(int.from_bytes(size, "big")), TRUE)
            stream.write(len(reply).to_bytes(2, "big") + reply)
            stream.flush()


def main() -> None:
    address, mode = sys.argv[1:]
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 53))
    if mode == "truncated":
        threading.Thread(target=serve_tcp, args=(address,), daemon=True).start()
    seen: set[bytes] = set()
    print("listening", flush=True)
    while True:
        query, source = sock.recvfrom(4096)
        if mode == "lying":
            for lie in lies(query):
                sock.sendto(lie, source)
        elif mode == "slow":
            time.sleep(0.8)
        elif mode == "once" and query[12:] not in seen:
            seen.add(query[12:])
            continue
        flags = TC if mode == "truncated" else 0
        sock.sendto(answer(query, TRUE, flags=flags), source)


main()
