"""How much work and memory a HEIC asks of its decoder, told from its boxes before anything is decoded. Pure.

A HEIC is put together from items: its picture may be a grid or an overlay of others, these again of others, and the
same item may stand in any number of places. The decoder decodes it anew for each.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from batchupload.language import _
from batchupload.picture_work import TooComplexError

MOST_TIMES = 4
"""Pixels put together for each of `photos.max_pixels`: a grid and its tiles, of colours and of transparency."""
MOST_BYTES = 128 << 20
"""Bytes that the decoder reads, each as often as it is used: four times the largest file that is repaired."""
MOST_TEXT = 32 << 20
"""Bytes of EXIF and the like, each as often as a picture has it: the decoder keeps a copy for each."""
MOST_DEPTH = 4
"""Items within items: a phone's picture is a grid of tiles, turned by one more at most."""
MOST_ITEMS = 1000
"""Items of a file, as in the decoder. A phone writes one for each tile, up to 200 for 48 million pixels."""
MOST_USES = 4000
"""Items that the decoder goes through, each as often as it is used."""

_BOX = 8


class NoHeicError(Exception):
    """The boxes can't be taken apart."""


@dataclass(slots=True)
class _Items:
    """What the file says of its items."""

    kinds: dict[int, bytes] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    """Bytes of each."""
    pixels: dict[int, int] = field(default_factory=dict)
    references: list[tuple[bytes, int, tuple[int, ...]]] = field(default_factory=list)
    """Their kind, from which item they go out, and to which."""
    primary: int = 0


@dataclass(frozen=True, slots=True)
class _Work:
    uses: int
    pixels: int
    size: int


def check_heic(content: bytes, max_pixels: int) -> None:
    """Raise `TooComplexError` if the file is too much work for its decoder, and `NoHeicError` if it is none."""
    try:
        items = _items(content)
    except (struct.error, IndexError, RecursionError):
        raise NoHeicError from None
    if len(items.kinds) > MOST_ITEMS:
        raise TooComplexError(_("more than {most:,} parts", most=MOST_ITEMS))
    described = sum(items.sizes.get(of, 0) * len(to) for kind, of, to in items.references if kind == b"cdsc")
    if described > MOST_TEXT:
        raise TooComplexError(_("more than {most:,} bytes of metadata", most=MOST_TEXT))
    parts: dict[int, list[int]] = {}
    for kind, of, to in items.references:
        if kind == b"dimg":
            parts.setdefault(of, []).extend(to)
        if kind == b"auxl":  # what goes with a picture, such as its transparency
            for one in to:
                parts.setdefault(one, []).append(of)
    work = _work(items, parts, items.primary, 0, {})
    if work.uses > MOST_USES:
        raise TooComplexError(_("more than {most:,} parts", most=MOST_USES))
    # One that is itself too large is refused for that.
    if work.pixels > max(max_pixels, items.pixels.get(items.primary, 0)) * MOST_TIMES or work.size > MOST_BYTES:
        raise TooComplexError(_("parts that are used again and again"))


def _work(
    items: _Items, parts: Mapping[int, list[int]], item: int, depth: int, known: dict[tuple[int, int], _Work]
) -> _Work:
    """What it takes to decode an item with all that it is made of."""
    if depth > MOST_DEPTH:
        raise TooComplexError(_("parts within parts, more than {most} deep", most=MOST_DEPTH))
    if (item, depth) not in known:
        within = [_work(items, parts, part, depth + 1, known) for part in parts.get(item, ())]
        known[item, depth] = _Work(
            1 + sum(one.uses for one in within),
            items.pixels.get(item, 0) + sum(one.pixels for one in within),
            items.sizes.get(item, 0) + sum(one.size for one in within),
        )
    return known[item, depth]


def _items(content: bytes) -> _Items:
    found = next(((at, end) for kind, at, end in _boxes(content, 0, len(content)) if kind == b"meta"), None)
    if found is None:
        raise NoHeicError
    items = _Items()
    for kind, at, end in _boxes(content, found[0] + 4, found[1]):
        match kind:
            case b"pitm":
                items.primary = _number(content, at + 4, 2 if content[at] == 0 else 4)
            case b"iinf":
                _read_kinds(content, at, end, items)
            case b"iloc":
                _read_sizes(content, at, items)
            case b"iref":
                _read_references(content, at, end, items)
            case b"iprp":
                _read_pixels(content, at, end, items)
    return items


def _boxes(content: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each box, where its body begins and where it ends."""
    while at + _BOX <= end:
        size, kind = struct.unpack_from(">I4s", content, at)
        body = at + _BOX
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, body)
            body += 8
        after = end if size == 0 else at + size
        if after < body or after > end:
            raise NoHeicError
        yield kind, body, after
        at = after


def _number(content: bytes, at: int, size: int) -> int:
    if at + size > len(content):
        raise NoHeicError
    return int.from_bytes(content[at : at + size])


def _read_kinds(content: bytes, at: int, end: int, items: _Items) -> None:
    wide = content[at] > 0
    for kind, body, _end in _boxes(content, at + (8 if wide else 6), end):
        if kind == b"infe":
            size = 4 if content[body] >= 3 else 2
            items.kinds[_number(content, body + 4, size)] = content[body + 6 + size : body + 10 + size]


def _read_sizes(content: bytes, at: int, items: _Items) -> None:
    version, sizes = content[at], _number(content, at + 4, 2)
    offset, length, base, index = (sizes >> shift & 15 for shift in (12, 8, 4, 0))
    index = index if version else 0
    wide = 4 if version >= 2 else 2
    count = _number(content, at + 6, wide)
    at += 6 + wide
    for _item in range(count):
        item = _number(content, at, wide)
        at += wide + (2 if version else 0) + 2 + base
        extents = _number(content, at, 2)
        at += 2
        total = 0
        for _extent in range(extents):
            size = _number(content, at + index + offset, length)
            total += size or len(content)  # none said: all that there is
            at += index + offset + length
        items.sizes[item] = total


def _read_references(content: bytes, at: int, end: int, items: _Items) -> None:
    wide = 4 if content[at] else 2
    for kind, body, _end in _boxes(content, at + 4, end):
        count = _number(content, body + wide, 2)
        first = body + wide + 2
        to = tuple(_number(content, first + wide * place, wide) for place in range(count))
        items.references.append((kind, _number(content, body, wide), to))


def _read_pixels(content: bytes, at: int, end: int, items: _Items) -> None:
    """Of each item the pixels that its properties say; the decoder refuses a picture that has more."""
    pixels: list[int] = []
    for kind, body, after in _boxes(content, at, end):
        if kind == b"ipco":
            for name, start, _after in _boxes(content, body, after):
                size = struct.unpack_from(">II", content, start + 4) if name == b"ispe" else (0, 0)
                pixels.append(size[0] * size[1])
        if kind == b"ipma":
            _read_properties(content, body, pixels, items)


def _read_properties(content: bytes, at: int, pixels: list[int], items: _Items) -> None:
    wide, each = (4 if content[at] else 2), (2 if content[at + 3] & 1 else 1)
    count = _number(content, at + 4, 4)
    at += 8
    for _item in range(count):
        item, number = _number(content, at, wide), content[at + wide]
        at += wide + 1
        for _place in range(number):
            place = _number(content, at, each) & (0x7FFF if each == 2 else 0x7F)
            at += each
            if 0 < place <= len(pixels):
                items.pixels[item] = max(items.pixels.get(item, 0), pixels[place - 1])
