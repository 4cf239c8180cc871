"""Makes the corpus in `tests/data`: manifests and photos as people have them, good ones and spoilt ones.

`python tests/corpus.py` writes the files anew; what is to become of each stands in `tests/data/expected.csv`, by hand.
"""

import csv
import gzip
import io
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openpyxl
from PIL import Image

from batchupload.samples import HEIC_LIKE, PDF_LIKE, bomb, corrupted, draw_photo, gif, truncated, with_trailing_data

DATA = Path(__file__).with_name("data")
SIZE = (48, 30)
JPEG = draw_photo("face", "HT0001", size=SIZE)
PNG = draw_photo("face", "HT0001", "image/png", size=SIZE)
CHINESE = ["星光订单号", "身份证人像面", "身份证国徽面", "免冠照", "备注"]
ENGLISH = ["order_id", "face", "back", "hand", "note"]


def row(order_id: str, note: str = "", **photos: str) -> list[str]:
    return [order_id, *(photos.get(field, f"good/{field}.jpg") for field in ("face", "back", "hand")), note]


ROWS = [row("HT2023111015044046891", "加急"), row("HT2023111015044046892", "张三")]


def as_csv(header: list[str], *, delimiter: str = ",", ending: str = "\r\n", rows: list[list[str]] = ROWS) -> str:
    return "".join(delimiter.join(cells) + ending for cells in [header, *rows])


def as_workbook(rows: list[list[Any]], title: str = "Sheet1") -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet
    sheet.title = title
    for cells in rows:
        sheet.append(cells)
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def saved(form: str, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.open(io.BytesIO(PNG)).convert(mode).save(file, form, **options)
    return file.getvalue()


def multi_picture() -> bytes:
    """As phones write it: two pictures in one file."""
    file = io.BytesIO()
    second = Image.open(io.BytesIO(draw_photo("hand", "HT0002", size=SIZE)))
    Image.open(io.BytesIO(JPEG)).save(file, "MPO", save_all=True, append_images=[second])
    return file.getvalue()


def with_chunk(kind: bytes, body: bytes) -> bytes:
    """The PNG with one more chunk before its end."""
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return PNG[:-12] + chunk + PNG[-12:]


def wrong_crc(content: bytes) -> bytes:
    at = content.index(b"IDAT") - 4
    end = at + 12 + int.from_bytes(content[at : at + 4])
    return content[: end - 1] + bytes([content[end - 1] ^ 1]) + content[end:]


PHOTOS: Mapping[str, bytes] = {
    "jpeg": JPEG,
    "jpeg-progressive": saved("JPEG", progressive=True),
    "jpeg-grey": saved("JPEG", "L"),
    "jpeg-cmyk": saved("JPEG", "CMYK"),
    "jpeg-restart-markers": saved("JPEG", restart_marker_rows=1),
    "jpeg-exif-rotated": saved("JPEG", exif=Image.Exif()),
    "jpeg-mpo": multi_picture(),
    "jpeg-zeros-behind": JPEG + bytes(16),
    "jpeg-cut-in-header": JPEG[:40],
    "jpeg-cut": truncated(JPEG),
    "jpeg-without-end": JPEG[:-2],
    "jpeg-two-bytes": JPEG[:2],
    "jpeg-only-start": JPEG[:3],
    "jpeg-zip-behind": with_trailing_data(JPEG),
    "jpeg-script-behind": JPEG + b"<?php system($_GET['c']); ?>",
    "jpeg-no-frame": JPEG[:2] + JPEG[JPEG.index(b"\xff\xda") :],
    "jpeg-bad-marker": JPEG.replace(b"\xff\xda", b"\xff\x02", 1),
    "png": PNG,
    "png-palette": saved("PNG", "P"),
    "png-grey-16": saved("PNG", "I;16"),
    "png-interlaced-text": with_chunk(b"tEXt", b"Comment\0drawn"),
    "png-cut": truncated(PNG),
    "png-without-end": PNG[:-12],
    "png-cut-in-end": PNG[:-1],
    "png-signature-only": PNG[:8],
    "png-wrong-crc": wrong_crc(PNG),
    "png-damaged": corrupted(PNG),
    "png-zip-behind": with_trailing_data(PNG),
    "png-no-pixels": PNG[:16] + bytes(8) + PNG[24:],
    "png-bomb": bomb(),
    "gif": gif(),
    "bmp": saved("BMP"),
    "tiff": saved("TIFF"),
    "webp": saved("WEBP"),
    "heic": HEIC_LIKE,
    "avif": b"\0\0\0\x1cftypavif" + bytes(100),
    "pdf": PDF_LIKE,
    "zip": b"PK\x03\x04" + bytes(40),
    "html": b"<html><title>404</title></html>",
    "json": b'{"code": 400}',
    "text": "照片在微信里".encode(),
    "zeros": bytes(100),
    "empty": b"",
}

BAD_ROWS: Mapping[str, list[str]] = {
    "empty order number": row(""),
    "spaces for an order number": row(" \u3000"),
    "order number too short": row("HT1"),
    "order number with a space": row("HT 2023 1110"),
    "order number as a float": row("2.02311E+16"),
    "order number as a formula": row("=cmd|'/c calc'!A1"),
    "order number of another script": row("订单二〇二三"),
    "missing photo cell": ["HTROW0008", "good/face.jpg", "", "good/hand.jpg", ""],
    "row too short": ["HTROW0009", "good/face.jpg"],
    "row too long": [*row("HTROW0010"), "more", "cells"],
    "NUL": row("HTROW0011", "a\0b"),
    "photo not there": row("HTROW0012", face="good/gone.jpg"),
    "photo is a folder": row("HTROW0013", face="good"),
    "photo outside": row("HTROW0014", face="../../conftest.py"),
    "photo absolute": row("HTROW0015", face="/etc/hostname"),
    "same photo twice": row("HTROW0016", face="good/back.jpg"),
    "plain http": row("HTROW0017", face="http://photos.example/a.jpg"),
    "private host": row("HTROW0018", face="https://192.168.0.1/a.jpg"),
    "other scheme": row("HTROW0019", face="file:///etc/hostname"),
    "conflict one": row("HTROW0020"),
    "conflict two": row("HTROW0020", hand="good/back.jpg", back="good/hand.jpg"),
    "same order once": row("HTROW0021"),
    "same order again": row("HTROW0021"),
    "excel text": ['="HTROW0022"', *row("")[1:]],
    "leading apostrophe": row("'HTROW0023"),
    "zero width": row("\u200bHTROW0024\ufeff"),
    "backslashes": row("HTROW0025", face="good\\face.jpg"),
}
STRAY_QUOTE = 'HTROW0026,"good/face.jpg,good/back.jpg,good/hand.jpg,x\r\n'

MANIFESTS: Mapping[str, bytes] = {
    "utf-8.csv": as_csv(ENGLISH).encode(),
    "utf-8-bom.csv": as_csv(CHINESE).encode("utf-8-sig"),
    "gb18030.csv": as_csv(CHINESE).encode("gb18030"),
    "utf-16.csv": as_csv(CHINESE, delimiter="\t").encode("utf-16"),
    "utf-16-be.txt": as_csv(CHINESE, delimiter="\t").encode("utf-16-be"),
    "semicolon.csv": as_csv(CHINESE, delimiter=";").encode(),
    "sep.csv": ("sep=;\r\n" + as_csv(ENGLISH, delimiter=";")).encode(),
    "old-mac.csv": as_csv(ENGLISH, ending="\r").encode(),
    "quoted.csv": ('"' + as_csv(ENGLISH).replace(",", '","').replace("\r\n", '"\r\n"'))[:-1].encode(),
    "empty-lines.csv": ("\r\n\r\n" + as_csv(ENGLISH).replace("\r\n", "\r\n,,,,\r\n")).encode(),
    "packed.csv.gz": gzip.compress(as_csv(CHINESE).encode("gb18030"), mtime=0),
    "lines.jsonl": "".join(json.dumps(dict(zip(CHINESE, one, strict=True))) + "\n" for one in ROWS).encode(),
    "lines.jsonl.gz": gzip.compress(
        "".join(json.dumps(dict(zip(ENGLISH, one, strict=True))) + "\n" for one in ROWS).encode(), mtime=0
    ),
    "book.xlsx": as_workbook([CHINESE, *ROWS]),
    "named-csv.xlsx": as_csv(CHINESE).encode("gb18030"),
    "named-xlsx.csv": as_workbook([[], CHINESE, *ROWS]),
    "bad-empty.csv": b"",
    "bad-blank.csv": b"\r\n , ,\r\n",
    "bad-columns.csv": b"name,phone\r\nx,1\r\n",
    "bad-near.csv": "订单号码,人像面,国徽面,免冠\r\nHT0001,f,b,h\r\n".encode(),
    "bad-twice.csv": "order_id,订单号,face,back,hand\r\n1,2,f,b,h\r\n".encode(),
    "bad-mixed.csv": as_csv(CHINESE).encode() + "HT2023111015044046893,正面,反面,免冠,李四\r\n".encode("gbk"),
    "bad-bytes.csv": as_csv(ENGLISH).encode() + b"HT0003,\xff\xff\xff,b,h\r\n",
    "bad-utf-16.csv": as_csv(ENGLISH).encode("utf-16") + b"\x00\xd8",
    "bad-cut.csv.gz": gzip.compress(as_csv(ENGLISH).encode(), mtime=0)[:-6],
    "bad-cut.xlsx": as_workbook([ENGLISH, *ROWS])[:2000],
    "bad-empty.xlsx": as_workbook([]),
    "bad-photo.csv": JPEG,
    "bad-pdf.csv": PDF_LIKE,
    "bad-array.json": json.dumps([dict(zip(ENGLISH, one, strict=True)) for one in ROWS]).encode(),
}


def write(folder: Path = DATA) -> None:
    for name in ("good", "photos"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for field in ("face", "back", "hand"):
        (folder / f"good/{field}.jpg").write_bytes(draw_photo(field, "HT2023", size=SIZE))
    for name, content in PHOTOS.items():
        (folder / f"photos/{name}.jpg").write_bytes(content)
    for name, content in MANIFESTS.items():
        (folder / name).write_bytes(content)
    with (folder / "photos.csv").open("w", newline="", encoding="utf-8") as file:
        cases = [row(f"HTPHOTO{n:04}", name, face=f"photos/{name}.jpg") for n, name in enumerate(PHOTOS, 1)]
        csv.writer(file).writerows([ENGLISH, *cases])
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [[*ENGLISH, "case"], *([*cells[:5], name, *cells[5:]] for name, cells in BAD_ROWS.items())]
        )
        file.write(STRAY_QUOTE)


if __name__ == "__main__":
    write()
