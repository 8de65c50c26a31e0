"""Opens a tap as programs do that know no vnet header, prints the next UDP frames as hex.

    python plain_tap.py DEVICE PORT [FLAG...]      FLAG: multi_queue

Prints `open`, then one line for each IPv6 UDP frame to PORT, until it is ended. Such a
reader (ssh is one) breaks when an earlier owner left offloads on: the kernel then leaves
checksums unfinished and hands over packets of 64 KiB.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_MULTI_QUEUE = 0x0002, 0x1000, 0x0100


def main() -> None:
    name, port = sys.argv[1], int(sys.argv[2])
    flags = IFF_TAP | IFF_NO_PI
    if "multi_queue" in sys.argv[3:]:
        flags |= IFF_MULTI_QUEUE
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    print("open", flush=True)
    while True:
        frame = os.read(descriptor, 70_000)
        if frame[12:14] == b"\x86\xdd" and frame[20] == 17 and frame[56:58] == port.to_bytes(2):
            print(frame.hex(), flush=True)


if __name__ == "__main__":
    main()
