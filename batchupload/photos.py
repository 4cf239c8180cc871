"""Paths → the validated photo set, or the problem with it: blocking work for a thread, each file read once."""

import io
import re
import struct
import zlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

# Importing the plugins loads the decoders now, not in a worker thread.
from PIL import Image, MpoImagePlugin, PngImagePlugin
from xxhash import xxh3_128_digest

from batchupload.language import N_, _
from batchupload.model import Note, NoteKind, Photo, PhotoSet, Problem
from batchupload.photo_errors import FilesExhaustedError as FilesExhaustedError
from batchupload.photo_errors import PhotoError as PhotoError
from batchupload.photo_errors import damage as damage
from batchupload.photo_errors import too_large as too_large
from batchupload.photo_files import Folders, read_photo
from batchupload.photo_sets import set_digest
from batchupload.picture_work import MOST_SIDE, TooComplexError, check_parts, memory_kept
from batchupload.reasons import Reason
from batchupload.set_checks import Glimpse, Looks, looks_of, warnings_of
from batchupload.shop_settings import PhotoSettings

JPEG, PNG = "image/jpeg", "image/png"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
# A marker inside JPEG's coded data: FF with neither a stuffed zero, a restart marker nor another FF behind it.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Some cameras put restart markers into the coded data: RST0 to RST7, and round again.
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_RESTARTS = bytes(range(0xD0, 0xD8))
_PIECE = 1 << 18
_OTHER_TYPES = (
    (0, b"GIF8", "GIF"),
    (0, b"%PDF", "PDF"),
    (8, b"WEBP", "WebP"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyp", N_("a video")),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"PK\x03\x04", N_("a ZIP archive or Office document")),
    (0, b"<", N_("HTML or XML")),
    (0, b"{", "JSON"),
)

BYTES_PER_PIXEL = 4
"""Memory that decoding may take for each of `photos.max_pixels`."""
LARGE = 16 << 20
"""Bytes of a picture from which on its decoding waits for its turn, so that several at a time stay within bounds."""
Mend = Callable[[bytes], tuple[bytes, str]]
"""A photo → one that can be sent, and what was done to it. Raises `PhotoError`."""
Room = Callable[[int], AbstractContextManager[None]]
"""Waits until so many bytes of memory may be taken."""


def _unbounded(size: int) -> AbstractContextManager[None]:
    del size
    return nullcontext()


@dataclass(frozen=True, slots=True)
class Means:
    """What there is beside the disk for the photos of one order."""

    mend: Mend | None = None
    """Makes of each photo the one that is sent."""
    room: Room = _unbounded
    decoding: Callable[[str], object] = str
    """Is told which field's photo the decoder begins with, and of none while files are read."""


def load_photos(
    paths: Mapping[str, str],
    folder: Path,
    settings: PhotoSettings,
    trusted: bytes | None = None,
    fetched: Mapping[str, bytes] = MappingProxyType({}),
    means: Means = Means(),
) -> PhotoSet | Problem:
    """Read and validate the photos of one order, but for reading those that were `fetched` already.

    Paths are relative to `settings.root`, or else to `folder`. A set with the digest `trusted`, which was validated
    before, is not decoded again. Raises `FilesExhaustedError`.
    """
    photos: list[Photo] = []
    contents: list[bytes] = []
    notes: list[Note] = []
    with Folders(settings.root or folder, settings.allow_outside_root) as folders:
        for field, path in paths.items():
            try:
                means.decoding("")
                content = fetched.get(field) or read_photo(path, folders, settings.read_limit)
                if means.mend:
                    means.decoding(field)
                    content, done = means.mend(content)
                    notes += [Note(NoteKind.REPAIRED, f"{field}: {done}")] * bool(done)
                contents.append(content)
                photos.append(Photo(field, content, media_type_of(content)))
            except PhotoError as error:
                return _problem(field, error)
    digests = [xxh3_128_digest(content) for content in contents]
    for at, photo in enumerate(photos):
        if digests[at] in digests[:at]:
            return Problem(
                Reason.PHOTO_REPEATED,
                _("{field} and {other_field}", field=photos[digests.index(digests[at])].field, other_field=photo.field),
            )
    photo_set = PhotoSet(tuple(photos), set_digest(dict(zip(paths, digests, strict=True))), tuple(notes))
    if photo_set.digest == trusted or settings.validate_ == "off":
        return photo_set
    glimpses: dict[str, Glimpse] = {}
    for photo, content in zip(photos, contents, strict=True):
        try:
            means.decoding(photo.field)
            glimpses[photo.field] = validate(content, settings, means.room)
        except PhotoError as error:
            return _problem(photo.field, error)
    if settings.warn and (warned := warnings_of(glimpses, settings.small_side)):
        return replace(photo_set, notes=(*notes, *warned))
    return photo_set


def _problem(field: str, error: PhotoError) -> Problem:
    detail = f"{field}: {error.problem.detail}" if error.problem.detail else field
    return Problem(error.problem.reason, detail, field)


def media_type_of(content: bytes) -> str:
    """JPEG or PNG by the first bytes. Raises `PhotoError`, which names the true type where it is known."""
    if content.startswith(b"\xff\xd8\xff"):
        return JPEG
    if content.startswith(_PNG_START):
        return PNG
    for at, start, name in _OTHER_TYPES:
        if content.startswith(start, at):
            raise PhotoError(Reason.PHOTO_WRONG_TYPE, _("this is {kind}", kind=_(name)))
    raise PhotoError(Reason.PHOTO_WRONG_TYPE, "")


def validate(content: bytes, settings: PhotoSettings, room: Room = _unbounded) -> Glimpse:
    """Hold one picture to the level of `settings`, which is not `off`; what was seen of it. Raises `PhotoError`."""
    width, height = size_of(content)
    check_pixels(width, height, settings.max_pixels)
    looks = None
    if settings.validate_ == "full":
        memory = memory_of(content, settings.max_pixels)
        with room(memory) if memory >= LARGE else nullcontext():
            looks = _decode(content, settings)
    return Glimpse((width, height), looks)


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Raise `PhotoError` where a picture of this size is too large to be decoded."""
    if width * height > max_pixels:
        raise PhotoError(
            Reason.PHOTO_TOO_MANY_PIXELS,
            _("{width} × {height}, at most {max_pixels}", width=width, height=height, max_pixels=max_pixels),
        )
    if max(width, height) > MOST_SIDE:
        raise PhotoError(
            Reason.PHOTO_TOO_MANY_PIXELS,
            _("{width} × {height}, at most {most} along one side", width=width, height=height, most=MOST_SIDE),
        )


def memory_of(content: bytes, max_pixels: int) -> int:
    """Bytes that decoding it at its least takes. Raises `PhotoError` where that, or its work, is more than allowed."""
    try:
        check_parts(content)
        kept = memory_kept(content)
    except TooComplexError as error:
        raise PhotoError(Reason.PHOTO_TOO_COMPLEX, str(error)) from None
    most = max_pixels * BYTES_PER_PIXEL
    if kept > most:
        text = _("progressive: to decode it takes {kept:,} MB, at most {most:,}", kept=kept >> 20, most=most >> 20)
        raise PhotoError(Reason.PHOTO_TOO_MANY_PIXELS, text)
    width, height = size_of(content)
    return kept or width * height * BYTES_PER_PIXEL // (1 if content.startswith(_PNG_START) else 64)


def size_of(content: bytes) -> tuple[int, int]:
    """Width and height by the header of a JPEG or PNG. Raises `PhotoError` where it is damaged or cut off.

    Not by Pillow, which for this alone takes a third of the time that the whole order takes.
    """
    try:
        width, height = _png_size(content) if content.startswith(_PNG_START) else _jpeg_size(content)
    except (struct.error, IndexError):
        raise PhotoError(Reason.PHOTO_TRUNCATED, "") from None
    if not width or not height:
        raise PhotoError(Reason.PHOTO_CORRUPT, "")
    return width, height


def _png_size(content: bytes) -> tuple[int, int]:
    length, kind, width, height = struct.unpack_from(">I4sII", content, len(_PNG_START))
    (crc,) = struct.unpack_from(">I", content, 29)
    if length != 13 or kind != b"IHDR" or zlib.crc32(content[12:29]) != crc:
        raise PhotoError(Reason.PHOTO_CORRUPT, "")
    return width, height


def _jpeg_size(content: bytes) -> tuple[int, int]:
    at = 2
    while True:
        while content[at] == 0xFF and content[at + 1] == 0xFF:
            at += 1  # a marker may have fill bytes before it
        marker, kind = content[at], content[at + 1]
        if marker != 0xFF or kind in {0xD8, 0xD9, 0xDA}:
            raise PhotoError(Reason.PHOTO_CORRUPT, "")
        (length,) = struct.unpack_from(">H", content, at + 2)
        if kind in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", content, at + 5)
            return width, height
        at += 2 + length


def _decode(content: bytes, settings: PhotoSettings) -> Looks | None:
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as picture:
            check_end(content, picture, settings.allow_trailing_data)
            picture.draft("L", (1, 1))  # JPEG: at an eighth of the size; the whole file is read all the same
            picture.load()
            return looks_of(picture) if settings.warn else None
    except Exception as error:
        raise damage(error) from error


def check_end(content: bytes, picture: Image.Image, allow_trailing_data: bool) -> None:
    """Find the end of the picture; no decoder notices what lies behind it, nor JPEG's missing end."""
    if isinstance(picture, PngImagePlugin.PngImageFile):
        end = _png_end(content)
    else:
        end = _jpeg_end(content, 0)
        # Phones write several pictures into one file (MPO), each a JPEG of its own.
        while isinstance(picture, MpoImagePlugin.MpoImageFile) and content.startswith(b"\xff\xd8\xff", end):
            end = _jpeg_end(content, end)
    if not allow_trailing_data and content[end:].strip(b"\0"):
        raise PhotoError(Reason.PHOTO_TRAILING_DATA, _("{count} bytes behind the picture", count=len(content) - end))


def _png_end(content: bytes) -> int:
    """Where the picture ends, every checksum up to there being right; Pillow passes over those of the pixels."""
    at = len(_PNG_START)
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4])
        kind, end = content[at + 4 : at + 8], at + 12 + length
        if end > len(content):
            break
        # Pillow looks at the checksums of some chunks only.
        if zlib.crc32(memoryview(content)[at + 4 : end - 4]) != int.from_bytes(content[end - 4 : end]):
            raise PhotoError(Reason.PHOTO_CORRUPT, "")
        at = end
        if kind == b"IEND":
            return at
    # Where the end is there all the same, it is the length of a chunk that is wrong.
    raise PhotoError(Reason.PHOTO_CORRUPT if _PNG_END in content else Reason.PHOTO_TRUNCATED, "")


def _jpeg_end(content: bytes, start: int) -> int:
    """Where the picture ends, all markers up to there being such as can be; decoders pass over those that can't."""
    at = start + 2
    while marker := _NEXT_MARKER.search(content, at):
        if not _restarts_in_turn(content, at, marker.start()):
            raise PhotoError(Reason.PHOTO_CORRUPT, "")
        kind, at = content[marker.start() + 1], marker.end()
        if kind == 0xD9:
            return at
        if 0x01 < kind < 0xC0:  # reserved (ITU-T T.81, table B.1)
            raise PhotoError(Reason.PHOTO_CORRUPT, "")
        if kind != 0x01 and at + 2 <= len(content):  # every other marker but TEM has a length
            at += int.from_bytes(content[at : at + 2])
    raise PhotoError(Reason.PHOTO_TRUNCATED, "")


def _restarts_in_turn(content: bytes, at: int, end: int) -> bool:
    """Whether the restart markers there count up to 7 and begin anew. Looks piece by piece: there may be many."""
    count = 0
    while at < end:
        upto = min(at + _PIECE, end)
        upto += content[upto - 1] == 0xFF and upto < end  # no marker is cut in two
        restarts = b"".join(_RESTART.findall(content, at, upto))
        first = count % 8
        if restarts != (_RESTARTS * (len(restarts) // 8 + 2))[first : first + len(restarts)]:
            return False
        count += len(restarts)
        at = upto
    return True
