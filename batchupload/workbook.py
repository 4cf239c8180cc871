"""Bytes of a workbook (Excel's .xlsx, .xls, .xlsb; .ods) → records of one of its sheets."""

import datetime
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

from python_calamine import CalamineError, CalamineSheet, CalamineWorkbook, SheetTypeEnum, WorksheetNotFound

from batchupload.delimited import Record
from batchupload.source import ManifestError, Source, open_bytes

STARTS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
"""How a ZIP archive (all but .xls) and an OLE document begin."""
UNPACKED_LIMIT = 1 << 30
"""Bytes of all that is in a workbook; an Excel sheet filled to its last row with orders has about half."""
EXACT = 10**15
"""Excel keeps 15 digits of a number."""


@dataclass(frozen=True, slots=True)
class Workbook:
    """A sheet of a workbook, which is held in memory whole while it is read."""

    sheet: str

    def __str__(self) -> str:
        return f"workbook, sheet {self.sheet}"


def read_header(source: Source, wanted: str | None) -> tuple[Workbook, int, list[str]] | None:
    """The sheet `wanted`, or else the first; the row of its header, and the cells. None where the sheet is empty.

    Raises `ManifestError`.
    """
    sheet = _open(source, wanted)
    for line, cells in _rows(sheet):
        if any(cell.strip() for cell in cells):
            return Workbook(sheet.name), line, cells
    return None


def read_records(source: Source, form: Workbook, header_line: int) -> Iterator[Record]:
    """The rows below the header. A row's line is its number in the sheet."""
    for line, cells in _rows(_open(source, form.sheet)):
        if line > header_line:
            yield line, cells, None


def _open(source: Source, wanted: str | None) -> CalamineSheet:
    with open_bytes(source) as file:
        content = file.read(UNPACKED_LIMIT + 1)
    if _unpacked_size(content) > UNPACKED_LIMIT:
        raise ManifestError(f"{source.path}: this workbook is too large to be read. Save the sheet as CSV UTF-8.")
    try:
        workbook = CalamineWorkbook.from_filelike(io.BytesIO(content))
        names = [one.name for one in workbook.sheets_metadata if one.typ is SheetTypeEnum.WorkSheet]
        if not names:
            raise ManifestError(f"{source.path}: the workbook has no sheet with cells. Save the orders as CSV UTF-8.")
        return workbook.get_sheet_by_name(wanted or names[0])
    except WorksheetNotFound:
        raise ManifestError(
            f"{source.path}: there is no sheet {wanted}. Name one of these with --sheet: {', '.join(names)[:500]}."
        ) from None
    except (CalamineError, OSError, ValueError) as error:
        what = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ManifestError(
            f"{source.path}: this workbook can't be read ({what}). Save it as .xlsx without password, or as CSV UTF-8."
        ) from None


def _unpacked_size(content: bytes) -> int:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return sum(part.file_size for part in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return len(content)  # no archive, or a damaged one, of which the reader will say so


def _rows(sheet: CalamineSheet) -> Iterator[tuple[int, list[str]]]:
    for line, cells in enumerate(sheet.iter_rows(), 1):
        yield line, [_text(cell) for cell in cells]


def _text(cell: object) -> str:
    match cell:
        case bool():
            return str(cell).upper()
        case int() | float() if abs(cell) >= EXACT:
            return f"{cell:.14E}"  # as Excel shows a number that has lost its digits
        case float() if cell.is_integer():
            return str(int(cell))
        case datetime.datetime() | datetime.date() | datetime.time():
            return cell.isoformat()
    return str(cell)
