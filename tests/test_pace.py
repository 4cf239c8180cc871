"""How many at once, and when a run had better end: found out from what the endpoint does."""

import random
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from heapq import heappop, heappush

import pytest
from conftest import Shop, outcomes, send_to_sandbox

from batchupload.budget import overspent, seen_alike
from batchupload.limit import ConcurrencyLimit
from batchupload.model import Attempt, Finding, Outcome, Verdict
from batchupload.pace import Pace, Turn
from batchupload.reasons import Reason
from batchupload.settings import PaceSettings, RetrySettings
from batchupload.stop import Stop

SECONDS = 120.0


class Model:
    """An endpoint with workers and a line in front of them, in virtual time."""

    def __init__(self, workers: Callable[[float], int], service: float) -> None:
        self.time = 0.0
        self.limit = ConcurrencyLimit(1, 64, lambda: self.time)
        self.most = 0
        self._workers = workers
        self._service = service
        self._chance = random.Random(1)

    def run(self, fixed: int | None = None) -> tuple[float, float]:
        """Orders/s, and the median time of an answer."""
        line, busy = deque[float](), list[tuple[float, float]]()
        times = []
        while self.time < SECONDS:
            allowed = fixed or self.limit.value
            self.most = max(self.most, allowed)
            line.extend(self.time for _ in range(allowed - len(line) - len(busy)))
            while line and len(busy) < self._workers(self.time):
                took = self._service * self._chance.uniform(0.95, 1.1)
                heappush(busy, (self.time + took, line.popleft()))
            self.time, began = heappop(busy)
            times.append(self.time - began)
            self.limit.answered(began, self.time - began, 90_000, len(line) + len(busy) + 1)
        return len(times) / SECONDS, sorted(times)[len(times) // 2]


@pytest.mark.parametrize(
    ("workers", "service"),
    [
        (lambda _: 4, 0.3),
        (lambda _: 32, 0.08),
        (lambda _: 1, 0.1),
        (lambda at: 24 if at < SECONDS / 2 else 12, 0.1),
        (lambda at: 8 if at < SECONDS / 2 else 24, 0.1),
    ],
)
def test_the_endpoint_is_kept_busy_and_little_queues_there(workers: Callable[[float], int], service: float) -> None:
    best = max(Model(workers, service).run(fixed)[0] for fixed in (1, 2, 4, 8, 16, 32, 64))
    rate, median = Model(workers, service).run()
    assert rate > 0.9 * best
    assert median < 2.1 * service


def test_an_endpoint_without_a_limit_gets_the_most_that_is_allowed() -> None:
    model = Model(lambda _: 1000, 0.05)
    model.run()
    assert model.most == 64


def test_overload_halves_the_limit_once_for_all_sends_of_a_round() -> None:
    model = Model(lambda _: 1000, 0.05)
    model.run()
    before = model.limit.value
    for _ in range(20):
        model.limit.overloaded(model.time - 0.01 if _ else model.time)
    assert model.limit.value == before // 2
    model.time += 1
    model.limit.overloaded(model.time)
    assert model.limit.value == before // 4


def test_an_overload_counts_for_each_send_since_the_limit_was_lowered() -> None:
    model = Model(lambda _: 8, 0.1)
    model.run()
    before = model.limit.value
    model.limit.overloaded(model.time - 0.1)  # sent before the present round, which is no older than an answer
    assert model.limit.value == max(before // 2, 1)


def test_no_more_is_allowed_than_was_seen_to_go_well() -> None:
    now = 0.0
    limit = ConcurrencyLimit(1, 64, lambda: now)
    for _ in range(1000):  # as where a rate limit lets one after the other go
        now += 0.2
        limit.answered(now - 0.1, 0.1, 10, 1)
    assert limit.value <= 2
    assert "ready" in limit.why


def test_a_fixed_limit_stays() -> None:
    limit = ConcurrencyLimit(7, 7, lambda: 0.0)
    limit.overloaded(0.0)
    for _ in range(100):
        limit.answered(0.0, 1.0, 10, 7)
    assert limit.value == 7


def finding(verdict: Verdict, reason: Reason, message: str = "") -> Finding:
    return Finding(verdict, reason, message=message)


def test_first_orders_that_all_go_wrong_alike_are_seen() -> None:
    refused = finding(Verdict.REJECTED, Reason.ENDPOINT_REFUSED, "签名错误")
    accepted = finding(Verdict.ACCEPTED, Reason.ACCEPTED)
    assert "19 of the first 20 orders met endpoint_refused (“签名错误”)" in seen_alike([*[refused] * 19, accepted])
    assert seen_alike([*[refused] * 17, *[accepted] * 3]) == ""
    assert seen_alike([accepted] * 20) == ""
    assert seen_alike([finding(Verdict.REJECTED, Reason.ENDPOINT_REFUSED, chr(n + 97)) for n in range(20)]) == ""
    unknown = [finding(Verdict.REJECTED, Reason.ENDPOINT_REFUSED, f"订单不存在 HT{n:03}") for n in range(20)]
    assert "20 of the first 20 orders met endpoint_refused (“订单不存在 …”)" in seen_alike(unknown)


@pytest.mark.parametrize(
    ("allowed", "failed", "rows", "over"),
    [("3", 3, 10, False), ("3", 4, 10, True), ("10%", 4, 10, False), ("10%", 5, 50, False), ("10%", 6, 50, True),
     ("0", 1, 1, True), ("0.5%", 1, 100, True)],
)  # fmt: skip
def test_a_budget_of_failures_is_a_number_or_a_share(allowed: str, failed: int, rows: int, over: bool) -> None:
    counts = dict.fromkeys(Outcome, 0) | {Outcome.FAILED: failed, Outcome.UPLOADED: rows - failed}
    assert bool(overspent(allowed, counts)) == over


def test_failures_that_are_known_are_not_those_of_tonight() -> None:
    counts = dict.fromkeys(Outcome, 0) | {Outcome.REJECTED: 60, Outcome.UPLOADED: 40}
    assert "60 of 100" in overspent("20", counts)
    text = overspent("20", counts, known=30)
    assert "30 of 100 rows failed" in text
    assert "30 more met the same as in an earlier run" in text
    assert overspent("20", counts, known=50) == ""


def learnt(gate: Pace, finding: Finding, times: int, *, known: bool = False) -> None:
    for _ in range(times):
        attempt = Attempt(datetime.now(UTC), 0.0, 0.3, 0.1, 10, finding)
        gate.learn(Turn(probe=False, first=True), attempt, known=known)


@pytest.mark.parametrize(
    "met",
    [
        finding(Verdict.REJECTED, Reason.ENDPOINT_REFUSED, "订单不存在"),
        finding(Verdict.RETRY, Reason.SERVER_ERROR),
        finding(Verdict.MISADDRESSED, Reason.WRONG_ADDRESS),
    ],
)
async def test_what_orders_met_before_says_nothing_about_an_endpoint_that_answers(met: Finding) -> None:
    gate, stop = gate_of()
    learnt(gate, finding(Verdict.ACCEPTED, Reason.ACCEPTED), 1)
    learnt(gate, met, 200, known=True)
    assert stop.cause is None
    assert not gate.down
    learnt(gate, met, 20)
    assert gate.down or stop.cause


async def test_a_known_failure_says_much_about_an_endpoint_that_never_answered() -> None:
    gate, stop = gate_of()
    learnt(gate, finding(Verdict.MISADDRESSED, Reason.WRONG_ADDRESS), 5, known=True)
    assert stop.cause is Reason.ADDRESS_REFUSED
    gate, stop = gate_of()
    learnt(gate, finding(Verdict.AMBIGUOUS, Reason.SERVER_ERROR), 10, known=True)
    assert gate.down


def gate_of() -> tuple[Pace, Stop]:
    stop = Stop()
    return Pace(PaceSettings(), RetrySettings(), stop, lambda: 0.0), stop


async def test_a_run_whose_first_orders_are_all_refused_alike_ends(shop: Shop) -> None:
    orders = shop.orders(120)
    manifest = shop.manifest()
    summary, report, server = await send_to_sandbox(manifest, ["refused=100%"], pace={"concurrency": 16})
    assert summary.exit_code == 3
    assert int(str(server.stats()["requests"])) <= 20 + 4
    assert sorted(outcomes(report)) == orders
    assert {row["reason"] for row in report} == {"endpoint_refused", "canary"}
    text = summary.as_text(1000)
    assert "20 of the first 20 orders met endpoint_refused (“订单不存在”)." in text
    assert "--canary 0" in text


async def test_without_a_canary_it_goes_on(shop: Shop) -> None:
    shop.orders(60)
    summary, _, _ = await send_to_sandbox(shop.manifest(), ["refused=100%"], pace={"canary": 0})
    assert summary.exit_code == 1
    assert summary.tally.outcomes[Outcome.REJECTED] == 60


async def test_a_run_ends_with_more_failures_than_allowed(shop: Shop) -> None:
    orders = shop.orders(200)
    pace = {"max_failures": 5, "concurrency": 4, "canary": 0}
    summary, report, _ = await send_to_sandbox(shop.manifest(), ["refused=50%"], pace=pace)
    assert summary.exit_code == 3
    assert sorted(outcomes(report)) == orders
    assert 6 <= summary.tally.outcomes[Outcome.REJECTED] <= 6 + 8
    assert "5 are allowed" in summary.as_text(1000)
    assert {row["reason"] for row in report if row["outcome"] == "deferred"} == {"max_failures"}
