"""Cells of a CSV report → its rows, typed: where the page begins."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from batchupload.language import _
from batchupload.manifest import Layout, open_manifest, read_cells
from batchupload.model import DONE, Outcome
from batchupload.reasons import Reason
from batchupload.sheet import REPORT_COLUMNS, plain
from batchupload.shop_settings import ManifestSettings
from batchupload.source import ManifestError

NEEDS_NOBODY = frozenset(outcome.value for outcome in DONE)
_NOT_SENT, _UPLOADED = Reason.NOT_SENT.value, Outcome.UPLOADED.value
_ORDER_ID, _OUTCOME, _REASON, _MESSAGE, _ATTEMPTS, _BYTES_SENT, _STARTED_AT, _DURATION = map(
    REPORT_COLUMNS.index,
    ("order_id", "outcome", "reason", "message", "attempts", "bytes_sent", "started_at", "duration_ms"),
)
_NUMBER = re.compile(r"[0-9]{1,15}")
"""Longer ones are nobody's milliseconds or bytes, and cost time to read."""


@dataclass(frozen=True, slots=True)
class ReportRow:
    """One row of a report, whoever may have edited it since: what can't be read is empty or 0."""

    cells: Sequence[str]
    """All of its cells, without what keeps spreadsheets from running them; as many as the header has."""
    first: int = 0
    """Place of `line`, the first column that all reports have."""

    @property
    def line(self) -> str:
        """Where it begins in the manifest."""
        return self.cells[self.first]

    @property
    def order_id(self) -> str:
        """The order number."""
        return self.cells[self.first + _ORDER_ID]

    @property
    def outcome(self) -> str:
        """What became of it."""
        return self.cells[self.first + _OUTCOME]

    @property
    def reason(self) -> str:
        """Why."""
        return self.cells[self.first + _REASON]

    @property
    def message(self) -> str:
        """The endpoint's own text."""
        return self.cells[self.first + _MESSAGE]

    @property
    def attempts(self) -> int:
        """How often it was sent."""
        return _number(self.cells[self.first + _ATTEMPTS])

    @property
    def bytes_sent(self) -> int:
        """Of all attempts."""
        return _number(self.cells[self.first + _BYTES_SENT])

    @property
    def started_at(self) -> datetime | None:
        """When its first attempt began."""
        return _time(self.cells[self.first + _STARTED_AT])

    @property
    def seconds(self) -> float:
        """From the beginning of its first attempt to its end, waits between attempts included."""
        return _number(self.cells[self.first + _DURATION]) / 1000

    @property
    def is_left(self) -> bool:
        """Whether it needs a person or another run; a row that was only checked, and is in order, does not."""
        return self.outcome not in NEEDS_NOBODY and self.reason != _NOT_SENT

    @property
    def is_uploaded(self) -> bool:
        """Whether the endpoint accepted it in this run."""
        return self.outcome == _UPLOADED


def open_report(path: Path) -> Layout:
    """Find out how the report at `path` is to be read, also where a spreadsheet has saved it since.

    Raises `ManifestError`, also where it is no report.
    """
    layout = open_manifest(path, ManifestSettings())
    if not layout.is_report:
        raise ManifestError(
            _("{path}: this is no report of batchupload. Name one, such as orders.report-….csv.", path=path)
        )
    return layout


def columns_of(layout: Layout) -> tuple[str, ...]:
    """The names of its columns; those of the report itself as every report has them."""
    first = first_column(layout)
    own = layout.columns.header[first + len(REPORT_COLUMNS) :]
    return ("manifest",) * first + REPORT_COLUMNS + tuple(plain(name) for name in own)


def first_column(layout: Layout) -> int:
    """The place of `line`, the first column that all reports have."""
    return (layout.columns.outcome or 0) - REPORT_COLUMNS.index("outcome")


def read_report(layout: Layout) -> Iterator[ReportRow]:
    """Yield its rows in order; memory stays flat. Raises `ManifestError` where it can no longer be read."""
    first, width = first_column(layout), len(layout.columns.header)
    for _line, cells, _problem in read_cells(layout):
        shown = [plain(cell) if cell[:1] == "'" else cell for cell in cells[:width]]
        yield ReportRow(shown + [""] * (width - len(shown)), first)


def read_endings(layout: Layout) -> Iterator[tuple[str, bool]]:
    """Yield of each row the order, and whether it fails: is not uploaded, skipped or duplicate.

    Raises `ManifestError` where it can no longer be read, or is the report of a check: that fails nothing.
    """
    first = first_column(layout)
    order, outcome, reason = first + _ORDER_ID, first + _OUTCOME, first + _REASON
    for _line, cells, _problem in read_cells(layout):
        if len(cells) <= reason:
            continue
        if cells[reason] == _NOT_SENT:
            raise ManifestError(
                _("{report}: in this report nothing was sent; compare reports of runs.", report=layout.path)
            )
        yield plain(cells[order]), cells[outcome] not in NEEDS_NOBODY


def _number(cell: str) -> int:
    return int(cell) if _NUMBER.fullmatch(cell) else 0


def _time(cell: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(cell) if cell else None
        return time if time and time.tzinfo and 1 < time.year < 9999 else None
    except ValueError:
        return None
