"""Patterns such as `{order_id}/{field}.*` and the path of a file → the orders and fields that it may be of. Pure."""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from batchupload.language import _

ORDER_ID, FIELD = "{order_id}", "{field}"
_HOLES = re.compile(r"(\{[^{}]*\}|\*)")
ANY_EXTENSION = ".*"


@dataclass(frozen=True, slots=True)
class Part:
    """One name of a path: a folder's, or the file's own."""

    literals: tuple[str, ...]
    """What stands before, between and behind the holes, folded; one more than there are holes."""
    holes: tuple[str, ...]
    """`{order_id}`, `{field}`, both in either order, or none."""
    any_name: bool = False
    """`*`, for a whole folder."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """Where the photos of an order lie, below the folder that is scanned."""

    text: str
    parts: tuple[Part, ...]
    any_extension: bool

    @property
    def begins_with_order(self) -> bool:
        """Whether all files of an order lie in its own folder, or bear its number, at the top."""
        first = self.parts[0]
        return ORDER_ID in first.holes and (len(self.parts) == 1 or first.literals == ("", ""))

    def example(self, order_id: str, field: str) -> str:
        """A path that fits."""
        path = self.text.replace(ORDER_ID, order_id).replace(FIELD, field)
        return path.removesuffix(ANY_EXTENSION) + ".jpg" if self.any_extension else path


@dataclass(frozen=True, slots=True)
class Reading:
    """One thing that a file may be by its name."""

    order_id: str
    field: str
    any_extension: bool
    """Whether the extension was left open, and so says nothing of what the file is."""


@dataclass(frozen=True, slots=True)
class Reader:
    """What file names mean."""

    patterns: Sequence[Pattern]
    names: Mapping[str, Sequence[str]]
    """What may stand for `{field}`, folded → the fields that it may mean."""
    is_order: Callable[[str], bool]
    lengths: Sequence[int]
    """Of the names, each once."""

    @property
    def streams(self) -> bool:
        """Whether each folder at the top belongs to one order, by its name."""
        return all(pattern.begins_with_order for pattern in self.patterns)

    def order_of_folder(self, name: str) -> str:
        """The order whose photos a folder at the top holds, by its name; empty where none does."""
        order_id = composed(name)
        return order_id if any(len(p.parts) > 1 for p in self.patterns) and self.is_order(order_id) else ""

    def names_of(self, field: str) -> list[str]:
        """What may stand for `{field}` where it means `field`."""
        return [name for name, fields in self.names.items() if field in fields]

    def read(self, path: str) -> list[Reading]:
        """All that the file at `path` (below the folder, with `/`) may be; none where no pattern fits."""
        names = composed(path).split("/")
        readings: dict[tuple[str, str], Reading] = {}
        for pattern in self.patterns:
            if len(pattern.parts) != len(names):
                continue
            for order_id, field in self._fits(pattern, names):
                known = readings.get((order_id, field))
                if known is None or known.any_extension:
                    readings[order_id, field] = Reading(order_id, field, pattern.any_extension)
        return list(readings.values())

    def _fits(self, pattern: Pattern, names: list[str]) -> Iterator[tuple[str, str]]:
        if pattern.any_extension:
            stem, _, extension = names[-1].rpartition(".")
            if not (stem and extension):
                return
            names = [*names[:-1], stem]
        ways: list[tuple[str, str]] = [("", "")]
        for part, name in zip(pattern.parts, names, strict=True):
            ways = [
                (order_id or order, field or of_field)
                for order, of_field in ways
                for order_id, field in self._meant(part, name)
                if not (order and order_id and order != order_id)
            ]
        for order_id, field in ways:
            if self.is_order(order_id):
                for meant in self.names[field]:
                    yield order_id, meant

    def _meant(self, part: Part, name: str) -> Iterator[tuple[str, str]]:
        """(order, name of a field), each empty where the part has none, in every way in which the part fits."""
        folded = fold(name)
        first, last = part.literals[0], part.literals[-1]
        start, end = len(first), len(name) - len(last)
        if part.any_name:
            yield "", ""
        elif not part.holes:
            if folded == first:
                yield "", ""
        elif start > end or not (folded.startswith(first) and folded.endswith(last)):
            return
        elif part.holes == (ORDER_ID,):
            yield name[start:end], ""
        elif part.holes == (FIELD,):
            if folded[start:end] in self.names:
                yield "", folded[start:end]
        else:
            between = part.literals[1]
            for length in self.lengths:
                order_first = part.holes[0] == ORDER_ID
                field = folded[end - length : end] if order_first else folded[start : start + length]
                if start + length + len(between) >= end or field not in self.names:
                    continue
                if order_first and folded[: end - length].endswith(between):
                    yield name[start : end - length - len(between)], field
                elif not order_first and folded[start + length :].startswith(between):
                    yield name[start + length + len(between) : end], field


def parse_pattern(text: str) -> Pattern:
    """Read one pattern. Raises `ValueError` that says what is wrong with it and what is allowed."""
    if not text.strip():
        raise ValueError(_("a pattern is empty; give one such as {order_id}/{field}.*"))
    if "\\" in text:
        raise ValueError(_("{text}: separate folders with /, not \\", text=text))
    names = composed(text).split("/")
    if "" in names:
        raise ValueError(
            _(
                "{text}: give a path below the folder that is scanned, without / in front, at its end or twice",
                text=text,
            )
        )
    if any(name.startswith(".") for name in names):
        raise ValueError(_("{text}: hidden files and folders, and . and .., are never looked at", text=text))
    any_extension = names[-1].endswith(ANY_EXTENSION)
    names[-1] = names[-1].removesuffix(ANY_EXTENSION)
    parts = tuple(_part(text, name, folder=at < len(names) - 1) for at, name in enumerate(names))
    holes = [hole for part in parts for hole in part.holes]
    for hole in (ORDER_ID, FIELD):
        if hole not in holes:
            raise ValueError(
                _(
                    "{text}: {hole} is missing; give such as {{order_id}}/{{field}}.* or {{order_id}}_{{field}}.*",
                    text=text,
                    hole=hole,
                )
            )
    if holes.count(FIELD) > 1:
        raise ValueError(_("{text}: {field} stands twice; keep one", text=text, field=FIELD))
    return Pattern(text, parts, any_extension)


def _part(text: str, name: str, *, folder: bool) -> Part:
    if folder and name == "*":
        return Part(("",), (), any_name=True)
    pieces = _HOLES.split(name)
    literals, holes = pieces[0::2], pieces[1::2]
    for hole in holes:
        if hole == "*":
            raise ValueError(
                _(
                    "{text}: * stands for any extension (.* at the end) or for a whole folder (*/), nowhere else",
                    text=text,
                )
            )
        if hole not in {ORDER_ID, FIELD}:
            raise ValueError(
                _(
                    "{text}: {hole} is neither {order_id} nor {field}; nothing else stands in braces",
                    text=text,
                    hole=hole,
                    order_id=ORDER_ID,
                    field=FIELD,
                )
            )
    if any(brace in literal for literal in literals for brace in "{}"):
        raise ValueError(
            _(
                "{text}: a brace has no partner; {order_id} and {field} are all that stands in braces",
                text=text,
                order_id=ORDER_ID,
                field=FIELD,
            )
        )
    if len(set(holes)) < len(holes):
        raise ValueError(_("{text}: {hole} stands twice in one name; keep one", text=text, hole=holes[0]))
    return Part(tuple(map(fold, literals)), tuple(holes))


def composed(text: str) -> str:
    """With letters and their marks in one character: some disks keep file names the other way."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def fold(text: str) -> str:
    """Without case, each character staying one, so that places in it are places in `text`."""
    folded = text.casefold()
    if len(folded) == len(text):
        return folded
    return "".join(one if len(one := character.casefold()) == 1 else character for character in text)


def field_names(own: Mapping[str, Sequence[str]], known: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """What may stand for `{field}`, folded → the fields that it may mean.

    Names of the user's `own` go first, as in a manifest's header: what one of them means is no other field's.
    """
    meant: dict[str, tuple[str, ...]] = {}
    for names in (own, known):
        taken = frozenset(meant)
        for field, several in names.items():
            for name in several:
                key = fold(composed(name))
                if key and key not in taken and field not in meant.get(key, ()):
                    meant[key] = (*meant.get(key, ()), field)
    return meant
