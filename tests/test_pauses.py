"""Real pauses of the real program, longer than its limits: nothing is called broken, nothing is lost, no burst."""

import asyncio
import signal
import sys
from pathlib import Path

import pytest
from conftest import Shop, command, environment, outcomes, read_report
from pausing import MOMENTS

from batchupload.sandbox import Sandbox, SandboxOptions

PAUSE = 2.5
"""Seconds; the limits of these runs are one."""
UPLOADED = ("uploaded", "accepted")
LIMITS = {f"BATCHUPLOAD_TIMEOUTS_{name}": "1" for name in ("CONNECT", "PROGRESS", "REPLY", "PHOTOS", "DRAIN")}


async def started(shop: Shop, *words: str | Path, **env: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *map(str, words), cwd=shop.folder, env=environment({**LIMITS, **env}),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def stopped(process: asyncio.subprocess.Process) -> bool:
    """Wait until it is stopped; tell whether it is, or has ended without."""
    async with asyncio.timeout(60):
        while process.returncode is None:
            state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "T":
                return True
            await asyncio.sleep(0.02)
    return False


async def slept(process: asyncio.subprocess.Process) -> str:
    """Let it sleep, wake it, and wait for its end; what it said."""
    await asyncio.sleep(PAUSE)
    process.send_signal(signal.SIGCONT)
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return (out + err).decode()


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc whether the program is stopped")
@pytest.mark.parametrize("moment", MOMENTS)
async def test_a_disk_that_is_waited_for_in_a_pause_is_not_called_broken(shop: Shop, moment: str) -> None:
    orders = shop.orders(12)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.05)) as server:
        words = ("run", "orders.csv", "--report", "report.csv", "--endpoint", server.url, "--concurrency", "2")
        process = await started(shop, sys.executable, Path(__file__).with_name("pausing.py"), moment, *words)
        assert await stopped(process), (await process.communicate())[1]
        said = await slept(process)
    assert process.returncode == 0, said
    assert outcomes(read_report(shop.folder / "report.csv")) == dict.fromkeys(orders, UPLOADED)
    assert int(str(server.stats()["requests"])) == len(orders)
    assert (shop.folder / "report.html").exists()
    assert "does not answer" not in said


async def run_reached(
    shop: Shop, server: Sandbox, requests: int, *options: str, **env: str
) -> asyncio.subprocess.Process:
    """The program in mid-run, with at least so many `requests` at the sandbox."""
    words = command("run", "orders.csv", "--report", "report.csv", "--endpoint", server.url, *options)
    process = await started(shop, *words, **env)
    async with asyncio.timeout(60):
        while int(str(server.stats(orders=False)["requests"])) < requests:
            assert process.returncode is None
            await asyncio.sleep(0.01)
    return process


async def test_answers_that_came_in_a_pause_count(shop: Shop) -> None:
    orders = shop.orders(40)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.4)) as server:
        process = await run_reached(shop, server, 6, "--concurrency", "4")
        for _pause in range(3):
            process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(PAUSE)
            process.send_signal(signal.SIGCONT)
            await asyncio.sleep(0.5)
        await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert outcomes(read_report(shop.folder / "report.csv")) == dict.fromkeys(orders, UPLOADED)
    assert int(str(server.stats()["max_open"])) <= 4
    assert int(str(server.stats()["requests"])) == len(orders)


async def test_a_pause_in_the_drain_time_does_not_use_it_up(shop: Shop) -> None:
    orders = shop.orders(40)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.7)) as server:
        process = await run_reached(shop, server, 6, "--concurrency", "4")
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.1)
        process.send_signal(signal.SIGSTOP)
        said = await slept(process)
    assert process.returncode == 143, said
    report = outcomes(read_report(shop.folder / "report.csv"))
    assert {order for order, ending in report.items() if ending == UPLOADED} == set(server.accepted)
    assert set(report) == set(orders)
    assert set(report.values()) == {UPLOADED, ("deferred", "stopped")}


async def test_a_deadline_that_passes_in_a_pause_ends_the_run(shop: Shop) -> None:
    orders = shop.orders(60)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.2)) as server:
        process = await run_reached(shop, server, 6, "--concurrency", "2", "--deadline", "6s")
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(6)
        said = await slept(process)
    assert process.returncode == 3, said
    report = outcomes(read_report(shop.folder / "report.csv"))
    assert {order for order, ending in report.items() if ending == UPLOADED} == set(server.accepted)
    assert set(report) == set(orders)
    assert set(report.values()) == {UPLOADED, ("deferred", "deadline")}
