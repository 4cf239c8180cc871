"""A picture that would hold its decoder for minutes is refused before that, and what passes is soon decoded."""

import io
import itertools
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterable

import pytest
from conftest import picture
from PIL import Image

from batchupload.photos import PNG, PhotoError, validate
from batchupload.picture_work import MOST_SCANS
from batchupload.shop_settings import PhotoSettings

SOON = 30.0
"""Seconds, on a machine that does much else; it takes at most 3 on one that does not."""


def segment(kind: int, body: bytes = b"") -> bytes:
    return struct.pack(">BBH", 0xFF, kind, len(body) + 2) + body


def scan(components: Iterable[int], first: int, last: int, refines: int = 0) -> bytes:
    chosen = list(components)
    names = b"".join(bytes([one + 1, 0]) for one in chosen)
    return segment(0xDA, bytes([len(chosen)]) + names + bytes([first, last, refines]))


def progressive(side: int, components: int, scans: Iterable[bytes]) -> bytes:
    """A grey JPEG without any data, which its decoder goes through for each scan all the same."""
    frame = struct.pack(">BHHB", 8, side, side, components)
    frame += b"".join(bytes([one + 1, 0x11, 0]) for one in range(components))
    tables = segment(0xDB, b"\0" + bytes([1] * 64))
    codes = b"".join(segment(0xC4, bytes([of, 1, *[0] * 15, 0])) for of in (0x00, 0x10))
    return b"\xff\xd8" + tables + segment(0xC2, frame) + codes + scan(range(components), 0, 0) + b"".join(scans) + b"\xff\xd9"  # fmt: skip  # noqa: E501


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, *parts: bytes, behind: bytes = b"", depth: int = 8, colours: int = 0) -> bytes:
    channels = {0: 1, 2: 3, 6: 4}[colours]
    packer = zlib.compressobj(9)
    row = bytes(1 + width * channels * depth // 8)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0))
    return b"".join([b"\x89PNG\r\n\x1a\n", header, *parts, chunk(b"IDAT", packed), behind, chunk(b"IEND")])


def with_segments(*segments: bytes) -> bytes:
    content = picture("face")
    return content[:2] + b"".join(segments) + content[2:]


FLOOD = 80_000
TOO_COMPLEX: dict[str, Callable[[], bytes]] = {
    "25,000 scans": lambda: progressive(1000, 1, itertools.repeat(scan([0], 1, 63), 25_000)),
    "scans of a small picture": lambda: progressive(64, 1, itertools.repeat(scan([0], 1, 63), MOST_SCANS)),
    "scans of a large one": lambda: progressive(7000, 1, itertools.repeat(scan([0], 1, 63), 60)),
    "refining scans": lambda: progressive(5000, 3, itertools.repeat(scan([0, 1, 2], 0, 0, 0x10), 40)),
    "empty segments": lambda: with_segments(segment(0xE1) * FLOOD * 4),
    "EXIF segments": lambda: with_segments(segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0") * FLOOD),
    "comments": lambda: with_segments(segment(0xFE) * FLOOD * 4),
    "fill bytes": lambda: with_segments(b"\xff" * 1_900_000),
    "pictures behind": lambda: picture("face") + picture("face") * 9 + b"\xff\xd8\xff\xd9" * FLOOD * 2,
    "profiles": lambda: png(64, 64, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1_000_000))) * 1500),
    "compressed texts": lambda: png(64, 64, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000))) * 1500),
    "texts behind": lambda: png(64, 64, behind=chunk(b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(1_000_000))) * 1500),
    "empty chunks": lambda: png(64, 64, chunk(b"abCd") * FLOOD * 2),
    "empty data": lambda: png(64, 64, chunk(b"IDAT") * FLOOD * 2),
    "frames": lambda: png(64, 64, behind=chunk(b"fdAT", bytes(8)) * FLOOD),
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_COMPLEX)
def test_a_picture_that_is_too_much_work_is_refused_before_it_is_decoded(name: str) -> None:
    content = TOO_COMPLEX[name]()
    assert len(content) < 2 << 20
    began = time.monotonic()
    with pytest.raises(PhotoError) as refused:
        validate(content, PhotoSettings())
    assert refused.value.problem.reason == "photo_too_complex"
    assert time.monotonic() - began < SOON


HEAVY: dict[str, Callable[[], bytes]] = {
    "as many scans as may be": lambda: progressive(400, 1, itertools.repeat(scan([0], 1, 63), MOST_SCANS - 1)),
    "a large one in 30 scans": lambda: progressive(7000, 1, itertools.repeat(scan([0], 1, 63, 0x10), 30)),
    "16 bits a sample": lambda: png(3000, 3000, depth=16, colours=6),
    "many chunks": lambda: png(64, 64, chunk(b"abCd") * 19_000),
    "many segments": lambda: with_segments(segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0") * 19_000),
    "profiles": lambda: png(64, 64, chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1_000_000))) * 60),
}


@pytest.mark.parametrize("name", HEAVY)
def test_a_picture_within_the_bounds_is_soon_decoded(name: str) -> None:
    began = time.monotonic()
    validate(HEAVY[name](), PhotoSettings())
    assert time.monotonic() - began < SOON


def test_what_encoders_write_is_within_the_bounds() -> None:
    image = Image.effect_noise((1600, 1200), 80).convert("RGB")
    for how in ({"progressive": True}, {"progressive": True, "subsampling": 0}, {"restart_marker_blocks": 1}, {}):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=80, **how)
        assert validate(file.getvalue(), PhotoSettings()).size == (1600, 1200)
    file = io.BytesIO()
    image.save(file, "PNG", icc_profile=bytes(3000))
    assert validate(file.getvalue(), PhotoSettings()).size == (1600, 1200)
    assert validate(picture("back", media_type=PNG), PhotoSettings()).size == (64, 40)


@pytest.mark.parametrize(("width", "height"), [(1, 49_000_000), (49_000_000, 1), (65_536, 700)])
def test_a_picture_that_is_all_side_is_refused(width: int, height: int) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND")
    with pytest.raises(PhotoError) as refused:
        validate(content, PhotoSettings())
    assert refused.value.problem.reason == "photo_too_many_pixels"
    assert "along one side" in refused.value.problem.detail


MEASURE = """
import resource, sys
from batchupload.photos import PhotoError, validate
from batchupload.shop_settings import PhotoSettings
content = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    validate(content, PhotoSettings())
    said = "good"
except PhotoError as error:
    said = error.problem.reason
print(said, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: progressive(7000, 3, []), "photo_too_many_pixels"),
        (lambda: progressive(5700, 3, []), "good"),
        (lambda: progressive(7000, 1, []), "good"),
        (lambda: png(4000, 12_000, depth=16, colours=6), "good"),
        (lambda: png(7000, 7000, depth=1), "good"),
    ],
)
def test_a_picture_takes_no_more_memory_than_the_documented_bound(content: Callable[[], bytes], said: str) -> None:
    done = subprocess.run([sys.executable, "-c", MEASURE], input=content(), capture_output=True, timeout=60, check=True)
    found, kilobytes = done.stdout.decode().split()
    assert found == said
    assert int(kilobytes) * (1 if sys.platform == "darwin" else 1024) < PhotoSettings().max_pixels * 4 * 1.15
