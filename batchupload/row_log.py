"""Attempts and endings of rows → log lines, with the id by which a row is found again."""

import logging
import re
from collections.abc import Sequence
from pathlib import Path

from batchupload.logs import event
from batchupload.model import Attempt, Ending, Order, Row

rows = logging.getLogger("batchupload.rows")
attempts = logging.getLogger("batchupload.attempts")


def row_id(run: int, line: int, manifest: int | None = None) -> str:
    """The id of a row in a run: `RUN-LINE`, or `RUN-MANIFEST-LINE` where there are several manifests, from 1 on."""
    return f"{run}-{line}" if manifest is None else f"{run}-{manifest}-{line}"


def read_row_id(text: str) -> tuple[int, int | None, int] | None:
    """Run, manifest if it names one, and line; None where it is no such id."""
    found = re.fullmatch(r"([0-9]{1,9})-(?:([0-9]{1,9})-)?([0-9]{1,9})", text)
    return (int(found[1]), int(found[2]) if found[2] else None, int(found[3])) if found else None


class RowLog:
    """The log of one run's rows. `run` is its number, None where nothing is to be sent."""

    def __init__(self, run: int | None, manifests: Sequence[Path], *, mask_orders: bool = False) -> None:
        self._run = run
        self._places = {path: place for place, path in enumerate(manifests, 1)}
        self._mask_orders = mask_orders

    def attempt(self, order: Order, attempt: Attempt) -> None:
        """One attempt has ended."""
        if not attempts.isEnabledFor(logging.INFO):
            return
        finding, number = attempt.finding, len(order.attempts) + 1
        fields = event(
            "attempt_ended",
            **self._of(order.row),
            attempt=number,
            verdict=finding.verdict,
            reason=finding.reason,
            http_status=finding.http_status,
            code=finding.code or None,
            bytes_sent=attempt.bytes_sent,
            started_at=attempt.started_at.isoformat(timespec="milliseconds"),
            duration_ms=round(attempt.seconds * 1000),
        )
        attempts.info(
            "%s: attempt %d %s, %s", self._row(order.row), number, finding.verdict, finding.reason, extra=fields
        )

    def ended(self, ending: Ending) -> None:
        """One row has its outcome on record."""
        if not rows.isEnabledFor(logging.INFO):
            return
        finding = ending.finding
        fields = event(
            "row_ended",
            **self._of(ending.row),
            outcome=ending.outcome,
            reason=ending.reason,
            attempts=len(ending.attempts),
            http_status=finding.http_status if finding else None,
            code=finding.code or None if finding else None,
            bytes_sent=ending.bytes_sent,
            duration_ms=round(ending.seconds * 1000),
        )
        rows.info("%s", self.line(ending), extra=fields)

    def line(self, ending: Ending) -> str:
        """An ending as a log line."""
        return f"{self._row(ending.row)}: {ending.outcome}, {ending.reason}"

    def _row(self, row: Row) -> str:
        return f"line {row.line}, {self._order(row)}"

    def _order(self, row: Row) -> str:
        return f"…{row.order_id[-4:]}" if self._mask_orders else row.order_id

    def _of(self, row: Row) -> dict[str, object]:
        place = self._places.get(row.manifest) if len(self._places) > 1 else None
        return {
            "id": None if self._run is None else row_id(self._run, row.line, place),
            "order": self._order(row),
            "line": row.line,
            "manifest": str(row.manifest) if place else None,
        }
