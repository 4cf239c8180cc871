"""Rows of a report → the figures that the page shows. Pure, one pass, in bounded memory."""

import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone, tzinfo

from batchupload.failures import Failures, Group
from batchupload.language import _, several, together
from batchupload.model import Outcome
from batchupload.page.rows import NEEDS_NOBODY, ReportRow
from batchupload.page.timeline import Bin, Timeline, quantile
from batchupload.reasons import Reason
from batchupload.summary import AGAIN, RECORDS_LOST, STOPPED_EARLY, what_is_left

LISTED = 10
"""Orders that are named as the slowest, and as the most retried."""
KINDS = 1000
"""Pairs of outcome and reason that are told apart; no report of ours has as many."""
STOPS = STOPPED_EARLY | RECORDS_LOST | {Reason.STOPPED}


@dataclass(frozen=True, slots=True)
class Told:
    """An order that stands out."""

    order_id: str
    outcome: str
    reason: str
    attempts: int
    seconds: float
    started_at: datetime | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What a report tells."""

    rows: int = 0
    left: int = 0
    """Rows that need a person or another run."""
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(outcome, reason) → rows."""
    sent: int = 0
    """Orders with at least one attempt."""
    attempts: int = 0
    bytes_sent: int = 0
    began: float | None = None
    """Of the first attempt, seconds since the epoch; None where nothing was sent, or no time is told."""
    ended: float | None = None
    """Of the last order that was sent."""
    zone: tzinfo = UTC
    """What the clock showed where it ran."""
    median: float | None = None
    """Seconds that half of the sent orders took at most."""
    slow: float | None = None
    """Seconds that 95 % of them took at most."""
    bins: tuple[Bin, ...] = ()
    slowest: tuple[Told, ...] = ()
    most_retried: tuple[Told, ...] = ()
    groups: tuple[Group, ...] = ()
    """The rows that are left, by reason and message, the largest group first."""

    @property
    def outcomes(self) -> Counter[str]:
        """Outcome → rows."""
        outcomes: Counter[str] = Counter()
        for (outcome, _reason), count in self.counts.items():
            outcomes[outcome] += count
        return outcomes

    @property
    def seconds(self) -> float:
        """From the first attempt to the end of the last."""
        return 0.0 if self.began is None or self.ended is None else self.ended - self.began

    @property
    def verdict(self) -> str:
        """The run in one sentence."""
        again = sum(count for kind, count in self.counts.items() if tone(*kind) == "again")
        checked = self.counts[Outcome.DEFERRED, Reason.NOT_SENT]
        again -= checked
        person = self.left - again
        if not self.rows:
            return _("There was nothing to do: the report has no rows.")
        if checked and not self.sent:
            rows = several(self.rows, "{n:,} row", "{n:,} rows")
            bad = several(self.left, "{n:,} can't be sent as it is.", "{n:,} can't be sent as they are.")
            return together(_("Checked {rows}; nothing was sent.", rows=rows), bad if self.left else _("All good."))
        stop = next((reason for _, reason in self.counts if reason in STOPS), None)
        left = what_is_left(self.rows, person, again)
        if stop == Reason.STOPPED:
            return _("Stopped, as asked: {what_is_left}", what_is_left=left)
        if stop:
            return _("Stopped early ({reason}): {what_is_left}", reason=stop, what_is_left=left)
        return _("Finished: {what_is_left}", what_is_left=left)


def facts(rows: Iterable[ReportRow]) -> Facts:
    """Count and measure all of them."""
    counts: Counter[tuple[str, str]] = Counter()
    timeline, failures = Timeline(), Failures()
    total = left = sent = attempts = bytes_sent = 0
    zone: tzinfo | None = None
    slowest: list[tuple[float, int, ReportRow]] = []
    retried: list[tuple[int, float, int, ReportRow]] = []
    for total, row in enumerate(rows, 1):
        kind = (row.outcome, row.reason)
        counts[kind if kind in counts or len(counts) < KINDS else ("…", "…")] += 1
        if row.is_left:
            left += 1
            failures.add(row.reason, row.message, row.line, row.order_id)
        if not (sends := row.attempts):
            continue
        seconds, size = row.seconds, row.bytes_sent
        sent += 1
        attempts += sends
        bytes_sent += size
        _keep(slowest, (seconds, -total, row))
        if sends > 1:
            _keep(retried, (sends, seconds, -total, row))
        if start := row.started_at:
            zone = zone or timezone(start.utcoffset() or timedelta())
            timeline.add(start.timestamp(), seconds, size, uploaded=row.is_uploaded)
    bins = timeline.bins()
    return Facts(
        total,
        left,
        counts,
        sent,
        attempts,
        bytes_sent,
        timeline.began if bins else None,
        timeline.ended if bins else None,
        zone or UTC,
        quantile(timeline.times, 0.5),
        quantile(timeline.times, 0.95),
        bins,
        tuple(_told(row) for *_, row in sorted(slowest, key=lambda one: one[:-1], reverse=True)),
        tuple(_told(row) for *_, row in sorted(retried, key=lambda one: one[:-1], reverse=True)),
        failures.groups(),
    )


def tone(outcome: str, reason: str = "") -> str:
    """What an outcome asks for: `done`, `again` (another run) or `person`; what is set aside waits for a person."""
    again = outcome in AGAIN and reason != Reason.QUARANTINED.value
    return "done" if outcome in NEEDS_NOBODY else "again" if again else "person"


def _keep(heap: list, one: tuple) -> None:  # type: ignore[type-arg]
    """The greatest few; no two are alike up to their place in the report, so that rows are never compared."""
    (heapq.heappush if len(heap) < LISTED else heapq.heappushpop)(heap, one)


def _told(row: ReportRow) -> Told:
    return Told(row.order_id, row.outcome, row.reason, row.attempts, row.seconds, row.started_at)
