"""What the operator allows: orders and bytes a second, by the time of day; and what a run says it was held back by."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Coroutine
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from conftest import Shop, environment, outcomes, send_to_sandbox
from simulation import VirtualLoop

from batchupload.bounds import Bound, Holdup, Waits, what_bounded
from batchupload.loop import TellingLoop, idle_seconds
from batchupload.sandbox import Sandbox, SandboxOptions
from batchupload.throttle import BYTES_CREDIT, Throttle
from batchupload.timetable import Timetable, bytes_per_second, orders_per_second, timetable

M = 1 << 20


@pytest.mark.parametrize(
    ("written", "entries"),
    [
        ("1M", [(0, M)]),
        ("1.5m", [(0, 1.5 * M)]),
        ("512KiB/s", [(0, 512 * 1024)]),
        ({"08:00": "1M", "23:00": "off"}, [(480, M), (1380, None)]),
        ("08:00,1M 23:00,off", [(480, M), (1380, None)]),
        ("23:30,off 7:05,64K", [(425, 64 * 1024), (1410, None)]),
    ],
)
def test_a_bandwidth_limit_is_one_for_all_day_or_a_timetable(written: object, entries: list[Any]) -> None:
    assert timetable(written, bytes_per_second) == Timetable(tuple(entries))


@pytest.mark.parametrize("written", ["off", None, False, {"08:00": "off"}])
def test_off_is_no_limit(written: object) -> None:
    assert timetable(written, bytes_per_second) is None


@pytest.mark.parametrize(
    "written",
    ["1", 5, "M", "-1M", "0M", "1T", "nan", True, {"8": "1M"}, {"24:00": "1M"}, {"08:00": "1M", "8:00": "2M"},
     "08:00,1M 08:00,2M", {1440: "1M"}, [], "08:00,"],
)  # fmt: skip
def test_what_is_no_bandwidth_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match=r"give|twice"):
        timetable(written, bytes_per_second)


@pytest.mark.parametrize("written", [0, -1, "x", True, "nan", "1M"])
def test_what_is_no_rate_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="orders a second"):
        timetable(written, orders_per_second)


def test_the_day_begins_with_what_was_in_force_the_evening_before() -> None:
    hours = timetable({"08:00": 5, "23:00": "off"}, orders_per_second)
    assert hours
    found = [
        hours.at(datetime.fromisoformat(f"2026-01-02T{clock}"))
        for clock in ("00:00", "07:59", "08:00", "22:59", "23:00")
    ]
    assert found == [None, None, 5, 5, None]


LATE = 1.2
"""Time that passes for each second of sleep, where a loop has much to do."""


def in_virtual_time(work: Coroutine[Any, Any, float], loop: VirtualLoop) -> float:
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


def test_a_limit_changes_as_the_hour_strikes_also_for_what_waits_already() -> None:
    loop = VirtualLoop()
    hours = timetable({"08:00": "1K", "09:00": "10K", "10:00": "off"}, bytes_per_second)
    assert hours
    start = datetime.fromisoformat("2026-01-02T08:59")

    async def carry() -> float:
        throttle = Throttle(hours, loop.time, lambda: start + timedelta(seconds=loop.time()))
        for _ in range(1000):
            await throttle.passed(1024)
        return loop.time()

    # 60 in the first minute, then ten a second.
    assert in_virtual_time(carry(), loop) == pytest.approx(60 + 940 / 10, abs=2)


def test_a_debt_of_hours_is_forgotten_once_there_is_no_limit() -> None:
    loop = VirtualLoop()
    hours = timetable({"08:00": "1K", "09:00": "off"}, bytes_per_second)
    assert hours
    start = datetime.fromisoformat("2026-01-02T08:59")

    async def carry() -> float:
        throttle = Throttle(hours, loop.time, lambda: start + timedelta(seconds=loop.time()))
        await throttle.passed(36_000_000)
        await throttle.passed(1)
        return loop.time()

    assert in_virtual_time(carry(), loop) == pytest.approx(60, abs=2)


def test_who_is_woken_late_loses_nothing_of_the_bandwidth() -> None:
    loop = VirtualLoop()
    hours = timetable("1M", bytes_per_second)
    assert hours

    async def carry() -> float:
        throttle = Throttle(hours, lambda: loop.time() * LATE, datetime.now, BYTES_CREDIT)
        for _ in range(640):
            await throttle.passed(16 * 1024)
        return loop.time() * LATE

    assert in_virtual_time(carry(), loop) == pytest.approx(10, rel=0.02)


async def test_no_more_orders_go_in_a_second_than_allowed(shop: Shop) -> None:
    orders = shop.orders(21)
    summary, report, _ = await send_to_sandbox(shop.manifest(), pace={"rate": 20, "concurrency": 8, "canary": 0})
    assert set(outcomes(report)) == set(orders)
    assert summary.exit_code == 0
    assert summary.seconds >= 20 / 20
    assert summary.bounded
    assert summary.bounded.bound is Bound.LIMIT
    assert "pace.rate" in summary.as_text(100)


async def test_no_more_bytes_go_in_a_second_than_allowed_and_our_own_wait_is_no_stall(shop: Shop) -> None:
    shop.orders(4)
    pace = {"bandwidth": "10K", "concurrency": 4, "canary": 0}
    summary, _, server = await send_to_sandbox(shop.manifest(), pace=pace, timeouts={"progress": 0.2, "reply": 0.5})
    assert summary.exit_code == 0
    assert server.stats()["requests"] == 4
    assert summary.seconds >= (summary.tally.bytes_sent - 4 * 16 * 1024) / (10 * 1024)


def waits(top: Holdup, uploading: float = 1.0, answering: float = 9.0) -> Waits:
    found = Waits(uploading=uploading, answering=answering, answered=10.0, at_best=8.0, sends=100)
    found.holdups[top] = 100.0
    return found


@pytest.mark.parametrize(
    ("found", "changes", "bound", "words"),
    [
        (waits(Holdup.PLACES), {}, Bound.ENDPOINT, "90%"),
        (waits(Holdup.PLACES, 9, 1), {}, Bound.LINK, "90%"),
        (waits(Holdup.PLACES), {"capped": "pace.highest (64 at once)"}, Bound.LIMIT, "pace.highest"),
        (waits(Holdup.PLACES), {"held": 90.0}, Bound.LIMIT, "pace.bandwidth"),
        (
            replace(waits(Holdup.PLACES), at_best=5.0),
            {"capped": "pace.highest (4 at once)"},
            Bound.ENDPOINT,
            "90%",
        ),
        (
            replace(waits(Holdup.PLACES), overloaded=20),
            {"capped": "pace.concurrency (8)"},
            Bound.ENDPOINT,
            "20 of",
        ),
        (Waits(), {"held": 90.0}, Bound.LIMIT, "pace.bandwidth"),
        (waits(Holdup.RATE), {}, Bound.LIMIT, "pace.rate"),
        (waits(Holdup.QUIET), {}, Bound.ENDPOINT, "asked for time"),
        (waits(Holdup.PHOTOS), {}, Bound.MACHINE, "photos"),
        (waits(Holdup.PLACES), {"busy": 0.95}, Bound.MACHINE, "processor"),
    ],
)
def test_what_held_a_run_back_is_told(found: Waits, changes: dict[str, Any], bound: Bound, words: str) -> None:
    verdict = what_bounded(found, 110.0, **{"busy": 0.1, "held": 0.0, "capped": "", **changes})
    assert verdict
    assert verdict.bound is bound
    assert words in verdict.sentence


def test_a_run_of_a_moment_is_held_back_by_nothing() -> None:
    assert what_bounded(Waits(), 0.5, busy=0.95, held=0.0, capped="") is None
    assert what_bounded(Waits(), 5.0, busy=0.2, held=0.0, capped="") is None


def test_the_loop_tells_waiting_from_work() -> None:
    async def work_and_wait(work: float, wait: float) -> float:
        loop = asyncio.get_running_loop()
        began, idled = loop.time(), idle_seconds(loop)
        time.sleep(work)
        await asyncio.sleep(wait)
        return (idle_seconds(loop) - idled) / (loop.time() - began)

    with asyncio.Runner(loop_factory=TellingLoop) as runner:
        assert runner.run(work_and_wait(0.5, 0.02)) < 0.5
        assert runner.run(work_and_wait(0.02, 0.5)) > 0.5


ON_A_SLOW_MACHINE = """
import time
import batchupload.attempt
from batchupload.cli import main

def judge(*arguments, judged=batchupload.attempt.judge):
    time.sleep(0.05)
    return judged(*arguments)

batchupload.attempt.judge = judge
main()
"""
"""The program where it takes long to see what an answer says."""


@pytest.mark.parametrize(
    ("program", "latency", "bound"),
    [(("-m", "batchupload"), 0.5, "endpoint"), (("-c", ON_A_SLOW_MACHINE), 0.0, "machine")],
)
async def test_a_slow_machine_is_not_taken_for_a_slow_endpoint(
    shop: Shop, program: tuple[str, str], latency: float, bound: str
) -> None:
    shop.orders(60)
    shop.manifest()
    async with Sandbox(SandboxOptions(latency=latency)) as server:
        words = [sys.executable, *program, "run", "orders.csv", "--endpoint", server.url, "-q", "--json"]
        done = await asyncio.to_thread(
            subprocess.run, words, cwd=shop.folder, env=environment(), capture_output=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bounded_by"] == bound
