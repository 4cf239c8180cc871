"""How much work and memory a JPEG or PNG asks of its decoder, told from its structure before anything is decoded. Pure.

A picture of 2 MB can hold a decoder for twenty minutes. Each bound below is far above what encoders write, and what is
within all of them was decoded in under 5 s (measured with the worst file of each kind; `test_picture_work.py`).
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from batchupload.language import _

MOST_SIDE = 65_535
"""Pixels along one side: the most that a JPEG can have. Pillow keeps some 40 bytes for each row, however short."""
MOST_PARTS = 20_000
"""Segments of a JPEG, or chunks of a PNG. Pillow takes up to 45 µs for each. A camera writes under 100; a PNG of 32 MB
whose encoder cuts its data into pieces of 4 KB has 8,000."""
MOST_SKIPPED = 100_000
"""Bytes between the segments in front of the picture, which Pillow passes over one by one, at 1.4 µs each."""
MOST_SCANS = 500
"""Scans of a JPEG: the bound of libjpeg-turbo's own fuzzers (`fuzz/decompress.cc`). Encoders write 10 to 13."""
MOST_BLOCKS = 30_000_000
"""Blocks of 8 × 8 that all scans go through. A scan costs up to 110 ns for each, even one without any data.

The usual 10 scans over 50 million pixels are 11 million blocks where all colour stays, and 6 million otherwise.
"""
MOST_COMPRESSED = 64
"""Chunks of a PNG that hold compressed text or a colour profile: Pillow unpacks up to 1 MB of each, in 10 ms."""
COEFFICIENT_BYTES = 2
"""What the decoder keeps of each sample until the last of several scans is read."""

_PNG_START = b"\x89PNG\r\n\x1a\n"
_COMPRESSED = frozenset({b"iCCP", b"zTXt", b"iTXt"})
# A marker: FF with neither a stuffed zero, a restart marker nor another FF behind it.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01


class TooComplexError(Exception):
    """The picture asks for more than a bound allows; the text says for what."""


@dataclass(frozen=True, slots=True)
class _Frame:
    """The frame of a JPEG."""

    progressive: bool
    blocks: tuple[int, ...]
    """Blocks of 8 × 8 that each component has."""


def check_parts(content: bytes) -> None:
    """Raise `TooComplexError` where the file has too many segments or chunks to look through them."""
    if content.startswith(_PNG_START):
        compressed = 0
        for number, name in enumerate(_chunks(content)):
            compressed += name in _COMPRESSED
            if number >= MOST_PARTS:
                raise TooComplexError(_("more than {most:,} chunks", most=MOST_PARTS))
            if compressed > MOST_COMPRESSED:
                raise TooComplexError(_("more than {most:,} compressed texts and profiles", most=MOST_COMPRESSED))
        return
    for number, _part in enumerate(_segments(content)):
        if number >= MOST_PARTS:
            raise TooComplexError(_("more than {most:,} segments", most=MOST_PARTS))


def memory_kept(content: bytes) -> int:
    """Bytes that a JPEG's decoder keeps until its last scan is read, at most; 0 for one with a single scan, and a PNG.

    Raises `TooComplexError` where its scans are too much work, or too much lies in front of them.
    """
    if content.startswith(_PNG_START):
        return 0
    frame: _Frame | None = None
    several = False
    at, scans, work, skipped = 2, 0, 0, 0
    for kind, start, end in _segments(content):
        if kind == _EOI:
            break
        skipped += 0 if scans else start - at
        at = end
        if kind in _FRAMES:
            frame = frame or _frame(content, kind, start)
        if kind == _SOS and frame:
            scans += 1
            components = int.from_bytes(content[start + 4 : start + 5])
            work += components * max(frame.blocks, default=0)
            several = several or frame.progressive or scans > 1 or components < len(frame.blocks)
        if scans > MOST_SCANS:
            raise TooComplexError(_("more than {most:,} scans", most=MOST_SCANS))
        if work > MOST_BLOCKS:
            raise TooComplexError(_("{scans:,} scans over so many pixels", scans=scans))
        if skipped > MOST_SKIPPED:
            raise TooComplexError(_("more than {most:,} bytes that belong to no segment", most=MOST_SKIPPED))
    return sum(frame.blocks) * 64 * COEFFICIENT_BYTES if frame and several else 0


def _frame(content: bytes, kind: int, at: int) -> _Frame | None:
    """The frame that begins at `at`; None where it is cut off."""
    try:
        height, width, count = struct.unpack_from(">HHB", content, at + 5)
        samplings = [content[at + 11 + 3 * number] for number in range(count)]
    except (struct.error, IndexError):
        return None
    across = max((sampling >> 4 for sampling in samplings), default=1) or 1
    down = max((sampling & 15 for sampling in samplings), default=1) or 1
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    return _Frame(kind in _PROGRESSIVE, tuple(units * (sampling >> 4) * (sampling & 15) for sampling in samplings))


def _segments(content: bytes) -> Iterator[tuple[int, int, int]]:
    """Those of the JPEG and of the pictures behind it: the kind of each, where it begins and where it ends."""
    at = 2
    while found := _MARKER.search(content, at):
        kind, start, at = found[1][0], found.start(), found.end()
        if kind == _EOI:
            yield kind, start, at
            if not content.startswith(b"\xff\xd8\xff", at):
                return
            at += 2
            continue
        if kind not in {_TEM, _SOI} and at + 2 <= len(content):
            at += max(2, int.from_bytes(content[at : at + 2]))
        yield kind, start, at


def _chunks(content: bytes) -> Iterator[bytes]:
    """The name of each chunk of a PNG up to its end."""
    at = len(_PNG_START)
    while at + 8 <= len(content):
        name = content[at + 4 : at + 8]
        yield name
        if name == b"IEND":
            return
        at += 12 + int.from_bytes(content[at : at + 4])
