"""A run in the ledger → what changed since the one before, and what failed in it; for a person or as JSON."""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from batchupload.changes import Change, Comparison
from batchupload.failures import Failures, Group, largest
from batchupload.foreign import visible
from batchupload.language import _
from batchupload.ledger import BEFORE
from batchupload.model import DONE

SHOWN = 20
"""Groups of failures that are shown."""
FAILING = (
    "SELECT order_id FROM outcomes WHERE run = :before AND outcome NOT IN (SELECT value FROM json_each(:done))"
)  # fmt: skip
# What fails now, and what became of the orders that failed before: all else was well in both.
COMPARED = (
    "SELECT order_id, outcome NOT IN (SELECT value FROM json_each(:done)) FROM outcomes WHERE run = :run "
    "AND (outcome NOT IN (SELECT value FROM json_each(:done)) OR order_id IN (SELECT order_id FROM outcomes "
    "WHERE run = :before AND outcome NOT IN (SELECT value FROM json_each(:done))))"
)
LEFT = (
    "SELECT reason, (SELECT message FROM attempts WHERE attempts.order_id = outcomes.order_id "
    "AND attempts.run = outcomes.run ORDER BY number DESC LIMIT 1), line, order_id FROM outcomes "
    "WHERE run = :run AND outcome NOT IN (SELECT value FROM json_each(:done)) ORDER BY manifest, line"
)


@dataclass(frozen=True, slots=True)
class Since:
    """What changed since a run before."""

    run: int
    """The last that ended before it with the same manifests, else the last that ended."""
    same_manifests: bool
    change: Change

    def line(self) -> str:
        """On one line."""
        now = self.change
        return _(
            "since run {run}: {newly:,} newly failing, {mended:,} mended, {still:,} still failing",
            run=self.run, newly=now.newly_failing, mended=now.mended, still=now.still_failing,
        )  # fmt: skip

    def lines(self) -> Iterator[str]:
        """All of it."""
        now = self.change
        if self.same_manifests:
            yield _("  Orders, compared with run {run} over the same manifests", run=self.run)
        else:
            yield _("  Orders, compared with run {run} over other manifests", run=self.run)
        yield _("    {count:>7,}  newly failing", count=now.newly_failing)
        yield _("    {count:>7,}  mended", count=now.mended)
        yield _("    {count:>7,}  still failing", count=now.still_failing)
        if now.gone:
            yield _("    {count:>7,}  failed then, not in this run", count=now.gone)


def since(database: sqlite3.Connection, run: int, manifests: str) -> Since | None:
    """What changed since the run before this one over `manifests`, as they are on record; None where there is none.

    Memory is that of `Comparison`, by the orders that failed.
    """
    found = database.execute(BEFORE, {"run": run, "manifests": manifests}).fetchone()
    if found is None:
        return None
    before, same = found[0], found[2]
    asked = {"run": run, "before": before, "done": json.dumps(list(DONE))}
    comparison = Comparison(order_id for (order_id,) in database.execute(FAILING, asked))
    for order_id, fails in database.execute(COMPARED, asked):
        comparison.add(order_id, fails=bool(fails))
    return Since(before, bool(same), comparison.change())


def failed_in(database: sqlite3.Connection, run: int) -> Sequence[Group]:
    """What failed in a run, by reason and message, the largest group first."""
    failures = Failures()
    for reason, message, line, order_id in database.execute(LEFT, {"run": run, "done": json.dumps(list(DONE))}):
        failures.add(reason, message or "", str(line), order_id)
    return failures.groups()


def grouped(groups: Sequence[Group]) -> Iterator[str]:
    """The largest groups, with their examples."""
    shown, others = largest(groups, SHOWN)
    for group in shown:
        yield visible(f"    {group.count:>7,}  {group.reason}{f': {group.message}' if group.message else ''}")
        examples = (_("line {line} {order_id}", line=one.line, order_id=one.order_id) for one in group.examples)
        yield f"             {', '.join(examples)}"
    if others:
        yield _("    {count:>7,}  in smaller groups", count=others)
