"""The ledger → what it knows of earlier runs and orders, for a person or as JSON; reads while a run goes on."""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from batchupload.cells import pad, width
from batchupload.failures import Group
from batchupload.foreign import restored, to_json, visible
from batchupload.language import N_, _
from batchupload.ledger_file import connect, distrusted, existing, failed, is_held
from batchupload.model import Outcome
from batchupload.reasons import Reason
from batchupload.row_log import read_row_id, row_id
from batchupload.run_dates import run_seconds
from batchupload.since import Since, failed_in, grouped, since
from batchupload.summary import NEXT_STEP, called, duration, size

STATES = {"ended": N_("ended"), "under way": N_("under way"), "died": N_("died")}
Counts = dict[str, dict[str, int]]
"""Outcome → reason → rows."""


@dataclass(frozen=True, slots=True)
class PastRun:
    """One run, as the ledger has it."""

    run: int
    started_at: str
    ended_at: str | None
    state: str
    """`ended`, `under way`, or `died`."""
    pid: int
    endpoint: str
    manifests: Sequence[str]
    report: str
    exit_code: int | None
    seconds: float | None
    """How long it took; None if it has no end, or nobody can know."""
    counts: Counts
    since: Since | None
    """None where there is none to compare with, or it has not come to its end."""
    groups: Sequence[Group] | None = None
    """What failed, the largest group first; None where that was not asked for."""

    @property
    def rows(self) -> int:
        """Rows with an outcome."""
        return sum(sum(reasons.values()) for reasons in self.counts.values())

    def line(self) -> str:
        """On one line."""
        took = _(STATES[self.state])
        if self.ended_at is not None:
            took = _("{duration}, exit {code}", duration=elapsed(self.seconds), code=self.exit_code)
        counts = ", ".join(
            _("{count:,} {outcome}", count=sum(reasons.values()), outcome=called(outcome))
            for outcome, reasons in self.counts.items()
        )
        nothing = _("no rows") if self.manifests else _("purged")
        since = f"; {self.since.line()}" if self.since else ""
        return f"{self.run:>4}  {_clock(self.started_at)}  {pad(took, 22)}  {counts or nothing}{since}"

    def text(self) -> str:
        """All of it."""
        lines = [
            _("Run {run}: {state}", run=self.run, state=_(STATES[self.state])),
            _("  started    {time} by process {pid}", time=_clock(self.started_at), pid=self.pid),
            _("  ended      {time}", time=_clock(self.ended_at) if self.ended_at else "-"),
            _("  endpoint   {url}", url=self.endpoint),
            *(_("  manifest   {path}", path=manifest) for manifest in self.manifests),
            _(
                "  report     {path}{state}",
                path=self.report or _("purged"),
                state="" if self.ended_at else _(" (incomplete)"),
            ),
            "",
        ]
        room = max([10, *(width(called(outcome)) + 1 for outcome in self.counts)])
        for outcome, reasons in self.counts.items():
            step = _(NEXT_STEP[Outcome(outcome)])
            lines.append(f"  {pad(called(outcome), room)}{sum(reasons.values()):>9,}{f'   → {step}' if step else ''}")
            lines += [f"    {count:>7,}  {visible(reason)}" for reason, count in reasons.items()]
        if self.since:
            lines += ["", *self.since.lines()]
        if self.groups:
            lines += ["", _("  What failed, by reason and message"), *grouped(self.groups)]
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class PastAttempt:
    """One send of an order, as the ledger has it."""

    run: int
    number: int
    endpoint: str
    started_at: str
    photos: str
    """XXH3-128 of each photo, and the initials of the fields if they are not the usual ones, in hexadecimal."""
    seconds: float | None
    bytes_sent: int | None
    verdict: str | None
    """None where it is under way, or where its run died then."""
    reason: str | None
    http_status: int | None
    code: str | None
    message: str | None

    def line(self) -> str:
        """On one line."""
        if self.verdict is None:
            became = _("no end on record: under way, or its run died then; it may have been accepted")
        else:
            answer = " ".join(
                part for part in (str(self.http_status or ""), self.code or "", self.message or "") if part
            )
            became = f"{self.verdict}, {self.reason}{f' ({answer})' if answer else ''}"
            became += _(
                ", {size} in {duration}", size=size(self.bytes_sent or 0), duration=duration(self.seconds or 0.0)
            )
        return _(
            "  {time}  run {run}, attempt {number}: {became}",
            time=_clock(self.started_at),
            run=self.run,
            number=self.number,
            became=became,
        )


@dataclass(frozen=True, slots=True)
class PastOutcome:
    """What a run said of an order."""

    id: str
    """Of the row in that run, as log lines have it."""
    run: int
    line: int
    outcome: str
    reason: str
    detail: str

    def text(self) -> str:
        """On one line."""
        sentence = next((reason.sentence for reason in Reason if reason == self.reason), self.reason)
        detail = f" [{self.detail}]" if self.detail else ""
        return _(
            "  run {run}, line {line}: {outcome}. {sentence}{detail} ({id})",
            run=self.run,
            line=self.line,
            outcome=called(self.outcome),
            sentence=sentence,
            detail=detail,
            id=self.id,
        )


@dataclass(frozen=True, slots=True)
class LastRun:
    """The newest run, without its counts, which take a while for many rows."""

    run: int
    started_at: str
    ended_at: str | None
    pid: int
    manifests: Sequence[str]
    report: str
    summary: Mapping[str, Any] | None
    """What `run --json` said at its end."""


@contextmanager
def read_ledger(path: Path) -> Iterator["History"]:
    """Raises `LedgerError` where there is no ledger, or none to be trusted; also for what is found out in the block."""
    path = existing(path)
    with closing(connect(path, readonly=True)) as database:
        try:
            yield History(database, path)
        except sqlite3.Error as error:
            raise failed(path, error) from None
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise distrusted(path, _("a cell in it is damaged: {error}", error=error)) from None


class History:
    """Questions to a ledger."""

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        self._database = database
        self._path = path

    def runs(self, newest: int) -> list[PastRun]:
        """The newest runs, the oldest of them first."""
        ids = self._database.execute("SELECT id FROM runs ORDER BY id DESC LIMIT ?", (newest,)).fetchall()
        return [run for (number,) in reversed(ids) if (run := self.run(number))]

    def run(self, number: int, *, groups: bool = False) -> PastRun | None:
        """The run of this number, if there is one; `groups` with what failed by reason and message."""
        found = self._database.execute(
            "SELECT id, started_at, ended_at, pid, endpoint, manifests, report, summary, "
            "id = (SELECT max(id) FROM runs) FROM runs WHERE id = ?",
            (number,),
        ).fetchone()
        if found is None:
            return None
        run, started_at, ended_at, pid, endpoint, manifests, report, summary, newest = found
        counts: Counts = {}
        for outcome, reason, count in self._database.execute(
            "SELECT outcome, reason, count(*) FROM outcomes WHERE run = ? GROUP BY 1, 2 ORDER BY 3 DESC", (number,)
        ):
            counts.setdefault(Outcome(outcome), {})[reason] = count
        state = "ended" if ended_at else "under way" if newest and self._goes_on(pid) else "died"
        said = json.loads(summary) if summary else None
        exit_code, seconds = said["exit_code"] if said else None, run_seconds(started_at, ended_at, said)
        inner = {outcome.value: counts[outcome] for outcome in Outcome if outcome in counts}
        return PastRun(
            run, started_at, ended_at, state, pid, endpoint, json.loads(manifests), restored(report), exit_code,
            seconds, inner,
            since(self._database, run, manifests) if ended_at and inner else None,
            failed_in(self._database, run) if groups else None,
        )  # fmt: skip

    def last(self) -> LastRun | None:
        """The newest run, if there was one."""
        found = self._database.execute(
            "SELECT id, started_at, ended_at, pid, manifests, report, summary FROM runs ORDER BY id DESC LIMIT 1"
        ).fetchone()
        if found is None:
            return None
        run, started_at, ended_at, pid, manifests, report, summary = found
        said = json.loads(summary) if summary else None
        return LastRun(run, started_at, ended_at, pid, json.loads(manifests), restored(report), said)

    def _goes_on(self, pid: int) -> bool:
        """Whether the newest run does: it holds the ledger. Its process number may be another's by now."""
        held = is_held(self._path)
        return _alive(pid) if held is None else held

    def attempts(self, order_id: str) -> list[PastAttempt]:
        """Every send of an order, the oldest first."""
        found = self._database.execute(
            "SELECT run, number, endpoint, attempts.started_at, hex(photos), seconds, bytes_sent, verdict, reason, "
            "http_status, code, message FROM attempts JOIN runs ON runs.id = run WHERE order_id = ? "
            "ORDER BY run, number",
            (order_id,),
        )
        return [
            PastAttempt(
                run, number, endpoint, datetime.fromtimestamp(at).astimezone().isoformat(), photos.lower(), *rest
            )
            for run, number, endpoint, at, photos, *rest in found
        ]

    def outcomes(self, order_id: str) -> list[PastOutcome]:
        """What each run said of an order."""
        found = self._database.execute(
            "SELECT CASE WHEN json_array_length(manifests) > 1 THEN manifest + 1 END, run, line, outcome, reason, "
            "detail FROM outcomes JOIN runs ON runs.id = run WHERE order_id = ? ORDER BY run, line",
            (order_id,),
        )
        return [PastOutcome(row_id(run, line, place), run, line, *rest) for place, run, line, *rest in found]

    def order_of(self, identity: str) -> str | None:
        """The number of the order whose row in a run has this id, if there is one."""
        if (parts := read_row_id(identity)) is None:
            return None
        run, manifest, line = parts
        found = self._database.execute(
            "SELECT order_id FROM outcomes WHERE run = ? AND manifest = ? AND line = ?",
            (run, (manifest or 1) - 1, line),
        ).fetchone()
        return str(found[0]) if found else None


def elapsed(seconds: float | None) -> str:
    """How long something took, for a person; None and less than nothing is what a clock that was set leaves."""
    return _("an unknown time") if seconds is None or seconds < 0 else duration(seconds)


def as_json(found: object) -> str:
    """Runs, or a run, or an order's attempts and outcomes, on one line."""
    return to_json(found, default=asdict)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _clock(text: str) -> str:
    return f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S}"
