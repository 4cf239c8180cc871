"""Each phase of an attempt has its own patience, begun anew at every sign of progress; in virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import closing
from typing import Any

import pytest
from simulation import VirtualLoop

from batchupload.endpoint import Transfer, Watchdog
from batchupload.model import Phase
from batchupload.patience import LOOK_AGAIN, Patience
from batchupload.settings import TimeoutSettings

WAITS = {Phase.CONNECT: 3.0, Phase.BODY: 7.0, Phase.REPLY: 11.0}
TIMEOUTS = TimeoutSettings(connect=3.0, progress=7.0, reply=11.0, slowest_link=1000.0)
FOR_EVER = 1e6


def over_at(work: Callable[[], Coroutine[Any, Any, None]]) -> float | None:
    """When this work timed out; None if it did not. What a timer left behind gets its time too."""
    faults: list[dict[str, Any]] = []
    with closing(VirtualLoop()) as loop:
        loop.set_exception_handler(lambda _, context: faults.append(context))

        async def seen() -> float | None:
            try:
                await work()
            except TimeoutError:
                return loop.time()
            return None

        found = loop.run_until_complete(seen())
        loop.run_until_complete(asyncio.sleep(FOR_EVER))
    assert faults == []
    return found


def test_a_wait_is_over_at_its_time_and_not_before() -> None:
    async def work() -> None:
        async with Patience(5):
            await asyncio.sleep(FOR_EVER)

    assert over_at(work) == 5


def test_a_wait_without_a_time_has_no_end_and_what_is_done_in_time_is_not_over() -> None:
    async def work() -> None:
        async with Patience():
            await asyncio.sleep(FOR_EVER)
        async with Patience(5):
            await asyncio.sleep(4)

    assert over_at(work) is None


@pytest.mark.parametrize("dues", [[20.0], [2.0], [20.0, 9.0], [9.0, 20.0], [20.0, 30.0, 25.0]])
def test_a_wait_that_is_put_off_or_brought_forward_is_over_at_its_last_time(dues: list[float]) -> None:
    async def work() -> None:
        async with Patience(5) as patience:
            await asyncio.sleep(1)
            for due in dues:
                patience.until(due)
            await asyncio.sleep(FOR_EVER)

    assert over_at(work) == dues[-1]


def test_a_wait_is_put_off_again_and_again() -> None:
    async def work() -> None:
        async with Patience(5) as patience:
            for _ in range(10):
                await asyncio.sleep(4)
                patience.until(asyncio.get_running_loop().time() + 5)
            await asyncio.sleep(FOR_EVER)

    assert over_at(work) == 45


def test_a_wait_of_our_own_is_never_over_and_the_one_around_it_is_soon_after() -> None:
    ended: list[float] = []

    async def work() -> None:
        async with Patience(5) as patience:
            with patience.held(), patience.held():
                await asyncio.sleep(50)
            with patience.held():
                with patience.held():
                    pass
                await asyncio.sleep(50)
            ended.append(asyncio.get_running_loop().time())
            await asyncio.sleep(FOR_EVER)

    found = over_at(work)
    assert ended == [100]
    assert found
    assert 100 <= found <= 100 + LOOK_AGAIN


def test_a_wait_of_our_own_that_breaks_holds_nothing_any_more() -> None:
    async def work() -> None:
        async with Patience(5) as patience:
            with pytest.raises(ZeroDivisionError), patience.held():
                raise ZeroDivisionError
            await asyncio.sleep(FOR_EVER)

    assert over_at(work) == 5


def test_who_holds_a_wait_does_not_look_all_the_time() -> None:
    looks = 0

    async def work() -> None:
        nonlocal looks
        async with Patience(5) as patience:
            look = patience._look

            def counted() -> None:
                nonlocal looks
                looks += 1
                look()

            patience._look = counted  # type: ignore[method-assign]
            patience.until(4)
            with patience.held():
                await asyncio.sleep(50)

    assert over_at(work) is None
    assert 1 <= looks <= 60


def watched(
    work: Callable[[Watchdog, Transfer], Coroutine[Any, Any, None]], limit: float = FOR_EVER / 2
) -> float | None:
    """When an attempt that is watched timed out; its body's size gives it `limit` seconds."""

    async def attempt() -> None:
        async with Patience() as patience:
            transfer = Transfer(round((limit - 3 - 11) * 1000))
            await work(Watchdog(patience, transfer, TIMEOUTS), transfer)

    return over_at(attempt)


@pytest.mark.parametrize("phase", Phase)
def test_each_phase_has_its_own_wait(phase: Phase) -> None:
    async def work(watchdog: Watchdog, transfer: Transfer) -> None:
        await asyncio.sleep(2)
        if phase is not Phase.CONNECT:  # with that it begins
            transfer.phase = phase
            watchdog.progress()
        await asyncio.sleep(FOR_EVER)

    assert watched(work) == WAITS[phase] + (0 if phase is Phase.CONNECT else 2)


@pytest.mark.parametrize("phase", Phase)
def test_a_sign_of_progress_begins_the_wait_anew(phase: Phase) -> None:
    async def work(watchdog: Watchdog, transfer: Transfer) -> None:
        transfer.phase = phase
        for _ in range(20):
            watchdog.progress()
            await asyncio.sleep(WAITS[phase] - 1)
        await asyncio.sleep(FOR_EVER)

    assert watched(work) == 19 * (WAITS[phase] - 1) + WAITS[phase]


@pytest.mark.parametrize("limit", [14.0, 30.0])
def test_no_progress_brings_an_attempt_beyond_its_limit(limit: float) -> None:
    left: list[float] = []

    async def work(watchdog: Watchdog, transfer: Transfer) -> None:
        left.append(watchdog.left)
        transfer.phase = Phase.BODY
        await asyncio.sleep(1)
        left.append(watchdog.left)
        while True:
            watchdog.progress()
            await asyncio.sleep(1.5)

    assert watched(work, limit) == limit
    assert left == [limit, limit - 1]


def test_what_is_no_longer_watched_has_no_limit() -> None:
    async def work(watchdog: Watchdog, transfer: Transfer) -> None:
        await asyncio.sleep(2)
        watchdog.end()
        watchdog.progress()
        await asyncio.sleep(FOR_EVER - 5)

    assert watched(work) is None


def test_a_wait_of_our_own_counts_neither_as_stall_nor_for_the_limit() -> None:
    async def work(watchdog: Watchdog, transfer: Transfer) -> None:
        transfer.phase = Phase.BODY
        for _ in range(3):
            with watchdog.held():
                await asyncio.sleep(100)
            watchdog.progress()
            await asyncio.sleep(4)
        assert watchdog.left == 20 - 12
        watchdog.progress()
        await asyncio.sleep(FOR_EVER)

    assert watched(work, 20) == 312 + 7
