"""Lines of a manifest file → rows, streamed: the first stage of the flow."""

import csv
import difflib
import io
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from batchupload.lines import LINE_LIMIT, ManifestError, Source, open_source, read_lines
from batchupload.model import PHOTO_FIELDS, OwnColumn, Problem, Row
from batchupload.reasons import Reason
from batchupload.settings import ManifestSettings
from batchupload.sheet import REPORT_COLUMNS, plain

FIELDS = ("order_id", *PHOTO_FIELDS)
DELIMITERS = (",", ";", "\t")
ROW_LINES = 100
"""Physical lines one row may run over (a quoted note with line breaks)."""

KNOWN_NAMES = {
    "order_id": (
        "order_id",
        "orderid",
        "order_no",
        "order_number",
        "order",
        "订单号",
        "星光订单号",
        "订单编号",
        "订单id",
    ),
    "face": ("face", "身份证人像面", "人像面", "身份证正面", "身份证人像面照片", "身份证正面照片"),
    "back": ("back", "身份证国徽面", "国徽面", "身份证反面", "身份证背面", "身份证国徽面照片", "身份证反面照片"),
    "hand": (
        "hand",
        "免冠照",
        "免冠人像照",
        "免冠照片",
        "手持照",
        "手持照片",
        "手持身份证",
        "手持身份证照",
        "手持身份证照片",
    ),
}

# White space of every script, and what has no width: zero-width space and joiners, marks of direction, BOM.
INVISIBLE = "\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff"
EDGES = re.compile(rf"^[\s{INVISIBLE}]+|[\s{INVISIBLE}]+$")
EXCEL_TEXT = re.compile(r'="(.*)"', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Layout:
    """How one manifest file is to be read."""

    source: Source
    delimiter: str
    header_line: int
    header: tuple[str, ...]
    fields: dict[str, int]
    """Field → its column, from 0."""
    own: tuple[tuple[int, OwnColumn], ...]
    """Places and names of the manifest's own other columns."""
    only: int | None
    """Column of the outcome, where the manifest is an earlier report."""

    @property
    def path(self) -> Path:
        """The file."""
        return self.source.path

    @property
    def is_report(self) -> bool:
        """Whether the manifest is an earlier report."""
        return self.only is not None


def open_manifest(path: Path, settings: ManifestSettings) -> Layout:
    """Find out encoding, delimiter and columns. Raises `ManifestError`."""
    try:
        source = open_source(path, settings.encoding)
        with closing(read_lines(source)) as lines:
            first = _first_lines(lines)
    except OSError as error:
        raise ManifestError(f"{path}: can't be read ({error.strerror}). Check its permissions.") from None
    if first is None:
        raise ManifestError(f"{path}: the manifest is empty. It needs a header line: {_needed()}.")
    line, text, forced = first
    candidates = [forced] if forced else DELIMITERS if settings.delimiter == "auto" else [settings.delimiter]
    mapped = {field: getattr(settings.columns, field) for field in FIELDS}
    layouts = [_layout(source, delimiter, line, text, mapped) for delimiter in candidates]
    best = max(layouts, key=lambda layout: len(layout.fields))
    _require_columns(best, mapped)
    return best


def read_rows(layout: Layout, settings: ManifestSettings, only: frozenset[str] = frozenset()) -> Iterator[Row]:
    """Yield the rows in order, bad ones with their `problem`; with `only`, those with one of these outcomes.

    Memory stays flat however long the file is. Rows whose cells are all empty are no rows. Raises `ManifestError`
    where the file can no longer be read.
    """
    pattern = re.compile(settings.order_id_pattern)
    for line, cells, problem in read_cells(layout):
        if only and (layout.only is None or len(cells) <= layout.only or cells[layout.only] not in only):
            continue
        yield _row(layout, line, cells, problem, pattern)


def read_cells(layout: Layout) -> Iterator[tuple[int, list[str], Problem | None]]:
    """Yield each row below the header as (first line, its cells as they stand, what is wrong with its form).

    Raises `ManifestError` where the file can no longer be read.
    """
    try:
        with closing(read_lines(layout.source)) as lines:
            for line, _ in lines:
                if line == layout.header_line:
                    break
            for line, cells, problem in _records(lines, layout.delimiter, len(layout.header)):
                if any(cell.strip() for cell in cells) or problem:
                    yield line, cells, problem
    except (OSError, UnicodeError) as error:
        raise ManifestError(f"{layout.path}: changed or broke while it was read ({error}). Run again.") from None


def clean(cell: str) -> str:
    """Without the spaces, zero-width characters and Excel's text marks (`="…"`, a leading `'`) around it."""
    text = EDGES.sub("", cell)
    if match := EXCEL_TEXT.fullmatch(text):
        text = EDGES.sub("", match[1])
    return EDGES.sub("", text.removeprefix("'"))


def _row(layout: Layout, line: int, cells: Sequence[str], problem: Problem | None, pattern: re.Pattern[str]) -> Row:
    if layout.is_report:
        cells = [plain(cell) for cell in cells]
    values = {field: cells[at] if at < len(cells) else "" for field, at in layout.fields.items()}
    order_id = clean(values["order_id"])
    photos = {field: EDGES.sub("", values[field]) for field in PHOTO_FIELDS}
    own = {name: cells[at] if at < len(cells) else "" for at, name in layout.own}
    problem = problem or _problem(layout, cells, order_id, photos, pattern)
    return Row(layout.path, line, order_id, photos, own, problem)


def _problem(
    layout: Layout, cells: Sequence[str], order_id: str, photos: dict[str, str], pattern: re.Pattern[str]
) -> Problem | None:
    extra = [cell for cell in cells[len(layout.header) :] if cell.strip()]
    if any("\0" in cell for cell in cells):
        return Problem(Reason.NUL_CHARACTER, "")
    if extra:
        return Problem(Reason.EXTRA_CELLS, f"{len(cells)} cells, the header has {len(layout.header)}")
    if len(cells) <= layout.fields["order_id"]:
        return Problem(Reason.MISSING_CELL, f"{len(cells)} cells, the header has {len(layout.header)}")
    if not order_id:
        return Problem(Reason.ORDER_ID_EMPTY, "")
    if not pattern.fullmatch(order_id):
        number = re.fullmatch(r"[0-9.,]+E\+?[0-9]+", order_id, re.IGNORECASE)
        hint = "; Excel made a number of it: format the column as text" if number else ""
        return Problem(Reason.ORDER_ID_MALFORMED, f"must match {pattern.pattern}{hint}")
    missing = [layout.header[layout.fields[field]] for field in PHOTO_FIELDS if not photos[field]]
    if missing:
        return Problem(Reason.MISSING_CELL, f"empty: {', '.join(missing)}")
    return None


def _records(
    lines: Iterator[tuple[int, str]], delimiter: str, width: int
) -> Iterator[tuple[int, list[str], Problem | None]]:
    """Lines → (first line, cells, problem). A quote that is never closed spoils its own line and no other."""
    waiting: deque[tuple[int, str]] = deque()
    while True:
        line, text = waiting.popleft() if waiting else next(lines, (0, ""))
        if not line:
            return
        if len(text) > LINE_LIMIT:
            yield line, text[:1000].split(delimiter), Problem(Reason.ROW_TOO_LONG, "")
        elif '"' not in text:
            yield line, text.rstrip("\r\n").split(delimiter), None
        elif (cells := _parse(text, delimiter)) is not None or (
            cells := _parse_over_lines(text, waiting, lines, delimiter, width)
        ) is not None:
            yield line, cells, None
        else:
            yield line, text.rstrip("\r\n").split(delimiter), Problem(Reason.STRAY_QUOTE, "")


def _parse(text: str, delimiter: str) -> list[str] | None:
    """The cells of one whole row, or None where its quotes don't pair up."""
    try:
        return next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except (csv.Error, StopIteration):
        return None


def _parse_over_lines(
    text: str, waiting: deque[tuple[int, str]], lines: Iterator[tuple[int, str]], delimiter: str, width: int
) -> list[str] | None:
    """Try `text` together with the lines after it; those go back to `waiting` unless they make a good row of it."""
    quotes = text.count('"')
    if quotes % 2 == 0:
        return None
    for extra in range(1, ROW_LINES):
        if extra > len(waiting):
            following = next(lines, None)
            if following is None:
                return None
            waiting.append(following)
        more = waiting[extra - 1][1]
        text += more
        quotes += more.count('"')
        if len(text) > LINE_LIMIT:
            return None
        if quotes % 2 == 0:
            cells = _parse(text, delimiter)
            if cells is None or len(cells) != width:
                return None
            for _ in range(extra):
                waiting.popleft()
            return cells
    return None


def _first_lines(lines: Iterable[tuple[int, str]]) -> tuple[int, str, str] | None:
    """(line, text, delimiter) of the header; the delimiter where Excel's `sep=` line before it names one."""
    forced = ""
    for line, text in lines:
        if match := re.fullmatch(r'"?sep=([,;\t])"?\s*', text, re.IGNORECASE):
            forced = match[1]
        elif text.strip(",;\t\r\n "):
            return line, text, forced
    return None


def _layout(source: Source, delimiter: str, line: int, text: str, mapped: Mapping[str, Sequence[str]]) -> Layout:
    header = _parse(text, delimiter) or text.rstrip("\r\n").split(delimiter)
    while header and not header[-1].strip():
        header.pop()
    named = [_normal(name) for name in header]
    fields: dict[str, int] = {}
    report = 1 if named[:1] == ["manifest"] else 0
    is_report = tuple(named[report : report + len(REPORT_COLUMNS)]) == REPORT_COLUMNS
    end = report + len(REPORT_COLUMNS) if is_report else len(named)
    # Names of the user's own go first: a column that one of them means is no other field's by its known name.
    rounds: list[Mapping[str, Sequence[str]]] = (
        [{field: (field,) for field in FIELDS}] if is_report else [mapped, KNOWN_NAMES]
    )
    for names in rounds:
        free = [at for at in range(end) if at not in fields.values()]
        for field in FIELDS:
            wanted = [_normal(name) for name in names[field]]
            places = [at for at in free if named[at] in wanted] if field not in fields else []
            if len(places) > 1:
                which = " and ".join(header[at] for at in places)
                raise ManifestError(
                    f"{source.path}, line {line}: {which} could both be the column {field}. "
                    "Rename one, or name the right one in manifest.columns."
                )
            twice = next((other for other, at in fields.items() if at in places), None)
            if twice:
                raise ManifestError(
                    f"{source.path}, line {line}: {header[places[0]]} can't be both {twice} and {field}. "
                    "Name another column for one of them in manifest.columns."
                )
            if places:
                fields[field] = places[0]
    taken = range(end) if is_report else fields.values()
    own = tuple((at, (name, header[:at].count(name))) for at, name in enumerate(header) if at not in taken)
    only = report + REPORT_COLUMNS.index("outcome") if is_report else None
    return Layout(source, delimiter, line, tuple(header), fields, own, only)


def _require_columns(layout: Layout, mapped: Mapping[str, Sequence[str]]) -> None:
    missing = [field for field in FIELDS if field not in layout.fields]
    if not missing:
        return
    found = ", ".join(layout.header[:30]) if len(layout.header) < 100 else f"{len(layout.header)} columns"
    names = {field: (*mapped[field], *KNOWN_NAMES[field]) for field in FIELDS}
    hints = [f" Looked for {field} as {', '.join(names[field])}." for field in missing]
    for field in missing:
        near = (
            difflib.get_close_matches(_normal(name), [_normal(n) for n in layout.header], n=1, cutoff=0.7)
            for name in (*mapped[field], field)
        )
        if found_near := next((n[0] for n in near if n), None):
            hints.append(f" Is {found_near} meant for {field}?")
    raise ManifestError(
        f"{layout.path}, line {layout.header_line}: found the columns {found[:500]}; missing: "
        f"{', '.join(missing)}. "
        f"The header needs {_needed()}.{''.join(hints)} Rename the columns, or map them in manifest.columns."
    )


def _needed() -> str:
    chinese = {field: next(name for name in names if not name.isascii()) for field, names in KNOWN_NAMES.items()}
    return ", ".join(f"{field} ({chinese[field]})" for field in FIELDS)


def _normal(name: str) -> str:
    """A header name as it is compared: without case, invisible characters, spaces or dashes."""
    return re.sub(r"[\s\-_]+", "_", clean(name)).strip("_").casefold()
