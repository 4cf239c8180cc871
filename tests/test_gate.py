"""The gate that every send passes: what it waits for, what it learns of each send, and what it tells of both."""

import asyncio
import math
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from scripted import ACCEPTED, BUSY, LOST, REFUSED, Clock, gate_of, learns, moment, now, take, virtually

from batchupload.bounds import Holdup
from batchupload.model import Finding, Verdict
from batchupload.pace import CANARY_SENDS, LOOK_AGAIN, Pace, Turn
from batchupload.reasons import Reason
from batchupload.settings import PaceSettings, RetrySettings
from batchupload.stop import Stop
from batchupload.throttle import Throttle

# How many at once


async def test_the_first_orders_go_a_few_at_a_time_and_then_all_places_are_open() -> None:
    gate, _ = gate_of(canary=3)
    first = Turn(probe=False, first=True)
    assert (gate.concurrency, gate.why) == (CANARY_SENDS, "the first orders go ahead")
    learns(gate, ACCEPTED, 2, first)
    learns(gate, ACCEPTED, 5)  # no order's first
    assert gate.concurrency == CANARY_SENDS
    learns(gate, ACCEPTED, 1, first)
    assert (gate.concurrency, gate.why) == (8, "as set")


async def test_with_fewer_places_than_the_first_orders_take_there_are_no_more_of_them() -> None:
    assert gate_of(canary=3, concurrency=2)[0].concurrency == 2


def test_who_waits_at_the_gate_goes_as_soon_as_no_order_is_left_that_was_never_tried() -> None:
    async def waits() -> None:
        gate, _ = gate_of(now, canary=20)
        await take(gate, CANARY_SENDS)
        waiting = asyncio.ensure_future(gate.turn(first=True))
        await asyncio.sleep(5)
        assert not waiting.done()
        gate.no_more_untried()
        assert await waiting == Turn(probe=False, first=True)
        assert (moment(), gate.concurrency) == (5, 8)

    virtually(waits())


def test_a_place_is_free_once_the_send_is_over_and_on_record() -> None:
    async def passes() -> None:
        gate, _ = gate_of(now, concurrency=2)
        turns = await take(gate, 2)
        assert (gate.under_way, gate.ready) == (2, False)
        waiting = asyncio.ensure_future(gate.turn(first=True))
        await asyncio.sleep(1)
        assert gate.waits_for is Holdup.PLACES
        with gate.send(turns[0]):
            pass
        await asyncio.sleep(1)
        assert (gate.under_way, waiting.done()) == (1, False), "what became of it is not on record yet"
        gate.settled(1)
        assert await waiting
        assert [gate.under_way, moment(), gate.waits_for] == [2, 2, None]
        assert gate.waits.holdups == {**dict.fromkeys(Holdup, 0.0), Holdup.PLACES: pytest.approx(2.0, abs=0.01)}

    virtually(passes())


def test_a_send_that_a_fault_ends_frees_its_place_too() -> None:
    async def fails() -> None:
        gate, _ = gate_of(now, probe_after_failures=1)
        learns(gate, BUSY)
        await asyncio.sleep(1)
        [turn] = await take(gate, 1)
        with pytest.raises(LookupError), gate.send(turn):
            raise LookupError
        assert gate.under_way == 0
        assert gate.ready, "the next one may probe"

    virtually(fails())


async def test_only_as_many_wait_to_be_recorded_as_there_are_places_at_most() -> None:
    gate, _ = gate_of(concurrency="auto", highest=2, lowest=2)
    for turn in await take(gate, 2):
        with gate.send(turn):
            pass
    assert (gate.under_way, gate.ready) == (0, False)
    gate.settled(2)
    assert gate.ready


def test_the_end_of_the_run_wakes_who_waits_and_lets_nobody_through() -> None:
    async def ends() -> None:
        gate, stop = gate_of(now, concurrency=1)
        await take(gate, 1)
        waiting = asyncio.ensure_future(gate.turn(first=True))
        await asyncio.sleep(3)
        stop.ask(Reason.DEADLINE)
        assert await waiting is None
        assert moment() == 3
        gate.settled(1)
        assert await gate.turn(first=True) is None
        assert gate.under_way == 1

    virtually(ends())


# What is asked for, and what there is


def test_the_quiet_that_the_endpoint_asks_for_is_kept_to_its_end_and_no_longer() -> None:
    async def asked() -> None:
        gate, _ = gate_of(now)
        learns(gate, Finding(Verdict.RETRY, Reason.RATE_LIMITED, 429, retry_after=20.0))
        learns(gate, Finding(Verdict.RETRY, Reason.RATE_LIMITED, 429, retry_after=7.0))
        assert gate.paused == 20
        assert not gate.ready
        waiting = asyncio.ensure_future(gate.turn(first=True))
        await asyncio.sleep(2)
        assert (gate.waits_for, gate.paused) == (Holdup.QUIET, 18)
        assert await waiting == Turn(probe=False, first=True)
        assert moment() == 20
        assert gate.waits.holdups[Holdup.QUIET] == pytest.approx(20, abs=0.01)
        assert gate.waits.holdups[Holdup.PLACES] == 0
        await asyncio.sleep(5)
        assert gate.paused == 0

    virtually(asked())


@pytest.mark.parametrize("verdict", [Verdict.REJECTED, Verdict.MISADDRESSED, Verdict.AMBIGUOUS, Verdict.ACCEPTED])
async def test_only_an_answer_that_asks_to_come_again_closes_the_gate(verdict: Verdict) -> None:
    gate, _ = gate_of()
    learns(gate, Finding(verdict, Reason.ENDPOINT_REFUSED, retry_after=20.0))
    assert (gate.paused, gate.ready) == (0, True)


class TwoASecond:
    """The limit of orders a second."""

    def at(self, moment: datetime, /) -> float:
        return 2.0


def test_no_more_go_in_a_second_than_the_limit_says() -> None:
    async def goes() -> None:
        stop = Stop()
        settings = PaceSettings(concurrency=8, canary=0)
        rate = Throttle(TwoASecond(), now, lambda: datetime.now(UTC))
        gate = Pace(settings, RetrySettings(), stop, now, rate)
        await take(gate, 5)
        assert moment() == pytest.approx(2.0)
        assert gate.waits.holdups[Holdup.RATE] == pytest.approx(2.0, abs=0.01)
        assert gate.waits.holdups[Holdup.QUIET] == 0
        learns(gate, Finding(Verdict.RETRY, Reason.RATE_LIMITED, 429, retry_after=20.0))
        await take(gate, 1)
        assert moment() == pytest.approx(22.0), "of two waits it is the longer"
        assert gate.waits.holdups[Holdup.QUIET] == pytest.approx(20.0, abs=0.01)

    virtually(goes())


async def test_photos_that_are_not_ready_hold_up_a_send_only_if_one_might_go() -> None:
    gate, _ = gate_of(concurrency=1)
    gate.starved(2.0)
    gate.starved(1.5)
    await take(gate, 1)
    gate.starved(4.0)
    assert gate.waits.holdups[Holdup.PHOTOS] == 3.5


# Retries


def test_a_burst_of_retries_goes_at_once_and_then_ten_a_second() -> None:
    async def retries() -> list[float]:
        gate, _ = gate_of(now)
        went = []
        for _ in range(30):
            await gate.retry_turn()
            went.append(moment())
        return went

    went = virtually(retries())
    assert went[:10] == [0] * 10
    assert went[10:] == pytest.approx([0.1 * n for n in range(1, 21)], abs=0.002)


def test_no_more_than_a_hundred_retries_are_saved_up_and_each_first_send_adds_its_share() -> None:
    async def count(wait: float, sends: int, *, first: bool = True) -> int:
        gate, _ = gate_of(now, concurrency=200)
        await asyncio.sleep(wait)
        began, retries = moment(), 0
        for _ in range(sends):
            for turn in await take(gate, 1, first=first):
                with gate.send(turn):
                    gate.settled(1)
        while moment() == began:
            await gate.retry_turn()
            retries += 1
        return retries - 1

    assert virtually(count(0, 0)) == 10
    assert virtually(count(0, 50)) == 20
    assert virtually(count(0, 50, first=False)) == 10
    assert virtually(count(3, 0)) == 40
    assert virtually(count(1000, 1000)) == 100


def test_who_waits_for_a_retry_when_the_run_ends_waits_no_longer() -> None:
    async def ends() -> None:
        gate, stop = gate_of(now)
        for _ in range(10):
            await gate.retry_turn()
        waiting = [asyncio.ensure_future(gate.retry_turn()) for _ in range(50)]
        await asyncio.sleep(0.25)
        assert sum(one.done() for one in waiting) == 2, "one after the other"
        stop.ask(Reason.STOPPED)
        await asyncio.gather(*waiting)
        assert moment() == 0.25

    virtually(ends())


# What it tells


async def test_it_says_that_no_upload_gets_through_and_how_they_went() -> None:
    gate, _ = gate_of(canary=20)
    assert gate.why == "the first orders go ahead"
    learns(gate, BUSY, seconds=2.0)
    learns(gate, LOST, 2, seconds=5.0)
    assert gate.why == "no upload has got through yet: 3 tried, reply_lost, 4 s each"
    learns(gate, ACCEPTED)
    learns(gate, LOST, 2, seconds=5.0)
    assert gate.why == "the first orders go ahead"
    learns(gate, LOST, seconds=2.0)
    assert gate.why == "no upload gets through: 3 tried, reply_lost, 4 s each"


async def test_one_failure_is_told_if_nothing_was_answered_yet() -> None:
    gate, _ = gate_of()
    learns(gate, BUSY, seconds=2.0)
    assert gate.why == "no upload has got through yet: 1 tried, unavailable, 2 s each"


async def test_the_setting_that_keeps_more_from_going_is_named() -> None:
    assert gate_of(concurrency=8)[0].capped == "pace.concurrency (8 at once)"
    assert gate_of(concurrency="auto", highest=1)[0].capped == "pace.highest (1 at once)"
    assert gate_of(concurrency="auto", highest=9)[0].capped == ""


async def test_the_time_of_sends_is_told_apart_by_what_they_waited_for() -> None:
    gate, _ = gate_of()
    learns(gate, ACCEPTED, seconds=3.0, uploading=1.0, size=1000)
    learns(gate, REFUSED, seconds=6.0, uploading=2.0, size=1000)
    learns(gate, LOST, seconds=10.0, uploading=3.0, size=1000)
    waits = gate.waits
    assert (waits.sends, waits.uploading, waits.answering) == (3, 6.0, 13.0)
    assert (waits.answered, waits.at_best) == (9.0, 6.0)
    assert waits.overloaded == 0


@pytest.mark.parametrize(
    ("reason", "counts"),
    [
        (Reason.RATE_LIMITED, True), (Reason.UNAVAILABLE, True), (Reason.REPLY_TIMEOUT, True),
        (Reason.CONNECT_TIMEOUT, True), (Reason.UPLOAD_STALLED, True), (Reason.SERVER_ERROR, False),
        (Reason.REPLY_LOST, False),
    ],
)  # fmt: skip
async def test_too_much_to_do_halves_the_sends_at_once(reason: Reason, counts: bool) -> None:
    clock = Clock()
    gate, _ = gate_of(clock, concurrency="auto", lowest=1, highest=8)
    await take(gate, 1)
    for _ in range(40):
        clock.time += 0.1
        while gate.ready:
            await take(gate, 1)
        learns(gate, ACCEPTED, seconds=0.1, began=clock.time)
    assert gate.concurrency == 8
    learns(gate, Finding(Verdict.RETRY, reason), began=clock.time)
    assert (gate.concurrency, gate.waits.overloaded) == ((4, 1) if counts else (8, 0))
    learns(gate, Finding(Verdict.RETRY, reason), began=clock.time)
    assert gate.waits.overloaded == (2 if counts else 0)


def test_an_answer_counts_for_the_limit_with_its_time_its_size_and_what_was_under_way() -> None:
    async def grows(seconds: Callable[[int], float]) -> int:
        gate, _ = gate_of(now, concurrency="auto", highest=64)
        for number in range(60):
            turns = await take(gate, gate.concurrency)
            began = now()
            await asyncio.sleep(0.1)
            for turn in turns:
                learns(gate, ACCEPTED, 1, turn, seconds=seconds(len(turns)), began=began, size=1000 << (number % 3))
                with gate.send(turn):
                    gate.settled(1)
        return gate.concurrency

    assert virtually(grows(lambda _: 0.1)) == 64
    assert virtually(grows(lambda count: 0.1 * max(count / 8, 1))) < 20, "it queues beyond eight"


def test_who_waits_looks_again_though_nothing_moved() -> None:
    """The hour may have struck at which a limit ends."""

    async def looks() -> None:
        clock = Clock()
        gate, _ = gate_of(clock)
        learns(gate, Finding(Verdict.RETRY, Reason.RATE_LIMITED, 429, retry_after=1000.0))
        waiting = asyncio.ensure_future(gate.turn(first=True))
        await asyncio.sleep(1)
        clock.time += 1000
        await waiting
        assert moment() <= 1 + LOOK_AGAIN
        assert not math.isinf(clock.time)

    virtually(looks())
