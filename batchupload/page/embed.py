"""Rows and words of a report → JSON that no parser of HTML can mistake for markup. Pure, streamed."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice

from batchupload.sheet import neutral

CHUNK = 5000
"""Rows of one script element: the browser reads them one by one, and stays answerable in between."""
REMEMBERED, SHORT = 4096, 200
"""Values of a column that are written once and then only counted, and the characters of the longest such."""

# What could end the element, open a comment in it, or break a line where JavaScript has none. JSON that holds only
# these escapes is the same JSON, since none of them stands outside of its texts.
_UNSAFE = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029\x7f"}


def safe_json(value: object) -> str:
    """Compact JSON without `<`, `>`, `&` or any line break of JavaScript."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).translate(_UNSAFE)


def chunks(rows: Iterable[tuple[str, ...]], width: int) -> Iterator[str]:
    """Rows of `width` cells as JSON lists of up to `CHUNK` rows; cells are neutral, as those of a report.

    A cell is its text; in a list of its own where the column is to remember it; and the number of the remembered one
    where it is the same as that.
    """
    known: list[dict[str, int]] = [{} for _ in range(width)]
    rest = iter(rows)
    while some := list(islice(rest, CHUNK)):
        yield safe_json([[_cell(cell, seen) for cell, seen in zip(row, known, strict=True)] for row in some])


def _cell(cell: str, seen: dict[str, int]) -> str | int | list[str]:
    at = seen.get(cell)
    if at is not None:
        return at
    text = neutral(cell)
    if len(cell) > SHORT or len(seen) >= REMEMBERED:
        return text
    seen[cell] = len(seen)
    return [text]
