"""Lines of JSON objects → records: each key is a column, as if the manifest were a table."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from batchupload.delimited import Record
from batchupload.foreign import writable
from batchupload.language import _
from batchupload.lines import LINE_LIMIT, read_lines
from batchupload.model import Problem
from batchupload.reasons import Reason
from batchupload.source import ManifestError, Source

MOST_KEYS = 1000
"""Different keys that one manifest may have."""


@dataclass(frozen=True, slots=True)
class JsonLines:
    """Text with one JSON object in each line."""

    encoding: str

    def __str__(self) -> str:
        return _("JSON lines, {encoding}", encoding=self.encoding)


def read_header(source: Source, encoding: str) -> list[str]:
    """All keys that stand in the file, as they come. Raises `ManifestError` where these are no columns."""
    keys: dict[str, None] = {}
    for _line, found in _objects(source, encoding):
        if isinstance(found, dict):
            keys |= dict.fromkeys(found)
            if len(keys) > MOST_KEYS:
                raise ManifestError(
                    _(
                        "{path}: over {most} different keys. Give each line the same ones.",
                        path=source.path,
                        most=MOST_KEYS,
                    )
                )
    return list(keys)


def read_records(source: Source, form: JsonLines, header: Sequence[str]) -> Iterator[Record]:
    """One for each line with something in it."""
    for line, found in _objects(source, form.encoding):
        if isinstance(found, dict):
            try:
                cells = [_text(found.get(key)) for key in header]
            except RecursionError:
                yield line, [], Problem(Reason.ROW_UNREADABLE, _("nested too deep"))
                continue
            yield line, cells, None
        else:
            yield line, [], found


def _objects(source: Source, encoding: str) -> Iterator[tuple[int, dict[str, object] | Problem]]:
    with closing(read_lines(source, encoding)) as lines:
        for line, text in lines:
            if len(text) > LINE_LIMIT:
                yield line, Problem(Reason.ROW_TOO_LONG, "")
            elif text.strip():
                yield line, _object(text)


def _object(text: str) -> dict[str, object] | Problem:
    try:
        found = json.loads(text, object_pairs_hook=_without_repeats)
    except ValueError as error:
        return Problem(Reason.ROW_UNREADABLE, _("no JSON object: {error}", error=error)[:200])
    except RecursionError:
        return Problem(Reason.ROW_UNREADABLE, _("nested too deep"))
    return found if isinstance(found, dict) else Problem(Reason.ROW_UNREADABLE, _("no JSON object"))


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = {writable(key): value for key, value in pairs}
    if len(found) < len(pairs):
        raise ValueError(_("a key stands twice"))
    return found


def _text(value: object) -> str:
    """A value as the cell of a table would have it."""
    match value:
        case None:
            return ""
        case str():
            return writable(value)
        case _:
            return writable(json.dumps(value, ensure_ascii=False))
