"""What a gateway asks of the far end, from its configuration."""

from __future__ import annotations

from ipaddress import IPv4Interface

from gateway.backhaul.assembly import Backhaul
from gateway.config import Config

ENDS = IPv4Interface("169.254.7.2/30"), IPv4Interface("169.254.7.1/30")


def test_runs_of_one_gateway_have_one_tag_and_are_told_apart(tmp_path):
    """So that the far end knows a clone of this host from this host that comes back."""
    config = Config.model_validate({"run_dir": str(tmp_path), "backhaul": "root@peer.example"})
    first, second = (Backhaul(config, "tap0", 7, lambda _: None) for _ in range(2))
    assert first.tag == second.tag == first.wish(*ENDS).tag
    assert first.wish(*ENDS).run == first.wish(*ENDS).run
    assert first.wish(*ENDS).run != second.wish(*ENDS).run
