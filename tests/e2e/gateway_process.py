"""The gateway as a process in a namespace: start, what it says, signals, stop.

Every run gets a run directory of its own inside the lab's folder, handed over in a
configuration file together with whatever keys the test gives, so that no run sees the
journal of another test. Runs of one `Gateway` share the directory, as on a real host.
"""

from __future__ import annotations

import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.namespaces import Namespace, Process, Result

ROOT = Path(__file__).resolve().parents[2]
EXIT_CLEAN = 0
EXIT_HOST = 1
EXIT_CONFIGURATION = 78
READY = r"\bready\b"


@dataclass(frozen=True, slots=True)
class Status:
    """What SIGUSR1 logged: the status line, and every `name=number` of it and of the counters."""

    line: str
    values: dict[str, str]

    @property
    def flags(self) -> set[str]:
        """The flags that are on: those without `!`."""
        inside = self.values["flags"].strip("()")
        return {flag for flag in inside.split(",") if not flag.startswith("!")}

    def number(self, name: str) -> int:
        """A counter; 0 when it is not printed, which is how a counter never touched may look."""
        return int(self.values.get(name, "0"))


class Gateway:
    """`python -m gateway ARGUMENTS` in a namespace. At most one run at a time."""

    def __init__(
        self,
        namespace: Namespace,
        *arguments: str,
        config: str = "",
        name: str = "gateway",
        run_dir: Path | None = None,
    ) -> None:
        lab = namespace.lab
        self.namespace = namespace
        self.arguments = arguments
        self.name = name
        self.run_dir = run_dir or lab.new_file(f"{name}-run")
        self.config_path = lab.new_file(f"{name}.toml")
        self.configure(config)
        self._process: Process | None = None

    def configure(self, config: str) -> None:
        """Writes the configuration file: the run directory, then `config`."""
        self.config_path.write_text(f'run_dir = "{self.run_dir}"\n{config}')

    def command(self, *arguments: str) -> list[str]:
        """The command line of a run with this configuration."""
        return [
            *(sys.executable, "-m", "gateway", "--config", str(self.config_path)),
            *self.arguments,
            *arguments,
        ]

    @property
    def process(self) -> Process:
        assert self._process is not None, "start() comes first"
        return self._process

    def start(self, *, timeout: float = 30) -> Gateway:
        """Starts it and returns once it says that packets flow."""
        self.launch().wait_for(READY, timeout)
        return self

    def launch(self) -> Process:
        """Starts it without waiting for anything."""
        assert self._process is None or self._process.status is not None, "still running"
        self._process = self.namespace.start(*self.command(), name=self.name, cwd=ROOT)
        return self._process

    def run(self, *arguments: str, wrapper: tuple[str, ...] = (), timeout: float = 20) -> Result:
        """Runs it to its end, for starts that fail, `--dry-run` and the like."""
        command = [*wrapper, *self.command(*arguments)]
        return self.namespace.run(*command, check=False, timeout=timeout, cwd=ROOT)

    def undo(self, *arguments: str) -> Result:
        """`gateway undo` with the same configuration."""
        command = [sys.executable, "-m", "gateway", "undo", "--config", str(self.config_path)]
        return self.namespace.run(*command, *arguments, check=False, cwd=ROOT)

    def log(self) -> str:
        return self.process.log()

    def wait_for(self, pattern: str, timeout: float = 10, *, after: int = 0) -> str:
        """The first match in the log behind character `after`."""
        return self.process.wait_for(pattern, timeout, after=after).group(0)

    def status(self) -> Status:
        """Asks with SIGUSR1."""
        before = len(self.log())
        self.process.send(signal.SIGUSR1)
        line = self.wait_for(r"^.*\bunit=\d+ flags=.*\n", after=before)
        # The counters follow on a line of their own.
        self.wait_for(r"unit=.*\n.+\n", after=before)
        values = dict(re.findall(r"([A-Za-z][\w.-]*)=(\S+)", self.log()[before:]))
        return Status(line.strip(), values)

    def reload(self) -> int:
        """Sends SIGHUP; returns the position in the log from which its answer is to be read."""
        before = len(self.log())
        self.process.send(signal.SIGHUP)
        return before

    def stop(self, signal_number: signal.Signals = signal.SIGTERM, timeout: float = 15) -> int:
        """Asks it to end and returns its exit status."""
        self.process.send(signal_number)
        return self.process.wait(timeout)

    def stop_cleanly(self, signal_number: signal.Signals = signal.SIGTERM) -> None:
        """Stops it; AssertionError unless it undid everything without one bug on the way."""
        status = self.stop(signal_number)
        log = self.log()
        assert status == EXIT_CLEAN, f"exit status {status}\n{log}"
        assert "Traceback" not in log, log

    def kill(self) -> None:
        """SIGKILL: nothing is undone."""
        self.process.send(signal.SIGKILL)
        self.process.wait(5)
