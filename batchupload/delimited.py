"""Lines of a CSV manifest → records: the cells of each row, with the line where it begins."""

import csv
import io
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from batchupload.language import _
from batchupload.lines import LINE_LIMIT, read_lines
from batchupload.model import Problem
from batchupload.reasons import Reason
from batchupload.source import Source

DELIMITERS = (",", ";", "\t")
ROW_LINES = 100
"""Physical lines one row may run over (a quoted note with line breaks)."""

Record = tuple[int, list[str], Problem | None]
"""The physical line where a row begins, its cells, and what is wrong with it, if something is."""


@dataclass(frozen=True, slots=True)
class Delimited:
    """Text whose cells stand between delimiters."""

    encoding: str
    delimiter: str

    def __str__(self) -> str:
        words = {",": _("comma"), ";": _("semicolon"), "\t": _("tab")}
        delimiter = words.get(self.delimiter, repr(self.delimiter))
        return _("CSV, {encoding}, {delimiter}", encoding=self.encoding, delimiter=delimiter)


def read_headers(source: Source, encoding: str, delimiters: Sequence[str]) -> list[tuple[Delimited, int, list[str]]]:
    """For each delimiter in question: the line of the header, and its cells. Empty where there is no header."""
    with closing(read_lines(source, encoding)) as lines:
        first = _first_line(lines)
    if first is None:
        return []
    line, text, forced = first
    return [
        (Delimited(encoding, delimiter), line, _parse(text, delimiter) or text.rstrip("\r\n").split(delimiter))
        for delimiter in ([forced] if forced else delimiters)
    ]


def read_records(source: Source, form: Delimited, header_line: int, width: int) -> Iterator[Record]:
    """The rows below the header, which has `width` cells."""
    with closing(read_lines(source, form.encoding)) as lines:
        for line, _ in lines:
            if line == header_line:
                break
        yield from _records(lines, form.delimiter, width)


def _first_line(lines: Iterable[tuple[int, str]]) -> tuple[int, str, str] | None:
    """(line, text, delimiter) of the header; the delimiter where Excel's `sep=` line before it names one."""
    forced = ""
    for line, text in lines:
        if not text.strip(",;\t\r\n "):
            continue
        if match := re.fullmatch(r'"?sep=([,;\t])"?\s*', text, re.IGNORECASE):
            forced = match[1]
        else:
            return line, text, forced
    return None


def _records(lines: Iterator[tuple[int, str]], delimiter: str, width: int) -> Iterator[Record]:
    """Lines → records. A quote that is never closed spoils its own line and no other."""
    waiting: deque[tuple[int, str]] = deque()
    nothing = f"{delimiter} \r\n"
    """A line of these alone is no row. There may be millions: Excel saves every row that ever had a format."""
    while True:
        line, text = waiting.popleft() if waiting else next(lines, (0, ""))
        if not line:
            return
        if len(text) > LINE_LIMIT:
            yield line, text[:1000].split(delimiter), Problem(Reason.ROW_TOO_LONG, "")
        elif not text.strip(nothing):
            continue
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
