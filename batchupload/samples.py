"""Sample photos, drawn and of nobody, and a manifest with every kind of trouble; for the demo and the tests."""

import csv
import io
import os
import random
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from batchupload.model import PHOTO_FIELDS, Outcome
from batchupload.photos import JPEG, PNG
from batchupload.reasons import Reason

HEADER = ("订单号", "身份证人像面", "身份证国徽面", "免冠照", "备注")
_COLOURS = {"face": (214, 228, 240), "back": (240, 214, 214), "hand": (226, 238, 218)}


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of the sample manifest, and what must become of it where the endpoint is in good health."""

    line: int
    order_id: str
    kind: str
    outcome: Outcome
    reason: Reason


def draw_photo(
    field: str, order_id: str, media_type: str = JPEG, size: tuple[int, int] = (480, 300), target_bytes: int = 0
) -> bytes:
    """A drawing that stands for a photo, different for each order and field.

    With `target_bytes` the file is filled up to exactly this size by data that decoders skip.
    """
    chance = random.Random(f"{field} {order_id}")
    picture = Image.new("RGB", size, _COLOURS.get(field, (230, 230, 230)))
    draw = ImageDraw.Draw(picture)
    width, height = size
    for _ in range(12):
        x, y, r = chance.randrange(width), chance.randrange(height), chance.randrange(8, 60)
        draw.ellipse((x - r, y - r, x + r, y + r), outline=tuple(chance.randrange(80, 200) for _ in range(3)), width=3)
    draw.text((12, 12), f"SAMPLE {field} {order_id}", fill=(40, 40, 40))
    file = io.BytesIO()
    if media_type == PNG:
        picture.save(file, "PNG", compress_level=1)
    else:
        picture.save(file, "JPEG", quality=80)
    content = file.getvalue()
    return _filled(content, media_type, target_bytes) if target_bytes else content


def _filled(content: bytes, media_type: str, size: int) -> bytes:
    """Filled up by comments (JPEG) or a private chunk (PNG) before the end of the picture."""
    end = len(content) - (12 if media_type == PNG else 2)
    missing = size - len(content)
    filling = b""
    if media_type == PNG:
        body = b"fiLl" + bytes(missing - 12)
        filling = struct.pack(">I", missing - 12) + body + struct.pack(">I", zlib.crc32(body))
        return content[:end] + filling + content[end:]
    while missing:
        length = missing if missing <= 65537 else min(65537, missing - 4)  # at least 4 bytes for the last comment
        filling += b"\xff\xfe" + struct.pack(">H", length - 2) + bytes(length - 4)
        missing -= length
    return content[:2] + filling + content[2:]


def truncated(content: bytes, share: float = 0.6) -> bytes:
    """The first part of a file."""
    return content[: int(len(content) * share)]


def corrupted(content: bytes) -> bytes:
    """A PNG whose picture data is damaged in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes(255 - byte for byte in content[middle : middle + 64]) + content[middle + 64 :]


def with_trailing_data(content: bytes) -> bytes:
    """A picture with a ZIP file behind it."""
    return content + b"PK\x03\x04" + b"not a picture" * 20


def bomb() -> bytes:
    """A PNG of a few bytes that claims 40,000 × 40,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    body = b"IDAT" + zlib.compress(bytes(1000))
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return start + chunk + struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))


def gif() -> bytes:
    """A GIF."""
    file = io.BytesIO()
    Image.new("P", (40, 40)).save(file, "GIF")
    return file.getvalue()


HEIC_LIKE = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
PDF_LIKE = b"%PDF-1.4\n%nothing\n"


def write_corpus(folder: Path, orders: int = 200) -> tuple[Path, list[Sample]]:
    """Write sample photos and `manifest.csv` into `folder`; return its path and what to expect of each row.

    The manifest is as Excel writes it: UTF-8 with BOM, CRLF, Chinese headers, a column of notes. Of `orders` rows
    (at least 40) the last thirty or so have each some trouble of their own.
    """
    corpus = _Corpus(folder, random.Random(orders))
    troubles = corpus.troubles()
    for number in range(orders - len(troubles) - 1):
        corpus.good(number)
    for kind, (reason, spoil) in troubles.items():
        corpus.bad(kind, reason, spoil)
    corpus.repeat()
    return corpus.finish(), corpus.samples


Cells = dict[str, str]


class _Corpus:
    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder = folder
        self.samples: list[Sample] = []
        self._chance = chance
        self._rows: list[list[str]] = []

    def good(self, number: int) -> None:
        order_id = self._order_id()
        cells = self._photos(order_id, {"back": PNG} if number % 3 == 0 else {})
        kind = "good"
        if number % 20 == 7:
            kind = "good: a PNG named .jpg"
            cells["face"] = self._write(f"{order_id}/正面.jpg", draw_photo("face", order_id, PNG))
        shown = {11: f'="{order_id}"', 12: f"'{order_id}", 13: f" {order_id}\u200b"}.get(number % 20, order_id)
        self._add([shown, *cells.values(), f"客户{number}"], order_id, kind, Outcome.UPLOADED, Reason.ACCEPTED)

    def bad(self, kind: str, reason: Reason, spoil: "Spoil") -> None:
        order_id = self._order_id()
        row = [order_id, *self._photos(order_id, {}).values(), kind]
        row = spoil(order_id, row)
        self._add(row, row[0] if row else "", kind, Outcome.INVALID, reason)

    def repeat(self) -> None:
        first = self.samples[0]
        again = [*self._rows[0][:4], "same row again"]
        self._add(again, first.order_id, "repeated", Outcome.DUPLICATE, Reason.REPEATED_ROW)

    def troubles(self) -> Mapping[str, tuple[Reason, "Spoil"]]:
        photo = self._with_photo
        conflicting = self._order_id()
        return {
            "no photo named": (Reason.MISSING_CELL, lambda _, row: [*row[:3], "", row[4]]),
            "a cell too many": (Reason.EXTRA_CELLS, lambda _, row: [*row, "?"]),
            "no order number": (Reason.ORDER_ID_EMPTY, lambda _, row: ["", *row[1:]]),
            "Excel made a number of it": (Reason.ORDER_ID_MALFORMED, lambda _, row: ["2.02311E+19", *row[1:]]),
            "the order again": (Reason.CONFLICTING_ROWS, lambda _, row: [conflicting, *row[1:]]),
            "the order once more": (Reason.CONFLICTING_ROWS, lambda _, row: [conflicting, *row[1:]]),
            "photo is gone": (Reason.PHOTO_MISSING, lambda _, row: [row[0], "gone.jpg", *row[2:]]),
            "path leads out": (Reason.PHOTO_OUTSIDE_ROOT, lambda _, row: [row[0], "../../etc/passwd", *row[2:]]),
            "a folder": (Reason.PHOTO_NOT_A_FILE, lambda order, row: [row[0], order, *row[2:]]),
            "a pipe": (Reason.PHOTO_NOT_A_FILE, self._with_pipe),
            "empty file": (Reason.PHOTO_EMPTY, photo(lambda _: b"")),
            "too large": (
                Reason.PHOTO_TOO_LARGE,
                photo(lambda _: draw_photo("face", "", target_bytes=2 * 1024**2 + 1)),
            ),
            "cut JPEG": (Reason.PHOTO_TRUNCATED, photo(lambda order: truncated(draw_photo("face", order)))),
            "cut PNG": (Reason.PHOTO_TRUNCATED, photo(lambda order: truncated(draw_photo("face", order, PNG)))),
            "damaged PNG": (Reason.PHOTO_CORRUPT, photo(lambda order: corrupted(draw_photo("face", order, PNG)))),
            "picture and ZIP": (Reason.PHOTO_TRAILING_DATA, photo(lambda o: with_trailing_data(draw_photo("face", o)))),
            "decompression bomb": (Reason.PHOTO_TOO_MANY_PIXELS, photo(lambda _: bomb())),
            "GIF named .jpg": (Reason.PHOTO_WRONG_TYPE, photo(lambda _: gif())),
            "HEIC named .jpg": (Reason.PHOTO_WRONG_TYPE, photo(lambda _: HEIC_LIKE)),
            "PDF named .jpg": (Reason.PHOTO_WRONG_TYPE, photo(lambda _: PDF_LIKE)),
            "text named .jpg": (Reason.PHOTO_WRONG_TYPE, photo(lambda _: b"see attachment")),
            "same photo twice": (Reason.PHOTO_REPEATED, lambda _, row: [row[0], row[1], row[1], *row[3:]]),
        }

    def finish(self) -> Path:
        text = io.StringIO(newline="")
        csv.writer(text).writerows([HEADER, *self._rows])
        manifest = self.folder / "manifest.csv"
        self._write(manifest.name, b"\xef\xbb\xbf" + text.getvalue().encode())
        return manifest

    def _add(self, row: list[str], order_id: str, kind: str, outcome: Outcome, reason: Reason) -> None:
        self._rows.append(row)
        self.samples.append(Sample(len(self._rows) + 1, order_id, kind, outcome, reason))

    def _order_id(self) -> str:
        return f"HT20231110{self._chance.randrange(10**11):011}"

    def _photos(self, order_id: str, types: Mapping[str, str]) -> Cells:
        cells = {}
        for field in PHOTO_FIELDS:
            media_type = types.get(field, JPEG)
            name = f"{order_id}/{field}.{'png' if media_type == PNG else 'jpg'}"
            cells[field] = self._write(name, draw_photo(field, order_id, media_type))
        return cells

    def _with_photo(self, make: Callable[[str], bytes]) -> "Spoil":
        def spoil(order_id: str, row: list[str]) -> list[str]:
            self._write(row[1], make(order_id))
            return row

        return spoil

    def _with_pipe(self, order_id: str, row: list[str]) -> list[str]:
        os.mkfifo(self.folder / order_id / "pipe.jpg", 0o600)
        return [row[0], f"{order_id}/pipe.jpg", *row[2:]]

    def _write(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        with open(path, "wb", opener=lambda p, flags: os.open(p, flags, 0o600)) as file:
            file.write(content)
        return name


Spoil = Callable[[str, list[str]], list[str]]
