"""Makes answers of an endpoint to be judged, as bytes on the wire: good, odd and broken ones."""

import gzip
import json
import zlib
from random import Random

from fuzz_bytes import spoilt
from fuzz_manifests import HALVES, value

STATUSES = (
    200,
    200,
    200,
    200,
    201,
    204,
    301,
    400,
    401,
    403,
    404,
    405,
    408,
    413,
    418,
    425,
    429,
    500,
    502,
    503,
    504,
    599,
    999,
)
HEADERS = {
    "Retry-After": (
        "0", "1", "120", "-1", "1.5", "9" * 18, "9" * 400, "1e9", "Wed, 21 Oct 2026 07:28:00 GMT",
        "Wed, 21 Oct 9999 23:59:59 GMT", "Sun, 06 Nov 1994 08:49:37 +2500", "21 Oct 0000 00:00:00",
        "Mon, 99 Foo 2026", "soon", "١٢", "", " 5 ", "1,2", "\xff", "Wed, 21 Oct 2026 07:28:00 -9999999999",
        "1 Jan 2026 25:61:61 GMT", "," * 5000, "(" * 5000,
    ),
    "Date": (
        "Wed, 21 Oct 2026 07:28:00 GMT", "Fri, 31 Dec 9999 23:59:59 -1200", "Mon, 01 Jan 0001 00:00:00 +1200", "x",
        "0",
    ),
    "Content-Encoding": ("gzip", "x-gzip", "deflate", "br", "identity", "GZIP ", "gzip, gzip", "", "\0"),
    "Content-Type": ("application/json", "text/html; charset=gbk", "text/html; charset=nonsense", "", "x" * 3000),
}  # fmt: skip
MESSAGES = ("ok", "操作成功", "系统繁忙", "\x1b[2J", "\u202etxt", "x" * 2000, "\0", "a\nb", "<b>", *HALVES)
"""Texts of an endpoint."""
BEFORE = (
    "", "\ufeff", "<br />\n<b>Warning</b>: mysqli(): x in <b>/a.php</b> on line <b>3</b><br />\n", "ok\n", ">", "\n",
    "<html>", "<title>502 Bad Gateway</title>", "<!-- {} -->\n", "[1]\n", "null\n", "{}\n", "\x1b[0m\n",
)  # fmt: skip
REPEATED = (
    "\n",
    ">",
    "> ",
    ">\n",
    "\n{",
    ">{",
    "<title",
    "<title>",
    "<title >",
    "{",
    "[",
    '{"a":',
    "\t",
    "\r\n",
    "\u3000",
    "\\",
    '"',
    "&#",
    "照",
)
LIMIT = 65_536
"""Bytes of a body that are read, by default."""


def reply(random: Random) -> bytes:
    """Status line, headers and body."""
    lines = [f"HTTP/1.1 {random.choice(STATUSES)} x"]
    content = body(random)
    for name, values in HEADERS.items():
        if random.random() < 0.25:
            lines.append(f"{name}: {random.choice(values)}")
            if name == "Content-Encoding" and random.random() < 0.8:
                content = _packed(content, random)
    if random.random() < 0.15:
        content = spoilt(content, random)
    return "\r\n".join((*lines, "", "")).encode("utf-8") + content


def body(random: Random) -> bytes:
    """JSON, HTML, or what is neither."""
    text = random.choices((_json, _behind_text, _repeated, lambda r: r.choice(BEFORE)), (8, 4, 2, 1))[0](random)
    encoding = random.choice(("utf-8", "utf-8", "utf-8", "utf-8-sig", "gb18030", "gbk", "utf-16", "latin-1"))
    return text.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace")


def _json(random: Random) -> str:
    code: object = random.choice(
        (200, 200, 400, "200", " 200 ", "0200", 200.0, True, None, 10**30, -1, [], "９９", *HALVES)
    )
    message = random.choice((*MESSAGES, value(random), value(random)))
    answer = {"code": code, random.choice(("msg", "msg", "message", "data")): message, "data": value(random, 2)}
    if random.random() < 0.2:
        del answer[random.choice(tuple(answer))]
    text = json.dumps(answer, ensure_ascii=random.random() < 0.5)
    odd = random.random()
    if odd < 0.05:
        text = text[:-1] + ', "code": 400}'
    elif odd < 0.1:
        text = "\n".join((text, text))
    elif odd < 0.13:
        text = json.dumps([answer])
    elif odd < 0.15:
        text = json.dumps(text)
    return text


def _behind_text(random: Random) -> str:
    return (
        "".join(random.choice(BEFORE) for _ in range(random.randrange(1, 5)))
        + _json(random)
        + random.choice(("", "", "\n", "x"))
    )


def _repeated(random: Random) -> str:
    """One thing or two, as often as fits into what is read; a packed body unpacks to more."""
    thing = "".join(random.choice(REPEATED) for _ in range(random.choice((1, 1, 2))))
    count = LIMIT // len(thing.encode()) - 40
    count = random.choice((10, 1000, count, count, count * 15))
    return (
        random.choice(("", "<p>", "x", "{"))
        + thing * count
        + random.choice(("", "x", "</p>", '{"code":200}', _json(random)))
    )


def _packed(content: bytes, random: Random) -> bytes:
    match random.randrange(7):
        case 0:
            return gzip.compress(content, mtime=0)[: random.randrange(40)]
        case 1:
            return gzip.compress(content, mtime=0) + gzip.compress(content, mtime=0)
        case 2:
            return zlib.compress(content)
        case 3:
            return zlib.compress(content)[2:-4]
        case 4:
            return gzip.compress(content + bytes(random.choice((1 << 20, 30 << 20))), 1, mtime=0)
    return gzip.compress(content, mtime=0)
