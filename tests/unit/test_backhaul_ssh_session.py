"""gateway/backhaul/ssh_session.py with a shell in the place of ssh."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest
import trio

from gateway.backhaul import peer_script, ssh_session
from gateway.backhaul.link import LinkFailed, PoolTaken, Ready
from gateway.backhaul.ssh_session import LONGEST_MESSAGE, MESSAGES, Session

pytestmark = pytest.mark.trio

READ_SCRIPT = "read -r script; "
READY = "echo READY tap3 - nft -; "


class Talk:
    """A session with a shell that runs `text`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.ready: Ready | None = None

    async def run(self, *, undoes: bool = True, heartbeat: float = 9.0) -> None:
        process = await ssh_session.start(["sh", "-c", self.text], None)
        self.process = process
        self.session = Session(process, partial(peer_script.read_answer, device="tap0"))
        async with trio.open_nursery() as nursery:
            self.scope = nursery.cancel_scope
            self.ready = await nursery.start(self._talk, heartbeat, undoes)

    async def _talk(self, heartbeat, undoes, *, task_status) -> None:
        await self.session.run(b"script\n", heartbeat, task_status, undoes=undoes)

    async def failure(self) -> LinkFailed:
        with trio.fail_after(20), pytest.raises(BaseExceptionGroup) as raised:
            await self.run()
        error: BaseException = raised.value
        while isinstance(error, BaseExceptionGroup):
            (error,) = error.exceptions
        assert isinstance(error, LinkFailed)
        assert self.process.returncode is not None
        return error

    async def until_ready(self) -> None:
        with trio.fail_after(20):
            while self.ready is None:
                await trio.sleep(0.01)


async def test_a_refused_pool_brings_what_is_free() -> None:
    talk = Talk(
        READ_SCRIPT + "printf 'FAIL pool 192.0.0.6/32 is used\\nFREE 192.0.0.4\\n'; sleep 9"
    )
    failure = await talk.failure()
    assert isinstance(failure, PoolTaken)
    assert "192.0.0.4" in failure.remedy


async def test_a_refused_pool_without_more_is_not_waited_for() -> None:
    talk = Talk(READ_SCRIPT + "echo FAIL pool 192.0.0.6/32 is used; sleep 60")
    began = trio.current_time()
    assert isinstance(await talk.failure(), PoolTaken)
    assert trio.current_time() - began < 5


async def test_the_last_message_explains_the_end() -> None:
    failure = await Talk("echo first >&2; printf 'last\\033[2J' >&2; exit 255").failure()
    assert failure.cause == "ssh: last?[2J"


async def test_messages_take_little_memory() -> None:
    flood = f"yes {'x' * 3000} | head -n 3000 >&2; sleep 9"
    talk = Talk(READ_SCRIPT + READY + flood)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk.run)
        await talk.until_ready()
        with trio.fail_after(20):
            while len(talk.session._messages) < MESSAGES:
                await trio.sleep(0.01)
        assert {len(line) for line in talk.session._messages} == {LONGEST_MESSAGE}
        nursery.cancel_scope.cancel()


async def test_an_end_of_the_script_is_one_of_the_link() -> None:
    failure = await Talk(READ_SCRIPT + READY + "exec >&-; sleep 60").failure()
    assert "has ended, was killed or taken over" in failure.cause


async def test_a_login_without_the_script() -> None:
    failure = await Talk("exec >&-; sleep 60").failure()
    assert failure.cause == "the peer runs no script for us"


async def test_cancelled_it_says_stop_and_waits_for_the_answer(tmp_path) -> None:
    said = tmp_path / "said"
    answer = f"sleep 0.3; echo done >>{said}; echo GONE"
    hear = f'while read -r w; do echo "$w" >>{said}; if [ "$w" = stop ]; then {answer}; fi; done'
    talk = Talk(READ_SCRIPT + READY + hear)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk.run)
        await talk.until_ready()
        nursery.cancel_scope.cancel()
    assert said.read_text().split() == ["stop", "done"]
    assert talk.process.returncode is not None


async def test_abandoned_it_says_nothing(tmp_path) -> None:
    said = tmp_path / "said"
    talk = Talk(READ_SCRIPT + READY + f'while read -r w; do echo "<$w>" >>{said}; done')
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk.run)
        await talk.until_ready()
        talk.session.abandoned = True
        nursery.cancel_scope.cancel()
    assert "stop" not in (said.read_text() if said.exists() else "")
    assert talk.process.returncode == -signal.SIGKILL
    assert trio.current_time() - began < 2


async def test_a_link_that_is_abandoned_before_ssh_has_started_says_nothing_either(
    tmp_path,
) -> None:
    said = tmp_path / "said"
    process = await ssh_session.start(
        ["sh", "-c", READ_SCRIPT + READY + f'while read -r w; do echo "<$w>" >>{said}; done'], None
    )
    link = ssh_session.SessionLink()
    link.abandon()
    session = Session(process, partial(peer_script.read_answer, device="tap0"))
    with trio.move_on_after(0.5):
        await link._converse(session, b"script\n", 9.0, trio.TASK_STATUS_IGNORED, undoes=True)
    assert "stop" not in (said.read_text() if said.exists() else "")
    assert process.returncode == -signal.SIGKILL


async def test_a_link_that_is_abandoned_while_it_runs_says_nothing(tmp_path) -> None:
    said = tmp_path / "said"
    process = await ssh_session.start(
        ["sh", "-c", READ_SCRIPT + READY + f'while read -r w; do echo "<$w>" >>{said}; done'], None
    )
    link = ssh_session.SessionLink()
    session = Session(process, partial(peer_script.read_answer, device="tap0"))

    async def converse(*, task_status) -> None:
        await link._converse(session, b"script\n", 9.0, task_status, undoes=True)

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        await nursery.start(converse)
        link.abandon()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began < ssh_session.UNTIL_GONE
    assert "stop" not in (said.read_text() if said.exists() else "")
    assert process.returncode == -signal.SIGKILL


async def test_a_peer_that_does_not_answer_stop_is_left_after_a_while(monkeypatch) -> None:
    monkeypatch.setattr(ssh_session, "UNTIL_GONE", 0.5)
    talk = Talk(READ_SCRIPT + READY + "trap '' TERM; while :; do read -r w; sleep 0.1; done")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk.run)
        await talk.until_ready()
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert 0.5 <= trio.current_time() - began < 5
    assert talk.process.returncode == -signal.SIGKILL


async def test_stopped_while_it_connects_it_takes_no_longer_than_that(monkeypatch) -> None:
    monkeypatch.setattr(ssh_session, "UNTIL_READY", 0.5)
    talk = Talk("sleep 60")
    began = trio.current_time()
    with trio.move_on_after(0.3):
        await talk.run()
    assert trio.current_time() - began < 3
    assert talk.process.returncode is not None


async def test_what_ssh_started_ends_with_it(tmp_path) -> None:
    file = tmp_path / "pid"
    talk = Talk(f"sleep 60 & echo $! >{file}; " + READ_SCRIPT + READY + "read -r w; wait")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk.run)
        await talk.until_ready()
        talk.session.abandoned = True
        nursery.cancel_scope.cancel()
    child = int(file.read_text())
    with trio.fail_after(5):
        while _runs(child):
            await trio.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_without_the_right_to_kill_it_is_said_and_not_waited_for(monkeypatch, caplog) -> None:
    process = await ssh_session.start(["sleep", "60"], None)

    def refuse(group: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "killpg", refuse)
    with trio.fail_after(5):
        await ssh_session.end_process(process)
    process.kill()
    await process.wait()


async def test_heartbeats_come_every_third(tmp_path) -> None:
    beats = tmp_path / "beats"
    talk = Talk(READ_SCRIPT + READY + f"while read -r w; do echo x >>{beats}; done")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(talk.run, heartbeat=0.6))
        await talk.until_ready()
        began = trio.current_time()
        with trio.fail_after(20):
            while not beats.exists() or len(beats.read_text().split()) < 6:
                await trio.sleep(0.01)
        assert 0.9 <= trio.current_time() - began < 1.8
        talk.session.abandoned = True
        nursery.cancel_scope.cancel()


async def test_the_first_cause_is_told() -> None:
    """The refusal, not the end that it brings with it."""
    # In whichever order the tasks run: the end and the answer come in one moment.
    for _ in range(20):
        failure = await Talk(READ_SCRIPT + "echo FAIL no tunnel; echo other >&2; exit 1").failure()
        assert "no tunnel" in failure.cause
        pool = "echo FAIL pool 192.0.0.6/32 is used; exit 1"
        assert isinstance(await Talk(READ_SCRIPT + pool).failure(), PoolTaken)


async def test_what_was_said_on_the_way_explains_no_later_end() -> None:
    refused = "echo 'ssh: connect to host a port 22: Connection refused' >&2; sleep 0.3; "
    failure = await Talk(READ_SCRIPT + refused + READY + "sleep 0.3; exit 255").failure()
    assert failure.cause == "ssh ended with status 255 and said nothing"


async def test_nothing_follows_the_script_before_it_is_at_work(tmp_path) -> None:
    early = tmp_path / "early"
    talk = Talk(READ_SCRIPT + f"timeout 0.5 cat >{early}; " + READY + "cat >/dev/null")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(talk.run, heartbeat=0.3))
        await talk.until_ready()
        talk.session.abandoned = True
        nursery.cancel_scope.cancel()
    assert early.read_bytes() == b""


async def test_stopped_while_the_script_refuses_nothing_more_is_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(ssh_session, "UNTIL_READY", 10.0)
    talk = Talk(READ_SCRIPT + "sleep 0.5; echo FAIL no tunnel; sleep 60")
    began = trio.current_time()
    with trio.move_on_after(0.2):
        await talk.run()
    assert trio.current_time() - began < 5
