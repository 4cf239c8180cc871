"""What is decided of an order from what is known of it: its ending in full, and when it is tried again, as tables."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from batchupload.ending import after_last_attempt, already_uploaded, faulty, good, not_tried_again, set_aside, unsent
from batchupload.ending import unusable as unusable_
from batchupload.model import (
    Attempt,
    Ending,
    Finding,
    Note,
    NoteKind,
    Order,
    Outcome,
    Problem,
    Row,
    Standing,
    Streak,
    Verdict,
)
from batchupload.pace import Pace, Turn
from batchupload.reasons import Reason
from batchupload.retry import RetryPolicy
from batchupload.settings import PaceSettings, RetrySettings
from batchupload.stop import Stop
from batchupload.survey import Relation

BEGAN = datetime(2026, 1, 2, tzinfo=UTC)
PHOTOS = b"x" * 48
OTHER = b"y" * 48
ROW = Row(Path("orders.csv"), 2, "HT000001", {}, {})
NEW = Standing()
SENT = Standing(doubtful_run=7)
LOST = Standing(known=False)
EARLIER = "run 7 sent it, and what became of that is not known"
UNREADABLE = "the ledger can't be read: an earlier run may have sent it"
BEFORE = "an attempt before it may have been accepted"


def attempt(verdict: Verdict, reason: Reason, status: int | None = None, wait: float | None = None) -> Attempt:
    return Attempt(BEGAN, 0.0, 1.0, 0.5, 10, Finding(verdict, reason, status, retry_after=wait))


ACCEPTED = attempt(Verdict.ACCEPTED, Reason.ACCEPTED, 200)
REJECTED = attempt(Verdict.REJECTED, Reason.ENDPOINT_REFUSED, 200)
BUSY = attempt(Verdict.RETRY, Reason.UNAVAILABLE, 503)
RESET = attempt(Verdict.RETRY, Reason.UPLOAD_RESET)
NO_REPLY = attempt(Verdict.AMBIGUOUS, Reason.REPLY_LOST)
TOO_LATE = attempt(Verdict.AMBIGUOUS, Reason.REPLY_TIMEOUT)
NOT_THERE = attempt(Verdict.MISADDRESSED, Reason.WRONG_ADDRESS, 404)


def order(*attempts: Attempt, standing: Standing = NEW, notes: tuple[Note, ...] = ()) -> Order:
    return Order(ROW, standing, attempts, PHOTOS, notes)


# Rows that are not sent


@pytest.mark.parametrize(
    ("problem", "relation", "seen", "ending"),
    [
        (None, Relation.SINGLE, False, None),
        (None, Relation.SINGLE, True, None),
        (None, Relation.SAME, False, None),
        (None, Relation.SAME, True, (Outcome.DUPLICATE, Reason.REPEATED_ROW, "")),
        (None, Relation.CONFLICT, False, (Outcome.INVALID, Reason.CONFLICTING_ROWS, "")),
        (None, Relation.CONFLICT, True, (Outcome.INVALID, Reason.CONFLICTING_ROWS, "")),
        (Reason.MISSING_CELL, Relation.CONFLICT, True, (Outcome.INVALID, Reason.MISSING_CELL, "so")),
        (Reason.MANIFEST_LOST, Relation.SAME, True, (Outcome.DEFERRED, Reason.MANIFEST_LOST, "so")),
    ],
)
def test_a_row_ends_unsent_for_what_is_wrong_with_it_or_with_those_beside_it(
    problem: Reason | None, relation: Relation, seen: bool, ending: tuple[Outcome, Reason, str] | None
) -> None:
    row = replace(ROW, problem=Problem(problem, "so") if problem else None)
    assert unsent(row, relation, seen) == (ending and Ending(row, *ending))


def test_what_is_uploaded_already_names_the_run() -> None:
    found = already_uploaded(order(standing=Standing(PHOTOS, 7)))
    assert found == Ending(ROW, Outcome.SKIPPED, Reason.ALREADY_UPLOADED, "run 7")


@pytest.mark.parametrize(("message", "last"), [("", "server_error"), ("no such order", "server_error: no such order")])
@pytest.mark.parametrize("standing", [NEW, SENT])
def test_what_is_set_aside_says_since_when_for_what_and_how_to_release_it(
    message: str, last: str, standing: Standing
) -> None:
    row = replace(ROW, order_id="HT 1")
    streak = Streak(PHOTOS, 3, "2026-01-02", "2026-01-04", "server_error", message)
    detail = (
        f"failed on 3 nights running, 2026-01-02 to 2026-01-04, last with {last}; "
        "to send it again: batchupload release 'HT 1'"
    )
    outcome = Outcome.DEFERRED
    if standing is SENT:
        outcome, detail = Outcome.UNKNOWN, f"{detail}; {EARLIER}"
    found = set_aside(Order(row, standing, digest=PHOTOS), streak)
    assert found == Ending(row, outcome, Reason.QUARANTINED, detail, known=True)


# Orders that were tried

ENDINGS = [
    # attempts, what is known of earlier runs, whether it has had all attempts → outcome, reason, detail
    ((ACCEPTED,), NEW, True, "uploaded", Reason.ACCEPTED, ""),
    ((ACCEPTED,), SENT, False, "uploaded", Reason.ACCEPTED, ""),
    ((ACCEPTED,), Standing(PHOTOS, 7), True, "uploaded", Reason.ACCEPTED, ""),
    ((ACCEPTED,), Standing(OTHER, 7), True, "uploaded", Reason.ACCEPTED_CHANGED, ""),
    ((BUSY, ACCEPTED), NEW, True, "uploaded", Reason.ACCEPTED, "attempts: 1 unavailable (503), 2 accepted"),
    (
        (BUSY, ACCEPTED), Standing(OTHER, 7), True, "uploaded", Reason.ACCEPTED_CHANGED,
        "attempts: 1 unavailable (503), 2 accepted",
    ),
    ((REJECTED,), NEW, True, "rejected", Reason.ENDPOINT_REFUSED, ""),
    ((REJECTED,), SENT, True, "rejected", Reason.ENDPOINT_REFUSED, EARLIER),
    ((REJECTED,), LOST, True, "rejected", Reason.ENDPOINT_REFUSED, ""),
    (
        (NO_REPLY, REJECTED), SENT, True, "rejected", Reason.ENDPOINT_REFUSED,
        f"{BEFORE}; attempts: 1 reply_lost, 2 endpoint_refused",
    ),
    ((BUSY, BUSY), NEW, True, "failed", Reason.UNAVAILABLE, "attempts: 1 unavailable (503), 2 unavailable (503)"),
    ((BUSY,), NEW, True, "failed", Reason.UNAVAILABLE, ""),
    ((BUSY,), NEW, False, "deferred", Reason.ORDER_TIME_LIMIT, "attempts: 1 unavailable (503)"),
    ((BUSY,), SENT, True, "unknown", Reason.UNAVAILABLE, EARLIER),
    ((BUSY,), SENT, False, "unknown", Reason.UNAVAILABLE, EARLIER),
    ((BUSY,), LOST, False, "unknown", Reason.UNAVAILABLE, UNREADABLE),
    ((BUSY,), replace(SENT, known=False), False, "unknown", Reason.UNAVAILABLE, EARLIER),
    ((NOT_THERE,), NEW, False, "failed", Reason.WRONG_ADDRESS, ""),
    ((NOT_THERE,), SENT, False, "unknown", Reason.WRONG_ADDRESS, EARLIER),
    ((NO_REPLY,), NEW, True, "unknown", Reason.REPLY_LOST, ""),
    ((NO_REPLY,), NEW, False, "unknown", Reason.REPLY_LOST, ""),
    (
        (NO_REPLY, TOO_LATE, RESET), NEW, True, "unknown", Reason.REPLY_TIMEOUT,
        "attempts: 1 reply_lost, 2 reply_timeout, 3 upload_reset",
    ),
    (
        (NO_REPLY, NOT_THERE), NEW, True, "unknown", Reason.REPLY_LOST,
        "attempts: 1 reply_lost, 2 wrong_address (404)",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("attempts", "standing", "exhausted", "outcome", "reason", "detail"), ENDINGS)
def test_an_order_ends_as_its_attempts_and_the_earlier_runs_prove(
    attempts: tuple[Attempt, ...], standing: Standing, exhausted: bool, outcome: str, reason: Reason, detail: str
) -> None:
    first = replace(attempts[0], started_at=BEGAN - timedelta(seconds=9))
    made = (first, *attempts[1:])
    found = after_last_attempt(order(*made, standing=standing), 12.5, exhausted)
    assert found == Ending(ROW, Outcome(outcome), reason, detail, made, first.started_at, 12.5)
    assert found.finding == attempts[-1].finding


LEFT = [
    ((), NEW, "deferred", "so"),
    ((), SENT, "unknown", f"so; {EARLIER}"),
    ((), LOST, "unknown", f"so; {UNREADABLE}"),
    ((BUSY,), NEW, "deferred", "so; attempts: 1 unavailable (503)"),
    ((NO_REPLY,), NEW, "unknown", "so; attempts: 1 reply_lost"),
    ((NO_REPLY, BUSY), SENT, "unknown", f"so; {EARLIER}; attempts: 1 reply_lost, 2 unavailable (503)"),
]  # fmt: skip


@pytest.mark.parametrize(("attempts", "standing", "outcome", "detail"), LEFT)
def test_an_order_that_is_left_is_unknown_if_it_may_have_been_accepted(
    attempts: tuple[Attempt, ...], standing: Standing, outcome: str, detail: str
) -> None:
    found = not_tried_again(order(*attempts, standing=standing), 12.5, Reason.STOPPED, "so")
    began = BEGAN if attempts else None
    assert found == Ending(ROW, Outcome(outcome), Reason.STOPPED, detail, attempts, began, 12.5, known=not attempts)


@pytest.mark.parametrize(
    ("attempts", "standing", "sending", "outcome", "detail"),
    [
        ((), NEW, False, "failed", "so"),
        ((), NEW, True, "unknown", "so"),
        ((), SENT, False, "unknown", f"so; {EARLIER}"),
        ((BUSY,), NEW, False, "failed", "so; attempts: 1 unavailable (503)"),
        ((NO_REPLY,), NEW, False, "unknown", "so; attempts: 1 reply_lost"),
    ],
)
def test_an_order_that_met_a_fault_of_ours_is_unknown_if_it_may_have_been_accepted(
    attempts: tuple[Attempt, ...], standing: Standing, sending: bool, outcome: str, detail: str
) -> None:
    found = faulty(order(*attempts, standing=standing), 12.5, "so", sending=sending)
    assert (found.outcome, found.reason, found.detail) == (outcome, Reason.INTERNAL_ERROR, detail)
    assert found.seconds == 12.5


@pytest.mark.parametrize(
    ("attempts", "standing", "problem", "outcome", "reason", "detail"),
    [
        ((), NEW, Problem(Reason.PHOTO_EMPTY, "face"), "invalid", Reason.PHOTO_EMPTY, "face"),
        ((), SENT, Problem(Reason.PHOTO_EMPTY, "face"), "unknown", Reason.PHOTO_EMPTY, f"face; {EARLIER}"),
        ((), LOST, Problem(Reason.PHOTO_EMPTY, "face"), "unknown", Reason.PHOTO_EMPTY, f"face; {UNREADABLE}"),
        (
            (BUSY,), NEW, Problem(Reason.PHOTO_EMPTY, "face"), "deferred", Reason.PHOTO_CHANGED,
            "photo_empty face; attempts: 1 unavailable (503)",
        ),
        (
            (BUSY,), NEW, Problem(Reason.PHOTO_EMPTY, ""), "deferred", Reason.PHOTO_CHANGED,
            "photo_empty; attempts: 1 unavailable (503)",
        ),
        (
            (NO_REPLY,), NEW, Problem(Reason.PHOTO_CHANGED, "face"), "unknown", Reason.PHOTO_CHANGED,
            "face; attempts: 1 reply_lost",
        ),
    ],
)  # fmt: skip
def test_photos_that_can_not_be_used_make_an_order_invalid_unless_it_was_sent_before(
    attempts: tuple[Attempt, ...], standing: Standing, problem: Problem, outcome: str, reason: Reason, detail: str
) -> None:
    found = unusable_(order(*attempts, standing=standing), 12.5, problem)
    assert (found.outcome, found.reason, found.detail) == (outcome, reason, detail)
    assert found.seconds == 12.5


REPAIRED = Note(NoteKind.REPAIRED, "face: resized")
TURNED = Note(NoteKind.REPAIRED, "hand: rotated")
BLANK = Note(NoteKind.BLANK, "back is blank")


@pytest.mark.parametrize(
    ("notes", "detail"),
    [
        ((), ""),
        ((REPAIRED,), "repaired face: resized"),
        ((REPAIRED, BLANK, TURNED), "repaired face: resized; hand: rotated; warning: back is blank"),
        ((BLANK,), "warning: back is blank"),
    ],
)
def test_what_is_to_be_said_of_the_photos_stands_behind_all_else(notes: tuple[Note, ...], detail: str) -> None:
    expected = Ending(ROW, Outcome.DEFERRED, Reason.NOT_SENT, detail, notes=notes, known=True)
    assert good(order(notes=notes)) == expected
    left = not_tried_again(order(BUSY, notes=notes), 1.0, Reason.STOPPED)
    assert left.detail == "; ".join(filter(None, ["attempts: 1 unavailable (503)", detail]))
    assert left.notes == notes


def test_an_ending_is_known_if_its_last_attempt_met_what_an_earlier_run_had_met_with_the_same_photos() -> None:
    met = Standing(met=frozenset({(PHOTOS, "endpoint_refused", "")}))
    other = Standing(met=frozenset({(OTHER, "endpoint_refused", ""), (PHOTOS, "unavailable", "")}))
    assert after_last_attempt(order(REJECTED, standing=met), 1.0, exhausted=True).known
    assert after_last_attempt(order(BUSY, REJECTED, standing=met), 1.0, exhausted=True).known
    assert not after_last_attempt(order(REJECTED, standing=other), 1.0, exhausted=True).known
    assert not after_last_attempt(order(BUSY, REJECTED, standing=other), 1.0, exhausted=True).known
    assert not after_last_attempt(order(REJECTED), 1.0, exhausted=True).known


# Whose wait counts


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("known", [False, True])
def test_only_an_answer_that_certainly_took_nothing_may_pause_all_orders(verdict: Verdict, known: bool) -> None:
    gate = Pace(PaceSettings(), RetrySettings(), Stop(), lambda: 1000.0)
    gate.learn(Turn(probe=False, first=True), ACCEPTED)
    gate.learn(Turn(probe=False, first=True), attempt(verdict, Reason.UNAVAILABLE, 503, wait=20.0), known=known)
    assert gate.paused == (20.0 if verdict is Verdict.RETRY else 0.0)
    assert gate.ready is (verdict is not Verdict.RETRY)


def test_of_several_pauses_the_one_that_ends_last_counts_and_then_all_go_on() -> None:
    time = 1000.0
    gate = Pace(PaceSettings(probe_after_failures=1000), RetrySettings(), Stop(), lambda: time)
    for wait in (5.0, 20.0, 10.0, 0.0, None):
        gate.learn(Turn(probe=False), attempt(Verdict.RETRY, Reason.UNAVAILABLE, 503, wait=wait))
    gate.learn(Turn(probe=False), ACCEPTED)  # one that was under way takes no pause back
    assert gate.paused == 20.0
    time += 19.0
    assert (gate.paused, gate.ready) == (1.0, False)
    time += 1.5
    assert (gate.paused, gate.ready) == (0.0, True)


@pytest.mark.parametrize("verdict", [Verdict.RETRY, Verdict.AMBIGUOUS])
def test_each_order_waits_as_long_as_its_own_last_answer_asked(verdict: Verdict) -> None:
    random.seed(1)
    policy = RetryPolicy(RetrySettings(attempts=4, base=2.0, cap=3.0))
    asked = attempt(verdict, Reason.UNAVAILABLE, 503, wait=20.0)
    waits = [policy.next_delay((BUSY, asked), 0.0) or 0.0 for _ in range(200)]
    assert 20.0 <= min(waits) < 20.2
    assert 21.8 < max(waits) <= 22.0
    after = [policy.next_delay((asked, BUSY), 0.0) or 0.0 for _ in range(200)]
    assert max(after) <= 3.0, "an earlier answer no longer counts"
    first = [policy.next_delay((BUSY,), 0.0) or 0.0 for _ in range(200)]
    assert 1.8 < max(first) <= 2.0
    at_once = attempt(verdict, Reason.UNAVAILABLE, 503, wait=0.0)
    now = [policy.next_delay((BUSY, BUSY, at_once), 0.0) or 0.0 for _ in range(200)]
    assert max(now) <= 2.0, "an answer that asks for no wait gets none beyond the jitter"


# Another attempt


def test_no_attempt_begins_at_the_end_of_its_orders_time_or_later() -> None:
    random.seed(1)
    policy = RetryPolicy(RetrySettings(attempts=4, base=1e-20, cap=1e-20, order_limit=100.0))
    assert policy.next_delay((BUSY,), 99.9) is not None
    assert policy.next_delay((BUSY,), 100.0) is None
    waiting = attempt(Verdict.RETRY, Reason.UNAVAILABLE, 503, wait=50.0)
    assert policy.next_delay((waiting,), 49.9) is not None
    assert policy.next_delay((waiting,), 50.0) is None


def test_an_order_has_as_many_attempts_as_the_config_says() -> None:
    policy = RetryPolicy(RetrySettings(attempts=3))
    assert [policy.exhausted((BUSY,) * made) for made in range(1, 5)] == [False, False, True, True]
    assert [policy.next_delay((BUSY,) * made, 0.0) is None for made in range(1, 5)] == [False, False, True, True]
