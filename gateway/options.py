"""What the command line asks for: the value that cli.py makes and run.py acts on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gateway.backhaul.link_options import LinkOptions


@dataclass(frozen=True, slots=True)
class Options:
    """One invocation of the program.

    `overrides`: dotted configuration keys to values as TOML would give them; laid over the
    file by `gateway.config.load`, at start and again at each SIGHUP. For `undo` only `tap` and
    `run_dir` matter; without `tap` every device is meant. `capture_in`, `capture_out` (`-` is
    standard input or output) and `seed` are for `translate`, which has both paths.
    """

    command: Literal["run", "undo", "translate", "link"] = "run"
    config_path: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    dry_run: bool = False
    check: bool = False
    advertise_merge: bool = False
    capture_in: Path | None = None
    capture_out: Path | None = None
    seed: int = 0
    link: LinkOptions | None = None
