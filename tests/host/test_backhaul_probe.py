"""The probe and the watch of the carrier on a real device; the test is the far end."""

from __future__ import annotations

import os
import resource
from ipaddress import IPv4Address

import trio

from gateway.backhaul.carrier import carrier_lost
from gateway.backhaul.probe import DeviceProbe
from gateway.backhaul.taps import attach_tap, make_tap

LOCAL, REMOTE = IPv4Address("169.254.7.2"), IPv4Address("169.254.7.1")
MAC = bytes.fromhex("020000000001")


def answer(question: bytes) -> bytes:
    asker = question[6:12]
    head = asker + MAC + question[12:20] + b"\0\2"
    return head + MAC + REMOTE.packed + asker + LOCAL.packed


async def serve(fd: int, times: int) -> None:
    while True:
        await trio.lowlevel.wait_readable(fd)
        question = os.read(fd, 2000)
        for _ in range(times):
            os.write(fd, answer(question))


def test_what_is_left_over_of_two_answers_does_not_outlive_the_link() -> None:
    fd = attach_tap(make_tap(0, 1500))
    probe = DeviceProbe("tap0", LOCAL, REMOTE)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, fd, 2)
            for _ in range(20):
                assert await probe.ask(5) is not None
            await trio.sleep(0.1)
            nursery.cancel_scope.cancel()
        assert await probe.ask(0.2) is None

    trio.run(main)


def test_without_descriptors_nothing_is_raised_and_nothing_is_lost() -> None:
    make_tap(0, 1500)
    fd = attach_tap("tap0")
    probe = DeviceProbe("tap0", LOCAL, REMOTE)

    async def main() -> None:
        await trio.to_thread.run_sync(lambda: None)
        lowest = os.open("/dev/null", os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, 4096))
        try:
            assert probe.received() == 0
            assert not await probe.ask_beyond(LOCAL, REMOTE, 0.1)
            with trio.move_on_after(0.3) as scope:
                await carrier_lost("tap0")
            assert scope.cancelled_caught
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))

    trio.run(main)
    os.close(fd)
