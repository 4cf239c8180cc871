"""Rows and words of a report → JSON that no parser of HTML can mistake for markup. Pure, streamed."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from batchupload.sheet import neutral

CHUNK = 5000
"""Rows of one script element: the browser reads them one by one, and stays answerable in between."""
REMEMBERED, SHORT = 4096, 200
"""Values of a column that are written once and then only counted, and the characters of the longest such."""

# What could end the element, open a comment in it, or break a line where JavaScript has none. JSON that holds only
# these escapes is the same JSON, since none of them stands outside of its texts.
_UNSAFE = {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029\x7f"}


def safe_json(value: object) -> str:
    """Compact JSON without `<`, `>`, `&` or any line break of JavaScript."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character, escaped in _UNSAFE.items():
        text = text.replace(character, escaped)
    return text


def chunks(rows: Iterable[Sequence[str]], width: int) -> Iterator[str]:
    """Rows of `width` cells as JSON lists of up to `CHUNK` rows; cells are neutral, as those of a report.

    A cell is its text; in a list of its own where the column is to remember it; and the number of the remembered one
    where it is the same as that.
    """
    known: list[dict[str, int]] = [{} for _ in range(width)]
    rest = iter(rows)
    while some := list(islice(rest, CHUNK)):
        yield safe_json([_packed(row, known) for row in some])


def _packed(row: Sequence[str], known: list[dict[str, int]]) -> list[str | int | list[str]]:
    packed: list[str | int | list[str]] = []
    for cell, seen in zip(row, known, strict=True):
        if cell in seen:
            packed.append(seen[cell])
            continue
        text = cell if cell[:1].isalnum() else neutral(cell)  # most cells need no closer look
        if len(seen) < REMEMBERED and len(cell) <= SHORT:
            seen[cell] = len(seen)
            packed.append([text])
        else:
            packed.append(text)
    return packed
