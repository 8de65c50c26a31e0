"""The status line and the counters."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from gateway.status import Status, format_counters, format_status
from translate.reasons import Reason

STATUS = Status(
    device="tap0",
    kind="tap",
    mtu=1500,
    open=True,
    running=True,
    offload=True,
    masquerade=True,
    frames_written=11,
    write_errors=1,
    frames_read=22,
    frames_discarded=2,
    sessions=33,
    bib=44,
    clients=55,
    uptime=66.9,
)


def test_status_line():
    assert format_status(STATUS) == (
        "unit=0 flags=(open,running,offload,masquerade) type=tap mtu=1500 ipkts=11/1 opkts=22/2 "
        "sessions=33 bib=44 clients=55 uptime=66 device=tap0"
    )


def test_status_line_of_mode_siit():
    shown = format_status(replace(STATUS, mappings=10000, pool="3/254"))
    assert shown.endswith(" device=tap0 mappings=10000 pool=3/254")
    assert format_status(replace(STATUS, mappings=0)).endswith(" device=tap0 mappings=0")


@pytest.mark.parametrize("flag", ["open", "running", "offload", "masquerade"])
def test_flag_that_is_off(flag):
    is_off: dict[str, Any] = {flag: False}
    words = format_status(replace(STATUS, **is_off)).split()
    names = ["open", "running", "offload", "masquerade"]
    flags = ",".join(f"!{name}" if name == flag else name for name in names)
    assert words[1] == f"flags=({flags})"


@pytest.mark.parametrize(
    ("device", "unit"), [("tap12", "12"), ("nat64x", "-"), ("uplink", "-"), ("a1b2", "2")]
)
def test_unit(device, unit):
    assert format_status(replace(STATUS, device=device)).split()[0] == f"unit={unit}"


def test_status_line_can_be_split_by_scripts():
    words = dict(word.split("=") for word in format_status(STATUS).split(" "))
    assert words["device"] == "tap0"
    assert words["opkts"] == "22/2"


def test_counters_show_every_reason():
    line = format_counters({"bursts": 7}, {Reason.MALFORMED: 3})
    assert line.startswith("counters bursts=7 malformed=3 bad-length=0 ")
    words = dict(re.findall(r"(\S+)=(\d+)", line))
    assert words.keys() == {"bursts", *(reason.value for reason in Reason)}
    assert sum(int(count) for count in words.values()) == 10
    assert "\n" not in line
