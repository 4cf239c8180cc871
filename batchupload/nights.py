"""An order's attempts, as the ledger has them → the nights running on which it failed. Pure."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from batchupload.failures import common
from batchupload.model import Finding, Standing, Streak, Verdict
from batchupload.reasons import Reason

LIES_ELSEWHERE: frozenset[str] = frozenset(
    {
        Reason.DNS_FAILED, Reason.CONNECTION_REFUSED, Reason.CONNECT_TIMEOUT, Reason.CONNECT_FAILED,
        Reason.RATE_LIMITED, Reason.TOO_EARLY, Reason.UNAVAILABLE, Reason.ENDPOINT_BUSY, Reason.FILES_EXHAUSTED,
        Reason.STOPPED, Reason.INTERNAL_ERROR, "connection_stale",
    }
)  # fmt: skip
"""What speaks of the endpoint, the network or this machine as a whole, and not of the order that met it. The last
stands in ledgers of versions that used connections again."""
WENT_WRONG_WITH_ALL = frozenset({Reason.ENDPOINT_DOWN, Reason.ADDRESS_REFUSED, Reason.CANARY, Reason.MAX_FAILURES})
"""Why a run ends early for what is hardly any single order's fault. The other reasons lie on this side (a signal, the
deadline, workers, readers, disks, a fault of ours) and make no refusal doubtful."""
COUNTS_NOTHING: frozenset[Verdict] = frozenset()
COUNTS_REFUSALS = frozenset({Verdict.REJECTED})
COUNTS_ALL = frozenset({Verdict.REJECTED, Verdict.RETRY, Verdict.AMBIGUOUS})
APART = timedelta(hours=12)
"""Two nights begin at least this far apart. Nightly runs are 24 hours apart (23 if the clocks change), and may start
some hours late; what runs again after midnight, or the next morning, belongs to the night before."""


@dataclass(frozen=True, slots=True)
class Night:
    """A run, as far as it counts against the orders that it tried."""

    began: datetime
    """The moment at which it began, with its offset from UTC."""
    counts: frozenset[Verdict]
    """Last verdicts that count."""
    repeated: bool = False
    """Whether only what the order had met on a night before counts."""


@dataclass(frozen=True, slots=True)
class LastSend:
    """The last attempt that a run made at an order."""

    run: int
    photos: bytes
    verdict: Verdict
    reason: str
    message: str


def met(photos: bytes, reason: str, message: str) -> tuple[bytes, str, str]:
    """What a send met, without what differs from one time to the next."""
    return photos, reason, common(message, "")


def is_known(standing: Standing, photos: bytes | None, finding: Finding) -> bool:
    """Whether an order met, with the same photos, what it had met in an earlier run. It says nothing about this run."""
    return photos is not None and met(photos, finding.reason, finding.message) in standing.met


def night(began: datetime, *, ended: bool, stopped: str | None, answered: bool) -> Night:
    """What counts of a run; `stopped` is why it ended early, `answered` whether the endpoint took or refused any order.

    A run that died says nothing of an order. If a run ended early for what went wrong with all, a refusal counts only
    if the order had met the same on a night before: then it is the order's own. In a run that was stopped an order may
    have had attempts to come, and if nothing was answered the endpoint may have been at fault: only a refusal is
    certain.
    """
    if not ended:
        return Night(began, COUNTS_NOTHING)
    if stopped in WENT_WRONG_WITH_ALL:
        return Night(began, COUNTS_REFUSALS, repeated=True)
    return Night(began, COUNTS_ALL if answered and not stopped else COUNTS_REFUSALS)


def streak(sends: Iterable[LastSend], nights: Mapping[int, Night], now: datetime, released: int = 0) -> Streak | None:
    """The nights running on which an order failed, by the last sends of each run in their order, up to `now`.

    An upload ends them, as do other photos; those up to the `released` run don't count. A night that says nothing of
    the order neither counts nor ends them.
    """
    counted: list[tuple[datetime, LastSend]] = []
    refused: list[tuple[datetime, tuple[bytes, str, str]]] = []
    for send in sends:
        if send.verdict is Verdict.ACCEPTED or (counted and counted[-1][1].photos != send.photos):
            counted, refused = [], []
        at = nights.get(send.run)
        if at is None or send.run <= released or send.verdict not in at.counts or send.reason in LIES_ELSEWHERE:
            continue
        key = met(send.photos, send.reason, send.message)
        if not at.repeated or any(key == one and abs(at.began - then) >= APART for then, one in refused):
            counted.append((at.began, send))
        refused.append((at.began, key))
    kept = [counted[place] for place in in_order([*(began for began, _ in counted), now]) if place < len(counted)]
    return _streak(kept) if kept else None


def _streak(counted: Sequence[tuple[datetime, LastSend]]) -> Streak:
    """The nights of these runs, which follow each other: each is another date of the zone in which the first began."""
    first = last = counted[0][0]
    nights = 1
    for began, _send in counted:
        if began - last >= APART and began.astimezone(first.tzinfo).date() != last.astimezone(first.tzinfo).date():
            nights, last = nights + 1, began
    send = counted[-1][1]
    until = last.astimezone(first.tzinfo).date().isoformat()
    return Streak(send.photos, nights, first.date().isoformat(), until, send.reason, send.message)


def in_order(moments: Sequence[datetime]) -> Sequence[int]:
    """The places of the most `moments` that can be had without one that goes back, in their order.

    Runs follow each other, so what is left out began with a clock that was wrong, ahead or behind. Of several such
    choices it is the one that ends earliest.
    """
    tails: list[datetime] = []
    ends: list[int] = []
    before: list[int] = []
    for place, moment in enumerate(moments):
        length = bisect_right(tails, moment)
        before.append(ends[length - 1] if length else -1)
        tails[length : length + 1] = [moment]
        ends[length : length + 1] = [place]
    found: list[int] = []
    place = ends[-1] if ends else -1
    while place >= 0:
        found.append(place)
        place = before[place]
    return found[::-1]
