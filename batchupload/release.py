"""What is set aside: listed, and released for the next run. The ledger is read while a run goes on, not written."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from batchupload.language import _
from batchupload.ledger import read_nights, read_released
from batchupload.ledger_file import connect, distrusted, existing, failed, hold
from batchupload.model import Streak, Verdict
from batchupload.nights import LastSend, streak

LOOKED_AT = 500
"""Orders whose sends are read at a time."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """An order that failed on some nights running."""

    order_id: str
    endpoint: str
    last_run: int
    """The last that sent it."""
    streak: Streak
    """The nights that it failed on."""


def set_aside(path: Path, most: int) -> list[SetAside]:
    """The orders that the ledger at `path` has set aside, by number; `most` nights running are too many.

    Raises `LedgerError`.
    """
    path = existing(path)
    with closing(connect(path, readonly=True)) as database:
        try:
            return list(_set_aside(database, most))
        except sqlite3.Error as error:
            raise failed(path, error) from None
        except (ValueError, TypeError) as error:
            raise distrusted(path, _("a cell in it is damaged: {error}", error=error)) from None


def release(path: Path, order_ids: Sequence[str] | None, most: int) -> list[SetAside]:
    """Have the nights up to now no more count against these orders, or all that are set aside; tell which did.

    On the disk when this returns. Raises `LedgerHeldError` where a run holds the ledger, and `LedgerError`.
    """
    with hold(existing(path)) as (place, database), closing(database):
        try:
            found = list(_set_aside(database, most) if order_ids is None else _failing(database, order_ids))
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            database.execute("BEGIN IMMEDIATE")
            database.executemany(
                "INSERT INTO released VALUES (?, ?, ?) ON CONFLICT (order_id) DO UPDATE SET "
                "run = max(run, excluded.run), released_at = excluded.released_at",
                ((one.order_id, one.last_run, now) for one in found),
            )
            database.execute("COMMIT")
        except sqlite3.Error as error:
            raise failed(place, error) from None
        except (ValueError, TypeError) as error:
            raise distrusted(place, _("a cell in it is damaged: {error}", error=error)) from None
    return found


def _set_aside(database: sqlite3.Connection, most: int) -> Iterator[SetAside]:
    """Of the orders that have sends of so many runs without success, those that failed on so many nights running."""
    if not most:
        return
    candidates = database.execute(
        "SELECT order_id FROM attempts WHERE verdict IS NOT ? GROUP BY order_id HAVING count(DISTINCT run) >= ?",
        (Verdict.ACCEPTED, most),
    )
    while some := [order_id for (order_id,) in candidates.fetchmany(LOOKED_AT)]:
        yield from (one for one in _failing(database, some) if one.streak.nights >= most)


def _failing(database: sqlite3.Connection, order_ids: Sequence[str]) -> Iterator[SetAside]:
    """Those of the orders whose last night failed, at whatever endpoint."""
    released = read_released(database, order_ids) if _has_released(database) else {}
    found = database.execute(
        "SELECT order_id, endpoint, run, photos, verdict, reason, message FROM attempts JOIN runs ON runs.id = run "
        "WHERE order_id IN (SELECT value FROM json_each(?)) ORDER BY order_id, endpoint, run, number",
        (json.dumps(list(order_ids)),),
    )
    nights, now = {}, datetime.now().astimezone()
    for (order_id, endpoint), sends in groupby(found.fetchall(), itemgetter(0, 1)):
        if endpoint not in nights:
            nights[endpoint] = read_nights(database, endpoint)
        last = _last_sends(sends)
        if running := streak(last.values(), nights[endpoint], now, released.get(order_id, 0)):
            yield SetAside(order_id, endpoint, max(last), running)


def _last_sends(
    sends: Iterable[tuple[str, str, int, bytes, str | None, str | None, str | None]],
) -> Mapping[int, LastSend]:
    """Run → the last send of it."""
    return {
        run: LastSend(run, photos, Verdict(verdict or Verdict.AMBIGUOUS), reason or "", message or "")
        for _, _, run, photos, verdict, reason, message in sends
    }


def _has_released(database: sqlite3.Connection) -> bool:
    """A ledger of an earlier version, which no run has brought to this one, has no place for it."""
    found = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'released'").fetchone()
    return found is not None
