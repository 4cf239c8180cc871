"""What can go wrong at an endpoint, as a table of faults by name; the sandbox serves them on request."""

import asyncio
import functools
import gzip
import hashlib
import json
import re
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from enum import Enum, auto
from http import HTTPStatus

from aiohttp import web

from batchupload.language import _

_HTML = {"Content-Type": "text/html; charset=utf-8"}
HOLD_SECONDS = 120
"""How long an unanswered request stays open at most."""
FLOOD_BYTES = 64 * 1024 * 1024
"""Where an endless reply ends, and what a gzip bomb unpacks to."""
_CHUNK = bytes(64 * 1024).replace(b"\0", b" ")

Answer = Mapping[str, object]
"""What the endpoint says about an upload: `code` and `msg`."""


class When(Enum):
    """How much of the request has been read when a fault strikes."""

    ORDER_KNOWN = auto()
    IN_BODY = auto()
    AFTER_BODY = auto()


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request to be answered."""

    request: web.Request
    stopping: asyncio.Event
    answer: Answer
    """What an endpoint in good health would say."""

    async def pause(self, seconds: float) -> bool:
        """Wait; False where the sandbox was stopped meanwhile."""
        try:
            await asyncio.wait_for(self.stopping.wait(), seconds)
        except TimeoutError:
            return True
        return False


Act = Callable[[Exchange], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Fault:
    """One way to go wrong."""

    summary: str
    act: Act
    when: When = When.AFTER_BODY
    accepts: bool = False
    """Whether the photos are taken, whatever the client gets to see."""


@dataclass(frozen=True, slots=True)
class FaultRule:
    """Which sends a fault strikes: a share of all, or those of one order. ValueError where it can't be."""

    name: str
    rate: float = 0.0
    """Share of all sends, 0 to 1; unused where there is an order."""
    order_id: str | None = None
    sends: int | None = None
    """How many of the order's first sends; None for all."""

    def __post_init__(self) -> None:
        if self.name not in CATALOGUE:
            raise ValueError(
                _("no fault is called {name!r}; there are: {names}", name=self.name, names=", ".join(CATALOGUE))
            )
        if not 0 <= self.rate <= 1:
            raise ValueError(_("the rate of {name} must be from 0% to 100% (0 to 1)", name=self.name))
        if self.sends is not None and self.sends < 1:
            raise ValueError(_("the number of sends that {name} strikes must be 1 or more", name=self.name))


_RULE = re.compile(
    r"(?P<name>\w+)(?:=(?P<rate>\d*\.?\d+)(?P<percent>%?)|@(?P<order>[^@:\s]+)(?::(?P<sends>\d+))?)", re.ASCII
)


def parse_fault(text: str) -> FaultRule:
    """Read a fault rule as the command line has it; ValueError says what is allowed."""
    found = _RULE.fullmatch(text.strip())
    if not found:
        raise ValueError(
            _(
                "{text!r} is no fault rule; write NAME=5% or NAME=0.05 (a share of all sends), "
                "NAME@ORDER_ID (every send of that order) or NAME@ORDER_ID:2 (its first two sends)",
                text=text,
            )
        )
    rate = float(found["rate"] or 0) / (100 if found["percent"] else 1)
    return FaultRule(found["name"], rate, found["order"], int(found["sends"]) if found["sends"] else None)


def check_rates(rules: Sequence[FaultRule]) -> None:
    """ValueError where the rates add up to more than all sends."""
    total = sum(rule.rate for rule in rules if rule.order_id is None)
    if total > 1 + 1e-9:
        raise ValueError(_("the fault rates add up to {total:.0%}; at most 100% is possible", total=total))


def choose_fault(rules: Sequence[FaultRule], seed: int, order_id: str, send: int) -> str | None:
    """The fault that strikes an order's `send`-th send (from 1), if any; at whatever time it comes."""
    for rule in rules:
        if rule.order_id == order_id and (rule.sends is None or send <= rule.sends):
            return rule.name
    # One number per send and stacked rates: the faults are disjoint, and each has exactly its rate.
    digest = hashlib.sha256(f"{seed}\0{order_id}\0{send}".encode()).digest()
    number = (int.from_bytes(digest[:8], "big") >> 11) / 2**53
    for rule in rules:
        if rule.order_id is None:
            if number < rule.rate:
                return rule.name
            number -= rule.rate
    return None


def encode(answer: Answer) -> bytes:
    """The answer as the endpoint writes it."""
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()


async def answer_plainly(exchange: Exchange) -> web.StreamResponse:
    """No fault: the answer with the headers of PHP."""
    return web.Response(body=encode(exchange.answer), headers=_HTML)


def _page(status: int, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error page as nginx has it."""
    title = f"{status} {'Request Entity Too Large' if status == 413 else HTTPStatus(status).phrase}"
    text = (
        f"<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<center><h1>{title}</h1></center>\r\n"
        "<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )
    return web.Response(status=status, text=text, headers=_HTML | dict(headers or {}))


def _status(status: int, headers: Mapping[str, str] | None = None) -> Act:
    async def act(_: Exchange) -> web.StreamResponse:
        return _page(status, headers)

    return act


def _body(write: Callable[[Answer], bytes], headers: Mapping[str, str] | None = None) -> Act:
    async def act(exchange: Exchange) -> web.StreamResponse:
        return web.Response(body=write(exchange.answer), headers=_HTML | dict(headers or {}))

    return act


def _changed(**members: object) -> Act:
    return _body(lambda answer: encode({**answer, **members}))


def _says(message: str) -> Act:
    return _changed(code=400, msg=message)


def _raw(content: bytes) -> Act:
    async def act(exchange: Exchange) -> web.StreamResponse:
        if exchange.request.transport is not None:
            exchange.request.transport.write(content)
        return await _close(exchange)

    return act


async def _sent(exchange: Exchange, response: web.Response) -> web.Response:
    await response.prepare(exchange.request)
    await response.write_eof()
    return response


async def _close(exchange: Exchange) -> web.StreamResponse:
    if exchange.request.transport is not None:
        exchange.request.transport.close()
    return web.Response()  # the connection is closing: nothing of this is sent


async def _reset(exchange: Exchange) -> web.StreamResponse:
    transport = exchange.request.transport
    if isinstance(transport, asyncio.Transport):
        _abort(transport)
    return web.Response()


def _abort(transport: asyncio.Transport) -> None:
    linger_not = struct.pack("ii", 1, 0)  # on, zero seconds: closing sends RST instead of FIN
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
    transport.abort()


async def _hold(exchange: Exchange) -> web.StreamResponse:
    for _tenth in range(HOLD_SECONDS * 10):
        transport = exchange.request.transport
        if transport is None or transport.is_closing() or not await exchange.pause(0.1):
            break
    return await _reset(exchange)


async def _stall(exchange: Exchange) -> web.StreamResponse:
    transport = exchange.request.transport
    if isinstance(transport, asyncio.Transport):
        # Without this the kernel would take in megabytes on its own, and a whole small photo set with them.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        transport.pause_reading()
    return await _hold(exchange)


async def _retry_at_date(_: Exchange) -> web.StreamResponse:
    return _page(503, {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)})


async def _refuse_then_drain(exchange: Exchange) -> web.StreamResponse:
    response = await _sent(exchange, _page(413))
    async for _piece in exchange.request.content.iter_any():
        pass
    return response


async def _refuse_then_close(exchange: Exchange) -> web.StreamResponse:
    await _sent(exchange, _page(413, {"Connection": "close"}))
    return await _close(exchange)


async def _answer_then_close(exchange: Exchange) -> web.StreamResponse:
    response = await _sent(exchange, web.Response(body=encode(exchange.answer), headers=_HTML))
    await _close(exchange)
    return response


class _ClosesInReuse(asyncio.Protocol):
    """Takes over a connection that waits for its next request, and resets it at the first byte of that."""

    def __init__(self, transport: asyncio.Transport, before: asyncio.BaseProtocol) -> None:
        self._transport = transport
        self._before = before

    def data_received(self, _: bytes) -> None:
        """The next request begins."""
        _abort(self._transport)

    def connection_lost(self, error: Exception | None) -> None:
        """The server is to know that the connection is no more."""
        self._before.connection_lost(error)


async def _answer_then_close_in_reuse(exchange: Exchange) -> web.StreamResponse:
    response = await _sent(exchange, web.Response(body=encode(exchange.answer), headers=_HTML))
    transport = exchange.request.transport
    if isinstance(transport, asyncio.Transport) and not transport.is_closing():
        transport.set_protocol(_ClosesInReuse(transport, transport.get_protocol()))
    return response


async def _answer_late(exchange: Exchange) -> web.StreamResponse:
    await exchange.pause(2)
    return await answer_plainly(exchange)


async def _drip(exchange: Exchange) -> web.StreamResponse:
    content = encode(exchange.answer)
    response = web.StreamResponse(headers={**_HTML, "Content-Length": str(len(content))})
    await response.prepare(exchange.request)
    for place in range(len(content)):
        await response.write(content[place : place + 1])
        if not await exchange.pause(1):
            return await _reset(exchange)
    return response


async def _flood(exchange: Exchange) -> web.StreamResponse:
    response = web.StreamResponse(headers=_HTML)
    await response.prepare(exchange.request)
    for _chunk in range(FLOOD_BYTES // len(_CHUNK)):
        await response.write(_CHUNK)
    return response


@functools.cache
def _bomb() -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    return b"".join(packer.compress(_CHUNK) for _ in range(FLOOD_BYTES // len(_CHUNK))) + packer.flush()


_WARNING = "<br />\n<b>Warning</b>:  getimagesize(): Read error! in <b>/www/Getimg.php</b> on line <b>3</b><br />\n"
_MAINTENANCE = "<!DOCTYPE html><html><head><title>系统维护中</title></head><body>系统维护中，请稍后访问</body></html>"
_GZIP = {"Content-Encoding": "gzip"}
_PADDED = b"HTTP/1.1 200 OK\r\nX-Padding: " + b"a" * 1024 * 1024 + b"\r\nContent-Length: 0\r\n\r\n"
_ELSEWHERE = {"Location": "http://127.0.0.1:9/elsewhere"}
_STATUSES = (400, 401, 403, 404, 405, 408, 413, 425, 429, 500, 502, 503, 504)

CATALOGUE: Mapping[str, Fault] = {
    **{f"http_{status}": Fault(f"status {status} with nginx's page", _status(status)) for status in _STATUSES},
    "accepted_then_504": Fault("status 504 with nginx's page while PHP finishes", _status(504), accepts=True),
    "retry_after_seconds": Fault("status 429, Retry-After: 1", _status(429, {"Retry-After": "1"})),
    "retry_after_date": Fault("status 503, Retry-After with the date of the next second", _retry_at_date),
    "retry_after_garbage": Fault("status 429, Retry-After: soon", _status(429, {"Retry-After": "soon"})),
    "reset_before_body": Fault("reset when only the order number was read", _reset, When.ORDER_KNOWN),
    "reset_in_body": Fault("reset after about half of the body", _reset, When.IN_BODY),
    "reset_after_body": Fault("reset after the whole body", _reset),
    "accepted_then_reset": Fault("reset after the whole body", _reset, accepts=True),
    "closed_after_body": Fault("closed after the whole body", _close, accepts=True),
    "stall_reading": Fault("stops reading, stays connected", _stall, When.ORDER_KNOWN),
    "no_answer": Fault("reads all, never answers", _hold),
    "slow_reply": Fault("the reply drips, 1 byte a second", _drip, accepts=True),
    "html_page": Fault("status 200 with a maintenance page", _body(lambda _: _MAINTENANCE.encode())),
    "php_warning": Fault("a PHP warning before the JSON", _body(lambda a: _WARNING.encode() + encode(a)), accepts=True),
    "bom": Fault("a byte order mark before the JSON", _body(lambda a: b"\xef\xbb\xbf" + encode(a)), accepts=True),
    "gbk": Fault(
        "JSON in GBK, no charset named",
        _body(lambda a: encode(a).decode().encode("gbk"), {"Content-Type": "text/html"}),
        accepts=True,
    ),
    "unicode_escapes": Fault(r"JSON with \uXXXX escapes", _body(lambda a: json.dumps(a).encode()), accepts=True),
    "string_code": Fault(
        'code as a string, "200"', _body(lambda a: encode({**a, "code": str(a["code"])})), accepts=True
    ),
    "code_missing": Fault("no code in the JSON", _body(lambda a: encode({"msg": a["msg"]})), accepts=True),
    "code_null": Fault("code null", _changed(code=None), accepts=True),
    "code_true": Fault("code true", _changed(code=True), accepts=True),
    "code_float": Fault("code 200.0", _changed(code=200.0), accepts=True),
    "duplicate_keys": Fault("code twice, 400 and 200", _body(lambda _: b'{"code":400,"code":200}'), accepts=True),
    "nan": Fault("code NaN", _changed(code=float("nan")), accepts=True),
    "deep_json": Fault(
        "JSON 10,000 levels deep",
        _body(lambda _: b'{"code":200,"data":' + b"[" * 10_000 + b"]" * 10_000 + b"}"),
        accepts=True,
    ),
    "busy": Fault("code 400, 系统繁忙", _says("系统繁忙，请稍后再试")),
    "refused": Fault("code 400, 订单不存在", _says("订单不存在")),
    "formula": Fault("code 400 with a spreadsheet formula as message", _says("=cmd|'/c calc'!A1")),
    "early_413_drained": Fault("413 at once, then the body is read", _refuse_then_drain, When.ORDER_KNOWN),
    "early_413_closed": Fault("413 at once, then closed, body unread", _refuse_then_close, When.ORDER_KNOWN),
    "redirect": Fault("302 to another address", _status(302, _ELSEWHERE)),
    "redirect_307": Fault("307 to another address", _status(307, _ELSEWHERE)),
    "set_cookie": Fault("a session cookie", _body(encode, {"Set-Cookie": "PHPSESSID=sandbox; path=/"}), accepts=True),
    "gzip_reply": Fault("a gzip reply", _body(lambda a: gzip.compress(encode(a)), _GZIP), accepts=True),
    "gzip_truncated": Fault("half a gzip reply", _body(lambda a: gzip.compress(encode(a))[:30], _GZIP), accepts=True),
    "gzip_bomb": Fault("64 MiB of spaces as 64 KiB of gzip", _body(lambda _: _bomb(), _GZIP)),
    "endless_reply": Fault("a reply body without end (64 MiB)", _flood),
    "huge_headers": Fault("a reply header of 1 MiB", _raw(_PADDED), accepts=True),
    "malformed_reply": Fault("bytes that are not HTTP", _raw(b"\x16\x03\x01 this is not HTTP\r\n\r\n"), accepts=True),
    "close_keepalive": Fault("a keep-alive reply, then closed", _answer_then_close, accepts=True),
    "closed_in_reuse": Fault(
        "a keep-alive reply, then reset as the connection is used again", _answer_then_close_in_reuse, accepts=True
    ),
    "latency_spike": Fault("the answer comes after 2 s", _answer_late, accepts=True),
}

FAULTS: Mapping[str, str] = {
    name: f"{fault.summary}; {'accepted' if fault.accepts else 'not accepted'}" for name, fault in CATALOGUE.items()
}
"""Fault name → one line for help texts, to be translated there."""
