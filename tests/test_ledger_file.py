"""The ledger by itself: what it tells of earlier runs, and what it says if it can't be read or written in mid-run."""

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import Shop, outcomes, send, settings_for

from batchupload.ledger import ROWS_AT_ONCE, DeadRun, Ledger, open_ledger
from batchupload.ledger_file import LedgerError
from batchupload.model import Attempt, Ending, Finding, Loaded, Order, Outcome, PhotoSet, Row, Standing, Verdict
from batchupload.reasons import Reason
from batchupload.sandbox import Sandbox

AT = datetime(2026, 11, 20, 1, 30, tzinfo=UTC)
HERE = "http://127.0.0.1:9/"
NAMES = ("face", "back", "hand")
A, B = b"A" * 48, b"B" * 48
ACCEPTED = Finding(Verdict.ACCEPTED, Reason.ACCEPTED, 200, "200", "ok")
REFUSED = Finding(Verdict.REJECTED, Reason.ENDPOINT_REFUSED, 200, "400", "no such order")
LOST = Finding(Verdict.AMBIGUOUS, Reason.REPLY_LOST)
ENDED = '{"exit_code": 1, "stopped": null, "outcomes": {"uploaded": 1, "rejected": 0}}'


def at_hand(path: Path, order_id: str, photos: bytes = A, attempts: Sequence[Attempt] = ()) -> Loaded:
    row = Row(path.with_name("orders.csv"), 2, order_id, {}, {})
    return Loaded(Order(row, attempts=tuple(attempts)), PhotoSet((), photos))


def attempt(finding: Finding) -> Attempt:
    return Attempt(AT, 0.0, 1.5, 1.0, 42, finding)


@asynccontextmanager
async def a_run(
    path: Path,
    began: datetime = AT,
    *,
    endpoint: str = HERE,
    manifests: Sequence[str] = ("orders.csv",),
    report: str = "report.csv",
    summary: str | None = ENDED,
    **more: Any,
) -> AsyncIterator[Ledger]:
    """A run on the ledger at `path`, which comes to its end if it has a `summary`."""
    with open_ledger(path) as ledger:
        named = [path.with_name(name) for name in manifests]
        await ledger.start_run(began, endpoint, named, path.with_name(report), **more)
        yield ledger
        if summary is not None:
            await ledger.end_run(began + timedelta(minutes=1), summary)


async def sent(ledger: Ledger, order_id: str, *findings: Finding | None, photos: bytes = A) -> None:
    """Attempts at an order; None for one of which nothing is known."""
    done: list[Attempt] = []
    for finding in findings:
        loaded = at_hand(ledger.path, order_id, photos, done)
        await ledger.begin([loaded])
        if finding:
            done.append(attempt(finding))
            ledger.ended(loaded, done[-1])


def rows(path: Path, question: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(question).fetchall()


def change(path: Path, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement, values)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "batchupload.db"


# The runs before


async def test_a_run_that_did_not_end_is_known_by_its_manifests_and_report(path: Path) -> None:
    manifests = ["orders.csv", "more.csv"]
    async with a_run(path, manifests=manifests, summary=None) as ledger:
        assert ledger.run == 1
    async with a_run(path, manifests=["orders.csv"]) as ledger:
        dead = ledger.last_run()
        assert ledger.run == 2
        assert dead is not None  # by now it is that of this run itself
        assert dead.manifests == (path.with_name("orders.csv"),)
    with open_ledger(path) as ledger:
        assert ledger.last_run() is None
    change(path, "DELETE FROM runs WHERE id = 2")
    with open_ledger(path) as ledger:
        dead = ledger.last_run()
    named = [path.with_name(name) for name in manifests]
    assert dead == DeadRun(AT, tuple(named), path.with_name("report.csv"))
    assert dead.was(named, path.with_name("report.csv"))
    assert not dead.was(named[:1], path.with_name("report.csv"))
    assert not dead.was(named, path.with_name("other.csv"))


async def test_the_same_files_by_other_words_are_the_same_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    dead = DeadRun(AT, (path.with_name("orders.csv"),), path.with_name("report.csv"))
    assert dead.was([Path("orders.csv")], Path("report.csv"))
    with open_ledger(path) as ledger:
        await ledger.start_run(AT, HERE, [Path("orders.csv")], Path("report.csv"))
    with open_ledger(path) as ledger:
        assert ledger.last_run() == dead


@pytest.mark.parametrize(
    ("replaced", "aside", "words"),
    [
        (False, None, "begun 2026-11-20 01:30:00, did not come to its end; its report is incomplete: /x/report.csv."),
        (True, None, "begun 2026-11-20 01:30:00, did not come to its end; it left no report."),
        (True, Path("/x/aside.csv"), "its report is incomplete, and is now /x/aside.csv."),
    ],
)
def test_of_a_run_that_died_it_is_said_where_its_report_is(replaced: bool, aside: Path | None, words: str) -> None:
    assert words in DeadRun(AT, (), Path("/x/report.csv")).told(replaced=replaced, aside=aside)


@pytest.mark.parametrize("column", ["started_at", "manifests", "report"])
async def test_a_run_that_is_damaged_is_named_and_nothing_is_sent_by_its_ledger(path: Path, column: str) -> None:
    async with a_run(path, summary=None):
        pass
    change(path, f"UPDATE runs SET {column} = ?", '"half')
    with open_ledger(path) as ledger, pytest.raises(LedgerError, match=r"batchupload\.db: .*run 1 in it is damaged"):
        ledger.last_run()


async def test_a_run_is_compared_with_the_last_over_its_manifests_else_with_the_last_of_all(path: Path) -> None:
    for number, (manifest, summary) in enumerate(
        [("a.csv", ENDED), ("a.csv", ENDED), ("b.csv", ENDED), ("a.csv", None)], 1
    ):
        async with a_run(path, manifests=[manifest], report=f"{number}.csv", summary=summary):
            pass
    change(path, "INSERT INTO runs VALUES (5, '', '', 1, '', '', '[]', '/purged.csv', '{}')")
    with open_ledger(path) as ledger:
        for manifest, report, expected in [
            ("a.csv", "new.csv", "2.csv"), ("b.csv", "new.csv", "3.csv"), ("c.csv", "new.csv", "3.csv"),
            ("a.csv", "2.csv", None),
        ]:  # fmt: skip
            found = ledger.report_before([path.with_name(manifest)], path.with_name(report))
            assert found == (path.with_name(expected) if expected else None)
        ledger.run = 3  # as its own run and those after it are not before it
        assert ledger.report_before([path.with_name("b.csv")], path.with_name("new.csv")) == path.with_name("2.csv")
        ledger.run = 1
        assert ledger.report_before([path.with_name("a.csv")], path.with_name("new.csv")) is None


async def test_the_newest_runs_that_finished_and_succeeded_are_told_by_their_exit_codes(path: Path) -> None:
    ends = [AT + timedelta(days=day) for day in range(5)]
    for began, code in zip(ends, (0, 0, 1, 3, 1), strict=True):
        async with a_run(path, began, summary=json.dumps({"exit_code": code})):
            pass
    minute = timedelta(minutes=1)
    with open_ledger(path) as ledger:
        assert ledger.last_ends() == ((ends[4] + minute).timestamp(), (ends[1] + minute).timestamp())
    change(path, "DELETE FROM runs WHERE id IN (1, 2, 3, 5)")
    with open_ledger(path) as ledger:
        assert ledger.last_ends() == (None, None)
    change(path, "UPDATE runs SET ended_at = 'half'")
    with open_ledger(path) as ledger:
        assert ledger.last_ends() == (None, None)


async def test_a_run_that_could_not_begin_is_taken_back(path: Path) -> None:
    async with a_run(path):
        pass
    async with a_run(path, summary=None) as ledger:
        await ledger.drop_run()
    assert rows(path, "SELECT id FROM runs") == [(1,)]


async def test_a_run_is_on_record_with_all_that_is_told_of_it(path: Path) -> None:
    async with a_run(path, manifests=["订单.csv", "b.csv"]):
        pass
    [(began, ended, endpoint, manifests, report, summary)] = rows(
        path, "SELECT started_at, ended_at, endpoint, manifests, report, summary FROM runs"
    )
    assert (began, ended) == ("2026-11-20T01:30:00.000+00:00", "2026-11-20T01:31:00.000+00:00")
    assert json.loads(manifests) == [str(path.with_name(name)) for name in ("订单.csv", "b.csv")]
    assert "订单.csv" in manifests
    assert (endpoint, report, summary) == (HERE, str(path.with_name("report.csv")), ENDED)


# The orders


async def test_what_is_left_of_an_order_is_what_its_attempts_in_earlier_runs_at_this_endpoint_say(path: Path) -> None:
    async with a_run(path, endpoint="http://127.0.0.1:1/") as ledger:
        await sent(ledger, "HT1", ACCEPTED)
        assert ledger.has_earlier is False
    async with a_run(path) as ledger:
        assert ledger.has_earlier is False
        await sent(ledger, "HT1", LOST, ACCEPTED)
        await sent(ledger, "HT2", ACCEPTED, LOST)
        await sent(ledger, "HT3", None)
        await sent(ledger, "HT4", ACCEPTED)
        await sent(ledger, "HT9", ACCEPTED)
    async with a_run(path) as ledger:
        assert ledger.has_earlier is True
        await sent(ledger, "HT4", ACCEPTED, LOST, photos=B)
    async with a_run(path) as ledger:
        await sent(ledger, "HT5", ACCEPTED)
        found = await ledger.standings(["HT1", "HT2", "HT3", "HT4", "HT5"])
    without = {order: replace(standing, streak=None, met=frozenset()) for order, standing in found.items()}
    assert without == {
        "HT1": Standing(A, 2),
        "HT2": Standing(A, 2),
        "HT3": Standing(doubtful_run=2),
        "HT4": Standing(B, 3),
    }
    assert [key[:2] for key in found["HT2"].met] == [(A, "reply_lost")]
    assert [key[:2] for key in found["HT4"].met] == [(B, "reply_lost")]
    assert found["HT1"] == Standing(A, 2)
    assert found["HT3"].streak
    assert (found["HT3"].streak.reason, found["HT3"].streak.message) == ("", "")


async def test_the_nights_of_an_order_are_those_since_it_was_accepted_or_released(path: Path) -> None:
    passing = Finding(Verdict.RETRY, Reason.UNAVAILABLE, 503)
    for night in range(4):
        async with a_run(path, AT + timedelta(days=night)) as ledger:
            await sent(ledger, "HT1", REFUSED)
            await sent(ledger, "HT2", *([ACCEPTED] if night == 1 else [passing, REFUSED]))
            await sent(ledger, "HT3", passing)
            await sent(ledger, "HT4", REFUSED)
    change(path, "INSERT INTO released VALUES ('HT4', 3, '')")
    async with a_run(path, AT + timedelta(days=4)) as ledger:
        found = await ledger.standings(["HT1", "HT2", "HT3", "HT4"])
    streaks = {order: standing.streak for order, standing in found.items()}
    nights = {
        order: streak and (streak.nights, streak.first, streak.last, streak.reason, streak.message, streak.photos)
        for order, streak in streaks.items()
    }
    said = ("endpoint_refused", "no such order", A)
    assert nights == {
        "HT1": (4, "2026-11-20", "2026-11-23", *said),
        "HT2": (2, "2026-11-22", "2026-11-23", *said),
        "HT3": None,
        "HT4": (1, "2026-11-23", "2026-11-23", *said),
    }
    assert {order: {key[:2] for key in standing.met} for order, standing in found.items()} == {
        "HT1": {(A, "endpoint_refused")}, "HT2": {(A, "endpoint_refused")}, "HT3": set(),
        "HT4": {(A, "endpoint_refused")},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("summary", "counts"),
    [
        (ENDED, True),
        ('{"outcomes": {"uploaded": 0, "rejected": 1}}', True),
        ('{"outcomes": {"uploaded": 0, "rejected": 0}}', False),
        ('{"stopped": "deadline", "outcomes": {"uploaded": 1, "rejected": 0}}', False),
        ("half", False),
        (None, False),
    ],
)
async def test_a_failure_counts_by_what_its_run_came_to(path: Path, summary: str | None, counts: bool) -> None:
    for night in range(2):
        async with a_run(path, AT + timedelta(days=night), summary=summary) as ledger:
            await sent(ledger, "HT1", LOST)
            await ledger.record([])
    async with a_run(path, AT + timedelta(days=2)) as ledger:
        found = await ledger.standings(["HT1"])
    streak = found["HT1"].streak
    assert (streak.nights if streak else 0) == (2 if counts else 0)


async def test_a_date_without_its_zone_is_of_this_machines(path: Path) -> None:
    async with a_run(path) as ledger:
        await sent(ledger, "HT1", REFUSED)
    change(path, "UPDATE runs SET started_at = '2026-11-20T01:30:00'")
    async with a_run(path, AT + timedelta(days=2)) as ledger:
        streak = (await ledger.standings(["HT1"]))["HT1"].streak
    assert streak
    assert (streak.nights, streak.first) == (1, "2026-11-20")


async def test_photos_on_record_by_an_earlier_version_are_known_again(path: Path) -> None:
    async with a_run(path) as ledger:
        await sent(ledger, "HT1", ACCEPTED, photos=b"A" * 32)
    async with a_run(path, initials={2: b"fb"}) as ledger:
        found = await ledger.standings(["HT1"])
    assert found["HT1"].uploaded == b"A" * 32 + b"fb"


# What is written


async def test_an_attempt_is_on_record_before_and_after_and_one_that_never_began_is_not(path: Path) -> None:
    question = "SELECT order_id, run, number, photos, seconds, bytes_sent, verdict, message FROM attempts"
    async with a_run(path) as ledger:
        several = [at_hand(path, "HT1"), at_hand(path, "HT2", B, [attempt(LOST)]), at_hand(path, "HT3")]
        await ledger.begin(several)
        nothing = (None, None, None, None)
        begun = [("HT1", 1, 1, A, *nothing), ("HT2", 1, 2, B, *nothing), ("HT3", 1, 1, A, *nothing)]
        assert rows(path, question) == begun
        ledger.ended(several[0], attempt(REFUSED))
        ledger.never_began(several[1])
        assert rows(path, question) == begun  # durable with what comes next
        await ledger.record([])
        assert rows(path, question) == [("HT1", 1, 1, A, 1.5, 42, "rejected", "no such order"), begun[2]]


async def test_every_outcome_of_a_large_batch_is_on_record_once(path: Path) -> None:
    count = 2 * ROWS_AT_ONCE + 1
    async with a_run(path, manifests=["a.csv", "b.csv"]) as ledger:
        manifests = [path.with_name("a.csv"), path.with_name("b.csv")]
        endings = [
            Ending(Row(manifests[n % 2], n, f"HT{n}", {}, {}), Outcome.INVALID, Reason.PHOTO_MISSING, f"{n}")
            for n in range(count)
        ]
        await asyncio.gather(*(ledger.record(endings[at : at + 50]) for at in range(0, count, 50)))
    assert sorted(rows(path, "SELECT line, manifest, order_id, outcome, reason, detail FROM outcomes")) == [
        (n, n % 2, f"HT{n}", "invalid", "photo_missing", f"{n}") for n in range(count)
    ]


async def test_those_that_wait_share_a_commit(path: Path) -> None:
    async with a_run(path) as ledger:
        said: list[str] = []
        ledger._database.set_trace_callback(said.append)
        await asyncio.gather(*(ledger.begin([at_hand(path, f"HT{n}")]) for n in range(50)))
        ledger._database.set_trace_callback(None)
    assert 1 <= said.count("COMMIT") <= 2
    assert rows(path, "SELECT count(*) FROM attempts") == [(50,)]


@pytest.mark.parametrize(
    ("number", "kept"),
    [(1 << 63, float(1 << 63)), ((1 << 63) - 1, (1 << 63) - 1), (-(1 << 64), -float(1 << 64)), (404, 404)],
)
async def test_a_value_that_can_not_be_stored_costs_no_other_row_its_place(
    path: Path, number: int, kept: object
) -> None:
    odd = Finding(Verdict.REJECTED, Reason.ENDPOINT_REFUSED, number, "\ud83d", "half \udc80 a character")
    async with a_run(path) as ledger:
        await sent(ledger, "HT1", odd)
        await sent(ledger, "HT2", REFUSED)
    assert rows(path, "SELECT order_id, http_status, code, message FROM attempts") == [
        ("HT1", kept, "?", "half ? a character"),
        ("HT2", 200, "400", "no such order"),
    ]


# Disks that fail


def fails(ledger: Ledger, statement: str, error: Exception) -> None:
    """Have this statement fail on the ledger's database."""
    database = ledger._database

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(database, name)

        def execute(self, said: str, *values: Any) -> Any:
            if said.startswith(statement):
                raise error
            return database.execute(said, *values)

    ledger._database = Failing()  # type: ignore[assignment]


async def test_after_a_commit_that_failed_nothing_is_tried_again_and_what_was_known_is_told(path: Path) -> None:
    async with a_run(path) as ledger:
        await sent(ledger, "HT1", ACCEPTED)
    async with a_run(path, summary=None) as ledger:
        fails(ledger, "COMMIT", sqlite3.OperationalError("disk I/O error"))
        with pytest.raises(LedgerError, match=r"batchupload\.db: .*can't be written any more \(disk I/O error\)"):
            await ledger.begin([at_hand(path, "HT2")])
        fails(ledger, "BEGIN", AssertionError("it was tried again"))
        for again in (ledger.begin([at_hand(path, "HT3")]), ledger.record([]), ledger.drop_run()):
            with pytest.raises(LedgerError, match="disk I/O error"):
                await again
        assert await ledger.standings(["HT1", "HT2"]) == {"HT1": Standing(A, 1)}
    assert rows(path, "SELECT order_id FROM attempts") == [("HT1",)]


async def test_all_that_wait_for_a_commit_that_fails_are_told(path: Path) -> None:
    async with a_run(path, summary=None) as ledger:
        fails(ledger, "COMMIT", sqlite3.OperationalError("disk I/O error"))
        found = await asyncio.gather(
            *(ledger.begin([at_hand(path, f"HT{n}")]) for n in range(5)), return_exceptions=True
        )
    assert [type(one) for one in found] == [LedgerError] * 5


async def test_a_ledger_that_is_pulled_away_is_said_to_be(path: Path) -> None:
    async with a_run(path, summary=None) as ledger:
        path.rename(path.with_name("elsewhere"))
        with pytest.raises(LedgerError, match=r"batchupload\.db: .* out of reach \(No such file or directory\)"):
            await ledger.begin([at_hand(path, "HT1")])
        path.with_name("elsewhere").rename(path)
    async with a_run(path, summary=None) as ledger:
        await ledger.begin([at_hand(path, "HT2")])
        path.with_name("copy").write_bytes(path.read_bytes())
        path.with_name("copy").rename(path)
        with pytest.raises(LedgerError, match=r"batchupload\.db: the ledger was replaced in mid-run"):
            await ledger.begin([at_hand(path, "HT3")])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (sqlite3.DatabaseError("disk image is malformed"), r"can't be read any more \(disk image is malformed\)"),
        (ValueError("half"), r"can't be trusted \(an attempt in it is damaged: half\)"),
        (TypeError("none"), r"can't be trusted \(an attempt in it is damaged: none\)"),
    ],
)
async def test_a_ledger_that_can_not_be_read_is_never_taken_for_one_that_knows_nothing(
    path: Path, error: Exception, words: str
) -> None:
    async with a_run(path, summary=None) as ledger:
        fails(ledger, "SELECT order_id", error)
        with pytest.raises(LedgerError, match=rf"batchupload\.db: .*{words}"):
            await ledger.standings(["HT1"])
    with open_ledger(path) as ledger:
        fails(ledger, "SELECT id", error)
        with pytest.raises(LedgerError, match=r"batchupload\.db: "):
            await ledger.start_run(AT, HERE, [], path)


async def test_questions_before_the_run_say_what_is_wrong_with_the_ledger(path: Path) -> None:
    with open_ledger(path) as ledger:
        fails(ledger, "SELECT", sqlite3.DatabaseError("disk image is malformed"))
        with pytest.raises(LedgerError, match=r"batchupload\.db: .*disk image is malformed"):
            ledger.last_run()
        with pytest.raises(LedgerError, match=r"batchupload\.db: .*disk image is malformed"):
            ledger.report_before([], path)
        assert ledger.last_ends() == (None, None)


async def test_a_disk_that_does_not_answer_is_given_up_and_asked_no_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()
    began = time.monotonic()
    try:
        async with asyncio.timeout(30), a_run(path, summary=None) as ledger:
            monkeypatch.setattr("batchupload.ledger.COMMIT_SECONDS", 0.2)
            monkeypatch.setattr(ledger, "_look_for_files", lambda: answer.wait(60))
            with pytest.raises(LedgerError, match=r"batchupload\.db: the disk of the ledger does not answer"):
                await ledger.begin([at_hand(path, "HT1")])
            monkeypatch.setattr("batchupload.ledger.COMMIT_SECONDS", 60.0)
            for again in (ledger.begin([at_hand(path, "HT2")]), ledger.standings(["HT1"]), ledger.record([])):
                with pytest.raises(LedgerError, match="does not answer"):
                    await again
        assert time.monotonic() - began < 30
    finally:
        answer.set()


async def test_a_ledger_that_does_not_close_is_not_waited_for_for_ever(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()
    monkeypatch.setattr("batchupload.ledger.COMMIT_SECONDS", 0.2)
    try:
        began = time.monotonic()
        with open_ledger(path) as ledger:
            ledger._thread.submit(answer.wait, 60)
        assert time.monotonic() - began < 30
    finally:
        answer.set()


async def test_no_other_blocked_work_keeps_the_ledger_waiting(path: Path) -> None:
    over = threading.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    blocked = loop.run_in_executor(None, over.wait, 60)
    try:
        async with asyncio.timeout(30), a_run(path) as ledger:
            await sent(ledger, "HT1", ACCEPTED)
            assert await ledger.standings(["HT1"]) == {}
        assert not blocked.done()
    finally:
        over.set()
        await blocked


async def test_what_is_known_is_not_sent_again_where_the_ledger_can_not_be_read_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = shop.orders(60)
    manifest = shop.manifest()
    async with Sandbox() as server:
        settings = settings_for(server.url)
        await send(manifest, settings)
        new = [shop.order(f"HU{number:06}") for number in range(60)]
        standings, asked = Ledger._standings, 0

        def unreadable(ledger: Ledger, database: sqlite3.Connection, order_ids: str) -> Any:
            nonlocal asked
            asked += 1
            if asked > 1:
                raise sqlite3.DatabaseError("disk image is malformed")
            return standings(ledger, database, order_ids)

        monkeypatch.setattr(Ledger, "_standings", unreadable)
        summary, report = await send(shop.manifest(), settings)
        assert {order: len(server.accepted[order]) for order in known} == dict.fromkeys(known, 1)
    assert (summary.exit_code, summary.stopped) == (5, Reason.LEDGER_LOST)
    found = outcomes(report)
    assert sorted(found) == sorted([*known, *new])
    assert {order for order, (outcome, _) in found.items() if outcome == "uploaded"} == {
        order for order in new if order in server.accepted
    }
    left = {ending for order, ending in found.items() if ending[0] not in {"uploaded", "skipped"}}
    assert left
    assert {reason for _, reason in left} == {"ledger_lost"}
