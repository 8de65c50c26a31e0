"""From the figures of all rounds to Markdown: medians with their spread, ratios, targets."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from tests.bench.measure import LOSS_ALLOWED, STEADY_KPPS
from tests.bench.subjects import Subject

Results = dict[str, "Rounds"]


@dataclass(slots=True)
class Rounds:
    """What the rounds gave for one subject; `error` is the last thing that did not work."""

    subject: Subject
    figures: dict[str, list[float]] = field(default_factory=dict)
    error: str = ""

    def add(self, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            self.figures.setdefault(name, []).append(value)

    def median(self, name: str) -> float | None:
        values = self.figures.get(name)
        return statistics.median(values) if values else None


@dataclass(frozen=True, slots=True)
class Target:
    """`figure` of the gateway is to be at least `wanted` times that of a subject of `kind`."""

    figure: str
    title: str
    kind: str
    wanted: float
    aim: float | None = None


FIGURES = {
    "tcp_up_gbit": "TCP up, Gbit/s",
    "tcp_down_gbit": "TCP down, Gbit/s",
    "udp_up_kpps": "UDP 64 B up, flood, kpps",
    "udp_down_kpps": "UDP 64 B down, flood, kpps",
    "udp_lossless_kpps": f"UDP 64 B up, loss ≤ {LOSS_ALLOWED:.0%}, kpps",
    "ping_us": "ping, µs",
}
COSTS = {
    "udp_steady_cpu_us": f"UDP up at {STEADY_KPPS} kpps, µs/packet",
    "udp_up_cpu_us": "UDP up, flood, µs/packet",
    "udp_down_cpu_us": "UDP down, flood, µs/packet",
    "tcp_up_cpu_ms_per_gb": "TCP up, ms/GB",
    "tcp_down_cpu_ms_per_gb": "TCP down, ms/GB",
}
OFFERED = {
    "udp_up_offered_kpps": "flood up, kpps offered",
    "udp_down_offered_kpps": "flood down, kpps offered",
}
SMALL_PACKETS = {
    "up": "up, flood",
    "down": "down, flood",
    "lossless": f"up, loss ≤ {LOSS_ALLOWED:.0%}",
}
TARGETS = [
    *(
        Target(f"tcp_{way}_gbit", f"bulk TCP {way}", kind, wanted, aim)
        for kind, wanted, aim in (
            ("tayga", 10, None),
            ("newest", 6, None),
            ("forwarding", 0.6, 0.7),
        )
        for way in ("up", "down")
    ),
    *(
        Target(f"udp_{way}_kpps", f"small packets {load}", kind, wanted)
        for kind, wanted in (("tayga", 1.2), ("newest", 0.8))
        for way, load in SMALL_PACKETS.items()
    ),
]

# Stateless mode is what TAYGA is made for.
SIIT_TARGETS = [
    *(Target(f"tcp_{way}_gbit", f"bulk TCP {way}", "tayga", 6) for way in ("up", "down")),
    *(
        Target(f"udp_{way}_kpps", f"small packets {load}", "tayga", 1)
        for way, load in SMALL_PACKETS.items()
    ),
]


def targets_of(subject: Subject) -> list[Target]:
    """Return what a gateway has to reach."""
    return SIIT_TARGETS if subject.pool == "siit" else TARGETS


def markdown(results: Results, facts: dict[str, str]) -> str:
    """Return the report: `facts` about the run, then the tables."""
    parts = ["\n".join(f"- {name}: {value}" for name, value in facts.items())]
    parts.append("Medians, with the least and the greatest of all rounds in brackets:")
    parts.append(figures_table(results, FIGURES))
    parts.append("The translator's processor time, and what the flood offered to it:")
    parts.append(figures_table(results, COSTS | OFFERED))
    errors = [f"- **{name}**: {rounds.error}" for name, rounds in results.items() if rounds.error]
    if errors:
        parts.append("What did not work:\n\n" + "\n".join(errors))
    ratios = _ratio_rows(results)
    if ratios:
        parts.append("Ratios of these medians:")
        titles = [*FIGURES.values(), *COSTS.values()]
        parts.append(table(["ratio", *titles], ratios))
    targets = _target_rows(results)
    if targets:
        parts.append("Targets:")
        parts.append(table(["target", "gateway", "wanted", "measured", ""], targets))
    return "\n\n".join(parts) + "\n"


def compared_with(results: Results, rounds: Rounds, kind: str) -> Rounds | None:
    """Return the subject of `kind` that `rounds` is compared with: the same pool, or none."""
    for other in results.values():
        if other.subject.kind == kind and other.subject.pool in ("", rounds.subject.pool):
            return other
    return None


def ratio(rounds: Rounds, other: Rounds, figure: str) -> float | None:
    """Return the ratio of two medians, or None where one is missing."""
    ours, theirs = rounds.median(figure), other.median(figure)
    return ours / theirs if ours is not None and theirs else None


def figures_table(results: Results, figures: dict[str, str]) -> str:
    """Return a row for each subject: medians with their spread."""
    rows = []
    for name, rounds in results.items():
        rows.append([name, *(spread(rounds.figures.get(figure)) for figure in figures)])
        if rounds.error and not rounds.figures:
            rows[-1][1:] = ["error, see below", *([""] * (len(figures) - 1))]
    return table(["", *figures.values()], rows)


def _ratio_rows(results: Results) -> list[list[str]]:
    rows = []
    for name, rounds in results.items():
        for kind in ("forwarding", "tayga", "newest"):
            other = compared_with(results, rounds, kind)
            if rounds.subject.kind != "gateway" or other is None:
                continue
            values = [ratio(rounds, other, figure) for figure in (*FIGURES, *COSTS)]
            cells = ["-" if value is None else f"{value:.2f}" for value in values]
            rows.append([f"{name} / {other.subject.name}", *cells])
    return rows


def _target_rows(results: Results) -> list[list[str]]:
    rows = []
    for target in TARGETS + SIIT_TARGETS:
        for name, rounds in results.items():
            if target not in targets_of(rounds.subject):
                continue
            other = compared_with(results, rounds, target.kind)
            if rounds.subject.kind != "gateway" or other is None:
                continue
            wanted = f"≥ {target.wanted:g} times {other.subject.name}"
            if target.aim is not None:
                wanted += f" (aim {target.aim:g})"
            value = ratio(rounds, other, target.figure)
            measured = "-" if value is None else f"{value:.2f}"
            rows.append([target.title, name, wanted, measured, verdict(target, value)])
    return rows


def verdict(target: Target, value: float | None) -> str:
    """Return how `value` stands to the target, in words for the table."""
    if value is None:
        return "not measured"
    if value < target.wanted:
        return "**missed**"
    return "met" if target.aim is None or value >= target.aim else "met, short of the aim"


def spread(values: list[float] | None) -> str:
    """Return the median, with the least and the greatest value in brackets."""
    if not values:
        return "-"
    low, high = min(values), max(values)
    text = _number(statistics.median(values))
    return text if len(values) == 1 else f"{text} ({_number(low)} to {_number(high)})"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table whose first column is text and whose others are numbers."""
    ruler = ["---", *(["--:"] * (len(header) - 1))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, ruler, *rows))
