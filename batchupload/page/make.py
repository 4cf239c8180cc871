"""A report file → its page, beside it: private, whole or not there at all, and never in the place of another's file."""

import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from batchupload.changes import Comparison
from batchupload.language import _
from batchupload.model import BatchuploadError, Outcome
from batchupload.page.facts import facts
from batchupload.page.page import MARKS, Heading, page
from batchupload.page.rows import (
    NEEDS_NOBODY,
    ReportRow,
    columns_of,
    first_column,
    open_report,
    read_endings,
    read_report,
)
from batchupload.reasons import Reason
from batchupload.source import ManifestError

T = TypeVar("T")

CHECKED_ROWS = 500
"""Rows after which it is asked again whether the page is still wanted."""


class PageError(BatchuploadError):
    """The page can't be made; the report is as it was."""


class EarlierReportError(BatchuploadError):
    """The report that this one was to be compared with can't be read."""


class GivenUpError(BatchuploadError):
    """The page is no longer wanted."""


def page_path(report: Path) -> Path:
    """Where the page of a report stands: `NAME.html` beside `NAME.csv`."""
    return report.with_suffix(".html") if report.suffix.lower() == ".csv" else report.with_name(f"{report.name}.html")


def make_page(report: Path, wanted: Callable[[], bool] = lambda: True, before: Path | None = None) -> Path:
    """Write the page of a report, over an earlier page of its own at most, and return its path.

    With the report of the run `before` it says what changed since.

    Raises `ManifestError` where the report can't be read, `EarlierReportError` where that of the run before can't,
    `PageError` where the page can't be written, and `GivenUpError` where it is no longer `wanted`.
    """
    layout = open_report(report)
    path = page_path(report)
    _require_room(path)  # before the work
    since = _compared_with(before, wanted) if before else None
    told = facts(_while(wanted, _compared(read_report(layout), since) if since else read_report(layout)))
    if since and told.counts[Outcome.DEFERRED, Reason.NOT_SENT]:
        raise EarlierReportError(
            _("{report}: in this report nothing was sent; compare reports of runs.", report=report)
        )
    heading = Heading(
        report.name,
        columns_of(layout),
        first_column(layout),
        before.name if before else "",
        since.change() if since else None,
    )
    try:
        descriptor, name = tempfile.mkstemp(".tmp", ".batchupload-page-", path.parent)
    except OSError as error:
        raise _unwritable(path, error) from None
    temporary = Path(name)
    try:
        with open(descriptor, "w", encoding="utf-8", errors="replace", newline="") as file:
            file.writelines(page(heading, told, _while(wanted, read_report(layout))))
        _put_in_place(temporary, path)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink()
    return path


def _compared_with(before: Path, wanted: Callable[[], bool]) -> Comparison:
    """What an earlier report has, to compare rows with."""
    try:
        endings = _while(wanted, read_endings(open_report(before)))
        return Comparison(order_id for order_id, fails in endings if fails)
    except ManifestError as error:
        raise EarlierReportError(str(error)) from None


def _compared(rows: Iterable[ReportRow], since: Comparison) -> Iterable[ReportRow]:
    for row in rows:
        since.add(row.order_id, fails=row.outcome not in NEEDS_NOBODY)
        yield row


def _while(wanted: Callable[[], bool], rows: Iterable[T]) -> Iterable[T]:
    for number, row in enumerate(rows):
        if number % CHECKED_ROWS == 0 and not wanted():
            raise GivenUpError(_("it was given up"))
        yield row


def _require_room(path: Path) -> bool:
    """Whether a page of ours is there; raise `PageError` where something else is."""
    try:
        # Neither a link is followed, nor a pipe waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        raise _foreign(path) from None
    try:
        marks = [mark.encode() for mark in MARKS.values()]
        # An empty one is what is left of a page that was just about to be put in place.
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or not _begins(os.read(descriptor, 200), marks):
            raise _foreign(path)
    finally:
        os.close(descriptor)
    return True


def _begins(start: bytes, marks: Sequence[bytes]) -> bool:
    return not start or start.startswith(tuple(marks))


def _put_in_place(temporary: Path, path: Path) -> None:
    """Give the page its name; it is the one record that can be made again, so no sync waits for the disk."""
    if not _require_room(path):
        try:
            # The name is taken first: a rename alone would replace what somebody puts there at this moment.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            raise _foreign(path) from None
    temporary.rename(path)


def _foreign(path: Path) -> PageError:
    return PageError(
        _("{path}: this is there, and no page of batchupload; it was left as it is. Move it away.", path=path)
    )


def _unwritable(path: Path, error: OSError) -> PageError:
    return PageError(_("{path}: the page can't be written ({why}).", path=path, why=error.strerror))
