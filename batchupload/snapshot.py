"""The state of a run at one moment: the one count that screen, log, status and metrics are made of."""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from batchupload.bounds import Holdup
from batchupload.language import _
from batchupload.model import Outcome, Verdict
from batchupload.pace import Pace
from batchupload.reasons import Reason
from batchupload.site import Site
from batchupload.stop import Stop
from batchupload.summary import Tally, duration, size
from batchupload.throttle import Throttle

WINDOW_SECONDS = 10.0
"""The present rate is that of so long: an order now and then still counts, and a change soon shows."""
APART_SECONDS = 0.2
"""Looks that come closer than this are not kept: whoever asks often makes no long memory."""


class State(StrEnum):
    """What a run is doing."""

    GOING = "going"
    QUIET = "quiet"
    """The endpoint asked for time."""
    DOWN = "down"
    """The endpoint does not answer; one order at a time probes it."""
    STOPPING = "stopping"
    """Nothing new is begun."""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What stays the same throughout a run."""

    run: int | None
    """Its number in the ledger; None where nothing is to be sent."""
    started_at: str
    """ISO 8601 with offset."""
    manifests: tuple[str, ...]
    report: str
    pid: int
    host: str
    version: str


@dataclass(frozen=True, slots=True)
class PaceNow:
    """How a run goes at this moment."""

    state: State = State.GOING
    at_once: int = 0
    """Sends that may be under way; 0 where none is to be sent."""
    under_way: int = 0
    note: str = ""
    """What a person should know of it: how many at once, and why."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The counts of a run at one moment. It holds no order's number and no path of a photo."""

    taken_at: float
    """Unix time."""
    sends: bool
    """Whether anything is to be sent."""
    rows: int
    total: int
    outcomes: Mapping[Outcome, int]
    reasons: Mapping[tuple[Outcome, Reason], int]
    attempts: Mapping[Verdict, int]
    attempt_seconds: float
    """Of all attempts together."""
    attempt_buckets: tuple[int, ...]
    """Attempts by how long they took, as `ATTEMPT_BUCKETS` has it."""
    bytes_sent: int
    rows_per_second: float
    """In the last ten seconds, as the next."""
    bytes_per_second: float
    pace: PaceNow

    @property
    def seconds_left(self) -> float | None:
        """At the present rate, or None where there is none that says what is to come."""
        tells = self.rows_per_second > 0 and self.pace.state is State.GOING
        return (self.total - self.rows) / self.rows_per_second if tells else None

    def facts(self) -> dict[str, Any]:
        """For machines."""
        reasons: dict[str, dict[str, int]] = {}
        for (outcome, reason), count in self.reasons.items():
            reasons.setdefault(outcome.value, {})[reason.value] = count
        left = self.seconds_left
        return {
            "taken_at": datetime.fromtimestamp(self.taken_at).astimezone().isoformat(timespec="milliseconds"),
            "rows": self.rows,
            "total": self.total,
            "outcomes": {outcome.value: count for outcome, count in self.outcomes.items()},
            "reasons": reasons,
            "attempts": {verdict.value: count for verdict, count in self.attempts.items()},
            "bytes_sent": self.bytes_sent,
            "rows_per_second": round(self.rows_per_second, 3),
            "bytes_per_second": round(self.bytes_per_second),
            "seconds_left": None if left is None else round(left, 1),
            "state": self.pace.state.value,
            "at_once": self.pace.at_once,
            "under_way": self.pace.under_way,
            "note": self.pace.note,
        }


def read_snapshot(facts: Mapping[str, Any]) -> Snapshot:
    """The snapshot that these facts were made of, of a run that sends. Raises `ValueError`, `KeyError`, `TypeError`."""
    known = {reason.value: reason for reason in Reason}
    reasons = {
        (Outcome(outcome), known[reason]): int(count)
        for outcome, inner in facts["reasons"].items()
        for reason, count in inner.items()
    }
    return Snapshot(
        datetime.fromisoformat(facts["taken_at"]).timestamp(),
        True,
        int(facts["rows"]),
        int(facts["total"]),
        {Outcome(outcome): int(count) for outcome, count in facts["outcomes"].items()},
        reasons,
        {Verdict(verdict): int(count) for verdict, count in facts["attempts"].items()},
        0.0,
        (),
        int(facts["bytes_sent"]),
        float(facts["rows_per_second"]),
        float(facts["bytes_per_second"]),
        PaceNow(State(facts["state"]), int(facts["at_once"]), int(facts["under_way"]), str(facts["note"])),
    )


class Lookout:
    """Looks at a run whenever somebody asks, and remembers the last seconds for the rates."""

    def __init__(
        self, tally: Tally, total: int, pace: Callable[[], PaceNow], now: Callable[[], float], *, sends: bool
    ) -> None:
        self._tally = tally
        self._total = total
        self._pace = pace
        self._now = now
        self._sends = sends
        self._past = deque([(now(), tally.rows, tally.bytes_sent)])

    def look(self) -> Snapshot:
        """The present state."""
        now, tally = self._now(), self._tally
        while len(self._past) > 1 and self._past[1][0] <= now - WINDOW_SECONDS + APART_SECONDS / 2:
            self._past.popleft()
        then, rows, sent = self._past[0]
        if now - self._past[-1][0] >= APART_SECONDS:
            self._past.append((now, tally.rows, tally.bytes_sent))
        seconds = max(now - then, 1e-9)
        return Snapshot(
            time.time(),
            self._sends,
            tally.rows,
            self._total,
            dict(tally.outcomes),
            dict(tally.reasons),
            dict(tally.attempted),
            tally.attempt_seconds,
            tuple(tally.attempt_buckets),
            tally.bytes_sent,
            (tally.rows - rows) / seconds,
            (tally.bytes_sent - sent) / seconds,
            self._pace(),
        )


def pace_now(pace: Pace | None, stop: Stop, rate: Throttle | None, bandwidth: Throttle | None, site: Site) -> PaceNow:
    """How the run goes; `pace` is None where nothing is to be sent."""
    at_once, under_way = (pace.concurrency, pace.under_way) if pace else (0, 0)
    if stop.cause:
        return PaceNow(State.STOPPING, at_once, under_way, _("stopping: orders under way may end"))
    if not pace:
        return PaceNow(note=site.told)
    if pace.down:
        left = duration(round(pace.patience_left))
        note = _("the endpoint takes nothing; one order at a time probes it, for {left} more", left=left)
        note = f"{note} ({pace.why})"
        return PaceNow(State.DOWN, at_once, under_way, note)
    if pace.paused >= 1:
        note = _("quiet for another {paused:.0f} s, as the endpoint asked", paused=pace.paused)
        return PaceNow(State.QUIET, at_once, under_way, note)
    held = [_("at most {rate:g} orders/s", rate=rate.rate)] if rate and rate.rate else []
    held += [_("at most {size}/s", size=size(bandwidth.rate))] if bandwidth and bandwidth.rate else []
    if pace.waits_for is Holdup.RATE:
        why = _("as {setting} allows", setting="pace.rate")
    elif bandwidth and bandwidth.held:
        why = _("as {setting} allows", setting="pace.bandwidth")
    else:
        why = pace.why
    going = _("{concurrency} at once ({why})", concurrency=at_once, why=why)
    return PaceNow(State.GOING, at_once, under_way, ", ".join([going, *held, *filter(None, [site.told])]))
