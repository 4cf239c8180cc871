"""Paths → the validated photo set, or the problem with it: blocking work for a thread, each file read once."""

import errno
import io
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path

# Importing the plugins loads the decoders now, not in a worker thread.
from PIL import Image, MpoImagePlugin, PngImagePlugin, UnidentifiedImageError
from xxhash import xxh3_128_digest

from batchupload.model import Photo, PhotoSet, Problem
from batchupload.reasons import Reason
from batchupload.settings import PhotoSettings

JPEG, PNG = "image/jpeg", "image/png"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"IEND\xaeB`\x82"
# A marker inside JPEG's coded data: FF with neither a stuffed zero, a restart marker nor another FF behind it.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# Some cameras put restart markers into the coded data: RST0 to RST7, and round again.
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_RESTARTS = bytes(range(0xD0, 0xD8))
_OTHER_TYPES = (
    (0, b"GIF8", "GIF"),
    (0, b"%PDF", "PDF"),
    (8, b"WEBP", "WebP"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftyphev", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftyp", "a video"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"PK\x03\x04", "a ZIP archive or Office document"),
    (0, b"<", "HTML or XML"),
    (0, b"{", "JSON"),
)


class PhotoError(Exception):
    """A photo can't be sent; carries the `problem`."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(reason, detail)
        self.problem = Problem(reason, detail)


class FilesExhaustedError(Exception):
    """This machine is out of open files: nothing is wrong with the photo."""


def load_photos(
    paths: Mapping[str, str], folder: Path, settings: PhotoSettings, trusted: bytes | None = None
) -> PhotoSet | Problem:
    """Read and validate the photos of one order.

    Paths are relative to `settings.root`, or else to `folder`. A set with the digest `trusted`, which was validated
    before, is not decoded again. Raises `FilesExhaustedError`.
    """
    photos: list[Photo] = []
    for field, path in paths.items():
        try:
            content = read_photo(path, settings.root or folder, settings)
            photos.append(Photo(field, content, media_type_of(content)))
        except PhotoError as error:
            return _problem(field, error)
    digests = [xxh3_128_digest(photo.content) for photo in photos]
    for at, photo in enumerate(photos):
        if digests[at] in digests[:at]:
            return Problem(Reason.PHOTO_REPEATED, f"{photos[digests.index(digests[at])].field} and {photo.field}")
    photo_set = PhotoSet(tuple(photos), b"".join(digests))
    for photo in photos if photo_set.digest != trusted else ():
        try:
            validate(photo.content, settings)
        except PhotoError as error:
            return _problem(photo.field, error)
    return photo_set


def _problem(field: str, error: PhotoError) -> Problem:
    return Problem(error.problem.reason, f"{field}: {error.problem.detail}" if error.problem.detail else field)


def read_photo(path: str, root: Path, settings: PhotoSettings) -> bytes:
    """The bytes of one photo, read once through a descriptor that was checked. Raises `PhotoError`."""
    try:
        descriptor = _open(path, root, settings.allow_outside_root)
    except (FileNotFoundError, NotADirectoryError):
        raise PhotoError(Reason.PHOTO_MISSING, "") from None
    except OSError as error:
        raise _unreadable(error) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise PhotoError(Reason.PHOTO_NOT_A_FILE, "")
        if status.st_size > settings.max_bytes:
            raise _too_large(status.st_size, settings.max_bytes)
        with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
            content = file.read(settings.max_bytes + 1) or b""
            while len(content) <= settings.max_bytes and (more := file.read(settings.max_bytes + 1 - len(content))):
                content += more  # a short read: a network disk, or the file grew
    except OSError as error:
        raise _unreadable(error) from None
    finally:
        os.close(descriptor)
    if len(content) > settings.max_bytes:
        raise _too_large(len(content), settings.max_bytes)
    if not content:
        raise PhotoError(Reason.PHOTO_EMPTY, "")
    return content


def media_type_of(content: bytes) -> str:
    """JPEG or PNG by the first bytes. Raises `PhotoError`, which names the true type where it is known."""
    if content.startswith(b"\xff\xd8\xff"):
        return JPEG
    if content.startswith(_PNG_START):
        return PNG
    for at, start, name in _OTHER_TYPES:
        if content.startswith(start, at):
            raise PhotoError(Reason.PHOTO_WRONG_TYPE, f"this is {name}")
    raise PhotoError(Reason.PHOTO_WRONG_TYPE, "")


def validate(content: bytes, settings: PhotoSettings) -> None:
    """Hold one picture to the level of `settings`. Raises `PhotoError`."""
    if settings.validate_ == "off":
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow only warns of sizes and odd metadata; max_pixels decides below
        try:
            with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as picture:
                pixels = picture.width * picture.height
                if pixels > settings.max_pixels:
                    raise PhotoError(
                        Reason.PHOTO_TOO_MANY_PIXELS,
                        f"{picture.width} × {picture.height}, at most {settings.max_pixels}",
                    )
                if settings.validate_ == "full":
                    _check_end(content, picture, settings.allow_trailing_data)
                    picture.draft(
                        "L", (1, 1)
                    )  # JPEG: decode at an eighth of the size; the whole file is read all the same
                    picture.load()
        except PhotoError:
            raise
        except Image.DecompressionBombError:
            raise PhotoError(Reason.PHOTO_TOO_MANY_PIXELS, f"at most {settings.max_pixels}") from None
        except (UnidentifiedImageError, OSError, ValueError, SyntaxError, IndexError, KeyError, struct.error) as error:
            # Pillow's decoders raise all of these on damaged files (its documentation promises no one type).
            cut = "truncated" in str(error)
            raise PhotoError(Reason.PHOTO_TRUNCATED if cut else Reason.PHOTO_CORRUPT, "") from None


def _check_end(content: bytes, picture: Image.Image, allow_trailing_data: bool) -> None:
    """Find the end of the picture; no decoder notices what lies behind it, nor JPEG's missing end."""
    if isinstance(picture, PngImagePlugin.PngImageFile):
        end = _png_end(content)
    else:
        end = _jpeg_end(content, 0)
        # Phones write several pictures into one file (MPO), each a JPEG of its own.
        while isinstance(picture, MpoImagePlugin.MpoImageFile) and content.startswith(b"\xff\xd8\xff", end):
            end = _jpeg_end(content, end)
    if not allow_trailing_data and content[end:].strip(b"\0"):
        raise PhotoError(Reason.PHOTO_TRAILING_DATA, f"{len(content) - end} bytes behind the picture")


def _png_end(content: bytes) -> int:
    """Where the picture ends, every checksum up to there being right; Pillow passes over those of the pixels."""
    view, at = memoryview(content), len(_PNG_START)
    while at + 12 <= len(content):
        body, at = at + 4, at + 12 + int.from_bytes(view[at : at + 4])
        if at > len(content):
            break
        if zlib.crc32(view[body : at - 4]) != int.from_bytes(view[at - 4 : at]):
            raise PhotoError(Reason.PHOTO_CORRUPT, "")
        if content.startswith(b"IEND", body):
            return at
    # Where the end is there all the same, it is the length of a chunk that is wrong.
    raise PhotoError(Reason.PHOTO_CORRUPT if _PNG_END in content else Reason.PHOTO_TRUNCATED, "")


def _jpeg_end(content: bytes, start: int) -> int:
    """Where the picture ends, all markers up to there being such as can be; decoders pass over those that can't."""
    at = start + 2
    while marker := _NEXT_MARKER.search(content, at):
        restarts = b"".join(_RESTART.findall(content, at, marker.start()))
        if restarts != (_RESTARTS * (len(restarts) // 8 + 1))[: len(restarts)]:
            raise PhotoError(Reason.PHOTO_CORRUPT, "")
        kind, at = content[marker.start() + 1], marker.end()
        if kind == 0xD9:
            return at
        if 0x01 < kind < 0xC0:  # reserved (ITU-T T.81, table B.1)
            raise PhotoError(Reason.PHOTO_CORRUPT, "")
        if kind != 0x01 and at + 2 <= len(content):  # every other marker but TEM has a length
            at += int.from_bytes(content[at : at + 2])
    raise PhotoError(Reason.PHOTO_TRUNCATED, "")


def _open(path: str, root: Path, allow_outside_root: bool) -> int:
    """A descriptor of the file, opened so that no link swapped in meanwhile can lead out of `root`."""
    if "\0" in path:
        raise FileNotFoundError(errno.ENOENT, "NUL in path")
    # Manifests from Windows have backslashes. Opening a pipe without O_NONBLOCK would wait for a writer.
    whole = os.path.join(root, path.replace("\\", "/"))
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    if allow_outside_root:
        _refuse_special(Path(whole).stat())
        return os.open(whole, flags)
    real_root = os.path.realpath(root)
    inside = os.path.relpath(os.path.realpath(whole), real_root)
    if inside == ".." or inside.startswith("../"):
        raise PhotoError(Reason.PHOTO_OUTSIDE_ROOT, "")
    *folders, name = inside.split("/")
    at = os.open(real_root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            below = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        _refuse_special(os.stat(name, dir_fd=at, follow_symlinks=False))
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=at)
    finally:
        os.close(at)


def _refuse_special(status: os.stat_result) -> None:
    """Opening a device can already do something; so look before."""
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
        raise PhotoError(Reason.PHOTO_NOT_A_FILE, "")


def _unreadable(error: OSError) -> Exception:
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return FilesExhaustedError()
    if error.errno == errno.ELOOP:
        return PhotoError(Reason.PHOTO_OUTSIDE_ROOT, "a link that leads round or was swapped in")
    return PhotoError(Reason.PHOTO_UNREADABLE, (error.strerror or "").lower())


def _too_large(size: int, limit: int) -> PhotoError:
    return PhotoError(Reason.PHOTO_TOO_LARGE, f"{size} bytes, at most {limit}")
