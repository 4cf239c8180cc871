"""How many and how fast: the gate that every send passes, what is learnt from each, and the retries' budget."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from batchupload.bounds import Holdup, Waits
from batchupload.budget import seen_alike
from batchupload.language import _
from batchupload.limit import BestTimes, ConcurrencyLimit
from batchupload.model import Attempt, Finding, Verdict
from batchupload.reasons import Reason
from batchupload.settings import PaceSettings, RetrySettings
from batchupload.stop import Stop
from batchupload.throttle import Throttle

RETRY_FLOOR = 10.0
"""Retries per second that always go, whatever the budget."""
RETRY_BURST = 100.0
"""Retries that a run may save up."""
PROBE_FIRST, PROBE_CAP = 1.0, 30.0
"""Seconds between probes of an endpoint that is down: the first wait, doubled each time up to the cap."""
CANARY_SENDS = 4
"""Sends at once while the first orders go ahead."""
SLOW_FAILURES, SLOW_SECONDS = 3, 120.0
"""An endpoint is down, too, once this many attempts in a row failed that together took this many seconds: two uploads
that stall take that long, and the third shows that it was not these orders. Ten in a row may take a quarter of an hour.
"""
OVERLOAD = frozenset(
    {Reason.RATE_LIMITED, Reason.UNAVAILABLE, Reason.REPLY_TIMEOUT, Reason.CONNECT_TIMEOUT, Reason.UPLOAD_STALLED}
)
"""What an endpoint does that has too much to do."""
LOOK_AGAIN = 0.25
"""Seconds after which a send that waits at the gate looks again."""
FOREVER = math.inf
"""Until a send ends or the run does."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Leave to make one send."""

    probe: bool
    """Whether it finds out if the endpoint is back; the others wait for it."""
    first: bool = False
    """Whether it is the order's first."""


class Pace:
    """The gate. It closes for all where the endpoint asks for time, and lets one at a time through where it is down."""

    def __init__(
        self,
        settings: PaceSettings,
        retry: RetrySettings,
        stop: Stop,
        now: Callable[[], float],
        rate: Throttle | None = None,
    ) -> None:
        self._settings = settings
        self._retry = retry
        self._stop = stop
        self._now = now
        self._rate = rate
        self._paused_until = 0.0
        self._failures: Counter[Reason] = Counter()
        """What the attempts in a row met that the endpoint neither accepted nor refused."""
        self._failing_seconds = 0.0
        """Seconds that these took, each counted by itself."""
        self._cautious = True
        self._misaddressed = 0
        self._answered = False
        self._down_since = 0.0
        self._probing = False
        self._next_probe = 0.0
        self._probe_wait = PROBE_FIRST
        self._retries = RETRY_FLOOR
        self._earned = now()
        self._retry_turn = asyncio.Lock()
        self._limit = ConcurrencyLimit(*settings.bounds, now)
        self._best = BestTimes()  # of the whole run; those of the limit are measured anew now and then
        self._first: list[Finding] = []
        self._under_way = self._unsettled = 0
        self._moved = asyncio.Event()
        stop.wakes(self._moved.set)
        self.waits = Waits()
        """What the sends of the run waited for."""
        self.waits_for: Holdup | None = None
        """What the next one waits for at this moment."""

    @property
    def concurrency(self) -> int:
        """Sends that may be under way at present."""
        return min(self._limit.value, CANARY_SENDS) if self._testing else self._limit.value

    @property
    def under_way(self) -> int:
        """Sends that are under way at present."""
        return self._under_way

    @property
    def why(self) -> str:
        """Why it is as many, for a person."""
        return self._nothing_through or (_("the first orders go ahead") if self._testing else self._limit.why)

    @property
    def _nothing_through(self) -> str:
        """How the sends in a row went that the endpoint neither accepted nor refused; empty if they are few."""
        failed = self._failures.total()
        if not failed or (self._answered and failed < SLOW_FAILURES):
            return ""
        [(reason, _count)] = self._failures.most_common(1)
        what = {"count": failed, "reason": reason, "seconds": self._failing_seconds / failed}
        if self._answered:
            return _("no upload gets through: {count} tried, {reason}, {seconds:.0f} s each", **what)
        return _("no upload has got through yet: {count} tried, {reason}, {seconds:.0f} s each", **what)

    @property
    def capped(self) -> str:
        """The setting that keeps the number of sends at once from growing, if one does."""
        if self._settings.concurrency != "auto":
            return _("pace.concurrency ({concurrency} at once)", concurrency=self._settings.concurrency)
        highest = self._settings.highest
        return _("pace.highest ({highest} at once)", highest=highest) if self._limit.at_most else ""

    @property
    def _testing(self) -> bool:
        return self._cautious and len(self._first) < self._settings.canary

    @property
    def down(self) -> bool:
        """Whether the endpoint seems to be down, so that one order at a time probes it."""
        failed = self._failures.total()
        slow = failed >= SLOW_FAILURES and self._failing_seconds >= SLOW_SECONDS
        return slow or failed >= self._settings.probe_after_failures

    @property
    def paused(self) -> float:
        """Seconds for which the endpoint has asked for quiet."""
        return max(0.0, self._paused_until - self._now())

    @property
    def patience_left(self) -> float:
        """Seconds for which an endpoint that is down is still probed."""
        return max(0.0, self._down_since + self._patience - self._now())

    @property
    def _patience(self) -> float:
        return self._settings.patience if self._answered else self._settings.patience_at_start

    @property
    def ready(self) -> bool:
        """Whether a send may begin now."""
        return self._wait()[0] <= 0

    async def turn(self, *, first: bool) -> Turn | None:
        """Wait until a send may begin; None where the run is to end. Each turn is used in `send`, one waits at a time.

        The `first` send of each order adds to the budget of retries.
        """
        while self._stop.cause is None:
            wait, holdup = self._wait()
            if wait <= 0:
                self._under_way += 1
                self._unsettled += 1
                self._probing = self.down
                self._earn(self._retry.budget if first else 0.0)
                if self._rate:
                    self._rate.take(1)
                return Turn(self.down, first)
            began, self.waits_for = self._now(), holdup
            self._moved.clear()
            if wait is FOREVER:
                await self._moved.wait()
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(wait, LOOK_AGAIN)):
                        await self._moved.wait()
            self.waits.holdups[holdup] += self._now() - began
            self.waits_for = None
        return None

    def starved(self, seconds: float) -> None:
        """So long no photo set was ready; of account where one might have been sent."""
        if self._under_way < self.concurrency:
            self.waits.holdups[Holdup.PHOTOS] += seconds

    @contextmanager
    def send(self, turn: Turn) -> Generator[None, None, None]:
        """One send under way; `learn` takes in what it found."""
        try:
            yield
        finally:
            self._under_way -= 1
            if turn.probe:
                self._probing = False
            self._moved.set()

    def settled(self, sends: int) -> None:
        """So many sends are over for good: what became of them is on record, or they are to be made again.

        Until then they count as places: what a crash can make us send twice is at most one order for each.
        """
        self._unsettled -= sends
        self._moved.set()

    async def retry_turn(self) -> None:
        """Wait until the budget has a retry, or the run is to end."""
        async with self._retry_turn:
            self._earn(0.0)
            while self._retries < 1 and not await self._stop.sleep((1 - self._retries) / RETRY_FLOOR):
                self._earn(0.0)
            self._retries -= 1

    def no_more_untried(self) -> None:
        """Be as fast as may be, even if fewer than `canary` orders told how the run goes: none is left to tell more."""
        self._cautious = False
        self._moved.set()

    def learn(self, turn: Turn, attempt: Attempt, *, known: bool = False) -> None:
        """Take in what an attempt found and how long it took; this may end the run, or change how many go at once.

        If the order is `known` to have met the same in an earlier run, and the endpoint answers in this one, what it
        met says nothing about this run.
        """
        finding = attempt.finding
        settled = finding.verdict in {Verdict.ACCEPTED, Verdict.REJECTED}
        self._answered = self._answered or settled
        tells = not known or not self._answered or self.down
        self.waits.sends += 1
        self.waits.uploading += attempt.uploading
        self.waits.answering += attempt.seconds - attempt.uploading
        if turn.first and tells and len(self._first) < self._settings.canary:
            self._first.append(finding)
            if len(self._first) == self._settings.canary and (seen := seen_alike(self._first)):
                self._stop.ask(Reason.CANARY, seen)
        if finding.retry_after and finding.verdict is Verdict.RETRY:
            self._paused_until = max(self._paused_until, self._now() + finding.retry_after)
        if settled:
            self._failures.clear()
            self._failing_seconds = 0.0
            self._misaddressed = 0
            self._probe_wait = PROBE_FIRST
            self._limit.answered(attempt.began, attempt.seconds, attempt.bytes_sent, self._under_way)
            self.waits.answered += attempt.seconds
            self.waits.at_best += attempt.seconds * self._best.share_of_best(attempt.seconds, attempt.bytes_sent)
        elif not tells:
            pass
        elif finding.verdict is Verdict.MISADDRESSED:
            self._learn_of_wrong_address(finding)
        elif finding.reason is not Reason.WORKER_LOST:  # which says nothing of the endpoint
            self._learn_of_failure(turn, attempt)
        if finding.reason in OVERLOAD:
            self.waits.overloaded += 1
            self._limit.overloaded(attempt.began)

    def _learn_of_wrong_address(self, finding: Finding) -> None:
        self._misaddressed += 1
        patience = self._settings.stop_after_misaddressed * (4 if self._answered else 1)
        if self._misaddressed >= patience:
            self._stop.ask(Reason.ADDRESS_REFUSED, _("Last met: {met}", met=_met(finding)))

    def _learn_of_failure(self, turn: Turn, attempt: Attempt) -> None:
        finding, was_down = attempt.finding, self.down
        self._failures[finding.reason] += 1
        self._failing_seconds += attempt.seconds
        self._misaddressed = 0
        if not self.down:
            return
        if not was_down:
            self._down_since = self._now()
        elif turn.probe:
            self._probe_wait = min(self._probe_wait * 2, PROBE_CAP)
        if not was_down or turn.probe:  # the last one when the patience ends
            self._next_probe = self._now() + min(self._probe_wait, self.patience_left)
        if not self.patience_left:
            self._stop.ask(Reason.ENDPOINT_DOWN, _("Last met: {met}", met=_met(finding)))

    def _wait(self) -> tuple[float, Holdup]:
        """Seconds until a send may begin, as far as is known, and what they are waited for."""
        full = self._under_way >= self.concurrency or self._unsettled >= self._settings.bounds[1]
        if self.down and self._probing:
            return LOOK_AGAIN, Holdup.QUIET
        if full:
            return FOREVER, Holdup.PLACES
        quiet = max(self.paused, self._next_probe - self._now() if self.down else 0.0)
        rate = self._rate.wait() if self._rate else 0.0
        return (quiet, Holdup.QUIET) if quiet >= rate else (rate, Holdup.RATE)

    def _earn(self, retries: float) -> None:
        now = self._now()
        self._retries = min(self._retries + retries + (now - self._earned) * RETRY_FLOOR, RETRY_BURST)
        self._earned = now


def _met(finding: Finding) -> str:
    """What an attempt met, for a person."""
    status = f" (HTTP {finding.http_status})" if finding.http_status else ""
    said = f" “{finding.message}”" if finding.message else ""
    return f"{finding.reason}{status}{said}"
