"""Sends frames out of a device as they are: one hex line of standard input each.

    python raw_frames.py DEVICE < LINES

What is sent out of a tap is what the gateway reads from it. Prints how many were taken.
"""

from __future__ import annotations

import socket
import sys


def main() -> None:
    sent = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((sys.argv[1], 0))
        for line in sys.stdin:
            try:
                raw.send(bytes.fromhex(line))
            except OSError:
                continue  # the kernel itself refuses what is shorter than a header
            sent += 1
    print(sent)


if __name__ == "__main__":
    main()
