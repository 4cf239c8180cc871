"""Ledger, report and counts: what one of them can no longer take, the others say all the same, and sending stops."""

import resource
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from scripted import ACCEPTED, BUSY, REFUSED, ScriptedSite, attempt, photo_set, play, row, rows

from batchupload import ledger
from batchupload.ledger_file import LedgerError
from batchupload.model import Ending, Loaded, Order, Outcome, Standing
from batchupload.reasons import Reason
from batchupload.recorder import Recorder
from batchupload.report import Report, ReportLostError
from batchupload.stop import Stop
from batchupload.summary import Tally

GO_ON = {"canary": 0, "concurrency": 2}
UPLOADED = ("uploaded", "accepted")


class Records:
    """A ledger, a report and a log of rows in one, that keeps what it is told and fails as a test says."""

    run = 7
    has_earlier = True

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.fails: dict[str, Exception] = {}

    def _keep(self, what: str, ids: Sequence[str]) -> None:
        if what in self.fails:
            raise self.fails[what]
        self.kept.append(f"{what} {' '.join(ids)}")

    async def standings(self, ids: Sequence[str]) -> Mapping[str, Standing]:
        self._keep("standings", ids)
        return {"A": Standing(uploaded=b"a")}

    async def begin(self, several: Sequence[Loaded]) -> None:
        self._keep("begin", [loaded.order.row.order_id for loaded in several])

    def ended(self, what: Any, attempt: Any = None) -> None:
        self._keep("ended", [(what.order if isinstance(what, Loaded) else what).row.order_id])

    def never_began(self, loaded: Loaded) -> None:
        self._keep("never_began", [loaded.order.row.order_id])

    def attempt(self, order: Order, attempt: Any) -> None:
        self._keep("attempt", [order.row.order_id])

    async def record(self, endings: Sequence[Ending]) -> None:
        self._keep("record", [ending.row.order_id for ending in endings])

    async def finish(self) -> None:
        self._keep("finish", [])


class Stage:
    """A recorder among records that a test breaks."""

    def __init__(self, *, ledger: bool = True, max_failures: str | None = None, row_log: bool = True) -> None:
        self.ledger, self.report, self.row_log = Records(), Records(), Records()
        self.tally, self.stop = Tally(), Stop()
        records: Any = self.ledger if ledger else None
        file: Any = self.report
        log: Any = self.row_log if row_log else None
        self.recorder = Recorder(
            records, file, self.tally, self.stop, row_log=log, max_failures=max_failures
        )  # fmt: skip


def loaded(order_id: str) -> Loaded:
    return Loaded(Order(row(order_id)), photo_set(order_id))


def ending(order_id: str, outcome: Outcome = Outcome.UPLOADED, *, sent: bool = True, known: bool = False) -> Ending:
    return Ending(
        row(order_id), outcome, Reason.ACCEPTED, attempts=(attempt(ACCEPTED),) if sent else (), known=known
    )  # fmt: skip


async def test_what_happens_is_handed_to_each_record() -> None:
    stage = Stage()
    recorder = stage.recorder
    assert await recorder.standings(["A", "B"]) == {"A": Standing(uploaded=b"a")}
    assert await recorder.begin([loaded("A"), loaded("B")]) is True
    recorder.ended(loaded("A"), attempt(ACCEPTED, size=30))
    recorder.never_began(loaded("B"))
    await recorder.record([ending("A"), ending("B", Outcome.DEFERRED, sent=False)])
    await recorder.finish()
    assert stage.ledger.kept == ["standings A B", "begin A B", "ended A", "never_began B", "record A B"]
    assert stage.report.kept == ["record A B", "finish "]
    assert stage.row_log.kept == ["attempt A", "ended A", "ended B"]
    assert (stage.tally.rows, stage.tally.attempts, stage.tally.bytes_sent) == (2, 1, 30)
    assert (recorder.lost, recorder.unreported, stage.stop.cause) == (None, [], None)


async def test_without_a_ledger_nothing_may_begin_and_nothing_is_known() -> None:
    stage = Stage(ledger=False, row_log=False)
    recorder = stage.recorder
    assert await recorder.standings(["A"]) == {}
    assert await recorder.begin([loaded("A")]) is False
    recorder.ended(loaded("A"), attempt(ACCEPTED))
    recorder.never_began(loaded("A"))
    await recorder.record([ending("A", sent=False)])
    assert (stage.report.kept, stage.stop.cause) == (["record A"], None)


async def test_a_ledger_that_can_not_be_written_ends_the_run_and_is_still_read(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    recorder = stage.recorder
    stage.ledger.fails["begin"] = LedgerError("the disk is full.")
    assert await recorder.begin([loaded("A")]) is False
    assert (recorder.lost, stage.stop.cause) == (Reason.LEDGER_LOST, Reason.LEDGER_LOST)
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("ERROR", "the disk is full. Sending stops.")
    ]
    assert caplog.records[0].__dict__["event"] == "ledger_lost"
    assert await recorder.standings(["A"]) == {"A": Standing(uploaded=b"a")}
    recorder.ended(loaded("A"), attempt(ACCEPTED))
    recorder.never_began(loaded("A"))
    await recorder.record([ending("A")])
    assert stage.ledger.kept == ["standings A"]
    assert stage.report.kept == ["record A"]
    assert stage.tally.outcomes[Outcome.UPLOADED] == 1


async def test_a_ledger_that_can_not_take_an_ending_costs_the_report_nothing() -> None:
    stage = Stage()
    stage.ledger.fails["record"] = LedgerError("gone.")
    await stage.recorder.record([ending("A")])
    assert stage.report.kept == ["record A"]
    assert (stage.tally.rows, stage.stop.cause) == (1, Reason.LEDGER_LOST)


@pytest.mark.parametrize("earlier", [True, False])
async def test_what_a_ledger_may_hold_that_can_not_be_read_is_not_known(
    earlier: bool, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()
    stage.ledger.has_earlier = earlier
    stage.ledger.fails["standings"] = LedgerError("it can't be read.")
    unknown = dict.fromkeys(["A", "B"], Standing(known=False)) if earlier else {}
    assert await stage.recorder.standings(["A", "B"]) == unknown
    assert (stage.recorder.lost, stage.stop.cause) == (Reason.LEDGER_LOST, Reason.LEDGER_LOST)
    stage.ledger.fails.clear()
    assert await stage.recorder.standings(["A", "B"]) == unknown, "it is not asked again"
    assert await stage.recorder.begin([loaded("A")]) is False, "a known order could go again"
    assert stage.ledger.kept == []
    assert len(caplog.records) == 1


async def test_a_ledger_lost_for_writing_is_told_once_though_it_can_not_be_read_either(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    stage.ledger.fails |= {"begin": LedgerError("full."), "standings": LedgerError("unreadable.")}
    assert not await stage.recorder.begin([loaded("A")])
    assert await stage.recorder.standings(["A"]) == {"A": Standing(known=False)}
    assert [one.getMessage() for one in caplog.records] == ["full. Sending stops."]


@pytest.mark.parametrize("moment", ["record", "finish"])
async def test_a_report_that_can_not_be_written_ends_the_run_and_the_ledger_knows_it(
    moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage = Stage()
    recorder = stage.recorder
    stage.report.fails[moment] = ReportLostError("report.csv: it was removed")
    await recorder.record([ending("A")])
    await recorder.finish()
    assert (recorder.lost, stage.stop.cause) == (Reason.REPORT_LOST, Reason.REPORT_LOST)
    assert [one.getMessage() for one in caplog.records] == [
        "report.csv: it was removed: sending stops. The ledger knows what it held: batchupload show 7."
    ]
    assert caplog.records[0].__dict__["event"] == "report_lost"
    assert stage.ledger.kept == ["record A"]


async def test_endings_that_the_report_could_not_take_are_kept_if_they_were_sent_and_not_counted() -> None:
    stage = Stage()
    await stage.recorder.record([ending("A")])
    stage.report.fails["record"] = ReportLostError("gone")
    await stage.recorder.record([ending("B"), ending("C", Outcome.DEFERRED, sent=False)])
    stage.report.fails.clear()
    await stage.recorder.record([ending("D")])
    assert [one.row.order_id for one in stage.recorder.unreported] == ["B", "D"]
    assert stage.report.kept == ["record A"]
    assert stage.ledger.kept == ["record A", "record B C", "record D"]
    assert (stage.tally.rows, stage.row_log.kept) == (1, ["ended A"])


async def test_a_report_that_is_lost_without_a_ledger_names_none(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.ledger.fails["record"] = LedgerError("gone.")
    stage.report.fails["record"] = ReportLostError("report.csv: it was removed")
    await stage.recorder.record([ending("A")])
    assert [one.getMessage() for one in caplog.records] == [
        "gone. Sending stops.", "report.csv: it was removed: sending stops."
    ]  # fmt: skip
    assert stage.recorder.lost is Reason.LEDGER_LOST, "the first"
    assert [one.row.order_id for one in stage.recorder.unreported] == ["A"]


@pytest.mark.parametrize("outcome", [Outcome.REJECTED, Outcome.FAILED, Outcome.UNKNOWN])
async def test_too_many_failures_end_the_run_except_those_that_are_known(outcome: Outcome) -> None:
    stage = Stage(max_failures="2")
    known = [ending(f"K{n}", outcome, known=True) for n in range(5)]
    await stage.recorder.record([*known, ending("G", known=True)])
    await stage.recorder.record([ending("A", outcome), ending("B", outcome)])
    assert stage.stop.cause is None
    await stage.recorder.record([ending("C", outcome)])
    assert stage.stop.cause is Reason.MAX_FAILURES
    assert stage.stop.detail.startswith("3 of 9 rows failed, were rejected or are unknown; 2 are allowed.")
    assert "5 more met the same" in stage.stop.detail


async def test_without_a_budget_any_number_may_fail() -> None:
    stage = Stage()
    await stage.recorder.record([ending(f"A{n}", Outcome.FAILED) for n in range(500)])
    assert stage.stop.cause is None


# The same in whole runs


def test_a_ledger_that_can_not_be_read_in_mid_run_sends_nothing_more_and_says_what_is_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = rows(600)
    first = play(tmp_path, listed[:300], pace=GO_ON)
    assert len(first.site.sent) == 300
    asked = 0
    original = ledger.Ledger._standings

    def breaks(self: ledger.Ledger, database: sqlite3.Connection, order_ids: str) -> Any:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise sqlite3.OperationalError("disk I/O error")
        return original(self, database, order_ids)

    monkeypatch.setattr(ledger.Ledger, "_standings", breaks)
    run = play(tmp_path, listed, reads=iter(listed), pace=GO_ON)
    assert run.stop.cause is Reason.LEDGER_LOST
    assert len(run.report) == 600
    assert not set(run.site.orders) & {one.order_id for one in listed[:300]}, "no known order goes again"
    known = {run.outcomes[one.order_id] for one in listed[:256]}
    assert known == {("skipped", "already_uploaded"), ("deferred", "ledger_lost")}, "those at work are left"
    assert {run.outcomes[one.order_id] for one in listed[256:]} == {("unknown", "ledger_lost")}
    assert {one["detail"] for one in run.report if one["outcome"] == "unknown"} == {
        "the ledger can't be read: an earlier run may have sent it"
    }


async def test_after_a_full_disk_the_report_ends_with_a_whole_row(tmp_path: Path) -> None:
    """A limit of this process stands for it: the write takes the half, and the next one nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    stage = Stage()
    async with Report(tmp_path / "report.csv", [Path("orders.csv")], [], None) as file:
        recorder = Recorder(None, file, stage.tally, stage.stop)
        await recorder.record([ending("A"), ending("B")])
        whole = (tmp_path / "report.csv").read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, hard))
        try:
            await recorder.record([ending("C")])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await recorder.record([ending("D")])
        await recorder.finish()
    assert stage.stop.cause is Reason.REPORT_LOST
    assert (tmp_path / "report.csv").read_bytes() == whole
    assert [one.row.order_id for one in recorder.unreported] == ["C", "D"]
    assert stage.tally.rows == 2


def test_what_an_earlier_run_left_in_doubt_stays_so_and_what_it_uploaded_is_skipped(tmp_path: Path) -> None:
    play(tmp_path, rows(3), ScriptedSite(lambda order, _: ACCEPTED if order.endswith("0") else REFUSED), pace=GO_ON)
    run = play(tmp_path, rows(3), ScriptedSite(lambda *_: BUSY), pace=GO_ON, retry={"attempts": 1})
    assert run.outcomes["HT000000"] == ("skipped", "already_uploaded")
    assert run.outcomes["HT000001"] == ("failed", "unavailable")
