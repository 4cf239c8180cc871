"""What became of an order → its ending: the one place where an outcome is decided. Pure."""

import shlex
from datetime import datetime

from batchupload.language import _
from batchupload.model import Attempt, Ending, Note, NoteKind, Order, Outcome, Problem, Row, Streak, Verdict
from batchupload.nights import is_known
from batchupload.reasons import Reason
from batchupload.survey import Relation


def unsent(row: Row, relation: Relation, seen: bool) -> Ending | None:
    """The ending of a row that is not to be sent, or None where it is.

    `relation` is how it stands to the other rows, `seen` whether a row before it had the same order.
    """
    if row.problem and row.problem.reason is Reason.MANIFEST_LOST:
        return Ending(row, Outcome.DEFERRED, row.problem.reason, row.problem.detail)
    if row.problem:
        return Ending(row, Outcome.INVALID, row.problem.reason, row.problem.detail)
    if relation is Relation.CONFLICT:
        return Ending(row, Outcome.INVALID, Reason.CONFLICTING_ROWS)
    if relation is Relation.SAME and seen:
        return Ending(row, Outcome.DUPLICATE, Reason.REPEATED_ROW)
    return None


def already_uploaded(order: Order) -> Ending:
    """The ending of an order whose photos the endpoint has."""
    return Ending(
        order.row,
        Outcome.SKIPPED,
        Reason.ALREADY_UPLOADED,
        _("run {run}", run=order.standing.uploaded_run),
    )


def set_aside(order: Order, streak: Streak) -> Ending:
    """The ending of an order that failed with these photos night after night, and is not sent until it is released.

    One that an earlier run may have got through stays `unknown`.
    """
    last = f"{streak.reason}: {streak.message}" if streak.message else streak.reason
    released = shlex.join(("batchupload", "release", order.row.order_id))
    detail = _(
        "failed on {nights} nights running, {first} to {last}, last with {reason}; to send it again: {command}",
        nights=streak.nights, first=streak.first, last=streak.last, reason=last, command=released,
    )  # fmt: skip
    return not_tried_again(order, 0.0, Reason.QUARANTINED, detail)


def good(order: Order) -> Ending:
    """The ending of an order that is in order, where nothing is to be sent."""
    return _ending(order, 0.0, Outcome.DEFERRED, Reason.NOT_SENT)


def after_last_attempt(order: Order, seconds: float, exhausted: bool) -> Ending:
    """The ending of an order that gets no further attempt; `exhausted` where it has had all of them."""
    last = order.attempts[-1].finding
    match last.verdict:
        case Verdict.ACCEPTED:
            changed = order.standing.uploaded not in {None, order.digest}
            return _ending(order, seconds, Outcome.UPLOADED, Reason.ACCEPTED_CHANGED if changed else last.reason)
        case Verdict.REJECTED:
            return _ending(order, seconds, Outcome.REJECTED, last.reason)
    if doubtful := _doubtful(order):
        return _ending(order, seconds, Outcome.UNKNOWN, doubtful.finding.reason)
    if order.standing.in_doubt:
        return _ending(order, seconds, Outcome.UNKNOWN, last.reason)
    if last.verdict is Verdict.MISADDRESSED or exhausted:
        return _ending(order, seconds, Outcome.FAILED, last.reason)
    return _ending(order, seconds, Outcome.DEFERRED, Reason.ORDER_TIME_LIMIT)


def not_tried_again(order: Order, seconds: float, reason: Reason, detail: str = "") -> Ending:
    """The ending of an order that is left before its end, for a `reason` that lies outside it."""
    doubtful = _doubtful(order) or order.standing.in_doubt
    return _ending(order, seconds, Outcome.UNKNOWN if doubtful else Outcome.DEFERRED, reason, detail)


def faulty(order: Order, seconds: float, text: str, *, sending: bool) -> Ending:
    """The ending of an order that met a fault of ours, described by `text`.

    If it was `sending`, or was sent before, what became of it may not be known.
    """
    doubtful = sending or _doubtful(order) or order.standing.doubtful_run
    return _ending(order, seconds, Outcome.UNKNOWN if doubtful else Outcome.FAILED, Reason.INTERNAL_ERROR, text)


def unusable(order: Order, seconds: float, problem: Problem) -> Ending:
    """The ending of an order whose photos can't be used."""
    if order.attempts:
        detail = problem.detail if problem.reason is Reason.PHOTO_CHANGED else f"{problem.reason} {problem.detail}"
        return not_tried_again(order, seconds, Reason.PHOTO_CHANGED, detail.strip())
    outcome = Outcome.UNKNOWN if order.standing.in_doubt else Outcome.INVALID
    return _ending(order, seconds, outcome, problem.reason, problem.detail)


def _doubtful(order: Order) -> Attempt | None:
    """The last attempt that the endpoint may have accepted without our knowing."""
    return next((a for a in reversed(order.attempts) if a.finding.verdict is Verdict.AMBIGUOUS), None)


def _ending(order: Order, seconds: float, outcome: Outcome, reason: Reason, detail: str = "") -> Ending:
    earlier = ""
    if outcome is Outcome.UNKNOWN and not order.standing.known:
        earlier = _("the ledger can't be read: an earlier run may have sent it")
    if outcome in {Outcome.UNKNOWN, Outcome.REJECTED} and order.standing.doubtful_run:
        earlier = _("run {run} sent it, and what became of that is not known", run=order.standing.doubtful_run)
    if outcome is Outcome.REJECTED and _doubtful(order):
        earlier = _("an attempt before it may have been accepted")
    started: datetime | None = order.attempts[0].started_at if order.attempts else None
    known = not order.attempts or is_known(order.standing, order.digest, order.attempts[-1].finding)
    return Ending(
        order.row,
        outcome,
        reason,
        "; ".join(part for part in (detail, earlier, _trail(order.attempts, reason), *_said(order.notes)) if part),
        order.attempts,
        started,
        seconds,
        order.notes,
        known,
    )


def _said(notes: tuple[Note, ...]) -> list[str]:
    """Such as `repaired face: resized 8.1 MB → 1.9 MB; hand: rotated` and `warning: back is blank`."""
    repaired = "; ".join(note.text for note in notes if note.kind is NoteKind.REPAIRED)
    warned = [_("warning: {text}", text=note.text) for note in notes if note.kind is not NoteKind.REPAIRED]
    return [_("repaired {repaired}", repaired=repaired), *warned] if repaired else warned


def _trail(attempts: tuple[Attempt, ...], reason: Reason) -> str:
    """What every attempt met, such as `attempts: 1 unavailable (503), 2 accepted`; nothing if `reason` says it all."""
    if not attempts or (len(attempts) == 1 and reason in {attempts[0].finding.reason, Reason.ACCEPTED_CHANGED}):
        return ""
    steps = []
    for number, attempt in enumerate(attempts, 1):
        status = attempt.finding.http_status
        shown = f" ({status})" if status not in {None, 200} else ""
        steps.append(f"{number} {attempt.finding.reason}{shown}")
    return _("attempts: {steps}", steps=", ".join(steps))
