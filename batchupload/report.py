"""Endings → the CSV report: complete lines at any moment, readable by spreadsheets and by the next run."""

import asyncio
import csv
import errno
import io
import logging
import math
import os
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar, TypeVarTuple

import aiofiles

from batchupload.foreign import writable
from batchupload.language import _
from batchupload.model import PHOTO_FIELDS, BatchuploadError, Ending, OwnColumn, Row, is_address
from batchupload.row_faults import text_of
from batchupload.sheet import REPORT_COLUMNS, neutral

START, SEVERAL = "\ufeffline,order_id,".encode(), "\ufeffmanifest,line,".encode()
"""How the header of a report begins."""
WRITE_SECONDS = 60.0
"""The longest that a write or a sync of the report may take; a disk that takes longer is given up."""

LOOK_SECONDS = 1.0
"""Time between two looks whether the file was removed or replaced; a run comes to its end only after one more."""

log = logging.getLogger(__name__)

T = TypeVar("T")
A = TypeVarTuple("A")


class ReportError(BatchuploadError):
    """The report can't be begun; nothing was sent."""


class ReportLostError(BatchuploadError):
    """The report can't be written any more, or is no longer where it was begun."""

    exit_code = 5


def report_path(manifests: Sequence[Path], folder: Path | None, asked: Path | None, now: datetime) -> Path:
    """Where the report of a run goes: `asked` (a file, or a folder), `folder`, or beside the first manifest."""
    name = f"{manifests[0].stem}.report-{now:%Y%m%d-%H%M%S}.csv"
    if asked is None:
        place = folder or manifests[0].parent
    elif is_folder(asked):
        place = asked
    else:
        return asked
    # Two runs within one second, or a clock set back.
    paths = (place / (name if n == 1 else f"{name[:-4]}-{n}.csv") for n in count(1))
    return next(path for path in paths if not os.path.lexists(path))


def is_folder(path: Path) -> bool:
    """Whether it is one that can be used; what is wrong with it otherwise is said where it is."""
    try:
        return path.is_dir()
    except OSError:  # as where this user may not enter
        return False


def common_root(manifests: Iterable[Path], root: Path | None) -> Path:
    """The folder that the photo paths of a report start from: `root`, or what the manifests' folders share."""
    return root or Path(os.path.commonpath([manifest.parent.absolute() for manifest in manifests]))


def may_begin(path: Path, *, again: bool) -> None:
    """Raise `ReportError` where no report can be begun at `path`; `again` where an incomplete one may be there."""
    if os.path.lexists(path) and not (again and _is_report(path)):
        raise _existing(path)


def move_aside(path: Path) -> Path | None:
    """Give an incomplete report another name, which is returned; None where there is no such report.

    It may be the only record of what its run sent, where that had lost its ledger. Raises `ReportError`.
    """
    if not os.path.lexists(path):
        return None
    numbers = count(1)
    while True:
        aside = path.with_name(f"{path.stem}.incomplete-{next(numbers)}{path.suffix}")
        try:
            # The name is taken first: a rename alone would replace what somebody has put there.
            os.close(_private(str(aside), os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            path.rename(aside)
        except FileExistsError:
            continue
        except OSError as error:
            with suppress(OSError):
                aside.unlink()  # the name that was taken, if that was all that could be done
            raise ReportError(
                _(
                    "{path}: the incomplete report of the run before can't be moved to {name} ({why}). Name "
                    "another with --report.",
                    path=path,
                    name=aside.name,
                    why=error.strerror,
                )
            ) from None
        return aside


def move_back(aside: Path, path: Path) -> None:
    """Undo `move_aside`, where no other came in between."""
    if not os.path.lexists(path):
        with suppress(OSError):
            aside.rename(path)


def _is_report(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            start = file.read(20)
    except OSError:
        return False
    return not start or start.startswith((START, SEVERAL))


def _existing(path: Path) -> ReportError:
    return ReportError(_("{path}: this file exists. Name another with --report, or remove it.", path=path))


class Report:
    """The report file of one run, an async context manager; new, and readable by its owner only."""

    def __init__(
        self,
        path: Path,
        manifests: Sequence[Path],
        own: Sequence[OwnColumn],
        root: Path | None,
        more_photos: Sequence[str] = (),
    ) -> None:
        self.path = path
        self._more_photos = more_photos
        """Photo fields beside those that every report has."""
        self._several = len(manifests) > 1
        self._own = own
        common = common_root(manifests, root)
        self._places = {manifest: "" if root else _below(manifest.parent.absolute(), common) for manifest in manifests}
        """Manifest → where its folder lies below the one that the report's photo paths start from."""
        self._size = 0
        self._thread = ThreadPoolExecutor(1, "report")
        """Its own, so that no other blocked work keeps the report waiting."""
        self._looked = -math.inf
        """When it was last seen that the file is still where it was begun."""
        self._stuck = False
        """Whether the thread hangs in a call that the disk does not answer."""

    async def __aenter__(self) -> Self:
        """Create the file with its header. Raises `ReportError`."""
        columns = [*REPORT_COLUMNS, *self._more_photos, *(name for name, _ in self._own)]
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                self._file = await aiofiles.open(self.path, "xb", buffering=0, opener=_private, executor=self._thread)
                try:
                    await self._write("\ufeff" + _lines([["manifest", *columns] if self._several else columns]))
                    await self._do(_sync_folder, self.path.parent)
                except OSError:
                    await self._file.close()
                    await self._do(self.path.unlink)
                    raise
        except FileExistsError:
            raise _existing(self.path) from None
        except OSError as error:
            raise _unwritable(self.path, error.strerror or _("the disk does not answer")) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        closing = asyncio.create_task(self._file.close())
        await asyncio.wait({closing}, timeout=0 if self._stuck else WRITE_SECONDS)
        if closing.done():
            closing.exception()  # says nothing new: what was to be on the disk is since `finish`
        self._thread.shutdown(wait=False)

    async def record(self, endings: Sequence[Ending]) -> None:
        """Add a row for each. Raises `ReportLostError`; then none of them can be relied on to be in the file."""
        async with self._bounded():
            await self._write(_lines(map(self._row, endings)))
            now = asyncio.get_running_loop().time()
            if now - self._looked >= LOOK_SECONDS:
                self._looked = now
                await self._do(_look_for, self.path, self._file.fileno())

    async def finish(self) -> None:
        """Have all of it on the disk; before that no record may call the run ended. Raises `ReportLostError`."""
        async with self._bounded():
            await self._do(os.fsync, self._file.fileno())
            await self._do(_look_for, self.path, self._file.fileno())

    @asynccontextmanager
    async def _bounded(self) -> AsyncGenerator[None, None]:
        scope = asyncio.timeout(WRITE_SECONDS)
        try:
            async with scope:
                yield
        except OSError as error:
            self._stuck = scope.expired()
            what = _("the disk does not answer") if self._stuck else error.strerror
            raise ReportLostError(
                _("{path}: the report can't be written any more ({what})", path=self.path, what=what)
            ) from None

    async def _do(self, call: Callable[[*A], T], *arguments: *A) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *arguments)

    async def _write(self, text: str) -> None:
        rest = memoryview(writable(text).encode())
        size = len(rest)
        try:
            while rest:
                rest = rest[await self._file.write(rest) :]
        except OSError:
            await self._file.truncate(self._size)  # no half line stays behind
            raise
        self._size += size

    def _row(self, ending: Ending) -> list[str]:
        """The cells of a row. If they can't be made, what counts is there all the same."""
        try:
            return self._cells(ending)
        except Exception as error:
            row = ending.row
            log.exception(_("An internal fault at line %d of %s"), row.line, row.manifest.name)
            detail = "; ".join(part for part in (ending.detail, text_of(error)) if part)
            cells = [str(row.line), row.order_id, ending.outcome, ending.reason, detail]
            cells += [""] * (len(REPORT_COLUMNS) - len(cells) + len(self._more_photos) + len(self._own))
            return [str(row.manifest), *cells] if self._several else cells

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
            *(self._photo(row, field) for field in (*PHOTO_FIELDS, *self._more_photos)),
            *own,
        ]
        return [str(row.manifest), *cells] if self._several else cells

    def _photo(self, row: Row, field: str) -> str:
        """The path as the next run finds it."""
        path, place = row.photos.get(field, ""), self._places[row.manifest]
        return os.path.join(place, path) if path and place and not is_address(path) else path


def _below(folder: Path, common: Path) -> str:
    return "" if folder == common else str(folder.relative_to(common))


def _lines(rows: Iterable[Sequence[str]]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([neutral(cell) for cell in row] for row in rows)
    return text.getvalue()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _look_for(path: Path, descriptor: int) -> None:
    """See that what was written is where it will be looked for. Raises `OSError` where the file lost that name."""
    mine = os.fstat(descriptor)
    try:
        there = path.stat()
    except FileNotFoundError:
        raise OSError(errno.ENOENT, _("it was removed in mid-run")) from None
    if (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
        raise OSError(errno.ENOENT, _("it was replaced in mid-run"))


def _sync_folder(path: Path) -> None:
    """Have the names in it on the disk, where that can be done."""
    try:
        folder = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written, but not read
        return
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # not every file system can sync a folder
            raise
    finally:
        os.close(folder)


def _unwritable(path: Path, what: str) -> ReportError:
    return ReportError(
        _("{path}: the report can't be written ({what}). Name another place with --report.", path=path, what=what)
    )
