"""The whole name server on the loopback device: resolv.conf, itself left out, and its end."""

from __future__ import annotations

import random
import socket
from pathlib import Path

import dns.message
import pytest
import trio

from gateway.dns64 import service
from gateway.dns64.settings import Dns64Settings, Limits
from gateway.host.plan import HostError
from tests.unit.dns64_fakes import WKP, lines_of, query_wire


def free_port() -> int:
    """A port that is free at this moment, and is not one that the kernel gives to clients."""
    while True:
        port = random.randint(20_000, 32_000)
        try:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                with socket.socket(socket.AF_INET6, kind) as sock:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
                    sock.bind(("::", port))
        except OSError:
            continue
        return port


async def upstream(address: str, *, task_status) -> None:
    """Answers every A question with `address`, every other with nothing; below dead.test none."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.1", 0))
        task_status.started(sock.getsockname()[1])
        while True:
            data, source = await sock.recvfrom(4096)
            asked = dns.message.from_wire(data)
            if asked.question[0].name.to_text().endswith("dead.test."):
                continue
            reply = dns.message.make_response(asked)
            if asked.question[0].rdtype == 1:
                reply.answer.append(
                    dns.rrset.from_text(asked.question[0].name, 60, "IN", "A", address)
                )
            await sock.sendto(reply.to_wire(), source)


async def ask(port: int, name: str, host: str = "::1") -> list[str]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
        await sock.connect((host, port))
        await sock.send(query_wire(name))
        with trio.fail_after(10):
            return [line.split()[-1] for line in lines_of(await sock.recv(4096))]


@pytest.mark.trio
async def test_resolv_conf_is_followed_and_leads_not_back(
    nursery, tmp_path: Path, monkeypatch, caplog
):
    monkeypatch.setattr(service, "_LOOK_EVERY", 0.05)
    one = await nursery.start(upstream, "192.0.2.1")
    two = await nursery.start(upstream, "192.0.2.2")
    port = free_port()
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text(f"nameserver ::1@{port}\nnameserver 127.0.0.1@{one}\n")
    settings = Dns64Settings((WKP,), listen=(f"::1@{port}",), resolv_conf=str(resolv_conf))

    async def run(*, task_status) -> None:
        await service.serve(settings, admit=lambda address: False, task_status=task_status)

    caplog.set_level("INFO")
    running = await nursery.start(run)
    assert await ask(port, "a.test") == ["64:ff9b::c000:201"]
    assert f"asks 127.0.0.1@{one}" in caplog.text
    assert "::1@" not in caplog.text
    resolv_conf.write_text(f"nameserver 127.0.0.1@{two}\n# another length\n")
    with trio.fail_after(10):
        while f"asks 127.0.0.1@{two}" not in caplog.text:
            await trio.sleep(0.02)
    assert await ask(port, "b.test") == ["64:ff9b::c000:202"]
    counters = running.counters()
    assert counters["dns64-engine-synthesised"] == 2
    assert counters["dns64-waiting"] == 0
    resolv_conf.write_text(f"nameserver ::1@{port}\n")
    with trio.fail_after(10):
        while "names no server but this one" not in caplog.text:
            await trio.sleep(0.02)
    assert await ask(port, "c.test") == []


@pytest.mark.trio
async def test_questions_without_an_answer_leave_room_for_others(nursery):
    """With as many of them as one network may have, though each asks for AAAA and A."""
    asks = await nursery.start(upstream, "192.0.2.1")
    port = free_port()
    settings = Dns64Settings(
        (WKP,),
        listen=(f"::1@{port}", f"127.0.0.1@{port}"),
        upstreams=(f"127.0.0.1@{asks}",),
        timeout=60.0,
        limits=Limits(queries=8),
    )

    async def run(*, task_status) -> None:
        await service.serve(settings, admit=lambda address: False, task_status=task_status)

    running = await nursery.start(run)
    with trio.socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        await sock.connect(("::1", port))
        for number in range(4):
            await sock.send(query_wire(f"n{number}.dead.test"))
            with trio.fail_after(10):
                while running.counters()["dns64-waiting"] < 2 * (number + 1):
                    await trio.sleep(0.01)
        assert await ask(port, "a.test", "127.0.0.1") == ["64:ff9b::c000:201"]


@pytest.mark.trio
async def test_a_taken_port_and_a_bad_file_are_one_line():
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as taken:
        taken.bind(("::1", 0))
        port = taken.getsockname()[1]
        settings = Dns64Settings((WKP,), listen=(f"::1@{port}",), upstreams=("192.0.2.1",))
        with pytest.raises(HostError, match=rf"another program listens on \[::1\]:{port}"):
            await service.serve(settings, admit=lambda address: True)
    settings = Dns64Settings((WKP,), tls_ca_file="/nowhere/ca.pem")
    with pytest.raises(HostError, match="tls_ca_file /nowhere/ca"):
        await service.serve(settings, admit=lambda address: True)
