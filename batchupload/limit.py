"""How many sends at once: finds what the endpoint can take from how long its answers take. Pure but for the clock.

The scheme is TCP Vegas (Brakmo and Peterson, 1995) for requests, as Netflix's concurrency-limits has it: the orders
that queue at the endpoint are `limit × (1 − best time / present time)`; fewer than wanted and the limit grows, more and
it shrinks. Vegas and not a search by throughput, because it stops where queueing begins, which is what a shop feels;
and not AIMD alone, because that learns only from errors. The best time is measured anew now and then at half the limit,
as BBR does with its ProbeRTT (Cardwell and others, 2016): a queue of our own must not be taken for the endpoint's pace.
"""

from collections.abc import Callable
from statistics import median

from batchupload.language import _

START = 1
"""Sends at once at the beginning: what one alone takes is the first best time."""
RENEW_SECONDS = 15.0
"""After so long the best times are measured again."""
ALLOWANCE = 2
"""So many times what was under way may be allowed: room to grow, and no burst of what was never tried."""
OVERLOADED = 0.5
"""What is left of the limit after a 429, a 503 or a timeout."""


class ConcurrencyLimit:
    """A limit between `lowest` and `highest`, moved once in each round of as many answers as it allows sends."""

    def __init__(self, lowest: int, highest: int, now: Callable[[], float]) -> None:
        self._lowest, self._highest = lowest, highest
        self._now = now
        self._limit = float(min(max(START, lowest), highest))
        self._doubling = True
        self._times = BestTimes()
        self._round: list[float] = []
        self._round_began = self._lowered = now()
        self._most = 0
        """Sends under way in this round, at the most."""
        self._renewed = now()
        self._renewing = False
        self._why = _("as set") if lowest == highest else _("finding out")

    @property
    def why(self) -> str:
        """What moved or holds the limit, for a person."""
        return _("fewer for a moment, to measure anew") if self._renewing else self._why

    @property
    def at_most(self) -> bool:
        """Whether it would grow if it were allowed to."""
        return self._limit >= self._highest

    @property
    def value(self) -> int:
        """Sends that may be under way."""
        limit = max(self._limit / 2, self._lowest) if self._renewing else self._limit
        return int(limit)

    def answered(self, began: float, seconds: float, size: int, under_way: int) -> None:
        """An answer came, `seconds` after the send of `size` bytes `began`; so many were under way until then."""
        if began < self._round_began or self._lowest == self._highest:
            return  # sent under another limit, or there is nothing to find out
        self._most = max(self._most, under_way)
        self._round.append(self._times.share_of_best(seconds, size))
        if len(self._round) < max(self.value, 3):
            return
        if self._renewing:
            self._renewing = False
        else:
            self._move(median(self._round))
        if self._now() - self._renewed >= RENEW_SECONDS:
            self._renewed = self._now()
            self._times.renew()
            self._renewing = True
        self._begin_round()

    def overloaded(self, began: float) -> None:
        """The endpoint asked for less, or did not answer in time; what was sent before the last such does not count."""
        if began < self._lowered or self._lowest == self._highest:
            return
        self._lowered = self._now()
        self._limit = max(self._limit * OVERLOADED, self._lowest)
        self._doubling = False
        self._why = _("the endpoint is overloaded")
        self._begin_round()

    def _move(self, share: float) -> None:
        queued = self._limit * (1 - share)
        # One order in the queue keeps the endpoint busy; the rest allows for times that vary of themselves.
        few, many = 0.5 + 0.08 * self._limit, 1.3 + 0.12 * self._limit
        if queued > many:
            self._limit = max(min(self._limit * share + 1, self._limit - 1), self._lowest)
            self._doubling = False
            self._why = _("more would only queue at the endpoint")
        elif queued < few and self.value >= ALLOWANCE * self._most:
            self._why = _("no more were ready to go")  # what more would do is not known
        elif queued < few:
            step = self._limit if self._doubling else 1 + 0.02 * self._limit
            self._limit = min(self._limit + step, self._highest)
            self._why = _("the most that is allowed") if self._limit >= self._highest else _("growing")
        else:
            self._doubling = False
            self._why = _("more would only queue at the endpoint")

    def _begin_round(self) -> None:
        self._round.clear()
        self._most = 0
        self._round_began = self._now()


class BestTimes:
    """The shortest time of an answer, for each class of body sizes, of this period and the one before."""

    def __init__(self) -> None:
        self._before: dict[int, float] = {}
        self._present: dict[int, float] = {}

    def share_of_best(self, seconds: float, size: int) -> float:
        """The best time for such a size as a share of `seconds`, from 0 to 1."""
        # Four classes to an octave: within one the time that a link takes differs by a fifth.
        kind = (size.bit_length() << 2) | (size >> max(size.bit_length() - 3, 0) & 3)
        best = min(seconds, self._present.get(kind, seconds))
        self._present[kind] = best
        return min(best, self._before.get(kind, best)) / seconds if seconds > 0 else 1.0

    def renew(self) -> None:
        """Begin a new period."""
        self._before, self._present = self._present, {}
