"""The header of a manifest → which column is what, by its usual names or the user's own."""

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from batchupload.foreign import visible
from batchupload.language import _
from batchupload.model import PHOTO_FIELDS, OwnColumn
from batchupload.sheet import REPORT_COLUMNS
from batchupload.source import ManifestError

FIELDS = ("order_id", *PHOTO_FIELDS)
"""What a report always has."""

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
    "custom": ("custom", "第四张照片", "附加照片", "其他照片"),
}

# White space of every script, and what has no width: zero-width space and joiners, marks of direction, BOM.
EDGES = "".join(
    one
    for one in map(chr, range(0x10000))
    if one.isspace()
    or one in "\u180e\u2060\u2061\u2062\u2063\u2064\ufeff"
    or "\u200b" <= one <= "\u200f"
    or "\u202a" <= one <= "\u202e"
)
NAME_LIMIT = 100
"""Characters of a header that may be meant for the name of a column."""
EXCEL_TEXT = re.compile(r'="(.*)"', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column of a manifest is what, by their places from 0."""

    header: tuple[str, ...]
    fields: Mapping[str, int]
    own: tuple[tuple[int, OwnColumn], ...]
    """Places and names of the manifest's own other columns."""
    outcome: int | None
    """The outcome's, where the manifest is an earlier report."""

    def __str__(self) -> str:
        """Those that have other names here."""
        named = {self.header[at]: field for field, at in self.fields.items()}
        return ", ".join(f"{visible(name)} → {field}" for name, field in named.items() if name != field)


def clean(cell: str) -> str:
    """Without the spaces, zero-width characters and Excel's text marks (`="…"`, a leading `'`) around it."""
    text = cell.strip(EDGES)
    if match := EXCEL_TEXT.fullmatch(text):
        text = match[1].strip(EDGES)
    return text.removeprefix("'").strip(EDGES)


def find_columns(cells: Sequence[str], mapped: Mapping[str, Sequence[str]], where: str) -> Columns:
    """The columns that a header has; of `mapped`, the user's own names for each field, before the known ones.

    Raises `ManifestError`, which begins with `where`, if one is ambiguous.
    """
    header = list(cells)
    while header and not header[-1].strip():
        header.pop()
    named = [_normal(name) for name in header]
    fields: dict[str, int] = {}
    report = 1 if named[:1] == ["manifest"] else 0
    is_report = tuple(named[report : report + len(REPORT_COLUMNS)]) == REPORT_COLUMNS
    end = report + len(REPORT_COLUMNS) if is_report else len(named)
    # Names of the user's own go first: a column that one of them means is no other field's by its known name.
    rounds: list[Mapping[str, Sequence[str]]] = (
        [{field: (field,) for field in mapped}] if is_report else [mapped, KNOWN_NAMES]
    )
    for names in rounds:
        free = [at for at in range(len(named)) if at not in fields.values() and (at < end or named[at] not in FIELDS)]
        for field in mapped:
            wanted = [_normal(name) for name in names[field]]
            places = [at for at in free if named[at] in wanted] if field not in fields else []
            if len(places) > 1:
                which = _(" and ").join(header[at] for at in places)
                raise ManifestError(
                    _(
                        "{where}: {which} could both be the column {field}. Rename one, or name the right one in "
                        "manifest.columns.",
                        where=where,
                        which=which,
                        field=field,
                    )
                )
            twice = next((other for other, at in fields.items() if at in places), None)
            if twice:
                raise ManifestError(
                    _(
                        "{where}: {column} can't be both {twice} and {field}. Name another column for one of "
                        "them in manifest.columns.",
                        where=where,
                        column=header[places[0]],
                        twice=twice,
                        field=field,
                    )
                )
            if places:
                fields[field] = places[0]
    taken = {*fields.values(), *range(end if is_report else 0)}
    before: Counter[str] = Counter()
    own = []
    for at, name in enumerate(header):
        if at not in taken:
            own.append((at, (name, before[name])))
        before[name] += 1
    outcome = report + REPORT_COLUMNS.index("outcome") if is_report else None
    return Columns(tuple(header), fields, tuple(own), outcome)


def require(columns: Columns, mapped: Mapping[str, Sequence[str]], required: Sequence[str], where: str) -> None:
    """Raise `ManifestError` where a field has no column: it says which there are, which are needed, what is near."""
    missing = [field for field in required if field not in columns.fields]
    if not missing:
        return
    found = (
        ", ".join(columns.header[:30]) if len(columns.header) < 100 else _("{count} columns", count=len(columns.header))
    )
    names = {field: (*mapped[field], *KNOWN_NAMES[field]) for field in mapped}
    hints = [_(" Looked for {field} as {names}.", field=field, names=", ".join(names[field])) for field in missing]
    hints += [
        _(" Is {name} meant for {field}?", name=name, field=field) for field, name in _near(columns, names).items()
    ]
    raise ManifestError(
        _(
            "{where}: found the columns {found}; missing: {missing}. The header needs "
            "{needed}.{hints} Rename the columns, or map them in manifest.columns.",
            where=where,
            found=found[:500],
            missing=", ".join(missing),
            needed=needed(required),
            hints="".join(hints),
        )
    )


def _near(columns: Columns, names: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Missing field → the column that nearly has one of its names, and of no other field a nearer one."""
    found: dict[str, str] = {}
    for at, column in enumerate(columns.header[:100]):
        if at in columns.fields.values() or len(column) > NAME_LIMIT:
            continue
        near = {
            field: max(difflib.SequenceMatcher(None, _normal(name), _normal(column)).ratio() for name in names[field])
            for field in names
        }
        best = max(near, key=near.__getitem__)
        if near[best] >= 0.7 and best not in columns.fields:
            found.setdefault(best, column)
    return found


def needed(required: Sequence[str]) -> str:
    """The columns that a manifest has, for a person."""
    chinese = {field: next(name for name in names if not name.isascii()) for field, names in KNOWN_NAMES.items()}
    return ", ".join(f"{field} ({chinese[field]})" for field in required)


def _normal(name: str) -> str:
    """A header name as it is compared: without case, invisible characters, spaces or dashes."""
    return re.sub(r"[\s\-_]+", "_", clean(name)).strip("_").casefold()
