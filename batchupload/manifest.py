"""Records of a manifest → rows, whatever form it has: the first stage of the flow."""

import itertools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from batchupload import delimited, jsonlines, workbook
from batchupload.columns import EDGES, Columns, clean, find_columns, needed, require
from batchupload.delimited import DELIMITERS, Delimited, Record
from batchupload.expressions import Expression, expression
from batchupload.jsonlines import JsonLines
from batchupload.language import _
from batchupload.lines import find_encoding, read_lines
from batchupload.model import Problem, Row
from batchupload.reasons import Reason
from batchupload.row_faults import text_of
from batchupload.sheet import plain
from batchupload.shop_settings import ManifestSettings
from batchupload.source import ManifestError, Source, open_bytes, open_source
from batchupload.workbook import Number, Workbook

Form = Delimited | JsonLines | Workbook

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Layout:
    """How one manifest is to be read."""

    source: Source
    form: Form
    header_line: int
    """Where its header stands; 0 for JSON lines, which have none."""
    columns: Columns

    @property
    def path(self) -> Path:
        """The file."""
        return self.source.path

    @property
    def is_report(self) -> bool:
        """Whether the manifest is an earlier report."""
        return self.columns.outcome is not None

    def __str__(self) -> str:
        """What was found out, in one line."""
        of = _("an earlier report") if self.is_report else str(self.columns) or _("columns by their own names")
        return f"{self.path}: {self.form}; {of}"


def open_manifest(path: Path, settings: ManifestSettings) -> Layout:
    """Find out form, encoding and columns. Raises `ManifestError`."""
    mapped = {field: getattr(settings.columns, field) for field in ("order_id", *settings.photo_fields)}
    required = ("order_id", *settings.required)
    try:
        source = open_source(path)
        layouts = [
            Layout(source, form, line, find_columns(header, mapped, _where(source, form, line)))
            for form, line, header in _headers(source, settings)
        ]
    except OSError as error:
        raise ManifestError(
            _("{path}: can't be read ({why}). Check its permissions.", path=path, why=error.strerror)
        ) from None
    if not layouts:
        raise ManifestError(
            _(
                "{path}: the manifest is empty. It needs a header line: {needed}.",
                path=source.path,
                needed=needed(required),
            )
        )
    best = max(layouts, key=lambda layout: len(layout.columns.fields))
    require(best.columns, mapped, required, _where(source, best.form, best.header_line))
    return best


def read_rows(layout: Layout, settings: ManifestSettings, only: frozenset[str] = frozenset()) -> Iterator[Row]:
    """Yield the rows in order, bad ones with their `problem`; with `only`, those with one of these outcomes.

    Memory stays flat however long a file of text is. Rows whose cells are all empty are no rows. Raises
    `ManifestError` where the file can no longer be read.
    """
    pattern = expression(settings.order_id_pattern)
    outcome = layout.columns.outcome
    for line, cells, problem in read_cells(layout):
        if only and (outcome is None or len(cells) <= outcome or cells[outcome].strip().lower() not in only):
            continue
        try:
            row = _row(layout, line, cells, problem, pattern, settings.required)
        except Exception as error:
            log.exception(_("An internal fault at line %d of %s"), line, layout.path.name)
            row = Row(layout.path, line, "", {}, {}, Problem(Reason.INTERNAL_ERROR, text_of(error)))
        yield row


def has_numbers(layout: Layout) -> bool:
    """Whether order numbers stand there as numbers, which may have lost leading zeros; by the first thousand rows."""
    at = layout.columns.fields["order_id"]
    first = itertools.islice(read_cells(layout), 1000) if isinstance(layout.form, Workbook) else ()
    return any(isinstance(cells[at], Number) for _, cells, _ in first if at < len(cells))


def read_cells(layout: Layout) -> Iterator[Record]:
    """Yield each row below the header as it stands. Raises `ManifestError` where the file can no longer be read."""
    try:
        for record in _records(layout):
            if any(cell.strip() for cell in record[1]) or record[2]:
                yield record
    except (OSError, UnicodeError) as error:
        raise ManifestError(
            _("{path}: changed or broke while it was read ({error}). Run again.", path=layout.path, error=error)
        ) from None


def _headers(source: Source, settings: ManifestSettings) -> Sequence[tuple[Form, int, list[str]]]:
    """Form, header line and header, for each way in which the manifest might be read. Empty where it is empty."""
    with open_bytes(source) as file:
        start = file.read(8)
    if start.startswith(workbook.STARTS):
        found = workbook.read_header(source, settings.sheet)
        return [found] if found else []
    encoding = find_encoding(source, settings.encoding)
    with closing(read_lines(source, encoding)) as lines:
        text = next((text for _, line in lines if (text := line.lstrip("\ufeff \t\r\n"))), "")
    if text.startswith("["):
        raise ManifestError(_("{path}: a JSON array. Write one object in each line (JSON lines).", path=source.path))
    if text.startswith("{"):
        return [(JsonLines(encoding), 0, jsonlines.read_header(source, encoding))]
    wanted = DELIMITERS if settings.delimiter == "auto" else [settings.delimiter]
    return delimited.read_headers(source, encoding, wanted)


def _records(layout: Layout) -> Iterator[Record]:
    match layout.form:
        case Delimited() as form:
            return delimited.read_records(layout.source, form, layout.header_line, len(layout.columns.header))
        case JsonLines() as form:
            return jsonlines.read_records(layout.source, form, layout.columns.header)
        case Workbook() as form:
            return workbook.read_records(layout.source, form, layout.header_line)
        case other:
            assert_never(other)


def _where(source: Source, form: Form, line: int) -> str:
    place = _(", sheet {sheet}", sheet=form.sheet) if isinstance(form, Workbook) else ""
    return f"{source.path}{place}, line {line or 1}"


def _row(
    layout: Layout,
    line: int,
    cells: Sequence[str],
    problem: Problem | None,
    pattern: Expression,
    required: Sequence[str],
) -> Row:
    if layout.is_report:
        cells = [plain(cell) for cell in cells]
    values = {field: cells[at] if at < len(cells) else "" for field, at in layout.columns.fields.items()}
    order_id = clean(values.pop("order_id"))
    photos = {field: path.strip(EDGES) for field, path in values.items()}
    photos = {field: path for field, path in photos.items() if path or field in required}
    own = {name: cells[at] if at < len(cells) else "" for at, name in layout.columns.own}
    problem = problem or _problem(layout.columns, cells, order_id, photos, pattern)
    return Row(layout.path, line, order_id, photos, own, problem)


def _problem(
    columns: Columns, cells: Sequence[str], order_id: str, photos: Mapping[str, str], pattern: Expression
) -> Problem | None:
    header = columns.header
    extra = [cell for cell in cells[len(header) :] if cell.strip()]
    if any("\0" in cell for cell in cells):
        return Problem(Reason.NUL_CHARACTER, "")
    if extra:
        return Problem(
            Reason.EXTRA_CELLS, _("{cells} cells, the header has {header}", cells=len(cells), header=len(header))
        )
    if len(cells) <= columns.fields["order_id"]:
        return Problem(
            Reason.MISSING_CELL,
            _("{cells} cells, the header has {header}", cells=len(cells), header=len(header)),
        )
    if not order_id:
        return Problem(Reason.ORDER_ID_EMPTY, "")
    if not pattern.fits(order_id) or order_id in {"TRUE", "FALSE"}:
        number = re.fullmatch(r"[0-9.,]+E\+?[0-9]+", order_id, re.IGNORECASE)
        hint = _("; Excel made a number of it: format the column as text") if number else ""
        return Problem(Reason.ORDER_ID_MALFORMED, _("must match {pattern}{hint}", pattern=pattern.text, hint=hint))
    missing = [header[columns.fields[field]] for field, path in photos.items() if not path]
    if missing:
        return Problem(Reason.MISSING_CELL, _("empty: {missing}", missing=", ".join(missing)))
    return None
