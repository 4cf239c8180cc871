"""What the ledger's records of an order say: the nights running on which it failed, and which photo set it was."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchupload.model import Finding, Standing, Streak, Verdict
from batchupload.nights import LIES_ELSEWHERE, LastSend, Night, in_order, is_known, met, night, streak
from batchupload.photo_sets import initials_by_count, named, photo_digests, set_digest
from batchupload.reasons import Reason

START = datetime(2026, 11, 1, 22, tzinfo=UTC)
LATER = START + timedelta(days=90)
REFUSED = frozenset({Verdict.REJECTED})
ALL = frozenset({Verdict.REJECTED, Verdict.RETRY, Verdict.AMBIGUOUS})
NONE: frozenset[Verdict] = frozenset()
A, B = b"a" * 48, b"b" * 48


# What counts of a run


@pytest.mark.parametrize(
    ("ended", "stopped", "answered", "counts", "repeated"),
    [
        (False, None, True, NONE, False),
        (False, "canary", True, NONE, False),
        (True, None, True, ALL, False),
        (True, None, False, REFUSED, False),
        (True, "", True, ALL, False),
        (True, "deadline", True, REFUSED, False),
        (True, "stopped", False, REFUSED, False),
        (True, "endpoint_down", True, REFUSED, True),
        (True, "address_refused", False, REFUSED, True),
        (True, "canary", True, REFUSED, True),
        (True, "max_failures", True, REFUSED, True),
    ],
)
def test_a_run_counts_as_far_as_it_went(
    ended: bool, stopped: str | None, answered: bool, counts: frozenset[Verdict], repeated: bool
) -> None:
    assert night(START, ended=ended, stopped=stopped, answered=answered) == Night(START, counts, repeated)


# What counts of an order


def nightly(count: int, counts: frozenset[Verdict] = ALL, repeated: Sequence[int] = ()) -> dict[int, Night]:
    """Runs 1, 2, … on as many nights."""
    return {
        run: Night(START + timedelta(days=run - 1), REFUSED if run in repeated else counts, run in repeated)
        for run in range(1, count + 1)
    }


def refused(run: int, photos: bytes = A, message: str = "") -> LastSend:
    return LastSend(run, photos, Verdict.REJECTED, Reason.ENDPOINT_REFUSED, message)


def test_a_streak_names_its_first_and_last_night_and_what_the_last_one_met() -> None:
    sends = [refused(1), refused(2), LastSend(3, A, Verdict.AMBIGUOUS, "server_error", "so")]
    found = streak(sends, nightly(5), LATER)
    assert found == Streak(A, 3, "2026-11-01", "2026-11-03", "server_error", "so")
    assert streak(sends[:1], nightly(5), LATER) == Streak(A, 1, "2026-11-01", "2026-11-01", "endpoint_refused", "")
    assert streak([], nightly(5), LATER) is None


def test_dates_are_those_of_the_zone_in_which_the_first_of_them_began() -> None:
    east, west = timezone(timedelta(hours=8)), timezone(timedelta(hours=-8))
    at = [datetime(2026, 11, 1, 23, tzinfo=east), datetime(2026, 11, 2, 23, tzinfo=east).astimezone(west)]
    nights = {run: Night(began, ALL) for run, began in enumerate(at, 1)}
    assert streak([refused(1), refused(2)], nights, LATER) == Streak(
        A, 2, "2026-11-01", "2026-11-02", "endpoint_refused", ""
    )


@pytest.mark.parametrize("hours", [-12, 14])
def test_a_date_is_not_that_of_this_machines_zone(hours: int) -> None:
    zone = timezone(timedelta(hours=hours))
    at = [datetime(2026, 11, 1, hour, tzinfo=zone) for hour in (1, 23)]
    found = streak([refused(1), refused(2)], {run: Night(began, ALL) for run, began in enumerate(at, 1)}, LATER)
    assert found == Streak(A, 1, "2026-11-01", "2026-11-01", "endpoint_refused", "")


@pytest.mark.parametrize("reason", sorted(LIES_ELSEWHERE))
def test_what_lies_elsewhere_neither_counts_nor_ends_a_streak(reason: str) -> None:
    sends = [refused(1), LastSend(2, A, Verdict.RETRY, reason, ""), refused(3)]
    found = streak(sends, nightly(3), LATER)
    assert found
    assert found.nights == 2


@pytest.mark.parametrize(
    ("second", "nights"),
    [
        (LastSend(2, A, Verdict.RETRY, "upload_reset", ""), 3),
        (LastSend(2, A, Verdict.MISADDRESSED, "wrong_address", ""), 2),
        (LastSend(2, A, Verdict.ACCEPTED, "accepted", ""), 1),
        (LastSend(2, B, Verdict.RETRY, "dns_failed", ""), 1),
        (refused(2, B), 1),
        (refused(9), 2),
    ],
)
def test_other_photos_and_an_upload_end_a_streak_and_a_night_that_says_nothing_does_not(
    second: LastSend, nights: int
) -> None:
    found = streak([refused(1), second, refused(3)], nightly(3), LATER)
    assert found
    assert found.nights == nights


@pytest.mark.parametrize(("released", "nights"), [(0, 3), (1, 2), (2, 1), (3, 0), (4, 0)])
def test_nights_up_to_the_run_that_was_released_do_not_count(released: int, nights: int) -> None:
    found = streak([refused(1), refused(2), refused(3)], nightly(3), LATER, released)
    assert (found.nights if found else 0) == nights


@pytest.mark.parametrize(
    ("sends", "nights"),
    [
        ([refused(1, message="no 1"), refused(2, message="no 2")], 2),  # what differs each time is left out
        ([refused(1, message="no"), refused(2, message="other")], 1),
        ([refused(2)], 0),
        ([refused(1, B), refused(2, A)], 0),  # other photos
        ([LastSend(1, A, Verdict.RETRY, "upload_reset", ""), refused(2)], 1),
        ([LastSend(1, A, Verdict.RETRY, "dns_failed", ""), refused(2)], 0),
        ([refused(1), LastSend(2, A, Verdict.ACCEPTED, "accepted", ""), refused(2)], 0),
    ],
)
def test_in_a_run_that_went_wrong_with_all_only_the_orders_own_old_refusal_counts(
    sends: Sequence[LastSend], nights: int
) -> None:
    found = streak(sends, nightly(2, repeated=[2]), LATER)
    assert (found.nights if found else 0) == nights


@pytest.mark.parametrize(("hours", "nights"), [(11.9, 0), (12.0, 1), (12.1, 1), (-11.9, 0), (-12.0, 1)])
def test_such_a_refusal_is_old_if_it_is_half_a_day_away_whichever_clock_was_wrong(hours: float, nights: int) -> None:
    runs = {
        1: Night(START, REFUSED, repeated=True),
        2: Night(START + timedelta(hours=hours), REFUSED, repeated=True),
    }
    found = streak([refused(1), refused(2)], runs, LATER)
    assert (found.nights if found else 0) == nights
    assert found is None or found.first == runs[2].began.date().isoformat(), "the first was new when it came"


@pytest.mark.parametrize(("hours", "nights"), [(11.9, 1), (12.0, 2), (12.1, 2)])
def test_two_nights_begin_half_a_day_apart_and_on_two_dates(hours: float, nights: int) -> None:
    runs = {1: Night(START, ALL), 2: Night(START + timedelta(hours=hours), ALL)}
    found = streak([refused(1), refused(2)], runs, LATER)
    assert found
    assert found.nights == nights
    assert found.last == ("2026-11-02" if nights == 2 else "2026-11-01")
    morning = START.replace(hour=1)
    same = {1: Night(morning, ALL), 2: Night(morning + timedelta(hours=hours), ALL)}
    found = streak([refused(1), refused(2)], same, LATER)
    assert found
    assert found.nights == 1, "one date"


def test_a_run_that_began_after_now_by_a_wrong_clock_does_not_count() -> None:
    found = streak([refused(1), refused(2), refused(3)], nightly(3), START + timedelta(days=1, hours=1))
    assert found == Streak(A, 2, "2026-11-01", "2026-11-02", "endpoint_refused", "")
    assert streak([refused(1)], nightly(1), START) is not None
    assert streak([refused(1)], nightly(1), START - timedelta(seconds=1)) is None


@given(st.lists(st.integers(0, 9), max_size=9))
def test_in_order_leaves_as_few_out_as_can_be_and_ends_as_early_as_then_can_be(days: list[int]) -> None:
    moments = [START + timedelta(days=day) for day in days]
    found = list(in_order(moments))
    assert found == sorted(set(found))
    kept = [moments[place] for place in found]
    assert kept == sorted(kept)
    longest = [
        chosen
        for chosen in combinations(range(len(days)), len(found))
        if [days[place] for place in chosen] == sorted(days[place] for place in chosen)
    ]
    assert not any(
        [days[place] for place in chosen] == sorted(days[place] for place in chosen)
        for chosen in combinations(range(len(days)), len(found) + 1)
    )
    assert not found or moments[found[-1]] == min(moments[chosen[-1]] for chosen in longest)


def test_an_order_is_known_by_what_it_met_with_the_same_photos() -> None:
    found = Finding(Verdict.REJECTED, Reason.ENDPOINT_REFUSED, 200, "400", "order 17 is closed")
    assert met(A, found.reason, "order 18 is closed") == (A, "endpoint_refused", "order … is closed")
    before = Standing(met=frozenset({(A, "endpoint_refused", "order … is closed")}))
    assert is_known(before, A, found)
    assert not is_known(before, B, found)
    assert not is_known(before, None, found)
    assert not is_known(Standing(), A, found)
    assert not is_known(before, A, Finding(Verdict.REJECTED, Reason.HTTP_REFUSED, 200, "400", "order 17 is closed"))
    assert not is_known(before, A, Finding(Verdict.REJECTED, Reason.ENDPOINT_REFUSED, 200, "400", "no"))


# Photo sets

ONE, TWO, THREE, FOUR = (bytes([number]) * 16 for number in range(1, 5))


@pytest.mark.parametrize(
    ("photos", "digest"),
    [
        ({"face": ONE, "back": TWO, "hand": THREE}, ONE + TWO + THREE),
        ({"face": ONE, "back": TWO, "hand": THREE, "custom": FOUR}, ONE + TWO + THREE + FOUR),
        ({"face": ONE, "back": TWO}, ONE + TWO + b"fb"),
        ({"face": ONE, "hand": TWO}, ONE + TWO + b"fh"),
        ({"face": ONE, "back": TWO, "custom": THREE}, ONE + TWO + THREE + b"fbc"),
        ({"back": ONE, "face": TWO, "hand": THREE}, ONE + TWO + THREE + b"bfh"),
        ({"face": ONE}, ONE + b"f"),
    ],
)
def test_a_set_is_its_photos_and_the_fields_that_they_are_in(photos: dict[str, bytes], digest: bytes) -> None:
    assert set_digest(photos) == digest
    assert photo_digests(digest) == b"".join(photos.values())


@pytest.mark.parametrize(
    ("required", "fields", "initials"),
    [
        (("face", "back", "hand"), ("face", "back", "hand"), {3: b""}),
        (("face", "back", "hand"), ("face", "back", "hand", "custom"), {3: b"", 4: b""}),
        (("face", "back"), ("face", "back"), {2: b"fb"}),
        (("face", "back"), ("face", "back", "hand"), {2: b"fb", 3: b""}),
        (("face",), ("face", "back", "hand"), {1: b"f", 3: b""}),
        (("face", "custom"), ("face", "back", "hand", "custom"), {2: b"fc", 4: b""}),
        (("face", "hand"), ("face", "back", "hand"), {2: b"fh", 3: b""}),
    ],
)
def test_an_old_digest_of_so_many_photos_is_of_a_set_that_is_the_only_one(
    required: Sequence[str], fields: Sequence[str], initials: dict[int, bytes]
) -> None:
    assert initials_by_count(required, fields) == initials
    for count in range(1, 5):
        old = b"x" * 16 * count
        assert named(old, initials) == old + initials.get(count, b"")
        assert named(old + b"fb", initials) == old + b"fb", "one of today stays"
