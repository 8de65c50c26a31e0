"""Runs the fuzzer for a while, from the seeds of tests/fuzz/seeds.py and findings replayed.

    python -m tests.fuzz [--seconds N] [--seed N] [--directory DIR] [--unguided]

Needs atheris (pip install -e '.[fuzz]'). Everything that is written, the corpus and the inputs
that break something, goes to a directory outside the repository, whose name is printed; copy a
finding to tests/fuzz/regressions/ when it is repaired. Exits non-zero after a finding.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

REGRESSIONS = Path(__file__).parent / "regressions"


def main() -> None:
    """Parses the arguments and fuzzes."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--seed", type=int, help="of the mutations; random unless given")
    parser.add_argument("--directory", type=Path, help="for corpus and findings; kept")
    parser.add_argument("--unguided", action="store_true", help="without atheris and coverage")
    arguments = parser.parse_args()
    directory = arguments.directory or Path(tempfile.mkdtemp(prefix="tap64-fuzz-"))
    findings = directory / "findings"
    findings.mkdir(parents=True, exist_ok=True)
    print(f"fuzz: findings are kept in {findings}", flush=True)
    if arguments.unguided:
        from tests.fuzz.unguided import fuzz

        count = fuzz(arguments.seconds, findings, arguments.seed)
        print(f"fuzz: unguided, {count} inputs, no finding")
        return
    guided(arguments.seconds, arguments.seed, directory / "corpus", findings)


def guided(seconds: int, seed: int | None, corpus: Path, findings: Path) -> None:
    """Runs libFuzzer, which ends the process itself."""
    try:
        import atheris
    except ImportError:
        sys.exit("fuzz: atheris is missing: pip install -e '.[fuzz]', or use --unguided")
    # The checker is not instrumented: its branches are not what is to be covered.
    with atheris.instrument_imports(include=["translate"]):
        import translate.nat64
        import translate.siit.translator  # noqa: F401
    from tests.fuzz.scenario import HEADER_SIZE, MAX_RECORDS, RECORD_SIZE, run
    from tests.fuzz.seeds import write

    write(corpus)
    for path in REGRESSIONS.iterdir():
        if path.suffix != ".md":
            shutil.copy(path, corpus)
    atheris.Setup(
        [
            "tests.fuzz",
            str(corpus),
            f"-artifact_prefix={findings}/",
            f"-max_total_time={seconds}",
            f"-seed={seed or 0}",  # 0: random
            f"-max_len={HEADER_SIZE + MAX_RECORDS * RECORD_SIZE}",
            # Conversations, not single packets, reach what matters.
            "-len_control=0",
            "-timeout=20",
            "-verbosity=0",
            "-print_final_stats=1",
        ],
        run,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
