"""The ledger → without what is old, in steps that each leave it whole; what keeps orders from being sent twice stays.

Order of steps, which must not change: reports from the disk → attempts → outcomes → runs, so that whatever ends it in
between, the ledger still knows what is to be removed, and every order's standing is what it was.
"""

import json
import re
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from batchupload.foreign import restored
from batchupload.language import _
from batchupload.ledger_file import LedgerError, LedgerHeldError, distrusted, existing, failed, hold
from batchupload.model import Standing, Verdict
from batchupload.old_reports import Left, Removed, remove
from batchupload.run_dates import latest_ends

STEP = 2000
"""Orders, or outcomes, of one transaction: a tenth of a second or so."""

SOME_ORDERS = "SELECT DISTINCT order_id FROM attempts WHERE order_id > ? ORDER BY order_id LIMIT ?"
SOME_OUTCOMES = (
    "DELETE FROM outcomes WHERE (run, manifest, line) IN "
    "(SELECT run, manifest, line FROM outcomes WHERE run <= ? LIMIT ?)"
)
RELEASED = "DELETE FROM released WHERE run <= ?"
BARE = "UPDATE attempts SET code = NULL, message = NULL WHERE order_id = ? AND run = ? AND number = ?"


Key = tuple[str, int, int]
"""Of an attempt: order, run, number."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be purged."""

    before: datetime
    """Runs that ended before it are old."""
    forget_uploaded: bool = False
    """Whether to drop even that an order is uploaded, where nothing newer speaks of it."""
    pretend: bool = False
    now: datetime = field(default_factory=lambda: datetime.now().astimezone())


@dataclass(frozen=True, slots=True)
class Purged:
    """What was removed, or would be."""

    runs: int = 0
    attempts: int = 0
    outcomes: int = 0
    reports: tuple[Removed, ...] = ()
    left: tuple[Left, ...] = ()
    standings: int = 0
    """Orders of which only the standing is kept: number, hashes of the photos, run, time and verdict."""
    forgotten: int = 0
    """Orders of which that was dropped."""
    ahead: tuple[tuple[int, datetime], ...] = ()
    """Runs whose date lies ahead of now, and that date."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One attempt, as far as an order's standing goes by it."""

    key: Key
    endpoint: str | None
    photos: bytes
    verdict: Verdict
    bare: bool
    """Whether no text of the endpoint is left in it."""

    @property
    def run(self) -> int:
        """Its run."""
        return self.key[1]


def age(text: str) -> timedelta:
    """`90d` or `12w`. Raises `ValueError` that says what is allowed."""
    found = re.fullmatch(r"([1-9]\d{0,4})([dw])", text.strip(), re.ASCII)
    if not found:
        raise ValueError(_("give days or weeks, such as 90d or 12w"))
    return timedelta(**{"days" if found[2] == "d" else "weeks": int(found[1])})


@dataclass(frozen=True, slots=True)
class Ran:
    """One run, as far as it matters here."""

    number: int
    started_at: datetime
    ended_at: datetime | None
    report: Path | None
    whole: bool
    """Whether it was not purged before."""

    @property
    def date(self) -> datetime:
        """That of its end, or of its beginning if it has none."""
        return self.ended_at or self.started_at


def purge(path: Path, wanted: Wanted) -> Purged:
    """Remove what is old from the ledger at `path`, and the reports of its runs.

    Raises `LedgerHeldError` where a run holds it, and `LedgerError`; whatever was done before is consistent then, and
    purging again goes on from there.
    """
    with hold(existing(path)) as (place, database), closing(database):
        try:
            return _purge(place, database, wanted)
        except sqlite3.Error as error:
            raise failed(place, error) from None
        except (ValueError, TypeError) as error:
            raise distrusted(place, _("a cell in it is damaged: {error}", error=error)) from None


def last_old(runs: Sequence[Ran], before: datetime, now: datetime) -> int:
    """The newest run up to which all are over and ended before that moment; 0 where the first already did not.

    A run without an end is over once a later one came to its end. What follows a run that is not old stays whatever
    its date: orders' standings are told by the order of the runs, and a clock that was wrong must not mix that up. A
    run whose date can't be right is as old as the next whose date can.
    """
    ended = max((run.number for run in runs if run.ended_at), default=0)
    last = 0
    for run, surely in zip(runs, latest_ends([run.date for run in runs], now), strict=True):
        if run.number > ended or surely >= before:
            break
        last = run.number
    return last


def bearers(attempts: Iterable[Sent]) -> frozenset[Key]:
    """Of one order's attempts, in their order, those by which alone its standings are the same as by all of them."""
    standings: dict[str, tuple[Standing, Key]] = {}
    for sent in attempts:
        if sent.endpoint is not None:
            before = standings[sent.endpoint][0] if sent.endpoint in standings else Standing()
            after = before.after(sent.verdict, sent.photos, sent.run)
            if after != before:
                standings[sent.endpoint] = after, sent.key
    return frozenset(key for _, key in standings.values())


def _purge(path: Path, database: sqlite3.Connection, wanted: Wanted) -> Purged:
    database.execute("PRAGMA secure_delete = ON")
    runs = _runs(database)
    last = last_old(runs, wanted.before, wanted.now)
    old = [run for run in runs if run.number <= last]
    files = _remove_reports(old, {run.report for run in runs if run.number > last}, pretend=wanted.pretend)
    stuck = {run for run, found in files.items() if any(isinstance(one, Left) for one in found)}
    found = [one for several in files.values() for one in several]
    (outcomes,) = database.execute("SELECT count(*) FROM outcomes WHERE run <= ?", (last,)).fetchone()
    purged, bearing = _purge_attempts(database, last, wanted)
    if not wanted.pretend:
        while database.execute(SOME_OUTCOMES, (last, STEP)).rowcount:
            pass
        database.execute(RELEASED, (last,))
        _purge_runs(database, last, bearing, stuck)
        _compact(path, database)
    return replace(
        purged,
        runs=sum(run.whole for run in old),
        outcomes=outcomes,
        reports=tuple(one for one in found if isinstance(one, Removed)),
        left=tuple(one for one in found if isinstance(one, Left)),
        ahead=tuple((run.number, run.date) for run in runs if run.whole and run.date > wanted.now),
    )


def _runs(database: sqlite3.Connection) -> list[Ran]:
    return [
        Ran(
            number,
            datetime.fromisoformat(started),
            datetime.fromisoformat(ended) if ended else None,
            Path(restored(report)) if report else None,
            bool(whole),
        )
        for number, started, ended, report, whole in database.execute(
            "SELECT id, started_at, ended_at, report, manifests <> '[]' FROM runs ORDER BY id"
        )
    ]


def _remove_reports(
    old: Sequence[Ran], newer: Collection[Path | None], *, pretend: bool
) -> dict[int, list[Removed | Left]]:
    """Run → what became of its files. A name that a newer run has too is that run's, and is not looked at."""
    return {run.number: remove(run.report, pretend=pretend) for run in old if run.report and run.report not in newer}


def _purge_attempts(database: sqlite3.Connection, last: int, wanted: Wanted) -> tuple[Purged, set[int]]:
    """What was removed, and the runs that are needed for what stays."""
    if wanted.forget_uploaded:
        database.execute("CREATE TEMP TABLE spoken_of AS SELECT DISTINCT order_id FROM outcomes WHERE run > ?", (last,))
        database.execute("CREATE INDEX temp.by_order ON spoken_of (order_id)")
    removed = kept = forgotten = 0
    bearing: set[int] = set()
    for orders in _orders(database):
        spoken_of = _spoken_of(database, orders) if wanted.forget_uploaded else frozenset(orders)
        gone: list[Key] = []
        bared: list[Key] = []
        for order_id, attempts in orders.items():
            old = [sent for sent in attempts if sent.run <= last]
            if not old:
                continue
            keys = bearers(attempts)
            if order_id not in spoken_of and len(old) == len(attempts):
                forgotten += bool(keys)
                keys = frozenset()
            gone += [sent.key for sent in old if sent.key not in keys]
            bared += [sent.key for sent in old if sent.key in keys and not sent.bare]
            needed = {sent.run for sent in old if sent.key in keys}
            kept += bool(needed)
            bearing |= needed
        removed += len(gone)
        if not wanted.pretend and (gone or bared):
            database.execute("BEGIN IMMEDIATE")
            database.executemany("DELETE FROM attempts WHERE order_id = ? AND run = ? AND number = ?", gone)
            database.executemany(BARE, bared)
            database.execute("COMMIT")
    return Purged(attempts=removed, standings=kept, forgotten=forgotten), bearing


def _orders(database: sqlite3.Connection) -> Iterator[dict[str, list[Sent]]]:
    """All orders with all their attempts, some at once: what is decided of an order is done in one transaction."""
    after = ""
    while ids := [row[0] for row in database.execute(SOME_ORDERS, (after, STEP))]:
        found = database.execute(
            "SELECT order_id, run, number, endpoint, photos, verdict, code IS NULL AND message IS NULL FROM attempts "
            "LEFT JOIN runs ON runs.id = run WHERE order_id > ? AND order_id <= ? ORDER BY order_id, run, number",
            (after, ids[-1]),
        ).fetchall()
        after = ids[-1]
        yield {
            order_id: [
                Sent((order_id, run, number), endpoint, photos, Verdict(verdict or Verdict.AMBIGUOUS), bool(bare))
                for _, run, number, endpoint, photos, verdict, bare in attempts
            ]
            for order_id, attempts in groupby(found, itemgetter(0))
        }


def _spoken_of(database: sqlite3.Connection, orders: Iterable[str]) -> frozenset[str]:
    """Those of which a newer run said something: their numbers are in the ledger anyway."""
    wanted = json.dumps(list(orders))
    found = database.execute(
        "SELECT value FROM json_each(?) WHERE value IN (SELECT order_id FROM spoken_of)", (wanted,)
    )
    return frozenset(order_id for (order_id,) in found)


def _purge_runs(database: sqlite3.Connection, last: int, bearing: set[int], stuck: set[int]) -> None:
    """Of the runs that must stay no path is kept, but that of a report which could not be removed. The newest run of
    all stays, so that no number is given twice."""
    needed = json.dumps([*(bearing | stuck)])
    database.execute("BEGIN IMMEDIATE")
    database.execute(
        "DELETE FROM runs WHERE id <= ? AND id < (SELECT max(id) FROM runs) "
        "AND id NOT IN (SELECT value FROM json_each(?))",
        (last, needed),
    )
    database.execute(
        "UPDATE runs SET manifests = '[]', "
        "report = CASE WHEN id IN (SELECT value FROM json_each(?)) THEN report ELSE '' END, "
        "summary = json_object('exit_code', json_extract(summary, '$.exit_code'), 'seconds', "
        "json_extract(summary, '$.seconds')) WHERE id <= ?",
        (json.dumps([*stuck]), last),
    )
    database.execute("COMMIT")


def _compact(path: Path, database: sqlite3.Connection) -> None:
    """Have no trace left: pages that were freed or rewritten before `secure_delete` was on hold copies of cells."""
    try:
        database.execute("DROP TABLE IF EXISTS temp.spoken_of")
        database.execute("PRAGMA temp_store = FILE")  # a ledger of any size, in little memory
        database.execute("VACUUM")
        (busy, *_pages) = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        raise LedgerError(
            _(
                "{path}: what is old is out of the ledger, but its file can't be rewritten ({error}), "
                "and may hold traces. Make room for it beside itself and for temporary files "
                "(SQLITE_TMPDIR), then purge again.",
                path=path,
                error=error,
            )
        ) from None
    if busy:
        raise LedgerHeldError(
            _("{path}: another program reads this ledger, whose log may hold traces. Purge again.", path=path)
        )
