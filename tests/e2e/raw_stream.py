"""A far end without a tap: connects, sends what it is told, says what comes.

    python raw_stream.py tcp HOST PORT | unix PATH | tty PATH    COMMAND...

COMMAND: `hex:...` sends bytes, `flood:N` sends N frames of 1000 bytes, `sleep` does nothing for
ever and reads nothing, `slow:SECONDS` stays away from the stream so long, `read` prints how many
bytes came until the end, `frames:N` takes N frames and ends at a wrong length.
`open` is printed once connected.
"""

from __future__ import annotations

import os
import socket
import sys
import time


def connect(arguments: list[str]) -> tuple[int, list[str]]:
    match arguments:
        case ["tcp", host, port, *rest]:
            return socket.create_connection((host, int(port)), 10).detach(), rest
        case ["unix", path, *rest]:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(path)
            return connection.detach(), rest
        case ["tty", path, *rest]:
            return os.open(path, os.O_RDWR | os.O_NOCTTY), rest
    raise SystemExit(__doc__)


def exactly(fd: int, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = os.read(fd, count - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def send(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


def obey(fd: int, command: str) -> None:
    word, _, value = command.partition(":")
    if word == "hex":
        send(fd, bytes.fromhex(value))
    elif word == "flood":
        frame = bytes.fromhex("000003e8") + b"\xff" * 6 + b"\x02" * 6 + b"\x88\xb5" + bytes(986)
        for _ in range(int(value)):
            send(fd, frame)
    elif word == "slow":
        time.sleep(float(value))
    elif word == "sleep":
        while True:
            time.sleep(3600)
    elif word == "read":
        total = 0
        try:
            while data := os.read(fd, 1 << 20):
                total += len(data)
        except OSError as error:
            print(f"error {error.errno}", flush=True)
        print(f"end after {total} bytes", flush=True)
    elif word == "frames":
        for _ in range(int(value)):
            size = int.from_bytes(exactly(fd, 4), "big")
            if not 14 <= size <= 65549:
                raise SystemExit(f"torn: a length of {size}")
            exactly(fd, size)
    else:
        raise SystemExit(f"no such command: {command}")


def main() -> None:
    fd, commands = connect(sys.argv[1:])
    os.set_blocking(fd, True)
    print("open", flush=True)
    for command in commands:
        obey(fd, command)
        print(f"did {command.partition(':')[0]}", flush=True)


if __name__ == "__main__":
    main()
