"""Makes pictures to be judged: PNG files chunk by chunk, JPEG files, others; good, odd and broken ones."""

import functools
import io
import struct
import zlib
from collections.abc import Callable
from random import Random

from fuzz_bytes import spoilt
from fuzz_jpeg import exif, jpeg
from PIL import Image

PNG_START = b"\x89PNG\r\n\x1a\n"
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
"""The depths that each colour type of PNG may have (ISO 15948, table 11.1)."""
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
OTHER_TYPES = (
    b"GIF89a\x01\0\x01\0\0\0\0;",
    b"%PDF-1.7\n",
    b"RIFF\x24\0\0\0WEBPVP8 ",
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic\0\0\0\x10meta\0\0\0\0",
    b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
    b"\0\0\0\x14ftypqt  \0\0\0\0qt  ",
    b"BM\x3a\0\0\0",
    b"II*\0\x08\0\0\0\0\0",
    b"PK\x03\x04\x14\0",
    b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b'{"photo": null}',
    b"\xff\xd8",
)


def picture(random: Random) -> bytes:
    """One file that a row may name as its photo."""
    make = random.choices((png, jpeg, other), (10, 10, 1))[0]
    content = make(random)
    return spoilt(content, random) if random.random() < 0.25 else content


def other(random: Random) -> bytes:
    """What is neither JPEG nor PNG, or nothing at all."""
    return random.choice((b"", random.randbytes(60), *OTHER_TYPES)) + random.randbytes(random.choice((0, 4, 200)))


# PNG


def png(random: Random) -> bytes:
    """A PNG whose every part may be odd, but most are not."""
    colour = random.choice(tuple(DEPTHS)) if random.random() < 0.95 else random.randrange(256)
    depth = random.choice(DEPTHS.get(colour, (8,))) if random.random() < 0.95 else random.choice((0, 1, 3, 16, 255))
    interlace = random.choices((0, 1, 2), (6, 3, 1))[0]
    width, height = _size(random)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, random.random() < 0.01, 0, interlace)
    chunks = [(b"IHDR", header)] * random.choices((1, 0, 2), (60, 1, 1))[0]
    chunks += [_ancillary(random) for _ in range(random.choice((0, 0, 1, 2, 5)))]
    if colour == 3 or random.random() < 0.1:
        chunks += [(b"PLTE", _palette(random, depth))] * random.choices((1, 0, 2), (10, 3, 1))[0]
    if random.random() < 0.3:
        chunks.append((b"tRNS", random.randbytes(random.choice((0, 1, 2, 6, 256, 257)))))
    chunks += [_ancillary(random) for _ in range(random.choice((0, 0, 0, 1, 3)))]
    chunks += _coded(random, _scanlines(random, width, height, depth * CHANNELS.get(colour, 1), interlace))
    chunks += [_ancillary(random) for _ in range(random.choice((0, 0, 0, 1)))]
    if random.random() < 0.02:
        chunks += [_ancillary(random)] * random.choice((100, 3000, 30_000))
    if random.random() < 0.1:
        random.shuffle(chunks)
    chunks += [(b"IEND", b"")] * random.choices((1, 0, 2), (40, 1, 1))[0]
    return PNG_START + b"".join(_chunk(kind, body, random) for kind, body in chunks)


def _size(random: Random) -> tuple[int, int]:
    if random.random() < 0.95:
        return random.randint(1, 40), random.randint(1, 40)
    return random.choice((0, 1, 9, 5000, 70_000, 2**31 - 1, 2**32 - 1)), random.choice((0, 1, 9, 7000, 2**31))


def _chunk(kind: bytes, body: bytes, random: Random) -> bytes:
    odd = random.random()
    length = len(body) if odd > 0.01 else random.choice((0, len(body) + 1, max(len(body) - 1, 0), 2**31, 2**32 - 1))
    checksum = zlib.crc32(kind + body) ^ (0.01 < odd < 0.02)
    return struct.pack(">I", length) + kind + body + struct.pack(">I", checksum)


def _palette(random: Random, depth: int) -> bytes:
    full = 3 << min(depth, 8)
    return random.randbytes(random.choice((full, full, full, 0, 3, full - 1, full + 3, 768, 900)))


def _scanlines(random: Random, width: int, height: int, bits: int, interlace: int) -> bytes:
    """Rows of pixels, each behind the number of its filter; of a picture too large for that only the first."""
    if width * height > 1 << 20:
        return bytes(5000)
    passes = ADAM7 if interlace == 1 else ((0, 0, 1, 1),)
    rows, most = [], 5 if random.random() < 0.97 else 9
    for left, top, across, down in passes:
        columns, lines = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0:
            size = (columns * bits + 7) // 8
            rows += [bytes([random.randrange(most)]) + random.randbytes(size) for _ in range(lines)]
    return b"".join(rows)


def _coded(random: Random, pixels: bytes) -> list[tuple[bytes, bytes]]:
    """IDAT chunks, one or several."""
    odd = random.random()
    if odd < 0.05:
        pixels = pixels[: random.randrange(len(pixels) + 1)]
    elif odd < 0.1:
        pixels += random.randbytes(40)
    elif odd < 0.11:
        pixels += bytes(random.choice((1 << 20, 50 << 20)))  # a small file that unpacks to much
    coded = zlib.compress(pixels, random.choice((0, 1, 6)))
    if 0.11 < odd < 0.15:
        coded = spoilt(coded, random)
    size = random.choice((1 << 30, 1 << 30, 1000, 100, 7 if len(coded) < 10_000 else 1000))
    return [(b"IDAT", coded[at : at + size]) for at in range(0, len(coded), size)]


def _text(random: Random) -> bytes:
    return random.choice((b"Comment", b"Raw profile type exif", b"XML:com.adobe.xmp", b"", b"x" * 90, "标题".encode()))


def _packed(random: Random) -> bytes:
    plain = random.choice((b"drawn", bytes(3 << 20), b"\nexif\n  4\n4d4d002a\n", random.randbytes(30), b"\nicc\nq\n"))
    packed = zlib.compress(plain)
    return packed if random.random() < 0.8 else packed[: random.randrange(len(packed) + 1)]


def _frame(random: Random) -> bytes:
    numbers = [random.choice((0, 1, 8, 40, 2**31, 2**32 - 1)) for _ in range(5)]
    return struct.pack(">5IHHBB", *numbers, 1, random.choice((0, 10)), random.randrange(4), random.randrange(3))


ANCILLARY: dict[bytes, Callable[[Random], bytes]] = {
    b"tEXt": lambda r: _text(r) + r.choice((b"\0", b"")) + r.randbytes(r.choice((0, 9, 2000))),
    b"zTXt": lambda r: _text(r) + b"\0" + bytes([r.choice((0, 0, 0, 1))]) + _packed(r),
    b"iTXt": lambda r: _text(r) + b"\0" + r.choice((b"\1\0", b"\0\0", b"\1\1", b"\1")) + b"en\0t\0" + _packed(r),
    b"iCCP": lambda r: _text(r) + b"\0" + bytes([r.choice((0, 0, 7))]) + _packed(r),
    b"eXIf": lambda r: exif(r),
    b"gAMA": lambda r: r.randbytes(r.choice((4, 4, 0, 3))),
    b"cHRM": lambda r: r.randbytes(r.choice((32, 32, 31, 0))),
    b"sRGB": lambda r: r.randbytes(r.choice((1, 1, 0, 2))),
    b"sBIT": lambda r: r.randbytes(r.choice((1, 3, 4, 0, 9))),
    b"bKGD": lambda r: r.randbytes(r.choice((1, 2, 6, 0))),
    b"hIST": lambda r: r.randbytes(r.choice((2, 512, 3))),
    b"pHYs": lambda r: r.randbytes(r.choice((9, 9, 8, 0))),
    b"sPLT": lambda r: b"name\0" + bytes([r.choice((8, 16, 1))]) + r.randbytes(r.choice((0, 10, 11))),
    b"oFFs": lambda r: r.randbytes(r.choice((9, 0))),
    b"sCAL": lambda r: r.choice((b"\x011.0\x002.0", b"\x01", b"\0x\0y")),
    b"pCAL": lambda r: b"p\0" + r.randbytes(20),
    b"tIME": lambda r: r.randbytes(r.choice((7, 6))),
    b"cICP": lambda r: r.randbytes(4),
    b"acTL": lambda r: struct.pack(">II", r.choice((0, 1, 2, 2**31, 2**32 - 1)), r.randrange(3))[: r.choice((8, 8, 7))],
    b"fcTL": lambda r: struct.pack(">I", r.randrange(3)) + _frame(r)[: r.choice((22, 22, 5, 0))],
    b"fdAT": lambda r: r.randbytes(r.choice((0, 3, 4, 50))),
    b"CgBI": lambda r: bytes(4),
    b"vpAg": lambda r: bytes(9),
    b"PLTE": lambda r: r.randbytes(r.choice((0, 3, 768, 5))),
    b"IEND": lambda r: b"",
    b"\0\xffab": lambda r: r.randbytes(5),
    b"QRST": lambda r: r.randbytes(5),
}


def _ancillary(random: Random) -> tuple[bytes, bytes]:
    kind = random.choice(tuple(ANCILLARY))
    return kind, ANCILLARY[kind](random)


@functools.cache
def good(name: str) -> bytes:
    """A small picture that nothing is wrong with, another one for each name."""
    file = io.BytesIO()
    random = Random(name)
    Image.frombytes("L", (16, 16), random.randbytes(256)).resize((64, 40)).save(file, random.choice(("JPEG", "PNG")))
    return file.getvalue()


@functools.cache
def small() -> tuple[bytes, ...]:
    """A PNG and a JPEG as small as they come."""
    files = []
    for mode, form in (("P", "PNG"), ("L", "JPEG")):
        file = io.BytesIO()
        Image.new(mode, (2, 2), 1).save(file, form, optimize=True, quality=5)
        files.append(file.getvalue())
    return tuple(files)


def changed(number: int) -> bytes:
    """One of all truncations and changes of one byte of the small pictures; successive numbers lie far apart."""
    number = number * 20_011 % sum(256 * len(content) for content in small())
    for content in small():
        if number < 256 * len(content):
            break
        number -= 256 * len(content)
    at, value = divmod(number, 256)
    return content[:at] if not value else content[:at] + bytes([content[at] ^ value]) + content[at + 1 :]
