"""The photo stage: which orders go on to a send, which end before it, and what a fault or the end of a run costs."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from scripted import ACCEPTED, BUSY, PhotoStage, attempt, moment, photo_set, row, told, virtually

from batchupload.loading import BYTES_AT_ONCE, LOOK_AGAIN_AT_MOST, MACHINE_FAULTS, ORDERS_AT_ONCE
from batchupload.model import (
    AwayPhotos,
    Loaded,
    Note,
    NoteKind,
    Order,
    Photo,
    PhotoSet,
    Problem,
    Standing,
    Streak,
)
from batchupload.reasons import Reason
from batchupload.row_faults import MOST_IN_A_ROW
from batchupload.site import Found
from batchupload.stop import InterruptedAttemptError

SMALL = Note(NoteKind.SMALL, "face is small")


def left(reason: str, detail: str = "") -> tuple[str, str, str]:
    return "deferred", reason, detail


async def test_good_photos_go_on_once_it_is_on_record() -> None:
    stage = PhotoStage()
    loaded, endings, again = await stage.loading.load([Order(row("A")), Order(row("B"))])
    assert again == []
    assert loaded == [Loaded(Order(row(one)), photo_set(one)) for one in "AB"]
    assert (endings, stage.site.looked, stage.begun.asked) == ([], [["A", "B"]], [["A", "B"]])
    assert stage.site.dropped == []


async def test_bad_photos_end_their_order_and_none_other() -> None:
    stage = PhotoStage()
    stage.site.finds = lambda one: Problem(Reason.PHOTO_CORRUPT, "face") if one == "B" else photo_set(one)
    sent, endings = await stage.load("A", "B", "C")
    assert (sent, endings) == (["A", "C"], {"B": ("invalid", "photo_corrupt", "face")})
    assert stage.begun.asked == [["A", "C"]]
    stage.site.finds = lambda one: Problem(Reason.PHOTO_MISSING, "face")
    assert (await stage.load("A"))[0] == []
    assert len(stage.begun.asked) == 1, "there is nothing to put on record"


@pytest.mark.parametrize("reason", sorted(MACHINE_FAULTS))
async def test_photos_that_this_machine_could_not_have_are_for_another_run(reason: Reason) -> None:
    stage = PhotoStage()
    stage.site.finds = lambda one: Problem(reason, "later")
    assert await stage.load("A") == ([], {"A": left(reason, "later")})
    [ending] = (await stage.loading.load([Order(row("A"), attempts=(attempt(BUSY),))]))[1]
    assert ending.seconds == 2.5
    assert stage.stop.cause is None


@pytest.mark.parametrize(("reason", "stops"), [(Reason.READERS_LOST, True), (Reason.WORKERS_LOST, False)])
async def test_photos_that_nobody_looks_at_any_more_are_left(reason: Reason, stops: bool) -> None:
    stage = PhotoStage()
    stage.site.finds = lambda one: reason
    _, [ending], _ = await stage.loading.load([Order(row("A"), attempts=(attempt(BUSY),))])
    assert told(ending)[:2] == ("deferred", reason)
    assert ending.seconds == 2.5
    assert stage.stop.cause == (reason if stops else None)


async def test_photos_that_changed_since_the_attempt_before_end_with_their_time() -> None:
    stage = PhotoStage()
    stage.site.finds = lambda one: Problem(Reason.PHOTO_CHANGED, "face")
    _, [ending], _ = await stage.loading.load([Order(row("A"), attempts=(attempt(BUSY),))])
    assert (ending.outcome, ending.reason, ending.seconds) == ("deferred", "photo_changed", 2.5)


async def test_photos_looked_at_elsewhere_go_on_too() -> None:
    stage = PhotoStage()
    away = AwayPhotos(3, ("face",), 1000, b"d", (SMALL,))
    stage.site.finds = lambda one: away
    loaded, _, _ = await stage.loading.load([Order(row("A"))])
    assert loaded == [Loaded(Order(row("A"), notes=(SMALL,)), away)]


# Photos that are not there


def missing(order_id: str) -> Found:
    return Problem(Reason.PHOTO_MISSING, "face", "face")


async def test_a_photo_that_is_missing_after_others_were_there_is_looked_for_once_more() -> None:
    stage = PhotoStage()
    stage.site.finds = missing
    assert (await stage.load("A"))[1]["A"][1] == "photo_missing"
    assert stage.again == [], "none was there yet"
    stage.site.finds = photo_set
    await stage.load("B")
    stage.site.finds = missing
    assert await stage.load("C") == ([], {})
    assert stage.again == ["C"]
    again = await asyncio.wait_for(stage.loading.look_again(Order(row("C"))), 60)
    assert (await stage.load(again))[1]["C"][1] == "photo_missing"
    assert stage.again == []


@pytest.mark.parametrize("found", [Problem(Reason.PHOTO_CORRUPT, "", "face"), Problem(Reason.PHOTO_MISSING, "", "web")])
async def test_only_a_file_that_is_not_there_is_looked_for_again(found: Problem) -> None:
    stage = PhotoStage()
    await stage.load("A")
    stage.site.finds = lambda one: found
    order = Order(replace(row("B"), photos={"face": "B", "web": "https://shop.example/b.jpg"}))
    assert (await stage.load(order))[1]["B"][1] == found.reason
    assert stage.again == []


def test_of_many_missing_photos_only_some_are_waited_for_at_a_time() -> None:
    async def many() -> None:
        stage = PhotoStage()
        await stage.load("A")
        stage.site.finds = missing
        waiting = [asyncio.ensure_future(stage.loading.look_again(Order(row("W")))) for _ in range(LOOK_AGAIN_AT_MOST)]
        await asyncio.sleep(0.5)
        assert (await stage.load("B"))[1]["B"][1] == "photo_missing"
        await asyncio.gather(*waiting)
        assert moment() == 1
        assert await stage.load("C") == ([], {})
        waiting = [asyncio.ensure_future(stage.loading.look_again(Order(row("W")))) for _ in range(3)]
        await asyncio.sleep(0.5)
        stage.stop.ask(Reason.DEADLINE)
        await asyncio.gather(*waiting)
        assert moment() == 1.5, "the end of the run is not kept waiting"

    virtually(many())


# The end of the run


async def test_at_the_end_of_the_run_no_photo_is_looked_at() -> None:
    stage = PhotoStage()
    stage.stop.ask(Reason.DEADLINE, "at six")
    assert await stage.load("A", "B") == ([], dict.fromkeys("AB", left("deadline", "at six")))
    assert stage.site.looked == []
    _, [ending], _ = await stage.loading.load([Order(row("A"), attempts=(attempt(BUSY),))])
    assert ending.seconds == 2.5


async def test_photos_whose_reading_the_end_of_the_run_breaks_off_are_left() -> None:
    stage = PhotoStage()

    async def interrupted(orders: Sequence[str]) -> None:
        raise InterruptedAttemptError

    stage.site.looks = interrupted
    assert await stage.load("A", "B") == ([], dict.fromkeys("AB", left("stopped")))
    assert len(stage.site.looked) == 1


async def test_what_may_not_begin_is_left_and_its_photos_are_given_back() -> None:
    stage = PhotoStage()
    stage.begun.may = False
    assert await stage.load("A", "B") == ([], dict.fromkeys("AB", left("stopped")))
    assert stage.site.dropped == ["A", "B"]


# Faults of our own


async def test_a_fault_while_photos_are_looked_at_costs_the_order_that_has_it() -> None:
    stage = PhotoStage()

    async def breaks(orders: Sequence[str]) -> None:
        if "B" in orders:
            raise LookupError("odd")

    stage.site.looks = breaks
    sent, endings = await stage.load("A", "B", "C")
    assert (sent, endings) == (["A", "C"], {"B": ("failed", "internal_error", "LookupError: odd")})
    assert stage.site.looked == [["A", "B", "C"], ["A"], ["B"], ["C"]]


async def test_a_fault_in_putting_it_on_record_costs_the_order_that_has_it() -> None:
    stage = PhotoStage()
    stage.begun.breaks = "B"
    sent, endings = await stage.load("A", "B", "C")
    assert (sent, endings) == (["A", "C"], {"B": ("failed", "internal_error", "LookupError: odd")})
    assert stage.begun.asked == [["A", "B", "C"], ["A"], ["B"], ["C"]]
    assert stage.site.dropped == ["B"]


async def test_a_fault_that_a_worker_met_is_one_of_ours() -> None:
    stage = PhotoStage()
    stage.site.finds = lambda one: Problem(Reason.INTERNAL_ERROR, "KeyError: x")
    assert await stage.load("A") == ([], {"A": ("failed", "internal_error", "KeyError: x")})


async def test_a_fault_in_judging_photos_gives_them_back() -> None:
    stage = PhotoStage()
    broken: Any = Standing(streak=Streak(b"x", "many", "", "", "", ""))  # type: ignore[arg-type]
    sent, endings = await stage.load(Order(row("A"), broken), "B")
    assert sent == ["B"]
    assert endings["A"][:2] == ("failed", "internal_error")
    assert endings["A"][2].startswith("TypeError: ")
    assert stage.site.dropped == ["A"]
    stage.site.finds = lambda one: object()  # type: ignore[assignment, return-value]
    assert (await stage.load("A"))[1]["A"][:2] == ("failed", "internal_error")
    assert stage.site.dropped == ["A"], "there is nothing to give back"


async def test_faults_that_keep_coming_back_stop_the_run_unless_an_order_without_comes_between() -> None:
    stage = PhotoStage()
    stage.site.finds = lambda one: photo_set(one) if one == "good" else Problem(Reason.INTERNAL_ERROR, "KeyError: x")
    for _ in range(3):
        for number in range(MOST_IN_A_ROW - 1):
            await stage.load(f"A{number}")
        await stage.load("good")
    assert stage.stop.cause is None
    for number in range(MOST_IN_A_ROW):
        await stage.load(f"B{number}")
    assert [stage.stop.cause, stage.stop.detail] == [Reason.INTERNAL_ERROR, "KeyError: x"]


async def test_a_fault_after_a_send_leaves_it_open_whether_that_got_through(caplog: pytest.LogCaptureFixture) -> None:
    loading = PhotoStage().loading
    ending = loading.fault(Order(row("A", 17), attempts=(attempt(BUSY),)), "odd", sending=True)
    assert (ending.outcome, ending.seconds) == ("unknown", 2.5)
    assert loading.fault(Order(row("A")), "odd").outcome == "failed"
    assert caplog.records[0].getMessage() == "An internal fault at line 17 of orders.csv"


# Good photos that are not sent


def standing(order_id: str, nights: int, photos: bytes | None = None) -> Standing:
    digest = photos or photo_set(order_id).digest
    return Standing(streak=Streak(digest, nights, "2026-11-01", "2026-11-07", "server_error", ""))


async def test_without_sends_good_photos_are_said_to_be_good_and_given_back() -> None:
    stage = PhotoStage(send=False, force=True)
    assert await stage.load("A") == ([], {"A": left("not_sent")})
    assert (stage.site.dropped, stage.begun.asked) == (["A"], [])


async def test_photos_that_are_there_already_are_not_sent_again_unless_forced() -> None:
    known = Order(row("A"), Standing(photo_set("A").digest, 3))
    other = Order(row("A"), Standing(photo_set("B").digest, 3))
    stage = PhotoStage()
    assert await stage.load(known) == ([], {"A": ("skipped", "already_uploaded", "run 3")})
    assert stage.site.dropped == ["A"]
    assert await stage.load(other) == (["A"], {})
    assert await PhotoStage(force=True).load(known) == (["A"], {})
    retried = replace(known, attempts=(attempt(ACCEPTED),))
    assert await stage.load(retried) == (["A"], {}), "this run sends it"


@pytest.mark.parametrize(("nights", "after", "aside"), [(6, 7, False), (7, 7, True), (1, 1, True), (9, 0, False)])
async def test_what_failed_night_after_night_is_set_aside(nights: int, after: int, aside: bool) -> None:
    stage = PhotoStage(retry={"quarantine_after": after})
    sent, endings = await stage.load(Order(row("A"), standing("A", nights)))
    assert sent == ([] if aside else ["A"])
    if aside:
        assert endings["A"][1] == "quarantined"
        assert f"failed on {nights} nights running, 2026-11-01 to 2026-11-07, last with server_error" in endings["A"][2]
        assert stage.site.dropped == ["A"]


async def test_other_photos_or_force_or_an_attempt_of_this_run_bring_it_back() -> None:
    stage = PhotoStage()
    assert (await stage.load(Order(row("A"), standing("A", 9, b"other"))))[0] == ["A"]
    assert (await PhotoStage(force=True).load(Order(row("A"), standing("A", 9))))[0] == ["A"]
    assert (await stage.load(Order(row("A"), standing("A", 9), (attempt(BUSY),))))[0] == ["A"]


# What there is to say of photos


def shared(order_id: str) -> PhotoSet:
    """The second photo is the same for all."""
    first = photo_set(order_id)
    return PhotoSet(
        (Photo("face", order_id.encode(), "image/jpeg"), Photo("back", b"back", "image/jpeg")),
        first.digest + b"the back".ljust(16), (SMALL,),
    )  # fmt: skip


async def test_a_photo_of_another_order_is_noted_once_beside_what_else_there_is_to_say() -> None:
    stage = PhotoStage(photos={"warn": True})
    stage.site.finds = shared
    loaded, _, _ = await stage.loading.load([Order(row("A")), Order(row("B"))])
    assert [one.order.notes for one in loaded] == [
        (SMALL,), (SMALL, Note(NoteKind.OTHER_ORDER, "back is also in order A")),
    ]  # fmt: skip
    again = replace(loaded[1].order, attempts=(attempt(BUSY),), notes=(SMALL,))
    [retried], _, _ = await stage.loading.load([again])
    assert retried.order.notes == (SMALL,), "it was said before"


async def test_without_warnings_nothing_is_compared() -> None:
    stage = PhotoStage(photos={"warn": False})
    stage.site.finds = shared
    loaded, _, _ = await stage.loading.load([Order(row("A")), Order(row("B"))])
    assert [one.order.notes for one in loaded] == [(SMALL,), (SMALL,)]


async def test_it_is_said_once_that_no_more_photos_are_compared(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("batchupload.sightings.MOST_NAME_BYTES", 8)
    stage = PhotoStage(photos={"warn": True})
    for number in range(5):
        await stage.load(f"A{number}")
    [record] = caplog.records
    assert record.getMessage() == "So many photos that those to come are compared only with those up to here."
    assert (record.levelname, record.__dict__["event"]) == ("WARNING", "comparison_full")


# How many at a time


async def found_of(stage: PhotoStage, size: int) -> None:
    stage.site.finds = lambda one: AwayPhotos(1, ("face",), size, b"d")
    await stage.load("A")


async def test_as_many_are_looked_at_together_as_their_size_allows() -> None:
    stage = PhotoStage()
    assert stage.loading.at_once(1) == 1, "their size is not known yet"
    await found_of(stage, BYTES_AT_ONCE // 3)
    assert stage.loading.at_once(1) == 3
    await found_of(stage, 10)
    assert stage.loading.at_once(1) == ORDERS_AT_ONCE
    await found_of(stage, 2 * BYTES_AT_ONCE)
    assert stage.loading.at_once(1) == 1
    assert stage.loading.at_once(24) == 3, "beside what so many sends hold"
    assert stage.loading.at_once(256) == ORDERS_AT_ONCE
    await found_of(stage, BYTES_AT_ONCE // 2)
    stage.site.finds = lambda one: Problem(Reason.PHOTO_MISSING, "")
    await stage.load("A")
    assert stage.loading.at_once(1) == 2, "photos that are not there change nothing"


async def test_of_several_the_largest_counts() -> None:
    stage = PhotoStage()
    sizes = {"A": BYTES_AT_ONCE // 2, "B": 10}
    stage.site.finds = lambda one: AwayPhotos(1, ("face",), sizes[one], b"d")
    await stage.load("A", "B")
    assert stage.loading.at_once(1) == 2


async def test_photos_that_may_be_repaired_are_looked_at_one_by_one() -> None:
    stage = PhotoStage(photos={"repair": ["resize"]})
    await found_of(stage, 10)
    assert stage.loading.at_once(256) == 1
