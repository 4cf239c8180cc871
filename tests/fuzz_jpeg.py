"""Makes JPEG files segment by segment: any markers, tables, scans and metadata; good, odd and broken ones."""

import functools
import io
import struct
from collections.abc import Iterator
from random import Random

from fuzz_bytes import spoilt
from PIL import Image

Segment = tuple[int, bytes, bytes]
"""Marker, payload, and the coded data behind it (of SOS and of restart markers)."""
ALONE = {0x01, *range(0xD0, 0xDA)}
"""Markers without a length."""
PAYLOADS = (b"", b"x", bytes(14), b"\xff\xff\xff", b"\xff\xd8\xff\xd9")


@functools.cache
def _drawn(mode: str, size: tuple[int, int], progressive: bool, subsampling: int, restarts: int) -> bytes:
    file = io.BytesIO()
    picture = Image.effect_noise(size, 60).convert(mode) if size[0] < 200 else Image.new(mode, size, 0)
    how = {} if mode == "L" else {"subsampling": subsampling}
    picture.save(file, "JPEG", quality=40, progressive=progressive, restart_marker_rows=restarts, **how)
    return file.getvalue()


def jpeg(random: Random) -> bytes:
    """A JPEG of segments: some changed, some more, some gone, some in another place."""
    if random.random() < 0.015:
        return long_decoded(random)
    size = random.choice(((8, 8), (16, 24), (33, 17), (40, 40)))
    mode = random.choice(("L", "RGB", "RGB", "CMYK"))
    content = _drawn(mode, size, random.random() < 0.5, random.randrange(3), random.choice((0, 0, 1)))
    segments = list(_segments(content))
    for _ in range(random.choice((0, 1, 1, 2, 2, 3, 5))):
        segments = random.choice(CHANGES)(segments, random)
    return b"\xff\xd8" + b"".join(_bytes_of(segment, random) for segment in segments)


def long_decoded(random: Random) -> bytes:
    """A large progressive picture with one scan again and again: each is a pass over all pixels, of few bytes."""
    segments = list(_segments(_drawn("L", random.choice(((3000, 3000), (6400, 6400))), True, 0, 0)))
    at = random.choice([at for at, segment in enumerate(segments) if segment[0] == 0xDA and len(segment[2]) < 100])
    again = [segments[at]] * random.choice((3000, 25_000))
    return b"\xff\xd8" + b"".join(_bytes_of(one, Random(2)) for one in (*segments[:at], *again, *segments[at:]))


def _segments(content: bytes) -> Iterator[Segment]:
    at = 2
    while at + 4 <= len(content):
        marker = content[at + 1]
        end = at + 2 if marker in ALONE else at + 2 + int.from_bytes(content[at + 2 : at + 4])
        after = end
        while after < len(content) and (content[after] != 0xFF or content[after + 1 : after + 2] == b"\0"):
            after += 1
        yield marker, content[at + 4 : end] if marker not in ALONE else b"", content[end:after]
        at = after
    yield 0xD9, b"", b""


def _bytes_of(segment: Segment, random: Random) -> bytes:
    marker, payload, coded = segment
    odd = random.random()
    fill = b"\xff" * random.choice((1, 3, 2000)) if odd < 0.01 else b""
    between = random.choice((b"\0", b"\0\0\0", b"junk")) if 0.01 < odd < 0.015 else b""
    if marker in ALONE:
        return between + fill + bytes((0xFF, marker)) + coded
    length = min(len(payload) + 2, 0xFFFF) if odd < 0.985 else random.choice((0, 1, 2, len(payload), 0xFFFF))
    return between + fill + bytes((0xFF, marker)) + struct.pack(">H", length) + payload[:0xFFFD] + coded


def _more(segments: list[Segment], random: Random) -> list[Segment]:
    at = random.randrange(len(segments) + 1)
    return [*segments[:at], _segment(random), *segments[at:]]


def _many(segments: list[Segment], random: Random) -> list[Segment]:
    at = random.randrange(len(segments) + 1)
    marker = random.choice((0xE0, 0xE1, 0xFE, 0xDD, 0xDB, 0xC4, 0x01))
    count = random.choice((50, 50, 3000, 100_000 if random.random() < 0.2 else 50))
    return [*segments[:at], *[(marker, random.choice(PAYLOADS), b"")] * count, *segments[at:]]


def _scans(segments: list[Segment], random: Random) -> list[Segment]:
    """One scan again and again."""
    places = [at for at, segment in enumerate(segments) if segment[0] == 0xDA]
    if not places:
        return segments
    at = random.choice(places)
    marker, payload, coded = segments[at]
    scan = marker, payload, random.choice((coded, b"", b"\0"))
    count = random.choice((2, 20, 20, 300, 3000, 25_000))
    return [*segments[:at], *[scan] * min(count, 1 + (4 << 20) // (len(scan[2]) + 20)), *segments[at:]]


def _gone(segments: list[Segment], random: Random) -> list[Segment]:
    at = random.randrange(len(segments))
    return segments[:at] + segments[at + 1 :]


def _twice(segments: list[Segment], random: Random) -> list[Segment]:
    at = random.randrange(len(segments))
    return segments[: at + 1] + segments[at:]


def _elsewhere(segments: list[Segment], random: Random) -> list[Segment]:
    left = list(segments)
    moved = left.pop(random.randrange(len(left)))
    left.insert(random.randrange(len(left) + 1), moved)
    return left


def _another_marker(segments: list[Segment], random: Random) -> list[Segment]:
    at = random.randrange(len(segments))
    frames = [place for place, segment in enumerate(segments) if 0xC0 <= segment[0] <= 0xCF and segment[0] != 0xC4]
    if frames and random.random() < 0.6:
        return _with(segments, frames[0], (random.randrange(0xC0, 0xD0), *segments[frames[0]][1:]))
    return _with(segments, at, (random.randrange(256), *segments[at][1:]))


def _another_payload(segments: list[Segment], random: Random) -> list[Segment]:
    """Other tables, sizes, components, samplings: one byte or a few of them."""
    places = [at for at, segment in enumerate(segments) if segment[1]]
    if not places:
        return segments
    at = random.choice(places)
    marker, payload, coded = segments[at]
    return _with(segments, at, (marker, spoilt(payload, random), coded))


def _another_size(segments: list[Segment], random: Random) -> list[Segment]:
    for at, (marker, payload, coded) in enumerate(segments):
        if 0xC0 <= marker <= 0xC2 and len(payload) > 5:
            height, width = (random.choice((0, 1, 8, 60, 6500, 65_535)) for _ in range(2))
            return _with(segments, at, (marker, payload[:1] + struct.pack(">HH", height, width) + payload[5:], coded))
    return segments


def _other_coding(segments: list[Segment], random: Random) -> list[Segment]:
    """Other coded data: cut, changed, or with restart markers in it."""
    places = [at for at, segment in enumerate(segments) if segment[2]]
    if not places:
        return segments
    at = random.choice(places)
    marker, payload, coded = segments[at]
    if random.random() < 0.3:
        place = random.randrange(len(coded))
        coded = coded[:place] + bytes((0xFF, 0xD0 + random.randrange(8))) + coded[place:]
    else:
        coded = spoilt(coded, random)
    return _with(segments, at, (marker, payload, coded))


def _with(segments: list[Segment], at: int, segment: Segment) -> list[Segment]:
    return [*segments[:at], segment, *segments[at + 1 :]]


CHANGES = (
    *(_more,) * 4,
    _many,
    _scans,
    _gone,
    _twice,
    _elsewhere,
    _another_marker,
    _another_payload,
    _another_payload,
    _another_size,
    _other_coding,
)


def _segment(random: Random) -> Segment:
    """A segment of any kind, with a payload that fits it, more or less."""
    return random.choice(
        (
            lambda: (0xE0, random.choice((b"JFIF\0\1\2\0\0\1\0\1\0\0", b"JFXX\0\x10", b"JFIF\0")), b""),
            lambda: (0xE1, b"Exif\0\0" + exif(random), b""),
            lambda: (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + random.choice((b"<x:xmpmeta/>", b"<" * 500)), b""),
            lambda: (0xE2, b"ICC_PROFILE\0" + bytes((random.randrange(4), random.randrange(4))) + bytes(20), b""),
            lambda: (0xE2, b"MPF\0" + exif(random, mpf=True), b""),
            lambda: (0xED, b"Photoshop 3.0\x008BIM" + random.randbytes(random.choice((0, 2, 8, 40))), b""),
            lambda: (0xEE, b"Adobe\0\x64\0\0\0\0" + bytes([random.randrange(4)]), b""),
            lambda: (0xE0 + random.randrange(16), random.randbytes(random.choice((0, 1, 30))), b""),
            lambda: (0xFE, random.choice(PAYLOADS), b""),
            lambda: (0xDB, bytes([random.choice((0, 1, 3, 0x10, 0x1F))]) + random.randbytes(64), b""),
            lambda: (
                0xC4,
                bytes([random.choice((0, 0x10, 0x13))]) + bytes(random.randrange(5) for _ in range(40)),
                b"",
            ),
            lambda: (0xCC, random.randbytes(2 * random.randrange(4)), b""),
            lambda: (0xDD, struct.pack(">H", random.choice((0, 1, 2, 65_535))), b""),
            lambda: (0xDC, struct.pack(">H", random.choice((0, 8, 65_535))), b""),
            lambda: (random.randrange(0xC0, 0xD0), b"\x08\0\x08\0\x08\1\1\x11\0", b""),
            lambda: (0xDA, bytes((1, random.randrange(5), 0, 0, 63, 0)), random.randbytes(20).replace(b"\xff", b"")),
            lambda: (random.choice((0xD8, 0xD9, 0xD0, 0x01, 0x02, 0xF0)), b"", b""),
        )
    )()


def exif(random: Random, *, mpf: bool = False) -> bytes:
    """A TIFF header and directories, of which offsets, counts and types may be anything."""
    order = random.choice("<>")
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] if random.random() < 0.95 else b"EP\0\0"
    entries = []
    for _ in range(random.choice((0, 1, 3, 3, 12))):
        tags = (
            (0xB000, 0xB001, 0xB002, 0xB004)
            if mpf
            else (0x112, 0x8769, 0x8825, 0x201, 0x14A, random.randrange(1 << 16))
        )
        value = random.choice((0, 1, 3, 6, 8, 99, 2**31, 2**32 - 1))
        count = random.choice((1, 1, 2, 4, 32, 2**31, 2**32 - 1))
        entries.append(
            struct.pack(order + "HHII", random.choice(tags), random.choice((1, 2, 3, 4, 5, 7, 13, 99)), count, value)
        )
    count = len(entries) if random.random() < 0.9 else random.choice((0, 500, 65_535))
    after = struct.pack(order + "I", random.choice((0, 0, 8, 99, 2**32 - 1)))  # 8: a directory that leads to itself
    at = struct.pack(order + "I", random.choice((8, 8, 8, 0, 2**32 - 1)))
    return start + at + struct.pack(order + "H", count) + b"".join(entries) + after + random.randbytes(8)
