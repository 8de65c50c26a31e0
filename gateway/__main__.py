"""`gateway` and `python -m gateway`: loads the program and runs it."""

from __future__ import annotations

import signal
import sys


def main() -> int:
    """Runs the program; returns the exit status."""
    # Ctrl-C while modules are loaded, which takes a while on a small machine: without a traceback.
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from gateway import cli

    signal.signal(signal.SIGINT, before)
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
