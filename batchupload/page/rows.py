"""Cells of a CSV report → its rows, typed: where the page begins."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from batchupload.lines import ManifestError
from batchupload.manifest import Layout, open_manifest, read_cells
from batchupload.model import DONE, Outcome
from batchupload.reasons import Reason
from batchupload.settings import ManifestSettings
from batchupload.sheet import REPORT_COLUMNS, plain

NEEDS_NOBODY = frozenset(outcome.value for outcome in DONE)
# Longer ones are nobody's milliseconds or bytes, and cost time to read.
_NUMBER = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One row of a report, whoever may have edited it since: what can't be read is empty or 0."""

    cells: tuple[str, ...]
    """All of its cells, without what keeps spreadsheets from running them; as many as the header has."""
    order_id: str
    outcome: str
    reason: str
    attempts: int
    bytes_sent: int
    started_at: datetime | None
    """When its first attempt began."""
    seconds: float
    """From the beginning of its first attempt to its end, waits between attempts included."""

    @property
    def is_left(self) -> bool:
        """Whether it needs a person or another run; a row that was only checked, and is in order, does not."""
        return self.outcome not in NEEDS_NOBODY and self.reason != Reason.NOT_SENT

    @property
    def is_uploaded(self) -> bool:
        """Whether the endpoint accepted it in this run."""
        return self.outcome == Outcome.UPLOADED


def open_report(path: Path) -> Layout:
    """Find out how the report at `path` is to be read, also where a spreadsheet has saved it since.

    Raises `ManifestError`, also where it is no report.
    """
    layout = open_manifest(path, ManifestSettings())
    if not layout.is_report:
        raise ManifestError(f"{path}: this is no report of batchupload. Name one, such as orders.report-….csv.")
    return layout


def columns_of(layout: Layout) -> tuple[str, ...]:
    """The names of its columns; those of the report itself as every report has them."""
    first = first_column(layout)
    own = layout.header[first + len(REPORT_COLUMNS) :]
    return ("manifest",) * first + REPORT_COLUMNS + tuple(plain(name) for name in own)


def first_column(layout: Layout) -> int:
    """The place of `line`, the first column that all reports have."""
    return (layout.only or 0) - REPORT_COLUMNS.index("outcome")


def read_report(layout: Layout) -> Iterator[ReportRow]:
    """Yield its rows in order; memory stays flat. Raises `ManifestError` where it can no longer be read."""
    first, width = first_column(layout), len(layout.header)
    for _, cells, _ in read_cells(layout):
        yield report_row([plain(cell) for cell in cells[:width]] + [""] * (width - len(cells)), first)


def report_row(cells: Sequence[str], first: int) -> ReportRow:
    """The row of plain `cells`, where `line` is the one at `first`."""
    _, order_id, outcome, reason, _, _, _, _, attempts, bytes_sent, started_at, duration = cells[first : first + 12]
    return ReportRow(
        tuple(cells),
        order_id,
        outcome,
        reason,
        _number(attempts),
        _number(bytes_sent),
        _time(started_at),
        _number(duration) / 1000,
    )


def _number(cell: str) -> int:
    return int(cell) if _NUMBER.fullmatch(cell) else 0


def _time(cell: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(cell) if cell else None
        return time if time and time.tzinfo and 1 < time.year < 9999 else None
    except ValueError:
        return None
