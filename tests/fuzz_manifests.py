"""Makes manifests to be read: CSV in any encoding, JSON lines, gzip, workbooks, reports; good, odd and broken ones."""

import csv
import functools
import gzip
import io
import json
import zipfile
from collections.abc import Sequence
from datetime import date, datetime, time
from random import Random
from typing import Any

import openpyxl
from fuzz_bytes import spoilt

from batchupload.sheet import REPORT_COLUMNS

HEADERS: Sequence[Sequence[str]] = (
    ("order_id", "face", "back", "hand"),
    ("order_id", "face", "back", "hand", "note", "note"),
    ("星光订单号", "身份证人像面", "身份证国徽面", "免冠照", "备注"),
    ("\ufefforder_id ", "FACE", "\u200bback", "hand\u202e", "order_id "),
    REPORT_COLUMNS,
    ("manifest", *REPORT_COLUMNS, "备注"),
    ("order_id", "face", "back"),
    ("name", "phone"),
    ("",),
)
LONG = ("x" * 70_000, "x" * 300_000, "照" * 100_000, '"' * 5000, "{" * 90_000, "[" * 90_000, "=" * 9000)
CELLS = (
    "", " ", "\u3000", "HT0001", "HT0002", "HT2023111015044046891", "=1+1", "=cmd|'/c calc'!A1", "@SUM(1)", "-1",
    "+1", "TRUE", "2.02311E+16", "1e999", "0", "-0", "NaN", "None", "a.jpg", "b/../a.jpg", "../../etc/passwd",
    "/etc/hostname", ".", "..", "/", "//", "\\\\server\\share\\a.jpg", "C:\\照片\\a.jpg", "file:///etc/hostname",
    "https://127.0.0.1/a", "https://[::1]/a", "https://photos.invalid/a", "https://[", "https://a:b@c/",
    "s3://bucket/../x.jpg", "s3://", "s3:///k", "s3://127.0.0.1:8443#/k", "s3://b/\0", "://", "http://x", "a\0b",
    "\0", "a\tb", "a\nb", "a\r\nb", "a\x0bb", "a\x85b", "a\u2028b", "\x1b[31mred\x1b]0;title\x07", "\u202egnp.exe",
    "\u2066\u2069", "\ufeff", "\ufffe", "\uffff", "\U0010ffff", "👨\u200d👩\u200d👧", "e\u0301", "ﷺ", "Ａ１", "'", "''",
    '"', '""', 'a"b', '="HT0003"', '="', ",", ";", "|", "a,b", "%s", "{0}", "{order_id}", "${HOME}",
    "<script>alert(1)</script>", "]]>", "</script>", "x" * 300, "a/" * 3000, "HT" + "1" * 200, "\x7f", "\x80", "ß",
    "İ", "ſ", "K", "١٢٣", "二〇二三",
)  # fmt: skip
"""What a cell may hold, as text that can be written."""
HALVES = ("\ud83d", "ok \ud800", "\udc80.jpg", "\udfff\ud800")
"""Half characters: JSON can name them by escapes, UTF-16 can hold them by mistake."""
ENCODINGS = ("utf-8", "utf-8", "utf-8-sig", "gb18030", "gbk", "utf-16", "utf-16-le", "utf-16-be", "big5", "latin-1")
ENDINGS = ("\n", "\r\n", "\r", "\n\n", "\r\r\n", "\x0b", "\u2028")
NAMES = ("order_id", "face", "back", "hand", "note", "订单号", "", "outcome", "=x", "\u202ex", "a\nb", "__class__")


def manifest(random: Random) -> bytes:
    """One file that may be named as a manifest."""
    content = random.choices((delimited, json_lines, workbook, huge), (12, 8, 3, 1))[0](random)
    if random.random() < 0.1:
        content = _packed(content, random)
    return spoilt(content, random) if random.random() < 0.2 else content


def cell(random: Random) -> str:
    """The text of one cell."""
    if random.random() < 0.004:
        return random.choice(LONG)
    return "".join(random.choice(CELLS) for _ in range(random.choice((1, 1, 1, 1, 2, 3))))


def rows(random: Random, columns: int) -> list[list[str]]:
    """Rows about as wide as the header."""
    made = []
    for number in range(random.choice((0, 1, 2, 4, 4, 9))):
        width = columns if random.random() < 0.85 else random.choice((0, 1, columns + 1, columns + 9, 300))
        good = [f"HT{number:04}", "a.jpg", "b.jpg", "c.jpg"]
        made.append([good[at] if at < 4 and random.random() < 0.6 else cell(random) for at in range(width)])
    return made * random.choices((1, 2, 300), (60, 5, 1))[0]


def delimited(random: Random) -> bytes:
    """CSV, with or without order in its quotes."""
    header = list(random.choice(HEADERS[:6] if random.random() < 0.9 else HEADERS))
    if random.random() < 0.05:
        header += [cell(random) for _ in range(random.choice((1, 3, 3000)))]
    ending, delimiter = random.choice(ENDINGS[:3] if random.random() < 0.9 else ENDINGS), random.choice(",,,,;\t|")
    table = [header, *rows(random, len(header))]
    if random.random() < 0.5:
        file = io.StringIO()
        writer = csv.writer(
            file, delimiter=delimiter, lineterminator=ending, quoting=random.choice((0, 0, 1)), escapechar="\\"
        )
        writer.writerows(table)
        text = file.getvalue()
    else:
        text = "".join(delimiter.join(cells) + ending for cells in table)
    text = (
        random.choices(("", f"sep={delimiter}{ending}", ending * 3, f" {delimiter}{ending}", '"'), (30, 1, 1, 1, 1))[0]
        + text
    )
    return _encoded(text, random)


def _encoded(text: str, random: Random) -> bytes:
    encoding = random.choice(ENCODINGS)
    content = text.encode(
        encoding, random.choice(("replace", "ignore", "surrogatepass" if "utf" in encoding else "replace"))
    )
    if random.random() < 0.03:
        content += text.encode(random.choice(ENCODINGS), "replace")  # two files, one behind the other
    return content


def value(random: Random, depth: int = 0) -> Any:
    """Any JSON value."""
    match random.randrange(9 if depth < 3 else 6):
        case 0 | 1 | 2:
            return cell(random)
        case 3:
            return random.choice(HALVES)
        case 4:
            return random.choice((None, True, False, 0, -1, 10**15, 10**30, 1.5, 1e308, float("inf"), float("nan")))
        case 5:
            return random.choice((200, "200", 400, "0200", 2e2, [], {}))
        case 6 | 7:
            return {random.choice(NAMES) or cell(random): value(random, depth + 1) for _ in range(random.randrange(4))}
        case _:
            return [value(random, depth + 1) for _ in range(random.randrange(4))]


def json_lines(random: Random) -> bytes:
    """An object in each line, or something else."""
    lines = []
    for number in range(random.choice((1, 2, 4, 9))):
        good = {"order_id": f"HT{number:04}", "face": "a.jpg", "back": "b.jpg", "hand": "c.jpg"}
        for _ in range(random.choice((0, 1, 1, 2))):
            name = random.choice((*NAMES, *HALVES) if random.random() < 0.3 else NAMES)
            good[name] = value(random)
        if number and random.random() < 0.1:
            lines.append(
                random.choice(("", "[]", "null", "{", '{"a":1,"a":2}', "[" * 90_000, '{"a":' * 60_000, "9" * 9000))
            )
        lines.append(json.dumps(good, ensure_ascii=random.random() < 0.6))
    text = random.choice(ENDINGS[:3]).join(lines)
    return text.encode(random.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16")), "surrogatepass")


def workbook(random: Random) -> bytes:
    """What openpyxl writes of odd cells; now and then with a part of the archive that is broken."""
    content = _book(random.randrange(60))
    return _with_other_parts(content, random) if random.random() < 0.5 else content


@functools.cache
def _book(number: int) -> bytes:
    """One of so many: to write them takes long."""
    random = Random(number)
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    if random.random() < 0.2:
        book.create_sheet(random.choice(("订单", "x" * 31, "a b"))).append(["order_id"])
    if random.random() < 0.1:
        sheet.sheet_state = random.choice(("hidden", "veryHidden"))
        book.create_sheet("shown")
    header = random.choice(HEADERS[:6])
    odd = (
        None,
        True,
        0,
        -1,
        1.5,
        1e15,
        1e300,
        datetime.fromisoformat("2026-11-01"),
        date(1900, 1, 1),
        time(1),
        "=A1",
        "=1/0",
        "#REF!",
    )
    for cells in [header, *rows(random, len(header))[:20]]:
        sheet.append([_cell_of_book(text, random.choice(odd), random) for text in cells])
    if random.random() < 0.1:
        sheet.cell(random.choice((1000, 1_048_576)), random.choice((1, 16_384)), "far")
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def _cell_of_book(text: str, odd: Any, random: Random) -> Any:
    if random.random() < 0.1:
        return odd
    return "".join(letter for letter in text if letter.isprintable())[:30_000]


def _with_other_parts(content: bytes, random: Random) -> bytes:
    """The archive with one part changed, gone, twice, renamed, or larger than all others."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        names = old.namelist()
        chosen = random.choice([name for name in names if "sheet" in name or "shared" in name] or names)
        for name in names:
            part = old.read(name)
            if name != chosen:
                new.writestr(name, part)
                continue
            match random.randrange(6):
                case 0 | 1:
                    new.writestr(name, spoilt(part, random))
                case 2:
                    new.writestr(name.upper(), part)
                case 3:
                    place = random.choice(
                        (b'r="XFD1048576"', b'r=""', b'r="A0"', b'r="' + b"A" * 99 + b'1"', b'r="1A"', b"")
                    )
                    new.writestr(name, part.replace(b'r="A1"', place).replace(b'r="B2"', place))
                case 4:
                    new.writestr(name, part.replace(b"<row", b"<row " + b" " * random.choice((1, 2 << 20))))
    return file.getvalue()


def huge(random: Random) -> bytes:
    """Much of one thing, which some way of reading might take long for; packed, where it is very much."""
    count = random.choice((1000, 30_000, 60_000))  # each row that is none costs some 20 µs
    header = "order_id,face,back,hand\n"
    thing = random.choice(
        (
            "\n",
            "\r\n",
            ",,,\n",
            '"\n',
            '"a\n',
            '",",\n',
            "HT0001,a,b,c\n",
            'HT0001,"a,b,c\n',
            "\0",
            "x",
            "x,",
            "照",
            "a\rb\r",
            " ",
        )
    )
    match random.randrange(5):
        case 0:
            return (thing * count).encode()
        case 1:
            return (header + thing * count + "HT0001,a,b,c\n").encode()
        case 2:
            objects = "".join(json.dumps({f"k{n}{thing}": n}) + "\n" for n in range(min(count, 3000)))
            return objects.encode()
        case 3:  # unpacked, some six million blank lines
            return gzip.compress(
                header.encode() + random.choice((b"\n", b"\r\n", b",\n", b" \n")) * (6_000_000 + count), 1, mtime=0
            )
        case _:
            return (",".join(f"c{n}" for n in range(count // 10)) + "\n" + thing * 300).encode()


def _packed(content: bytes, random: Random) -> bytes:
    packed = gzip.compress(content, 1, mtime=0)
    match random.randrange(6):
        case 0:
            return packed[: random.randrange(len(packed) + 1)]
        case 1:
            return packed + packed
        case 2:
            return packed + random.randbytes(9)
        case 3:
            return gzip.compress(packed, 1, mtime=0)
    return packed
