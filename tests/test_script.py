"""A run in virtual time at a scripted site: which order goes when, what each costs, and what the report says of it."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scripted import (
    ACCEPTED,
    BUSY,
    GO_ON,
    REFUSED,
    UPLOADED,
    Run,
    ScriptedSite,
    attempt,
    now,
    of,
    play,
    row,
    rows,
)  # fmt: skip

from batchupload import pipeline
from batchupload.model import Attempt, AwayPhotos, Finding, Loaded, PhotoSet, Problem, Row, Verdict
from batchupload.pipeline import AHEAD_SECONDS, IN_HAND, QUEUED
from batchupload.reasons import Reason
from batchupload.recorder import Recorder


def test_each_order_is_sent_once_and_as_many_at_once_as_there_are_places(tmp_path: Path) -> None:
    run = play(tmp_path, rows(60), pace={"canary": 0, "concurrency": 8})
    assert run.outcomes == dict.fromkeys((row.order_id for row in rows(60)), UPLOADED)
    assert sorted(run.site.orders) == [row.order_id for row in rows(60)]
    assert (run.site.most, round(run.seconds)) == (8, 8)
    assert len(run.report) == run.tally.rows == 60
    assert run.site.dropped == []
    assert run.stop.cause is None


def test_a_manifest_without_rows_ends_at_once(tmp_path: Path) -> None:
    run = play(tmp_path, [])
    assert (run.report, round(run.seconds)) == ([], 0)


def test_without_sends_all_photos_are_looked_at_and_none_is_sent(tmp_path: Path) -> None:
    run = play(tmp_path, rows(50), send=False)
    assert run.outcomes == dict.fromkeys((row.order_id for row in rows(50)), ("deferred", "not_sent"))
    assert run.site.sent == []
    assert sorted(run.site.dropped) == [row.order_id for row in rows(50)]
    assert [one for several in run.site.looked for one in several] == [row.order_id for row in rows(50)], (
        "in the order of the manifest"
    )


# Orders that go first


def tried(folder: Path, count: int) -> list[Row]:
    """Rows of which the first half, except for the last of them, were refused by an earlier run."""
    listed = rows(count)
    play(folder, listed[: count // 2], ScriptedSite(lambda *_: REFUSED), pace=GO_ON)
    return listed


def test_orders_never_tried_go_first_and_the_others_wait_for_them(tmp_path: Path) -> None:
    listed = tried(tmp_path, 400)
    new = {row.order_id for row in listed[200:]}
    run = play(tmp_path, listed, pace={"canary": 10, "concurrency": 8, "probe_after_failures": 1000})
    first = run.site.orders[:10]
    assert set(first) <= new
    assert first != [row.order_id for row in listed[200:210]], "any of them, not those in front"
    assert max(first) > listed[300].order_id
    times = [at for at, _ in run.site.sent]
    assert [round(at) for at in times[:12]] == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 3]
    assert run.site.orders[10:200] == [row.order_id for row in listed if row.order_id not in first][:190]
    assert len(run.site.orders) == 400
    assert run.outcomes == dict.fromkeys((row.order_id for row in listed), UPLOADED)
    assert run.site.most == 8


def test_the_same_list_has_the_same_orders_go_first(tmp_path: Path) -> None:
    listed = rows(300)
    first = [play(tmp_path / name, listed, pace={"canary": 10}).site.orders[:10] for name in "ab"]
    assert first[0] == first[1]


@pytest.mark.parametrize(("canary", "count"), [(20, 50), (50, 50), (60, 50), (1, 50), (0, 50)])
def test_as_many_go_first_as_the_setting_says_or_there_are(tmp_path: Path, canary: int, count: int) -> None:
    ahead = Counter[int]()
    original = pipeline.Pipeline._send_first

    async def seen(self: pipeline.Pipeline, orders: Sequence[Any]) -> Any:
        ahead[len(orders)] += 1
        return await original(self, orders)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.Pipeline, "_send_first", seen)
        run = play(tmp_path, rows(count), pace={"canary": canary, "concurrency": 8})
    assert ahead == {min(canary, count): 1}
    assert len(run.site.sent) == count
    assert run.site.most == (8 if canary < count else 4), "after them all places are open"


def test_with_no_order_left_to_go_first_all_places_are_open_at_once(tmp_path: Path) -> None:
    listed = rows(40)
    play(tmp_path, listed, ScriptedSite(lambda *_: REFUSED), pace=GO_ON)
    run = play(tmp_path, listed, pace={"canary": 20, "concurrency": 8})
    assert [round(at) for at, _ in run.site.sent[:8]] == [0] * 8


def test_forced_any_order_may_go_first(tmp_path: Path) -> None:
    listed = rows(40)
    play(tmp_path, listed, pace=GO_ON)
    assert play(tmp_path, listed, pace={"canary": 5}).site.sent == []
    run = play(tmp_path, listed, force=True, pace={"canary": 5, "concurrency": 8})
    assert [round(at) for at, _ in run.site.sent[:9]] == [0, 0, 0, 0, 1, 2, 2, 2, 2]
    assert run.site.orders[:5] != [row.order_id for row in listed[:5]]
    assert run.outcomes == dict.fromkeys((row.order_id for row in listed), UPLOADED)


def test_rows_that_are_none_and_orders_that_stand_twice_do_not_go_first(tmp_path: Path) -> None:
    bad = [row(f"X{n}", 100 + n, problem=Problem(Reason.ORDER_ID_EMPTY, "")) for n in range(20)]
    twice = [row("TWICE", 200), row("TWICE", 201)]
    run = play(tmp_path, [*twice, *bad, *rows(5)], pace={"canary": 6, "concurrency": 8})
    assert set(run.site.orders[:5]) == {row.order_id for row in rows(5)}
    assert run.site.orders[5] == "TWICE"
    assert [(row["line"], row["outcome"]) for row in run.report if row["order_id"] == "TWICE"] in (
        [("200", "uploaded"), ("201", "duplicate")], [("201", "duplicate"), ("200", "uploaded")],
    )  # fmt: skip
    assert Counter(outcome for outcome, _ in run.outcomes.values())["invalid"] == 20


def test_a_first_order_that_hangs_holds_the_others_up_for_half_a_minute(tmp_path: Path) -> None:
    listed = rows(30)

    site = ScriptedSite()

    async def send(order_id: str, photos: PhotoSet | AwayPhotos) -> Attempt:
        site.sent.append((began := now(), order_id))
        await asyncio.sleep(100 if len(site.sent) == 1 else 1)
        return attempt(ACCEPTED, now() - began, 0.5, 10, began)

    site.send = send  # type: ignore[method-assign]
    run = play(tmp_path, listed, site, pace={"canary": 2, "concurrency": 8})
    times = [round(at) for at, _ in site.sent]
    assert times[:2] == [0, 0]
    assert times[2] == AHEAD_SECONDS
    assert set(times[2:]) <= set(range(30, 45))
    assert len(run.report) == 30


def test_first_orders_whose_photos_are_bad_hold_nothing_up(tmp_path: Path) -> None:
    site = ScriptedSite(finds=lambda order_id: Problem(Reason.PHOTO_MISSING, "face"))
    run = play(tmp_path, rows(50), site, pace={"canary": 20})
    assert (round(run.seconds), site.sent) == (0, [])
    assert set(run.outcomes.values()) == {("invalid", "photo_missing")}


def test_orders_that_were_tried_before_stand_in_the_way_of_none_that_was_not(tmp_path: Path) -> None:
    listed = rows(40)
    play(tmp_path, listed[::2], ScriptedSite(lambda *_: REFUSED), pace=GO_ON)
    run = play(tmp_path, listed, pace={"canary": 20, "concurrency": 8})
    assert set(run.site.orders[:20]) == {row.order_id for row in listed[1::2]}


def test_those_that_go_first_are_among_the_first_rows_unless_none_of_these_is_new(tmp_path: Path) -> None:
    listed = rows(1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "LOOK_AHEAD", 500)
        run = play(tmp_path / "new", listed, pace={"canary": 50, "concurrency": 64})
        assert {row.order_id for row in listed[256:512]} & set(run.site.orders[:50])
        assert max(run.site.orders[:50]) < listed[512].order_id
        play(tmp_path, listed[:600], ScriptedSite(lambda *_: REFUSED), pace={**GO_ON, "concurrency": 64})
        run = play(tmp_path, listed, pace={"canary": 50, "concurrency": 64})
        assert min(run.site.orders[:50]) >= listed[600].order_id


# Orders that are tried again


def test_an_order_that_waits_for_its_retry_takes_no_place_and_comes_before_those_not_tried(tmp_path: Path) -> None:
    answers = lambda order_id, number: BUSY if number == 1 and order_id == "HT000000" else ACCEPTED  # noqa: E731
    run = play(tmp_path, rows(300), ScriptedSite(answers), pace={**GO_ON, "concurrency": 2}, retry={"base": 0.01})
    times = [at for at, order_id in run.site.sent if order_id == "HT000000"]
    assert len(times) == 2
    assert 1 < times[1] < 60, "long before the last of the others, which goes after 150 s"
    assert of(run, "HT000000")["detail"] == "attempts: 1 unavailable (503), 2 accepted"
    assert run.site.most == 2


def test_an_order_has_so_many_attempts_and_then_fails(tmp_path: Path) -> None:
    run = play(tmp_path, rows(3), ScriptedSite(lambda *_: BUSY), pace=GO_ON, retry={"attempts": 3, "base": 0.01})
    assert run.outcomes == dict.fromkeys((row.order_id for row in rows(3)), ("failed", "unavailable"))
    assert len(run.site.sent) == 9
    assert {row["attempts"] for row in run.report} == {"3"}
    assert run.site.looked.count(["HT000000"]) == 3, "read anew each time, alone"


def test_at_most_so_many_orders_are_begun_and_not_ended(tmp_path: Path) -> None:
    seen: set[str] = set()
    listed = rows(IN_HAND + 200)

    def answers(order_id: str, number: int) -> Finding:
        if number == 1 and order_id < "HT001200":
            seen.add(order_id)
            return Finding(Verdict.RETRY, Reason.SERVER_ERROR, 500, retry_after=5000.0)
        return ACCEPTED

    async def looks(run: Run) -> None:
        await asyncio.sleep(4900)
        assert len(run.site.sent) == IN_HAND
        run.stop.ask(Reason.DEADLINE)

    changes: dict[str, Any] = {"retry": {"order_limit": 80_000, "retry_after_cap": 10_000}}
    paused = {**GO_ON, "concurrency": 256}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batchupload.pace.Pace.paused", 0.0)
        run = play(tmp_path, listed, ScriptedSite(answers, seconds=0.01), meanwhile=looks, pace=paused, **changes)
    assert Counter(run.outcomes.values()) == {("deferred", "deadline"): IN_HAND + 200}


def test_an_order_whose_time_is_over_at_the_gate_is_not_sent_and_its_attempt_is_taken_back(tmp_path: Path) -> None:
    def answers(order_id: str, number: int) -> Finding:
        if order_id == "HT000000" and number == 1:
            return BUSY
        if order_id == "HT000001":
            return Finding(Verdict.RETRY, Reason.RATE_LIMITED, 429, retry_after=100.0)
        return ACCEPTED

    retry = {"order_limit": 50, "base": 0.01, "attempts": 2}
    run = play(tmp_path, rows(2), ScriptedSite(answers), pace=GO_ON, retry=retry)
    late = of(run, "HT000000")
    assert (late["outcome"], late["reason"], late["attempts"]) == ("deferred", "order_time_limit", "1")
    assert run.site.dropped == ["HT000000"]
    again = play(tmp_path, rows(1), pace=GO_ON)
    assert of(again, "HT000000")["outcome"] == "uploaded"
    assert "what became of that is not known" not in of(again, "HT000000")["detail"]


# On record before it counts


class Slow(Recorder):
    """A disk on which each record of endings takes a while."""

    async def record(self, endings: Sequence[Any]) -> None:
        await asyncio.sleep(5)
        await super().record(endings)


def test_places_are_free_only_once_what_became_of_the_sends_is_on_record(tmp_path: Path) -> None:
    run = play(tmp_path, rows(40), recorder=Slow, pace={**GO_ON, "concurrency": 4})
    assert len(run.report) == 40
    times = Counter(round(at) for at, _ in run.site.sent)
    assert all(sum(count for at, count in times.items() if began <= at < began + 5) <= 8 for began in times)
    assert run.seconds >= 40 / 4 * 5 * 0.6


def test_a_retry_frees_the_place_of_its_own_send_only(tmp_path: Path) -> None:
    recorded = 0

    class Counts(Slow):
        async def record(self, endings: Sequence[Any]) -> None:
            nonlocal recorded
            await super().record(endings)
            recorded += len(endings)

    open_ends: list[int] = []
    site = ScriptedSite()

    def answers(order_id: str, number: int) -> Finding:
        retries = sum(site.times(row.order_id) > 1 for row in rows(8))
        open_ends.append(len(site.sent) - retries - recorded)
        return BUSY if number == 1 and order_id < "HT000008" else ACCEPTED

    site.answers = answers
    play(tmp_path, rows(60), site, recorder=Counts, pace=GO_ON, retry={"base": 0.01})
    assert max(open_ends[20:]) <= 4 + 8, "as many as there are places, and those that wait for their retry"


def test_endings_that_come_together_are_recorded_together(tmp_path: Path) -> None:
    batches: list[int] = []

    class Counts(Slow):
        async def record(self, endings: Sequence[Any]) -> None:
            batches.append(len(endings))
            await super().record(endings)

    bad = [row(f"X{n}", n + 2, problem=Problem(Reason.ORDER_ID_EMPTY, "")) for n in range(600)]
    run = play(tmp_path, bad, recorder=Counts)
    assert sum(batches) == len(run.report) == 600
    assert max(batches) > 256
    assert QUEUED > 1


def test_what_a_send_found_is_in_the_ledger_before_it_is_in_the_report(tmp_path: Path) -> None:
    kept: list[str] = []

    class Notes(Recorder):
        async def begin(self, several: Sequence[Loaded]) -> bool:
            kept.extend(f"begin {one.order.row.order_id}" for one in several)
            return await super().begin(several)

        def ended(self, loaded: Loaded, attempt: Attempt) -> None:
            kept.append(f"ended {loaded.order.row.order_id}")
            super().ended(loaded, attempt)

        async def record(self, endings: Sequence[Any]) -> None:
            kept.extend(f"record {ending.row.order_id}" for ending in endings)
            await super().record(endings)

    play(tmp_path, rows(3), recorder=Notes, pace={**GO_ON, "concurrency": 1})
    for one in rows(3):
        assert [what.split()[0] for what in kept if one.order_id in what] == ["begin", "ended", "record"]


def test_a_photo_that_comes_late_is_time_in_which_no_photo_was_ready(tmp_path: Path) -> None:
    gates: list[Any] = []
    original = pipeline.Pipeline.__init__

    def kept(self: pipeline.Pipeline, *arguments: Any, **named: Any) -> None:
        gates.append(arguments[3])
        original(self, *arguments, **named)

    async def looks(orders: Sequence[str]) -> None:
        await asyncio.sleep(10)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline.Pipeline, "__init__", kept)
        play(tmp_path, rows(3), ScriptedSite(looks=looks, loaders=1), pace=GO_ON)
    [gate] = gates
    assert gate.waits.holdups["photos"] == pytest.approx(20, abs=0.1), "one is looked at, then two"
