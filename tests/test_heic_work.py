"""A HEIC that would hold its decoder for minutes, or take its memory, is refused before the decoder sees it."""

import io
import random
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

import pytest
from PIL import Image

from batchupload.heic_work import NoHeicError, check_heic
from batchupload.photos import PhotoError
from batchupload.picture_work import TooComplexError
from batchupload.repair import repair
from batchupload.shop_settings import PhotoSettings

MOST = 50_000_000
Item = tuple[int, bytes, Sequence[int], Sequence[int]]
"""Its number, its kind, the bytes of each extent, and its properties."""
Reference = tuple[bytes, int, Sequence[int]]


def box(kind: bytes, body: bytes, version: int | None = None) -> bytes:
    full = b"" if version is None else struct.pack(">I", version << 24)
    return struct.pack(">I", 8 + len(full + body)) + kind + full + body


def ispe(side: int) -> bytes:
    return box(b"ispe", struct.pack(">II", side, side), 0)


def heic(items: Sequence[Item], sides: Sequence[int], references: Sequence[Reference] = ()) -> bytes:
    """A file of these items, the first of which is the picture; what they hold is left out."""
    entries = b"".join(box(b"infe", struct.pack(">IH4sB", one, 0, kind, 0), 3) for one, kind, _, _ in items)
    places = b"".join(
        struct.pack(">IHHH", one, 0, 0, len(extents)) + b"".join(struct.pack(">II", 0, size) for size in extents)
        for one, _, extents, _ in items
    )
    properties = b"".join(struct.pack(">IB", one, len(had)) + bytes(had) for one, _, _, had in items)
    links = b"".join(
        box(kind, struct.pack(f">IH{len(to)}I", of, len(to), *to), None) for kind, of, to in references
    )  # fmt: skip
    meta = [
        box(b"hdlr", struct.pack(">I4s13x", 0, b"pict"), 0),
        box(b"pitm", struct.pack(">I", items[0][0]), 1),
        box(b"iinf", struct.pack(">I", len(items)) + entries, 1),
        box(b"iprp", box(b"ipco", b"".join(map(ispe, sides)))
            + box(b"ipma", struct.pack(">I", len(items)) + properties, 1)),
        box(b"iref", links, 1),
        box(b"iloc", struct.pack(">BBI", 0x44, 0, len(items)) + places, 2),
    ]  # fmt: skip
    return box(b"ftyp", b"heic\0\0\0\0mif1heic") + box(b"meta", b"".join(meta), 0)


TILE: Item = (99, b"hvc1", [300_000], [2])


def within(depth: int, each: int, kind: bytes = b"iovl") -> bytes:
    """Items within items, each made of so many of the next."""
    items: list[Item] = [(one, kind, [20], [1]) for one in range(1, depth + 1)]
    links = [(b"dimg", one, [one + 1 if one < depth else TILE[0]] * each) for one in range(1, depth + 1)]
    return heic([*items, TILE], [512, 512], links)


TOO_COMPLEX: dict[str, Callable[[], bytes]] = {
    "many items": lambda: heic([(one, b"hvc1", [10], [1]) for one in range(1, 1200)], [64]),
    "one tile for 60,000 places": lambda: heic(
        [(1, b"grid", [12], [1]), TILE], [512, 512], [(b"dimg", 1, [99] * 60_000)]),
    "one large tile for 900 places": lambda: heic(
        [(1, b"iovl", [12], [1]), TILE], [512, 4000], [(b"dimg", 1, [99] * 900)]),
    "grids of grids": lambda: within(4, 16, b"grid"),
    "overlays of overlays": lambda: within(4, 200),
    "a long chain": lambda: within(900, 1, b"iden"),
    "a ring": lambda: heic([(1, b"iovl", [12], [1])], [512], [(b"dimg", 1, [1])]),
    "metadata for each of many pictures": lambda: heic(
        [*((one, b"hvc1", [10], [1]) for one in range(1, 900)), (900, b"Exif", [1 << 20], [])],
        [64], [(b"cdsc", 900, range(1, 900))]),
    "metadata put together from the same bytes": lambda: heic(
        [(1, b"hvc1", [10], [1]), (2, b"Exif", [30 << 20] * 30, [])], [64], [(b"cdsc", 2, [1])]),
    "a picture put together from the same bytes": lambda: heic([(1, b"hvc1", [30 << 20] * 30, [1])], [64]),
    "one alpha plane of many": lambda: heic(
        [(1, b"hvc1", [10], [1]), *((one, b"hvc1", [10], [2]) for one in range(2, 50))],
        [64, 6000], [(b"auxl", one, [1]) for one in range(2, 50)]),
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_COMPLEX)
def test_a_heic_that_is_too_much_work_is_refused_before_it_is_decoded(name: str) -> None:
    content = TOO_COMPLEX[name]()
    began = time.monotonic()
    with pytest.raises(TooComplexError):
        check_heic(content, MOST)
    assert time.monotonic() - began < 20


def test_what_a_phone_writes_is_within_the_bounds() -> None:
    tiles = [(one, b"hvc1", [60_000], [2]) for one in range(2, 194)]
    more: list[Item] = [(300, b"hvc1", [9000], [3]), (301, b"Exif", [3000], []), (302, b"hvc1", [400_000], [4])]
    links = [(b"dimg", 1, range(2, 194)), (b"thmb", 300, [1]), (b"cdsc", 301, [1]), (b"auxl", 302, [1])]
    check_heic(heic([(1, b"grid", [8], [1]), *tiles, *more], [6970, 512, 320, 3400], links), MOST)


def anywhere(size: int) -> AbstractContextManager[None]:
    return nullcontext()


def written(**how: object) -> bytes:
    heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    image = Image.effect_noise((600, 400), 30).convert("RGB")
    heif.from_pillow(image).save(file, quality=50, enc_params={"preset": "ultrafast"}, **how)
    return file.getvalue()


@pytest.mark.parametrize("how", [{}, {"tile_size": 256}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}])
def test_what_encoders_write_is_decoded(how: dict[str, object]) -> None:
    content, done = repair(written(**how), PhotoSettings.model_validate({"repair": ["heic"]}), anywhere)
    assert done.startswith("HEIC to JPEG")
    assert content.startswith(b"\xff\xd8\xff")


def test_the_reason_is_that_it_is_too_complex() -> None:
    pytest.importorskip("pillow_heif")
    with pytest.raises(PhotoError) as refused:
        repair(within(4, 16), PhotoSettings.model_validate({"repair": ["heic"]}), anywhere)
    assert refused.value.problem.reason == "photo_too_complex"


def test_boxes_that_stand_twice_are_refused_since_the_decoder_may_take_the_other() -> None:
    whole = within(1, 1)
    start, meta = whole[:24], whole[24:]
    pitm = box(b"pitm", struct.pack(">I", 99), 1)
    for content in (start + meta + meta, start + box(b"meta", meta[12:] + pitm, 0)):
        with pytest.raises(NoHeicError):
            check_heic(content, MOST)


def test_whatever_the_bytes_are_nothing_else_is_raised() -> None:
    whole, chance = within(3, 3), random.Random(1)
    for _round in range(3000):
        content = bytearray(whole[: chance.randrange(len(whole) + 1)] if chance.random() < 0.2 else whole)
        for _change in range(chance.randrange(1, 4)):
            if content:
                content[chance.randrange(len(content))] = chance.choice([0, 1, 0x7F, 0xFF, chance.randrange(256)])
        with suppress(NoHeicError, TooComplexError):
            check_heic(bytes(content), MOST)
