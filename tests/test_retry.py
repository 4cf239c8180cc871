"""When an order is tried again, how long it waits, and that nobody else waits with it."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from conftest import Shop, outcomes, send, send_to_sandbox, settings_for

from batchupload.model import Attempt, Finding, Verdict
from batchupload.pace import Pace, Turn
from batchupload.reasons import Reason
from batchupload.retry import RetryPolicy
from batchupload.sandbox import Sandbox, SandboxOptions, parse_fault
from batchupload.settings import PaceSettings, RetrySettings
from batchupload.stop import Stop

NOW = datetime(2026, 1, 2, tzinfo=UTC)
LONG = {"connect": 30.0, "progress": 30.0, "reply": 30.0}
"""Limits that no machine's slowness comes near."""


def made(finding: Finding) -> Attempt:
    return Attempt(NOW, began=0.0, seconds=1.0, uploading=0.5, bytes_sent=100, finding=finding)


FAILED = made(Finding(Verdict.RETRY, Reason.CONNECTION_REFUSED))
ACCEPTED = made(Finding(Verdict.ACCEPTED, Reason.ACCEPTED, 200))


def attempts(count: int, verdict: Verdict = Verdict.RETRY, retry_after: float | None = None) -> tuple[Attempt, ...]:
    finding = Finding(verdict, Reason.UNAVAILABLE, 503, retry_after=retry_after)
    return (made(finding),) * count


def test_waits_are_random_up_to_a_limit_that_doubles_to_the_cap() -> None:
    random.seed(1)
    policy = RetryPolicy(RetrySettings(attempts=20))
    for made, limit in [(1, 1.0), (2, 2.0), (3, 4.0), (6, 30.0), (15, 30.0)]:
        waits = [policy.next_delay(attempts(made), 0.0) for _ in range(400)]
        assert all(wait is not None and 0 <= wait <= limit for wait in waits)
        assert max(wait or 0 for wait in waits) > 0.9 * limit
        assert min(wait or 0 for wait in waits) < 0.1 * limit


@pytest.mark.parametrize("verdict", Verdict)
def test_only_what_may_still_succeed_is_tried_again(verdict: Verdict) -> None:
    delay = RetryPolicy(RetrySettings()).next_delay(attempts(1, verdict), 0.0)
    assert (delay is not None) is (verdict in {Verdict.RETRY, Verdict.AMBIGUOUS})


def test_attempts_and_time_are_limited() -> None:
    policy = RetryPolicy(RetrySettings(attempts=4, order_limit=100.0))
    assert policy.next_delay(attempts(3), 0.0) is not None
    assert policy.next_delay(attempts(4), 0.0) is None
    assert policy.next_delay(attempts(1), 100.0) is None
    assert policy.next_delay(attempts(1, retry_after=99.9), 50.0) is None


def test_the_endpoint_may_ask_for_more_time() -> None:
    policy = RetryPolicy(RetrySettings())
    waits = [policy.next_delay(attempts(1, retry_after=20.0), 0.0) or 0.0 for _ in range(100)]
    assert 20.0 <= min(waits) < max(waits) <= 21.0


async def test_an_order_that_waits_holds_no_worker(shop: Shop) -> None:
    shop.order("HT000000")
    others = shop.orders(30, "HU")
    manifest = shop.manifest()
    faults = (parse_fault("http_500@HT000000:1"),)
    async with Sandbox(SandboxOptions(faults)) as server:
        settings = settings_for(server.url, pace={"concurrency": 1}, retry={"base": 600.0, "cap": 600.0})
        random.seed(3)
        running = asyncio.ensure_future(send(manifest, settings))
        async with asyncio.timeout(20):
            while len(server.accepted) < len(others):
                await asyncio.sleep(0.005)
        assert not running.done()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_retry_after_pauses_all_orders(shop: Shop) -> None:
    shop.orders(10)
    _, report, server = await send_to_sandbox(
        shop.manifest(), ["retry_after_seconds@HT000000:1"], pace={"concurrency": 1}
    )
    assert {row["outcome"] for row in report} == {"uploaded"}
    started = {row["order_id"]: datetime.fromisoformat(row["started_at"]) for row in report}
    first = started.pop("HT000000")
    since = [(began - first).total_seconds() for began in started.values()]
    assert not [seconds for seconds in since if 0 < seconds < 1.0]
    assert max(since) >= 1.0
    assert server.stats()["requests"] == 11


async def test_an_order_whose_time_is_over_is_deferred(shop: Shop) -> None:
    shop.orders(1)
    waits = {"order_limit": 1.0, "base": 600.0, "cap": 600.0}
    _, report, _ = await send_to_sandbox(shop.manifest(), ["http_503=100%"], retry=waits)
    assert outcomes(report) == {"HT000000": ("deferred", "order_time_limit")}


async def test_no_attempt_begins_that_has_no_time_to_end(shop: Shop) -> None:
    orders = shop.orders(60)
    faults = ["retry_after_seconds@HT000000:1", *(f"http_503@{order}:1" for order in orders[1:])]
    _, report, server = await send_to_sandbox(
        shop.manifest(), faults, sandbox={"latency": 0.2},
        retry={"order_limit": 0.6, "base": 0.05}, pace={"concurrency": 60, "canary": 0, "probe_after_failures": 1000},
        timeouts=LONG,
    )  # fmt: skip
    ends = outcomes(report)
    assert set(ends.values()) <= {("uploaded", "accepted"), ("deferred", "order_time_limit")}
    taken = {order for order, end in ends.items() if end[0] == "uploaded"}
    assert set(server.accepted) == taken  # and of the others the endpoint has none
    assert taken != set(orders)


async def test_an_attempt_that_began_is_not_cut_short_by_the_time_of_its_order(shop: Shop) -> None:
    orders = shop.orders(3)
    _, report, server = await send_to_sandbox(
        shop.manifest(), [f"http_503@{order}:1" for order in orders], sandbox={"latency": 2.0},
        retry={"order_limit": 3.5, "base": 0.01}, pace={"concurrency": 3, "canary": 0}, timeouts=LONG,
    )  # fmt: skip
    assert {row["outcome"] for row in report} == {"uploaded"}
    assert sorted(server.accepted) == orders


class Clock:
    """A clock that tests wind."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


def pace(clock: Clock, **changes: float) -> tuple[Pace, Stop]:
    stop = Stop()
    return Pace(PaceSettings.model_validate(changes), RetrySettings(), stop, clock), stop


async def test_an_endpoint_that_is_down_is_probed_by_one_at_a_time() -> None:
    clock = Clock()
    gate, stop = pace(clock, probe_after_failures=3, patience_at_start=60)
    for _ in range(3):
        turn = await gate.turn(first=True)
        assert turn == Turn(probe=False, first=True)
        with gate.send(turn):
            gate.learn(turn, FAILED)
    assert gate.down
    sent_at: list[float] = []
    while stop.cause is None:
        clock.time += 0.5
        if gate.ready:
            probe = await gate.turn(first=False)
            assert probe == Turn(probe=True)
            assert not gate.ready
            with gate.send(probe):
                gate.learn(probe, FAILED)
            sent_at.append(clock.time - 1000)
    assert sent_at == [1.0, 3.0, 7.0, 15.0, 31.0, 60.0]  # the last as the patience ends
    assert stop.cause is Reason.ENDPOINT_DOWN
    assert await gate.turn(first=True) is None


async def test_one_answer_opens_the_gate_again() -> None:
    clock = Clock()
    gate, stop = pace(clock, probe_after_failures=1)
    gate.learn(Turn(probe=False), FAILED)
    assert not gate.ready
    clock.time += 1
    probe = await gate.turn(first=True)
    assert probe == Turn(probe=True, first=True)
    with gate.send(probe):
        gate.learn(probe, ACCEPTED)
    assert await gate.turn(first=True) == Turn(probe=False, first=True)
    assert stop.cause is None


async def test_patience_is_longer_where_the_endpoint_had_answered() -> None:
    clock = Clock()
    gate, stop = pace(clock, probe_after_failures=1, patience_at_start=10, patience=100)
    gate.learn(Turn(probe=False), ACCEPTED)
    gate.learn(Turn(probe=False), FAILED)
    clock.time += 99
    gate.learn(Turn(probe=True), FAILED)
    assert stop.cause is None
    clock.time += 1
    gate.learn(Turn(probe=True), FAILED)
    assert stop.cause is Reason.ENDPOINT_DOWN


def slow(reason: Reason, seconds: float) -> Attempt:
    verdict = Verdict.AMBIGUOUS if reason is Reason.REPLY_TIMEOUT else Verdict.RETRY
    return Attempt(FAILED.started_at, 0.0, seconds, seconds, 1, Finding(verdict, reason))


@pytest.mark.parametrize("concurrency", [1, 8, "auto"])
@pytest.mark.parametrize("canary", [0, 20])
@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize(("reason", "seconds"), [(Reason.UPLOAD_STALLED, 60.0), (Reason.REPLY_TIMEOUT, 90.0)])
async def test_an_endpoint_at_which_every_send_stalls_is_soon_called_down(
    concurrency: int | str, canary: int, answered: bool, reason: Reason, seconds: float
) -> None:
    clock, stop = Clock(), Stop()
    settings = PaceSettings.model_validate({"concurrency": concurrency, "canary": canary})
    gate = Pace(settings, RetrySettings(), stop, clock)
    if answered:
        gate.learn(Turn(probe=False), ACCEPTED)
    began, sends, whys = clock.time, 0, []
    while stop.cause is None:
        turns = []
        while gate.ready and (turn := await gate.turn(first=True)):
            turns.append(turn)
        clock.time += seconds if turns else 0.5
        for turn in turns:
            with gate.send(turn):
                gate.learn(turn, slow(reason, seconds))
            sends += 1
            gate.settled(1)
        whys.append(gate.why)
        if not answered:
            assert gate.down or clock.time - began < 3 * seconds
    assert stop.cause is Reason.ENDPOINT_DOWN
    patience = settings.patience if answered else settings.patience_at_start
    assert clock.time - began <= 4 * seconds + patience + 60
    if not answered:
        assert sends <= 12
        assert f"no upload has got through yet: 3 tried, {reason}, {seconds:.0f} s each" in whys or concurrency != 1


async def test_one_order_that_is_slow_beside_good_ones_takes_nothing_down() -> None:
    gate, _ = pace(Clock())
    for _ in range(20):
        for attempt in (slow(Reason.UPLOAD_STALLED, 60.0), slow(Reason.REPLY_TIMEOUT, 90.0), ACCEPTED):
            gate.learn(Turn(probe=False), attempt)
            assert not gate.down


async def test_retries_beyond_the_budget_wait_and_are_not_lost() -> None:
    clock = Clock()
    gate, stop = pace(clock)
    for _ in range(10):
        await asyncio.wait_for(gate.retry_turn(), 5)
    waiting = asyncio.ensure_future(gate.retry_turn())
    await asyncio.sleep(0)
    assert not waiting.done()
    for _ in range(5):  # each first send earns a fifth of a retry
        turn = await gate.turn(first=True)
        assert turn
        with gate.send(turn):
            pass
    await asyncio.wait_for(waiting, 5)
    waiting = asyncio.ensure_future(gate.retry_turn())
    await asyncio.sleep(0)
    assert not waiting.done()
    stop.ask(Reason.STOPPED)
    await asyncio.wait_for(waiting, 5)


async def test_a_dead_endpoint_ends_the_run_and_defers_the_rest(shop: Shop) -> None:
    orders = shop.orders(200)
    summary, report, server = await send_to_sandbox(
        shop.manifest(), ["http_503=100%"], pace={"patience_at_start": 0.5, "probe_after_failures": 10}
    )
    assert summary.exit_code == 3
    assert sorted(row["order_id"] for row in report) == orders
    deferred = [row for row in report if row["outcome"] == "deferred"]
    assert {row["reason"] for row in deferred} == {"endpoint_down"}
    assert len(deferred) > 180
    assert int(str(server.stats()["requests"])) < 30
    assert "endpoint is down" in summary.as_text(1000)


async def test_a_wrong_address_does_not_burn_the_manifest(shop: Shop) -> None:
    orders = shop.orders(200)
    summary, report, server = await send_to_sandbox(shop.manifest(), ["http_404=100%"], pace={"concurrency": 4})
    assert summary.exit_code == 3
    assert sorted(row["order_id"] for row in report) == orders
    failed = [row for row in report if row["outcome"] == "failed"]
    assert {row["reason"] for row in failed} == {"wrong_address"}
    assert 5 <= len(failed) <= 5 + 4
    assert {row["reason"] for row in report if row["outcome"] == "deferred"} == {"address_refused"}
    assert int(str(server.stats()["requests"])) == len(failed)


@pytest.mark.parametrize("status", [302, 401, 403, 405])
async def test_a_wrong_address_is_seen_by_each_of_its_answers(shop: Shop, status: int) -> None:
    shop.orders(60)
    summary, report, server = await send_to_sandbox(
        shop.manifest(), [f"http_{status}=100%" if status != 302 else "redirect=100%"], pace={"concurrency": 2}
    )
    assert summary.exit_code == 3
    assert {row["reason"] for row in report if row["outcome"] == "deferred"} == {"address_refused"}
    assert int(str(server.stats()["requests"])) <= 5 + 2
    assert "Last met: " in summary.as_text(1000)


async def test_a_refused_connection_for_all_ends_the_run_and_says_what_was_met(shop: Shop) -> None:
    orders = shop.orders(60)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/upload"
        settings = settings_for(url, pace={"patience_at_start": 0.3, "concurrency": 2})
        summary, report = await send(shop.manifest(), settings)
    assert summary.exit_code == 3
    assert sorted(row["order_id"] for row in report) == orders
    assert {row["reason"] for row in report if row["outcome"] == "deferred"} >= {"endpoint_down"}
    assert "Last met: connection_refused" in summary.as_text(1000)


async def test_an_outage_in_mid_run_is_waited_out(shop: Shop) -> None:
    orders = shop.orders(60)
    manifest = shop.manifest()
    async with Sandbox(SandboxOptions(latency=0.02)) as server:
        port = server.port
        settings = settings_for(
            server.url,
            retry={"attempts": 8, "cap": 1.0, "base": 0.5},
            pace={"concurrency": 4, "probe_after_failures": 5},
        )
        running = asyncio.ensure_future(send(manifest, settings))
        async with asyncio.timeout(20):
            while len(server.accepted) < 10:
                await asyncio.sleep(0.005)
    before = set(server.accepted)
    await asyncio.sleep(1.0)  # the outage itself, not a wait for luck
    assert not running.done()
    async with Sandbox(SandboxOptions(), port=port) as server:
        summary, report = await running
    assert summary.exit_code == 0
    assert outcomes(report) == dict.fromkeys(orders, ("uploaded", "accepted"))
    assert before | set(server.accepted) == set(orders)
    # Five failures, what was under way beside them, and a few probes; without probing, each order left would be tried.
    assert summary.tally.attempts < len(orders) + 25


@pytest.mark.parametrize("status", [401, 403, 405])
async def test_whatever_status_says_that_the_address_is_wrong_the_run_stops(shop: Shop, status: int) -> None:
    orders = shop.orders(60)
    summary, report, server = await send_to_sandbox(shop.manifest(), [f"http_{status}=100%"], pace={"concurrency": 4})
    assert summary.exit_code == 3
    assert sorted(row["order_id"] for row in report) == orders
    failed = [row for row in report if row["outcome"] == "failed"]
    assert {(row["reason"], row["http_status"]) for row in failed} == {("wrong_address", str(status))}
    assert 5 <= len(failed) <= 5 + 4
    assert {row["reason"] for row in report if row["outcome"] == "deferred"} == {"address_refused"}
    assert server.stats()["requests"] == len(failed)


async def test_a_port_that_refuses_ends_the_run_and_defers_the_rest(shop: Shop) -> None:
    orders = shop.orders(200)
    with socket.socket() as held:  # a port that is ours and does not listen
        held.bind(("127.0.0.1", 0))
        settings = settings_for(
            f"http://127.0.0.1:{held.getsockname()[1]}/", pace={"patience_at_start": 0.5, "probe_after_failures": 10}
        )
        summary, report = await send(shop.manifest(), settings)
    assert summary.exit_code == 3
    assert sorted(row["order_id"] for row in report) == orders
    deferred = [row for row in report if row["outcome"] == "deferred"]
    assert {row["reason"] for row in deferred} == {"endpoint_down"}
    assert len(deferred) > 180
    failed = [row for row in report if row not in deferred]
    assert {(row["outcome"], row["reason"]) for row in failed} <= {("failed", "connection_refused")}
    assert {row["bytes_sent"] for row in report} == {"0"}


@asynccontextmanager
async def server_that_answers_in_turn(*replies: bytes) -> AsyncIterator[tuple[int, list[float]]]:
    """Its port, and when each request was there whole; the last of `replies` is for all that follow."""
    came: list[float] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
        came.append(asyncio.get_running_loop().time())
        writer.write(replies[min(len(came), len(replies)) - 1])
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], came


def unavailable(retry_after: str, date: str = "") -> bytes:
    dated = f"Date: {date}\r\n" if date else ""
    return (
        f"HTTP/1.1 503 Busy\r\nRetry-After: {retry_after}\r\n{dated}Content-Length: 0\r\nConnection: close\r\n\r\n"
    ).encode()


OK = b'HTTP/1.1 200 OK\r\nContent-Length: 12\r\nConnection: close\r\n\r\n{"code":200}'
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)


def at(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


CAP = 1.0
ASKED = {
    "a number": (unavailable("86400"), CAP),
    "a number without end": (unavailable("9" * 18), CAP),
    "a date": (unavailable(at(datetime.now(UTC) + timedelta(days=1))), CAP),
    "a date by the endpoint's own clock": (unavailable(at(LONG_AGO + timedelta(hours=1)), at(LONG_AGO)), CAP),
    "a date that is over": (unavailable(at(datetime.now(UTC) - timedelta(days=1))), 0.0),
    "a date before the endpoint's own": (unavailable(at(datetime.now(UTC)), "Fri, 01 Jan 2100 00:00:00 GMT"), 0.0),
    "nothing": (unavailable(""), 0.0),
    "a word": (unavailable("soon"), 0.0),
    "less than nothing": (unavailable("-5"), 0.0),
    "an exponent": (unavailable("1e9"), 0.0),
    "no date": (unavailable("Fri, 99 Foo 2100 99:99:99 GMT"), 0.0),
    "bytes": (unavailable("\x80\xff\u0660"), 0.0),
}


@pytest.mark.parametrize("asked", ASKED)
async def test_a_wait_that_the_endpoint_asks_for_is_kept_up_to_the_cap(shop: Shop, asked: str) -> None:
    orders = shop.orders(2)
    reply, least = ASKED[asked]
    async with server_that_answers_in_turn(reply, OK) as (port, came):
        settings = settings_for(
            f"http://127.0.0.1:{port}/",
            pace={"concurrency": 1},
            retry={"retry_after_cap": CAP, "base": 0.01, "cap": 0.02},
        )
        _, report = await send(shop.manifest(), settings)
    assert outcomes(report) == dict.fromkeys(orders, ("uploaded", "accepted"))
    assert len(came) == 3
    wait = came[1] - came[0]
    assert wait >= least
    assert (wait < CAP) is (least < CAP), "what can't be read is no wait"
