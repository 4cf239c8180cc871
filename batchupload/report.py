"""Endings → the CSV report: complete lines at any moment, readable by spreadsheets and by the next run."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import aiofiles

from batchupload.model import PHOTO_FIELDS, BatchuploadError, Ending, OwnColumn, Row
from batchupload.sheet import REPORT_COLUMNS, neutral

START, SEVERAL = "\ufeffline,order_id,".encode(), "\ufeffmanifest,line,".encode()
"""How the header of a report begins."""


class ReportError(BatchuploadError):
    """The report can't be begun; nothing was sent."""


def report_path(manifests: Sequence[Path], folder: Path | None, asked: Path | None, now: datetime) -> Path:
    """Where the report of a run goes: `asked` (a file, or a folder), `folder`, or beside the first manifest."""
    name = f"{manifests[0].stem}.report-{now:%Y%m%d-%H%M%S}.csv"
    if asked is None:
        place = folder or manifests[0].parent
    elif asked.is_dir():
        place = asked
    else:
        return asked
    # Two runs within one second, or a clock set back.
    paths = (place / (name if n == 1 else f"{name[:-4]}-{n}.csv") for n in range(1, 1000))
    return next(path for path in paths if not path.exists())


def common_root(manifests: Iterable[Path], root: Path | None) -> Path:
    """The folder that the photo paths of a report start from: `root`, or what the manifests' folders share."""
    return root or Path(os.path.commonpath([manifest.parent.absolute() for manifest in manifests]))


def may_begin(path: Path, *, again: bool) -> None:
    """Raise `ReportError` where no report can be begun at `path`; `again` where an incomplete one may be there."""
    if path.exists() and not (again and _is_report(path)):
        raise _existing(path)


def _is_report(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(20)
    except OSError:
        return False
    return not start or start.startswith((START, SEVERAL))


def _existing(path: Path) -> ReportError:
    return ReportError(f"{path}: this file exists. Name another with --report, or remove it.")


class Report:
    """The report file of one run, an async context manager; new, and readable by its owner only.

    `replaces` lets it take the place of an incomplete one of the same name.
    """

    def __init__(
        self,
        path: Path,
        manifests: Sequence[Path],
        own: Sequence[OwnColumn],
        root: Path | None,
        *,
        replaces: bool = False,
    ) -> None:
        self.path = path
        self._mode: Literal["wb", "xb"] = "wb" if replaces else "xb"
        self._several = len(manifests) > 1
        self._own = own
        common = common_root(manifests, root)
        self._places = {manifest: "" if root else _below(manifest.parent.absolute(), common) for manifest in manifests}
        """Manifest → where its folder lies below the one that the report's photo paths start from."""
        self._size = 0

    async def __aenter__(self) -> Self:
        """Create the file with its header. Raises `ReportError`."""
        try:
            self._file = await aiofiles.open(self.path, self._mode, buffering=0, opener=_private)
        except FileExistsError:
            raise _existing(self.path) from None
        except OSError as error:
            raise _unwritable(self.path, error) from None
        columns = [*REPORT_COLUMNS, *(name for name, _ in self._own)]
        try:
            await self._write("\ufeff" + _lines([["manifest", *columns] if self._several else columns]))
        except OSError as error:
            await self._file.close()
            raise _unwritable(self.path, error) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._file.close()

    async def record(self, endings: Sequence[Ending]) -> None:
        """Add a row for each. Raises `OSError`; then none of them is in the file."""
        await self._write(_lines(self._cells(ending) for ending in endings))

    async def _write(self, text: str) -> None:
        rest = memoryview(text.encode("utf-8", "replace"))
        size = len(rest)
        try:
            while rest:
                rest = rest[await self._file.write(rest) :]
        except OSError:
            await self._file.truncate(self._size)  # no half line stays behind
            raise
        self._size += size

    def _cells(self, ending: Ending) -> list[str]:
        row, finding = ending.row, ending.finding
        own = [row.own.get(column, "") for column in self._own]
        cells = [
            str(row.line),
            row.order_id,
            ending.outcome,
            ending.reason,
            ending.detail,
            str(finding.http_status or "") if finding else "",
            finding.code if finding else "",
            finding.message if finding else "",
            str(len(ending.attempts)),
            str(ending.bytes_sent),
            ending.started_at.isoformat(timespec="milliseconds") if ending.started_at else "",
            str(round(ending.seconds * 1000)) if ending.attempts else "",
            *(self._photo(row, field) for field in PHOTO_FIELDS),
            *own,
        ]
        return [str(row.manifest), *cells] if self._several else cells

    def _photo(self, row: Row, field: str) -> str:
        """The path as the next run finds it."""
        path, place = row.photos.get(field, ""), self._places[row.manifest]
        return os.path.join(place, path) if path and place else path


def _below(folder: Path, common: Path) -> str:
    return "" if folder == common else str(folder.relative_to(common))


def _lines(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([neutral(cell) for cell in row] for row in rows)
    return text.getvalue()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _unwritable(path: Path, error: OSError) -> ReportError:
    return ReportError(f"{path}: the report can't be written ({error.strerror}). Name another place with --report.")
