"""Photos of one set that are whole, but look wrong: what is worth a warning, and changes no outcome. Pure.

Only photos of one set are compared by their looks: two people's cards, taken alike, look alike too.
"""

from collections.abc import Mapping
from itertools import accumulate, combinations
from operator import itemgetter, sub
from typing import NamedTuple

from PIL import Image

from batchupload.language import _
from batchupload.model import Note, NoteKind

ACROSS, DOWN = 9, 8
"""Cells of the grid that a picture is known by; between 9 there are 8 steps, and so 64 bits (dHash)."""
ALIKE_STEPS, ALIKE_LEVELS = 6, 4.0
"""Of 64 steps, and in mean levels of 255; both must be as near.

The same picture encoded anew, in grey, or made smaller differs by up to 4 and 1.3; different pictures of one set differ
by 11 steps and more (`test_set_checks.py` measures it).
"""
ROUNDING = 2
"""Levels that an encoder may change, and on flat grounds each way."""
STEPS_TO_SEE = 8
"""A picture with fewer steps than these has nothing to be known by."""
BLANK_LEVELS, BLANK_SHARE = 12, 0.998
"""A picture is blank where nearly all of it lies within so many levels of 255, the sensor's noise averaged away."""

BAND_PIXELS = 1 << 20
"""Pixels of a band of a PNG, whose decoder gives no smaller picture."""

_RIGHT = itemgetter(*(ACROSS * row + column + 1 for row in range(DOWN) for column in range(ACROSS - 1)))
_LEFT = itemgetter(*(ACROSS * row + column for row in range(DOWN) for column in range(ACROSS - 1)))


class Looks(NamedTuple):
    """What a decoded picture is known by."""

    levels: bytes
    """The brightness of each cell of the grid, row by row."""
    blank: bool


class Glimpse(NamedTuple):
    """What was seen of a photo while it was validated."""

    size: tuple[int, int]
    looks: Looks | None
    """None where it was not decoded."""


def looks_of(picture: Image.Image) -> Looks | None:
    """What a decoded picture is known by; None for the 16 bits of a rare PNG."""
    if picture.mode.startswith(("I", "F")):
        return None
    if picture.format == "PNG" or picture.mode != "L":  # to an eighth, as JPEG's decoder gives it
        picture = _smaller(picture, max(1, min(8, picture.width // (4 * ACROSS), picture.height // (4 * DOWN))))
    grid = picture.resize((ACROSS, DOWN), Image.Resampling.BOX, reducing_gap=4 if _is_large(picture) else None)
    levels = grid.tobytes()
    # What differs among the cells of the grid needs no closer look.
    blank = max(levels) - min(levels) < 2 * BLANK_LEVELS and _is_blank(picture.histogram())
    return Looks(levels, blank)


def _smaller(picture: Image.Image, times: int) -> Image.Image:
    """In grey, so many `times` smaller; band by band, for a whole picture in other colours would double its memory."""
    size = -(-picture.width // times), -(-picture.height // times)
    small = Image.new("L", size)
    band = max(1, BAND_PIXELS // picture.width // times) * times
    for top in range(0, picture.height, band):
        part = picture.crop((0, top, picture.width, min(top + band, picture.height)))
        if part.mode not in {"L", "RGB", "RGBA", "LA"}:
            part = part.convert("RGBA" if picture.has_transparency_data else "RGB")
        small.paste(_grey(part.reduce(times)), (0, top // times))
    return small


def warnings_of(glimpses: Mapping[str, Glimpse], small_side: int) -> list[Note]:
    """What is to be said of a set, by its fields."""
    notes = []
    for field, (size, looks) in glimpses.items():
        if min(size) < small_side:
            notes.append(
                Note(
                    NoteKind.SMALL,
                    _("{field} is small, {width} × {height}", field=field, width=size[0], height=size[1]),
                )
            )
        if looks and looks.blank:
            notes.append(Note(NoteKind.BLANK, _("{field} is blank", field=field)))
    seen = [(field, glimpse.looks) for field, glimpse in glimpses.items() if glimpse.looks]
    for (field, looks), (other_field, other_looks) in combinations(seen, 2):
        if is_alike(looks, other_looks):
            notes.append(
                Note(
                    NoteKind.ALIKE,
                    _("{field} and {other_field} look the same", field=field, other_field=other_field),
                )
            )
    return notes


def is_alike(one: Looks, other: Looks) -> bool:
    """Whether two pictures seem to be one, encoded in two ways."""
    most = ALIKE_LEVELS * ACROSS * DOWN
    if abs(sum(one.levels) - sum(other.levels)) > most:  # as nearly always
        return False
    apart: int = sum(map(abs, map(sub, one.levels, other.levels)))
    if apart > most:
        return False
    return steps_apart(one, other) <= ALIKE_STEPS and _can_be_known(one) and _can_be_known(other)


def steps_apart(one: Looks, other: Looks) -> int:
    """Steps that go up in the one and down in the other (dHash), and not only by the rounding of an encoder."""
    pairs = zip(_steps(one), _steps(other), strict=True)
    return sum((step > 0) != (other_step > 0) and abs(step - other_step) > ROUNDING for step, other_step in pairs)


def _is_large(picture: Image.Image) -> bool:
    """Whether it is faster in two steps, of which the first takes whole pixels."""
    return picture.width * picture.height > 20_000


def _grey(picture: Image.Image) -> Image.Image:
    """On white where it is transparent."""
    if picture.mode in {"RGBA", "LA"}:
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    return picture if picture.mode == "L" else picture.convert("L")


def _steps(looks: Looks) -> list[int]:
    return [*map(sub, _RIGHT(looks.levels), _LEFT(looks.levels))]


def _can_be_known(looks: Looks) -> bool:
    return sum(abs(step) > ROUNDING for step in _steps(looks)) >= STEPS_TO_SEE


def _is_blank(histogram: list[int]) -> bool:
    sums = [0, *accumulate(histogram)]
    most: int = max(map(sub, sums[BLANK_LEVELS:], sums))
    return most >= BLANK_SHARE * sums[-1]
