"""What a JPEG or PNG says beside its pixels, found or removed in its bytes; no pixel is touched. Pure."""

import re
import struct
import zlib
from collections.abc import Iterator

PNG_START = b"\x89PNG\r\n\x1a\n"
EXIF_START = b"Exif\0\0"
UPRIGHT = 1
"""The EXIF orientation of a picture that is shown as it is stored."""
_ORIENTATION = 0x0112
_SHORT = 3
_SOI, _EOI, _SOS, _COM, _APP0, _APP1, _APP2, _APP14, _APP15 = 0xD8, 0xD9, 0xDA, 0xFE, 0xE0, 0xE1, 0xE2, 0xEE, 0xEF
# A marker inside JPEG's coded data: FF with neither a stuffed zero, a restart marker nor another FF behind it.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
# Ancillary chunks of a PNG that say how its pixels are shown; all others may say who took it, where and when.
_SHOWN = frozenset({b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"sBIT", b"bKGD", b"pHYs", b"hIST", b"sPLT"})

Part = tuple[int, int, int]
"""A segment or chunk: its kind, where it begins, and where the next one does."""


def orientation_of(content: bytes) -> int:
    """The EXIF orientation, 1 to 8; 1 also where there is none that can be read."""
    return _orientation(exif_of(content))[0]


def exif_of(content: bytes) -> bytes:
    """The EXIF block (a TIFF file of its own) of a JPEG or PNG, or nothing."""
    if content.startswith(PNG_START):
        chunks = _chunks(content)
        return next((content[at + 8 : end - 4] for kind, at, end in chunks if content[at + 4 : at + 8] == b"eXIf"), b"")
    for kind, at, end in _segments(content, 0):
        if kind == _APP1 and content.startswith(EXIF_START, at + 4):
            return content[at + 4 + len(EXIF_START) : end]
        if kind == _SOS:
            break
    return b""


def made_upright(exif: bytes) -> bytes:
    """The same EXIF block, saying that the picture is shown as it is stored."""
    value, at, order = _orientation(exif)
    return exif if value == UPRIGHT else exif[:at] + struct.pack(f"{order}H", UPRIGHT) + exif[at + 2 :]


def only_orientation(value: int) -> bytes:
    """An EXIF block that says nothing else; none where there is nothing to say."""
    if value == UPRIGHT:
        return b""
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, _ORIENTATION, _SHORT, 1, value, 0, 0)


def without_metadata(content: bytes, *, cut_behind: bool) -> bytes:
    """The picture without what it says of its taking, down to the byte the same pixels.

    Its colours stay (ICC profile, Adobe's transform, gamma) and its orientation, without which it would be shown
    turned. Further pictures in the file go, for they have metadata of their own; with `cut_behind` all goes that is
    behind the picture. What can't be taken apart is returned as it is.
    """
    return _png_without(content, cut_behind) if content.startswith(PNG_START) else _jpeg_without(content, cut_behind)


def _jpeg_without(content: bytes, cut_behind: bool) -> bytes:
    exif = only_orientation(orientation_of(content))
    kept = [content[:2]]
    told, several, at, end = not exif, False, 2, 0
    for kind, start, after in _segments(content, 0):
        if kind == _EOI:
            end = after
            break
        if _APP0 <= kind <= _APP15 or kind == _COM:
            several = several or content.startswith(b"MPF\0", start + 4)
            kept.append(content[at : after if _is_needed(content, kind, start) else start])
            at = after
        if not told and kind != _APP0:  # behind JFIF's, which is to be the first
            kept.append(_segment(_APP1, EXIF_START + exif))
            told = True
    if not end:
        return content
    kept.append(content[at:end])
    while several and content.startswith(b"\xff\xd8\xff", end):
        end = next((after for kind, _, after in _segments(content, end) if kind == _EOI), len(content))
    return b"".join(kept) if cut_behind else b"".join([*kept, content[end:]])


def _is_needed(content: bytes, kind: int, at: int) -> bool:
    if kind == _APP2:
        return content.startswith(b"ICC_PROFILE\0", at + 4)
    return kind == _APP14 or (kind == _APP0 and content.startswith(b"JFIF\0", at + 4))


def _segment(kind: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, kind, len(body) + 2) + body


def _segments(content: bytes, start: int) -> Iterator[Part]:
    """Those of the JPEG that begins at `start`, up to its end; none more where it is damaged or cut off."""
    at = start + 2
    while (found := _MARKER.search(content, at)) is not None:
        kind, marker, at = found[1][0], found.start(), found.end()
        if kind in {0x01, _SOI, _EOI}:  # these have no length
            yield kind, marker, at
            if kind != 0x01:
                return
            continue
        length = int.from_bytes(content[at : at + 2])
        if length < 2 or at + length > len(content):
            return
        yield kind, marker, at + length
        at += length


def _png_without(content: bytes, cut_behind: bool) -> bytes:
    exif = only_orientation(orientation_of(content))
    kept = [PNG_START]
    end = 0
    for kind, at, after in _chunks(content):
        name = content[at + 4 : at + 8]
        if kind or name in _SHOWN:
            kept.append(content[at:after])
        if name == b"IHDR" and exif:
            kept.append(_chunk(b"eXIf" + exif))
        if name == b"IEND":
            end = after
    if not end:
        return content
    return b"".join(kept) if cut_behind else b"".join([*kept, content[end:]])


def _chunk(body: bytes) -> bytes:
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def _chunks(content: bytes) -> Iterator[Part]:
    """Those of a PNG up to its end, of kind 1 where no decoder can do without; none more where it is damaged."""
    at = len(PNG_START)
    while at + 12 <= len(content):
        name, end = content[at + 4 : at + 8], at + 12 + int.from_bytes(content[at : at + 4])
        if end > len(content) or not name.isalpha():
            return
        yield int(name[:1].isupper()), at, end
        if name == b"IEND":
            return
        at = end


def _orientation(exif: bytes) -> tuple[int, int, str]:
    """Its value, where it stands in the block, and the block's byte order as `struct` has it."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4], "")
    if order:
        try:
            (ifd,) = struct.unpack_from(f"{order}I", exif, 4)
            (count,) = struct.unpack_from(f"{order}H", exif, ifd)
            for at in range(ifd + 2, ifd + 2 + 12 * count, 12):
                tag, kind, _, value = struct.unpack_from(f"{order}HHIH", exif, at)
                if tag == _ORIENTATION and kind == _SHORT and 1 <= value <= 8:
                    return value, at + 8, order
        except struct.error:
            pass
    return UPRIGHT, 0, order
