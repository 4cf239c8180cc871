"""The photo stage: which orders go on to a send, which end before it, and what a fault or the end of a run costs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from scripted import ACCEPTED, BUSY, ScriptedSite, attempt, photo_set, row, settings_of

from batchupload.loading import BYTES_AT_ONCE, MACHINE_FAULTS, ORDERS_AT_ONCE, Loading
from batchupload.model import (
    AwayPhotos,
    Ending,
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
from batchupload.stop import InterruptedAttemptError, Stop

SMALL = Note(NoteKind.SMALL, "face is small")


class Begun:
    """A recorder that takes note of what may begin."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self.may = True
        self.breaks = ""
        """The order at which it raises."""

    async def begin(self, several: Sequence[Loaded]) -> bool:
        ids = [one.order.row.order_id for one in several]
        self.asked.append(ids)
        if self.breaks in ids:
            raise LookupError("odd")
        return self.may


class Stage:
    """A photo stage at a site that does what a test says."""

    def __init__(self, *, send: bool = True, force: bool = False, seconds: float = 2.5, **changes: Any) -> None:
        self.site, self.begun, self.stop = ScriptedSite(), Begun(), Stop()
        recorder: Any = self.begun
        self.loading = Loading(
            settings_of(**changes), self.site, recorder, self.stop, lambda _: seconds, 100, send=send, force=force
        )

    async def load(self, *several: Order | str) -> tuple[list[str], dict[str, tuple[str, str, str]]]:
        """Orders to send, and the outcome, reason and detail of each of the others."""
        orders = [Order(row(one)) if isinstance(one, str) else one for one in several]
        loaded, endings = await self.loading.load(orders)
        return [one.order.row.order_id for one in loaded], {one.row.order_id: told(one) for one in endings}


def told(ending: Ending) -> tuple[str, str, str]:
    return ending.outcome, ending.reason, ending.detail


def left(reason: str, detail: str = "") -> tuple[str, str, str]:
    return "deferred", reason, detail


async def test_good_photos_go_on_once_it_is_on_record() -> None:
    stage = Stage()
    loaded, endings = await stage.loading.load([Order(row("A")), Order(row("B"))])
    assert loaded == [Loaded(Order(row(one)), photo_set(one)) for one in "AB"]
    assert (endings, stage.site.looked, stage.begun.asked) == ([], [["A", "B"]], [["A", "B"]])
    assert stage.site.dropped == []


async def test_bad_photos_end_their_order_and_none_other() -> None:
    stage = Stage()
    stage.site.finds = lambda one: Problem(Reason.PHOTO_MISSING, "face") if one == "B" else photo_set(one)
    sent, endings = await stage.load("A", "B", "C")
    assert (sent, endings) == (["A", "C"], {"B": ("invalid", "photo_missing", "face")})
    assert stage.begun.asked == [["A", "C"]]
    stage.site.finds = lambda one: Problem(Reason.PHOTO_MISSING, "face")
    assert (await stage.load("A"))[0] == []
    assert len(stage.begun.asked) == 1, "there is nothing to put on record"


@pytest.mark.parametrize("reason", MACHINE_FAULTS)
async def test_photos_that_this_machine_could_not_have_are_for_another_run(reason: Reason) -> None:
    stage = Stage()
    stage.site.finds = lambda one: Problem(reason, "later")
    assert await stage.load("A") == ([], {"A": left(reason, "later")})
    [ending] = (await stage.loading.load([Order(row("A"), attempts=(attempt(BUSY),))]))[1]
    assert ending.seconds == 2.5
    assert stage.stop.cause is None


@pytest.mark.parametrize(("reason", "stops"), [(Reason.READERS_LOST, True), (Reason.WORKERS_LOST, False)])
async def test_photos_that_nobody_looks_at_any_more_are_left(reason: Reason, stops: bool) -> None:
    stage = Stage()
    stage.site.finds = lambda one: reason
    _, [ending] = await stage.loading.load([Order(row("A"), attempts=(attempt(BUSY),))])
    assert told(ending)[:2] == ("deferred", reason)
    assert ending.seconds == 2.5
    assert stage.stop.cause == (reason if stops else None)


async def test_photos_that_changed_since_the_attempt_before_end_with_their_time() -> None:
    stage = Stage()
    stage.site.finds = lambda one: Problem(Reason.PHOTO_CHANGED, "face")
    _, [ending] = await stage.loading.load([Order(row("A"), attempts=(attempt(BUSY),))])
    assert (ending.outcome, ending.reason, ending.seconds) == ("deferred", "photo_changed", 2.5)


async def test_photos_looked_at_elsewhere_go_on_too() -> None:
    stage = Stage()
    away = AwayPhotos(3, ("face",), 1000, b"d", (SMALL,))
    stage.site.finds = lambda one: away
    loaded, _ = await stage.loading.load([Order(row("A"))])
    assert loaded == [Loaded(Order(row("A"), notes=(SMALL,)), away)]


# The end of the run


async def test_at_the_end_of_the_run_no_photo_is_looked_at() -> None:
    stage = Stage()
    stage.stop.ask(Reason.DEADLINE, "at six")
    assert await stage.load("A", "B") == ([], dict.fromkeys("AB", left("deadline", "at six")))
    assert stage.site.looked == []
    _, [ending] = await stage.loading.load([Order(row("A"), attempts=(attempt(BUSY),))])
    assert ending.seconds == 2.5


async def test_photos_whose_reading_the_end_of_the_run_breaks_off_are_left() -> None:
    stage = Stage()

    async def interrupted(orders: Sequence[str]) -> None:
        raise InterruptedAttemptError

    stage.site.looks = interrupted
    assert await stage.load("A", "B") == ([], dict.fromkeys("AB", left("stopped")))
    assert len(stage.site.looked) == 1


async def test_what_may_not_begin_is_left_and_its_photos_are_given_back() -> None:
    stage = Stage()
    stage.begun.may = False
    stage.stop.cause = None
    assert await stage.load("A", "B") == ([], dict.fromkeys("AB", left("stopped")))
    assert stage.site.dropped == ["A", "B"]


# Faults of our own


async def test_a_fault_while_photos_are_looked_at_costs_the_order_that_has_it() -> None:
    stage = Stage()

    async def breaks(orders: Sequence[str]) -> None:
        if "B" in orders:
            raise LookupError("odd")

    stage.site.looks = breaks
    sent, endings = await stage.load("A", "B", "C")
    assert (sent, endings) == (["A", "C"], {"B": ("failed", "internal_error", "LookupError: odd")})
    assert stage.site.looked == [["A", "B", "C"], ["A"], ["B"], ["C"]]


async def test_a_fault_in_putting_it_on_record_costs_the_order_that_has_it() -> None:
    stage = Stage()
    stage.begun.breaks = "B"
    sent, endings = await stage.load("A", "B", "C")
    assert (sent, endings) == (["A", "C"], {"B": ("failed", "internal_error", "LookupError: odd")})
    assert stage.begun.asked == [["A", "B", "C"], ["A"], ["B"], ["C"]]
    assert stage.site.dropped == ["B"]


async def test_a_fault_that_a_worker_met_is_one_of_ours() -> None:
    stage = Stage()
    stage.site.finds = lambda one: Problem(Reason.INTERNAL_ERROR, "KeyError: x")
    assert await stage.load("A") == ([], {"A": ("failed", "internal_error", "KeyError: x")})


async def test_a_fault_in_judging_photos_gives_them_back() -> None:
    stage = Stage()
    broken: Any = Standing(streak=Streak(b"x", "many", "", "", "", ""))  # type: ignore[arg-type]
    sent, endings = await stage.load(Order(row("A"), broken), "B")
    assert sent == ["B"]
    assert endings["A"][:2] == ("failed", "internal_error")
    assert endings["A"][2].startswith("TypeError: ")
    assert stage.site.dropped == ["A"]
    odd: Any = object()
    stage.site.finds = lambda one: odd
    assert (await stage.load("A"))[1]["A"][:2] == ("failed", "internal_error")
    assert stage.site.dropped == ["A"], "there is nothing to give back"


async def test_faults_that_keep_coming_back_stop_the_run_unless_an_order_without_comes_between() -> None:
    stage = Stage()
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
    loading = Stage().loading
    ending = loading.fault(Order(row("A", 17), attempts=(attempt(BUSY),)), "odd", sending=True)
    assert (ending.outcome, ending.seconds) == ("unknown", 2.5)
    assert loading.fault(Order(row("A")), "odd").outcome == "failed"
    assert caplog.records[0].getMessage() == "An internal fault at line 17 of orders.csv"


# Good photos that are not sent


def standing(order_id: str, nights: int, photos: bytes | None = None) -> Standing:
    digest = photos or photo_set(order_id).digest
    return Standing(streak=Streak(digest, nights, "2026-11-01", "2026-11-07", "server_error", ""))


async def test_without_sends_good_photos_are_said_to_be_good_and_given_back() -> None:
    stage = Stage(send=False, force=True)
    assert await stage.load("A") == ([], {"A": left("not_sent")})
    assert (stage.site.dropped, stage.begun.asked) == (["A"], [])


async def test_photos_that_are_there_already_are_not_sent_again_unless_forced() -> None:
    known = Order(row("A"), Standing(photo_set("A").digest, 3))
    other = Order(row("A"), Standing(photo_set("B").digest, 3))
    stage = Stage()
    assert await stage.load(known) == ([], {"A": ("skipped", "already_uploaded", "run 3")})
    assert stage.site.dropped == ["A"]
    assert await stage.load(other) == (["A"], {})
    assert await Stage(force=True).load(known) == (["A"], {})
    retried = replace(known, attempts=(attempt(ACCEPTED),))
    assert await stage.load(retried) == (["A"], {}), "this run sends it"


@pytest.mark.parametrize(("nights", "after", "aside"), [(6, 7, False), (7, 7, True), (1, 1, True), (9, 0, False)])
async def test_what_failed_night_after_night_is_set_aside(nights: int, after: int, aside: bool) -> None:
    stage = Stage(retry={"quarantine_after": after})
    sent, endings = await stage.load(Order(row("A"), standing("A", nights)))
    assert sent == ([] if aside else ["A"])
    if aside:
        assert endings["A"][1] == "quarantined"
        assert f"failed on {nights} nights running, 2026-11-01 to 2026-11-07, last with server_error" in endings["A"][2]
        assert stage.site.dropped == ["A"]


async def test_other_photos_or_force_or_an_attempt_of_this_run_bring_it_back() -> None:
    stage = Stage()
    assert (await stage.load(Order(row("A"), standing("A", 9, b"other"))))[0] == ["A"]
    assert (await Stage(force=True).load(Order(row("A"), standing("A", 9))))[0] == ["A"]
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
    stage = Stage(photos={"warn": True})
    stage.site.finds = shared
    loaded, _ = await stage.loading.load([Order(row("A")), Order(row("B"))])
    assert [one.order.notes for one in loaded] == [
        (SMALL,), (SMALL, Note(NoteKind.OTHER_ORDER, "back is also in order A")),
    ]  # fmt: skip
    again = replace(loaded[1].order, attempts=(attempt(BUSY),), notes=(SMALL,))
    [retried], _ = await stage.loading.load([again])
    assert retried.order.notes == (SMALL,), "it was said before"


async def test_without_warnings_nothing_is_compared() -> None:
    stage = Stage(photos={"warn": False})
    stage.site.finds = shared
    loaded, _ = await stage.loading.load([Order(row("A")), Order(row("B"))])
    assert [one.order.notes for one in loaded] == [(SMALL,), (SMALL,)]


async def test_it_is_said_once_that_no_more_photos_are_compared(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("batchupload.sightings.MOST_NAME_BYTES", 8)
    stage = Stage(photos={"warn": True})
    for number in range(5):
        await stage.load(f"A{number}")
    [record] = caplog.records
    assert record.getMessage() == "So many photos that those to come are compared only with those up to here."
    assert (record.levelname, record.__dict__["event"]) == ("WARNING", "comparison_full")


# How many at a time


async def found_of(stage: Stage, size: int) -> None:
    away: Found = AwayPhotos(1, ("face",), size, b"d")
    stage.site.finds = lambda one: away
    await stage.load("A")


async def test_as_many_are_looked_at_together_as_their_size_allows() -> None:
    stage = Stage()
    assert stage.loading.at_once(1) == 1, "their size is not known yet"
    await found_of(stage, BYTES_AT_ONCE // 3)
    assert stage.loading.at_once(1) == 3
    await found_of(stage, 10)
    assert stage.loading.at_once(1) == ORDERS_AT_ONCE
    await found_of(stage, 2 * BYTES_AT_ONCE)
    assert stage.loading.at_once(1) == 1
    assert stage.loading.at_once(24) == 3, "beside what so many sends hold"
    assert stage.loading.at_once(256) == ORDERS_AT_ONCE
    stage.site.finds = lambda one: Problem(Reason.PHOTO_MISSING, "")
    await found_of(stage, BYTES_AT_ONCE // 2)
    stage.site.finds = lambda one: Problem(Reason.PHOTO_MISSING, "")
    await stage.load("A")
    assert stage.loading.at_once(1) == 2, "photos that are not there change nothing"


async def test_of_several_the_largest_counts() -> None:
    stage = Stage()
    sizes = {"A": BYTES_AT_ONCE // 2, "B": 10}
    stage.site.finds = lambda one: AwayPhotos(1, ("face",), sizes[one], b"d")
    await stage.load("A", "B")
    assert stage.loading.at_once(1) == 2


async def test_photos_that_may_be_repaired_are_looked_at_one_by_one() -> None:
    stage = Stage(photos={"repair": ["resize"]})
    await found_of(stage, 10)
    assert stage.loading.at_once(256) == 1
