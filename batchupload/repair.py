"""A photo that can't be sent as it is → one that can, with what was done to it: bytes to bytes. Pure.

What must be encoded anew is decoded once, and encoded as often as it takes to get just under the limit, which is once
or twice: how large it would be at another quality is told by a sample of it, a twentieth of its rows.
"""

import io
import os
import re
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import Any, BinaryIO

from PIL import Image, JpegImagePlugin

from batchupload.heic_work import NoHeicError, check_heic
from batchupload.language import N_, _
from batchupload.metadata import (
    EXIF_START,
    UPRIGHT,
    exif_of,
    made_upright,
    orientation_of,
    without_metadata,
)
from batchupload.model import BatchuploadError
from batchupload.photos import (
    PhotoError,
    Room,
    check_end,
    check_pixels,
    damage,
    media_type_of,
    memory_of,
    size_of,
    too_large,
)
from batchupload.picture_work import TooComplexError, check_parts
from batchupload.reasons import Reason
from batchupload.shop_settings import PhotoSettings

BEST, FLOOR = 92, 70
"""Qualities: above the one nothing more can be seen, below the other JPEG's blocks begin to show in small print."""
SIDES = (3200, 2560, 2048, 1600)
"""Longest sides, in pixels, that a picture is made smaller to where quality alone does not do it.

The last is the floor. An ID card is 86 mm wide and its smallest print 2.5 mm high; one that fills four fifths of 1,600
pixels has 15 to the millimetre, and 37 for that print. Held in a hand, at a quarter of the picture's width, it still
has 12, about the least that people (and text recognition) read. Below that a repair would only hide that the photo is
no good.
"""
HALVED_FROM = 8000
"""A longest side at which the decoder may give half the size, four times faster: that is still above the first step."""
BYTES_PER_PIXEL = 8
"""Memory of a repair: Pillow keeps 4 bytes for each pixel, and a second copy while the picture is turned or shrunk."""
HEIC_BYTES_PER_PIXEL = 16
"""The planes of the HEIC decoder and its picture come on top."""
NO_HEIC = N_(
    "photos.repair asks for heic, and the decoder of HEIC photos is not installed. "
    "Install it (pip install 'batchupload[heic]'), or take heic off the list."
)
_HEIC = re.compile(rb".{4}ftyp(?:hei|hev|mif1|msf1)", re.DOTALL)
_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BAND = 16
"""Rows of each band of a sample: the height of JPEG's blocks where colour has half the resolution."""
_SHARE = 20


@dataclass(frozen=True, slots=True)
class _Source:
    """A picture that was decoded, and what is kept of its file."""

    picture: Image.Image
    kept: dict[str, Any]
    """What every encoding of it carries along: EXIF and colour profile."""
    like_before: dict[str, Any] | None
    """How to encode it as its file was, where that can be."""
    lost_metadata: bool = False
    """Whether a HEIC had some that had to go; from others it was taken before."""


def repair(content: bytes, settings: PhotoSettings, room: Room) -> tuple[bytes, str]:
    """The photo as it may be sent, and what was done in a few words: the same bytes and none where nothing was.

    Raises `PhotoError` where it is damaged, or can't be brought under `max_bytes` without blurring its text.
    """
    wanted = settings.repair
    if _HEIC.match(content):
        return _encoded_anew(content, settings, room, UPRIGHT, heic=True) if "heic" in wanted else (content, "")
    media_type_of(content)
    try:
        check_parts(content)
    except TooComplexError as error:
        raise PhotoError(Reason.PHOTO_TOO_COMPLEX, str(error)) from None
    kept = content
    if "metadata" in wanted:
        kept = without_metadata(content, cut_behind=settings.allow_trailing_data)
    removed = _("metadata removed") if kept != content else ""
    oversize = len(kept) > settings.max_bytes
    if oversize and "resize" not in wanted:
        raise too_large(len(kept), settings.max_bytes)
    turn = orientation_of(kept) if "orientation" in wanted else UPRIGHT
    if not oversize and turn == UPRIGHT:
        return kept, removed
    repaired, done = _encoded_anew(kept, settings, room, turn, heic=False)
    return repaired, f"{done}, {removed}" if removed else done


def require_decoders(settings: PhotoSettings) -> None:
    """Raise a `BatchuploadError` with the remedy where a decoder is asked for that is not installed."""
    if "heic" in settings.repair:
        try:
            _heif()
        except ImportError:
            raise BatchuploadError(_(NO_HEIC)) from None


def _encoded_anew(content: bytes, settings: PhotoSettings, room: Room, turn: int, *, heic: bool) -> tuple[bytes, str]:
    try:
        if heic:
            check_heic(content, settings.max_pixels)
        width, height = _heif().open_heif(content).size if heic else size_of(content)
        check_pixels(width, height, settings.max_pixels)
        kept = 0 if heic else memory_of(content, settings.max_pixels)
        with room(width * height * (HEIC_BYTES_PER_PIXEL if heic else BYTES_PER_PIXEL) + kept):
            source = _from_heic(content, settings) if heic else _decoded(content, settings, turn)
            repaired, side = _encoded(source, len(content), settings)
    except TooComplexError as error:
        raise PhotoError(Reason.PHOTO_TOO_COMPLEX, str(error)) from None
    except NoHeicError:
        raise PhotoError(Reason.PHOTO_CORRUPT, "") from None
    except Exception as error:
        raise damage(error) from error
    done = [_("HEIC to JPEG")] if heic else []
    if len(content) > settings.max_bytes or side:
        done.append(_("resized {before} → {after}", before=_size(len(content)), after=_size(len(repaired))))
        done[-1] += f" ({side} px)" if side else ""
    done += [_("rotated")] * (turn != UPRIGHT) + [_("metadata removed")] * source.lost_metadata
    return repaired, ", ".join(done)


def _decoded(content: bytes, settings: PhotoSettings, turn: int) -> _Source:
    """The picture, upright where that is asked for. Raises what decoders do, and `PhotoError`."""
    with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as picture:
        check_end(content, picture, settings.allow_trailing_data)
        width, height = picture.size
        if len(content) > settings.max_bytes and max(width, height) >= HALVED_FROM:
            picture.draft(None, (width // 2, height // 2))
        picture.load()
    exif = exif_of(content)
    if turn != UPRIGHT:
        exif = b"" if "metadata" in settings.repair else made_upright(exif)
    before, kept = _like_before(picture, turn), _kept(picture, exif)
    # Only now: what stays in `info` would be written again.
    picture.info = {name: picture.info[name] for name in ("transparency",) if name in picture.info}
    return _Source(picture.transpose(_TURNED[turn]) if turn != UPRIGHT else picture, kept, before)


def _from_heic(content: bytes, settings: PhotoSettings) -> _Source:
    """The picture as its file says it is shown: the decoder turns it upright."""
    picture: Image.Image = _heif().open_heif(content).to_pillow()
    exif = bytes(picture.info.get("exif") or b"").removeprefix(EXIF_START)
    lost_metadata = "metadata" in settings.repair and bool(exif or picture.info.get("xmp"))
    kept = _kept(picture, b"" if lost_metadata else made_upright(exif))
    picture.info = {}
    return _Source(picture, kept, None, lost_metadata)


def _kept(picture: Image.Image, exif: bytes) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    if exif and len(exif) < 65_000:  # what a JPEG's segment takes
        kept["exif"] = EXIF_START + exif
    # A profile tells of the channels that the file has, and a JPEG of ours has three or one.
    if picture.info.get("icc_profile") and picture.mode in {"RGB", "RGBA", "L", "P"}:
        kept["icc_profile"] = picture.info["icc_profile"]
    return kept


def _like_before(picture: Image.Image, turn: int) -> dict[str, Any] | None:
    """The file's own way of encoding, so that turning costs no more than the rounding of one more encoding."""
    if picture.format == "PNG":
        return {"format": "PNG"}
    if picture.mode not in {"RGB", "L"}:
        return None
    across = turn >= 5  # what was across is now down, in the tables too
    tables: list[list[int]] = [list(table) for table in getattr(picture, "quantization", {}).values()]
    if across:
        tables = [[table[at % 8 * 8 + at // 8] for at in range(64)] for table in tables]
    sampling = JpegImagePlugin.get_sampling(picture)
    # 4:2:2 on its side is 4:4:0, which Pillow does not write, and -1 is what it does not know: then all colour stays.
    sampling = 0 if sampling < 0 or (sampling == 1 and across) else sampling
    return {"format": "JPEG", "qtables": tables, "subsampling": sampling}


def _encoded(source: _Source, size: int, settings: PhotoSettings) -> tuple[bytes, int]:
    """The picture within the limit, and its longest side where that had to be less. Raises `PhotoError`."""
    limit = settings.max_bytes
    if source.like_before and size <= limit:
        content = _saved(source.picture, source.kept | source.like_before)
        if len(content) <= limit:
            return content, 0
    picture = _for_jpeg(source.picture)
    content, least = _fitted(picture, limit, source.kept)
    if content:
        return content, 0
    if "resize" not in settings.repair:
        raise PhotoError(
            Reason.PHOTO_TOO_LARGE,
            _("{size} bytes, at most {limit}; photos.repair has no resize", size=size, limit=limit),
        )
    longest = max(picture.size)
    for side in (side for side in SIDES if side < longest):
        scale = side / longest
        # Bytes shrink less than pixels do (in photos by the power of 0.85): hopeless steps are passed over.
        if least * scale**1.7 > limit * 1.1 and side != SIDES[-1]:
            continue
        width, height = (max(1, round(length * scale)) for length in picture.size)
        # Hamming's filter is nearly as sharp as Lanczos', in less than half the time.
        content, _quality = _fitted(picture.resize((width, height), Image.Resampling.HAMMING), limit, source.kept)
        if content:
            return content, side
    raise PhotoError(
        Reason.PHOTO_TOO_LARGE,
        _(
            "{size} bytes, at most {limit}; repair would blur it: it is more even at {side} px and quality {quality}",
            size=size,
            limit=limit,
            side=min(longest, SIDES[-1]),
            quality=FLOOR,
        ),
    )


def _fitted(picture: Image.Image, limit: int, kept: dict[str, Any]) -> tuple[bytes, float]:
    """A JPEG just under the limit, or nothing where the least quality is more; and about how large that is."""
    sample, share = _sample_of(picture)
    guesses: dict[int, float] = {}

    def guess(quality: int) -> float:
        if quality not in guesses:
            guesses[quality] = len(_jpeg(sample, quality, {})) * share + overhead
        return guesses[quality]

    def best(ratio: float, below: int) -> int:
        """The best quality that seems to fit; `FLOOR` where none does."""
        low, high = FLOOR, below
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if guess(middle) * ratio <= limit else (low, middle)
        return low

    overhead = sum(len(block) for block in kept.values())
    if guess(FLOOR) > limit * 1.1:
        return b"", guess(FLOOR)
    quality = best(1.04, BEST + 1)
    while True:
        content = _jpeg(picture, quality, kept)
        if len(content) <= limit:
            return content, guess(FLOOR)
        if quality == FLOOR:
            return b"", len(content)
        quality = best(len(content) / guess(quality) * 1.01, quality)


def _sample_of(picture: Image.Image) -> tuple[Image.Image, float]:
    """Bands from all over the picture but its margins, and how many times more rows it has."""
    width, height = picture.size
    count = height // (_BAND * _SHARE)
    if count < 2:
        return picture, 1.0
    sample = Image.new(picture.mode, (width, count * _BAND))
    for band in range(count):
        top = height * (2 * band + 1) // (2 * count) // _BAND * _BAND
        sample.paste(picture.crop((0, top, width, top + _BAND)), (0, band * _BAND))
    return sample, height / sample.height


def _for_jpeg(picture: Image.Image) -> Image.Image:
    """The picture in colours that a JPEG has: on white where it is transparent."""
    if picture.mode in {"RGB", "L"} and "transparency" not in picture.info:
        return picture
    if picture.mode.startswith("I"):  # 16 bits of grey
        return picture.convert("I").point(lambda value: value / 256).convert("L")
    if picture.has_transparency_data:
        solid = picture.convert("RGBA")
        white = Image.new("RGB", picture.size, "white")
        white.paste(solid, mask=solid.getchannel("A"))
        return white
    return picture.convert("L" if picture.mode == "1" else "RGB")


def _jpeg(picture: Image.Image, quality: int, kept: dict[str, Any]) -> bytes:
    # Colour at half the resolution: print is told from its ground by brightness.
    return _saved(picture, kept | {"format": "JPEG", "quality": quality, "subsampling": 2})


def _saved(picture: Image.Image, how: dict[str, Any]) -> bytes:
    with _memory() as file:
        picture.save(file, **how)
        file.seek(0)
        return file.read()


def _memory() -> BinaryIO:
    """A file in memory, with a descriptor where that can be: only then Pillow's encoder leaves other threads alone."""
    if sys.platform == "linux":
        with suppress(OSError):  # out of open files
            return open(os.memfd_create("photo"), "w+b")
    return io.BytesIO()


def _heif() -> Any:
    """Raises `ImportError`: it is an extra."""
    return import_module("pillow_heif")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 100_000 else f"{count / 1e3:.1f} kB"
