"""What became of the orders that failed in one run, by the next: newly failing, mended, still failing. Pure."""

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True, slots=True)
class Change:
    """A run beside one before it, in orders. One fails where it is not uploaded, skipped or duplicate."""

    newly_failing: int
    """Failing now, and not then: they were well, or not in that run."""
    mended: int
    """Failing then, and now uploaded, or found to be."""
    still_failing: int
    gone: int
    """Failing then, and not in this run."""


class Comparison:
    """A run beside one before it, of which the orders that failed are given; grows by this run's rows.

    An order is known by a 64-bit hash: 9 bytes for each that failed then and 8 for each row that fails anew, and 40
    more for each for a moment. Two of a million share a hash once in 30 million runs, which would count one too few.
    """

    def __init__(self, failing: Iterable[str]) -> None:
        self._was = _once(array("q", map(hash, failing)))
        self._now = bytearray(len(self._was))
        """For each of them 0 where it was not met, 1 where it is well, 2 where it fails."""
        self._newly = array("q")

    def add(self, order_id: str, *, fails: bool) -> None:
        """Take in a row of this run; an order with several fails where one of them does."""
        key = hash(order_id)
        at = bisect_left(self._was, key)
        if at < len(self._was) and self._was[at] == key:
            self._now[at] = max(self._now[at], 2 if fails else 1)
        elif fails:
            self._newly.append(key)

    def change(self) -> Change:
        """What it comes to."""
        return Change(len(_once(self._newly)), self._now.count(1), self._now.count(2), self._now.count(0))


def _once(keys: "array[int]") -> "array[int]":
    """Sorted, each once."""
    return array("q", (key for key, _ in groupby(sorted(keys))))
