"""An order's attempts, as the ledger has them → the nights running on which it failed. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from batchupload.model import Streak, Verdict
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
"""Why a run ends early for what is hardly any single order's fault."""
COUNTS_NOTHING: frozenset[Verdict] = frozenset()
COUNTS_REFUSALS = frozenset({Verdict.REJECTED})
COUNTS_ALL = frozenset({Verdict.REJECTED, Verdict.RETRY, Verdict.AMBIGUOUS})


@dataclass(frozen=True, slots=True)
class Night:
    """A run, as far as it counts against the orders that it tried."""

    date: str
    """The local date on which it began: runs of one date are one night, also where they go on after midnight."""
    counts: frozenset[Verdict]
    """Last verdicts that count."""


@dataclass(frozen=True, slots=True)
class LastSend:
    """The last attempt that a run made at an order."""

    run: int
    photos: bytes
    verdict: Verdict
    reason: str
    message: str


def night(date: str, *, ended: bool, stopped: str | None, answered: bool) -> Night:
    """What counts of a run; `stopped` is why it ended early, `answered` whether the endpoint took or refused any order.

    A run that died, or ended early for what went wrong with all, says nothing of an order. In one that was stopped an
    order may have had attempts to come, and where nothing was answered the endpoint may have been at fault: there only
    a refusal is certain.
    """
    if not ended or stopped in WENT_WRONG_WITH_ALL:
        return Night(date, COUNTS_NOTHING)
    return Night(date, COUNTS_ALL if answered and not stopped else COUNTS_REFUSALS)


def streak(sends: Iterable[LastSend], nights: Mapping[int, Night], released: int = 0) -> Streak | None:
    """The nights running on which an order failed, by the last sends of each run in their order.

    An upload ends them, as do other photos; those up to the `released` run don't count. A night that says nothing of
    the order neither counts nor ends them.
    """
    found: Streak | None = None
    for send in sends:
        if send.verdict is Verdict.ACCEPTED or (found and found.photos != send.photos):
            found = None
        at = nights.get(send.run)
        if at is None or send.run <= released or send.verdict not in at.counts or send.reason in LIES_ELSEWHERE:
            continue
        before, first = (found.nights - (found.last == at.date), found.first) if found else (0, at.date)
        found = Streak(send.photos, before + 1, first, at.date, send.reason, send.message)
    return found
