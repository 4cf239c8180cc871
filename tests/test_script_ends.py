"""How a run ends early, and what faults, photo folders that hang and manifests that stall cost it."""

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
    LOST,
    UPLOADED,
    Run,
    ScriptedSite,
    of,
    photo_set,
    play,
    row,
    rows,
    slow,
)  # fmt: skip

from batchupload import pipeline
from batchupload.model import Finding, Problem, Row, Verdict
from batchupload.reasons import Reason
from batchupload.site import Found

# The end of a run


def test_a_run_that_is_stopped_sends_no_more_and_says_why_of_every_order(tmp_path: Path) -> None:
    async def stops(run: Run) -> None:
        await asyncio.sleep(2.5)
        run.stop.ask(Reason.MAX_FAILURES, "too many")

    run = play(tmp_path, rows(600), meanwhile=stops, pace=GO_ON)
    assert len(run.report) == 600
    assert len(run.site.sent) == 12
    sent = set(run.site.orders)
    assert {run.outcomes[order] for order in sent} == {UPLOADED}
    left = [row for row in run.report if row["order_id"] not in sent]
    assert {(row["outcome"], row["reason"], row["detail"]) for row in left} == {
        ("deferred", "max_failures", "too many")
    }
    assert round(run.seconds) == 3
    assert run.site.dropped, "photos that were ready are given back"
    assert len(run.site.dropped) == len(set(run.site.dropped))
    again = play(tmp_path, rows(600), pace={**GO_ON, "concurrency": 64})
    assert Counter(again.outcomes.values()) == {UPLOADED: 588, ("skipped", "already_uploaded"): 12}


def test_an_order_that_waits_for_its_retry_as_the_run_ends_says_what_it_met(tmp_path: Path) -> None:
    async def stops(run: Run) -> None:
        await asyncio.sleep(5)
        run.stop.ask(Reason.DEADLINE)

    site = ScriptedSite(lambda order_id, _: LOST if order_id == "HT000000" else BUSY)
    run = play(
        tmp_path, rows(2), site, meanwhile=stops, pace=GO_ON, retry={"base": 3600, "cap": 3600, "order_limit": 86400}
    )
    assert run.outcomes == {"HT000000": ("unknown", "deadline"), "HT000001": ("deferred", "deadline")}
    assert round(run.seconds) <= 5


def test_an_attempt_that_the_end_of_the_drain_time_broke_off_ends_for_the_cause_of_the_stop(tmp_path: Path) -> None:
    async def stops(run: Run) -> None:
        await asyncio.sleep(0.5)
        run.stop.ask(Reason.DEADLINE, "at six")

    def broken(order_id: str, _: int) -> Finding:
        return Finding(Verdict.AMBIGUOUS if order_id == "HT000000" else Verdict.RETRY, Reason.STOPPED)

    run = play(tmp_path, rows(2), ScriptedSite(broken), meanwhile=stops, pace=GO_ON)
    assert run.outcomes == {"HT000000": ("unknown", "deadline"), "HT000001": ("deferred", "deadline")}
    assert {row["detail"] for row in run.report} == {"at six; attempts: 1 stopped"}


def test_after_the_drain_time_what_is_under_way_is_interrupted(tmp_path: Path) -> None:
    async def stops(run: Run) -> None:
        await asyncio.sleep(1)
        run.stop.ask(Reason.DEADLINE)
        await asyncio.sleep(8)
        assert not run.stop.at_once
        await asyncio.sleep(4)
        assert run.stop.at_once

    run = play(tmp_path, rows(1), ScriptedSite(seconds=30.0), meanwhile=stops, timeouts={"drain": 10})
    assert run.outcomes == {"HT000000": UPLOADED}, "by a site that takes no notice"


def test_a_second_signal_leaves_what_is_left(tmp_path: Path) -> None:
    async def stops(run: Run) -> None:
        await asyncio.sleep(1.5)
        run.stop.impatient = True
        run.stop.ask(Reason.STOPPED)

    run = play(tmp_path, rows(3000), meanwhile=stops, pace=GO_ON)
    assert len(run.site.sent) == 8
    assert 8 < len(run.report) < 3000


def test_a_second_signal_before_the_first_rows_leaves_them_all(tmp_path: Path) -> None:
    async def stops(run: Run) -> None:
        pass

    site = ScriptedSite()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batchupload.stop.Stop.impatient", True, raising=False)
        patch.setattr("batchupload.stop.Stop.__init__", impatient)
        run = play(tmp_path, rows(30), site, reads=iter(rows(30)))
    assert (run.report, site.looked) == ([], [])


def impatient(stop: Any) -> None:
    stop.cause, stop.detail, stop.signal = Reason.STOPPED, "", None
    stop.at_once = stop.impatient = True
    stop._asked, stop._wake, stop._scopes = asyncio.Event(), [], set()


# Faults of our own


def test_a_fault_inside_a_send_is_that_orders_matter_and_its_place_is_free_again(tmp_path: Path) -> None:
    def answers(order_id: str, number: int) -> Finding:
        if order_id in {"HT000003", "HT000007", "HT000008"}:
            raise LookupError("odd")
        return ACCEPTED

    run = play(tmp_path, rows(30), ScriptedSite(answers), pace={**GO_ON, "concurrency": 2})
    broken = {order for order, ending in run.outcomes.items() if ending == ("unknown", "internal_error")}
    assert broken == {"HT000003", "HT000007", "HT000008"}
    assert {run.outcomes[row.order_id] for row in rows(30)} == {UPLOADED, ("unknown", "internal_error")}
    assert "LookupError: odd" in of(run, "HT000007")["detail"]
    assert len(run.site.sent) == 30, "it is not sent again"
    assert round(run.seconds) <= 15


def test_a_fault_at_a_worker_in_a_send_is_a_fault_of_ours(tmp_path: Path) -> None:
    met = Finding(Verdict.AMBIGUOUS, Reason.INTERNAL_ERROR, message="KeyError: x")
    answers = lambda order_id, _: met if order_id == "HT000001" else ACCEPTED  # noqa: E731
    run = play(tmp_path, rows(5), ScriptedSite(answers), pace=GO_ON)
    assert run.outcomes["HT000001"] == ("unknown", "internal_error")
    assert of(run, "HT000001")["detail"].startswith("KeyError: x")
    assert Counter(run.outcomes.values())[UPLOADED] == 4


def test_a_fault_at_a_row_before_it_is_an_order_is_that_rows_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = getattr(pipeline, "unsent")  # noqa: B009 (not exported)

    def odd(row: Row, *arguments: Any) -> Any:
        if row.order_id == "HT000002":
            raise ValueError("odd")
        return original(row, *arguments)

    monkeypatch.setattr(pipeline, "unsent", odd)
    run = play(tmp_path, rows(5), pace=GO_ON)
    assert run.outcomes["HT000002"] == ("failed", "internal_error")
    assert of(run, "HT000002")["detail"] == "ValueError: odd"
    assert Counter(run.outcomes.values())[UPLOADED] == 4


# Photo folders


def test_a_photo_folder_that_hangs_holds_up_no_other(tmp_path: Path) -> None:
    slow, good = Path("/slow/orders.csv"), Path("/good/orders.csv")
    listed = [row(f"S{n:03}", n + 2, slow) for n in range(80)] + [row(f"G{n:03}", n + 2, good) for n in range(80)]

    async def hangs(orders: Sequence[str]) -> None:
        if orders[0].startswith("S"):
            await asyncio.sleep(100)

    run = play(tmp_path, listed, ScriptedSite(looks=hangs), pace=GO_ON)
    good_ones = [at for at, order in run.site.sent if order.startswith("G")]
    assert max(good_ones) < 30
    assert set(run.outcomes.values()) == {UPLOADED}
    assert len(run.report) == 160


def test_no_more_look_at_a_folder_at_a_time_than_there_are_loaders(tmp_path: Path) -> None:
    most = count = 0

    async def looks(orders: Sequence[str]) -> None:
        nonlocal most, count
        count += 1
        most = max(most, count)
        await asyncio.sleep(1)
        count -= 1

    run = play(tmp_path, rows(100), ScriptedSite(looks=looks, loaders=3), pace={**GO_ON, "concurrency": 64})
    assert most == 3
    assert len(run.report) == 100


def test_photos_of_several_orders_are_looked_at_together(tmp_path: Path) -> None:
    async def looks(orders: Sequence[str]) -> None:
        await asyncio.sleep(1)

    run = play(tmp_path, rows(200), ScriptedSite(looks=looks, loaders=1), pace=GO_ON)
    assert max(map(len, run.site.looked)) == 8
    assert round(run.seconds) < 60


def test_photos_that_are_there_a_moment_later_are_sent_all_the_same(tmp_path: Path) -> None:
    tries = Counter[str]()

    def finds(order_id: str) -> Found:
        tries[order_id] += 1
        gone = order_id in {"HT000007", "HT000011"} and (tries[order_id] == 1 or order_id == "HT000011")
        return Problem(Reason.PHOTO_MISSING, "gone", "face") if gone else photo_set(order_id)

    run = play(tmp_path, rows(30), ScriptedSite(finds=finds), pace=GO_ON)
    assert run.outcomes.pop("HT000011") == ("invalid", "photo_missing")
    assert (tries["HT000007"], tries["HT000011"]) == (2, 2)
    assert set(run.outcomes.values()) == {UPLOADED, ("invalid", "photo_missing")}
    assert len(run.report) == 30


# Manifests that stall


def test_rows_that_come_late_are_sent_as_they_come_while_others_are_at_work(tmp_path: Path) -> None:
    listed = rows(600)
    late = slow(listed, {300: 90.0})
    run = play(tmp_path, listed, ScriptedSite(seconds=100.0), reads=late, pace=GO_ON, timeouts={"photos": 20})
    assert set(run.outcomes.values()) == {UPLOADED}
    assert len(run.report) == 600


def test_with_nothing_else_to_do_a_manifest_is_waited_for_only_as_long_as_photos_are(tmp_path: Path) -> None:
    listed = rows(600)
    for seconds, lost in ((19.0, 0), (21.0, 344)):
        folder = tmp_path / str(seconds)
        late = slow(listed, {300: 1.0 + 256 + seconds})
        pace = {**GO_ON, "concurrency": 1}
        run = play(folder, listed, reads=late, pace=pace, timeouts={"photos": 256 + 20})
        assert Counter(run.outcomes.values())["deferred", "manifest_lost"] == lost
        assert len(run.report) == 600


def test_once_the_drain_time_is_over_a_manifest_that_stalls_is_waited_for_no_longer(tmp_path: Path) -> None:
    async def stops(run: Run) -> None:
        await asyncio.sleep(5)
        run.stop.ask(Reason.DEADLINE)
        run.stop.now()

    listed = rows(600)
    late = slow(listed, {300: 500.0})
    run = play(tmp_path, listed, ScriptedSite(seconds=100.0), reads=late, meanwhile=stops)
    assert Counter(run.outcomes.values())["deferred", "manifest_lost"] == 344
    assert run.seconds < 120
