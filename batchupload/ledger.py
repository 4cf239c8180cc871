"""What is known, durably: every run, attempt and outcome is in here before it is claimed anywhere else."""

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar, TypeVarTuple

from batchupload import __version__
from batchupload.awake import wait_until
from batchupload.foreign import restored, stored, to_json, writable
from batchupload.language import _
from batchupload.ledger_file import LedgerError, distrusted, failed, hold, watched
from batchupload.model import Attempt, Ending, Loaded, Standing, Verdict
from batchupload.nights import LIES_ELSEWHERE, LastSend, Night, met, night, streak
from batchupload.photo_sets import named
from batchupload.run_dates import latest_ends

COMMIT_SECONDS = 60.0
"""The longest a commit may take; a disk that takes longer is given up."""
BEGIN = "INSERT INTO attempts (order_id, run, number, photos, started_at) VALUES"
ENDED = "REPLACE INTO attempts VALUES"
TAKE_BACK = "DELETE FROM attempts WHERE order_id = ? AND run = ? AND number = ?"
OUTCOME = "INSERT INTO outcomes VALUES"
BEFORE = (
    "SELECT id, report, manifests = :manifests FROM runs WHERE id < :run AND ended_at IS NOT NULL "
    "AND manifests <> '[]' ORDER BY 3 DESC, 1 DESC LIMIT 1"
)
"""The run that one is compared with: the last before it over the same manifests, else the last; of those that ended."""
ROWS_AT_ONCE = 64
"""Rows of one statement. Between two statements the thread must get the interpreter back from a busy event loop, which
may take 5 ms (`sys.getswitchinterval`); so one for each row would be slow."""

Write = tuple[str, tuple[object, ...]]
"""A statement and its parameters; one that ends with VALUES takes many rows at once, and these are those of one."""

T = TypeVar("T")
A = TypeVarTuple("A")


@dataclass(frozen=True, slots=True)
class DeadRun:
    """The run before this one, where it did not come to its end."""

    started_at: datetime
    manifests: tuple[Path, ...]
    report: Path

    def was(self, manifests: Sequence[Path], report: Path) -> bool:
        """Whether it was a run over these manifests with this report."""
        return self.report == _absolute(report) and self.manifests == tuple(map(_absolute, manifests))

    def told(self, *, replaced: bool, aside: Path | None) -> str:
        """A sentence for a person; `aside` is where its report, if there was one, was moved where it is `replaced`."""
        what = _("its report is incomplete: {report}.", report=self.report)
        if replaced:
            what = _("its report is incomplete, and is now {aside}.", aside=aside) if aside else _("it left no report.")
        return _(
            "The run before, begun {started_at:%Y-%m-%d %H:%M:%S}, did not come to its end; {what}",
            started_at=self.started_at,
            what=what,
        )


class Ledger:
    """The ledger of one run: one writer, whose commits are shared by all that wait for one."""

    def __init__(self, path: Path, database: sqlite3.Connection) -> None:
        self.path = path
        self._database = database
        self._thread = ThreadPoolExecutor(1, "ledger")
        self._pending: list[Write] = []
        self._asked = self._committed = 0
        self._commit = asyncio.Lock()
        self._failure = ""
        self._watched = watched(path, database)
        self._files: dict[Path, tuple[int, int]] = {}
        """Those of them that were seen → device and inode."""
        self.run: int = database.execute("SELECT coalesce(max(id), 0) + 1 FROM runs").fetchone()[0]
        self._endpoint = ""
        self._manifests: dict[Path, int] = {}
        self._nights: Mapping[int, Night] = {}
        self._began = datetime.now().astimezone()
        self._initials: Mapping[int, bytes] = {}
        self.has_earlier = True
        """Whether earlier runs went to the same endpoint; if none did, there is nothing to read of an order."""
        self._answers = True
        """Whether the disk still answers in time."""

    def last_run(self) -> DeadRun | None:
        """The newest run, if it has no end. Raises `LedgerError`."""
        try:
            row = self._database.execute(
                "SELECT started_at, manifests, report, ended_at FROM runs ORDER BY id DESC LIMIT 1"
            ).fetchone()
            if row is None or row[3] is not None:
                return None
            return DeadRun(datetime.fromisoformat(row[0]), tuple(map(Path, json.loads(row[1]))), Path(restored(row[2])))
        except sqlite3.Error as error:
            raise failed(self.path, error) from None
        except (ValueError, TypeError) as error:
            raise distrusted(
                self.path, _("run {run} in it is damaged: {error}", run=self.run - 1, error=error)
            ) from None

    def report_before(self, manifests: Sequence[Path], report: Path) -> Path | None:
        """The report of the run that one over these manifests is compared with; None where there is none, or where
        `report` takes its place. Raises `LedgerError`."""
        asked = {"run": self.run, "manifests": _named(manifests)}
        try:
            found = self._database.execute(BEFORE, asked).fetchone()
        except sqlite3.Error as error:
            raise failed(self.path, error) from None
        before = Path(restored(found[1])) if found else None
        return None if before == _absolute(report) else before

    def last_ends(self) -> tuple[float | None, float | None]:
        """When the newest run with exit 0 or 1 ended, and the newest with exit 0, in Unix time; of runs before."""
        try:
            found = self._database.execute(
                "SELECT ended_at, json_extract(summary, '$.exit_code') FROM runs WHERE ended_at IS NOT NULL ORDER BY id"
            ).fetchall()
            ends = latest_ends([datetime.fromisoformat(at) for at, _ in found], datetime.now().astimezone())
        except (sqlite3.Error, ValueError, TypeError):
            return None, None  # what is wrong with the ledger is found out, and said, where it is written
        by_code = [(code, int(at.timestamp())) for (_, code), at in zip(found, ends, strict=True)]
        finished = max((at for code, at in by_code if code in {0, 1}), default=None)
        return finished, max((at for code, at in by_code if code == 0), default=None)

    async def start_run(
        self,
        started_at: datetime,
        endpoint: str,
        manifests: Sequence[Path],
        report: Path,
        initials: Mapping[int, bytes] = MappingProxyType({}),
    ) -> None:
        """Put the run on record. Raises `LedgerError`. `initials` are those of `photo_sets.initials_by_count`."""
        self._endpoint, self._initials, self._began = endpoint, initials, started_at
        self._nights = await self._do(self._read, read_nights, endpoint)
        self.has_earlier = await self._do(self._read, _has_runs, endpoint)
        self._manifests = {path: place for place, path in enumerate(manifests)}
        row = (
            self.run, started_at.isoformat(timespec="milliseconds"), os.getpid(), __version__, endpoint,
            _named(manifests), stored(str(_absolute(report))),
        )  # fmt: skip
        insert = "INSERT INTO runs (id, started_at, pid, version, endpoint, manifests, report) VALUES (?,?,?,?,?,?,?)"
        await self._durably([(insert, row)])

    async def drop_run(self) -> None:
        """Take back a run that could not begin. Raises `LedgerError`."""
        await self._durably([("DELETE FROM runs WHERE id = ?", (self.run,))])

    async def end_run(self, ended_at: datetime, summary: str) -> None:
        """Put the end of the run on record. Raises `LedgerError`."""
        row = (ended_at.isoformat(timespec="milliseconds"), summary, self.run)
        await self._durably([("UPDATE runs SET ended_at = ?, summary = ? WHERE id = ?", row)])

    async def standings(self, order_ids: Sequence[str]) -> Mapping[str, Standing]:
        """What earlier runs left of these orders; those never tried are not in it. Raises `LedgerError`.

        It is also asked after a commit failed: what was on record before stays true.
        """
        if not self._answers:
            raise LedgerError(self._failure)
        return await self._do(self._read, self._standings, json.dumps(order_ids))

    def _read(self, question: Callable[[sqlite3.Connection, str], T], asked: str) -> T:
        try:
            return question(self._database, asked)
        except sqlite3.Error as error:
            raise LedgerError(
                _("{path}: the ledger can't be read any more ({error}). Check the disk.", path=self.path, error=error)
            ) from None
        except (ValueError, TypeError) as error:
            raise distrusted(self.path, _("an attempt in it is damaged: {error}", error=error)) from None

    def _standings(self, database: sqlite3.Connection, order_ids: str) -> Mapping[str, Standing]:
        found: dict[str, Standing] = {}
        last: dict[str, dict[int, LastSend]] = {}
        trouble: dict[str, set[tuple[bytes, str, str]]] = {}
        for order_id, run, digest, word, reason, message in database.execute(
            "SELECT order_id, run, photos, verdict, reason, message FROM attempts "
            "WHERE order_id IN (SELECT value FROM json_each(?)) "
            "AND run IN (SELECT id FROM runs WHERE endpoint = ?) AND run < ? ORDER BY order_id, run, number",
            (order_ids, self._endpoint, self.run),
        ):
            verdict, photos = Verdict(word or Verdict.AMBIGUOUS), named(digest, self._initials)
            found[order_id] = found.get(order_id, Standing()).after(verdict, photos, run)
            if verdict is Verdict.ACCEPTED:
                last.pop(order_id, None)
                trouble.pop(order_id, None)
            else:
                last.setdefault(order_id, {})[run] = LastSend(run, photos, verdict, reason or "", message or "")
                if reason and reason not in LIES_ELSEWHERE:
                    trouble.setdefault(order_id, set()).add(met(photos, reason, message or ""))
        released = read_released(database, last) if last else {}
        for order_id, sends in last.items():
            nights = streak(sends.values(), self._nights, self._began, released.get(order_id, 0))
            known = frozenset(trouble.get(order_id, ()))
            found[order_id] = replace(found[order_id], streak=nights, met=known)
        return found

    async def begin(self, several: Iterable[Loaded]) -> None:
        """Put attempts on record, before their first byte leaves. Raises `LedgerError`; then they must not begin."""
        now = time.time()
        await self._durably((BEGIN, (*self._key(one), one.photo_set.digest, now)) for one in several)

    def ended(self, loaded: Loaded, attempt: Attempt) -> None:
        """Note what became of an attempt; it gets durable with whatever is put on record next."""
        finding = attempt.finding
        row = (
            *self._key(loaded), loaded.photo_set.digest, attempt.started_at.timestamp(), attempt.seconds,
            attempt.bytes_sent, finding.verdict, finding.reason, finding.http_status, finding.code, finding.message,
        )  # fmt: skip
        self._pending.append((ENDED, row))

    def never_began(self, loaded: Loaded) -> None:
        """Take back an attempt of which nothing was sent; durable as what has `ended` is."""
        self._pending.append((TAKE_BACK, self._key(loaded)))

    def _key(self, loaded: Loaded) -> tuple[str, int, int]:
        return loaded.order.row.order_id, self.run, len(loaded.order.attempts) + 1

    async def record(self, endings: Iterable[Ending]) -> None:
        """Put outcomes on record. Raises `LedgerError`."""
        await self._durably(
            (OUTCOME, (
                self.run, self._manifests[ending.row.manifest], ending.row.line, ending.row.order_id,
                ending.outcome, ending.reason, writable(ending.detail),
            ))
            for ending in endings
        )  # fmt: skip

    async def _durably(self, writes: Iterable[Write]) -> None:
        """Commit `writes` and all noted before them. Whoever comes first commits for all that wait."""
        self._pending.extend(writes)
        self._asked += 1
        ticket = self._asked
        async with self._commit:
            if self._committed < ticket and not self._failure:
                batch, self._pending = self._pending, []
                upto = self._asked
                await self._do(self._write, batch)
                self._committed = upto
        if self._failure:
            raise LedgerError(self._failure)

    async def _do(self, call: Callable[[*A], T], *arguments: *A) -> T:
        """Have the ledger's thread do it. Raises `LedgerError` where the disk does not answer."""
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)
        except TimeoutError:
            self._failure = _("{path}: the disk of the ledger does not answer. Check it, run again.", path=self.path)
            self._answers = False
            raise LedgerError(self._failure) from None

    def _write(self, batch: list[Write]) -> None:
        """One transaction. After a failure nothing is tried again: what a failed fsync left behind is not known."""
        if self._failure:
            return
        try:
            self._transaction(batch)
        except (ValueError, OverflowError):  # no value of one row may cost the others their place
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            self._transaction([(statement, tuple(map(_storable, row))) for statement, row in batch])

    def _transaction(self, batch: list[Write]) -> None:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            for statement, writes in groupby(batch, itemgetter(0)):
                rows = [row for _, row in writes]
                if not statement.endswith("VALUES"):
                    self._database.executemany(statement, rows)
                    continue
                marks = f"({','.join('?' * len(rows[0]))})"
                for at in range(0, len(rows), ROWS_AT_ONCE):
                    some = rows[at : at + ROWS_AT_ONCE]
                    places = ",".join([marks] * len(some))
                    self._database.execute(f"{statement} {places}", [value for row in some for value in row])
            self._database.execute("COMMIT")
            self._look_for_files()
        except sqlite3.Error as error:
            self._failure = _(
                "{path}: the ledger can't be written any more ({error}). Check the disk, run again.",
                path=self.path,
                error=error,
            )
            with suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
        except OSError as error:
            self._failure = _(
                "{filename}: this file of the ledger is out of reach ({why}). Bring it back, unless it "
                "is the lock, and run again.",
                filename=error.filename,
                why=error.strerror,
            )

    def _look_for_files(self) -> None:
        """See that what was committed is where the next run will look for it, and not in a file without a name."""
        for path in self._watched:
            status = path.stat()
            if self._files.setdefault(path, (status.st_dev, status.st_ino)) != (status.st_dev, status.st_ino):
                self._failure = _(
                    "{path}: the ledger was replaced in mid-run. Restore it if you can, run again.", path=path
                )

    def close(self) -> None:
        """Let go of the file, once what is being written is written; a disk that does not answer is not waited for."""
        if not self._failure:
            closing = self._thread.submit(self._database.close)
            wait_until(closing.done, lambda seconds: wait([closing], seconds), COMMIT_SECONDS)
        self._thread.shutdown(wait=False)


@contextmanager
def open_ledger(path: Path) -> Generator[Ledger, None, None]:
    """The ledger at `path`, made where there is none, held until the end of the run.

    Raises `LedgerHeldError` where another run or program holds it, and `LedgerError` where it can't be used or trusted.
    """
    with hold(path) as (place, database):
        ledger = Ledger(place, database)
        try:
            yield ledger
        finally:
            ledger.close()


def read_nights(database: sqlite3.Connection, endpoint: str) -> Mapping[int, Night]:
    """The runs against `endpoint`, as far as they count against orders; what is purged counts no more."""
    return {
        run: night(_instant(began), ended=bool(ended), stopped=stopped, answered=bool(answered))
        for run, began, ended, stopped, answered in database.execute(
            "SELECT id, started_at, ended_at IS NOT NULL AND manifests <> '[]' AND json_valid(summary), "
            "CASE WHEN json_valid(summary) THEN json_extract(summary, '$.stopped') END, CASE WHEN json_valid(summary) "
            "THEN json_extract(summary, '$.outcomes.uploaded') > 0 OR json_extract(summary, '$.outcomes.rejected') > 0 "
            "END FROM runs WHERE endpoint = ?",
            (endpoint,),
        )
    }


def _instant(text: str) -> datetime:
    """A moment with its offset from UTC."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.astimezone()


def _has_runs(database: sqlite3.Connection, endpoint: str) -> bool:
    found = database.execute("SELECT EXISTS (SELECT 1 FROM runs WHERE endpoint = ?)", (endpoint,)).fetchone()
    return bool(found[0])


def read_released(database: sqlite3.Connection, order_ids: Iterable[str]) -> Mapping[str, int]:
    """Those of the orders that a person released, and the run up to which their nights don't count."""
    found = database.execute(
        "SELECT order_id, run FROM released WHERE order_id IN (SELECT value FROM json_each(?))",
        (json.dumps(list(order_ids)),),
    )
    return dict(found.fetchall())


def _storable(value: object) -> object:
    """The value, or the nearest that the database takes: it has no half characters, and integers of 64 bits."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    return str(value) if isinstance(value, int) and abs(value) >= 1 << 63 else value


def _named(manifests: Iterable[Path]) -> str:
    """Manifests as a run has them on record."""
    return to_json([str(_absolute(path)) for path in manifests])


def _absolute(path: Path) -> Path:
    return path.absolute()
