"""Sends frames out of a tap, one case after the other, and prints what its owner wrote for each.

    python tap_exchange.py DEVICE MARK < LINES

A line is one case, frames in hex with blanks between. The last frame of each must bring an
answer that ends with MARK (hex): what came before it, in order, is the case's, printed as one
line of the same form without the answer. What the kernel itself sends out of the device is not
shown.
"""

from __future__ import annotations

import socket
import sys
import time

OUTGOING = 4  # PACKET_OUTGOING
SECONDS = 5


def main() -> None:
    device, mark = sys.argv[1], bytes.fromhex(sys.argv[2])
    every = 3  # ETH_P_ALL
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(every)) as raw:
        raw.bind((device, every))
        for line in sys.stdin:
            for frame in line.split():
                raw.send(bytes.fromhex(frame))
            print(" ".join(frame.hex() for frame in until(raw, mark)), flush=True)


def until(raw: socket.socket, mark: bytes) -> list[bytes]:
    frames: list[bytes] = []
    deadline = time.monotonic() + SECONDS
    while True:
        raw.settimeout(max(0.001, deadline - time.monotonic()))
        frame, address = raw.recvfrom(70_000)
        if address[2] == OUTGOING:
            continue
        if frame.endswith(mark):
            return frames
        frames.append(frame)


if __name__ == "__main__":
    main()
