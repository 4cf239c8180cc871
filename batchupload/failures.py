"""Rows that are left → groups by reason and message, each with how many and a few examples. Pure, in bounded memory."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

EXAMPLES = 3
"""Rows of a group that are named."""
GROUPS = 1000
"""Groups that are told apart; what comes after that is one more."""
COMPARED = 200
"""Characters of a message that are looked at."""
VARIES = "…"
"""Stands for what differs from order to order."""

# Numbers, dates, times, addresses and identifiers: whatever has a digit, with what joins it to the next such.
_UUID = r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
_HEX = r"(?<![0-9a-z])(?=[a-f]*[0-9])[0-9a-f]{8,64}(?![0-9a-z])"
_VARYING = re.compile(rf"{_UUID}|{_HEX}|[A-Za-z]{{0,4}}\d+(?:[-:./,_+ T]{{1,2}}\d+)*Z?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a group."""

    line: str
    order_id: str


@dataclass(frozen=True, slots=True)
class Group:
    """Rows that are left for one reason, and with one message."""

    reason: str
    message: str
    """The endpoint's, without what differs from order to order; empty where it said nothing."""
    count: int
    examples: tuple[Example, ...]
    """The first of them."""


class Failures:
    """Groups that grow row by row."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], list[Example]] = {}
        self._seen: dict[str, str] = {}
        """Messages that were met → what is the same in them; as many as there may be groups."""

    def add(self, reason: str, message: str, line: str, order_id: str) -> None:
        """Count one row."""
        key = (reason, self._common(message, order_id) if message else "")
        if key not in self._counts and len(self._counts) >= GROUPS:
            key = (VARIES, VARIES)
        self._counts[key] += 1
        examples = self._examples.setdefault(key, [])
        if len(examples) < EXAMPLES:
            examples.append(Example(line, order_id))

    def groups(self) -> tuple[Group, ...]:
        """All of them, the largest first."""
        return tuple(
            Group(*key, count, tuple(self._examples[key]))
            for key, count in sorted(self._counts.items(), key=lambda one: (-one[1], one[0]))
        )

    def _common(self, message: str, order_id: str) -> str:
        if (found := self._seen.get(message)) is None:
            found = common(message, order_id)
            if len(self._seen) < GROUPS:
                self._seen[message] = found
        return found


def common(message: str, order_id: str) -> str:
    """The message without what differs from order to order: its number, and whatever else has digits."""
    text = " ".join(message[:COMPARED].split())
    if order_id:
        text = text.replace(order_id, VARIES)
    return _VARYING.sub(VARIES, text)


def largest(groups: Sequence[Group], most: int) -> tuple[Sequence[Group], int]:
    """The first `most` of them, and how many rows are in the others."""
    return groups[:most], sum(group.count for group in groups[most:])
