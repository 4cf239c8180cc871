"""Values → places on an axis, and the round numbers that stand along it. Pure."""

import math
from dataclasses import dataclass
from datetime import datetime, tzinfo

from batchupload.language import _

ROUND_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
SHORT = 20.0
"""Seconds below which a run is told in seconds since its start, and not by the clock."""


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis from 0 (or, where it is logarithmic, from `low`) to `high`."""

    high: float
    ticks: tuple[float, ...]
    low: float = 0.0
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value stands: 0 at the beginning of the axis, 1 at its end."""
        if self.log:
            span = math.log(self.high / self.low)
            return min(1.0, max(0.0, math.log(max(value, self.low) / self.low) / span))
        return min(1.0, max(0.0, value / self.high))


def linear(highest: float) -> Scale:
    """An axis from 0 to a round number not below `highest`, with three to five ticks."""
    step = _round_up(max(highest, 1e-9) / 4)
    count = max(1, math.ceil(highest / step - 1e-9))
    return Scale(step * count, tuple(step * n for n in range(count + 1)))


def logarithmic(lowest: float, highest: float) -> Scale:
    """An axis over powers of ten that holds both."""
    first, last = math.floor(math.log10(lowest) + 1e-9), math.ceil(math.log10(highest) - 1e-9)
    last = max(last, first + 1)
    return Scale(10.0**last, tuple(10.0**power for power in range(first, last + 1)), 10.0**first, log=True)


def times(began: float, ended: float, zone: tzinfo, most: int = 5) -> list[tuple[float, str]]:
    """(Seconds since the epoch, label) of the ticks along a run: by the clock, or since its start where it is short."""
    span = max(ended - began, 1e-9)
    if span < SHORT:
        scale = linear(span)
        return [(began + tick, _("{seconds:g} s", seconds=tick)) for tick in scale.ticks if tick <= span]
    step = next((s for s in ROUND_SECONDS if span / s <= most), None) or 86400 * math.ceil(span / most / 86400)
    offset = datetime.fromtimestamp(began, zone).utcoffset()
    shift = offset.total_seconds() if offset else 0.0
    first = math.ceil((began + shift) / step) * step - shift
    form = "%H:%M:%S" if step < 60 else "%H:%M" if step < 86400 else _("%d %b")
    places = [first + step * n for n in range(most + 1) if began <= first + step * n <= ended]
    return [(at, datetime.fromtimestamp(at, zone).strftime(form)) for at in places]


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20 … ."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= value * (1 - 1e-9))
