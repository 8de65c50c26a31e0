"""The report compares like with like and never passes a target that was not measured."""

from contextlib import nullcontext

from tests.bench.report import TARGETS, Results, Rounds, compared_with, markdown, ratio, verdict
from tests.bench.subjects import Running, Subject


def _rounds(name: str, kind: str, pool: str, **figures: list[float]) -> Rounds:
    subject = Subject(name, kind, pool, lambda topology, directory: nullcontext(Running("", None)))
    return Rounds(subject, dict(figures))


def _results() -> Results:
    rows = [
        _rounds("forwarding", "forwarding", "", tcp_up_gbit=[10.0, 20.0, 12.0]),
        _rounds("tayga-masquerade", "tayga", "masquerade", tcp_up_gbit=[1.0], udp_up_kpps=[100.0]),
        _rounds("tayga-routed", "tayga", "routed", tcp_up_gbit=[2.0]),
        _rounds("gateway-routed", "gateway", "routed", tcp_up_gbit=[7.2, 8.4, 99.0]),
    ]
    return {rounds.subject.name: rounds for rounds in rows}


def test_ratio_is_of_medians_and_of_the_same_pool() -> None:
    results = _results()
    gateway = results["gateway-routed"]
    tayga = compared_with(results, gateway, "tayga")
    forwarding = compared_with(results, gateway, "forwarding")
    assert tayga is results["tayga-routed"]
    assert forwarding is not None
    assert ratio(gateway, tayga, "tcp_up_gbit") == 8.4 / 2.0
    assert ratio(gateway, forwarding, "tcp_up_gbit") == 8.4 / 12.0
    assert ratio(gateway, tayga, "udp_up_kpps") is None
    assert compared_with(results, gateway, "newest") is None


def test_verdict_at_the_limit_and_below() -> None:
    target = next(t for t in TARGETS if t.kind == "forwarding")
    assert verdict(target, None) == "not measured"
    assert verdict(target, 0.599) == "**missed**"
    assert verdict(target, 0.6) == "met, short of the aim"
    assert verdict(target, 0.7) == "met"
    assert verdict(next(t for t in TARGETS if t.kind == "tayga"), 10.0) == "met"


def test_error_is_named_and_nothing_is_met() -> None:
    results = _results()
    results["gateway-routed"] = _rounds("gateway-routed", "gateway", "routed")
    results["gateway-routed"].error = "round 1: no ping"
    text = markdown(results, {"kernel": "Linux"})
    assert "| gateway-routed | error, see below |" in text
    assert "- **gateway-routed**: round 1: no ping" in text
    assert "met |" not in text
    assert "not measured" in text


def test_every_row_has_as_many_cells_as_its_header() -> None:
    for block in markdown(_results(), {}).split("\n\n"):
        lines = block.splitlines()
        if lines and lines[0].startswith("|"):
            assert len({line.count("|") for line in lines}) == 1
