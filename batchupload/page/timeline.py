"""When orders were under way → what went on in each stretch of the run, in bounded memory. Pure."""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

BINS = 60
"""Stretches at most; as many as a chart of a hand's breadth shows apart."""
FIRST_WIDTH = 0.125
"""Seconds of a stretch to begin with; doubled whenever there are too many."""
FEWEST_PER_BIN = 3
"""Orders that a stretch should have, for its rate to mean something."""
STEP = math.log(1.05)
"""Times are counted in classes, each 5 % above the one below: a median is that exact."""


@dataclass(frozen=True, slots=True)
class Bin:
    """One stretch of the run."""

    start: float
    """Seconds since the epoch."""
    seconds: float
    """Its width, or what of it lies within the run."""
    uploaded: int
    """Orders that ended in it as uploaded."""
    others: int
    """Sent orders that ended in it otherwise."""
    bytes_sent: float
    under_way: float
    """Orders that were under way at once, on average."""
    median: float | None
    """Of the times of the orders that ended in it, seconds; None where none did."""
    slow: float | None
    """What 95 % of them took at most."""


@dataclass(slots=True)
class _Growing:
    uploaded: int = 0
    others: int = 0
    bytes_sent: float = 0.0
    busy: float = 0.0
    times: Counter[int] = field(default_factory=Counter)

    def take(self, other: "_Growing") -> None:
        self.uploaded += other.uploaded
        self.others += other.others
        self.bytes_sent += other.bytes_sent
        self.busy += other.busy
        self.times += other.times


class Timeline:
    """Takes sent orders one by one, in any order."""

    def __init__(self) -> None:
        self.began = math.inf
        self.ended = -math.inf
        self.times: Counter[int] = Counter()
        """Times of all orders, by class."""
        self._origin = 0.0
        self._width = FIRST_WIDTH
        self._bins: dict[int, _Growing] = {}

    def add(self, start: float, seconds: float, bytes_sent: int, *, uploaded: bool) -> None:
        """Count an order that was under way from `start` (seconds since the epoch), for so many seconds."""
        if not self._bins:
            self._origin = start
        end = start + seconds
        self.began, self.ended = min(self.began, start), max(self.ended, end)
        while self._place(self.ended) - self._place(self.began) >= BINS:
            self._widen()
        first, last = self._place(start), self._place(end)
        for at in range(first, last + 1):
            left = self._origin + at * self._width
            inside = max(0.0, min(end, left + self._width) - max(start, left))
            stretch = self._bins.setdefault(at, _Growing())
            stretch.busy += inside
            stretch.bytes_sent += bytes_sent * (inside / (end - start) if end > start else at == first)
        stretch = self._bins[last]
        stretch.uploaded += uploaded
        stretch.others += not uploaded
        time = time_class(seconds)
        stretch.times[time] += 1
        self.times[time] += 1

    def bins(self) -> tuple[Bin, ...]:
        """The stretches from first to last, without gaps."""
        orders = self.times.total()
        while len(self._bins) > 1 and orders < FEWEST_PER_BIN * len(self._bins) > FEWEST_PER_BIN * BINS / 4:
            self._widen()
        return tuple(self._told()) if self._bins else ()

    def _told(self) -> Iterator[Bin]:
        for at in range(min(self._bins), max(self._bins) + 1):
            left = self._origin + at * self._width
            # The run fills its first and last stretch only in part; a sliver would make a rate of a single order.
            within = min(left + self._width, self.ended) - max(left, self.began)
            seconds = min(self._width, max(within, self._width / 2))
            of = self._bins.get(at, _Growing())
            yield Bin(
                left,
                seconds,
                of.uploaded,
                of.others,
                of.bytes_sent,
                of.busy / seconds,
                quantile(of.times, 0.5),
                quantile(of.times, 0.95),
            )

    def _place(self, time: float) -> int:
        return math.floor((time - self._origin) / self._width)

    def _widen(self) -> None:
        self._width *= 2
        wider: dict[int, _Growing] = {}
        for at, stretch in self._bins.items():
            wider.setdefault(at // 2, _Growing()).take(stretch)
        self._bins = wider


def time_class(seconds: float) -> int:
    """The class of a time; a millisecond is the least that a report tells."""
    return round(math.log(max(seconds, 0.001)) / STEP)


def quantile(times: Counter[int], share: float) -> float | None:
    """The time, in seconds, that this share of all took at most; None where there are none."""
    left = times.total() * share
    for time in sorted(times):
        left -= times[time]
        if left <= 0:
            return math.exp(time * STEP)
    return None
