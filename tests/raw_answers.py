"""The answers that the raw endpoint can give: what each one says of the order, and its bytes on the wire.

Shares nothing with the client: what an answer says is stated here from the contract, not computed by the program.
"""

import gzip
import json
import random
from collections.abc import Callable
from dataclasses import dataclass

ACCEPT, REFUSE, AGAIN, NOWHERE, VAGUE = "accept", "refuse", "again", "nowhere", "vague"
"""What an answer says: taken; refused for good; not taken, try again; wrong address; nothing certain."""
OPEN = frozenset({ACCEPT, VAGUE})
"""What an endpoint that took the order may have said."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of answer, before it is framed."""

    says: str
    status: int
    body: Callable[[str], bytes]
    """Message → body."""
    code: str = ""
    """`code` of its JSON, as text, if it has one."""
    headers: tuple[str, ...] = ()
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer as it goes out."""

    says: str
    """What the whole of it says."""
    cut_says: str
    """What a part of it may say."""
    status: int
    code: str
    content: bytes


def _json(code: object, **more: object) -> Callable[[str], bytes]:
    return lambda message: json.dumps({"code": code, "msg": message, **more}, ensure_ascii=False).encode()


def _page(title: str) -> Callable[[str], bytes]:
    return lambda message: f"<html><title>{message} {title}</title><body>{title}</body></html>".encode()


def _warned(inner: Callable[[str], bytes]) -> Callable[[str], bytes]:
    return lambda message: b"<br />\n<b>Warning</b>: getimg(): slow disk in <b>x.php</b><br />\n" + inner(message)


def _both(message: str) -> bytes:
    return _json(400)(message) + b"\n" + _json(200)(message)


def _escaped(message: str) -> bytes:
    return json.dumps({"code": 200, "msg": message}).encode()


def _gbk(message: str) -> bytes:
    return _json(200)(message).decode().encode("gb18030")


YES, NO = _json(200), _json(400)
KINDS: dict[str, Kind] = {
    "accept": Kind(ACCEPT, 200, YES, "200", weight=30),
    "accept as text": Kind(ACCEPT, 200, _json("200"), "200"),
    "accept behind a warning": Kind(ACCEPT, 200, _warned(YES), "200"),
    "accept with a BOM": Kind(ACCEPT, 200, lambda message: b"\xef\xbb\xbf" + YES(message), "200"),
    "accept in GBK": Kind(ACCEPT, 200, _gbk, "200"),
    "accept escaped": Kind(ACCEPT, 200, _escaped, "200"),
    "accept under 400": Kind(ACCEPT, 400, YES, "200", weight=0.5),
    "refuse": Kind(REFUSE, 200, NO, "400", weight=10),
    "refuse under 400": Kind(REFUSE, 400, NO, "400"),
    "refuse behind a warning": Kind(REFUSE, 200, _warned(NO), "400"),
    "too large": Kind(REFUSE, 413, _page("413 Request Entity Too Large"), weight=2),
    "unprocessable": Kind(REFUSE, 422, _page("422 Unprocessable")),
    "busy": Kind(AGAIN, 503, _page("503 Service Temporarily Unavailable"), weight=4),
    "busy as JSON": Kind(AGAIN, 503, _json(503), "503"),
    "slow down": Kind(AGAIN, 429, _page("429 Too Many Requests"), headers=("Retry-After: 0",)),
    "slow down for long": Kind(AGAIN, 429, _page("429"), headers=("Retry-After: 3600",), weight=0.3),
    "upload too slow": Kind(AGAIN, 408, _page("408 Request Timeout")),
    "too early": Kind(AGAIN, 425, _page("425 Too Early"), weight=0.5),
    "moved": Kind(NOWHERE, 302, _page("302 Found"), headers=("Location: http://127.0.0.1:{elsewhere}/",)),
    "moved with the body": Kind(
        NOWHERE, 307, _page("307 Temporary Redirect"), headers=("Location: http://127.0.0.1:{elsewhere}/order",)
    ),
    "not found": Kind(NOWHERE, 404, _page("404 Not Found")),
    "forbidden": Kind(NOWHERE, 403, _page("403 Forbidden")),
    "maintenance page": Kind(VAGUE, 200, _page("系统维护"), weight=2),
    "broken": Kind(VAGUE, 500, _page("500 Internal Server Error"), weight=2),
    "broken as JSON": Kind(VAGUE, 500, _json(500), "500"),
    "bad gateway": Kind(VAGUE, 502, _page("502 Bad Gateway"), weight=2),
    "gateway timeout": Kind(VAGUE, 504, _page("504 Gateway Time-out"), weight=2),
    "no code": Kind(VAGUE, 200, lambda message: json.dumps({"msg": message}).encode()),
    "code is null": Kind(VAGUE, 200, _json(None)),
    "code is true": Kind(VAGUE, 200, _json(True)),
    "code is not a number": Kind(VAGUE, 200, lambda message: b'{"code": NaN, "msg": "' + message.encode() + b'"}'),
    "two codes": Kind(VAGUE, 200, lambda message: b'{"code":400,"msg":"' + message.encode() + b'","code":200}'),
    "two answers in one body": Kind(VAGUE, 200, _both),
    "two answers behind a warning": Kind(VAGUE, 200, _warned(_both)),
    "nothing in it": Kind(VAGUE, 200, lambda _: b""),
    "no content": Kind(VAGUE, 204, lambda _: b""),
}
MALFORMED = (
    b"\x15\x03\x01\x00\x02\x02\x28",
    b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
    b'{"code":200,"msg":"no head at all"}',
    b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" + YES("-"),
    b"HTTP/1.1 200 OK\r\nContent-Length: 9x\r\n\r\n" + YES("-"),
    b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 100_000 + b"\r\nContent-Length: 0\r\n\r\n",
)
FRAMINGS = {
    "length": 20.0, "chunked": 4.0, "until closed": 3.0, "HTTP/1.0": 1.0, "gzip": 2.0, "gzip chunked": 1.0,
    "says close": 3.0, "length too short": 1.0, "length too long": 1.0, "malformed": 1.5,
}  # fmt: skip
SPOILED = frozenset({"length too short", "length too long", "malformed"})
ENDED_BY_CLOSE = frozenset({"until closed", "HTTP/1.0"})
"""Framings whose answer is whole only once the connection is closed in good order."""
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
INTERIM = {b"": 20.0, b"HTTP/1.1 100 Continue\r\n\r\n": 2.0, HINTS: 1.0}


def choose_kind(chance: random.Random, says: str | None = None) -> Kind:
    """Draw a kind of answer, by the weights; `says` limits what it says."""
    kinds = [kind for kind in KINDS.values() if says in {None, kind.says}]
    return chance.choices(kinds, [kind.weight for kind in kinds])[0]


def choose_framing(chance: random.Random) -> str:
    """Draw how the answer is framed."""
    return chance.choices(list(FRAMINGS), list(FRAMINGS.values()))[0]


def made(kind: Kind, framing: str, message: str, elsewhere: int, chance: random.Random) -> Answer:
    """Frame an answer of this kind that says `message`."""
    cut_says = _by_status(kind.status)
    if framing == "malformed":
        return Answer(VAGUE, VAGUE, 0, "", chance.choice(MALFORMED))
    body = kind.body(message)
    if framing.startswith("gzip"):
        body = gzip.compress(body, mtime=0)
    head = [f"HTTP/1.{0 if framing == 'HTTP/1.0' else 1} {kind.status} Said", "Content-Type: text/html; charset=utf-8"]
    head += ["Set-Cookie: PHPSESSID=abc; path=/", *kind.headers]
    head += ["Content-Encoding: gzip"] * framing.startswith("gzip") + ["Connection: close"] * (framing == "says close")
    if framing.endswith("chunked"):
        head.append("Transfer-Encoding: chunked")
        at = chance.randrange(len(body) + 1)
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:at], body[at:]) if part) + b"0\r\n\r\n"
    elif framing not in ENDED_BY_CLOSE and kind.status != 204:
        change = {"length too short": -(len(body) // 3), "length too long": 40}.get(framing, 0)
        head.append(f"Content-Length: {len(body) + change}")
    content = "\r\n".join(head).replace("{elsewhere}", str(elsewhere)).encode() + b"\r\n\r\n" + body
    spoiled = framing in SPOILED and bool(body)
    return Answer(cut_says if spoiled else kind.says, cut_says, kind.status, "" if spoiled else kind.code, content)


def _by_status(status: int) -> str:
    """What the status alone says."""
    if status in {408, 425, 429, 503}:
        return AGAIN
    if 300 <= status < 400 or status in {401, 403, 404, 405}:
        return NOWHERE
    return REFUSE if 400 <= status < 500 else VAGUE
