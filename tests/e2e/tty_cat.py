"""Passes bytes between standard input and output and a terminal: `python tty_cat.py PATH`.

What a serial line's user would be: it opens the terminal as it finds it and sets nothing.
"""

from __future__ import annotations

import os
import select
import sys


def main() -> None:
    terminal = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
    ways = {0: terminal, terminal: 1}
    while True:
        for source in select.select(list(ways), [], [])[0]:
            data = os.read(source, 65536)
            if not data:
                return
            while data:
                data = data[os.write(ways[source], data) :]


if __name__ == "__main__":
    main()
