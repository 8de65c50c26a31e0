"""Network namespaces and processes that belong to one test, and their removal.

A `Lab` owns everything it made: namespaces (named after this process and a counter, so that
several runs can share a machine), the processes started in them, and a folder for their
logs. `Lab.close` ends exactly those processes, by process group, and removes exactly those
namespaces; it runs from the fixture and, if that never came, at interpreter exit. A process
also gets SIGKILL from the kernel when its starter dies.
"""

from __future__ import annotations

import atexit
import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_lab_numbers = itertools.count(1)


class CommandFailed(AssertionError):
    """A command in a namespace did not do what the test needs; str() holds its output."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished command left: its exit status and both outputs, as text."""

    command: str
    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both outputs, the standard one first."""
        return self.out + self.err


def wait_until(
    condition: Callable[[], object], timeout: float, what: str, *, interval: float = 0.05
) -> None:
    """Returns once `condition()` is true; raises AssertionError naming `what` after `timeout` s."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"after {timeout} s: {what}")
        time.sleep(interval)


class Process:
    """One program started in a namespace, the leader of its own process group.

    Its standard output and error go to one file, `log_path`.
    """

    def __init__(self, command: list[str], log_path: Path, cwd: Path | None) -> None:
        self.log_path = log_path
        self.command = command
        with log_path.open("wb") as log:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=cwd,
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def status(self) -> int | None:
        """The exit status, None while it runs, negative when a signal ended it."""
        return self._popen.poll()

    def log(self) -> str:
        """Everything it has printed so far."""
        return self.log_path.read_text(errors="replace")

    def wait_for(self, pattern: str, timeout: float = 20, *, after: int = 0) -> re.Match[str]:
        """The first match of `pattern` in the log behind character `after`.

        Raises AssertionError with the log when the process ends first or time runs out.
        """
        deadline = time.monotonic() + timeout
        while True:
            ended = self.status is not None
            text = self.log()
            match = re.compile(pattern, re.MULTILINE).search(text, after)
            if match:
                return match
            if ended or time.monotonic() > deadline:
                how = f"ended with status {self.status}" if ended else f"{timeout} s passed"
                raise AssertionError(
                    f"{how} without {pattern!r} from {' '.join(self.command)}\n{text}"
                )
            time.sleep(0.02)

    def send(self, signal_number: signal.Signals) -> None:
        """Sends a signal to the program alone."""
        self._popen.send_signal(signal_number)

    def wait(self, timeout: float) -> int:
        """The exit status; AssertionError with the log when it does not end in time."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"still running after {timeout} s: {' '.join(self.command)}\n{self.log()}"
            ) from None

    def end(self) -> None:
        """Ends the program and whatever it started in its process group; waits for it."""
        for number, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(patience)
                break
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class Namespace:
    """One network namespace of a lab. `name` is what `ip netns` calls it."""

    def __init__(self, lab: Lab, role: str) -> None:
        self.lab = lab
        self.role = role
        self.name = f"{lab.name}-{len(lab.namespaces)}-{role}"
        _host("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def run(
        self,
        *command: str,
        check: bool = True,
        timeout: float = 30,
        cwd: Path | None = None,
        stdin: str | None = None,
    ) -> Result:
        """Runs a command to its end in this namespace.

        Raises CommandFailed when it takes longer than `timeout` seconds or, unless `check`
        is False, when its exit status is not zero.
        """
        return _run(self._entering(*command), check=check, timeout=timeout, cwd=cwd, stdin=stdin)

    def start(self, *command: str, name: str = "", cwd: Path | None = None) -> Process:
        """Starts a program in this namespace; the lab ends it at the latest when it closes."""
        label = name or Path(command[0]).name
        log_path = self.lab.new_file(f"{self.role}-{label}.log")
        guarded = self._entering("setpriv", "--pdeathsig", "KILL", *command)
        process = Process(guarded, log_path, cwd)
        self.lab.processes.append(process)
        return process

    def ip(self, *arguments: str) -> str:
        """What `ip ARGUMENTS` prints here; raises CommandFailed when it fails."""
        return _host("ip", "-n", self.name, *arguments).out

    def sysctl(self, **settings: int | str) -> None:
        """Sets keys under net.*, written with two underscores for each dot."""
        pairs = [f"net.{key.replace('__', '.')}={value}" for key, value in settings.items()]
        self.run("sysctl", "-q", "-w", *pairs)

    def sysctl_value(self, key: str) -> str:
        """The value of one sysctl by its dotted name."""
        return self.run("sysctl", "-n", key).out.strip()

    def _entering(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *command]


class Lab:
    """The namespaces, processes and files of one test or one module of tests."""

    def __init__(self, label: str = "lab") -> None:
        self.name = f"t64-{os.getpid()}-{next(_lab_numbers)}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.name}-{label}-"))
        self.namespaces: list[Namespace] = []
        self.processes: list[Process] = []
        self._file_numbers = itertools.count(1)
        atexit.register(self.close)

    def namespace(self, role: str) -> Namespace:
        """A new namespace with the loopback up and nothing else."""
        namespace = Namespace(self, role)
        self.namespaces.append(namespace)
        return namespace

    def link(self, one: Namespace, one_name: str, two: Namespace, two_name: str, mtu: int) -> None:
        """A wire between two namespaces, both ends up."""
        one.ip(
            *("link", "add", one_name, "mtu", str(mtu), "type", "veth"),
            *("peer", "name", two_name, "mtu", str(mtu), "netns", two.name),
        )
        for namespace, name in ((one, one_name), (two, two_name)):
            # Addresses are usable at once; what a test is about is never duplicate detection.
            namespace.sysctl(**{f"ipv6__conf__{name}__accept_dad": 0})
            namespace.ip("link", "set", name, "up")

    def new_file(self, name: str) -> Path:
        """A path in the lab's folder that nothing else uses."""
        return self.folder / f"{next(self._file_numbers):02d}-{name}"

    def close(self, *, keep_files: bool = False) -> None:
        """Ends its processes, removes its namespaces and, unless told otherwise, its files."""
        # Each is forgotten only when it is gone, so an interrupted close can be done again.
        while self.processes:
            self.processes[-1].end()
            self.processes.pop()
        while self.namespaces:
            _host("ip", "netns", "del", self.namespaces[-1].name, check=False)
            self.namespaces.pop()
        if not keep_files:
            shutil.rmtree(self.folder, ignore_errors=True)
        atexit.unregister(self.close)

    def logs(self) -> Iterator[tuple[str, str]]:
        """Name and end of each log, for the report of a failed test."""
        for path in sorted(self.folder.glob("*.log")):
            text = path.read_text(errors="replace")
            if text:
                yield path.name, text[-6000:]


@contextmanager
def open_lab(label: str = "lab") -> Iterator[Lab]:
    """A lab that is closed on the way out, whatever happened."""
    lab = Lab(label)
    try:
        yield lab
    finally:
        lab.close()


def _host(*command: str, check: bool = True) -> Result:
    return _run(list(command), check=check, timeout=30)


def _run(
    command: list[str],
    *,
    check: bool,
    timeout: float,
    cwd: Path | None = None,
    stdin: str | None = None,
) -> Result:
    shown = " ".join(command)
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        cwd=cwd,
    ) as popen:
        try:
            out, err = popen.communicate(stdin, timeout)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(popen.pid, signal.SIGKILL)
            out, err = popen.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise CommandFailed(
                    f"after {timeout} s still running: {shown}\n{out}{err}"
                ) from None
            raise
    result = Result(shown, popen.returncode, out, err)
    if check and result.status != 0:
        raise CommandFailed(f"status {result.status} from: {shown}\n{result.text}")
    return result
