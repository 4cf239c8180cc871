"""Bytes of a workbook (Excel's .xlsx, .xls, .xlsb; .ods) → records of one of its sheets."""

import datetime
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchupload.delimited import Record
from batchupload.language import _
from batchupload.source import MOST_TIMES, MUCH, ManifestError, Source, open_bytes

if TYPE_CHECKING:
    from python_calamine import CalamineSheet

STARTS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
"""How a ZIP archive (all but .xls) and an OLE document begin."""
UNPACKED_LIMIT = 1 << 30
"""Bytes of all that is in a workbook; an Excel sheet filled to its last row with orders has about half."""
CELLS = 30_000_000
"""Cells up to the last one: an Excel sheet filled to its last row with 28 columns has fewer (24 bytes each)."""
CHUNK = 1 << 20
# Where a cell or a row says that it stands; what is between two `<` is looked at once, so that it takes linear time.
_PLACE = re.compile(rb"""<(?:[\w.-]{1,40}:)?(?:c|row)\s[^<]*?\br\s*=\s*["']([^"'<]*)["']""")
EXACT = 10**15
"""Excel keeps 15 digits of a number."""


class Number(str):
    """A cell that Excel holds as a number: it has no leading zeros, whatever Excel shows."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Workbook:
    """A sheet of a workbook, which is held in memory whole while it is read."""

    sheet: str
    sheets: int
    """How many the workbook has."""

    def __str__(self) -> str:
        if self.sheets > 1:
            return _("workbook, sheet {sheet} (of {sheets})", sheet=self.sheet, sheets=self.sheets)
        return _("workbook, sheet {sheet}", sheet=self.sheet)


def read_header(source: Source, wanted: str | None) -> tuple[Workbook, int, list[str]] | None:
    """The sheet `wanted`, or else the first shown; the row of its header, and the cells. None where it is empty.

    Raises `ManifestError`.
    """
    sheet, sheets = _open(source, wanted)
    for line, cells in _rows(sheet):
        if any(cell.strip() for cell in cells):
            return Workbook(sheet.name, sheets), line, cells
    return None


def read_records(source: Source, form: Workbook, header_line: int) -> Iterator[Record]:
    """The rows below the header. A row's line is its number in the sheet."""
    for line, cells in _rows(_open(source, form.sheet)[0]):
        if line > header_line:
            yield line, cells, None


def _open(source: Source, wanted: str | None) -> tuple["CalamineSheet", int]:
    """The sheet, and how many there are."""
    # Here, since most manifests are no workbook, and it takes memory.
    from python_calamine import CalamineError, CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum, WorksheetNotFound

    with open_bytes(source) as file:
        content = file.read(UNPACKED_LIMIT + 1)
    size = _unpacked_size(content)
    if size > UNPACKED_LIMIT or size > max(MUCH, MOST_TIMES * len(content)):
        raise ManifestError(
            _("{path}: this workbook is too large to be read. Save the sheet as CSV UTF-8.", path=source.path)
        )
    _refuse_far_cells(source, content)
    try:
        workbook = CalamineWorkbook.from_filelike(io.BytesIO(content))
        sheets = [one for one in workbook.sheets_metadata if one.typ is SheetTypeEnum.WorkSheet]
        names = [one.name for one in sheets]
        shown = [one.name for one in sheets if one.visible is SheetVisibleEnum.Visible]
        if not shown and not wanted:
            raise ManifestError(_("{path}: the workbook shows no sheet. Name one with --sheet.", path=source.path))
        return workbook.get_sheet_by_name(wanted or shown[0]), len(names)
    except WorksheetNotFound:
        raise ManifestError(
            _(
                "{path}: there is no sheet {wanted}. Name one of these with --sheet: {names}.",
                path=source.path,
                wanted=wanted,
                names=", ".join(names)[:500],
            )
        ) from None
    except (CalamineError, OSError, ValueError) as error:
        what = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ManifestError(
            _(
                "{path}: this workbook can't be read ({what}). Save it as .xlsx without password, or as CSV UTF-8.",
                path=source.path,
                what=what,
            )
        ) from None


def _unpacked_size(content: bytes) -> int:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return len(content)  # no archive, or a damaged one, of which the reader will say so


def _refuse_far_cells(source: Source, content: bytes) -> None:
    """Raise `ManifestError` where an .xlsx has a cell far out, or at no place: all before it would take memory."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for part in archive.namelist():  # a sheet's may have any name, in any case
                with archive.open(part) as file:
                    _look_at_places(source, iter(lambda: file.read(CHUNK), b""))
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError):
        return  # no archive, or a damaged one, of which the reader will say so


def _look_at_places(source: Source, chunks: Iterator[bytes]) -> None:
    rest, row = b"", 0
    columns: set[bytes] = set()
    for chunk in chunks:
        text = rest + chunk
        for found in _PLACE.finditer(text):
            if not (place := re.fullmatch(rb"([A-Z]{0,3})([0-9]{1,7})", found[1])):
                raise ManifestError(_("{path}: this workbook has a cell at no place. Save it anew.", path=source.path))
            columns.add(place[1])
            row = max(row, int(place[2]))
        rest = text[max(text.rfind(b"<"), len(text) - CHUNK) :]  # a cell may stand in two chunks
    if row * max(map(_number, columns), default=0) > CELLS:
        raise ManifestError(
            _(
                "{path}: this workbook has a cell far from the others. Delete the rows and columns "
                "behind the orders, or save the sheet as CSV UTF-8.",
                path=source.path,
            )
        )


def _number(column: bytes) -> int:
    """`A` → 1, `Z` → 26, `AA` → 27."""
    number = 0
    for letter in column:
        number = number * 26 + letter - 64
    return number


def _rows(sheet: "CalamineSheet") -> Iterator[tuple[int, list[str]]]:
    for line, cells in enumerate(sheet.iter_rows(), 1):
        yield line, [_text(cell) for cell in cells]


def _text(cell: object) -> str:
    match cell:
        case bool():
            return str(cell).upper()
        case int() | float() if abs(cell) >= EXACT:
            return Number(f"{cell:.14E}")  # as Excel shows a number that has lost its digits
        case float() if cell.is_integer():
            return Number(int(cell))
        case datetime.datetime() | datetime.time():
            return cell.isoformat()
        case datetime.date():
            return datetime.datetime.combine(cell, datetime.time()).isoformat()  # never to be taken for an order number
    return str(cell)
