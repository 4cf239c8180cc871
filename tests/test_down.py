"""When the gate takes an endpoint to be down, its address to be wrong, or its answers to be all alike."""

import asyncio

import pytest
from scripted import (
    ACCEPTED,
    ASTRAY,
    BUSY,
    LOST,
    PLAIN,
    PROBE,
    REFUSED,
    Clock,
    attempt,
    gate_of,
    learns,
    moment,
    now,
    take,
    virtually,
)  # fmt: skip

from batchupload.bounds import Holdup
from batchupload.model import Finding, Verdict
from batchupload.pace import CANARY_SENDS, Pace, Turn
from batchupload.reasons import Reason

# An endpoint that is down


@pytest.mark.parametrize(
    ("failures", "seconds", "down"),
    [(9, 1.0, False), (10, 1.0, True), (2, 90.0, False), (3, 39.9, False), (3, 40.0, True)],
)
async def test_so_many_failures_or_a_few_slow_ones_are_an_endpoint_that_is_down(
    failures: int, seconds: float, down: bool
) -> None:
    gate, _ = gate_of()
    learns(gate, LOST, failures, seconds=seconds)
    assert gate.down == down


@pytest.mark.parametrize("met", [ACCEPTED, REFUSED])
async def test_any_answer_ends_what_failed_in_a_row(met: Finding) -> None:
    gate, _ = gate_of(probe_after_failures=3, stop_after_misaddressed=2)
    learns(gate, LOST, 2, seconds=100.0)
    learns(gate, met)
    assert gate.why == "as set"
    learns(gate, LOST, 2, seconds=59.9)
    assert not gate.down
    learns(gate, LOST, seconds=0.1)
    assert gate.down, "by their number"


async def test_the_time_of_what_failed_counts_anew_after_an_answer() -> None:
    gate, _ = gate_of()
    learns(gate, LOST, 2, seconds=100.0)
    learns(gate, ACCEPTED)
    learns(gate, LOST, 3, seconds=39.9)
    assert not gate.down


def test_the_wait_between_probes_doubles_to_half_a_minute_and_begins_anew_after_an_answer() -> None:
    async def probes(gate: Pace, count: int) -> list[float]:
        waits = []
        for _ in range(count):
            began = moment()
            [turn] = await take(gate, 1)
            assert turn.probe
            with gate.send(turn):
                learns(gate, BUSY, 1, turn)
            gate.settled(1)
            waits.append(round(moment() - began, 6))
        return waits

    async def down() -> None:
        gate, stop = gate_of(now, probe_after_failures=2, patience=86400)
        learns(gate, ACCEPTED)
        learns(gate, BUSY, 2)
        assert await probes(gate, 8) == [1, 2, 4, 8, 16, 30, 30, 30]
        learns(gate, ACCEPTED, 1, PROBE)
        assert not gate.down
        learns(gate, BUSY, 2)
        assert await probes(gate, 2) == [1, 2]
        assert stop.cause is None

    virtually(down())


async def test_what_was_under_way_when_it_went_down_puts_off_no_probe() -> None:
    clock = Clock()
    gate, _ = gate_of(clock, probe_after_failures=2, patience_at_start=600)
    learns(gate, BUSY, 2)
    clock.time += 0.75
    learns(gate, BUSY, 5)
    clock.time += 0.25
    assert gate.ready
    assert gate.patience_left == 599


def test_one_probe_at_a_time_and_who_waits_looks_again_soon() -> None:
    async def probes() -> None:
        gate, _ = gate_of(now, probe_after_failures=1)
        learns(gate, BUSY)
        [probe] = await take(gate, 1)
        assert probe == Turn(probe=True, first=True)
        assert moment() == 1
        waiting = asyncio.ensure_future(gate.turn(first=False))
        await asyncio.sleep(5)
        assert (waiting.done(), gate.waits_for) == (False, Holdup.QUIET)
        with gate.send(probe):
            learns(gate, ACCEPTED, 1, probe)
        assert await waiting == Turn(probe=False, first=False)
        assert (moment(), gate.waits_for) == (6, None)
        assert gate.waits.holdups[Holdup.QUIET] == pytest.approx(6, abs=0.01)

    virtually(probes())


def test_a_send_that_began_before_the_probe_does_not_open_the_way_for_a_second_one() -> None:
    async def ends() -> None:
        gate, _ = gate_of(now, probe_after_failures=1)
        [early] = await take(gate, 1)
        learns(gate, BUSY)
        [probe] = await take(gate, 1)
        assert (early.probe, probe.probe) == (False, True)
        with gate.send(early):
            learns(gate, BUSY, 1, early)
        assert not gate.ready
        await asyncio.sleep(100)
        assert not gate.ready

    virtually(ends())


@pytest.mark.parametrize(("answered", "patience"), [(False, 60.0), (True, 900.0)])
def test_an_endpoint_that_stays_down_ends_the_run_as_its_patience_ends(answered: bool, patience: float) -> None:
    async def stays() -> None:
        gate, stop = gate_of(now)
        if answered:
            learns(gate, REFUSED)
        learns(gate, BUSY, 9)
        assert gate.patience_left == patience, "it is not down yet"
        await asyncio.sleep(10)
        learns(gate, BUSY)
        began = moment()
        assert gate.patience_left == patience
        while turn := await gate.turn(first=False):
            assert gate.under_way == 1
            with gate.send(turn):
                learns(gate, Finding(Verdict.RETRY, Reason.UNAVAILABLE, 503, message="down"), 1, turn)
            gate.settled(1)
        assert (stop.cause, stop.detail) == (Reason.ENDPOINT_DOWN, "Last met: unavailable (HTTP 503) “down”")
        assert moment() - began == pytest.approx(patience, abs=0.01)
        assert gate.patience_left == pytest.approx(0, abs=0.01)

    virtually(stays())


# An endpoint whose address is wrong


async def test_a_wrong_address_ends_the_run_after_the_first_few_and_says_what_was_met() -> None:
    gate, stop = gate_of()
    learns(gate, ASTRAY, 4)
    assert stop.cause is None
    learns(gate, ASTRAY)
    assert [stop.cause, stop.detail] == [Reason.ADDRESS_REFUSED, "Last met: wrong_address (HTTP 404)"]
    assert not gate.down


async def test_after_an_answer_four_times_as_many_in_a_row_end_it() -> None:
    gate, stop = gate_of()
    learns(gate, ASTRAY, 4)
    learns(gate, ACCEPTED)
    learns(gate, ASTRAY, 19)
    assert stop.cause is None
    learns(gate, BUSY)  # which shows that it is not the address
    learns(gate, ASTRAY, 19)
    assert stop.cause is None
    learns(gate, ASTRAY)
    assert stop.cause is Reason.ADDRESS_REFUSED
    assert stop.detail == "Last met: wrong_address (HTTP 404)"


async def test_what_was_met_is_said_without_a_status_if_there_was_none() -> None:
    gate, stop = gate_of(stop_after_misaddressed=1)
    learns(gate, Finding(Verdict.MISADDRESSED, Reason.WRONG_ADDRESS, message="no such host"))
    assert stop.detail == "Last met: wrong_address “no such host”"


# The first orders, and those that are known


async def test_first_orders_that_all_meet_the_same_end_the_run_at_the_last_of_them() -> None:
    gate, stop = gate_of(canary=3)
    learns(gate, REFUSED, 2, Turn(probe=False, first=True))
    learns(gate, REFUSED, 5)  # no order's first send
    assert stop.cause is None
    learns(gate, REFUSED, 1, Turn(probe=False, first=True))
    assert stop.cause is Reason.CANARY
    assert stop.detail == "3 of the first 3 orders met endpoint_refused (“订单不存在”)."


async def test_first_orders_that_went_well_are_not_looked_at_again_however_the_later_ones_go() -> None:
    gate, stop = gate_of(canary=3)
    learns(gate, ACCEPTED, 3, Turn(probe=False, first=True))
    learns(gate, REFUSED, 50, Turn(probe=False, first=True))
    assert stop.cause is None


async def test_a_refusal_that_is_known_is_an_answer_and_no_first_order_to_learn_from() -> None:
    gate, stop = gate_of(canary=3)
    first = Turn(probe=False, first=True)
    for _ in range(10):
        gate.learn(first, attempt(REFUSED), known=True)
    assert (stop.cause, gate.concurrency) == (None, CANARY_SENDS)
    learns(gate, REFUSED, 2, first)
    assert stop.cause is None
    learns(gate, REFUSED, 1, first)
    assert stop.cause is Reason.CANARY


async def test_a_known_failure_tells_what_the_probe_of_an_endpoint_that_is_down_finds() -> None:
    clock = Clock()
    gate, stop = gate_of(clock, probe_after_failures=2, patience=30)
    learns(gate, ACCEPTED)
    gate.learn(PLAIN, attempt(BUSY), known=True)
    gate.learn(PLAIN, attempt(BUSY), known=True)
    assert not gate.down
    learns(gate, BUSY, 2)
    clock.time += 31
    gate.learn(PROBE, attempt(BUSY), known=True)
    assert stop.cause is Reason.ENDPOINT_DOWN


async def test_a_worker_that_was_lost_says_nothing_of_the_endpoint() -> None:
    gate, _ = gate_of(probe_after_failures=1)
    learns(gate, Finding(Verdict.AMBIGUOUS, Reason.WORKER_LOST), 20, seconds=100.0)
    assert not gate.down
    assert gate.waits.sends == 20
